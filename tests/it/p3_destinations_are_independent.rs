//! P3: one bad record costs only itself, and one destination's trouble is no trouble of the other's.

use serde_json::{Value, json};

use crate::harness::http::{JSON, gzip};
use crate::harness::records::{event, set};
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
