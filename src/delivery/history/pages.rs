//! What has ended since the last checkpoint, on its way into history.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::row::{Group, Joint, Row, Run};
use super::{History, Outcome};
use crate::clock::UnixMillis;
use crate::delivery::ledger::Ticket;
use crate::people::company;
use crate::people::debt::Debt;
use crate::people::unknown::Released;
use crate::record::{Destination, Position};
use crate::store::{Table, WriteBatch};

/// Where the records of a debt stand: some of those between its first and its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub since: Position,
    pub last: Position,
    pub records: u64,
}

impl Span {
    /// Without a record of it that has an end of its own.
    pub fn but_one(self) -> Self {
        Self { records: self.records.saturating_sub(1), ..self }
    }
}

impl From<&Debt> for Span {
    fn from(debt: &Debt) -> Self {
        Self { since: debt.since, last: debt.last.max(debt.since), records: debt.records }
    }
}

impl From<&company::Debt> for Span {
    fn from(debt: &company::Debt) -> Self {
        Self { since: debt.since, last: debt.last.max(debt.since), records: debt.records }
    }
}

impl From<&Released> for Span {
    fn from(released: &Released) -> Self {
        Self { since: released.since, last: released.last.max(released.since), records: released.records }
    }
}

/// The hash under which a person's or a group's debts stand.
pub(super) fn owner(id: &str) -> u64 {
    xxh3_64(id.as_bytes())
}

/// The name under which list changes stand that are owed for a person: their events, not their updates.
pub fn lists_of(id: &str) -> String {
    format!("lists of {id}")
}

/// A run of the ledger's: tickets are given out in the order of positions, and none is left out.
#[derive(Clone, Copy, Debug)]
struct Settled {
    first: Ticket,
    last: Ticket,
    run: Run,
}

impl Settled {
    /// Takes `next` in, if that is what follows.
    fn joined(&mut self, next: Settled) -> bool {
        let fits = self.last.is_followed_by(next.first)
            && self.run.outcome == next.run.outcome
            && self.run.last.epoch == next.run.first.epoch;
        if fits {
            (self.last, self.run.last) = (next.last, next.run.last);
        }
        fits
    }
}

/// Bounded as the ledger is, whose records these were, and by what a leg ends between two checkpoints.
#[derive(Debug, Default)]
pub struct Pages {
    history: History,
    settled: Vec<Settled>,
    later: Vec<(Position, Outcome)>,
    joints: Vec<Joint>,
}

impl Pages {
    pub fn new(history: History) -> Self {
        Self { history, ..Self::default() }
    }

    /// The ledger has settled a record.
    pub fn settled(&mut self, ticket: Ticket, position: Position, outcome: Outcome) {
        if self.history == History::Off {
            return;
        }
        let run = Run { first: position, last: position, outcome };
        let next = Settled { first: ticket, last: ticket, run };
        if !self.settled.last_mut().is_some_and(|last| last.joined(next)) {
            self.settled.push(next);
        }
    }

    /// A record has ended that the ledger had done with.
    pub fn ended(&mut self, position: Position, outcome: Outcome) {
        if self.history == History::Kept {
            self.later.push((position, outcome));
        }
    }

    /// What was owed to `id` has ended.
    pub fn ended_jointly(&mut self, id: &str, span: Span, outcome: Outcome) {
        if self.history == History::Kept && span.records > 0 {
            self.joints.push(Joint { owner: owner(id), since: span.since, last: span.last, outcome });
        }
    }

    /// Adds all of it to the batch of the `checkpoint`th checkpoint, which is written at `at`.
    pub fn write(&mut self, destination: Destination, checkpoint: u64, at: UnixMillis, batch: &mut WriteBatch) {
        let mut rows: BTreeMap<Group, Row> = BTreeMap::new();
        for run in self.take_runs() {
            for (group, run) in run.by_group() {
                rows.entry(group).or_default().runs.push(run);
            }
        }
        for (position, outcome) in self.later.drain(..) {
            rows.entry(Group::of(position)).or_default().later.push((position, outcome));
        }
        for joint in self.joints.drain(..) {
            let (first, last) = (Group::of(joint.since), Group::of(joint.last));
            rows.entry(last).or_default().joints.push(joint);
            if first != last {
                rows.entry(first).or_default().joints.push(joint);
            }
        }
        for (group, row) in rows {
            batch.put(Table::Outcomes, group.key(destination, checkpoint), Row { at, ..row }.encode(group));
        }
    }

    /// Calls come back in any order: what they settled is put in the journal's, where neighbours meet.
    fn take_runs(&mut self) -> Vec<Run> {
        let mut settled = std::mem::take(&mut self.settled);
        settled.sort_unstable_by_key(|settled| settled.first);
        let mut joined: Vec<Settled> = Vec::with_capacity(settled.len());
        for next in settled {
            if !joined.last_mut().is_some_and(|last| last.joined(next)) {
                joined.push(next);
            }
        }
        joined.into_iter().map(|settled| settled.run).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EntryId, Epoch};
    use crate::store::Op;

    /// As many as a checkpoint may hold at the highest rate that a project may send, each a request of its own.
    #[test]
    fn neighbours_that_end_alike_are_a_few_rows_in_whatever_order_they_end() {
        let mut pages = Pages::default();
        let at = |entry| Position { epoch: Epoch(1), entry: EntryId(entry), index: 0 };
        // Batches of 2,000 of three lanes, each lane's in order.
        let lane = |lane: u64| (0..6_000).filter(move |n| n % 3 == lane);
        for n in lane(2).chain(lane(0)).chain(lane(1)) {
            pages.settled(Ticket::numbered(n), at(1_000 + n), Outcome::Delivered);
        }
        let mut batch = WriteBatch::new();
        pages.write(Destination::Mixpanel, 7, UnixMillis(5), &mut batch);
        assert!(batch.ops.len() < 30, "{}", batch.ops.len());
        let bytes = batch.ops.iter().map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            _ => 0,
        });
        assert!(bytes.sum::<usize>() < 1_500);
        let mut again = WriteBatch::new();
        pages.write(Destination::Mixpanel, 8, UnixMillis(6), &mut again);
        assert!(again.is_empty(), "written once");
    }

    #[test]
    fn nothing_is_written_where_no_history_is_kept() {
        let mut pages = Pages::new(History::Off);
        let at = Position { epoch: Epoch(1), entry: EntryId(1), index: 0 };
        pages.settled(Ticket::numbered(1), at, Outcome::Delivered);
        pages.ended(at, Outcome::Delivered);
        pages.ended_jointly("u", Span { since: at, last: at, records: 1 }, Outcome::Delivered);
        let mut batch = WriteBatch::new();
        pages.write(Destination::Brevo, 1, UnixMillis(1), &mut batch);
        assert!(batch.is_empty());
    }
}
