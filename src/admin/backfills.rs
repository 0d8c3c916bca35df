//! Backfills: asked for, looked at, called off.

use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde_json::{Value, json};

use super::Parts;
use super::answers::AdminError;
use super::audit::{self, Action};
use super::auth::Caller;
use super::extract::JsonBody;
use crate::pulls::{AskError, Question, Stage};
use crate::store::StoreError;

/// Newest first.
pub async fn list(Extract(parts): Extract<Parts>) -> Result<Json<Value>, AdminError> {
    let items: Vec<Value> = parts.pulls.backfills().await?.iter().map(|run| run.shown()).collect();
    Ok(Json(json!({ "items": items })))
}

/// Begins one; the answer is how it stands, its estimate included.
pub async fn begin(
    Extract(parts): Extract<Parts>,
    Extension(caller): Extension<Caller>,
    JsonBody(question): JsonBody<Question>,
) -> Result<(StatusCode, Json<Value>), AdminError> {
    match parts.pulls.ask(question).await {
        Ok(run) => {
            let shown = run.shown();
            audit::note(&parts, &caller, Action::Backfill, json!({ "begun": shown["id"] })).await?;
            Ok((StatusCode::ACCEPTED, Json(shown)))
        }
        Err(error @ AskError::Busy(_)) => {
            Err(AdminError::conflict("busy", error.to_string(), "wait for it, or POST to its /cancel"))
        }
        Err(error @ (AskError::Invalid(_) | AskError::NotShown)) => {
            Err(AdminError::invalid(error.to_string(), "see docs/backfill.md"))
        }
        Err(AskError::Store(error)) => Err(error.into()),
        Err(AskError::Random(error)) => Err(StoreError::Failed(error.to_string()).into()),
    }
}

pub async fn show(Extract(parts): Extract<Parts>, Path(id): Path<String>) -> Result<Json<Value>, AdminError> {
    match parts.pulls.backfill(&id).await? {
        Some(run) => Ok(Json(run.shown())),
        None => Err(unknown(&id)),
    }
}

/// Ends one that is under way; what it has fed stays.
pub async fn cancel(
    Extract(parts): Extract<Parts>,
    Path(id): Path<String>,
    Extension(caller): Extension<Caller>,
) -> Result<(StatusCode, Json<Value>), AdminError> {
    let Some(run) = parts.pulls.backfill(&id).await? else { return Err(unknown(&id)) };
    if run.stage == Stage::Running && !parts.pulls.call_off(&id) {
        return Err(AdminError::conflict("not_begun", format!("{id} is about to begin"), "ask again in a moment"));
    }
    audit::note(&parts, &caller, Action::Backfill, json!({ "called_off": id })).await?;
    Ok((StatusCode::ACCEPTED, Json(run.shown())))
}

fn unknown(id: &str) -> AdminError {
    AdminError::not_found(format!("there is no backfill {id}"), "GET /v1/backfills names those that are kept")
}
