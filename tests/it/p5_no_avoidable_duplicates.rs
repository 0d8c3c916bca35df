//! P5: no duplicates that could be avoided, and those that could not are counted.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::records::{event, now_ms, set};
use crate::harness::sandbox::TOKEN;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

async fn known_buyer(relay: &Relay) {
    relay.take("/engage", &json!([set("buyer", json!({ "$email": "buyer@example.com" }))])).await;
    relay.drained("brevo").await;
}

/// How often Brevo got each event, by the `n` in its properties.
async fn times_at_brevo(sandbox: &Sandbox) -> BTreeMap<u64, usize> {
    let mut times = BTreeMap::new();
    for event in sandbox.brevo_events().await {
        *times.entry(event["event"]["event_properties"]["n"].as_u64().unwrap()).or_default() += 1;
    }
    times
}

fn purchase(n: u64) -> Value {
    let mut event = event("Purchase", "buyer", &format!("purchase-{n}"));
    event["properties"]["n"] = n.into();
    event
}

#[tokio::test]
async fn a_resend_with_an_id_of_its_own_counts_once() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    known_buyer(&relay).await;
    let events: Value = (0..10).map(purchase).collect::<Vec<_>>().into();
    relay.take("/track", &events).await;
    relay.take("/track", &events).await;
    relay.drained("brevo").await;
    // Written down with the last checkpoint, the window is not forgotten, not even by a kill.
    assert!(relay.terminate().await.success());
    relay.start_again().await;
    relay.kill().await;
    relay.start_again().await;
    relay.take("/track", &events).await;
    let balance = relay.drained("brevo").await;
    assert_eq!((balance.accepted, balance.delivered, balance.skipped), (31, 11, 20));
    let skipped = [("destination", "brevo"), ("rule", "duplicate")];
    assert_eq!(relay.metrics().await.sum("mixrelay_records_skipped_total", &skipped), 20.0);
    assert!(times_at_brevo(&sandbox).await.values().all(|&times| times == 1));
    // Mixpanel deduplicates by itself, if the ids are the same.
    sandbox.mixpanel_has_events(10, PATIENCE).await;
}

/// Two equal events without ids are two events, as at Mixpanel.
#[tokio::test]
async fn equal_events_without_ids_are_two_events() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    known_buyer(&relay).await;
    let bare = json!([{ "event": "Purchase", "properties": {
        "token": TOKEN, "distinct_id": "buyer", "time": now_ms() / 1000, "n": 1 } }]);
    relay.take("/track", &bare).await;
    relay.take("/track", &bare).await;
    sandbox.mixpanel_has_events(2, PATIENCE).await;
    relay.drained("brevo").await;
    assert_eq!(times_at_brevo(&sandbox).await[&1], 2);
}

/// Native SDKs have no `$insert_id`; their resend is known by `$mp_metadata.$mp_event_id`.
#[tokio::test]
async fn a_resend_of_a_native_sdk_is_known_by_its_event_id() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    known_buyer(&relay).await;
    let native = json!([{ "event": "Purchase", "properties": {
        "token": TOKEN, "distinct_id": "buyer", "time": now_ms(), "n": 1 },
        "$mp_metadata": { "$mp_event_id": "7f3a", "$mp_session_id": "s", "$mp_session_seq_id": 0 } }]);
    relay.take("/track", &native).await;
    relay.take("/track", &native).await;
    let balance = relay.drained("brevo").await;
    assert_eq!((balance.delivered, balance.skipped), (2, 1));
    relay.drained("mixpanel").await;
    sandbox.mixpanel_has_events(1, PATIENCE).await;
}

/// The vendor stored the batch and the answer was lost: it is sent again under the same ids, minted ones included.
#[tokio::test]
async fn a_lost_answer_is_not_a_second_event() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "connectors": { "brevo": null } })).await;
    sandbox
        .faults(json!([
            { "path_prefix": "/import", "kind": "status", "status": 500, "when": "after", "times": 2 },
            { "path_prefix": "/import", "kind": "reset", "when": "after", "times": 1 },
            { "path_prefix": "/import", "kind": "garbage", "when": "after", "times": 1 },
        ]))
        .await;
    let events: Vec<Value> = (0..50)
        .map(|n| json!({ "event": "Minted", "properties": { "token": TOKEN, "distinct_id": "d", "n": n } }))
        .collect();
    relay.take("/track", &events.into()).await;
    relay.drained("mixpanel").await;
    sandbox.mixpanel_has_events(50, PATIENCE).await;
    let ids = sandbox.mixpanel_insert_ids().await;
    assert_eq!(ids.len(), 50);
    assert!(ids.values().all(|&times| times == 5), "four answers were lost: {ids:?}");
}

/// After a kill Brevo may see again what was sent since the last checkpoint, and nothing older; nothing is missing.
#[tokio::test]
async fn a_crash_repeats_at_most_what_was_in_flight() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    known_buyer(&relay).await;
    let mut sent = 0;
    let mut settled = 0;
    for _life in 0..4 {
        for _ in 0..30 {
            relay.take("/track", &json!([purchase(sent)])).await;
            sent += 1;
        }
        // Half of it is at Brevo; whether that is written down yet is up to the moment.
        eventually(PATIENCE, async || {
            let there = sandbox.brevo_events().await.len() as u64;
            if there >= settled + 15 { Ok(()) } else { Err(format!("{there} at Brevo of {sent}")) }
        })
        .await;
        relay.kill().await;
        relay.start_again().await;
        relay.drained("brevo").await;
        settled = sandbox.brevo_events().await.len() as u64;
        // Once more, with everything written down: a kill now repeats nothing.
        let before = times_at_brevo(&sandbox).await;
        assert!(relay.terminate().await.success());
        relay.start_again().await;
        relay.drained("brevo").await;
        assert_eq!(times_at_brevo(&sandbox).await, before, "an orderly restart repeats nothing");
    }
    let times = times_at_brevo(&sandbox).await;
    assert_eq!(times.len() as u64, sent, "every event is there");
    let repeated = times.values().filter(|&&times| times > 1).count();
    let told = maybe_twice(&relay, "brevo").await;
    println!("{repeated} of {sent} events came twice, {told} were counted, over 4 kills in the middle of sending");
    assert!(repeated as u64 <= told, "{repeated} came twice, and {told} were counted");
    assert!(times.values().all(|&times| times <= 2), "{times:?}");
}

/// What is not safe to repeat (`$add`, `$append`) and was repeated after a doubtful answer is counted.
#[tokio::test]
async fn a_profile_addition_after_a_doubtful_answer_is_counted() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "connectors": { "brevo": null } })).await;
    sandbox
        .faults(Sandbox::fault("mixpanel", "/engage", json!({ "kind": "reset", "when": "after", "times": 1 })))
        .await;
    let add = json!([{ "$token": TOKEN, "$distinct_id": "adder", "$add": { "visits": 1 } }]);
    relay.take("/engage", &add).await;
    relay.drained("mixpanel").await;
    eventually(PATIENCE, async || {
        let visits = sandbox.mixpanel_profile("adder").await.unwrap_or_default()["visits"].clone();
        same("visits", visits, json!(2))
    })
    .await;
    assert_eq!(maybe_twice(&relay, "mixpanel").await, 1);
}

/// The relay's own count of what may have arrived twice.
async fn maybe_twice(relay: &Relay, destination: &str) -> u64 {
    let status = relay.admin("GET", "/v1/status").await.ok().json();
    let leg = status["destinations"].as_array().unwrap().iter().find(|leg| leg["destination"] == destination).unwrap();
    leg["maybe_twice"].as_u64().unwrap()
}
