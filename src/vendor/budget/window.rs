//! One limit of a vendor as a sliding window, pure: time is passed in.
//!
//! Whether a vendor counts in fixed or in sliding windows is unconfirmed for both; a sliding one is inside the limit
//! either way. Of a short one a call takes its part from when it leaves until one span after its answer: somewhere in
//! between it has arrived, which is what the vendor counts. Long windows are claimed in slices that are written down before they are used, so that a crash can only
//! forget allowance, never gain any (CORE 14).

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::shares::Shares;
use crate::vendor::{Cost, Priority};

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    Calls,
    Records,
    Bytes,
}

impl Unit {
    fn of(self, cost: Cost) -> u64 {
        match self {
            Unit::Calls => cost.calls,
            Unit::Records => cost.records,
            Unit::Bytes => cost.bytes,
        }
    }
}

/// `amount` units in any `span`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Limit {
    pub unit: Unit,
    pub amount: u64,
    pub span: Duration,
}

impl Limit {
    /// Calls a second, with an allowance for a vendor that counts by a clock of its own.
    pub const fn per_second(amount: u64) -> Self {
        Self { unit: Unit::Calls, amount, span: Duration::from_millis(1005) }
    }

    /// Calls an hour, with an allowance for the way: calls that leave an hour apart may arrive closer.
    pub const fn per_hour(amount: u64) -> Self {
        Self { unit: Unit::Calls, amount, span: Duration::from_secs(3605) }
    }

    pub const fn per_day(amount: u64) -> Self {
        Self { unit: Unit::Calls, amount, span: Duration::from_secs(24 * 3600 + 5) }
    }

    pub const fn per_minute(unit: Unit, amount: u64) -> Self {
        Self { unit, amount, span: Duration::from_secs(61) }
    }

    /// Windows of a second or so are gone before a process is back: they are not written down.
    pub fn durable(&self) -> bool {
        self.span > Duration::from_secs(10)
    }

    /// Hourly quotas of a few hundred are claimed call by call, larger ones a hundredth at a time: a slice comes back only
    /// one span after its last call, so a large one would leave a hole of its size in every hour.
    fn slice(&self) -> u64 {
        if !self.durable() || self.amount <= 1000 { 1 } else { self.amount / 100 }
    }
}

/// A call that has no answer after so long is taken to have arrived by then.
const LONGEST_WAY: Duration = Duration::from_secs(5);

/// Names a call that is on its way, in a short window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallId(pub u64);

/// Part of the allowance that was claimed at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slice {
    /// When something was last spent from it: it leaves the window one span later.
    pub at: Instant,
    /// The call that it was spent on, while that has no answer.
    pub call: Option<CallId>,
    pub amount: u64,
    /// Who claimed it, where calls are claimed one by one. Not written down: after a restart nobody's share counts as
    /// drawn on, which keeps a little more back than need be.
    pub by: Option<Priority>,
}

impl Slice {
    pub fn new(at: Instant, amount: u64) -> Self {
        Self { at, call: None, amount, by: None }
    }

    /// The latest moment, up to `now`, at which what was spent may have arrived.
    fn arrived_by(&self, now: Instant) -> Instant {
        if self.call.is_some() { now.min(self.at + LONGEST_WAY) } else { self.at }
    }
}

#[derive(Debug)]
pub struct Window {
    limit: Limit,
    slices: VecDeque<Slice>,
    /// What is left of the newest slice.
    reserved: u64,
}

impl Window {
    pub fn new(limit: Limit) -> Self {
        Self { limit, slices: VecDeque::new(), reserved: 0 }
    }

    /// A window as it was written down; `slices` oldest first. The newest counts as wholly used, just now.
    pub fn restored(limit: Limit, slices: impl IntoIterator<Item = Slice>, now: Instant) -> Self {
        let mut slices: VecDeque<_> = slices.into_iter().collect();
        if let Some(newest) = slices.back_mut() {
            newest.at = now;
        }
        Self { limit, slices, reserved: 0 }
    }

    pub fn limit(&self) -> Limit {
        self.limit
    }

    pub fn slices(&self) -> impl Iterator<Item = &Slice> {
        self.slices.iter()
    }

    /// The slices as far as they are spent: what is only reserved is not taken along to another limit.
    pub fn spent(&self) -> Vec<Slice> {
        let mut slices: Vec<_> = self.slices.iter().copied().collect();
        if let Some(newest) = slices.last_mut() {
            newest.amount = newest.amount.saturating_sub(self.reserved);
        }
        slices
    }

    pub fn expire(&mut self, now: Instant) {
        let span = self.limit.span;
        // Slices of a long window are in order of their time, and the newest holds what is reserved.
        self.slices.retain(|slice| slice.arrived_by(now) + span > now);
        if self.slices.is_empty() {
            self.reserved = 0;
        }
    }

    fn claimed(&self) -> u64 {
        self.slices.iter().map(|slice| slice.amount).sum()
    }

    /// Units left now, reserved ones included.
    pub fn remaining(&mut self, now: Instant) -> u64 {
        self.expire(now);
        self.limit.amount.saturating_sub(self.claimed()) + self.reserved
    }

    /// `Err` tells when to ask again. A cost above what could ever be free is taken as all of that: it could never pass.
    pub fn check(&mut self, cost: Cost, by: Priority, shares: &Shares, now: Instant) -> Result<(), Instant> {
        let mut free = self.remaining(now);
        let mut used = Priority::ALL.map(|priority| self.used_by(priority));
        let most = self.limit.amount.saturating_sub(shares.of_others(self.limit.amount, by));
        let wanted = self.wanted(cost).min(most);
        let fits = |free: u64, used: &[u64; 4]| wanted + shares.kept(self.limit.amount, by, used) <= free;
        if wanted == 0 || fits(free, &used) {
            return Ok(());
        }
        let mut slices: Vec<_> = self.slices.iter().map(|slice| (slice.arrived_by(now), slice)).collect();
        slices.sort_unstable_by_key(|(arrived_by, _)| *arrived_by);
        for (arrived_by, slice) in slices {
            free += slice.amount;
            if let Some(owner) = slice.by {
                used[owner as usize] = used[owner as usize].saturating_sub(slice.amount);
            }
            if fits(free, &used) {
                return Err(arrived_by + self.limit.span);
            }
        }
        Err(now + self.limit.span)
    }

    /// Units in the window that `priority` claimed.
    pub fn used_by(&self, priority: Priority) -> u64 {
        self.slices.iter().filter(|slice| slice.by == Some(priority)).map(|slice| slice.amount).sum()
    }

    fn wanted(&self, cost: Cost) -> u64 {
        self.limit.unit.of(cost).min(self.limit.amount)
    }

    /// Takes what [`Window::check`] has just allowed for `call`, whose end [`Window::ended`] is to be told. True when a new
    /// slice was claimed, which has to be written down before the call goes out.
    pub fn take(&mut self, cost: Cost, by: Priority, call: CallId, now: Instant) -> bool {
        let wanted = self.wanted(cost);
        if wanted == 0 {
            return false;
        }
        if wanted <= self.reserved {
            self.reserved -= wanted;
            if let Some(newest) = self.slices.back_mut() {
                newest.at = now;
            }
            return false;
        }
        // What is left of the newest slice is spent now, so it has to leave the window with what is spent now.
        let moved = std::mem::take(&mut self.reserved);
        if let Some(newest) = self.slices.back_mut() {
            newest.amount -= moved;
        }
        let free = self.limit.amount.saturating_sub(self.claimed());
        let amount = (moved + self.limit.slice()).max(wanted).min(free);
        let by = (self.limit.slice() == 1).then_some(by);
        let call = (!self.limit.durable()).then_some(call);
        self.slices.push_back(Slice { at: now, call, amount, by });
        self.reserved = amount.saturating_sub(wanted);
        true
    }

    /// What [`Window::take`] has just taken goes out at `at`, not when it was taken.
    pub fn leaves_at(&mut self, at: Instant) {
        if let Some(newest) = self.slices.back_mut() {
            newest.at = at;
        }
    }

    /// The answer to `call` came, or its end, at `at`: it has arrived before.
    pub fn ended(&mut self, call: CallId, at: Instant) {
        for slice in self.slices.iter_mut().filter(|slice| slice.call == Some(call)) {
            slice.at = slice.arrived_by(at);
            slice.call = None;
        }
    }

    /// Somebody else uses the same account: counts as used what the vendor says is used and we do not know of.
    pub fn reconcile(&mut self, vendor_remaining: u64, now: Instant) -> bool {
        let ours = self.remaining(now);
        if vendor_remaining >= ours {
            return false;
        }
        let unknown = ours - vendor_remaining;
        let from_reserved = unknown.min(self.reserved);
        self.reserved -= from_reserved;
        if unknown > from_reserved {
            self.slices.push_back(Slice::new(now, unknown - from_reserved));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALL: CallId = CallId(0);

    fn calls(calls: u64) -> Cost {
        Cost { calls, records: 0, bytes: 0 }
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_quota_is_claimed_call_by_call() {
        let mut window = Window::new(Limit::per_hour(2));
        let now = Instant::now();
        for _ in 0..2 {
            assert_eq!(window.check(calls(1), Priority::Live, &Shares::NONE, now), Ok(()));
            assert!(window.take(calls(1), Priority::Live, CALL, now));
        }
        let free_at = now + Limit::per_hour(2).span;
        assert_eq!(window.check(calls(1), Priority::Live, &Shares::NONE, now), Err(free_at));
        assert_eq!(window.check(calls(1), Priority::Live, &Shares::NONE, free_at), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_crash_the_unfinished_slice_counts_as_used() {
        let limit = Limit::per_hour(36_000);
        let mut window = Window::new(limit);
        let now = Instant::now();
        assert!(window.take(calls(1), Priority::Live, CALL, now));
        assert!(!window.take(calls(1), Priority::Live, CALL, now), "the second call comes out of the same slice");
        let written: Vec<_> = window.slices().copied().collect();
        let mut restored = Window::restored(limit, written, now);
        assert_eq!(restored.remaining(now), 36_000 - 360);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_reserved_is_not_spent() {
        let mut window = Window::new(Limit::per_hour(36_000));
        let now = Instant::now();
        window.take(calls(1), Priority::Live, CALL, now);
        let mut smaller = Window::restored(Limit::per_hour(100), window.spent(), now);
        assert_eq!(smaller.remaining(now), 99);
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_used_is_learned() {
        let mut window = Window::new(Limit::per_hour(100));
        let now = Instant::now();
        window.take(calls(1), Priority::Live, CALL, now);
        assert!(window.reconcile(40, now));
        assert_eq!(window.remaining(now), 40);
        assert!(!window.reconcile(60, now), "a vendor that says more is left than we count gives nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_a_slice_counts_from_when_it_is_spent() {
        let limit = Limit { unit: Unit::Calls, amount: 2_000, span: Duration::from_secs(3600) };
        let mut window = Window::new(limit);
        let start = Instant::now();
        window.take(calls(197), Priority::Live, CALL, start);
        let late = start + limit.span - Duration::from_secs(1);
        window.take(calls(5), Priority::Live, CALL, late);
        // The first slice has left the window; five calls of a second ago have not.
        let now = start + limit.span;
        assert_eq!(window.check(calls(1_995), Priority::Live, &Shares::NONE, now), Ok(()));
        assert!(window.check(calls(1_996), Priority::Live, &Shares::NONE, now).is_err());
    }

    proptest! {
        /// Calls that are long on their way, or hardly at all: whenever they arrive before their answer, no second of the
        /// vendor's holds more of them than the limit.
        #[test]
        fn no_second_exceeds_the_limit_whenever_calls_arrive(
            amount in 1u64..12,
            steps in proptest::collection::vec((0u64..400, 0u64..1_000, 0u64..300), 1..200),
        ) {
            let limit = Limit::per_second(amount);
            let mut window = Window::new(limit);
            let mut now = Instant::from_std(std::time::Instant::now());
            let (mut under_way, mut arrived): (Vec<(Instant, CallId)>, Vec<Instant>) = (Vec::new(), Vec::new());
            for (n, (wait, way, back)) in (0..).zip(steps) {
                now += Duration::from_millis(wait);
                under_way.retain(|(end, call)| {
                    if *end <= now {
                        window.ended(*call, *end);
                    }
                    *end > now
                });
                if let Err(at) = window.check(calls(1), Priority::Live, &Shares::NONE, now) {
                    prop_assert!(at > now);
                    continue;
                }
                window.take(calls(1), Priority::Live, CallId(n), now);
                let arrives = now + Duration::from_millis(way);
                arrived.push(arrives);
                under_way.push((arrives + Duration::from_millis(back), CallId(n)));
            }
            arrived.sort_unstable();
            for (at, first) in arrived.iter().enumerate() {
                let inside = arrived[at..].iter().take_while(|arrival| **arrival < *first + Duration::from_secs(1)).count();
                prop_assert!(inside as u64 <= amount, "{inside} within a second, {amount} may be");
            }
        }

        /// Whatever is asked when, no span ever holds more than the limit, by the times of the calls themselves.
        #[test]
        fn no_span_exceeds_the_limit(
            amount in 1u64..5_000,
            steps in proptest::collection::vec((0u64..2_000_000, 1u64..50), 1..200),
        ) {
            let limit = Limit { unit: Unit::Calls, amount, span: Duration::from_secs(3600) };
            let mut window = Window::new(limit);
            let start = std::time::Instant::now();
            let mut now = Instant::from_std(start);
            let mut spent: Vec<(Instant, u64)> = Vec::new();
            for (wait, cost) in steps {
                now += Duration::from_millis(wait);
                let cost = cost.min(amount);
                if window.check(calls(cost), Priority::Live, &Shares::NONE, now).is_ok() {
                    window.take(calls(cost), Priority::Live, CALL, now);
                    spent.push((now, cost));
                    let inside: u64 = spent.iter().filter(|(at, _)| *at + limit.span > now).map(|(_, c)| c).sum();
                    prop_assert!(inside <= amount, "{inside} in a window of {amount}");
                }
            }
        }
    }
}
