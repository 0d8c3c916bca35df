//! A store in a directory of its own, for tests of what stands on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tempfile::TempDir;

use super::sqlite::{self, OpenOptions, SqliteStore};
use super::{KeyRange, Pair, State, StoreError, Table, WriteBatch};
use crate::clock::SharedClock;

/// Beside the test's binary: the system's temporary directory may be in memory, which a store refuses.
pub fn directory() -> TempDir {
    let binary = std::env::current_exe().unwrap();
    tempfile::tempdir_in(binary.parent().unwrap()).unwrap()
}

pub fn open(directory: &TempDir, clock: SharedClock) -> SqliteStore {
    let path = directory.path().join("m.db");
    sqlite::open(OpenOptions { path, min_free: Some(1), allow_volatile: true, clock }).unwrap()
}

/// A new store's state. The directory goes with what is returned first.
pub fn state() -> (TempDir, Arc<dyn State>) {
    let directory = directory();
    let store = open(&directory, Arc::new(crate::clock::SystemClock));
    (directory, store.state)
}

/// A state whose disk is full for as long as the test says so.
pub struct FillingState {
    pub state: Arc<dyn State>,
    pub full: Arc<AtomicBool>,
}

impl State for FillingState {
    fn get(&self, table: Table, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        self.state.get(table, keys)
    }

    fn scan(&self, table: Table, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>> {
        self.state.scan(table, range, limit)
    }

    fn scan_back(&self, table: Table, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>> {
        self.state.scan_back(table, range, limit)
    }

    fn count(&self, table: Table, range: KeyRange) -> BoxFuture<'_, Result<(u64, u64), StoreError>> {
        self.state.count(table, range)
    }

    fn write(&self, batch: WriteBatch) -> BoxFuture<'_, Result<(), StoreError>> {
        if self.full.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::DiskFull) });
        }
        self.state.write(batch)
    }

    fn scrub(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        self.state.scrub()
    }
}
