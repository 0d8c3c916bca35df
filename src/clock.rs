//! The only place that reads the wall clock.
//!
//! Everything that decides by time takes a [`UnixMillis`] or a [`Clock`], so that tests move time instead of
//! sleeping through it. Waiting is done with `tokio::time`, which tests pause.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    pub fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Time since `earlier`; zero when `earlier` lies in the future (a clock that was set back).
    pub fn since(self, earlier: UnixMillis) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for UnixMillis {
    type Output = UnixMillis;
    fn add(self, by: Duration) -> UnixMillis {
        UnixMillis(self.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for UnixMillis {
    type Output = UnixMillis;
    fn sub(self, by: Duration) -> UnixMillis {
        UnixMillis(self.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for UnixMillis {
    /// RFC 3339 in UTC with milliseconds, as logs and admin answers show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()) {
            Some(at) => write!(f, "{at:.3}"),
            None => write!(f, "{}ms", self.0),
        }
    }
}

/// A moment on the clock of one start of the machine: it runs on while the machine sleeps, and nobody can set it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Uptime {
    /// Which start of the machine.
    pub boot: String,
    pub millis: u64,
}

impl Uptime {
    /// `None` when the machine was started anew in between.
    pub fn since(&self, earlier: &Uptime) -> Option<Duration> {
        (self.boot == earlier.boot).then(|| Duration::from_millis(self.millis.saturating_sub(earlier.millis)))
    }
}

/// A source of wall-clock time.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> UnixMillis;

    /// `None` where the system does not tell one start from another.
    fn uptime(&self) -> Option<Uptime> {
        None
    }
}

pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one sanctioned reading of the wall clock
    fn now(&self) -> UnixMillis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn uptime(&self) -> Option<Uptime> {
        static BOOT: OnceLock<Option<String>> = OnceLock::new();
        let read = || Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned());
        let boot = BOOT.get_or_init(read).clone()?;
        Some(Uptime { boot, millis: u64::try_from(since_boot().as_millis()).ok()? })
    }
}

/// Since the machine was started, the time that it slept included: what a promise to others is measured by, which runs
/// out while this process stands still.
pub fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn at(now: UnixMillis) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(now.0)))
    }

    pub fn set(&self, now: UnixMillis) {
        self.0.store(now.0, Ordering::SeqCst);
    }

    pub fn advance(&self, by: Duration) {
        self.set(self.now() + by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.0.load(Ordering::SeqCst))
    }
}
