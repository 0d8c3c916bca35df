//! How many calls Brevo is asked for, inside the limits of an ordinary account, and in how much memory: profile updates by
//! every operator and mapped events, of people who are new to it. By itself 2,000 of them; `PEOPLE=1000000` is the promise's
//! size, with fewer records of each.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Failure;
use super::http;
use super::processes::{Relay, Sandbox, scratch};
use super::records;
use super::report::{Aim, Report};

/// What a relay may have resident (P10).
const MEMORY: u64 = 256;

struct Shape {
    people: u64,
    /// Updates of each person.
    updates: u64,
    /// Events of a person, of whom one in so many has any.
    events: u64,
    one_in: u64,
    /// People named by one request.
    at_once: u64,
    /// Time over which it comes in.
    over: Duration,
    patience: Duration,
}

impl Shape {
    fn wanted() -> Result<Self, Failure> {
        Ok(match std::env::var("PEOPLE") {
            Err(_) => Self {
                people: records::PEOPLE,
                updates: 5,
                events: 5,
                one_in: 1,
                at_once: 50,
                over: Duration::from_secs(20),
                patience: Duration::from_secs(180),
            },
            Ok(people) => {
                let people: u64 = people.parse()?;
                Self {
                    people,
                    updates: 2,
                    events: 1,
                    one_in: 10,
                    at_once: 2_000,
                    over: Duration::ZERO,
                    // Twice what a machine takes that has nothing else to do.
                    patience: Duration::from_secs(600 + people / 300),
                }
            }
        })
    }

    fn records(&self) -> (u64, u64) {
        (self.updates * self.people, self.events * self.people / self.one_in)
    }
}

pub fn run(report: &mut Report) -> Result<(), Failure> {
    let shape = Shape::wanted()?;
    let (updates, events) = shape.records();
    let directory = scratch("calls-")?;
    let sandbox = Sandbox::start(r#"{"logs":{"counts_only":true}}"#)?;
    let relay = Relay::start(directory.path(), &sandbox)?;
    let started = Instant::now();
    send(&shape, &relay, started)?;
    let came_in = started.elapsed();
    let (_, [_, brevo]) = relay.wait_until(shape.patience, |[_, brevo]| brevo.backlog == 0 && brevo.parked == 0)?;
    let took = started.elapsed();
    let counts = sandbox.get("/brevo/counts")?;
    let requests = &counts["requests"];
    let calls = requests["total"].as_u64().ok_or("no count of requests")?;
    let refused = requests["by_status"]["429"].as_u64().unwrap_or(0);
    let applied = counts["counts"]["events"]["applied"].as_u64().unwrap_or(0);
    let contacts = counts["contacts"].as_u64().unwrap_or(0);
    let records = updates + events;
    if brevo.delivered != records || applied != events || contacts != shape.people {
        return Err(format!("{records} records, but {brevo:?} and {counts}").into());
    }
    values_are_right(&shape, &sandbox)?;
    report.row(
        &format!("Brevo calls for {updates} profile updates and {events} events of {} people", shape.people),
        format!("{calls} calls in {} s", took.as_secs()),
        format!("{records} records in {} s", came_in.as_secs()),
        vec![calls as f64 / records as f64],
        Aim::AtMost(0.05),
    );
    report.and(format!("{refused} answers of 429"), refused == 0);
    let peak = relay.process.peak() >> 20;
    report.row(
        &format!("memory of {} people", shape.people),
        format!("{peak} MiB at the peak"),
        format!("{MEMORY} MiB"),
        vec![peak as f64 / MEMORY as f64],
        Aim::AtMost(1.0),
    );
    report.note(format!("Brevo's calls by path: {}", requests["by_path"]));
    report.note(format!("relay after that: {}; {} MiB of store", relay.process.resident(), relay.stored_bytes() >> 20));
    Ok(())
}

fn send(shape: &Shape, relay: &Relay, started: Instant) -> Result<(), Failure> {
    let a_round = shape.people.div_ceil(shape.at_once);
    let steps = shape.updates.max(shape.events) * a_round;
    for step in 0..steps {
        std::thread::sleep(shape.over.mul_f64(step as f64 / steps as f64).saturating_sub(started.elapsed()));
        let (round, first) = (step / a_round, step % a_round * shape.at_once);
        let people = first..(first + shape.at_once).min(shape.people);
        if round < shape.updates {
            http::send(relay.address, &mut records::operators(people.clone(), round))?;
        }
        if round < shape.events {
            let some: Vec<u64> = people.filter(|person| person % shape.one_in == 0).collect();
            http::send(relay.address, &mut records::track_of(&some, round))?;
        }
    }
    Ok(())
}

/// Of some people, what was added up is what all of their updates say.
fn values_are_right(shape: &Shape, sandbox: &Sandbox) -> Result<(), Failure> {
    for person in (0..shape.people).step_by(usize::try_from(shape.people / 500)?.max(1)) {
        let contact = sandbox.get(&format!("/brevo/contacts/user-{person:06}@example.com"))?;
        let expected = records::revenue(person, shape.updates);
        if contact["attributes"]["LTV"].as_f64() != Some(expected) {
            return Err(format!("{expected} is the revenue of {person}, but {contact}").into());
        }
        if contact["attributes"]["PLAN_TYPE"].as_str().is_none_or(|plan| !plan.contains("basic")) {
            return Err(format!("the plan of {person}: {contact}").into());
        }
        let emptied = records::loses_name(person, shape.updates);
        if matches!(contact["attributes"]["FIRSTNAME"], Value::String(ref name) if !name.is_empty()) == emptied {
            return Err(format!("the name of {person}, which is emptied: {emptied}: {contact}").into());
        }
    }
    Ok(())
}
