//! One failure, told to everybody: after a failed write or sync nobody knows what is on disk, so neither file takes
//! another write and the process has to exit (P1).

use std::sync::OnceLock;

use tokio::sync::watch;

use crate::store::{AppendError, StoreError};

#[derive(Debug)]
pub(super) struct Poison {
    failed: watch::Sender<bool>,
    reason: OnceLock<String>,
}

impl Poison {
    pub(super) fn new() -> Self {
        Self { failed: watch::Sender::new(false), reason: OnceLock::new() }
    }

    /// The first reason is kept; a second failure changes nothing.
    pub(super) fn set(&self, reason: String) {
        if self.reason.set(reason).is_ok() {
            tracing::error!(reason = self.reason(), "the store has failed and takes no more writes");
        }
        self.failed.send_replace(true);
    }

    pub(super) fn is_set(&self) -> bool {
        *self.failed.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<bool> {
        self.failed.subscribe()
    }

    fn reason(&self) -> String {
        self.reason.get().cloned().unwrap_or_else(|| "its writer has stopped".to_owned())
    }

    pub(super) fn append_error(&self) -> AppendError {
        AppendError::Poisoned(self.reason())
    }

    pub(super) fn store_error(&self) -> StoreError {
        StoreError::Failed(self.reason())
    }
}
