//! Reading what the worker appends, and claiming.

use std::time::Duration;

use tokio::time::Instant;

use super::{AGAIN, Keeper, Pieces, random_id, refuse};
use crate::clock::since_boot;
use crate::store::jetstream::cursor::{Cursor, CursorError, Limit, Reading, Stored};
use crate::store::jetstream::lease;
use crate::store::jetstream::log::{self, Entry, Stamp};
use crate::store::jetstream::replica::Standing;
use crate::store::{StoreError, WriteBatch};

/// What one reading of the log may bring.
const READ: Limit = Limit { messages: 64, bytes: 8 << 20 };
/// How long a reading waits for something to come, which bounds how late silence is noticed.
const READ_WAIT: Duration = Duration::from_secs(1);

impl Keeper {
    /// Until this relay has claimed: true; or is told to stop: false.
    pub(super) async fn follow(&mut self) -> Result<bool, StoreError> {
        let mut heard = Instant::now();
        let mut cursor: Option<Cursor> = None;
        loop {
            if self.stop.is_cancelled() {
                return Ok(false);
            }
            while let Ok(command) = self.commands.try_recv() {
                refuse(command);
            }
            let reading = tokio::select! {
                reading = self.read_log(cursor.take()) => reading,
                () = self.stop.cancelled() => return Ok(false),
            };
            match reading {
                Ok((open, messages)) => {
                    cursor = Some(open);
                    let came = !messages.is_empty();
                    for message in messages {
                        self.take_in(message).await?;
                    }
                    if came {
                        heard = Instant::now();
                        self.tell_waiting();
                        continue;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the state's log cannot be read at the moment");
                    tokio::time::sleep(AGAIN).await;
                }
            }
            if (self.is_vacant() || heard.elapsed() >= lease::SILENCE) && self.claim().await? {
                return Ok(true);
            }
        }
    }

    /// Whether nobody is waited for: whoever worked last has said goodbye, or was this relay before it was started anew.
    fn is_vacant(&self) -> bool {
        self.standing.worker.as_ref().is_none_or(|worker| worker.worker == self.me.worker)
    }

    async fn read_log(&self, cursor: Option<Cursor>) -> Result<(Cursor, Vec<Stored>), CursorError> {
        let mut cursor = match cursor {
            Some(cursor) => cursor,
            None => Cursor::open(&self.link, self.standing.sequence + 1, Reading::Log).await?,
        };
        let wait = if self.is_vacant() { Duration::ZERO } else { READ_WAIT };
        let messages = cursor.read(READ, wait).await?;
        Ok((cursor, messages))
    }

    /// Takes a message of the log into the copy.
    async fn take_in(&mut self, message: Stored) -> Result<(), StoreError> {
        if message.sequence != self.standing.sequence + 1 {
            return Err(StoreError::Failed(format!(
                "the state's log was cut up to {}, and this relay's copy stands at {}",
                message.sequence, self.standing.sequence
            )));
        }
        let stamp = Stamp::read(message.headers.as_ref())?;
        if stamp.log != self.standing.log && !self.standing.log.is_empty() {
            return Err(StoreError::Failed("the state's log was replaced by another one".to_owned()));
        }
        let entry = Entry::read(message.payload)?;
        let mut standing = Standing { sequence: message.sequence, ..self.standing.clone() };
        let mut batch = WriteBatch::new();
        match entry {
            Entry::Claim(claim) => {
                self.pieces = Pieces::default();
                standing = Standing { log: stamp.log, term: stamp.term, worker: Some(claim), ..standing };
            }
            Entry::Goodbye => standing.worker = None,
            Entry::Heartbeat => {}
            Entry::Piece(piece) => match self.pieces.add(stamp, piece) {
                Some(frame) => batch = log::decode(&frame)?,
                // A copy stands between batches only: it begins again before the first piece.
                None => {
                    self.standing.sequence = message.sequence;
                    return Ok(());
                }
            },
        }
        self.log_bytes += message.bytes;
        self.standing = standing;
        self.replica.apply(batch, &self.standing).await
    }

    /// Appends a claim where the copy's log ends. False when the log goes on there, or nobody answers.
    async fn claim(&mut self) -> Result<bool, StoreError> {
        let founding = self.standing.log.is_empty();
        let log = if founding { random_id()? } else { self.standing.log.clone() };
        let term = self.standing.term + 1;
        let stamp = Stamp { log: log.clone(), term, number: 0, part: 1, parts: 1 };
        let asked = since_boot();
        match self.publish(&stamp, &Entry::Claim(self.me.clone())).await {
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%error, "the work cannot be claimed at the moment");
                let ours = matches!(self.look(&stamp).await, Ok(Some(true)));
                if !ours {
                    tokio::time::sleep(AGAIN).await;
                    return Ok(false);
                }
            }
        }
        let sequence = self.standing.sequence + 1;
        self.pieces = Pieces::default();
        self.standing = Standing { log, sequence, term, worker: Some(self.me.clone()) };
        self.replica.apply(WriteBatch::new(), &self.standing).await?;
        self.lease.extend(asked);
        Ok(true)
    }
}
