//! Looking at a store and copying it, also while a relay runs on it: read-only connections of a process of its own.
//!
//! Both files can be [pinned](Look::pin): from then on they are read as they were at that moment, the state first, so that the
//! state is never ahead of the journal. Pinning keeps the write-ahead logs from starting over, so nothing is pinned for
//! longer than a copy takes; [`Look::blocks`] reads in short steps instead.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::journal::{DamageLog, fetch};
use super::journal_writer::{Counters, read_counters};
use super::schema::{self, FileKind, JOURNAL, STATE};
use super::{Quarantined, create_file, directory_of};
use crate::record::{EntryId, Epoch, PerKind};
use crate::store::{StoreError, Table};

/// Decoded bytes that one step of [`Look::blocks`] reads.
const STEP_BYTES: usize = 16 << 20;
/// Pages that one step of a copy takes.
const STEP_PAGES: i32 = 1024;
/// Complaints of SQLite's own check that are shown.
const COMPLAINTS: u32 = 20;

/// Why a store cannot be looked at or copied.
#[derive(Debug, thiserror::Error)]
pub enum CareError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Sqlite { path: PathBuf, source: rusqlite::Error },
    #[error("{} is not such a file of a store of Mixrelay", .0.display())]
    Foreign(PathBuf),
    #[error("{} has schema {found}, and this version works with {known}: start the relay once, or use the version that wrote it", path.display())]
    Schema { path: PathBuf, found: i32, known: usize },
    #[error("the files belong to different stores: they are not from the same backup")]
    Mismatch,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{} is there already; name a directory that is not", .0.display())]
    Exists(PathBuf),
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// What the journal's ledger says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ledger {
    pub epoch: Epoch,
    /// The number that the next entry will get.
    pub next: EntryId,
    /// The oldest entry held; `None` when there is none.
    pub first: Option<EntryId>,
    /// Records in the entries held.
    pub records: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Since the store was created.
    pub accepted: PerKind,
}

/// One of the files, as it stands on the disk.
#[derive(Clone, Debug)]
pub struct FileSize {
    pub path: PathBuf,
    pub bytes: u64,
    /// Of its write-ahead log.
    pub log_bytes: u64,
    /// Of pages that are free to be used again.
    pub free_bytes: u64,
}

/// One step of reading every block.
#[derive(Debug, Default)]
pub struct Step {
    /// Where the next step goes on; `None` at the end.
    pub next: Option<EntryId>,
    pub entries: u64,
    pub records: u64,
    pub damaged: Vec<Quarantined>,
}

struct Half {
    path: PathBuf,
    conn: Connection,
}

impl Half {
    fn open(path: PathBuf, kind: &FileKind) -> Result<Self, CareError> {
        let failed = |source| CareError::Sqlite { path: path.clone(), source };
        let conn = schema::open_reader(&path).map_err(failed)?;
        let (application, version) = schema::identity(&conn).map_err(failed)?;
        if application != kind.application_id() {
            return Err(CareError::Foreign(path));
        }
        let known = kind.known();
        if usize::try_from(version) != Ok(known) {
            return Err(CareError::Schema { path, found: version, known });
        }
        Ok(Self { path, conn })
    }

    fn failed(&self, source: rusqlite::Error) -> CareError {
        CareError::Sqlite { path: self.path.clone(), source }
    }

    fn size(&self) -> Result<FileSize, CareError> {
        let len = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        let pragma = |name| self.conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let free = pragma("freelist_count").and_then(|pages| Ok(pages * pragma("page_size")?));
        Ok(FileSize {
            path: self.path.clone(),
            bytes: len(&self.path),
            log_bytes: len(&super::lock::beside(&self.path, "-wal")),
            free_bytes: free.map_err(|error| self.failed(error))?.unsigned_abs(),
        })
    }

    /// What SQLite finds wrong with the file; empty when nothing.
    fn complaints(&self) -> Result<Vec<String>, CareError> {
        let run = || -> rusqlite::Result<Vec<String>> {
            let mut check = self.conn.prepare(&format!("PRAGMA integrity_check({COMPLAINTS})"))?;
            check.query_map([], |row| row.get(0))?.collect()
        };
        match run() {
            Ok(said) => Ok(said.into_iter().filter(|line| line != "ok").collect()),
            Err(error) if schema::is_damage(&error) => Ok(vec![error.to_string()]),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Copies the file page by page. With the connection pinned, it is copied as it was then.
    fn copy(&self, to: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Connection, CareError> {
        create_file(to).map_err(|error| CareError::Io { path: to.to_owned(), source: io::Error::other(error) })?;
        let failed = |source| CareError::Sqlite { path: to.to_owned(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut copy = Connection::open_with_flags(to, flags).map_err(failed)?;
        let backup = Backup::new(&self.conn, &mut copy).map_err(failed)?;
        while let StepResult::More = backup.step(STEP_PAGES).map_err(failed)? {
            let done = backup.progress();
            let (all, left) = (done.pagecount.unsigned_abs(), done.remaining.unsigned_abs());
            progress(u64::from(all - left.min(all)), u64::from(all));
        }
        drop(backup);
        // One file that stands alone; the relay takes up its own way of logging when it opens it.
        copy.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(())).map_err(failed)?;
        Ok(copy)
    }
}

/// Both files of a store, for reading.
pub struct Look {
    journal: Half,
    state: Half,
}

impl Look {
    /// `path` is the journal's, as for [`super::open`].
    pub fn open(path: &Path) -> Result<Self, CareError> {
        let journal = Half::open(path.to_owned(), &JOURNAL)?;
        let state = Half::open(path.with_extension("state.db"), &STATE)?;
        let id = |half: &Half| schema::store_id(&half.conn).map_err(|error| half.failed(error));
        if id(&journal)? != id(&state)? {
            return Err(CareError::Mismatch);
        }
        Ok(Self { journal, state })
    }

    /// Reads both files as they are now, until [`Look::release`]. Pinning again pins a newer moment.
    pub fn pin(&mut self) -> Result<(), CareError> {
        self.release();
        for half in [&self.state, &self.journal] {
            // A transaction begins with the first read.
            let begun = half.conn.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema;");
            begun.map_err(|error| half.failed(error))?;
        }
        Ok(())
    }

    pub fn release(&mut self) {
        for half in [&self.state, &self.journal] {
            if !half.conn.is_autocommit() {
                // Nothing was written that a rollback could lose.
                drop(half.conn.execute_batch("ROLLBACK"));
            }
        }
    }

    pub fn sizes(&self) -> Result<[FileSize; 2], CareError> {
        Ok([self.journal.size()?, self.state.size()?])
    }

    pub fn ledger(&self) -> Result<Ledger, CareError> {
        const FIRST: &str = "SELECT id, records_before, bytes_before FROM entries ORDER BY id LIMIT 1";
        let conn = &self.journal.conn;
        let read = || -> rusqlite::Result<(Counters, Option<[i64; 3]>)> {
            let first = conn.query_row(FIRST, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]));
            Ok((read_counters(conn)?, first.optional()?))
        };
        let (counters, first) = read().map_err(|error| self.journal.failed(error))?;
        let [id, records, bytes] = first.unwrap_or_default().map(i64::cast_unsigned);
        let held = |all: u64, before: u64| if first.is_some() { all.saturating_sub(before) } else { 0 };
        Ok(Ledger {
            epoch: counters.epoch,
            next: counters.next_entry,
            first: first.map(|_| EntryId(id)),
            records: held(counters.accepted.total(), records),
            bytes: held(counters.bytes, bytes),
            accepted: counters.accepted,
        })
    }

    /// Records in entries at or after `from`.
    pub fn records_from(&self, from: EntryId) -> Result<u64, CareError> {
        const COUNT: &str = "SELECT coalesce(sum(records), 0) FROM entries WHERE id >= ?1";
        let count = self.journal.conn.query_row(COUNT, [from.0.cast_signed()], |row| row.get::<_, i64>(0));
        count.map(i64::cast_unsigned).map_err(|error| self.journal.failed(error))
    }

    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, CareError> {
        let query = format!("SELECT value FROM {} WHERE key = ?1", table.name());
        let found = self.state.conn.query_row(&query, [key], |row| row.get(0)).optional();
        found.map_err(|error| self.state.failed(error))
    }

    /// How many rows a table has.
    pub fn rows(&self, table: Table) -> Result<u64, CareError> {
        let query = format!("SELECT count(*) FROM {}", table.name());
        let count = self.state.conn.query_row(&query, [], |row| row.get::<_, i64>(0));
        count.map(i64::cast_unsigned).map_err(|error| self.state.failed(error))
    }

    /// What SQLite itself finds wrong with either file, with the file's path.
    pub fn complaints(&self) -> Result<Vec<(PathBuf, String)>, CareError> {
        let mut all = Vec::new();
        for half in [&self.journal, &self.state] {
            all.extend(half.complaints()?.into_iter().map(|said| (half.path.clone(), said)));
        }
        Ok(all)
    }

    /// Reads a step's worth of blocks from `from` on: checksum, layout, and as many records as the ledger says.
    pub fn blocks(&mut self, from: EntryId) -> Result<Step, CareError> {
        let stored = fetch(&mut self.journal.conn, from, STEP_BYTES)?;
        let (damage, mut step) = (DamageLog::default(), Step::default());
        for entry in stored.into_iter().map(|stored| stored.decode(&damage)) {
            step.next = Some(entry.id.next());
            step.entries += 1;
            step.records += entry.records.len() as u64;
            if entry.lost > 0 {
                step.damaged.push(Quarantined { entry: entry.id, records: entry.lost });
            }
        }
        Ok(step)
    }

    /// Entries whose number, or whose running total, does not follow from the one before.
    pub fn broken_ledger(&self) -> Result<Vec<EntryId>, CareError> {
        const BROKEN: &str = "SELECT id FROM (SELECT id, records_before, bytes_before,
                lag(id + 1) OVER past AS due, lag(records_before + records) OVER past AS records_due,
                lag(bytes_before + bytes) OVER past AS bytes_due
            FROM entries WINDOW past AS (ORDER BY id))
            WHERE due IS NOT NULL AND (id, records_before, bytes_before) IS NOT (due, records_due, bytes_due) LIMIT ?1";
        let read = || -> rusqlite::Result<Vec<EntryId>> {
            let mut broken = self.journal.conn.prepare(BROKEN)?;
            broken.query_map(params![COMPLAINTS], |row| Ok(EntryId(row.get::<_, i64>(0)?.cast_unsigned())))?.collect()
        };
        read().map_err(|error| self.journal.failed(error))
    }

    /// Copies both files, as they were pinned, into the new directory `to`, with `rows` added to the copy's
    /// [`Table::Meta`]. The directory is there with everything in it, or not at all.
    pub fn copy_to(&self, to: &Path, rows: &[Row], progress: &mut dyn FnMut(u64, u64)) -> Result<(), CareError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| CareError::Io { path, source }
        };
        if to.exists() {
            return Err(CareError::Exists(to.to_owned()));
        }
        let parent = directory_of(to);
        let unfinished =
            tempfile::Builder::new().prefix(".mixrelay-backup-").tempdir_in(&parent).map_err(io(&parent))?;
        let name = |half: &Half| half.path.file_name().map(|name| unfinished.path().join(name));
        let (Some(journal), Some(state)) = (name(&self.journal), name(&self.state)) else {
            return Err(CareError::Foreign(self.journal.path.clone()));
        };
        self.journal.copy(&journal, progress)?;
        let mut copy = self.state.copy(&state, progress)?;
        let failed = |source| CareError::Sqlite { path: state.clone(), source };
        let tx = copy.transaction().map_err(failed)?;
        for (key, value) in rows {
            let put = format!("INSERT OR REPLACE INTO {} (key, value) VALUES (?1, ?2)", Table::Meta.name());
            tx.execute(&put, params![key, value]).map_err(failed)?;
        }
        tx.commit().map_err(failed)?;
        drop(copy);
        for path in [&journal, &state] {
            File::open(path).and_then(|file| file.sync_all()).map_err(io(path))?;
        }
        File::open(unfinished.path()).and_then(|dir| dir.sync_all()).map_err(io(to))?;
        fs::rename(unfinished.path(), to).map_err(io(to))?;
        File::open(&parent).and_then(|dir| dir.sync_all()).map_err(io(&parent))
    }
}
