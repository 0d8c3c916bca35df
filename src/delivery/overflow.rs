//! `when_full: skip_...`: gives up the oldest backlog of one destination, so that an expired key on one side need not stop
//! the other (CORE 15).
//!
//! Only what would free space is given up: entries that the other legs have passed already, a share at a time, and the
//! next share when the space of the last has had time to come back.

use std::sync::Arc;
use std::time::Duration;

use crate::delivery::status::LegStatus;
use crate::record::EntryId;
use crate::store::{AppendError, Journal, StoreError};

/// Between two looks at the disk.
const EVERY: Duration = Duration::from_secs(1);

/// Room from which on the oldest are given up: before the watermark, so that apps need not be refused.
const LITTLE_ROOM: u64 = 16 << 20;

/// The share of the destination's backlog that goes at a time.
const SHARE: u64 = 8;

/// How long the trimmer may take to give the space of one share back before the next is given up.
const PATIENCE: u32 = 10;

/// Watches the disk for as long as the process lives. `leg` gives way; `others` are the legs that do not.
pub async fn watch(journal: Arc<dyn Journal>, leg: LegStatus, others: Vec<LegStatus>) -> Result<(), StoreError> {
    let mut waited = PATIENCE;
    loop {
        tokio::time::sleep(EVERY).await;
        let full = matches!(journal.ready(), Err(AppendError::DiskFull { .. }));
        if !full && journal.size().await?.room >= LITTLE_ROOM {
            waited = PATIENCE;
            continue;
        }
        let cursor = leg.durable_cursor().borrow().entry;
        let passed = others.iter().map(|other| other.durable_cursor().borrow().entry).min();
        let given_up = *leg.given_up().borrow();
        if cursor < given_up && waited < PATIENCE {
            waited += 1;
            continue;
        }
        if let Some(below) = next_share(cursor, *journal.tip().borrow(), passed) {
            tracing::error!(
                destination = %leg.destination(),
                entries = below.0 - cursor.0,
                "the disk is nearly full: the oldest backlog is given up, as when_full says"
            );
            leg.give_up(below);
            waited = 0;
        }
    }
}

/// Up to where to give up next; `None` when nothing that could be given up would free space.
fn next_share(cursor: EntryId, tip: EntryId, others_passed: Option<EntryId>) -> Option<EntryId> {
    let backlog = tip.0.saturating_sub(cursor.0);
    let wanted = EntryId(cursor.0 + backlog.div_ceil(SHARE));
    let below = others_passed.map_or(wanted, |passed| wanted.min(passed));
    (below > cursor).then_some(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_goes_at_a_time_and_only_what_the_others_have_passed() {
        let share = |cursor, tip, passed: Option<u64>| {
            next_share(EntryId(cursor), EntryId(tip), passed.map(EntryId)).map(|below| below.0)
        };
        assert_eq!(share(100, 900, Some(900)), Some(200));
        assert_eq!(share(100, 101, Some(101)), Some(101), "at least one entry");
        assert_eq!(share(100, 900, Some(150)), Some(150), "the other leg still needs the rest");
        assert_eq!(share(100, 900, Some(100)), None, "nothing would be freed");
        assert_eq!(share(100, 100, Some(100)), None, "no backlog");
    }
}
