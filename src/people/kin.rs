//! Whom links make one person that Brevo's leg has not read yet, for an erasure (CORE 12). Pure.
//!
//! Two passes over the records, each in their order: [`Kin::notice`] collects whoever may belong to the people looked for,
//! [`Kin::take`] then takes the links among these as the leg would, by the same rules, on top of what is stored. Bounded
//! by the ids that are near those people, and at most [`MAX_NEAR`]: whoever is found makes room in the next round.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::identity::Link;
use super::person::Person;
use super::roster::{PersonId, Resident, Roster};
use crate::config::IdentityMode;
use crate::record::Position;

/// Ids kept beside those that are looked for.
const MAX_NEAR: usize = 20_000;

/// A link of a record, with its ends as apps name them and, where a rule hashes ids, as the relay knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub raw: Link,
    pub known_as: Link,
}

#[derive(Debug)]
pub struct Kin {
    mode: IdentityMode,
    /// Ids that are looked for, without the prefix that devices have as people.
    sought: HashSet<String>,
    /// Whoever may be the same people, themselves included, each with the name that apps use where it is another.
    near: BTreeMap<PersonId, Option<PersonId>>,
    most: usize,
    roster: Roster,
}

fn bare(id: &str) -> &str {
    id.strip_prefix("$device:").unwrap_or(id)
}

impl Kin {
    pub fn of<'a>(ids: impl Iterator<Item = &'a str>, mode: IdentityMode) -> Self {
        let near: BTreeMap<PersonId, _> = ids.map(|id| (PersonId::from(id), None)).collect();
        let sought = near.keys().map(|id| bare(id).to_owned()).collect();
        let most = near.len() + MAX_NEAR;
        Self { mode, sought, near, most, roster: Roster::default() }
    }

    /// Looks at a link while collecting. True when it has led to an id that was not near before.
    pub fn notice(&mut self, link: &Read) -> bool {
        let ends = [(&link.known_as.from, &link.raw.from), (&link.known_as.into, &link.raw.into)];
        let touches = ends.iter().any(|(known, raw)| {
            let is_sought = |id: &str| self.sought.contains(bare(id));
            // Links of an original project may chain, so whoever is near leads on. In a simplified one a device has one user
            // and users are never one: only who is looked for does, and shared devices lead to nobody else's.
            let is_near = self.mode == IdentityMode::Original && self.near.contains_key(*known);
            is_near || is_sought(known) || is_sought(raw)
        });
        let before = self.near.len();
        if touches {
            ends.iter().for_each(|(known, raw)| self.add(known, raw));
        }
        self.near.len() > before
    }

    fn add(&mut self, known: &PersonId, raw: &PersonId) {
        if !self.near.contains_key(known) && !self.is_full() {
            self.near.insert(known.clone(), (known != raw).then(|| raw.clone()));
        }
    }

    /// Ids that are stored as the same person's as somebody near. True when there are new ones.
    pub fn know(&mut self, stored: impl IntoIterator<Item = PersonId>) -> bool {
        let before = self.near.len();
        stored.into_iter().for_each(|id| self.add(&id, &id));
        self.near.len() > before
    }

    /// Whether ids may have been left out.
    pub fn is_full(&self) -> bool {
        self.near.len() >= self.most
    }

    pub fn near(&self) -> impl Iterator<Item = &PersonId> {
        self.near.keys()
    }

    /// Those of whom one needs to know what is stored before their links are taken.
    pub fn missing<'a>(&'a self, links: &'a [(Position, Read)]) -> Vec<PersonId> {
        let links = links.iter().map(|(_, link)| &link.known_as).filter(|link| self.counts(link));
        self.roster.missing(links.flat_map(|link| [&link.from, &link.into]))
    }

    /// Takes in what is stored of them.
    pub fn take_in(&mut self, loaded: Vec<(PersonId, Resident)>) {
        // Links are all that matters here; values would be most of the memory.
        let links = |(id, loaded): (PersonId, Resident)| {
            let mut resident = Resident::default();
            resident.person = Person { links: loaded.person.links, ..Person::default() };
            (id, resident)
        };
        self.roster.take_in(loaded.into_iter().map(links).collect());
    }

    /// Takes the links of one page, whose ends are in memory by now.
    pub fn take(&mut self, links: &[(Position, Read)]) {
        for (at, link) in links {
            if self.counts(&link.known_as) {
                self.roster.link(&link.known_as, *at, self.mode);
            }
        }
    }

    /// Whether a link may change whose the ids near are. A device whose user is known stays that user's.
    fn counts(&self, link: &Link) -> bool {
        let decided = self.mode == IdentityMode::Simplified && self.roster.is_forward(&link.from);
        self.near.contains_key(&link.from) && !decided
    }

    /// The ids that belong to the same people as `ids`, by what is stored and by the links taken, less `ids` themselves: as
    /// the relay knows them and as apps name them.
    pub fn others(&self, ids: &[String]) -> Found {
        let as_people = ids.iter().flat_map(|id| [PersonId::from(id.as_str()), format!("$device:{}", bare(id)).into()]);
        let owners: BTreeSet<PersonId> = as_people.map(|id| self.roster.canonical(&id)).collect();
        let known: HashSet<&str> = ids.iter().map(String::as_str).collect();
        let mut found = Found::default();
        for (id, raw) in &self.near {
            if !owners.contains(&self.roster.canonical(id)) {
                continue;
            }
            let raw = raw.as_ref().unwrap_or(id);
            found.raw.extend((!known.contains(raw.as_ref())).then(|| raw.to_string()));
            found.ids.extend([id, raw].into_iter().filter(|id| !known.contains(id.as_ref())).map(ToString::to_string));
        }
        found
    }
}

/// Ids that were found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Under every name.
    pub ids: BTreeSet<String>,
    /// As apps name them.
    pub raw: BTreeSet<String>,
}

#[cfg(test)]
mod tests;
