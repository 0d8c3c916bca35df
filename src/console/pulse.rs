//! The last half hour as a row of samples, for the overview's charts. Counts only, kept in memory.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};

use super::api::Api;
use super::json;
use crate::admin::auth::Caller;
use crate::config::Role;

const EVERY: Duration = Duration::from_secs(5);
/// Half an hour.
const KEPT: usize = 360;

/// Totals at one moment.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    accepted: u64,
    /// Per destination, in the order of the API's answer: settled in any way, and backlog.
    legs: Vec<(u64, u64)>,
}

impl Sample {
    fn of(status: &Value, at: Instant) -> Self {
        let accepted = &status["accepted"];
        let leg = |leg: &Value| {
            let ended = ["delivered", "skipped", "dead_letters"].map(|key| json::count(leg, key)).iter().sum();
            (ended, json::count(leg, "backlog"))
        };
        Self {
            at,
            accepted: ["event", "profile", "group"].map(|kind| json::count(accepted, kind)).iter().sum(),
            legs: json::items(status, "destinations").iter().map(leg).collect(),
        }
    }
}

/// What a chart shows.
#[derive(Debug, Default, PartialEq)]
pub struct Lines {
    /// Records a second.
    pub accepted: Vec<f64>,
    /// Per destination: settled a second, and backlog.
    pub legs: Vec<(Vec<f64>, Vec<f64>)>,
}

#[derive(Clone, Default)]
pub struct Pulse(Arc<Mutex<VecDeque<Sample>>>);

impl Pulse {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes samples for as long as the process lives.
    pub async fn keep(&self, api: &Api) {
        let caller = Caller { name: "console".into(), role: Role::Viewer };
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let at = tick.tick().await;
            // Without an answer there is no sample: the store has failed, and the process is about to end.
            if let Ok(status) = api.get(&caller, "/v1/status").await {
                self.add(Sample::of(&status, at));
            }
        }
    }

    fn add(&self, sample: Sample) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == KEPT {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    pub fn lines(&self) -> Lines {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = Lines::default();
        for (before, after) in samples.iter().zip(samples.iter().skip(1)) {
            let seconds = after.at.duration_since(before.at).as_secs_f64().max(f64::EPSILON);
            let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
            lines.accepted.push(rate(before.accepted, after.accepted));
            lines.legs.resize_with(after.legs.len(), Default::default);
            for (index, (ended, backlog)) in after.legs.iter().enumerate() {
                let earlier = before.legs.get(index).map_or(0, |(ended, _)| *ended);
                lines.legs[index].0.push(rate(earlier, *ended));
                lines.legs[index].1.push(*backlog as f64);
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_rates_and_the_oldest_sample_goes() {
        let pulse = Pulse::new();
        let start = Instant::now();
        for n in 0..KEPT as u64 + 10 {
            let status = json!({
                "accepted": { "event": 40 * n, "profile": 10 * n, "group": 0 },
                "destinations": [{ "delivered": 30 * n, "skipped": 5 * n, "dead_letters": 0, "backlog": n }],
            });
            pulse.add(Sample::of(&status, start + EVERY * n as u32));
        }
        let lines = pulse.lines();
        assert_eq!(lines.accepted, vec![10.0; KEPT - 1]);
        assert_eq!(lines.legs[0].0, vec![7.0; KEPT - 1]);
        assert_eq!(lines.legs[0].1[0], 11.0);
    }
}
