//! What the leg holds of one person while it works on them: events in order, and whose turn it is. Pure.
//!
//! An event waits for the payments that it depends on: everything that was owed when it came, its contact first of all.
//! What is owed later does not hold it back, so a person whose profile changes all the time still gets their events.

use std::collections::VecDeque;

use crate::delivery::ledger::Ticket;
use crate::mapping::MappedEvent;
use crate::record::{Position, Record};

/// Where an event is kept until it is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Ledger(Ticket),
    /// On the person's shelf, where it counts for `bytes`.
    Shelf {
        bytes: u64,
    },
}

#[derive(Clone, Debug)]
pub struct Queued {
    pub slot: Slot,
    pub position: Position,
    pub record: Record,
    pub event: MappedEvent,
    /// Number of the payment that has to have succeeded, or a later one; zero: none.
    pub after_payment: u64,
    /// Most events that a call with this one may have: halved with each call that was refused whole, until the one that
    /// Brevo does not take is alone.
    pub call_limit: usize,
}

impl Queued {
    /// Neither on a shelf nor a dead letter that is sent again.
    pub fn stands_in_journal(&self) -> bool {
        matches!(self.slot, Slot::Ledger(ticket) if !ticket.is_replay())
    }

    pub fn properties_len(&self) -> usize {
        self.event.properties.as_ref().map_or(0, |json| json.get().len())
    }
}

/// Where the release of the person's shelf stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Release {
    #[default]
    Idle,
    /// To be read as soon as the checkpoint page with its newest row is written: all of it is in the store then.
    Wanted,
    Reading,
}

#[derive(Debug, Default)]
pub struct PersonQueue {
    pub events: VecDeque<Queued>,
    /// Events of this person are in a call under way; the next go when it is back, so that they stay in order.
    pub in_call: bool,
    /// A contact write is under way.
    pub paying: bool,
    /// It changes what events name the contact by: none goes out beside it.
    pub readdressing: bool,
    /// The contact write under way carries out a withdrawal of consent.
    pub withdrawing: bool,
    /// It carries out what follows from a deletion of the profile, at this position.
    pub deleting: Option<Position>,
    /// Stands in the list of people to be paid.
    pub listed_to_pay: bool,
    /// And in the one of those who go first. An older place behind is left, and passed over when its turn comes.
    pub listed_to_pay_first: bool,
    /// The contact write under way is one of those behind.
    pub behind: bool,
    /// Stands in the list of people with events to send.
    pub listed_ready: bool,
    /// And in the one of those who go first.
    pub listed_ready_first: bool,
    /// Stands in the list of people whose lists are to be changed.
    pub listed_to_list: bool,
    /// A change of one of the person's lists is under way.
    pub listing: bool,
    /// The contact has been written anew because a list change did not find it.
    pub anew_for_list: bool,
    pub release: Release,
    /// The last position that came off the shelf into `events`: rows up to here may still be read back.
    pub released_through: Option<Position>,
    /// The id was merged into another, and something of it is still to be moved there.
    pub merging: bool,
    /// Stands in the list of merged ids to be looked at.
    pub listed_to_join: bool,
    /// The shelf is to be read, or is being read, in order to be moved; up to where it has been moved.
    pub moving: bool,
    pub moved_through: Option<Position>,
    /// Rows have come to the shelf in front of what a reading under way brings back.
    pub passed_over: bool,
    /// The checkpoint page with the newest row put on the shelf.
    pub shelved_page: u64,
    /// Payments begun so far, and the number of the last that succeeded.
    payments: u64,
    paid: u64,
    /// Tries in a row that found the contact busy. Above zero, the person is in line again later, by itself.
    pub too_early: u32,
    /// An import did not bring the contact about: it is written by itself until that has worked.
    pub alone: bool,
}

impl PersonQueue {
    /// Begins a payment. Whatever is queued from now on depends on what is owed from now on.
    pub fn begin_payment(&mut self) {
        self.payments += 1;
        self.paying = true;
        self.unlist_to_pay();
    }

    pub fn end_payment(&mut self, paid: bool) {
        self.paying = false;
        self.readdressing = false;
        self.withdrawing = false;
        self.deleting = None;
        self.too_early = 0;
        if paid {
            self.paid = self.payments;
        }
    }

    /// Taken out of the line of people to be paid, and not paid. Whatever makes it possible later lists them again; for a
    /// contact that was busy no timer runs any more.
    pub fn leave_line(&mut self) {
        self.unlist_to_pay();
        self.too_early = 0;
    }

    fn unlist_to_pay(&mut self) {
        self.listed_to_pay = false;
        self.listed_to_pay_first = false;
    }

    /// Whether somebody waits for the queued events. The newest tells, where the first is pulled: what an app sends comes
    /// behind what was pulled before.
    pub fn has_live_events(&self) -> bool {
        let live = |queued: &Queued| !queued.record.origin.is_pulled();
        self.events.front().is_some_and(live) || self.events.back().is_some_and(live)
    }

    /// The payment found the contact busy; returns how often in a row that has been so.
    pub fn end_busy(&mut self) -> u32 {
        let tries = self.too_early.saturating_add(1);
        self.end_payment(false);
        self.too_early = tries;
        tries
    }

    /// Whether nothing of the person's is in line or under way that has to reach the contact before it goes.
    pub fn may_part(&self) -> bool {
        self.events.is_empty() && !self.in_call && !self.listing
    }

    /// Whether the person's payment waits for something of this contact alone, for who knows how long.
    pub fn waits_alone(&self) -> bool {
        self.too_early > 0
    }

    /// The payment that an event queued now has to wait for. `owed`: something is owed that no payment under way covers.
    pub fn next_dependency(&self, owed: bool) -> u64 {
        if owed {
            self.payments + 1
        } else if self.paying {
            self.payments
        } else {
            0
        }
    }

    /// There is no contact any more: whatever is queued waits for the payment that makes one.
    pub fn await_contact(&mut self) {
        let payment = self.next_dependency(!self.paying);
        for event in &mut self.events {
            event.after_payment = event.after_payment.max(payment);
        }
    }

    /// A row has come to the shelf in front of others: whatever has been read of it, or is being read, may miss it. Rows
    /// that are read twice by that are known by their removal.
    pub fn look_again(&mut self) {
        self.released_through = None;
        self.passed_over |= self.release == Release::Reading;
    }

    /// Whether the first event waits for nothing but a call.
    pub fn sendable(&self) -> bool {
        let waits_for_call = self.events.front().is_some_and(|first| first.after_payment <= self.paid);
        waits_for_call && !self.in_call && !self.readdressing
    }

    /// Takes the first event when it may go.
    pub fn take_sendable(&mut self) -> Option<Queued> {
        let first = self.events.front()?;
        if first.after_payment > self.paid { None } else { self.events.pop_front() }
    }

    /// Gives events back that were not sent, in their old order.
    pub fn give_back(&mut self, events: Vec<Queued>) {
        for event in events.into_iter().rev() {
            self.events.push_front(event);
        }
    }

    /// Nothing is held or under way.
    pub fn idle(&self) -> bool {
        self.events.is_empty()
            && !self.in_call
            && !self.paying
            && !self.listed_to_pay
            && !self.listed_ready
            && !self.listed_to_list
            && !self.listing
            && !self.merging
            && !self.listed_to_join
            && !self.moving
            && self.too_early == 0
            && self.release == Release::Idle
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::brevo::names::EventName;
    use crate::clock::UnixMillis;
    use crate::record::{Destinations, EntryId, Epoch, Kind, Origin, Project};

    fn queued(index: u32, after_payment: u64) -> Queued {
        Queued {
            slot: Slot::Shelf { bytes: 1 },
            position: Position { epoch: Epoch(1), entry: EntryId(1), index },
            record: Record {
                kind: Kind::Event,
                origin: Origin::App,
                destinations: Destinations::ALL,
                project: Project::Ours,
                received_at: UnixMillis(1),
                body: Bytes::new(),
            },
            event: MappedEvent {
                name: EventName::sanitised("e"),
                time: UnixMillis(1),
                stale_after: std::time::Duration::from_secs(1),
                properties: None,
                lists: Default::default(),
                dropped: vec![],
            },
            after_payment,
            call_limit: 200,
        }
    }

    #[test]
    fn an_event_waits_for_what_was_owed_before_it_and_for_nothing_later() {
        let mut queue = PersonQueue::default();
        assert_eq!(queue.next_dependency(false), 0);
        let dependency = queue.next_dependency(true);
        queue.events.push_back(queued(0, dependency));
        assert!(!queue.sendable());
        queue.begin_payment();
        // Owed by a payment under way.
        queue.events.push_back(queued(1, queue.next_dependency(false)));
        // Owed by the next one.
        queue.events.push_back(queued(2, queue.next_dependency(true)));
        queue.end_payment(true);
        assert!(queue.take_sendable().is_some());
        assert!(queue.take_sendable().is_some());
        assert!(queue.take_sendable().is_none());
        queue.begin_payment();
        queue.end_payment(true);
        assert!(queue.take_sendable().is_some());
    }

    #[test]
    fn a_failed_payment_frees_nothing_and_the_next_frees_all() {
        let mut queue = PersonQueue::default();
        queue.events.push_back(queued(0, queue.next_dependency(true)));
        queue.begin_payment();
        queue.end_payment(false);
        assert!(!queue.sendable());
        queue.begin_payment();
        queue.end_payment(true);
        assert!(queue.sendable());
    }

    #[test]
    fn no_event_goes_beside_a_write_that_takes_its_address_away() {
        let mut queue = PersonQueue::default();
        queue.events.push_back(queued(0, 0));
        queue.begin_payment();
        assert!(queue.sendable(), "other writes hold back what depends on them, and nothing else");
        queue.readdressing = true;
        assert!(!queue.sendable());
        queue.end_payment(false);
        assert!(queue.sendable(), "nothing was changed");
    }

    #[test]
    fn without_a_contact_every_event_waits_for_the_next_one() {
        let mut queue = PersonQueue::default();
        queue.events.push_back(queued(0, 0));
        queue.begin_payment();
        queue.end_payment(false);
        queue.await_contact();
        assert!(!queue.sendable());
        queue.begin_payment();
        // The write under way makes the contact: no other is begun after it.
        queue.await_contact();
        queue.end_payment(true);
        assert!(queue.sendable());
    }

    #[test]
    fn what_is_given_back_goes_first() {
        let mut queue = PersonQueue::default();
        queue.events.push_back(queued(2, 0));
        queue.give_back(vec![queued(0, 0), queued(1, 0)]);
        let order: Vec<_> = std::iter::from_fn(|| queue.take_sendable()).map(|q| q.position.index).collect();
        assert_eq!(order, [0, 1, 2]);
    }
}
