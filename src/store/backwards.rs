//! Reading the journal from its end, for whoever looks for what was accepted last.

use std::sync::Arc;

use super::{Entry, Journal, StoreError};
use crate::record::EntryId;

/// Entries in the first step: each is a request, or a block of small ones. How many follow depends on how large these were.
const STEP: u64 = 16;
/// As many as the journal gives at once.
const MOST_ENTRIES: u64 = 4_096;
/// Decoded bytes of a step, about: one entry may be larger.
const READ_BYTES: usize = 8 << 20;

pub struct Backwards {
    journal: Arc<dyn Journal>,
    /// The oldest entry that has been handed out.
    before: EntryId,
    /// Entries that the next step tries to hold.
    step: u64,
}

impl Backwards {
    /// From the newest entry on.
    pub fn new(journal: Arc<dyn Journal>) -> Self {
        let before = *journal.tip().borrow();
        Self { journal, before, step: STEP }
    }

    /// Below `before`.
    pub fn below(journal: Arc<dyn Journal>, before: EntryId) -> Self {
        let before = before.min(*journal.tip().borrow());
        Self { journal, before, step: STEP }
    }

    /// Everything from here on has been handed out or passed.
    pub fn before(&self) -> EntryId {
        self.before
    }

    /// Passes over everything from `before` on.
    pub fn pass_to(&mut self, before: EntryId) {
        self.before = self.before.min(before);
    }

    /// Some more entries, newest first; empty when there are no older ones. A journal is read forwards, so how far back a read
    /// of bounded size has to begin is learned: a beginning that was too far back is tried again nearer.
    pub async fn next(&mut self) -> Result<Vec<Entry>, StoreError> {
        self.next_above(EntryId::FIRST).await
    }

    /// As [`Self::next`], of entries from `floor` on; empty when there are none between it and what has been handed out.
    pub async fn next_above(&mut self, floor: EntryId) -> Result<Vec<Entry>, StoreError> {
        loop {
            let from = EntryId(self.before.0.saturating_sub(self.step).max(floor.0));
            if from >= self.before {
                return Ok(Vec::new());
            }
            let mut entries = self.journal.read(from, READ_BYTES).await?;
            let reaches = entries.last().is_none_or(|last| last.id.next() >= self.before);
            if !reaches && self.step > 1 {
                self.step /= 2;
                continue;
            }
            // Trimming leaves the newest: what is read of a step that is gone lies behind it.
            entries.retain(|entry| entry.id < self.before);
            let bytes: usize = entries.iter().flat_map(|entry| &entry.records).map(|record| record.body.len()).sum();
            if bytes < READ_BYTES / 4 {
                self.step = (self.step * 2).min(MOST_ENTRIES);
            }
            self.before = from;
            entries.reverse();
            return Ok(entries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, UnixMillis};
    use crate::record::{Destinations, Kind, Origin, Project, Record};
    use crate::store::sqlite::{self, OpenOptions};
    use crate::store::testing;
    use crate::store::{Appends as _, Tail};

    fn store(directory: &tempfile::TempDir) -> sqlite::SqliteStore {
        let (path, clock) = (directory.path().join("m.db"), ManualClock::at(UnixMillis(0)));
        sqlite::open(OpenOptions { path, min_free: Some(1), allow_volatile: true, clock }).unwrap()
    }

    fn directory() -> tempfile::TempDir {
        testing::directory()
    }

    fn record(body: impl Into<bytes::Bytes>) -> Record {
        Record {
            kind: Kind::Event,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: UnixMillis(0),
            body: body.into(),
        }
    }

    #[tokio::test]
    async fn steps_are_as_long_as_their_entries_are_small() {
        const LARGE: usize = 3 << 20;
        let directory = directory();
        let store = store(&directory);
        for n in 1..=112 {
            store.journal.append(vec![record(n.to_string())]).await.unwrap();
        }
        for _ in 0..9 {
            store.journal.append(vec![record(vec![b'x'; LARGE])]).await.unwrap();
        }
        let mut backwards = Backwards::new(store.journal.clone());
        let mut expected = 121;
        let (mut large, mut small) = (Vec::new(), Vec::new());
        loop {
            let entries = backwards.next().await.unwrap();
            if entries.is_empty() {
                break;
            }
            for entry in &entries {
                assert_eq!(entry.id.0, expected, "every one, once, in order");
                expected -= 1;
            }
            let bytes: usize = entries.iter().map(|entry| entry.records[0].body.len()).sum();
            assert!(bytes < READ_BYTES + LARGE, "{bytes}");
            if bytes >= LARGE { &mut large } else { &mut small }.push(entries.len());
        }
        assert_eq!(expected, 0);
        assert!(large.iter().all(|&entries| entries <= 3), "{large:?}");
        assert!(small.len() < 8, "{small:?}");
    }

    #[tokio::test]
    async fn entries_come_newest_first_and_end_where_the_journal_begins() {
        let directory = directory();
        let store = store(&directory);
        let mut empty = Backwards::new(store.journal.clone());
        assert!(empty.next().await.unwrap().is_empty());
        for n in 1..=40 {
            store.journal.append(vec![record(n.to_string())]).await.unwrap();
        }
        let all = async || {
            let (mut backwards, mut ids) = (Backwards::new(store.journal.clone()), Vec::new());
            loop {
                let entries = backwards.next().await.unwrap();
                if entries.is_empty() {
                    return ids;
                }
                ids.extend(entries.iter().map(|entry| entry.id.0));
            }
        };
        assert_eq!(all().await, (1..=40).rev().collect::<Vec<_>>());
        let tail = Tail { max_age: std::time::Duration::ZERO, max_bytes: 0 };
        store.journal.trim(EntryId(21), tail, UnixMillis(1_000)).await.unwrap();
        assert_eq!(all().await, (21..=40).rev().collect::<Vec<_>>());
    }
}
