//! `POST /cohorts/sync` for callers of the read side; `/v1/cohorts` for the people who run the relay.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::desk::{AskError, Desk};
use super::estimate::{self, Pace};
use super::run::{Order, Outcome, Run, Source, Stage, Trigger};
use super::schedule::Planned;
use super::worker::Engine;
use crate::admin::answers::AdminError;
use crate::admin::audit::{self, Action};
use crate::admin::auth::{AdminAuth, Caller, authenticate, authorize};
use crate::admin::extract::QueryString;
use crate::admin::mask;
use crate::admin::sight::Sight;
use crate::brevo::identifiers::ListId;
use crate::clock::SharedClock;
use crate::config::SyncMode;
use crate::edge::auth::{Claim, Identity, Keys};
use crate::store::WriteBatch;
use crate::telemetry;
use crate::vendor::budget::Budgets;
use crate::vendor::{Family, Priority};

const SYNC: &str = "/cohorts/sync";
const COHORTS: &str = "/v1/cohorts";
const RUNS: &str = "/v1/cohorts/runs";
const RUN: &str = "/v1/cohorts/runs/{id}";

/// Every operation served here, for the test that holds the published description against it.
pub const OPERATIONS: &[(&str, &str)] =
    &[("post", SYNC), ("get", COHORTS), ("get", RUNS), ("post", RUNS), ("get", RUN)];

/// Longer than any order.
const MAX_BODY: usize = 16 << 10;
const BODY_TIME: Duration = Duration::from_secs(15);
/// How long a caller waits: for the end of a run, for a place in the hour of queries.
const PATIENCE: Duration = Duration::from_secs(25);
const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: usize = 1_000;

/// What the routes work with.
#[derive(Clone)]
pub struct Parts {
    pub desk: Arc<Desk>,
    pub engine: Arc<Engine>,
    pub plans: Arc<Vec<Planned>>,
    /// List name → Brevo list id.
    pub lists: Arc<BTreeMap<String, u64>>,
    pub keys: Keys,
    pub budgets: Arc<Budgets>,
    pub clock: SharedClock,
}

pub fn router(parts: Parts) -> Router {
    let handler = post(|State(parts): State<Parts>, request: Request| async move {
        let started = Instant::now();
        let response = parts.sync(request).await;
        telemetry::http_request(SYNC, response.status().as_u16(), started.elapsed());
        response
    });
    Router::new().route(SYNC, handler.clone()).route(&format!("{SYNC}/"), handler).with_state(parts)
}

/// Behind the admin token.
pub fn admin_router(parts: Parts, auth: AdminAuth) -> Router {
    known_callers_router(parts).layer(axum::middleware::from_fn_with_state(auth, authenticate))
}

/// For a caller who is known already, as the console's: a [`Caller`] must be among the request's extensions.
pub fn known_callers_router(parts: Parts) -> Router {
    Router::new()
        .route(COHORTS, get(cohorts))
        .route(RUNS, get(runs).post(begin))
        .route(RUN, get(run))
        .layer(axum::middleware::from_fn(authorize))
        .with_state(parts)
}

/// What is asked for. Ids may be numbers or texts; a list may be a name under `lists`. The published names, or the same as
/// the rest of `/v1` spells its own.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked {
    #[serde(alias = "cohort_id")]
    cohort_id: Value,
    #[serde(alias = "target_list")]
    target_list: Value,
    #[serde(default, alias = "sync_mode")]
    sync_mode: SyncMode,
    #[serde(default)]
    force: bool,
}

fn number(value: &Value) -> Option<u64> {
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok());
    number.filter(|number| *number > 0)
}

/// A list by its id at Brevo, or by its name in `lists`.
pub fn target_list(value: &Value, lists: &BTreeMap<String, u64>) -> Option<ListId> {
    let named = value.as_str().and_then(|name| lists.get(name)).copied();
    named.or_else(|| number(value)).map(ListId)
}

fn off(message: &str, hint: &'static str) -> AdminError {
    AdminError::conflict("off", message.to_owned(), hint)
}

impl Parts {
    fn order(&self, body: &[u8]) -> Result<Order, AdminError> {
        let hint =
            "send {\"cohortId\":12345,\"targetList\":16,\"syncMode\":\"mirror\"}; syncMode is mirror, add or remove";
        let asked: Asked =
            serde_json::from_slice(body).map_err(|error| AdminError::invalid(error.to_string(), hint))?;
        let id = number(&asked.cohort_id)
            .ok_or_else(|| AdminError::invalid("cohortId is no cohort's id".to_owned(), hint))?;
        let list = target_list(&asked.target_list, &self.lists).ok_or_else(|| {
            AdminError::invalid("targetList is neither a list's id nor a name under lists".to_owned(), hint)
        })?;
        let (mode, force, trigger) = (asked.sync_mode, asked.force, Trigger::Request);
        let source = Source::Cohort { id };
        Ok(Order { source, list, mode, force, of_a_mirror: false, dry_run: false, trigger })
    }

    async fn ask(&self, order: Order) -> Result<Run, AdminError> {
        match self.desk.ask(order).await {
            Ok(run) => Ok(run),
            Err(AskError::Off) => {
                Err(off("cohorts are switched off or Brevo is not configured", "set sync.cohorts and connectors.brevo"))
            }
            Err(AskError::Busy) => Err(off("too many runs wait already", "ask again when some have ended")),
            Err(AskError::Store(error)) => Err(error.into()),
        }
    }

    /// The read side's door: the service account, an API key or a signature.
    fn admit(&self, claim: Claim, body: &[u8]) -> bool {
        match claim {
            Claim::Proven(Identity::ServiceAccount | Identity::ApiKey | Identity::Signed) => true,
            Claim::Signed(signed) => {
                let mut verifier = self.keys.verifier(signed);
                verifier.update(body);
                let reserved = verifier.finish(self.clock.now());
                reserved.map(|reserved| reserved.keep()).is_ok()
            }
            Claim::Proven(Identity::ProjectToken { .. }) | Claim::Nobody | Claim::Wrong => false,
        }
    }

    async fn sync(&self, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let claim = self.keys.claim(&head.headers);
        if matches!(claim, Claim::Nobody | Claim::Wrong) {
            return AdminError::bad_key().into_response();
        }
        let body = tokio::time::timeout(BODY_TIME, Limited::new(body, MAX_BODY).collect()).await;
        let Some(body) = body.ok().and_then(Result::ok).map(|body| body.to_bytes()) else {
            return AdminError::invalid(
                "the body is too long, or broke off".to_owned(),
                "a few hundred bytes are enough",
            )
            .into_response();
        };
        if !self.admit(claim, &body) {
            return AdminError::bad_key().into_response();
        }
        self.synced(&body).await.unwrap_or_else(AdminError::into_response)
    }

    /// How long the hour of queries has no place, if that is longer than anybody waits.
    async fn no_place_for(&self) -> Option<Duration> {
        let standing = self.budgets.standing(Family::MixpanelQuery, Priority::Cohorts, 1).await?;
        Some(standing.wait).filter(|wait| *wait > PATIENCE)
    }

    async fn synced(&self, body: &[u8]) -> Result<Response, AdminError> {
        // Without a place for its first question nobody would see the end of it.
        let patience = if self.no_place_for().await.is_some() { Duration::ZERO } else { PATIENCE };
        let begun = self.ask(self.order(body)?).await?;
        let run = self.desk.wait(&begun.id, Instant::now() + patience).await?.unwrap_or(begun);
        let told = self.told(&run).await;
        let Some(ended) = run.ended() else { return Ok((StatusCode::ACCEPTED, Json(told)).into_response()) };
        let why = ended.why.clone().unwrap_or_default();
        match ended.outcome {
            Outcome::Done | Outcome::Observed => Ok(Json(told).into_response()),
            Outcome::Stopped => {
                Err(AdminError::conflict("too_many_removals", why, "the run is in GET /v1/cohorts/runs"))
            }
            Outcome::Failed if ended.missing.is_some() => Err(AdminError::not_found(
                why,
                "GET /v1/cohorts has the project's cohorts; targetList is a list of Brevo's",
            )),
            Outcome::Failed | Outcome::Replaced => {
                Err(AdminError::vendor(why, "the run is in GET /v1/cohorts/runs; a later one begins anew"))
            }
        }
    }

    /// A run as callers see it.
    async fn told(&self, run: &Run) -> Value {
        let estimate = match run.stage {
            Stage::Ended(_) => None,
            _ => Some(estimate::left(run, self.pace().await).as_secs()),
        };
        shown(run, estimate)
    }

    async fn pace(&self) -> Pace {
        let queries = self.budgets.standing(Family::MixpanelQuery, Priority::Cohorts, 1).await;
        let calls = self.budgets.standing(Family::BrevoContacts, Priority::Cohorts, 1).await;
        let a_second = calls.map(|calls| calls.limit.amount / calls.limit.span.as_secs().max(1));
        Pace { queries_left: queries.map_or(0, |queries| queries.remaining), calls_a_second: a_second.unwrap_or(10) }
    }
}

/// The published names (DESIGN 2.1) and whatever else is known.
fn shown(run: &Run, estimate: Option<u64>) -> Value {
    let (status, why, finished) = match run.ended() {
        Some(ended) => (ended.outcome.label(), ended.why.clone(), Some(ended.at.to_string())),
        None => ("running", None, None),
    };
    let counts = &run.counts;
    let unmatched: BTreeMap<&str, u64> = counts.unmatched.iter().map(|(why, people)| (why.label(), *people)).collect();
    json!({
        "id": run.id,
        "runId": run.id,
        "status": status,
        "why": why,
        "stage": stage(&run.stage),
        "estimateSeconds": estimate,
        "source": run.order.source,
        "trigger": run.order.trigger,
        "cohortId": run.order.source.cohort(),
        "cohortName": run.group(),
        "listId": run.order.list,
        "syncMode": run.order.mode,
        "force": run.order.force,
        "membersCount": counts.members,
        "membersExpected": run.expected,
        "syncedToBrevo": run.synced(),
        "alreadyInList": counts.present,
        "added": counts.added,
        "created": counts.created,
        "removed": counts.removed,
        "toRemove": counts.to_remove,
        "listBefore": counts.list_before,
        "unmatched": unmatched,
        "queries": counts.queries,
        "listCalls": counts.list_calls,
        "askedAt": run.asked_at.to_string(),
        "finishedAt": finished,
    })
}

fn stage(stage: &Stage) -> &'static str {
    match stage {
        Stage::Receiving { .. } => "receiving",
        Stage::Collecting { .. } => "collecting",
        Stage::Reading { .. } => "reading",
        Stage::LookingUp { .. } => "looking_up",
        Stage::Removing => "removing",
        Stage::Adding { .. } => "adding",
        Stage::Creating { .. } => "creating",
        Stage::Ended(_) => "ended",
    }
}

#[derive(Debug, Deserialize)]
struct Page {
    limit: Option<usize>,
    cursor: Option<String>,
}

#[derive(Serialize)]
struct Items {
    items: Vec<Value>,
    next: Option<String>,
}

async fn runs(State(parts): State<Parts>, QueryString(page): QueryString<Page>) -> Result<Json<Items>, AdminError> {
    let limit = page.limit.unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
    let runs = parts.desk.list(page.cursor.as_deref(), limit).await?;
    let next = (runs.len() == limit).then(|| runs.last().map(|run| run.id.clone())).flatten();
    let mut items = Vec::with_capacity(runs.len());
    for run in &runs {
        items.push(parts.told(run).await);
    }
    Ok(Json(Items { items, next }))
}

async fn begin(
    State(parts): State<Parts>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Response, AdminError> {
    let run = parts.ask(parts.order(&body)?).await?;
    let detail = json!({ "run": run.id, "force": run.order.force });
    let mut batch = WriteBatch::new();
    audit::put(&caller, parts.clock.now(), Action::Sync, detail, &mut batch)?;
    parts.desk.state.write(batch).await?;
    Ok((StatusCode::ACCEPTED, Json(parts.told(&run).await)).into_response())
}

/// With the people who could not be matched.
async fn run(
    State(parts): State<Parts>,
    Extension(sight): Extension<Sight>,
    Path(id): Path<String>,
) -> Result<Response, AdminError> {
    let Some(run) = parts.desk.get(&id).await? else {
        return Err(AdminError::not_found(format!("there is no run {id}"), "see GET /v1/cohorts/runs"));
    };
    let mut told = parts.told(&run).await;
    let unmatched = parts.desk.unmatched(&run.id, MAX_PAGE).await?;
    if !unmatched.is_empty() {
        sight.noted(&parts.desk.state, parts.clock.now(), "cohort_runs").await?;
    }
    told["people"] = json!(unmatched);
    Ok(sight.answer(&told, mask::run)?)
}

/// The project's cohorts: one query, what a run of each costs, and where it goes.
async fn cohorts(State(parts): State<Parts>) -> Result<Json<Value>, AdminError> {
    if let Some(wait) = parts.no_place_for().await {
        let why = format!("Mixpanel's hour of queries is used up: there is a place in {} s", wait.as_secs() + 1);
        return Err(AdminError::limited(why, wait, "GET /v1/status shows what is left"));
    }
    let known = tokio::time::timeout(PATIENCE, parts.engine.cohorts()).await.map_err(|_| {
        let why = format!("Mixpanel has not answered within {} s", PATIENCE.as_secs());
        AdminError::vendor(why, "the relay tries again with the next question")
    })?;
    let known =
        known.map_err(|error| AdminError::vendor(error.to_string(), "see connectors.mixpanel.service_account"))?;
    let mut shown = Vec::with_capacity(known.len());
    for cohort in known {
        let plans: Vec<&Planned> =
            parts.plans.iter().filter(|plan| plan.order.source.cohort() == Some(cohort.id)).collect();
        let mut targets = Vec::with_capacity(plans.len());
        for plan in plans {
            let last = parts.desk.last_of(&plan.order).await?;
            targets.push(json!({
                "listId": plan.order.list,
                "syncMode": plan.order.mode,
                "everySeconds": plan.every.as_secs(),
                "lastRun": last.map(|run| self::shown(&run, None)),
            }));
        }
        let queries = estimate::queries(cohort.count);
        shown.push(json!({
            "id": cohort.id, "name": cohort.name, "count": cohort.count, "queries": queries,
            "betterPushed": queries >= estimate::PUSH_FROM, "targets": targets,
        }));
    }
    Ok(Json(json!({ "cohorts": shown })))
}
