//! `POST /v1/dead-letters/replay` and `DELETE /v1/dead-letters`.
//!
//! One order covers up to [`MAX_LIMIT`] letters; `next` says where the following one begins.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State as Extract;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::Parts;
use super::super::answers::AdminError;
use super::super::audit::{self, Action};
use super::super::auth::Caller;
use super::super::extract::JsonBody;
use super::super::mask;
use super::super::sight::Sight;
use super::judged::{self, Judged};
use super::{Filter, LOOKED_AT, MAX_BYTES, MAX_LIMIT, cursor};
use crate::delivery::dead_letters::later::Later;
use crate::delivery::dead_letters::search::{self, Bounds, Found};
use crate::delivery::dead_letters::{DeadLetter, DeadLetterId, Replay};
use crate::record::Destination;
use crate::store::{StoreError, WriteBatch};

/// Letters of one order that a dry run shows.
const SHOWN: usize = 100;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    ids: Option<Vec<String>>,
    filter: Option<Filter>,
    /// `next` of the answer before, with a filter.
    cursor: Option<String>,
    #[serde(default)]
    dry_run: bool,
    /// Send profile updates to Mixpanel though a later one of the same profile has arrived there.
    #[serde(default)]
    force: bool,
    /// Send events to Brevo however old they are.
    #[serde(default)]
    trigger_automations: bool,
}

impl Which {
    async fn find(&self, parts: &Parts) -> Result<Found, AdminError> {
        match (&self.ids, &self.filter) {
            (Some(ids), None) if ids.len() <= MAX_LIMIT => {
                let read = |id: &String| {
                    let hint = "ids are those of GET /v1/dead-letters";
                    id.parse().map_err(|e| AdminError::invalid(format!("ids: {id}: {e}"), hint))
                };
                // Each once, however often it was named.
                let ids = ids.iter().map(read).collect::<Result<BTreeSet<DeadLetterId>, _>>()?;
                Ok(search::by_id(&parts.state, &Vec::from_iter(ids)).await?)
            }
            (Some(_), None) => Err(AdminError::invalid(
                format!("ids: more than {MAX_LIMIT}"),
                "send them in several orders, or say with `filter` which they are",
            )),
            (None, Some(filter)) => {
                let after = self.cursor.as_deref().map(cursor).transpose()?;
                let bounds = Bounds { letters: MAX_LIMIT, bytes: MAX_BYTES };
                Ok(search::by_filter(&parts.state, &filter.read()?, after, bounds).await?)
            }
            _ => Err(AdminError::invalid(
                "which letters?".to_owned(),
                "send either `ids` or `filter`; an empty filter, {}, is all of them",
            )),
        }
    }

    fn detail(&self, destination: Destination, letters: u64) -> Value {
        json!({
            "destination": destination, "letters": letters, "filter": self.filter, "force": self.force,
            "trigger_automations": self.trigger_automations,
        })
    }
}

#[derive(Serialize)]
pub struct Replayed {
    dry_run: bool,
    /// That were found.
    letters: usize,
    /// That go again; of a dry run, that would.
    replayed: u64,
    /// By the event's name, or the kind.
    by_name: BTreeMap<String, u64>,
    /// That stay where they are without `force`, and why.
    held_back: BTreeMap<String, Later>,
    /// Of a dry run: the first letters, with what would be sent now.
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<Judged>>,
    next: Option<String>,
}

pub async fn replay(
    Extract(parts): Extract<Parts>,
    Extension(caller): Extension<Caller>,
    Extension(sight): Extension<Sight>,
    JsonBody(which): JsonBody<Which>,
) -> Result<Response, AdminError> {
    let found = which.find(&parts).await?;
    let held_back = judged::held_back(&parts, &found.letters).await?;
    let goes = |id: &DeadLetterId| which.force || !held_back.contains_key(id);
    let mut by_name = BTreeMap::new();
    for (_, letter) in found.letters.iter().filter(|(id, _)| goes(id)) {
        *by_name.entry(judged::counted_as(letter)).or_insert(0) += 1;
    }
    let going: Vec<DeadLetterId> = found.letters.iter().map(|(id, _)| *id).filter(goes).collect();
    let mut answer = Replayed {
        dry_run: which.dry_run,
        letters: found.letters.len(),
        replayed: going.len() as u64,
        by_name,
        held_back: held_back.iter().filter(|(id, _)| !goes(id)).map(|(id, later)| (id.to_string(), *later)).collect(),
        items: None,
        next: found.next.map(|id| id.to_string()),
    };
    if which.dry_run {
        let mut items = Vec::new();
        for (id, letter) in found.letters.into_iter().take(SHOWN) {
            let held_back = held_back.get(&id).copied().filter(|_| !which.force);
            items.push(judged::judge(&parts, id, letter, which.trigger_automations, held_back).await?);
        }
        answer.items = Some(items);
        sight.noted(&parts.state, parts.clock.now(), LOOKED_AT).await?;
        return Ok(sight.answer(&answer, mask::letters)?);
    }
    let how = Replay { at: parts.clock.now(), trigger_automations: which.trigger_automations };
    answer.replayed = 0;
    for destination in Destination::ALL {
        let ids: Vec<_> = going.iter().copied().filter(|id| id.destination == destination).collect();
        if ids.is_empty() {
            continue;
        }
        let detail = which.detail(destination, ids.len() as u64);
        let action = if which.force { Action::Force } else { Action::Replay };
        let note = noted(&parts, &caller, action, detail);
        let replayed = parts.orders.clone().replay(destination, ids, how, note).await?;
        tracing::info!(%destination, letters = replayed, who = %caller.name, "dead letters are sent again");
        answer.replayed += replayed;
    }
    Ok(Json(answer).into_response())
}

#[derive(Serialize)]
pub struct Purged {
    dry_run: bool,
    /// That were let go; of a dry run, that would be.
    purged: u64,
    next: Option<String>,
}

pub async fn purge(
    Extract(parts): Extract<Parts>,
    Extension(caller): Extension<Caller>,
    JsonBody(which): JsonBody<Which>,
) -> Result<Json<Purged>, AdminError> {
    let found = which.find(&parts).await?;
    let next = found.next.map(|id| id.to_string());
    let mut purged = 0;
    for destination in Destination::ALL {
        let ids = ids_of(&found.letters, destination);
        if which.dry_run {
            purged += ids.len() as u64;
        } else if !ids.is_empty() {
            let note = noted(&parts, &caller, Action::Purge, which.detail(destination, ids.len() as u64));
            purged += parts.orders.clone().purge(destination, ids, note).await?;
            tracing::info!(%destination, who = %caller.name, "dead letters were purged");
        }
    }
    Ok(Json(Purged { dry_run: which.dry_run, purged, next }))
}

fn ids_of(letters: &[(DeadLetterId, DeadLetter)], destination: Destination) -> Vec<DeadLetterId> {
    letters.iter().map(|(id, _)| *id).filter(|id| id.destination == destination).collect()
}

/// What says in the same write who has ordered it.
fn noted(
    parts: &Parts,
    caller: &Caller,
    action: Action,
    detail: Value,
) -> impl FnOnce(u64, &mut WriteBatch) -> Result<(), StoreError> + Send + use<> {
    let (caller, at) = (caller.clone(), parts.clock.now());
    move |letters, batch| {
        let mut detail = detail;
        detail["letters"] = letters.into();
        audit::put(&caller, at, action, detail, batch)
    }
}
