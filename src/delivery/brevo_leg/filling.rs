//! Pulled profiles and rows of data sets: what they add to a person, and what Brevo is owed for it (CORE 11,
//! [`crate::people::pulled`]).
//!
//! A pull that brings nothing new changes nothing here either: neither the person's row nor a contact. Somebody who has no
//! address is not kept waiting on a shelf: there are as many of them as Mixpanel has visitors, and they would push an
//! app's records off.

use super::BrevoLeg;
use super::consent::Turn;
use super::receiving::in_pilot;
use crate::config::BrevoMode;
use crate::delivery::books::Item;
use crate::delivery::history::Outcome;
use crate::mapping::ProfileChange;
use crate::people::debt::Debt;
use crate::people::person::{Contact, Person};
use crate::people::roster::PersonId;
use crate::record::Origin;
use crate::settlement::SkipRule;

impl BrevoLeg {
    pub(super) fn take_pulled(&mut self, id: &PersonId, item: Item, change: ProfileChange) {
        let (mode, position) = (self.parts.settings.mode, item.position);
        for unplaced in &change.unplaced {
            self.report_unplaced(&unplaced.property, unplaced.reason, &unplaced.sample);
        }
        if change.is_empty() {
            return self.parts.books.skip(item.ticket, SkipRule::NotPlaced);
        }
        let before = self.roster.get(id).map(|resident| resident.person.clone()).unwrap_or_default();
        let mut person = before.clone();
        let folded = match item.record.origin {
            Origin::Dataset => person.take_row(position, change),
            _ => person.fill(position, change),
        };
        let Some(mut folded) = folded else {
            // Folded before a crash: what is owed for it is in the person's debt already.
            return self.parts.books.hand_over(item.ticket, Outcome::Owed);
        };
        if person.addressable() && !in_pilot(mode, &self.parts.settings.pilot_emails, &person) {
            return self.parts.books.skip(item.ticket, SkipRule::NotInPilot);
        }
        // Of whom nothing is kept yet, nothing is kept for later either.
        let unseen = before == Person::default();
        let has_answer = |rule: &crate::mapping::ConsentRule| person.attributes.contains_key(&rule.name);
        if unseen && self.parts.mapping.consent.as_ref().is_some_and(|rule| !has_answer(rule)) {
            return self.parts.books.skip(item.ticket, SkipRule::NoConsent);
        }
        if unseen && !person.addressable() {
            return self.parts.books.skip(item.ticket, SkipRule::NoAddress);
        }
        if !folded.owes() && (before.contact != Contact::Unknown || !before.addressable()) {
            return self.parts.books.skip(item.ticket, SkipRule::NothingNew);
        }
        if mode == BrevoMode::Observe {
            self.parts.forecast.profile(self.parts.clock.now(), id, &person, &folded);
            return self.parts.books.skip(item.ticket, SkipRule::Observed);
        }
        let answer = self.answer(id);
        self.roster.edit(id).person = person;
        match self.consent_after(id, answer, &folded, false) {
            Turn::Allowed => {}
            Turn::Given => self.owe_everything(id, &mut folded),
            Turn::Withheld => {
                self.parts.books.skip(item.ticket, SkipRule::NoConsent);
                return self.refuse(id);
            }
            Turn::Withdrawn => return self.withdraw(id, item),
        }
        if !self.roster.edit(id).person.addressable() {
            self.parts.books.skip(item.ticket, SkipRule::NoAddress);
            return self.advance(id);
        }
        self.parts.books.hand_over(item.ticket, Outcome::Owed);
        self.owe(id, Debt::pulled(position, item.record.received_at, folded));
        self.advance(id);
    }
}
