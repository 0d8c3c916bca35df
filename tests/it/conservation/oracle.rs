//! What had to arrive, held against what did.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::faults::Driver;
use super::load::{MAPPED, payload};
use super::people::{Mode, Person, Said};
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
    /// Imports at Brevo that ended, well or badly.
    pub imports: u64,
    /// Events that came twice to Brevo.
    pub twice: u64,
    /// From the last fault until nothing was owed any more.
    pub drained: Duration,
}

pub async fn check(relay: &Relay, sandbox: &Sandbox, said: &Said, mode: Mode, driver: &Driver) -> Verdict {
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
    first_read(sandbox, said, driver).await;
    all_released(sandbox, said, driver).await;
    settled(relay, "brevo", driver).await;
    let drained = healed.elapsed();
    at_mixpanel(sandbox, said).await;
    everybodys_own(sandbox, said, mode).await;
    let twice = at_brevo(sandbox, said).await;
    let status = relay.admin("GET", "/v1/status").await.ok().json();
    let legs = status["destinations"].as_array().unwrap();
    let told = legs.iter().find(|leg| leg["destination"] == "brevo").unwrap()["maybe_twice"].as_u64().unwrap();
    let allowed = (driver.kills + driver.doubts) * IN_FLIGHT;
    assert!(twice <= allowed, "{twice} events came twice to Brevo, {allowed} may have: {:#?}", driver.done);
    assert!(twice <= told, "{twice} events came twice to Brevo, the relay has counted {told}: {:#?}", driver.done);
    let (events, people) = (said.events.len() as u64, said.people.len() as u64);
    let imports = sandbox.brevo_counts().await["counts"]["imports"].clone();
    let imports = ["completed", "not_done", "cut_short"].iter().filter_map(|end| imports[*end].as_u64()).sum();
    println!(
        "  {events} events of {people} people, {imports} imports, after {} faults, {} of them kills; {twice} came twice to Brevo, the relay's own count of those that may have: {told}; all of it arrived {drained:.1?} after the last fault",
        driver.by_kind.values().sum::<u64>(),
        driver.kills
    );
    Verdict { events, people, imports, twice, drained }
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

/// Waits until everybody's values are there that had to be read first: until then they count as parked, as visitors do.
async fn first_read(sandbox: &Sandbox, said: &Said, driver: &Driver) {
    for person in said.people.iter().filter(|person| person.spent > 0) {
        eventually(3 * PATIENCE, async || {
            let contact = sandbox.brevo_contact(&person.email()).await.unwrap_or_default();
            let (name, revenue) = (&contact["attributes"]["FIRSTNAME"], &contact["attributes"]["LTV"]);
            let there = name.is_string() && revenue.is_number();
            if there { Ok(()) } else { Err(format!("{}: {contact}\n{:#?}", person.id, driver.done)) }
        })
        .await;
    }
}

/// Waits until what stands on the shelf of somebody known is there: behind an import it counts as parked, as a visitor's
/// does.
async fn all_released(sandbox: &Sandbox, said: &Said, driver: &Driver) {
    let known = said.people.iter().filter(|person| person.known);
    let expected: BTreeSet<u64> = known.flat_map(Person::own_purchases).map(|purchase| purchase.n).collect();
    eventually(3 * PATIENCE, async || {
        let events = sandbox.brevo_events().await;
        let arrived = events.iter().filter_map(|event| event["event"]["event_properties"]["n"].as_u64()).collect();
        let missing: Vec<_> = expected.difference(&arrived).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("not at Brevo: {missing:?}\n{:#?}", driver.done)) }
    })
    .await;
}

/// Every acknowledged event once, as it was; nothing that nobody said; every profile as it was left.
async fn at_mixpanel(sandbox: &Sandbox, said: &Said) {
    let mut arrived = BTreeSet::new();
    for event in sandbox.mixpanel_events().await.iter().filter(|event| !is_identity(&event["name"])) {
        let properties = &event["record"]["properties"];
        let n = properties["n"].as_u64().unwrap_or_else(|| panic!("an event that nobody sent: {event}"));
        is_whole(n, properties);
        arrived.insert(n);
    }
    let issued = said.numbers();
    let lost: Vec<_> = issued.difference(&arrived).collect();
    assert!(lost.is_empty(), "{} acknowledged events are not at Mixpanel: {lost:?}", lost.len());
    let invented: Vec<_> = arrived.difference(&issued).collect();
    assert!(invented.is_empty(), "{} events are at Mixpanel that no app has sent: {invented:?}", invented.len());
    for person in said.people.iter().filter(|person| person.known) {
        let profile =
            sandbox.mixpanel_profile(&person.id).await.unwrap_or_else(|| panic!("no profile of {}", person.id));
        same(&person.id, profile["plan"].as_str(), person.plan.as_deref()).unwrap();
        same(&person.id, profile["$first_name"].as_str(), person.first_name.as_deref()).unwrap();
        // An addition whose answer was lost is sent again, and counts again there.
        let revenue = profile["total_revenue"].as_f64().unwrap_or(0.0);
        assert!(revenue >= person.spent as f64, "{revenue} of {} are at Mixpanel: {}", person.spent, person.id);
    }
    groups_at_mixpanel(sandbox, said).await;
}

fn is_identity(name: &Value) -> bool {
    name == "$identify" || name == "$create_alias"
}

/// Whose Mixpanel takes each event to be, by the links that it was told of.
async fn everybodys_own(sandbox: &Sandbox, said: &Said, mode: Mode) {
    let owners = said.owners(mode);
    let answer = sandbox.get("/mixpanel/events?limit=10000000").await;
    for event in answer["events"].as_array().unwrap().iter().filter(|event| !is_identity(&event["event"])) {
        let properties = &event["properties"];
        let by = &said.events[&properties["n"].as_u64().unwrap()];
        let owner = owners.get(by).copied().unwrap_or(by);
        assert_eq!(properties["distinct_id"], owner, "an event that was said by {by} is somebody else's at Mixpanel");
    }
}

/// Every acknowledged update of a group, in order of its first arrival, as it was.
async fn groups_at_mixpanel(sandbox: &Sandbox, said: &Said) {
    let mut arrived: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for update in sandbox.mixpanel_updates().await {
        let record = &update["record"];
        let Some(group) = record["$group_id"].as_str() else { continue };
        let n = record["$set"]["n"].as_u64().unwrap_or_else(|| panic!("an update that nobody sent: {update}"));
        is_whole(n, &record["$set"]);
        let numbers = arrived.entry(group.to_owned()).or_default();
        if !numbers.contains(&n) {
            numbers.push(n);
        }
    }
    same("updates of groups at Mixpanel", &arrived, &said.groups).unwrap();
}

fn is_whole(n: u64, properties: &Value) {
    for (key, value) in payload(n).as_object().unwrap() {
        assert_eq!(properties[key], *value, "the {key} of event {n}");
    }
}

/// The same at Brevo, for who has an address; returns how many events came twice or more.
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
    for moves in 0..person.moves {
        let old = sandbox.brevo_contact(&person.address(moves)).await;
        assert!(old.is_none(), "{} has another address by now: {old:?}", person.id);
    }
    let contact = contact.unwrap_or_else(|| panic!("no contact of {}", person.id));
    let attribute = |name: &str| contact["attributes"][name].as_str().filter(|text| !text.is_empty());
    same("ext_id", attribute("EXT_ID"), Some(&*person.id)).unwrap();
    same(&person.id, attribute("PLAN_TYPE"), person.plan.as_deref()).unwrap();
    same(&person.id, attribute("FIRSTNAME"), person.first_name.as_deref()).unwrap();
    let revenue = contact["attributes"]["LTV"].as_f64().unwrap_or(0.0);
    // What Mixpanel counted twice was perhaps read there before it was added here.
    let at_mixpanel = sandbox.mixpanel_profile(&person.id).await.and_then(|profile| profile["total_revenue"].as_f64());
    let (least, most) = (person.spent as f64, at_mixpanel.unwrap_or(0.0).max(person.may_have_spent as f64));
    assert!((least..=most).contains(&revenue), "{} has spent {least} to {most}, at Brevo it is {revenue}", person.id);
    let came = by_contact.remove(&contact["id"].as_u64().unwrap()).unwrap_or_default();
    let mut first = Vec::new();
    for n in &came {
        if !first.contains(n) {
            first.push(*n);
        }
    }
    let arrived: BTreeSet<u64> = first.iter().copied().collect();
    let own: BTreeSet<u64> = person.own_purchases().map(|purchase| purchase.n).collect();
    same(&format!("events of {}", person.id), &arrived, &own).unwrap();
    if let Some((before, after)) = person.overtaken(&first) {
        panic!("{after} overtook {before} of {}: {came:?} of {:?}", person.id, person.purchases);
    }
    first.iter().filter(|n| came.iter().filter(|other| other == n).count() > 1).count() as u64
}
