//! Contacts that are to be let alone or to go: because their consent was withdrawn (`on_consent_withdrawn`), or because
//! their profile was deleted at Mixpanel (`on_profile_delete`).

use tower::ServiceExt as _;

use super::compose::{MAX_EXT_ID, address};
use super::contacts::{Payment, Writer};
use crate::brevo::identifiers::{ContactRef, Phone};
use crate::brevo::outcome::{self, UpdateOutcome};
use crate::brevo::wire::{Contact as BrevoContact, ContactUpdate};
use crate::config::OnConsentWithdrawn;
use crate::delivery::LegError;
use crate::people::blocklist::Blocklist;
use crate::people::identity::is_anonymous;
use crate::people::person::{Contact, Person};

/// What a withdrawal is about: whose, what is to be done, and why.
#[derive(Clone)]
pub(super) struct Withdrawal {
    pub person: Person,
    pub how: OnConsentWithdrawn,
    pub cause: Cause,
    pub blocklist: Blocklist,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Whatever cannot be done is replaced by what stops the mails.
    Consent,
    /// Only the profile's own contact is touched.
    ProfileDeletion,
}

/// How a withdrawal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// There is none that is the person's.
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
        // A contact of before this relay, or of before the person was forgotten, is known by what it may have.
        let guessed = person.contact == Contact::Unknown && may_own_a_contact(id);
        let ext_id = guessed.then_some(ContactRef::ExtId(id));
        let email = person.email.as_ref().map(ContactRef::Email);
        let phone = person.phone.as_ref().map(ContactRef::Phone);
        let ways = match address(id, &person.contact) {
            Some(known) => [Some(known), None, None],
            None => [ext_id, email, phone],
        };
        for at in ways.into_iter().flatten() {
            match self.withdraw_at(at, id, withdrawal).await? {
                Payment::Withdrawn(Withdrawn::NoContact) => {}
                // Not a form that Brevo knows an id by.
                Payment::Refused(refusal) if Some(at) == ext_id && refusal.status == 400 => {}
                done => return Ok(done),
            }
        }
        Ok(Payment::Withdrawn(Withdrawn::NoContact))
    }

    async fn withdraw_at(&self, at: ContactRef<'_>, id: &str, withdrawal: &Withdrawal) -> Result<Payment, LegError> {
        if withdrawal.how == OnConsentWithdrawn::Blocklist {
            return self.block(at).await;
        }
        let contact = match self.find(at).await? {
            Ok(Some(contact)) => contact,
            Ok(None) => return Ok(Payment::Withdrawn(Withdrawn::NoContact)),
            Err(payment) => return Ok(payment),
        };
        let anothers = is_anothers(&contact, id, &withdrawal.person);
        match (withdrawal.how, withdrawal.cause) {
            (_, Cause::ProfileDeletion) if anothers => Ok(Payment::Withdrawn(Withdrawn::NoContact)),
            (OnConsentWithdrawn::RemoveFromLists, _) if contact.list_ids.is_empty() => {
                Ok(Payment::Withdrawn(Withdrawn::Kept))
            }
            (OnConsentWithdrawn::RemoveFromLists, _) => {
                let update = ContactUpdate { unlink_list_ids: contact.list_ids, ..ContactUpdate::default() };
                self.change(at, &update).await
            }
            (OnConsentWithdrawn::DeleteContact, Cause::Consent) if anothers => self.block(at).await,
            (OnConsentWithdrawn::DeleteContact, _) => {
                // Before it is gone, and with it what says so.
                withdrawal.blocklist.remember(&blocklisted(&contact, &withdrawal.person)).await?;
                self.delete(at, withdrawal.cause).await
            }
            (OnConsentWithdrawn::Blocklist, _) => self.block(at).await,
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

    async fn delete(&self, at: ContactRef<'_>, cause: Cause) -> Result<Payment, LegError> {
        let answer = self.stack.clone().oneshot(self.calls.delete_contact(at)).await?;
        if outcome::lost_its_way(&answer) {
            return Ok(Payment::TooEarly);
        }
        Ok(match outcome::update(&answer) {
            UpdateOutcome::Updated | UpdateOutcome::NotFound => Payment::Withdrawn(Withdrawn::Deleted),
            UpdateOutcome::TooEarly => Payment::TooEarly,
            // A registered user of the account cannot be deleted (contract §3.4), but need not be mailed.
            UpdateOutcome::Conflict { refusal, .. } | UpdateOutcome::Invalid(refusal) if refusal.status == 405 => {
                match cause {
                    Cause::Consent => self.block(at).await?,
                    Cause::ProfileDeletion => Payment::Withdrawn(Withdrawn::NoContact),
                }
            }
            UpdateOutcome::Conflict { refusal, .. } | UpdateOutcome::Invalid(refusal) => Payment::Refused(refusal),
        })
    }
}

/// Whether Brevo may have a contact under this id that the relay does not know of. What a visitor's device is called is
/// no contact's id before they have an address.
pub(super) fn may_own_a_contact(id: &str) -> bool {
    id.len() <= MAX_EXT_ID && !is_anonymous(id)
}

/// Two people may share an address. The contact of another one is not deleted, but its address is not written to either:
/// an answer that came from that address counts for it.
fn is_anothers(contact: &BrevoContact, id: &str, person: &Person) -> bool {
    let known_as = match &person.contact {
        Contact::Known { known_as, .. } => known_as.as_deref(),
        Contact::Unknown => None,
    };
    let owner = contact.attributes.get("EXT_ID").and_then(|value| value.as_str()).filter(|owner| !owner.is_empty());
    owner.is_some_and(|owner| owner != id && Some(owner) != known_as)
}

/// What of the contact's has to come back blocklisted.
fn blocklisted(contact: &BrevoContact, person: &Person) -> Vec<String> {
    let mut addresses = Vec::new();
    if contact.email_blacklisted {
        addresses.extend(contact.email.as_deref().map(str::to_lowercase));
        addresses.extend(person.email.as_ref().map(|email| email.as_str().to_owned()));
    }
    if contact.sms_blacklisted {
        let digits = contact.attributes.get("SMS").and_then(|value| value.as_str());
        let number = |digits: &str| Phone::parse(&format!("+{}", digits.trim_start_matches('+'))).ok();
        addresses.extend(digits.and_then(number).or(person.phone.clone()).map(|phone| phone.to_string()));
    }
    addresses
}
