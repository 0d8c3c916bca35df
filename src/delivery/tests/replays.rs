//! Dead letters that are sent again (CORE 9): moved from held to backlog, through today's mapping, and never counted twice.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::{Clock as _, SystemClock};
use crate::config::Sync;
use crate::delivery::dead_letters::{self, Replay, replay};
use crate::delivery::testing::{Relay, Setup, World, eventually};
use crate::record::{Destination, Kind};
use crate::settlement::SkipRule;
use crate::store::{State, WriteBatch};

const BREVO: Destination = Destination::Brevo;
const MIXPANEL: Destination = Destination::Mixpanel;

fn refuse(vendor: &str, path: &str) -> Value {
    let body = json!({"code": "invalid_parameter", "message": "not today", "error": "not today", "status": 0});
    json!({"vendor": vendor, "path_prefix": path, "kind": "status", "status": 400, "body": body})
}

/// Stops the relay, and has everything that it holds sent again by the next process.
async fn stop_and_send_again(relay: Relay, destination: Destination, trigger_automations: bool) -> u64 {
    let state: Arc<dyn State> = relay.store.state.clone();
    relay.drain().await;
    let mut batch = WriteBatch::new();
    let letters = dead_letters::page(&state, destination, None, 10_000).await.unwrap();
    let count = letters.len() as u64;
    for (id, letter) in letters {
        replay::send(id, letter, Replay { at: SystemClock.now(), trigger_automations }, &mut batch).unwrap();
    }
    state.write(batch).await.unwrap();
    count
}

/// A contact whose first so many events Brevo has refused, and goes on refusing.
async fn with_refused_events(count: u64) -> (World, Relay) {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.settled().await;
    world.faults(refuse("brevo", "/v3/events")).await;
    relay.append((0..count as i64).map(|n| world.purchase("u", n)).collect()).await;
    until_dead(&relay, BREVO, count).await;
    (world, relay)
}

async fn until_dead(relay: &Relay, destination: Destination, count: u64) {
    relay.until(destination, "dead", |report| report.dead_letters == count && report.backlog == 0).await;
    relay.dead_letters(destination).await;
}

fn numbers(events: &[(i64, String)]) -> Vec<i64> {
    let mut numbers: Vec<_> = events.iter().filter(|(_, outcome)| outcome == "applied").map(|(n, _)| *n).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

#[tokio::test]
async fn events_go_again_once_over_kills_and_count_once() {
    for (destination, path) in [(BREVO, "/v3/events"), (MIXPANEL, "/import")] {
        let setup = if destination == BREVO { Setup::brevo() } else { Setup::mixpanel() };
        let world = World::new(setup).await;
        let relay = world.relay().await;
        relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
        relay.settled().await;
        world.faults(refuse(destination.label(), path)).await;
        relay.append((0..30).map(|n| world.purchase("u", n)).collect()).await;
        until_dead(&relay, destination, 30).await;
        // Nobody answers yet: what goes again is backlog, and stays so over kills.
        world.faults(json!({"kind": "status", "status": 503})).await;
        assert_eq!(stop_and_send_again(relay, destination, false).await, 30);
        for _ in 0..2 {
            let relay = world.relay().await;
            relay.until(destination, "backlog", |report| report.backlog == 30 && report.dead_letters == 0).await;
            relay.kill().await;
        }
        world.heal().await;
        let relay = world.relay().await;
        relay.until(destination, "under way", |report| report.delivered > 1 || report.backlog > 0).await;
        relay.kill().await;
        let relay = world.relay().await;
        let report = relay.until(destination, "delivered", |report| report.backlog == 0).await;
        assert_eq!((report.delivered, report.dead_letters, report.parked), (31, 0, 0), "{destination}");
        relay.drain().await;
        if destination == BREVO {
            assert_eq!(numbers(&world.brevo_events().await), (0..30).collect::<Vec<_>>());
        } else {
            let records = world.show("/mixpanel/counts").await["records"].clone();
            let (stored, twice) = (&records["stored"]["event"], &records["duplicates"]["event"]);
            assert_eq!(stored.as_u64().unwrap() - twice.as_u64().unwrap_or(0), 30, "{records}");
        }
    }
}

/// What dies again is held again, under its old id.
#[tokio::test]
async fn a_letter_that_is_refused_again_is_held_again() {
    let (world, relay) = with_refused_events(2).await;
    let state: Arc<dyn State> = relay.store.state.clone();
    let ids = async |state: &Arc<dyn State>| -> Vec<_> {
        dead_letters::page(state, BREVO, None, 10).await.unwrap().into_iter().map(|(id, _)| id).collect()
    };
    let before = ids(&state).await;
    drop(state);
    stop_and_send_again(relay, BREVO, false).await;
    let relay = world.relay().await;
    until_dead(&relay, BREVO, 2).await;
    let state: Arc<dyn State> = relay.store.state.clone();
    assert_eq!(ids(&state).await, before);
    drop(state);
    relay.drain().await;
}

/// A profile update that is sent again brings what the person has now, never what they had then.
#[tokio::test]
async fn a_profile_goes_again_with_its_present_value() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com", "name": "Ada"}))]).await;
    relay.settled().await;
    world.faults(refuse("brevo", "/v3/contacts")).await;
    relay.append(vec![world.set("u", json!({"plan": "old", "name": "Old"}))]).await;
    until_dead(&relay, BREVO, 1).await;
    let letter = relay.dead_letters(BREVO).await.remove(0);
    assert_eq!(letter.write.unwrap().attributes, ["FIRSTNAME", "PLAN_TYPE"].map(str::to_owned).into());
    world.heal().await;
    relay.append(vec![world.set("u", json!({"name": "New"}))]).await;
    relay.until(BREVO, "the new name", |report| report.backlog == 0 && report.delivered == 2).await;
    let before = world.contact("u").await["attributes"].clone();
    assert_eq!((&before["FIRSTNAME"], &before["PLAN_TYPE"]), (&json!("New"), &Value::Null));
    stop_and_send_again(relay, BREVO, false).await;
    let relay = world.relay().await;
    relay.until(BREVO, "sent again", |report| report.backlog == 0 && report.delivered == 3).await;
    relay.drain().await;
    let after = world.contact("u").await["attributes"].clone();
    assert_eq!((&after["FIRSTNAME"], &after["PLAN_TYPE"]), (&json!("New"), &json!("old")));
}

/// What has waited among dead letters must not set off automations, unless somebody says so (CORE 10).
#[tokio::test]
async fn old_events_are_stale_unless_automations_are_to_be_triggered() {
    for (trigger, delivered, stale) in [(false, 0, 1), (true, 1, 0)] {
        let (world, relay) = with_refused_events(1).await;
        world.heal().await;
        world.clock.shift(Duration::from_hours(24 * 10).as_millis() as i64);
        stop_and_send_again(relay, BREVO, trigger).await;
        let relay = world.relay().await;
        relay.until(BREVO, "settled", |report| report.backlog == 0).await;
        assert_eq!((relay.tally(BREVO).delivered.event, relay.skipped(BREVO, SkipRule::Stale)), (delivered, stale));
        relay.drain().await;
    }
}

/// What somebody has asked for of a replay stays asked for while the event waits on a shelf, over a crash too.
#[tokio::test]
async fn automations_are_triggered_after_a_wait_on_the_shelf() {
    let (world, relay) = with_refused_events(1).await;
    let busy = json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "status", "status": 425});
    world.faults(busy).await;
    world.clock.shift(Duration::from_hours(24 * 4).as_millis() as i64);
    relay.append(vec![world.set("u", json!({"plan": "pro"}))]).await;
    eventually("busy", async || world.show("/faults").await["faults"][0]["hits"].as_u64() > Some(0)).await;
    stop_and_send_again(relay, BREVO, true).await;
    let relay = world.relay().await;
    relay.until(BREVO, "on the shelf", |report| report.parked == 1).await;
    relay.kill().await;
    world.heal().await;
    let relay = world.relay().await;
    relay.until(BREVO, "done", |report| report.parked == 0 && report.backlog == 0).await;
    assert_eq!((relay.tally(BREVO).delivered.event, relay.skipped(BREVO, SkipRule::Stale)), (1, 0));
    relay.drain().await;
    assert_eq!(numbers(&world.brevo_events().await), [0]);
}

/// Without a contact the events that waited for it are refused with it; together they go again.
#[tokio::test]
async fn an_event_and_the_contact_that_it_needs_go_again() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    eventually("account read", async || world.answers("brevo", "/v3/contacts/attributes", 200).await > 0).await;
    world.faults(refuse("brevo", "/v3/contacts")).await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 0)]).await;
    until_dead(&relay, BREVO, 2).await;
    world.heal().await;
    stop_and_send_again(relay, BREVO, false).await;
    let relay = world.relay().await;
    relay.until(BREVO, "delivered", |report| report.backlog == 0 && report.delivered == 2).await;
    relay.drain().await;
    assert_eq!(numbers(&world.brevo_events().await), [0]);
}

/// A group's update likewise: its company is owed its present values.
#[tokio::test]
async fn a_group_goes_again_with_its_present_value() {
    let mut setup = Setup { sync: Sync { groups: true, ..Sync::default() }, ..Setup::brevo() };
    let properties = [("industry".to_owned(), "industry".to_owned())].into();
    let target = crate::config::GroupMapping { name: "$name".to_owned(), properties };
    setup.mapping.groups = [("company".to_owned(), target)].into();
    let world = World::new(setup).await;
    let relay = world.relay().await;
    let group = |set: Value| {
        world.record(Kind::Group, &json!({"$token": "t", "$group_key": "company", "$group_id": "1", "$set": set}))
    };
    relay.append(vec![group(json!({"$name": "ACME"}))]).await;
    relay.settled().await;
    world.faults(refuse("brevo", "/v3/companies")).await;
    relay.append(vec![group(json!({"industry": "Steel"}))]).await;
    until_dead(&relay, BREVO, 1).await;
    world.heal().await;
    stop_and_send_again(relay, BREVO, false).await;
    let relay = world.relay().await;
    relay.until(BREVO, "delivered", |report| report.backlog == 0 && report.delivered == 2).await;
    let has = async || world.show("/brevo/companies").await.to_string().to_lowercase().contains("steel");
    eventually("at Brevo", has).await;
    relay.drain().await;
}
