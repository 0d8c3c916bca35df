//! Gives the journal's space back once every leg has passed, less the tail that is kept as history.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::SharedClock;
use crate::record::{EntryId, Position};
use crate::store::{AppendError, Journal, StoreError, Tail};

/// Between two looks when there was nothing more to trim.
const IDLE: Duration = Duration::from_secs(5);
/// Between two small steps: appends go first.
const STEP: Duration = Duration::from_millis(20);

const NO_TAIL: Tail = Tail { max_age: Duration::ZERO, max_bytes: 0 };

/// Trims for as long as the process lives. `cursors` are the legs' durable cursors: what lies below all of them was
/// settled and written down everywhere.
pub async fn run(
    journal: Arc<dyn Journal>,
    cursors: Vec<watch::Receiver<Position>>,
    tail: Tail,
    clock: SharedClock,
) -> Result<(), StoreError> {
    loop {
        let below = cursors.iter().map(|cursor| cursor.borrow().entry).min().unwrap_or(EntryId::FIRST);
        // History is the first thing to go when the disk is nearly full: it only helps to look back.
        let full = matches!(journal.ready(), Err(AppendError::DiskFull { .. }));
        let kept = if full { NO_TAIL } else { tail };
        let more = match journal.trim(below, kept, clock.now()).await {
            Ok(report) => report.more,
            // Even giving space back needs a little: somebody else's file may go first.
            Err(StoreError::DiskFull) => false,
            Err(error) => return Err(error),
        };
        tokio::time::sleep(if more { STEP } else { IDLE }).await;
    }
}
