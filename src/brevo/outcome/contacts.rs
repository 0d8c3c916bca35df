//! Answers to contact writes and reads (contract §3).

use std::collections::BTreeSet;

use super::{ReadError, Refusal, is_misrouted, read};
use crate::brevo::identifiers::ContactId;
use crate::brevo::wire::{Contact, Created, ErrorBody};
use crate::vendor::VendorAnswer;

/// An identifier that is unique in the account (contract §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentifierKind {
    Email,
    Sms,
    ExtId,
    Whatsapp,
    Landline,
}

impl IdentifierKind {
    pub const ALL: [IdentifierKind; 5] = [
        IdentifierKind::Email,
        IdentifierKind::Sms,
        IdentifierKind::ExtId,
        IdentifierKind::Whatsapp,
        IdentifierKind::Landline,
    ];

    const NAMES: [(&'static str, IdentifierKind); 5] = [
        ("email", IdentifierKind::Email),
        ("sms", IdentifierKind::Sms),
        ("ext_id", IdentifierKind::ExtId),
        ("whatsapp", IdentifierKind::Whatsapp),
        ("landline", IdentifierKind::Landline),
    ];

    /// From a name in `duplicate_identifiers`, or from a message that holds one.
    fn named_in(text: &str) -> impl Iterator<Item = Self> {
        let text = text.to_lowercase();
        Self::NAMES.into_iter().filter_map(move |(name, kind)| text.contains(name).then_some(kind))
    }

    pub fn label(self) -> &'static str {
        match self {
            IdentifierKind::Email => "email",
            IdentifierKind::Sms => "sms",
            IdentifierKind::ExtId => "ext_id",
            IdentifierKind::Whatsapp => "whatsapp",
            IdentifierKind::Landline => "landline",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpsertOutcome {
    Created(ContactId),
    /// Brevo does not say the id (contract §3.1).
    Updated,
    /// Another contact owns these; nothing was written. Empty where the answer does not say which.
    Conflict {
        identifiers: BTreeSet<IdentifierKind>,
        refusal: Refusal,
    },
    /// The contact is busy (425): the same again, a little later, for this contact alone.
    TooEarly,
    Invalid(Refusal),
    /// The endpoint is not there: hold the destination, not the contact.
    Misrouted(Refusal),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateOutcome {
    Updated,
    /// No contact has that identifier.
    NotFound,
    Conflict {
        identifiers: BTreeSet<IdentifierKind>,
        refusal: Refusal,
    },
    TooEarly,
    Invalid(Refusal),
}

/// `POST /contacts`.
pub fn upsert(answer: &VendorAnswer) -> UpsertOutcome {
    if answer.status.is_success() {
        let created = serde_json::from_slice::<Created<ContactId>>(&answer.body);
        return created.map_or(UpsertOutcome::Updated, |created| UpsertOutcome::Created(created.id));
    }
    if is_misrouted(answer) {
        return UpsertOutcome::Misrouted(Refusal::read(answer));
    }
    match refused(answer) {
        Refused::TooEarly => UpsertOutcome::TooEarly,
        Refused::Conflict { identifiers, refusal } => UpsertOutcome::Conflict { identifiers, refusal },
        Refused::Invalid(refusal) => UpsertOutcome::Invalid(refusal),
    }
}

/// `PUT /contacts/{identifier}`.
pub fn update(answer: &VendorAnswer) -> UpdateOutcome {
    if answer.status.is_success() {
        return UpdateOutcome::Updated;
    }
    if answer.status == http::StatusCode::NOT_FOUND {
        return UpdateOutcome::NotFound;
    }
    match refused(answer) {
        Refused::TooEarly => UpdateOutcome::TooEarly,
        Refused::Conflict { identifiers, refusal } => UpdateOutcome::Conflict { identifiers, refusal },
        Refused::Invalid(refusal) => UpdateOutcome::Invalid(refusal),
    }
}

/// `GET /contacts/{identifier}`: `None` when there is no such contact.
pub fn contact(answer: &VendorAnswer) -> Result<Option<Contact>, ReadError> {
    match read(answer) {
        Ok(contact) => Ok(Some(contact)),
        Err(ReadError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

enum Refused {
    TooEarly,
    Conflict { identifiers: BTreeSet<IdentifierKind>, refusal: Refusal },
    Invalid(Refusal),
}

/// A conflict is told by its metadata. Its code has changed from `duplicate_parameter` to `invalid_parameter` without
/// notice, and older answers carry neither metadata nor a code of their own: then the text has to do (contract §1.2).
fn refused(answer: &VendorAnswer) -> Refused {
    let refusal = Refusal::read(answer);
    // 409 `duplicate_request`: the same write is under way.
    if matches!(refusal.status, 409 | 425) || refusal.code == "account_in_process" {
        return Refused::TooEarly;
    }
    let error: ErrorBody = serde_json::from_slice(&answer.body).unwrap_or_default();
    let named = error.metadata.unwrap_or_default().duplicate_identifiers;
    if !named.is_empty() {
        let identifiers = named.iter().flat_map(|name| IdentifierKind::named_in(name)).collect();
        return Refused::Conflict { identifiers, refusal };
    }
    let message = refusal.message.to_lowercase();
    if refusal.code == "duplicate_parameter"
        || message.contains("already associated with another contact")
        || message.contains("contact already exist")
    {
        let identifiers = IdentifierKind::named_in(&refusal.message).collect();
        return Refused::Conflict { identifiers, refusal };
    }
    Refused::Invalid(refusal)
}
