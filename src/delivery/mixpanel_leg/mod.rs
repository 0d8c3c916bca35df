//! The Mixpanel leg: journal → lanes → calls → settled records.
//!
//! One task owns everything and is the only writer of its books; calls run beside it and come back as messages. A call
//! that is still under way when the leg ends is dropped: its records stay unsettled and are sent again after the next
//! start (P5: "in flight").

mod lanes;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, OptionFuture};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use self::lanes::{Batch, LaneId, Lanes};
use super::books::{Books, HeldOutside, Item};
use super::checkpoint::Writing;
use super::dead_letters::old;
use super::dead_letters::replay::Replays;
use super::source::Source;
use super::status::LegStatus;
use super::{LegError, patience};
use crate::clock::SharedClock;
use crate::config::IdentityMode;
use crate::mixpanel::answers::{self, Outcome};
use crate::mixpanel::calls::{Call, Calls};
use crate::mixpanel::heads;
use crate::privacy::{Rules, Unruly};
use crate::record::{Destination, EntryId, Kind, Position, Project, Record};
use crate::settlement::{DeadReason, SkipRule};
use crate::store::{State, StoreError};
use crate::vendor::stack::Stack;
use crate::vendor::verdict::PauseCause;
use crate::vendor::{Note, TransportError, VendorAnswer, VendorRequest, Verdict};

/// How often progress is written down. What was sent since the last time is sent again after a crash.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(200);

/// What the leg is made of.
pub struct Parts {
    pub state: Arc<dyn State>,
    pub source: Source,
    pub books: Books,
    pub status: LegStatus,
    pub calls: Calls,
    pub stack: Stack,
    pub probe: Stack,
    pub clock: SharedClock,
    /// What may leave of a record. The journal and dead letters keep what the app sent, so that a replay is ruled once.
    pub privacy: Option<Arc<Rules>>,
    pub settings: Settings,
}

/// What the configuration says about this destination.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub enabled: bool,
    pub identity: IdentityMode,
    pub max_dead_letter_bytes: u64,
    pub keep_dead_letters: Duration,
}

/// A call that has come back.
struct Sent {
    lane: LaneId,
    batch: Batch,
    /// Where arriving twice would matter.
    note: Option<Note>,
    /// `None`: called back.
    result: Option<Result<VendorAnswer, TransportError>>,
}

pub struct MixpanelLeg {
    parts: Parts,
    lanes: Lanes,
    replays: Replays,
    under_way: JoinSet<Sent>,
    /// Calls back the calls under way.
    recall: CancellationToken,
    /// Entries below it are skipped: the disk was full.
    given_up: EntryId,
    /// The checkpoint being written, and the cursor that it makes durable.
    writing: Option<Writing<Position>>,
    probing: Option<BoxFuture<'static, bool>>,
    /// A look for dead letters that have been kept long enough.
    purging: Option<BoxFuture<'static, Result<old::Looked, StoreError>>>,
}

impl MixpanelLeg {
    pub fn new(parts: Parts) -> Self {
        let lanes = Lanes::new(parts.calls.can_import(), parts.settings.identity);
        let replays = Replays::new(parts.state.clone(), Destination::Mixpanel);
        Self {
            parts,
            lanes,
            replays,
            under_way: JoinSet::new(),
            recall: CancellationToken::new(),
            given_up: EntryId::FIRST,
            writing: None,
            probing: None,
            purging: None,
        }
    }

    /// Runs until `shutdown`, then waits up to `drain` for calls under way and writes a last checkpoint.
    pub async fn run(mut self, shutdown: CancellationToken, drain: Duration) -> Result<(), LegError> {
        let mut tick = tokio::time::interval(CHECKPOINT_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut purges = tokio::time::interval(old::LOOK_EVERY);
        let mut given_up = self.parts.status.given_up();
        self.check_dead_letters();
        loop {
            let held_back = self.writing.as_ref().is_some_and(Writing::is_overdue);
            if !held_back {
                self.send_what_is_ready();
            }
            self.publish();
            let gate = self.parts.status.gate();
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(sent) = self.under_way.join_next() => self.take_back(sent?)?,
                entries = self.parts.source.read(), if !held_back && self.parts.books.has_room() => {
                    let items = entries?.into_iter().flat_map(|entry| self.parts.books.admit(entry)).collect();
                    self.take_in(items)?;
                }
                letters = self.replays.next(), if !held_back && self.parts.books.may_admit_again() => {
                    let items = self.parts.books.admit_again(letters?);
                    self.take_in(items)?;
                }
                Some(written) = OptionFuture::from(self.writing.as_mut()) => {
                    self.writing = None;
                    self.parts.status.set_durable_cursor(written?);
                }
                Some(healthy) = OptionFuture::from(self.probing.as_mut()) => {
                    self.probing = None;
                    if healthy { gate.probe_succeeded() } else { gate.probe_failed() }
                }
                Some(looked) = OptionFuture::from(self.purging.as_mut()) => {
                    self.purging = None;
                    self.parts.books.purge(&looked?);
                    let fits = self.parts.books.dead_bytes() <= self.parts.settings.max_dead_letter_bytes;
                    if fits && gate.paused() == Some(PauseCause::DeadLettersFull) {
                        gate.resume();
                    }
                }
                _ = purges.tick(), if self.purging.is_none() => self.purging = Some(self.look_for_old_letters()),
                () = gate.probe_due(), if self.probing.is_none() => self.probing = Some(self.probe()),
                Ok(()) = given_up.changed() => {
                    let below = *given_up.borrow_and_update();
                    self.give_up(below);
                }
                _ = tick.tick(), if self.writing.is_none() && self.parts.books.is_dirty() => self.checkpoint()?,
            }
        }
        self.drain(drain).await
    }

    fn take_in(&mut self, items: Vec<Item>) -> Result<(), LegError> {
        for item in items {
            if !self.parts.settings.enabled {
                self.parts.books.skip(item.ticket, SkipRule::Disabled);
                continue;
            }
            if item.position.entry < self.given_up && item.again.is_none() {
                self.parts.books.skip(item.ticket, SkipRule::Overflow);
                continue;
            }
            // Only asked whether anything may leave; what does is worked out with the call.
            match outgoing(self.parts.privacy.as_deref(), &item.record) {
                Ok(Some(_)) => self.lanes.push(item),
                Ok(None) => self.parts.books.skip(item.ticket, SkipRule::Private),
                Err(error) => self.bury(&item, DeadReason::Unreadable, &error.to_string())?,
            }
        }
        Ok(())
    }

    fn send_what_is_ready(&mut self) {
        for (lane, batch) in self.lanes.take() {
            let stack = self.parts.stack.clone();
            let calls = self.parts.calls.clone();
            let privacy = self.parts.privacy.clone();
            let recall = self.recall.clone();
            let note = batch.call.additive().then(|| self.parts.books.note_call(batch.items.len()));
            self.under_way.spawn(async move {
                let records = batch.items.iter().map(|item| item.record.clone()).collect();
                let request =
                    VendorRequest { note: note.clone(), ..request(calls, batch.call, records, privacy).await };
                let result = recall.run_until_cancelled(stack.oneshot(request)).await;
                Sent { lane, batch, note, result }
            });
        }
    }

    fn take_back(&mut self, sent: Sent) -> Result<(), LegError> {
        let Sent { lane, mut batch, note, result } = sent;
        if let Some(note) = note {
            self.parts.books.call_ended(note);
        }
        let Some(result) = result else {
            // A try may have arrived all the same; for what is sent again that is as after any doubtful answer.
            self.overflow(batch.remove_below(self.given_up));
            if batch.call.additive() {
                self.parts.books.tally_mut().maybe_twice += batch.items.len() as u64;
            }
            self.lanes.put_back(lane, batch);
            return Ok(());
        };
        // The stack waits out everything but a definite answer and a failure of our own store.
        let answer = result?;
        if answer.doubtful > 0 && batch.call.additive() {
            self.parts.books.tally_mut().maybe_twice += batch.items.len() as u64;
        }
        match answers::outcome(batch.call, batch.items.len(), &answer) {
            Outcome::Delivered => self.deliver(batch.items),
            Outcome::Failed(failed) => self.settle_partly(batch.items, &failed)?,
            Outcome::Refused(_) if self.ignored_by_vendor(batch.call) => {
                for item in batch.items {
                    self.parts.books.skip(item.ticket, SkipRule::IdentityEvent);
                }
            }
            Outcome::Refused(reason) => return self.halve_or_bury(lane, batch, DeadReason::Rejected, &reason),
            Outcome::TooLarge => {
                let reason = answer.excerpt(500);
                return self.halve_or_bury(lane, batch, DeadReason::TooLarge, &reason);
            }
        }
        self.lanes.done(lane);
        Ok(())
    }

    /// Skips what has not been delivered of the entries below `below`. Calls under way may wait for the destination without
    /// end, so they are called back.
    fn give_up(&mut self, below: EntryId) {
        self.given_up = below;
        let waiting = self.lanes.remove_below(below);
        self.overflow(waiting);
        std::mem::take(&mut self.recall).cancel();
    }

    fn overflow(&mut self, items: Vec<Item>) {
        for item in items {
            self.parts.books.skip(item.ticket, SkipRule::Overflow);
        }
    }

    /// SDKs send `$identify` and `$create_alias` to simplified-ID projects too, where they mean nothing; whether the
    /// vendor answers such a call with success is unconfirmed (contract §6).
    fn ignored_by_vendor(&self, call: Call) -> bool {
        call == Call::Identity && self.parts.settings.identity == IdentityMode::Simplified
    }

    fn deliver(&mut self, items: Vec<Item>) {
        for item in items {
            self.deliver_one(&item);
        }
    }

    fn deliver_one(&mut self, item: &Item) {
        let Record { kind, project, body, received_at, .. } = &item.record;
        if (*kind, *project) == (Kind::Event, Project::Ours)
            && let Some(head) = heads::of_event(body)
        {
            self.parts.books.note_event(&head.name, head.time, *received_at);
        }
        self.parts.books.deliver(item.ticket, *kind);
    }

    /// `failed` is sorted by index.
    fn settle_partly(&mut self, items: Vec<Item>, failed: &[(usize, String)]) -> Result<(), LegError> {
        for (index, item) in items.into_iter().enumerate() {
            match failed.binary_search_by_key(&index, |(index, _)| *index) {
                Ok(found) => self.bury(&item, DeadReason::Rejected, &failed[found].1)?,
                Err(_) => self.deliver_one(&item),
            }
        }
        Ok(())
    }

    /// One bad record must not hold back its neighbours: halve until it is alone, then put it aside.
    fn halve_or_bury(&mut self, lane: LaneId, batch: Batch, reason: DeadReason, answer: &str) -> Result<(), LegError> {
        match batch.split() {
            Ok(pieces) => self.lanes.redo(lane, pieces),
            Err(single) => {
                for item in &single.items {
                    self.bury(item, reason, answer)?;
                }
                self.lanes.done(lane);
            }
        }
        Ok(())
    }

    fn bury(&mut self, item: &Item, reason: DeadReason, answer: &str) -> Result<(), LegError> {
        self.parts.books.die(item, reason, answer, self.parts.clock.now())?;
        self.check_dead_letters();
        Ok(())
    }

    fn check_dead_letters(&self) {
        if self.parts.books.dead_bytes() > self.parts.settings.max_dead_letter_bytes {
            self.parts.status.gate().pause(PauseCause::DeadLettersFull);
        }
    }

    fn look_for_old_letters(&self) -> BoxFuture<'static, Result<old::Looked, StoreError>> {
        let before = self.parts.clock.now() - self.parts.settings.keep_dead_letters;
        self.parts.books.look_for_old_letters(&self.parts.state, before)
    }

    fn probe(&self) -> BoxFuture<'static, bool> {
        let probing = self.parts.probe.clone().oneshot(self.parts.calls.probe());
        Box::pin(async move { probing.await.is_ok_and(|answer| answers::judge(&answer) == Verdict::Definite) })
    }

    fn checkpoint(&mut self) -> Result<(), LegError> {
        let (batch, cursor) = self.parts.books.close_page(self.parts.clock.now())?;
        self.writing = Some(Writing::begin(self.parts.state.clone(), batch, cursor));
        Ok(())
    }

    fn publish(&self) {
        let snapshot = self.parts.books.snapshot(self.parts.source.next_entry(), HeldOutside::default());
        self.parts.status.publish(snapshot);
    }

    /// Nothing new goes out; what is under way may come back, and all of it is written down.
    async fn drain(mut self, drain: Duration) -> Result<(), LegError> {
        let deadline = tokio::time::Instant::now() + patience(self.parts.status.gate(), drain);
        while let Ok(Some(sent)) = tokio::time::timeout_at(deadline, self.under_way.join_next()).await {
            self.take_back(sent?)?;
        }
        if let Some(writing) = self.writing.take() {
            writing.within(drain).await?;
        }
        self.parts.books.close_filters();
        self.checkpoint()?;
        if let Some(writing) = self.writing.take() {
            self.parts.status.set_durable_cursor(writing.within(drain).await?);
        }
        self.publish();
        Ok(())
    }
}

/// What Mixpanel may have of the record; `None` when that is nothing.
fn outgoing(privacy: Option<&Rules>, record: &Record) -> Result<Option<Bytes>, Unruly> {
    privacy.map_or_else(|| Ok(Some(record.body.clone())), |rules| rules.outgoing(record.kind, &record.body))
}

/// From this size on, a call is put together on the blocking pool: joining and compressing megabytes would hold up the
/// edge's connections for milliseconds.
const BIG: usize = 256 << 10;

async fn request(calls: Calls, call: Call, records: Vec<Record>, privacy: Option<Arc<Rules>>) -> VendorRequest {
    let big = records.iter().map(|record| record.body.len()).sum::<usize>() >= BIG;
    let build = move || {
        // Every record was asked about when it was taken in, so all of them leave: the answer counts them.
        let bodies = records.iter().filter_map(|record| outgoing(privacy.as_deref(), record).ok().flatten());
        calls.records(call, &bodies.collect::<Vec<_>>())
    };
    if !big {
        return build();
    }
    match tokio::task::spawn_blocking(build).await {
        Ok(request) => request,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down cancels: this task is about to be dropped.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}
