//! P3: one bad record costs only itself, and one destination's trouble is no trouble of the other's.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::http::{JSON, gzip};
use crate::harness::records::{event, now_ms, set};
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

/// Nests deeper than the vendor's `/import` takes, which `/track` does not mind.
fn refused_by_import(insert_id: &str) -> Value {
    let mut event = event("Refused", "bad", insert_id);
    event["properties"]["deep"] = json!({ "a": { "b": { "c": { "d": { "e": 1 } } } } });
    event
}

#[tokio::test]
async fn one_bad_record_among_2000_costs_only_itself() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "connectors": { "brevo": null } })).await;
    let mut batch: Vec<Value> = (0..1_999).map(|n| event("Good", "good", &format!("good-{n}"))).collect();
    let bad = refused_by_import("bad-1");
    batch.insert(1_234, bad.clone());
    let body = gzip(&serde_json::to_vec(&batch).unwrap());
    let answer = relay.post("/track?ip=0", &[JSON, ("content-encoding", "gzip")], body).await.ok();
    assert_eq!(answer.body, "1");

    sandbox.mixpanel_has_events(1_999, PATIENCE).await;
    let balance = relay.drained("mixpanel").await;
    assert_eq!((balance.delivered, balance.dead_letters), (1_999, 1));
    assert!(!sandbox.mixpanel_insert_ids().await.contains_key("bad-1"));
    let letters = relay.dead_letters("mixpanel", 1).await;
    assert_eq!(letters[0]["reason"], "rejected");
    assert_eq!(letters[0]["kind"], "event");
    assert_eq!(letters[0]["record"], bad, "with the original bytes");
    assert!(letters[0]["answer"].as_str().unwrap().contains("nested deeper"), "{}", letters[0]);
}

/// The vendor that refuses a whole batch and does not say which record it means: halved until the bad one is alone.
#[tokio::test]
async fn a_batch_refused_whole_is_halved_until_the_bad_record_is_alone() {
    let sandbox = Sandbox::start().await;
    sandbox.switch(json!({ "mixpanel": { "track_success": "all_valid" } })).await;
    let relay = Relay::start(&sandbox, json!({ "connectors": { "brevo": null } })).await;
    let hold = Sandbox::fault("mixpanel", "/engage", json!({ "kind": "status", "status": 503 }));
    sandbox.faults(hold).await;
    let mut updates: Vec<Value> = (0..40).map(|n| set(&format!("p{n}"), json!({ "n": n }))).collect();
    // No operator: the edge has no rule against it, the vendor refuses it.
    updates.insert(17, json!({ "$token": "sandbox-token", "$distinct_id": "p-bad" }));
    relay.take("/engage", &updates.into()).await;
    sandbox.heal().await;
    eventually(PATIENCE, async || same("profiles", sandbox.mixpanel_counts().await["profiles"].clone(), json!(40)))
        .await;
    let balance = relay.drained("mixpanel").await;
    assert_eq!((balance.delivered, balance.dead_letters), (40, 1));
    assert_eq!(relay.dead_letters("mixpanel", 1).await[0]["record"]["$distinct_id"], "p-bad");
}

/// Sends `count` mapped events one by one and waits for each at Brevo; returns the slowest answer and the slowest arrival.
async fn slowest_at_brevo(sandbox: &Sandbox, relay: &Relay, tag: &str, count: usize) -> (Duration, Duration) {
    let (mut answer, mut arrival) = (Duration::ZERO, Duration::ZERO);
    let before = sandbox.brevo_events().await.len();
    for n in 0..count {
        let (sent_at, begun) = (now_ms(), Instant::now());
        relay.take("/track", &json!([event("Purchase", "buyer", &format!("{tag}-{n}"))])).await;
        answer = answer.max(begun.elapsed());
        let arrived_at = eventually(PATIENCE, async || {
            let events = sandbox.brevo_events().await;
            same("events at Brevo", events.len(), before + n + 1).map(|()| events[before + n]["at"].as_u64().unwrap())
        })
        .await;
        arrival = arrival.max(Duration::from_millis(arrived_at.saturating_sub(sent_at)));
    }
    (answer, arrival)
}

#[tokio::test]
async fn mixpanel_black_holed_does_not_delay_brevo() {
    let sandbox = Sandbox::start_alone().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    relay.take("/engage", &json!([set("buyer", json!({ "$email": "buyer@example.com" }))])).await;
    relay.drained("brevo").await;
    let healthy = slowest_at_brevo(&sandbox, &relay, "healthy", 20).await;
    sandbox.faults(Sandbox::fault("mixpanel", "", json!({ "kind": "black_hole" }))).await;
    let alone = slowest_at_brevo(&sandbox, &relay, "alone", 20).await;
    println!("slowest answer and arrival at Brevo: {healthy:?} with Mixpanel, {alone:?} without");
    assert!(alone.0 < Duration::from_secs(1) && alone.1 < Duration::from_secs(2), "{alone:?}");
    let balance = relay.balance("mixpanel").await;
    assert_eq!(balance.backlog, 20, "{balance:?}");
    assert!(balance.adds_up());
}

#[tokio::test]
async fn brevo_black_holed_does_not_delay_mixpanel() {
    let sandbox = Sandbox::start_alone().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    sandbox.faults(Sandbox::fault("brevo", "", json!({ "kind": "black_hole" }))).await;
    relay.take("/engage", &json!([set("buyer", json!({ "$email": "buyer@example.com" }))])).await;
    let mut slowest = Duration::ZERO;
    for n in 0..20 {
        let begun = Instant::now();
        relay.take("/track", &json!([event("Purchase", "buyer", &format!("m-{n}"))])).await;
        sandbox.mixpanel_has_events(n + 1, PATIENCE).await;
        slowest = slowest.max(begun.elapsed());
    }
    println!("slowest arrival at Mixpanel with Brevo black-holed: {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert_eq!(relay.balance("brevo").await.backlog, 21);
    // A call into the hole ends only with its timeout; a restart need not wait for that.
    relay.kill().await;
    sandbox.heal().await;
    relay.start_again().await;
    relay.drained("brevo").await;
    assert_eq!(sandbox.brevo_events().await.len(), 20, "and Brevo catches up");
}
