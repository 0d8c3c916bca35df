//! The books of a leg: ledger, tally, dead letters, and the checkpoint that ties them together.
//!
//! Every way to settle a record goes through here, so that settling and counting cannot come apart. What has happened
//! since the last checkpoint is kept as one pending [`WriteBatch`]; [`Books::close_page`] hands it out together with the
//! checkpoint that implies it.

use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::dead_letters::{self, DeadLetter};
use super::ledger::{Ledger, Limits, Ticket};
use super::status::Snapshot;
use super::tally::Tally;
use crate::clock::UnixMillis;
use crate::record::{Destination, EntryId, Kind, Position, Record};
use crate::settlement::{DeadReason, SkipRule};
use crate::store::{Entry, State, StoreError, WriteBatch};

/// A record on its way, with its place in the ledger.
#[derive(Clone, Debug)]
pub struct Item {
    pub ticket: Ticket,
    pub position: Position,
    pub record: Record,
}

#[derive(Debug)]
pub struct Books {
    destination: Destination,
    ledger: Ledger,
    tally: Tally,
    pending: WriteBatch,
    dead_held: u64,
    dead_bytes: u64,
    dirty: bool,
}

impl Books {
    /// Opens the books at the destination's last checkpoint.
    pub async fn open(
        state: &Arc<dyn State>,
        destination: Destination,
        checkpoint: Checkpoint,
    ) -> Result<Self, StoreError> {
        let (dead_held, dead_bytes) = dead_letters::held(state, destination).await?;
        Ok(Self {
            destination,
            ledger: Ledger::resume(checkpoint.cursor, checkpoint.settled, Limits::default()),
            tally: checkpoint.tally,
            pending: WriteBatch::new(),
            dead_held,
            dead_bytes,
            dirty: false,
        })
    }

    pub fn has_room(&self) -> bool {
        self.ledger.has_room()
    }

    pub fn cursor(&self) -> Position {
        self.ledger.cursor()
    }

    /// Takes an entry's records in. Those that are not for this destination, and those that a damaged block has lost,
    /// are settled here; the rest is returned in order.
    pub fn admit(&mut self, entry: Entry) -> Vec<Item> {
        if entry.lost > 0 {
            // One ticket stands for the block: all of it is lost, so all of it settles at once.
            if let Some(ticket) = self.ledger.admit(entry.position(0), UnixMillis(0)) {
                self.skip_many(ticket, SkipRule::Damaged, u64::from(entry.lost));
            }
            return Vec::new();
        }
        let (epoch, id) = (entry.epoch, entry.id);
        let mut items = Vec::with_capacity(entry.records.len());
        for (index, record) in (0u32..).zip(entry.records) {
            let position = Position { epoch, entry: id, index };
            let Some(ticket) = self.ledger.admit(position, record.received_at) else {
                continue;
            };
            if record.destinations.contains(self.destination) {
                items.push(Item { ticket, position, record });
            } else {
                self.skip(ticket, SkipRule::NotForThisDestination);
            }
        }
        items
    }

    pub fn deliver(&mut self, ticket: Ticket, kind: Kind) {
        self.tally.deliver(kind);
        self.settle(ticket);
    }

    pub fn skip(&mut self, ticket: Ticket, rule: SkipRule) {
        self.skip_many(ticket, rule, 1);
    }

    fn skip_many(&mut self, ticket: Ticket, rule: SkipRule, count: u64) {
        self.tally.skip(rule, count);
        self.settle(ticket);
    }

    /// Settles `item` as a dead letter, which is written with the next checkpoint.
    pub fn die(&mut self, item: &Item, reason: DeadReason, answer: &str, now: UnixMillis) -> Result<(), StoreError> {
        self.bury(item.position, &item.record, reason, answer, now)?;
        self.settle(item.ticket);
        Ok(())
    }

    /// A dead letter of a record that was settled in the ledger before, by moving it to a shelf or into a debt.
    pub fn bury(
        &mut self,
        position: Position,
        record: &Record,
        reason: DeadReason,
        answer: &str,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let letter = DeadLetter::new(record, reason, answer, now);
        self.dead_bytes += letter.put(self.destination, position, &mut self.pending)?;
        self.dead_held += 1;
        self.tally.die(reason);
        self.dirty = true;
        Ok(())
    }

    /// Settles the record in the ledger only: whoever calls this keeps the record elsewhere (a shelf, a debt) and counts
    /// it there.
    pub fn hand_over(&mut self, ticket: Ticket) {
        self.settle(ticket);
    }

    fn settle(&mut self, ticket: Ticket) {
        self.ledger.settle(ticket);
        self.dirty = true;
    }

    /// The counts, for outcomes of records that the ledger does not hold any more.
    pub fn tally_mut(&mut self) -> &mut Tally {
        self.dirty = true;
        &mut self.tally
    }

    pub fn dead_bytes(&self) -> u64 {
        self.dead_bytes
    }

    /// Adds to what the next checkpoint writes.
    pub fn pending_mut(&mut self) -> &mut WriteBatch {
        self.dirty = true;
        &mut self.pending
    }

    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Everything since the last page and the checkpoint that follows from it, as one batch; the caller writes it before
    /// it closes the next.
    pub fn close_page(&mut self) -> Result<(WriteBatch, Position), StoreError> {
        let mut batch = std::mem::take(&mut self.pending);
        let checkpoint = Checkpoint {
            cursor: self.ledger.cursor(),
            settled: self.ledger.settled_ranges(),
            tally: self.tally.clone(),
        };
        checkpoint.put(self.destination, &mut batch)?;
        self.dirty = false;
        Ok((batch, checkpoint.cursor))
    }

    /// What others may see. `held` counts what is kept outside the ledger: (parked, owed, received_at of the oldest).
    pub fn snapshot(&self, next_entry: EntryId, held: HeldOutside) -> Snapshot {
        let oldest = match (self.ledger.oldest(), held.oldest) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Snapshot {
            tally: self.tally.clone(),
            next_entry,
            unsettled: self.ledger.unsettled() as u64 + held.owed,
            parked: held.parked,
            dead_letters: self.dead_held,
            dead_letter_bytes: self.dead_bytes,
            oldest,
        }
    }
}

/// What a leg keeps of records that its ledger has handed over.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeldOutside {
    pub parked: u64,
    pub owed: u64,
    pub oldest: Option<UnixMillis>,
}
