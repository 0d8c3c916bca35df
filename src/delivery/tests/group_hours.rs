//! Groups under Brevo's hundred calls an hour, in simulated hours: ten thousand updates at once, and over hours.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::groups::{companies, group, known, members, seed, setup};
use crate::clock::Clock as _;
use crate::delivery::testing::{Relay, World, text};
use crate::record::{Destination, Record};
use crate::simulation::Asked;

const BREVO: Destination = Destination::Brevo;
const UPDATES: usize = 10_000;
const GROUPS: usize = 400;
const HOUR: u64 = 3_600_000;

/// Longer than a contact and its event may take to Brevo in simulated time: three calls, and a leg's own recheck.
const PROMPT: u64 = 2_000;

/// What a group's company is to be: the records' plain meaning, one after the other.
#[derive(Clone, Debug, Default)]
struct Meaning(BTreeMap<&'static str, Value>);

impl Meaning {
    /// Half of the companies were at Brevo before.
    fn of_before(n: usize) -> Self {
        Self(if was_there(n) { [("industry", json!("old")), ("domain", json!("kept"))].into() } else { [].into() })
    }

    fn apply(&mut self, operator: &str, attribute: &'static str, operand: &Value) {
        let members = |held: Option<&Value>| held.and_then(Value::as_array).cloned().unwrap_or_default();
        let held = self.0.get(attribute);
        match operator {
            "$set" => drop(self.0.insert(attribute, operand.clone())),
            "$set_once" if held.is_none() => drop(self.0.insert(attribute, operand.clone())),
            "$set_once" => {}
            "$unset" => drop(self.0.remove(attribute)),
            "$union" => {
                let mut all = members(held);
                if !all.contains(operand) {
                    all.push(operand.clone());
                }
                self.0.insert(attribute, all.into());
            }
            "$remove" => {
                let mut all = members(held);
                all.retain(|member| member != operand);
                if held.is_some() {
                    self.0.insert(attribute, all.into());
                }
            }
            _ => panic!("{operator}"),
        }
    }
}

/// As Brevo holds it: lists as texts, numbers as floats, and what is empty not at all.
fn as_held(attributes: impl IntoIterator<Item = (impl Into<String>, Value)>) -> BTreeMap<String, Value> {
    let held = attributes.into_iter().map(|(name, value)| {
        let value = match value {
            Value::Array(members) => Value::from(members.iter().map(text).collect::<Vec<_>>().join(", ")),
            Value::Number(number) => number.as_f64().into(),
            value => value,
        };
        (name.into(), value)
    });
    held.filter(|(_, value)| !value.is_null() && value != "").collect()
}

fn was_there(n: usize) -> bool {
    n < GROUPS / 2
}

fn id(n: usize) -> String {
    format!("g{n:03}")
}

fn name(n: usize) -> String {
    format!("Company {n:03}")
}

/// The `k`-th of the updates, which it also takes into `meanings`: every group's name first, then whatever comes.
fn update(world: &World, k: usize, meanings: &mut [Meaning]) -> Record {
    // Spread over the groups without a pattern that the operators would share.
    let n = if k < GROUPS { k } else { k * 7_919 % 9_973 % GROUPS };
    let (operator, property, attribute, operands) = match k % 5 {
        _ if k < GROUPS => ("$set", "$name", "name", vec![json!(name(n))]),
        // No import empties an attribute: each of these is a call of its own.
        _ if k % 60 == 59 => ("$unset", "industry", "industry", vec![Value::Null]),
        0 => ("$set", "arr", "revenue", vec![json!(k)]),
        1 => ("$set_once", "industry", "industry", vec![json!("new")]),
        2 => ("$union", "tags", "tags", vec![json!("all"), json!(format!("t{}", k % 7))]),
        3 => ("$remove", "tags", "tags", vec![json!(format!("t{}", k % 6))]),
        _ => ("$set", "industry", "industry", vec![json!(format!("i{}", k % 9))]),
    };
    operands.iter().for_each(|operand| meanings[n].apply(operator, attribute, operand));
    let body = match operator {
        "$unset" => json!([property]),
        "$union" => json!({ property: operands }),
        _ => json!({ property: operands[0] }),
    };
    group(world, &id(n), operator, body)
}

async fn before(world: &World) -> Vec<Meaning> {
    world.switch(json!({"brevo": {"rate_window": "sliding"}})).await;
    let there = (0..GROUPS).filter(|n| was_there(*n));
    seed(world, there.map(|n| json!({"name": name(n), "industry": "old", "domain": "kept"})).collect()).await;
    (0..GROUPS).map(Meaning::of_before).collect()
}

/// Every call that draws on the hundred an hour. None was refused, and no hour has more.
async fn hourly_calls(world: &World) -> Vec<Asked> {
    let asked = world.asked();
    let refused: Vec<_> = asked.iter().filter(|asked| asked.status == 429).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let hourly = |asked: &Asked| !asked.path.starts_with("/v3/contacts") && !asked.path.starts_with("/v3/events");
    let calls: Vec<_> = asked.into_iter().filter(hourly).collect();
    let counted = world.show("/brevo/counts").await["counts"]["calls"]["other"].as_u64().unwrap();
    assert_eq!(counted, calls.len() as u64, "the vendor counts as this test does");
    for window in calls.windows(101) {
        let took = window[100].at.since(window[0].at);
        assert!(took >= Duration::from_millis(HOUR), "101 calls within {took:?}, from {:?}", window[0]);
    }
    calls
}

async fn companies_are(world: &World, meanings: &[Meaning]) {
    let found = companies(world).await;
    assert_eq!(found.len(), meanings.len());
    for (found, meaning) in found.into_iter().zip(meanings) {
        let Value::Object(found) = found else { panic!("{found}") };
        assert_eq!(as_held(found), as_held(meaning.0.clone()), "{meaning:?}");
    }
}

/// Every event that Brevo has, by its number: when it came.
async fn arrivals(world: &World) -> BTreeMap<usize, u64> {
    let shown = world.show("/brevo/events?limit=100000").await;
    let arrival = |event: &Value| {
        assert_eq!(event["outcome"], "applied", "{event}");
        let n = event["event"]["event_properties"]["n"].as_u64().unwrap();
        (usize::try_from(n).unwrap(), event["at"].as_u64().unwrap())
    };
    shown["events"].as_array().unwrap().iter().map(arrival).collect()
}

/// A contact and its event, which cannot come before it: when they left.
async fn somebody(world: &World, relay: &Relay, n: usize, sent: &mut BTreeMap<usize, u64>) {
    let person = format!("somebody{n}");
    sent.insert(n, world.clock.now().0);
    relay.append(vec![known(world, &person), world.purchase(&person, i64::try_from(n).unwrap())]).await;
}

fn in_time(sent: &BTreeMap<usize, u64>, arrived: &BTreeMap<usize, u64>) {
    assert!(sent.keys().eq(arrived.keys()), "{} were sent, {} have arrived", sent.len(), arrived.len());
    for (n, at) in sent {
        let took = arrived[n] - at;
        assert!(took <= PROMPT, "the event {n} took {took} ms");
    }
}

/// Until the companies are owed nothing: their own records, and the links of people.
async fn settled_within(world: &World, relay: &Relay, limit: Duration) -> Duration {
    let started = world.clock.now();
    loop {
        let report = relay.report(BREVO).await;
        let links = report.groups.as_ref().map_or(0, |groups| groups.links);
        let took = world.clock.now().since(started);
        if report.backlog == 0 && links == 0 {
            return took;
        }
        assert!(took < limit, "not settled after {took:?}: {report:?}");
        sleep(Duration::from_secs(10)).await;
    }
}

/// The account's attributes (read, one made, read again: 3), one reading of its companies (two pages and the first: 3), an
/// import that makes half of the companies (the call, a look, a reading of them: 5), and one that changes all of them when
/// all has come in (the call, a look, a sample: 3). A second of each import is the price of not waiting for what has not come
/// yet.
const BY_IMPORT: usize = 3 + 3 + 2 * 5 + 2 * 3;

/// All within five seconds. No import empties an attribute of a company (contract §6): that is a call each, and none besides.
#[tokio::test(start_paused = true)]
async fn ten_thousand_updates_at_once_cost_a_handful_of_calls_and_delay_nobody() {
    let world = World::simulated(setup());
    let mut meanings = before(&world).await;
    let relay = world.relay().await;
    let mut sent = BTreeMap::new();
    for (round, updates) in (0..UPDATES).collect::<Vec<_>>().chunks(GROUPS).enumerate() {
        relay.append(updates.iter().map(|k| update(&world, *k, &mut meanings)).collect()).await;
        somebody(&world, &relay, round, &mut sent).await;
        // Ten contacts a second are Brevo's limit for these.
        sleep(Duration::from_millis(200)).await;
    }
    let took = settled_within(&world, &relay, Duration::from_secs(3600)).await;
    let tally = relay.tally(BREVO);
    assert_eq!((tally.delivered.group, tally.delivered.event), (UPDATES as u64, sent.len() as u64));
    companies_are(&world, &meanings).await;
    in_time(&sent, &arrivals(&world).await);
    let calls = hourly_calls(&world).await;
    // Everybody had one, until it was taken away.
    let emptied = meanings.iter().filter(|meaning| !meaning.0.contains_key("industry")).count();
    println!("{} calls in {took:?}, {emptied} companies have an attribute emptied", calls.len());
    assert!(calls.len() <= BY_IMPORT + emptied, "{} calls, {emptied} emptied", calls.len());
    relay.drain().await;
}

/// Over four hours, forty a minute, while people come and go at thirty of the companies; killed in the middle.
#[tokio::test(start_paused = true)]
async fn ten_thousand_updates_over_hours_stay_within_every_hour_and_delay_nobody() {
    const A_MINUTE: usize = 40;
    const PEOPLE: usize = 60;
    const COMPANIES: usize = 30;
    let world = World::simulated(setup());
    let mut meanings = before(&world).await;
    let mut relay = world.relay().await;
    let people: Vec<String> = (0..PEOPLE).map(|p| format!("member{p}")).collect();
    relay.append(people.iter().map(|person| known(&world, person)).collect()).await;
    sleep(Duration::from_secs(60)).await;
    let mut belongs: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); PEOPLE];
    let (mut sent, mut longest) = (BTreeMap::new(), Duration::ZERO);
    let started = world.clock.now();
    for minute in 0..UPDATES / A_MINUTE {
        let updates = (minute * A_MINUTE..(minute + 1) * A_MINUTE).map(|k| update(&world, k, &mut meanings));
        relay.append(updates.collect()).await;
        // Everybody in turn joins one company; later they leave all others for another.
        let (person, company) = (minute % PEOPLE, (minute * 7) % COMPANIES);
        let membership = match minute / PEOPLE {
            0 | 2 => {
                belongs[person].insert(company);
                world.update(&people[person], "$union", json!({"company_id": [id(company)]}))
            }
            1 => {
                belongs[person] = [company].into();
                world.set(&people[person], json!({"company_id": [id(company)]}))
            }
            _ => {
                belongs[person].remove(&company);
                world.update(&people[person], "$remove", json!({"company_id": id(company)}))
            }
        };
        relay.append(vec![membership]).await;
        somebody(&world, &relay, minute, &mut sent).await;
        if minute == UPDATES / A_MINUTE / 2 {
            relay.kill().await;
            relay = world.relay().await;
        }
        sleep(Duration::from_secs(60)).await;
        let owed = relay.report(BREVO).await.oldest_undelivered_seconds;
        longest = longest.max(Duration::from_secs_f64(owed));
    }
    let rest = settled_within(&world, &relay, Duration::from_secs(5400)).await;
    let took = world.clock.now().since(started);
    let tally = relay.tally(BREVO);
    assert_eq!((tally.delivered.group, tally.delivered.event), (UPDATES as u64, sent.len() as u64));
    companies_are(&world, &meanings).await;
    for company in 0..COMPANIES {
        let expected: BTreeSet<_> =
            (0..PEOPLE).filter(|p| belongs[*p].contains(&company)).map(|p| people[p].clone()).collect();
        let found: BTreeSet<_> = members(&world, &name(company)).await.into_iter().collect();
        assert_eq!(found, expected, "{}", name(company));
    }
    in_time(&sent, &arrivals(&world).await);
    let calls = hourly_calls(&world).await;
    println!("{} calls in {took:?}, {rest:?} after the last update; the oldest waited {longest:?}", calls.len());
    // What is emptied, and the links of thirty companies, cannot be joined; all else can.
    assert!(calls.len() * 20 <= UPDATES, "{} calls", calls.len());
    // What no import carries waits for its turn, and not for the end of all imports.
    assert!(longest <= Duration::from_secs(2 * 3600), "{longest:?}");
    relay.drain().await;
}
