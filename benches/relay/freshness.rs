//! How long after an event was sent to an idle relay both sandboxes have it (P9 counts from acceptance, which is later).

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Failure;
use super::delivery::with_people;
use super::processes::{Sandbox, both_settled, scratch};
use super::report::{Aim, Report, percentile};
use super::{http, records};

const EVENTS: usize = 80;
/// Four a second: an idle relay, inside the smallest plan's limit of ten calls.
const EVERY: Duration = Duration::from_millis(250);

pub fn run(report: &mut Report) -> Result<(), Failure> {
    let directory = scratch("freshness-")?;
    let sandbox = Sandbox::start("{}")?;
    let relay = with_people(directory.path(), &sandbox)?;
    let mut sent = Vec::new();
    let started = Instant::now();
    for number in 0..EVENTS {
        let due = EVERY * u32::try_from(number)?;
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        sent.push(jiff::Timestamp::now().as_millisecond());
        http::send(relay.address, &mut records::marked(number))?;
    }
    relay.wait_until(Duration::from_secs(30), both_settled)?;
    let mixpanel = arrivals(&sandbox.get("/mixpanel/events?raw=1")?, "/record/properties/mark");
    let brevo = arrivals(&sandbox.get("/brevo/events")?, "/event/event_properties/mark");
    for (name, arrivals) in [("Mixpanel", mixpanel), ("Brevo", brevo)] {
        if arrivals.len() != EVENTS {
            return Err(format!("{} of {EVENTS} events arrived at {name}", arrivals.len()).into());
        }
        let late = |(number, at): &(usize, i64)| u32::try_from(at - sent[*number]).unwrap_or(0);
        let late: Vec<u32> = arrivals.iter().map(late).collect();
        let (p50, p99) = (percentile(&late, 0.5), percentile(&late, 0.99));
        report.row(
            &format!("fresh: from sending to arrival at {name}, idle relay, p99"),
            format!("p50 {p50} ms, p99 {p99} ms"),
            "300 ms".to_owned(),
            vec![f64::from(p99) / 300.0],
            Aim::AtMost(1.0),
        );
    }
    report.note(format!("idle relay: {}", relay.process.resident()));
    Ok(())
}

/// Number and time of arrival of every marked event.
fn arrivals(log: &Value, mark: &str) -> Vec<(usize, i64)> {
    let events = log["events"].as_array().into_iter().flatten();
    let read = |event: &Value| Some((usize::try_from(event.pointer(mark)?.as_u64()?).ok()?, event["at"].as_i64()?));
    events.filter_map(read).collect()
}
