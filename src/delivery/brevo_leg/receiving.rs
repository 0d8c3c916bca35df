//! Taking records in: what each asks for, its person loaded, folded or queued or shelved.

use bytes::Bytes;

use super::compose;
use super::consent::Turn;
use super::intake::{DedupKeys, Intake, Wish};
use super::queue::{PersonQueue, Queued, Release, Slot};
use super::{BrevoLeg, Done, window};
use crate::brevo::identifiers::Email;
use crate::brevo::limits::MAX_BATCH_EVENTS;
use crate::clock::UnixMillis;
use crate::config::BrevoMode;
use crate::delivery::LegError;
use crate::delivery::books::Item;
use crate::delivery::history::{Outcome, Span};
use crate::mapping::{GroupOp, MappedEvent, ProfileChange};
use crate::people::company::{Company, GroupId, rows};
use crate::people::debt::Debt;
use crate::people::identity::{Link, Verb};
use crate::people::person::{Contact, Folded, Person};
use crate::people::roster::{self, PersonId, Resident};
use crate::record::Position;
use crate::settlement::{DeadReason, SkipRule};
use crate::store::Entry;

/// Events in queues from which on nothing more is read: a vendor that takes nothing is the destination's affair, so what
/// waits for it waits in the journal and never fills shelves (CORE 7).
pub(super) const MAX_WAITING: usize = 20_000;
/// The same for people with something under way. Whoever has nothing but a debt is not among them.
pub(super) const MAX_PEOPLE: usize = 6_000;
/// The same for people who are owed something: all of their rows are read at a start. One import takes nearly half of them.
pub(super) const MAX_INDEBTED: usize = 100_000;

/// Records with everything that is stored about them.
pub(super) struct Loaded {
    /// In order of position, with what the dedup window knew of each key.
    records: Vec<(Item, Intake, [Option<Position>; 2])>,
    people: Vec<(PersonId, Resident)>,
    companies: Vec<(GroupId, Company)>,
}

impl BrevoLeg {
    /// Begins to take entries in: what can be decided without their people is settled, for the rest they are loaded.
    pub(super) fn receive(&mut self, entries: Vec<Entry>) -> Result<(), LegError> {
        let items = entries.into_iter().flat_map(|entry| self.parts.books.admit(entry)).collect();
        self.receive_items(items)
    }

    pub(super) fn receive_items(&mut self, items: Vec<Item>) -> Result<(), LegError> {
        let mut records: Vec<(Item, Intake)> = Vec::new();
        let now = self.parts.clock.now();
        for item in items {
            if self.parts.vendor.is_none() {
                self.parts.books.skip(item.ticket, SkipRule::Disabled);
                continue;
            }
            self.note_beginning(&item.record);
            let mut intake = self.intake_of(&item);
            intake.link.take_if(|link| self.is_known_pair(link));
            if let Wish::Event { event, ids, .. } = &mut intake.wish {
                // Of before this relay delivered: a backfill may bring it too.
                let late = self.delivers_since.is_some_and(|since| event.time < since);
                self.window.keep_needed(ids, late || item.record.origin.is_pulled());
            }
            if item.position.entry < self.given_up && item.again.is_none() {
                intake.wish = Wish::Skip(SkipRule::Overflow);
            }
            match intake.wish {
                // Whatever becomes of the record, the link that it makes counts.
                Wish::Skip(rule) if intake.link.is_none() && intake.groups.is_none() => {
                    self.parts.books.skip(item.ticket, rule)
                }
                Wish::Unreadable(reason) => self.parts.books.die(&item, DeadReason::Unreadable, &reason, now)?,
                _ => records.push((item, intake)),
            }
        }
        if records.is_empty() {
            return Ok(());
        }
        self.let_go();
        let missing = self.roster.missing(records.iter().flat_map(|(_, intake)| intake.people()));
        let missing_groups = self.companies.missing(records.iter().filter_map(|(_, intake)| intake.group()));
        let lookups: Vec<_> = records.iter().flat_map(|(item, intake)| self.lookups(item, &intake.wish)).collect();
        let state = self.parts.state.clone();
        self.receiving = Some(self.durable_page);
        self.spawn(Box::pin(async move {
            let people = if missing.is_empty() { Vec::new() } else { roster::load(&state, missing).await? };
            let companies =
                if missing_groups.is_empty() { Vec::new() } else { rows::load(&state, missing_groups).await? };
            let mut found = if lookups.is_empty() {
                Vec::new().into_iter()
            } else {
                window::look_up(&state, lookups).await?.into_iter()
            };
            let with_found = |(item, intake): (Item, Intake)| {
                let known = ids(&intake.wish).map(|id| id.and_then(|_| found.next().flatten()));
                (item, intake, known)
            };
            let records = records.into_iter().map(with_found).collect();
            Ok(Done::Loaded(Loaded { records, people, companies }))
        }));
        Ok(())
    }

    fn lookups(&self, item: &Item, wish: &Wish) -> impl Iterator<Item = [Vec<u8>; 2]> {
        ids(wish).into_iter().flatten().map(|key| self.window.lookups(key, item.record.received_at))
    }

    pub(super) fn apply(&mut self, loaded: Loaded) -> Result<(), LegError> {
        self.receiving = None;
        self.take_in(loaded.people);
        self.companies.take_in(loaded.companies);
        let today = self.today();
        for (item, Intake { link, wish, groups }, known) in loaded.records {
            self.bases.taken_in(item.position);
            let seen = Intake::named(&wish, link.as_ref()).cloned();
            if let Some(link) = link {
                self.link(&link, item.position);
            }
            if let Some(groups) = groups {
                let (person, belongings) = *groups;
                let person = self.roster.resolve(&person);
                self.take_belongings(&person, &belongings);
            }
            match wish {
                Wish::Event { person, event, ids } => {
                    let person = self.roster.resolve(&person);
                    if !item.record.origin.is_pulled() {
                        self.ask_for_consent(&person);
                    }
                    self.take_event(person, item, event, ids, known);
                }
                Wish::Profile { person, literal: true, .. } if self.roster.is_forward(&person) => {
                    self.parts.books.skip(item.ticket, SkipRule::MergedProfile);
                }
                Wish::Profile { person, change, .. } => {
                    let person = self.roster.resolve(&person);
                    if item.again.is_some() {
                        self.take_profile_again(person, item, &change)?;
                    } else if item.record.origin.is_pulled() {
                        self.take_pulled(&person, item, change);
                    } else {
                        self.take_profile(person.clone(), item, change);
                        // What the update says itself need not be asked for.
                        self.ask_for_consent(&person);
                    }
                }
                Wish::Group { group, ops } => self.take_group(&group, &item, ops),
                Wish::Skip(rule) => self.parts.books.skip(item.ticket, rule),
                Wish::Unreadable(reason) => {
                    let now = self.parts.clock.now();
                    self.parts.books.die(&item, DeadReason::Unreadable, &reason, now)?;
                }
            }
            if let Some(seen) = seen {
                let seen = self.roster.resolve(&seen);
                self.roster.saw(&seen, today);
            }
        }
        self.check_dead_letters();
        Ok(())
    }

    fn take_profile(&mut self, id: PersonId, item: Item, change: ProfileChange) {
        let mode = self.parts.settings.mode;
        for unplaced in &change.unplaced {
            self.report_unplaced(&unplaced.property, unplaced.reason, &unplaced.sample);
        }
        if change.is_empty() {
            return self.parts.books.skip(item.ticket, SkipRule::NotPlaced);
        }
        let deletes = change.deletes();
        let answer = self.answer(&id);
        let resident = self.roster.edit(&id);
        let Some(mut folded) = resident.person.fold(item.position, change, self.bases.seen_from()) else {
            // Folded before a crash: what is owed for it is in the person's debt already.
            return self.parts.books.hand_over(item.ticket, Outcome::Owed);
        };
        if folded.waits {
            self.base_wanted();
        }
        let deletion = self.take_deletion(&id, &item, &mut folded);
        match self.consent_after(&id, answer, &folded, deletes) {
            Turn::Allowed => {}
            Turn::Given => self.owe_everything(&id, &mut folded),
            Turn::Withheld if deletion => return self.refuse(&id),
            Turn::Withheld if deletes => {}
            Turn::Withheld => {
                self.parts.books.skip(item.ticket, SkipRule::NoConsent);
                return self.refuse(&id);
            }
            Turn::Withdrawn => return self.withdraw(&id, item),
        }
        if deletion {
            return self.begin_anew(&id, folded);
        }
        let resident = self.roster.edit(&id);
        if deletes && !folded.owes() && !folded.waits {
            self.parts.books.skip(item.ticket, SkipRule::ProfileDelete);
            return self.after_waiting(&id);
        }
        if mode == BrevoMode::Observe {
            self.parts.forecast.profile(self.parts.clock.now(), &id, &resident.person, &folded);
            return self.parts.books.skip(item.ticket, SkipRule::Observed);
        }
        if !resident.person.addressable() {
            return self.shelve(&id, item);
        }
        if !in_pilot(mode, &self.parts.settings.pilot_emails, &resident.person) {
            self.parts.books.skip(item.ticket, SkipRule::NotInPilot);
            return self.leave_pilot(&id);
        }
        self.parts.books.hand_over(item.ticket, Outcome::Owed);
        self.owe_folded(&id, item.position, item.record.received_at, folded);
        self.advance(&id);
    }

    /// What an update says of the profile that it has begun, after it has deleted the one before. The record itself is owed
    /// already.
    fn begin_anew(&mut self, id: &PersonId, folded: Folded) {
        if folded.owes() && self.roster.get(id).is_some_and(|resident| resident.person.addressable()) {
            self.owe(id, Debt::of_values(folded));
        }
        self.advance(id);
    }

    /// A person whom the pilot is not about, any more: what waits is settled likewise, what stands on the shelf included.
    fn leave_pilot(&mut self, id: &PersonId) {
        if let Some(debt) = self.take_debt(id) {
            self.parts.books.skip_owed(id, Span::from(&debt), SkipRule::NotInPilot);
        }
        let waiting: Vec<_> = self.queue(id).events.drain(..).collect();
        for event in waiting {
            self.settle_event_skipped(id, &event, SkipRule::NotInPilot);
        }
        self.advance(id);
    }

    /// Whether the mode lets Brevo have this person. What they were owed before the mode was changed stays owed.
    pub(super) fn is_in_pilot(&self, id: &PersonId) -> bool {
        let (mode, pilots) = (self.parts.settings.mode, &self.parts.settings.pilot_emails);
        self.roster.get(id).is_some_and(|resident| in_pilot(mode, pilots, &resident.person))
    }

    /// What a record owes as far as its values are known; as for the rest, it waits.
    fn owe_folded(&mut self, id: &PersonId, position: Position, received_at: UnixMillis, folded: Folded) {
        if !folded.waits {
            self.owe(id, Debt::new(position, received_at, folded));
            return self.after_waiting(id);
        }
        if folded.owes() {
            self.owe(id, Debt::of_values(folded));
        }
        self.await_base(id, position, received_at);
        self.after_waiting(id);
    }

    fn take_group(&mut self, group: &GroupId, item: &Item, ops: Vec<GroupOp>) {
        match self.parts.settings.mode {
            BrevoMode::Observe => {
                self.parts.forecast.company(self.parts.clock.now(), group);
                self.parts.books.skip(item.ticket, SkipRule::Observed);
            }
            // A pilot is about people, and a company is nobody.
            BrevoMode::Pilot => self.parts.books.skip(item.ticket, SkipRule::NotInPilot),
            BrevoMode::Live if item.again.is_some() => {
                self.companies.take_again(group, item, &ops, &mut self.parts.books)
            }
            BrevoMode::Live => self.companies.take(group, item, ops, &mut self.parts.books),
        }
    }

    fn take_event(
        &mut self,
        id: PersonId,
        item: Item,
        event: MappedEvent,
        mut ids: DedupKeys,
        known: [Option<Position>; 2],
    ) {
        if self.withheld(&id) {
            return self.parts.books.skip(item.ticket, SkipRule::NoConsent);
        }
        if event.is_stale(self.parts.clock.now()) {
            return self.parts.books.skip(item.ticket, SkipRule::Stale);
        }
        let mode = self.parts.settings.mode;
        let person = self.roster.get(&id).map(|resident| &resident.person);
        if mode == BrevoMode::Observe {
            self.parts.forecast.event(self.parts.clock.now(), &id, person, &event.name);
            return self.parts.books.skip(item.ticket, SkipRule::Observed);
        }
        let known_outside_pilot = person
            .is_some_and(|person| person.addressable() && !in_pilot(mode, &self.parts.settings.pilot_emails, person));
        if known_outside_pilot {
            return self.parts.books.skip(item.ticket, SkipRule::NotInPilot);
        }
        if item.record.origin.is_pulled() && self.is_nobody(&id) {
            return self.parts.books.skip(item.ticket, SkipRule::NoAddress);
        }
        // Only what Brevo would be sent enters the window (CORE 8).
        if !self.window.is_off() {
            let (position, received_at) = (item.position, item.record.received_at);
            let looked_up = if item.record.origin.is_pulled() { self.window.take_looked_up(&mut ids) } else { None };
            let given_back = looked_up.is_some_and(|key| self.window.knows(&key, position, known[1]));
            let batch = self.parts.books.pending_mut();
            if given_back || self.window.repeats(ids, position, received_at, known, self.page, batch) {
                return self.parts.books.skip(item.ticket, SkipRule::Duplicate);
            }
        }
        let Some(resident) = self.roster.get(&id) else { return self.shelve(&id, item) };
        let nobody = self.is_nobody(&id);
        let alone = self.queues.get(&id).is_some_and(PersonQueue::waits_alone)
            || resident.import.is_some()
            || resident.person.links.is_joining()
            || resident.person.deletion.is_some();
        if nobody || alone || !resident.person.shelf.is_empty() {
            return self.shelve(&id, item);
        }
        let queue = self.queues.entry(id.clone()).or_default();
        let after_payment = queue.next_dependency(is_owed(resident, queue));
        let slot = Slot::Ledger(item.ticket);
        let (position, mut record, call_limit) = (item.position, item.record, MAX_BATCH_EVENTS);
        // The body is a slice of its journal block; one event that waits must not keep the whole block in memory.
        record.body = Bytes::copy_from_slice(&record.body);
        queue.events.push_back(Queued { slot, position, record, event, after_payment, call_limit });
        self.waiting += 1;
        self.advance(&id);
    }

    /// Whether Brevo could not tell whom an event is of.
    fn is_nobody(&self, id: &PersonId) -> bool {
        let known = |person: &Person| person.addressable() || person.contact != Contact::Unknown;
        !self.roster.get(id).is_some_and(|resident| known(&resident.person))
    }

    /// Looks at what a person needs next, and lists them for it. Called whenever something about them has changed.
    pub(super) fn advance(&mut self, id: &PersonId) {
        if self.roster.is_forward(id) {
            return self.list_to_join(id);
        }
        self.list_links(id);
        let Some(resident) = self.roster.get(id) else { return };
        let joining: Vec<_> = resident.person.links.joining().cloned().collect();
        for merged in &joining {
            self.list_to_join(merged);
        }
        if self.withheld(id) {
            return self.refuse(id);
        }
        // Agreed, by what another id of theirs has brought along, or because nobody is asked any more.
        if self.roster.get(id).is_some_and(|resident| resident.person.consent.withheld) {
            self.roster.edit(id).person.consent.withheld = false;
        }
        let in_pilot = self.is_in_pilot(id);
        let Some(resident) = self.roster.get(id) else { return };
        let queue = self.queues.entry(id.clone()).or_default();
        let parting = resident.person.deletion.is_some();
        let owes_lists = resident.person.lists.owes() && in_pilot && !parting;
        let contact_missing = resident.person.contact == Contact::Unknown && (!queue.events.is_empty() || owes_lists);
        let due = (resident.debt.is_some() || contact_missing) && resident.person.addressable();
        if parting {
            self.list_deletion(id);
        } else if due && joining.is_empty() {
            self.list_to_pay(id);
        }
        let Some(resident) = self.roster.get(id) else { return };
        let queue = self.queues.entry(id.clone()).or_default();
        if queue.sendable() {
            let live = queue.has_live_events();
            if !queue.listed_ready || (live && !queue.listed_ready_first) {
                queue.listed_ready = true;
                queue.listed_ready_first = live;
                let line = if live { &mut self.ready.first } else { &mut self.ready.behind };
                line.push_back(id.clone());
            }
        }
        if owes_lists && !queue.listing && !queue.listed_to_list && resident.person.contact != Contact::Unknown {
            queue.listed_to_list = true;
            self.to_list.push_back(id.clone());
        }
        self.offer_shelf(id);
        let queue = self.queue(id);
        let idle = queue.idle() && queue.shelved_page <= self.durable_page;
        if idle {
            self.queues.remove(id);
        }
    }

    /// Has the person's shelf read when it is its turn.
    pub(super) fn offer_shelf(&mut self, id: &PersonId) {
        let Some(resident) = self.roster.get(id) else { return };
        let queue = self.queues.entry(id.clone()).or_default();
        // Events in a call still count as standing on the shelf, and would be looked for there in vain.
        let waits = queue.in_call || queue.waits_alone() || resident.import.is_some();
        let shelf_is_next = queue.events.is_empty() && !waits && resident.releasable();
        let lets_go = resident.person.shelf.let_go.is_some();
        let joined = resident.person.links.joining().next().is_none();
        if shelf_is_next && (joined || lets_go) && queue.release == Release::Idle {
            queue.release = Release::Wanted;
            self.releases.push_back((queue.shelved_page, id.clone()));
        }
    }

    /// A device whose user is known: neither can change. Most records of a signed-in person are such.
    fn is_known_pair(&self, link: &Link) -> bool {
        link.verb == Verb::Device && self.roster.is_forward(&link.from)
    }

    pub(super) fn queue(&mut self, id: &PersonId) -> &mut PersonQueue {
        self.queues.entry(id.clone()).or_default()
    }
}

/// The keys by which the window may know what is wished.
fn ids(wish: &Wish) -> DedupKeys {
    match wish {
        Wish::Event { ids, .. } => *ids,
        _ => [None; 2],
    }
}

/// Whether an event of this person has to wait for a payment that has not begun.
pub(super) fn is_owed(resident: &Resident, queue: &PersonQueue) -> bool {
    resident.debt.is_some() || (resident.person.contact == Contact::Unknown && !queue.paying)
}

/// Whether the mode lets Brevo have this person.
pub fn in_pilot(mode: BrevoMode, pilots: &[String], person: &Person) -> bool {
    mode != BrevoMode::Pilot || person.email.as_ref().is_some_and(|email| is_pilot(pilots, email))
}

pub(super) fn is_pilot(pilots: &[String], email: &Email) -> bool {
    let email = email.as_str();
    pilots.iter().any(|pilot| match pilot.strip_prefix('*') {
        Some(domain) => email.ends_with(domain),
        None => email == pilot,
    })
}

/// The identifiers that an event of this person carries.
pub(super) fn identifiers(id: &str, resident: &Resident) -> crate::brevo::wire::EventIdentifiers {
    compose::event_identifiers(id, &resident.person.contact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pilot_is_listed_whole_or_by_domain() {
        let pilots = ["*@example.com".to_owned(), "ada@other.org".to_owned()];
        let person = |email: &str| Person { email: Some(Email::parse(email).unwrap()), ..Person::default() };
        for (email, expected) in
            [("x@example.com", true), ("ada@other.org", true), ("bob@other.org", false), ("x@notexample.com", false)]
        {
            assert_eq!(in_pilot(BrevoMode::Pilot, &pilots, &person(email)), expected, "{email}");
        }
        assert!(!in_pilot(BrevoMode::Pilot, &pilots, &Person::default()));
        assert!(in_pilot(BrevoMode::Live, &[], &Person::default()));
    }
}
