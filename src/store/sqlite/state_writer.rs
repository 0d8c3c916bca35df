//! What a group is for the state: the batches that wait, each whole, committed as one transaction in which every table's
//! keys are written in their order.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::poison::Poison;
use super::upkeep::{is_full, is_transient, scrub};
use super::writer::Work;
use crate::store::{Op, StoreError, Table, WriteBatch};

pub(super) struct Write {
    pub batch: WriteBatch,
    pub bytes: usize,
    /// Empty the write-ahead log afterwards.
    pub scrub: bool,
    /// False when the log could not be emptied.
    pub reply: oneshot::Sender<Result<bool, StoreError>>,
    /// Its share of the queue, given back when it has been answered.
    pub permit: OwnedSemaphorePermit,
}

/// Bytes of a batch's keys and values.
pub(super) fn batch_bytes(batch: &WriteBatch) -> usize {
    batch.ops.iter().map(Op::bytes).sum()
}

pub(super) struct StateWork {
    pub poison: Arc<Poison>,
}

impl Work for StateWork {
    type Command = Write;
    const GROUP_BYTES: usize = 4 << 20;
    const GROUP_COMMANDS: usize = 256;

    fn weight(command: &Write) -> usize {
        command.bytes
    }

    fn commit(&mut self, conn: &mut Connection, group: Vec<Write>) -> rusqlite::Result<()> {
        let mut batches = Vec::with_capacity(group.len());
        let mut waiting = Vec::with_capacity(group.len());
        let wants_scrub = group.iter().any(|write| write.scrub);
        for Write { batch, reply, permit, .. } in group {
            batches.push(batch);
            waiting.push((reply, permit));
        }
        let written = write(conn, batches).and_then(|()| if wants_scrub { scrub(conn) } else { Ok(true) });
        let answer = match written {
            Ok(scrubbed) => Ok(scrubbed),
            Err(error) if is_full(&error) && conn.is_autocommit() => Err(StoreError::DiskFull),
            Err(error) if is_transient(&error) && conn.is_autocommit() => Err(StoreError::Failed(error.to_string())),
            Err(error) => {
                // Before the answers are dropped: whoever finds his gone asks the poison why.
                self.poison.set(error.to_string());
                return Err(error);
            }
        };
        for (reply, _permit) in waiting {
            // A leg that has been stopped waits for nothing; its batch stands or falls as a whole all the same.
            drop(reply.send(answer.clone()));
        }
        Ok(())
    }
}

fn write(conn: &mut Connection, batches: Vec<WriteBatch>) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // The last word on each key, in key order: neighbouring keys share pages, and a key written twice costs once.
    let mut last: BTreeMap<(Table, Vec<u8>), Option<Bytes>> = BTreeMap::new();
    for op in batches.into_iter().flat_map(|batch| batch.ops) {
        match op {
            Op::Put { table, key, value } => {
                last.insert((table, key), Some(value));
            }
            Op::Delete { table, key } => {
                last.insert((table, key), None);
            }
            Op::DeleteRange { table, from, to } => {
                // A range must not reach over what came before it, nor be outrun by what comes after.
                apply(&tx, std::mem::take(&mut last))?;
                let sql = format!("DELETE FROM {} WHERE key >= ?1 AND key < ?2", table.name());
                tx.prepare_cached(&sql)?.execute(params![from, to])?;
            }
        }
    }
    apply(&tx, last)?;
    tx.commit()
}

fn apply(tx: &Transaction<'_>, ops: BTreeMap<(Table, Vec<u8>), Option<Bytes>>) -> rusqlite::Result<()> {
    let mut ops = ops.into_iter().peekable();
    while let Some(((table, _), _)) = ops.peek() {
        let table = *table;
        let name = table.name();
        let mut put = tx.prepare_cached(&format!(
            "INSERT INTO {name} (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        ))?;
        let mut delete = tx.prepare_cached(&format!("DELETE FROM {name} WHERE key = ?1"))?;
        while let Some(((_, key), value)) = ops.next_if(|((next, _), _)| *next == table) {
            match value {
                Some(value) => put.execute(params![key, &value[..]])?,
                None => delete.execute(params![key])?,
            };
        }
    }
    Ok(())
}
