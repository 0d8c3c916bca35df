//! Values that were read at Mixpanel, apart from those that an app has said (CORE 5, 11). Pure.
//!
//! A pulled profile fills what is unknown, and follows Mixpanel in what an earlier pull has filled. What an app has set
//! through the relay stays, and so does what waits for a base: the base is read with a word about its position, which a
//! pull has not. A pull that finds nothing new changes nothing, so Brevo is owed nothing for it.
//!
//! A row of a data set goes further: its attributes are the data set's own, so the newest row has the last word on them,
//! whoever had it before. Addresses and numbers it fills as a pull does.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::person::{Folded, Person};
use crate::brevo::identifiers::{Email, Phone};
use crate::brevo::names::AttributeName;
use crate::mapping::{Change, Operation, ProfileChange};
use crate::record::Position;

/// Which known values no app has said. Identifiers stand here under the names of their attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Filled by a pull: Brevo has them, or is owed them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    filled: BTreeSet<AttributeName>,
    /// Read beside a base that something waited for: Brevo was never told.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    read: BTreeSet<AttributeName>,
}

impl Pulled {
    pub fn is_empty(&self) -> bool {
        self.filled.is_empty() && self.read.is_empty()
    }

    /// An app has said what the value is.
    pub fn claim(&mut self, name: &AttributeName) {
        self.filled.remove(name);
        self.read.remove(name);
    }

    /// The value was read and is not owed.
    pub fn note_read(&mut self, name: AttributeName) {
        self.read.insert(name);
    }

    /// Whether the value was read, and Brevo was never told.
    pub fn was_read(&self, name: &AttributeName) -> bool {
        self.read.contains(name)
    }

    /// Whether a pull has the last word on the value.
    pub fn was_filled(&self, name: &AttributeName) -> bool {
        self.filled.contains(name)
    }

    /// A pull, or a reading that is owed, has brought the value.
    pub fn fill(&mut self, name: &AttributeName) {
        self.read.remove(name);
        self.filled.insert(name.clone());
    }

    /// Whether a value that is known may be filled all the same.
    fn yields(&self, name: &AttributeName) -> bool {
        self.filled.contains(name) || self.read.contains(name)
    }

    /// The same of another id of the person, for `name`, whose value is taken over.
    pub fn take(&mut self, name: &AttributeName, other: &Pulled) {
        if other.filled.contains(name) {
            self.filled.insert(name.clone());
        }
        if other.read.contains(name) {
            self.read.insert(name.clone());
        }
    }
}

/// What a pulled profile says: the last word on every value. Absent is said of what no property brings.
#[derive(Debug, Default)]
struct Profile {
    email: Option<Email>,
    phone: Option<Phone>,
    values: BTreeMap<AttributeName, Value>,
}

impl Profile {
    /// Only assignments say what a profile holds.
    fn of(change: ProfileChange) -> Self {
        let mut profile = Profile::default();
        for operation in change.operations {
            match operation {
                Operation::Attribute(name, Change::Set(value)) => drop(profile.values.insert(name, value)),
                Operation::Attribute(name, Change::Unset) => drop(profile.values.entry(name).or_insert(Value::Null)),
                Operation::Email(email) => profile.email = Some(email.value),
                Operation::Phone(phone) => profile.phone = Some(phone.value),
                Operation::Attribute(..) | Operation::Delete { .. } => {}
            }
        }
        profile
    }
}

impl Person {
    /// Folds a pulled profile. `None` when `position` was folded before.
    pub fn fill(&mut self, position: Position, change: ProfileChange) -> Option<Folded> {
        self.take_found(Some(position), change, Person::takes)
    }

    /// Folds a row of a data set. `None` when `position` was folded before.
    pub fn take_row(&mut self, position: Position, change: ProfileChange) -> Option<Folded> {
        self.take_found(Some(position), change, Person::takes_of_a_row)
    }

    /// What [`Person::take_row`] would change.
    pub fn would_take(&self, change: ProfileChange) -> Folded {
        self.clone().take_found(None, change, Person::takes_of_a_row).unwrap_or_default()
    }

    fn take_found(
        &mut self,
        position: Option<Position>,
        change: ProfileChange,
        takes: fn(&Person, &AttributeName, &Value) -> bool,
    ) -> Option<Folded> {
        if position.is_some_and(|position| self.applied.is_some_and(|applied| applied >= position)) {
            return None;
        }
        self.applied = position.or(self.applied);
        let mut folded = Folded::default();
        let Profile { mut email, mut phone, values } = Profile::of(change);
        // It may have been read before the profile was deleted, and would bring the contact back: apps alone do.
        if self.identifiers_deleted.is_some() {
            (email, phone) = (None, None);
        }
        for (name, value) in values {
            if takes(self, &name, &value) {
                self.unknown.forget(&name);
                self.pulled.fill(&name);
                self.unset.remove(&name);
                self.attributes.insert(name.clone(), value);
                folded.attributes.push(name);
            }
        }
        if let Some(email) = email
            && self.may_fill(&AttributeName::email(), self.email.is_some())
            && self.email.as_ref() != Some(&email)
        {
            self.pulled.fill(&AttributeName::email());
            self.email = Some(email);
            folded.identifiers = true;
        }
        if let Some(phone) = phone
            && self.may_fill(&AttributeName::sms(), self.phone.is_some())
            && self.phone.as_ref() != Some(&phone)
        {
            self.pulled.fill(&AttributeName::sms());
            self.phone = Some(phone);
            folded.identifiers = true;
        }
        Some(folded)
    }

    /// Whether a pull that finds `value` changes anything by it. What is absent there, and was never filled here, says
    /// nothing of what Brevo holds.
    fn takes(&self, name: &AttributeName, value: &Value) -> bool {
        let held = self.attributes.get(name);
        if !self.may_fill(name, held.is_some()) {
            return false;
        }
        match held {
            Some(held) if self.pulled.filled.contains(name) => held != value,
            // Known and never told.
            Some(_) | None => !value.is_null(),
        }
    }

    /// The same for a row, whose own the attribute is.
    fn takes_of_a_row(&self, name: &AttributeName, value: &Value) -> bool {
        match self.attributes.get(name) {
            Some(held) if !self.pulled.was_read(name) => held != value,
            Some(_) | None => !value.is_null(),
        }
    }

    fn may_fill(&self, name: &AttributeName, known: bool) -> bool {
        !self.unknown.holds(name) && (!known || self.pulled.yields(name))
    }
}

#[cfg(test)]
#[path = "pulled_tests.rs"]
mod tests;
