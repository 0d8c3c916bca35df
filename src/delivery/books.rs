//! The books of a leg: ledger, tally, dead letters, and the checkpoint that ties them together.
//!
//! Every way to settle a record goes through here, so that settling and counting cannot come apart. What has happened
//! since the last checkpoint is kept as one pending [`WriteBatch`]; [`Books::close_page`] hands it out together with the
//! checkpoint that implies it.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use jiff::tz::TimeZone;

use super::checkpoint::Checkpoint;
use super::day_book::DayBook;
use super::dead_letters::{self, DeadLetter, DeadLetterId, RefusedWrite, old, replay};
use super::history::{self, Filters, History, Outcome, Pages, Span};
use super::ledger::{Ledger, Limits, Ticket};
use super::status::{GroupsOwed, Snapshot};
use super::tally::Tally;
use crate::clock::UnixMillis;
use crate::privacy::{Erased, Tombstones};
use crate::record::{Destination, EntryId, Kind, Position, Record};
use crate::settlement::{DeadReason, SkipRule};
use crate::store::{Entry, State, StoreError, WriteBatch};
use crate::vendor::Note;
use crate::vendor::in_flight::InFlight;

/// A record on its way, with its place in the ledger.
#[derive(Clone, Debug)]
pub struct Item {
    pub ticket: Ticket,
    pub position: Position,
    pub record: Record,
    /// There for a dead letter that is sent again.
    pub again: Option<Box<Again>>,
}

/// What a dead letter that is sent again brings beside its record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Again {
    pub write: Option<RefusedWrite>,
}

/// Dead letters that are on their way again. They stand in the store apart from the journal, so the ledger knows nothing of
/// them; they are backlog all the same.
#[derive(Debug, Default)]
struct OnTheirWay {
    /// Not settled, read or not.
    records: u64,
    since: Option<UnixMillis>,
    /// In the leg's hands.
    in_hand: HashMap<Ticket, Position>,
    /// Tickets given out.
    tickets: u64,
}

#[derive(Debug)]
pub struct Books {
    destination: Destination,
    ledger: Ledger,
    tally: Tally,
    pending: WriteBatch,
    dead_held: u64,
    dead_bytes: u64,
    /// Where the next look for old letters begins.
    old_letters_after: Option<DeadLetterId>,
    on_their_way: OnTheirWay,
    days: DayBook,
    pages: Pages,
    /// Made by the leg that reads every record anyway.
    filters: Option<Filters>,
    /// Of the last checkpoint.
    number: u64,
    dirty: bool,
    tombstones: Arc<Tombstones>,
    in_flight: InFlight,
}

impl Books {
    /// Opens the books at the destination's last checkpoint. Days begin as they do in `timezone`.
    pub async fn open(
        state: &Arc<dyn State>,
        destination: Destination,
        checkpoint: Checkpoint,
        timezone: TimeZone,
    ) -> Result<Self, StoreError> {
        let (dead_held, dead_bytes) = dead_letters::held(state, destination).await?;
        let (records, since) = replay::on_their_way(state, destination).await?;
        let mut pending = WriteBatch::new();
        let (in_flight, left_in_flight) = InFlight::open(state, destination, &mut pending).await?;
        let mut tally = checkpoint.tally;
        tally.maybe_twice += left_in_flight;
        Ok(Self {
            destination,
            ledger: Ledger::resume(checkpoint.cursor, checkpoint.settled, Limits::default()),
            tally,
            pending,
            dead_held,
            dead_bytes,
            old_letters_after: None,
            on_their_way: OnTheirWay { records, since, ..OnTheirWay::default() },
            days: DayBook::open(destination, timezone, checkpoint.chapter),
            pages: Pages::default(),
            filters: None,
            number: checkpoint.number,
            dirty: false,
            tombstones: Arc::default(),
            in_flight,
        })
    }

    /// Records of people who are erased are settled on sight.
    pub fn obey(mut self, tombstones: Arc<Tombstones>) -> Self {
        self.tombstones = tombstones;
        self
    }

    /// Whether what becomes of records is written down.
    pub fn keep(mut self, history: History) -> Self {
        self.pages = Pages::new(history);
        self.filters = self.filters.filter(|_| history == History::Kept);
        self
    }

    /// Has filters made of what is admitted. One leg of a relay does.
    pub fn with_filters(mut self) -> Self {
        self.filters = Some(Filters::default());
        self
    }

    /// The leg ends: what has been admitted is written with the next checkpoint.
    pub fn close_filters(&mut self) {
        self.filters.iter_mut().for_each(Filters::close);
        self.dirty |= self.filters.is_some();
    }

    pub fn tombstones(&self) -> Arc<Tombstones> {
        self.tombstones.clone()
    }

    /// Who is erased now.
    pub fn erased(&self) -> Arc<Erased> {
        self.tombstones.now()
    }

    pub fn has_room(&self) -> bool {
        self.ledger.has_room()
    }

    pub fn cursor(&self) -> Position {
        self.ledger.cursor()
    }

    /// The last position beyond the cursor that is settled.
    pub fn settled_through(&self) -> Option<Position> {
        self.ledger.settled_ranges().last().map(|range| range.last)
    }

    /// Takes an entry's records in. Those that are not for this destination, those of erased people, and those that a
    /// damaged block has lost, are settled here; the rest is returned in order.
    pub fn admit(&mut self, entry: Entry) -> Vec<Item> {
        if entry.lost > 0 {
            // One ticket stands for the block: all of it is lost, so all of it settles at once.
            if let Some(ticket) = self.ledger.admit(entry.position(0), UnixMillis(0), 0) {
                self.skip_many(ticket, SkipRule::Damaged, u64::from(entry.lost));
            }
            return Vec::new();
        }
        let erased = self.tombstones.now();
        let (epoch, id) = (entry.epoch, entry.id);
        let mut items = Vec::with_capacity(entry.records.len());
        self.filters.iter_mut().for_each(|filters| filters.begin(epoch, id));
        for (index, record) in (0u32..).zip(entry.records) {
            let position = Position { epoch, entry: id, index };
            let is_erased = record.is_erased() || erased.covers(record.kind, &record.body);
            if let Some(filters) = self.filters.as_mut().filter(|_| !is_erased) {
                filters.take(&record);
            }
            let Some(ticket) = self.ledger.admit(position, record.received_at, record.body.len()) else {
                continue;
            };
            if is_erased {
                self.skip(ticket, SkipRule::Erased);
            } else if record.destinations.contains(self.destination) {
                items.push(Item { ticket, position, record, again: None });
            } else {
                self.skip(ticket, SkipRule::NotForThisDestination);
            }
        }
        items
    }

    /// Takes in letters that are on their way again; those of erased people are settled here.
    pub fn admit_again(&mut self, letters: Vec<(DeadLetterId, DeadLetter)>) -> Vec<Item> {
        let erased = self.tombstones.now();
        let mut items = Vec::with_capacity(letters.len());
        for (id, letter) in letters {
            let ticket = Ticket::of_replay(self.on_their_way.tickets);
            self.on_their_way.tickets += 1;
            self.on_their_way.in_hand.insert(ticket, id.position);
            let record = letter.to_record(self.destination);
            if erased.covers(record.kind, &record.body) {
                self.skip(ticket, SkipRule::Erased);
                continue;
            }
            let again = Some(Box::new(Again { write: letter.write }));
            items.push(Item { ticket, position: id.position, record, again });
        }
        items
    }

    /// Whether the letters that were taken in are settled, so that more may be read.
    pub fn may_admit_again(&self) -> bool {
        self.on_their_way.in_hand.is_empty() && self.on_their_way.records > 0
    }

    pub fn deliver(&mut self, ticket: Ticket, kind: Kind) {
        self.tally.deliver(kind);
        self.settle(ticket, Outcome::Delivered);
    }

    /// Counts a record as delivered that the ledger has done with.
    pub fn deliver_kept(&mut self, position: Position, kind: Kind) {
        self.tally.deliver(kind);
        self.end_kept(position, Outcome::Delivered);
    }

    /// Counts the records of a debt to `id` as delivered.
    pub fn deliver_owed(&mut self, id: &str, owed: Span, kind: Kind) {
        self.tally.delivered.add(kind, owed.records);
        self.end_owed(id, owed, Outcome::Delivered);
    }

    /// Notes that the destination has an event which happened `at` and came in at `received_at`, under the name by which it
    /// knows it.
    pub fn note_event(&mut self, name: &str, at: UnixMillis, received_at: UnixMillis) {
        self.days.count(name, at, received_at, &mut self.pending);
        self.dirty = true;
    }

    pub fn skip(&mut self, ticket: Ticket, rule: SkipRule) {
        self.skip_many(ticket, rule, 1);
    }

    fn skip_many(&mut self, ticket: Ticket, rule: SkipRule, count: u64) {
        self.tally.skip(rule, count);
        self.settle(ticket, Outcome::Skipped(rule));
    }

    /// Counts a record as skipped that the ledger has done with.
    pub fn skip_kept(&mut self, position: Position, rule: SkipRule) {
        self.tally.skip(rule, 1);
        self.end_kept(position, Outcome::Skipped(rule));
    }

    /// Counts the records of a debt to `id` as skipped.
    pub fn skip_owed(&mut self, id: &str, owed: Span, rule: SkipRule) {
        self.tally.skip(rule, owed.records);
        self.end_owed(id, owed, Outcome::Skipped(rule));
    }

    /// Notes for history how a record stands now that the ledger has done with; it is counted elsewhere.
    pub fn end_kept(&mut self, position: Position, outcome: Outcome) {
        self.pages.ended(position, outcome);
        self.dirty = true;
    }

    /// Counts the events as delivered whose list changes were owed for `id`.
    pub fn deliver_listed(&mut self, id: &str, owed: Span) {
        self.deliver_owed(&history::lists_of(id), owed, Kind::Event);
    }

    fn end_owed(&mut self, id: &str, owed: Span, outcome: Outcome) {
        self.pages.ended_jointly(id, owed, outcome);
        self.dirty = true;
    }

    /// Settles `item` as a dead letter, which is written with the next checkpoint.
    pub fn die(&mut self, item: &Item, reason: DeadReason, answer: &str, now: UnixMillis) -> Result<(), StoreError> {
        self.write_letter(item.position, &DeadLetter::new(&item.record, reason, answer, now))?;
        self.settle(item.ticket, Outcome::Dead(reason));
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
        self.hold(position, &DeadLetter::new(record, reason, answer, now))
    }

    /// Holds a letter of a record that was settled in the ledger before.
    pub fn hold(&mut self, position: Position, letter: &DeadLetter) -> Result<(), StoreError> {
        self.write_letter(position, letter)?;
        self.pages.ended(position, Outcome::Dead(letter.reason));
        Ok(())
    }

    fn write_letter(&mut self, position: Position, letter: &DeadLetter) -> Result<(), StoreError> {
        self.dead_bytes += letter.put(self.destination, position, &mut self.pending)?;
        self.dead_held += 1;
        self.tally.die(letter.reason);
        self.dirty = true;
        Ok(())
    }

    /// Looks for dead letters that died before `before`, a part of them each time; what it has found is for [`Self::purge`].
    pub fn look_for_old_letters(
        &self,
        state: &Arc<dyn State>,
        before: UnixMillis,
    ) -> BoxFuture<'static, Result<old::Looked, StoreError>> {
        let (state, destination, after) = (state.clone(), self.destination, self.old_letters_after);
        Box::pin(async move { old::look(&state, destination, before, after).await })
    }

    /// Lets go of dead letters that have been kept long enough: they are counted as skipped from now on.
    pub fn purge(&mut self, looked: &old::Looked) {
        self.old_letters_after = looked.after;
        for letter in &looked.overdue {
            dead_letters::delete(letter.id, &mut self.pending);
            self.dead_held = self.dead_held.saturating_sub(1);
            self.dead_bytes = self.dead_bytes.saturating_sub(letter.bytes);
            self.skip_kept(letter.id.position, SkipRule::Purged);
        }
    }

    /// Settles the record in the ledger only: whoever calls this keeps the record elsewhere (a shelf, a debt) and counts
    /// it there. `outcome` says where.
    pub fn hand_over(&mut self, ticket: Ticket, outcome: Outcome) {
        self.settle(ticket, outcome);
    }

    fn settle(&mut self, ticket: Ticket, outcome: Outcome) {
        self.dirty = true;
        if !ticket.is_replay() {
            if let Some(position) = self.ledger.settle(ticket) {
                self.pages.settled(ticket, position, outcome);
            }
            return;
        }
        let position = self.on_their_way.in_hand.remove(&ticket);
        debug_assert!(position.is_some(), "settled a letter twice");
        if let Some(position) = position {
            self.on_their_way.records -= 1;
            self.pages.ended(position, outcome);
            replay::arrived(DeadLetterId { destination: self.destination, position }, &mut self.pending);
        }
    }

    /// The counts, for outcomes of records that the ledger does not hold any more.
    pub fn tally_mut(&mut self) -> &mut Tally {
        self.dirty = true;
        &mut self.tally
    }

    pub fn dead_bytes(&self) -> u64 {
        self.dead_bytes
    }

    /// The note of a call of so many records that are not to arrive twice; [`Books::call_ended`] takes it back.
    pub fn note_call(&mut self, records: usize) -> Note {
        self.in_flight.begin(records)
    }

    /// It is known how the call ended: with the next checkpoint, nothing of it is in flight any more.
    pub fn call_ended(&mut self, note: Note) {
        note.end(&mut self.pending);
    }

    /// Adds to what the next checkpoint writes.
    pub fn pending_mut(&mut self) -> &mut WriteBatch {
        &mut self.pending
    }

    /// Whether there is anything to write down. An idle leg must not keep the disk busy.
    pub fn is_dirty(&self) -> bool {
        self.dirty || !self.pending.is_empty()
    }

    /// Everything since the last page and the checkpoint that follows from it, as one batch; the caller writes it before
    /// it closes the next.
    pub fn close_page(&mut self, now: UnixMillis) -> Result<(WriteBatch, Position), StoreError> {
        let mut batch = std::mem::take(&mut self.pending);
        self.days.write(&mut batch);
        self.number += 1;
        self.pages.write(self.destination, self.number, now, &mut batch);
        self.filters.iter_mut().for_each(|filters| filters.write(&mut batch));
        let checkpoint = Checkpoint {
            cursor: self.ledger.cursor(),
            settled: self.ledger.settled_ranges(),
            tally: self.tally.clone(),
            chapter: self.days.chapter(),
            number: self.number,
        };
        checkpoint.put(self.destination, &mut batch)?;
        self.dirty = false;
        Ok((batch, checkpoint.cursor))
    }

    /// What others may see. `held` counts what is kept outside the ledger: (parked, owed, received_at of the oldest).
    pub fn snapshot(&self, next_entry: EntryId, held: HeldOutside) -> Snapshot {
        let again = self.on_their_way.since.filter(|_| self.on_their_way.records > 0);
        let oldest = [self.ledger.oldest(), held.oldest, again].into_iter().flatten().min();
        Snapshot {
            tally: self.tally.clone(),
            next_entry,
            settled_unread: self.ledger.settled_unread(),
            unsettled: self.ledger.unsettled() as u64 + self.on_their_way.records + held.owed,
            in_ledger: self.ledger.unsettled() as u64,
            parked: held.parked,
            dead_letters: self.dead_held,
            dead_letter_bytes: self.dead_bytes,
            oldest,
            groups: held.groups,
        }
    }
}

/// What a leg keeps of records that its ledger has handed over.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeldOutside {
    pub parked: u64,
    pub owed: u64,
    pub oldest: Option<UnixMillis>,
    pub groups: Option<GroupsOwed>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::record::{Destinations, Epoch, Origin, Project};
    use crate::store::testing;

    const DAY: u64 = 86_400_000;

    #[tokio::test]
    async fn letters_that_are_old_enough_are_let_go_and_counted() {
        let directory = testing::directory();
        let store = testing::open(&directory, ManualClock::at(UnixMillis(100 * DAY)));
        let state: Arc<dyn State> = store.state.clone();
        let destination = Destination::Mixpanel;
        let start = Checkpoint::load(&state, destination).await.unwrap();
        let mut books = Books::open(&state, destination, start, TimeZone::UTC).await.unwrap();
        let record = Record {
            kind: Kind::Event,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: UnixMillis(0),
            body: "{}".into(),
        };
        let entry = Entry { epoch: Epoch(1), id: EntryId(1), records: vec![record.clone(), record], lost: 0 };
        for (item, died_at) in books.admit(entry).iter().zip([10 * DAY, 90 * DAY]) {
            books.die(item, DeadReason::Rejected, "no", UnixMillis(died_at)).unwrap();
        }
        let (page, _) = books.close_page(UnixMillis(100 * DAY)).unwrap();
        state.write(page).await.unwrap();

        let looked = books.look_for_old_letters(&state, UnixMillis(70 * DAY)).await.unwrap();
        assert_eq!(looked.overdue.len(), 1);
        books.purge(&looked);
        let (page, _) = books.close_page(UnixMillis(100 * DAY)).unwrap();
        state.write(page).await.unwrap();

        let snapshot = books.snapshot(EntryId(2), HeldOutside::default());
        assert_eq!((snapshot.dead_letters, snapshot.tally.skipped.get(&SkipRule::Purged)), (1, Some(&1)));
        assert_eq!(dead_letters::held(&state, destination).await.unwrap(), (1, snapshot.dead_letter_bytes));
        let reopened = Checkpoint::load(&state, destination).await.unwrap();
        let reopened = Books::open(&state, destination, reopened, TimeZone::UTC).await.unwrap();
        assert_eq!(reopened.dead_bytes(), snapshot.dead_letter_bytes);
    }
}
