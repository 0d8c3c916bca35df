//! Random histories of people with several devices, in both ID-merge modes, with crashes and faults: whom everything
//! belongs to in the end, each once, and in order from the link on.
//!
//! `LEGS_CASES` runs more of them, and others each time.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::histories::play_all;
use crate::config::IdentityMode;
use crate::delivery::testing::{Relay, Setup, TOKEN, World, text};
use crate::record::{Destination, Kind, Record};

#[derive(Clone, Copy, Debug)]
enum Step {
    /// An event of whoever holds the device, before they have signed in.
    Visit(usize),
    /// Somebody signs in on a device, and an event of theirs.
    SignIn(usize, usize),
    Event(usize),
    Address(usize),
    PlanOfUser(usize, u8),
    PlanOfDevice(usize, u8),
    Crash,
    Restart,
    Slow,
    Wait(u64),
}

const PEOPLE: usize = 3;
const DEVICES: usize = 5;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..DEVICES).prop_map(Step::Visit),
        2 => (0..DEVICES, 0..PEOPLE).prop_map(|(device, person)| Step::SignIn(device, person)),
        4 => (0..PEOPLE).prop_map(Step::Event),
        1 => (0..PEOPLE).prop_map(Step::Address),
        2 => (0..PEOPLE, 0u8..9).prop_map(|(person, plan)| Step::PlanOfUser(person, plan)),
        1 => (0..DEVICES, 0u8..9).prop_map(|(device, plan)| Step::PlanOfDevice(device, plan)),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
        1 => Just(Step::Slow),
        3 => (0u64..250).prop_map(Step::Wait),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Id {
    User(usize),
    Device(usize),
}

/// What was said, in order.
struct Reference {
    mode: IdentityMode,
    /// The number of an event is its place here.
    events: Vec<Id>,
    /// Whose a device is, and the number of the first event behind the link.
    linked: BTreeMap<usize, (usize, usize)>,
    plans: [Option<String>; PEOPLE],
    device_plans: [Option<String>; DEVICES],
}

impl Reference {
    fn owner(&self, id: Id) -> usize {
        match id {
            Id::User(person) => person,
            Id::Device(device) => self.linked[&device].0,
        }
    }

    /// Whether the event `n` is known to be its owner's when `later` is accepted.
    fn known_by(&self, n: usize, later: usize) -> bool {
        match self.events[n] {
            Id::User(_) => true,
            Id::Device(device) => self.linked[&device].1 <= later,
        }
    }

    fn in_order(&self, first: usize, second: usize) -> bool {
        let (a, b) = (self.events[first], self.events[second]);
        a == b || (self.owner(a) == self.owner(b) && self.known_by(first, second) && self.known_by(second, second))
    }

    fn link(&mut self, device: usize, person: usize) {
        let from = self.events.len();
        let first = !self.linked.contains_key(&device);
        self.linked.entry(device).or_insert((person, from));
        if first && self.mode == IdentityMode::Original && self.plans[person].is_none() {
            self.plans[person].clone_from(&self.device_plans[device]);
        }
    }
}

fn uuid(device: usize) -> String {
    format!("0a1b2c3d-0000-4000-8000-{device:012}")
}

fn user(person: usize) -> String {
    format!("u{person}")
}

/// The id by which a device names whoever holds it.
fn visitor(mode: IdentityMode, device: usize) -> String {
    match mode {
        IdentityMode::Simplified => format!("$device:{}", uuid(device)),
        IdentityMode::Original => uuid(device),
    }
}

fn event(world: &World, reference: &mut Reference, id: Id, device: Option<usize>) -> Record {
    let n = reference.events.len();
    reference.events.push(id);
    let mut properties = json!({"token": TOKEN, "$insert_id": format!("n{n}"), "n": n, "time": world.clock_seconds()});
    if let Some(device) = device {
        properties["$device_id"] = uuid(device).into();
    }
    match id {
        Id::User(person) => {
            properties["distinct_id"] = user(person).into();
            properties["$user_id"] = user(person).into();
        }
        Id::Device(device) => properties["distinct_id"] = visitor(reference.mode, device).into(),
    }
    world.record(Kind::Event, &json!({"event": "Purchase", "properties": properties}))
}

async fn play(step: Step, world: &World, relay: Relay, reference: &mut Reference) -> Relay {
    match step {
        Step::Visit(device) => match reference.linked.get(&device) {
            // Whoever holds it has signed in.
            Some((person, _)) => {
                let id = Id::User(*person);
                relay.append(vec![event(world, reference, id, Some(device))]).await;
            }
            None => {
                relay.append(vec![event(world, reference, Id::Device(device), Some(device))]).await;
            }
        },
        Step::SignIn(device, person) => {
            reference.link(device, person);
            let before = visitor(reference.mode, device);
            let identify = json!({"distinct_id": user(person), "$anon_distinct_id": before, "$device_id": uuid(device),
                "$user_id": user(person)});
            let identify = world.record(Kind::Identity, &json!({"event": "$identify", "properties": identify}));
            relay.append(vec![identify, event(world, reference, Id::User(person), Some(device))]).await;
        }
        Step::Event(person) => {
            relay.append(vec![event(world, reference, Id::User(person), None)]).await;
        }
        Step::Address(person) => {
            let email = format!("{}@example.com", user(person));
            relay.append(vec![world.set(&user(person), json!({"$email": email}))]).await;
        }
        Step::PlanOfUser(person, plan) => {
            let plan = format!("p{plan}");
            relay.append(vec![world.set(&user(person), json!({"plan": plan}))]).await;
            reference.plans[person] = Some(plan);
        }
        Step::PlanOfDevice(device, plan) => {
            let plan = format!("p{plan}");
            relay.append(vec![world.set(&visitor(reference.mode, device), json!({"plan": plan}))]).await;
            match reference.linked.get(&device) {
                Some((person, _)) => reference.plans[*person] = Some(plan),
                None => reference.device_plans[device] = Some(plan),
            }
        }
        Step::Crash => {
            relay.kill().await;
            return world.relay().await;
        }
        Step::Restart => {
            relay.drain().await;
            return world.relay().await;
        }
        Step::Slow => {
            world.faults(json!({"vendor": "brevo", "kind": "latency", "ms": 120})).await;
        }
        Step::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
    }
    relay
}

async fn run(mode: IdentityMode, steps: &[Step]) {
    let world = World::new(Setup { identity: mode, ..Setup::brevo() }).await;
    let mut relay = world.relay().await;
    let mut reference = Reference {
        mode,
        events: Vec::new(),
        linked: BTreeMap::new(),
        plans: Default::default(),
        device_plans: Default::default(),
    };
    for step in steps {
        relay = play(*step, &world, relay, &mut reference).await;
    }
    world.heal().await;
    let signed_in = (0..DEVICES).map(|device| Step::SignIn(device, device % PEOPLE));
    for step in signed_in.chain((0..PEOPLE).map(Step::Address)) {
        relay = play(step, &world, relay, &mut reference).await;
    }
    relay.until(Destination::Brevo, "done", |report| report.backlog == 0 && report.parked == 0).await;
    assert!(relay.dead_letters(Destination::Brevo).await.is_empty());
    relay.drain().await;
    check(&world, &reference, steps.iter().any(|step| matches!(step, Step::Crash))).await;
}

async fn check(world: &World, reference: &Reference, crashed: bool) {
    let shown = world.show("/brevo/events?limit=100000").await;
    let sent = shown["events"].as_array().unwrap();
    let contacts = world.show("/brevo/counts").await["contacts"].clone();
    assert_eq!(contacts, PEOPLE, "contacts");
    let mut seen: Vec<usize> = Vec::new();
    for person in 0..PEOPLE {
        let contact = world.contact(&user(person)).await;
        let plan = reference.plans[person].clone().unwrap_or_default();
        assert_eq!(text(&contact["attributes"]["PLAN_TYPE"]), plan, "plan of {}", user(person));
    }
    for event in sent {
        assert_eq!(event["outcome"], "applied", "an event came before its contact: {event}");
        let n = number(event);
        let owner = world.contact(&user(reference.owner(reference.events[n]))).await;
        assert_eq!(event["contact_id"], owner["id"], "{n} went to somebody else");
        assert!(crashed || !seen.contains(&n), "{n} was doubled without a crash");
        if !seen.contains(&n) {
            seen.push(n);
        }
    }
    assert_eq!(seen.len(), reference.events.len(), "lost events");
    let place: BTreeMap<usize, usize> = seen.iter().enumerate().map(|(place, n)| (*n, place)).collect();
    for second in 0..reference.events.len() {
        for first in (0..second).filter(|first| reference.in_order(*first, second)) {
            assert!(place[&first] < place[&second], "{second} overtook {first}: {seen:?} of {:?}", reference.events);
        }
    }
}

fn number(event: &Value) -> usize {
    event["event"]["event_properties"]["n"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap()
}

#[test]
fn whoever_signs_in_where_brevo_ends_with_everybodys_own() {
    let histories = (any::<bool>(), proptest::collection::vec(step(), 20..60));
    play_all(4, histories, async |(original, steps)| {
        let mode = if original { IdentityMode::Original } else { IdentityMode::Simplified };
        run(mode, &steps).await;
    });
}
