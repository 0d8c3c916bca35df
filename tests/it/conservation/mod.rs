//! The conservation rig: apps that write and never give up, a driver that breaks the relay and both vendors at random, and an
//! oracle that knows what had to arrive.
//!
//! Whatever was acknowledged is at Mixpanel, and at Brevo where it is mapped; nothing is there that nobody sent; each
//! payload is what its number says; a person's events and values are in the order in which their app said them; what
//! arrived twice is explained by what was in flight at a crash or by a call whose answer was lost; the relay's own counts
//! add up.
//!
//! A round is one seed: which faults, when, and what the apps say. Two runs of a seed break the same things in the same
//! order, though not at the same instruction. `make soak SEED=1 MINUTES=60` plays one round after another, with the seeds
//! that follow, and reports. See docs/proof.md.

mod faults;
mod load;
mod oracle;
mod people;
mod vendor_faults;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::harness::disk::Knob;
use crate::harness::{Disk, Relay, Sandbox, tunable};
use faults::{Driver, Kind};
use load::App;
use oracle::Verdict;
use people::{Mode, Said};

const APPS: usize = 4;
/// Load of a round, before everything is healed and has to arrive.
const SECONDS: usize = 12;

#[tokio::test]
async fn nothing_is_lost_doubled_or_out_of_order_whatever_breaks() {
    let first = tunable("MIXRELAY_SOAK_SEED", 2) as u64;
    let until = Instant::now() + Duration::from_secs(60 * tunable("MIXRELAY_SOAK_MINUTES", 0) as u64);
    let seconds = tunable("MIXRELAY_SOAK_ROUND_SECONDS", SECONDS) as u64;
    let spends = tunable("MIXRELAY_SOAK_SPENDS", 0) > 0;
    let mut report = Report::default();
    for seed in first.. {
        round(seed, Duration::from_secs(seconds), spends, &mut report).await;
        if Instant::now() >= until {
            break;
        }
    }
    println!("{report:#?}");
}

/// What all rounds came to.
#[derive(Debug, Default)]
struct Report {
    rounds: u64,
    faults: BTreeMap<Kind, u64>,
    kills: u64,
    writes_and_syncs: u64,
    syncs: u64,
    people: u64,
    events: u64,
    imports: u64,
    came_twice_to_brevo: u64,
    slowest_start: Duration,
    slowest_drain: Duration,
}

impl Report {
    fn add(&mut self, relay: &Relay, driver: &Driver, verdict: &Verdict) {
        self.rounds += 1;
        for (kind, times) in &driver.by_kind {
            *self.faults.entry(*kind).or_default() += times;
        }
        self.kills += driver.kills;
        if let Some(disk) = relay.disk() {
            self.writes_and_syncs += disk.get(Knob::Operations);
            self.syncs += disk.get(Knob::Syncs);
        }
        self.people += verdict.people;
        self.events += verdict.events;
        self.imports += verdict.imports;
        self.came_twice_to_brevo += verdict.twice;
        self.slowest_start = self.slowest_start.max(driver.slowest_start);
        self.slowest_drain = self.slowest_drain.max(verdict.drained);
    }
}

async fn round(seed: u64, length: Duration, spends: bool, report: &mut Report) {
    let switch = usize::from(spends);
    println!("round of seed {seed}: MIXRELAY_SOAK_SEED={seed} MIXRELAY_SOAK_SPENDS={switch} plays it again");
    let mut dice = fastrand::Rng::with_seed(seed);
    let sandbox = Sandbox::start().await;
    let mode = if dice.bool() { Mode::Simplified } else { Mode::Original };
    println!("  a project with {} identity", mode.name());
    let switches = json!({ "brevo": { "rate_limits": dice.bool() }, "mixpanel": { "identity": mode.name() } });
    sandbox.switch(switches).await;
    let config = json!({ "connectors": { "mixpanel": { "identity": mode.name() } } });
    let mut relay = Relay::start_on(&sandbox, config, Disk::new(seed)).await;
    let stop = Arc::new(AtomicBool::default());
    let apps: Vec<_> = (0..APPS)
        .map(|number| tokio::spawn(App::new(number, dice.fork(), relay.url(""), mode, spends).live(stop.clone())))
        .collect();

    let mut driver = Driver::new(dice.fork());
    driver.run(&mut relay, &sandbox, length).await;
    stop.store(true, Ordering::Relaxed);
    let mut said = Said::default();
    for app in apps {
        said.join(app.await.unwrap());
    }
    let verdict = oracle::check(&relay, &sandbox, &said, mode, &driver).await;
    report.add(&relay, &driver, &verdict);
}
