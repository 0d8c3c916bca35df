//! The journal from its end, without the pieces that hold nothing of what is looked for.

use std::collections::VecDeque;
use std::sync::Arc;

use super::filter::{Filter, hash, key};
use crate::record::{EntryId, Position};
use crate::store::backwards::Backwards;
use crate::store::{Entry, Journal, KeyRange, State, StoreError, Table};

/// Filters read at once.
const FILTERS: usize = 200;
/// Filters that one walk asks, about: 20 MB of them.
const MOST_FILTERS: usize = 8_000;

/// What a walk comes to next.
#[derive(Debug)]
pub enum Step {
    /// Entries that may hold something, newest first.
    Entries(Vec<Entry>),
    /// Enough was looked at for once: the walk may be gone on with below this entry.
    Enough(EntryId),
    /// There are no older ones.
    End,
}

pub struct Sifted {
    state: Arc<dyn State>,
    backwards: Backwards,
    /// Hashes of what is looked for, any of them; `None`: everything.
    sought: Option<Vec<u64>>,
    /// Filters that have been read, newest first, by the last entry that each covers.
    filters: VecDeque<(EntryId, Filter)>,
    /// Where the next filters are read.
    range: KeyRange,
    more: bool,
    asked: usize,
}

impl Sifted {
    /// Below `before`, or from the newest entry on: all entries, or those that may hold one of the names that are `sought`.
    pub fn new(
        journal: Arc<dyn Journal>,
        state: Arc<dyn State>,
        before: Option<EntryId>,
        sought: Option<Vec<&str>>,
    ) -> Self {
        let sought: Option<Vec<u64>> = sought.map(|names| names.into_iter().map(hash).collect());
        let to = Position { epoch: journal.epoch(), entry: before.unwrap_or(EntryId(u64::MAX)), index: 0 };
        let backwards = match before {
            Some(before) => Backwards::below(journal, before),
            None => Backwards::new(journal),
        };
        let range = KeyRange { from: Vec::new(), to: Some(key(to)) };
        Self { state, backwards, more: sought.is_some(), sought, filters: VecDeque::new(), range, asked: 0 }
    }

    pub async fn next(&mut self) -> Result<Step, StoreError> {
        let mut floor = EntryId::FIRST;
        while self.sought.is_some() {
            self.read_more().await?;
            let before = self.backwards.before();
            // Where a walk begins in the middle of a filter, and where entries were read again after a crash.
            while self.filters.front().is_some_and(|(last, filter)| *last >= before && filter.first() >= before) {
                self.filters.pop_front();
            }
            let Some((last, filter)) = self.filters.front() else { break };
            if last.next() < before {
                floor = last.next();
                break;
            }
            let mut sought = self.sought.iter().flatten();
            if sought.any(|hash| filter.may_hold(*hash)) {
                floor = filter.first();
                break;
            }
            self.backwards.pass_to(filter.first());
            if self.asked >= MOST_FILTERS {
                return Ok(Step::Enough(self.backwards.before()));
            }
            self.filters.pop_front();
        }
        let entries = self.backwards.next_above(floor).await?;
        Ok(if entries.is_empty() && floor <= EntryId::FIRST { Step::End } else { Step::Entries(entries) })
    }

    async fn read_more(&mut self) -> Result<(), StoreError> {
        if !self.filters.is_empty() || !self.more {
            return Ok(());
        }
        let rows = self.state.scan_back(Table::Filters, self.range.clone(), FILTERS).await?;
        self.more = rows.len() == FILTERS;
        self.asked += rows.len();
        for (key, value) in rows {
            let last = key.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            self.filters.push_back((EntryId(last), Filter::decode(&value)?));
            self.range.to = Some(key);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::clock::{ManualClock, UnixMillis};
    use crate::delivery::history::{Filters, forget_named};
    use crate::record::{Destinations, EntryId, Kind, Origin, Project, Record};
    use crate::store::WriteBatch;
    use crate::store::testing;

    const ENTRIES: u64 = 600;
    const RECORDS: u64 = 10;

    fn event(n: u64) -> Record {
        let body = format!(
            r#"{{"event":"e","properties":{{"distinct_id":"u{}","$insert_id":"i{n}","mail":"M{}@Example.com"}}}}"#,
            n % 500,
            n / 10
        );
        Record {
            kind: Kind::Event,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: UnixMillis(0),
            body: body.into(),
        }
    }

    struct Store {
        journal: Arc<dyn Journal>,
        state: Arc<dyn State>,
        _directory: tempfile::TempDir,
    }

    /// A leg reads all, is killed with a filter half made, begins again a little before that, and has not read the newest.
    async fn store() -> Store {
        let directory = testing::directory();
        let store = testing::open(&directory, ManualClock::at(UnixMillis(0)));
        let (journal, state): (Arc<dyn Journal>, Arc<dyn State>) = (store.journal, store.state);
        for entry in 0..ENTRIES {
            // Of a request each: what comes at once shares an entry.
            journal.append((0..RECORDS).map(|n| event(entry * RECORDS + n)).collect()).await.unwrap();
        }
        assert_eq!(*journal.tip().borrow(), EntryId(ENTRIES + 1));
        let mut batch = WriteBatch::new();
        for (from, to) in [(1, 310), (250, 590)] {
            let mut filters = Filters::default();
            let mut next = EntryId(from);
            while next < EntryId(to) {
                for entry in journal.read(next, 1 << 20).await.unwrap() {
                    next = entry.id.next();
                    filters.begin(entry.epoch, entry.id);
                    entry.records.iter().for_each(|record| filters.take(record));
                }
            }
            filters.write(&mut batch);
        }
        state.write(batch).await.unwrap();
        Store { journal, state, _directory: directory }
    }

    /// Which entries a walk hands out, in order, over as many walks as it takes.
    async fn walked(store: &Store, name: &str) -> Vec<u64> {
        let (mut walked, mut before) = (Vec::new(), None);
        loop {
            let sought = (!name.is_empty()).then(|| vec![name]);
            let mut sifted = Sifted::new(store.journal.clone(), store.state.clone(), before, sought);
            loop {
                match sifted.next().await.unwrap() {
                    Step::End => return walked,
                    Step::Enough(at) => before = Some(at),
                    Step::Entries(entries) => {
                        walked.extend(entries.iter().map(|entry| entry.id.0));
                        // As a page of an answer ends, in the middle of a filter.
                        match entries.last() {
                            Some(last) if last.id.0 % 7 == 0 => before = Some(last.id),
                            _ => continue,
                        }
                    }
                }
                break;
            }
        }
    }

    #[tokio::test]
    async fn core13_only_what_may_hold_it_is_opened_and_nothing_is_missed() {
        let store = store().await;
        let all: Vec<u64> = (1..=ENTRIES).rev().collect();
        assert_eq!(walked(&store, "").await, all, "newest first, each once");
        let mut read: Vec<Entry> = Vec::new();
        while (read.len() as u64) < ENTRIES {
            read.extend(store.journal.read(EntryId(read.len() as u64 + 1), 1 << 20).await.unwrap());
        }
        for name in ["i3", "i2800", "i5999", "m17@example.com", "u5", "nobody"] {
            let found = walked(&store, name).await;
            let opened: BTreeSet<u64> = found.iter().copied().collect();
            assert_eq!(opened.len(), found.len(), "{name}: an entry is handed out once");
            let quoted = format!("\"{name}\"");
            for entry in &read {
                let holds = |record: &Record| String::from_utf8_lossy(&record.body).to_lowercase().contains(&quoted);
                let passed = entry.records.iter().any(holds) && !opened.contains(&entry.id.0);
                assert!(!passed, "{name} stands in {:?}, which was passed", entry.id);
            }
            // Somebody of whom there is a record in every filter costs all of them.
            assert!(name == "u5" || opened.len() < ENTRIES as usize / 2, "{name}: {}", opened.len());
        }
    }

    #[tokio::test]
    async fn core13_an_erasure_takes_the_filters_that_may_hold_the_person() {
        let store = store().await;
        let before = walked(&store, "i3").await.len();
        forget_named(store.state.as_ref(), &["$device:u3"]).await.unwrap();
        assert_eq!(walked(&store, "i3").await.len(), ENTRIES as usize, "u3 was in all of them: everything is read");
        assert!(before < ENTRIES as usize / 2);
    }
}
