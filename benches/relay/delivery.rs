//! Events that reach both sandboxes, against events accepted in the same run; and a steady stream of 20,000 a second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Failure;
use super::load::{self, Shape};
use super::processes::{Relay, Sandbox, Standing, both_settled, scratch};
use super::records::{self, PEOPLE};
use super::report::{Aim, Report, median, milliseconds, thousands};

const ROUNDS: usize = 3;
const FLOOD: Shape = Shape { connections: 256, duration: Duration::from_secs(5), pace: None };
/// 20,000 events a second in batches of 50, which is what mobile SDKs send at most. Every other event is one that Brevo
/// gets: 10,000 a second, just inside what the largest plan allows.
pub const BATCH: usize = 50;
const STEADY: Shape = Shape { connections: 64, duration: Duration::from_secs(15), pace: Some(400.0) };
const PATIENCE: Duration = Duration::from_secs(90);

/// A sandbox that keeps little of what comes, with the highest limit of Brevo's that the relay takes for calls a second:
/// 99 calls of up to 200 events. (Brevo's own largest plan allows 60.)
pub const FREE: &str = r#"{"logs":{"counts_only":true},"brevo":{"per_second":99,"attribute_delay_ms":0}}"#;

/// A relay whose 2,000 people are contacts at Brevo.
pub fn with_people(directory: &std::path::Path, sandbox: &Sandbox) -> Result<Relay, Failure> {
    let relay = Relay::start(directory, sandbox)?;
    make_known(&relay, PATIENCE)?;
    Ok(relay)
}

/// Makes contacts of the 2,000 people.
pub fn make_known(relay: &Relay, patience: Duration) -> Result<(), Failure> {
    super::http::send(relay.address, &mut records::engage(0..PEOPLE, 0))?;
    relay.wait_until(patience, |standing| both_settled(standing) && standing[1].delivered == PEOPLE)?;
    Ok(())
}

pub fn run(report: &mut Report) -> Result<(), Failure> {
    let directory = scratch("delivery-")?;
    let sandbox = Sandbox::start(FREE)?;
    let relay = with_people(directory.path(), &sandbox)?;
    let templates = [records::track(1)];
    let (mut accepted, mut delivered, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = relay.standing()?;
        let started = Instant::now();
        let outcome = load::run(relay.address, &templates, FLOOD)?.all_taken()?;
        let (_, after) = relay.wait_until(PATIENCE, both_settled)?;
        let took = started.elapsed();
        for (before, after) in before.iter().zip(&after) {
            if after.delivered - before.delivered != outcome.records {
                return Err(format!("{} events accepted, but {before:?} became {after:?}", outcome.records).into());
            }
        }
        let rate = outcome.records as f64 / took.as_secs_f64();
        accepted.push(outcome.record_rate());
        delivered.push(rate);
        ratios.push(rate / outcome.record_rate());
    }
    let against = format!("accepted {}", thousands(median(&accepted)));
    report.row(
        "delivered to both sandboxes, one event a request, 256 connections",
        thousands(median(&delivered)),
        against,
        ratios,
        Aim::AtLeast(0.5),
    );
    steady(report, &relay)?;
    report.note(format!("relay after delivery to both: {}", relay.process.resident()));
    Ok(())
}

/// The largest backlogs of the two halves of a steady stream.
fn steady(report: &mut Report, relay: &Relay) -> Result<(), Failure> {
    let ended = AtomicBool::new(false);
    let started = Instant::now();
    let (outcome, samples) = std::thread::scope(|scope| {
        let sampling = scope.spawn(|| {
            let mut samples: Vec<(Duration, [Standing; 2])> = Vec::new();
            while !ended.load(Ordering::Acquire) {
                if let Ok(standing) = relay.standing() {
                    samples.push((started.elapsed(), standing));
                }
                std::thread::sleep(Duration::from_millis(250));
            }
            samples
        });
        let outcome = load::run(relay.address, &[records::half_mapped(BATCH)], STEADY);
        ended.store(true, Ordering::Release);
        (outcome, sampling.join().unwrap_or_default())
    });
    let outcome = outcome?.all_taken()?;
    let (drained, _) = relay.wait_until(PATIENCE, both_settled)?;
    let largest = |from: f64, to: f64, destination: usize| {
        let within = |(at, _): &&(Duration, [Standing; 2])| {
            let share = at.as_secs_f64() / STEADY.duration.as_secs_f64();
            (from..to).contains(&share)
        };
        samples.iter().filter(within).map(|(_, standing)| standing[destination].backlog).max().unwrap_or(0)
    };
    let rate = outcome.record_rate();
    // Behind is who needs time to catch up: at this rate a second's worth is 20,000 events.
    let kept_up = rate > 19_000.0 && drained < Duration::from_secs(1);
    report.and(
        format!("kept up with {} in batches of {BATCH}, drained {drained:.1?} after its end", thousands(rate)),
        kept_up,
    );
    for (destination, name) in ["Mixpanel", "Brevo"].into_iter().enumerate() {
        report.note(format!(
            "largest {name} backlog at the steady rate: {} in the first half, {} in the second",
            largest(0.0, 0.5, destination),
            largest(0.5, 1.01, destination)
        ));
    }
    report.note(format!(
        "accept at the steady rate: p50 {}, p99 {}",
        milliseconds(outcome.p50()),
        milliseconds(outcome.p99())
    ));
    Ok(())
}
