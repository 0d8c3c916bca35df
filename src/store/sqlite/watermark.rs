//! The disk watermark: appends are refused before the disk is full, so that trimming, checkpoints and the legs' state
//! still have room to work in, and are let in again when there is space.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::store::AppendError;

/// Free space is asked for at most this often while little is appended,
const EVERY: Duration = Duration::from_millis(200);
/// and again after this many bytes, so that a fast writer cannot run through the reserve unseen.
const EVERY_BYTES: u64 = 16 << 20;
const MIN_RESERVE: u64 = 64 << 20;

#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    pub free: u64,
    pub total: u64,
}

type Probe = Box<dyn Fn() -> io::Result<Space> + Send + Sync>;

pub(super) struct Watermark {
    probe: Probe,
    min_free: Option<u64>,
    next_look: Mutex<Option<Instant>>,
    appended: AtomicU64,
    low: AtomicBool,
    free: AtomicU64,
    reserve: AtomicU64,
}

impl Watermark {
    pub(super) fn of_directory(directory: &Path, min_free: Option<u64>) -> Self {
        let directory: PathBuf = directory.to_owned();
        Self::new(min_free, Box::new(move || space(&directory)))
    }

    pub(super) fn new(min_free: Option<u64>, probe: Probe) -> Self {
        Self {
            probe,
            min_free,
            next_look: Mutex::new(None),
            appended: AtomicU64::new(0),
            low: AtomicBool::new(false),
            free: AtomicU64::new(u64::MAX),
            reserve: AtomicU64::new(min_free.unwrap_or(MIN_RESERVE)),
        }
    }

    /// Whether an append may go on, by what was seen last; looks again when that is old.
    pub(super) fn check(&self) -> Result<(), AppendError> {
        self.check_at(Instant::now())
    }

    pub(super) fn check_at(&self, now: Instant) -> Result<(), AppendError> {
        // Whoever finds the lock taken goes by the last look: one task asking the file system is enough.
        if let Ok(mut next) = self.next_look.try_lock() {
            let due = next.is_none_or(|next| next <= now) || self.appended.load(Ordering::Relaxed) >= EVERY_BYTES;
            if due {
                *next = Some(now + EVERY);
                self.look();
            }
        }
        if self.low.load(Ordering::Relaxed) { Err(self.refusal()) } else { Ok(()) }
    }

    /// Bytes between the free space and the reserve.
    pub(super) fn room(&self) -> u64 {
        drop(self.check()); // only for its look: what it refuses is no matter here
        self.free.load(Ordering::Relaxed).saturating_sub(self.reserve.load(Ordering::Relaxed))
    }

    /// Tells how much the journal has grown since.
    pub(super) fn grew(&self, bytes: u64) {
        self.appended.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A write found the disk full: refuse until the next look.
    pub(super) fn found_full(&self) -> AppendError {
        self.low.store(true, Ordering::Relaxed);
        self.free.store(0, Ordering::Relaxed);
        self.refusal()
    }

    fn refusal(&self) -> AppendError {
        AppendError::DiskFull {
            free: self.free.load(Ordering::Relaxed),
            watermark: self.reserve.load(Ordering::Relaxed),
        }
    }

    fn look(&self) {
        self.appended.store(0, Ordering::Relaxed);
        match (self.probe)() {
            Ok(space) => {
                let reserve = self.min_free.unwrap_or_else(|| MIN_RESERVE.max(space.total / 20));
                let low = space.free < reserve;
                self.free.store(space.free, Ordering::Relaxed);
                self.reserve.store(reserve, Ordering::Relaxed);
                if self.low.swap(low, Ordering::Relaxed) != low {
                    if low {
                        tracing::error!(free = space.free, reserve, "the disk is nearly full: appends are refused");
                    } else {
                        tracing::info!(free = space.free, reserve, "there is space again: appends are accepted");
                    }
                }
            }
            // The write itself will tell if the file system is in trouble.
            Err(error) => tracing::warn!(%error, "the free space of the store's file system is not known"),
        }
    }
}

fn space(directory: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(directory)?;
    Ok(Space { free: stat.f_bavail.saturating_mul(stat.f_frsize), total: stat.f_blocks.saturating_mul(stat.f_frsize) })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn watermark(min_free: Option<u64>, total: u64) -> (Arc<AtomicU64>, Watermark) {
        let free = Arc::new(AtomicU64::new(total));
        let seen = Arc::clone(&free);
        let probe = move || Ok(Space { free: seen.load(Ordering::Relaxed), total });
        (free, Watermark::new(min_free, Box::new(probe)))
    }

    #[test]
    fn refuses_below_the_reserve_and_lets_in_again() {
        let (free, watermark) = watermark(Some(100), 1000);
        let start = Instant::now();
        assert!(watermark.check_at(start).is_ok());
        free.store(99, Ordering::Relaxed);
        assert!(watermark.check_at(start).is_ok(), "not asked again at once");
        let refused = watermark.check_at(start + EVERY);
        assert!(matches!(refused, Err(AppendError::DiskFull { free: 99, watermark: 100 })));
        free.store(100, Ordering::Relaxed);
        assert!(watermark.check_at(start + EVERY * 2).is_ok());
    }

    #[test]
    fn a_fast_writer_is_looked_at_sooner() {
        let (free, watermark) = watermark(Some(100), 1000);
        let start = Instant::now();
        assert!(watermark.check_at(start).is_ok());
        free.store(0, Ordering::Relaxed);
        watermark.grew(EVERY_BYTES);
        assert!(watermark.check_at(start).is_err());
    }

    #[test]
    fn the_default_is_the_larger_of_64_mib_and_five_percent() {
        let (free, watermark) = watermark(None, 100 << 30);
        free.store((5 << 30) - 1, Ordering::Relaxed);
        assert!(watermark.check_at(Instant::now()).is_err());
    }
}
