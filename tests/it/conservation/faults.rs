//! What breaks, one thing after another, drawn by the seed: the process, the disk beneath its store, the clock, and the
//! vendors (`vendor_faults`).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::vendor_faults;
use crate::harness::disk::Knob;
use crate::harness::{Disk, PATIENCE, Relay, Sandbox};

/// Between two faults, and for how long one lasts, at most.
const LONGEST_CALM_MS: u64 = 700;
const LONGEST_FAULT_MS: u64 = 1_800;
/// Writes and syncs that a relay with these apps makes within moments: one of the next so many is struck.
const SOON: u64 = 120;
/// Of a relay that starts.
const WHILE_STARTING: u64 = 30;
/// Bytes that a store may still grow by when its disk is about to be full.
const NEARLY_FULL: u64 = 400_000;
const SLOWEST_OPERATION_US: u64 = 40_000;
/// The clock is never wrong by more: events are stale, and forgotten as duplicates, after a day or more.
const WRONG_BY_MS: i64 = 20 * 3_600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Kill,
    Terminate,
    Freeze,
    Vendors,
    Imports,
    PowerLoss,
    FailingSync,
    FullDisk,
    ReadOnlyDisk,
    SlowDisk,
    ShortWrites,
    Clock,
}

/// Each as often as it stands here.
const WITHOUT_A_DISK: [Kind; 10] = {
    use Kind::*;
    [Kill, Kill, Terminate, Freeze, Vendors, Vendors, Vendors, Vendors, Imports, Imports]
};
const WITH_A_DISK: [Kind; 24] = {
    use Kind::*;
    [
        Kill,
        Kill,
        Terminate,
        Terminate,
        Freeze,
        Vendors,
        Vendors,
        Vendors,
        Vendors,
        Vendors,
        Imports,
        Imports,
        PowerLoss,
        PowerLoss,
        PowerLoss,
        PowerLoss,
        FailingSync,
        FailingSync,
        FullDisk,
        FullDisk,
        ReadOnlyDisk,
        SlowDisk,
        ShortWrites,
        Clock,
    ]
};

#[derive(Debug)]
pub struct Driver {
    dice: fastrand::Rng,
    /// What was done, for whoever reads a failure.
    pub done: Vec<String>,
    pub by_kind: BTreeMap<Kind, u64>,
    /// Ends of the process at which something may have been under way.
    pub kills: u64,
    /// Faults after which a vendor's answer may have been lost.
    pub doubts: u64,
    /// Faults by which a vendor refuses what it should take.
    pub refusals: u64,
    /// From the start of a process to its being ready, the longest.
    pub slowest_start: Duration,
    wrong_by: i64,
}

impl Driver {
    pub fn new(dice: fastrand::Rng) -> Self {
        Self {
            dice,
            done: Vec::new(),
            by_kind: BTreeMap::new(),
            kills: 0,
            doubts: 0,
            refusals: 0,
            slowest_start: Duration::ZERO,
            wrong_by: 0,
        }
    }

    /// Breaks for `length`, and leaves everything healed and running.
    pub async fn run(&mut self, relay: &mut Relay, sandbox: &Sandbox, length: Duration) {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.pause(LONGEST_CALM_MS).await;
            let kinds = if relay.disk().is_some() { &WITH_A_DISK[..] } else { &WITHOUT_A_DISK };
            let kind = *self.dice.choice(kinds).unwrap();
            *self.by_kind.entry(kind).or_default() += 1;
            self.play(kind, relay, sandbox).await;
            assert!(relay.process().is_running(), "ended by itself: {:#?}", self.done);
        }
        sandbox.heal().await;
        vendor_faults::imports_end_well(sandbox).await;
    }

    async fn play(&mut self, kind: Kind, relay: &mut Relay, sandbox: &Sandbox) {
        match kind {
            Kind::Kill => {
                self.note("kill -9");
                self.kill(relay).await;
                self.pause(LONGEST_CALM_MS / 3).await;
                self.start(relay).await;
            }
            Kind::Terminate => {
                self.note("SIGTERM");
                let ended = relay.terminate().await;
                assert!(ended.success(), "{ended}: {:#?}", self.done);
                self.perhaps_lose_power(relay);
                self.start(relay).await;
            }
            Kind::Freeze => {
                self.note("SIGSTOP");
                relay.process().freeze();
                self.pause(LONGEST_FAULT_MS).await;
                relay.process().thaw();
            }
            Kind::Vendors => {
                let strike = vendor_faults::strike(&mut self.dice, sandbox).await;
                self.doubts += strike.doubts;
                self.refusals += strike.refusals;
                self.note(&strike.what());
                self.pause(LONGEST_FAULT_MS).await;
                // Or else it goes on while other things break.
                if self.dice.u8(..4) > 0 {
                    sandbox.heal().await;
                }
            }
            Kind::Imports => {
                let how = vendor_faults::imports_end_badly(&mut self.dice, sandbox).await;
                self.note(&how);
            }
            Kind::PowerLoss => self.power_loss(relay).await,
            Kind::FailingSync => self.failing_sync(relay).await,
            Kind::FullDisk => self.full_disk(relay).await,
            Kind::ReadOnlyDisk => self.read_only_disk(relay).await,
            Kind::SlowDisk => {
                let slowest = self.dice.u64(1..SLOWEST_OPERATION_US);
                self.note(&format!("slow disk: up to {slowest} us an operation"));
                self.nuisance(relay, &[(Knob::Delay, slowest)]).await;
            }
            Kind::ShortWrites => {
                let (short, interrupted) = (self.dice.u64(..200), self.dice.u64(..100));
                self.note(&format!("of 256 writes {short} are short, {interrupted} interrupted"));
                self.nuisance(relay, &[(Knob::ShortWrites, short), (Knob::Interrupted, interrupted)]).await;
            }
            Kind::Clock => {
                self.wrong_by = self.dice.i64(-WRONG_BY_MS..WRONG_BY_MS) / if self.dice.bool() { 1 } else { 1_000 };
                self.note(&format!("the clock is wrong by {} ms", self.wrong_by));
                disk(relay).set_clock(self.wrong_by);
            }
        }
    }

    /// At a moment, or at an operation on the disk; sometimes again while the relay starts.
    async fn power_loss(&mut self, relay: &mut Relay) {
        if self.dice.bool() {
            self.kill(relay).await;
        } else {
            let nth = self.dice.u64(1..SOON);
            self.note(&format!("dies at operation {nth}"));
            disk(relay).set(Knob::Die, nth);
            self.ends_by_itself(relay).await;
        }
        self.lose_power(relay);
        while self.dice.u8(..3) == 0 {
            let nth = self.dice.u64(1..WHILE_STARTING);
            self.note(&format!("dies at operation {nth} of its start"));
            disk(relay).set(Knob::Die, nth);
            if relay.try_start_again().await.is_ok() {
                // It came through; what is left of the count strikes soon.
                self.ends_by_itself(relay).await;
            }
            self.lose_power(relay);
        }
        self.start(relay).await;
    }

    /// P1: the process takes no more writes and exits.
    async fn failing_sync(&mut self, relay: &mut Relay) {
        let nth = self.dice.u64(1..SOON / 4);
        self.note(&format!("sync {nth} fails"));
        disk(relay).set(Knob::FailSync, nth);
        let ended = self.ends_by_itself(relay).await;
        assert_eq!(ended.code(), Some(1), "{ended}: {:#?}", self.done);
        self.perhaps_lose_power(relay);
        self.start(relay).await;
    }

    /// The relay goes on, and takes records again when there is room; killed meanwhile, it starts or says why not.
    async fn full_disk(&mut self, relay: &mut Relay) {
        let room = self.dice.u64(..NEARLY_FULL);
        self.note(&format!("full disk, after {room} bytes"));
        disk(relay).set(Knob::Room, room);
        self.pause(LONGEST_FAULT_MS).await;
        match self.dice.u8(..3) {
            0 => {}
            1 => {
                self.kill(relay).await;
                self.start_on_a_bad_disk(relay).await;
            }
            _ => {
                self.note("SIGTERM meanwhile");
                relay.process().ask_to_end();
                self.pause(LONGEST_FAULT_MS).await;
                disk(relay).heal();
                // Its last checkpoint was written, or was not.
                let ended = self.ends_by_itself(relay).await;
                assert!(matches!(ended.code(), Some(0 | 1)), "{ended}: {:#?}", self.done);
            }
        }
        disk(relay).heal();
        self.start_unless_running(relay).await;
    }

    /// Nothing that a store promises can be kept, so the process exits, and does not start.
    async fn read_only_disk(&mut self, relay: &mut Relay) {
        self.note("read-only disk");
        disk(relay).set(Knob::ReadOnly, 1);
        let ended = self.ends_by_itself(relay).await;
        assert_eq!(ended.code(), Some(1), "{ended}: {:#?}", self.done);
        self.start_on_a_bad_disk(relay).await;
        disk(relay).heal();
        self.start_unless_running(relay).await;
    }

    async fn start_on_a_bad_disk(&mut self, relay: &mut Relay) {
        match relay.try_start_again().await {
            Ok(()) => self.note("starts all the same"),
            Err(ended) => {
                self.note("does not start");
                assert_eq!(ended.code(), Some(1), "{ended}: {:#?}", self.done);
            }
        }
    }

    async fn start_unless_running(&mut self, relay: &mut Relay) {
        if !relay.process().is_running() {
            self.start(relay).await;
        }
    }

    async fn nuisance(&mut self, relay: &mut Relay, knobs: &[(Knob, u64)]) {
        for (knob, value) in knobs {
            disk(relay).set(*knob, *value);
        }
        self.pause(LONGEST_FAULT_MS).await;
        if self.dice.u8(..3) == 0 {
            self.note("kill -9 meanwhile");
            self.kill(relay).await;
            self.start(relay).await;
        }
        disk(relay).heal();
    }

    fn perhaps_lose_power(&mut self, relay: &Relay) {
        if relay.disk().is_some() && self.dice.bool() {
            self.lose_power(relay);
        }
    }

    fn lose_power(&mut self, relay: &Relay) {
        disk(relay).heal();
        let loss = disk(relay).lose_power(&mut self.dice);
        self.note(&format!("power loss: {loss:?}"));
    }

    async fn kill(&mut self, relay: &mut Relay) {
        self.kills += 1;
        relay.kill().await;
    }

    async fn ends_by_itself(&mut self, relay: &mut Relay) -> std::process::ExitStatus {
        self.kills += 1;
        match tokio::time::timeout(PATIENCE, relay.process().ended()).await {
            Ok(ended) => ended,
            Err(_) => panic!("still running: {:#?}", self.done),
        }
    }

    async fn start(&mut self, relay: &mut Relay) {
        let begun = Instant::now();
        if let Err(ended) = relay.try_start_again().await {
            let log = std::fs::read_to_string(relay.log()).unwrap();
            panic!("the relay did not start again, {ended}: {:#?}\n{log}", self.done);
        }
        self.slowest_start = self.slowest_start.max(begun.elapsed());
    }

    async fn pause(&mut self, longest_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.dice.u64(..longest_ms))).await;
    }

    fn note(&mut self, what: &str) {
        println!("  {what}");
        self.done.push(what.to_owned());
    }
}

fn disk(relay: &Relay) -> &Disk {
    relay.disk().expect("only drawn with a disk")
}
