//! The state over its log: read from this relay's copy, written by way of the [keeper](super::keeper).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::keeper::{Command, not_working};
use crate::store::sqlite::SqliteState;
use crate::store::{KeyRange, Op, Pair, State, StoreError, Table, WriteBatch};

/// A batch that finds no room for this long means that nothing moves any more.
const QUEUE_WAIT: Duration = Duration::from_secs(60);

/// See [`State`] for the promises. Writing fails where another relay works.
pub struct JetstreamState {
    pub(super) copy: Arc<SqliteState>,
    pub(super) commands: mpsc::Sender<Command>,
}

impl JetstreamState {
    async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let sent = tokio::time::timeout(QUEUE_WAIT, self.commands.send(command)).await;
        match sent {
            Ok(Ok(())) => answer.await.unwrap_or_else(|_gone| Err(not_working())),
            Ok(Err(_closed)) => Err(not_working()),
            Err(_elapsed) => Err(StoreError::Failed("the state's log has not moved for a minute".to_owned())),
        }
    }
}

impl State for JetstreamState {
    fn get(&self, table: Table, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        self.copy.get(table, keys)
    }

    fn scan(&self, table: Table, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>> {
        self.copy.scan(table, range, limit)
    }

    fn scan_back(&self, table: Table, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>> {
        self.copy.scan_back(table, range, limit)
    }

    fn count(&self, table: Table, range: KeyRange) -> BoxFuture<'_, Result<(u64, u64), StoreError>> {
        self.copy.count(table, range)
    }

    fn write(&self, batch: WriteBatch) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            if batch.is_empty() {
                return Ok(());
            }
            let bytes = batch.ops.iter().map(Op::bytes).sum();
            let (reply, answer) = oneshot::channel();
            self.ask(Command::Write { batch, bytes, reply }, answer).await
        }
        .boxed()
    }

    fn scrub(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        async move {
            let (reply, answer) = oneshot::channel();
            self.ask(Command::Scrub { reply }, answer).await
        }
        .boxed()
    }
}
