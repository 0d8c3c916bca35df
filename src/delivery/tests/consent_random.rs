//! Random histories of people who agree and withdraw, with crashes and faults.
//!
//! `LEGS_CASES` runs more of them, and others each time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::histories::play_all;
use crate::brevo::identifiers::Membership;
use crate::config::{Consent, EventRule};
use crate::delivery::testing::{Relay, Setup, World, text};
use crate::record::Destination;

const BREVO: Destination = Destination::Brevo;
const PEOPLE: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    Event(usize),
    Plan(usize, u8),
    Answer(usize, bool),
    Email(usize),
    Crash,
    Restart,
    Fault(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..PEOPLE).prop_map(Step::Event),
        3 => (0..PEOPLE, 0u8..9).prop_map(|(person, plan)| Step::Plan(person, plan)),
        3 => (0..PEOPLE, any::<bool>()).prop_map(|(person, yes)| Step::Answer(person, yes)),
        2 => (0..PEOPLE).prop_map(Step::Email),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
        1 => (0usize..3).prop_map(Step::Fault),
        3 => (0u64..250).prop_map(Step::Wait),
    ]
}

/// What was asked for of one person.
#[derive(Default)]
struct Reference {
    agrees: bool,
    plan: String,
    /// Events of the time since they last agreed.
    allowed: Vec<i64>,
    /// Events made while they did not agree.
    forbidden: BTreeSet<i64>,
}

type People = BTreeMap<usize, Reference>;

async fn play(step: Step, n: i64, world: &World, relay: Relay, people: &mut People) -> Relay {
    let id = |person: usize| format!("u{person}");
    match step {
        Step::Event(person) => {
            let reference = people.entry(person).or_default();
            if reference.agrees {
                reference.allowed.push(n);
            } else {
                reference.forbidden.insert(n);
            }
            relay.append(vec![world.purchase(&id(person), n)]).await;
        }
        Step::Plan(person, plan) => {
            people.entry(person).or_default().plan = format!("p{plan}");
            relay.append(vec![world.set(&id(person), json!({"plan": format!("p{plan}")}))]).await;
        }
        Step::Answer(person, yes) => {
            let reference = people.entry(person).or_default();
            reference.agrees = yes;
            if !yes {
                reference.allowed.clear();
            }
            relay.append(vec![world.set(&id(person), json!({"marketing_ok": yes}))]).await;
        }
        Step::Email(person) => {
            relay.append(vec![world.set(&id(person), json!({"$email": format!("{}@example.com", id(person))}))]).await;
        }
        Step::Crash => {
            relay.kill().await;
            return world.relay().await;
        }
        Step::Restart => {
            relay.drain().await;
            return world.relay().await;
        }
        Step::Fault(which) => {
            let faults = [
                json!({"kind": "status", "status": 500, "times": 2}),
                json!({"kind": "reset", "times": 2}),
                json!({"kind": "latency", "ms": 80}),
            ];
            world.faults(faults[which].clone()).await;
        }
        Step::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
    }
    relay
}

async fn run(steps: &[Step]) {
    let consent = Consent::Required { property: "marketing_ok".to_owned(), value: json!(true) };
    let mut setup = Setup { consent, ..Setup::brevo() };
    let rule = EventRule { lists: [(16, Membership::In)].into(), ..EventRule::from("order_completed") };
    setup.mapping.events.insert("Purchase".to_owned(), rule);
    let world = World::new(setup).await;
    let mut relay = world.relay().await;
    let mut people = People::new();
    for (n, step) in (0..).zip(steps) {
        relay = play(*step, n, &world, relay, &mut people).await;
    }
    world.heal().await;
    for person in 0..PEOPLE {
        relay = play(Step::Email(person), -1, &world, relay, &mut people).await;
    }
    relay.until(BREVO, "done", |report| report.backlog == 0 && report.parked == 0).await;
    assert!(relay.dead_letters(BREVO).await.is_empty());
    relay.drain().await;

    let applied: Vec<i64> = world.brevo_events().await.into_iter().map(|(n, _)| n).collect();
    for (person, reference) in &people {
        let contact = world.contact(&format!("u{person}@example.com")).await;
        let forbidden: Vec<_> = applied.iter().filter(|n| reference.forbidden.contains(n)).collect();
        assert!(forbidden.is_empty(), "u{person} had not agreed to {forbidden:?}");
        if !reference.agrees {
            assert!(contact.is_null() || contact["emailBlacklisted"] == true, "u{person}: {contact}");
            continue;
        }
        assert_eq!(text(&contact["attributes"]["PLAN_TYPE"]), reference.plan, "plan of u{person}");
        let missing: Vec<_> = reference.allowed.iter().filter(|n| !applied.contains(n)).collect();
        assert!(missing.is_empty(), "u{person} had agreed to {missing:?}");
        assert!(reference.allowed.is_empty() || contact["listIds"] == json!([16]), "u{person}: {contact}");
    }
}

#[test]
fn nobody_who_does_not_agree_is_sent_and_everybody_who_does_is() {
    play_all(4, proptest::collection::vec(step(), 20..60), async |steps| run(&steps).await);
}
