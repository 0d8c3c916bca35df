//! Apps: each has people of its own, says one thing after another of them, and sends it again until it is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::harness::http::{Client, JSON};
use crate::harness::records::{event, set, update};
use crate::harness::sandbox::TOKEN;

const PEOPLE: usize = 12;
/// Between two requests of one app, at most.
const LONGEST_PAUSE_MS: u64 = 40;
/// After a request that was not taken.
const AGAIN: Duration = Duration::from_millis(20);
pub const MAPPED: &str = "Purchase";
/// Of so many people one has values that are added up and set once: both are read first, sixty times an hour.
const SPENDERS: usize = 6;
const GROUPS: usize = 3;
const UNMAPPED: &str = "Page View";

/// What an app knows of somebody.
#[derive(Debug)]
pub struct Person {
    pub id: String,
    device: String,
    /// Signed up, with an address: Brevo has to know them in the end.
    pub known: bool,
    /// Numbers of their mapped events, in order.
    pub purchases: Vec<u64>,
    /// What their profile said last.
    pub plan: Option<String>,
    pub first_name: Option<String>,
    /// The sum of what was added to their revenue: of what was taken, and of everything that may have been, since an
    /// addition whose answer was lost is sent again, and counts again.
    pub spent: u64,
    pub may_have_spent: u64,
}

impl Person {
    pub fn email(&self) -> String {
        format!("{}@example.com", self.id)
    }
}

/// What was acknowledged.
#[derive(Debug, Default)]
pub struct Said {
    pub people: Vec<Person>,
    /// Numbers of all events.
    pub events: BTreeSet<u64>,
    /// Numbers of each group's updates, in order.
    pub groups: BTreeMap<String, Vec<u64>>,
}

impl Said {
    pub fn join(&mut self, other: Said) {
        self.people.extend(other.people);
        self.events.extend(other.events);
        self.groups.extend(other.groups);
    }
}

pub struct App {
    http: Client,
    base: String,
    dice: fastrand::Rng,
    number: usize,
    /// Whether there are values that have to be read before they can be added to, which takes the relay a minute.
    spends: bool,
    /// The next event's number; those of other apps have another remainder.
    next: u64,
    said: Said,
}

/// What belongs into the event of this number, and nothing else does.
pub fn payload(n: u64) -> Value {
    let filler: String = ["ä", "x", "\"", "\u{1F600}", "\\", " "]
        .iter()
        .cycle()
        .skip(n as usize % 6)
        .take(n as usize % 90)
        .copied()
        .collect();
    json!({ "n": n, "check": format!("{:016x}", xxh3_64(&n.to_le_bytes())), "filler": filler, "eighth": n as f64 / 8.0 })
}

impl App {
    pub fn new(number: usize, dice: fastrand::Rng, base: String, spends: bool) -> Self {
        let person = |k| Person {
            id: format!("app{number}-user{k}"),
            device: format!("app{number}-device{k}"),
            known: false,
            purchases: Vec::new(),
            plan: None,
            first_name: None,
            spent: 0,
            may_have_spent: 0,
        };
        let said = Said { people: (0..PEOPLE).map(person).collect(), ..Said::default() };
        Self { http: Client::new(), base, dice, number, spends, next: number as u64, said }
    }

    pub async fn live(mut self, stop: Arc<AtomicBool>) -> Said {
        while !stop.load(Ordering::Relaxed) {
            let who = self.dice.usize(..PEOPLE);
            match (self.said.people[who].known, self.dice.u8(..100)) {
                (false, ..60) => self.track(who, MAPPED).await,
                (false, _) => self.sign_up(who).await,
                (true, ..45) => self.track(who, MAPPED).await,
                (true, 45..60) => self.track(who, UNMAPPED).await,
                (true, 60..65) => self.change_group().await,
                (true, 65..75) if self.spends && who.is_multiple_of(SPENDERS) => self.spend(who).await,
                (true, _) => self.change_plan(who).await,
            }
            tokio::time::sleep(Duration::from_millis(self.dice.u64(..LONGEST_PAUSE_MS))).await;
        }
        self.said
    }

    /// One event or a few in one request.
    async fn track(&mut self, who: usize, name: &str) {
        let count = self.dice.usize(1..=4);
        let (numbers, events): (Vec<u64>, Vec<Value>) = (0..count).map(|_| self.event(who, name)).unzip();
        self.push("/track", &json!(events)).await;
        self.said.events.extend(&numbers);
        if name == MAPPED {
            self.said.people[who].purchases.extend(&numbers);
        }
    }

    fn event(&mut self, who: usize, name: &str) -> (u64, Value) {
        let n = self.next;
        self.next += super::APPS as u64;
        let person = &self.said.people[who];
        let mut event = event(name, &person.id, &format!("rig-{n}"));
        let properties = event["properties"].as_object_mut().unwrap();
        if !person.known {
            properties.insert("distinct_id".to_owned(), json!(format!("$device:{}", person.device)));
            properties.insert("$device_id".to_owned(), json!(person.device));
        }
        properties.extend(payload(n).as_object().unwrap().clone());
        (n, event)
    }

    /// The device turns out to be the user's, and the user gets an address.
    async fn sign_up(&mut self, who: usize) {
        let (n, mut event) = self.event(who, UNMAPPED);
        let person = &self.said.people[who];
        let (id, device, email) = (person.id.clone(), person.device.clone(), person.email());
        let properties = event["properties"].as_object_mut().unwrap();
        properties.insert("distinct_id".to_owned(), json!(id));
        properties.insert("$user_id".to_owned(), json!(id));
        properties.insert("$device_id".to_owned(), json!(device));
        self.push("/track", &json!([event])).await;
        self.said.events.insert(n);
        self.push("/engage", &json!([set(&id, json!({ "$email": email }))])).await;
        self.said.people[who].known = true;
    }

    /// Sets it, or takes it away.
    async fn change_plan(&mut self, who: usize) {
        let plan = (self.dice.u8(..5) > 0).then(|| format!("plan {}", self.dice.u32(..)));
        let id = &self.said.people[who].id;
        let update = match &plan {
            Some(plan) => set(id, json!({ "plan": plan })),
            None => update(id, "$unset", json!(["plan"])),
        };
        self.push("/engage", &json!([update])).await;
        self.said.people[who].plan = plan;
    }

    async fn spend(&mut self, who: usize) {
        let (amount, id) = (self.dice.u64(1..1_000), self.said.people[who].id.clone());
        let name = format!("name {amount}");
        let updates = json!([
            update(&id, "$add", json!({ "total_revenue": amount })),
            update(&id, "$set_once", json!({ "$first_name": name })),
        ]);
        let tries = self.push("/engage", &updates).await;
        let person = &mut self.said.people[who];
        person.spent += amount;
        person.may_have_spent += amount * tries;
        person.first_name.get_or_insert(name);
    }

    /// Brevo has no use for it here.
    async fn change_group(&mut self) {
        let n = self.next;
        self.next += super::APPS as u64;
        let group = format!("app{}-group{}", self.number, self.dice.usize(..GROUPS));
        let update = json!({ "$token": TOKEN, "$group_key": "company_id", "$group_id": group, "$set": payload(n) });
        self.push("/groups", &json!([update])).await;
        self.said.groups.entry(group).or_default().push(n);
    }

    /// Sends until it is taken, as an SDK with a queue does. How often that was.
    async fn push(&self, path: &str, body: &Value) -> u64 {
        for tries in 1.. {
            let url = format!("{}{path}?ip=0", self.base);
            match self.http.send("POST", &url, &[JSON], body.to_string()).await {
                Ok(answer) if answer.status == 200 => {
                    assert_eq!(answer.body, "1", "{path}: {body}");
                    return tries;
                }
                Ok(answer) => assert_eq!(answer.status, 503, "{path}: {answer:?}"),
                Err(_) => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
        unreachable!("an app never gives up")
    }
}
