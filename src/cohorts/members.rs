//! Who a member is at Brevo, and whether they may be there: from an id and what Mixpanel says of its profile, through the
//! mapping and its privacy rules as an update would pass, to whatever the relay knows of the person.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};

use super::rows::MemberRow;
use super::run::Unmatched;
use crate::brevo::identifiers::{ContactRef, Email, Phone};
use crate::brevo::names::AttributeName;
use crate::config::{BrevoMode, SyncMode};
use crate::delivery::brevo_leg::{address, in_pilot};
use crate::mapping::{Change, CompiledMapping, Operation, ProfileDecision, ProfileView, map_profile};
use crate::people::lookup;
use crate::people::person::{Contact, Person};
use crate::people::roster::PersonId;
use crate::privacy::{Erased, Tombstones};
use crate::record::Kind;
use crate::store::{State, StoreError};

/// Somebody in a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Member {
    pub distinct_id: String,
    /// Profile properties by Mixpanel's names (`$email`, `$phone`, `plan`, ...), as far as they are known.
    pub properties: Map<String, Value>,
}

/// What a member comes to.
pub(super) type Resolved = Result<MemberRow, Unmatched>;

/// The mapping that is in force now: it may be reloaded.
pub type MappingNow = Arc<dyn Fn() -> Arc<CompiledMapping> + Send + Sync>;

/// What resolving needs.
#[derive(Clone)]
pub struct Resolver {
    pub state: Arc<dyn State>,
    pub mapping: MappingNow,
    pub tombstones: Arc<Tombstones>,
    pub mode: BrevoMode,
    /// `*@domain` or whole addresses, lower case.
    pub pilot_emails: Vec<String>,
}

impl Resolver {
    pub(super) fn mapping(&self) -> Arc<CompiledMapping> {
        (self.mapping)()
    }

    /// The profile properties that are worth asking Mixpanel for.
    pub fn properties(&self) -> Vec<String> {
        let mapping = self.mapping();
        let consent = mapping.consent.as_ref().map(|rule| rule.property.clone());
        let mut properties: Vec<String> = mapping.properties().map(|(name, _)| name.to_owned()).collect();
        properties.extend(consent);
        properties.sort_unstable();
        properties.dedup();
        properties
    }

    /// What each of `members` comes to, in their order. `erased` is to be held until what follows from it is stored.
    /// `mode`: of the list that they are for.
    pub(super) async fn resolve(
        &self,
        members: &[Member],
        mode: SyncMode,
        erased: &Erased,
    ) -> Result<Vec<Resolved>, StoreError> {
        let mapping = self.mapping();
        let seen: Vec<Option<(PersonId, Person)>> = members.iter().map(|member| seen(member, &mapping)).collect();
        let ids: Vec<PersonId> = seen.iter().flatten().map(|(id, _)| id.clone()).collect();
        let mut known = lookup::current(&self.state, &ids).await?.into_iter();
        let mut resolved = Vec::with_capacity(members.len());
        for (member, seen) in members.iter().zip(seen) {
            let Some((_, profile)) = seen else {
                resolved.push(Err(Unmatched::NoId));
                continue;
            };
            // One for each id that was asked for.
            let Some((id, person)) = known.next() else { break };
            let gone = [member.distinct_id.as_str(), &id].iter().any(|id| erased.covers_id(id));
            resolved.push(if gone { Err(Unmatched::Erased) } else { self.row(&mapping, mode, &id, person, profile) });
        }
        Ok(resolved)
    }

    /// What the relay knows goes before what Mixpanel says: it is newer.
    fn row(
        &self,
        mapping: &CompiledMapping,
        mode: SyncMode,
        id: &PersonId,
        person: Option<Person>,
        profile: Person,
    ) -> Resolved {
        let known = person.is_some();
        let mut person = person.unwrap_or_default();
        person.email = person.email.or(profile.email);
        person.phone = person.phone.or(profile.phone);
        let said = profile.attributes;
        if let Some(why) = self.refusal(mapping, mode, &person, &said) {
            return Err(why);
        }
        let mut row = MemberRow { person: id.to_string(), ..MemberRow::default() };
        match &person.contact {
            Contact::Known { email, phone, contact_id, .. } => {
                if let Some(ContactRef::ExtId(ext_id)) = address(id, &person.contact) {
                    row.ext_id = Some(ext_id.to_owned());
                }
                (row.email, row.phone, row.contact_id) = (email.clone(), phone.clone(), *contact_id);
            }
            Contact::Unknown => {
                row.ext_id = Some(id.to_string());
                (row.email, row.phone) = (person.email, person.phone);
            }
        }
        if !known {
            row.attributes = said.into_iter().filter(|(name, _)| !name.is_kept_back()).collect();
        }
        Ok(row)
    }

    /// Why the person may not be brought to Brevo, for what `mode` says. `said`: what Mixpanel says of them just now.
    pub fn refusal(
        &self,
        mapping: &CompiledMapping,
        mode: SyncMode,
        person: &Person,
        said: &BTreeMap<AttributeName, Value>,
    ) -> Option<Unmatched> {
        if person.deletion.is_some() {
            return Some(Unmatched::Erased);
        }
        // Nobody has to agree to be taken out.
        if let (Some(rule), SyncMode::Mirror | SyncMode::Add) = (&mapping.consent, mode) {
            let answer = person.attributes.get(&rule.name).or_else(|| said.get(&rule.name));
            if person.consent.withheld || !rule.given(answer) {
                return Some(Unmatched::NoConsent);
            }
        }
        (!in_pilot(self.mode, &self.pilot_emails, person)).then_some(Unmatched::NotPilot)
    }

    /// The person to write a contact from, as they are now. `Err`: they may not be there any more, or never could.
    pub(super) async fn to_write(
        &self,
        rows: Vec<MemberRow>,
    ) -> Result<Vec<(PersonId, Result<Person, Unmatched>)>, StoreError> {
        let (erased, mapping) = (self.tombstones.now(), self.mapping());
        let ids: Vec<PersonId> = rows.iter().map(|row| PersonId::from(row.person.as_str())).collect();
        let known = lookup::current(&self.state, &ids).await?;
        let people = rows.into_iter().zip(known).map(|(row, (id, person))| {
            if erased.covers_id(&id) || erased.covers_id(&row.person) {
                return (id, Err(Unmatched::Erased));
            }
            let mut person = person.unwrap_or_default();
            if person.deletion.is_some() {
                return (id, Err(Unmatched::Erased));
            }
            let withheld = person.consent.withheld
                || mapping.consent.as_ref().is_some_and(|rule| {
                    person.attributes.get(&rule.name).is_some_and(|answer| !rule.given(Some(answer)))
                });
            if withheld {
                return (id, Err(Unmatched::NoConsent));
            }
            person.email = person.email.or(row.email);
            person.phone = person.phone.or(row.phone);
            for (name, value) in row.attributes {
                person.attributes.entry(name).or_insert(value);
            }
            let addressable = person.addressable();
            (id, if addressable { Ok(person) } else { Err(Unmatched::NoAddress) })
        });
        Ok(people.collect())
    }

    /// Whether the relay may change what this contact is in.
    pub(super) fn may_touch(&self, email: Option<&str>) -> bool {
        if self.mode != BrevoMode::Pilot {
            return true;
        }
        let email = email.and_then(|email| Email::parse(email).ok());
        in_pilot(self.mode, &self.pilot_emails, &Person { email, ..Person::default() })
    }
}

/// Who the id stands for on the way to Brevo, and what Mixpanel says of them.
fn seen(member: &Member, mapping: &CompiledMapping) -> Option<(PersonId, Person)> {
    let update = serde_json::json!({"$distinct_id": member.distinct_id, "$set": member.properties});
    let visible = mapping.visible(Kind::Profile, &Bytes::from(update.to_string())).ok().flatten()?;
    let view = ProfileView::parse(&visible).ok()?;
    let id = PersonId::from(view.distinct_id.as_deref()?);
    let mut profile = Person::default();
    if let ProfileDecision::Change(change) = map_profile(&view, mapping) {
        for operation in change.operations {
            match operation {
                Operation::Attribute(name, Change::Set(value)) => drop(profile.attributes.insert(name, value)),
                Operation::Email(email) => profile.email = Some(email.value),
                Operation::Phone(phone) => profile.phone = Some(phone.value),
                Operation::Attribute(..) | Operation::Delete { .. } => {}
            }
        }
    }
    Some((id, profile))
}

/// A contact's phone number as Brevo reads it back.
pub(super) fn phone_of(text: &str) -> Option<Phone> {
    Phone::parse(&format!("+{}", text.trim_start_matches('+'))).ok()
}
