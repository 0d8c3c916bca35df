//! Consent: whose records may go to Brevo at all (`privacy.consent`).
//!
//! The answer is folded like any other value of a person, mapped or not, and an absent one is a no, whether it is known to
//! be absent or not known yet. It is asked for when a record is read, which is in the order of acceptance, and again before
//! anything is sent. A no means that records are skipped, and never wait: what waits when it comes is let go, so an answer
//! given later brings no old record back. The profile itself is kept, and a yes makes all of it owed.

use super::contacts::Writer;
use super::lines::Line;
use super::queue::Release;
use super::receiving::in_pilot;
use super::withdrawing::{Cause, Withdrawal, Withdrawn, may_own_a_contact};
use super::{BaseSource, BrevoLeg, Done};
use crate::brevo::outcome::Refusal;
use crate::config::BrevoMode;
use crate::delivery::books::Item;
use crate::delivery::history::{Outcome, Span};
use crate::people::debt::Debt;
use crate::people::identity::is_anonymous;
use crate::people::person::{Consent, Contact, Folded, Identifiers};
use crate::people::roster::PersonId;
use crate::record::Kind;
use crate::settlement::SkipRule;

/// What an update means for a person's consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is no rule, or they have agreed before.
    Allowed,
    /// They agree, and did not before.
    Given,
    /// They have not agreed.
    Withheld,
    /// They do not agree any more, or say so for the first time: Brevo may have them from before this relay.
    Withdrawn,
}

/// What was known of a person's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Unknown,
    No,
    Yes,
}

impl BrevoLeg {
    pub(super) fn answer(&self, id: &PersonId) -> Answer {
        let Some(rule) = &self.parts.mapping.consent else { return Answer::Yes };
        match self
            .roster
            .get(&self.roster.canonical(id))
            .and_then(|resident| resident.person.attributes.get(&rule.name))
        {
            None => Answer::Unknown,
            answer if rule.given(answer) => Answer::Yes,
            Some(_) => Answer::No,
        }
    }

    /// Whether Brevo may get nothing of this person.
    pub(super) fn withheld(&self, id: &PersonId) -> bool {
        self.answer(id) != Answer::Yes
    }

    /// Somebody who has said who they are, and of whose answer nothing is known, may have given it before this relay was
    /// there: Mixpanel is asked, in bulk, where it has the answer as the app sent it. What comes meanwhile is skipped, as
    /// of anybody who has not agreed.
    pub(super) fn ask_for_consent(&mut self, id: &PersonId) {
        let Some(rule) = &self.parts.mapping.consent else { return };
        let answers = match &self.parts.bases {
            BaseSource::Mixpanel(source) => source.properties.contains(&rule.property),
            // It cannot tell what it is never told.
            BaseSource::Brevo => false,
        };
        let name = rule.name.clone();
        if !answers || is_anonymous(id) || self.answer(id) != Answer::Unknown {
            return;
        }
        if self.roster.get(id).is_some_and(|resident| resident.person.unknown.holds(&name)) {
            return;
        }
        let seen_from = self.bases.seen_from();
        self.roster.edit(id).person.unknown.ask(name, seen_from);
        self.base_wanted();
    }

    /// What an update that has been folded means, where the answer was `before`. A deleted profile has no answer any more;
    /// what becomes of its contact is said by `on_profile_delete`.
    pub(super) fn consent_after(&mut self, id: &PersonId, before: Answer, folded: &Folded, deletes: bool) -> Turn {
        let Some(rule) = &self.parts.mapping.consent else { return Turn::Allowed };
        let said = folded.attributes.contains(&rule.name) && !deletes;
        match (before, self.answer(id)) {
            (Answer::Yes, Answer::Yes) => Turn::Allowed,
            (Answer::No | Answer::Unknown, Answer::Yes) => Turn::Given,
            (Answer::Yes | Answer::Unknown, Answer::No | Answer::Unknown) if said => Turn::Withdrawn,
            (_, Answer::No | Answer::Unknown) => Turn::Withheld,
        }
    }

    /// Brevo was told nothing while there was no consent, so it is owed all that is known.
    pub(super) fn owe_everything(&mut self, id: &PersonId, folded: &mut Folded) {
        let person = &mut self.roster.edit(id).person;
        person.consent = Consent::default();
        // What Mixpanel was found not to have says nothing of what Brevo has.
        let known = person.attributes.iter().filter(|(name, value)| !name.is_kept_back() && person.says(name, value));
        folded.attributes = known.map(|(name, _)| name.clone()).collect();
        folded.identifiers = true;
    }

    /// The person does not agree any more, as `item` says: it is settled when Brevo has been told, ahead of everything
    /// else of theirs.
    pub(super) fn withdraw(&mut self, id: &PersonId, item: Item) {
        let (mode, pilots) = (self.parts.settings.mode, &self.parts.settings.pilot_emails);
        let resident = self.roster.edit(id);
        let known =
            resident.person.addressable() || resident.person.contact != Contact::Unknown || may_own_a_contact(id);
        let told =
            self.parts.vendor.is_some() && mode != BrevoMode::Observe && in_pilot(mode, pilots, &resident.person);
        if !(known && told) {
            self.parts.books.skip(item.ticket, SkipRule::NoConsent);
            return self.refuse(id);
        }
        self.skip_debt(id);
        self.roster.edit(id).person.consent.withdrawal = true;
        self.parts.books.hand_over(item.ticket, Outcome::Owed);
        self.owe(id, Debt::of_folded(item.position, item.record.received_at));
        self.refuse(id);
    }

    /// What is owed, under no call yet, is owed no more.
    fn skip_debt(&mut self, id: &PersonId) {
        if let Some(debt) = self.take_debt(id) {
            self.parts.books.skip_owed(id, Span::from(&debt), SkipRule::NoConsent);
        }
    }

    /// Lets go of everything that waits for a person who does not agree, and lists them where Brevo is to be told. Called
    /// in place of [`Self::advance`].
    pub(super) fn refuse(&mut self, id: &PersonId) {
        let withdrawal = self.roster.edit(id).person.consent.withdrawal;
        self.roster.edit(id).person.consent.withheld = true;
        if !withdrawal && !self.owes_deletion(id) {
            self.skip_debt(id);
        }
        self.let_waiting_go(id, SkipRule::NoConsent);
        self.let_lists_go(id);
        let waiting: Vec<_> = self.queue(id).events.drain(..).collect();
        for event in waiting {
            self.settle_event_skipped(id, &event, SkipRule::NoConsent);
        }
        // While somebody is being joined, what is theirs comes to this shelf, and nothing leaves it.
        let joining = self.is_joining(id) || self.roster.is_forward(id);
        let lets_go = self.lets_go(id);
        let shelf_empty = self.roster.get(id).is_none_or(|resident| resident.person.shelf.is_empty());
        let (durable_page, may_be_told) = (self.durable_page, self.is_in_pilot(id) && !self.is_being_told(id));
        let queue = self.queue(id);
        if withdrawal && may_be_told && !joining && !queue.listed_to_pay_first && queue.too_early == 0 {
            queue.listed_to_pay = true;
            queue.listed_to_pay_first = true;
            self.to_pay_singly.first.push_front(id.clone());
        }
        self.list_deletion(id);
        let queue = self.queue(id);
        if !shelf_empty && (!joining || lets_go) && !queue.in_call && queue.release == Release::Idle {
            queue.release = Release::Wanted;
            let page = queue.shelved_page;
            self.releases.push_back((page, id.clone()));
        }
        let queue = self.queue(id);
        if queue.idle() && queue.shelved_page <= durable_page {
            self.queues.remove(id);
        }
    }

    /// What is owed of the lists is not made. The events that asked for it are at Brevo.
    pub(super) fn let_lists_go(&mut self, id: &PersonId) {
        let delivered = self.change_lists(id, |lists| lists.drop_owed());
        self.owed = self.owed.saturating_sub(delivered.records);
        self.parts.books.deliver_listed(id, Span::from(&delivered));
    }

    /// A withdrawal that `from` still owes is `into`'s to make, unless they agree.
    pub(super) fn move_withdrawal(&mut self, from: &PersonId, into: &PersonId) {
        let owed = std::mem::take(&mut self.roster.edit(from).person.consent).withdrawal;
        if owed && self.withheld(into) {
            self.roster.edit(into).person.consent.withdrawal = true;
        }
    }

    /// A person in line to be paid does not agree: Brevo is told, where it is to be.
    pub(super) fn start_withdrawal(&mut self, id: &PersonId) {
        let owed = self.roster.get(id).filter(|resident| resident.person.consent.withdrawal);
        let (Some(resident), Some(vendor), true) = (owed, &self.parts.vendor, self.is_in_pilot(id)) else {
            self.queue(id).leave_line();
            self.refuse(id);
            // A merged id has nothing left now that it would pay for itself.
            if self.roster.is_forward(id) {
                self.list_to_join(id);
            }
            return;
        };
        let mut person = resident.person.clone();
        if let Some(deletion) = &person.deletion {
            let Identifiers { email, phone } = person.identifiers().or(deletion.identifiers.clone());
            (person.email, person.phone) = (email, phone);
        }
        let (how, blocklist) = (self.parts.settings.on_consent_withdrawn, self.blocklist());
        let withdrawal = Withdrawal { person, how, cause: Cause::Consent, blocklist };
        let writer = Writer { calls: vendor.calls.clone(), stack: vendor.stack.clone(), clearing: self.clearing };
        // The record of a deletion behind it is settled by what is done about that.
        if self.owes_deletion(id) {
            self.queue(id).begin_payment();
        } else {
            self.begin_payment(id);
        }
        self.queue(id).withdrawing = true;
        self.payments_under_way.begin(Line::First);
        let id = id.clone();
        self.spawn(Box::pin(async move {
            let payment = writer.withdraw(&id, &withdrawal).await?;
            Ok(Done::Payment(id, payment))
        }));
    }

    /// Settles what Brevo was told of a person who is to be left alone. Where it knew no contact, that has changed nothing
    /// there.
    pub(super) fn settle_told(&mut self, id: &PersonId, paid: &Debt, how: Withdrawn, unknown: SkipRule) {
        if how == Withdrawn::NoContact {
            self.parts.books.skip_owed(id, Span::from(paid), unknown);
        } else {
            self.parts.books.deliver_owed(id, Span::from(paid), Kind::Profile);
        }
    }

    /// Brevo has been told.
    pub(super) fn withdrawn(&mut self, id: &PersonId, how: Withdrawn) {
        self.roster.edit(id).person.consent.withdrawal = false;
        let paid = self.take_paid(id);
        self.settle_told(id, &paid, how, SkipRule::NoConsent);
        let queue = self.queue(id);
        queue.alone = false;
        queue.end_payment(true);
        if how != Withdrawn::Kept {
            self.contact_is_gone(id);
        }
        self.advance(id);
    }

    /// Not asked again: the record becomes a dead letter, for people to look at.
    pub(super) fn withdrawal_refused(&mut self, id: &PersonId, refusal: &Refusal) {
        if std::mem::take(&mut self.roster.edit(id).person.consent.withdrawal) {
            tracing::error!(%refusal, "Brevo does not carry out a withdrawal of consent; see its dead letter");
        }
    }
}
