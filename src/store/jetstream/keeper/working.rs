//! Extending the log.

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::RawMessageErrorKind;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::snapshotting::made;
use super::{AGAIN, Command, Keeper, Lost};
use crate::clock::since_boot;
use crate::store::jetstream::health::Trouble;
use crate::store::jetstream::lease;
use crate::store::jetstream::log::{self, Entry, Stamp};
use crate::store::{StoreError, WriteBatch};

/// Bytes and number of batches that share a message.
const GROUP_BYTES: usize = 4 << 20;
const GROUP_BATCHES: usize = 256;

/// How a message fared.
enum Appended {
    Stands,
    /// There is no room for it, and it does not stand.
    Full,
}

impl Keeper {
    /// Until told to stop.
    pub(super) async fn work(&mut self) -> Result<(), Lost> {
        let mut number = 0;
        let mut said = Instant::now();
        loop {
            let command = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                command = self.commands.recv() => command,
                () = tokio::time::sleep_until(said + lease::HEARTBEAT) => None,
                made = made(&mut self.snapshot.job) => {
                    self.take_up_snapshot(made);
                    continue;
                }
            };
            number += 1;
            match command {
                Some(command) => {
                    let group = self.collect(command);
                    self.write(group, number).await?;
                }
                None => self.say(Entry::Heartbeat, number).await?,
            }
            said = Instant::now();
            self.begin_snapshot();
        }
        self.say(Entry::Goodbye, number + 1).await
    }

    /// What waits behind `first`; those who want to leave nothing are put aside.
    fn collect(&mut self, first: Command) -> Vec<(WriteBatch, oneshot::Sender<Result<(), StoreError>>)> {
        let (mut group, mut all) = (Vec::new(), 0);
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Write { batch, bytes, reply } => {
                    all += bytes;
                    group.push((batch, reply));
                }
                Command::Scrub { reply } => self.snapshot.waiting.push(reply),
            }
            let more = all < GROUP_BYTES && group.len() < GROUP_BATCHES;
            next = if more { self.commands.try_recv().ok() } else { None };
        }
        group
    }

    async fn write(
        &mut self,
        group: Vec<(WriteBatch, oneshot::Sender<Result<(), StoreError>>)>,
        number: u64,
    ) -> Result<(), Lost> {
        let (mut all, mut waiting) = (WriteBatch::new(), Vec::with_capacity(group.len()));
        for (batch, reply) in group {
            all.ops.extend(batch.ops);
            waiting.push(reply);
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let answer = match self.write_batch(all, number).await {
            Ok(Appended::Stands) => Ok(()),
            Ok(Appended::Full) => Err(StoreError::DiskFull),
            Err(lost) => {
                let refused = Err(StoreError::Failed(lost.to_string()));
                waiting.into_iter().for_each(|reply| drop(reply.send(refused.clone())));
                return Err(lost);
            }
        };
        // Whoever was stopped waits for nothing; his batch stands or falls as a whole all the same.
        waiting.into_iter().for_each(|reply| drop(reply.send(answer.clone())));
        Ok(())
    }

    async fn write_batch(&mut self, batch: WriteBatch, number: u64) -> Result<Appended, Lost> {
        let pieces = log::encode(&batch, self.link.max_payload().saturating_sub(1))?;
        let parts = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
        for (piece, part) in pieces.into_iter().zip(1..) {
            let bytes = piece.len() as u64;
            let stamp = self.stamp(number, part, parts);
            if let Appended::Full = self.append(&stamp, &Entry::Piece(piece)).await? {
                if part == 1 {
                    return Ok(Appended::Full);
                }
                // A part of it stands. Whoever comes next claims, and what was not finished is passed over.
                return Err(Lost::Expired { why: "the state's log is full".to_owned() });
            }
            self.log_bytes += bytes;
            self.standing.sequence += 1;
        }
        self.replica.apply(batch, &self.standing).await?;
        Ok(Appended::Stands)
    }

    /// Appends what is no batch.
    async fn say(&mut self, entry: Entry, number: u64) -> Result<(), Lost> {
        let stamp = self.stamp(number, 1, 1);
        if let Appended::Full = self.append(&stamp, &entry).await? {
            return Ok(());
        }
        self.standing.sequence += 1;
        if entry == Entry::Goodbye {
            self.standing.worker = None;
        }
        Ok(self.replica.apply(WriteBatch::new(), &self.standing).await?)
    }

    fn stamp(&self, number: u64, part: u32, parts: u32) -> Stamp {
        Stamp { log: self.standing.log.clone(), term: self.standing.term, number, part, parts }
    }

    /// Until the message stands, or cannot.
    async fn append(&mut self, stamp: &Stamp, entry: &Entry) -> Result<Appended, Lost> {
        let asked = since_boot();
        loop {
            let error = match self.publish(stamp, entry).await {
                Ok(()) => {
                    self.lease.extend(asked);
                    return Ok(Appended::Stands);
                }
                Err(error) => error,
            };
            match self.look(stamp).await {
                Ok(Some(true)) => {
                    // It may have been stored by any of the tries: the first is what the lease counts from.
                    self.lease.extend(asked);
                    return Ok(Appended::Stands);
                }
                Ok(Some(false)) => return Err(Lost::Fenced),
                Ok(None) if matches!(error, Trouble::Full(_)) => return Ok(Appended::Full),
                Ok(None) | Err(_) => {}
            }
            let (Trouble::Full(why) | Trouble::Away(why)) = error;
            if self.lease.remaining().is_zero() {
                return Err(Lost::Expired { why });
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Asks once for the message to stand right behind what the copy knows.
    pub(super) async fn publish(&self, stamp: &Stamp, entry: &Entry) -> Result<(), Trouble> {
        let mut headers = HeaderMap::new();
        stamp.write(&mut headers);
        let message = PublishMessage::build()
            .payload(entry.write())
            .headers(headers)
            .expected_last_sequence(self.standing.sequence);
        let sent = self.link.context.send_publish(self.link.names.state_subject(), message).await;
        let answer = match sent {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(stored) if stored.sequence == self.standing.sequence + 1 => Ok(()),
            Ok(stored) => Err(Trouble::Away(format!(
                "a message that had to come behind {} came to stand at {}",
                self.standing.sequence, stored.sequence
            ))),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                Err(Trouble::Away("the log goes on with something else".to_owned()))
            }
            Err(error) => Err(Trouble::of(&error)),
        }
    }

    /// What stands right behind what the copy knows: this message, another one, or nothing yet.
    pub(super) async fn look(&self, stamp: &Stamp) -> Result<Option<bool>, String> {
        let stream = self.link.context.get_stream_no_info(self.link.names.state_stream()).await;
        let stream = stream.map_err(|error| error.to_string())?;
        match stream.get_raw_message(self.standing.sequence + 1).await {
            Ok(message) => Ok(Some(Stamp::read(Some(&message.headers)).is_ok_and(|found| found == *stamp))),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }
}
