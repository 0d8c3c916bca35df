//! Dead letters: reading them, sending them again, letting them go.

mod export;
mod judged;
mod orders;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State as Extract;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

pub use self::export::export;
pub use self::orders::{purge, replay};
use super::Parts;
use super::answers::AdminError;
use super::extract::QueryString;
use super::mask;
use super::sight::Sight;
use super::status::destination;
use crate::clock::UnixMillis;
use crate::delivery::dead_letters::search::{self, Bounds};
use crate::delivery::dead_letters::{DeadLetter, DeadLetterId, RefusedWrite};
use crate::record::Destination;
use crate::settlement::DeadReason;
use crate::store::{State, StoreError};

/// Letters in one answer when the caller does not say.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// An answer ends when this many bytes of letters have been looked at, whether they were asked for or not (P10).
const MAX_BYTES: usize = 16 << 20;
/// In the audit list, of who sees them as they are.
const LOOKED_AT: &str = "dead_letters";

#[derive(Deserialize)]
pub struct Asked {
    #[serde(flatten)]
    filter: Filter,
    limit: Option<String>,
    /// `next` of the answer before.
    cursor: Option<String>,
}

/// Which letters: in a query, and under `filter` in an order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Filter {
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Unix milliseconds or an RFC 3339 time: letters that died at or after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

impl Filter {
    fn read(&self) -> Result<search::Filter, AdminError> {
        Ok(search::Filter {
            destination: self.destination.as_deref().map(destination).transpose()?,
            reason: self.reason.as_deref().map(reason).transpose()?,
            since: self.since.as_deref().map(time).transpose()?,
        })
    }
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
    /// There for a contact or a company whose write was refused: what it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    write: Option<RefusedWrite>,
}

impl Item {
    fn new(id: DeadLetterId, letter: DeadLetter) -> Result<Self, StoreError> {
        Ok(Self {
            id: id.to_string(),
            destination: id.destination,
            kind: letter.kind.label(),
            reason: letter.reason.label(),
            answer: letter.answer,
            received_at: letter.received_at.to_string(),
            died_at: letter.died_at.to_string(),
            record: shown(letter.record)?,
            write: letter.write,
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
pub async fn list(
    Extract(parts): Extract<Parts>,
    Extension(sight): Extension<Sight>,
    QueryString(asked): QueryString<Asked>,
) -> Result<Response, AdminError> {
    let page = page(&parts.state, &asked).await?;
    sight.noted(&parts.state, parts.clock.now(), LOOKED_AT).await?;
    Ok(sight.answer(&page, mask::letters)?)
}

async fn page(state: &Arc<dyn State>, asked: &Asked) -> Result<Page, AdminError> {
    let limit = asked.limit.as_deref().map(number).transpose()?.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let after = asked.cursor.as_deref().map(cursor).transpose()?;
    let bounds = Bounds { letters: limit, bytes: MAX_BYTES };
    let found = search::by_filter(state, &asked.filter.read()?, after, bounds).await?;
    let items =
        found.letters.into_iter().map(|(id, letter)| Item::new(id, letter)).collect::<Result<_, StoreError>>()?;
    Ok(Page { items, next: found.next.map(|id| id.to_string()) })
}

/// A query's fields are texts once some of them are flattened.
fn number(text: &str) -> Result<usize, AdminError> {
    text.parse().map_err(|_| AdminError::invalid(format!("limit: {text} is no number"), "write 1 to 1000"))
}

fn reason(text: &str) -> Result<DeadReason, AdminError> {
    let found = DeadReason::ALL.iter().copied().find(|reason| reason.label() == text);
    found.ok_or_else(|| {
        AdminError::invalid(format!("reason: no {text}"), "rejected, too_large and unreadable are the reasons")
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::record::{Destinations, EntryId, Epoch, Kind, Origin, Position, Project, Record};
    use crate::store::WriteBatch;
    use crate::store::testing;

    fn asked(query: &str) -> Asked {
        axum::extract::Query::try_from_uri(&format!("http://x/?{query}").parse().unwrap()).unwrap().0
    }

    /// Every page's ids, following `next`.
    async fn pages(state: &Arc<dyn State>, query: &str) -> Vec<Vec<String>> {
        let mut pages = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = page(state, &asked(&format!("{query}{cursor}"))).await.unwrap();
            pages.push(page.items.into_iter().map(|item| item.id).collect());
            let Some(next) = page.next else { return pages };
            cursor = format!("&cursor={next}");
        }
    }

    #[tokio::test]
    async fn pages_are_bounded_in_number_and_in_bytes_and_leave_nothing_out() {
        let directory = testing::directory();
        let store = testing::open(&directory, ManualClock::at(UnixMillis(0)));
        let state: Arc<dyn State> = store.state.clone();
        let mut expected = Vec::new();
        for (destination, length) in [(Destination::Mixpanel, MAX_BYTES / 8), (Destination::Brevo, 10)] {
            let record = Record {
                kind: Kind::Event,
                origin: Origin::App,
                destinations: Destinations::ALL,
                project: Project::Ours,
                received_at: UnixMillis(1),
                body: format!("\"{}\"", "x".repeat(length)).into(),
            };
            for index in 0..20 {
                let position = Position { epoch: Epoch(1), entry: EntryId(1), index };
                let mut batch = WriteBatch::new();
                let letter = DeadLetter::new(&record, DeadReason::Rejected, "no", UnixMillis(2));
                letter.put(destination, position, &mut batch).unwrap();
                state.write(batch).await.unwrap();
                expected.push(DeadLetterId { destination, position }.to_string());
            }
        }
        let all = pages(&state, "limit=15").await;
        assert_eq!(all.concat(), expected);
        assert_eq!(all[0].len(), 8, "bytes end the page");
        assert!(all.iter().all(|page| page.len() <= 15));
        // Letters that were not asked for are paid for too: such a page may hold nothing and still not be the last.
        let none = pages(&state, "reason=too_large").await;
        assert!(none.len() > 1 && none.concat().is_empty());
        assert_eq!(pages(&state, "destination=brevo").await.concat(), expected[20..]);
    }
}
