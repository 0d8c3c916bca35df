//! What is held of a person, and erasures.

use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Parts;
use super::answers::AdminError;
use super::audit::{self, Action};
use super::auth::Caller;
use super::extract::QueryString;
use super::mask;
use super::sight::Sight;
use crate::erasure::desk::AskError;
use crate::erasure::receipt::{Asked, Side};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

#[derive(Debug, Default, Deserialize)]
pub struct Filter {
    limit: Option<usize>,
    /// `next` of the answer before.
    cursor: Option<String>,
}

#[derive(Serialize)]
pub struct Page {
    items: Vec<Value>,
    next: Option<String>,
}

/// Newest first.
pub async fn erasures(
    Extract(parts): Extract<Parts>,
    QueryString(filter): QueryString<Filter>,
) -> Result<Json<Page>, AdminError> {
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let erasures = parts.erasures.list(filter.cursor.as_deref(), limit).await?;
    let next = erasures.last().filter(|_| erasures.len() == limit).map(|last| last.id.clone());
    Ok(Json(Page { items: erasures.iter().map(|erasure| erasure.shown()).collect(), next }))
}

pub async fn about(
    Extract(parts): Extract<Parts>,
    Extension(sight): Extension<Sight>,
    Path(id): Path<String>,
) -> Result<Response, AdminError> {
    let about = parts.erasures.about(&id).await?;
    sight.noted(&parts.state, parts.clock.now(), "people").await?;
    Ok(sight.answer(&about, mask::person)?)
}

/// Begins an erasure; the answer is its receipt so far.
pub async fn erase(
    Extract(parts): Extract<Parts>,
    Path(id): Path<String>,
    Extension(caller): Extension<Caller>,
) -> Result<(StatusCode, Json<Value>), AdminError> {
    match parts.erasures.ask(vec![id], Asked::Admin, "GDPR", Side::Waiting).await {
        Ok(erasure) => {
            audit::note(&parts, &caller, Action::Erase, json!({ "erasure": erasure.id })).await?;
            Ok((StatusCode::ACCEPTED, Json(erasure.shown())))
        }
        Err(AskError::Nobody) => {
            Err(AdminError::invalid("this id stands for nobody".to_owned(), "name the distinct_id of one person"))
        }
        Err(AskError::Store(error)) => Err(error.into()),
        Err(AskError::Random(error)) => Err(crate::store::StoreError::Failed(error.to_string()).into()),
    }
}
