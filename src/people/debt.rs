//! What Brevo is owed for a person (CORE 4). Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::person::Folded;
use super::unknown::Released;
use crate::brevo::names::AttributeName;
use crate::clock::UnixMillis;
use crate::record::Position;

/// Profile records that were folded and not yet told to Brevo. Only Brevo's answer settles it; however many records it
/// covers, one write does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// Of the oldest record.
    pub since: Position,
    /// Of the newest one. Below [`Debt::since`] in a debt that was stored before this was kept.
    #[serde(default)]
    pub last: Position,
    /// When the oldest record was received.
    pub oldest: UnixMillis,
    pub records: u64,
    /// An identifier has changed.
    pub identifiers: bool,
    /// Attributes whose present value Brevo is owed.
    pub attributes: BTreeSet<AttributeName>,
    /// Somebody waits for it: not all of it was pulled.
    #[serde(default = "live")]
    pub live: bool,
}

/// Of a debt that was stored before there were pulls.
fn live() -> bool {
    true
}

impl Debt {
    pub fn new(position: Position, received_at: UnixMillis, folded: Folded) -> Self {
        Self {
            since: position,
            last: position,
            oldest: received_at,
            records: 1,
            identifiers: folded.identifiers,
            attributes: folded.attributes.into_iter().collect(),
            live: true,
        }
    }

    /// As [`Debt::new`], for a pulled profile.
    pub fn pulled(position: Position, received_at: UnixMillis, folded: Folded) -> Self {
        Self { live: false, ..Self::new(position, received_at, folded) }
    }

    /// A debt of no records: the person's contact has to be there, nothing more is known to be owed.
    pub fn nothing() -> Self {
        Self {
            since: Position::default(),
            last: Position::default(),
            oldest: UnixMillis::default(),
            records: 0,
            identifiers: false,
            attributes: BTreeSet::new(),
            live: false,
        }
    }

    /// A record that was folded before and is owed from now on.
    pub fn of_folded(position: Position, received_at: UnixMillis) -> Self {
        Self { since: position, last: position, oldest: received_at, records: 1, live: true, ..Self::nothing() }
    }

    /// Values that are owed for records which are counted elsewhere.
    pub fn of_values(folded: Folded) -> Self {
        let attributes = folded.attributes.into_iter().collect();
        Self { identifiers: folded.identifiers, attributes, live: true, ..Self::nothing() }
    }

    /// Records that waited for values, which are owed now.
    pub fn of_released(released: Released) -> Self {
        let Released { records, since, last, oldest } = released;
        Self { since, last, oldest, records, live: true, ..Self::nothing() }
    }

    /// Takes one record out, which is owed by itself from now on: the debt of it, and what is left of this one, which goes
    /// by the position of a record of its own.
    pub fn without(self, position: Position, received_at: UnixMillis) -> (Debt, Option<Debt>) {
        if self.records == 0 {
            return (Self::nothing(), Some(self).filter(|left| *left != Self::nothing()));
        }
        let since = if self.since == position { self.last.max(position) } else { self.since };
        let last = if self.last == position { since } else { self.last };
        let left = Debt { since, last, records: self.records - 1, ..self };
        let empty = left.records == 0 && !left.identifiers && left.attributes.is_empty();
        (Self::of_folded(position, received_at), (!empty).then_some(left))
    }

    /// This debt and `other` as one.
    pub fn join(mut self, other: Debt) -> Debt {
        if self.records == 0 {
            (self.since, self.last, self.oldest) = (other.since, other.last, other.oldest);
        } else if other.records > 0 {
            self.since = self.since.min(other.since);
            self.last = self.last.max(other.last);
            self.oldest = self.oldest.min(other.oldest);
        }
        self.records += other.records;
        self.identifiers |= other.identifiers;
        self.live |= other.live;
        self.attributes.extend(other.attributes);
        self
    }
}

/// Two debts that may be there, as one.
pub fn join(a: Option<Debt>, b: Option<Debt>) -> Option<Debt> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.join(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EntryId, Epoch};

    fn at(index: u32) -> Position {
        Position { epoch: Epoch(1), entry: EntryId(1), index }
    }

    /// A refused write is a dead letter at the position of its debt: two of them would be one row.
    #[test]
    fn what_is_left_goes_by_a_record_of_its_own() {
        let of = |records: &[u32]| {
            let debts = records.iter().map(|index| Debt::of_folded(at(*index), UnixMillis(1)));
            debts.fold(Debt::nothing(), Debt::join)
        };
        for taken in [1, 2, 4] {
            let (own, left) = of(&[2, 1, 4]).without(at(taken), UnixMillis(1));
            let left = left.unwrap();
            assert_eq!((own.since, own.records, left.records), (at(taken), 1, 2));
            assert!(left.since != own.since && left.last != own.since, "{taken}: {left:?}");
        }
        let (_, left) = of(&[3]).without(at(3), UnixMillis(1));
        assert_eq!(left, None);
    }
}
