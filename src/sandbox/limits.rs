//! Rate windows, fixed or sliding, by the clock that is handed in.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::UnixMillis;

/// One ceiling: at most `limit` calls in `length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ceiling {
    pub limit: u64,
    pub length: Duration,
}

impl Ceiling {
    pub const fn per_second(limit: u64) -> Self {
        Self { limit, length: Duration::from_secs(1) }
    }

    pub const fn per_hour(limit: u64) -> Self {
        Self { limit, length: Duration::from_secs(3600) }
    }

    fn length_ms(self) -> u64 {
        u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX).max(1)
    }
}

/// What a call found: how much of a ceiling is left after it, or how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub allowed: bool,
    pub limit: u64,
    pub remaining: u64,
    /// Until the window that this describes has room again, or is over.
    pub reset: Duration,
}

/// The calls of one window. The same record serves both kinds, so that the kind can be switched while running.
#[derive(Debug, Default)]
struct Window {
    taken: VecDeque<u64>,
}

impl Window {
    /// Forgets calls that no longer count.
    fn settle(&mut self, now: u64, length_ms: u64, sliding: bool) {
        let from = if sliding { now.saturating_sub(length_ms - 1) } else { now - now % length_ms };
        while self.taken.front().is_some_and(|&at| at < from) {
            self.taken.pop_front();
        }
    }

    fn reset(&self, now: u64, length_ms: u64, sliding: bool) -> Duration {
        let until = match (sliding, self.taken.front()) {
            (true, Some(&oldest)) => oldest + length_ms,
            (true, None) => now,
            (false, _) => now - now % length_ms + length_ms,
        };
        Duration::from_millis(until.saturating_sub(now))
    }
}

/// All ceilings of one family of endpoints. A call must find room under each; a refused one is charged to none.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    windows: Vec<Window>,
}

impl Bucket {
    /// The standing is that of the refusing ceiling, else of the first one. `ceilings` must not be empty.
    pub fn take(&mut self, now: UnixMillis, ceilings: &[Ceiling], sliding: bool) -> Standing {
        self.windows.resize_with(ceilings.len(), Window::default);
        let now = now.0;
        for (window, ceiling) in self.windows.iter_mut().zip(ceilings) {
            window.settle(now, ceiling.length_ms(), sliding);
            if window.taken.len() as u64 >= ceiling.limit {
                let reset = window.reset(now, ceiling.length_ms(), sliding);
                return Standing { allowed: false, limit: ceiling.limit, remaining: 0, reset };
            }
        }
        for window in &mut self.windows {
            window.taken.push_back(now);
        }
        let (window, ceiling) = (&self.windows[0], ceilings[0]);
        let remaining = ceiling.limit - window.taken.len() as u64;
        Standing {
            allowed: true,
            limit: ceiling.limit,
            remaining,
            reset: window.reset(now, ceiling.length_ms(), sliding),
        }
    }
}

/// The sum of what came in during the last minute, to the second.
#[derive(Debug, Default)]
pub(super) struct RollingMinute {
    seconds: VecDeque<(u64, u64, u64)>,
}

impl RollingMinute {
    /// Bytes and events of the last 60 s, this call included.
    pub fn add(&mut self, now: UnixMillis, bytes: u64, events: u64) -> (u64, u64) {
        let second = now.as_secs();
        while self.seconds.front().is_some_and(|&(at, ..)| at + 60 <= second) {
            self.seconds.pop_front();
        }
        match self.seconds.back_mut() {
            Some((at, held_bytes, held_events)) if *at == second => {
                *held_bytes += bytes;
                *held_events += events;
            }
            _ => self.seconds.push_back((second, bytes, events)),
        }
        self.seconds.iter().fold((0, 0), |sum, &(_, bytes, events)| (sum.0 + bytes, sum.1 + events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: UnixMillis = UnixMillis(1_700_000_000_200);

    #[test]
    fn a_fixed_window_ends_at_the_full_second() {
        let mut bucket = Bucket::default();
        let ceilings = [Ceiling::per_second(2), Ceiling::per_hour(3)];
        assert_eq!(bucket.take(AT, &ceilings, false).remaining, 1);
        assert!(bucket.take(AT, &ceilings, false).allowed);
        let refused = bucket.take(AT, &ceilings, false);
        assert_eq!((refused.allowed, refused.limit, refused.reset), (false, 2, Duration::from_millis(800)));
        assert!(bucket.take(AT + Duration::from_millis(800), &ceilings, false).allowed);
        let hourly = bucket.take(AT + Duration::from_millis(900), &ceilings, false);
        assert_eq!((hourly.allowed, hourly.limit), (false, 3), "the hour's ceiling holds across seconds");
    }

    #[test]
    fn a_sliding_window_frees_one_call_at_a_time() {
        let mut bucket = Bucket::default();
        let ceilings = [Ceiling::per_second(1)];
        assert!(bucket.take(AT, &ceilings, true).allowed);
        assert!(!bucket.take(AT + Duration::from_millis(900), &ceilings, true).allowed);
        assert!(bucket.take(AT + Duration::from_millis(1000), &ceilings, true).allowed);
    }

    #[test]
    fn the_minute_rolls() {
        let mut minute = RollingMinute::default();
        minute.add(AT, 10, 1);
        assert_eq!(minute.add(AT + Duration::from_secs(59), 5, 1), (15, 2));
        assert_eq!(minute.add(AT + Duration::from_secs(61), 1, 1), (6, 2));
    }
}
