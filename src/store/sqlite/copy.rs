//! A state's file by itself, as a copy of what stands elsewhere: for an engine whose truth is a log.
//!
//! It is whole after any crash, and may be found at an earlier commit.

use std::path::Path;
use std::sync::Arc;

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use super::lock::Lock;
use super::poison::Poison;
use super::readers::{Readers, read_failed};
use super::schema::{self, Durability};
use super::state::{self, SqliteState};
use super::state_writer::StateWork;
use super::writer::Writer;
use super::{OpenError, create_directory, create_file, directory_of};
use crate::store::{StoreError, Table};

/// An open copy; its file is closed when the last user of its state is gone.
pub struct SqliteCopy {
    pub state: Arc<SqliteState>,
    poison: Arc<Poison>,
}

impl SqliteCopy {
    /// Why the copy takes nothing in any more, if so.
    pub fn failed(&self) -> Option<StoreError> {
        self.poison.is_set().then(|| self.poison.store_error())
    }
}

/// Opens the copy, making an empty one when there is none. Blocks.
pub fn open_copy(path: &Path) -> Result<SqliteCopy, OpenError> {
    create_directory(&directory_of(path))?;
    let lock = Arc::new(Lock::acquire(path)?);
    create_file(path)?;
    let conn = schema::open_writer(path, &schema::STATE, Durability::Copy)?;
    let poison = Arc::new(Poison::new());
    let work = StateWork { poison: Arc::clone(&poison) };
    let writer = Writer::spawn("state", state::QUEUE_BATCHES, conn, work, Arc::clone(&poison), lock)
        .map_err(|source| OpenError::io(path, source))?;
    let state = Arc::new(SqliteState {
        writer,
        readers: Readers::new(path.to_owned()),
        poison: Arc::clone(&poison),
        queue: state::new_queue(),
    });
    Ok(SqliteCopy { state, poison })
}

/// Copies the state's file `from`, as it is at one moment, to `to`, also while it is written. Blocks.
pub fn copy_file(from: &Path, to: &Path) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| read_failed(&error);
    match std::fs::remove_file(to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(StoreError::Failed(format!("{}: {error}", to.display())));
        }
        _ => {}
    }
    create_file(to).map_err(|error| StoreError::Failed(error.to_string()))?;
    let source = schema::open_reader(from).map_err(failed)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut copy = Connection::open_with_flags(to, flags).map_err(failed)?;
    // All pages in one step: a writer in between would make it begin again.
    Backup::new(&source, &mut copy).and_then(|backup| backup.step(-1)).map_err(failed)?;
    copy.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(())).map_err(failed)
}

/// A row of the copy in `file`, which nobody writes. Blocks.
pub fn row_of_copy(file: &Path, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    let read = || -> rusqlite::Result<Option<Vec<u8>>> {
        let conn = schema::open_reader(file)?;
        let select = format!("SELECT value FROM {} WHERE key = ?1", table.name());
        conn.query_row(&select, [key], |row| row.get(0)).optional()
    };
    read().map_err(|error| read_failed(&error))
}
