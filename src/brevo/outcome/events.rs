//! Answers to `POST /events` and `POST /events/batch` (contract §2.2, §2.3).

use std::collections::BTreeMap;

use super::{Refusal, cut, is_misrouted};
use crate::brevo::wire::{BatchAccepted, BatchErrors};
use crate::vendor::VendorAnswer;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    Accepted,
    Rejected(Refusal),
    /// The endpoint is not there: hold the destination, not the event.
    Misrouted(Refusal),
}

/// `POST /events`.
pub fn event(answer: &VendorAnswer) -> EventOutcome {
    if answer.status.is_success() {
        EventOutcome::Accepted
    } else if is_misrouted(answer) {
        EventOutcome::Misrouted(Refusal::read(answer))
    } else {
        EventOutcome::Rejected(Refusal::read(answer))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedEvent {
    /// In the batch, from 0.
    pub index: usize,
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchOutcome {
    /// The batch is settled: `rejected` (by index, each once) are refused, the others are queued at Brevo and must not
    /// be sent again. Of the latter, `unnamed` are missing by Brevo's count without its saying which: sending the batch
    /// again would double all the rest.
    Taken { rejected: Vec<RejectedEvent>, unnamed: usize },
    /// Nothing was stored, and the answer does not name the culprit (or speaks of size): send in smaller parts.
    Split(Refusal),
    /// The endpoint is not there: hold the destination, not the events.
    Misrouted(Refusal),
}

/// `POST /events/batch` of `sent` events (at least one).
///
/// | answer | meaning |
/// |---|---|
/// | 202, `count` of all | all taken |
/// | 202, fewer | the gap is `unnamed` |
/// | 207 | the named ones refused, the rest taken; what is counted as failed but not named is `unnamed` |
/// | 400 that names every event | all refused |
/// | 400, 413, 422 and other refusals | of one event: refused; of several: split |
pub fn batch(answer: &VendorAnswer, sent: usize) -> BatchOutcome {
    if is_misrouted(answer) {
        return BatchOutcome::Misrouted(Refusal::read(answer));
    }
    let errors: Option<BatchErrors> = serde_json::from_slice(&answer.body).ok();
    let rejected = errors.as_ref().map_or_else(Vec::new, |errors| named(errors, sent));
    if answer.status.is_success() {
        let missing = match (&errors, serde_json::from_slice::<BatchAccepted>(&answer.body)) {
            (Some(errors), _) => errors.failed_events.unwrap_or(0).min(sent).saturating_sub(rejected.len()),
            (None, Ok(accepted)) => sent.saturating_sub(accepted.count),
            // A success without a count is a success.
            (None, Err(_)) => 0,
        };
        return settled(rejected, missing, sent);
    }
    if rejected.len() == sent {
        return BatchOutcome::Taken { rejected, unnamed: 0 };
    }
    let refusal = Refusal::read(answer);
    if sent > 1 {
        return BatchOutcome::Split(refusal);
    }
    BatchOutcome::Taken { rejected: vec![RejectedEvent { index: 0, message: refusal.to_string() }], unnamed: 0 }
}

/// A missing event is named after all when every event that could be it is missing.
fn settled(mut rejected: Vec<RejectedEvent>, missing: usize, sent: usize) -> BatchOutcome {
    if missing == 0 || rejected.len() + missing < sent {
        return BatchOutcome::Taken { rejected, unnamed: missing };
    }
    for index in 0..sent {
        if let Err(at) = rejected.binary_search_by_key(&index, |event| event.index) {
            let message = "not among the events that Brevo counted as accepted".to_owned();
            rejected.insert(at, RejectedEvent { index, message });
        }
    }
    BatchOutcome::Taken { rejected, unnamed: 0 }
}

/// The events that the answer names, in order, each once; indices that were never sent mean nothing.
fn named(errors: &BatchErrors, sent: usize) -> Vec<RejectedEvent> {
    let mut rejected = BTreeMap::new();
    for error in &errors.errors {
        for index in error.event_index.iter().filter(|index| **index < sent) {
            rejected.entry(*index).or_insert_with(|| cut(error.message.clone()));
        }
    }
    rejected.into_iter().map(|(index, message)| RejectedEvent { index, message }).collect()
}
