//! Reading dead letters.

use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Parts;
use super::answers::AdminError;
use super::status::destination;
use crate::clock::UnixMillis;
use crate::delivery::dead_letters::{self, DeadLetter, DeadLetterId};
use crate::record::Destination;
use crate::store::StoreError;

/// Letters in one answer when the caller does not say.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

#[derive(Deserialize)]
pub struct Filter {
    destination: Option<String>,
    reason: Option<String>,
    /// Unix milliseconds or an RFC 3339 time: letters that died at or after it.
    since: Option<String>,
    limit: Option<usize>,
    /// `next` of the answer before.
    cursor: Option<String>,
}

#[derive(Serialize)]
pub struct Page {
    items: Vec<Item>,
    /// Where the next page begins; null on the last.
    next: Option<String>,
}

#[derive(Serialize)]
struct Item {
    id: String,
    destination: Destination,
    kind: &'static str,
    reason: &'static str,
    answer: String,
    received_at: String,
    died_at: String,
    record: Box<RawValue>,
}

impl Item {
    fn new(id: DeadLetterId, letter: DeadLetter) -> Result<Self, AdminError> {
        Ok(Self {
            id: id.to_string(),
            destination: id.destination,
            kind: letter.kind.label(),
            reason: letter.reason.label(),
            answer: letter.answer,
            received_at: letter.received_at.to_string(),
            died_at: letter.died_at.to_string(),
            record: shown(letter.record)?,
        })
    }
}

/// The record as it is; one that is no JSON, which cannot have been accepted, as a text.
fn shown(record: String) -> Result<Box<RawValue>, StoreError> {
    let text = match serde_json::from_str::<&RawValue>(&record) {
        Ok(_) => record,
        Err(_) => serde_json::Value::String(record).to_string(),
    };
    RawValue::from_string(text).map_err(|e| StoreError::Corrupt(format!("dead letter: {e}")))
}

/// Oldest first: Mixpanel's, then Brevo's.
pub async fn list(State(parts): State<Parts>, Query(filter): Query<Filter>) -> Result<Json<Page>, AdminError> {
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let only = filter.destination.as_deref().map(destination).transpose()?;
    let since = filter.since.as_deref().map(time).transpose()?;
    let mut after = filter.cursor.as_deref().map(cursor).transpose()?;
    let mut items = Vec::new();
    for destination in Destination::ALL {
        if only.is_some_and(|only| only != destination) || after.is_some_and(|after| after.destination > destination) {
            continue;
        }
        let mut from = after.take_if(|after| after.destination == destination);
        loop {
            let page = dead_letters::page(&parts.state, destination, from, limit).await?;
            let Some((last, _)) = page.last() else { break };
            from = Some(*last);
            for (id, letter) in page {
                let right_reason = filter.reason.as_deref().is_none_or(|reason| reason == letter.reason.label());
                if right_reason && since.is_none_or(|since| letter.died_at >= since) {
                    items.push(Item::new(id, letter)?);
                }
                if items.len() == limit {
                    return Ok(Json(Page { items, next: Some(id.to_string()) }));
                }
            }
        }
    }
    Ok(Json(Page { items, next: None }))
}

fn cursor(text: &str) -> Result<DeadLetterId, AdminError> {
    text.parse().map_err(|e| AdminError::invalid(format!("cursor: {e}"), "use `next` of the answer before"))
}

fn time(text: &str) -> Result<UnixMillis, AdminError> {
    if let Ok(millis) = text.parse() {
        return Ok(UnixMillis(millis));
    }
    let parsed: Result<jiff::Timestamp, _> = text.parse();
    let millis = parsed.ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    millis.map(UnixMillis).ok_or_else(|| {
        AdminError::invalid(format!("since: {text} is no time"), "write 2026-01-31T12:00:00Z or Unix milliseconds")
    })
}
