//! All letters that a filter picks, one JSON object a line.

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State as Extract;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;

use super::super::Parts;
use super::super::answers::AdminError;
use super::super::audit::{self, Action};
use super::super::auth::Caller;
use super::super::extract::QueryString;
use super::{Filter, Item};
use crate::delivery::dead_letters::DeadLetterId;
use crate::delivery::dead_letters::search::{self, Bounds};
use crate::store::StoreError;

/// Read for one piece of the answer.
const PIECE: Bounds = Bounds { letters: 100, bytes: 4 << 20 };

/// As a stream: it ends in the middle when the store fails, never as if it were whole.
pub async fn export(
    Extract(parts): Extract<Parts>,
    Extension(caller): Extension<Caller>,
    QueryString(filter): QueryString<Filter>,
) -> Result<Response, AdminError> {
    let wanted = filter.read()?;
    audit::note(&parts, &caller, Action::Export, json!({ "filter": filter })).await?;
    let pieces = stream::try_unfold(Some(None), move |from: Option<Option<DeadLetterId>>| {
        let state = parts.state.clone();
        async move {
            let Some(after) = from else { return Ok::<_, StoreError>(None) };
            let found = search::by_filter(&state, &wanted, after, PIECE).await?;
            let mut lines = Vec::new();
            for (id, letter) in found.letters {
                let item = Item::new(id, letter)?;
                serde_json::to_writer(&mut lines, &item).map_err(|e| StoreError::Failed(e.to_string()))?;
                lines.push(b'\n');
            }
            Ok(Some((Bytes::from(lines), found.next.map(Some))))
        }
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pieces)).into_response())
}
