//! `/v1/datasets` for the people who run the relay: how each data set stands, runs asked for and looked up.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::definition::{Definition, family};
use super::desk::{AskError, Desk, Standing};
use crate::admin::answers::AdminError;
use crate::admin::audit::{self, Action};
use crate::admin::auth::{AdminAuth, Caller, authenticate, authorize};
use crate::admin::extract::{JsonBody, QueryString};
use crate::admin::mask;
use crate::admin::sight::Sight;
use crate::cohorts::due;
use crate::config::{Dataset, DatasetQuestion};
use crate::store::StoreError;

const DATASETS: &str = "/v1/datasets";
const ORDER: &str = "/v1/datasets/{name}/run";
const RUNS: &str = "/v1/datasets/runs";
const RUN: &str = "/v1/datasets/runs/{id}";

/// Every operation served here, for the test that holds the published description against it.
pub const OPERATIONS: &[(&str, &str)] = &[("get", DATASETS), ("post", ORDER), ("get", RUNS), ("get", RUN)];

const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: usize = 1_000;

/// What the routes work with.
#[derive(Clone)]
pub struct Parts {
    pub desk: Arc<Desk>,
}

/// Behind the admin token.
pub fn admin_router(parts: Parts, auth: AdminAuth) -> Router {
    known_callers_router(parts).layer(axum::middleware::from_fn_with_state(auth, authenticate))
}

/// For a caller who is known already, as the console's: a [`Caller`] must be among the request's extensions.
pub fn known_callers_router(parts: Parts) -> Router {
    Router::new()
        .route(DATASETS, get(datasets))
        .route(ORDER, post(begin))
        .route(RUNS, get(runs))
        .route(RUN, get(run))
        .layer(axum::middleware::from_fn(authorize))
        .with_state(parts)
}

/// In the order of the configuration.
async fn datasets(State(parts): State<Parts>) -> Result<Json<Value>, AdminError> {
    let mut shown = Vec::new();
    for dataset in &parts.desk.parts.datasets {
        let standing = parts.desk.standing(dataset).await?;
        shown.push(about(&parts.desk, dataset, &standing).await?);
    }
    Ok(Json(json!({ "datasets": shown })))
}

async fn about(desk: &Desk, dataset: &Dataset, standing: &Standing) -> Result<Value, StoreError> {
    let question = match &dataset.question {
        DatasetQuestion::Jql(path) => json!({ "jql": path.display().to_string() }),
        DatasetQuestion::Insights(bookmark) => json!({ "insights": bookmark }),
    };
    let now = desk.parts.clock.now();
    let name = format!("data set {}", dataset.name);
    let next = due(&name, dataset.every, desk.last_time(&dataset.name).await?, now);
    let confirmed = standing.is_confirmed();
    Ok(json!({
        "name": dataset.name,
        "question": question,
        "budget": family(&dataset.question).label(),
        "every_seconds": dataset.every.as_secs(),
        "id": dataset.id,
        "attributes": dataset.attributes,
        "list": dataset.list,
        "mode": dataset.list.map(|_| dataset.mode),
        "definition": standing.definition.as_ref().ok().map(Definition::fingerprint),
        "problem": standing.definition.as_ref().err().map(ToString::to_string),
        "confirmed": confirmed,
        "confirmed_at": standing.confirmed.as_ref().filter(|_| confirmed).map(|confirmed| confirmed.at.to_string()),
        "next_at": next.to_string(),
        "last_run": standing.last.as_ref().map(super::run::Run::shown),
    }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Order {
    #[serde(alias = "dryRun")]
    dry_run: bool,
    force: bool,
}

async fn begin(
    State(parts): State<Parts>,
    Path(name): Path<String>,
    Extension(caller): Extension<Caller>,
    JsonBody(Order { dry_run, force }): JsonBody<Order>,
) -> Result<Response, AdminError> {
    let clock = parts.desk.parts.clock.clone();
    let asked = parts.desk.ask(&name, dry_run, force, |run, batch| {
        let detail = json!({
            "dataset": run.dataset, "run": run.id, "definition": run.fingerprint, "dry_run": dry_run, "force": force,
        });
        audit::put(&caller, clock.now(), Action::Dataset, detail, batch)
    });
    match asked.await {
        Ok(run) => Ok((StatusCode::ACCEPTED, Json(run.shown())).into_response()),
        Err(error) => Err(refused(error)),
    }
}

fn refused(error: AskError) -> AdminError {
    let said = error.to_string();
    match error {
        AskError::Store(error) => error.into(),
        AskError::NoSuch(_) => AdminError::not_found(said, "GET /v1/datasets names those that there are"),
        AskError::Off => AdminError::conflict("off", said, "set connectors.brevo"),
        AskError::Definition(_) => AdminError::conflict("definition", said, "mend the script, then ask again"),
        AskError::NotShown(_) => AdminError::conflict(
            "dry_run_first",
            said,
            "send {\"dry_run\":true} first, and look at what it would change",
        ),
        AskError::Busy(_) => AdminError::conflict("busy", said, "GET /v1/datasets/runs shows how far it is"),
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
    Ok(Json(Items { items: runs.iter().map(super::run::Run::shown).collect(), next }))
}

/// With the people who could not be matched.
async fn run(
    State(parts): State<Parts>,
    Extension(sight): Extension<Sight>,
    Path(id): Path<String>,
) -> Result<Response, AdminError> {
    let Some(run) = parts.desk.get(&id).await? else {
        return Err(AdminError::not_found(format!("there is no run {id}"), "see GET /v1/datasets/runs"));
    };
    let mut told = run.shown();
    let unmatched = parts.desk.unmatched(&run.id, MAX_PAGE).await?;
    if !unmatched.is_empty() {
        let Desk { parts, .. } = &*parts.desk;
        sight.noted(&parts.state, parts.clock.now(), "dataset_runs").await?;
    }
    told["unmatched_people"] = json!(unmatched);
    Ok(sight.answer(&told, mask::run)?)
}
