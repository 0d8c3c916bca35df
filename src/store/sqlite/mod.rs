//! The embedded engine: SQLite, in two files with one writer each (CORE 2).
//!
//! ```text
//! append ──encode──► queue ──► journal writer ──one transaction per group, synced──► mixrelay.db
//! write  ──────────► queue ──► state writer   ──one transaction per group, synced──► mixrelay.state.db
//! read, get, scan ─► a few reading connections, short transactions, on blocking threads
//! ```
//!
//! * `mixrelay.db` holds the journal: `entries` is the ledger, `blocks` the records (`super::block`), `counters` what outlives
//!   them. Entry numbers come from `counters` in the same transaction, never from a row id.
//! * `mixrelay.state.db` holds one key-value table per [`crate::store::Table`].
//! * `mixrelay.db.lock` is locked for as long as either writer lives.
//!
//! Crash order: a commit is one WAL transaction, so each file is at a commit's boundary after any crash. The state is
//! written only from what the journal returned, and the journal returns only what is synced, so it is never behind.
//! A failed write or sync poisons both files ([`SqliteStore::failed`]); the process must exit, and opening again
//! establishes what is there.

pub mod care;
mod copy;
mod journal;
mod journal_writer;
mod lock;
mod poison;
mod readers;
mod recent;
mod recovery;
mod schema;
mod state;
mod state_writer;
#[cfg(test)]
mod tests;
mod upkeep;
mod volatile;
mod watermark;
mod writer;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::watch;

use crate::clock::SharedClock;
use crate::record::{EntryId, Epoch};
use crate::store::StoreError;
use crate::store::block::Sealer;

use journal_writer::{JournalWork, Progress};
use lock::Lock;
use poison::Poison;
use readers::Readers;
use recent::Recent;
use state_writer::StateWork;
use watermark::Watermark;
use writer::Writer;

pub use copy::{SqliteCopy, copy_file, open_copy, row_of_copy};
pub use journal::SqliteJournal;
pub use state::SqliteState;

/// Commands besides appends that may be under way at once: one step of trimming, an epoch.
const CONTROL_COMMANDS: usize = 16;

pub struct OpenOptions {
    /// The journal's file. The state's stands beside it: `mixrelay.db` and `mixrelay.state.db`.
    pub path: PathBuf,
    /// Free bytes below which appends are refused; `None`: the larger of 64 MiB and 5 % of the file system.
    pub min_free: Option<u64>,
    /// Accept overlay, memory and network file systems.
    pub allow_volatile: bool,
    /// Times the recovery.
    pub clock: SharedClock,
}

pub struct SqliteStore {
    pub journal: Arc<SqliteJournal>,
    pub state: Arc<SqliteState>,
    pub recovery: RecoveryReport,
    poison: Arc<Poison>,
}

impl SqliteStore {
    /// Becomes true when a write or sync of either file has failed: the process must exit then (P1).
    pub fn failed(&self) -> watch::Receiver<bool> {
        self.poison.subscribe()
    }
}

/// What opening found.
#[derive(Clone, Debug)]
pub struct RecoveryReport {
    pub epoch: Epoch,
    pub entries: u64,
    pub records: u64,
    /// The oldest entry held; `None` when the journal is empty.
    pub first: Option<EntryId>,
    /// The number that the next entry will get.
    pub tip: EntryId,
    /// Length of the journal's write-ahead log that a process which did not end by itself left behind.
    pub log_bytes: u64,
    /// Damaged entries among the newest, which are all that opening verifies: the time it takes must not grow with the
    /// backlog. Older damage is found, reported and counted when it is read.
    pub quarantined: Vec<Quarantined>,
    pub took: Duration,
}

/// An entry that cannot be read any more. [`crate::store::Journal::read`] returns it empty, with what it `lost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quarantined {
    pub entry: EntryId,
    pub records: u32,
}

/// Why a store cannot be opened. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{} is not the path of a file; `store` wants sqlite:DIRECTORY/FILE", path.display())]
    NoFileName { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{} is on a file system of type {file_system}, which does not keep a store: use a volume on a local disk, or set \
         `allow_volatile_store: true` to accept the loss of records",
        path.display()
    )]
    Volatile { path: PathBuf, file_system: &'static str },
    #[error("{} is in use by another process: one relay at a time can run on a store", path.display())]
    Locked { path: PathBuf },
    #[error("{} is a SQLite database, but not a store of Mixrelay: choose another path", path.display())]
    Foreign { path: PathBuf },
    #[error(
        "{} was written by a newer Mixrelay (schema {found}, this one knows {known}): run that version or a newer one",
        path.display()
    )]
    NewerSchema { path: PathBuf, found: i32, known: usize },
    #[error(
        "{} is missing beside {}: restore both files from the same backup, or move both away to begin anew",
        missing.display(),
        present.display()
    )]
    Half { missing: PathBuf, present: PathBuf },
    #[error(
        "{} and {} belong to different stores: restore both files from the same backup",
        journal.display(),
        state.display()
    )]
    Mismatch { journal: PathBuf, state: PathBuf },
    #[error(
        "{} is damaged and cannot be opened ({source}): copy both files of the store, then restore a backup or rescue what \
         `sqlite3 FILE .recover` still finds",
        path.display()
    )]
    Damaged { path: PathBuf, source: rusqlite::Error },
    #[error(
        "the journal's ledger in {} cannot be read ({source}): copy both files of the store, then restore a backup or \
         rescue what `sqlite3 FILE .recover` still finds",
        path.display()
    )]
    Ledger { path: PathBuf, source: StoreError },
    #[error("{} cannot be opened, for its disk is full ({source}): make room, and start again", path.display())]
    Full { path: PathBuf, source: rusqlite::Error },
    #[error("{} cannot be opened: {source}", path.display())]
    Sqlite { path: PathBuf, source: rusqlite::Error },
}

impl OpenError {
    fn from_sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        if schema::is_damage(&source) {
            OpenError::Damaged { path, source }
        } else if upkeep::found_no_room(&source) {
            OpenError::Full { path, source }
        } else {
            OpenError::Sqlite { path, source }
        }
    }

    fn io(path: &Path, source: io::Error) -> Self {
        OpenError::Io { path: path.to_owned(), source }
    }
}

/// Opens the store, making it when there is none. Blocks; takes no longer with a big backlog.
pub fn open(options: OpenOptions) -> Result<SqliteStore, OpenError> {
    let started = options.clock.now();
    let journal_path = options.path;
    if journal_path.file_name().is_none() {
        return Err(OpenError::NoFileName { path: journal_path });
    }
    let state_path = journal_path.with_extension("state.db");
    let directory = directory_of(&journal_path);
    create_directory(&directory)?;
    if !options.allow_volatile {
        refuse_volatile(&directory)?;
    }
    let lock = Arc::new(Lock::acquire(&journal_path)?);
    let log_bytes = log_bytes(&journal_path);
    let (journal_conn, state_conn) = open_files(&journal_path, &state_path)?;
    sync_directory(&directory)?;

    let poison = Arc::new(Poison::new());
    let watermark = Arc::new(Watermark::of_directory(&directory, options.min_free));
    let damage = Arc::new(journal::DamageLog::default());
    let counters =
        journal_writer::read_counters(&journal_conn).map_err(|e| OpenError::from_sqlite(&journal_path, e))?;
    let progress = Progress::new(counters);

    let journal_readers = Readers::new(journal_path.clone());
    let mut recovery = recovery::verify(&journal_readers, &journal_path, counters, &damage)?;
    recovery.log_bytes = log_bytes;

    let recent = Arc::new(Recent::default());
    let work = JournalWork {
        progress: Arc::clone(&progress),
        watermark: Arc::clone(&watermark),
        sealer: Sealer::default(),
        poison: Arc::clone(&poison),
        recent: Arc::clone(&recent),
    };
    let queue = journal::QUEUE_REQUESTS + CONTROL_COMMANDS;
    let journal_writer = Writer::spawn("journal", queue, journal_conn, work, Arc::clone(&poison), Arc::clone(&lock))
        .map_err(|source| OpenError::io(&journal_path, source))?;
    let state_writer = Writer::spawn(
        "state",
        state::QUEUE_BATCHES,
        state_conn,
        StateWork { poison: Arc::clone(&poison) },
        Arc::clone(&poison),
        lock,
    )
    .map_err(|source| OpenError::io(&state_path, source))?;

    recovery.took = options.clock.now().since(started);
    Ok(SqliteStore {
        journal: Arc::new(SqliteJournal {
            writer: journal_writer,
            readers: journal_readers,
            progress,
            watermark,
            poison: Arc::clone(&poison),
            queue: journal::new_queue(),
            trimming: tokio::sync::Mutex::new(()),
            damage,
            recent,
        }),
        state: Arc::new(SqliteState {
            writer: state_writer,
            readers: Readers::new(state_path),
            poison: Arc::clone(&poison),
            queue: state::new_queue(),
        }),
        recovery,
        poison,
    })
}

/// Opens or makes both files, and sees to it that they belong together.
fn open_files(journal_path: &Path, state_path: &Path) -> Result<(Connection, Connection), OpenError> {
    if state_path.exists() && !journal_path.exists() {
        return Err(OpenError::Half { missing: journal_path.to_owned(), present: state_path.to_owned() });
    }
    // Made in this order, so that a crash between the two leaves an unused journal alone, which is taken up below.
    let state_was_there = state_path.exists();
    create_file(journal_path)?;
    let journal = open_writer(journal_path, &schema::JOURNAL)?;
    let journal_failed = |error| OpenError::from_sqlite(journal_path, error);
    let id = match schema::store_id(&journal).map_err(journal_failed)? {
        Some(id) => id,
        None => {
            let id = new_store_id().map_err(|source| OpenError::io(journal_path, source))?;
            schema::set_store_id(&journal, &id).map_err(journal_failed)?;
            id
        }
    };
    let used = journal_writer::read_counters(&journal).map_err(journal_failed)?.next_entry > EntryId::FIRST;
    if used && !state_was_there {
        return Err(OpenError::Half { missing: state_path.to_owned(), present: journal_path.to_owned() });
    }
    create_file(state_path)?;
    let state = open_writer(state_path, &schema::STATE)?;
    let state_failed = |error| OpenError::from_sqlite(state_path, error);
    match schema::store_id(&state).map_err(state_failed)? {
        Some(found) if found == id => {}
        None if !used => schema::set_store_id(&state, &id).map_err(state_failed)?,
        _ => {
            return Err(OpenError::Mismatch { journal: journal_path.to_owned(), state: state_path.to_owned() });
        }
    }
    Ok((journal, state))
}

/// Opens one of the two, and makes safe what stands in its log.
///
/// A process that was killed may have left commits there that it had not synced, and one whose sync has failed has left
/// pages that the kernel calls clean and the disk does not hold, so that no later sync of the log writes them. Whoever
/// acted on such commits, or appended behind them, would lose it all in a power loss. They are copied into the file, which
/// writes them anew, and the log begins again.
fn open_writer(path: &Path, kind: &schema::FileKind) -> Result<Connection, OpenError> {
    let left_behind = log_bytes(path) > 0;
    let conn = schema::open_writer(path, kind, schema::Durability::Synced)?;
    if left_behind && !upkeep::scrub(&conn).map_err(|error| OpenError::from_sqlite(path, error))? {
        tracing::warn!(
            path = %path.display(),
            "the write-ahead log of a process that did not end by itself stays in use: the disk is full, or someone reads the file"
        );
    }
    Ok(conn)
}

/// Length of the file's write-ahead log.
fn log_bytes(path: &Path) -> u64 {
    fs::metadata(lock::beside(path, "-wal")).map_or(0, |log| log.len())
}

fn new_store_id() -> io::Result<String> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    Ok(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Makes `directory` and its missing parents. A new name is only safe once the directory that holds it is synced.
fn create_directory(directory: &Path) -> Result<(), OpenError> {
    let failed = |source| OpenError::io(directory, source);
    let missing: Vec<&Path> = directory
        .ancestors()
        .filter(|ancestor| !ancestor.as_os_str().is_empty())
        .take_while(|ancestor| !ancestor.exists())
        .collect();
    for ancestor in missing.into_iter().rev() {
        fs::DirBuilder::new().mode(0o750).create(ancestor).map_err(failed)?;
        sync_directory(&directory_of(ancestor))?;
    }
    Ok(())
}

/// Makes an empty file that only its owner can read: it will hold personal data. SQLite gives its log the same mode.
fn create_file(path: &Path) -> Result<(), OpenError> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => sync_directory(&directory_of(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(OpenError::io(path, source)),
    }
}

fn sync_directory(directory: &Path) -> Result<(), OpenError> {
    File::open(directory).and_then(|handle| handle.sync_all()).map_err(|source| OpenError::io(directory, source))
}

fn refuse_volatile(directory: &Path) -> Result<(), OpenError> {
    match volatile::volatile_file_system(directory) {
        Ok(None) => Ok(()),
        Ok(Some(file_system)) => Err(OpenError::Volatile { path: directory.to_owned(), file_system }),
        Err(source) => Err(OpenError::io(directory, source)),
    }
}
