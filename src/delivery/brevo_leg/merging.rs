//! Linking ids (CORE 6): a link is a barrier for every id that it names.
//!
//! `people::links` makes one row a forward to the other at once; what is in calls, queues, debts and on shelves of the
//! merged id is moved here, as soon as its calls are back: debts are joined, events go onto the survivor's shelf, and the
//! rows of its own shelf are moved there a few at a time, each with its old position. Until then nothing of the survivor
//! goes out: what is newer joins its shelf, behind. Nobody else waits.
//!
//! Everything that is still to be moved is in the store at every moment (a forward with a shelf or debts, a survivor that
//! lists it as joining), so a start after a crash goes on from there.

use super::queue::{PersonQueue, Release, Slot};
use super::shelving::Scan;
use super::{BrevoLeg, Done};
use crate::config::IdentityMode;
use crate::delivery::history::{Outcome, Span};
use crate::people::debt::Debt;
use crate::people::identity::Link;
use crate::people::person::Contact;
use crate::people::roster::{PersonId, Resident};
use crate::people::shelf::{self, Parked};
use crate::record::{Kind, Position};
use crate::settlement::SkipRule;

/// Rows of a shelf moved at a time.
const ROWS: usize = 200;
/// Shelves read at once in order to be moved.
const MOVES: usize = 4;

impl BrevoLeg {
    /// Acts on a link that the record at `position` makes.
    pub(super) fn link(&mut self, link: &Link, position: Position) {
        if let Some(merge) = self.roster.link(link, position, self.parts.settings.identity) {
            self.begin_join(&merge.from, &merge.into);
        }
    }

    /// Takes in people who have been read, and goes on with what of them is half moved.
    pub(super) fn take_in(&mut self, people: Vec<(PersonId, Resident)>) {
        let merging = |(id, resident): &(PersonId, Resident)| {
            (resident.person.links.neighbours().next().is_some()).then(|| id.clone())
        };
        let merging: Vec<_> = people.iter().filter_map(merging).collect();
        self.roster.take_in(people);
        for id in merging {
            self.advance(&id);
        }
    }

    fn begin_join(&mut self, from: &PersonId, into: &PersonId) {
        self.queue(from).merging = true;
        let brings_nothing = self.queue(from).at_rest() && !self.roster.get(from).is_some_and(Resident::has_leftovers);
        if !brings_nothing {
            // So that what the survivor has in line can be told apart from what joins it.
            self.hold_back(into);
        }
        self.join(from);
    }

    /// Whether something of another id is still to be moved to this person.
    pub(super) fn is_joining(&self, id: &PersonId) -> bool {
        self.roster.get(id).is_some_and(|resident| resident.person.links.is_joining())
    }

    /// Whether a merged id may still pay: a device's updates of before the link are its own profile's, which Mixpanel
    /// does not carry over, so they reach Brevo as they would have without the link.
    pub(super) fn pays_for_itself(&self, id: &PersonId) -> bool {
        let owes = |resident: &Resident| resident.debt.is_some() && resident.person.addressable();
        let simplified = self.parts.settings.identity == IdentityMode::Simplified;
        simplified
            && self.sends()
            && self.is_in_pilot(id)
            && self.roster.is_forward(id)
            && self.roster.get(id).is_some_and(owes)
    }

    /// Lists a merged id to be looked at, once the handling of whatever has changed is done.
    pub(super) fn list_to_join(&mut self, id: &PersonId) {
        let queue = self.queue(id);
        if !queue.listed_to_join {
            queue.listed_to_join = true;
            self.to_join.push_back(id.clone());
        }
    }

    pub(super) fn start_joins(&mut self) {
        while let Some(id) = self.to_join.pop_front() {
            self.queue(&id).listed_to_join = false;
            self.join(&id);
        }
        while self.moves_under_way < MOVES && self.moves.front().is_some_and(|(page, _)| *page <= self.durable_page) {
            let Some((_, id)) = self.moves.pop_front() else { return };
            let after = self.queue(&id).moved_through;
            let scan = self.begin_scan();
            let state = self.parts.state.clone();
            self.moves_under_way += 1;
            self.spawn(Box::pin(async move {
                let rows = shelf::of_person(&state, &id, after, ROWS).await?;
                Ok(Done::Moved(id, rows, scan))
            }));
        }
    }

    /// Moves on what a merged id has left. Called again whenever one of its calls, or of its survivor's, is back.
    fn join(&mut self, from: &PersonId) {
        if let Some(merge) = self.roster.retake(from, self.parts.settings.identity) {
            self.hold_back(&merge.into);
        }
        let into = self.roster.canonical(from);
        let joins = |resident: &Resident| resident.person.links.joining().any(|id| id == from);
        if into == *from || !self.roster.get(&into).is_some_and(joins) {
            self.queue(from).merging = false;
            return self.forget_idle(from);
        }
        self.queue(from).merging = true;
        // A reading of the survivor's shelf that has begun does not see what is put there now, and passes it.
        let survivor_is_back = self.queue(&into).release != Release::Reading && !self.is_being_told(&into);
        if !self.queue(from).calls_are_back() || !survivor_is_back || self.is_being_told(from) {
            return;
        }
        // The contact that a deletion is about is told from the other one only until they are joined.
        for id in [from, &into] {
            if self.owes_deletion(id) {
                return self.list_deletion(id);
            }
        }
        // Nor are its older records what the survivor's deletion let go of.
        if self.lets_go(&into) {
            return;
        }
        self.roster.edit(from).person.deletion = None;
        if self.pays_for_itself(from) {
            return self.list_to_pay(from);
        }
        self.move_events(from, &into);
        self.move_debts(from, &into);
        let had_contact = self.roster.get(&into).is_some_and(|resident| resident.person.contact != Contact::Unknown);
        if self.roster.take_contact(from, &into) {
            tracing::warn!("a person was linked who has two contacts at Brevo: they are left as they are");
        }
        self.move_lists(from, &into, had_contact);
        self.move_withdrawal(from, &into);
        let groups = std::mem::take(&mut self.roster.edit(from).person.groups);
        self.roster.edit(&into).person.groups.join(groups);
        if self.roster.get(from).is_some_and(|resident| resident.person.shelf.is_empty()) {
            return self.end_join(from, &into);
        }
        let queue = self.queue(from);
        if !queue.moving {
            queue.moving = true;
            let page = queue.shelved_page;
            self.moves.push_back((page, from.clone()));
        }
    }

    /// Events that stand on the shelf are moved with it; the others are put on the survivor's.
    fn move_events(&mut self, from: &PersonId, into: &PersonId) {
        let queue = self.queue(from);
        queue.too_early = 0;
        queue.released_through = None;
        let events = std::mem::take(&mut queue.events);
        self.waiting -= events.len();
        for queued in events {
            let Slot::Ledger(ticket) = queued.slot else { continue };
            self.parked += 1;
            self.parked_bytes += self.add_to_shelf(into, queued.position, &queued.record);
            self.parts.books.hand_over(ticket, Outcome::Parked);
        }
    }

    fn move_debts(&mut self, from: &PersonId, into: &PersonId) {
        let left_behind = self.roster.take_unknown(from, into, self.parts.settings.identity);
        if left_behind.records > 0 {
            self.bases.records = self.bases.records.saturating_sub(left_behind.records);
            self.parts.books.skip_owed(from, Span::from(&left_behind), SkipRule::MergedProfile);
        }
        if !self.roster.get(into).is_none_or(|resident| resident.person.unknown.is_empty()) {
            self.base_wanted();
        }
        self.after_waiting(into);
        if let Some(debt) = self.take_debt(from).filter(|debt| *debt != Debt::nothing()) {
            self.owe(into, debt);
        }
    }

    /// Moves rows that have been read. The next are read once these are where they belong.
    pub(super) fn take_moved(&mut self, from: &PersonId, rows: Vec<Parked>, scan: Scan) {
        self.end_scan(scan);
        self.moves_under_way -= 1;
        self.queue(from).moving = false;
        let into = self.roster.canonical(from);
        if rows.is_empty() && self.queue(from).shelved_page <= self.durable_page {
            let counted = std::mem::take(&mut self.roster.edit(from).person.shelf).records;
            tracing::error!(counted, "a shelf holds fewer records than were counted; the count is put right");
            self.parked = self.parked.saturating_sub(counted);
        }
        for Parked { position, record } in rows {
            self.queue(from).moved_through = Some(position);
            if self.unshelved.contains_key(&position) {
                continue;
            }
            if self.roster.get(from).is_some_and(|resident| resident.person.shelf.lets_go_of(position)) {
                self.unshelve_skipped(from, position, shelf::size(&record), SkipRule::ProfileDelete);
                continue;
            }
            if record.kind == Kind::Profile && self.parts.settings.identity == IdentityMode::Simplified {
                self.leave_behind(from, position, shelf::size(&record));
                continue;
            }
            // In this order: both rows have one entry between them that tells the oldest.
            shelf::remove(from, position, self.parts.books.pending_mut());
            self.roster.edit(from).person.shelf.take_one();
            self.add_to_shelf(&into, position, &record);
        }
        let page = self.page;
        self.queue(from).shelved_page = page;
        self.list_to_join(from);
    }

    /// An update of a device's profile: in its contact if it has one, and nowhere else.
    fn leave_behind(&mut self, from: &PersonId, position: Position, bytes: u64) {
        let known = self.roster.get(from).is_some_and(|resident| resident.person.contact != Contact::Unknown);
        if known {
            self.unshelve(from, position, bytes);
            self.parts.books.deliver_kept(position, Kind::Profile);
        } else {
            self.unshelve_skipped(from, position, bytes, SkipRule::MergedProfile);
        }
    }

    fn end_join(&mut self, from: &PersonId, into: &PersonId) {
        self.roster.joined(from, into);
        let queue = self.queue(from);
        queue.merging = false;
        queue.moved_through = None;
        self.forget_idle(from);
        let page = self.page;
        let queue = self.queue(into);
        queue.look_again();
        queue.shelved_page = page;
        // In line by an older page, the reading would come before the moved rows are in the store, and pass them.
        if queue.release == Release::Wanted {
            queue.release = Release::Idle;
            self.releases.retain(|(_, id)| id != into);
        }
        self.advance(into);
    }

    pub(super) fn forget_idle(&mut self, id: &PersonId) {
        let durable = self.durable_page;
        if self.queues.get(id).is_some_and(|queue| queue.idle() && queue.shelved_page <= durable) {
            self.queues.remove(id);
        }
    }
}

impl PersonQueue {
    /// No call of the person's is under way, nor a reading of the shelf.
    fn calls_are_back(&self) -> bool {
        !self.in_call && !self.paying && !self.listing && self.release != Release::Reading
    }

    fn at_rest(&self) -> bool {
        self.calls_are_back() && self.events.is_empty()
    }
}
