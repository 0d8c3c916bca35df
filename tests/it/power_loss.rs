//! P1 beneath the file system: a disk that keeps what was synced, a random part of the rest, and nothing else. See
//! `tests/faults/disk.c`; each test says SKIPPED where that cannot be built.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::disk::Knob;
use crate::harness::http::{Client, JSON};
use crate::harness::records::event;
use crate::harness::{Disk, PATIENCE, Relay, Sandbox, eventually, same};

/// No write for so long: several checkpoints would have come.
const QUIET: Duration = Duration::from_millis(700);

/// What one app sends, and what of it was acknowledged.
struct App {
    http: Client,
    sent: u64,
    acknowledged: BTreeSet<String>,
}

impl App {
    fn new() -> Self {
        Self { http: Client::new(), sent: 0, acknowledged: BTreeSet::new() }
    }

    /// Sends one event once. Whether it was acknowledged.
    async fn sends(&mut self, relay: &Relay) -> bool {
        let id = format!("sent-{}", self.sent);
        self.sent += 1;
        let body = json!([event("Tracked", "somebody", &id)]).to_string();
        let answer = self.http.send("POST", &relay.url("/track?ip=0"), &[JSON], body).await;
        let taken = answer.is_ok_and(|answer| answer.status == 200);
        if taken {
            self.acknowledged.insert(id);
        }
        taken
    }

    /// Sends one event after another until one is acknowledged.
    async fn is_taken(&mut self, relay: &Relay) {
        eventually(PATIENCE, async || if self.sends(relay).await { Ok(()) } else { Err("not taken".to_owned()) }).await;
    }

    /// Acknowledged events that have not arrived.
    async fn missing(&self, sandbox: &Sandbox) -> Vec<&String> {
        let arrived = sandbox.mixpanel_insert_ids().await;
        self.acknowledged.iter().filter(|id| !arrived.contains_key(*id)).collect()
    }
}

/// Mixpanel alone, and checkpoints as often as they come.
fn tweaks() -> Value {
    json!({ "connectors": { "brevo": null } })
}

/// The operation counts at which a commit dies differ: writes of the log, its sync, writes and sync of the other file.
#[tokio::test]
async fn power_lost_at_any_operation_loses_nothing_acknowledged() {
    let Some(disk) = Disk::new(11) else { return };
    let mut dice = fastrand::Rng::with_seed(11);
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start_on(&sandbox, tweaks(), Some(disk)).await;
    let mut app = App::new();
    let mut unsynced = 0;
    for _ in 0..10 {
        relay.disk().unwrap().set(Knob::Die, dice.u64(1..40));
        while app.sends(&relay).await {}
        relay.process().ended().await;
        unsynced += relay.disk().unwrap().lose_power(&mut dice).unsynced;
        relay.start_again().await;
    }
    relay.drained("mixpanel").await;
    assert!(unsynced > 0, "power was lost ten times, and never was anything unsynced");
    assert_eq!(app.missing(&sandbox).await, Vec::<&String>::new());
}

/// A store that was never used may be made anew; half a store may not be left.
#[tokio::test]
async fn power_lost_while_a_store_is_made_leaves_one_that_opens() {
    let Some(disk) = Disk::new(15) else { return };
    let mut dice = fastrand::Rng::with_seed(15);
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start_on(&sandbox, tweaks(), Some(disk)).await;
    for _ in 0..12 {
        relay.kill().await;
        relay.disk().unwrap().erase();
        relay.disk().unwrap().set(Knob::Die, dice.u64(1..90));
        if relay.try_start_again().await.is_ok() {
            relay.kill().await;
        }
        relay.disk().unwrap().heal();
        relay.disk().unwrap().lose_power(&mut dice);
        relay.start_again().await;
    }
    App::new().is_taken(&relay).await;
}

/// What a killed relay had written and not synced is read by the next one. If that acts on it, and the power is lost
/// then, its checkpoints stand and the records do not: the state would be ahead of the journal.
#[tokio::test]
async fn what_a_killed_relay_left_unsynced_is_safe_before_it_is_acted_on() {
    let Some(disk) = Disk::new(12) else { return };
    let mut dice = fastrand::Rng::with_seed(12);
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start_on(&sandbox, tweaks(), Some(disk)).await;
    let mut app = App::new();
    for die in 6..=14 {
        relay.disk().unwrap().set(Knob::Die, die);
        while app.sends(&relay).await {}
        relay.process().ended().await;
        relay.start_again().await;
        relay.drained("mixpanel").await;
        quiet(&relay).await;
        relay.kill().await;
        relay.disk().unwrap().lose_power(&mut dice);
        relay.start_again().await;
    }
    relay.drained("mixpanel").await;
    assert_eq!(app.missing(&sandbox).await, Vec::<&String>::new());
}

/// Waits until the relay writes nothing more: its checkpoints are down then.
async fn quiet(relay: &Relay) {
    let disk = relay.disk().unwrap();
    let mut before = disk.get(Knob::Operations);
    eventually(PATIENCE, async || {
        tokio::time::sleep(QUIET).await;
        let after = disk.get(Knob::Operations);
        same("operations on the disk", after, std::mem::replace(&mut before, after))
    })
    .await;
}

/// After a failed sync the kernel calls the pages clean that never reached the disk: the next relay reads them, and no
/// sync of its own writes them out. What it puts behind them would be unreachable after a power loss.
#[tokio::test]
async fn what_is_acknowledged_after_a_failed_sync_does_not_stand_on_what_it_left() {
    let Some(disk) = Disk::new(14) else { return };
    let mut dice = fastrand::Rng::with_seed(14);
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start_on(&sandbox, tweaks(), Some(disk)).await;
    let mut app = App::new();
    for n in 0..8 {
        relay.disk().unwrap().set(Knob::FailSync, 1 + n % 4);
        while app.sends(&relay).await {}
        let ended = relay.process().ended().await;
        assert_eq!(ended.code(), Some(1), "a relay whose disk has failed says so");
        relay.start_again().await;
        for _ in 0..3 {
            app.is_taken(&relay).await;
        }
        relay.kill().await;
        relay.disk().unwrap().lose_power(&mut dice);
        relay.start_again().await;
    }
    relay.drained("mixpanel").await;
    assert_eq!(app.missing(&sandbox).await, Vec::<&String>::new());
}

/// The rig can see what it looks for.
#[tokio::test]
async fn a_disk_that_lies_about_its_syncs_is_found_out() {
    let Some(disk) = Disk::new(13) else { return };
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start_on(&sandbox, tweaks(), Some(disk)).await;
    sandbox.faults(Sandbox::fault("mixpanel", "/import", json!({ "kind": "status", "status": 503 }))).await;
    relay.disk().unwrap().set(Knob::Lying, 1);
    let mut app = App::new();
    for _ in 0..20 {
        app.is_taken(&relay).await;
    }
    relay.kill().await;
    let loss = relay.disk().unwrap().lose_power_and_all_unsynced();
    assert!(loss.unsynced >= 20, "{loss:?}");
    relay.disk().unwrap().heal();
    sandbox.heal().await;
    // The state may have been luckier than the journal.
    if relay.try_start_again().await.is_err() {
        let log = std::fs::read_to_string(relay.log()).unwrap();
        assert!(log.contains("the journal is older than the state beside it"), "{log}");
    } else {
        relay.drained("mixpanel").await;
        assert!(!app.missing(&sandbox).await.is_empty(), "{loss:?}");
    }
}
