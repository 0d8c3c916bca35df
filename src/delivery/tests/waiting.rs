//! Who waits for long takes nothing from the others.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::config::Parking;
use crate::delivery::testing::{Setup, World, eventually};
use crate::people::shelf;
use crate::record::Destination;
use crate::settlement::SkipRule;
use crate::store::State;
use crate::vendor::verdict::PauseCause;

const BREVO: Destination = Destination::Brevo;

/// CORE 7: an import may take an hour. The events of the people in it wait on their shelves, and everybody else's arrive.
#[tokio::test]
async fn core_7_a_long_import_of_people_with_many_events_stalls_nobody_else() {
    const PEOPLE: i64 = 120;
    let world = World::new(Setup::brevo().with_all_users()).await;
    world.switch(json!({"brevo": {"import_processing_ms": 3_600_000}})).await;
    let relay = world.relay().await;
    // Nothing goes out until as much has been read as the leg holds.
    relay.leg(BREVO).status.gate().pause(PauseCause::ByHand);
    let email = |n: i64| json!({"$email": format!("u{n}@example.com")});
    relay.append((0..PEOPLE).map(|n| world.set(&format!("u{n}"), email(n))).collect()).await;
    let mut last = relay.append(vec![world.set("first", json!({"$email": "first@example.com"}))]).await;
    for round in 0..21 {
        let events = (0..1_000).map(|n| world.purchase(&format!("u{}", n % PEOPLE), round * 1_000 + n));
        last = relay.append(events.collect()).await;
    }
    let status = &relay.leg(BREVO).status;
    let full = || status.snapshot().next_entry.0 + 1 >= last.entry.0;
    eventually("a leg that holds all that it may", async || full()).await;
    relay.leg(BREVO).status.gate().resume();
    eventually("an import under way", async || world.requests("brevo", "/v3/contacts/import").await > 0).await;

    relay.append(vec![world.set("bob", json!({"$email": "bob@example.com"})), world.purchase("bob", -7)]).await;
    let arrived = async || world.brevo_events().await.iter().any(|(n, _)| *n == -7);
    eventually("the event of somebody else", arrived).await;
    assert_eq!(relay.report(BREVO).await.parked, 21_000, "on shelves, and in nobody's way");
    relay.kill().await;
}

/// CORE 7: rows that are on their way off their shelves, and cannot go, do not keep others past their time.
#[tokio::test]
async fn core_7_rows_that_wait_for_the_vendor_do_not_keep_others_from_expiring() {
    let mut setup = Setup::brevo();
    setup.parking = Parking { max_age: Duration::from_hours(1), ..Parking::default() };
    setup.answer_timeout = Duration::from_hours(1);
    let world = World::new(setup).await;
    let relay = world.relay().await;
    let ids = ["ada", "bob", "eve"];
    for (n, id) in (0..).zip(ids) {
        relay.append((0..200).map(|m| world.purchase(id, n * 1_000 + m)).collect()).await;
    }
    relay.append(vec![world.purchase("nobody", 9_000)]).await;
    relay.until(BREVO, "parked", |report| report.parked == 601).await;
    // They are known now; their events are in calls that are not answered.
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/events", "kind": "black_hole"})).await;
    for id in ids {
        relay.append(vec![world.set(id, json!({"$email": format!("{id}@example.com")}))]).await;
    }
    eventually("in calls", async || world.requests("brevo", "/v3/events").await == ids.len()).await;
    world.clock.shift(2 * 3_600_000);
    // Until the leg looks at its shelves again.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    eventually("expired", async || relay.skipped(BREVO, SkipRule::Expired) > 0).await;
    assert_eq!(relay.skipped(BREVO, SkipRule::Expired), 1);
    assert_eq!(relay.report(BREVO).await.parked, 600);
    relay.kill().await;
}

/// CORE 7: 429 and 5xx are the destination's affair. What waits for it waits in order, and on nobody's shelf.
#[tokio::test]
async fn core_7_trouble_of_the_destination_fills_no_shelf() {
    for status in [429, 503] {
        let world = World::new(Setup::brevo()).await;
        let relay = world.relay().await;
        let people: Vec<String> = (0..3).map(|n| format!("u{n}")).collect();
        let known = people.iter().map(|id| world.set(id, json!({"$email": format!("{id}@example.com")})));
        relay.append(known.collect()).await;
        relay.settled().await;
        world.faults(json!({"vendor": "brevo", "kind": "status", "status": status})).await;
        let mut last = relay.append(vec![world.set("u0", json!({"plan": "pro"}))]).await;
        for n in 0..300 {
            last = relay.append(vec![world.purchase(&people[n % 3], n as i64)]).await;
        }
        eventually("tried again", async || world.requests("brevo", "/v3/events").await > 1).await;
        let status = &relay.leg(BREVO).status;
        eventually("read", async || status.snapshot().next_entry > last.entry).await;
        let report = relay.report(BREVO).await;
        assert_eq!((report.parked, report.backlog), (0, 301));
        world.heal().await;
        relay.settled().await;
        relay.drain().await;
        let sent = world.brevo_events().await;
        for person in 0..3 {
            let theirs: Vec<i64> = sent.iter().map(|(n, _)| *n).filter(|n| n % 3 == person).collect();
            assert_eq!(theirs, (0..100).map(|n| 3 * n + person).collect::<Vec<_>>());
        }
    }
}

/// CORE 7: shelves are bounded in bytes too, and the oldest are out first.
#[tokio::test]
async fn core_7_shelves_that_hold_too_many_bytes_let_the_oldest_go() {
    let mut world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    let events: Vec<_> = (0..60).map(|n| world.purchase("u", n)).collect();
    for event in &events {
        relay.append(vec![event.clone()]).await;
    }
    relay.until(BREVO, "parked", |report| report.parked == 60).await;
    relay.drain().await;
    let bound = 20 * events[59].body.len() as u64;
    world.setup.parking.max_bytes = bound;
    // A start looks for surplus at once.
    let relay = world.relay().await;
    let state: Arc<dyn State> = relay.store.state.clone();
    eventually("within its bounds", async || shelf::totals(&state).await.unwrap().1 <= bound).await;
    drop(state);
    let parked = relay.report(BREVO).await.parked;
    assert!(parked > 0 && relay.skipped(BREVO, SkipRule::Expired) == 60 - parked, "{parked}");
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.until(BREVO, "done", |report| report.backlog == 0 && report.parked == 0).await;
    relay.drain().await;
    let arrived: Vec<i64> = world.brevo_events().await.iter().map(|(n, _)| *n).collect();
    assert_eq!(arrived, (60 - parked as i64..60).collect::<Vec<_>>());
}
