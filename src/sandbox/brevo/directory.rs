//! All contacts, found by any of their identifiers (contract §3.2).
//!
//! Invariant: an identifier belongs to at most one contact, and the index names exactly the identifiers held.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Value, json};

use crate::clock::UnixMillis;

/// The identifiers besides the numeric id, in the order in which merging looks for an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    ExtId,
    Email,
    Sms,
    Whatsapp,
    Landline,
}

impl Key {
    pub const ALL: [Key; 5] = [Key::ExtId, Key::Email, Key::Sms, Key::Whatsapp, Key::Landline];

    /// The attribute that carries it.
    pub fn attribute(self) -> &'static str {
        match self {
            Key::ExtId => "EXT_ID",
            Key::Email => "EMAIL",
            Key::Sms => "SMS",
            Key::Whatsapp => "WHATSAPP",
            Key::Landline => "LANDLINE_NUMBER",
        }
    }

    /// The word used in error messages and `duplicate_identifiers`.
    pub fn word(self) -> &'static str {
        match self {
            Key::ExtId => "ext_id",
            Key::Email => "email",
            other => other.attribute(),
        }
    }

    pub fn from_attribute(name: &str) -> Option<Self> {
        Key::ALL.into_iter().find(|key| key.attribute() == name)
    }

    /// The form in which it is stored: emails in lower case, phones as digits without a leading `+` or `00`.
    pub fn normal(self, value: &str) -> Option<String> {
        let value = value.trim();
        match self {
            Key::ExtId => (!value.is_empty()).then(|| value.to_owned()),
            Key::Email => {
                let (local, domain) = value.split_once('@')?;
                let plausible = !local.is_empty() && domain.contains('.') && !value.contains(char::is_whitespace);
                plausible.then(|| value.to_lowercase())
            }
            Key::Sms | Key::Whatsapp | Key::Landline => {
                let digits = value.strip_prefix('+').or_else(|| value.strip_prefix("00")).unwrap_or(value);
                let plausible = (6..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
                (plausible && !digits.starts_with('0')).then(|| digits.to_owned())
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct Contact {
    pub id: i64,
    identifiers: BTreeMap<Key, String>,
    pub attributes: BTreeMap<String, Value>,
    pub email_blacklisted: bool,
    pub sms_blacklisted: bool,
    pub list_ids: BTreeSet<i64>,
    pub created_at: UnixMillis,
    pub modified_at: UnixMillis,
}

impl Contact {
    pub fn identifier(&self, key: Key) -> Option<&str> {
        self.identifiers.get(&key).map(String::as_str)
    }

    /// The email, or the placeholder of a contact that has a phone only.
    pub fn shown_email(&self) -> Option<String> {
        let placeholder = || self.identifier(Key::Sms).map(|digits| format!("{digits}@mailin-sms.com"));
        self.identifier(Key::Email).map(str::to_owned).or_else(placeholder)
    }

    pub fn to_json(&self) -> Value {
        let mut attributes: BTreeMap<&str, Value> =
            self.attributes.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        for (key, value) in self.identifiers.iter().filter(|(key, _)| **key != Key::Email) {
            attributes.insert(key.attribute(), value.as_str().into());
        }
        json!({
            "id": self.id,
            "email": self.shown_email(),
            "emailBlacklisted": self.email_blacklisted,
            "smsBlacklisted": self.sms_blacklisted,
            "whatsappBlacklisted": false,
            "createdAt": self.created_at.to_string(),
            "modifiedAt": self.modified_at.to_string(),
            "listIds": self.list_ids,
            "attributes": attributes,
        })
    }
}

#[derive(Debug, Default)]
pub struct Directory {
    contacts: BTreeMap<i64, Contact>,
    index: HashMap<(Key, String), i64>,
    last_id: i64,
}

impl Directory {
    pub fn create(&mut self, now: UnixMillis) -> i64 {
        self.last_id += 1;
        let contact = Contact {
            id: self.last_id,
            identifiers: BTreeMap::new(),
            attributes: BTreeMap::new(),
            email_blacklisted: false,
            sms_blacklisted: false,
            list_ids: BTreeSet::new(),
            created_at: now,
            modified_at: now,
        };
        self.contacts.insert(self.last_id, contact);
        self.last_id
    }

    pub fn get(&self, id: i64) -> Option<&Contact> {
        self.contacts.get(&id)
    }

    pub fn get_mut(&mut self, id: i64) -> Option<&mut Contact> {
        self.contacts.get_mut(&id)
    }

    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Contact> {
        self.contacts.values()
    }

    pub fn len(&self) -> usize {
        self.contacts.len()
    }

    /// The owner of a normalised identifier. The placeholder email of a phone-only contact finds it too.
    pub fn owner(&self, key: Key, value: &str) -> Option<i64> {
        let found = self.index.get(&(key, value.to_owned())).copied();
        let digits = || value.strip_suffix("@mailin-sms.com").filter(|_| key == Key::Email);
        found.or_else(|| self.index.get(&(Key::Sms, digits()?.to_owned())).copied())
    }

    /// Gives a contact an identifier, taking its former one away. The caller has made sure that it is free.
    pub fn identify(&mut self, id: i64, key: Key, value: Option<String>) {
        let Some(contact) = self.contacts.get_mut(&id) else { return };
        if let Some(former) = contact.identifiers.remove(&key) {
            self.index.remove(&(key, former));
        }
        if let Some(value) = value {
            self.index.insert((key, value.clone()), id);
            contact.identifiers.insert(key, value);
        }
    }

    pub fn remove(&mut self, id: i64) -> Option<Contact> {
        let contact = self.contacts.remove(&id)?;
        for (key, value) in &contact.identifiers {
            self.index.remove(&(*key, value.clone()));
        }
        Some(contact)
    }

    /// Merges several contacts into the one modified last; the others are deleted, and what the survivor lacks is kept.
    pub fn merge(&mut self, ids: &BTreeSet<i64>) -> Option<i64> {
        let survivor =
            *ids.iter().max_by_key(|id| self.contacts.get(id).map(|contact| (contact.modified_at, contact.id)))?;
        for id in ids.iter().filter(|id| **id != survivor) {
            let Some(gone) = self.remove(*id) else { continue };
            for (key, value) in gone.identifiers {
                if self.contacts.get(&survivor).is_some_and(|contact| contact.identifier(key).is_none()) {
                    self.identify(survivor, key, Some(value));
                }
            }
            if let Some(contact) = self.contacts.get_mut(&survivor) {
                contact.list_ids.extend(gone.list_ids);
                for (name, value) in gone.attributes {
                    contact.attributes.entry(name).or_insert(value);
                }
            }
        }
        Some(survivor)
    }

    pub fn forget_attribute(&mut self, name: &str) {
        for contact in self.contacts.values_mut() {
            contact.attributes.remove(name);
        }
    }

    pub fn leave_list(&mut self, list: i64) {
        for contact in self.contacts.values_mut() {
            contact.list_ids.remove(&list);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Create,
        Identify { of: usize, key: usize, value: Option<u8> },
        Remove(usize),
        Merge(usize, usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let identify = (0..8_usize, 0..Key::ALL.len(), proptest::option::of(0..6_u8));
        let step = prop_oneof![
            2 => Just(Step::Create),
            6 => identify.prop_map(|(of, key, value)| Step::Identify { of, key, value }),
            1 => (0..8_usize).prop_map(Step::Remove),
            2 => (0..8_usize, 0..8_usize).prop_map(|(a, b)| Step::Merge(a, b)),
        ];
        proptest::collection::vec(step, 0..60)
    }

    /// The index, rebuilt from the contacts.
    fn rebuilt(directory: &Directory) -> HashMap<(Key, String), i64> {
        let held = |contact: &Contact| {
            let id = contact.id;
            contact.identifiers.clone().into_iter().map(move |(key, value)| ((key, value), id)).collect::<Vec<_>>()
        };
        directory.all().flat_map(held).collect()
    }

    proptest! {
        #[test]
        fn the_index_names_exactly_the_identifiers_held(steps in steps()) {
            let mut directory = Directory::default();
            for (at, step) in steps.into_iter().enumerate() {
                let ids: Vec<i64> = directory.all().map(|contact| contact.id).collect();
                let pick = |n: usize| ids.get(n % ids.len().max(1)).copied();
                match step {
                    Step::Create => drop(directory.create(UnixMillis(at as u64))),
                    Step::Identify { of, key, value } => {
                        let value = value.map(|value| value.to_string());
                        let key = Key::ALL[key];
                        let taken = value.as_ref().is_some_and(|value| directory.owner(key, value).is_some());
                        if let (Some(id), false) = (pick(of), taken) {
                            directory.identify(id, key, value);
                        }
                    }
                    Step::Remove(of) => drop(pick(of).and_then(|id| directory.remove(id))),
                    Step::Merge(a, b) => {
                        let both: BTreeSet<i64> = [pick(a), pick(b)].into_iter().flatten().collect();
                        let survivor = directory.merge(&both);
                        prop_assert_eq!(survivor, both.last().copied(), "the one modified last survives");
                    }
                }
                prop_assert_eq!(&directory.index, &rebuilt(&directory));
            }
        }
    }

    #[test]
    fn identifiers_have_one_form() {
        let cases = [
            (Key::Email, "Ann@Example.COM ", Some("ann@example.com")),
            (Key::Email, "ann at example", None),
            (Key::Sms, "+33612345678", Some("33612345678")),
            (Key::Sms, "0033612345678", Some("33612345678")),
            (Key::Sms, "0612345678", None),
            (Key::ExtId, "U-1", Some("U-1")),
        ];
        for (key, sent, stored) in cases {
            assert_eq!(key.normal(sent).as_deref(), stored, "{sent}");
        }
    }
}
