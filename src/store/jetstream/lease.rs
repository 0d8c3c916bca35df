//! For how long a relay may act on what it has claimed.
//!
//! Whoever works has appended something to the state's log within [`LENGTH`], counted from before it was sent; whoever
//! waits claims after [`SILENCE`] without anything, counted from when it was heard. No clocks are compared: only that they
//! run at about the same pace. The clock here goes on while the process is stopped or the machine sleeps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::since_boot;

/// How long what was appended last is good for.
pub const LENGTH: Duration = Duration::from_secs(12);
/// How long nothing is heard of whoever works before somebody else claims.
pub const SILENCE: Duration = Duration::from_secs(16);
/// How often whoever works says so, when there is nothing else to say.
pub const HEARTBEAT: Duration = Duration::from_secs(2);

/// Shared by whoever extends it and whoever asks before acting.
#[derive(Debug, Default)]
pub struct Lease {
    /// Milliseconds since the machine's start; 0: nothing is claimed.
    until: AtomicU64,
}

impl Lease {
    /// What is left of it; zero when it is over, or was never there.
    pub fn remaining(&self) -> Duration {
        Duration::from_millis(self.until.load(Ordering::Acquire).saturating_sub(millis(since_boot())))
    }

    /// Something that was sent `at` (by [`since_boot`]) has been appended.
    pub(super) fn extend(&self, at: Duration) {
        self.until.fetch_max(millis(at + LENGTH), Ordering::AcqRel);
    }

    pub(super) fn end(&self) {
        self.until.store(0, Ordering::Release);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_before_it_was_asked_for() {
        let lease = Lease::default();
        assert_eq!(lease.remaining(), Duration::ZERO);
        lease.extend(since_boot().saturating_sub(LENGTH + Duration::from_secs(1)));
        assert_eq!(lease.remaining(), Duration::ZERO, "answered too late");
        lease.extend(since_boot());
        assert!(lease.remaining() > LENGTH / 2 && lease.remaining() <= LENGTH);
        lease.extend(since_boot().saturating_sub(Duration::from_secs(5)));
        assert!(lease.remaining() > LENGTH / 2, "an earlier answer that comes late takes nothing away");
        lease.end();
        assert_eq!(lease.remaining(), Duration::ZERO);
    }
}
