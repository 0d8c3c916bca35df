//! What the relay reads at Mixpanel for people whose data does not pass it: changed profiles on a schedule
//! (`sync_profiles_every`), and profiles and events of before as a backfill that somebody asks for.
//!
//! It owns when and where to read on, what a profile's page becomes, and the runs with their counts. Everything read goes
//! through [`crate::feed`], so it must not know what Brevo makes of it.
//!
//! Invariants:
//! * a cursor is written after what it passes was fed: a crash repeats a page or a few lines, and loses none;
//! * one backfill at a time, and one profile sync;
//! * events are taken only up to where this relay's own delivery began, and old ones only when asked for (CORE 10, 11);
//! * calls wait for their place behind everybody else's ([`crate::vendor::Priority::Backfill`]).

mod backfill;
mod events;
mod pages;
mod run;
mod sync;
mod wanted;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

pub use backfill::AskError;
pub use pages::ProfileSource;
pub use run::{Backfill, Kind, Question, RunId, Stage};
pub use sync::SyncReport;
pub use wanted::Wanted;

use crate::clock::SharedClock;
use crate::feed::{Feed, FeedError};
use crate::in_force::InForce;
use crate::read_side::ReadSide;
use crate::store::{State, StoreError};
use crate::vendor::budget::Budgets;

/// What pulls are made of.
pub struct Parts {
    pub state: Arc<dyn State>,
    pub clock: SharedClock,
    pub feed: Arc<Feed>,
    pub mapping: Arc<InForce>,
    pub budgets: Arc<Budgets>,
    /// `None` without a service account: then no profiles are read.
    pub profiles: Option<ProfileSource>,
    pub exports: Arc<ReadSide>,
    /// `sync_profiles_every`.
    pub every: Option<Duration>,
    /// Whether Brevo is there to be filled.
    pub brevo: bool,
}

/// Where backfills are asked for and looked up, and what carries them out.
pub struct Pulls {
    parts: Parts,
    /// A backfill was asked for.
    wake: Notify,
    /// The backfill under way, and its end when somebody calls it off.
    under_way: Mutex<Option<run::UnderWay>>,
    sync: Mutex<SyncReport>,
}

impl Pulls {
    pub fn new(parts: Parts) -> Arc<Self> {
        let sync = SyncReport { every_seconds: parts.every.map(|every| every.as_secs()), ..SyncReport::default() };
        Arc::new(Self { parts, wake: Notify::new(), under_way: Mutex::default(), sync: Mutex::new(sync) })
    }

    /// How the profile sync stands.
    pub fn sync_report(&self) -> SyncReport {
        self.sync.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Why nothing more is read of what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("{0}")]
    Refused(String),
    #[error("connectors.mixpanel has no service account with its project_id, so no profiles can be read")]
    NoServiceAccount,
    #[error("no property of property_mapping can be read at Mixpanel")]
    NothingMapped,
    #[error("Mixpanel's export failed {0} times in a row: {1}")]
    TooOften(u32, String),
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PullError {
    /// A failed store ends the process; everything else ends the run alone.
    fn store(self) -> Result<String, StoreError> {
        match self {
            PullError::Store(error) | PullError::Feed(FeedError::Store(error)) => Err(error),
            PullError::Feed(FeedError::Append(error @ crate::store::AppendError::Poisoned(_))) => {
                Err(StoreError::Failed(error.to_string()))
            }
            other => Ok(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
