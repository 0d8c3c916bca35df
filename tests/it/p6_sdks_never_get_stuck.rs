//! P6: an SDK is never told something that makes it retry for ever or throw its batch away.

use serde_json::{Value, json};

use crate::harness::http::{Answer, FORM, JSON};
use crate::harness::records::{event, set};
use crate::harness::relay::SERVICE_ACCOUNT;
use crate::harness::{PATIENCE, Relay, Sandbox};

const ORIGIN: (&str, &str) = ("origin", "https://shop.example.com");

/// Without these a browser SDK sees a dead network and drops its batch.
#[track_caller]
fn has_cors(answer: &Answer) {
    assert_eq!(answer.header("access-control-allow-origin"), Some(ORIGIN.1), "{answer:?}");
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"), "{answer:?}");
}

#[tokio::test]
async fn a_wrong_token_is_a_200_that_says_so() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let wrong = json!([{ "event": "E", "properties": { "token": "wrong", "distinct_id": "d" } }]);
    let answer = relay.post("/track?ip=1", &[JSON], wrong.to_string()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "0"));
    let answer = relay.post("/track?verbose=1", &[JSON], wrong.to_string()).await.ok().json();
    assert_eq!(answer, json!({ "error": "token, not a project token of this relay", "status": 0 }));
    for (path, record) in [
        ("/engage", json!([{ "$token": "wrong", "$distinct_id": "d", "$set": { "a": 1 } }])),
        ("/groups", json!([{ "$token": "wrong", "$group_key": "k", "$group_id": "g", "$set": { "a": 1 } }])),
    ] {
        let answer = relay.post(&format!("{path}?ip=1"), &[JSON], record.to_string()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "0"), "{path}");
        let answer = relay.post(&format!("{path}?verbose=1"), &[JSON], record.to_string()).await.ok().json();
        assert_eq!(answer["error"], "$token, not a project token of this relay", "{path}");
    }
    let metrics = relay.metrics().await;
    assert_eq!(metrics.sum("mixrelay_records_accepted_total", &[]), 0.0);
    assert_eq!(metrics.sum("mixrelay_records_rejected_total", &[("reason", "token_unknown")]), 6.0);
}

#[tokio::test]
async fn bad_data_is_never_a_4xx() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let bodies: [&[u8]; 14] = [
        b"",
        b"[]",
        b"{}",
        b"null",
        b"[1,\"two\",null]",
        b"[{\"event\":\"E\"",
        b"not json at all",
        b"data=",
        b"data=%%%",
        b"data=bm90IGpzb24=",
        b"{\"event\":\"\",\"properties\":{\"token\":\"sandbox-token\"}}",
        b"{\"event\":\"E\",\"properties\":\"none\"}",
        b"{\"event\":7,\"properties\":{\"token\":\"sandbox-token\"}}",
        b"{\"event\":\"\xff\xfe\",\"properties\":{\"token\":\"sandbox-token\"}}",
    ];
    for path in ["/track", "/track/", "/engage", "/engage/", "/groups", "/groups/"] {
        for content_type in [JSON, FORM, ("content-type", "text/plain;charset=UTF-8"), ("content-type", "nonsense")] {
            for body in bodies {
                let answer = relay.post(&format!("{path}?ip=1"), &[content_type, ORIGIN], body.to_vec()).await;
                let shown = String::from_utf8_lossy(body);
                assert_eq!((answer.status, answer.body.as_str()), (200, "0"), "{path} {content_type:?} {shown}");
                has_cors(&answer);
            }
        }
        let verbose = relay.post(&format!("{path}?verbose=1"), &[JSON], "not json at all").await.ok().json();
        assert_eq!(verbose["status"], 0);
        assert!(verbose["error"].as_str().is_some_and(|reason| !reason.is_empty()), "{verbose}");
    }
    assert_eq!(relay.metrics().await.sum("mixrelay_records_accepted_total", &[]), 0.0);
}

#[tokio::test]
async fn one_bad_record_does_not_spoil_its_batch() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "connectors": { "brevo": null } })).await;
    let batch = json!([
        event("Good", "d", "good-1"),
        { "event": "No token", "properties": { "distinct_id": "d" } },
        event("Good", "d", "good-2"),
    ]);
    let answer = relay.post("/track?ip=1", &[JSON], batch.to_string()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "1"));
    sandbox.mixpanel_has_events(2, PATIENCE).await;
    assert_eq!(relay.drained("mixpanel").await.delivered, 2);
}

#[tokio::test]
async fn every_answer_carries_the_cors_headers() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let good = json!([event("E", "d", "cors")]).to_string();
    has_cors(&relay.post("/track/?ip=1&verbose=1", &[FORM, ORIGIN], format!("data={good}")).await.ok());
    let unauthorized = relay.post("/import", &[JSON, ORIGIN], good.clone()).await;
    assert_eq!(unauthorized.status, 401);
    has_cors(&unauthorized);
    let unknown = relay.send("GET", "/no/such/path", &[ORIGIN], "").await;
    assert_eq!(unknown.status, 404);
    has_cors(&unknown);
    let too_large = relay.post("/track", &[JSON, ORIGIN], vec![b' '; 11 << 20]).await;
    assert_eq!(too_large.status, 413, "a browser halves its batch on this");
    has_cors(&too_large);
    let preflight =
        [ORIGIN, ("access-control-request-method", "POST"), ("access-control-request-headers", "content-type")];
    let preflight = relay.send("OPTIONS", "/track", &preflight, "").await;
    assert!(preflight.status < 300, "{preflight:?}");
    has_cors(&preflight);
    assert!(
        preflight.header("access-control-allow-headers").is_some_and(|h| h.to_lowercase().contains("content-type"))
    );
}

/// Everything but a browser is better served by `0` than by a status that it would retry for ever.
#[tokio::test]
async fn too_much_is_a_413_to_a_browser_and_a_0_to_everyone_else() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let many: Vec<Value> = (0..2001).map(|n| event("E", "d", &format!("many-{n}"))).collect();
    let many = serde_json::to_string(&many).unwrap();
    let answer = relay.post("/track?ip=1", &[JSON], many.clone()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "0"));
    assert_eq!(relay.post("/track?ip=1", &[JSON, ORIGIN], many.clone()).await.status, 413);
    let answer = relay.post("/import?strict=1&project_id=12345", &[JSON, SERVICE_ACCOUNT], many).await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json()["status"], "Request Entity Too Large");
    assert_eq!(relay.metrics().await.sum("mixrelay_records_accepted_total", &[]), 0.0);
}

/// A full disk is "later" to apps and a reason to operators; afterwards everything flows.
#[tokio::test]
async fn a_full_disk_is_a_503_with_retry_after_and_cors() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({ "store_min_free": "1000000GiB" })).await;
    let record = json!([event("E", "d", "full")]).to_string();
    let profile = json!([set("d", json!({ "plan": "pro" }))]).to_string();
    for (path, body, headers) in [
        ("/track/?ip=1&verbose=1", record.clone(), vec![JSON, ORIGIN]),
        ("/engage/?ip=1", profile, vec![JSON, ORIGIN]),
        ("/import?strict=1&project_id=12345", record.clone(), vec![JSON, ORIGIN, SERVICE_ACCOUNT]),
    ] {
        let answer = relay.post(path, &headers, body).await;
        assert_eq!(answer.status, 503, "{path}: {answer:?}");
        assert!(answer.header("retry-after").is_some_and(|after| after.parse::<u32>().is_ok()), "{answer:?}");
        has_cors(&answer);
    }
    let ready = relay.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("disk"), "{ready:?}");
    assert_eq!(relay.get("/healthz").await.status, 200, "the process is well");

    assert!(relay.terminate().await.success());
    relay.configure(json!({ "store_min_free": "16MiB" }));
    relay.start_again().await;
    assert_eq!(relay.get("/readyz").await.status, 200);
    relay.take("/track", &json!([event("E", "d", "full")])).await;
    sandbox.mixpanel_has_events(1, PATIENCE).await;
}

/// `/readyz` speaks of this relay, never of a vendor.
#[tokio::test]
async fn a_dead_vendor_does_not_make_the_relay_unready() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    sandbox.faults(json!([{ "kind": "reset" }])).await;
    relay.take("/track", &json!([event("E", "d", "while-dead")])).await;
    assert_eq!(relay.get("/readyz").await.status, 200);
    sandbox.heal().await;
    sandbox.mixpanel_has_events(1, PATIENCE).await;
}
