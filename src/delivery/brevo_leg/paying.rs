//! Paying debts by one contact write for each person. Many are paid by one import (`importing`).

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::account;
use super::compose::{self, Composed, Write};
use super::contacts::{Payment, Writer};
use super::importing::IMPORT_FROM;
use super::lines::{Line, stack_for};
use super::queue::Slot;
use super::{BrevoLeg, Done};
use crate::brevo::identifiers::ListId;
use crate::brevo::names::AttributeName;
use crate::brevo::outcome::Refusal;
use crate::delivery::LegError;
use crate::delivery::dead_letters::{DeadLetter, RefusedWrite};
use crate::delivery::history::{Outcome, Span};
use crate::people::blocklist::Blocked;
use crate::people::debt::Debt;
use crate::people::person::{Contact, Person};
use crate::people::roster::PersonId;
use crate::record::{Destinations, Kind, Origin, Project, Record};
use crate::settlement::{DeadReason, SkipRule};

/// Contact writes under way at once. Others wait unwritten, so that more updates of a person join them.
const PAYMENTS: usize = 8;

/// The same of those behind: the fewer there are, the fewer people wait for a call that waits for the budget.
const PAYMENTS_BEHIND: usize = 4;

/// First wait for a contact that is busy; doubles up to a minute.
const BUSY: Duration = Duration::from_secs(1);

/// The list that everyone joins, by its configured name.
const ALL_USERS: &str = "all_users";

impl BrevoLeg {
    /// The list that everyone joins.
    pub(super) fn all_users(&self) -> Option<ListId> {
        self.parts.mapping.list(ALL_USERS)
    }

    fn lists(&self) -> Vec<ListId> {
        self.all_users().into_iter().collect()
    }

    /// Whether anybody can be paid: the account is known, and what was made in it has settled.
    pub(super) fn may_pay(&self) -> bool {
        let waiting = self.account.is_none() || self.account_under_way || self.account_ready_at > Instant::now();
        self.sends() && !waiting
    }

    pub(super) fn start_payments(&mut self) {
        if !self.may_pay() {
            return;
        }
        let most = self.at_once(PAYMENTS);
        while self.payments_under_way.first < most && !self.account_under_way {
            let Some(id) = self.next_in_front() else { break };
            self.start_payment(id, Line::First);
        }
        let behind = self.at_once(PAYMENTS_BEHIND);
        while self.payments_under_way.behind < behind && !self.account_under_way {
            let Some(id) = self.next_behind() else { break };
            if self.stands_behind(&id) {
                self.start_payment(id, Line::Behind);
            }
        }
    }

    /// Whom no import carries and whoever else is in line take turns: neither waits for the other to be done.
    fn next_in_front(&mut self) -> Option<PersonId> {
        self.singly_next = !self.singly_next;
        let [one, other] = match self.singly_next {
            true => [&mut self.to_pay_singly.first, &mut self.to_pay.first],
            false => [&mut self.to_pay.first, &mut self.to_pay_singly.first],
        };
        one.pop_front().or_else(|| other.pop_front())
    }

    /// What the next import could carry waits for it, once there are so many that one is under way or about to be.
    fn next_behind(&mut self) -> Option<PersonId> {
        if let Some(id) = self.to_pay_singly.behind.pop_front() {
            return Some(id);
        }
        let few = self.importing.idle() && self.to_pay.behind.len() < IMPORT_FROM;
        if few || self.all_users().is_none() { self.to_pay.behind.pop_front() } else { None }
    }

    pub(super) fn stands_behind(&self, id: &PersonId) -> bool {
        self.queues.get(id).is_some_and(|queue| queue.listed_to_pay && !queue.listed_to_pay_first)
    }

    fn start_payment(&mut self, id: PersonId, line: Line) {
        let withdraws = self.roster.get(&id).is_some_and(|resident| resident.person.consent.withdrawal);
        if self.owes_deletion(&id) && !(withdraws && self.withheld(&id) && self.is_in_pilot(&id)) {
            return self.start_deletion(&id);
        }
        if self.withheld(&id) {
            return self.start_withdrawal(&id);
        }
        match self.compose_for(&id) {
            // The events under way would not find their contact any more: in line again when they are back.
            Some(Composed::Write(write, _)) if write.readdresses() && self.queue(&id).in_call => {
                self.queue(&id).leave_line();
            }
            Some(Composed::Write(write, not_placed)) => {
                self.report(&not_placed);
                self.begin_payment(&id);
                self.queue(&id).readdressing = write.readdresses();
                self.pay(id, *write, line);
            }
            Some(Composed::Nothing(not_placed)) => {
                self.report(&not_placed);
                self.nothing_to_pay(&id, not_placed.is_empty());
            }
            Some(Composed::Missing(missing)) => {
                // Asked for together with whatever else the people in line are missing.
                match line {
                    Line::First => self.to_pay.first.push_front(id),
                    Line::Behind => self.to_pay.behind.push_front(id),
                }
                self.create_missing(missing);
            }
            None => {
                let was_busy = self.queue(&id).waits_alone();
                self.queue(&id).leave_line();
                // What was held back behind the busy contact waits for it no longer.
                if was_busy {
                    self.offer_shelf(&id);
                }
            }
        }
    }

    pub(super) fn compose_for(&self, id: &PersonId) -> Option<Composed> {
        let resident = self.roster.get(id)?;
        let merging = self.roster.is_forward(id) || self.is_joining(id);
        let parting = resident.person.deletion.is_some();
        let held = parting || self.withheld(id) || !self.is_in_pilot(id) || (merging && !self.pays_for_itself(id));
        if !resident.person.addressable() || held {
            return None;
        }
        let debt = resident.debt.clone().unwrap_or_else(Debt::nothing);
        let account = self.account.as_ref()?;
        let rules = &self.parts.mapping.attribute_rules;
        let may_create = self.parts.settings.create_attributes;
        let composed = compose::compose(id, &resident.person, &debt, account, rules, may_create, &self.lists());
        let mut composed = self.without_refused(id, &resident.person, &debt, composed);
        if let (Composed::Write(write, _), Contact::Unknown) = (&mut composed, &resident.person.contact) {
            let erased = self.parts.books.erased();
            let Person { email, phone, .. } = &resident.person;
            write.blocklisted = Blocked {
                email: email.as_ref().is_some_and(|email| erased.keeps_blocklisted(email.as_str())),
                sms: phone.as_ref().is_some_and(|phone| erased.keeps_blocklisted(&phone.to_string())),
            };
        }
        Some(composed)
    }

    /// Attributes that Brevo has refused to create are not asked for again.
    fn without_refused(&self, id: &str, person: &Person, debt: &Debt, composed: Composed) -> Composed {
        let Composed::Missing(missing) = composed else { return composed };
        let left: Vec<_> =
            missing.into_iter().filter(|attribute| !self.refused_attributes.contains(&attribute.name)).collect();
        let rules = &self.parts.mapping.attribute_rules;
        match (&self.account, left.is_empty()) {
            (Some(account), true) => compose::compose(id, person, debt, account, rules, false, &self.lists()),
            _ => Composed::Missing(left),
        }
    }

    pub(super) fn pay(&mut self, id: PersonId, write: Write, line: Line) {
        let Some(vendor) = &self.parts.vendor else { return };
        let (calls, stack) = (vendor.calls.clone(), stack_for(&vendor.stack, line));
        let writer = Writer { calls, stack, clearing: self.clearing };
        self.payments_under_way.begin(line);
        self.queue(&id).behind = line == Line::Behind;
        self.spawn(Box::pin(async move {
            let payment = writer.pay(&id, write).await?;
            Ok(Done::Payment(id, payment))
        }));
    }

    /// Brevo has everything that can be placed: what is owed is settled without a call. `in_place`: an earlier write has
    /// brought it there, as it does for updates that were folded while they stood on the shelf.
    fn nothing_to_pay(&mut self, id: &PersonId, in_place: bool) {
        self.begin_payment(id);
        let paid = self.take_paid(id);
        if in_place {
            self.parts.books.deliver_owed(id, Span::from(&paid), Kind::Profile);
        } else {
            self.parts.books.skip_owed(id, Span::from(&paid), SkipRule::NotPlaced);
        }
        self.queue(id).end_payment(true);
        self.advance(id);
    }

    pub(super) fn settle_payment(&mut self, id: &PersonId, payment: Payment) -> Result<(), LegError> {
        let behind = std::mem::take(&mut self.queue(id).behind);
        self.payments_under_way.end(if behind { Line::Behind } else { Line::First });
        match payment {
            Payment::Paid { contact, conflicts, kept_email, learned } => {
                if let Some(learned) = learned {
                    self.clearing = Some(learned);
                    account::remember_clearing(learned, self.parts.books.pending_mut())?;
                }
                for kind in conflicts {
                    *self.parts.books.tally_mut().conflicts.entry(kind).or_default() += 1;
                    tracing::warn!(identifier = kind.label(), "belongs to another contact at Brevo and was left out");
                }
                if kept_email {
                    self.parts.books.tally_mut().addresses_kept += 1;
                    tracing::warn!("a blocklisted contact keeps its old address: a change would resubscribe it");
                }
                self.paid(id, contact);
            }
            Payment::TooEarly => {
                self.give_back(id);
                let tries = self.queue(id).end_busy();
                let wait = BUSY.saturating_mul(1 << (tries - 1).min(6)).min(Duration::from_secs(60));
                self.later.push(Reverse((Instant::now() + wait, id.clone())));
                self.hold_back(id);
                // Somebody may wait for this call in order to be joined.
                self.advance(id);
            }
            Payment::Misrouted(refusal) => {
                self.misrouted_payments = self.misrouted_payments.saturating_add(1);
                self.hold(&refusal.to_string(), self.misrouted_payments);
                self.give_back(id);
                self.queue(id).end_payment(false);
                self.advance(id);
            }
            Payment::Gone => {
                tracing::warn!("a contact is not at Brevo any more, and is written anew");
                self.give_back(id);
                self.queue(id).end_payment(false);
                self.contact_is_gone(id);
                self.advance(id);
            }
            Payment::Withdrawn(how) => match self.queue(id).deleting {
                Some(at) => self.deleted(id, at, how),
                None => self.withdrawn(id, how),
            },
            Payment::Refused(refusal) => {
                // Another write that is refused says nothing of a withdrawal that waits behind it.
                let (withdrawing, deleting) = (self.queue(id).withdrawing, self.queue(id).deleting);
                if withdrawing {
                    self.withdrawal_refused(id, &refusal);
                }
                if let Some(at) = deleting {
                    self.deletion_refused(id, at, &refusal);
                }
                self.bury_debt(id, &refusal, deleting.is_some())?;
            }
        }
        Ok(())
    }

    /// The contact is not at Brevo any more: whatever waits for the person waits until there is one again.
    pub(super) fn contact_is_gone(&mut self, id: &PersonId) {
        self.roster.edit(id).person.contact = Contact::Unknown;
        self.change_lists(id, |lists| lists.forget_confirmed());
        self.queue(id).await_contact();
    }

    pub(super) fn paid(&mut self, id: &PersonId, contact: Contact) {
        self.misrouted_payments = 0;
        self.roster.edit(id).person.confirm(contact);
        let paid = self.take_paid(id);
        self.parts.books.deliver_owed(id, Span::from(&paid), Kind::Profile);
        let queue = self.queue(id);
        queue.alone = false;
        queue.end_payment(true);
        self.advance(id);
    }

    /// People whose contacts were busy are in line again.
    pub(super) fn retry_busy(&mut self) {
        while let Some(Reverse((at, _))) = self.later.peek() {
            if *at > Instant::now() {
                return;
            }
            let Some(Reverse((_, id))) = self.later.pop() else { return };
            let queue = self.queue(&id);
            if !queue.listed_to_pay && !queue.paying {
                queue.listed_to_pay = true;
                queue.listed_to_pay_first = true;
                self.to_pay.first.push_back(id);
            }
        }
    }

    /// A refused write is one dead letter that says what Brevo did not take: the person's values as they were to be
    /// written. The other records that were folded into it are counted as superseded. Without a contact, events that
    /// waited for it cannot be sent either.
    fn bury_debt(&mut self, id: &PersonId, refusal: &Refusal, deletion: bool) -> Result<(), LegError> {
        let words = refusal.to_string();
        let now = self.parts.clock.now();
        let withdrawal = self.queue(id).withdrawing;
        let paid = self.take_paid(id);
        if paid.records > 0 {
            let person = self.roster.edit(id).person.clone();
            let record = if deletion { as_deletion(id, &paid) } else { as_record(id, &person, &paid) };
            let letter = DeadLetter::new(&record, DeadReason::Rejected, &words, now);
            let write = RefusedWrite { deletion, ..refused_write(&paid, withdrawal) };
            self.parts.books.hold(paid.since, &letter.of_write(write))?;
            self.parts.books.skip_owed(id, Span::from(&paid).but_one(), SkipRule::Superseded);
        }
        let no_contact = self.roster.edit(id).person.contact == Contact::Unknown;
        let queue = self.queue(id);
        queue.end_payment(!no_contact);
        if no_contact {
            let events: Vec<_> = queue.events.drain(..).collect();
            self.waiting -= events.len();
            for event in events {
                self.settle_event_dead(id, &event, &format!("its contact was refused: {words}"))?;
            }
        }
        self.check_dead_letters();
        self.advance(id);
        Ok(())
    }

    /// A dead letter of an event, wherever it was kept.
    pub(super) fn settle_event_dead(
        &mut self,
        id: &PersonId,
        event: &super::queue::Queued,
        words: &str,
    ) -> Result<(), LegError> {
        let now = self.parts.clock.now();
        self.parts.books.bury(event.position, &event.record, DeadReason::Rejected, words, now)?;
        match event.slot {
            Slot::Ledger(ticket) => self.parts.books.hand_over(ticket, Outcome::Dead(DeadReason::Rejected)),
            Slot::Shelf { bytes } => self.unshelve(id, event.position, bytes),
        }
        Ok(())
    }
}

fn refused_write(debt: &Debt, withdrawal: bool) -> RefusedWrite {
    let attributes = debt.attributes.iter().filter(|name| !name.is_kept_back()).map(ToString::to_string).collect();
    RefusedWrite { attributes, identifiers: debt.identifiers, withdrawal, deletion: false }
}

/// What was owed, as the update that would bring it about.
fn as_record(id: &Arc<str>, person: &Person, debt: &Debt) -> Record {
    let mut set = Map::new();
    if let Some(email) = &person.email {
        set.insert("$email".to_owned(), Value::from(email.as_str()));
    }
    if let Some(phone) = &person.phone {
        set.insert("$phone".to_owned(), Value::from(phone.to_string()));
    }
    let owed = |name: &AttributeName| debt.attributes.contains(name) && !name.is_kept_back();
    for (name, value) in person.attributes.iter().filter(|(name, _)| owed(name)) {
        set.insert(name.to_string(), value.clone());
    }
    update(&json!({"$distinct_id": id.as_ref(), "$set": set}), debt)
}

fn as_deletion(id: &Arc<str>, debt: &Debt) -> Record {
    update(&json!({"$distinct_id": id.as_ref(), "$delete": ""}), debt)
}

fn update(body: &Value, debt: &Debt) -> Record {
    Record {
        kind: Kind::Profile,
        origin: Origin::App,
        destinations: Destinations::BREVO,
        project: Project::Ours,
        received_at: debt.oldest,
        body: Bytes::from(body.to_string()),
    }
}
