//! What breaks, one thing after another, drawn by the seed.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Relay, Sandbox};

/// Between two faults, and for how long one lasts, at most.
const LONGEST_CALM_MS: u64 = 900;
const LONGEST_FAULT_MS: u64 = 1_800;

#[derive(Debug)]
pub struct Driver {
    dice: fastrand::Rng,
    /// What was done, for whoever reads a failure.
    pub done: Vec<String>,
    pub kills: u64,
    /// Faults after which a vendor's answer may have been lost.
    pub doubts: u64,
}

/// A vendor's fault; `doubtful`: the call may have had its effect.
struct VendorFault {
    fault: Value,
    doubtful: bool,
}

impl Driver {
    pub fn new(dice: fastrand::Rng) -> Self {
        Self { dice, done: Vec::new(), kills: 0, doubts: 0 }
    }

    /// Breaks for `length`, and leaves everything healed and running.
    pub async fn run(&mut self, relay: &mut Relay, sandbox: &Sandbox, length: Duration) {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.pause(LONGEST_CALM_MS).await;
            match self.dice.u8(..100) {
                ..15 => {
                    self.note("kill -9");
                    self.kills += 1;
                    relay.kill().await;
                    self.pause(LONGEST_CALM_MS / 3).await;
                    relay.start_again().await;
                }
                15..25 => {
                    self.note("SIGTERM");
                    let ended = relay.terminate().await;
                    assert!(ended.success(), "{ended}: {:?}", self.done);
                    relay.start_again().await;
                }
                25..35 => {
                    self.note("SIGSTOP");
                    relay.process().freeze();
                    self.pause(LONGEST_FAULT_MS).await;
                    relay.process().thaw();
                }
                _ => self.trouble(sandbox).await,
            }
        }
        sandbox.heal().await;
    }

    /// One vendor, or both, for a while.
    async fn trouble(&mut self, sandbox: &Sandbox) {
        let vendors: &[&str] =
            self.dice.choice([&["mixpanel"][..], &["brevo"], &["mixpanel", "brevo"]].iter()).unwrap();
        let mut faults = Vec::new();
        for vendor in vendors {
            let VendorFault { fault, doubtful } = self.draw(vendor);
            self.doubts += u64::from(doubtful);
            faults.push(Sandbox::fault(vendor, "", fault));
        }
        self.note(&Value::from(faults.clone()).to_string());
        sandbox.faults(json!(faults)).await;
        self.pause(LONGEST_FAULT_MS).await;
        sandbox.heal().await;
    }

    fn draw(&mut self, vendor: &str) -> VendorFault {
        let after = self.dice.bool();
        let when = if after { "after" } else { "before" };
        let status = *self.dice.choice([408, 500, 502, 503, 504].iter()).unwrap();
        let limited = match vendor {
            "brevo" => json!({ "kind": "status", "status": 429, "headers": { "x-sib-ratelimit-reset": "1" } }),
            _ => json!({ "kind": "status", "status": 429, "headers": { "retry-after": "1" } }),
        };
        let (fault, doubtful) = match self.dice.u8(..9) {
            0 => (json!({ "kind": "latency", "ms": self.dice.u64(50..1_200) }), false),
            1 => (json!({ "kind": "status", "status": status, "when": when }), after),
            2 => (limited, false),
            3 => (json!({ "kind": "reset", "when": when }), after),
            4 => (json!({ "kind": "black_hole", "when": when, "times": 3 }), after),
            5 => (json!({ "kind": "break_off", "after_bytes": 3 }), true),
            6 => (json!({ "kind": "slow", "chunk": 5, "every_ms": 40 }), false),
            7 => (json!({ "kind": "garbage", "when": when }), after),
            _ => (json!({ "kind": "status", "status": 401 }), false),
        };
        VendorFault { fault, doubtful }
    }

    async fn pause(&mut self, longest_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.dice.u64(..longest_ms))).await;
    }

    fn note(&mut self, what: &str) {
        println!("  {what}");
        self.done.push(what.to_owned());
    }
}
