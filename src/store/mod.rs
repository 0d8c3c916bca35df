//! The store's edge: what the relay needs of an engine, as two traits.
//!
//! [`Journal`] is the append-only log that an app's answer waits for. [`State`] is everything the relay remembers
//! besides: checkpoints, people, shelves, dead letters, budgets. They are two files with two writers (CORE 2), because
//! an answer to an app must wait for the append and for nothing else.
//!
//! Invariants that every engine keeps:
//!
//! * `append` resolves with success only when the records would survive power loss.
//! * An entry number is never given twice within an epoch, even when the journal has been drained and restarted.
//! * `State::write` is atomic and durable, and `State` is never ahead of the journal: legs write only what they
//!   derived from entries that [`Journal::read`] returned, and it returns only durable ones.
//! * After a failed sync the engine refuses every further write ([`AppendError::Poisoned`]); the process must exit.
//!
//! The room knows nothing of vendors, of HTTP or of what a value means.

pub mod backwards;
mod block;
pub mod jetstream;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod testing;
mod walk;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::clock::UnixMillis;
use crate::record::{EntryId, Epoch, PerKind, Position, Record};

pub use walk::Walk;

/// Why an append did not happen. Nothing of the request is stored in any of these cases, except that after
/// [`AppendError::Poisoned`] and [`AppendError::Unavailable`] it is unknown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// More is waiting for the disk than the engine will hold; later is better.
    #[error("the store is busy: its queue of waiting requests is full")]
    Busy,
    /// Free space is below the watermark (`store_min_free`).
    #[error("the disk is nearly full: {free} bytes free, the watermark is {watermark}")]
    DiskFull { free: u64, watermark: u64 },
    /// The request alone is larger than an entry may be. Trying again cannot help; callers bound what they accept far
    /// below this.
    #[error("a request of {bytes} bytes is larger than an entry of the store may be ({limit})")]
    TooLarge { bytes: usize, limit: usize },
    /// A write or sync failed. What is on disk is unknown until the store is opened again.
    #[error("the store has failed and takes no more writes: {0}")]
    Poisoned(String),
    /// The servers that keep the store have no room for it.
    #[error("the store is full: {0}")]
    Full(String),
    /// The servers that keep the store gave no answer, or none that decides. Whether the request is stored is unknown.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A write or sync failed, or the engine is shutting down: the process must exit.
    #[error("the store has failed: {0}")]
    Failed(String),
    /// The disk is full. Nothing of the batch is stored; trying again later is right.
    #[error("the disk is full")]
    DiskFull,
    #[error("the store holds something this version cannot read: {0}")]
    Corrupt(String),
}

/// One journal entry with its records, in order; the record at `records[i]` stands at [`Entry::position`]`(i)`.
#[derive(Clone, Debug)]
pub struct Entry {
    pub epoch: Epoch,
    pub id: EntryId,
    pub records: Vec<Record>,
    /// Records that stood here and can no longer be read, because the stored block was damaged. Zero but for such an
    /// entry, which then has no `records`: a leg passes it and counts them as skipped, rule `damaged` (P2).
    pub lost: u32,
}

impl Entry {
    pub fn position(&self, index: usize) -> Position {
        Position { epoch: self.epoch, entry: self.id, index: u32::try_from(index).unwrap_or(u32::MAX) }
    }
}

/// What the journal keeps behind the slowest leg, so that trace and previews have something to look at (CORE 13).
/// Whichever bound is reached first ends it.
#[derive(Clone, Copy, Debug)]
pub struct Tail {
    pub max_age: Duration,
    pub max_bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrimReport {
    pub entries: u64,
    /// True when more could be trimmed at once: call again soon. Trimming goes in small steps so that appends never
    /// wait long behind one.
    pub more: bool,
}

/// Says which records to empty.
pub type Picker = Arc<dyn Fn(&Record) -> bool + Send + Sync>;

/// What one step of erasing did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EraseReport {
    /// Where the next step goes on; at the end of the range when it is done.
    pub next: EntryId,
    pub emptied: u64,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct JournalSize {
    pub entries: u64,
    pub records: u64,
    /// Stored (compressed) bytes of all entries held.
    pub bytes: u64,
    pub oldest_received_at: Option<UnixMillis>,
    /// Bytes that the disk takes before it reaches the watermark.
    pub room: u64,
}

/// A request as it came over the line, for an engine that can keep it so.
#[derive(Clone, Debug)]
pub struct Sent {
    /// One gzip member and nothing besides.
    pub gzip: Bytes,
    /// What it inflates to. Every record is a slice of it, and nothing but brackets, commas and white space stands between
    /// them: nothing else may be kept of a person.
    pub text: Bytes,
}

/// The taking side of the journal: all that the edge needs of a store.
pub trait Appends: Send + Sync + 'static {
    /// Appends `records` (never empty) as part of one entry, in order, and resolves when they are durable. Returns the
    /// position of the first; the others follow it by index, unless the request was too large for one entry. Dropping the future does not undo an append under way.
    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<Position, AppendError>>;

    /// The same for records that are all of what was `sent`: an engine may store that instead of compressing them anew.
    fn append_sent(&self, records: Vec<Record>, sent: Sent) -> BoxFuture<'_, Result<Position, AppendError>> {
        drop(sent);
        self.append(records)
    }

    /// `Err` says in one sentence why the store takes no appends now (watermark, poisoned). `/readyz` asks this.
    fn ready(&self) -> Result<(), AppendError>;
}

/// The append-only log.
pub trait Journal: Appends {
    /// Durable entries from `from` on, oldest first, at least one when there is any, then up to about `max_bytes` of
    /// decoded records. Empty when `from` is past the end.
    fn read(&self, from: EntryId, max_bytes: usize) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>>;

    /// The number that the next entry will get; changes after every append. Everything below it is readable.
    fn tip(&self) -> watch::Receiver<EntryId>;

    fn epoch(&self) -> Epoch;

    /// Records accepted since the store was created.
    fn accepted(&self) -> PerKind;

    /// How many records stand in entries at or after `from`, lost ones included, counted from the entries themselves.
    fn count_from(&self, from: EntryId) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Gives back one small step's worth of entries below `below` that `tail` does not keep.
    fn trim(&self, below: EntryId, tail: Tail, now: UnixMillis) -> BoxFuture<'_, Result<TrimReport, StoreError>>;

    /// Empties the records that `belongs` picks in one step's worth of entries from `from` on and below `below`: their
    /// places, positions and counts stay. Appends go on meanwhile; entries appended later are not looked at.
    fn erase(&self, from: EntryId, below: EntryId, belongs: Picker) -> BoxFuture<'_, Result<EraseReport, StoreError>>;

    /// Sees to it that what was erased or trimmed is in no file any more, the write-ahead log included. False when
    /// readers kept it from happening: try again.
    fn scrub(&self) -> BoxFuture<'_, Result<bool, StoreError>>;

    fn size(&self) -> BoxFuture<'_, Result<JournalSize, StoreError>>;

    /// Refuses a cursor that lies beyond the journal: its leg would wait for positions that were given to other records
    /// before, or never come (CORE 1). The cursor of a leg that has read everything is the tip, index 0.
    fn check_cursor(&self, cursor: Position) -> Result<(), CursorAhead> {
        let end = Position { epoch: self.epoch(), entry: *self.tip().borrow(), index: 0 };
        if cursor.epoch > end.epoch || (cursor.entry, cursor.index) > (end.entry, end.index) {
            return Err(CursorAhead { cursor, end });
        }
        Ok(())
    }
}

/// A leg's cursor lies beyond the journal's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the cursor {cursor} lies beyond the journal's end {end}: the journal is older than the state beside it. Restore both \
     from the same backup"
)]
pub struct CursorAhead {
    pub cursor: Position,
    pub end: Position,
}

/// A table of [`State`]. Keys are bytes and order as bytes; what they hold is said here and nowhere else, because this
/// enum is the register of places that hold personal data (CORE 12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// `destination label` → checkpoint of that leg (JSON). No personal data.
    Checkpoints,
    /// `canonical distinct_id` → folded person (JSON). Personal data: identifiers and mapped attributes.
    People,
    /// `canonical distinct_id` → what Brevo is owed for that person, and what of it travels in an import (JSON). Personal data:
    /// the identifier; address and number while an import is under way.
    Debts,
    /// `canonical distinct_id` → what the person's unknown values need (JSON). Personal data: the identifier.
    Bases,
    /// `hash of the canonical distinct_id, position` → a waiting record. Personal data: whole records.
    Shelves,
    /// `position` → whose record waits there, and its size. Personal data: the identifier.
    ShelfOrder,
    /// `destination byte, position` → dead letter (JSON). Personal data: whole records and vendor answers.
    DeadLetters,
    /// `family` → durable budget (JSON). No personal data.
    Budgets,
    /// `hour, hash` → position. Hashes only.
    Dedup,
    /// What was learned about the vendors' accounts: attributes, limits, list ids, clearing mode; how many records are in
    /// calls under way. No personal data.
    Vendors,
    /// `kind byte, keyed hash` → when an id was erased, or that an address is to stay blocklisted (JSON). Keyed hashes only.
    Tombstones,
    /// `erasure id` → the erasure's receipt (JSON). Personal data while it is under way: the ids that were asked for.
    Erasures,
    /// A Mixpanel group → its folded company and what Brevo is owed for it; a company id → whose it is; links that are
    /// owed (the rows are in `people::company::rows`). Personal data: group ids and mapped group properties, which name firms and
    /// may name people; the identifiers of people whose links are owed.
    Companies,
    /// `address or number of a contact, id` → how sure it is that the contact is that person's. Personal data: addresses and
    /// identifiers.
    Addresses,
    /// `time, newest first; random` → what somebody did by way of the admin API (JSON). Names of tokens, ids of erasures and
    /// letters: no personal data of the app's people.
    Audit,
    /// A run that brings a group into a list, as it is; when a planned one was last begun (the rows are in `cohorts`). No
    /// personal data.
    CohortRuns,
    /// What a run knows of people: its members with ids, addresses and mapped attributes while it is under way, afterwards
    /// the ids of those who could not be matched. Personal data.
    CohortRows,
    /// `day, canonical distinct_id` → nothing: when a record last named the person. Personal data: the identifier.
    Seen,
    /// `backfill id` → the backfill, with its cursor and counts (JSON). No personal data: names of events, no ids.
    Backfills,
    /// `destination, day, chapter, name of an event` → how many of them were delivered; `day` → how they compare with the
    /// vendors' own counts (JSON). No personal data.
    Days,
    /// A data set's run, as it is; when a planned one was last begun; which definition was confirmed (the rows are in
    /// `datasets`). No personal data.
    Datasets,
    /// What a data set's run knows of people: its rows with ids and columns while it is under way, afterwards the ids of those
    /// who could not be matched. Personal data.
    DatasetRows,
    /// `destination byte, epoch, entry / 256, number of the checkpoint` → what became of records (`delivery::history`). Hashes
    /// of identifiers.
    Outcomes,
    /// `epoch, last entry` → which names may be in entries up to it (`delivery::history`). Hashes of identifiers and addresses,
    /// folded into bits.
    Filters,
    /// Of the JetStream engine: `entry` → the block in the place of a message of the journal from which somebody was erased.
    /// Personal data: the whole records of others.
    Rewritten,
    /// Small singletons of the relay itself (generated admin token excluded: that is a file). No personal data.
    Meta,
}

impl Table {
    pub const ALL: [Table; 26] = [
        Table::Checkpoints,
        Table::People,
        Table::Debts,
        Table::Bases,
        Table::Shelves,
        Table::ShelfOrder,
        Table::DeadLetters,
        Table::Budgets,
        Table::Dedup,
        Table::Vendors,
        Table::Tombstones,
        Table::Erasures,
        Table::Companies,
        Table::Addresses,
        Table::Audit,
        Table::CohortRuns,
        Table::CohortRows,
        Table::Seen,
        Table::Backfills,
        Table::Days,
        Table::Datasets,
        Table::DatasetRows,
        Table::Outcomes,
        Table::Filters,
        Table::Rewritten,
        Table::Meta,
    ];

    /// The table's name inside an engine.
    pub fn name(self) -> &'static str {
        match self {
            Table::Checkpoints => "checkpoints",
            Table::People => "people",
            Table::Debts => "debts",
            Table::Bases => "bases",
            Table::Shelves => "shelves",
            Table::ShelfOrder => "shelf_order",
            Table::DeadLetters => "dead_letters",
            Table::Budgets => "budgets",
            Table::Dedup => "dedup",
            Table::Vendors => "vendors",
            Table::Tombstones => "tombstones",
            Table::Erasures => "erasures",
            Table::Companies => "companies",
            Table::Addresses => "addresses",
            Table::Audit => "audit",
            Table::CohortRuns => "cohort_runs",
            Table::CohortRows => "cohort_rows",
            Table::Seen => "seen",
            Table::Backfills => "backfills",
            Table::Days => "days",
            Table::Datasets => "datasets",
            Table::DatasetRows => "dataset_rows",
            Table::Outcomes => "outcomes",
            Table::Filters => "filters",
            Table::Rewritten => "rewritten",
            Table::Meta => "meta",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put {
        table: Table,
        key: Vec<u8>,
        value: Bytes,
    },
    Delete {
        table: Table,
        key: Vec<u8>,
    },
    /// Every key in `from..to`.
    DeleteRange {
        table: Table,
        from: Vec<u8>,
        to: Vec<u8>,
    },
}

impl Op {
    /// Bytes of its keys and values.
    pub fn bytes(&self) -> usize {
        match self {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key, .. } => key.len(),
            Op::DeleteRange { from, to, .. } => from.len() + to.len(),
        }
    }
}

/// Changes that happen together or not at all, applied in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    pub ops: Vec<Op>,
}

impl WriteBatch {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) {
        self.ops.push(Op::Put { table, key: key.into(), value: value.into() });
    }

    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.ops.push(Op::Delete { table, key: key.into() });
    }

    pub fn delete_range(&mut self, table: Table, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) {
        self.ops.push(Op::DeleteRange { table, from: from.into(), to: to.into() });
    }

    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// A key range: `from` inclusive, `to` exclusive; `to: None` runs to the end of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    pub from: Vec<u8>,
    pub to: Option<Vec<u8>>,
}

impl KeyRange {
    pub fn all() -> Self {
        Self::default()
    }

    /// What of it stands behind `key`.
    pub fn after(self, key: impl Into<Vec<u8>>) -> Self {
        let mut from = key.into();
        from.push(0); // the next key in byte order
        Self { from, ..self }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let from = prefix.into();
        let mut to = from.clone();
        while let Some(last) = to.pop() {
            if last < u8::MAX {
                to.push(last + 1);
                return Self { from, to: Some(to) };
            }
        }
        Self { from, to: None }
    }
}

/// A key with its value.
pub type Pair = (Vec<u8>, Bytes);

/// Everything the relay remembers besides the journal.
pub trait State: Send + Sync + 'static {
    /// The values of `keys`, in the same order.
    fn get(&self, table: Table, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>>;

    /// Up to `limit` pairs of `range` in key order.
    fn scan(&self, table: Table, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>>;

    /// Up to `limit` pairs of `range`, the last key first.
    fn scan_back(&self, table: Table, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>>;

    /// Number of keys and their values' total bytes in `range`.
    fn count(&self, table: Table, range: KeyRange) -> BoxFuture<'_, Result<(u64, u64), StoreError>>;

    /// Applies the batch atomically and durably.
    fn write(&self, batch: WriteBatch) -> BoxFuture<'_, Result<(), StoreError>>;

    /// As [`Journal::scrub`], for what was deleted or overwritten here.
    fn scrub(&self) -> BoxFuture<'_, Result<bool, StoreError>>;
}

/// Between two tries to write while the disk is full.
const ROOM_RECHECK: Duration = Duration::from_secs(1);

/// Writes `batch`, and waits out a full disk: nothing is lost by standing still, and ending the process would not make
/// room.
pub async fn write_when_there_is_room(state: &dyn State, batch: WriteBatch) -> Result<(), StoreError> {
    loop {
        match state.write(batch.clone()).await {
            Err(StoreError::DiskFull) => tokio::time::sleep(ROOM_RECHECK).await,
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_range_ends_before_the_next_prefix() {
        assert_eq!(KeyRange::prefix("ab"), KeyRange { from: b"ab".to_vec(), to: Some(b"ac".to_vec()) });
        assert_eq!(KeyRange::prefix([1, 255]), KeyRange { from: vec![1, 255], to: Some(vec![2]) });
        assert_eq!(KeyRange::prefix([255]), KeyRange { from: vec![255], to: None });
    }
}
