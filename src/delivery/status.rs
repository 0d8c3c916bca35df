//! What a leg lets others see of itself.

use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

use super::tally::Tally;
use crate::clock::{SharedClock, UnixMillis};
use crate::record::{Destination, EntryId, Position};
use crate::store::{Journal, StoreError};
use crate::telemetry;
use crate::vendor::gate::{GateState, SharedGate};
use crate::vendor::verdict::PauseCause;

/// A leg's own view, as of its last turn.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub tally: Tally,
    /// The first entry that the leg has not read.
    pub next_entry: EntryId,
    /// Of the records from there on, those that an earlier process settled.
    pub settled_unread: u64,
    /// Read and not settled, or settled for the journal but still owed (debts).
    pub unsettled: u64,
    /// Of them, those that stand in the ledger, whose room is bounded: an event until it is sent, an update until it is folded.
    pub in_ledger: u64,
    pub parked: u64,
    pub dead_letters: u64,
    pub dead_letter_bytes: u64,
    pub oldest: Option<UnixMillis>,
    /// At Brevo, with groups on.
    pub groups: Option<GroupsOwed>,
}

/// Groups whose companies are owed something.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupsOwed {
    pub groups: u64,
    /// Group records behind it.
    pub records: u64,
    pub oldest: Option<UnixMillis>,
    /// People whose companies are owed whether they are in them.
    pub links: u64,
    /// Calls that all of it takes, about.
    pub calls: u64,
    /// What the account allows.
    pub calls_per_hour: u64,
}

/// The same as shown.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct GroupsReport {
    pub owed: u64,
    pub records: u64,
    pub oldest_seconds: f64,
    pub links: u64,
    pub calls_per_hour: u64,
    pub estimated_hours: f64,
}

impl GroupsOwed {
    fn report(self, now: UnixMillis) -> GroupsReport {
        GroupsReport {
            owed: self.groups,
            records: self.records,
            oldest_seconds: self.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64()),
            links: self.links,
            calls_per_hour: self.calls_per_hour,
            estimated_hours: self.calls as f64 / self.calls_per_hour.max(1) as f64,
        }
    }
}

/// A leg's backlog in its two parts, groups left out: their hundred calls an hour keep them there for days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Records in the journal that the leg has not read.
    pub unread: u64,
    /// Read and not settled, or owed.
    pub unsettled: u64,
    /// Of them, those that take room in the ledger.
    pub in_ledger: u64,
}

/// One destination's leg, seen from outside. Cloning shares it.
#[derive(Clone)]
pub struct LegStatus {
    destination: Destination,
    journal: Arc<dyn Journal>,
    clock: SharedClock,
    gate: Arc<SharedGate>,
    snapshot: Arc<Mutex<Snapshot>>,
    /// Below it everything is settled and written down: the journal may be trimmed up to here.
    durable_cursor: watch::Sender<Position>,
    /// Entries below it are not to be delivered any more: the disk was full (CORE 15).
    given_up: watch::Sender<EntryId>,
}

/// The numbers of promise P2 and P3 for one destination.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub destination: Destination,
    pub delivered: u64,
    pub skipped: u64,
    pub parked: u64,
    pub dead_letters: u64,
    pub backlog: u64,
    /// Sent again after a try that may have arrived, where arriving twice matters.
    pub maybe_twice: u64,
    /// Counted as missing by the vendor, which did not say which they were: not sent again, for that would double others.
    pub unconfirmed: u64,
    /// List changes that delivered events asked for and the vendor refused.
    pub lists_refused: u64,
    /// Identifiers that belong to another contact, and were left out of a write.
    pub conflicts: u64,
    /// New addresses that a blocklisted contact did not get.
    pub addresses_kept: u64,
    /// Values that the vendor has no place for.
    pub not_placed: u64,
    pub oldest_undelivered_seconds: f64,
    /// Only at Brevo with groups on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupsReport>,
    pub state: State,
    pub advice: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum State {
    Open,
    BackingOff { failures: u32 },
    Paused { cause: PauseCause },
}

impl LegStatus {
    pub fn new(
        destination: Destination,
        journal: Arc<dyn Journal>,
        clock: SharedClock,
        gate: Arc<SharedGate>,
        cursor: Position,
    ) -> Self {
        let snapshot = Snapshot { next_entry: cursor.entry, ..Snapshot::default() };
        Self {
            destination,
            journal,
            clock,
            gate,
            snapshot: Arc::new(Mutex::new(snapshot)),
            durable_cursor: watch::Sender::new(cursor),
            given_up: watch::Sender::new(EntryId::FIRST),
        }
    }

    pub fn destination(&self) -> Destination {
        self.destination
    }

    /// For what a later shift of the leg builds anew.
    pub fn shared_gate(&self) -> Arc<SharedGate> {
        self.gate.clone()
    }

    pub fn gate(&self) -> &SharedGate {
        &self.gate
    }

    pub fn publish(&self, snapshot: Snapshot) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_durable_cursor(&self, cursor: Position) {
        self.durable_cursor.send_replace(cursor);
    }

    pub fn durable_cursor(&self) -> watch::Receiver<Position> {
        self.durable_cursor.subscribe()
    }

    /// Has the leg skip whatever it has not delivered of the entries below `below`, rule `overflow`.
    pub fn give_up(&self, below: EntryId) {
        self.given_up.send_if_modified(|given_up| std::mem::replace(given_up, below.max(*given_up)) < below);
    }

    pub fn given_up(&self) -> watch::Receiver<EntryId> {
        self.given_up.subscribe()
    }

    /// What the leg has before it.
    pub async fn load(&self) -> Result<Load, StoreError> {
        let snapshot = self.snapshot();
        let unread = self.unread(&snapshot).await?;
        let groups = snapshot.groups.map_or(0, |groups| groups.records);
        Ok(Load { unread, unsettled: snapshot.unsettled.saturating_sub(groups), in_ledger: snapshot.in_ledger })
    }

    async fn unread(&self, snapshot: &Snapshot) -> Result<u64, StoreError> {
        let counted = self.journal.count_from(snapshot.next_entry).await?;
        Ok(counted.saturating_sub(snapshot.settled_unread))
    }

    /// Publishes everything to the metrics and returns it. Backlog is counted from the journal's entries and from what
    /// the leg holds, never as a difference of totals, or the sum of promise P2 would be true by construction.
    pub async fn report(&self) -> Result<Report, StoreError> {
        let snapshot = self.snapshot();
        let unread = self.unread(&snapshot).await?;
        let oldest_unread = if snapshot.oldest.is_none() && unread > 0 {
            let next = self.journal.read(snapshot.next_entry, 1).await?;
            next.first().and_then(|entry| entry.records.first()).map(|record| record.received_at)
        } else {
            None
        };
        let oldest = snapshot.oldest.or(oldest_unread);
        let age = oldest.map(|at| self.clock.now().since(at)).unwrap_or_default();
        let (state, advice) = match self.gate.state() {
            GateState::Open => (State::Open, None),
            GateState::Backoff { failures, .. } => (State::BackingOff { failures }, None),
            GateState::Paused { cause, .. } => (State::Paused { cause }, Some(cause.advice())),
        };
        let held = telemetry::Held {
            parked: snapshot.parked,
            dead_letters: snapshot.dead_letters,
            backlog: unread + snapshot.unsettled,
            oldest: age,
            paused: matches!(state, State::Paused { .. }),
        };
        telemetry::held(self.destination, &held);
        snapshot.tally.publish(self.destination);
        Ok(Report {
            destination: self.destination,
            delivered: snapshot.tally.delivered.total(),
            skipped: snapshot.tally.skipped_total(),
            parked: held.parked,
            dead_letters: held.dead_letters,
            backlog: held.backlog,
            maybe_twice: snapshot.tally.maybe_twice,
            unconfirmed: snapshot.tally.unconfirmed,
            lists_refused: snapshot.tally.lists_refused,
            conflicts: snapshot.tally.conflicts.values().sum(),
            addresses_kept: snapshot.tally.addresses_kept,
            not_placed: snapshot.tally.not_placed.values().sum(),
            oldest_undelivered_seconds: age.as_secs_f64(),
            groups: snapshot.groups.map(|groups| groups.report(self.clock.now())),
            state,
            advice,
        })
    }
}
