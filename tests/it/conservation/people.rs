//! Whom the apps speak of, by which ids, and what was acknowledged about each.

use std::collections::{BTreeMap, BTreeSet};

/// How a project tells who is who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Simplified,
    Original,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Simplified => "simplified",
            Mode::Original => "original",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Device,
    Alias,
}

/// An id of somebody that is not their own: a device's, or another name.
#[derive(Debug)]
pub struct OtherId {
    /// A device's as the SDK has it, without a prefix.
    pub bare: String,
    pub what: What,
    /// Since when it stands for its person: so many purchases had been made.
    pub linked: Option<usize>,
}

impl OtherId {
    /// What an event says that comes by this id.
    pub fn distinct_id(&self, mode: Mode) -> String {
        match (self.what, mode) {
            (What::Device, Mode::Simplified) => format!("$device:{}", self.bare),
            _ => self.bare.clone(),
        }
    }
}

/// The id by which something was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    User,
    /// An index of [`Person::others`].
    Other(usize),
}

#[derive(Clone, Copy, Debug)]
pub struct Purchase {
    /// The number of the event.
    pub n: u64,
    pub by: By,
}

/// What an app knows of somebody.
#[derive(Debug)]
pub struct Person {
    pub id: String,
    /// The first is the device on which they were a visitor.
    pub others: Vec<OtherId>,
    /// Signed up, with an address: Brevo has to know them in the end.
    pub known: bool,
    /// How often the address has changed.
    pub moves: usize,
    /// Their mapped events, in order.
    pub purchases: Vec<Purchase>,
    /// What their profile said last.
    pub plan: Option<String>,
    pub first_name: Option<String>,
    /// The sum of what was added to their revenue: of what was taken, and of everything that may have been, since an
    /// addition whose answer was lost is sent again, and counts again.
    pub spent: u64,
    pub may_have_spent: u64,
}

impl Person {
    pub fn new(id: String) -> Self {
        Self {
            id,
            others: Vec::new(),
            known: false,
            moves: 0,
            purchases: Vec::new(),
            plan: None,
            first_name: None,
            spent: 0,
            may_have_spent: 0,
        }
    }

    /// The address after so many changes of it.
    pub fn address(&self, moves: usize) -> String {
        format!("{}.{moves}@example.com", self.id)
    }

    pub fn email(&self) -> String {
        self.address(self.moves)
    }

    /// From which purchase on this id stands for the person.
    fn stands_from(&self, by: By) -> Option<usize> {
        match by {
            By::User => Some(0),
            By::Other(at) => self.others[at].linked,
        }
    }

    /// Numbers of the purchases that are known to be theirs, in the order in which they were said.
    pub fn own_purchases(&self) -> impl Iterator<Item = &Purchase> {
        self.purchases.iter().filter(|purchase| self.stands_from(purchase.by).is_some())
    }

    /// Two purchases that may not change places, should `order` have them so: the same id said them, or both ids stood for
    /// the person when the second was said.
    pub fn overtaken(&self, order: &[u64]) -> Option<(u64, u64)> {
        let place: BTreeMap<u64, usize> = order.iter().enumerate().map(|(place, n)| (*n, place)).collect();
        for (at, second) in self.purchases.iter().enumerate() {
            let stood = |by| self.stands_from(by).is_some_and(|from| from <= at);
            let before = self.purchases[..at]
                .iter()
                .filter(|first| first.by == second.by || (stood(first.by) && stood(second.by)));
            for first in before {
                if place.get(&first.n) > place.get(&second.n) {
                    return Some((first.n, second.n));
                }
            }
        }
        None
    }
}

/// What was acknowledged.
#[derive(Debug, Default)]
pub struct Said {
    pub people: Vec<Person>,
    /// Numbers of all events, and the `distinct_id` by which each was said.
    pub events: BTreeMap<u64, String>,
    /// Numbers of each group's updates, in order.
    pub groups: BTreeMap<String, Vec<u64>>,
}

impl Said {
    pub fn join(&mut self, other: Said) {
        self.people.extend(other.people);
        self.events.extend(other.events);
        self.groups.extend(other.groups);
    }

    /// Whom each id that is somebody else's stands for.
    pub fn owners(&self, mode: Mode) -> BTreeMap<String, &str> {
        let linked = |person: &'_ Person| -> Vec<String> {
            let others = person.others.iter().filter(|other| other.linked.is_some());
            others.map(|other| other.distinct_id(mode)).collect()
        };
        let of = self.people.iter().flat_map(|person| linked(person).into_iter().map(|id| (id, person.id.as_str())));
        of.collect()
    }

    pub fn numbers(&self) -> BTreeSet<u64> {
        self.events.keys().copied().collect()
    }
}

#[test]
fn order_binds_an_id_from_the_start_and_ids_of_one_person_from_their_link_on() {
    let mut person = Person::new("u".to_owned());
    let other = |linked| OtherId { bare: "d".to_owned(), what: What::Device, linked };
    person.others = vec![other(Some(2)), other(None)];
    let by = [By::Other(0), By::User, By::User, By::Other(0), By::Other(1)];
    person.purchases = by.into_iter().enumerate().map(|(n, by)| Purchase { n: n as u64, by }).collect();
    assert_eq!(person.own_purchases().count(), 4);
    for good in [[0, 1, 2, 3], [1, 0, 2, 3]] {
        assert_eq!(person.overtaken(&good), None, "{good:?}");
    }
    for (bad, which) in [([1, 2, 0, 3], (0, 2)), ([0, 2, 1, 3], (1, 2)), ([1, 2, 3, 0], (0, 2)), ([0, 1, 3, 2], (2, 3))]
    {
        assert_eq!(person.overtaken(&bad), Some(which), "{bad:?}");
    }
}
