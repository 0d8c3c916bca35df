//! From the journal to the vendors.
//!
//! Each destination has a *leg*: one task that reads the journal from its own cursor, makes batches, sends them through
//! its vendor stack and settles records one by one. Legs share nothing but the journal, so that one destination's
//! trouble is never the other's (P3); the Brevo leg watches how far Mixpanel's is, for values that only Mixpanel can tell.
//!
//! Invariants:
//! * every record read ends in exactly one [`crate::settlement`] outcome, counted in the leg's [`tally::Tally`];
//! * the checkpoint, the dead letters and the people that it implies are written in one transaction (CORE 3);
//! * a batch that is dropped on any path stays unsettled, and is read again after the next start.

pub mod books;
pub mod brevo_leg;
pub mod checkpoint;
pub mod day_book;
pub mod dead_letters;
pub mod history;
pub mod ledger;
pub mod mixpanel_leg;
pub mod outlook;
pub mod overflow;
pub mod pauses;
pub mod shift;
pub mod source;
pub mod status;
pub mod tally;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod trimmer;

use std::time::Duration;

use crate::store::StoreError;
use crate::vendor::TransportError;
use crate::vendor::gate::SharedGate;

/// The longest wait for calls of a leg that is to stop, when its gate is closed.
const CLOSED: Duration = Duration::from_millis(500);

/// How long a leg that is to stop waits for its calls. What waits at a closed gate will not come back, and what is on its
/// way to a destination in trouble hardly will.
fn patience(gate: &SharedGate, drain: Duration) -> Duration {
    if gate.lets_pass() { drain } else { drain.min(CLOSED) }
}

/// Why a leg ended. Whatever it is, the process ends with it: records wait in the journal, and a new process goes on.
#[derive(Debug, thiserror::Error)]
pub enum LegError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a call ended without a definite answer: {0}")]
    Call(#[from] TransportError),
    #[error("a task of the leg died: {0}")]
    Task(#[from] tokio::task::JoinError),
}
