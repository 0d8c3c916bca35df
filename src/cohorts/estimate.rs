//! How long a run will take, and what a cohort costs. Pure.

use std::time::Duration;

use super::run::{Run, Stage};
use crate::brevo::limits::{MAX_LIST_CHANGE, MAX_MEMBERS_PAGE};
use crate::config::SyncMode;
use crate::mixpanel::cohorts::PAGE;

/// Queries of one hour (contract §9).
pub const QUERIES_AN_HOUR: u64 = 60;

/// From so many queries a run on, Mixpanel's own pushes are the better way: a quarter of the hour.
pub const PUSH_FROM: u64 = QUERIES_AN_HOUR / 4;

/// Queries that a run of a cohort of `people` makes: its pages, and one for its name.
pub fn queries(people: u64) -> u64 {
    people.div_ceil(PAGE).max(1) + 1
}

/// What the budgets say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Queries that may go out at once.
    pub queries_left: u64,
    /// Calls of Brevo's contacts in a second.
    pub calls_a_second: u64,
}

/// From now to the end of the run, as far as anyone can tell.
pub fn left(run: &Run, pace: Pace) -> Duration {
    let people = run.expected.unwrap_or(run.counts.members).max(run.counts.members);
    let pages = match &run.stage {
        Stage::Collecting { page, .. } => queries(people).saturating_sub(u64::from(*page)),
        Stage::Receiving { .. }
        | Stage::Reading { .. }
        | Stage::LookingUp { .. }
        | Stage::Removing
        | Stage::Adding { .. }
        | Stage::Creating { .. }
        | Stage::Ended(_) => 0,
    };
    let late = pages.saturating_sub(pace.queries_left);
    let asking = (pages - late) + late * (3600 / QUERIES_AN_HOUR);
    let settled = run.counts.present + run.counts.added + run.counts.unmatched_total();
    let to_read = if read_already(&run.stage) { 0 } else { run.counts.list_before.max(people) };
    let to_add = if run.order.mode == SyncMode::Remove { 0 } else { people.saturating_sub(settled) };
    let to_remove = run.counts.to_remove.saturating_sub(run.counts.removed);
    let calls = to_read.div_ceil(MAX_MEMBERS_PAGE as u64) + (to_add + to_remove).div_ceil(MAX_LIST_CHANGE as u64);
    Duration::from_secs(asking + calls.div_ceil(pace.calls_a_second.max(1)))
}

fn read_already(stage: &Stage) -> bool {
    matches!(stage, Stage::Removing | Stage::Adding { .. } | Stage::Creating { .. } | Stage::Ended(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brevo::identifiers::ListId;
    use crate::clock::UnixMillis;
    use crate::cohorts::run::{Order, Source, Trigger};

    #[test]
    fn a_cohort_costs_a_query_for_each_thousand() {
        assert_eq!([0, 1_000, 1_001, 100_000].map(queries), [2, 2, 3, 101]);
    }

    #[test]
    fn what_the_hour_does_not_hold_takes_a_minute_a_query() {
        let order = Order {
            source: Source::Cohort { id: 1 },
            list: ListId(1),
            mode: SyncMode::Mirror,
            force: false,
            of_a_mirror: false,
            dry_run: false,
            trigger: Trigger::Request,
        };
        let stage = Stage::Collecting { session: None, page: 0, restarts: 0 };
        let mut run = Run::new("a".to_owned(), order, UnixMillis(0), stage);
        run.expected = Some(100_000);
        let slow = left(&run, Pace { queries_left: 41, calls_a_second: 10 });
        // 41 at once, 60 by the minute, 200 pages of the list and 667 changes.
        assert_eq!(slow.as_secs(), 41 + 60 * 60 + (200_u64 + 667).div_ceil(10));
        run.stage = Stage::Adding { after: None, by_address: false };
        run.counts.members = 100_000;
        run.counts.added = 99_000;
        assert!(left(&run, Pace { queries_left: 0, calls_a_second: 10 }) < Duration::from_secs(5));
    }
}
