//! Sending events: as few calls as the moment allows, one call at a time per person.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::event_calls::{self, Sent};
use super::lines::{Line, stack_for};
use super::queue::{Queued, Slot};
use super::receiving::identifiers;
use super::{BrevoLeg, Done};
use crate::brevo::limits::MAX_BATCH_EVENTS;
use crate::delivery::LegError;
use crate::mapping::MappedEvent;
use crate::people::roster::PersonId;
use crate::record::EntryId;
use crate::settlement::SkipRule;
use crate::vendor::budget::Budgets;
use crate::vendor::{Family, Note};

/// Event calls under way at once. While they wait for the budget, what comes in joins the next one.
const CALLS: usize = 4;

/// The same of those behind.
const CALLS_BEHIND: usize = 1;

/// Where batches have only an hourly quota, single events are cheaper up to this many (contract §1.4: 36,000 single
/// events an hour against 100 batches). With more waiting a batch is worth one of the 100, but never the wait for one.
const SINGLES_UP_TO: usize = 100;

/// Longest wait for more. What is being read from shelves is there sooner; but one read may follow another for as long as
/// there are shelves, and bring no event.
const GATHER: Duration = Duration::from_millis(250);

/// Since when events in line have waited for others to join them.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    since: Option<Instant>,
}

impl Gathering {
    /// Whether events in line wait on at `now`; `more` says whether there is anything to wait for.
    fn goes_on(&mut self, more: bool, now: Instant) -> bool {
        let goes_on = more && now.duration_since(*self.since.get_or_insert(now)) < GATHER;
        if !goes_on {
            self.since = None;
        }
        goes_on
    }
}

impl BrevoLeg {
    pub(super) fn start_events(&mut self) {
        if !self.sends() {
            return;
        }
        // More is on its way from shelves, and joins these: a long import frees many people at once.
        let in_line = !self.ready.first.is_empty() || !self.ready.behind.is_empty();
        let more = in_line && self.releases_under_way > 0 && self.waiting < MAX_BATCH_EVENTS;
        if self.gathering.goes_on(more, Instant::now()) {
            return;
        }
        let most = self.at_once(CALLS);
        while self.events_under_way.first < most && !self.ready.first.is_empty() && self.start_call(Line::First) {}
        while self.events_under_way.behind < CALLS_BEHIND
            && !self.ready.behind.is_empty()
            && self.start_call(Line::Behind)
        {}
    }

    /// False when the line has nothing to send.
    fn start_call(&mut self, line: Line) -> bool {
        let one_by_one = self.batches_left.is_some_and(|left| left == 0 || self.waiting <= SINGLES_UP_TO);
        let limit = if one_by_one { 1 } else { MAX_BATCH_EVENTS };
        let events = self.gather(limit, line);
        if events.is_empty() {
            return false;
        }
        if let (Some(left), true) = (&mut self.batches_left, events.len() > 1) {
            *left = left.saturating_sub(1);
        }
        self.send(events, line);
        true
    }

    /// Whoever is next in `line`, and is in it no more.
    fn next_ready(&mut self, line: Line) -> Option<PersonId> {
        if line == Line::First {
            let id = self.ready.first.pop_front()?;
            let queue = self.queue(&id);
            (queue.listed_ready, queue.listed_ready_first) = (false, false);
            return Some(id);
        }
        loop {
            let id = self.ready.behind.pop_front()?;
            // Whoever has come to stand in front since is passed over here.
            if let Some(queue) = self.queues.get_mut(&id)
                && queue.listed_ready
                && !queue.listed_ready_first
            {
                queue.listed_ready = false;
                return Some(id);
            }
        }
    }

    /// The next call's events: whole runs of people in line, in order. Events that have become stale end here.
    fn gather(&mut self, mut limit: usize, line: Line) -> Vec<(PersonId, Queued)> {
        let now = self.parts.clock.now();
        let mut events: Vec<(PersonId, Queued)> = Vec::new();
        let mut bytes = 0;
        while events.len() < limit {
            let Some(id) = self.next_ready(line) else { break };
            if !self.queue(&id).sendable() {
                self.advance(&id);
                continue;
            }
            while events.len() < limit {
                let Some(next) = self.queue(&id).take_sendable() else { break };
                if self.withheld(&id) {
                    self.settle_event_skipped(&id, &next, SkipRule::NoConsent);
                    continue;
                }
                if next.event.is_stale(now) {
                    self.settle_event_skipped(&id, &next, SkipRule::Stale);
                    continue;
                }
                let fits =
                    events.len() < next.call_limit && event_calls::fits(events.len(), bytes, next.properties_len());
                if !events.is_empty() && !fits {
                    self.queue(&id).give_back(vec![next]);
                    let taken = self.queue(&id).in_call;
                    if !taken {
                        self.advance(&id);
                    }
                    return events;
                }
                limit = limit.min(next.call_limit);
                bytes += event_calls::weight(next.properties_len());
                self.queue(&id).in_call = true;
                events.push((id.clone(), next));
            }
            if !self.queue(&id).in_call {
                self.advance(&id);
            }
        }
        events
    }

    fn send(&mut self, events: Vec<(PersonId, Queued)>, line: Line) {
        let Some(vendor) = &self.parts.vendor else { return };
        let (stack, calls) = (stack_for(&vendor.stack, line), vendor.calls.clone());
        let budgets = vendor.budgets.clone();
        let wire = |(id, queued): &(PersonId, Queued)| {
            let resident = self.roster.get(id).cloned().unwrap_or_default();
            queued.event.clone().into_wire(identifiers(id, &resident))
        };
        let body: Vec<_> = events.iter().map(wire).collect();
        self.events_under_way.begin(line);
        let note = self.parts.books.note_call(events.len());
        let recall = self.recall.clone();
        self.spawn(Box::pin(async move {
            let sent = recall.run_until_cancelled(event_calls::send(stack, calls, body, note.clone())).await;
            let (sent, doubtful) = sent.unwrap_or(Ok((Sent::Recalled, 0)))?;
            let batches_left = batches_left(&budgets).await;
            Ok(Done::Events { line, events, sent, doubtful, note, batches_left })
        }));
    }

    pub(super) fn settle_events(
        &mut self,
        events: Vec<(PersonId, Queued)>,
        sent: Sent,
        doubtful: u32,
        note: Note,
    ) -> Result<(), LegError> {
        self.parts.books.call_ended(note);
        if doubtful > 0 {
            self.parts.books.tally_mut().maybe_twice += events.len() as u64;
        }
        let people: Vec<_> = events.iter().map(|(id, _)| id.clone()).collect();
        match sent {
            Sent::Settled { refused, unconfirmed } => {
                self.misrouted_events = 0;
                self.parts.books.tally_mut().unconfirmed += unconfirmed;
                if unconfirmed > 0 {
                    tracing::warn!(unconfirmed, "Brevo counted fewer events than it was sent, and does not say which");
                }
                for (index, (id, event)) in events.iter().enumerate() {
                    self.waiting -= 1;
                    match refused.binary_search_by_key(&index, |(index, _)| *index) {
                        Ok(found) => self.settle_event_dead(id, event, &refused[found].1)?,
                        Err(_) => self.settle_event_delivered(id, event),
                    }
                }
                self.check_dead_letters();
            }
            Sent::Split(words) => {
                tracing::debug!(words, events = events.len(), "a batch was refused whole: smaller ones will tell");
                let call_limit = (events.len() / 2).max(1);
                let halved = |(id, event): (PersonId, Queued)| (id, Queued { call_limit, ..event });
                self.give_events_back(events.into_iter().map(halved).collect());
            }
            Sent::Recalled => {
                self.give_events_back(events);
                self.skip_given_up(people.iter());
            }
            Sent::Misrouted(words) => {
                self.misrouted_events = self.misrouted_events.saturating_add(1);
                self.hold(&words, self.misrouted_events);
                self.give_events_back(events);
            }
        }
        for id in people {
            self.queue(&id).in_call = false;
            self.advance(&id);
        }
        Ok(())
    }

    /// Has nothing of the entries below `below` be sent any more. Debts and shelves stay: they are not in the journal, so
    /// letting go of them would make no room there.
    pub(super) fn give_up(&mut self, below: EntryId) {
        self.given_up = below;
        let waiting: Vec<_> = self.queues.keys().cloned().collect();
        self.skip_given_up(waiting.iter());
        std::mem::take(&mut self.recall).cancel();
    }

    fn skip_given_up<'a>(&mut self, people: impl Iterator<Item = &'a PersonId>) {
        for id in people {
            let given_up = self.given_up;
            let (skipped, kept) = std::mem::take(&mut self.queue(id).events)
                .into_iter()
                .partition(|event| event.stands_in_journal() && event.position.entry < given_up);
            self.queue(id).events = kept;
            let skipped: VecDeque<Queued> = skipped;
            for event in &skipped {
                self.settle_event_skipped(id, event, SkipRule::Overflow);
            }
        }
    }

    fn give_events_back(&mut self, events: Vec<(PersonId, Queued)>) {
        for (id, event) in events.into_iter().rev() {
            self.queue(&id).give_back(vec![event]);
        }
    }

    fn settle_event_delivered(&mut self, id: &PersonId, event: &Queued) {
        let MappedEvent { name, time, .. } = &event.event;
        self.parts.books.note_event(name.as_str(), *time, event.record.received_at);
        if !event.event.lists.is_empty() {
            return self.owe_lists(id, event);
        }
        match event.slot {
            Slot::Ledger(ticket) => self.parts.books.deliver(ticket, event.record.kind),
            Slot::Shelf { bytes } => {
                self.parts.books.deliver_kept(event.position, event.record.kind);
                self.unshelve(id, event.position, bytes);
            }
        }
    }

    pub(super) fn settle_event_skipped(&mut self, id: &PersonId, event: &Queued, rule: SkipRule) {
        self.waiting -= 1;
        match event.slot {
            Slot::Ledger(ticket) => self.parts.books.skip(ticket, rule),
            Slot::Shelf { bytes } => self.unshelve_skipped(id, event.position, bytes, rule),
        }
    }
}

/// What is left of the quota of batches, where they have only one by the hour.
async fn batches_left(budgets: &Budgets) -> Option<u64> {
    let windows = budgets.windows(Family::BrevoEventsBatch).await;
    let by_the_hour = !windows.iter().any(|(limit, _)| !limit.durable());
    by_the_hour.then(|| windows.iter().map(|(_, left)| *left).min().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shelves that are read one after the other for minutes, and hold no event, keep nobody's events waiting.
    #[test]
    fn events_wait_for_others_to_join_them_and_not_for_ever() {
        let mut gathering = Gathering::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(!gathering.goes_on(false, at(0)), "nothing to wait for");
        for ms in [10, 100, 200] {
            assert!(gathering.goes_on(true, at(ms)), "{ms}");
        }
        assert!(!gathering.goes_on(true, at(300)));
        // Those that come then wait anew.
        assert!(gathering.goes_on(true, at(301)));
        assert!(!gathering.goes_on(false, at(302)));
        assert!(gathering.goes_on(true, at(600)));
    }
}
