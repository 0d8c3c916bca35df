//! What a black-holed destination and a large backlog do to the time that apps wait: two relays side by side, one healthy
//! and empty, one in trouble, measured in turns.

use std::time::Duration;

use super::Failure;
use super::delivery::{FREE, with_people};
use super::load::{self, Outcome, Shape};
use super::processes::{Relay, Sandbox, scratch};
use super::records;
use super::report::{Aim, Report, median, milliseconds};

const ROUNDS: usize = 7;
/// Well below what the machine can take: the figure is about waiting for the disk, not about a full queue.
const SHAPE: Shape = Shape { connections: 64, duration: Duration::from_secs(3), pace: Some(2_000.0) };
const BLACK_HOLE: &str = r#"{"vendor":"mixpanel","kind":"black_hole"}"#;
const FILL_AT_ONCE: Shape = Shape { connections: 4, duration: Duration::from_secs(5), pace: None };

/// Size of the backlog in GiB; the design's own is 10.
fn backlog_gib() -> f64 {
    std::env::var("BACKLOG_GIB").ok().and_then(|value| value.parse().ok()).unwrap_or(1.0)
}

pub fn run(report: &mut Report) -> Result<(), Failure> {
    let (healthy_directory, directory) = (scratch("healthy-")?, scratch("backlog-")?);
    let healthy_sandbox = Sandbox::start(FREE)?;
    let healthy = with_people(healthy_directory.path(), &healthy_sandbox)?;
    let sandbox = Sandbox::start(FREE)?;
    let troubled = with_people(directory.path(), &sandbox)?;
    compare(report, &healthy, &healthy, "accept p99 of the healthy relay against itself: the noise")?;
    sandbox.put("/faults", BLACK_HOLE)?;
    compare(report, &healthy, &troubled, "accept p99, Mixpanel black-holed")?;

    let gib = backlog_gib();
    fill(&troubled, (gib * f64::from(1 << 30)) as u64)?;
    report.note(format!("relay with a backlog of {gib} GiB, before the rounds: {}", troubled.process.resident()));
    compare(report, &healthy, &troubled, &format!("accept p99, Mixpanel black-holed, backlog of {gib} GiB"))?;
    report.note(format!("relay with a backlog of {gib} GiB, after the rounds: {}", troubled.process.resident()));
    report.note(format!("healthy relay beside it: {}", healthy.process.resident()));

    drop(troubled);
    let again = Relay::start(directory.path(), &sandbox)?;
    let [mixpanel, _] = again.standing()?;
    report
        .note(format!("start-up after kill -9 with a backlog of {} records: {:.0?}", mixpanel.backlog, again.start_up));
    Ok(())
}

/// Fills the journal with events that Brevo needs nothing of, and waits until Brevo's leg has passed them.
fn fill(relay: &Relay, bytes: u64) -> Result<(), Failure> {
    let filler = [records::filler()];
    while relay.stored_bytes() < bytes {
        load::run(relay.address, &filler, FILL_AT_ONCE)?.all_taken()?;
    }
    relay.wait_until(Duration::from_secs(300), |standing| standing[1].backlog == 0)?;
    Ok(())
}

fn compare(report: &mut Report, healthy: &Relay, other: &Relay, measure: &str) -> Result<(), Failure> {
    let templates = [records::track(1)];
    let (mut base, mut troubled, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let one = round(healthy, &templates)?;
        let two = round(other, &templates)?;
        ratios.push(two.p99() / one.p99());
        base.push(one);
        troubled.push(two);
    }
    let of = |outcomes: &[Outcome], figure: fn(&Outcome) -> f64| {
        milliseconds(median(&outcomes.iter().map(figure).collect::<Vec<_>>()))
    };
    report.row(measure, of(&troubled, Outcome::p99), of(&base, Outcome::p99), ratios, Aim::AtMost(1.2));
    report.note(format!("p50 of the same: {} against {}", of(&troubled, Outcome::p50), of(&base, Outcome::p50)));
    Ok(())
}

fn round(relay: &Relay, templates: &[records::Template]) -> Result<Outcome, Failure> {
    let outcome = load::run(relay.address, templates, SHAPE)?.all_taken()?;
    // Brevo is healthy in every case; what it is still owed must not run into the next round.
    relay.wait_until(Duration::from_secs(30), |standing| standing[1].backlog == 0)?;
    Ok(outcome)
}
