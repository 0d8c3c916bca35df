//! Shelves: putting records on them, taking them off in order, and letting go of what has waited too long (CORE 7).

use super::intake::{Wish, intake};
use super::queue::{Queued, Release, Slot};
use super::receiving::{in_pilot, is_owed};
use super::{BrevoLeg, Done};
use crate::brevo::limits::MAX_BATCH_EVENTS;
use crate::clock::UnixMillis;
use crate::delivery::LegError;
use crate::delivery::books::Item;
use crate::delivery::history::Outcome;
use crate::people::debt::Debt;
use crate::people::person::Shelf;
use crate::people::roster::{self, PersonId, Resident};
use crate::people::shelf::{self, Parked, Waiting};
use crate::record::{Kind, Position, Record};
use crate::settlement::{DeadReason, SkipRule};

/// Rows read from a shelf at a time.
const ROWS: usize = 200;
/// Shelves are read while fewer events than this wait in memory.
const MAX_RELEASED: usize = 10_000;
/// Oldest rows looked at for expiry at a time.
const OVERDUE_ROWS: usize = 500;

/// Rows that may have to go, with their people.
pub(super) struct Overdue {
    rows: Vec<Waiting>,
    people: Vec<(PersonId, Resident)>,
    scan: Scan,
    /// Rows of before are too old.
    deadline: UnixMillis,
    /// Where to go on: the rows behind may be due, too.
    next: Option<Position>,
}

/// What a look for overdue rows has passed over, for it is on its way to another shelf.
#[derive(Debug, Default)]
pub(super) struct Passed {
    records: u64,
    bytes: u64,
}

/// A read of shelves under way, named by the last page that was durable when it began: it sees every row removed by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    began: u64,
}

impl BrevoLeg {
    /// Puts a record on its person's shelf; the ledger has done with it.
    pub(super) fn shelve(&mut self, id: &PersonId, item: Item) {
        let bytes = shelf::put(id, item.position, &item.record, self.parts.books.pending_mut());
        self.parked += 1;
        self.parked_bytes += bytes;
        self.roster.edit(id).person.shelf.records += 1;
        self.parts.books.hand_over(item.ticket, Outcome::Parked);
        let page = self.page;
        let queue = self.queue(id);
        queue.shelved_page = page;
        if queue.released_through >= Some(item.position) {
            queue.look_again();
        }
        self.advance(id);
    }

    /// Puts a record of another id of the person's on the shelf, where it has its place by its position; returns what it
    /// counts for.
    pub(super) fn add_to_shelf(&mut self, id: &PersonId, position: Position, record: &Record) -> u64 {
        let bytes = shelf::put(id, position, record, self.parts.books.pending_mut());
        self.roster.edit(id).person.shelf.records += 1;
        let page = self.page;
        let queue = self.queue(id);
        queue.shelved_page = page;
        queue.look_again();
        bytes
    }

    /// Puts what a person has in line on their shelf, and lets go of it in memory: their contact waits alone for who knows
    /// how long, or somebody is joined to them. It neither holds the ledger's cursor and ranges for that time, nor takes
    /// the room of events that others have ready.
    pub(super) fn hold_back(&mut self, id: &PersonId) {
        let page = self.page;
        let queue = self.queues.entry(id.clone()).or_default();
        queue.look_again();
        let events = std::mem::take(&mut queue.events);
        self.waiting -= events.len();
        for event in events {
            let Slot::Ledger(ticket) = event.slot else { continue };
            let bytes = shelf::put(id, event.position, &event.record, self.parts.books.pending_mut());
            self.parts.books.hand_over(ticket, Outcome::Parked);
            self.queue(id).shelved_page = page;
            self.roster.edit(id).person.shelf.records += 1;
            self.parked += 1;
            self.parked_bytes += bytes;
        }
    }

    /// Takes one row off, however it ended.
    pub(super) fn unshelve(&mut self, id: &PersonId, position: Position, bytes: u64) {
        shelf::remove(id, position, self.parts.books.pending_mut());
        self.unshelved.insert(position, self.page);
        self.parked = self.parked.saturating_sub(1);
        self.parked_bytes = self.parked_bytes.saturating_sub(bytes);
        self.roster.edit(id).person.shelf.take_one();
    }

    /// Takes a row off that goes nowhere.
    pub(super) fn unshelve_skipped(&mut self, id: &PersonId, position: Position, bytes: u64, rule: SkipRule) {
        self.unshelve(id, position, bytes);
        self.parts.books.skip_kept(position, rule);
    }

    /// Whether everything in front of what an earlier process put on shelves has been taken in.
    fn has_replayed(&mut self) -> bool {
        let next = self.parts.source.next_entry();
        self.replay_through.take_if(|through| next > *through && self.receiving.is_none());
        self.replay_through.is_none()
    }

    /// Reads the shelves whose turn it is and whose rows are all in the store.
    pub(super) fn start_releases(&mut self) {
        if !self.has_replayed() {
            return;
        }
        while self.sends() && self.waiting + self.releases_under_way * ROWS < MAX_RELEASED {
            if self.releases.front().is_none_or(|(page, _)| *page > self.durable_page) {
                return;
            }
            let Some((_, id)) = self.releases.pop_front() else { return };
            let merging = self.roster.is_forward(&id) || (self.is_joining(&id) && !self.lets_go(&id));
            let durable_page = self.durable_page;
            let queue = self.queue(&id);
            if merging {
                queue.release = Release::Idle;
                continue;
            }
            if queue.shelved_page > durable_page {
                let page = queue.shelved_page;
                self.releases.push_back((page, id));
                continue;
            }
            queue.release = Release::Reading;
            let after = queue.released_through;
            self.releases_under_way += 1;
            let scan = self.begin_scan();
            let state = self.parts.state.clone();
            self.spawn(Box::pin(async move {
                let rows = shelf::of_person(&state, &id, after, ROWS).await?;
                Ok(Done::Shelf(id, rows, scan))
            }));
        }
    }

    /// Rows come off in order: profile updates, folded long ago, become part of what is owed; events are queued.
    pub(super) fn take_from_shelf(&mut self, id: &PersonId, rows: Vec<Parked>, scan: Scan) -> Result<(), LegError> {
        self.end_scan(scan);
        self.releases_under_way -= 1;
        let durable_page = self.durable_page;
        let queue = self.queue(id);
        queue.release = Release::Idle;
        let passed_over = std::mem::take(&mut queue.passed_over);
        if passed_over || self.roster.is_forward(id) || (self.is_joining(id) && !self.lets_go(id)) {
            // Read again once everything of the person's is on one shelf.
            self.advance(id);
            return Ok(());
        }
        let queue = self.queue(id);
        if rows.is_empty() && queue.events.is_empty() && !queue.in_call && queue.shelved_page <= durable_page {
            // Nothing there that was not handed out: the count was wrong, and a wrong count must not hold the person.
            let counted = self.roster.edit(id).person.shelf.records;
            tracing::error!(counted, "a shelf holds fewer records than were counted; the count is put right");
            self.parked = self.parked.saturating_sub(counted);
            self.roster.edit(id).person.shelf = Shelf::default();
        }
        for Parked { position, record } in rows {
            if !self.comes_off(id, position) {
                break;
            }
            self.queue(id).released_through = Some(position);
            if self.unshelved.contains_key(&position) {
                continue;
            }
            let bytes = shelf::size(&record);
            let Some(resident) = self.roster.get(id) else { continue };
            let in_pilot = in_pilot(self.parts.settings.mode, &self.parts.settings.pilot_emails, &resident.person);
            let let_go = resident.person.shelf.lets_go_of(position);
            match intake(&record, &self.parts.mapping, self.parts.settings.identity).wish {
                Wish::Event { .. } | Wish::Profile { .. } if let_go => {
                    self.unshelve_skipped(id, position, bytes, SkipRule::ProfileDelete);
                }
                Wish::Event { .. } | Wish::Profile { .. } if self.withheld(id) => {
                    self.unshelve_skipped(id, position, bytes, SkipRule::NoConsent);
                }
                Wish::Event { .. } | Wish::Profile { .. } if !in_pilot => {
                    self.unshelve_skipped(id, position, bytes, SkipRule::NotInPilot);
                }
                Wish::Event { event, .. } => {
                    let Some(resident) = self.roster.get(id) else { continue };
                    let queue = self.queues.entry(id.clone()).or_default();
                    let after_payment = queue.next_dependency(is_owed(resident, queue));
                    queue.events.push_back(Queued {
                        slot: Slot::Shelf { bytes },
                        position,
                        record,
                        event,
                        after_payment,
                        call_limit: MAX_BATCH_EVENTS,
                    });
                    self.waiting += 1;
                }
                Wish::Profile { change, .. } if record.kind == Kind::Profile => {
                    self.unshelve(id, position, bytes);
                    self.parts.books.end_kept(position, Outcome::Owed);
                    let waits = self.roster.get(id).is_some_and(|resident| resident.person.waits_for(&change));
                    if waits {
                        self.await_base(id, position, record.received_at);
                    } else {
                        self.owe(id, Debt::of_folded(position, record.received_at));
                    }
                }
                Wish::Skip(rule) => self.unshelve_skipped(id, position, bytes, rule),
                Wish::Unreadable(reason) => {
                    self.unshelve(id, position, bytes);
                    let now = self.parts.clock.now();
                    self.parts.books.bury(position, &record, DeadReason::Unreadable, &reason, now)?;
                }
                // Stays where it is: nothing can be done with it yet.
                Wish::Profile { .. } | Wish::Group { .. } => {}
            }
        }
        self.advance(id);
        Ok(())
    }

    /// Whether it is the row's turn. What was put on the shelf behind a deletion of the profile waits for its own reasons.
    fn comes_off(&mut self, id: &PersonId, position: Position) -> bool {
        let shelf = &mut self.roster.edit(id).person.shelf;
        if shelf.let_go.is_some() && !shelf.lets_go_of(position) {
            shelf.let_go = None;
            return !self.is_joining(id) && self.roster.get(id).is_some_and(Resident::releasable);
        }
        true
    }

    /// Whether a part of the person's shelf is to be let go, which waits for nobody who is being joined.
    pub(super) fn lets_go(&self, id: &PersonId) -> bool {
        self.roster.get(id).is_some_and(|resident| resident.person.shelf.let_go.is_some())
    }

    /// Whether the shelves hold more than they may, those aside that have been passed over on their way to another shelf:
    /// nobody newer goes in their place.
    fn shelves_overflow(&self) -> bool {
        let (bounds, passed) = (self.parts.settings.parking, &self.overdue_passed);
        self.parked > bounds.max_records.saturating_add(passed.records)
            || self.parked_bytes > bounds.max_bytes.saturating_add(passed.bytes)
    }

    /// Looks at the next of the oldest rows of all shelves, page by page for as long as they are due: rows that are on
    /// their way off their shelves stay, and must not hide those behind them.
    pub(super) fn look_for_overdue(&mut self) {
        if self.looking_for_overdue || self.parked == 0 {
            return;
        }
        self.looking_for_overdue = true;
        let scan = self.begin_scan();
        let state = self.parts.state.clone();
        let deadline = self.parts.clock.now() - self.parts.settings.parking.max_age;
        let after = self.overdue_after.take();
        if after.is_none() {
            self.overdue_passed = Passed::default();
        }
        let overflow = self.shelves_overflow();
        self.spawn(Box::pin(async move {
            let mut rows = shelf::oldest(&state, after, OVERDUE_ROWS).await?;
            let due = |row: &Waiting| overflow || row.received_at < deadline;
            let full = rows.len() == OVERDUE_ROWS;
            let next = rows.last().filter(|last| full && due(last)).map(|last| last.position);
            rows.retain(due);
            let ids: Vec<_> = rows.iter().map(|row| PersonId::from(row.person.as_str())).collect();
            let people = roster::load(&state, ids).await?;
            Ok(Done::Overdue(Overdue { rows, people, scan, deadline, next }))
        }));
    }

    pub(super) fn expire(&mut self, overdue: Overdue) {
        self.looking_for_overdue = false;
        self.end_scan(overdue.scan);
        let mut any_gone = false;
        self.take_in(overdue.people);
        for row in overdue.rows {
            if row.received_at >= overdue.deadline && !self.shelves_overflow() {
                continue;
            }
            let id = PersonId::from(row.person.as_str());
            // On its way to another shelf, where it is found by a later look.
            if self.roster.is_forward(&id) {
                self.overdue_passed.records += 1;
                self.overdue_passed.bytes += row.bytes;
                self.advance(&id);
                continue;
            }
            // Off the shelf already, or on its way off: the release settles it.
            let releasing = self.queues.get(&id).is_some_and(|queue| {
                // After a merge what is in line or in a call is told by nothing but itself.
                let in_line = queue.in_call || queue.events.iter().any(|event| event.position == row.position);
                let released = queue.released_through.is_some_and(|last| last >= row.position);
                queue.release == Release::Reading || released || in_line
            });
            if releasing || self.unshelved.contains_key(&row.position) {
                continue;
            }
            self.unshelve_skipped(&id, row.position, row.bytes, SkipRule::Expired);
            self.advance(&id);
            any_gone = true;
        }
        self.overdue_after = overdue.next;
        // What is gone is written down first, so that a long look stays in step with the store.
        self.more_overdue = overdue.next.is_some() && any_gone;
        if overdue.next.is_some() && !any_gone {
            self.look_for_overdue();
        }
    }

    pub(super) fn begin_scan(&mut self) -> Scan {
        *self.scans.entry(self.durable_page).or_default() += 1;
        Scan { began: self.durable_page }
    }

    pub(super) fn end_scan(&mut self, scan: Scan) {
        if let Some(count) = self.scans.get_mut(&scan.began) {
            *count -= 1;
            if *count == 0 {
                self.scans.remove(&scan.began);
            }
        }
    }

    /// Forgets removals that every scan under way has seen.
    pub(super) fn forget_unshelved(&mut self, durable: u64) {
        let seen = self.scans.first_key_value().map_or(durable, |(began, _)| *began);
        self.unshelved.retain(|_, removed| *removed > seen);
    }
}
