//! One person: identifiers and the mapped part of their profile, folded in order. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lists::Lists;
use crate::brevo::identifiers::{Email, Phone};
use crate::brevo::names::AttributeName;
use crate::mapping::ProfileChange;
use crate::record::Position;

/// A person as stored, under their canonical distinct_id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Person {
    /// The last position folded: a replay after a crash must not fold it again.
    pub applied: Option<Position>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<Phone>,
    /// Known values of mapped properties, as Mixpanel has them; null: known to be unset. A property that is not here is
    /// unknown.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<AttributeName, Value>,
    #[serde(default, skip_serializing_if = "Contact::is_unknown")]
    pub contact: Contact,
    #[serde(default, skip_serializing_if = "Shelf::is_empty")]
    pub shelf: Shelf,
    #[serde(default, skip_serializing_if = "Lists::is_empty")]
    pub lists: Lists,
}

/// What stands on the person's shelf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelf {
    pub records: u64,
    /// The first record that needs a fold which depends on an unknown value. It stays, and everything behind it stays
    /// too, profile updates included, or they would be folded out of order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fold_at: Option<Position>,
    /// Records at `fold_at` and behind it.
    #[serde(default)]
    held: u64,
}

impl Shelf {
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Counts a record in. Those that need a fold come in order of position.
    pub fn put(&mut self, position: Position, needs_fold: bool) {
        self.records += 1;
        if needs_fold && self.fold_at.is_none() {
            self.fold_at = Some(position);
        }
        self.held += u64::from(self.holds(position));
    }

    /// Counts a record out, however it ended.
    pub fn take_off(&mut self, position: Position) {
        self.records = self.records.saturating_sub(1);
        if self.holds(position) {
            self.held = self.held.saturating_sub(1);
        }
        if self.held == 0 {
            self.fold_at = None;
        }
    }

    /// Whether a record at `position` has to stay until values can be folded.
    pub fn holds(&self, position: Position) -> bool {
        self.fold_at.is_some_and(|first| position >= first)
    }

    /// Whether anything waits for a fold.
    pub fn needs_fold(&self) -> bool {
        self.fold_at.is_some()
    }

    /// Whether a record stands in front of everything that waits for a fold.
    pub fn has_free_records(&self) -> bool {
        self.records > self.held
    }
}

/// What is known of the person's contact at Brevo.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contact {
    /// Brevo has not confirmed one: events would vanish (Brevo contract §2.4).
    #[default]
    Unknown,
    Known {
        /// The address under which Brevo has confirmed the contact.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        email: Option<Email>,
        /// Whether Brevo has confirmed our distinct_id as the contact's ext_id. False when another contact owns it.
        ext_id: bool,
        /// The number with which Brevo has confirmed the contact; none when another contact owns it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phone: Option<Phone>,
    },
}

impl Contact {
    fn is_unknown(&self) -> bool {
        *self == Contact::Unknown
    }
}

/// What a fold changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    pub identifiers: bool,
    pub attributes: Vec<AttributeName>,
}

impl Person {
    /// Whether Brevo can address this person at all.
    pub fn addressable(&self) -> bool {
        self.email.is_some() || self.phone.is_some()
    }

    /// Folds `$set` and `$unset` of one update. `None` when `position` was folded before.
    pub fn fold(&mut self, position: Position, change: ProfileChange) -> Option<Folded> {
        if self.applied.is_some_and(|applied| applied >= position) {
            return None;
        }
        self.applied = Some(position);
        let mut folded = Folded::default();
        if change.email.is_some() && change.email != self.email {
            self.email = change.email;
            folded.identifiers = true;
        }
        if change.phone.is_some() && change.phone != self.phone {
            self.phone = change.phone;
            folded.identifiers = true;
        }
        let unset = change.unset.into_iter().map(|name| (name, Value::Null));
        for (name, value) in change.set.into_iter().chain(unset) {
            // Equal values are owed too: what Brevo holds may have been changed there by hand.
            self.attributes.insert(name.clone(), value);
            folded.attributes.push(name);
        }
        Some(folded)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::record::{EntryId, Epoch};

    fn at(index: u32) -> Position {
        Position { epoch: Epoch(1), entry: EntryId(1), index }
    }

    fn plan(value: &str) -> ProfileChange {
        let name = AttributeName::parse("PLAN").unwrap();
        ProfileChange { set: vec![(name, json!(value))], ..ProfileChange::default() }
    }

    #[test]
    fn a_position_is_folded_once() {
        let mut person = Person::default();
        assert!(person.fold(at(1), plan("free")).is_some());
        assert!(person.fold(at(2), plan("pro")).is_some());
        assert_eq!(person.fold(at(1), plan("free")), None);
        assert_eq!(person.fold(at(2), plan("x")), None);
        assert_eq!(person.attributes.values().next(), Some(&json!("pro")));
    }

    #[test]
    fn unset_is_a_known_value() {
        let mut person = Person::default();
        let name = AttributeName::parse("PLAN").unwrap();
        let change = ProfileChange { unset: vec![name.clone()], ..ProfileChange::default() };
        assert_eq!(person.fold(at(1), change).unwrap().attributes, std::slice::from_ref(&name));
        assert_eq!(person.attributes.get(&name), Some(&Value::Null));
    }

    #[test]
    fn identifiers_change_only_when_they_differ() {
        let mut person = Person::default();
        let email = |raw| ProfileChange { email: Some(Email::parse(raw).unwrap()), ..ProfileChange::default() };
        assert!(person.fold(at(1), email("a@example.com")).unwrap().identifiers);
        assert!(!person.fold(at(2), email("A@Example.com")).unwrap().identifiers);
        assert!(person.fold(at(3), email("b@example.com")).unwrap().identifiers);
    }

    #[test]
    fn what_needs_a_fold_holds_back_what_is_behind_it_and_nothing_before() {
        let mut shelf = Shelf::default();
        shelf.put(at(1), false);
        shelf.put(at(2), true);
        shelf.put(at(3), false);
        assert!(shelf.has_free_records());
        assert_eq!([at(1), at(2), at(3)].map(|position| shelf.holds(position)), [false, true, true]);
        shelf.take_off(at(1));
        assert!(!shelf.has_free_records() && shelf.needs_fold());
        shelf.take_off(at(2));
        assert!(shelf.needs_fold(), "the record behind it was not folded either");
        shelf.take_off(at(3));
        assert_eq!(shelf, Shelf::default());
    }

    #[test]
    fn a_person_survives_being_stored() {
        let mut person = Person::default();
        person.fold(at(1), plan("pro"));
        person.contact =
            Contact::Known { email: Some(Email::parse("a@example.com").unwrap()), ext_id: true, phone: None };
        let stored = serde_json::to_vec(&person).unwrap();
        assert_eq!(serde_json::from_slice::<Person>(&stored).unwrap(), person);
    }
}
