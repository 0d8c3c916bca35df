//! The checkpoint of a leg: one value that says how far it is and what became of everything before (CORE 3).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::day_book::Chapter;
use super::ledger::SettledRange;
use super::tally::Tally;
use crate::record::{Destination, EntryId, Epoch, Position};
use crate::store::{State, StoreError, Table, WriteBatch};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The first position that is not settled.
    pub cursor: Position,
    /// Settled beyond the cursor, in order.
    pub settled: Vec<SettledRange>,
    pub tally: Tally,
    /// The last chapter of the leg's book of days.
    #[serde(default)]
    pub chapter: Chapter,
}

impl Checkpoint {
    /// Where a leg starts on a store that has none: below every position, whatever epoch the oldest entry is of.
    fn first() -> Self {
        let cursor = Position { epoch: Epoch::default(), entry: EntryId::FIRST, index: 0 };
        Self { cursor, settled: Vec::new(), tally: Tally::default(), chapter: 0 }
    }

    /// Reads the leg's checkpoint, or makes its first one. It stays in the epoch that it was written in, as the entries do
    /// that were held when the epoch was raised: in the new one it would lie beyond them, and they would be passed over.
    pub async fn load(state: &Arc<dyn State>, destination: Destination) -> Result<Self, StoreError> {
        let values = state.get(Table::Checkpoints, vec![key(destination)]).await?;
        let Some(Some(value)) = values.into_iter().next() else {
            return Ok(Self::first());
        };
        serde_json::from_slice(&value).map_err(|e| StoreError::Corrupt(format!("checkpoint of {destination}: {e}")))
    }

    pub fn put(&self, destination: Destination, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let value = serde_json::to_vec(self).map_err(|e| StoreError::Failed(e.to_string()))?;
        batch.put(Table::Checkpoints, key(destination), value);
        Ok(())
    }
}

fn key(destination: Destination) -> Vec<u8> {
    destination.label().as_bytes().to_vec()
}
