//! What the relay has fed itself: it fills what is unknown, goes behind an app's records, and costs nothing twice.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::config::{BrevoMode, Consent};
use crate::delivery::testing::{Relay, Setup, World, eventually, text};
use crate::record::{Destination, Destinations, Kind, Origin, Record};
use crate::settlement::SkipRule;
use crate::vendor::PauseCause;

const BREVO: Destination = Destination::Brevo;

fn pulled(record: Record) -> Record {
    Record { origin: Origin::Pull, destinations: Destinations::BREVO, ..record }
}

fn triggering(record: Record) -> Record {
    Record { origin: Origin::PullToTrigger, ..pulled(record) }
}

fn old(world: &World, mut record: Record) -> Record {
    let mut body: Value = serde_json::from_slice(&record.body).unwrap();
    body["properties"]["time"] = json!(world.clock_seconds() - 30 * 86_400);
    record.body = body.to_string().into();
    record
}

async fn contact_writes(world: &World) -> Vec<Value> {
    let shown = world.show("/brevo/requests?limit=100000&path=/v3/contacts").await;
    let requests = shown["requests"].as_array().unwrap().iter();
    requests.filter(|request| request["method"] == "POST").cloned().collect()
}

async fn paused(relay: &Relay) {
    relay.leg(BREVO).status.gate().pause(PauseCause::ByHand);
}

#[tokio::test]
async fn a_pull_fills_and_what_an_app_has_said_stays() {
    let world = World::new(Setup::brevo().with_all_users()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com", "plan": "pro"}))]).await;
    relay.settled().await;
    let pull = || {
        let known = json!({"$email": "old@example.com", "plan": "free", "shoe": 41});
        let new = json!({"$email": "new@example.com", "plan": "free"});
        vec![
            pulled(world.set("u", known)),
            pulled(world.set("new", new)),
            pulled(world.set("visitor", json!({"plan": "free"}))),
        ]
    };
    relay.append(pull()).await;
    relay.settled().await;
    let (known, new) = (world.contact("u").await, world.contact("new").await);
    assert_eq!(
        (&known["email"], &known["attributes"]["PLAN_TYPE"], &known["attributes"]["SHOE_SIZE"]),
        (&json!("u@example.com"), &json!("pro"), &json!(41))
    );
    assert_eq!((&new["attributes"]["PLAN_TYPE"], &new["listIds"]), (&json!("free"), &json!([15])));
    assert_eq!(relay.skipped(BREVO, SkipRule::NoAddress), 1);

    // The same pull again costs Brevo nothing; a change does.
    let before = contact_writes(&world).await.len();
    relay.append(pull()).await;
    relay.settled().await;
    assert_eq!(relay.skipped(BREVO, SkipRule::NothingNew), 2);
    assert_eq!(contact_writes(&world).await.len(), before);
    relay.append(vec![pulled(world.set("new", json!({"plan": "trial"})))]).await;
    relay.settled().await;
    assert_eq!(world.contact("new").await["attributes"]["PLAN_TYPE"], "trial");
    relay.drain().await;
}

/// A crash between fold and call, and a pull that is fed again after it.
#[tokio::test]
async fn what_a_pull_owes_outlives_a_crash() {
    let world = World::new(Setup::brevo()).await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "black_hole"})).await;
    let relay = world.relay().await;
    let pull = || (0..50).map(|n| pulled(world.set(&format!("u{n}"), json!({"$email": format!("u{n}@example.com")}))));
    relay.append(pull().collect()).await;
    let cursor = relay.leg(BREVO).status.durable_cursor();
    eventually("folded", async || cursor.borrow().index >= 50 || cursor.borrow().entry.0 > 1).await;
    relay.kill().await;
    world.heal().await;
    let relay = world.relay().await;
    relay.append(pull().collect()).await;
    relay.settled().await;
    let ended = relay.tally(BREVO).delivered.profile + relay.skipped(BREVO, SkipRule::NothingNew);
    assert_eq!(ended, 100);
    relay.drain().await;
    assert_eq!(world.contact("u49").await["email"], "u49@example.com");
}

/// Live writes are not behind pulled ones that were accepted before them.
#[tokio::test]
async fn live_contacts_go_before_pulled_ones() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("first", json!({"$email": "first@example.com"}))]).await;
    relay.settled().await;
    paused(&relay).await;
    let profile = |kind: &str, n: usize| world.set(&format!("{kind}{n}"), json!({"$email": format!("{kind}{n}@x.io")}));
    relay.append((0..60).map(|n| pulled(profile("pulled", n))).collect()).await;
    relay.append((0..20).map(|n| profile("live", n)).collect()).await;
    let status = relay.leg(BREVO).status.clone();
    eventually("read", async || status.load().await.unwrap().unread == 0).await;
    relay.until(BREVO, "all owed", |report| report.backlog == 80).await;
    relay.leg(BREVO).status.gate().resume();
    relay.settled().await;
    let writes = contact_writes(&world).await;
    let mut order: Vec<_> = writes.iter().map(|request| request.to_string().contains("live")).collect();
    order.remove(0);
    assert_eq!(order.iter().filter(|live| **live).count(), 20, "{writes:?}");
    let last = order.iter().rposition(|live| *live).unwrap();
    assert!(last < 40, "the last live contact came as number {last}");
    relay.drain().await;
}

#[tokio::test]
async fn live_events_go_before_pulled_ones() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    let people: Vec<_> =
        (0..50).map(|n| world.set(&format!("u{n}"), json!({"$email": format!("u{n}@x.io")}))).collect();
    relay.append(people).await;
    relay.settled().await;
    paused(&relay).await;
    // Ten people of whom all is pulled, nine events each for forty-five of them; five with live ones.
    relay.append((0..450).map(|n| pulled(world.purchase(&format!("u{}", n % 45), n))).collect()).await;
    relay.append((45..50).map(|n| world.purchase(&format!("u{n}"), 10_000 + n)).collect()).await;
    relay.until(BREVO, "read", |report| report.backlog == 455).await;
    let status = relay.leg(BREVO).status.clone();
    eventually("read", async || status.load().await.unwrap().unread == 0).await;
    relay.leg(BREVO).status.gate().resume();
    relay.settled().await;
    let numbers: Vec<_> = world.brevo_events().await.into_iter().map(|(n, _)| n).collect();
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), 455);
    let last = numbers.iter().rposition(|n| *n >= 10_000).unwrap();
    assert!(last < 405, "the last live event came as number {last}");
    relay.drain().await;
}

#[tokio::test]
async fn old_events_trigger_nothing_unless_asked_and_nobody_waits() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    let events = [
        pulled(old(&world, world.purchase("u", 1))),
        triggering(old(&world, world.purchase("u", 2))),
        triggering(old(&world, world.purchase("u", 2))),
        triggering(world.purchase("nobody", 3)),
        pulled(world.purchase("u", 4)),
    ];
    relay.append(events.to_vec()).await;
    relay.settled().await;
    let mut numbers: Vec<_> = world.brevo_events().await.into_iter().map(|(n, _)| n).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 4]);
    let skipped = |rule| relay.skipped(BREVO, rule);
    assert_eq!((skipped(SkipRule::Stale), skipped(SkipRule::Duplicate), skipped(SkipRule::NoAddress)), (1, 1, 1));
    assert_eq!(relay.report(BREVO).await.parked, 0);
    relay.drain().await;
}

/// What an app has brought late is known again in an export, where Mixpanel has rounded its time and knows whose it is; what
/// has nothing but its `$insert_id` in common with another event of the export is not.
#[tokio::test]
async fn an_event_that_came_late_is_known_again_in_an_export() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    let people = ["u", "v"].map(|id| world.set(id, json!({"$email": format!("{id}@example.com")})));
    relay.append([&people[..], &[world.purchase("u", 0)]].concat()).await;
    relay.settled().await;
    let hour_ago = world.clock_seconds() - 3_600;
    let event = |properties: Value, n: i64, id: &str| {
        let mut body = json!({"event": "Purchase", "properties": properties});
        body["properties"]["n"] = n.into();
        body["properties"]["$insert_id"] = id.into();
        body["$mp_metadata"] = json!({"$mp_event_id": format!("{n}")});
        world.record(Kind::Event, &body)
    };
    let device =
        json!({"distinct_id": "$device:d", "$device_id": "d", "$user_id": "u", "time": hour_ago * 1_000 + 123});
    let of = |id: &str| json!({"distinct_id": id, "time": hour_ago});
    let exported = [
        pulled(event(of("u"), 2, "minted")),
        pulled(event(of("u"), 3, "careless")),
        pulled(event(of("v"), 4, "careless")),
    ];
    relay.append([&[event(device, 1, "minted")], &exported[..]].concat()).await;
    relay.settled().await;
    let mut numbers: Vec<_> = world.brevo_events().await.into_iter().map(|(n, _)| n).collect();
    numbers.sort_unstable();
    assert_eq!((numbers, relay.skipped(BREVO, SkipRule::Duplicate)), (vec![0, 1, 3, 4], 1));
    relay.drain().await;
}

/// Many pulled profiles travel in imports.
#[tokio::test]
async fn many_pulled_profiles_are_imported() {
    let world = World::new(Setup::brevo().with_all_users()).await;
    let relay = world.relay().await;
    for page in 0..4 {
        let profile = |n: usize| {
            let n = page * 300 + n;
            pulled(world.set(&format!("u{n}"), json!({"$email": format!("u{n}@example.com"), "shoe": n})))
        };
        relay.append((0..300).map(profile).collect()).await;
    }
    relay.settled().await;
    assert_eq!(relay.tally(BREVO).delivered.profile, 1_200);
    assert_eq!(world.contact("u1199").await["attributes"]["SHOE_SIZE"], 1_199);
    let calls = contact_writes(&world).await.len();
    assert!(calls < 120, "{calls} writes for 1,200 profiles");
    relay.drain().await;
}

#[tokio::test]
async fn a_pull_obeys_consent_and_pilots() {
    let consent = Consent::Required { property: "ok".to_owned(), value: json!(true) };
    let world = World::new(Setup { consent, ..Setup::brevo() }).await;
    let relay = world.relay().await;
    let profile = |id: &str, ok: Value| pulled(world.set(id, json!({"$email": format!("{id}@x.io"), "ok": ok})));
    let silent = pulled(world.set("silent", json!({"$email": "silent@x.io"})));
    relay.append(vec![profile("yes", json!(true)), silent]).await;
    relay.settled().await;
    assert_eq!(text(&world.contact("yes").await["email"]), "yes@x.io");
    assert_eq!(world.contact("silent").await, Value::Null);
    assert_eq!(relay.skipped(BREVO, SkipRule::NoConsent), 1);
    relay.drain().await;

    let pilot = Setup { mode: BrevoMode::Pilot, pilot_emails: vec!["*@x.io".to_owned()], ..Setup::brevo() };
    let world = World::new(pilot).await;
    let relay = world.relay().await;
    let profile = |id: &str, host: &str| pulled(world.set(id, json!({"$email": format!("{id}@{host}")})));
    relay.append(vec![profile("in", "x.io"), profile("out", "y.io")]).await;
    relay.settled().await;
    assert_eq!(relay.skipped(BREVO, SkipRule::NotInPilot), 1);
    assert_eq!(text(&world.contact("in").await["email"]), "in@x.io");
    relay.drain().await;
}
