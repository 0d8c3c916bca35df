//! Mixpanel's own SDKs for servers, pointed at the relay: what arrives is what each was told to send.

use serde_json::{Value, json};

use crate::harness::records::now_ms;
use crate::harness::sdk::{holds, run_node, run_python, updates_by_id};
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

/// What these SDKs and the edge add to an event.
fn of_the_sdk(name: &str) -> bool {
    ["token", "mp_lib", "$lib_version", "$insert_id", "time", "distinct_id"].contains(&name)
}

/// Events as they arrived: name and properties, in the order of their `n`.
async fn arrived(sandbox: &Sandbox, expected: usize) -> Vec<(String, Value)> {
    sandbox.mixpanel_has_events(expected, PATIENCE).await;
    let mut events: Vec<(String, Value)> = sandbox
        .mixpanel_events()
        .await
        .into_iter()
        .map(|event| (event["name"].as_str().unwrap().to_owned(), event["record"]["properties"].clone()))
        .collect();
    events.sort_by_key(|(_, properties)| properties["n"].as_u64());
    assert_eq!(events.len(), expected, "nothing arrived twice");
    events
}

async fn updates_arrived(sandbox: &Sandbox, expected: Value) {
    eventually(PATIENCE, async || same("updates", json!(updates_by_id(sandbox).await), expected.clone())).await;
}

#[tokio::test]
async fn npm_mixpanel_sends_what_it_is_told() {
    let sandbox = Sandbox::start().await;
    let tweaks = json!({ "connectors": { "brevo": null }, "auth": { "api_keys": ["node-sdk-key"] } });
    let relay = Relay::start(&sandbox, tweaks).await;
    let old = now_ms() / 1000 - 30 * 86_400;
    let mut batch: Vec<Value> = Vec::new();
    for n in 10..130 {
        batch.push(json!({ "event": "Batched", "properties": { "n": n, "distinct_id": "ada" } }));
    }
    let tricky = json!({ "n": 1, "distinct_id": "ada", "text": "ünï©ødé + / = & \" \u{1F980}", "list": [1, "two", null],
        "nested": { "a": { "b": true } }, "big": 9_007_199_254_740_991_u64, "float": 0.1 });
    let events = json!([
        ["track", ["Bare", { "n": 0 }]],
        ["track", ["Tricky", tricky]],
        ["track_batch", [batch, {}]],
        ["import", ["Imported", old, { "n": 200, "distinct_id": "ada", "$insert_id": "import-200" }]],
        ["import_batch", [[
            { "event": "Imported", "properties": { "n": 201, "time": old, "distinct_id": "ada" } },
            { "event": "Imported", "properties": { "n": 202, "time": old + 1, "distinct_id": "ada" } },
        ], {}]],
    ]);
    let host = relay.address().to_owned();
    assert_eq!(run_node(&host, "node-sdk-key", false, events).await, Vec::<String>::new());
    let events = arrived(&sandbox, 125).await;
    holds(&events[0].1, &json!({ "n": 0, "mp_lib": "node" }), of_the_sdk);
    assert_eq!((events[0].0.as_str(), events[1].0.as_str()), ("Bare", "Tricky"));
    holds(&events[1].1, &tricky, of_the_sdk);
    for (event, n) in events[2..122].iter().zip(10..) {
        assert_eq!(event.0, "Batched");
        holds(&event.1, &json!({ "n": n, "distinct_id": "ada" }), of_the_sdk);
    }
    for (event, (n, time)) in events[122..].iter().zip([(200, old), (201, old), (202, old + 1)]) {
        assert_eq!(event.0, "Imported");
        holds(&event.1, &json!({ "n": n, "time": time, "distinct_id": "ada" }), of_the_sdk);
    }
    assert_eq!(events[122].1["$insert_id"], "import-200");

    let profiles = json!([
        ["people.set", ["ada", { "$email": "ada@example.com", "plan": "pro" }]],
        ["people.set_once", ["ada", "first", "yes"]],
        ["people.increment", ["ada", "visits"]],
        ["people.increment", ["ada", { "visits": 4 }]],
        ["people.append", ["ada", "pages", "home"]],
        ["people.union", ["ada", { "tags": ["a", "b"] }]],
        ["people.remove", ["ada", { "tags": "a" }]],
        ["people.unset", ["ada", "first"]],
        ["people.set", ["bob", "plan", "free"]],
        ["people.delete_user", ["bob"]],
        ["groups.set", ["company", "acme", { "industry": "anvils" }]],
        ["groups.set_once", ["company", "acme", "founded", 1949]],
        ["groups.union", ["company", "acme", { "cities": ["Tucson"] }]],
        ["groups.unset", ["company", "acme", "founded"]],
    ]);
    // Verbose answers are read by another branch of the SDK.
    assert_eq!(run_node(&host, "node-sdk-key", true, profiles).await, Vec::<String>::new());
    let expected = json!({
        "ada": [
            ["$set", { "$email": "ada@example.com", "plan": "pro" }], ["$set_once", { "first": "yes" }],
            ["$add", { "visits": 1 }], ["$add", { "visits": 4 }], ["$append", { "pages": "home" }],
            ["$union", { "tags": ["a", "b"] }], ["$remove", { "tags": "a" }], ["$unset", ["first"]],
        ],
        "bob": [["$set", { "plan": "free" }], ["$delete", ""]],
        "company:acme": [
            ["$set", { "industry": "anvils" }], ["$set_once", { "founded": 1949 }],
            ["$union", { "cities": ["Tucson"] }], ["$unset", ["founded"]],
        ],
    });
    updates_arrived(&sandbox, expected).await;
    let ada = sandbox.mixpanel_profile("ada").await.unwrap();
    assert_eq!((&ada["visits"], &ada["tags"], &ada["first"]), (&json!(5), &json!(["b"]), &Value::Null));
    assert!(sandbox.mixpanel_profile("bob").await.is_none());
}

#[tokio::test]
async fn npm_mixpanel_is_told_about_a_wrong_key() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let calls = json!([["import", ["Imported", now_ms() / 1000, { "distinct_id": "ada" }]]]);
    let errors = run_node(relay.address(), "no-such-key", false, calls).await;
    assert_eq!(errors.len(), 1, "{errors:?}");
}

async fn pypi_mixpanel(buffered: bool) {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "connectors": { "brevo": null } })).await;
    let old = now_ms() / 1000 - 30 * 86_400;
    let tricky = json!({ "n": 0, "text": "ünï©ødé + / = & \" \u{1F980}", "list": [1, "two", null], "float": 0.1 });
    let mut calls = vec![json!(["track", ["grace", "Tricky", tricky]])];
    for n in 1..120 {
        calls.push(json!(["track", ["grace", "Tracked", { "n": n }]]));
    }
    calls.push(json!(["import_data", [null, "grace", "Imported", old, { "n": 200 }]]));
    calls.push(json!(["people_set", ["grace", { "$email": "grace@example.com", "plan": "pro" }]]));
    calls.push(json!(["people_set_once", ["grace", { "first": "yes" }]]));
    calls.push(json!(["people_increment", ["grace", { "visits": 2 }]]));
    calls.push(json!(["people_append", ["grace", { "pages": "home" }]]));
    calls.push(json!(["people_union", ["grace", { "tags": ["a", "b"] }]]));
    calls.push(json!(["people_remove", ["grace", { "tags": "a" }]]));
    calls.push(json!(["people_unset", ["grace", ["first"]]]));
    calls.push(json!(["people_delete", ["hank"]]));
    calls.push(json!(["group_set", ["company", "acme", { "industry": "anvils" }]]));
    calls.push(json!(["group_set_once", ["company", "acme", { "founded": 1949 }]]));
    calls.push(json!(["group_union", ["company", "acme", { "cities": ["Tucson"] }]]));
    calls.push(json!(["group_unset", ["company", "acme", ["founded"]]]));
    assert_eq!(run_python(&relay.url(""), buffered, &calls.into()).await, Vec::<String>::new());

    let events = arrived(&sandbox, 121).await;
    holds(&events[0].1, &tricky, of_the_sdk);
    for (event, n) in events[1..120].iter().zip(1..) {
        assert_eq!(event.0, "Tracked");
        holds(&event.1, &json!({ "n": n, "distinct_id": "grace", "mp_lib": "python" }), of_the_sdk);
        // A hexadecimal uuid of the SDK's own, which the vendor's import takes: kept.
        assert!(event.1["$insert_id"].as_str().is_some_and(|id| id.len() == 32), "{}", event.1);
    }
    holds(&events[120].1, &json!({ "n": 200, "time": old, "distinct_id": "grace" }), of_the_sdk);
    let expected = json!({
        "grace": [
            ["$set", { "$email": "grace@example.com", "plan": "pro" }], ["$set_once", { "first": "yes" }],
            ["$add", { "visits": 2 }], ["$append", { "pages": "home" }], ["$union", { "tags": ["a", "b"] }],
            ["$remove", { "tags": "a" }], ["$unset", ["first"]],
        ],
        "hank": [["$delete", ""]],
        "company:acme": [
            ["$set", { "industry": "anvils" }], ["$set_once", { "founded": 1949 }],
            ["$union", { "cities": ["Tucson"] }], ["$unset", ["founded"]],
        ],
    });
    updates_arrived(&sandbox, expected).await;
}

#[tokio::test]
async fn pypi_mixpanel_sends_what_it_is_told() {
    pypi_mixpanel(false).await;
}

#[tokio::test]
async fn pypi_mixpanel_buffered_sends_what_it_is_told() {
    pypi_mixpanel(true).await;
}

#[tokio::test]
async fn pypi_mixpanel_is_told_about_a_full_disk() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "store_min_free": "1000000GiB" })).await;
    let calls = json!([["track", ["grace", "Tracked", {}]], ["people_set", ["grace", { "plan": "pro" }]]]);
    let errors = run_python(&relay.url(""), false, &calls).await;
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors.iter().all(|error| error.contains("disk")), "the reason is told: {errors:?}");
}
