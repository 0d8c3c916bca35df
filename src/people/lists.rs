//! The lists that events have asked a person to be in, or out of. Pure.
//!
//! An event's list changes are a debt (CORE 4): once Brevo has taken the event, its record leaves the ledger for the
//! person, in the same checkpoint, and only Brevo's answer about the lists settles it. Held in the ledger instead, every
//! event whose list has to wait for the budget would be sent again after a crash. Changes of one list join: the last one
//! counts, so to be added and then removed ends removed, in one call.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::unknown::Released;
use crate::brevo::identifiers::{ListId, Membership};
use crate::clock::UnixMillis;
use crate::record::Position;

/// What of a person's lists Brevo is owed, and what it has confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lists {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    owed: BTreeMap<ListId, Membership>,
    /// Events that Brevo has taken, and whose list changes are owed.
    #[serde(default)]
    pub records: u64,
    /// When the oldest of them was received.
    #[serde(default)]
    pub oldest: UnixMillis,
    /// Where the first and the last of them stand.
    #[serde(default, skip_serializing_if = "is_nowhere")]
    since: Position,
    #[serde(default, skip_serializing_if = "is_nowhere")]
    last: Position,
    /// As Brevo has confirmed it, so that an answer of "nothing changed" need not be checked each time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    confirmed: BTreeMap<ListId, Membership>,
}

fn is_nowhere(position: &Position) -> bool {
    *position == Position::default()
}

impl Lists {
    pub fn is_empty(&self) -> bool {
        *self == Lists::default()
    }

    /// Whether anything is owed.
    pub fn owes(&self) -> bool {
        self.records > 0
    }

    /// Adds what an event asks for.
    pub fn owe(&mut self, changes: &BTreeMap<ListId, Membership>, position: Position, received_at: UnixMillis) {
        self.owed.extend(changes);
        let since = if self.records == 0 { position } else { self.since.min(position) };
        (self.since, self.last) = (since, self.last.max(position));
        self.oldest = if self.records == 0 { received_at } else { self.oldest.min(received_at) };
        self.records += 1;
    }

    /// The records for which something is owed.
    pub fn waiting(&self) -> Released {
        let Lists { records, since, last, oldest, .. } = *self;
        Released { records, since, last, oldest }
    }

    fn take_waiting(&mut self) -> Released {
        let waiting = self.waiting();
        self.records = 0;
        (self.since, self.last) = (Position::default(), Position::default());
        waiting
    }

    /// The change to make next.
    pub fn next(&self) -> Option<(ListId, Membership)> {
        self.owed.first_key_value().map(|(list, membership)| (*list, *membership))
    }

    /// Whether this very change is owed.
    pub fn wants(&self, list: ListId, membership: Membership) -> bool {
        self.owed.get(&list) == Some(&membership)
    }

    pub fn is_confirmed(&self, list: ListId, membership: Membership) -> bool {
        self.confirmed.get(&list) == Some(&membership)
    }

    /// Brevo has made the change, or will not: it is owed no more, unless something else is by now. Returns the records
    /// that are settled by that, once nothing is owed.
    pub fn settle(&mut self, list: ListId, membership: Membership, made: bool) -> Released {
        if self.wants(list, membership) {
            self.owed.remove(&list);
        }
        if made {
            self.confirmed.insert(list, membership);
        } else {
            self.confirmed.remove(&list);
        }
        if self.owed.is_empty() { self.take_waiting() } else { Released::default() }
    }

    /// The contact is not there any more, and no list has it.
    pub fn forget_confirmed(&mut self) {
        self.confirmed.clear();
    }

    /// Nothing is to be made of what is owed; returns the records that it was owed for.
    pub fn drop_owed(&mut self) -> Released {
        self.owed.clear();
        self.take_waiting()
    }

    /// These and `other`'s, whose changes are the later ones.
    pub fn join(&mut self, other: Lists) {
        self.oldest = match (self.owes(), other.owes()) {
            (true, true) => self.oldest.min(other.oldest),
            (false, true) => other.oldest,
            (_, false) => self.oldest,
        };
        self.since = match (self.owes(), other.owes()) {
            (true, true) => self.since.min(other.since),
            (false, true) => other.since,
            (_, false) => self.since,
        };
        self.last = self.last.max(other.last);
        self.records += other.records;
        self.owed.extend(other.owed);
        self.confirmed.extend(other.confirmed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ListId = ListId(1);
    const B: ListId = ListId(2);

    fn at(index: u32) -> Position {
        Position { index, ..Position::default() }
    }

    #[test]
    fn the_last_change_of_a_list_counts_and_records_settle_when_all_are_made() {
        let mut lists = Lists::default();
        lists.owe(&[(A, Membership::In), (B, Membership::In)].into(), at(3), UnixMillis(7));
        lists.owe(&[(A, Membership::Out)].into(), at(1), UnixMillis(5));
        assert_eq!((lists.records, lists.oldest), (2, UnixMillis(5)));
        assert_eq!(lists.next(), Some((A, Membership::Out)));
        assert_eq!(lists.settle(A, Membership::Out, true).records, 0);
        assert!(lists.is_confirmed(A, Membership::Out));
        let settled = lists.settle(B, Membership::In, false);
        assert_eq!((settled.records, settled.since, settled.last), (2, at(1), at(3)));
        assert!(!lists.owes() && !lists.is_confirmed(B, Membership::In));
    }

    #[test]
    fn a_change_of_mind_under_way_is_still_owed() {
        let mut lists = Lists::default();
        lists.owe(&[(A, Membership::In)].into(), at(1), UnixMillis(1));
        // Sent; meanwhile:
        lists.owe(&[(A, Membership::Out)].into(), at(2), UnixMillis(2));
        assert_eq!(lists.settle(A, Membership::In, true).records, 0);
        assert!(lists.wants(A, Membership::Out));
    }
}
