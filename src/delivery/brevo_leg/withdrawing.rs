//! Withdrawn consent at Brevo: what `on_consent_withdrawn` says is done to the contact.

use tower::ServiceExt as _;

use super::compose::address;
use super::contacts::{Payment, Writer};
use crate::brevo::identifiers::ContactRef;
use crate::brevo::outcome::{self, UpdateOutcome};
use crate::brevo::wire::{Contact as BrevoContact, ContactUpdate};
use crate::config::OnConsentWithdrawn;
use crate::delivery::LegError;
use crate::people::person::Person;

/// What a withdrawal is about: whose, and what is to be done.
#[derive(Clone, Debug)]
pub(super) struct Withdrawal {
    pub person: Person,
    pub how: OnConsentWithdrawn,
}

/// How a withdrawal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    NoContact,
    /// The contact is there as before, and mailed no more.
    Kept,
    Deleted,
}

impl Writer {
    /// Carries a withdrawal out. A contact that Brevo does not have needs nothing done; only Brevo's own word counts for
    /// that, and without it the same is tried again.
    pub(super) async fn withdraw(&self, id: &str, withdrawal: &Withdrawal) -> Result<Payment, LegError> {
        let person = &withdrawal.person;
        // A contact of before this relay is known by its address alone.
        let at = address(id, &person.contact)
            .or(person.email.as_ref().map(ContactRef::Email))
            .or(person.phone.as_ref().map(ContactRef::Phone));
        let Some(at) = at else { return Ok(Payment::Withdrawn(Withdrawn::NoContact)) };
        match withdrawal.how {
            OnConsentWithdrawn::Blocklist => self.block(at).await,
            OnConsentWithdrawn::RemoveFromLists => match self.find(at).await? {
                Ok(Some(contact)) if !contact.list_ids.is_empty() => {
                    let update = ContactUpdate { unlink_list_ids: contact.list_ids, ..ContactUpdate::default() };
                    self.change(at, &update).await
                }
                Ok(Some(_)) => Ok(Payment::Withdrawn(Withdrawn::Kept)),
                Ok(None) => Ok(Payment::Withdrawn(Withdrawn::NoContact)),
                Err(payment) => Ok(payment),
            },
            OnConsentWithdrawn::DeleteContact => match self.find(at).await? {
                Ok(Some(contact)) if is_anothers(&contact, id) => self.block(at).await,
                Ok(Some(_)) => self.delete(at).await,
                Ok(None) => Ok(Payment::Withdrawn(Withdrawn::NoContact)),
                Err(payment) => Ok(payment),
            },
        }
    }

    async fn block(&self, at: ContactRef<'_>) -> Result<Payment, LegError> {
        let blocked = Some(true);
        let update = ContactUpdate { email_blacklisted: blocked, sms_blacklisted: blocked, ..ContactUpdate::default() };
        self.change(at, &update).await
    }

    async fn change(&self, at: ContactRef<'_>, update: &ContactUpdate) -> Result<Payment, LegError> {
        let answer = self.stack.clone().oneshot(self.calls.update_contact(at, update)).await?;
        if outcome::lost_its_way(&answer) {
            return Ok(Payment::TooEarly);
        }
        Ok(match outcome::update(&answer) {
            UpdateOutcome::Updated => Payment::Withdrawn(Withdrawn::Kept),
            UpdateOutcome::NotFound => Payment::Withdrawn(Withdrawn::NoContact),
            UpdateOutcome::TooEarly => Payment::TooEarly,
            UpdateOutcome::Conflict { refusal, .. } | UpdateOutcome::Invalid(refusal) => Payment::Refused(refusal),
        })
    }

    async fn delete(&self, at: ContactRef<'_>) -> Result<Payment, LegError> {
        let answer = self.stack.clone().oneshot(self.calls.delete_contact(at)).await?;
        if outcome::lost_its_way(&answer) {
            return Ok(Payment::TooEarly);
        }
        Ok(match outcome::update(&answer) {
            UpdateOutcome::Updated | UpdateOutcome::NotFound => Payment::Withdrawn(Withdrawn::Deleted),
            UpdateOutcome::TooEarly => Payment::TooEarly,
            // A registered user of the account cannot be deleted (contract §3.4), but need not be mailed.
            UpdateOutcome::Conflict { refusal, .. } | UpdateOutcome::Invalid(refusal) if refusal.status == 405 => {
                self.block(at).await?
            }
            UpdateOutcome::Conflict { refusal, .. } | UpdateOutcome::Invalid(refusal) => Payment::Refused(refusal),
        })
    }
}

/// Two people may share an address. The contact of another one is not deleted, but its address is not written to either:
/// an answer that came from that address counts for it.
fn is_anothers(contact: &BrevoContact, id: &str) -> bool {
    contact.attributes.get("EXT_ID").and_then(|value| value.as_str()).is_some_and(|owner| owner != id)
}
