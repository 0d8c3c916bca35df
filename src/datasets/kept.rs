//! What a run knows of people, in rows of [`Table::DatasetRows`]: `run id, section byte, key`.
//!
//! | section | key | value |
//! |---|---|---|
//! | `p` | hash of the person's canonical id | what the answer says of them ([`Found`]) |
//! | `u` | hash of the row's `distinct_id` | who could not be matched, and why; a bounded number of them |
//!
//! One row a person: Mixpanel's scripts see ids that it has not resolved, so several rows of an answer may be one person's.
//! The one under the person's own id has the word, else the one whose id sorts last: whichever it is, it is the same in every
//! run, so that a value does not go to and fro.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::run::RunId;
use crate::cohorts::{Unmatched, UnmatchedRow};
use crate::people::PersonHash;
use crate::store::{KeyRange, Pair, State, StoreError, Table, WriteBatch, write_when_there_is_room};

pub(super) const PERSON: u8 = b'p';
pub(super) const UNMATCHED: u8 = b'u';
/// People whom nobody could match, kept by name for each run; all of them are counted.
const UNMATCHED_KEPT: u64 = 1_000;
/// Rows that one write deletes, at most: as many as others can wait for.
const DELETE_STEP: usize = 5_000;

/// What the answer says of somebody.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Found {
    /// As the row has it.
    pub id: String,
    /// Whether that is the person's own id.
    pub own: bool,
    /// Mapped columns alone.
    pub columns: Map<String, Value>,
}

impl Found {
    /// Whether this row has the word, and not `other`, which is of the same person.
    fn goes_before(&self, other: &Found) -> bool {
        (self.own, &self.id) >= (other.own, &other.id)
    }
}

/// The rows of one run.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub state: &'a dyn State,
    pub run: &'a RunId,
}

impl Rows<'_> {
    fn key(&self, section: u8, key: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.run.len() + 1 + key.len());
        out.extend_from_slice(self.run.as_bytes());
        out.push(section);
        out.extend_from_slice(key);
        out
    }

    /// A page behind `after`, keys without what comes before them.
    async fn page(&self, section: u8, after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, StoreError> {
        let mut range = KeyRange::prefix(self.key(section, &[]));
        if let Some(after) = after {
            range = range.after(self.key(section, after));
        }
        let rows = self.state.scan(Table::DatasetRows, range, limit).await?;
        let bare = self.run.len() + 1;
        Ok(rows.into_iter().map(|(key, value)| (key[bare..].to_vec(), value)).collect())
    }

    /// People behind `after`, each with the key to go on behind.
    pub async fn people(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Found)>, StoreError> {
        let rows = self.page(PERSON, after, limit).await?;
        rows.into_iter().map(|(key, value)| Ok((key, read(&value)?))).collect()
    }

    /// Adds people, each by their canonical id, to `batch`; returns how many were there already, or came twice.
    pub async fn put_people(&self, people: Vec<(String, Found)>, batch: &mut WriteBatch) -> Result<u64, StoreError> {
        let mut best: BTreeMap<Vec<u8>, Found> = BTreeMap::new();
        let mut repeated = 0;
        for (id, found) in people {
            let key = self.key(PERSON, PersonHash::of(&id).as_bytes());
            match best.get(&key) {
                Some(other) if !found.goes_before(other) => repeated += 1,
                other => {
                    repeated += u64::from(other.is_some());
                    best.insert(key, found);
                }
            }
        }
        let known = self.state.get(Table::DatasetRows, best.keys().cloned().collect()).await?;
        for ((key, found), known) in best.into_iter().zip(known) {
            if let Some(known) = known {
                repeated += 1;
                if !found.goes_before(&read(&known)?) {
                    continue;
                }
            }
            let value = serde_json::to_vec(&found).map_err(|e| StoreError::Failed(e.to_string()))?;
            batch.put(Table::DatasetRows, key, value);
        }
        Ok(repeated)
    }

    /// Keeps who could not be matched, while there is room; `count`: how many there were before.
    pub fn put_unmatched(
        &self,
        id: &str,
        why: Unmatched,
        count: u64,
        batch: &mut WriteBatch,
    ) -> Result<(), StoreError> {
        if count >= UNMATCHED_KEPT || why == Unmatched::Erased {
            return Ok(());
        }
        let row = UnmatchedRow { distinct_id: id.to_owned(), why, said: None };
        let value = serde_json::to_vec(&row).map_err(|e| StoreError::Failed(e.to_string()))?;
        batch.put(Table::DatasetRows, self.key(UNMATCHED, PersonHash::of(id).as_bytes()), value);
        Ok(())
    }

    pub async fn unmatched(&self, limit: usize) -> Result<Vec<UnmatchedRow>, StoreError> {
        let rows = self.page(UNMATCHED, None, limit).await?;
        let read = |(_, value): Pair| serde_json::from_slice(&value).map_err(|e| StoreError::Corrupt(e.to_string()));
        rows.into_iter().map(read).collect()
    }

    /// Adds to `batch` what takes away all that the run knows of `id`.
    pub fn take(&self, id: &str, batch: &mut WriteBatch) {
        for section in [PERSON, UNMATCHED] {
            batch.delete(Table::DatasetRows, self.key(section, PersonHash::of(id).as_bytes()));
        }
    }

    /// In steps: one deletion of a hundred thousand rows would keep the legs' checkpoints waiting.
    pub async fn forget(&self, section: u8) -> Result<(), StoreError> {
        loop {
            let range = KeyRange::prefix(self.key(section, &[]));
            let rows = self.state.scan(Table::DatasetRows, range.clone(), DELETE_STEP).await?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            let mut to = last.clone();
            to.push(0);
            let mut batch = WriteBatch::new();
            batch.delete_range(Table::DatasetRows, range.from, to);
            write_when_there_is_room(self.state, batch).await?;
        }
    }
}

fn read(value: &[u8]) -> Result<Found, StoreError> {
    serde_json::from_slice(value).map_err(|e| StoreError::Corrupt(format!("a row of a data set: {e}")))
}
