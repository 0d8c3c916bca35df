//! The ledger of a leg: which records it has taken from the journal and which of them are settled. Pure.
//!
//! Records are admitted in the order of their positions and settled in any order. The *cursor* is the position below
//! which everything is settled; what is settled beyond it is kept as ranges, so that one batch in backoff at the head
//! does not make a crash repeat the hundreds behind it that are done (CORE 3).
//!
//! Invariants:
//! * the cursor never passes an unsettled record, and never goes back;
//! * a record is settled at most once; after a restart, a record in a stored range is admitted as settled already;
//! * ranges and window are bounded: [`Ledger::has_room`] turns false before they grow past their limits.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::record::Position;

/// Handle of one admitted record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

impl Ticket {
    /// Set in tickets of what the ledger does not hold.
    const REPLAY: u64 = 1 << 63;

    /// The ticket of a record that is on its way again: it stands in no entry that is read, so the ledger must not get it.
    pub fn of_replay(number: u64) -> Self {
        Self(number | Self::REPLAY)
    }

    pub fn is_replay(self) -> bool {
        self.0 & Self::REPLAY != 0
    }

    /// Whether `other` is of the record that stands next in the journal.
    pub fn is_followed_by(self, other: Ticket) -> bool {
        self.0.wrapping_add(1) == other.0
    }

    #[cfg(test)]
    pub fn numbered(number: u64) -> Self {
        Self(number)
    }
}

/// Settled positions, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettledRange {
    pub first: Position,
    pub last: Position,
    /// How many records it covers.
    #[serde(default)]
    pub records: u64,
}

impl SettledRange {
    pub fn contains(&self, position: Position) -> bool {
        self.first <= position && position <= self.last
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Admitted records from the first unsettled one on.
    pub window: usize,
    /// Bytes of admitted records that are not settled: these are in memory (P10).
    pub bytes: u64,
    pub ranges: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { window: 100_000, bytes: 16 << 20, ranges: 4_096 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Item {
    position: Position,
    received_at: UnixMillis,
    bytes: u32,
    settled: bool,
}

#[derive(Debug)]
pub struct Ledger {
    limits: Limits,
    /// Everything from the first unsettled record on; the front is unsettled.
    items: VecDeque<Item>,
    /// The ticket of `items[0]`.
    front: u64,
    cursor: Position,
    /// Ranges of the last checkpoint that reading has not passed yet.
    replayed: VecDeque<SettledRange>,
    /// Records of the cursor's entry that lie below the cursor and have not been read again.
    below: u64,
    /// Number of settled ranges in `items`, kept up to date.
    ranges: usize,
    unsettled: usize,
    unsettled_bytes: u64,
}

impl Ledger {
    /// A ledger that goes on from a checkpoint: `cursor` is the first position that was not settled, `settled` the
    /// ranges beyond it, in order.
    pub fn resume(cursor: Position, settled: Vec<SettledRange>, limits: Limits) -> Self {
        Self {
            limits,
            items: VecDeque::new(),
            front: 0,
            cursor,
            replayed: settled.into(),
            below: u64::from(cursor.index),
            ranges: 0,
            unsettled: 0,
            unsettled_bytes: 0,
        }
    }

    pub fn has_room(&self) -> bool {
        self.items.len() < self.limits.window
            && self.unsettled_bytes < self.limits.bytes
            && self.ranges < self.limits.ranges
    }

    /// Admits the record of `bytes` at `position`, which must be above every one admitted before. `None` when it needs no
    /// work: it lies below the cursor or was settled before the last checkpoint.
    pub fn admit(&mut self, position: Position, received_at: UnixMillis, bytes: usize) -> Option<Ticket> {
        debug_assert!(self.items.back().is_none_or(|last| last.position < position), "positions must rise");
        if position < self.cursor {
            self.below = self.below.saturating_sub(1);
            return None;
        }
        self.below = 0;
        while self.replayed.front().is_some_and(|range| range.last < position) {
            self.replayed.pop_front();
        }
        let replayed = self.replayed.front_mut().filter(|range| range.contains(position));
        let settled = replayed.is_some();
        if let Some(range) = replayed {
            range.records = range.records.saturating_sub(1);
        }
        if settled && self.items.is_empty() {
            self.front += 1;
            self.cursor = after(position);
            return None;
        }
        let after_settled = self.items.back().is_some_and(|last| last.settled);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.items.push_back(Item { position, received_at, bytes, settled });
        if settled {
            self.ranges += usize::from(!after_settled);
            return None;
        }
        self.unsettled += 1;
        self.unsettled_bytes += u64::from(bytes);
        Some(Ticket(self.front + self.items.len() as u64 - 1))
    }

    /// Settles a record; returns where it stands. Settling one twice is a fault in the leg; it is ignored here and caught in
    /// tests.
    pub fn settle(&mut self, ticket: Ticket) -> Option<Position> {
        let Some(index) = ticket.0.checked_sub(self.front).and_then(|i| usize::try_from(i).ok()) else {
            debug_assert!(false, "settled a record that lies below the cursor");
            return None;
        };
        let Some(item) = self.items.get_mut(index) else {
            debug_assert!(false, "settled a record that was never admitted");
            return None;
        };
        debug_assert!(!item.settled, "settled a record twice");
        if std::mem::replace(&mut item.settled, true) {
            return None;
        }
        let position = item.position;
        self.unsettled -= 1;
        self.unsettled_bytes -= u64::from(item.bytes);
        let before = index.checked_sub(1).is_some_and(|i| self.items[i].settled);
        let behind = self.items.get(index + 1).is_some_and(|next| next.settled);
        match (before, behind) {
            (false, false) => self.ranges += 1,
            (true, true) => self.ranges -= 1,
            _ => {}
        }
        if index == 0 {
            self.advance();
        }
        Some(position)
    }

    /// Moves the cursor over the settled run at the front.
    fn advance(&mut self) {
        while let Some(item) = self.items.front().filter(|item| item.settled) {
            self.cursor = after(item.position);
            self.items.pop_front();
            self.front += 1;
        }
        self.ranges -= 1; // the run that began at the front
    }

    /// The first position that is not settled.
    pub fn cursor(&self) -> Position {
        self.items.front().map_or(self.cursor, |item| item.position)
    }

    /// Settled positions beyond the cursor, oldest first, those of the last checkpoint that reading has not reached
    /// included.
    pub fn settled_ranges(&self) -> Vec<SettledRange> {
        let mut ranges: Vec<SettledRange> = Vec::with_capacity(self.ranges + self.replayed.len());
        let mut previous_settled = false;
        for item in &self.items {
            if item.settled {
                match ranges.last_mut() {
                    Some(range) if previous_settled => {
                        range.last = item.position;
                        range.records += 1;
                    }
                    _ => ranges.push(SettledRange { first: item.position, last: item.position, records: 1 }),
                }
            }
            previous_settled = item.settled;
        }
        let read_to = self.items.back().map(|item| item.position);
        for range in &self.replayed {
            match read_to {
                Some(read_to) if range.last <= read_to => {}
                // Reading stands inside this range: its beginning is in the list already.
                Some(read_to) if range.first <= read_to => match ranges.last_mut() {
                    Some(last) => {
                        last.last = range.last;
                        last.records += range.records;
                    }
                    None => ranges.push(*range),
                },
                _ => ranges.push(*range),
            }
        }
        ranges
    }

    /// Records that were settled before the last start and have not been read again: they stand in entries that count as
    /// unread, and are no backlog.
    pub fn settled_unread(&self) -> u64 {
        self.below + self.replayed.iter().map(|range| range.records).sum::<u64>()
    }

    /// Records admitted and not settled.
    pub fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// When the oldest unsettled record was received.
    pub fn oldest(&self) -> Option<UnixMillis> {
        self.items.front().map(|item| item.received_at)
    }
}

/// The smallest position above `position` within its entry. It may lie past the entry's end; reading skips to the next.
fn after(position: Position) -> Position {
    Position { index: position.index + 1, ..position }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::record::{EntryId, Epoch};

    fn at(entry: u64, index: u32) -> Position {
        Position { epoch: Epoch(1), entry: EntryId(entry), index }
    }

    fn admit(ledger: &mut Ledger, position: Position) -> Option<Ticket> {
        ledger.admit(position, UnixMillis(position.entry.0 * 1000), 100)
    }

    #[test]
    fn the_cursor_waits_for_the_oldest() {
        let mut ledger = Ledger::resume(at(1, 0), vec![], Limits::default());
        let tickets: Vec<_> = (0..4).map(|i| admit(&mut ledger, at(1, i)).unwrap()).collect();
        ledger.settle(tickets[1]);
        ledger.settle(tickets[3]);
        assert_eq!(ledger.cursor(), at(1, 0));
        assert_eq!(
            ledger.settled_ranges(),
            [
                SettledRange { first: at(1, 1), last: at(1, 1), records: 1 },
                SettledRange { first: at(1, 3), last: at(1, 3), records: 1 }
            ]
        );
        ledger.settle(tickets[0]);
        assert_eq!(ledger.cursor(), at(1, 2));
        ledger.settle(tickets[2]);
        assert_eq!(ledger.cursor(), at(1, 4));
        assert!(ledger.settled_ranges().is_empty());
        assert_eq!(ledger.unsettled(), 0);
    }

    #[test]
    fn a_full_ledger_says_so() {
        let mut ledger = Ledger::resume(at(1, 0), vec![], Limits { window: 10, bytes: 600, ranges: 2 });
        let tickets: Vec<_> = (0..6).map(|i| admit(&mut ledger, at(1, i)).unwrap()).collect();
        assert!(!ledger.has_room(), "600 bytes are the limit");
        ledger.settle(tickets[1]);
        assert!(ledger.has_room());
        ledger.settle(tickets[3]);
        assert!(!ledger.has_room(), "two ranges are the limit");
        ledger.settle(tickets[2]);
        assert!(ledger.has_room(), "two ranges became one");
    }

    /// Entries of random sizes; a random order of settling; a crash and a resume from the checkpoint after each step
    /// that asks for one. Nothing is settled twice, nothing is skipped.
    fn run(sizes: &[u32], picks: &[(usize, bool)]) -> Result<(), TestCaseError> {
        let all: Vec<Position> =
            sizes.iter().enumerate().flat_map(|(e, size)| (0..*size).map(move |i| at(e as u64 + 1, i))).collect();
        let mut done: BTreeSet<Position> = BTreeSet::new();
        let mut ledger = Ledger::resume(at(1, 0), vec![], Limits::default());
        let mut open: Vec<(Position, Ticket)> = Vec::new();
        let mut unread = all.iter().copied();
        for (pick, crash) in picks {
            for _ in 0..3 {
                if let Some(position) = unread.next() {
                    match ledger.admit(position, UnixMillis(1), 100) {
                        Some(ticket) => {
                            prop_assert!(!done.contains(&position), "{position} offered again");
                            open.push((position, ticket));
                        }
                        None => prop_assert!(done.contains(&position), "{position} skipped"),
                    }
                }
            }
            if !open.is_empty() {
                let (position, ticket) = open.swap_remove(pick % open.len());
                ledger.settle(ticket);
                done.insert(position);
            }
            let first_open = all.iter().find(|p| !done.contains(p));
            if let Some(first_open) = first_open {
                prop_assert!(ledger.cursor() <= *first_open);
            }
            prop_assert_eq!(ledger.unsettled(), open.len());
            let left = unread.clone().count() as u64;
            let not_done = (all.len() - done.len()) as u64;
            prop_assert_eq!(left - ledger.settled_unread() + open.len() as u64, not_done);
            prop_assert_eq!(ledger.ranges, ledger.settled_ranges().len() - ledger.ranges_not_read());
            if *crash {
                let (cursor, ranges) = (ledger.cursor(), ledger.settled_ranges());
                ledger = Ledger::resume(cursor, ranges, Limits::default());
                open.clear();
                unread = all[all.partition_point(|p| p.entry < cursor.entry)..].iter().copied();
            }
        }
        Ok(())
    }

    impl Ledger {
        /// Ranges that `settled_ranges` adds from the last checkpoint beyond what has been read.
        fn ranges_not_read(&self) -> usize {
            let read_to = self.items.back().map(|item| item.position);
            self.replayed.iter().filter(|range| read_to.is_none_or(|to| range.first > to)).count()
        }
    }

    proptest! {
        #[test]
        fn nothing_is_skipped_and_nothing_settled_twice(
            sizes in proptest::collection::vec(1u32..8, 1..20),
            picks in proptest::collection::vec((0usize..64, proptest::bool::weighted(0.1)), 1..200),
        ) {
            run(&sizes, &picks)?;
        }
    }
}
