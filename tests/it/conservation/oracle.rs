//! What had to arrive, held against what did.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::faults::Driver;
use super::load::{MAPPED, Person, Said, payload};
use crate::harness::http::JSON;
use crate::harness::relay::ADMIN_TOKEN;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

/// Records that one crash, or one lost answer, may bring twice: calls in flight are few, and hold at most so many.
const IN_FLIGHT: u64 = 400;

/// What a round came to.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    pub events: u64,
    pub people: u64,
    /// Events that came twice to Brevo.
    pub twice: u64,
    /// From the last fault until nothing was owed any more.
    pub drained: Duration,
}

pub async fn check(relay: &Relay, sandbox: &Sandbox, said: &Said, driver: &Driver) -> Verdict {
    let healed = Instant::now();
    settled(relay, "mixpanel", driver).await;
    // Answered with an error inside a 200, an event that was alone in its call is put aside; whoever finds that Mixpanel is
    // well again replays it.
    if relay.balance("mixpanel").await.dead_letters > 0 {
        assert!(driver.refusals > 0, "dead letters, and nothing was refused: {:#?}", driver.done);
        let filter = json!({ "filter": { "destination": "mixpanel" } }).to_string();
        let bearer = format!("Bearer {ADMIN_TOKEN}");
        relay.post("/v1/dead-letters/replay", &[JSON, ("authorization", &bearer)], filter).await.ok();
        settled(relay, "mixpanel", driver).await;
    }
    settled(relay, "brevo", driver).await;
    for destination in ["mixpanel", "brevo"] {
        let balance = relay.balance(destination).await;
        assert_eq!(balance.dead_letters, 0, "{destination}: {balance:?}\n{:#?}", driver.done);
    }
    let drained = healed.elapsed();
    at_mixpanel(sandbox, said).await;
    let twice = at_brevo(sandbox, said).await;
    let status = relay.admin("GET", "/v1/status").await.ok().json();
    let legs = status["destinations"].as_array().unwrap();
    let told = legs.iter().find(|leg| leg["destination"] == "brevo").unwrap()["maybe_twice"].as_u64().unwrap();
    let allowed = (driver.kills + driver.doubts) * IN_FLIGHT;
    assert!(twice <= allowed, "{twice} events came twice to Brevo, {allowed} may have: {:#?}", driver.done);
    let (events, people) = (said.events.len() as u64, said.people.len() as u64);
    println!(
        "  {events} events of {people} people after {} faults, {} of them kills; {twice} came twice to Brevo, the relay's own count of those that may have: {told}; all of it arrived {drained:.1?} after the last fault",
        driver.by_kind.values().sum::<u64>(),
        driver.kills
    );
    Verdict { events, people, twice, drained }
}

/// Waits until nothing is owed, but to visitors who never signed up: theirs waits for good.
async fn settled(relay: &Relay, destination: &str, driver: &Driver) {
    // A call that fell into a black hole is only given up after its time.
    eventually(3 * PATIENCE, async || {
        let balance = relay.balance(destination).await;
        let settled = balance.backlog == 0 && balance.adds_up();
        if settled { Ok(()) } else { Err(format!("{destination}: {balance:?}\n{:#?}", driver.done)) }
    })
    .await;
}

/// Every acknowledged event once, as it was; nothing that nobody said; every profile as it was left.
async fn at_mixpanel(sandbox: &Sandbox, said: &Said) {
    let mut arrived = BTreeSet::new();
    for event in sandbox.mixpanel_events().await {
        let properties = &event["record"]["properties"];
        let n = properties["n"].as_u64().unwrap_or_else(|| panic!("an event that nobody sent: {event}"));
        is_whole(n, properties);
        arrived.insert(n);
    }
    let lost: Vec<_> = said.events.difference(&arrived).collect();
    assert!(lost.is_empty(), "{} acknowledged events are not at Mixpanel: {lost:?}", lost.len());
    let invented: Vec<_> = arrived.difference(&said.events).collect();
    assert!(invented.is_empty(), "{} events are at Mixpanel that no app has sent: {invented:?}", invented.len());
    for person in said.people.iter().filter(|person| person.plan.is_some()) {
        let profile =
            sandbox.mixpanel_profile(&person.id).await.unwrap_or_else(|| panic!("no profile of {}", person.id));
        same(&person.id, profile["plan"].as_str(), person.plan.as_deref()).unwrap();
    }
}

fn is_whole(n: u64, properties: &Value) {
    for (key, value) in payload(n).as_object().unwrap() {
        assert_eq!(properties[key], *value, "the {key} of event {n}");
    }
}

/// The same at Brevo, for who has an address; returns how many events came twice.
async fn at_brevo(sandbox: &Sandbox, said: &Said) -> u64 {
    let dropped = sandbox.brevo_counts().await["events_dropped_unknown_contact"].as_u64();
    same("events that Brevo dropped", dropped.unwrap_or(0), 0).unwrap();
    let mut by_contact: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for applied in sandbox.brevo_events().await {
        let properties = &applied["event"]["event_properties"];
        let n = properties["n"].as_u64().unwrap_or_else(|| panic!("an event that nobody sent: {applied}"));
        is_whole(n, properties);
        by_contact.entry(applied["contact_id"].as_u64().unwrap()).or_default().push(n);
    }
    let mut twice = 0;
    for person in &said.people {
        twice += of_one(sandbox, person, &mut by_contact).await;
    }
    assert!(by_contact.is_empty(), "{MAPPED}s of nobody whom an app knows: {by_contact:?}");
    twice
}

async fn of_one(sandbox: &Sandbox, person: &Person, by_contact: &mut BTreeMap<u64, Vec<u64>>) -> u64 {
    let contact = sandbox.brevo_contact(&person.email()).await;
    if !person.known {
        assert!(contact.is_none(), "{} never gave an address: {contact:?}", person.id);
        return 0;
    }
    let contact = contact.unwrap_or_else(|| panic!("no contact of {}", person.id));
    same(&person.id, contact["attributes"]["PLAN_TYPE"].as_str(), person.plan.as_deref()).unwrap();
    let came = by_contact.remove(&contact["id"].as_u64().unwrap()).unwrap_or_default();
    let mut first = Vec::new();
    for n in &came {
        if !first.contains(n) {
            first.push(*n);
        }
    }
    same(&format!("events of {}, in order", person.id), &first, &person.purchases).unwrap();
    (came.len() - first.len()) as u64
}
