//! What history costs, and how long a trace takes: two relays that deliver to both sandboxes in turns, one that keeps
//! history and one that keeps none.

use std::time::{Duration, Instant};

use super::Failure;
use super::delivery::{FREE, make_known};
use super::load::{self, Shape};
use super::processes::{Relay, Sandbox, both_settled, scratch};
use super::records;
use super::report::{Aim, Report, median, milliseconds, thousands};

const ROUNDS: usize = 3;
/// A trace that looks for what is not there has looked at all of history.
const ABSENT: [(&str, &str); 3] =
    [("insert_id", "bench-absent"), ("distinct_id", "nobody"), ("email", "nobody@example.com")];
const TRIES: usize = 5;
const PATIENCE: Duration = Duration::from_secs(180);

/// `HISTORY_SECONDS` makes each flood longer, and history larger: a million entries take about a minute.
fn flood() -> Shape {
    let seconds = std::env::var("HISTORY_SECONDS").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(5);
    Shape { connections: 256, duration: Duration::from_secs(seconds), pace: None }
}

/// Events delivered, and the processor time of the relay for each.
struct Round {
    rate: f64,
    micros: f64,
    records: u64,
}

fn round(relay: &Relay) -> Result<Round, Failure> {
    let (cpu, started) = (relay.process.cpu(), Instant::now());
    let outcome = load::run(relay.address, &[records::track(1)], flood())?.all_taken()?;
    relay.wait_until(PATIENCE, both_settled)?;
    let rate = outcome.records as f64 / started.elapsed().as_secs_f64();
    let micros = (relay.process.cpu() - cpu).as_secs_f64() * 1e6 / outcome.records as f64;
    Ok(Round { rate, micros, records: outcome.records })
}

pub fn run(report: &mut Report) -> Result<(), Failure> {
    let sandboxes = [Sandbox::start(FREE)?, Sandbox::start(FREE)?];
    let directories = [scratch("history-on-")?, scratch("history-off-")?];
    let on = Relay::start(directories[0].path(), &sandboxes[0])?;
    let off = Relay::without_history(directories[1].path(), &sandboxes[1])?;
    make_known(&on, PATIENCE)?;
    make_known(&off, PATIENCE)?;
    let (mut rates, mut others, mut ratios, mut costs, mut held) = (vec![], vec![], vec![], vec![], 0);
    for _ in 0..ROUNDS {
        let (with, without) = (round(&on)?, round(&off)?);
        held += with.records;
        rates.push(with.rate);
        others.push(without.rate);
        ratios.push(with.rate / without.rate);
        costs.push(with.micros / without.micros);
    }
    let against = format!("without history {}", thousands(median(&others)));
    let measure = "delivered to both sandboxes with history, one event a request, 256 connections";
    report.row(measure, thousands(median(&rates)), against, ratios, Aim::AtLeast(0.95));
    report.note(format!("processor time of an event with history, by that without: {:.3}", median(&costs)));
    report.note(format!(
        "{held} entries of history; files of the relay with history {} MiB, of the other {} MiB",
        on.stored_bytes() >> 20,
        off.stored_bytes() >> 20
    ));
    trace(report, &on, "insert_id", &records::first_insert_id(), "the oldest event by its $insert_id")?;
    for (by, of) in ABSENT {
        trace(report, &on, by, of, &format!("nobody's {by}"))?;
    }
    trace(report, &on, "distinct_id", "user-000007", "the last 100 of a person")?;
    trace(report, &on, "outcome", "dead", "the refused of everybody, of which there are none, one answer")?;
    Ok(())
}

/// How long answers take until there is one with something in it, or history has ended.
fn trace(report: &mut Report, relay: &Relay, by: &str, of: &str, what: &str) -> Result<(), Failure> {
    let (mut took, mut answers, mut found) = (Vec::new(), 0, 0);
    for _ in 0..TRIES {
        let started = Instant::now();
        let mut cursor = String::new();
        (answers, found) = (0, 0);
        loop {
            let answer = relay.ask("GET", &format!("/v1/trace?{by}={of}{cursor}"), "")?;
            answers += 1;
            found += answer["items"].as_array().map_or(0, Vec::len);
            match answer["next"].as_str() {
                Some(next) if found == 0 && by != "outcome" => cursor = format!("&cursor={next}"),
                _ => break,
            }
        }
        took.push(started.elapsed().as_secs_f64() * 1e6);
    }
    let answers = if answers == 1 { "1 answer".to_owned() } else { format!("{answers} answers") };
    report.note(format!("trace of {what}: {} in {answers}, {found} records", milliseconds(median(&took))));
    Ok(())
}
