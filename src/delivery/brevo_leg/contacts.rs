//! Writing one contact: the calls that it may take, from the first try to a confirmed contact or a definite refusal.

use std::collections::BTreeSet;

use tower::ServiceExt as _;

use super::LegError;
use super::compose::{Write, address};
use super::withdrawing::Withdrawn;
use crate::brevo::calls::Calls;
use crate::brevo::coerce::Clearing;
use crate::brevo::identifiers::{ContactId, ContactRef, Email};
use crate::brevo::names::AttributeName;
use crate::brevo::outcome::{self, IdentifierKind, Refusal, UpdateOutcome, UpsertOutcome};
use crate::brevo::wire::Contact as BrevoContact;
use crate::people::blocklist::Blocked;
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
            _ if write.person.contact == Contact::Unknown => self.first(id, write.clone()).await?,
            _ => self.upsert(write.clone(), BTreeSet::new()).await?,
        };
        // One that was taken for new and was there has not been looked at before.
        let joined = self.clearing.is_none() && write.person.contact == Contact::Unknown && !write.clear.is_empty();
        match payment {
            Payment::Paid { contact, conflicts, kept_email, .. } if !filled.is_empty() => {
                let learned = self.verify_clearing(id, &contact, &write, &filled).await?;
                Ok(Payment::Paid { contact, conflicts, kept_email, learned })
            }
            Payment::Paid { contact, conflicts, kept_email, .. } if joined && !is_new(&contact) => {
                let learned = self.verify_clearing(id, &contact, &write, &write.clear).await?;
                // An empty text need not be what emptied it.
                let learned = learned.filter(|way| *way != Clearing::default());
                Ok(Payment::Paid { contact, conflicts, kept_email, learned })
            }
            other => Ok(other),
        }
    }

    fn clearing(&self) -> Clearing {
        self.clearing.unwrap_or_default()
    }

    /// The first write of a person is not allowed to update: an upsert would give a contact of this address or number our
    /// id, and one of our id this address, whoever they are. Two people may share them, another system may keep its own
    /// ids, and a new address resubscribes a blocklisted contact (contract §3.2). Most people are new, and one call is
    /// enough.
    async fn first(&self, id: &str, mut write: Write) -> Result<Payment, LegError> {
        let mut conflicts = BTreeSet::new();
        let identifiers = loop {
            let body = write.creation(self.clearing());
            let answer = self.call(self.calls.upsert_contact(&body)).await?;
            let identifiers = match outcome::upsert(&answer) {
                UpsertOutcome::Created(contact_id) => {
                    let contact = created(&write, contact_id);
                    return Ok(Payment::Paid { contact, conflicts, kept_email: false, learned: None });
                }
                UpsertOutcome::Conflict { identifiers, .. } => identifiers,
                UpsertOutcome::TooEarly => return Ok(Payment::TooEarly),
                UpsertOutcome::Misrouted(refusal) => return Ok(Payment::Misrouted(refusal)),
                // What a phone number spoils can be written without it, as an upsert finds out.
                UpsertOutcome::Updated | UpsertOutcome::Invalid(_) => return self.upsert(write, conflicts).await,
            };
            let known = [IdentifierKind::Email, IdentifierKind::ExtId].iter().any(|kind| identifiers.contains(kind));
            // The number is another's, and the rest is new: an upsert would take that contact for this person's.
            if known || identifiers.is_empty() || write.person.email.is_none() || !std::mem::take(&mut write.phone) {
                break identifiers;
            }
            conflicts.insert(IdentifierKind::Sms);
        };
        if write.person.email.is_none() || identifiers.is_empty() || identifiers.contains(&IdentifierKind::Email) {
            return self.join_owner(write, conflicts).await;
        }
        let at = write.ext_id.clone().unwrap_or_else(|| id.to_owned());
        match self.find(ContactRef::ExtId(&at)).await? {
            Ok(Some(contact)) => {
                let email = contact.email.as_deref().and_then(|email| Email::parse(email).ok());
                write.person.contact = Contact::known(email, true, None);
                self.update(ContactRef::ExtId(&at), &write, !contact.email_blacklisted).await
            }
            Ok(None) => self.upsert(write, conflicts).await,
            Err(payment) => Ok(payment),
        }
    }

    /// There is a contact with the person's address, or number where that is all they have. It is theirs too, but when it
    /// carries another's id that stays.
    async fn join_owner(&self, mut write: Write, mut conflicts: BTreeSet<IdentifierKind>) -> Result<Payment, LegError> {
        let (shared, owner) = match (&write.person.email, &write.person.phone) {
            (Some(email), _) => (IdentifierKind::Email, self.find(ContactRef::Email(email)).await?),
            (None, Some(phone)) => (IdentifierKind::Sms, self.find(ContactRef::Phone(phone)).await?),
            (None, None) => return self.upsert(write, conflicts).await,
        };
        match owner {
            Ok(Some(contact)) => {
                // It is not created, and whoever has subscribed it since stays so.
                write.blocklisted = Blocked::default();
                if write.ext_id.is_some() && is_anothers(&contact, &write) {
                    conflicts.insert(shared);
                    write.ext_id = None;
                }
            }
            Ok(None) => {}
            Err(payment) => return Ok(payment),
        }
        self.upsert(write, conflicts).await
    }

    /// The contact, or how the payment ends without an answer to that.
    pub(super) async fn find(&self, at: ContactRef<'_>) -> Result<Result<Option<BrevoContact>, Payment>, LegError> {
        let answer = self.call(self.calls.contact(at)).await?;
        if outcome::lost_its_way(&answer) {
            return Ok(Err(Payment::TooEarly));
        }
        Ok(match outcome::contact(&answer) {
            Ok(contact) => Ok(contact),
            Err(outcome::ReadError::Refused(Refusal { status: 409 | 425, .. }) | outcome::ReadError::Unreadable(_)) => {
                Err(Payment::TooEarly)
            }
            Err(outcome::ReadError::Refused(refusal) | outcome::ReadError::NotFound(refusal)) => {
                Err(Payment::Refused(refusal))
            }
        })
    }

    /// Identifiers that another contact owns are taken out one by one, and the rest is written: no merge is forced, since
    /// a merge deletes a contact with its history (contract §3.1).
    async fn upsert(&self, mut write: Write, mut conflicts: BTreeSet<IdentifierKind>) -> Result<Payment, LegError> {
        loop {
            let answer = self.call(self.calls.upsert_contact(&write.upsert(self.clearing()))).await?;
            match outcome::upsert(&answer) {
                // Somebody has deleted it at Brevo; what was written is only what was owed.
                UpsertOutcome::Created(_) if write.person.contact != Contact::Unknown => return Ok(Payment::Gone),
                UpsertOutcome::Created(id) => {
                    let contact = created(&write, id);
                    return Ok(Payment::Paid { contact, conflicts, kept_email: false, learned: None });
                }
                UpsertOutcome::Updated => {
                    let contact = write.confirmed(write.person.email.clone(), write.ext_id.is_some());
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

/// The contact that has just been made.
fn created(write: &Write, id: ContactId) -> Contact {
    let mut contact = write.confirmed(write.person.email.clone(), write.ext_id.is_some());
    if let Contact::Known { contact_id, .. } = &mut contact {
        *contact_id = Some(id);
    }
    contact
}

/// Whether the payment has made the contact, or has found it.
fn is_new(contact: &Contact) -> bool {
    matches!(contact, Contact::Known { contact_id: Some(_), .. })
}

/// Whether the contact carries an ext_id, and not the one that this write has.
fn is_anothers(contact: &BrevoContact, write: &Write) -> bool {
    let owner = contact.attributes.get("EXT_ID").and_then(|value| value.as_str()).filter(|owner| !owner.is_empty());
    owner.is_some_and(|owner| Some(owner) != write.ext_id.as_deref())
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
