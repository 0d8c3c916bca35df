//! Who has done what: an append-only list of what people have changed or looked at by way of the admin API.
//!
//! A note is written with what it is about wherever that is one write. It names no person: an erasure by its id, letters by
//! their number.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State as Extract;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Parts;
use super::answers::AdminError;
use super::auth::Caller;
use super::extract::QueryString;
use crate::clock::UnixMillis;
use crate::store::{KeyRange, State, StoreError, Table, WriteBatch};

/// How long notes are kept.
const KEPT: Duration = Duration::from_hours(24 * 400);
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Pause,
    Resume,
    Replay,
    Purge,
    Export,
    Erase,
    Reload,
    Force,
    /// A run of a cohort into a list.
    Sync,
    /// A backfill, begun or called off.
    Backfill,
    /// Personal data, looked at as it is.
    Unmask,
    /// A day's counts, held against the vendors'.
    Compare,
    /// A run of a data set, of which one that writes confirms the definition.
    Dataset,
}

/// One line of the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Note {
    pub at: String,
    /// The token's name; `admin` for the admin token itself.
    pub who: String,
    pub role: String,
    pub action: Action,
    pub detail: Value,
}

/// Keys order newest first: a scan begins with what was done last.
fn key(at: UnixMillis) -> Vec<u8> {
    (!at.0).to_be_bytes().to_vec()
}

/// Adds a note to `batch`, and takes those away that have been kept long enough.
pub fn put(
    caller: &Caller,
    at: UnixMillis,
    action: Action,
    detail: Value,
    batch: &mut WriteBatch,
) -> Result<(), StoreError> {
    let role = caller.role.label().to_owned();
    let note = Note { at: at.to_string(), who: caller.name.to_string(), role, action, detail };
    let value = serde_json::to_vec(&note).map_err(|e| StoreError::Failed(e.to_string()))?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|e| StoreError::Failed(e.to_string()))?;
    batch.put(Table::Audit, [key(at), random.to_vec()].concat(), value);
    // Notes older than that; a clock that was set forward leaves this one alone.
    batch.delete_range(Table::Audit, key(at - KEPT), vec![u8::MAX; 17]);
    Ok(())
}

/// Notes that are looked at for one of a kind: a cap on what a look may cost.
const LATE: usize = 200;

/// Whether `who` has done the same since `since`, as far as the last notes tell.
pub async fn has_of_late(
    state: &Arc<dyn State>,
    since: UnixMillis,
    who: &str,
    action: Action,
    detail: &Value,
) -> Result<bool, StoreError> {
    let range = KeyRange { from: Vec::new(), to: Some(key(since)) };
    let notes = state.scan(Table::Audit, range, LATE).await?;
    for (_, value) in notes {
        let note = read(&value)?;
        if (note.who.as_str(), note.action, &note.detail) == (who, action, detail) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read(value: &[u8]) -> Result<Note, StoreError> {
    serde_json::from_slice(value).map_err(|e| StoreError::Corrupt(format!("audit: {e}")))
}

/// Writes a note by itself.
pub async fn note(parts: &Parts, caller: &Caller, action: Action, detail: Value) -> Result<(), StoreError> {
    let mut batch = WriteBatch::new();
    put(caller, parts.clock.now(), action, detail, &mut batch)?;
    parts.state.write(batch).await
}

#[derive(Debug, Default, Deserialize)]
pub struct Filter {
    limit: Option<usize>,
    /// `next` of the answer before.
    cursor: Option<String>,
}

#[derive(Serialize)]
pub struct Page {
    items: Vec<Note>,
    next: Option<String>,
}

/// Newest first.
pub async fn list(
    Extract(parts): Extract<Parts>,
    QueryString(filter): QueryString<Filter>,
) -> Result<Json<Page>, AdminError> {
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    Ok(Json(page(&parts.state, limit, filter.cursor.as_deref()).await?))
}

async fn page(state: &Arc<dyn State>, limit: usize, cursor: Option<&str>) -> Result<Page, AdminError> {
    let mut range = KeyRange::all();
    if let Some(cursor) = cursor {
        let after = u128::from_str_radix(cursor, 16).map_err(|_| {
            AdminError::invalid("cursor: not one of ours".to_owned(), "use `next` of the answer before")
        })?;
        range = range.after(after.to_be_bytes().to_vec());
    }
    let rows = state.scan(Table::Audit, range, limit).await?;
    let last = rows.last().filter(|_| rows.len() == limit).map(|(key, _)| key);
    let next = last.map(|key| key.iter().map(|byte| format!("{byte:02x}")).collect());
    let items = rows.iter().map(|(_, value)| read(value)).collect::<Result<_, _>>()?;
    Ok(Page { items, next })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::ManualClock;
    use crate::config::Role;
    use crate::store::testing;

    #[tokio::test]
    async fn notes_are_listed_newest_first_and_old_ones_go() {
        let directory = testing::directory();
        let store = testing::open(&directory, ManualClock::at(UnixMillis(0)));
        let state: Arc<dyn State> = store.state.clone();
        let caller = Caller { name: "growth".into(), role: Role::Operator };
        let day = 86_400_000;
        for n in [1, 2, 3, 401] {
            let mut batch = WriteBatch::new();
            put(&caller, UnixMillis(n * day), Action::Purge, json!(n), &mut batch).unwrap();
            state.write(batch).await.unwrap();
        }
        let first = page(&state, 2, None).await.unwrap_or_else(|_| panic!());
        let second = page(&state, 2, first.next.as_deref()).await.unwrap_or_else(|_| panic!());
        let details = |page: &Page| page.items.iter().map(|note| note.detail.clone()).collect::<Vec<_>>();
        assert_eq!((details(&first), details(&second)), (vec![json!(401), json!(3)], vec![json!(2)]));
        assert_eq!((first.items[0].who.as_str(), first.items[0].role.as_str()), ("growth", "operator"));
        assert!(page(&state, 2, Some("x")).await.is_err());
    }
}
