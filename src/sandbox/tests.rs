//! Faults, switches and the control API over real loopback sockets.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::SandboxConfig;
use super::testing::Running;

async fn running() -> Running {
    Running::start(SandboxConfig::default()).await
}

async fn faults(sandbox: &Running, faults: Value) {
    let (status, answer) = sandbox.control("PUT", "/faults", faults).await;
    assert_eq!(status, 200, "{answer}");
}

fn track(sandbox: &Running) -> reqwest::RequestBuilder {
    let event = json!({ "event": "a", "properties": { "token": "sandbox-token", "distinct_id": "u" } });
    sandbox.http.post(format!("{}/track", sandbox.mixpanel)).body(event.to_string())
}

#[tokio::test]
async fn a_fixed_status_strikes_as_often_as_asked_and_only_where_asked() {
    let sandbox = running().await;
    let fault = json!({ "vendor": "mixpanel", "path_prefix": "/track", "times": 2, "kind": "status", "status": 429,
        "headers": { "retry-after": "7" }, "body": { "error": "slow down" } });
    faults(&sandbox, fault).await;
    for _ in 0..2 {
        let (status, headers, body) = sandbox.send(track(&sandbox)).await;
        assert_eq!((status, body.as_str()), (429, r#"{"error":"slow down"}"#));
        assert_eq!(headers["retry-after"], "7");
    }
    assert_eq!(sandbox.send(track(&sandbox)).await.2, "1");
    assert_eq!(sandbox.show("/mixpanel/counts").await["requests"]["faulted"], 2);
    assert_eq!(sandbox.show("/faults").await["faults"][0]["hits"], 2);
    let misspelt = json!({ "path_prefx": "/track", "kind": "reset" });
    let (status, answer) = sandbox.control("PUT", "/faults", misspelt).await;
    assert!(status == 400 && answer["error"].as_str().is_some_and(|text| text.contains("path_prefx")), "{answer}");
}

#[tokio::test]
async fn a_reset_after_the_work_loses_the_answer_but_not_the_record() {
    let sandbox = running().await;
    faults(&sandbox, json!({ "kind": "reset", "when": "after", "times": 1 })).await;
    assert!(track(&sandbox).send().await.is_err());
    assert_eq!(sandbox.show("/mixpanel/events").await["total"], 1);
    faults(&sandbox, json!({ "kind": "reset", "times": 1 })).await;
    assert!(track(&sandbox).send().await.is_err());
    assert_eq!(sandbox.show("/mixpanel/events").await["total"], 1);
}

#[tokio::test]
async fn a_black_hole_never_answers_and_spares_the_other_vendor() {
    let sandbox = running().await;
    faults(&sandbox, json!([{ "vendor": "mixpanel", "kind": "black_hole" }])).await;
    let waited = track(&sandbox).timeout(Duration::from_millis(200)).send().await;
    assert!(waited.is_err_and(|error| error.is_timeout()));
    assert_eq!(sandbox.brevo("GET", "/account", None).await.0, 200);
    faults(&sandbox, json!({ "vendor": "brevo", "kind": "status", "status": 429 })).await;
    let (status, headers, answer) = sandbox.brevo("GET", "/account", None).await;
    assert_eq!((status, &answer["code"]), (429, &json!("too_many_requests")));
    assert_eq!(headers["x-sib-ratelimit-reset"], "1");
    sandbox.control("DELETE", "/faults", Value::Null).await;
    assert_eq!(sandbox.send(track(&sandbox)).await.2, "1");
}

#[tokio::test]
async fn late_slow_spoilt_and_lying_answers() {
    let sandbox = running().await;
    faults(&sandbox, json!([{ "kind": "latency", "ms": 60, "times": 1 }, { "kind": "garbage", "times": 1 }])).await;
    let started = Instant::now();
    let (status, _, body) = sandbox.send(track(&sandbox)).await;
    assert!(started.elapsed() >= Duration::from_millis(60), "latency adds to the other fault");
    assert!(status == 200 && serde_json::from_str::<Value>(&body).is_err());
    faults(&sandbox, json!({ "kind": "error_in_ok", "times": 1 })).await;
    let (status, _, body) = sandbox.send(track(&sandbox)).await;
    assert!(status == 200 && body.contains("went wrong"));
    faults(&sandbox, json!({ "kind": "break_off", "after_bytes": 5, "times": 1 })).await;
    let broken = sandbox.http.get(format!("{}/lib.min.js", sandbox.mixpanel)).send().await.expect("a head");
    assert!(reqwest::Body::from(broken).collect().await.is_err(), "broken off, not ended as if whole");
    faults(&sandbox, json!({ "kind": "slow", "chunk": 10, "every_ms": 20, "times": 1 })).await;
    let started = Instant::now();
    let slow = sandbox.http.get(format!("{}/lib.min.js", sandbox.mixpanel));
    assert!(sandbox.send(slow).await.2.contains("sandbox"));
    assert!(started.elapsed() >= Duration::from_millis(100));
}

#[tokio::test]
async fn switches_are_merged_and_misspelt_ones_refused() {
    let sandbox = running().await;
    let (_, before) = sandbox.control("GET", "/switches", Value::Null).await;
    let (status, after) = sandbox.control("PUT", "/switches", json!({ "brevo": { "list_shape": "bare" } })).await;
    assert_eq!((status, &after["brevo"]["list_shape"]), (200, &json!("bare")));
    assert_eq!(after["mixpanel"], before["mixpanel"]);
    let (status, answer) = sandbox.control("PUT", "/switches", json!({ "brevo": { "list_shap": "bare" } })).await;
    assert!(status == 400 && answer["error"].as_str().is_some_and(|text| text.contains("list_shap")), "{answer}");
    sandbox.control("POST", "/reset", Value::Null).await;
    assert_eq!(sandbox.show("/switches").await, before);
}

#[tokio::test]
async fn seeded_contacts_are_there_and_impossible_ones_named() {
    let sandbox = running().await;
    let seed = json!({ "lists": [{ "id": 40, "name": "VIP" }], "contacts": [{ "email": "a@example.com", "ext_id": "u1", "attributes": { "LTV": 3 }, "list_ids": [15] }] });
    assert_eq!(sandbox.control("POST", "/brevo/seed", seed.clone()).await.0, 200);
    assert_eq!(sandbox.show("/brevo/contacts/u1").await["attributes"]["LTV"], 3);
    assert_eq!(sandbox.brevo("GET", "/contacts/lists/40", None).await.2["name"], "VIP");
    let (status, answer) = sandbox.control("POST", "/brevo/seed", seed).await;
    assert!(status == 400 && answer["error"].as_str().is_some_and(|text| text.contains("contacts[0]")));
    assert_eq!(sandbox.control("GET", "/nowhere", Value::Null).await.0, 404);
}
