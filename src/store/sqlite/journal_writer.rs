//! What a group is for the journal: the requests that wait are packed into blocks and committed as one transaction,
//! with the counters that outlive them.

use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::poison::Poison;
use super::recent::{Content, Held, Recent};
use super::schema::is_damage;
use super::upkeep::{is_full, is_transient, scrub};
use super::watermark::Watermark;
use super::writer::Work;
use crate::clock::UnixMillis;
use crate::record::{EntryId, Epoch, PerKind, Position};
use crate::store::block::{BLOCK_BYTES, Sealer};
use crate::store::{AppendError, StoreError};

pub(super) enum Command {
    Append(Append),
    /// Deletes the entries below `below`; the step was measured out by the caller.
    Trim {
        below: EntryId,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Puts other blocks in the place of entries that are still there.
    Rewrite {
        blocks: Vec<(EntryId, Vec<u8>)>,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Empties the write-ahead log; false when a reader stood in the way.
    Scrub {
        reply: oneshot::Sender<Result<bool, StoreError>>,
    },
    RaiseEpoch {
        reply: oneshot::Sender<Result<Epoch, StoreError>>,
    },
}

/// One request that waits for its records to be durable.
pub(super) struct Append {
    pub payload: Payload,
    pub records: u32,
    pub accepted: PerKind,
    /// Of the request's earliest record.
    pub received_at: UnixMillis,
    pub reply: oneshot::Sender<Result<Position, AppendError>>,
    /// Its share of the queue, given back when it has been answered.
    pub permit: OwnedSemaphorePermit,
}

pub(super) enum Payload {
    /// Encoded records, to be packed with others.
    Small(Vec<u8>),
    /// A finished block, an entry of its own, with what it was made of.
    Sealed { block: Vec<u8>, content: Content },
}

impl Payload {
    fn len(&self) -> usize {
        match self {
            Payload::Small(bytes) | Payload::Sealed { block: bytes, .. } => bytes.len(),
        }
    }
}

/// The journal's numbers that outlive its entries, as in the table `counters`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    pub epoch: Epoch,
    pub next_entry: EntryId,
    pub accepted: PerKind,
    /// Stored bytes of all entries since creation.
    pub bytes: u64,
}

/// What callers see of the writer's progress; moved on after each commit.
pub(super) struct Progress {
    pub tip: watch::Sender<EntryId>,
    pub counters: Mutex<Counters>,
}

impl Progress {
    pub(super) fn new(counters: Counters) -> Arc<Self> {
        Arc::new(Self { tip: watch::Sender::new(counters.next_entry), counters: Mutex::new(counters) })
    }

    pub(super) fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts first, then the tip: whoever is woken by an entry finds it counted.
    fn publish(&self, counters: Counters) {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
        self.tip.send_if_modified(|tip| {
            let moved = *tip != counters.next_entry;
            *tip = counters.next_entry;
            moved
        });
    }
}

pub(super) struct JournalWork {
    pub progress: Arc<Progress>,
    pub watermark: Arc<Watermark>,
    pub sealer: Sealer,
    pub poison: Arc<Poison>,
    pub recent: Arc<Recent>,
}

/// An entry about to be written.
struct Row {
    block: Vec<u8>,
    records: u32,
    received_at: UnixMillis,
    /// What the block was made of.
    content: Content,
}

impl Row {
    fn stored_len(&self) -> u64 {
        self.block.len() as u64
    }
}

/// A request whose position is known and that is answered once the group is durable.
struct Answer {
    at: Position,
    reply: oneshot::Sender<Result<Position, AppendError>>,
    _permit: OwnedSemaphorePermit,
}

impl Work for JournalWork {
    type Command = Command;
    const GROUP_BYTES: usize = 8 << 20;
    const GROUP_COMMANDS: usize = 4096;

    fn weight(command: &Command) -> usize {
        match command {
            Command::Append(append) => append.payload.len(),
            Command::Rewrite { blocks, .. } => blocks.iter().map(|(_, block)| block.len()).sum(),
            Command::Trim { .. } | Command::Scrub { .. } | Command::RaiseEpoch { .. } => 0,
        }
    }

    fn commit(&mut self, conn: &mut Connection, group: Vec<Command>) -> rusqlite::Result<()> {
        let mut appends = Vec::with_capacity(group.len());
        let mut after = Vec::new();
        for command in group {
            match command {
                Command::Append(append) => appends.push(append),
                other => after.push(other),
            }
        }
        // Appends first: apps wait for them.
        if !appends.is_empty() {
            self.append(conn, appends)?;
        }
        for command in after {
            match command {
                Command::Append(_) => {}
                Command::Trim { below, reply } => {
                    self.recent.forget_below(below);
                    answer(reply, trim(conn, below), &self.poison)?;
                }
                Command::Rewrite { blocks, reply } => {
                    // Who reads them from memory would read what was erased.
                    if let Some((last, _)) = blocks.last() {
                        self.recent.forget_below(last.next());
                    }
                    answer(reply, rewrite(conn, &blocks), &self.poison)?;
                }
                Command::Scrub { reply } => answer(reply, scrub(conn), &self.poison)?,
                Command::RaiseEpoch { reply } => answer(reply, self.raise_epoch(conn), &self.poison)?,
            }
        }
        Ok(())
    }
}

impl JournalWork {
    fn append(&mut self, conn: &mut Connection, appends: Vec<Append>) -> rusqlite::Result<()> {
        let mut counters = self.progress.counters();
        let (rows, answers) = self.pack(appends, &mut counters);
        let bytes: u64 = rows.iter().map(Row::stored_len).sum();
        counters.bytes += bytes;
        match write_rows(conn, &rows, &self.progress.counters(), &counters) {
            Ok(()) => {
                self.watermark.grew(bytes);
                self.remember(rows, counters);
                self.progress.publish(counters);
                for answer in answers {
                    // Nobody waits any more when the app has hung up; its records are stored all the same.
                    drop(answer.reply.send(Ok(answer.at)));
                }
                Ok(())
            }
            Err(error) if is_transient(&error) && conn.is_autocommit() => {
                tracing::error!(%error, "a group of appends was refused and rolled back");
                let refusal = if is_full(&error) { self.watermark.found_full() } else { AppendError::Busy };
                for answer in answers {
                    drop(answer.reply.send(Err(refusal.clone())));
                }
                Ok(())
            }
            Err(error) => {
                // Before the answers are dropped: whoever finds his gone asks the poison why.
                self.poison.set(error.to_string());
                Err(error)
            }
        }
    }

    /// Keeps the entries just written for the legs, which are about to read them.
    fn remember(&self, rows: Vec<Row>, after: Counters) {
        let first = after.next_entry.0 - rows.len() as u64;
        let held = |(id, row): (u64, Row)| Held {
            id: EntryId(id),
            epoch: after.epoch,
            records: row.records,
            content: row.content,
        };
        self.recent.push((first..).zip(rows).map(held).collect());
    }

    /// Packs requests into entries in the order in which they came, and moves `counters` past them.
    fn pack(&mut self, appends: Vec<Append>, counters: &mut Counters) -> (Vec<Row>, Vec<Answer>) {
        let mut rows = Vec::new();
        let mut answers = Vec::with_capacity(appends.len());
        let mut open = OpenBlock::default();
        for append in appends {
            let alone = matches!(append.payload, Payload::Sealed { .. });
            if open.records > 0 && (alone || open.payload.len() + append.payload.len() > BLOCK_BYTES) {
                rows.push(open.seal(&mut self.sealer, counters));
            }
            let at = Position { epoch: counters.epoch, entry: counters.next_entry, index: open.records };
            counters.accepted.event += append.accepted.event;
            counters.accepted.profile += append.accepted.profile;
            counters.accepted.group += append.accepted.group;
            match append.payload {
                Payload::Small(bytes) => open.add(&bytes, append.records, append.received_at),
                Payload::Sealed { block, content } => {
                    rows.push(Row { block, records: append.records, received_at: append.received_at, content });
                    counters.next_entry = counters.next_entry.next();
                }
            }
            answers.push(Answer { at, reply: append.reply, _permit: append.permit });
        }
        if open.records > 0 {
            rows.push(open.seal(&mut self.sealer, counters));
        }
        (rows, answers)
    }

    fn raise_epoch(&mut self, conn: &mut Connection) -> rusqlite::Result<Epoch> {
        let mut counters = self.progress.counters();
        counters.epoch = Epoch(counters.epoch.0.saturating_add(1));
        let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        write_counters(&tx, &counters)?;
        tx.commit()?;
        self.progress.publish(counters);
        Ok(counters.epoch)
    }
}

/// A block that still takes records.
#[derive(Default)]
struct OpenBlock {
    payload: Vec<u8>,
    records: u32,
    received_at: Option<UnixMillis>,
}

impl OpenBlock {
    fn add(&mut self, payload: &[u8], records: u32, received_at: UnixMillis) {
        self.payload.extend_from_slice(payload);
        self.records += records;
        self.received_at = Some(self.received_at.map_or(received_at, |at| at.min(received_at)));
    }

    /// The entry that this block is, which takes the next number; the block is empty again.
    fn seal(&mut self, sealer: &mut Sealer, counters: &mut Counters) -> Row {
        let row = Row {
            block: sealer.seal(&self.payload, self.records),
            records: self.records,
            received_at: self.received_at.take().unwrap_or_default(),
            content: Content::Payload(std::mem::take(&mut self.payload).into()),
        };
        self.records = 0;
        counters.next_entry = counters.next_entry.next();
        row
    }
}

/// One transaction: the entries from `before.next_entry` on, and the counters as they stand `after` them.
fn write_rows(conn: &mut Connection, rows: &[Row], before: &Counters, after: &Counters) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut entry = tx.prepare_cached(
            "INSERT INTO entries (id, epoch, records, bytes, records_before, bytes_before, received_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        let mut bytes = tx.prepare_cached("INSERT INTO blocks (id, block) VALUES (?1, ?2)")?;
        let mut records_before = before.accepted.total().cast_signed();
        let mut bytes_before = before.bytes.cast_signed();
        for (id, row) in (before.next_entry.0.cast_signed()..).zip(rows) {
            let len = row.stored_len().cast_signed();
            let received_at = row.received_at.0.cast_signed();
            entry.execute(params![id, after.epoch.0, row.records, len, records_before, bytes_before, received_at])?;
            bytes.execute(params![id, row.block])?;
            records_before += i64::from(row.records);
            bytes_before += len;
        }
    }
    write_counters(&tx, after)?;
    tx.commit()
}

fn write_counters(tx: &Transaction<'_>, counters: &Counters) -> rusqlite::Result<()> {
    let mut update = tx.prepare_cached(
        "UPDATE counters SET epoch = ?1, next_entry = ?2, events = ?3, profiles = ?4, groups = ?5, bytes = ?6 \
         WHERE one = 1",
    )?;
    update.execute(params![
        counters.epoch.0,
        counters.next_entry.0.cast_signed(),
        counters.accepted.event.cast_signed(),
        counters.accepted.profile.cast_signed(),
        counters.accepted.group.cast_signed(),
        counters.bytes.cast_signed(),
    ])?;
    Ok(())
}

pub(super) fn read_counters(conn: &Connection) -> rusqlite::Result<Counters> {
    const READ: &str = "SELECT epoch, next_entry, events, profiles, groups, bytes FROM counters WHERE one = 1";
    conn.query_row(READ, [], |row| {
        let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
        Ok(Counters {
            epoch: Epoch(row.get(0)?),
            next_entry: EntryId(number(1)?),
            accepted: PerKind { event: number(2)?, profile: number(3)?, group: number(4)? },
            bytes: number(5)?,
        })
    })
}

fn trim(conn: &mut Connection, below: EntryId) -> rusqlite::Result<()> {
    match delete_below(conn, below, &["entries", "blocks"]) {
        // A tree that cannot be walked cannot be cut either. Forget the entries and leave the bytes, at most one step's
        // worth, rather than fail at the same place after every restart.
        Err(error) if is_damage(&error) => {
            tracing::error!(%error, below = below.0, "damaged blocks stay in the journal's file after trimming");
            delete_below(conn, below, &["entries"])
        }
        other => other,
    }
}

/// The ledger keeps the sizes it had: running totals of other entries rest on them.
fn rewrite(conn: &mut Connection, blocks: &[(EntryId, Vec<u8>)]) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    {
        let mut update = tx.prepare_cached("UPDATE blocks SET block = ?2 WHERE id = ?1")?;
        for (id, block) in blocks {
            update.execute(params![id.0.cast_signed(), block])?;
        }
    }
    tx.commit()
}

fn delete_below(conn: &mut Connection, below: EntryId, tables: &[&str]) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for table in tables {
        tx.prepare_cached(&format!("DELETE FROM {table} WHERE id < ?1"))?.execute([below.0.cast_signed()])?;
    }
    tx.commit()
}

/// Answers a caller; only what may have left the file in doubt is an error of the writer.
fn answer<T>(
    reply: oneshot::Sender<Result<T, StoreError>>,
    result: rusqlite::Result<T>,
    poison: &Poison,
) -> rusqlite::Result<()> {
    let answer = match result {
        Ok(value) => Ok(value),
        Err(error) if is_full(&error) => Err(StoreError::DiskFull),
        Err(error) if is_transient(&error) => Err(StoreError::Failed(error.to_string())),
        Err(error) => {
            poison.set(error.to_string());
            return Err(error);
        }
    };
    drop(reply.send(answer));
    Ok(())
}
