//! A row of history: what one checkpoint says of the records of 256 entries.

use crate::clock::UnixMillis;
use crate::record::{Destination, EntryId, Epoch, Position};
use crate::store::{StoreError, Table, WriteBatch};

use super::{Outcome, filter};

const VERSION: u8 = 1;
/// Entries of a group, as a power of two.
const GROUP_BITS: u32 = 8;

/// Entries that stand together in history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group {
    pub epoch: Epoch,
    number: u64,
}

impl Group {
    pub fn of(position: Position) -> Self {
        Self { epoch: position.epoch, number: position.entry.0 >> GROUP_BITS }
    }

    fn first_entry(self) -> u64 {
        self.number << GROUP_BITS
    }

    /// The smallest position in it, whether or not there is a record.
    fn first(self) -> Position {
        Position { epoch: self.epoch, entry: EntryId(self.first_entry()), index: 0 }
    }

    fn last(self) -> Position {
        Position { epoch: self.epoch, entry: EntryId(self.first_entry() + (1 << GROUP_BITS) - 1), index: u32::MAX }
    }

    /// Before the keys of all its rows; of the group's and all later ones without the group.
    pub fn prefix(self, destination: Destination) -> Vec<u8> {
        let mut key = vec![destination.code()];
        key.extend_from_slice(&self.epoch.0.to_be_bytes());
        key.extend_from_slice(&self.number.to_be_bytes());
        key
    }

    pub fn key(self, destination: Destination, checkpoint: u64) -> Vec<u8> {
        let mut key = self.prefix(destination);
        key.extend_from_slice(&checkpoint.to_be_bytes());
        key
    }
}

/// Adds to `batch` what forgets everything of records that stood before `oldest`.
pub fn forget_below(oldest: Position, batch: &mut WriteBatch) {
    for destination in Destination::ALL {
        batch.delete_range(Table::Outcomes, [destination.code()], Group::of(oldest).prefix(destination));
    }
    batch.delete_range(Table::Filters, [], filter::key(oldest));
}

/// Whether outcomes are kept: only a tail can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum History {
    #[default]
    Kept,
    Off,
}

/// Neighbours in the journal that ended alike; both ends are included, and everything between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub first: Position,
    pub last: Position,
    pub outcome: Outcome,
}

impl Run {
    /// Its pieces by group.
    pub fn by_group(self) -> impl Iterator<Item = (Group, Run)> {
        let (from, to) = (Group::of(self.first), Group::of(self.last));
        (from.number..=to.number).map(move |number| {
            let group = Group { number, ..from };
            (group, Run { first: self.first.max(group.first()), last: self.last.min(group.last()), ..self })
        })
    }

    pub fn contains(&self, position: Position) -> bool {
        self.first <= position && position <= self.last
    }
}

/// A debt that was settled: those updates of one person or group that stand from `since` to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joint {
    /// Hash of whose it was.
    pub owner: u64,
    pub since: Position,
    pub last: Position,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// When the checkpoint was written.
    pub at: UnixMillis,
    /// What the ledger settled, in order of position.
    pub runs: Vec<Run>,
    /// What had left the ledger before, in the order in which it ended.
    pub later: Vec<(Position, Outcome)>,
    pub joints: Vec<Joint>,
}

impl Row {
    pub fn encode(&self, group: Group) -> Vec<u8> {
        let mut out = vec![VERSION];
        let entry = |position: Position| position.entry.0 - group.first_entry();
        put(&mut out, self.at.0);
        put(&mut out, self.runs.len() as u64);
        for run in &self.runs {
            let entries = run.last.entry.0 - run.first.entry.0;
            put(&mut out, entry(run.first));
            put(&mut out, u64::from(run.first.index));
            put(&mut out, entries);
            put(&mut out, u64::from(if entries == 0 { run.last.index - run.first.index } else { run.last.index }));
            out.push(run.outcome.code());
        }
        put(&mut out, self.later.len() as u64);
        for (position, outcome) in &self.later {
            put(&mut out, entry(*position));
            put(&mut out, u64::from(position.index));
            out.push(outcome.code());
        }
        put(&mut out, self.joints.len() as u64);
        for joint in &self.joints {
            out.extend_from_slice(&joint.owner.to_le_bytes());
            out.extend_from_slice(&joint.since.to_bytes());
            out.extend_from_slice(&joint.last.to_bytes());
            out.push(joint.outcome.code());
        }
        out
    }

    /// What was written of `group`. Outcomes that a newer version wrote are left out.
    pub fn decode(group: Group, bytes: &[u8]) -> Result<Self, StoreError> {
        Reader(bytes).row(group).ok_or_else(|| StoreError::Corrupt("a row of history".to_owned()))
    }
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn row(&mut self, group: Group) -> Option<Row> {
        if self.byte()? != VERSION {
            return None;
        }
        let mut row = Row { at: UnixMillis(self.number()?), ..Row::default() };
        for _ in 0..self.number()? {
            let first = self.position(group)?;
            let (entries, index) = (self.number()?, u32::try_from(self.number()?).ok()?);
            let index = if entries == 0 { first.index.checked_add(index)? } else { index };
            let last = Position { entry: EntryId(first.entry.0.checked_add(entries)?), index, ..first };
            row.runs.extend(Outcome::from_code(self.byte()?).map(|outcome| Run { first, last, outcome }));
        }
        for _ in 0..self.number()? {
            let position = self.position(group)?;
            row.later.extend(Outcome::from_code(self.byte()?).map(|outcome| (position, outcome)));
        }
        for _ in 0..self.number()? {
            let owner = u64::from_le_bytes(self.take(8)?.try_into().ok()?);
            let since = Position::from_bytes(self.take(Position::LEN)?)?;
            let last = Position::from_bytes(self.take(Position::LEN)?)?;
            row.joints.extend(Outcome::from_code(self.byte()?).map(|outcome| Joint { owner, since, last, outcome }));
        }
        Some(row)
    }

    fn position(&mut self, group: Group) -> Option<Position> {
        let entry = EntryId(group.first_entry().checked_add(self.number()?)?);
        Some(Position { epoch: group.epoch, entry, index: u32::try_from(self.number()?).ok()? })
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settlement::SkipRule;

    fn at(entry: u64, index: u32) -> Position {
        Position { epoch: Epoch(3), entry: EntryId(entry), index }
    }

    #[test]
    fn a_run_is_cut_where_groups_end() {
        let run = Run { first: at(250, 7), last: at(520, 3), outcome: Outcome::Delivered };
        let pieces: Vec<_> = run.by_group().map(|(group, run)| (group.number, run.first, run.last)).collect();
        let end = |entry| at(entry, u32::MAX);
        assert_eq!(pieces, [(0, at(250, 7), end(255)), (1, at(256, 0), end(511)), (2, at(512, 0), at(520, 3))]);
    }

    #[test]
    fn what_is_cut_short_or_of_a_newer_form_is_refused() {
        let group = Group::of(at(300, 0));
        let row = Row {
            at: UnixMillis(1_700_000_000_000),
            runs: vec![Run { first: at(300, 2), last: at(301, 9), outcome: Outcome::Owed }],
            later: vec![(at(511, 1), Outcome::Skipped(SkipRule::Expired))],
            joints: vec![Joint { owner: 9, since: at(1, 2), last: at(300, 0), outcome: Outcome::Delivered }],
        };
        let bytes = row.encode(group);
        assert_eq!(Row::decode(group, &bytes).unwrap(), row);
        for end in 0..bytes.len() {
            assert!(Row::decode(group, &bytes[..end]).is_err(), "{end}");
        }
        assert!(Row::decode(group, &[&[VERSION + 1], &bytes[1..]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn rows_read_back(runs in proptest::collection::vec((0u64..256, 0u32..5_000, 0u64..10, 0u32..9_000), 0..20)) {
            let group = Group::of(at(70_000, 0));
            let first = group.first_entry();
            let runs = runs.into_iter().map(|(entry, index, entries, last)| {
                let entries = entries.min(255 - entry);
                let last = if entries == 0 { last.max(index) } else { last };
                Run {
                    first: at(first + entry, index),
                    last: at(first + entry + entries, last),
                    outcome: Outcome::Skipped(SkipRule::Stale),
                }
            });
            let row = Row { at: UnixMillis(5), runs: runs.collect(), ..Row::default() };
            prop_assert_eq!(Row::decode(group, &row.encode(group)).unwrap(), row);
        }
    }
}
