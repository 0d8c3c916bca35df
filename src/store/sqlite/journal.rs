//! The journal over SQLite: the caller's side. Encoding, compression of large requests and all reading happen here, in
//! the callers' tasks and on blocking threads; the writer (`journal_writer`) only packs and commits.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::journal_writer::{Append, Command, Payload, Progress};
use super::poison::Poison;
use super::readers::{Readers, read_failed};
use super::recent::{Content, Recent};
use super::schema::is_damage;
use super::watermark::Watermark;
use super::writer::Writer;
use crate::clock::UnixMillis;
use crate::record::{EntryId, Epoch, PerKind, Position, Record};
use crate::store::block::{self, Sealer};
use crate::store::{
    AppendError, Appends, Entry, EraseReport, Journal, JournalSize, Picker, Sent, StoreError, Tail, TrimReport,
};

/// Bytes that may wait for the writer.
const QUEUE_BYTES: usize = 32 << 20;
/// What a request counts for at least, so that the same budget bounds their number: 4,096.
const REQUEST_BYTES: usize = 8 << 10;
pub(super) const QUEUE_REQUESTS: usize = QUEUE_BYTES / REQUEST_BYTES;
/// How long a request waits for room in the queue. A checkpoint is over by then; a disk that is not is overloaded.
const QUEUE_WAIT: Duration = Duration::from_millis(250);
/// From here on a request is an entry of its own, compressed off the writer's thread.
const LARGE_REQUEST: usize = 64 << 10;
/// Entries looked at by one read, however small they are.
const READ_ENTRIES: i64 = 4096;
/// Stored bytes and entries that one step of trimming deletes at most.
const TRIM_BYTES: u64 = 4 << 20;
const TRIM_ENTRIES: u64 = 1024;
/// Decoded bytes that one step of erasing reads at most, or one entry.
const ERASE_BYTES: usize = 2 << 20;
/// Damaged entries that are remembered as reported.
const REPORTED: usize = 10_000;

/// See [`Journal`] for the promises.
pub struct SqliteJournal {
    pub(super) writer: Writer<Command>,
    pub(super) readers: Arc<Readers>,
    pub(super) progress: Arc<Progress>,
    pub(super) watermark: Arc<Watermark>,
    pub(super) poison: Arc<Poison>,
    pub(super) queue: Arc<Semaphore>,
    /// One step of trimming at a time.
    pub(super) trimming: tokio::sync::Mutex<()>,
    pub(super) damage: Arc<DamageLog>,
    pub(super) recent: Arc<Recent>,
}

pub(super) fn new_queue() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(QUEUE_BYTES))
}

impl SqliteJournal {
    /// Begins a new generation of positions, after a backup was restored or the store was copied. Entries that are held
    /// keep the epoch they were written in.
    pub async fn raise_epoch(&self) -> Result<Epoch, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.command(Command::RaiseEpoch { reply }, answer).await
    }

    async fn command<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        if !self.writer.send(command) {
            return Err(self.poison.store_error());
        }
        answer.await.unwrap_or_else(|_| Err(self.poison.store_error()))
    }

    async fn append_records(&self, records: Vec<Record>, sent: Option<Sent>) -> Result<Position, AppendError> {
        self.ready()?;
        let len: usize = records.iter().map(block::record_len).sum();
        if len > block::MAX_RAW {
            return Err(AppendError::TooLarge { bytes: len, limit: block::MAX_RAW });
        }
        let permit = self.room(len).await?;
        let (reply, answer) = oneshot::channel();
        let append = if len < LARGE_REQUEST {
            prepare(records, len, None, reply, permit)
        } else {
            let prepared = tokio::task::spawn_blocking(move || prepare(records, len, sent.as_ref(), reply, permit));
            prepared.await.map_err(|error| AppendError::Poisoned(format!("encoding was broken off: {error}")))?
        };
        if !self.writer.send(Command::Append(append)) {
            // The permits leave room in the channel for every append: it is closed.
            return Err(self.poison.append_error());
        }
        answer.await.unwrap_or_else(|_| Err(self.poison.append_error()))
    }

    /// A share of the queue for a request of `len` bytes.
    async fn room(&self, len: usize) -> Result<OwnedSemaphorePermit, AppendError> {
        // A request larger than the whole queue is let in when it is alone.
        let share = u32::try_from(len.clamp(REQUEST_BYTES, QUEUE_BYTES)).unwrap_or(u32::MAX);
        if let Ok(permit) = Arc::clone(&self.queue).try_acquire_many_owned(share) {
            return Ok(permit);
        }
        let wait = Arc::clone(&self.queue).acquire_many_owned(share);
        match tokio::time::timeout(QUEUE_WAIT, wait).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => Err(self.poison.append_error()),
            Err(_elapsed) => Err(AppendError::Busy),
        }
    }

    async fn read_entries(&self, from: EntryId, max_bytes: usize) -> Result<Vec<Entry>, StoreError> {
        if from >= *self.progress.tip.borrow() {
            return Ok(Vec::new());
        }
        if let Some(entries) = self.recent.read(from, max_bytes) {
            return Ok(entries);
        }
        let damage = Arc::clone(&self.damage);
        self.readers
            .run(move |conn| {
                let stored = fetch(conn, from, max_bytes)?;
                Ok(stored.into_iter().map(|stored| stored.decode(&damage)).collect())
            })
            .await
    }

    async fn erase_step(&self, from: EntryId, below: EntryId, belongs: Picker) -> Result<EraseReport, StoreError> {
        // Trimming and erasing look at the same entries.
        let _one_at_a_time = self.trimming.lock().await;
        let below = below.min(*self.progress.tip.borrow());
        if from >= below {
            return Ok(EraseReport { next: below, emptied: 0 });
        }
        let damage = Arc::clone(&self.damage);
        let (blocks, report) = self
            .readers
            .run(move |conn| {
                let stored = fetch(conn, from, ERASE_BYTES)?;
                let (mut blocks, mut sealer) = (Vec::new(), Sealer::default());
                let mut report = EraseReport { next: below, emptied: 0 };
                for stored in stored {
                    // A damaged block cannot be read by anyone, and goes with its entry.
                    let entry = stored.decode(&damage);
                    report.next = entry.id.next();
                    if entry.id >= below {
                        break;
                    }
                    if let Some((payload, emptied)) = block::without(&entry.records, belongs.as_ref()) {
                        let count = u32::try_from(entry.records.len()).unwrap_or(u32::MAX);
                        blocks.push((entry.id, sealer.seal(&payload, count)));
                        report.emptied += emptied;
                    }
                }
                report.next = report.next.min(below);
                Ok((blocks, report))
            })
            .await?;
        if !blocks.is_empty() {
            let (reply, answer) = oneshot::channel();
            self.command(Command::Rewrite { blocks, reply }, answer).await?;
        }
        Ok(report)
    }

    async fn trim_step(&self, below: EntryId, tail: Tail, now: UnixMillis) -> Result<TrimReport, StoreError> {
        let _one_at_a_time = self.trimming.lock().await;
        let below = below.min(*self.progress.tip.borrow());
        let step = self.readers.run(move |conn| plan_trim(conn, below, tail, now).map_err(|e| read_failed(&e))).await?;
        if step.report.entries > 0 {
            let (reply, answer) = oneshot::channel();
            self.command(Command::Trim { below: step.below, reply }, answer).await?;
        }
        Ok(step.report)
    }
}

impl Appends for SqliteJournal {
    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<Position, AppendError>> {
        self.append_records(records, None).boxed()
    }

    fn append_sent(&self, records: Vec<Record>, sent: Sent) -> BoxFuture<'_, Result<Position, AppendError>> {
        self.append_records(records, Some(sent)).boxed()
    }

    fn ready(&self) -> Result<(), AppendError> {
        if self.poison.is_set() {
            return Err(self.poison.append_error());
        }
        self.watermark.check()
    }
}

impl Journal for SqliteJournal {
    fn read(&self, from: EntryId, max_bytes: usize) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        self.read_entries(from, max_bytes).boxed()
    }

    fn tip(&self) -> watch::Receiver<EntryId> {
        self.progress.tip.subscribe()
    }

    fn epoch(&self) -> Epoch {
        self.progress.counters().epoch
    }

    fn accepted(&self) -> PerKind {
        self.progress.counters().accepted
    }

    fn count_from(&self, from: EntryId) -> BoxFuture<'_, Result<u64, StoreError>> {
        const COUNT: &str = "SELECT coalesce(sum(records), 0) FROM entries WHERE id >= ?1";
        self.readers
            .run(move |conn| {
                let count = conn
                    .prepare_cached(COUNT)
                    .and_then(|mut count| count.query_row([from.0.cast_signed()], |row| row.get::<_, i64>(0)));
                count.map(i64::cast_unsigned).map_err(|error| read_failed(&error))
            })
            .boxed()
    }

    fn trim(&self, below: EntryId, tail: Tail, now: UnixMillis) -> BoxFuture<'_, Result<TrimReport, StoreError>> {
        self.trim_step(below, tail, now).boxed()
    }

    fn erase(&self, from: EntryId, below: EntryId, belongs: Picker) -> BoxFuture<'_, Result<EraseReport, StoreError>> {
        self.erase_step(from, below, belongs).boxed()
    }

    fn scrub(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            let (reply, answer) = oneshot::channel();
            self.command(Command::Scrub { reply }, answer).await
        }
        .boxed()
    }

    fn size(&self) -> BoxFuture<'_, Result<JournalSize, StoreError>> {
        let reading = self.readers.run(|conn| size(conn).map_err(|error| read_failed(&error)));
        async move { Ok(JournalSize { room: self.watermark.room(), ..reading.await? }) }.boxed()
    }
}

/// Encodes a request; a large one becomes a finished block.
pub(super) fn prepare(
    records: Vec<Record>,
    len: usize,
    sent: Option<&Sent>,
    reply: oneshot::Sender<Result<Position, AppendError>>,
    permit: OwnedSemaphorePermit,
) -> Append {
    let mut accepted = PerKind::default();
    records.iter().for_each(|record| accepted.add(record.kind, 1));
    // MAX_RAW bounds the number of records far below u32::MAX.
    let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
    let received_at = records.iter().map(|record| record.received_at).min().unwrap_or_default();
    let payload = if len < LARGE_REQUEST {
        let mut payload = Vec::with_capacity(len);
        records.iter().for_each(|record| block::push_record(&mut payload, record));
        Payload::Small(payload)
    } else {
        let as_sent = sent.and_then(|sent| block::seal_sent(&records, sent));
        let block = as_sent.unwrap_or_else(|| block::seal_large(&records, len));
        Payload::Sealed { block, content: Content::Records(records.into(), len) }
    };
    Append { payload, records: count, accepted, received_at, reply, permit }
}

/// An entry as it stands in the file.
pub(super) struct Stored {
    id: EntryId,
    epoch: Epoch,
    records: u32,
    /// What cannot be read because of damage is `Err`, with the reason.
    block: Result<Vec<u8>, String>,
}

impl Stored {
    /// Never fails: a damaged entry is reported, once, and comes out as lost.
    pub(super) fn decode(self, damage: &DamageLog) -> Entry {
        let records = self.block.and_then(|block| block::decode(block).map_err(|error| error.to_string()));
        let records = records.and_then(|records| {
            let found = records.len();
            if found == self.records as usize {
                Ok(records)
            } else {
                Err(format!("{found} records instead of {}", self.records))
            }
        });
        match records {
            Ok(records) => Entry { epoch: self.epoch, id: self.id, records, lost: 0 },
            Err(reason) => {
                damage.report(self.id, self.records, &reason);
                Entry { epoch: self.epoch, id: self.id, records: Vec::new(), lost: self.records }
            }
        }
    }
}

/// Entries from `from` on, in one read transaction, so that trimming cannot take a block away between two statements.
pub(super) fn fetch(conn: &mut Connection, from: EntryId, max_bytes: usize) -> Result<Vec<Stored>, StoreError> {
    let failed = |error: rusqlite::Error| read_failed(&error);
    let tx = conn.transaction().map_err(failed)?;
    let mut stored = Vec::new();
    {
        let mut entries = tx
            .prepare_cached("SELECT id, epoch, records FROM entries WHERE id >= ?1 ORDER BY id LIMIT ?2")
            .map_err(failed)?;
        let mut block = tx.prepare_cached("SELECT block FROM blocks WHERE id = ?1").map_err(failed)?;
        let mut rows = entries.query(params![from.0.cast_signed(), READ_ENTRIES]).map_err(failed)?;
        let mut bytes = 0;
        while bytes < max_bytes.max(1) {
            let Some(row) = rows.next().map_err(failed)? else { break };
            let id = row.get::<_, i64>(0).map_err(failed)?;
            let epoch = Epoch(row.get(1).map_err(failed)?);
            let records = row.get(2).map_err(failed)?;
            let block = match block.query_row([id], |row| row.get::<_, Vec<u8>>(0)).optional() {
                Ok(Some(block)) => Ok(block),
                Ok(None) => Err("its block is missing".to_owned()),
                Err(error) if is_damage(&error) => Err(error.to_string()),
                Err(error) => return Err(failed(error)),
            };
            bytes += block.as_ref().map_or(1, |block| block::stated_raw_len(block).max(1));
            stored.push(Stored { id: EntryId(id.cast_unsigned()), epoch, records, block });
        }
    }
    tx.finish().map_err(failed)?;
    Ok(stored)
}

struct TrimStep {
    below: EntryId,
    report: TrimReport,
}

/// How far one step may go: from the oldest entry on, below `below`, over what the tail does not keep.
fn plan_trim(conn: &mut Connection, below: EntryId, tail: Tail, now: UnixMillis) -> rusqlite::Result<TrimStep> {
    let tx = conn.transaction()?;
    let number = below.0.cast_signed();
    // Stored bytes from creation up to `below`; what an entry and those behind it hold of them is the tail.
    let end: Option<i64> = tx
        .prepare_cached("SELECT bytes_before + bytes FROM entries WHERE id < ?1 ORDER BY id DESC LIMIT 1")?
        .query_row([number], |row| row.get(0))
        .optional()?;
    let end = end.unwrap_or_default().unsigned_abs();
    let mut step = TrimStep { below: EntryId::default(), report: TrimReport::default() };
    let mut bytes = 0;
    let mut oldest =
        tx.prepare_cached("SELECT id, bytes, bytes_before, received_at FROM entries WHERE id < ?1 ORDER BY id")?;
    let mut rows = oldest.query([number])?;
    while let Some(row) = rows.next()? {
        let size = row.get::<_, i64>(1)?.unsigned_abs();
        let held = end.saturating_sub(row.get::<_, i64>(2)?.unsigned_abs());
        let received_at = UnixMillis(row.get::<_, i64>(3)?.cast_unsigned());
        if held <= tail.max_bytes && now.since(received_at) <= tail.max_age {
            break;
        }
        if bytes >= TRIM_BYTES || step.report.entries >= TRIM_ENTRIES {
            step.report.more = true;
            break;
        }
        bytes += size;
        step.below = EntryId(row.get::<_, i64>(0)?.cast_unsigned()).next();
        step.report.entries += 1;
    }
    Ok(step)
}

/// From the first and the last entry: numbers have no gaps, since trimming takes from the front only, and each entry
/// knows what stood before it. A scan would take longer with every entry of the backlog.
fn size(conn: &mut Connection) -> rusqlite::Result<JournalSize> {
    const FIRST: &str = "SELECT id, records_before, bytes_before, received_at FROM entries ORDER BY id LIMIT 1";
    const LAST: &str =
        "SELECT id, records_before + records, bytes_before + bytes FROM entries ORDER BY id DESC LIMIT 1";
    fn numbers<const N: usize>(row: &rusqlite::Row<'_>) -> rusqlite::Result<[u64; N]> {
        let mut numbers = [0; N];
        for (at, number) in numbers.iter_mut().enumerate() {
            *number = row.get::<_, i64>(at)?.cast_unsigned();
        }
        Ok(numbers)
    }
    let tx = conn.transaction()?;
    let first = tx.prepare_cached(FIRST)?.query_row([], numbers::<4>).optional()?;
    let last = tx.prepare_cached(LAST)?.query_row([], numbers::<3>).optional()?;
    tx.finish()?;
    let (Some([first, records_before, bytes_before, received_at]), Some([last, records, bytes])) = (first, last) else {
        return Ok(JournalSize::default());
    };
    Ok(JournalSize {
        entries: last + 1 - first,
        records: records - records_before,
        bytes: bytes - bytes_before,
        oldest_received_at: Some(UnixMillis(received_at)),
        ..JournalSize::default()
    })
}

/// Damaged entries that have been met; each is reported once.
#[derive(Default)]
pub(super) struct DamageLog {
    seen: Mutex<BTreeSet<EntryId>>,
}

impl DamageLog {
    fn report(&self, entry: EntryId, records: u32, reason: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < REPORTED && seen.insert(entry) {
            tracing::error!(
                entry = entry.0,
                records,
                reason,
                "a block of the journal is damaged: its records are lost"
            );
        }
    }
}
