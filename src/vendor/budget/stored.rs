//! Budgets as the store holds them, and what they are worth when they are read back.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::plan::assumed;
use super::window::{Limit, Slice, Unit, Window};
use crate::clock::{UnixMillis, Uptime};
use crate::vendor::Family;

/// A budget as the store holds it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) windows: Vec<StoredWindow>,
    #[serde(default)]
    pub(super) written: Option<Written>,
}

/// When a budget was written down, by two clocks: the wall's, and one that nobody can set, where there is one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) wall: UnixMillis,
    pub(super) uptime: Uptime,
}

impl Stored {
    /// The wall's time now as the slices count it. While the machine has not been started anew, how much time has passed
    /// is told by the clock that nobody can set, so that a wall clock set forward between two processes frees nothing.
    pub(super) fn now(&self, wall: UnixMillis, uptime: Option<Uptime>) -> UnixMillis {
        match (&self.written, uptime) {
            (Some(written), Some(now)) => match now.since(&written.uptime) {
                Some(passed) => written.wall + passed,
                None => wall,
            },
            _ => wall,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredWindow {
    pub(super) limit: Limit,
    /// When each slice was claimed, and its amount; oldest first.
    pub(super) slices: Vec<(UnixMillis, u64)>,
}

/// A clock that was set back makes slices of the future: they count as claimed now.
pub(super) fn restore(family: Family, stored: Stored, wall: UnixMillis) -> Vec<Window> {
    let now = Instant::now();
    let mut windows = Vec::new();
    if family == Family::MixpanelExport {
        // Too short to be written down, and it does not follow from the hourly one.
        let short = assumed(family).into_iter().filter(|limit| !limit.durable());
        windows.extend(short.map(|limit| Window::restored(limit, [Slice::new(now, limit.amount)], now)));
    }
    for StoredWindow { limit, slices } in stored.windows {
        if limit.unit == Unit::Calls && limit.amount.is_multiple_of(3600) && limit.span == Limit::per_hour(1).span {
            // The companion of such a limit, which is too short to be written down. Its second may have been used up
            // just before the crash.
            let per_second = Limit::per_second(limit.amount / 3600);
            windows.push(Window::restored(per_second, [Slice::new(now, per_second.amount)], now));
        }
        let slices =
            slices.into_iter().filter_map(|(at, amount)| Some(Slice::new(now.checked_sub(wall.since(at))?, amount)));
        windows.push(Window::restored(limit, slices, now));
    }
    windows
}
