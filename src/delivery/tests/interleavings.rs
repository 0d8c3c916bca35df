//! What happens to one person at the same moment: links, answers, withdrawals and modes that cross each other.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::brevo::identifiers::Membership;
use crate::config::{BrevoMode, Consent, EventRule, IdentityMode};
use crate::delivery::testing::{Relay, Setup, TOKEN, World, eventually};
use crate::people::{roster, shelf};
use crate::record::{Destination, Kind, Record};
use crate::store::State;
use crate::vendor::verdict::PauseCause;

const BREVO: Destination = Destination::Brevo;
const UUID: &str = "f47ac10b-58cc-4372-a567-0e02b2c3d479";

fn original() -> Setup {
    Setup { identity: IdentityMode::Original, ..Setup::brevo() }
}

fn consent() -> Consent {
    Consent::Required { property: "marketing_ok".to_owned(), value: json!(true) }
}

/// `Purchase` adds to list 16.
fn listing() -> Setup {
    let mut setup = Setup::brevo();
    let rule = EventRule { lists: [(16, Membership::In)].into(), ..EventRule::from("order_completed") };
    setup.mapping.events.insert("Purchase".to_owned(), rule);
    setup
}

fn event(world: &World, mut properties: Value, n: i64) -> Record {
    let more = json!({"token": TOKEN, "$insert_id": format!("n{n}"), "n": n, "time": world.clock_seconds()});
    properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    world.record(Kind::Event, &json!({"event": "Purchase", "properties": properties}))
}

fn by(world: &World, id: &str, n: i64) -> Record {
    event(world, json!({"distinct_id": id}), n)
}

fn identify(world: &World, before: &str, user: &str) -> Record {
    let properties = json!({"distinct_id": user, "$anon_distinct_id": before, "$user_id": user});
    world.record(Kind::Identity, &json!({"event": "$identify", "properties": properties}))
}

async fn done(relay: &Relay) {
    relay.until(BREVO, "done", |report| report.backlog == 0 && report.parked == 0).await;
}

/// A relay that knows the account, at a gate that is closed by hand: one contact write stands there, under way, and the
/// others are in line.
async fn at_a_closed_gate(world: &World) -> Relay {
    let relay = world.relay().await;
    relay.append(vec![world.set("first", json!({"$email": "first@example.com", "marketing_ok": true}))]).await;
    relay.settled().await;
    relay.leg(BREVO).status.gate().pause(PauseCause::ByHand);
    relay
}

/// Waits until everything that was appended has been applied, `skipped` of it as such.
async fn applied(world: &World, relay: &Relay, skipped: u64) {
    let old = json!({"event": "Purchase", "properties": {"distinct_id": "nobody", "time": 1_600_000_000}});
    relay.append(vec![world.record(Kind::Event, &old)]).await;
    relay.until(BREVO, "applied", |report| report.skipped == skipped + 1).await;
}

async fn events(world: &World) -> Vec<i64> {
    world.brevo_events().await.into_iter().map(|(n, _)| n).collect()
}

/// The survivor's shelf is in line to be read when older events of a merged id are put on it: they are not passed.
#[tokio::test]
async fn core6_events_that_join_a_shelf_in_line_to_be_read_are_not_passed() {
    let world = World::new(original()).await;
    let relay = at_a_closed_gate(&world).await;
    relay.append(vec![world.set("second", json!({"$email": "second@example.com"}))]).await;
    relay.append(vec![world.set(UUID, json!({"$email": "d@example.com"})), by(&world, UUID, 0)]).await;
    relay.append(vec![by(&world, "u", 1), by(&world, "u", 2)]).await;
    let state: Arc<dyn State> = relay.store.state.clone();
    eventually("parked", async || shelf::totals(&state).await.unwrap().0 == 2).await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), identify(&world, UUID, "u")]).await;
    applied(&world, &relay, 1).await;
    relay.leg(BREVO).status.gate().resume();
    done(&relay).await;
    assert_eq!(events(&world).await, [0, 1, 2]);
    relay.drain().await;
}

/// A contact that is busy when its person is being joined, on either side: the next write goes out all the same.
#[tokio::test]
async fn core7_a_busy_contact_does_not_stall_a_merge() {
    for busy in [UUID, "u"] {
        let world = World::new(original()).await;
        let relay = at_a_closed_gate(&world).await;
        let too_early =
            json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "status", "status": 425, "times": 1});
        world.faults(too_early).await;
        relay.append(vec![world.set(busy, json!({"$email": "u@example.com"})), by(&world, busy, 0)]).await;
        applied(&world, &relay, 0).await;
        relay.append(vec![by(&world, UUID, 1), identify(&world, UUID, "u"), by(&world, "u", 2)]).await;
        applied(&world, &relay, 2).await;
        relay.leg(BREVO).status.gate().resume();
        done(&relay).await;
        assert_eq!(events(&world).await, [0, 1, 2], "{busy}");
        relay.drain().await;
    }
}

/// Another write that Brevo refuses says nothing of the withdrawal behind it.
#[tokio::test]
async fn a_refused_write_does_not_lose_the_withdrawal_behind_it() {
    let world = World::new(Setup { consent: consent(), ..Setup::brevo() }).await;
    let relay = at_a_closed_gate(&world).await;
    let refused =
        json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "status", "status": 400, "times": 1});
    world.faults(refused).await;
    relay.append(vec![world.set("first", json!({"plan": "pro"}))]).await;
    applied(&world, &relay, 0).await;
    relay.append(vec![world.set("first", json!({"marketing_ok": false}))]).await;
    applied(&world, &relay, 1).await;
    relay.leg(BREVO).status.gate().resume();
    relay.settled().await;
    assert_eq!(world.contact("first").await["emailBlacklisted"], true);
    assert_eq!(relay.report(BREVO).await.dead_letters, 1);
    relay.drain().await;
}

/// A 404 that is not Brevo's own does not say that there is no contact.
#[tokio::test]
async fn a_withdrawal_that_lost_its_way_is_tried_again() {
    let world = World::new(Setup { consent: consent(), ..Setup::brevo() }).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com", "marketing_ok": true}))]).await;
    relay.settled().await;
    let nowhere = json!({"vendor": "brevo", "path_prefix": "/v3/contacts/u", "kind": "status", "status": 404,
                         "body": {}, "times": 1});
    world.faults(nowhere).await;
    relay.append(vec![world.set("u", json!({"marketing_ok": false}))]).await;
    relay.settled().await;
    assert_eq!(world.contact("u").await["emailBlacklisted"], true);
    relay.drain().await;
}

/// A device that agreed and owes a write becomes a user who has not agreed: nothing waits for ever.
#[tokio::test]
async fn a_merge_goes_on_where_the_user_has_not_agreed() {
    let world = World::new(Setup { consent: consent(), ..Setup::brevo() }).await;
    let relay = at_a_closed_gate(&world).await;
    let second = json!({"$email": "second@example.com", "marketing_ok": true});
    relay.append(vec![world.set("second", second)]).await;
    let visit = json!({"distinct_id": "$device:x", "$device_id": "x"});
    relay.append(vec![world.set("$device:x", json!({"marketing_ok": true})), event(&world, visit, 0)]).await;
    relay.until(BREVO, "parked", |report| report.parked == 2).await;
    let pair = json!({"distinct_id": "u", "$device_id": "x", "$user_id": "u"});
    let address = world.set("$device:x", json!({"$email": "d@example.com"}));
    relay.append(vec![address, event(&world, pair, 1)]).await;
    applied(&world, &relay, 1).await;
    relay.leg(BREVO).status.gate().resume();
    done(&relay).await;
    assert!(events(&world).await.is_empty());
    relay.drain().await;
}

/// Agreed through another id, and not addressable: what is theirs stands on the shelf and nowhere else.
#[tokio::test]
async fn consent_that_a_merge_brings_holds_nothing_in_memory() {
    let world = World::new(Setup { consent: consent(), ..original() }).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"plan": "pro"}))]).await;
    relay.append(vec![world.set(UUID, json!({"marketing_ok": true})), identify(&world, UUID, "u")]).await;
    relay.append(vec![by(&world, "u", 0)]).await;
    let state: Arc<dyn State> = relay.store.state.clone();
    let read = async || roster::load(&state, vec!["u".into()]).await.unwrap().remove(0).1;
    eventually("on one shelf", async || {
        let person = read().await.person;
        person.shelf.records == 2 && !person.links.is_joining()
    })
    .await;
    assert_eq!(read().await.debt, None, "a shelf that waits for nothing but its turn");
    drop(state);
    relay.drain().await;
}

/// What was owed before the mode became `pilot` goes out for the pilots alone.
#[tokio::test]
async fn a_pilot_pays_nobody_elses_debts() {
    let mut world = World::new(listing()).await;
    let relay = world.relay().await;
    let both = |world: &World| {
        [("u", "u@example.com"), ("p", "p@pilot.org")]
            .map(|(id, email)| world.set(id, json!({"$email": email, "plan": "x"})))
    };
    relay.append(both(&world).to_vec()).await;
    relay.settled().await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "black_hole"})).await;
    relay
        .append(vec![
            world.purchase("u", 1),
            world.set("u", json!({"plan": "y"})),
            world.set("p", json!({"plan": "y"})),
        ])
        .await;
    let state: Arc<dyn State> = relay.store.state.clone();
    eventually("owed", async || roster::indebted(&state, None, 10).await.unwrap().len() == 2).await;
    drop(state);
    relay.kill().await;
    world.heal().await;
    world.setup.mode = BrevoMode::Pilot;
    world.setup.pilot_emails = vec!["*@pilot.org".to_owned()];
    let relay = world.relay().await;
    eventually("paid", async || world.contact("p").await["attributes"]["PLAN_TYPE"] == "y").await;
    relay.append(vec![world.set("u", json!({"$email": "u@pilot.org.example"})), world.purchase("u", 2)]).await;
    relay.until(BREVO, "read", |report| report.skipped >= 2).await;
    relay.drain().await;
    let contact = world.contact("u").await;
    assert_eq!((&contact["attributes"]["PLAN_TYPE"], &contact["email"]), (&json!("x"), &json!("u@example.com")));
    assert_eq!(contact["listIds"], json!([]));
}

/// A contact that Brevo takes and then does not find is not written again for ever because of a list.
#[tokio::test]
async fn a_contact_that_is_never_found_ends_its_list_change() {
    let world = World::new(listing()).await;
    let seed = json!({"contacts": [{"email": "u@example.com", "ext_id": "u", "list_ids": [16]}]});
    world.control("POST", "/brevo/seed", seed).await;
    let unseen =
        json!({"vendor": "brevo", "path_prefix": "/v3/contacts/u", "method": "GET", "kind": "status", "status": 404});
    world.faults(unseen).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 1)]).await;
    relay.settled().await;
    assert_eq!((relay.tally(BREVO).delivered.event, relay.report(BREVO).await.lists_refused), (1, 1));
    relay.drain().await;
}

/// Answers to a list change of one person that say nothing of it: it is made by other means.
#[tokio::test]
async fn a_list_change_survives_answers_that_do_not_speak_of_it() {
    for answer in [json!({"kind": "status", "status": 425}), json!({"kind": "status", "status": 404, "body": {}})] {
        let world = World::new(listing()).await;
        let mut fault = json!({"vendor": "brevo", "path_prefix": "/v3/contacts/lists", "times": 1});
        fault.as_object_mut().unwrap().extend(answer.as_object().unwrap().clone());
        world.faults(fault).await;
        let relay = world.relay().await;
        relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 1)]).await;
        relay.settled().await;
        assert_eq!(relay.report(BREVO).await.lists_refused, 0, "{answer}");
        assert_eq!(world.contact("u").await["listIds"], json!([16]), "{answer}");
        relay.drain().await;
    }
}

/// Whoever leaves the pilot while their contact is busy is not written any more, and what was held back behind that
/// contact is let go of.
#[tokio::test]
async fn a_busy_contact_that_leaves_the_pilot_keeps_nothing_back() {
    let setup = Setup { mode: BrevoMode::Pilot, pilot_emails: vec!["*@pilot.com".to_owned()], ..Setup::brevo() };
    let world = World::new(setup).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@pilot.com"}))]).await;
    relay.settled().await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "status", "status": 425})).await;
    relay.append(vec![world.set("u", json!({"plan": "pro"})), world.purchase("u", 1)]).await;
    relay.until(BREVO, "held back", |report| report.parked == 1).await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.until(BREVO, "let go of", |report| report.parked == 0).await;
    relay.drain().await;
    assert!(world.brevo_events().await.is_empty());
}
