//! How many records stand where in the journal's stream, from the headers of its messages alone.
//!
//! Entries are summed up in sections of up to [`ENTRIES`]. Closed sections are rows of the state, so that the
//! next worker begins behind them instead of at the beginning of the backlog. What was trimmed is summed up in
//! [`Before`]: a drained journal still knows what it has accepted.
//!
//! Pure: what is read and written is the caller's.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::heading::Heading;
use crate::clock::UnixMillis;
use crate::record::{EntryId, Kind, PerKind};
use crate::store::{JournalSize, Tail};

/// Entries and stored bytes of a section; what is trimmed is trimmed by sections.
const ENTRIES: u32 = 1024;
const BYTES: u64 = 4 << 20;
/// A section that takes longer to fill is closed, so that nothing is kept much longer than the tail says.
const AGE: Duration = Duration::from_secs(300);

/// Everything that has been trimmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    /// The newest entry trimmed; 0 for none.
    pub last: u64,
    pub records: PerKind,
}

/// Entries beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Section {
    pub first: u64,
    pub last: u64,
    pub entries: u32,
    pub records: PerKind,
    pub bytes: u64,
    pub oldest: UnixMillis,
    pub newest: UnixMillis,
}

/// Where a count begins inside a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    /// The section begins here, and what stands from here on and before [`Partial::below`] is not counted.
    pub first: EntryId,
    pub below: EntryId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// With the whole of the section in which it begins.
    pub records: u64,
    /// What has to be taken off, and is not known here.
    pub less: Option<Partial>,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    before: Before,
    sections: VecDeque<Section>,
    /// Records of each entry of the last section, while it is open.
    open: VecDeque<(u64, u64)>,
    is_open: bool,
}

impl Ledger {
    /// From what was written down, in the order of their beginnings.
    pub(super) fn restore(before: Before, sections: Vec<Section>) -> Self {
        let sections = sections.into_iter().filter(|section| section.last > before.last).collect();
        Self { before, sections, ..Self::default() }
    }

    /// The newest entry that has been noted; 0 for none.
    pub(super) fn last(&self) -> u64 {
        self.sections.back().map_or(self.before.last, |section| section.last)
    }

    pub(super) fn before(&self) -> Before {
        self.before
    }

    /// Takes in the next entry, which closes the section before it when that is full. One that has been noted is not counted
    /// twice.
    pub(super) fn note(&mut self, entry: u64, heading: Heading, bytes: u64) -> Option<Section> {
        if entry <= self.last() {
            return None;
        }
        let full = |section: &Section| {
            let since = heading.received_at.since(section.oldest);
            section.entries >= ENTRIES || section.bytes >= BYTES || since > AGE
        };
        let closed = match self.sections.back() {
            Some(section) if self.is_open && full(section) => Some(*section),
            _ => None,
        };
        if closed.is_some() || !self.is_open {
            self.open.clear();
            self.is_open = true;
            self.sections.push_back(Section {
                first: entry,
                last: entry,
                entries: 0,
                records: PerKind::default(),
                bytes: 0,
                oldest: heading.received_at,
                newest: heading.received_at,
            });
        }
        if let Some(section) = self.sections.back_mut() {
            section.last = entry;
            section.entries += 1;
            section.records = sum(section.records, heading.records);
            section.bytes += bytes;
            section.oldest = section.oldest.min(heading.received_at);
            section.newest = section.newest.max(heading.received_at);
            self.open.push_back((entry, heading.records.total()));
        }
        closed
    }

    /// Since the journal was created.
    pub(super) fn accepted(&self) -> PerKind {
        self.sections.iter().fold(self.before.records, |all, section| sum(all, section.records))
    }

    /// Records at `from` and behind it.
    pub(super) fn count_from(&self, from: EntryId) -> Count {
        let mut count = Count { records: 0, less: None };
        for section in self.sections.iter().rev() {
            if section.last < from.0 {
                break;
            }
            count.records += section.records.total();
            if section.first < from.0 {
                let known = self.open.front().filter(|(first, _)| *first == section.first);
                match known {
                    Some(_) => {
                        let earlier = self.open.iter().take_while(|(entry, _)| *entry < from.0);
                        count.records -= earlier.map(|(_, records)| records).sum::<u64>();
                    }
                    None => count.less = Some(Partial { first: EntryId(section.first), below: from }),
                }
                break;
            }
        }
        count
    }

    /// Takes the oldest section off, when all of it is below `below` and outside the tail.
    pub(super) fn trim(&mut self, below: EntryId, tail: Tail, now: UnixMillis) -> Option<Section> {
        let oldest = *self.sections.front()?;
        let behind: u64 = self.sections.iter().skip(1).take_while(|s| s.last < below.0).map(|s| s.bytes).sum();
        let is_tail = behind < tail.max_bytes && now.since(oldest.newest) <= tail.max_age;
        if oldest.last >= below.0 || is_tail {
            return None;
        }
        self.sections.pop_front();
        if self.sections.is_empty() {
            self.open.clear();
            self.is_open = false;
        }
        self.before = Before { last: oldest.last, records: sum(self.before.records, oldest.records) };
        Some(oldest)
    }

    /// Without the room that is left.
    pub(super) fn size(&self) -> JournalSize {
        JournalSize {
            entries: self.sections.iter().map(|section| u64::from(section.entries)).sum(),
            records: self.sections.iter().map(|section| section.records.total()).sum(),
            bytes: self.sections.iter().map(|section| section.bytes).sum(),
            oldest_received_at: self.sections.front().map(|section| section.oldest),
            room: 0,
        }
    }
}

fn sum(mut one: PerKind, other: PerKind) -> PerKind {
    one.add(Kind::Event, other.event);
    one.add(Kind::Profile, other.profile);
    one.add(Kind::Group, other.group);
    one
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERYTHING: Tail = Tail { max_age: Duration::MAX, max_bytes: u64::MAX };
    const NOTHING: Tail = Tail { max_age: Duration::ZERO, max_bytes: 0 };

    fn events(count: u64, at: u64) -> Heading {
        Heading { records: PerKind { event: count, ..PerKind::default() }, received_at: UnixMillis(at) }
    }

    #[test]
    fn sections_close_by_entries_bytes_and_age() {
        let mut ledger = Ledger::default();
        for entry in 1..=u64::from(ENTRIES) {
            assert_eq!(ledger.note(entry, events(1, 0), 10), None);
        }
        let Some(full) = ledger.note(5_000, events(1, 0), BYTES) else { panic!("not closed") };
        assert_eq!((full.first, full.last, full.entries), (1, u64::from(ENTRIES), ENTRIES));
        let Some(large) = ledger.note(5_001, events(1, 0), 1) else { panic!("not closed") };
        assert_eq!((large.first, large.last), (5_000, 5_000));
        let late = AGE.as_millis() as u64 + 1;
        assert!(ledger.note(5_002, events(1, late), 1).is_some());
        assert_eq!(ledger.note(5_002, events(1, late), 1), None, "seen before");
        assert_eq!(ledger.accepted().event, u64::from(ENTRIES) + 3);
        assert_eq!(ledger.last(), 5_002);
    }

    #[test]
    fn the_tail_is_kept_by_bytes_and_by_age() {
        let ledger = || {
            let mut ledger = Ledger::default();
            for entry in 1..=3 {
                ledger.note(entry, events(1, entry * 1_000_000), BYTES);
            }
            ledger
        };
        let now = UnixMillis(3_000_000);
        assert_eq!(ledger().trim(EntryId(4), EVERYTHING, now), None);
        assert_eq!(ledger().trim(EntryId(1), NOTHING, now), None, "not read yet");
        let bytes = Tail { max_age: Duration::MAX, max_bytes: 2 * BYTES };
        let mut by_bytes = ledger();
        assert_eq!(by_bytes.trim(EntryId(4), bytes, now).map(|section| section.last), Some(1));
        assert_eq!(by_bytes.trim(EntryId(4), bytes, now), None);
        let mut by_age = ledger();
        let age = Tail { max_age: Duration::from_secs(1_500), max_bytes: u64::MAX };
        assert_eq!(by_age.trim(EntryId(4), age, now).map(|section| section.last), Some(1));
        assert_eq!(by_age.trim(EntryId(4), age, now), None);
        for last in 2..=3 {
            assert_eq!(by_age.trim(EntryId(4), NOTHING, UnixMillis(9_000_000)).map(|s| s.last), Some(last));
        }
        assert_eq!(by_age.before(), Before { last: 3, records: PerKind { event: 3, ..PerKind::default() } });
        assert_eq!(by_age.note(4, events(5, 0), 1), None);
        assert_eq!(by_age.accepted().event, 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Entries with gaps in their numbers, a worker that begins anew from what was written down, trimming in between:
        /// counts are those of a plain list.
        #[test]
        fn counts_are_those_of_a_plain_list(
            steps in proptest::collection::vec((1_u64..3, 0_u64..5, 0_u64..200_000, 0_u8..40), 1..3_000),
            from in 0_u64..6_000,
        ) {
            let (mut ledger, mut rows, mut list) = (Ledger::default(), Vec::<Section>::new(), Vec::new());
            let (mut at, mut accepted, mut trimmed) = (0, 0, 0);
            for (gap, records, bytes, what) in steps {
                at += gap;
                let heading = events(records, at);
                accepted += records;
                list.push((at, heading, bytes));
                if let Some(section) = ledger.note(at, heading, bytes) {
                    rows.push(section);
                }
                if what == 0 {
                    // What was not written down is read from the stream again.
                    ledger = Ledger::restore(ledger.before(), rows.clone());
                    let known = ledger.last();
                    for (entry, heading, bytes) in list.iter().filter(|(entry, ..)| *entry > known) {
                        if let Some(section) = ledger.note(*entry, *heading, *bytes) {
                            rows.push(section);
                        }
                    }
                }
                if what == 1 && let Some(section) = ledger.trim(EntryId(at / 2), NOTHING, UnixMillis(u64::MAX)) {
                    rows.retain(|row| row.first != section.first);
                    trimmed = section.last;
                }
            }
            prop_assert_eq!(ledger.accepted().event, accepted);
            let from = from.max(trimmed + 1);
            let count = ledger.count_from(EntryId(from));
            let between = |first: u64, below: u64| -> u64 {
                list.iter().filter(|(entry, ..)| (first..below).contains(entry)).map(|(_, h, _)| h.records.event).sum()
            };
            let less = count.less.map_or(0, |less| between(less.first.0, less.below.0));
            prop_assert_eq!(count.records - less, between(from, u64::MAX));
        }
    }
}
