//! The one way in for what the relay fetches or receives by itself: journal records with their [`Origin`], appended like
//! an app's (durable, deduplicated, erasable, counted) and *paced*, so that an app's record never stands behind more than
//! a small number of them.
//!
//! It owns the pace and the tombstones' word. It must not know where drafts come from (pulls, backfills, cohorts,
//! webhooks), nor what a destination makes of them.
//!
//! Invariants:
//! * a paced batch is appended only while the Brevo leg has little unread and not much unsettled ([`UNREAD`],
//!   [`UNSETTLED`], [`EVENTS`]), whatever of it is fed: live traffic goes first by that alone;
//! * nobody who is erased is appended, also when the erasure came while the batch waited;
//! * what [`Feed::append`] returned for is durable: a puller moves its cursor after that, so a crash repeats a batch and
//!   loses none.

mod draft;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::clock::SharedClock;
use crate::delivery::status::{LegStatus, Load};
use crate::privacy::Tombstones;
use crate::record::{Destinations, Kind, Origin, Project, Record};
use crate::store::{AppendError, Journal, StoreError};
use crate::telemetry;

pub use draft::Draft;

/// Records in one append, at most.
const BATCH_RECORDS: usize = 500;
/// And their bytes, about.
const BATCH_BYTES: usize = 512 << 10;
/// Records that the leg may still have to read when a batch has been appended: an app's next record stands behind no
/// more fed ones than this.
const UNREAD: u64 = 1_000;
/// Records that the leg may have to settle then: enough for one large import at Brevo (contract §3.6).
const UNSETTLED: u64 = 10_000;
/// Events that may stand in the leg's ledger then, where each stands until it is sent. The ledger's room is bounded in
/// records, bytes and gaps, and once it is full the leg reads nothing, an app's records included.
const EVENTS: u64 = 1_000;
/// Between two looks for room. Nothing tells when the leg has settled something.
const RECHECK: Duration = Duration::from_millis(100);

/// Why drafts were not appended; how many had been before is unknown, so all of them are to be given again.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What became of drafts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fed {
    pub appended: u64,
    /// Left out: their people are erased.
    pub erased: u64,
}

impl std::ops::AddAssign for Fed {
    fn add_assign(&mut self, more: Fed) {
        self.appended += more.appended;
        self.erased += more.erased;
    }
}

/// Shared by everyone who feeds.
pub struct Feed {
    journal: Arc<dyn Journal>,
    tombstones: Arc<Tombstones>,
    /// The Brevo leg, whose backlog sets the pace.
    leg: LegStatus,
    clock: SharedClock,
    /// Held while a batch waits for room and is appended, so that two feeders do not both fill the same room.
    turn: Mutex<()>,
}

impl Feed {
    /// `leg`: the Brevo leg's.
    pub fn new(journal: Arc<dyn Journal>, tombstones: Arc<Tombstones>, leg: LegStatus, clock: SharedClock) -> Self {
        Self { journal, tombstones, leg, clock, turn: Mutex::new(()) }
    }

    /// Appends `drafts` in order, batch by batch, each when there is room for it. Waits for as long as that takes, full
    /// disks and busy stores included; dropping the future is how to give up.
    pub async fn append(
        &self,
        origin: Origin,
        destinations: Destinations,
        drafts: Vec<Draft>,
    ) -> Result<Fed, FeedError> {
        let mut fed = Fed::default();
        for batch in batches(drafts) {
            let _turn = self.turn.lock().await;
            loop {
                self.room_for(&batch).await?;
                match self.append_batch(origin, destinations, &batch).await {
                    Err(AppendError::Busy | AppendError::DiskFull { .. }) => tokio::time::sleep(RECHECK).await,
                    done => {
                        fed += done?;
                        break;
                    }
                }
            }
        }
        Ok(fed)
    }

    /// As [`Feed::append`], at once and whatever the backlog: for what somebody else is about to be told is stored.
    pub async fn append_now(
        &self,
        origin: Origin,
        destinations: Destinations,
        drafts: Vec<Draft>,
    ) -> Result<Fed, AppendError> {
        if drafts.is_empty() { Ok(Fed::default()) } else { self.append_batch(origin, destinations, &drafts).await }
    }

    async fn append_batch(
        &self,
        origin: Origin,
        destinations: Destinations,
        drafts: &[Draft],
    ) -> Result<Fed, AppendError> {
        // Held until the records are stored: an erasure waits for whoever has judged by the answer of before it.
        let erased = self.tombstones.now();
        let received_at = self.clock.now();
        let kept = drafts.iter().filter(|draft| !erased.covers(draft.kind, &draft.body));
        let record = |draft: &Draft| Record {
            kind: draft.kind,
            origin,
            destinations,
            project: Project::Ours,
            received_at,
            body: draft.body.clone(),
        };
        let records: Vec<Record> = kept.map(record).collect();
        let fed = Fed { appended: records.len() as u64, erased: (drafts.len() - records.len()) as u64 };
        if !records.is_empty() {
            let kinds: Vec<Kind> = records.iter().map(|record| record.kind).collect();
            self.journal.append(records).await?;
            // Not before: a batch that finds no room is tried again.
            kinds.into_iter().for_each(|kind| telemetry::fed(origin, kind));
        }
        Ok(fed)
    }

    /// Waits until the leg has room for `batch`.
    async fn room_for(&self, batch: &[Draft]) -> Result<(), StoreError> {
        let records = batch.len() as u64;
        let of_updates = batch.iter().all(|draft| draft.kind == Kind::Profile);
        loop {
            let Load { unread, unsettled, in_ledger } = self.leg.load().await?;
            let for_events = of_updates || unread + in_ledger + records <= EVENTS;
            if for_events && unread + records <= UNREAD && unread + unsettled + records <= UNSETTLED {
                return Ok(());
            }
            tokio::time::sleep(RECHECK).await;
        }
    }
}

/// `drafts` in batches that one append takes, in order.
fn batches(drafts: Vec<Draft>) -> Vec<Vec<Draft>> {
    let mut batches: Vec<Vec<Draft>> = Vec::new();
    let mut bytes = 0;
    for draft in drafts {
        bytes += draft.body.len();
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_RECORDS && bytes <= BATCH_BYTES => batch.push(draft),
            _ => {
                bytes = draft.body.len();
                batches.push(vec![draft]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests;
