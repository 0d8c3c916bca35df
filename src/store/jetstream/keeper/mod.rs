//! Who keeps the copy of the state true to its log, and extends the log when this relay works.
//!
//! One task with two ways of life. It **follows**: reads what the worker appends and takes it into the copy; when the worker
//! has said goodbye, or nothing was heard of it for [`lease::SILENCE`], it claims. It **works**: appends what the relay
//! writes, each message with the sequence that it must come behind, takes it into the copy when the servers have it, and
//! only then answers. As soon as somebody else's message stands where its own should, or nothing could be appended for
//! [`lease::LENGTH`], it follows again, and everything that waited is refused.
//!
//! A message whose answer was lost is looked for where it must stand: ours, somebody else's, or nothing yet.

mod following;
mod snapshotting;
mod working;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lease::{self, Lease};
use super::link::Link;
use super::log::{Claim, Stamp};
use super::replica::{Replica, Standing};
use crate::store::{StoreError, WriteBatch};

/// Between two tries after something failed.
const AGAIN: Duration = Duration::from_millis(250);
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
