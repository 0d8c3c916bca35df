//! Profiles that were deleted at Mixpanel, where `on_profile_delete` wants something done about the contact.
//!
//! The deletion is a debt of the person's, in front of everything that came later: what waits for them is let go, rule
//! `profile_delete`, calls under way are waited for, and until Brevo has been told newer events stand on the shelf and
//! newer values are not written. A deleted contact takes address and number with it, so that an event which comes late
//! does not bring it back: it waits on the shelf, as a stranger's does, until somebody says anew who that is.

use super::contacts::Writer;
use super::lines::Line;
use super::receiving::is_pilot;
use super::withdrawing::{Cause, Withdrawal, Withdrawn};
use super::{BrevoLeg, Done};
use crate::brevo::outcome::Refusal;
use crate::config::{BrevoMode, OnConsentWithdrawn, OnProfileDelete};
use crate::delivery::books::Item;
use crate::delivery::history::{Outcome, Span};
use crate::people::blocklist::Blocklist;
use crate::people::company::memberships::Memberships;
use crate::people::debt::{self, Debt};
use crate::people::person::{Contact, Folded, Identifiers, Person, ProfileDeletion};
use crate::people::roster::PersonId;
use crate::record::Position;
use crate::settlement::SkipRule;

impl BrevoLeg {
    /// Whether Brevo is to be told that this person's profile was deleted.
    pub(super) fn owes_deletion(&self, id: &PersonId) -> bool {
        self.roster.get(id).is_some_and(|resident| self.is_told_of_deletion(&resident.person))
    }

    fn is_told_of_deletion(&self, person: &Person) -> bool {
        let Some(deletion) = &person.deletion else { return false };
        let confirmed = match &person.contact {
            Contact::Known { email, .. } => email.as_ref(),
            Contact::Unknown => None,
        };
        let email = deletion.identifiers.email.as_ref().or(confirmed);
        let (mode, pilots) = (self.parts.settings.mode, &self.parts.settings.pilot_emails);
        self.sends() && (mode != BrevoMode::Pilot || email.is_some_and(|email| is_pilot(pilots, email)))
    }

    /// Takes an update that has deleted the profile, and perhaps begun a new one. False when nothing is done about the
    /// contact, and the update is like any other.
    pub(super) fn take_deletion(&mut self, id: &PersonId, item: &Item, folded: &mut Folded) -> bool {
        let Some(identifiers) = folded.deleted.take() else { return false };
        if self.parts.mapping.on_profile_delete == OnProfileDelete::Keep {
            return false;
        }
        let (at, received_at) = (item.position, item.record.received_at);
        let person = &mut self.roster.edit(id).person;
        let before = person.deletion.take();
        let identifiers =
            before.as_ref().map_or_else(Identifiers::default, |it| it.identifiers.clone()).or(identifiers);
        person.deletion = Some(ProfileDeletion { at, received_at, identifiers });
        if !self.owes_deletion(id) {
            self.roster.edit(id).person.deletion = before;
            return false;
        }
        self.let_all_go(id, at);
        self.parts.books.hand_over(item.ticket, Outcome::Owed);
        self.owe(id, Debt::of_folded(at, received_at));
        true
    }

    /// Nothing that waits for this person is sent any more.
    fn let_all_go(&mut self, id: &PersonId, at: Position) {
        const RULE: SkipRule = SkipRule::ProfileDelete;
        if let Some(debt) = self.take_debt(id) {
            self.parts.books.skip_owed(id, Span::from(&debt), RULE);
        }
        self.let_waiting_go(id, RULE);
        let waiting: Vec<_> = self.queue(id).events.drain(..).collect();
        for event in waiting {
            self.settle_event_skipped(id, &event, RULE);
        }
        let shelf = &mut self.roster.edit(id).person.shelf;
        shelf.let_go = (!shelf.is_empty()).then_some(at);
    }

    /// Lists a person whose contact is to go, as soon as nothing is under way that could bring it back.
    pub(super) fn list_deletion(&mut self, id: &PersonId) {
        if self.is_being_told(id) || !self.owes_deletion(id) {
            return;
        }
        let queue = self.queue(id);
        if queue.may_part() && !queue.listed_to_pay_first && queue.too_early == 0 {
            queue.listed_to_pay = true;
            queue.listed_to_pay_first = true;
            self.to_pay_singly.first.push_front(id.clone());
        }
    }

    /// The contact of a person in line is to go.
    pub(super) fn start_deletion(&mut self, id: &PersonId) {
        let how = match self.parts.mapping.on_profile_delete {
            OnProfileDelete::RemoveFromLists => Some(OnConsentWithdrawn::RemoveFromLists),
            OnProfileDelete::DeleteContact => Some(OnConsentWithdrawn::DeleteContact),
            // Set since: the contact stays as it is.
            OnProfileDelete::Keep => None,
        };
        let ready = self.queue(id).may_part();
        let owed = self.roster.get(id).and_then(|resident| resident.person.deletion.clone());
        let (Some(deletion), Some(vendor), true) = (owed, &self.parts.vendor, ready) else {
            return self.queue(id).leave_line();
        };
        let writer = Writer { calls: vendor.calls.clone(), stack: vendor.stack.clone(), clearing: self.clearing };
        // What the events of before have asked for is not to be made of the lists.
        self.let_lists_go(id);
        let resident = self.roster.edit(id);
        let owed = resident.debt.take().unwrap_or_else(Debt::nothing);
        let (own, rest) = owed.without(deletion.at, deletion.received_at);
        resident.paying = debt::join(resident.paying.take(), Some(own));
        resident.debt = rest;
        let Identifiers { email, phone } = deletion.identifiers;
        let person = Person { email, phone, ..resident.person.clone() };
        let queue = self.queue(id);
        queue.begin_payment();
        queue.deleting = Some(deletion.at);
        let Some(how) = how else { return self.deleted(id, deletion.at, Withdrawn::NoContact) };
        let withdrawal = Withdrawal { person, how, cause: Cause::ProfileDeletion, blocklist: self.blocklist() };
        self.payments_under_way.begin(Line::First);
        let id = id.clone();
        self.spawn(Box::pin(async move {
            let payment = writer.withdraw(&id, &withdrawal).await?;
            Ok(Done::Payment(id, payment))
        }));
    }

    pub(super) fn blocklist(&self) -> Blocklist {
        let (state, clock) = (self.parts.state.clone(), self.parts.clock.clone());
        Blocklist { state, tombstones: self.parts.books.tombstones(), clock }
    }

    /// Brevo has been told of the deletion at `at`.
    pub(super) fn deleted(&mut self, id: &PersonId, at: Position, how: Withdrawn) {
        let person = &mut self.roster.edit(id).person;
        // Another one may have come meanwhile.
        person.deletion.take_if(|deletion| deletion.at == at);
        if how != Withdrawn::Kept {
            person.contact = Contact::Unknown;
            person.groups = Memberships::default();
        }
        self.change_lists(id, |lists| lists.forget_confirmed());
        let paid = self.take_paid(id);
        self.settle_told(id, &paid, how, SkipRule::ProfileDelete);
        let queue = self.queue(id);
        queue.alone = false;
        queue.end_payment(true);
        self.advance(id);
    }

    /// Not asked again: the deletion becomes a dead letter, for people to look at.
    pub(super) fn deletion_refused(&mut self, id: &PersonId, at: Position, refusal: &Refusal) {
        self.roster.edit(id).person.deletion.take_if(|deletion| deletion.at == at);
        tracing::error!(%refusal, "Brevo does not do what on_profile_delete says; see its dead letter");
    }
}
