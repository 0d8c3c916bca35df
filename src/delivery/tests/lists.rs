//! Lists: everybody in `all_users`, and what events ask for.

use serde_json::{Value, json};

use crate::brevo::identifiers::Membership;
use crate::config::EventRule;
use crate::delivery::testing::{PATIENCE, Setup, World};
use crate::record::Destination;
use crate::settlement::SkipRule;

const BREVO: Destination = Destination::Brevo;

/// `Purchase` adds to list 16 and takes out of 17, `Sign Up` the other way round.
fn setup() -> Setup {
    let mut setup = Setup::brevo();
    let rule = |name: &str, lists: [(u64, Membership); 2]| EventRule { lists: lists.into(), ..name.into() };
    let events = &mut setup.mapping.events;
    events.insert("Purchase".to_owned(), rule("order_completed", [(16, Membership::In), (17, Membership::Out)]));
    events.insert("Sign Up".to_owned(), rule("customer_created", [(16, Membership::Out), (17, Membership::In)]));
    setup
}

async fn lists_of(world: &World, id: &str) -> Value {
    world.contact(id).await["listIds"].clone()
}

#[tokio::test]
async fn events_add_to_lists_and_remove_in_few_calls_and_in_order() {
    let world = World::new(setup()).await;
    let relay = world.relay().await;
    for n in 0..120 {
        let id = format!("u{n}");
        let email = json!({"$email": format!("{id}@example.com")});
        relay.append(vec![world.set(&id, email), world.purchase(&id, n)]).await;
    }
    relay.append(vec![world.event("Sign Up", "u1", 200), world.purchase("u1", 201)]).await;
    relay.append(vec![world.event("Sign Up", "u2", 202)]).await;
    relay.settled().await;
    assert_eq!(relay.tally(BREVO).delivered.event, 123);
    assert_eq!(relay.tally(BREVO).lists_refused, 0);
    relay.drain().await;
    for (id, lists) in [("u0", json!([16])), ("u1", json!([16])), ("u2", json!([17])), ("u119", json!([16]))] {
        assert_eq!(lists_of(&world, id).await, lists, "{id}");
    }
    let calls = world.requests("brevo", "/v3/contacts/lists").await;
    assert!(calls < 60, "{calls} list calls for 120 people");
}

/// A success that names nobody is no refusal, whether Brevo has made the change or not.
#[tokio::test]
async fn an_answer_that_names_nobody_is_made_sure_of() {
    for when in ["before", "after"] {
        let world = World::new(setup()).await;
        let unsaid = json!({"kind": "status", "status": 200, "body": {}, "when": when});
        let mut fault = json!({"vendor": "brevo", "path_prefix": "/v3/contacts/lists"});
        fault.as_object_mut().unwrap().extend(unsaid.as_object().unwrap().clone());
        world.faults(fault).await;
        let relay = world.relay().await;
        relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 0)]).await;
        relay.settled().await;
        let tally = relay.tally(BREVO);
        assert_eq!((tally.delivered.event, tally.lists_refused), (1, 0), "{when}");
        assert_eq!(lists_of(&world, "u").await, json!([16]), "{when}");
        relay.drain().await;
    }
}

/// "Nothing changed" is success after checking, and is checked once.
#[tokio::test]
async fn repeated_changes_are_checked_once() {
    let world = World::new(setup()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 0)]).await;
    relay.settled().await;
    for n in 1..4 {
        relay.append(vec![world.purchase("u", n)]).await;
        relay.settled().await;
    }
    assert_eq!(relay.tally(BREVO).delivered.event, 4);
    assert_eq!(relay.tally(BREVO).lists_refused, 0);
    relay.drain().await;
    assert_eq!(lists_of(&world, "u").await, json!([16]));
    // The removal from 17 changed nothing the first time, and had to be looked at.
    assert_eq!(world.requests("brevo", "/v3/contacts/u").await, 1);
}

/// Neither the event nor its list change is lost or made twice by a crash between the two.
#[tokio::test]
async fn a_crash_between_event_and_list_loses_and_repeats_nothing() {
    let world = World::new(setup()).await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts/lists", "kind": "black_hole"})).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    let event = relay.append(vec![world.purchase("u", 1)]).await;
    let mut cursor = relay.leg(BREVO).status.durable_cursor();
    // The event's record is kept by the person, and that is written down.
    tokio::time::timeout(PATIENCE, cursor.wait_for(|cursor| *cursor > event)).await.unwrap().unwrap();
    assert_eq!(relay.report(BREVO).await.backlog, 1, "the event waits for its lists");
    relay.kill().await;
    world.heal().await;

    let relay = world.relay().await;
    assert!(relay.report(BREVO).await.backlog <= 1);
    relay.settled().await;
    assert_eq!(relay.tally(BREVO).delivered.event, 1);
    relay.drain().await;
    assert_eq!(world.brevo_events().await.len(), 1);
    assert_eq!(lists_of(&world, "u").await, json!([16]));
}

/// A list that the account lacks costs the event nothing; it is counted.
#[tokio::test]
async fn a_refused_list_is_counted_and_the_event_delivered() {
    let mut setup = setup();
    let rule = EventRule { lists: [(9_999, Membership::In)].into(), ..EventRule::from("order_completed") };
    setup.mapping.events.insert("Purchase".to_owned(), rule);
    let world = World::new(setup).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 1)]).await;
    relay.settled().await;
    assert_eq!(relay.tally(BREVO).delivered.event, 1);
    assert_eq!(relay.report(BREVO).await.lists_refused, 1);
    relay.drain().await;
}

/// Stale events, and those sent a second time, move nobody.
#[tokio::test]
async fn events_that_are_skipped_change_no_list() {
    let world = World::new(setup()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 1)]).await;
    relay.settled().await;
    let old = json!({"event": "Sign Up", "properties": {"distinct_id": "u", "$user_id": "u", "time": 1_600_000_000}});
    relay.append(vec![world.record(crate::record::Kind::Event, &old)]).await;
    relay.settled().await;
    assert_eq!(relay.skipped(BREVO, SkipRule::Stale), 1);
    relay.drain().await;
    assert_eq!(lists_of(&world, "u").await, json!([16]));
}

/// Phone-only people are contacts like others: they join everybody's list and those that events ask for, whether Brevo
/// knows them by our id or by the number alone.
#[tokio::test]
async fn phone_only_people_are_in_lists_too() {
    let world = World::new(setup().with_all_users()).await;
    world
        .control(
            "POST",
            "/brevo/seed",
            json!({"contacts": [
                {"ext_id": "other", "attributes": {"SMS": "33612345671"}},
                {"email": "owner@example.com", "ext_id": "taken"},
            ]}),
        )
        .await;
    let relay = world.relay().await;
    relay.append(vec![world.set("new", json!({"$phone": "+33612345670"})), world.purchase("new", 1)]).await;
    relay.settled().await;
    relay.drain().await;
    assert_eq!(lists_of(&world, "new").await, json!([15, 16]));
    assert_eq!(world.brevo_events().await, [(1, "applied".to_owned())]);
}
