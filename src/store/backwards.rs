//! Reading the journal from its end, for whoever looks for what was accepted last.

use std::sync::Arc;

use super::{Entry, Journal, StoreError};
use crate::record::EntryId;

/// Entries in one step: each is a request, or a block of small ones.
const STEP: u64 = 16;
/// Decoded bytes read at once within a step.
const READ_BYTES: usize = 8 << 20;

pub struct Backwards {
    journal: Arc<dyn Journal>,
    /// The oldest entry that has been handed out.
    before: EntryId,
}

impl Backwards {
    /// From the newest entry on.
    pub fn new(journal: Arc<dyn Journal>) -> Self {
        let before = *journal.tip().borrow();
        Self { journal, before }
    }

    /// Below `before`.
    pub fn below(journal: Arc<dyn Journal>, before: EntryId) -> Self {
        let before = before.min(*journal.tip().borrow());
        Self { journal, before }
    }

    /// Some more entries, newest first; empty when there are no older ones.
    pub async fn next(&mut self) -> Result<Vec<Entry>, StoreError> {
        let from = EntryId(self.before.0.saturating_sub(STEP).max(EntryId::FIRST.0));
        let (mut next, mut entries) = (from, Vec::new());
        while next < self.before {
            let read = self.journal.read(next, READ_BYTES).await?;
            let Some(last) = read.last() else { break };
            next = last.id.next();
            // Trimming leaves the newest: what is read of a step that is gone lies behind it.
            entries.extend(read.into_iter().filter(|entry| entry.id < self.before));
        }
        self.before = from;
        entries.reverse();
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, UnixMillis};
    use crate::record::{Destinations, Kind, Origin, Project, Record};
    use crate::store::Tail;
    use crate::store::sqlite::{self, OpenOptions};

    #[tokio::test]
    async fn entries_come_newest_first_and_end_where_the_journal_begins() {
        let binary = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        let path = directory.path().join("m.db");
        let clock = ManualClock::at(UnixMillis(0));
        let store = sqlite::open(OpenOptions { path, min_free: Some(1), allow_volatile: true, clock }).unwrap();
        let record = |n: u64| Record {
            kind: Kind::Event,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: UnixMillis(n),
            body: n.to_string().into(),
        };
        let mut empty = Backwards::new(store.journal.clone());
        assert!(empty.next().await.unwrap().is_empty());
        for n in 1..=40 {
            store.journal.append(vec![record(n)]).await.unwrap();
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
