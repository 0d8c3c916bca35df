//! A store in a directory of its own, for tests of what stands on it.

use std::sync::Arc;

use tempfile::TempDir;

use super::State;
use super::sqlite::{self, OpenOptions, SqliteStore};
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
