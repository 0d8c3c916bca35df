//! Several ids, one person (CORE 6). Pure.
//!
//! A link makes one person's row a *forward* to the other's: it keeps its own fold, and what is still owed to it or
//! waits for it until that has been moved over. Two steps, each of which can be done again from what is stored: first the
//! forward, then the survivor takes it and lists it, in one write of its own. Until everything has been moved the survivor
//! lists the forward as *joining* too, and nothing that is newer than the link goes out.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::debt::Debt;
use super::identity::{Link, Verb, is_anonymous};
use super::person::{Contact, Person};
use super::roster::{PersonId, Resident, Roster};
use super::unknown::Released;
use crate::brevo::names::AttributeName;
use crate::config::IdentityMode;
use crate::record::Position;

/// Ids of one person in an original project, itself included (contract §6). In simplified projects as many of a user's
/// devices are listed; further ones are forwards all the same, and are found by the address book.
const MAX_CLUSTER: usize = 500;

/// How a person and other ids belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    /// The person whom this id was merged into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    into: Option<PersonId>,
    /// The ids that were merged into this person.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    merged: BTreeSet<PersonId>,
    /// Those of them whose debts, contact and shelf are still to be taken over.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    joining: BTreeSet<PersonId>,
    /// The person into whom this id was merged had no room in their list.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unlisted: bool,
}

impl Links {
    pub fn is_empty(&self) -> bool {
        self.into.is_none() && self.merged.is_empty() && self.joining.is_empty()
    }

    pub fn forward(&self) -> Option<&PersonId> {
        self.into.as_ref()
    }

    /// The other ids of this person.
    pub fn merged(&self) -> impl Iterator<Item = &PersonId> {
        self.merged.iter()
    }

    /// Merged ids of which something is still to be taken over.
    pub fn joining(&self) -> impl Iterator<Item = &PersonId> {
        self.joining.iter()
    }

    pub fn is_joining(&self) -> bool {
        !self.joining.is_empty()
    }

    /// Whose list this id is not in, though it was merged into them: the address book leads to it instead.
    pub fn unlisted_at(&self) -> Option<&PersonId> {
        self.into.as_ref().filter(|_| self.unlisted)
    }

    /// Whether there may be merged ids that are not listed.
    pub fn is_full(&self) -> bool {
        self.size() >= MAX_CLUSTER
    }

    /// Everyone whose row one needs to go on with this one.
    pub fn neighbours(&self) -> impl Iterator<Item = &PersonId> {
        self.into.iter().chain(&self.joining)
    }

    fn size(&self) -> usize {
        1 + self.merged.len()
    }
}

/// A link that was taken: `from` is a forward to `into` now, and joins it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    pub from: PersonId,
    pub into: PersonId,
}

impl Roster {
    fn links(&self, id: &PersonId) -> Option<&Links> {
        self.get(id).map(|resident| &resident.person.links)
    }

    /// Whom `id` stands for by now, as far as the people in memory say. A ring of forwards, which no order of links makes,
    /// would count for the smallest id in it.
    pub fn canonical(&self, id: &PersonId) -> PersonId {
        let mut passed = Vec::new();
        let mut at = id;
        while let Some(next) = self.links(at).and_then(Links::forward) {
            passed.push(at);
            if let Some(first) = passed.iter().position(|id| *id == next) {
                return passed[first..].iter().min().copied().unwrap_or(id).clone();
            }
            at = next;
        }
        at.clone()
    }

    /// Whom `id` stands for; a chain of forwards is shortened on the way.
    pub fn resolve(&mut self, id: &PersonId) -> PersonId {
        let canonical = self.canonical(id);
        let next = self.links(id).and_then(Links::forward);
        if next.is_some_and(|next| *next != canonical) && canonical != *id {
            self.edit(id).person.links.into = Some(canonical.clone());
        }
        canonical
    }

    /// Whether `id` is known to be merged into another: a device that has its user needs no further look.
    pub fn is_forward(&self, id: &PersonId) -> bool {
        self.links(id).is_some_and(|links| links.into.is_some())
    }

    /// Takes a link made at `at`, unless a rule of Mixpanel's is against it; it breaks such links in silence, and so do
    /// we. Everyone named has to be in memory.
    pub fn link(&mut self, link: &Link, at: Position, mode: IdentityMode) -> Option<Merge> {
        let (from, into) = (self.canonical(&link.from), self.canonical(&link.into));
        if from == into {
            return self.retake(&link.from, mode);
        }
        if !self.permits(link, &from, &into) {
            return None;
        }
        let forward = self.edit(&from);
        forward.person.links.into = Some(into.clone());
        forward.person.applied = forward.person.applied.max(Some(at));
        self.take(&from, &into, mode);
        Some(Merge { from, into })
    }

    /// The second step of a merge whose first step is all that a crash has left; the same for what has come to a merged id
    /// since.
    pub fn retake(&mut self, id: &PersonId, mode: IdentityMode) -> Option<Merge> {
        let into = self.canonical(id);
        let (source, target) = (self.get(id)?, self.links(&into)?);
        let unlisted = !target.merged.contains(id) && target.size() < MAX_CLUSTER;
        if into == *id || target.joining.contains(id) || !(unlisted || source.has_leftovers()) {
            return None;
        }
        self.take(id, &into, mode);
        Some(Merge { from: id.clone(), into })
    }

    fn permits(&self, link: &Link, from: &PersonId, into: &PersonId) -> bool {
        let none = Links::default();
        let links = |id| self.links(id).unwrap_or(&none);
        let named = links(&link.from);
        let free = match link.verb {
            // The first user keeps the device; an alias that stands for somebody stays.
            Verb::Device | Verb::Alias => named.into.is_none(),
            Verb::Identify => named.into.is_none() && named.merged.is_empty(),
            Verb::Merge => true,
        };
        free && (link.verb == Verb::Device || links(from).size() + links(into).size() <= MAX_CLUSTER)
    }

    fn take(&mut self, from: &PersonId, into: &PersonId, mode: IdentityMode) {
        let forward = self.edit(from);
        let joining = std::mem::take(&mut forward.person.links.joining);
        let source = forward.person.clone();
        for id in &source.links.merged {
            if self.links(id).is_some_and(|links| links.into.as_ref() == Some(from)) {
                self.edit(id).person.links.into = Some(into.clone());
            }
        }
        let target = self.edit(into);
        target.person.applied = target.person.applied.max(source.applied);
        let links = &mut target.person.links;
        let room = MAX_CLUSTER.saturating_sub(links.size());
        links.merged.extend(std::iter::once(from).chain(&source.links.merged).take(room).cloned());
        links.joining.extend(joining);
        links.joining.insert(from.clone());
        let unlisted = !links.merged.contains(from);
        self.edit(from).person.links.unlisted = unlisted;
        let target = self.edit(into);
        // Mixpanel does not carry a device's profile over to its user.
        if mode == IdentityMode::Original {
            let gained = target.person.take_profile(&source);
            // A write that is under way for the first time has not got it either.
            let written = target.person.addressable() || target.person.contact != Contact::Unknown;
            if let (Some(gained), true) = (gained, written) {
                target.owe(gained);
            }
        }
    }

    /// Gives `into` the contact of `from` when it has none: it is the same person's. Brevo's two contacts of a person who
    /// has two stay two (a merge there deletes one with its history). True when there are two.
    pub fn take_contact(&mut self, from: &PersonId, into: &PersonId) -> bool {
        let Some(source) = self.get(from).map(|resident| resident.person.clone()) else { return false };
        let Contact::Known { ref email, ref phone, ext_id, ref known_as, contact_id } = source.contact else {
            return false;
        };
        let target = self.edit(into);
        if let Contact::Known { email: own, .. } = &target.person.contact {
            return own != email;
        }
        let known_as = ext_id.then(|| known_as.clone().unwrap_or_else(|| from.clone()));
        target.person.contact =
            Contact::Known { email: email.clone(), ext_id, known_as, contact_id, phone: phone.clone() };
        if target.person.email.is_none() {
            target.person.pulled.take(&AttributeName::email(), &source.pulled);
            target.person.email = source.email;
        }
        if target.person.phone.is_none() {
            target.person.pulled.take(&AttributeName::sms(), &source.pulled);
            target.person.phone = source.phone;
        }
        let person = &target.person;
        let said = person.attributes.iter().filter(|(name, value)| person.says(name, value));
        let attributes = said.map(|(name, _)| name.clone()).collect();
        target.owe(Debt { identifiers: true, attributes, live: true, ..Debt::nothing() });
        false
    }

    /// Hands the steps that wait for unknown values over. In a simplified project they are left behind with the profile that
    /// they change; returns which records waited for that.
    pub fn take_unknown(&mut self, from: &PersonId, into: &PersonId, mode: IdentityMode) -> Released {
        let mut unknown = std::mem::take(&mut self.edit(from).person.unknown);
        match mode {
            IdentityMode::Simplified => unknown.give_up(),
            IdentityMode::Original => {
                let target = &mut self.edit(into).person;
                unknown.retain(|name| target.wants(name));
                target.unknown.join(unknown);
                Released::default()
            }
        }
    }

    /// Nothing of `from` is left to take over.
    pub fn joined(&mut self, from: &PersonId, into: &PersonId) {
        self.edit(from);
        self.edit(into).person.links.joining.remove(from);
    }
}

impl Person {
    /// Whether nothing is known of a value here, nor waits for it.
    fn wants(&self, name: &AttributeName) -> bool {
        let known = self.attributes.contains_key(name)
            || (*name == AttributeName::email() && self.email.is_some())
            || (*name == AttributeName::sms() && self.phone.is_some());
        !known && !self.unknown.holds(name)
    }

    /// Joins another fold of the same person to this one: what is known here counts, the rest is taken. Returns what
    /// Brevo's contact has to be told of it.
    fn take_profile(&mut self, other: &Person) -> Option<Debt> {
        let mut gained = Debt { live: true, ..Debt::nothing() };
        for (name, value) in &other.attributes {
            if self.wants(name) {
                self.attributes.insert(name.clone(), value.clone());
                self.pulled.take(name, &other.pulled);
                if other.unset.contains(name) {
                    self.unset.insert(name.clone());
                }
                gained.attributes.insert(name.clone());
            }
        }
        if other.email.is_some() && self.wants(&AttributeName::email()) {
            self.email.clone_from(&other.email);
            self.pulled.take(&AttributeName::email(), &other.pulled);
            gained.identifiers = true;
        }
        if other.phone.is_some() && self.wants(&AttributeName::sms()) {
            self.phone.clone_from(&other.phone);
            self.pulled.take(&AttributeName::sms(), &other.pulled);
            gained.identifiers = true;
        }
        (gained.identifiers || !gained.attributes.is_empty()).then_some(gained)
    }
}

impl Resident {
    /// Whether a forward still holds something that its survivor is to get.
    pub fn has_leftovers(&self) -> bool {
        let person = &self.person;
        let held = !person.shelf.is_empty() || person.lists.owes() || !person.unknown.is_empty();
        held || person.deletion.is_some() || self.debt.is_some() || self.paying.is_some()
    }
}

/// The ext_id that the contact of `id` is to have at Brevo. A contact that was there under another id of the person keeps
/// it, unless that is a made-up id of a visitor's and the canonical one is not.
pub fn ext_id<'a>(id: &'a str, contact: &'a Contact) -> &'a str {
    match contact {
        Contact::Known { known_as: Some(old), .. } if !is_anonymous(old) || is_anonymous(id) => old,
        Contact::Known { .. } | Contact::Unknown => id,
    }
}

#[cfg(test)]
mod tests;
