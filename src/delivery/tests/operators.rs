//! Random histories of profile operators, over a Mixpanel that is not empty at the start, against a plain fold of what was
//! accepted. `LEGS_CASES` runs more of them, and others each time.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::histories::play_all;
use crate::delivery::testing::{Relay, Setup, World, text};
use crate::record::Destination;

const PEOPLE: usize = 4;

#[derive(Clone, Copy, Debug)]
enum Step {
    Add(usize, i64),
    SetNumber(usize, Option<i64>),
    Once(usize, i64),
    Append(usize, u8),
    Union(usize, u8),
    Remove(usize, u8),
    /// `kill -9`, once Mixpanel has taken what it was sent: an addition in flight may reach it twice.
    Crash,
    Fault(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let who = || 0..PEOPLE;
    prop_oneof![
        5 => (who(), -9i64..9).prop_map(|(person, by)| Step::Add(person, by)),
        1 => (who(), proptest::option::of(-9i64..9)).prop_map(|(person, to)| Step::SetNumber(person, to)),
        2 => (who(), -9i64..9).prop_map(|(person, to)| Step::Once(person, to)),
        2 => (who(), 0u8..3).prop_map(|(person, item)| Step::Append(person, item)),
        2 => (who(), 0u8..3).prop_map(|(person, item)| Step::Union(person, item)),
        1 => (who(), 0u8..3).prop_map(|(person, item)| Step::Remove(person, item)),
        1 => Just(Step::Crash),
        1 => (0usize..2).prop_map(Step::Fault),
        3 => (0u64..300).prop_map(Step::Wait),
    ]
}

/// One person as Mixpanel documents the operators.
#[derive(Clone, Debug, Default)]
struct Profile {
    number: Option<i64>,
    list: Option<Vec<u8>>,
}

impl Profile {
    /// Every other person was there before the relay.
    fn before(person: usize) -> Self {
        if person.is_multiple_of(2) { Self { number: Some(1_000), list: Some(vec![0, 1, 0]) } } else { Self::default() }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Add(_, by) => self.number = Some(self.number.unwrap_or(0) + by),
            Step::SetNumber(_, to) => self.number = to,
            Step::Once(_, to) => self.number = self.number.or(Some(to)),
            Step::Append(_, item) => self.list.get_or_insert_default().push(item),
            Step::Union(_, item) => {
                let list = self.list.get_or_insert_default();
                if !list.contains(&item) {
                    list.push(item);
                }
            }
            Step::Remove(_, item) => self.list.iter_mut().for_each(|list| list.retain(|held| *held != item)),
            Step::Crash | Step::Fault(_) | Step::Wait(_) => {}
        }
    }
}

async fn play(step: Step, world: &World, relay: Relay, reference: &mut [Profile]) -> Relay {
    let (person, operator, operand) = match step {
        Step::Add(person, by) => (person, "$add", json!({"total_revenue": by})),
        Step::SetNumber(person, Some(to)) => (person, "$set", json!({"total_revenue": to})),
        Step::SetNumber(person, None) => (person, "$unset", json!(["total_revenue"])),
        Step::Once(person, to) => (person, "$set_once", json!({"total_revenue": to})),
        Step::Append(person, item) => (person, "$append", json!({"plan": item})),
        Step::Union(person, item) => (person, "$union", json!({"plan": [item]})),
        Step::Remove(person, item) => (person, "$remove", json!({"plan": item})),
        Step::Crash => {
            relay.until(Destination::Mixpanel, "taken", |report| report.backlog == 0).await;
            tokio::time::sleep(Duration::from_millis(600)).await;
            relay.kill().await;
            return world.relay().await;
        }
        Step::Fault(which) => {
            let faults = [
                json!({"vendor": "brevo", "kind": "status", "status": 500, "times": 2}),
                json!({"vendor": "mixpanel", "path_prefix": "/api/query", "kind": "latency", "ms": 200}),
            ];
            world.faults(faults[which].clone()).await;
            return relay;
        }
        Step::Wait(ms) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            return relay;
        }
    };
    relay.append(vec![world.update(&format!("u{person}"), operator, operand)]).await;
    reference[person].take(step);
    relay
}

async fn run(steps: &[Step]) {
    let world = World::new(Setup::both()).await;
    let mut reference: Vec<_> = (0..PEOPLE).map(Profile::before).collect();
    for (person, profile) in reference.iter().enumerate().filter(|(_, profile)| profile.number.is_some()) {
        let properties = json!({"total_revenue": profile.number, "plan": profile.list});
        let profile = json!({"distinct_id": format!("u{person}"), "properties": properties});
        world.control("POST", "/mixpanel/seed", json!({"profiles": [profile]})).await;
    }
    let mut relay = world.relay().await;
    for person in 0..PEOPLE {
        let email = json!({"$email": format!("u{person}@example.com")});
        relay.append(vec![world.set(&format!("u{person}"), email)]).await;
    }
    for step in steps {
        relay = play(*step, &world, relay, &mut reference).await;
    }
    world.heal().await;
    // Everybody's values are asked for by now, or known.
    for person in 0..PEOPLE {
        for step in [Step::Add(person, 1), Step::Append(person, 2)] {
            relay = play(step, &world, relay, &mut reference).await;
        }
    }
    for destination in Destination::ALL {
        relay.until(destination, "done", |report| report.backlog == 0 && report.parked == 0).await;
    }
    relay.drain().await;
    for (person, profile) in reference.iter().enumerate() {
        let attributes = world.contact(&format!("u{person}")).await["attributes"].clone();
        assert_eq!(attributes["LTV"].as_f64(), profile.number.map(|n| n as f64), "LTV of u{person}: {steps:?}");
        let list: Vec<_> = profile.list.iter().flatten().map(u8::to_string).collect();
        assert_eq!(text(&attributes["PLAN_TYPE"]), list.join(", "), "list of u{person}: {steps:?}");
        let held: Value = world.show(&format!("/mixpanel/profiles/u{person}")).await["$properties"].clone();
        assert_eq!(held["total_revenue"], json!(profile.number), "revenue of u{person} at Mixpanel: {steps:?}");
    }
}

#[test]
fn whatever_happens_brevo_ends_with_a_plain_fold_of_what_was_accepted() {
    play_all(3, proptest::collection::vec(step(), 20..50), async |steps| run(&steps).await);
}
