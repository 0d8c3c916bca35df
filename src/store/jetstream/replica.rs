//! The copy of the state that this relay reads: a SQLite file, filled from the log.
//!
//! How far it has come is written in the same transaction as what it has taken in, so it is at the boundary of a batch after
//! any crash, if not at the newest: the log has the rest. It is nobody's only copy.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::log::Claim;
use crate::store::sqlite::{self, SqliteCopy, SqliteState};
use crate::store::{State, StoreError, Table, WriteBatch};

const FILE: &str = "replica.state.db";
/// The row that says where the copy stands.
const STANDING: &[u8] = b"jetstream/standing";

/// Where in which log a copy stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Of the log; empty before its first claim.
    pub log: String,
    /// The newest message of the log that the copy knows of.
    pub sequence: u64,
    pub term: u64,
    /// Who works, as far as it knows; none when it said goodbye.
    pub worker: Option<Claim>,
}

pub(super) struct Replica {
    directory: PathBuf,
    copy: SqliteCopy,
}

impl Replica {
    /// Opens the copy in `directory`, or begins an empty one. Blocks.
    pub(super) fn open(directory: &Path) -> Result<Self, sqlite::OpenError> {
        let copy = sqlite::open_copy(&directory.join(FILE))?;
        Ok(Self { directory: directory.to_owned(), copy })
    }

    /// Puts `file`, a copy of a copy, in the place of the present one. Blocks.
    pub(super) fn replace(self, file: Option<&Path>) -> Result<Self, sqlite::OpenError> {
        let Self { directory, copy } = self;
        // Its writer ends, and has closed the file.
        drop(copy);
        let path = directory.join(FILE);
        let failed = |source: io::Error| sqlite::OpenError::Io { path: path.clone(), source };
        for suffix in ["", "-wal", "-shm"] {
            match fs::remove_file(directory.join(format!("{FILE}{suffix}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        if let Some(file) = file {
            fs::rename(file, &path).map_err(failed)?;
        }
        Self::open(&directory)
    }

    pub(super) fn state(&self) -> Arc<SqliteState> {
        self.copy.state.clone()
    }

    pub(super) async fn standing(&self) -> Result<Standing, StoreError> {
        let found = self.copy.state.get(Table::Meta, vec![STANDING.to_vec()]).await?;
        let Some(row) = found.into_iter().flatten().next() else { return Ok(Standing::default()) };
        serde_json::from_slice(&row).map_err(|error| StoreError::Corrupt(format!("where the copy stands: {error}")))
    }

    /// Takes in `batch`, and that it stands there now.
    pub(super) async fn apply(&self, mut batch: WriteBatch, standing: &Standing) -> Result<(), StoreError> {
        let row = serde_json::to_vec(standing).map_err(|error| StoreError::Failed(error.to_string()))?;
        batch.put(Table::Meta, STANDING, Bytes::from(row));
        self.copy.state.write(batch).await
    }

    /// Empties the copy's own log of what was deleted.
    pub(super) async fn scrub(&self) -> Result<bool, StoreError> {
        self.copy.state.scrub().await
    }

    /// Bytes of its file.
    pub(super) fn size(&self) -> u64 {
        fs::metadata(self.directory.join(FILE)).map_or(0, |file| file.len())
    }

    /// A copy of the file at one moment, beside it.
    pub(super) async fn snapshot(&self) -> Result<PathBuf, StoreError> {
        let to = self.directory.join("snapshot.tmp");
        let (from, target) = (self.directory.join(FILE), to.clone());
        let copying = tokio::task::spawn_blocking(move || sqlite::copy_file(&from, &target));
        copying.await.map_err(|error| StoreError::Failed(format!("a copy was broken off: {error}")))??;
        Ok(to)
    }
}

/// Where the copy in `file`, which nobody writes, stands. Blocks.
pub(super) fn standing_in(file: &Path) -> Result<Standing, StoreError> {
    match sqlite::row_of_copy(file, Table::Meta, STANDING)? {
        Some(row) => serde_json::from_slice(&row)
            .map_err(|error| StoreError::Corrupt(format!("where a snapshot stands: {error}"))),
        None => Ok(Standing::default()),
    }
}
