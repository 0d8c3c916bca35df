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
use super::super::mask;
use super::super::sight::Sight;
use super::{Filter, Item, LOOKED_AT};
use crate::delivery::dead_letters::DeadLetterId;
use crate::delivery::dead_letters::search::{self, Bounds};
use crate::store::StoreError;

/// Read for one piece of the answer.
const PIECE: Bounds = Bounds { letters: 100, bytes: 4 << 20 };

/// As a stream: it ends in the middle when the store fails, never as if it were whole.
pub async fn export(
    Extract(parts): Extract<Parts>,
    Extension(caller): Extension<Caller>,
    Extension(sight): Extension<Sight>,
    QueryString(filter): QueryString<Filter>,
) -> Result<Response, AdminError> {
    let wanted = filter.read()?;
    audit::note(&parts, &caller, Action::Export, json!({ "filter": filter, "masked": sight.is_masked() })).await?;
    sight.noted(&parts.state, parts.clock.now(), LOOKED_AT).await?;
    let masked = sight.is_masked();
    let pieces = stream::try_unfold(Some(None), move |from: Option<Option<DeadLetterId>>| {
        let state = parts.state.clone();
        async move {
            let Some(after) = from else { return Ok::<_, StoreError>(None) };
            let found = search::by_filter(&state, &wanted, after, PIECE).await?;
            let mut lines = Vec::new();
            for (id, letter) in found.letters {
                write(&mut lines, &Item::new(id, letter)?, masked).map_err(|e| StoreError::Failed(e.to_string()))?;
            }
            Ok(Some((Bytes::from(lines), found.next.map(Some))))
        }
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pieces)).into_response())
}

fn write(lines: &mut Vec<u8>, item: &Item, masked: bool) -> serde_json::Result<()> {
    if masked {
        let mut shown = serde_json::to_value(item)?;
        mask::letter(&mut shown);
        serde_json::to_writer(&mut *lines, &shown)?;
    } else {
        serde_json::to_writer(&mut *lines, item)?;
    }
    lines.push(b'\n');
    Ok(())
}
