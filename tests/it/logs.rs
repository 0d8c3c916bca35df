//! What the log says, and what it never says.

use serde_json::{Value, json};

use crate::harness::http::JSON;
use crate::harness::relay::SERVICE_ACCOUNT;
use crate::harness::{Relay, Sandbox};

/// In every value that is somebody's: nothing of it may come up at info.
const SENTINEL: &str = "zq7sentinel";
const PHONE: &str = "+33612345987";
const ADDRESS: &str = "203.0.113.77";

fn person(n: u32) -> String {
    format!("{SENTINEL}-{n}")
}

fn event(name: &str, id: &str, more: &Value) -> Value {
    let mut properties = json!({ "token": "sandbox-token", "distinct_id": id, "note": SENTINEL });
    for (key, value) in more.as_object().unwrap() {
        properties[key] = value.clone();
    }
    json!({ "event": name, "properties": properties })
}

fn set(id: &str, values: &Value) -> Value {
    json!({ "$token": "sandbox-token", "$distinct_id": id, "$ip": ADDRESS, "$set": values })
}

/// Journeys that go well, and every kind of trouble that a record can get into.
#[tokio::test]
async fn nothing_of_anybody_is_in_the_log_whatever_happens_to_them() {
    let sandbox = Sandbox::start().await;
    let proxies = json!({ "server": { "trusted_proxies": ["127.0.0.1"] } });
    let mut relay = Relay::start(&sandbox, proxies).await;
    let mail = |n: u32| format!("{}@{SENTINEL}.example.com", person(n));
    let profiles = json!([
        set(&person(1), &json!({ "$email": mail(1), "$first_name": SENTINEL, "$phone": PHONE, "plan": SENTINEL })),
        // The same address for another one; a number that is none; a date that is none; an address that is none.
        set(&person(2), &json!({ "$email": mail(1) })),
        set(&person(3), &json!({ "$email": mail(3), "$phone": SENTINEL, "signup_date": SENTINEL })),
        set(&person(4), &json!({ "$email": SENTINEL, "total_revenue": SENTINEL })),
    ]);
    relay.take("/engage", &profiles).await;
    let events = json!([
        event("Purchase", &person(1), &json!({ SENTINEL: SENTINEL })),
        event("Purchase", &person(9), &json!({})),
        event("$identify", &person(1), &json!({ "$anon_distinct_id": person(5), "$user_id": person(1) })),
        event(SENTINEL, &person(1), &json!({})),
    ]);
    relay.take("/track", &events).await;
    // Refused at the edge, each in its own way.
    let forwarded = ("x-forwarded-for", ADDRESS);
    for (path, body) in [
        (
            "/track?verbose=1&ip=1",
            json!([{ "event": 1, "properties": { "token": "sandbox-token", "distinct_id": SENTINEL } }]),
        ),
        ("/track?ip=1", json!([{ "event": "x", "properties": { "token": SENTINEL, "distinct_id": SENTINEL } }])),
        ("/engage", json!([{ "$token": SENTINEL, "$distinct_id": SENTINEL, "$set": 1 }])),
        ("/import?strict=1", json!([event("old", &person(6), &json!({ "time": SENTINEL }))])),
    ] {
        relay.post(path, &[JSON, forwarded, SERVICE_ACCOUNT], body.to_string()).await;
    }
    relay.post(&format!("/track?data={SENTINEL}"), &[forwarded], SENTINEL).await;
    relay.get(&format!("/{SENTINEL}/{}", person(1))).await;
    relay.admin("GET", &format!("/v1/people/{}", person(1))).await;
    relay.admin("GET", &format!("/v1/trace?email={}", mail(1))).await;
    // Refused for good by both vendors.

    let refusal =
        json!({ "kind": "status", "status": 400, "body": { "code": "invalid_parameter", "message": SENTINEL } });
    sandbox.faults(Sandbox::fault("brevo", "/v3/contacts", refusal)).await;
    relay.take("/engage", &json!([set(&person(7), &json!({ "$email": mail(7) }))])).await;
    relay.drained_or_parked("brevo").await;
    sandbox.heal().await;
    relay.admin("DELETE", &format!("/v1/people/{}", person(1))).await;
    relay.drained_or_parked("mixpanel").await;
    assert!(relay.terminate().await.success());

    let log = std::fs::read_to_string(relay.log()).unwrap();
    assert!(log.contains("store opened"), "the log is at info: {log}");
    for secret in [SENTINEL, PHONE, ADDRESS, "sandbox-secret", "xkeysib-sandbox", "test-admin-token"] {
        let leaks: Vec<&str> = log.lines().filter(|line| line.to_lowercase().contains(secret)).collect();
        assert!(leaks.is_empty(), "{secret}: {leaks:#?}");
    }
}

#[tokio::test]
async fn an_answer_carries_the_name_under_which_the_log_has_it() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let named = relay.send("GET", "/healthz", &[("x-request-id", "my-own.id-1")], "").await;
    assert_eq!(named.headers["x-request-id"], "my-own.id-1");
    for path in ["/track", "/nowhere", "/v1/status", "/metrics"] {
        let id = relay.get(path).await.headers["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(id.len(), 32, "{path}");
    }
    // Lines elsewhere than on a terminal are JSON, one object each.
    let log = std::fs::read_to_string(relay.log()).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().all(|line| line["level"].is_string() && line["timestamp"].is_string()), "{log}");
}
