//! Writing one contact: the calls that it may take, from the first try to a confirmed contact or a definite refusal.

use std::collections::BTreeSet;

use tower::ServiceExt as _;

use super::LegError;
use super::compose::{Write, address};
use super::withdrawing::Withdrawn;
use crate::brevo::calls::Calls;
use crate::brevo::coerce::Clearing;
use crate::brevo::identifiers::{ContactRef, Email};
use crate::brevo::names::AttributeName;
use crate::brevo::outcome::{self, IdentifierKind, Refusal, UpdateOutcome, UpsertOutcome};
use crate::brevo::wire::Contact as BrevoContact;
use crate::people::person::Contact;
use crate::vendor::VendorRequest;
use crate::vendor::stack::Stack;

/// What became of a write.
#[derive(Debug, PartialEq)]
pub enum Payment {
    Paid {
        contact: Contact,
        /// Identifiers that belong to another contact and were left out.
        conflicts: BTreeSet<IdentifierKind>,
        /// A new address was kept back, because changing it would resubscribe a blocklisted contact (contract §3.2).
        kept_email: bool,
        /// Which way of emptying an attribute was seen to work.
        learned: Option<Clearing>,
    },
    /// Consent is withdrawn at Brevo, where there was a contact.
    Withdrawn(Withdrawn),
    /// The contact is busy: the same again a little later, for this person alone.
    TooEarly,
    /// Brevo does not know the contact any more: it has to be written as a new one, with everything that is known.
    Gone,
    Refused(Refusal),
    /// The endpoint is not there: hold the destination.
    Misrouted(Refusal),
}

/// What contact writes need.
#[derive(Clone)]
pub struct Writer {
    pub calls: Calls,
    pub stack: Stack,
    /// How the account empties attributes, once that is known.
    pub clearing: Option<Clearing>,
}

impl Writer {
    async fn call(&self, request: VendorRequest) -> Result<crate::vendor::VendorAnswer, LegError> {
        Ok(self.stack.clone().oneshot(request).await?)
    }

    /// Writes the contact of the person who is `id` at Mixpanel.
    pub async fn pay(&self, id: &str, write: Write) -> Result<Payment, LegError> {
        let filled = self.filled(id, &write).await?;
        let payment = match address(id, &write.person.contact) {
            Some(at) if write.email_change() => self.change_email(at, &write).await?,
            // Without the address that Brevo has, an upsert would have to match on the ext_id alone.
            Some(at) if write.email_differs() || write.person.email.is_none() => self.update(at, &write, false).await?,
            _ => self.upsert(write.clone()).await?,
        };
        match payment {
            Payment::Paid { contact, conflicts, kept_email, .. } if !filled.is_empty() => {
                let learned = self.verify_clearing(id, &contact, &write, &filled).await?;
                Ok(Payment::Paid { contact, conflicts, kept_email, learned })
            }
            other => Ok(other),
        }
    }

    fn clearing(&self) -> Clearing {
        self.clearing.unwrap_or_default()
    }

    /// Identifiers that another contact owns are taken out one by one, and the rest is written: no merge is forced, since
    /// a merge deletes a contact with its history (contract §3.1).
    async fn upsert(&self, mut write: Write) -> Result<Payment, LegError> {
        let mut conflicts = BTreeSet::new();
        loop {
            let answer = self.call(self.calls.upsert_contact(&write.upsert(self.clearing()))).await?;
            match outcome::upsert(&answer) {
                // Somebody has deleted it at Brevo; what was written is only what was owed.
                UpsertOutcome::Created(_) if write.person.contact != Contact::Unknown => return Ok(Payment::Gone),
                outcome @ (UpsertOutcome::Created(_) | UpsertOutcome::Updated) => {
                    let mut contact = write.confirmed(write.person.email.clone(), write.ext_id.is_some());
                    if let (UpsertOutcome::Created(id), Contact::Known { contact_id, .. }) = (outcome, &mut contact) {
                        *contact_id = Some(id);
                    }
                    return Ok(Payment::Paid { contact, conflicts, kept_email: false, learned: None });
                }
                UpsertOutcome::Conflict { identifiers, refusal } => {
                    if !give_up_one(&mut write, &identifiers, &mut conflicts) {
                        return Ok(Payment::Refused(refusal));
                    }
                }
                UpsertOutcome::TooEarly => return Ok(Payment::TooEarly),
                // A phone number that Brevo does not like refuses the whole write; the rest of it is still right.
                UpsertOutcome::Invalid(refusal) => {
                    if !(write.person.email.is_some() && std::mem::take(&mut write.phone)) {
                        return Ok(Payment::Refused(refusal));
                    }
                }
                UpsertOutcome::Misrouted(refusal) => return Ok(Payment::Misrouted(refusal)),
            }
        }
    }

    /// Changing the address of a blocklisted contact would resubscribe it (contract §3.2): such a contact keeps its old
    /// one, and everything else is written.
    async fn change_email(&self, at: ContactRef<'_>, write: &Write) -> Result<Payment, LegError> {
        let found = outcome::contact(&self.call(self.calls.contact(at)).await?);
        match found {
            Ok(Some(contact)) => self.update(at, write, !contact.email_blacklisted).await,
            Ok(None) => Ok(Payment::Gone),
            Err(outcome::ReadError::Refused(refusal)) if matches!(refusal.status, 409 | 425) => Ok(Payment::TooEarly),
            Err(outcome::ReadError::Refused(refusal) | outcome::ReadError::NotFound(refusal)) => {
                Ok(Payment::Refused(refusal))
            }
            Err(outcome::ReadError::Unreadable(_)) => Ok(Payment::TooEarly),
        }
    }

    async fn update(&self, at: ContactRef<'_>, write: &Write, change_email: bool) -> Result<Payment, LegError> {
        let mut write = write.clone();
        let mut change_email = change_email && write.email_change();
        let kept_email = write.email_change() && !change_email;
        let mut conflicts = BTreeSet::new();
        loop {
            let body = write.update(self.clearing(), change_email);
            let answer = self.call(self.calls.update_contact(at, &body)).await?;
            match outcome::update(&answer) {
                UpdateOutcome::Updated => {
                    let email = if change_email { write.person.email.clone() } else { known_email(&write) };
                    let contact = write.confirmed(email, matches!(at, ContactRef::ExtId(_)));
                    return Ok(Payment::Paid { contact, conflicts, kept_email, learned: None });
                }
                UpdateOutcome::NotFound => return Ok(Payment::Gone),
                UpdateOutcome::Conflict { identifiers, refusal } => {
                    // It keeps the id that it has.
                    if write.renames() && (identifiers.is_empty() || identifiers.contains(&IdentifierKind::ExtId)) {
                        write.ext_id = None;
                        conflicts.insert(IdentifierKind::ExtId);
                        continue;
                    }
                    let about_email = identifiers.contains(&IdentifierKind::Email) || identifiers.is_empty();
                    if about_email && std::mem::take(&mut change_email) {
                        conflicts.insert(IdentifierKind::Email);
                    } else if std::mem::take(&mut write.phone) {
                        conflicts.insert(IdentifierKind::Sms);
                    } else {
                        return Ok(Payment::Refused(refusal));
                    }
                }
                UpdateOutcome::TooEarly => return Ok(Payment::TooEarly),
                UpdateOutcome::Invalid(refusal) => {
                    if !std::mem::take(&mut write.phone) {
                        return Ok(Payment::Refused(refusal));
                    }
                }
            }
        }
    }

    /// Of the attributes to be emptied, those that hold something, as long as it is not known how the account empties
    /// them: only they can show whether a way has worked.
    async fn filled(&self, id: &str, write: &Write) -> Result<Vec<AttributeName>, LegError> {
        if write.clear.is_empty() || self.clearing.is_some() {
            return Ok(Vec::new());
        }
        let filled = |found: BrevoContact| write.clear.iter().filter(|name| !is_empty(&found, name)).cloned().collect();
        Ok(self.look(id, &write.person.contact).await?.map(filled).unwrap_or_default())
    }

    async fn look(&self, id: &str, contact: &Contact) -> Result<Option<BrevoContact>, LegError> {
        let Some(at) = address(id, contact) else { return Ok(None) };
        Ok(outcome::contact(&self.call(self.calls.contact(at)).await?).unwrap_or_default())
    }

    /// Whether null or an empty text empties an attribute is unconfirmed (contract §3.3): the first time, the contact is
    /// read back, the other way is tried where the first did nothing, and the way that was seen to work is remembered.
    async fn verify_clearing(
        &self,
        id: &str,
        contact: &Contact,
        write: &Write,
        filled: &[AttributeName],
    ) -> Result<Option<Clearing>, LegError> {
        let emptied = |found: BrevoContact| filled.iter().all(|name| is_empty(&found, name));
        if self.look(id, contact).await?.is_some_and(emptied) {
            return Ok(Some(Clearing::EmptyString));
        }
        let Some(at) = address(id, contact) else { return Ok(None) };
        let body = write.update(Clearing::Null, false);
        self.call(self.calls.update_contact(at, &body)).await?;
        Ok(self.look(id, contact).await?.is_some_and(emptied).then_some(Clearing::Null))
    }
}

fn known_email(write: &Write) -> Option<Email> {
    match &write.person.contact {
        Contact::Known { email, .. } => email.clone(),
        Contact::Unknown => None,
    }
}

fn is_empty(contact: &BrevoContact, name: &AttributeName) -> bool {
    match contact.attributes.get(name.as_str()) {
        None | Some(serde_json::Value::Null) => true,
        Some(serde_json::Value::String(text)) => text.is_empty(),
        Some(_) => false,
    }
}

/// Takes one identifier out of the write: a phone number that another contact owns, or our id on a contact that is
/// another's or has another id. False when there is none left to take out.
fn give_up_one(
    write: &mut Write,
    identifiers: &BTreeSet<IdentifierKind>,
    conflicts: &mut BTreeSet<IdentifierKind>,
) -> bool {
    let phones = [IdentifierKind::Sms, IdentifierKind::Whatsapp, IdentifierKind::Landline];
    let about_phone = identifiers.is_empty() || phones.iter().any(|kind| identifiers.contains(kind));
    let addressed_otherwise = write.person.email.is_some() || write.ext_id.is_some();
    if about_phone && write.phone && addressed_otherwise {
        write.phone = false;
        conflicts.insert(IdentifierKind::Sms);
        return true;
    }
    if write.ext_id.is_some() && (write.person.email.is_some() || write.phone) {
        write.ext_id = None;
        conflicts.insert(IdentifierKind::ExtId);
        return true;
    }
    false
}
