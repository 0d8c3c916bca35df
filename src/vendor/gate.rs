//! The gate in front of a destination: open, backing off, or paused.
//!
//! A gate belongs to the destination, not to a request: one 429 or 503 holds every call back, because the next call
//! would meet the same answer. [`Gate`] is the pure state machine, time passed in; [`SharedGate`] lets calls wait on it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::verdict::{PauseCause, Verdict};

/// First wait after a failure; doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// Longest wait between tries of a failing destination: the advice for Mixpanel is 60 s (contract §3).
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// First wait before a paused destination is probed; doubles up to [`MAX_PROBE`].
const FIRST_PROBE: Duration = Duration::from_secs(5);
const MAX_PROBE: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GateState {
    Open,
    /// Nothing is sent until `until`; `failures` in a row so far.
    Backoff {
        until: Instant,
        failures: u32,
    },
    /// Nothing is sent until a probe succeeds or somebody resumes.
    Paused {
        cause: PauseCause,
        probe_at: Option<Instant>,
        probes: u32,
    },
}

/// The state machine. `jitter` is in `0.0..1.0` and handed in so that tests are exact.
#[derive(Debug)]
pub struct Gate {
    state: GateState,
    /// Probes that got through since a call last did.
    relapses: u32,
}

impl Default for Gate {
    fn default() -> Self {
        Self { state: GateState::Open, relapses: 0 }
    }
}

impl Gate {
    pub fn state(&self) -> GateState {
        self.state
    }

    /// Takes note of an attempt's verdict.
    pub fn record(&mut self, verdict: Verdict, now: Instant, jitter: f64) {
        match (verdict, self.state) {
            // A paused gate is not opened by the stragglers of before the pause.
            (_, GateState::Paused { .. }) => {}
            // An answer to a call that left before the failure says nothing of what the next would meet.
            (Verdict::Definite, GateState::Backoff { until, .. }) if now < until => {}
            (Verdict::Definite, _) => {
                self.state = GateState::Open;
                self.relapses = 0;
            }
            (Verdict::Pause(cause), _) => self.pause(cause, now),
            (Verdict::Retry, _) => self.back_off(None, now, jitter),
            (Verdict::RateLimited { after }, _) => self.back_off(after, now, jitter),
        }
    }

    /// Failures that arrive while a backoff runs belong to calls sent before it: they are one failure, not several. A
    /// later hint still lengthens the wait.
    fn back_off(&mut self, hint: Option<Duration>, now: Instant, jitter: f64) {
        let failures = match self.state {
            GateState::Backoff { until, failures } if now < until => {
                let until = hint.map_or(until, |hint| until.max(now + hint));
                self.state = GateState::Backoff { until, failures };
                return;
            }
            GateState::Backoff { failures, .. } => failures.saturating_add(1),
            _ => 1,
        };
        let step = FIRST_BACKOFF.saturating_mul(1 << (failures - 1).min(16)).min(MAX_BACKOFF);
        // Half fixed, half random: spreads the relays of one account apart, yet never retries at once.
        let wait = step.mul_f64(0.5 + jitter / 2.0);
        // A hint is a floor, never trusted to be enough: a vendor that says "0 s" each time must not be asked without end.
        // A little is added so that not everyone returns in the same instant.
        let wait = hint.map_or(wait, |hint| wait.max(hint + Duration::from_millis(50).mul_f64(jitter)));
        self.state = GateState::Backoff { until: now + wait, failures };
    }

    /// Pauses. What somebody has paused by hand stays so until somebody resumes it.
    pub fn pause(&mut self, cause: PauseCause, now: Instant) {
        if matches!(self.state, GateState::Paused { cause, .. } if cause.asks_for_somebody()) {
            return;
        }
        let probes = self.relapses;
        let probe_at = cause.probed().then(|| now + probe_wait(probes));
        self.state = GateState::Paused { cause, probe_at, probes };
    }

    pub fn resume(&mut self) {
        self.state = GateState::Open;
    }

    /// A probe got through. It ends a pause that was made because of answers, and no other that began meanwhile.
    pub fn probe_succeeded(&mut self) {
        if matches!(self.state, GateState::Paused { cause, .. } if cause.probed()) {
            // Until a call has got through too: a probe may be allowed what calls are not.
            self.relapses = self.relapses.saturating_add(1);
            self.state = GateState::Open;
        }
    }

    /// Takes note of a probe that failed; the next comes later.
    pub fn probe_failed(&mut self, now: Instant) {
        if let GateState::Paused { probe_at: Some(probe_at), probes, .. } = &mut self.state {
            *probes = probes.saturating_add(1);
            *probe_at = now + probe_wait(*probes);
        }
    }
}

fn probe_wait(probes: u32) -> Duration {
    FIRST_PROBE.saturating_mul(1 << probes.min(16)).min(MAX_PROBE)
}

/// A gate that calls can wait at.
#[derive(Debug)]
pub struct SharedGate {
    gate: Mutex<Gate>,
    changed: watch::Sender<()>,
}

impl Default for SharedGate {
    fn default() -> Self {
        Self { gate: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl SharedGate {
    // The state machine never panics between lock and unlock in a way that leaves it half changed.
    fn lock(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn state(&self) -> GateState {
        self.lock().state()
    }

    pub fn paused(&self) -> Option<PauseCause> {
        match self.state() {
            GateState::Paused { cause, .. } => Some(cause),
            _ => None,
        }
    }

    pub fn record(&self, verdict: Verdict) {
        let before = self.state();
        self.lock().record(verdict, Instant::now(), fastrand::f64());
        if self.state() != before {
            self.changed.send_replace(());
        }
    }

    pub fn pause(&self, cause: PauseCause) {
        self.lock().pause(cause, Instant::now());
        self.changed.send_replace(());
    }

    pub fn resume(&self) {
        self.lock().resume();
        self.changed.send_replace(());
    }

    pub fn probe_succeeded(&self) {
        self.lock().probe_succeeded();
        self.changed.send_replace(());
    }

    /// Whether a call could go out now.
    pub fn lets_pass(&self) -> bool {
        match self.state() {
            GateState::Open => true,
            GateState::Backoff { until, .. } => until <= Instant::now(),
            GateState::Paused { .. } => false,
        }
    }

    pub fn probe_failed(&self) {
        self.lock().probe_failed(Instant::now());
        self.changed.send_replace(());
    }

    /// Resolves when a call may go out.
    pub async fn passed(&self) {
        let mut changed = self.changed.subscribe();
        while !self.lets_pass() {
            match self.state() {
                GateState::Open => {}
                GateState::Backoff { until, .. } => {
                    tokio::select! {
                        () = tokio::time::sleep_until(until) => {}
                        _ = changed.changed() => {}
                    }
                }
                // The sender lives as long as `self`: `changed` cannot fail here.
                GateState::Paused { .. } => drop(changed.changed().await),
            }
        }
    }

    /// Resolves when the paused destination is due for a probe; pends while it is not paused.
    pub async fn probe_due(&self) {
        let mut changed = self.changed.subscribe();
        loop {
            match self.state() {
                GateState::Paused { probe_at: Some(at), .. } => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => return,
                        _ = changed.changed() => {}
                    }
                }
                _ => drop(changed.changed().await),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: f64 = 0.5;

    #[tokio::test(start_paused = true)]
    async fn concurrent_failures_count_once_and_waits_double() {
        let mut gate = Gate::default();
        let now = Instant::now();
        gate.record(Verdict::Retry, now, HALF);
        gate.record(Verdict::Retry, now, HALF);
        let GateState::Backoff { until, failures: 1 } = gate.state() else { panic!("{:?}", gate.state()) };
        assert_eq!(until - now, Duration::from_millis(375));
        gate.record(Verdict::Retry, until, HALF);
        let GateState::Backoff { until: second, failures: 2 } = gate.state() else { panic!("{:?}", gate.state()) };
        assert_eq!(second - until, Duration::from_millis(750));
        gate.record(Verdict::Definite, second, HALF);
        assert_eq!(gate.state(), GateState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn backoff_is_capped() {
        let mut gate = Gate::default();
        let mut now = Instant::now();
        for _ in 0..40 {
            gate.record(Verdict::Retry, now, 1.0);
            let GateState::Backoff { until, .. } = gate.state() else { panic!("{:?}", gate.state()) };
            assert!(until - now <= MAX_BACKOFF);
            now = until;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_is_a_floor_even_during_a_backoff() {
        let mut gate = Gate::default();
        let now = Instant::now();
        gate.record(Verdict::Retry, now, HALF);
        gate.record(Verdict::RateLimited { after: Some(Duration::from_secs(9)) }, now, HALF);
        let GateState::Backoff { until, .. } = gate.state() else { panic!("{:?}", gate.state()) };
        assert!(until - now >= Duration::from_secs(9));
    }

    #[tokio::test(start_paused = true)]
    async fn stragglers_do_not_open_a_paused_gate() {
        let mut gate = Gate::default();
        let now = Instant::now();
        gate.record(Verdict::Pause(PauseCause::Credentials), now, HALF);
        gate.record(Verdict::Definite, now, HALF);
        assert!(matches!(gate.state(), GateState::Paused { cause: PauseCause::Credentials, .. }));
        gate.resume();
        assert_eq!(gate.state(), GateState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn stragglers_do_not_end_a_backoff() {
        let mut gate = Gate::default();
        let now = Instant::now();
        gate.record(Verdict::RateLimited { after: Some(Duration::from_secs(9)) }, now, HALF);
        gate.record(Verdict::Definite, now + Duration::from_millis(1), HALF);
        let GateState::Backoff { until, .. } = gate.state() else { panic!("{:?}", gate.state()) };
        assert!(until - now >= Duration::from_secs(9));
        gate.record(Verdict::Definite, until, HALF);
        assert_eq!(gate.state(), GateState::Open);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_of_nothing_does_not_stop_the_doubling() {
        let mut gate = Gate::default();
        let mut now = Instant::now();
        for _ in 0..6 {
            gate.record(Verdict::RateLimited { after: Some(Duration::ZERO) }, now, HALF);
            let GateState::Backoff { until, .. } = gate.state() else { panic!("{:?}", gate.state()) };
            (gate, now) = (gate, until);
        }
        gate.record(Verdict::RateLimited { after: Some(Duration::ZERO) }, now, HALF);
        let GateState::Backoff { until, failures: 7 } = gate.state() else { panic!("{:?}", gate.state()) };
        assert!(until - now >= Duration::from_secs(15));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_does_not_end_a_pause_by_hand() {
        let mut gate = Gate::default();
        let now = Instant::now();
        gate.record(Verdict::Pause(PauseCause::Credentials), now, HALF);
        gate.pause(PauseCause::ByHand, now);
        gate.probe_succeeded();
        assert!(matches!(gate.state(), GateState::Paused { cause: PauseCause::ByHand, probe_at: None, .. }));
        gate.pause(PauseCause::DeadLettersFull, now);
        assert!(matches!(gate.state(), GateState::Paused { cause: PauseCause::ByHand, .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_comes_back_is_probed_less_and_less() {
        let mut gate = Gate::default();
        let now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..3 {
            gate.record(Verdict::Pause(PauseCause::Permission), now, HALF);
            let GateState::Paused { probe_at: Some(at), .. } = gate.state() else { panic!("{:?}", gate.state()) };
            waits.push((at - now).as_secs());
            gate.probe_succeeded();
        }
        assert_eq!(waits, [5, 10, 20]);
        gate.record(Verdict::Definite, now, HALF);
        gate.record(Verdict::Pause(PauseCause::Permission), now, HALF);
        let GateState::Paused { probe_at: Some(at), .. } = gate.state() else { panic!("{:?}", gate.state()) };
        assert_eq!((at - now).as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_pass_when_the_gate_is_resumed_by_hand() {
        let gate = std::sync::Arc::new(SharedGate::default());
        gate.pause(PauseCause::ByHand);
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.passed().await }
        });
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!waiting.is_finished());
        gate.resume();
        waiting.await.unwrap();
    }
}
