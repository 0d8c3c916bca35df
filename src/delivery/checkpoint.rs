//! The checkpoint of a leg: one value that says how far it is and what became of everything before (CORE 3).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use tokio::time::Instant;

use super::day_book::Chapter;
use super::ledger::SettledRange;
use super::tally::Tally;
use crate::record::{Destination, EntryId, Epoch, Position};
use crate::store::{State, StoreError, Table, WriteBatch, write_when_there_is_room};

/// A checkpoint that has not been written for so long holds its leg back.
const OVERDUE: Duration = Duration::from_secs(2);

/// A checkpoint on its way to the store, and what is durable with it.
///
/// What a leg sends before that is sent again after a crash (P5), and what it learns is in memory. So a leg neither reads
/// nor begins a call while its checkpoint is overdue: a full disk would let both grow for as long as it is full.
pub struct Writing<T> {
    write: BoxFuture<'static, Result<T, StoreError>>,
    since: Instant,
}

impl<T: Send + 'static> Writing<T> {
    pub fn begin(state: Arc<dyn State>, batch: WriteBatch, durable: T) -> Self {
        let write = async move { write_when_there_is_room(state.as_ref(), batch).await.map(|()| durable) };
        Self { write: write.boxed(), since: Instant::now() }
    }

    pub fn is_overdue(&self) -> bool {
        self.since.elapsed() > OVERDUE
    }

    /// For the last one of a process: a disk that stays full must not keep it from ending.
    pub async fn within(self, patience: Duration) -> Result<T, StoreError> {
        let late = |_| {
            StoreError::Failed(format!("the last checkpoint was not written within {patience:?}: is the disk full?"))
        };
        tokio::time::timeout(patience, self).await.map_err(late)?
    }
}

impl<T> Future for Writing<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.write.as_mut().poll(cx)
    }
}

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
    /// How many have been written: what each adds to history stands under its number.
    #[serde(default)]
    pub number: u64,
}

impl Checkpoint {
    /// Where a leg starts on a store that has none: below every position, whatever epoch the oldest entry is of.
    fn first() -> Self {
        let cursor = Position { epoch: Epoch::default(), entry: EntryId::FIRST, index: 0 };
        Self { cursor, settled: Vec::new(), tally: Tally::default(), chapter: 0, number: 0 }
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
