//! Pauses that only a person ends, kept with the store: whoever holds a destination back means it until they say
//! otherwise, and a restart is not them saying so. A backup carries one for every destination, since the vendors have
//! seen what was delivered after it was taken, and the copy has not.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::record::Destination;
use crate::store::sqlite::care::Row;
use crate::store::sqlite::{SqliteJournal, SqliteState};
use crate::store::{State, StoreError, Table, WriteBatch};
use crate::vendor::verdict::PauseCause;

const BY_HAND: &[u8] = b"by_hand";
const RESTORED: &[u8] = b"restored";
/// In a backup, until a relay has taken it up.
const BACKUP: &[u8] = b"backup";

fn row(destination: Destination) -> Vec<u8> {
    format!("paused/{}", destination.label()).into_bytes()
}

/// Writes down that somebody has paused the destination, or resumed it. To be called before the gate is moved: a pause
/// that was answered with success has to hold through a crash.
pub async fn remember(state: &Arc<dyn State>, destination: Destination, paused: bool) -> Result<(), StoreError> {
    let mut batch = WriteBatch::new();
    if paused {
        batch.put(Table::Meta, row(destination), BY_HAND);
    } else {
        batch.delete(Table::Meta, row(destination));
    }
    state.write(batch).await
}

/// Why the destination waits for a person, from this process or an earlier one.
pub async fn remembered(state: &Arc<dyn State>, destination: Destination) -> Result<Option<PauseCause>, StoreError> {
    let found = state.get(Table::Meta, vec![row(destination)]).await?;
    let cause = |value: bytes::Bytes| if value == RESTORED { PauseCause::Restored } else { PauseCause::ByHand };
    Ok(found.into_iter().flatten().next().map(cause))
}

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    pub taken_at: UnixMillis,
    /// Records that each destination had not settled, at most.
    pub unsettled: Vec<(Destination, u64)>,
}

impl Backup {
    /// Rows of [`Table::Meta`] that make a copy of a store a backup: it starts paused.
    pub fn rows(&self) -> Result<Vec<Row>, StoreError> {
        let value = serde_json::to_vec(self).map_err(|error| StoreError::Failed(error.to_string()))?;
        let pauses = Destination::ALL.map(|destination| (row(destination), RESTORED.to_vec()));
        Ok(pauses.into_iter().chain([(BACKUP.to_vec(), value)]).collect())
    }
}

/// On a restored backup: begins a new generation of positions (CORE 1) and says what may be sent twice. Done again after a
/// crash in between, it raises the epoch once more, which costs nothing.
pub async fn take_up_backup(journal: &SqliteJournal, state: &Arc<SqliteState>) -> Result<(), StoreError> {
    let found = state.get(Table::Meta, vec![BACKUP.to_vec()]).await?;
    let Some(value) = found.into_iter().flatten().next() else { return Ok(()) };
    let backup: Backup = serde_json::from_slice(&value)
        .map_err(|error| StoreError::Corrupt(format!("what the backup says of itself: {error}")))?;
    journal.raise_epoch().await?;
    for (destination, records) in &backup.unsettled {
        tracing::warn!(
            taken_at = %backup.taken_at,
            %destination,
            records,
            "this store is a restored backup: the destination is paused, and of these records it will get again what was \
             delivered after the backup was taken. What was accepted after it is not in it"
        );
    }
    let mut batch = WriteBatch::new();
    batch.delete(Table::Meta, BACKUP);
    state.write(batch).await
}
