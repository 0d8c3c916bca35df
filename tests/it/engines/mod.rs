//! What both engines of the store promise, tried on both; and what JetStream promises besides.

mod conformance;
mod servers;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mixrelay::clock::{SystemClock, UnixMillis};
use mixrelay::record::{Destinations, EntryId, Kind, Origin, Project, Record};
use mixrelay::store::jetstream::{self, JetstreamStore, Role, Servers, Sizes};
use mixrelay::store::sqlite::{self, SqliteStore};
use mixrelay::store::{Entry, Journal, State, Table, WriteBatch};

use crate::harness::nats::Nats;
use crate::harness::{PATIENCE, eventually};

pub const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
/// Nobody claims later than this, on a machine that is busy.
const CLAIM: Duration = Duration::from_secs(60);

/// An engine that can be closed and opened again on what it kept.
pub enum Engine {
    Sqlite { directory: tempfile::TempDir, store: Option<SqliteStore> },
    Jetstream { nats: Nats, store: Option<Box<JetstreamStore>> },
}

/// What the relay sees of it.
#[derive(Clone)]
pub struct Open {
    pub journal: Arc<dyn Journal>,
    pub state: Arc<dyn State>,
}

impl Engine {
    pub fn sqlite() -> Self {
        let binary = std::env::current_exe().unwrap();
        Engine::Sqlite { directory: tempfile::tempdir_in(binary.parent().unwrap()).unwrap(), store: None }
    }

    pub async fn jetstream() -> Self {
        Engine::Jetstream { nats: Nats::start().await, store: None }
    }

    pub async fn open(&mut self) -> Open {
        match self {
            Engine::Sqlite { directory, store } => {
                let path = directory.path().join("m.db");
                let clock = Arc::new(SystemClock);
                let options = sqlite::OpenOptions { path, min_free: Some(1), allow_volatile: true, clock };
                let opened = store.insert(sqlite::open(options).unwrap());
                Open { journal: opened.journal.clone(), state: opened.state.clone() }
            }
            Engine::Jetstream { nats, store } => {
                let directory = nats.directory().join("relay");
                // Tasks of the one before may still hold its copy of the state for a moment.
                let opened = eventually(PATIENCE, async || {
                    try_open_jetstream(nats, &directory, 1).await.map_err(|error| error.to_string())
                });
                work(store.insert(Box::new(opened.await))).await
            }
        }
    }

    /// Closes it in good order and opens it on what it kept.
    pub async fn open_again(&mut self, open: Open) -> Open {
        drop(open);
        self.close().await;
        self.open().await
    }

    /// In good order. Whoever still has what [`Self::open`] gave must not use it.
    pub async fn close(&mut self) {
        match self {
            Engine::Sqlite { store, .. } => drop(store.take()),
            Engine::Jetstream { store, .. } => {
                if let Some(store) = store.take() {
                    store.close().await;
                }
            }
        }
    }
}

pub async fn open_jetstream(nats: &Nats, directory: &Path, replicas: usize) -> JetstreamStore {
    try_open_jetstream(nats, directory, replicas).await.unwrap()
}

pub async fn try_open_jetstream(
    nats: &Nats,
    directory: &Path,
    replicas: usize,
) -> Result<JetstreamStore, jetstream::OpenError> {
    let options = jetstream::OpenOptions {
        servers: Servers { addresses: nats.addresses(), ..Servers::default() },
        name: "relay".to_owned(),
        sizes: Sizes { replicas, journal_bytes: None },
        directory: directory.to_owned(),
        address: None,
    };
    jetstream::open(options).await
}

/// Waits until this relay works, and takes up the journal.
pub async fn work(store: &JetstreamStore) -> Open {
    let mut role = store.role();
    let working = role.wait_for(|role| matches!(role, Role::Working { .. }));
    tokio::time::timeout(CLAIM, working).await.expect("claimed in time").unwrap();
    Open { journal: store.journal().await.unwrap(), state: store.state() }
}

pub fn event(body: impl Into<Bytes>) -> Record {
    Record {
        kind: Kind::Event,
        origin: Origin::App,
        destinations: Destinations::ALL,
        project: Project::Ours,
        received_at: NOW,
        body: body.into(),
    }
}

pub fn profile(body: impl Into<Bytes>) -> Record {
    Record { kind: Kind::Profile, ..event(body) }
}

pub fn put(table: Table, key: &str, value: &'static str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(table, key, value);
    batch
}

pub async fn read_all(journal: &dyn Journal) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    let mut from = EntryId::FIRST;
    loop {
        let entries = journal.read(from, 1 << 20).await.unwrap();
        let Some(last) = entries.last() else { return all };
        from = last.id.next();
        all.extend(entries);
    }
}

/// Text that does not compress.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(..)).collect()
}
