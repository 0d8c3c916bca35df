//! Answers to list changes, attribute creation and imports (contract §3.6, §4.2, §5).

use super::Refusal;
use crate::brevo::identifiers::ProcessId;
use crate::brevo::wire::{ListChange, ListChanged, ProcessStarted};
use crate::vendor::VendorAnswer;

#[derive(Clone, Debug, PartialEq)]
pub enum ListOutcome {
    /// `changed` members were added or removed. `unchanged` were in (or out) already, or are no contacts: as Brevo names
    /// them, by the identifier that was sent.
    Changed {
        changed: usize,
        unchanged: Vec<String>,
    },
    /// Nobody changed: all were in (or out) already, or are unknown, or are misspelt. The answer does not tell these
    /// apart, so success has to be checked by looking (contract §4.2).
    NothingChanged,
    /// A success that names nobody, neither changed nor unchanged (what a change of everyone answers, or `{}`): it says
    /// that the call was taken, and not what came of it.
    Unsaid,
    UnknownList,
    Invalid(Refusal),
}

/// `POST /contacts/lists/{listId}/contacts/add` and `.../remove`.
pub fn list_change(answer: &VendorAnswer) -> ListOutcome {
    let refusal = Refusal::read(answer);
    match refusal.status {
        200..=299 => match serde_json::from_slice(&answer.body) {
            Ok(ListChanged::Wrapped { contacts } | ListChanged::Bare(contacts)) => changed(contacts),
            Err(_) => ListOutcome::Invalid(refusal),
        },
        // Without Brevo's own words it is the way there that was not found.
        404 if !refusal.code.is_empty() => ListOutcome::UnknownList,
        // Its code is that of any other invalid parameter: only the text says it.
        400 if says_nobody_changed(&refusal.message) => ListOutcome::NothingChanged,
        _ => ListOutcome::Invalid(refusal),
    }
}

fn says_nobody_changed(message: &str) -> bool {
    let message = message.to_lowercase();
    message.contains("already in list") || message.contains("already removed from list")
}

fn changed(change: ListChange) -> ListOutcome {
    match (change.success.is_empty(), change.failure.is_empty()) {
        (true, true) => return ListOutcome::Unsaid,
        (true, false) => return ListOutcome::NothingChanged,
        (false, _) => {}
    }
    let name = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    ListOutcome::Changed { changed: change.success.len(), unchanged: change.failure.into_iter().map(name).collect() }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeOutcome {
    Created,
    /// It exists already, or cannot be: two codes have been seen for the former, so read the attributes again
    /// (contract §1.2).
    ReadAgain(Refusal),
}

/// `POST /contacts/attributes/{category}/{name}`.
pub fn attribute_created(answer: &VendorAnswer) -> AttributeOutcome {
    if answer.status.is_success() {
        return AttributeOutcome::Created;
    }
    AttributeOutcome::ReadAgain(Refusal::read(answer))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// Accepted, not applied: the process says when.
    Started(ProcessId),
    /// Larger than Brevo takes: send in smaller parts.
    TooLarge,
    Refused(Refusal),
}

/// `POST /contacts/import`.
pub fn import(answer: &VendorAnswer) -> ImportOutcome {
    if answer.status.is_success() {
        return match serde_json::from_slice::<ProcessStarted>(&answer.body) {
            Ok(started) => ImportOutcome::Started(started.process_id),
            Err(_) => ImportOutcome::Refused(Refusal::read(answer)),
        };
    }
    match answer.status.as_u16() {
        413 => ImportOutcome::TooLarge,
        _ => ImportOutcome::Refused(Refusal::read(answer)),
    }
}
