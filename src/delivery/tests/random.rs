//! Random histories of a few people through both legs, with crashes and faults, against a plain reference.
//!
//! `LEGS_CASES` runs more of them, and others each time.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::histories::play_all;
use crate::delivery::testing::{Relay, Setup, World, text};
use crate::record::Destination;

#[derive(Clone, Copy, Debug)]
enum Step {
    Event(usize),
    Set(usize, u8),
    Unset(usize),
    /// With one of their addresses; they end with the first.
    Identify(usize, u8),
    Crash,
    Restart,
    Fault(usize),
    Wait(u64),
}

const PEOPLE: usize = 4;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..PEOPLE).prop_map(Step::Event),
        4 => (0..PEOPLE, 0u8..9).prop_map(|(person, plan)| Step::Set(person, plan)),
        1 => (0..PEOPLE).prop_map(Step::Unset),
        2 => (0..PEOPLE, 0u8..3).prop_map(|(person, which)| Step::Identify(person, which)),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
        1 => (0usize..4).prop_map(Step::Fault),
        3 => (0u64..250).prop_map(Step::Wait),
    ]
}

fn fault(which: usize) -> Value {
    let kind = [
        json!({"kind": "status", "status": 500, "times": 2}),
        json!({"kind": "reset", "times": 2}),
        json!({"kind": "status", "status": 429, "times": 1}),
        json!({"kind": "latency", "ms": 80}),
    ];
    kind[which].clone()
}

/// What was asked for, in order.
#[derive(Default)]
struct Reference {
    plans: BTreeMap<usize, Option<String>>,
    events: BTreeMap<usize, Vec<i64>>,
    accepted: i64,
}

async fn run(steps: &[Step]) {
    let world = World::new(Setup::both()).await;
    let mut relay = world.relay().await;
    let mut reference = Reference::default();
    let mut crashed = false;
    for step in steps {
        relay = play(*step, &world, relay, &mut reference).await;
        crashed |= matches!(step, Step::Crash);
    }
    world.heal().await;
    for person in 0..PEOPLE {
        relay = play(Step::Identify(person, 0), &world, relay, &mut reference).await;
    }
    for destination in Destination::ALL {
        relay.until(destination, "done", |report| report.backlog == 0 && report.parked == 0).await;
        assert!(relay.dead_letters(destination).await.is_empty());
    }
    relay.drain().await;
    check(&world, &reference, crashed).await;
}

async fn play(step: Step, world: &World, relay: Relay, reference: &mut Reference) -> Relay {
    let id = |person: usize| format!("u{person}");
    match step {
        Step::Event(person) => {
            let n = reference.accepted;
            reference.accepted += 1;
            reference.events.entry(person).or_default().push(n);
            relay.append(vec![world.purchase(&id(person), n)]).await;
        }
        Step::Set(person, plan) => {
            let plan = format!("p{plan}");
            relay.append(vec![world.set(&id(person), json!({"plan": plan}))]).await;
            reference.plans.insert(person, Some(plan));
        }
        Step::Unset(person) => {
            relay.append(vec![world.update(&id(person), "$unset", json!(["plan"]))]).await;
            reference.plans.insert(person, None);
        }
        Step::Identify(person, which) => {
            let email = format!("{}-{which}@example.com", id(person));
            relay.append(vec![world.set(&id(person), json!({"$email": email}))]).await;
        }
        Step::Crash => {
            relay.kill().await;
            return world.relay().await;
        }
        Step::Restart => {
            relay.drain().await;
            return world.relay().await;
        }
        Step::Fault(which) => world.faults(fault(which)).await,
        Step::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
    }
    relay
}

async fn check(world: &World, reference: &Reference, crashed: bool) {
    let sent = world.brevo_events().await;
    assert!(sent.iter().all(|(_, outcome)| outcome == "applied"), "an event came before its contact: {sent:?}");
    if !crashed {
        assert_eq!(sent.len() as i64, reference.accepted, "doubled without a crash: {sent:?}");
    }
    for (person, expected) in &reference.events {
        let mut seen: Vec<i64> = Vec::new();
        for (n, _) in sent.iter().filter(|(n, _)| expected.contains(n)) {
            if !seen.contains(n) {
                seen.push(*n);
            }
        }
        assert_eq!(&seen, expected, "events of u{person} at Brevo");
    }
    for (person, plan) in &reference.plans {
        let at_brevo = text(&world.contact(&format!("u{person}")).await["attributes"]["PLAN_TYPE"]);
        assert_eq!(at_brevo, plan.clone().unwrap_or_default(), "plan of u{person} at Brevo");
        let profile = world.show(&format!("/mixpanel/profiles/u{person}")).await;
        assert_eq!(profile["$properties"]["plan"].as_str(), plan.as_deref(), "plan of u{person} at Mixpanel");
    }
    let records = world.show("/mixpanel/counts").await["records"].clone();
    let duplicates = records["duplicates"]["event"].as_i64().unwrap_or(0);
    assert_eq!(records["stored"]["event"].as_i64().unwrap_or(0) - duplicates, reference.accepted);
}

#[test]
fn whatever_happens_both_vendors_end_with_what_was_accepted() {
    play_all(4, proptest::collection::vec(step(), 20..60), async |steps| run(&steps).await);
}
