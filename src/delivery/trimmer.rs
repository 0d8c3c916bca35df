//! Gives the journal's space back once every leg has passed, less the tail that is kept as history; and forgets what became
//! of records that are gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::history;
use crate::clock::SharedClock;
use crate::record::{EntryId, Position};
use crate::store::{AppendError, Journal, State, StoreError, Tail, WriteBatch};

/// Between two looks when there was nothing more to trim.
const IDLE: Duration = Duration::from_secs(5);
/// Between two small steps: appends go first.
const STEP: Duration = Duration::from_millis(20);

const NO_TAIL: Tail = Tail { max_age: Duration::ZERO, max_bytes: 0 };

/// Trims for as long as the process lives. `cursors` are the legs' durable cursors: what lies below all of them was
/// settled and written down everywhere.
pub async fn run(
    journal: Arc<dyn Journal>,
    state: Arc<dyn State>,
    cursors: Vec<watch::Receiver<Position>>,
    tail: Tail,
    clock: SharedClock,
) -> Result<(), StoreError> {
    let mut behind = true;
    loop {
        let below = cursors.iter().map(|cursor| cursor.borrow().entry).min().unwrap_or(EntryId::FIRST);
        // History is the first thing to go when the disk is nearly full: it only helps to look back.
        let full = matches!(journal.ready(), Err(AppendError::DiskFull { .. }));
        let kept = if full { NO_TAIL } else { tail };
        let more = match journal.trim(below, kept, clock.now()).await {
            Ok(report) => {
                behind |= report.entries > 0;
                report.more
            }
            // Even giving space back needs a little: somebody else's file may go first.
            Err(StoreError::DiskFull) => false,
            Err(error) => return Err(error),
        };
        if behind && !more {
            behind = !forget(&journal, &state).await?;
        }
        tokio::time::sleep(if more { STEP } else { IDLE }).await;
    }
}

/// Forgets what became of the records that have been trimmed; false while the disk is full.
async fn forget(journal: &Arc<dyn Journal>, state: &Arc<dyn State>) -> Result<bool, StoreError> {
    let tip = *journal.tip().borrow();
    let oldest = journal.read(EntryId::FIRST, 1).await?.first().map(|entry| entry.position(0));
    let oldest = oldest.unwrap_or(Position { epoch: journal.epoch(), entry: tip, index: 0 });
    let mut batch = WriteBatch::new();
    history::forget_below(oldest, &mut batch);
    match state.write(batch).await {
        Ok(()) => Ok(true),
        Err(StoreError::DiskFull) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, UnixMillis};
    use crate::delivery::history::{Outcome, Pages};
    use crate::record::{Destination, Destinations, Kind, Origin, Project, Record};
    use crate::store::testing;
    use crate::store::{KeyRange, Table};

    #[tokio::test]
    async fn core13_outcomes_go_with_the_tail() {
        let directory = testing::directory();
        let store = testing::open(&directory, ManualClock::at(UnixMillis(0)));
        let (journal, state): (Arc<dyn Journal>, Arc<dyn State>) = (store.journal.clone(), store.state.clone());
        let record = Record {
            kind: Kind::Event,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: UnixMillis(0),
            body: "{}".into(),
        };
        let mut pages = Pages::default();
        for _ in 0..600 {
            pages.ended(journal.append(vec![record.clone()]).await.unwrap(), Outcome::Delivered);
        }
        let mut batch = WriteBatch::new();
        pages.write(Destination::Brevo, 1, UnixMillis(0), &mut batch);
        state.write(batch).await.unwrap();
        let rows = async || state.count(Table::Outcomes, KeyRange::all()).await.unwrap().0;
        assert_eq!(rows().await, 3);
        journal.trim(EntryId(513), NO_TAIL, UnixMillis(1_000)).await.unwrap();
        assert!(forget(&journal, &state).await.unwrap());
        assert_eq!(rows().await, 1, "of entries 512 to 600");
        journal.trim(EntryId(601), NO_TAIL, UnixMillis(1_000)).await.unwrap();
        forget(&journal, &state).await.unwrap();
        assert_eq!(rows().await, 1, "the next entry will stand among them");
    }
}
