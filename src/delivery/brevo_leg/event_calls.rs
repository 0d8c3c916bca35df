//! Sending events: one call, and what it means for each event in it.

use tower::ServiceExt as _;

use super::LegError;
use crate::brevo::calls::Calls;
use crate::brevo::limits::{MAX_BATCH_BYTES, MAX_BATCH_EVENTS};
use crate::brevo::outcome::{self, BatchOutcome, EventOutcome};
use crate::brevo::wire::Event;
use crate::vendor::stack::Stack;
use crate::vendor::{Note, TransportError, VendorAnswer};

/// What became of the events of one call, by their order in it.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// Each is settled: taken, or refused with the vendor's words.
    Settled { refused: Vec<(usize, String)>, unconfirmed: u64 },
    /// None was taken, and none is named: smaller calls will tell.
    Split(String),
    /// The endpoint is not there: hold the destination.
    Misrouted(String),
    /// Called back before there was an answer.
    Recalled,
}

/// What an event counts for in a batch besides its properties: name, identifiers, date, punctuation.
const FRAME: usize = 700;

/// Whether one more event of `properties` bytes fits into a batch that holds `events` of `bytes` in all.
pub fn fits(events: usize, bytes: usize, properties: usize) -> bool {
    events < MAX_BATCH_EVENTS && bytes + properties + FRAME < MAX_BATCH_BYTES
}

/// What an event adds to a batch, at most.
pub fn weight(properties: usize) -> usize {
    properties + FRAME
}

/// Sends `events`, which fit into one call, once `note` is written: Brevo knows no event again.
pub async fn send(stack: Stack, calls: Calls, events: Vec<Event>, note: Note) -> Result<(Sent, u32), LegError> {
    if let [event] = &events[..] {
        let answer = stack.oneshot(calls.event(event).noted(note)).await?;
        let sent = match outcome::event(&answer) {
            EventOutcome::Accepted => Sent::Settled { refused: vec![], unconfirmed: 0 },
            EventOutcome::Rejected(refusal) => {
                Sent::Settled { refused: vec![(0, refusal.to_string())], unconfirmed: 0 }
            }
            EventOutcome::Misrouted(refusal) => Sent::Misrouted(refusal.to_string()),
        };
        return Ok((sent, answer.doubtful));
    }
    let mut packed = calls.events(&events);
    if packed.len() != 1 {
        return Ok((Sent::Split("larger than one call".to_owned()), 0));
    }
    let answer = stack.oneshot(packed.remove(0).request.noted(note)).await;
    let answer: VendorAnswer = answer.map_err(|error: TransportError| LegError::Call(error))?;
    let sent = match outcome::batch(&answer, events.len()) {
        BatchOutcome::Taken { rejected, unnamed } => Sent::Settled {
            refused: rejected.into_iter().map(|event| (event.index, event.message)).collect(),
            unconfirmed: unnamed as u64,
        },
        BatchOutcome::Split(refusal) => Sent::Split(refusal.to_string()),
        BatchOutcome::Misrouted(refusal) => Sent::Misrouted(refusal.to_string()),
    };
    Ok((sent, answer.doubtful))
}
