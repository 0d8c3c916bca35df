//! People's ways through an app, as Mixpanel's SDKs tell them, in both ID-merge modes: Brevo ends with the right
//! contacts, and with each event once, in order, at whom it belongs to; those from before the sign-up too.

use serde_json::{Value, json};

use crate::harness::records::{event, now_ms, set};
use crate::harness::sandbox::TOKEN;
use crate::harness::sdk::{Browser, run_node};
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

const MODES: [&str; 2] = ["simplified", "original"];

async fn start(mode: &str) -> (Sandbox, Relay) {
    let sandbox = Sandbox::start().await;
    sandbox.switch(json!({ "mixpanel": { "identity": mode } })).await;
    let tweaks = json!({ "connectors": { "mixpanel": { "identity": mode } }, "auth": { "api_keys": ["sdk-key"] } });
    let relay = Relay::start(&sandbox, tweaks).await;
    (sandbox, relay)
}

/// The `n` of every event that Brevo has applied to a contact, in order of arrival.
async fn events_of(sandbox: &Sandbox, contact: &str) -> Vec<u64> {
    let Some(contact) = sandbox.brevo_contact(contact).await else { return Vec::new() };
    let events = sandbox.brevo_events().await;
    let of_contact = events.iter().filter(|event| event["contact_id"] == contact["id"]);
    of_contact.map(|event| event["event"]["event_properties"]["n"].as_u64().unwrap()).collect()
}

/// Waits until contacts have their events, each once and in order, and no other contact or event is there.
async fn ends_with(sandbox: &Sandbox, relay: &Relay, expected: &[(&str, &[u64])]) {
    eventually(PATIENCE, async || {
        let balance = relay.balance("brevo").await;
        let counts = sandbox.brevo_counts().await;
        same("lost events", counts["events_dropped_unknown_contact"].as_u64(), Some(0))
            .map_err(|found| format!("{found}; {balance:?}"))?;
        for (contact, numbers) in expected {
            same(contact, events_of(sandbox, contact).await, numbers.to_vec())
                .map_err(|found| format!("{found}; {balance:?}"))?;
        }
        same("contacts", counts["contacts"].as_u64(), Some(expected.len() as u64))?;
        same("backlog and dead letters", (balance.backlog, balance.dead_letters), (0, 0))?;
        if balance.adds_up() { Ok(()) } else { Err(format!("{balance:?}")) }
    })
    .await;
    let all: usize = expected.iter().map(|(_, numbers)| numbers.len()).sum();
    assert_eq!(sandbox.brevo_events().await.len(), all);
}

/// An event as the SDKs for Android and iOS send it.
fn mobile(device: &str, user: Option<&str>, n: u64) -> Value {
    let mut properties = json!({
        "token": TOKEN, "time": now_ms(), "mp_lib": "android", "$device_id": device, "n": n,
        "distinct_id": user.map_or_else(|| format!("$device:{device}"), str::to_owned),
        "$had_persisted_distinct_id": false,
    });
    if let Some(user) = user {
        properties["$user_id"] = user.into();
    }
    json!({ "event": "Purchase", "properties": properties, "$mp_metadata": { "$mp_event_id": format!("{device}-{n}") } })
}

/// What `identify` of theirs adds to the events.
fn mobile_identify(device: &str, before: &str, user: &str) -> Value {
    let mut identify = mobile(device, Some(user), 0);
    identify["event"] = "$identify".into();
    identify["properties"]["$anon_distinct_id"] = before.into();
    identify["properties"].as_object_mut().unwrap().remove("n");
    identify["$mp_metadata"]["$mp_event_id"] = format!("{device}-identify-{user}").into();
    identify
}

/// Anonymous visit, sign-up, a changed address, log-out, and the next person at the same browser.
#[tokio::test]
async fn a_browser_is_visited_signed_up_in_logged_out_of_and_shared() {
    for mode in MODES {
        let (sandbox, relay) = start(mode).await;
        let mut browser = Browser::open().await;
        let config = json!({
            "api_host": relay.url(""), "persistence": "localStorage", "batch_flush_interval_ms": 300,
            "track_pageview": false, "autocapture": false,
        });
        browser.run(&format!("mixpanel.init('sandbox-token', {config});")).await;
        let track = |n: u64| format!("mixpanel.track('Purchase', {{ n: {n} }});");
        browser.run(&format!("{}{}", track(0), track(1))).await;
        eventually(PATIENCE, async || same("parked", relay.balance("brevo").await.parked, 2)).await;

        let sign_up = "mixpanel.identify('ada'); mixpanel.people.set({ $email: 'ada@example.com' });";
        browser.run(&format!("{sign_up}{}", track(2))).await;
        eventually(PATIENCE, async || same("ada's", events_of(&sandbox, "ada").await, vec![0, 1, 2])).await;

        browser.run(&format!("mixpanel.people.set({{ $email: 'ada@new.example' }});{}", track(3))).await;
        browser.run(&format!("mixpanel.reset();{}", track(4))).await;
        browser.run("mixpanel.identify('bob'); mixpanel.people.set({ $email: 'bob@example.com' });").await;
        browser.run(&track(5)).await;
        ends_with(&sandbox, &relay, &[("ada", &[0, 1, 2, 3]), ("bob", &[4, 5])]).await;
        assert_eq!(sandbox.brevo_contact("ada").await.unwrap()["email"], "ada@new.example", "{mode}");
        assert_eq!(sandbox.brevo_contact("bob").await.unwrap()["email"], "bob@example.com", "{mode}");
    }
}

/// A second device of somebody who is known, and a device that two people use without logging out in between: what it
/// did first is the first one's, and the two stay two.
#[tokio::test]
async fn a_phone_is_added_and_passed_on() {
    for mode in MODES {
        let (sandbox, relay) = start(mode).await;
        let (first, second) = ("0a1b2c3d-0000-4000-8000-000000000001", "0a1b2c3d-0000-4000-8000-000000000002");
        relay.take("/engage", &json!([set("ada", json!({ "$email": "ada@example.com" }))])).await;
        relay.take("/engage", &json!([set("bob", json!({ "$email": "bob@example.com" }))])).await;
        for (device, from) in [(first, 0), (second, 10)] {
            relay.take("/track", &json!([mobile(device, None, from), mobile(device, None, from + 1)])).await;
            relay.take("/track", &json!([mobile_identify(device, &format!("$device:{device}"), "ada")])).await;
            relay.take("/track", &json!([mobile(device, Some("ada"), from + 2)])).await;
        }
        let passed_on = json!([mobile_identify(second, "ada", "bob"), mobile(second, Some("bob"), 13)]);
        relay.take("/track", &passed_on).await;
        // A retry of the SDK's: the same once more.
        relay.take("/track", &passed_on).await;
        ends_with(&sandbox, &relay, &[("ada", &[0, 1, 2, 10, 11, 12]), ("bob", &[13])]).await;
    }
}

/// A server gives a visitor's id a name. Only original projects know aliases; to a simplified one both are users.
#[tokio::test]
async fn a_server_makes_an_alias() {
    for mode in MODES {
        let (sandbox, relay) = start(mode).await;
        let visits = json!([
            ["track", ["Purchase", { "distinct_id": "visitor-7", "n": 0 }]],
            ["track", ["Purchase", { "distinct_id": "visitor-7", "n": 1 }]],
            ["alias", ["visitor-7", "carol"]],
            ["people.set", ["carol", { "$email": "carol@example.com", "plan": "pro" }]],
            ["track", ["Purchase", { "distinct_id": "carol", "n": 2 }]],
            ["alias", ["carol", "carol-at-work"]],
            ["track", ["Purchase", { "distinct_id": "carol-at-work", "n": 3 }]],
        ]);
        assert_eq!(run_node(relay.address(), "sdk-key", false, visits).await, Vec::<String>::new());
        if mode == "original" {
            ends_with(&sandbox, &relay, &[("carol@example.com", &[0, 1, 2, 3])]).await;
            assert_eq!(relay.balance("brevo").await.parked, 0);
        } else {
            ends_with(&sandbox, &relay, &[("carol@example.com", &[2])]).await;
            assert_eq!(relay.balance("brevo").await.parked, 3);
        }
        let contact = sandbox.brevo_contact("carol@example.com").await.unwrap();
        assert_eq!(contact["attributes"]["PLAN_TYPE"], "pro");
    }
}

/// Killed between visit, sign-up and address: nothing of the visit is lost or doubled.
#[tokio::test]
async fn a_visit_survives_kills_on_its_way_to_the_user() {
    for mode in MODES {
        let (sandbox, mut relay) = start(mode).await;
        let device = "0a1b2c3d-0000-4000-8000-00000000000a";
        for n in 0..30 {
            relay.take("/track", &json!([mobile(device, None, n)])).await;
        }
        eventually(PATIENCE, async || same("parked", relay.balance("brevo").await.parked, 30)).await;
        relay.kill().await;
        relay.start_again().await;
        relay.take("/track", &json!([mobile_identify(device, &format!("$device:{device}"), "ada")])).await;
        relay.kill().await;
        relay.start_again().await;
        let mut purchase = event("Purchase", "ada", "from-the-server");
        purchase["properties"]["n"] = 30.into();
        relay.take("/track", &json!([purchase])).await;
        relay.kill().await;
        relay.start_again().await;
        relay.take("/engage", &json!([set("ada", json!({ "$email": "ada@example.com" }))])).await;
        let all: Vec<u64> = (0..31).collect();
        ends_with(&sandbox, &relay, &[("ada", &all)]).await;
    }
}
