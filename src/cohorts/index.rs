//! Where runs are found without reading all that are kept: rows of [`Table::CohortRuns`] beside the runs themselves.
//!
//! | first byte | key | value |
//! |---|---|---|
//! | `r` | run id | the run |
//! | `s` | name of a plan | when it was last begun |
//! | `o` | run id | nothing: it has not ended, or still has rows of people |
//! | `p` | hash of list, group and mode; run id | nothing; not of dry runs |
//! | `q` | hash of list, session and mode; run id | nothing |
//! | `v` | | nothing: these rows are there for every run |
//!
//! A run's rows come with it and go with it, but for the one under `o`.

use std::sync::Arc;

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use super::run::{RUN, Run, RunId, Source, key};
use crate::brevo::identifiers::ListId;
use crate::config::SyncMode;
use crate::store::{KeyRange, Pair, State, StoreError, Table, WriteBatch, write_when_there_is_room};

const OPEN: u8 = b'o';
const PLACE: u8 = b'p';
const SESSION: u8 = b'q';
const WHOLE: u8 = b'v';

/// Rows read at once.
pub(super) const PAGE: usize = 500;

#[derive(Clone)]
pub(super) struct Index {
    state: Arc<dyn State>,
}

impl Index {
    /// Makes up for rows that an earlier version did not write.
    pub async fn open(state: Arc<dyn State>) -> Result<Self, StoreError> {
        let index = Self { state };
        let whole = index.state.get(Table::CohortRuns, vec![vec![WHOLE]]).await?;
        if whole.iter().all(Option::is_none) {
            index.build().await?;
        }
        Ok(index)
    }

    async fn build(&self) -> Result<(), StoreError> {
        let mut range = KeyRange::prefix([RUN]);
        loop {
            let runs = self.state.scan(Table::CohortRuns, range.clone(), PAGE).await?;
            let mut batch = WriteBatch::new();
            let Some((last, _)) = runs.last() else {
                batch.put(Table::CohortRuns, [WHOLE], Vec::new());
                return write_when_there_is_room(self.state.as_ref(), batch).await;
            };
            range.from = behind(last.clone());
            for (_, value) in &runs {
                put(&Run::read(value)?, &mut batch);
            }
            write_when_there_is_room(self.state.as_ref(), batch).await?;
        }
    }

    pub async fn run(&self, id: &str) -> Result<Option<Run>, StoreError> {
        let rows = self.state.get(Table::CohortRuns, vec![key(id)]).await?;
        rows.into_iter().flatten().next().map(|value| Run::read(&value)).transpose()
    }

    /// The newest id that was given to a run which is still kept.
    pub async fn newest(&self) -> Result<Option<RunId>, StoreError> {
        Ok(self.ids_back(KeyRange::prefix([RUN]), 1).await?.pop())
    }

    /// Runs, newest first, below `before`.
    pub async fn newest_first(&self, before: Option<&str>, limit: usize) -> Result<Vec<Run>, StoreError> {
        let mut range = KeyRange::prefix([RUN]);
        range.to = before.map(key).or(range.to);
        let rows = self.state.scan_back(Table::CohortRuns, range, limit).await?;
        rows.iter().map(|(_, value)| Run::read(value)).collect()
    }

    /// Runs, oldest first, behind `after`.
    pub async fn oldest_first(&self, after: Option<&RunId>, limit: usize) -> Result<Vec<Run>, StoreError> {
        let mut range = KeyRange::prefix([RUN]);
        range.from = after.map_or(range.from, |after| behind(key(after)));
        let rows = self.state.scan(Table::CohortRuns, range, limit).await?;
        rows.iter().map(|(_, value)| Run::read(value)).collect()
    }

    /// Runs that have not ended or still have rows of people, oldest first, behind `after`.
    pub async fn open_runs(&self, after: Option<&RunId>) -> Result<Vec<RunId>, StoreError> {
        let mut range = KeyRange::prefix([OPEN]);
        range.from = after.map_or(range.from, |after| behind(prefixed(OPEN, after.as_bytes())));
        Ok(ids(&self.state.scan(Table::CohortRuns, range, PAGE).await?))
    }

    /// The newest run that has brought the same group into the same list by the same mode.
    pub async fn last_of(&self, run: &super::Order) -> Result<Option<RunId>, StoreError> {
        Ok(self.ids_back(KeyRange::prefix(place(&run.place(), run.mode)), 1).await?.pop())
    }

    /// The newest run of the very session.
    pub async fn of_session(&self, run: &super::Order) -> Result<Option<RunId>, StoreError> {
        let Some(session) = session(run) else { return Ok(None) };
        Ok(self.ids_back(KeyRange::prefix(session), 1).await?.pop())
    }

    /// Runs of the same group, list and `mode` that were begun after this one, newest first, `most` at the most.
    pub async fn later(&self, run: &Run, mode: SyncMode, most: usize) -> Result<Vec<RunId>, StoreError> {
        let prefix = place(&run.order.place(), mode);
        let mut range = KeyRange::prefix(prefix.clone());
        range.from = behind([prefix, run.id.clone().into_bytes()].concat());
        self.ids_back(range, most).await
    }

    async fn ids_back(&self, range: KeyRange, limit: usize) -> Result<Vec<RunId>, StoreError> {
        Ok(ids(&self.state.scan_back(Table::CohortRuns, range, limit).await?))
    }
}

/// The rows of a run; written when it begins.
pub(super) fn put(run: &Run, batch: &mut WriteBatch) {
    for key in keys(run) {
        batch.put(Table::CohortRuns, key, Vec::new());
    }
    if run.is_open() {
        batch.put(Table::CohortRuns, prefixed(OPEN, run.id.as_bytes()), Vec::new());
    }
}

/// Takes away the run itself, and all of its rows here.
pub(super) fn delete(run: &Run, batch: &mut WriteBatch) {
    close(run, batch);
    // An earlier version had dry runs under `p` too.
    let place = [place(&run.order.place(), run.order.mode), run.id.clone().into_bytes()].concat();
    for key in keys(run).into_iter().chain([place, key(&run.id)]) {
        batch.delete(Table::CohortRuns, key);
    }
}

/// It has ended, and has no rows of people any more.
pub(super) fn close(run: &Run, batch: &mut WriteBatch) {
    batch.delete(Table::CohortRuns, prefixed(OPEN, run.id.as_bytes()));
}

fn keys(run: &Run) -> Vec<Vec<u8>> {
    // A dry run has changed nothing: it is nobody's last run, and later than none.
    let place = (!run.order.dry_run).then(|| place(&run.order.place(), run.order.mode));
    let prefixes = [place, session(&run.order)];
    prefixes.into_iter().flatten().map(|prefix| [prefix, run.id.clone().into_bytes()].concat()).collect()
}

fn place(place: &(ListId, Source), mode: SyncMode) -> Vec<u8> {
    prefixed(PLACE, &hash(&(place, mode)))
}

/// `None`: the group is asked for, and has no sessions.
fn session(order: &super::Order) -> Option<Vec<u8>> {
    let asked = matches!(order.source, Source::Cohort { .. });
    (!asked).then(|| prefixed(SESSION, &hash(&(order.list, &order.source, order.mode))))
}

fn hash(of: &impl Serialize) -> [u8; 16] {
    // Ids, names and enums: nothing of it can fail to be written as JSON.
    xxh3_128(&serde_json::to_vec(of).unwrap_or_default()).to_be_bytes()
}

fn prefixed(first: u8, rest: &[u8]) -> Vec<u8> {
    [&[first], rest].concat()
}

/// The least key above this one.
fn behind(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// Ids are what keys end in, all of one length.
fn ids(rows: &[Pair]) -> Vec<RunId> {
    let id = |(key, _): &Pair| {
        let id = key.get(key.len().saturating_sub(super::run::ID_LEN)..).unwrap_or_default();
        String::from_utf8_lossy(id).into_owned()
    };
    rows.iter().map(id).collect()
}
