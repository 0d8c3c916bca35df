//! Apps: each has people of its own, says one thing after another of them, and sends it again until it is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::people::{By, Mode, OtherId, Person, Purchase, Said, What};
use crate::harness::http::{Client, JSON};
use crate::harness::records::{event, set, update};
use crate::harness::sandbox::TOKEN;

/// Visitors who may sign up.
const VISITORS: usize = 12;
/// People whom a server brings all at once, which is enough for an import: customers of one app.
const CUSTOMERS: usize = 250;
/// Between two requests of one app, at most.
const LONGEST_PAUSE_MS: u64 = 40;
/// After a request that was not taken.
const AGAIN: Duration = Duration::from_millis(20);
pub const MAPPED: &str = "Purchase";
/// Of so many visitors one has values that are added up and set once: both are read first, sixty times an hour.
const SPENDERS: usize = 6;
const GROUPS: usize = 3;
const UNMAPPED: &str = "Page View";
/// Devices and aliases of a person, at most.
const OTHER_IDS: usize = 4;

pub struct App {
    http: Client,
    base: String,
    dice: fastrand::Rng,
    number: usize,
    mode: Mode,
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
    pub fn new(number: usize, dice: fastrand::Rng, base: String, mode: Mode, spends: bool) -> Self {
        let people = (0..VISITORS).map(|k| Person::new(format!("app{number}-user{k}"))).collect();
        let said = Said { people, ..Said::default() };
        let mut app = Self { http: Client::new(), base, dice, number, mode, spends, next: number as u64, said };
        (0..VISITORS).for_each(|who| app.meet(who, What::Device));
        app
    }

    pub async fn live(mut self, stop: Arc<AtomicBool>) -> Said {
        while !stop.load(Ordering::Relaxed) {
            let everybody = self.said.people.len();
            let who = if self.dice.u8(..3) > 0 { self.dice.usize(..VISITORS) } else { self.dice.usize(..everybody) };
            match (self.said.people[who].known, self.dice.u8(..100)) {
                (_, ..2) if self.number == 0 => self.customers().await,
                (false, ..60) => self.track(who, MAPPED).await,
                (false, _) => self.sign_up(who).await,
                (true, ..45) => self.track(who, MAPPED).await,
                (true, 45..55) => self.track(who, UNMAPPED).await,
                (true, 55..65) => self.another_id(who).await,
                (true, 65..68) => self.share_a_device(who).await,
                (true, 68..71) => self.move_away(who).await,
                (true, 71..75) => self.change_group().await,
                (true, 75..85) if self.spends && spends(who) => self.spend(who).await,
                (true, _) => self.change_plan(who).await,
            }
            tokio::time::sleep(Duration::from_millis(self.dice.u64(..LONGEST_PAUSE_MS))).await;
        }
        self.said
    }

    /// Another device of somebody's, or another name, that nobody knows to be theirs yet.
    fn meet(&mut self, who: usize, what: What) {
        let others = &mut self.said.people[who].others;
        let bare = match what {
            What::Device => format!("{:08x}-0000-4000-8000-{who:010x}{:02x}", self.number, others.len()),
            What::Alias => format!("app{}-alias{who}.{}", self.number, others.len()),
        };
        others.push(OtherId { bare, what, linked: None });
    }

    /// One event or a few in one request, by any id of the person.
    async fn track(&mut self, who: usize, name: &str) {
        let person = &self.said.people[who];
        let by = match person.known {
            false => By::Other(0),
            true if person.others.is_empty() || self.dice.u8(..3) > 0 => By::User,
            true => By::Other(self.dice.usize(..person.others.len())),
        };
        let count = self.dice.usize(1..=4);
        let (numbers, events): (Vec<u64>, Vec<Value>) = (0..count).map(|_| self.event(who, by, name)).unzip();
        self.push("/track", &json!(events)).await;
        for (n, event) in numbers.iter().zip(&events) {
            self.acknowledge(*n, event);
        }
        if name == MAPPED {
            self.said.people[who].purchases.extend(numbers.iter().map(|n| Purchase { n: *n, by }));
        }
    }

    fn acknowledge(&mut self, n: u64, event: &Value) {
        self.said.events.insert(n, event["properties"]["distinct_id"].as_str().unwrap().to_owned());
    }

    fn number(&mut self) -> u64 {
        let n = self.next;
        self.next += super::APPS as u64;
        n
    }

    fn event(&mut self, who: usize, by: By, name: &str) -> (u64, Value) {
        let n = self.number();
        let person = &self.said.people[who];
        let distinct_id = match by {
            By::User => person.id.clone(),
            By::Other(at) => person.others[at].distinct_id(self.mode),
        };
        let mut event = event(name, &distinct_id, &format!("rig-{n}"));
        let properties = event["properties"].as_object_mut().unwrap();
        match by {
            By::Other(at) if person.others[at].what == What::Device => {
                properties.insert("$device_id".to_owned(), json!(person.others[at].bare));
            }
            _ => {}
        }
        properties.extend(payload(n).as_object().unwrap().clone());
        (n, event)
    }

    /// The device turns out to be the user's, and the user gets an address.
    async fn sign_up(&mut self, who: usize) {
        self.link(who, 0).await;
        let person = &self.said.people[who];
        let (id, email) = (person.id.clone(), person.email());
        self.push("/engage", &json!([set(&id, json!({ "$email": email }))])).await;
        self.said.people[who].known = true;
    }

    /// Somebody comes by a new device, or under another name; or it turns out whose it is.
    async fn another_id(&mut self, who: usize) {
        let others = &self.said.people[who].others;
        let strange: Vec<_> = (0..others.len()).filter(|at| others[*at].linked.is_none()).collect();
        match self.dice.choice(strange) {
            Some(at) if self.dice.bool() => self.link(who, at).await,
            _ if others.len() < OTHER_IDS => {
                let what = if self.dice.bool() { What::Device } else { What::Alias };
                self.meet(who, what);
            }
            _ => {}
        }
    }

    /// Simplified projects know no aliases.
    fn stays_strange(&self, other: &OtherId) -> bool {
        other.what == What::Alias && self.mode == Mode::Simplified
    }

    /// Says whose an id is. A name is called an alias in simplified projects too, where that changes nothing.
    async fn link(&mut self, who: usize, at: usize) {
        let person = &self.said.people[who];
        let (id, other) = (person.id.clone(), &person.others[at]);
        let (bare, what, distinct_id) = (other.bare.clone(), other.what, other.distinct_id(self.mode));
        match (what, self.mode) {
            (What::Device, Mode::Simplified) => self.track_on(who, &bare).await,
            (What::Device, Mode::Original) => {
                self.identity(who, "$identify", json!({ "$anon_distinct_id": distinct_id, "$user_id": id })).await;
            }
            (What::Alias, _) => self.identity(who, "$create_alias", json!({ "alias": bare })).await,
        }
        let others = &self.said.people[who].others;
        if !self.stays_strange(&others[at]) {
            let person = &mut self.said.people[who];
            person.others[at].linked = Some(person.purchases.len());
        }
    }

    /// An event of a user who has signed in on a device.
    async fn track_on(&mut self, who: usize, device: &str) {
        let (n, mut event) = self.event(who, By::User, UNMAPPED);
        event["properties"]["$user_id"] = self.said.people[who].id.clone().into();
        event["properties"]["$device_id"] = device.into();
        self.push("/track", &json!([event])).await;
        self.acknowledge(n, &event);
    }

    async fn identity(&mut self, who: usize, name: &str, more: Value) {
        let insert_id = format!("rig-{}", self.number());
        let mut event = event(name, &self.said.people[who].id, &insert_id);
        let properties = event["properties"].as_object_mut().unwrap();
        properties.extend(more.as_object().unwrap().clone());
        self.push("/track", &json!([event])).await;
    }

    /// Somebody signs in on a device that is another's already: it stays the other's, and they stay two.
    async fn share_a_device(&mut self, who: usize) {
        let owner = self.dice.usize(..VISITORS);
        let device = &self.said.people[owner].others[0];
        if owner == who || device.linked.is_none() {
            return;
        }
        let (bare, distinct_id) = (device.bare.clone(), device.distinct_id(self.mode));
        if self.mode == Mode::Original {
            let id = self.said.people[who].id.clone();
            self.identity(who, "$identify", json!({ "$anon_distinct_id": distinct_id, "$user_id": id })).await;
        }
        self.track_on(who, &bare).await;
    }

    async fn move_away(&mut self, who: usize) {
        let person = &self.said.people[who];
        let (id, email) = (person.id.clone(), person.address(person.moves + 1));
        self.push("/engage", &json!([set(&id, json!({ "$email": email }))])).await;
        self.said.people[who].moves += 1;
    }

    /// Sets it, or takes it away.
    async fn change_plan(&mut self, who: usize) {
        let plan = (self.dice.u8(..5) > 0).then(|| format!("plan {}", self.dice.u32(..)));
        let id = self.any_id(who);
        let update = match &plan {
            Some(plan) => set(&id, json!({ "plan": plan })),
            None => update(&id, "$unset", json!(["plan"])),
        };
        self.push("/engage", &json!([update])).await;
        self.said.people[who].plan = plan;
    }

    /// Any id by which the person's profile can be changed.
    fn any_id(&mut self, who: usize) -> String {
        let person = &self.said.people[who];
        let linked = person.others.iter().filter(|other| other.linked.is_some() && self.mode == Mode::Original);
        let others = linked.map(|other| other.distinct_id(self.mode));
        let all: Vec<String> = std::iter::once(person.id.clone()).chain(others).collect();
        self.dice.choice(all).unwrap()
    }

    /// A server says something of all its customers, who have an address from the start.
    async fn customers(&mut self) {
        if self.said.people.len() == VISITORS {
            let customer = |k| Person { known: true, ..Person::new(format!("app{}-customer{k}", self.number)) };
            self.said.people.extend((0..CUSTOMERS).map(customer));
        }
        let plans: Vec<_> =
            self.said.people[VISITORS..].iter().map(|_| format!("plan {}", self.dice.u32(..))).collect();
        let customers = self.said.people[VISITORS..].iter().zip(&plans);
        let updates: Vec<_> = customers
            .map(|(person, plan)| set(&person.id, json!({ "$email": person.email(), "plan": plan })))
            .collect();
        self.push("/engage", &json!(updates)).await;
        for (person, plan) in self.said.people[VISITORS..].iter_mut().zip(plans) {
            person.plan = Some(plan);
        }
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
        let n = self.number();
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

fn spends(who: usize) -> bool {
    who < VISITORS && who.is_multiple_of(SPENDERS)
}
