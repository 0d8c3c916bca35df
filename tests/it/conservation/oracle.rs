//! What had to arrive, held against what did.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::faults::Driver;
use super::load::{MAPPED, Person, Said, payload};
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

/// Records that one crash, or one lost answer, may bring twice: calls in flight are few, and hold at most so many.
const IN_FLIGHT: u64 = 400;

pub async fn check(relay: &Relay, sandbox: &Sandbox, said: &Said, driver: &Driver) {
    for destination in ["mixpanel", "brevo"] {
        // A call that fell into a black hole is only given up after its time.
        eventually(3 * PATIENCE, async || {
            let balance = relay.balance(destination).await;
            // Visitors who never signed up wait for good.
            let settled = balance.backlog == 0 && balance.adds_up() && balance.dead_letters == 0;
            if settled { Ok(()) } else { Err(format!("{destination}: {balance:?}\n{:#?}", driver.done)) }
        })
        .await;
    }
    at_mixpanel(sandbox, said).await;
    let twice = at_brevo(sandbox, said).await;
    let status = relay.admin("GET", "/v1/status").await.ok().json();
    let legs = status["destinations"].as_array().unwrap();
    let told = legs.iter().find(|leg| leg["destination"] == "brevo").unwrap()["maybe_twice"].as_u64().unwrap();
    let allowed = (driver.kills + driver.doubts) * IN_FLIGHT;
    assert!(twice <= allowed, "{twice} events came twice to Brevo, {allowed} may have: {:#?}", driver.done);
    let (events, people) = (said.events.len(), said.people.len());
    println!(
        "  {events} events of {people} people after {} faults, {} of them kills; {twice} came twice to Brevo, the relay's own count of those that may have: {told}",
        driver.done.len(),
        driver.kills
    );
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
