//! Reading connections: a few per file, lent to blocking tasks. A transaction on one must be short, because the
//! write-ahead log cannot start over while any reader still needs it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::schema;
use crate::store::StoreError;

const READERS: usize = 4;

pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, idle: Mutex::new(Vec::new()), permits: Arc::new(Semaphore::new(READERS)) })
    }

    /// Runs `work` on a connection of its own, on a blocking thread.
    pub(super) async fn run<T, F>(self: &Arc<Self>, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let closed = |_| StoreError::Failed("its readers are closed".to_owned());
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(closed)?;
        let readers = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            let result = readers.on_this_thread(work);
            drop(permit);
            result
        });
        task.await.map_err(|error| StoreError::Failed(format!("a read was broken off: {error}")))?
    }

    pub(super) fn on_this_thread<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut conn = match idle {
            Some(conn) => conn,
            None => schema::open_reader(&self.path).map_err(|error| read_failed(&error))?,
        };
        // A connection whose work failed is closed rather than lent again.
        let result = work(&mut conn)?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
        Ok(result)
    }
}

pub(super) fn read_failed(error: &rusqlite::Error) -> StoreError {
    if schema::is_damage(error) {
        StoreError::Corrupt(error.to_string())
    } else {
        StoreError::Failed(format!("a read failed: {error}"))
    }
}
