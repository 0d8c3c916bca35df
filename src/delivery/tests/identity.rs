//! Several ids, one person: the traces of the core's rules 6 and 7, through the whole leg.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{BrevoMode, IdentityMode, Sync};
use crate::delivery::testing::{Relay, Setup, TOKEN, World, eventually};
use crate::people::debt::Debt;
use crate::people::shelf;
use crate::record::{Destination, Kind, Record};
use crate::settlement::SkipRule;
use crate::store::{State, Table, WriteBatch};

const BREVO: Destination = Destination::Brevo;
const UUID: &str = "f47ac10b-58cc-4372-a567-0e02b2c3d479";

fn original() -> Setup {
    Setup { identity: IdentityMode::Original, ..Setup::brevo() }
}

impl World {
    /// A mapped event of a visitor who has not signed in, as SDKs send it.
    fn visit(&self, device: &str, n: i64) -> Record {
        self.named(json!({"distinct_id": format!("$device:{device}"), "$device_id": device}), n)
    }

    /// The same of somebody who has.
    fn signed_in(&self, device: &str, user: &str, n: i64) -> Record {
        self.named(json!({"distinct_id": user, "$device_id": device, "$user_id": user}), n)
    }

    fn named(&self, mut properties: Value, n: i64) -> Record {
        let more = json!({"token": TOKEN, "$insert_id": format!("n{n}"), "n": n, "time": self.clock_seconds()});
        properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.record(Kind::Event, &json!({"event": "Purchase", "properties": properties}))
    }

    fn identity(&self, event: &str, properties: Value) -> Record {
        self.record(Kind::Identity, &json!({"event": event, "properties": properties}))
    }

    fn identify(&self, before: &str, user: &str) -> Record {
        self.identity("$identify", json!({"distinct_id": user, "$anon_distinct_id": before, "$user_id": user}))
    }

    /// Who got what: contact and `n` of every event that Brevo applied, in order of arrival.
    async fn arrived(&self) -> Vec<(String, i64)> {
        let shown = self.show("/brevo/events?outcome=applied&limit=100000").await;
        let row = |event: &Value| {
            let email = event["event"]["identifiers"]["email_id"].as_str().unwrap_or("?").to_owned();
            (email, event["event"]["event_properties"]["n"].as_i64().unwrap())
        };
        shown["events"].as_array().unwrap().iter().map(row).collect()
    }
}

async fn done(relay: &Relay) {
    relay.until(BREVO, "done", |report| report.backlog == 0 && report.parked == 0).await;
}

fn all_of(email: &str, numbers: impl IntoIterator<Item = i64>) -> Vec<(String, i64)> {
    numbers.into_iter().map(|n| (email.to_owned(), n)).collect()
}

/// What somebody did before they signed up goes out as theirs, in order, in front of what they did since.
#[tokio::test]
async fn core6_what_a_device_did_goes_out_as_its_users_in_front_of_newer_records() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    for n in 0..450 {
        relay.append(vec![world.visit("x", n)]).await;
    }
    relay.until(BREVO, "parked", |report| report.parked == 450 && report.backlog == 0).await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 450)]).await;
    relay.until(BREVO, "known", |report| report.backlog == 0).await;
    relay.append(vec![world.signed_in("x", "u", 451), world.visit("x", 452), world.purchase("u", 453)]).await;
    done(&relay).await;
    let mut expected = all_of("u@example.com", [450]);
    expected.extend(all_of("u@example.com", (0..450).chain(451..454)));
    assert_eq!(world.arrived().await, expected);
    relay.drain().await;
    assert_eq!(world.show("/brevo/counts").await["contacts"], 1);
}

/// Two shelves of one person are one, in order of position.
#[tokio::test]
async fn core7_merging_interleaves_shelves_by_position() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    for n in (0..40).step_by(2) {
        relay.append(vec![world.visit("x", n), world.purchase("u", n + 1)]).await;
    }
    relay.append(vec![world.signed_in("x", "u", 40)]).await;
    relay.until(BREVO, "parked", |report| report.parked == 41 && report.backlog == 0).await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.visit("x", 41)]).await;
    done(&relay).await;
    assert_eq!(world.arrived().await, all_of("u@example.com", 0..42));
    relay.drain().await;
}

/// A crash in the middle of it, again and again: nothing is lost, nothing out of order, nothing counted twice.
#[tokio::test]
async fn core6_a_merge_is_gone_on_with_after_a_crash() {
    let world = World::new(Setup::brevo()).await;
    let mut relay = world.relay().await;
    for n in 0..900 {
        relay.append(vec![world.visit("x", n)]).await;
    }
    relay.until(BREVO, "parked", |report| report.parked == 900 && report.backlog == 0).await;
    relay.append(vec![world.signed_in("x", "u", 900)]).await;
    for _ in 0..4 {
        // A checkpoint or so: some of the shelf has been moved.
        tokio::time::sleep(Duration::from_millis(230)).await;
        relay.kill().await;
        relay = world.relay().await;
    }
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 901)]).await;
    done(&relay).await;
    assert_eq!(world.arrived().await, all_of("u@example.com", 0..902));
    relay.drain().await;
}

/// An engine without transactions may have written the forward and not its survivor: the parked events are no orphans.
#[tokio::test]
async fn core6_a_crash_between_the_two_writes_orphans_nothing() {
    let mut world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    relay.append(vec![world.visit("x", 0), world.visit("x", 1)]).await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.until(BREVO, "done", |report| report.backlog == 0 && report.parked == 2).await;
    relay.drain().await;

    let legs = std::mem::take(&mut world.setup.legs);
    let store_alone = world.relay().await;
    let state: Arc<dyn State> = store_alone.store.state.clone();
    let device = b"$device:x".to_vec();
    let row = state.get(Table::People, vec![device.clone()]).await.unwrap().remove(0).unwrap();
    let mut row: Value = serde_json::from_slice(&row).unwrap();
    row["links"] = json!({"into": "u"});
    let mut batch = WriteBatch::new();
    batch.put(Table::Debts, device.clone(), serde_json::to_vec(&Debt::nothing()).unwrap());
    batch.put(Table::People, device, serde_json::to_vec(&row).unwrap());
    state.write(batch).await.unwrap();
    drop(state);
    store_alone.drain().await;

    world.setup.legs = legs;
    let relay = world.relay().await;
    done(&relay).await;
    assert_eq!(world.arrived().await, all_of("u@example.com", 0..2));
    relay.drain().await;
}

/// Calls of the merged id finish first; its later records and its user's wait for them, and nobody else does.
#[tokio::test]
async fn core6_calls_under_way_finish_first_and_stall_nobody_else() {
    // Longer than anybody else's event takes, however busy the machine.
    let world = World::new(Setup { answer_timeout: Duration::from_secs(12), ..original() }).await;
    let relay = world.relay().await;
    let anon = |n| world.named(json!({"distinct_id": UUID}), n);
    let user = |n| world.named(json!({"distinct_id": "u"}), n);
    relay.append(vec![world.set(UUID, json!({"$email": "u@example.com"})), anon(0)]).await;
    done(&relay).await;
    let silent = json!({"vendor": "brevo", "path_prefix": "/v3/events", "kind": "black_hole", "times": 1});
    world.faults(silent).await;
    relay.append(vec![anon(1)]).await;
    eventually("under way", async || world.requests("brevo", "/v3/events").await >= 2).await;
    relay.append(vec![world.identify(UUID, "u"), user(2), anon(3), world.set("u", json!({"plan": "pro"}))]).await;
    let other = world.set("other", json!({"$email": "other@example.com"}));
    relay.append(vec![other, world.named(json!({"distinct_id": "other"}), 10)]).await;
    eventually("passed", async || world.arrived().await.contains(&("other@example.com".to_owned(), 10))).await;
    assert!(!world.arrived().await.contains(&("u@example.com".to_owned(), 2)), "in front of what was under way");
    done(&relay).await;
    let mut arrived = world.arrived().await;
    arrived.retain(|(email, _)| email == "u@example.com");
    assert_eq!(arrived, all_of("u@example.com", 0..4));
    // The contact was there under a visitor's id: it has the user's now.
    let contact = world.contact("u").await;
    assert_eq!((&contact["email"], &contact["attributes"]["PLAN_TYPE"]), (&json!("u@example.com"), &json!("pro")));
    assert_eq!(world.show("/brevo/counts").await["contacts"], 2);
    relay.drain().await;
}

/// Debts of both ids become one write, and what is known of the user counts.
#[tokio::test]
async fn core6_folds_and_debts_are_joined_in_an_original_project() {
    let world = World::new(original()).await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "black_hole"})).await;
    let relay = world.relay().await;
    relay
        .append(vec![
            world.set(UUID, json!({"plan": "free", "shoe": 41})),
            world.named(json!({"distinct_id": UUID}), 0),
        ])
        .await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com", "plan": "pro"}))]).await;
    relay.append(vec![world.identify(UUID, "u"), world.set(UUID, json!({"name": "Ada"}))]).await;
    relay.until(BREVO, "read", |report| report.parked + report.backlog == 4).await;
    relay.kill().await;
    world.heal().await;
    let relay = world.relay().await;
    done(&relay).await;
    let attributes = world.contact("u").await["attributes"].clone();
    assert_eq!(attributes["PLAN_TYPE"], "pro");
    assert_eq!(attributes["SHOE_SIZE"], 41);
    assert_eq!(attributes["FIRSTNAME"], "Ada");
    assert_eq!(relay.tally(BREVO).delivered.profile, 3);
    assert_eq!(relay.skipped(BREVO, SkipRule::IdentityEvent), 1);
    assert_eq!(world.arrived().await, all_of("u@example.com", [0]));
    relay.drain().await;
}

/// Mixpanel does not carry a device's profile over, so Brevo does not get it either; its events it does.
#[tokio::test]
async fn core6_a_devices_profile_is_left_behind_in_a_simplified_project() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("$device:x", json!({"plan": "free", "shoe": 41})), world.visit("x", 0)]).await;
    relay.until(BREVO, "parked", |report| report.parked == 2).await;
    relay.append(vec![world.signed_in("x", "u", 1), world.set("u", json!({"$email": "u@example.com"}))]).await;
    // By then the device's id is the user's.
    relay.append(vec![world.set("$device:x", json!({"name": "Ada"}))]).await;
    done(&relay).await;
    let literal = json!({"$token": TOKEN, "$distinct_id": "$device:x", "$ignore_alias": true, "$set": {"name": "X"}});
    relay.append(vec![world.record(Kind::Profile, &literal)]).await;
    done(&relay).await;
    let attributes = world.contact("u").await["attributes"].clone();
    assert_eq!((&attributes["PLAN_TYPE"], &attributes["SHOE_SIZE"]), (&Value::Null, &Value::Null));
    assert_eq!(attributes["FIRSTNAME"], "Ada");
    assert_eq!(relay.skipped(BREVO, SkipRule::MergedProfile), 2);
    assert_eq!(world.arrived().await, all_of("u@example.com", 0..2));
    relay.drain().await;
}

/// A device that left an address is a contact already; it becomes its user's, whether its first write was done by then or
/// not.
#[tokio::test]
async fn core6_a_devices_contact_becomes_its_users() {
    for held_up in [false, true] {
        let world = World::new(Setup::brevo()).await;
        if held_up {
            world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "latency", "ms": 700})).await;
        }
        let relay = world.relay().await;
        let left = json!({"$email": "news@example.com", "plan": "free"});
        relay.append(vec![world.set("$device:x", left), world.visit("x", 0)]).await;
        if !held_up {
            done(&relay).await;
        }
        relay.append(vec![world.signed_in("x", "u", 1), world.visit("x", 2), world.purchase("u", 3)]).await;
        done(&relay).await;
        world.heal().await;
        let contact = world.contact("u").await;
        assert_eq!(contact["email"], "news@example.com", "held up: {held_up}");
        assert_eq!(contact["attributes"]["PLAN_TYPE"], "free", "held up: {held_up}");
        relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 4)]).await;
        done(&relay).await;
        assert_eq!(world.contact("u").await["email"], "u@example.com");
        assert_eq!(world.show("/brevo/counts").await["contacts"], 1);
        let numbers: Vec<_> = world.arrived().await.into_iter().map(|(_, n)| n).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4], "held up: {held_up}");
        relay.drain().await;
    }
}

/// Nothing is sent, and who is who is learned all the same; nor does it take events to be synced.
#[tokio::test]
async fn core6_links_are_kept_while_nothing_is_sent() {
    let observing = Setup { mode: BrevoMode::Observe, ..Setup::brevo() };
    let without_events = Setup { sync: Sync { events: false, ..Sync::default() }, ..Setup::brevo() };
    for setup in [observing, without_events] {
        let mut world = World::new(setup).await;
        let relay = world.relay().await;
        relay.append(vec![world.signed_in("x", "u", 0)]).await;
        relay.settled().await;
        relay.drain().await;
        world.setup = Setup::brevo();
        let relay = world.relay().await;
        relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.visit("x", 1)]).await;
        done(&relay).await;
        assert_eq!(world.arrived().await, all_of("u@example.com", [1]));
        relay.drain().await;
    }
}

/// Words that stand for nobody merge nobody, in either mode.
#[tokio::test]
async fn core6_blocked_ids_merge_nobody() {
    for setup in [Setup::brevo(), original()] {
        let world = World::new(setup).await;
        let relay = world.relay().await;
        for user in ["u", "v"] {
            relay.append(vec![world.set(user, json!({"$email": format!("{user}@example.com")}))]).await;
            for nobody in ["anonymous", "null", "0", "00000000-0000-0000-0000-000000000000"] {
                let properties = json!({"distinct_id": user, "$user_id": user, "$device_id": nobody, "$anon_distinct_id": nobody, "alias": nobody});
                relay.append(vec![world.identity("$identify", properties.clone())]).await;
                relay.append(vec![world.identity("$create_alias", properties.clone())]).await;
                relay.append(vec![world.identity("$merge", json!({"$distinct_ids": [nobody, user]}))]).await;
            }
        }
        for (n, user) in (0i64..).zip(["u", "v"]) {
            relay.append(vec![world.named(json!({"distinct_id": user, "$device_id": "null"}), n)]).await;
        }
        done(&relay).await;
        assert_eq!(world.show("/brevo/counts").await["contacts"], 2);
        assert_eq!(world.arrived().await, [("u@example.com".to_owned(), 0), ("v@example.com".to_owned(), 1)]);
        relay.drain().await;
    }
}

/// The oldest go first when a shelf is full, whichever of a person's ids they came under.
#[tokio::test]
async fn core7_the_oldest_expire_first_after_a_merge() {
    let mut setup = Setup::brevo();
    setup.parking.max_records = 20;
    let world = World::new(setup).await;
    let relay = world.relay().await;
    for n in (0..30).step_by(2) {
        relay.append(vec![world.visit("x", n), world.purchase("u", n + 1)]).await;
    }
    relay.append(vec![world.signed_in("x", "u", 30)]).await;
    relay.settled().await;
    relay.drain().await;
    // A start looks for surplus at once.
    let relay = world.relay().await;
    relay.until(BREVO, "within its bounds", |report| report.parked == 20).await;
    assert_eq!(relay.skipped(BREVO, SkipRule::Expired), 11);
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    done(&relay).await;
    assert_eq!(world.arrived().await, all_of("u@example.com", 11..31));
    relay.drain().await;
}

/// What a crash has caught in a call is read again from the journal, what came after it stands on the shelf: the shelf
/// does not go first.
#[tokio::test]
async fn core7_a_shelf_does_not_overtake_what_a_crash_brings_back() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.visit("x", 0)]).await;
    relay.until(BREVO, "known", |report| report.parked == 1 && report.backlog == 0).await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/events", "kind": "black_hole"})).await;
    relay.append(vec![world.purchase("u", 1)]).await;
    eventually("under way", async || world.requests("brevo", "/v3/events").await == 1).await;
    for n in 2..20 {
        relay.append(vec![world.signed_in("x", "u", n)]).await;
    }
    relay.until(BREVO, "waiting", |report| report.parked == 19 && report.backlog == 1).await;
    let state: Arc<dyn State> = relay.store.state.clone();
    eventually("written down", async || shelf::totals(&state).await.unwrap().0 == 19).await;
    drop(state);
    relay.kill().await;
    world.heal().await;
    let relay = world.relay().await;
    done(&relay).await;
    assert_eq!(world.arrived().await, all_of("u@example.com", 0..20));
    relay.drain().await;
}

/// What a user gains by a link while their contact is being written for the first time is not in that write: it is owed.
#[tokio::test]
async fn core6_what_is_gained_during_a_first_write_is_owed() {
    let world = World::new(original()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set(UUID, json!({"plan": "free"}))]).await;
    relay.until(BREVO, "parked", |report| report.parked == 1).await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "latency", "ms": 700})).await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    eventually("under way", async || world.requests("brevo", "/v3/contacts").await > 1).await;
    relay.append(vec![world.identify(UUID, "u")]).await;
    done(&relay).await;
    assert_eq!(world.contact("u").await["attributes"]["PLAN_TYPE"], "free");
    relay.drain().await;
}
