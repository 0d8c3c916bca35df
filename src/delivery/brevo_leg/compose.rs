//! What Brevo is written for a person: from what is owed to the contact's new values. Pure.

use serde_json::Value;

use crate::brevo::account::{AccountModel, AttributeToCreate};
use crate::brevo::coerce::{AttributeValue, Clearing, Unplaced, coerce, masked};
use crate::brevo::identifiers::{ContactRef, Email, ListId};
use crate::brevo::names::AttributeName;
use crate::brevo::wire::{Attributes, ContactUpdate, ContactUpsert, EventIdentifiers, ImportContact};
use crate::mapping::AttributeRules;
use crate::people::blocklist::Blocked;
use crate::people::debt::Debt;
use crate::people::links;
use crate::people::person::{Contact, Person};

/// Longest distinct_id that is used as an ext_id. Brevo's own limit is unconfirmed (contract §3.2).
pub(super) const MAX_EXT_ID: usize = 255;

/// A person's write, in parts that a conflict can take out one by one.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    pub person: Person,
    pub ext_id: Option<String>,
    pub attributes: Attributes,
    /// Attributes to be emptied, where there is a contact.
    pub clear: Vec<AttributeName>,
    pub phone: bool,
    /// Identifiers are owed: a new address may be tried. Once Brevo has refused one it is kept apart, not tried with
    /// every later value.
    pub identifiers: bool,
    pub lists: Vec<ListId>,
    /// How the contact is to be created: one of this address or number was blocklisted when it was deleted.
    pub blocklisted: Blocked,
}

/// A value that Brevo has no place for.
#[derive(Clone, Debug, PartialEq)]
pub struct NotPlaced {
    pub attribute: AttributeName,
    pub reason: Unplaced,
    /// What it looks like, masked.
    pub sample: String,
}

impl NotPlaced {
    fn of(attribute: &AttributeName, reason: Unplaced, value: &Value) -> Self {
        Self { attribute: attribute.clone(), reason, sample: masked(value) }
    }
}

#[derive(Debug)]
pub enum Composed {
    Write(Box<Write>, Vec<NotPlaced>),
    /// Brevo has everything that can be placed.
    Nothing(Vec<NotPlaced>),
    /// Attributes have to be created first.
    Missing(Vec<AttributeToCreate>),
}

/// Composes what `debt` owes `person`, who is `id` at Mixpanel.
pub fn compose(
    id: &str,
    person: &Person,
    debt: &Debt,
    account: &AccountModel,
    rules: &AttributeRules,
    may_create: bool,
    lists: &[ListId],
) -> Composed {
    let known = person.contact != Contact::Unknown;
    let owed = |name: &AttributeName| (!known || debt.attributes.contains(name)) && !name.is_kept_back();
    let mut attributes = Attributes::new();
    let (mut clear, mut not_placed, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    for (name, value) in person.attributes.iter().filter(|(name, _)| owed(name)) {
        if value.is_null() {
            // A contact that is about to be created has nothing to empty, but it may turn out to be there: an answer was
            // lost, or it is older than the relay. Then what was said counts, and what is only not known does not.
            if (known || person.says(name, value)) && account.kind(name).is_some() {
                clear.push(name.clone());
            }
            continue;
        }
        let value = rules.read(name, value);
        match coerce(&value, account.kind(name)) {
            Ok(placed) => {
                attributes.insert(name.clone(), placed.value);
                not_placed.extend(
                    placed
                        .unknown_options
                        .into_iter()
                        .map(|option| NotPlaced::of(name, Unplaced::UnknownOption, &option.into())),
                );
            }
            Err(Unplaced::NoSuchAttribute) if may_create => missing.extend(rules.to_create(name, &value)),
            Err(reason) => not_placed.push(NotPlaced::of(name, reason, &value)),
        }
    }
    if !missing.is_empty() {
        return Composed::Missing(missing);
    }
    let identifiers = !known || (debt.identifiers && identifiers_differ(id, person));
    if !identifiers && attributes.is_empty() && clear.is_empty() {
        return Composed::Nothing(not_placed);
    }
    let write = Write {
        person: person.clone(),
        ext_id: (id.len() <= MAX_EXT_ID && ext_id_allowed(person))
            .then(|| links::ext_id(id, &person.contact).to_owned()),
        attributes,
        clear,
        phone: person.phone.is_some() && identifiers,
        identifiers,
        lists: lists.to_vec(),
        blocklisted: Blocked::default(),
    };
    Composed::Write(Box::new(write), not_placed)
}

fn identifiers_differ(id: &str, person: &Person) -> bool {
    match &person.contact {
        Contact::Unknown => true,
        Contact::Known { email, phone, .. } => {
            *email != person.email || *phone != person.phone || renames(id, &person.contact)
        }
    }
}

/// Whether the contact is to have another ext_id than it has.
fn renames(id: &str, contact: &Contact) -> bool {
    let Contact::Known { ext_id: true, known_as: Some(old), .. } = contact else { return false };
    **old != *links::ext_id(id, contact) && id.len() <= MAX_EXT_ID
}

/// Once Brevo has said that the id belongs to another contact, it is not asked again.
fn ext_id_allowed(person: &Person) -> bool {
    !matches!(person.contact, Contact::Known { ext_id: false, .. })
}

impl Write {
    /// Whether an import can carry it: imports are said to ignore booleans, empty nothing, know people by address, and
    /// merge whom an ext_id leads them to.
    pub fn importable(&self) -> bool {
        self.person.email.is_some()
            && !self.blocklisted.any()
            && self.clear.is_empty()
            && !self.email_differs()
            && !self.renames()
            && self.attributes.values().all(AttributeValue::importable)
    }

    /// Brevo knows the contact by another address than ours, or by none.
    pub fn email_differs(&self) -> bool {
        let known = matches!(&self.person.contact, Contact::Known { email, .. } if *email != self.person.email);
        known && self.person.email.is_some()
    }

    /// The address has to become another one.
    pub fn email_change(&self) -> bool {
        self.identifiers && self.email_differs()
    }

    /// The contact is known by an id that was merged since, and is to have the ext_id of this write.
    pub fn renames(&self) -> bool {
        match (&self.person.contact, &self.ext_id) {
            (Contact::Known { ext_id: true, known_as: Some(old), .. }, Some(new)) => **old != **new,
            _ => false,
        }
    }

    /// Whether it takes away what events name the contact by until it is confirmed ([`event_identifiers`]): an event that
    /// arrives behind it would vanish.
    pub fn readdresses(&self) -> bool {
        match &self.person.contact {
            Contact::Unknown => false,
            Contact::Known { email: Some(_), .. } => self.email_change(),
            Contact::Known { ext_id: false, phone: Some(phone), .. } => {
                self.phone && self.person.phone.as_ref() != Some(phone)
            }
            Contact::Known { .. } => self.renames(),
        }
    }

    fn all_attributes(&self, clearing: Clearing) -> Attributes {
        let mut attributes = self.attributes.clone();
        attributes.extend(self.clear.iter().map(|name| (name.clone(), clearing.value())));
        if let (true, Some(phone)) = (self.phone, &self.person.phone) {
            attributes.insert(AttributeName::sms(), AttributeValue::Text(phone.to_string()));
        }
        attributes
    }

    /// A contact that must not be there yet: there is nothing to empty in it.
    pub fn creation(&self, clearing: Clearing) -> ContactUpsert {
        let mut body = self.upsert(clearing);
        body.update_enabled = false;
        body.attributes.retain(|name, _| !self.clear.contains(name));
        body
    }

    pub fn upsert(&self, clearing: Clearing) -> ContactUpsert {
        ContactUpsert {
            email: self.person.email.clone(),
            ext_id: self.ext_id.clone(),
            attributes: self.all_attributes(clearing),
            list_ids: self.lists.clone(),
            update_enabled: true,
            email_blacklisted: self.blocklisted.email.then_some(true),
            sms_blacklisted: self.blocklisted.sms.then_some(true),
        }
    }

    /// The same as an update of a contact that Brevo knows; a new address travels as an attribute (contract §3.2).
    pub fn update(&self, clearing: Clearing, change_email: bool) -> ContactUpdate {
        let mut attributes = self.all_attributes(clearing);
        if let (true, Some(email)) = (change_email, &self.person.email) {
            attributes.insert(AttributeName::email(), AttributeValue::Text(email.as_str().to_owned()));
        }
        let ext_id = self.ext_id.clone().filter(|_| self.renames());
        ContactUpdate { ext_id, attributes, list_ids: self.lists.clone(), ..ContactUpdate::default() }
    }

    pub fn import(&self) -> ImportContact {
        let attributes = self.all_attributes(Clearing::default());
        let mut attributes: std::collections::BTreeMap<String, AttributeValue> =
            attributes.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
        if let Some(ext_id) = &self.ext_id {
            attributes.insert("EXT_ID".to_owned(), AttributeValue::Text(ext_id.clone()));
        }
        ImportContact { email: self.person.email.clone(), attributes }
    }

    /// The contact as Brevo has confirmed it, once it has.
    /// `ext_id`: under an id of the person's, the new one where this write had one.
    pub fn confirmed(&self, email: Option<Email>, ext_id: bool) -> Contact {
        let (kept, known_as, contact_id) = match &self.person.contact {
            Contact::Known { phone, known_as, contact_id, .. } => (phone.clone(), known_as.clone(), *contact_id),
            Contact::Unknown => (None, None, None),
        };
        let known_as = known_as.filter(|_| !self.renames());
        let phone = if self.phone { self.person.phone.clone() } else { kept };
        Contact::Known { email, ext_id, known_as, contact_id, phone }
    }
}

/// How Brevo knows the person, for a call about the contact.
pub fn address<'a>(id: &'a str, contact: &'a Contact) -> Option<ContactRef<'a>> {
    match contact {
        Contact::Unknown => None,
        Contact::Known { ext_id: true, known_as, .. } => Some(ContactRef::ExtId(known_as.as_deref().unwrap_or(id))),
        Contact::Known { email: Some(email), .. } => Some(ContactRef::Email(email)),
        Contact::Known { phone: Some(phone), .. } => Some(ContactRef::Phone(phone)),
        Contact::Known { .. } => None,
    }
}

/// How Brevo knows the person, for an event. One identifier: which of several wins is unconfirmed (contract §2.1). The
/// address goes first, because it is what every way of writing a contact sets.
pub fn event_identifiers(id: &str, contact: &Contact) -> EventIdentifiers {
    let mut identifiers = EventIdentifiers::default();
    match contact {
        Contact::Known { email: Some(email), .. } => identifiers.email_id = Some(email.clone()),
        Contact::Known { ext_id: false, phone: Some(phone), .. } => {
            identifiers.phone_id = Some(phone.digits().to_owned());
        }
        Contact::Known { known_as: Some(old), .. } => identifiers.ext_id = Some(old.to_string()),
        Contact::Known { .. } | Contact::Unknown => identifiers.ext_id = Some(id.to_owned()),
    }
    identifiers
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::brevo::account::AttributeKind;

    fn name(name: &str) -> AttributeName {
        AttributeName::parse(name).unwrap()
    }

    fn account() -> AccountModel {
        AccountModel {
            attributes: [
                (name("PLAN"), AttributeKind::Text),
                (name("LTV"), AttributeKind::Float),
                (name("VIP"), AttributeKind::Boolean),
            ]
            .into(),
            lists: Default::default(),
        }
    }

    fn ada() -> Person {
        Person {
            email: Some(Email::parse("ada@example.com").unwrap()),
            attributes: [(name("PLAN"), json!("pro")), (name("LTV"), json!("12.5"))].into(),
            ..Person::default()
        }
    }

    fn owing(attributes: &[&str], identifiers: bool) -> Debt {
        Debt { attributes: attributes.iter().map(|raw| name(raw)).collect(), identifiers, ..Debt::nothing() }
    }

    fn written(composed: Composed) -> Write {
        let Composed::Write(write, _) = composed else { panic!("{composed:?}") };
        *write
    }

    #[test]
    fn a_new_contact_gets_everything_that_is_known() {
        let write = written(compose(
            "u1",
            &ada(),
            &Debt::nothing(),
            &account(),
            &AttributeRules::default(),
            true,
            &[ListId(15)],
        ));
        assert_eq!(
            serde_json::to_value(write.upsert(Clearing::default())).unwrap(),
            json!({"email": "ada@example.com", "ext_id": "u1", "attributes": {"LTV": 12.5, "PLAN": "pro"},
                   "listIds": [15], "updateEnabled": true})
        );
        assert!(write.importable());
    }

    #[test]
    fn a_known_contact_gets_what_is_owed() {
        let mut person = ada();
        person.contact = Contact::known(person.email.clone(), true, None);
        let write =
            written(compose("u1", &person, &owing(&["PLAN"], true), &account(), &AttributeRules::default(), true, &[]));
        assert_eq!(write.attributes.keys().collect::<Vec<_>>(), [&name("PLAN")]);
        assert!(matches!(
            compose("u1", &person, &owing(&[], true), &account(), &AttributeRules::default(), true, &[]),
            Composed::Nothing(_)
        ));
    }

    #[test]
    fn unset_empties_what_exists_and_is_not_importable() {
        let mut person = ada();
        person.contact = Contact::known(person.email.clone(), true, None);
        person.attributes.insert(name("PLAN"), Value::Null);
        let write = written(compose(
            "u1",
            &person,
            &owing(&["PLAN"], false),
            &account(),
            &AttributeRules::default(),
            true,
            &[],
        ));
        assert_eq!(write.clear, [name("PLAN")]);
        assert!(!write.importable());
        let body = serde_json::to_value(write.upsert(Clearing::EmptyString)).unwrap();
        assert_eq!(body["attributes"], json!({"PLAN": ""}));
    }

    #[test]
    fn a_changed_address_is_an_update_of_the_old_one() {
        let mut person = ada();
        let old = Email::parse("old@example.com").unwrap();
        person.contact = Contact::known(Some(old.clone()), true, None);
        let write =
            written(compose("u1", &person, &owing(&[], true), &account(), &AttributeRules::default(), true, &[]));
        assert!(write.email_change() && write.readdresses());
        let later = written(compose(
            "u1",
            &person,
            &owing(&["PLAN"], false),
            &account(),
            &AttributeRules::default(),
            true,
            &[],
        ));
        assert!(later.email_differs() && !later.email_change() && !later.readdresses());
        let body = serde_json::to_value(write.update(Clearing::default(), true)).unwrap();
        assert_eq!(body["attributes"]["EMAIL"], "ada@example.com");
        assert!(!write.importable());
    }

    #[test]
    fn what_the_account_lacks_is_created_or_reported() {
        let mut person = ada();
        person.attributes.insert(name("COLOUR"), json!("blue"));
        let missing = compose("u1", &person, &Debt::nothing(), &account(), &AttributeRules::default(), true, &[]);
        assert!(matches!(&missing, Composed::Missing(list) if list.len() == 1), "{missing:?}");
        let Composed::Write(_, not_placed) =
            compose("u1", &person, &Debt::nothing(), &account(), &AttributeRules::default(), false, &[])
        else {
            panic!("not written")
        };
        assert_eq!(not_placed, [NotPlaced::of(&name("COLOUR"), Unplaced::NoSuchAttribute, &json!("blue"))]);
    }

    #[test]
    fn booleans_do_not_travel_in_imports() {
        let mut person = ada();
        person.attributes.insert(name("VIP"), json!(true));
        assert!(
            !written(compose("u1", &person, &Debt::nothing(), &account(), &AttributeRules::default(), true, &[]))
                .importable()
        );
    }
}
