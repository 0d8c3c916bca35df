//! Dead letters that are sent again, through today's mapping (CORE 9).
//!
//! An event goes out as if it had just been read. What a profile or group record said was folded when it was read the
//! first time, and must not be folded over what came later: Brevo is owed the present values of what it touched.

use super::BrevoLeg;
use super::intake::{self, Intake, Wish};
use super::receiving::in_pilot;
use crate::brevo::names::AttributeName;
use crate::config::BrevoMode;
use crate::delivery::books::Item;
use crate::delivery::dead_letters::RefusedWrite;
use crate::delivery::history::Outcome;
use crate::mapping::{Change, Operation, ProfileChange};
use crate::people::debt::Debt;
use crate::people::person::Folded;
use crate::people::roster::PersonId;
use crate::record::Kind;
use crate::settlement::{DeadReason, SkipRule};
use crate::store::StoreError;

/// Answer of a letter that is held again at once.
const NO_SECOND_DELETION: &str = "a deletion is not sent again, for the person may have come back since: delete the contact \
     at Brevo, or erase the person";

impl BrevoLeg {
    /// What a record asks for. One that is sent again links nobody: it has done so when it was read the first time.
    pub(super) fn intake_of(&self, item: &Item) -> Intake {
        let mut intake = intake::intake(&item.record, &self.parts.mapping, self.parts.settings.identity);
        let Some(again) = &item.again else { return intake };
        intake.link = None;
        intake.groups = None;
        match (&mut intake.wish, &again.write) {
            // Whatever the record touches today: the write that was refused was owed more.
            (wish, Some(_)) if item.record.kind == Kind::Profile => {
                if let Some(person) = intake::person_of_profile(&item.record) {
                    *wish = Wish::Profile { person, change: ProfileChange::default(), literal: false };
                }
            }
            (wish, Some(_)) if item.record.kind == Kind::Group => {
                if let Some(group) = super::companies::group_of(&item.record) {
                    *wish = Wish::Group { group, ops: Vec::new() };
                }
            }
            _ => {}
        }
        intake
    }

    /// A profile record that is sent again: the person's present values of what it touches are owed.
    pub(super) fn take_profile_again(
        &mut self,
        id: PersonId,
        item: Item,
        change: &ProfileChange,
    ) -> Result<(), StoreError> {
        let write = item.again.as_ref().and_then(|again| again.write.clone());
        if change.deletes() || write.as_ref().is_some_and(|write| write.deletion) {
            // What the person has done since would go with it.
            let now = self.parts.clock.now();
            return self.parts.books.die(&item, DeadReason::Rejected, NO_SECOND_DELETION, now);
        }
        self.owe_again(id, item, change, write);
        Ok(())
    }

    fn owe_again(&mut self, id: PersonId, item: Item, change: &ProfileChange, write: Option<RefusedWrite>) {
        let withdrawal = write.as_ref().is_some_and(|write| write.withdrawal);
        if self.withheld(&id) {
            if withdrawal {
                return self.withdraw(&id, item);
            }
            return self.parts.books.skip(item.ticket, SkipRule::NoConsent);
        }
        if withdrawal {
            // They have agreed again since.
            return self.parts.books.skip(item.ticket, SkipRule::Superseded);
        }
        let (mode, pilots) = (self.parts.settings.mode, &self.parts.settings.pilot_emails);
        if mode == BrevoMode::Observe {
            return self.parts.books.skip(item.ticket, SkipRule::Observed);
        }
        let touched = match &write {
            Some(write) => of_write(write),
            None => of_change(change),
        };
        let person = &mut self.roster.edit(&id).person;
        for operation in &change.operations {
            // A property that is newly mapped: nothing later is known of it.
            if let Operation::Attribute(name, Change::Set(value)) = operation
                && !person.attributes.contains_key(name)
                && !person.unknown.holds(name)
            {
                person.attributes.insert(name.clone(), value.clone());
            }
        }
        if !person.addressable() {
            return self.shelve(&id, item);
        }
        if !in_pilot(mode, pilots, person) {
            return self.parts.books.skip(item.ticket, SkipRule::NotInPilot);
        }
        self.parts.books.hand_over(item.ticket, Outcome::Owed);
        // Since it was sent again: what has lain among dead letters says nothing of how late the relay is.
        self.owe(&id, Debt::new(item.position, self.parts.clock.now(), touched));
        self.advance(&id);
    }
}

fn of_write(write: &RefusedWrite) -> Folded {
    Folded {
        identifiers: write.identifiers,
        attributes: write.attributes.iter().filter_map(|name| AttributeName::parse(name).ok()).collect(),
        ..Folded::default()
    }
}

fn of_change(change: &ProfileChange) -> Folded {
    let mut folded = Folded::default();
    for operation in &change.operations {
        match operation {
            Operation::Attribute(name, _) => folded.attributes.push(name.clone()),
            Operation::Email(_) | Operation::Phone(_) => folded.identifiers = true,
            Operation::Delete { .. } => {}
        }
    }
    folded
}
