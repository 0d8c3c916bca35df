//! Random histories of a hundred people through both legs: every profile operator, links, consent, deletions, resends,
//! faults and crashes, over vendors that are not empty, in both ID-merge modes. Brevo ends as a plain fold of what was
//! accepted says.
//!
//! `LEGS_CASES` runs more of them, and others each time.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::histories::play_all;
use crate::config::{Consent, IdentityMode, OnProfileDelete};
use crate::delivery::testing::{Relay, Setup, TOKEN, World, text};
use crate::record::{Destination, Kind, Record};

const PEOPLE: usize = 100;

#[derive(Clone, Copy, Debug)]
enum Act {
    Add(i64),
    SetNumber(Option<i64>),
    Once(i64),
    Append(u8),
    Union(u8),
    Remove(u8),
    Name(u8),
    /// The same by the device's id, once that is the person's.
    NameByDevice(u8),
    Delete,
    /// One of their addresses; they end with the first.
    Address(u8),
    Answer(bool),
    /// An event, perhaps sent twice.
    Event(bool),
    /// An event on the person's device, before or after they have signed in there.
    Visit(bool),
    SignIn,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Person(usize, Act),
    /// `kill -9`, once Mixpanel has taken what it was sent: an addition in flight may reach it twice.
    Crash,
    Restart,
    Fault(usize),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (-9i64..9).prop_map(Act::Add),
        1 => proptest::option::of(-9i64..9).prop_map(Act::SetNumber),
        1 => (-9i64..9).prop_map(Act::Once),
        2 => (0u8..3).prop_map(Act::Append),
        2 => (0u8..3).prop_map(Act::Union),
        1 => (0u8..3).prop_map(Act::Remove),
        2 => (0u8..9).prop_map(Act::Name),
        1 => (0u8..9).prop_map(Act::NameByDevice),
        1 => Just(Act::Delete),
        2 => (0u8..3).prop_map(Act::Address),
        2 => any::<bool>().prop_map(Act::Answer),
        4 => any::<bool>().prop_map(Act::Event),
        3 => any::<bool>().prop_map(Act::Visit),
        2 => Just(Act::SignIn),
    ]
}

/// Many people at once, a few of them often.
fn step() -> impl Strategy<Value = Step> {
    let who = prop_oneof![3 => 0..PEOPLE, 1 => 0..8usize];
    prop_oneof![
        60 => (who, act()).prop_map(|(person, act)| Step::Person(person, act)),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
        2 => (0usize..4).prop_map(Step::Fault),
        4 => (0u64..150).prop_map(Step::Wait),
    ]
}

/// One person, as Mixpanel documents the operators and this relay its rules.
#[derive(Clone, Debug, Default)]
struct Person {
    number: Option<i64>,
    list: Option<Vec<u8>>,
    name: Option<String>,
    /// What Brevo's contact held before.
    name_before: Option<String>,
    addressed: bool,
    linked: bool,
    /// Whether they agree, and whether the relay has been told.
    agrees: bool,
    told: bool,
    said_no: bool,
    blocklisted: bool,
    /// Events that have to reach Brevo, may, and must not.
    due: BTreeSet<i64>,
    /// The same of the device, as long as it is nobody's.
    of_device: BTreeSet<i64>,
    forbidden: BTreeSet<i64>,
}

impl Person {
    /// Some were at Mixpanel before, some at Brevo, some at both.
    fn before(person: usize) -> Self {
        let mut before = Self::default();
        if person.is_multiple_of(3) {
            (before.number, before.list) = (Some(1_000), Some(vec![0, 1, 0]));
            before.agrees = person.is_multiple_of(2);
        }
        if person.is_multiple_of(4) {
            before.name_before = Some("Before".to_owned());
            before.blocklisted = person.is_multiple_of(8);
        }
        before
    }

    /// What waits is let go, or has reached Brevo already.
    fn let_go(&mut self) {
        self.due.clear();
    }

    fn take(&mut self, act: Act, n: i64, consent: bool) {
        match act {
            Act::Add(by) => self.number = Some(self.number.unwrap_or(0) + by),
            Act::SetNumber(to) => self.number = to,
            Act::Once(to) => self.number = self.number.or(Some(to)),
            Act::Append(item) => self.list.get_or_insert_default().push(item),
            Act::Union(item) => {
                let list = self.list.get_or_insert_default();
                if !list.contains(&item) {
                    list.push(item);
                }
            }
            Act::Remove(item) => self.list.iter_mut().for_each(|list| list.retain(|held| *held != item)),
            Act::Name(name) => self.name = Some(format!("n{name}")),
            Act::NameByDevice(name) if self.linked => self.name = Some(format!("n{name}")),
            Act::NameByDevice(_) => {}
            Act::Delete => {
                (self.number, self.list, self.name) = (None, None, None);
                if std::mem::take(&mut self.addressed) {
                    self.name_before = None;
                }
                (self.agrees, self.told) = (false, true);
                self.let_go();
            }
            Act::Address(_) => self.addressed = true,
            Act::Answer(yes) => {
                (self.agrees, self.told) = (yes, true);
                if !yes && consent {
                    self.said_no = true;
                    self.let_go();
                }
            }
            Act::SignIn => {
                self.linked = true;
                self.due.append(&mut self.of_device);
            }
            Act::Event(_) => self.event(n, consent),
            Act::Visit(_) if self.linked => self.event(n, consent),
            // Nobody knows yet whether whoever it is agrees.
            Act::Visit(_) if consent => drop(self.forbidden.insert(n)),
            Act::Visit(_) => drop(self.of_device.insert(n)),
        }
    }

    fn event(&mut self, n: i64, consent: bool) {
        match (consent, self.agrees, self.told) {
            (false, ..) | (true, true, true) => drop(self.due.insert(n)),
            // Mixpanel knows; whether the relay does by then is a matter of time.
            (true, true, false) => {}
            (true, false, _) => drop(self.forbidden.insert(n)),
        }
    }
}

struct Play {
    world: World,
    mode: IdentityMode,
    consent: bool,
    people: Vec<Person>,
    events: i64,
    /// Accepted together with what comes next, as an SDK's batch.
    batch: Vec<Record>,
}

fn uuid(person: usize) -> String {
    format!("0a1b2c3d-0000-4000-8000-{person:012}")
}

fn user(person: usize) -> String {
    format!("u{person}")
}

fn address(person: usize) -> String {
    format!("u{person}@example.com")
}

/// Whoever has a contact at Brevo from before has one address: it would be in the way of another contact of theirs.
fn one_of_their_addresses(person: usize, which: u8) -> String {
    if which == 0 || Person::before(person).name_before.is_some() {
        return address(person);
    }
    format!("u{person}-{which}@example.com")
}

impl Play {
    async fn new(mode: IdentityMode, consent: bool) -> Self {
        let rule = if consent {
            Consent::Required { property: "marketing_ok".to_owned(), value: json!(true) }
        } else {
            Consent::NotNeeded
        };
        let on_profile_delete = OnProfileDelete::DeleteContact;
        let world = World::new(Setup { identity: mode, consent: rule, on_profile_delete, ..Setup::both() }).await;
        let identity = if mode == IdentityMode::Original { "original" } else { "simplified" };
        world.switch(json!({"mixpanel": {"identity": identity}, "brevo": {"per_second": 1_000}})).await;
        let people: Vec<_> = (0..PEOPLE).map(Person::before).collect();
        let (mut profiles, mut contacts) = (Vec::new(), Vec::new());
        for (id, person) in people.iter().enumerate() {
            if person.number.is_some() {
                let answer = if person.agrees { json!(true) } else { json!("no") };
                let properties = json!({"total_revenue": person.number, "plan": person.list, "marketing_ok": answer});
                profiles.push(json!({"distinct_id": user(id), "properties": properties}));
            }
            if let Some(name) = &person.name_before {
                contacts.push(json!({"email": address(id), "attributes": {"FIRSTNAME": name},
                                     "email_blacklisted": person.blocklisted}));
            }
        }
        world.control("POST", "/mixpanel/seed", json!({"profiles": profiles})).await;
        world.control("POST", "/brevo/seed", json!({"contacts": contacts})).await;
        Self { world, mode, consent, people, events: 0, batch: Vec::new() }
    }

    fn visitor(&self, person: usize) -> String {
        match self.mode {
            IdentityMode::Simplified => format!("$device:{}", uuid(person)),
            IdentityMode::Original => uuid(person),
        }
    }

    fn update(&mut self, person: usize, operator: &str, operand: Value) {
        self.batch.push(self.world.update(&user(person), operator, operand));
    }

    fn event(&mut self, id: &str, of_user: bool, device: Option<usize>, twice: bool) {
        let n = self.events;
        self.events += 1;
        let mut properties = json!({"token": TOKEN, "distinct_id": id, "$insert_id": format!("n{n}"), "n": n,
                   "time": self.world.clock_seconds()});
        if of_user {
            properties["$user_id"] = id.into();
        }
        if let Some(device) = device {
            properties["$device_id"] = uuid(device).into();
        }
        let record = self.world.record(Kind::Event, &json!({"event": "Purchase", "properties": properties}));
        self.batch.extend(std::iter::repeat_n(record, 1 + usize::from(twice)));
    }

    fn act(&mut self, person: usize, act: Act) {
        let n = self.events;
        match act {
            Act::Add(by) => self.update(person, "$add", json!({"total_revenue": by})),
            Act::SetNumber(Some(to)) => self.update(person, "$set", json!({"total_revenue": to})),
            Act::SetNumber(None) => self.update(person, "$unset", json!(["total_revenue"])),
            Act::Once(to) => self.update(person, "$set_once", json!({"total_revenue": to})),
            Act::Append(item) => self.update(person, "$append", json!({"plan": item})),
            Act::Union(item) => self.update(person, "$union", json!({"plan": [item]})),
            Act::Remove(item) => self.update(person, "$remove", json!({"plan": item})),
            Act::Name(name) => self.update(person, "$set", json!({"name": format!("n{name}")})),
            Act::NameByDevice(name) if self.people[person].linked => {
                let update = self.world.set(&self.visitor(person), json!({"name": format!("n{name}")}));
                self.batch.push(update);
            }
            Act::NameByDevice(_) => {}
            Act::Delete => self.update(person, "$delete", json!("")),
            Act::Address(which) => {
                self.update(person, "$set", json!({"$email": one_of_their_addresses(person, which)}));
            }
            Act::Answer(yes) => self.update(person, "$set", json!({"marketing_ok": yes})),
            Act::Event(twice) => self.event(&user(person), true, None, twice),
            Act::Visit(twice) if self.people[person].linked => self.event(&user(person), true, Some(person), twice),
            Act::Visit(twice) => self.event(&self.visitor(person), false, Some(person), twice),
            Act::SignIn => {
                let identify = json!({"token": TOKEN, "distinct_id": user(person), "$user_id": user(person),
                    "$anon_distinct_id": self.visitor(person), "$device_id": uuid(person)});
                let identify = json!({"event": "$identify", "properties": identify});
                self.batch.push(self.world.record(Kind::Identity, &identify));
            }
        }
        self.people[person].take(act, n, self.consent);
    }

    async fn flush(&mut self, relay: &Relay) {
        if !self.batch.is_empty() {
            relay.append(std::mem::take(&mut self.batch)).await;
        }
    }

    async fn step(&mut self, step: Step, relay: Relay) -> Relay {
        if let Step::Person(person, act) = step {
            self.act(person, act);
            if self.batch.len() >= 5 {
                self.flush(&relay).await;
            }
            return relay;
        }
        self.flush(&relay).await;
        match step {
            Step::Person(..) => relay,
            Step::Crash => {
                self.world.heal().await;
                relay.until(Destination::Mixpanel, "taken", |report| report.backlog == 0).await;
                tokio::time::sleep(Duration::from_millis(600)).await;
                relay.kill().await;
                self.world.relay().await
            }
            Step::Restart => {
                relay.drain().await;
                self.world.relay().await
            }
            Step::Fault(which) => {
                let faults = [
                    json!({"vendor": "brevo", "kind": "status", "status": 500, "times": 2}),
                    json!({"vendor": "brevo", "kind": "latency", "ms": 60}),
                    json!({"vendor": "brevo", "kind": "reset", "times": 2}),
                    json!({"vendor": "mixpanel", "path_prefix": "/api/query", "kind": "latency", "ms": 200}),
                ];
                self.world.faults(faults[which].clone()).await;
                relay
            }
            Step::Wait(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                relay
            }
        }
    }

    async fn check(&self, steps: &[Step]) {
        let sent = self.world.brevo_events().await;
        let numbers: BTreeSet<i64> = sent.iter().map(|(n, _)| *n).collect();
        let crashed = steps.iter().any(|step| matches!(step, Step::Crash));
        assert!(sent.iter().all(|(_, outcome)| outcome == "applied"), "an event came before its contact: {sent:?}");
        // A connection that is reset after an event has arrived leaves the same doubt as a crash.
        let doubtful = crashed || steps.iter().any(|step| matches!(step, Step::Fault(2)));
        assert!(doubtful || numbers.len() == sent.len(), "doubled without a crash");
        for (id, person) in self.people.iter().enumerate() {
            let of = |id: usize| {
                let of = steps.iter().filter(move |step| matches!(step, Step::Person(at, _) if *at == id));
                format!("{:?}, consent {}: {:?}", self.mode, self.consent, of.collect::<Vec<_>>())
            };
            let contact = self.world.contact(&user(id)).await;
            let attributes = &contact["attributes"];
            // A blocklisted contact keeps the address that it has: a change would resubscribe it.
            if !person.said_no {
                assert_eq!(contact["email"], address(id), "u{id}, {}", of(id));
            }
            assert_eq!(attributes["LTV"].as_f64(), person.number.map(|n| n as f64), "LTV of u{id}, {}", of(id));
            let list: Vec<_> = person.list.iter().flatten().map(u8::to_string).collect();
            assert_eq!(text(&attributes["PLAN_TYPE"]), list.join(", "), "list of u{id}, {}", of(id));
            let name = person.name.clone().or(person.name_before.clone()).unwrap_or_default();
            assert_eq!(text(&attributes["FIRSTNAME"]), name, "name of u{id}, {}", of(id));
            if person.blocklisted || !person.said_no {
                assert_eq!(contact["emailBlacklisted"], person.blocklisted, "u{id}, {}", of(id));
            }
            let missing: Vec<_> = person.due.difference(&numbers).collect();
            assert!(missing.is_empty(), "events {missing:?} of u{id} are missing, {}", of(id));
            let forbidden: Vec<_> = person.forbidden.intersection(&numbers).collect();
            assert!(forbidden.is_empty(), "u{id} had not agreed to {forbidden:?}, {}", of(id));
        }
        assert_eq!(self.world.show("/brevo/counts").await["contacts"], PEOPLE, "contacts");
    }
}

async fn run(mode: IdentityMode, consent: bool, steps: &[Step]) {
    let mut play = Play::new(mode, consent).await;
    let mut relay = play.world.relay().await;
    for step in steps {
        relay = play.step(*step, relay).await;
    }
    play.world.heal().await;
    // Everybody is somebody, has agreed, and their values are asked for by now, or known.
    for person in 0..PEOPLE {
        for act in [Act::SignIn, Act::Address(0), Act::Answer(true), Act::Add(1), Act::Append(2)] {
            play.act(person, act);
        }
    }
    play.flush(&relay).await;
    for destination in Destination::ALL {
        relay.until(destination, "done", |report| report.backlog == 0 && report.parked == 0).await;
        assert!(relay.dead_letters(destination).await.is_empty());
    }
    relay.drain().await;
    play.check(steps).await;
}

fn histories() -> impl Strategy<Value = (bool, Vec<Step>)> {
    (any::<bool>(), proptest::collection::vec(step(), 300..500))
}

#[test]
fn a_simplified_project_ends_at_brevo_as_a_plain_fold_of_what_was_accepted() {
    play_all(2, histories(), async |(consent, steps)| run(IdentityMode::Simplified, consent, &steps).await);
}

#[test]
fn an_original_project_ends_at_brevo_as_a_plain_fold_of_what_was_accepted() {
    play_all(2, histories(), async |(consent, steps)| run(IdentityMode::Original, consent, &steps).await);
}
