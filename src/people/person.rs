//! One person: identifiers and the mapped part of their profile, folded in order. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::company::memberships::Memberships;
use super::links::Links;
use super::lists::Lists;
use super::pulled::Pulled;
use super::roster::PersonId;
use super::unknown::{Base, Unknown};
use super::unseen::Day;
use super::value::changed;
use crate::brevo::identifiers::{ContactId, Email, Phone};
use crate::brevo::names::AttributeName;
use crate::clock::UnixMillis;
use crate::mapping::{Assignment, Change, Operation, ProfileChange};
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
    #[serde(default, skip_serializing_if = "Links::is_empty")]
    pub links: Links,
    #[serde(default, skip_serializing_if = "Lists::is_empty")]
    pub lists: Lists,
    #[serde(default, skip_serializing_if = "Consent::is_default")]
    pub consent: Consent,
    /// Brevo is owed what follows from a deletion of the profile, ahead of everything that came later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<ProfileDeletion>,
    /// Where address and phone number were last deleted with the profile: what was found before that is nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifiers_deleted: Option<Position>,
    /// The Mixpanel groups that the person is in, with `sync.groups` on.
    #[serde(default, skip_serializing_if = "Memberships::is_empty")]
    pub groups: Memberships,
    /// Values that an app has taken away, and that are still away: Brevo is not to have them either. What is known to be
    /// absent and is not here says nothing of what Brevo may have from before the relay (CORE 5).
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unset: BTreeSet<AttributeName>,
    /// What waits for values that are not known.
    #[serde(default, skip_serializing_if = "Unknown::is_empty")]
    pub unknown: Unknown,
    /// When a record last named the person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Day>,
    /// Which of the known values were read at Mixpanel, and said by no app.
    #[serde(default, skip_serializing_if = "Pulled::is_empty")]
    pub pulled: Pulled,
    /// By which an import that was not seen to go through may have made a contact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maybe_imported: Option<Box<Identifiers>>,
}

/// What came of the consent rule, where there is one. The answer itself is among the attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// Nothing of the person may go to Brevo, and what waits on the shelf is to be let go.
    pub withheld: bool,
    /// Brevo is owed a withdrawal, ahead of everything else.
    pub withdrawal: bool,
}

impl Consent {
    fn is_default(&self) -> bool {
        *self == Consent::default()
    }
}

/// A profile that was deleted at Mixpanel, as far as its contact is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfileDeletion {
    pub at: Position,
    pub received_at: UnixMillis,
    /// By which the contact may be found that no write has confirmed.
    #[serde(flatten)]
    pub identifiers: Identifiers,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identifiers {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<Phone>,
}

impl Identifiers {
    /// These, and `other`'s where there are none.
    pub fn or(self, other: Identifiers) -> Identifiers {
        Identifiers { email: self.email.or(other.email), phone: self.phone.or(other.phone) }
    }
}

/// What stands on the person's shelf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelf {
    pub records: u64,
    /// Records in front of it are to be let go: the profile was deleted there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub let_go: Option<Position>,
}

impl Shelf {
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// One record less.
    pub fn take_one(&mut self) {
        self.records = self.records.saturating_sub(1);
        if self.is_empty() {
            self.let_go = None;
        }
    }

    pub fn lets_go_of(&self, position: Position) -> bool {
        self.let_go.is_some_and(|before| position < before)
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
        /// Whether Brevo has confirmed an id of the person as the contact's ext_id. False when another contact owns it.
        ext_id: bool,
        /// Which id that is, where it is not the canonical one: the contact was there before the ids were linked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        known_as: Option<PersonId>,
        /// Brevo's own number of the contact, where an answer has told it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        contact_id: Option<ContactId>,
        /// The number with which Brevo has confirmed the contact; none when another contact owns it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        phone: Option<Phone>,
    },
}

impl Contact {
    /// A contact that Brevo has confirmed under the person's own id.
    pub fn known(email: Option<Email>, ext_id: bool, phone: Option<Phone>) -> Self {
        Contact::Known { email, ext_id, known_as: None, contact_id: None, phone }
    }

    fn is_unknown(&self) -> bool {
        *self == Contact::Unknown
    }

    /// Address and number with which it was confirmed.
    pub fn identifiers(&self) -> Identifiers {
        match self {
            Contact::Known { email, phone, .. } => Identifiers { email: email.clone(), phone: phone.clone() },
            Contact::Unknown => Identifiers::default(),
        }
    }
}

/// What a fold changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    pub identifiers: bool,
    pub attributes: Vec<AttributeName>,
    /// A part of the update waits for a value that is not known.
    pub waits: bool,
    /// The profile was deleted; what it had by then to find a contact by.
    pub deleted: Option<Identifiers>,
}

impl Folded {
    /// Whether Brevo is owed something by it.
    pub fn owes(&self) -> bool {
        self.identifiers || !self.attributes.is_empty()
    }
}

/// Values that were found at Mixpanel or at Brevo, to be taken for those that are unknown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    pub email: Option<Email>,
    pub phone: Option<Phone>,
    /// Every mapped attribute; null where there is no value.
    pub attributes: BTreeMap<AttributeName, Value>,
}

impl Person {
    /// Brevo has confirmed the contact. What an import may have made is another one while it has another address.
    pub fn confirm(&mut self, contact: Contact) {
        let confirmed = contact.identifiers().email;
        self.maybe_imported.take_if(|imported| imported.email == confirmed);
        self.contact = contact;
    }

    /// Whether Brevo is to hold what is known of an attribute, be it nothing: somebody has said so.
    pub fn says(&self, name: &AttributeName, value: &Value) -> bool {
        !value.is_null() || self.unset.contains(name) || self.pulled.was_filled(name)
    }

    /// Whether Brevo can address this person at all.
    pub fn addressable(&self) -> bool {
        self.email.is_some() || self.phone.is_some()
    }

    /// Folds one update, step by step. `None` when `position` was folded before. `seen_from`: nothing that touches a
    /// mapped value can have been passed over from there on.
    pub fn fold(&mut self, position: Position, change: ProfileChange, seen_from: Position) -> Option<Folded> {
        if self.applied.is_some_and(|applied| applied >= position) {
            return None;
        }
        self.applied = Some(position);
        let mut folded = Folded::default();
        for operation in change.operations {
            match operation {
                Operation::Attribute(name, change) => {
                    self.step(name, change, position, seen_from, &mut folded);
                }
                Operation::Email(Assignment { value, once: false }) => self.assign_email(value, &mut folded),
                Operation::Phone(Assignment { value, once: false }) => self.assign_phone(value, &mut folded),
                Operation::Email(Assignment { value, once: true }) if self.email.is_none() => {
                    let change = Change::SetOnce(value.as_str().into());
                    self.wait(AttributeName::email(), change, position, seen_from, &mut folded);
                }
                Operation::Phone(Assignment { value, once: true }) if self.phone.is_none() => {
                    let change = Change::SetOnce(value.to_string().into());
                    self.wait(AttributeName::sms(), change, position, seen_from, &mut folded);
                }
                Operation::Email(_) | Operation::Phone(_) => {}
                Operation::Delete { values, identifiers } => {
                    self.delete(values, identifiers, position, &mut folded);
                }
            }
        }
        folded.attributes.sort_unstable();
        folded.attributes.dedup();
        Some(folded)
    }

    /// Nobody is owed an emptied value: what becomes of the contact is the configuration's to say.
    fn delete(&mut self, values: Vec<AttributeName>, identifiers: bool, position: Position, folded: &mut Folded) {
        for name in values {
            self.unknown.forget(&name);
            self.pulled.claim(&name);
            self.unset.remove(&name);
            self.attributes.insert(name, Value::Null);
        }
        self.unknown.forget(&AttributeName::email());
        self.unknown.forget(&AttributeName::sms());
        let had = self.identifiers();
        // What the same update did before that is gone with the rest.
        let deleted = std::mem::take(folded).deleted.unwrap_or_default().or(had);
        folded.deleted = Some(deleted);
        if identifiers {
            (self.email, self.phone) = (None, None);
            self.pulled.claim(&AttributeName::email());
            self.pulled.claim(&AttributeName::sms());
            self.identifiers_deleted = Some(position);
        }
    }

    pub fn identifiers(&self) -> Identifiers {
        Identifiers { email: self.email.clone(), phone: self.phone.clone() }
    }

    fn step(
        &mut self,
        name: AttributeName,
        change: Change,
        position: Position,
        seen_from: Position,
        folded: &mut Folded,
    ) {
        let value = match self.attributes.get(&name) {
            None if !change.assigns() => return self.wait(name, change, position, seen_from, folded),
            held => changed(held.unwrap_or(&Value::Null), &change),
        };
        // Equal values that were assigned are owed too: what Brevo holds may have been changed there by hand.
        let Some(value) = value else { return };
        self.unknown.forget(&name);
        self.pulled.claim(&name);
        if value.is_null() {
            self.unset.insert(name.clone());
        } else {
            self.unset.remove(&name);
        }
        self.attributes.insert(name.clone(), value);
        folded.attributes.push(name);
    }

    fn wait(
        &mut self,
        name: AttributeName,
        change: Change,
        position: Position,
        seen_from: Position,
        folded: &mut Folded,
    ) {
        self.unknown.add(name, position, change, seen_from);
        folded.waits = true;
    }

    fn assign_email(&mut self, email: Email, folded: &mut Folded) {
        self.unknown.forget(&AttributeName::email());
        self.pulled.claim(&AttributeName::email());
        folded.identifiers |= self.email.as_ref() != Some(&email);
        self.email = Some(email);
    }

    fn assign_phone(&mut self, phone: Phone, folded: &mut Folded) {
        self.unknown.forget(&AttributeName::sms());
        self.pulled.claim(&AttributeName::sms());
        folded.identifiers |= self.phone.as_ref() != Some(&phone);
        self.phone = Some(phone);
    }

    /// Whether a part of `change`, which was folded before, waits for a value that is not known.
    pub fn waits_for(&self, change: &ProfileChange) -> bool {
        change.operations.iter().any(|operation| match operation {
            Operation::Attribute(name, _) => self.unknown.holds(name),
            Operation::Email(_) => self.unknown.holds(&AttributeName::email()),
            Operation::Phone(_) => self.unknown.holds(&AttributeName::sms()),
            Operation::Delete { .. } => false,
        })
    }

    /// Takes what was `found` for values that are unknown, with the steps that wait for them. What nothing waited for
    /// becomes known and is not owed.
    pub fn learn(&mut self, base: Base, mut found: Found, seen_from: Position) -> Folded {
        let mut folded = Folded::default();
        let all_seen = match base {
            Base::Before => true,
            Base::At(position) => position >= seen_from,
        };
        for (name, value) in std::mem::take(&mut found.attributes) {
            if self.attributes.contains_key(&name) {
                continue;
            }
            let only_asked = self.unknown.only_asks(&name);
            if let Some(value) = self.unknown.take(&name, base, &value) {
                if only_asked {
                    self.pulled.note_read(name.clone());
                }
                self.attributes.insert(name.clone(), value);
                folded.attributes.push(name);
            } else if all_seen && !self.unknown.holds(&name) {
                self.pulled.note_read(name.clone());
                self.attributes.insert(name, value);
            }
        }
        let text = |found: Option<String>| found.map_or(Value::Null, Value::String);
        // What is older than a deletion is nobody's address any more.
        let deleted = self.identifiers_deleted.is_some_and(|deleted| base <= Base::At(deleted));
        let found = if deleted { Found::default() } else { found };
        if self.email.is_none() {
            let found = text(found.email.map(|email| email.as_str().to_owned()));
            let waited = self.unknown.holds(&AttributeName::email());
            let email = self.unknown.take(&AttributeName::email(), base, &found).unwrap_or(found);
            if let Some(email) = email.as_str().and_then(|email| Email::parse(email).ok()) {
                self.assign_email(email, &mut folded);
                if !waited {
                    self.pulled.fill(&AttributeName::email());
                }
            }
        }
        if self.phone.is_none() {
            let found = text(found.phone.map(|phone| phone.to_string()));
            let waited = self.unknown.holds(&AttributeName::sms());
            let phone = self.unknown.take(&AttributeName::sms(), base, &found).unwrap_or(found);
            if let Some(phone) = phone.as_str().and_then(|phone| Phone::parse(phone).ok()) {
                self.assign_phone(phone, &mut folded);
                if !waited {
                    self.pulled.fill(&AttributeName::sms());
                }
            }
        }
        folded
    }
}

#[cfg(test)]
#[path = "person_tests.rs"]
mod tests;
