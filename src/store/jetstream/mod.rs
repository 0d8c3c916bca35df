//! The engine for more than one machine: NATS JetStream (CORE 17).
//!
//! ```text
//! append ──► publisher ──one message a group, acknowledged──► stream NAME-journal-0
//! write  ──► keeper ──one message a group, where the last one ends──► stream NAME-state-0 ──► each relay's copy (SQLite)
//! read   ──► stream NAME-journal-0          get, scan, count ──► this relay's copy
//! ```
//!
//! Any number of relays append. One of them works: it has the journal read and the state written, until it says goodbye or is
//! not heard of any more; the others follow the state's log into copies of their own, and one of them claims then.
//!
//! * An **append** is answered when a quorum of the servers has it. A message that is sent again has the same id.
//! * An **entry** is a message of the journal's stream, its number the stream's sequence: never given twice, kept over
//!   purges. How many records stand where is counted from headers (`ledger`).
//! * The **state** is the log of its write batches. Each message names the sequence that it has to follow, so whoever does
//!   not know the newest cannot write: a claim at the end of the log is a fence against everybody before. What was written is
//!   in this relay's copy before the writer is answered.
//! * A **lease** says for how long the worker may act without having appended anything (`lease`).
//!
//! Crash order: the copy holds what the log holds, up to some message. Whatever a worker did not finish writing is passed
//! over behind the next claim. The state is written only from what the journal returned, and that is what a quorum has.
//!
//! Written for nats-server 2.9: nothing newer is asked of it.

mod cursor;
mod heading;
mod health;
mod journal;
mod keeper;
mod lease;
mod ledger;
mod link;
mod log;
mod provision;
mod publisher;
mod reading;
mod replica;
mod rows;
mod snapshots;
mod state;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::store::{StoreError, sqlite};

use health::Health;
use keeper::{Keeper, Pieces, Snapshotting};
use link::Link;
use replica::Replica;

pub use journal::JetstreamJournal;
pub use keeper::Role;
pub use lease::Lease;
pub use link::{Names, Servers};
pub use log::Claim;
pub use provision::{Difference, Sizes};
pub use publisher::Publisher;
pub use state::JetstreamState;

/// How long the first message of a new log may take.
const FOUNDING: Duration = Duration::from_secs(30);
/// Batches that may wait for the keeper.
const QUEUE_BATCHES: usize = 1024;

pub struct OpenOptions {
    pub servers: Servers,
    /// Begins the names of all streams.
    pub name: String,
    pub sizes: Sizes,
    /// For this relay's copy of the state, which may be lost.
    pub directory: PathBuf,
    /// Where other relays reach this one.
    pub address: Option<String>,
}

/// Why the store cannot be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no NATS server answers at {servers} ({source}): check `store` and that the servers run")]
    Unreachable { servers: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the credentials in {} cannot be used: {source}", path.display())]
    Credentials { path: PathBuf, source: io::Error },
    #[error(
        "the servers refuse to tell of the stream {stream} or to make it ({source}): is JetStream on, and allowed to this user?"
    )]
    Refused { stream: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{0}: such a stream does not keep what it is given; remove it, or choose another name in `store`")]
    Stream(Difference),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("this relay's copy of the state: {0}")]
    Copy(#[from] sqlite::OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the stream {journal} holds records, and the state's stream {state} is empty: restore both from the same backup, or \
         choose another name in `store`"
    )]
    Half { journal: String, state: String },
}

impl OpenError {
    fn asked(stream: &str, error: impl std::error::Error + Send + Sync + 'static) -> Self {
        OpenError::Refused { stream: stream.to_owned(), source: Box::new(error) }
    }
}

/// An open store: this relay appends to it, and follows its state until it works.
pub struct JetstreamStore {
    link: Link,
    publisher: Arc<Publisher>,
    state: Arc<JetstreamState>,
    epoch: Arc<AtomicU32>,
    role: watch::Receiver<Role>,
    lease: Arc<Lease>,
    apart: Vec<Difference>,
    stop: CancellationToken,
    keeper: JoinHandle<()>,
}

/// Connects, sees to the streams, brings this relay's copy of the state up to date as far as a snapshot does, and begins
/// to follow.
pub async fn open(options: OpenOptions) -> Result<JetstreamStore, OpenError> {
    let link = Link::open(&options.servers, Names::new(&options.name)).await?;
    let apart = provision::provide(&link, options.sizes).await?;
    let (replica, log_bytes) = copy_of_state(&link, &options.directory).await?;
    let standing = replica.standing().await?;
    let worker = worker_id(&options.directory)?;
    let (commands, receiver) = mpsc::channel(QUEUE_BATCHES);
    let (role_sender, role) = watch::channel(Role::Waiting { worker: standing.worker.clone() });
    let state = Arc::new(JetstreamState { copy: replica.state(), commands });
    let epoch = Arc::new(AtomicU32::new(rows::epoch(state.as_ref()).await?.0));
    let health = Health::watch(link.clone());
    let run = keeper::random_id()?;
    let publisher = Publisher::start(link.clone(), health, epoch.clone(), run);
    let (lease, stop) = (Arc::new(Lease::default()), CancellationToken::new());
    let keeper = Keeper {
        link: link.clone(),
        standing,
        replica: Arc::new(replica),
        me: Claim { worker, address: options.address, version: env!("CARGO_PKG_VERSION").to_owned() },
        lease: lease.clone(),
        role: role_sender,
        commands: receiver,
        stop: stop.clone(),
        pieces: Pieces::default(),
        log_bytes,
        snapshot: Snapshotting::default(),
    };
    let keeper = tokio::spawn(keeper.run());
    founded(&link, role.clone()).await?;
    Ok(JetstreamStore { link, publisher, state, epoch, role, lease, apart, stop, keeper })
}

/// Waits until there is a log: a journal without one is taken for half of a store.
async fn founded(link: &Link, mut role: watch::Receiver<Role>) -> Result<(), OpenError> {
    let there = role.wait_for(|role| !matches!(role, Role::Waiting { worker: None }));
    if stream_state(link, &link.names.state_stream()).await?.last_sequence > 0 {
        return Ok(());
    }
    match tokio::time::timeout(FOUNDING, there).await {
        Ok(Ok(_)) => Ok(()),
        _ => {
            Err(StoreError::Failed("nobody could begin the state's log: have the streams a leader?".to_owned()).into())
        }
    }
}

/// Where streams that are there stand apart from what the configuration says, and nothing is changed.
pub async fn look(servers: &Servers, name: &str, sizes: Sizes) -> Result<Vec<Difference>, OpenError> {
    let link = Link::open(servers, Names::new(name)).await?;
    provision::look(&link, sizes).await
}

impl JetstreamStore {
    /// Whether this relay works. It begins to as soon as it says so, and the state can be written from then on.
    pub fn role(&self) -> watch::Receiver<Role> {
        self.role.clone()
    }

    /// For how long it may still act as the one who works.
    pub fn lease(&self) -> Arc<Lease> {
        self.lease.clone()
    }

    /// The taking side of the journal, whoever works.
    pub fn publisher(&self) -> Arc<Publisher> {
        self.publisher.clone()
    }

    pub fn state(&self) -> Arc<JetstreamState> {
        self.state.clone()
    }

    /// Where the streams stand apart from what the configuration says, and the promises hold all the same.
    pub fn apart(&self) -> &[Difference] {
        &self.apart
    }

    /// The journal, for as long as this relay works.
    pub async fn journal(&self) -> Result<Arc<JetstreamJournal>, StoreError> {
        let epoch = rows::epoch(self.state.as_ref()).await?;
        self.epoch.store(epoch.0, Ordering::Relaxed);
        JetstreamJournal::open(self.link.clone(), self.publisher.clone(), self.state.clone()).await
    }

    /// Says goodbye, when this relay works, so that another one can begin at once.
    pub async fn close(self) {
        self.stop.cancel();
        // A keeper that panicked has nothing to say goodbye with.
        drop(self.keeper.await);
    }
}

/// This relay's copy of the state, when it can follow the log from where it stands; else one made from the newest snapshot.
/// With the bytes of the log that are behind it at most.
async fn copy_of_state(link: &Link, directory: &Path) -> Result<(Replica, u64), OpenError> {
    let ours = directory.to_owned();
    let replica = blocking(move || Replica::open(&ours)).await??;
    let log = stream_state(link, &link.names.state_stream()).await?;
    let standing = replica.standing().await?;
    let newest = snapshots::newest(link).await?;
    let id = match snapshots::log_at_end(link, log.last_sequence).await? {
        Some(id) => Some(id),
        None => newest.as_ref().map(|(_, manifest)| manifest.standing.log.clone()),
    };
    if log.last_sequence == 0 && newest.is_none() {
        let journal = link.names.journal_stream();
        if stream_state(link, &journal).await?.last_sequence > 0 {
            return Err(OpenError::Half { journal, state: link.names.state_stream() });
        }
    }
    let same_log = standing.log.is_empty() || id.as_ref() == Some(&standing.log);
    let follows = standing.sequence + 1 >= log.first_sequence && standing.sequence <= log.last_sequence;
    if same_log && follows {
        return Ok((replica, log.bytes));
    }
    let Some((_, manifest)) = newest else {
        if log.first_sequence > 1 {
            let cut = "the state's log was cut, and there is no snapshot of what stood before".to_owned();
            return Err(StoreError::Corrupt(cut).into());
        }
        tracing::info!("this relay's copy of the state begins anew");
        return Ok((blocking(move || replica.replace(None)).await??, log.bytes));
    };
    tracing::info!(
        at = manifest.standing.sequence,
        bytes = manifest.bytes,
        "this relay's copy of the state is fetched"
    );
    let file = directory.join("fetched.tmp");
    snapshots::fetch(link, &manifest, &file).await?;
    Ok((blocking(move || replica.replace(Some(&file))).await??, log.bytes))
}

async fn stream_state(link: &Link, stream: &str) -> Result<async_nats::jetstream::stream::State, OpenError> {
    let found = link.context.get_stream(stream).await.map_err(|error| OpenError::asked(stream, error))?;
    Ok(found.cached_info().state.clone())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| StoreError::Failed(format!("opening was broken off: {error}")))
}

/// What this relay calls itself: the same for as long as its directory is there.
fn worker_id(directory: &Path) -> Result<String, OpenError> {
    let path = directory.join("worker");
    match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(OpenError::Io { path, source: error }),
        _ => {}
    }
    let id = keeper::random_id()?;
    fs::write(&path, &id).map_err(|source| OpenError::Io { path, source })?;
    Ok(id)
}
