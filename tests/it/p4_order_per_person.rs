//! P4: what is said of one person reaches each destination in the order in which it was accepted.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::http::{Client, JSON};
use crate::harness::records::{event, set};
use crate::harness::sandbox::TOKEN;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

const PEOPLE: usize = 12;
const UPDATES: u64 = 25;

/// Trouble of every kind, so that batches are retried, late and split while later ones wait.
fn trouble() -> Value {
    json!([
        { "kind": "latency", "ms": 30 },
        { "vendor": "mixpanel", "kind": "status", "status": 503, "times": 3 },
        { "vendor": "mixpanel", "kind": "reset", "times": 2 },
        { "vendor": "mixpanel", "path_prefix": "/engage", "kind": "status", "status": 500, "when": "after", "times": 2 },
        { "vendor": "brevo", "kind": "status", "status": 503, "times": 3 },
        { "vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "status", "status": 500, "when": "after", "times": 2 },
    ])
}

#[tokio::test]
async fn sets_of_one_person_end_in_the_last_value_at_both_vendors() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    sandbox.faults(trouble()).await;
    let mut apps = JoinSet::new();
    for person in 0..PEOPLE {
        let (http, url) = (Client::new(), relay.url("/engage?ip=0"));
        apps.spawn(async move {
            let id = format!("person-{person}");
            for n in 1..=UPDATES {
                let properties = json!({ "total_revenue": n, "$email": format!("{id}@example.com") });
                let body = json!([set(&id, properties)]).to_string();
                // Through the kill below, as an SDK with a queue: the same update until it is taken.
                while !http.send("POST", &url, &[JSON], body.clone()).await.is_ok_and(|answer| answer.body == "1") {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    eventually(PATIENCE, async || {
        let accepted = relay.balance("mixpanel").await.accepted;
        if accepted > 100 { Ok(()) } else { Err(format!("{accepted} accepted")) }
    })
    .await;
    relay.kill().await;
    relay.start_again().await;
    while let Some(ended) = apps.join_next().await {
        ended.unwrap();
    }
    relay.drained("mixpanel").await;
    relay.drained("brevo").await;

    for person in 0..PEOPLE {
        let id = format!("person-{person}");
        assert_eq!(sandbox.mixpanel_profile(&id).await.unwrap()["total_revenue"], UPDATES, "{id} at Mixpanel");
        let contact = sandbox.brevo_contact(&id).await.unwrap();
        assert_eq!(contact["attributes"]["LTV"].as_f64(), Some(UPDATES as f64), "{id} at Brevo");
    }
    // On the way, too: a resend may repeat a stretch, but nobody's value ever goes back beyond one that was repeated.
    let mut latest: BTreeMap<String, u64> = BTreeMap::new();
    for update in sandbox.mixpanel_updates().await {
        let value = update["record"]["$set"]["total_revenue"].as_u64().unwrap();
        let seen = latest.entry(update["distinct_id"].as_str().unwrap().to_owned()).or_default();
        assert!(value <= *seen + 1, "{} skips from {seen} to {value}", update["distinct_id"]);
        *seen = (*seen).max(value);
    }
}

#[tokio::test]
async fn identity_comes_before_the_profile_that_follows_it() {
    let sandbox = Sandbox::start().await;
    sandbox.switch(json!({ "mixpanel": { "identity": "original" } })).await;
    let tweaks = json!({ "connectors": { "mixpanel": { "identity": "original" }, "brevo": null } });
    let relay = Relay::start(&sandbox, tweaks).await;
    // Identity goes by another road than profiles, and that road is slow.
    sandbox.faults(Sandbox::fault("mixpanel", "/track", json!({ "kind": "latency", "ms": 400 }))).await;
    for n in 0..8 {
        let (anonymous, user) = (format!("0a1b2c3d-0000-4000-8000-{n:012}"), format!("user-{n}"));
        relay.take("/track", &json!([event("Viewed", &anonymous, &format!("before-{n}"))])).await;
        relay
            .take(
                "/track",
                &json!([{ "event": "$identify", "properties": {
                    "token": TOKEN, "distinct_id": user, "$identified_id": user, "$anon_distinct_id": anonymous,
                    "$insert_id": format!("identify-{n}"),
                }}]),
            )
            .await;
        relay.take("/engage", &json!([set(&user, json!({ "n": n }))])).await;
        relay.take("/track", &json!([event("Viewed", &user, &format!("after-{n}"))])).await;
    }
    relay.drained("mixpanel").await;
    let mut linked = BTreeMap::new();
    let events = sandbox.mixpanel_events().await;
    assert_eq!(events.len(), 24);
    for event in &events {
        if event["name"] == "$identify" {
            let user = event["record"]["properties"]["$identified_id"].as_str().unwrap().to_owned();
            linked.insert(user, event["seq"].as_u64().unwrap());
        }
    }
    let updates = sandbox.mixpanel_updates().await;
    assert_eq!(updates.len(), 8);
    for update in updates {
        let user = update["record"]["$distinct_id"].as_str().unwrap();
        assert!(update["seq"].as_u64().unwrap() > linked[user], "{user}'s profile overtook its identity");
    }
    assert_eq!(sandbox.mixpanel_counts().await["identity_links"], 8);
}

/// Brevo may lose an event whose contact it does not know: the contact comes first, however slow that is.
#[tokio::test]
async fn the_contact_is_there_before_its_first_event() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    sandbox
        .faults(json!([
            { "vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "latency", "ms": 300 },
            { "vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "status", "status": 503, "times": 4 },
        ]))
        .await;
    for n in 0..30 {
        let id = format!("new-{n}");
        relay.take("/engage", &json!([set(&id, json!({ "$email": format!("{id}@example.com") }))])).await;
        relay.take("/track", &json!([event("Sign Up", &id, &format!("signup-{n}"))])).await;
    }
    relay.drained("brevo").await;
    let counts = sandbox.brevo_counts().await;
    assert_eq!(counts["events_dropped_unknown_contact"], 0, "{counts}");
    assert_eq!(sandbox.brevo_events().await.len(), 30);
    let first = sandbox.brevo_events().await.remove(0);
    assert_eq!(first["event_name"], "customer_created");
}

/// An event of somebody whom Brevo cannot know yet waits, and goes out in order when an address arrives.
#[tokio::test]
async fn parked_events_are_released_in_order() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    for n in 0..20 {
        let mut purchase = event("Purchase", "shy", &format!("parked-{n}"));
        purchase["properties"]["n"] = n.into();
        relay.take("/track", &json!([purchase])).await;
    }
    eventually(PATIENCE, async || same("parked", relay.balance("brevo").await.parked, 20)).await;
    relay.kill().await;
    relay.start_again().await;
    eventually(PATIENCE, async || same("parked", relay.balance("brevo").await.parked, 20)).await;
    relay.take("/engage", &json!([set("shy", json!({ "$email": "shy@example.com" }))])).await;
    eventually(PATIENCE, async || {
        let balance = relay.balance("brevo").await;
        same("parked and delivered", (balance.parked, balance.delivered), (0, 21))
    })
    .await;
    let order: Vec<u64> = sandbox
        .brevo_events()
        .await
        .iter()
        .map(|event| event["event"]["event_properties"]["n"].as_u64().unwrap())
        .collect();
    assert_eq!(order, (0..20).collect::<Vec<u64>>());
}
