//! When a planned run is due. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::run::{Order, PLAN};
use crate::clock::UnixMillis;

/// The most that a run begins later than it is due, so that the plans of one relay do not all ask in the same minute.
const MAX_JITTER: Duration = Duration::from_secs(600);

/// A run that is begun again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub order: Order,
    pub every: Duration,
}

/// When a planned run was last begun, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LastTime {
    pub at: UnixMillis,
}

impl Planned {
    /// Its key in the table of runs.
    pub(super) fn key(&self) -> Vec<u8> {
        let mut key = vec![PLAN];
        key.extend_from_slice(self.name().as_bytes());
        key
    }

    fn name(&self) -> String {
        format!("{} {}", self.order.source.label(), self.order.list.0)
    }

    /// As [`due`].
    pub(super) fn due(&self, last: Option<UnixMillis>, start: UnixMillis) -> UnixMillis {
        due(&self.name(), self.every, last, start)
    }
}

/// When the plan `name` is due, having been begun at `last`, or never; `start` is when this process began. A time that has
/// passed while nobody was there is due soon, and one that lies ahead by more than the plan's own distance (the clock was set
/// back) counts from the start.
pub fn due(name: &str, every: Duration, last: Option<UnixMillis>, start: UnixMillis) -> UnixMillis {
    let jitter = jitter(name, every);
    match last {
        Some(last) if last <= start + every => (last + every + jitter).max(start),
        Some(_) | None => start + jitter,
    }
}

/// Always the same for one plan: up to a tenth of its distance.
fn jitter(name: &str, every: Duration) -> Duration {
    let most = (every / 10).min(MAX_JITTER).as_millis() as u64;
    Duration::from_millis(xxh3_64(name.as_bytes()) % most.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brevo::identifiers::ListId;
    use crate::cohorts::run::{Source, Trigger};
    use crate::config::SyncMode;

    const HOUR: u64 = 3_600_000;

    fn hourly(id: u64) -> Planned {
        let order = Order {
            source: Source::Cohort { id },
            list: ListId(1),
            mode: SyncMode::Mirror,
            force: false,
            of_a_mirror: false,
            dry_run: false,
            trigger: Trigger::Schedule,
        };
        Planned { order, every: Duration::from_millis(HOUR) }
    }

    #[test]
    fn a_plan_is_due_its_distance_after_the_last_time_and_a_little() {
        let plan = hourly(1);
        let due = plan.due(Some(UnixMillis(10 * HOUR)), UnixMillis(10 * HOUR + 5)).0;
        assert!((11 * HOUR..11 * HOUR + HOUR / 10).contains(&due), "{due}");
        // Missed for a day: now, not a day's worth.
        assert_eq!(plan.due(Some(UnixMillis(HOUR)), UnixMillis(30 * HOUR)), UnixMillis(30 * HOUR));
        // The clock was set back by a day.
        assert!(plan.due(Some(UnixMillis(50 * HOUR)), UnixMillis(26 * HOUR)).0 < 27 * HOUR);
    }

    #[test]
    fn plans_do_not_begin_together() {
        let due: std::collections::BTreeSet<u64> = (0..20).map(|id| hourly(id).due(None, UnixMillis(0)).0).collect();
        assert!(due.len() > 15 && due.iter().all(|due| *due < HOUR / 10), "{due:?}");
    }
}
