//! Values that are not known, through both legs and over vendors that are not empty (CORE 4, 5).

use std::time::Duration;

use serde_json::{Value, json};

use crate::delivery::testing::{Relay, Setup, World, eventually};
use crate::record::Destination;
use crate::settlement::SkipRule;

const BREVO: Destination = Destination::Brevo;

async fn at_mixpanel(world: &World, id: &str, properties: Value) {
    world.control("POST", "/mixpanel/seed", json!({"profiles": [{"distinct_id": id, "properties": properties}]})).await;
}

async fn attribute(world: &World, id: &str, name: &str) -> Value {
    world.contact(id).await["attributes"][name].clone()
}

async fn done(relay: &Relay) {
    for destination in Destination::ALL {
        relay.until(destination, "done", |report| report.backlog == 0 && report.parked == 0).await;
    }
}

/// 1,000 of revenue at Mixpanel before the relay was installed: `$add 10` must not make Brevo's LTV 10, and the 10 that
/// Mixpanel has by the time it is asked must not be counted twice.
#[tokio::test]
async fn core5_an_addition_is_made_to_what_was_there_before() {
    let world = World::new(Setup::both()).await;
    at_mixpanel(&world, "old", json!({"total_revenue": 1_000, "$email": "old@example.com", "plan": "pro"})).await;
    let relay = world.relay().await;
    relay.append(vec![world.update("old", "$add", json!({"total_revenue": 10})), world.purchase("old", 1)]).await;
    done(&relay).await;
    assert_eq!(attribute(&world, "old", "LTV").await, 1_010);
    // Nobody has told the relay who that is: the profile has.
    let contact = world.contact("old").await;
    assert_eq!((&contact["email"], &contact["attributes"]["PLAN_TYPE"]), (&json!("old@example.com"), &json!("pro")));
    assert_eq!(world.brevo_events().await.len(), 1);
    // From now on it is known, and nobody is asked.
    let asked = world.requests("mixpanel", "/api/query/engage").await;
    relay.append(vec![world.update("old", "$add", json!({"total_revenue": -4}))]).await;
    relay.settled().await;
    assert_eq!(attribute(&world, "old", "LTV").await, 1_006);
    assert_eq!((asked, world.requests("mixpanel", "/api/query/engage").await), (1, 1));
    relay.drain().await;
}

/// A value that waits holds nothing else back: not the contact, not its events, not what comes later.
#[tokio::test]
async fn core5_only_the_value_waits() {
    let world = World::new(Setup::both()).await;
    at_mixpanel(&world, "u", json!({"total_revenue": 5})).await;
    world.faults(json!({"vendor": "mixpanel", "kind": "black_hole"})).await;
    let relay = world.relay().await;
    relay.append(vec![world.update("u", "$add", json!({"total_revenue": 10}))]).await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com", "plan": "pro"})), world.purchase("u", 1)]).await;
    relay.until(BREVO, "all but the value", |report| report.backlog == 0 && report.parked == 1).await;
    assert_eq!(attribute(&world, "u", "PLAN_TYPE").await, "pro");
    assert_eq!(attribute(&world, "u", "LTV").await, Value::Null);
    assert_eq!(world.brevo_events().await.len(), 1);
    // The wait is in the store.
    relay.kill().await;
    let relay = world.relay().await;
    relay.until(BREVO, "still waiting", |report| report.backlog == 0 && report.parked == 1).await;
    relay.kill().await;
    world.heal().await;
    let relay = world.relay().await;
    done(&relay).await;
    assert_eq!(attribute(&world, "u", "LTV").await, 15);
    assert_eq!(relay.tally(BREVO).delivered.profile, 2);
    relay.drain().await;
}

/// The same for a property that was mapped after the relay had seen its person.
#[tokio::test]
async fn core5_a_property_that_is_mapped_later_is_read_first() {
    let mut world = World::new(Setup::both()).await;
    let later = world.setup.mapping.properties.remove("total_revenue").unwrap();
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.append(vec![world.update("u", "$add", json!({"total_revenue": 70}))]).await;
    done(&relay).await;
    relay.drain().await;
    world.setup.mapping.properties.insert("total_revenue".to_owned(), later);
    let relay = world.relay().await;
    relay.append(vec![world.update("u", "$add", json!({"total_revenue": 7}))]).await;
    done(&relay).await;
    assert_eq!(attribute(&world, "u", "LTV").await, 77);
    relay.drain().await;
}

/// Folded and written down, crash before the call: the sum is sent, and nothing is added twice.
#[tokio::test]
async fn core4_a_sum_that_was_folded_before_a_crash_is_sent_once() {
    let world = World::new(Setup::both()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com", "total_revenue": 100}))]).await;
    done(&relay).await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "black_hole"})).await;
    for _ in 0..3 {
        relay.append(vec![world.update("u", "$add", json!({"total_revenue": 10}))]).await;
    }
    let mut cursor = relay.leg(BREVO).status.durable_cursor();
    let folded = relay.append(vec![world.purchase("u", 1)]).await;
    cursor.wait_for(|at| at.entry >= folded.entry).await.unwrap();
    relay.kill().await;
    world.heal().await;
    let relay = world.relay().await;
    done(&relay).await;
    assert_eq!(attribute(&world, "u", "LTV").await, 130);
    relay.drain().await;
}

/// Without a service account Brevo's own value is the base: what the relay has not sent is not in it.
#[tokio::test]
async fn core5_brevo_is_the_base_where_mixpanel_cannot_be_asked() {
    for setup in [Setup { service_account: false, ..Setup::both() }, Setup::brevo()] {
        let world = World::new(setup).await;
        let contacts = json!([{"email": "u@example.com", "attributes": {"LTV": 1_000, "PLAN_TYPE": "a, b"}}]);
        world.control("POST", "/brevo/seed", json!({"contacts": contacts})).await;
        let relay = world.relay().await;
        relay.append(vec![world.update("u", "$add", json!({"total_revenue": 10}))]).await;
        relay.append(vec![world.update("u", "$append", json!({"plan": "c"}))]).await;
        relay.append(vec![world.update("u", "$set_once", json!({"$email": "u@example.com"}))]).await;
        relay.until(BREVO, "done", |report| report.backlog == 0 && report.parked == 0).await;
        assert_eq!(attribute(&world, "u", "LTV").await, 1_010);
        assert_eq!(attribute(&world, "u", "PLAN_TYPE").await, "a, b, c");
        relay.drain().await;
    }
}

/// Mixpanel shows a profile late: an answer counts only when it is certain to hold what was added.
#[tokio::test]
async fn core5_an_answer_that_lags_is_not_taken_for_the_whole() {
    let world = World::new(Setup { settle: Duration::from_millis(1_500), ..Setup::both() }).await;
    world.switch(json!({"mixpanel": {"profile_lag_ms": 1_000}})).await;
    at_mixpanel(&world, "u", json!({"total_revenue": 1_000})).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    for _ in 0..5 {
        relay.append(vec![world.update("u", "$add", json!({"total_revenue": 10}))]).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    done(&relay).await;
    assert_eq!(attribute(&world, "u", "LTV").await, 1_050);
    relay.drain().await;
}

/// Many people who wait are asked for in one call; who is not at Mixpanel has nothing.
#[tokio::test]
async fn core5_many_people_are_read_at_once() {
    let world = World::new(Setup::both()).await;
    for n in (0..200).step_by(2) {
        at_mixpanel(&world, &format!("u{n}"), json!({"total_revenue": 1_000})).await;
    }
    let relay = world.relay().await;
    let update = |n: i32| {
        let id = format!("u{n}");
        let email = json!({"$email": format!("{id}@example.com")});
        [world.set(&id, email), world.update(&id, "$add", json!({"total_revenue": n}))]
    };
    relay.append((0..200).flat_map(update).collect()).await;
    done(&relay).await;
    for n in [0, 1, 98, 99, 199] {
        let base = if n % 2 == 0 { 1_000 } else { 0 };
        assert_eq!(attribute(&world, &format!("u{n}"), "LTV").await, base + n, "u{n}");
    }
    assert!(world.requests("mixpanel", "/api/query/engage").await <= 3);
    relay.drain().await;
}

/// A query API that refuses costs nobody else anything; what waits too long is let go, counted and still unknown.
#[tokio::test]
async fn core5_a_wait_that_comes_to_nothing_ends_with_parking() {
    let mut setup = Setup::both();
    setup.parking.max_age = Duration::from_secs(3_600);
    let world = World::new(setup).await;
    let plan = json!({"vendor": "mixpanel", "path_prefix": "/api/query", "kind": "status", "status": 402});
    world.faults(plan).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.append(vec![world.update("u", "$add", json!({"total_revenue": 10}))]).await;
    relay.until(BREVO, "waiting", |report| report.backlog == 0 && report.parked == 1).await;
    eventually("refused", async || world.requests("mixpanel", "/api/query/engage").await > 0).await;
    relay.kill().await;
    world.clock.shift(2 * 3_600_000);
    let relay = world.relay().await;
    relay.until(BREVO, "let go", |report| report.backlog == 0 && report.parked == 0).await;
    assert_eq!(relay.skipped(BREVO, SkipRule::Expired), 1);
    assert_eq!(attribute(&world, "u", "LTV").await, Value::Null);
    world.heal().await;
    relay.append(vec![world.update("u", "$add", json!({"total_revenue": 1}))]).await;
    done(&relay).await;
    assert_eq!(attribute(&world, "u", "LTV").await, 11, "Mixpanel had counted what was let go");
    relay.drain().await;
}
