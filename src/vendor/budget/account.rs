//! One family's budget while the process runs: its windows, who waits for them, what is kept for whom.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use tokio::sync::{Mutex, MutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::shares::Shares;
use super::window::{CallId, Window};
use crate::vendor::Priority;

#[derive(Debug)]
pub(super) struct Account {
    windows: Mutex<Vec<Window>>,
    /// One queue per [`Priority`]; the holder of a turn is the one of its priority that may ask.
    pub(super) turns: [Mutex<()>; 4],
    pub(super) waiting: [AtomicU32; 4],
    shares: std::sync::Mutex<Shares>,
    /// Calls that may run at once.
    pub(super) running: Option<(Arc<Semaphore>, usize)>,
    /// The vendor has refused a call: nothing before this.
    resting: std::sync::Mutex<Option<Instant>>,
    /// Calls granted so far, which is how windows name them.
    granted: AtomicU64,
    /// Calls that have ended, for the windows to be told.
    ended: Arc<std::sync::Mutex<Vec<(CallId, Instant)>>>,
}

/// A granted claim. Held until the call has ended: it is one of those that may run at once, and a short window is not free
/// of it before.
#[must_use = "the call runs for as long as this lives"]
#[derive(Debug)]
pub struct Slot {
    _running: Option<OwnedSemaphorePermit>,
    call: CallId,
    ended: Arc<std::sync::Mutex<Vec<(CallId, Instant)>>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let ended = (self.call, Instant::now());
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
    }
}

impl Account {
    pub(super) fn new(windows: Vec<Window>, at_once: Option<usize>) -> Self {
        Self {
            windows: Mutex::new(windows),
            turns: Default::default(),
            waiting: Default::default(),
            shares: Default::default(),
            running: at_once.map(|most| (Arc::new(Semaphore::new(most)), most)),
            resting: Default::default(),
            granted: Default::default(),
            ended: Default::default(),
        }
    }

    /// The windows as they are by now.
    pub(super) async fn windows(&self) -> MutexGuard<'_, Vec<Window>> {
        let mut windows = self.windows.lock().await;
        let ended = std::mem::take(&mut *self.ended.lock().unwrap_or_else(PoisonError::into_inner));
        for (call, at) in ended {
            windows.iter_mut().for_each(|window| window.ended(call, at));
        }
        windows
    }

    pub(super) fn slot(&self, running: Option<OwnedSemaphorePermit>) -> (CallId, Slot) {
        let call = CallId(self.granted.fetch_add(1, Ordering::Relaxed));
        (call, Slot { _running: running, call, ended: self.ended.clone() })
    }

    // Neither is ever left half changed: both hold plain values.
    pub(super) fn shares(&self) -> std::sync::MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn resting(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `priority` has not yet had what is kept for it: then nobody goes before it.
    pub(super) fn within_share(&self, windows: &[Window], priority: Priority) -> bool {
        let shares = *self.shares();
        let own = |window: &Window| shares.of(window.limit().amount, priority);
        // Of a window of three calls a second nobody's share is a whole call: it does not count.
        let mut shared = windows.iter().filter(|window| own(window) > 0).peekable();
        shared.peek().is_some() && shared.all(|window| window.used_by(priority) < own(window))
    }

    pub(super) fn someone_before(&self, priority: Priority) -> bool {
        self.waiting[..priority as usize].iter().any(|waiting| waiting.load(Ordering::Acquire) > 0)
    }
}

/// Counts a claim as waiting for as long as it lives, also when its future is dropped.
pub(super) struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    pub(super) fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
