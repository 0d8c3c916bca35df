//! The state over SQLite: the caller's side. One SQLite table per [`Table`]; reading connections see every write that
//! has been answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::sync::{Semaphore, oneshot};

use super::poison::Poison;
use super::readers::{Readers, read_failed};
use super::state_writer::{Write, batch_bytes};
use super::writer::Writer;
use crate::store::{KeyRange, Pair, State, StoreError, Table, WriteBatch};

/// Bytes of batches that may wait for the writer, and what a batch counts for at least: 1,024 batches.
const QUEUE_BYTES: usize = 32 << 20;
const BATCH_BYTES: usize = 32 << 10;
pub(super) const QUEUE_BATCHES: usize = QUEUE_BYTES / BATCH_BYTES;
/// A batch that finds no room for this long means that the disk has stopped.
const QUEUE_WAIT: Duration = Duration::from_secs(60);
/// Pairs that one transaction of a count looks at.
const COUNT_STEP: i64 = 50_000;

/// See [`State`] for the promises.
pub struct SqliteState {
    pub(super) writer: Writer<Write>,
    pub(super) readers: Arc<Readers>,
    pub(super) poison: Arc<Poison>,
    pub(super) queue: Arc<Semaphore>,
}

pub(super) fn new_queue() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(QUEUE_BYTES))
}

impl SqliteState {
    async fn write_batch(&self, batch: WriteBatch, scrub: bool) -> Result<bool, StoreError> {
        if batch.is_empty() && !scrub {
            return Ok(true);
        }
        let bytes = batch_bytes(&batch);
        let share = u32::try_from(bytes.clamp(BATCH_BYTES, QUEUE_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.queue).acquire_many_owned(share);
        let permit = match tokio::time::timeout(QUEUE_WAIT, room).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_closed)) => return Err(self.poison.store_error()),
            Err(_elapsed) => return Err(StoreError::Failed("its writer has not moved for a minute".to_owned())),
        };
        let (reply, answer) = oneshot::channel();
        if !self.writer.send(Write { batch, bytes, scrub, reply, permit }) {
            return Err(self.poison.store_error());
        }
        answer.await.unwrap_or_else(|_| Err(self.poison.store_error()))
    }
}

impl State for SqliteState {
    fn get(&self, table: Table, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        self.readers.run(move |conn| get(conn, table, &keys).map_err(|error| read_failed(&error))).boxed()
    }

    fn scan(&self, table: Table, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>> {
        let scan =
            move |conn: &mut Connection| scan(conn, table, &range, limit, "").map_err(|error| read_failed(&error));
        self.readers.run(scan).boxed()
    }

    fn scan_back(&self, table: Table, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>> {
        let scan =
            move |conn: &mut Connection| scan(conn, table, &range, limit, "DESC").map_err(|error| read_failed(&error));
        self.readers.run(scan).boxed()
    }

    fn count(&self, table: Table, range: KeyRange) -> BoxFuture<'_, Result<(u64, u64), StoreError>> {
        async move {
            let (mut keys, mut bytes) = (0, 0);
            let mut rest = Some(range);
            // In steps, because a transaction over millions of rows would hold back the write-ahead log.
            while let Some(range) = rest {
                let step = self
                    .readers
                    .run(move |conn| count_step(conn, table, range).map_err(|error| read_failed(&error)))
                    .await?;
                keys += step.keys;
                bytes += step.bytes;
                rest = step.rest;
            }
            Ok((keys, bytes))
        }
        .boxed()
    }

    fn write(&self, batch: WriteBatch) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { self.write_batch(batch, false).await.map(|_scrubbed| ()) }.boxed()
    }

    fn scrub(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.write_batch(WriteBatch::new(), true).boxed()
    }
}

fn get(conn: &mut Connection, table: Table, keys: &[Vec<u8>]) -> rusqlite::Result<Vec<Option<Bytes>>> {
    // Neighbouring keys share pages, so they are looked up in their order and answered in the caller's.
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_unstable_by(|a, b| keys[*a].cmp(&keys[*b]));
    let mut values = vec![None; keys.len()];
    let tx = conn.transaction()?;
    {
        let mut select = tx.prepare_cached(&format!("SELECT value FROM {} WHERE key = ?1", table.name()))?;
        for at in order {
            values[at] = select.query_row([&keys[at]], value_at(0)).optional()?;
        }
    }
    tx.finish()?;
    Ok(values)
}

fn scan(
    conn: &mut Connection,
    table: Table,
    range: &KeyRange,
    limit: usize,
    direction: &'static str,
) -> rusqlite::Result<Vec<Pair>> {
    let mut select = conn.prepare_cached(&format!(
        "SELECT key, value FROM {} WHERE key >= ?1 {} ORDER BY key {direction} LIMIT ?3",
        table.name(),
        upper_bound(range),
    ))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let pairs = select.query_map(params![range.from, range.to, limit], |row| Ok((row.get(0)?, value_at(1)(row)?)))?;
    pairs.collect()
}

struct CountStep {
    keys: u64,
    bytes: u64,
    /// What is left to count.
    rest: Option<KeyRange>,
}

fn count_step(conn: &mut Connection, table: Table, range: KeyRange) -> rusqlite::Result<CountStep> {
    let mut count = conn.prepare_cached(&format!(
        "SELECT count(*), coalesce(sum(size), 0), max(key) FROM \
         (SELECT key, length(value) AS size FROM {} WHERE key >= ?1 {} ORDER BY key LIMIT ?3)",
        table.name(),
        upper_bound(&range),
    ))?;
    let (keys, bytes, last) = count.query_row(params![range.from, range.to, COUNT_STEP], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Option<Vec<u8>>>(2)?))
    })?;
    let full = keys == COUNT_STEP;
    let rest = last.filter(|_| full).map(|last| range.after(last));
    Ok(CountStep { keys: keys.unsigned_abs(), bytes: bytes.unsigned_abs(), rest })
}

fn upper_bound(range: &KeyRange) -> &'static str {
    // Without a bound the second parameter is unused, and SQLite takes it all the same.
    if range.to.is_some() { "AND key < ?2" } else { "" }
}

fn value_at(column: usize) -> impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<Bytes> {
    move |row| row.get::<_, Vec<u8>>(column).map(Bytes::from)
}
