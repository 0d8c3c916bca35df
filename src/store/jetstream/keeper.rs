//! Who keeps the copy of the state true to its log, and extends the log when this relay works.
//!
//! One task with two ways of life. It **follows**: reads what the worker appends and takes it into the copy; when the worker
//! has said goodbye, or nothing was heard of it for [`lease::SILENCE`], it claims. It **works**: appends what the relay
//! writes, each message with the sequence that it must come behind, takes it into the copy when the servers have it, and
//! only then answers. As soon as somebody else's message stands where its own should, or nothing could be appended for
//! [`lease::LENGTH`], it follows again, and everything that waited is refused.
//!
//! A message whose answer was lost is looked for where it must stand: ours, somebody else's, or nothing yet.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cursor::{Cursor, CursorError, Limit, Reading, Stored};
use super::health::Trouble;
use super::lease::{self, Lease};
use super::link::Link;
use super::log::{self, Claim, Entry, Stamp};
use super::replica::{Replica, Standing};
use super::snapshots;
use crate::clock::since_boot;
use crate::store::{StoreError, WriteBatch};

/// What one reading of the log may bring.
const READ: Limit = Limit { messages: 64, bytes: 8 << 20 };
/// How long a reading waits for something to come, which bounds how late silence is noticed.
const READ_WAIT: Duration = Duration::from_secs(1);
/// Between two tries after something failed.
const AGAIN: Duration = Duration::from_millis(250);
/// Bytes and number of batches that share a message.
const GROUP_BYTES: usize = 4 << 20;
const GROUP_BATCHES: usize = 256;
/// A snapshot is made when the log has grown by this since the last one, or by the last one's size if that is more.
const SNAPSHOT_BYTES: u64 = 64 << 20;
/// Between two tries to make one.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);

/// What callers ask of the one who works.
pub(super) enum Command {
    Write {
        batch: WriteBatch,
        bytes: usize,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Leave nothing of what was deleted, in any copy or log.
    Scrub {
        reply: oneshot::Sender<Result<bool, StoreError>>,
    },
}

/// What this relay is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It follows; somebody works, or nobody does at the moment.
    Waiting { worker: Option<Claim> },
    /// It works.
    Working { term: u64 },
    /// It does neither any more, for this reason; the process has to begin anew.
    Ended { reason: String },
}

/// Why this relay stopped working.
#[derive(Clone, Debug, thiserror::Error)]
enum Lost {
    #[error("another relay has claimed the work")]
    Fenced,
    #[error("nothing could be written for {} s: {why}", lease::LENGTH.as_secs())]
    Expired { why: String },
    /// The log holds what it should not, or the copy cannot be written.
    #[error(transparent)]
    Broken(#[from] StoreError),
}

/// How a message fared.
enum Appended {
    Stands,
    /// There is no room for it, and it does not stand.
    Full,
}

pub(super) struct Keeper {
    pub link: Link,
    pub replica: Arc<Replica>,
    pub standing: Standing,
    pub me: Claim,
    pub lease: Arc<Lease>,
    pub role: watch::Sender<Role>,
    pub commands: mpsc::Receiver<Command>,
    pub stop: CancellationToken,
    /// The batch whose pieces have not all come yet.
    pub pieces: Pieces,
    pub log_bytes: u64,
    pub snapshot: Snapshotting,
}

#[derive(Default)]
pub(super) struct Pieces {
    of: Option<Stamp>,
    held: Vec<Bytes>,
}

/// The snapshot that is being made, and who waits for one.
#[derive(Default)]
pub(super) struct Snapshotting {
    job: Option<JoinHandle<Result<u64, StoreError>>>,
    /// Bytes of the last one's file.
    pub size: u64,
    tried: Option<Instant>,
    waiting: Vec<oneshot::Sender<Result<bool, StoreError>>>,
    /// Of those for whom the present job is made.
    served: Vec<oneshot::Sender<Result<bool, StoreError>>>,
}

impl Keeper {
    pub(super) async fn run(mut self) {
        let ended = loop {
            match self.follow().await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => break error,
            }
            let term = self.standing.term;
            tracing::info!(term, worker = self.me.worker, "this relay works now");
            self.role.send_replace(Role::Working { term });
            let lost = self.work().await;
            self.lease.end();
            self.refuse_all();
            match lost {
                Ok(()) => return,
                Err(Lost::Broken(error)) => break error,
                Err(lost) => {
                    tracing::warn!(term, %lost, "this relay works no more");
                    self.tell_waiting();
                }
            }
        };
        tracing::error!(error = %ended, "the state's log cannot be followed any more");
        self.refuse_all();
        self.role.send_replace(Role::Ended { reason: ended.to_string() });
    }

    fn tell_waiting(&self) {
        let worker = self.standing.worker.clone();
        self.role.send_if_modified(|role| {
            let now = Role::Waiting { worker };
            let changed = *role != now;
            *role = now;
            changed
        });
    }

    /// Whoever waits for something is told that it will not come.
    fn refuse_all(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            refuse(command);
        }
        for reply in self.snapshot.waiting.drain(..).chain(self.snapshot.served.drain(..)) {
            drop(reply.send(Err(not_working())));
        }
        if let Some(job) = self.snapshot.job.take() {
            job.abort();
        }
    }

    // ---- following

    /// Until this relay has claimed: true; or is told to stop: false.
    async fn follow(&mut self) -> Result<bool, StoreError> {
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

    // ---- working

    /// Until told to stop.
    async fn work(&mut self) -> Result<(), Lost> {
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
    async fn publish(&self, stamp: &Stamp, entry: &Entry) -> Result<(), Trouble> {
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
    async fn look(&self, stamp: &Stamp) -> Result<Option<bool>, String> {
        use async_nats::jetstream::stream::RawMessageErrorKind;
        let stream = self.link.context.get_stream_no_info(self.link.names.state_stream()).await;
        let stream = stream.map_err(|error| error.to_string())?;
        match stream.get_raw_message(self.standing.sequence + 1).await {
            Ok(message) => Ok(Some(Stamp::read(Some(&message.headers)).is_ok_and(|found| found == *stamp))),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    // ---- snapshots

    fn begin_snapshot(&mut self) {
        let due = self.log_bytes >= SNAPSHOT_BYTES.max(self.snapshot.size)
            && self.snapshot.tried.is_none_or(|tried| tried.elapsed() >= SNAPSHOT_EVERY);
        let wanted = !self.snapshot.waiting.is_empty();
        if self.snapshot.job.is_some() || !(due || wanted) {
            return;
        }
        self.snapshot.tried = Some(Instant::now());
        self.snapshot.served = std::mem::take(&mut self.snapshot.waiting);
        self.log_bytes = 0;
        let (link, replica) = (self.link.clone(), self.replica.clone());
        self.snapshot.job = Some(tokio::spawn(async move {
            if wanted {
                replica.scrub().await?;
            }
            snapshots::make(&link, &replica, wanted).await
        }));
    }

    fn take_up_snapshot(&mut self, made: Result<u64, StoreError>) {
        self.snapshot.job = None;
        match &made {
            Ok(at) => {
                tracing::info!(at, "a snapshot of the state was made");
                self.snapshot.size = self.replica.size();
            }
            Err(error) => tracing::warn!(%error, "no snapshot of the state could be made"),
        }
        // Not made is not scrubbed: whoever asked tries again.
        let scrubbed = made.is_ok();
        self.snapshot.served.drain(..).for_each(|reply| drop(reply.send(Ok(scrubbed))));
    }
}

/// What came of the job; never ends when there is none.
async fn made(job: &mut Option<JoinHandle<Result<u64, StoreError>>>) -> Result<u64, StoreError> {
    match job {
        Some(job) => {
            job.await.unwrap_or_else(|error| Err(StoreError::Failed(format!("a snapshot was broken off: {error}"))))
        }
        None => std::future::pending().await,
    }
}

impl Pieces {
    /// The frame, when its last piece has come.
    fn add(&mut self, stamp: Stamp, piece: Bytes) -> Option<Vec<u8>> {
        let follows = self.of.as_ref().is_some_and(|of| {
            (of.term, of.number, of.parts) == (stamp.term, stamp.number, stamp.parts) && of.part + 1 == stamp.part
        });
        if !follows {
            self.held.clear();
        }
        self.held.push(piece);
        let whole = stamp.part == stamp.parts;
        self.of = Some(stamp);
        whole.then(|| std::mem::take(&mut self.held).concat())
    }
}

fn refuse(command: Command) {
    match command {
        Command::Write { reply, .. } => drop(reply.send(Err(not_working()))),
        Command::Scrub { reply } => drop(reply.send(Err(not_working()))),
    }
}

pub(super) fn not_working() -> StoreError {
    StoreError::Failed("this relay does not work the state at present".to_owned())
}

pub(super) fn random_id() -> Result<String, StoreError> {
    let mut id = [0; 12];
    getrandom::fill(&mut id).map_err(|error| StoreError::Failed(error.to_string()))?;
    Ok(id.iter().map(|byte| format!("{byte:02x}")).collect())
}
