//! How many calls Brevo is asked for: 10,000 profile updates and 10,000 mapped events of 2,000 people, who are new to it,
//! inside the limits of an ordinary account.

use std::time::{Duration, Instant};

use super::Failure;
use super::http;
use super::processes::{Relay, Sandbox, scratch};
use super::records::{self, PEOPLE};
use super::report::{Aim, Report};

/// Updates, and events, of each person.
const EACH: usize = 5;
/// People named by one request.
const AT_ONCE: u64 = 50;
/// Time over which the 20,000 records come in.
const OVER: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(180);

pub fn run(report: &mut Report) -> Result<(), Failure> {
    let directory = scratch("calls-")?;
    let sandbox = Sandbox::start("{}")?;
    let relay = Relay::start(directory.path(), &sandbox)?;
    let started = Instant::now();
    let steps = EACH as u64 * PEOPLE / AT_ONCE;
    for step in 0..steps {
        let due = OVER.mul_f64(step as f64 / steps as f64);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        let first = step * AT_ONCE % PEOPLE;
        let round = usize::try_from(step * AT_ONCE / PEOPLE)?;
        http::send(relay.address, &mut records::engage(first..first + AT_ONCE, round))?;
        http::send(relay.address, &mut records::track_of(first..first + AT_ONCE, round))?;
    }
    let records = 2 * EACH as u64 * PEOPLE;
    let (_, [_, brevo]) = relay.wait_until(PATIENCE, |[_, brevo]| brevo.backlog == 0 && brevo.parked == 0)?;
    let took = started.elapsed();
    let counts = sandbox.get("/brevo/counts")?;
    let requests = &counts["requests"];
    let calls = requests["total"].as_u64().ok_or("no count of requests")?;
    let refused = requests["by_status"]["429"].as_u64().unwrap_or(0);
    let applied = counts["counts"]["events"]["applied"].as_u64().unwrap_or(0);
    if brevo.delivered != records || applied * 2 != records {
        return Err(format!("{records} records, but {brevo:?} and {counts}").into());
    }
    report.row(
        "Brevo calls for 10,000 profile updates and 10,000 events of 2,000 people",
        format!("{calls} calls in {} s", took.as_secs()),
        format!("{records} records in {} s", OVER.as_secs()),
        vec![calls as f64 / records as f64],
        Aim::AtMost(0.05),
    );
    report.and(format!("{refused} answers of 429"), refused == 0);
    report.note(format!("Brevo's calls by path: {}", requests["by_path"]));
    report.note(format!("relay after that: {}", relay.process.resident()));
    Ok(())
}
