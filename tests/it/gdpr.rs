//! Mixpanel's GDPR tasks through the relay: the vendor's shapes, the relay's door.

use serde_json::{Value, json};

use crate::harness::http::JSON;
use crate::harness::relay::SERVICE_ACCOUNT;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually};

fn with_oauth() -> Value {
    json!({ "connectors": { "mixpanel": { "oauth_token": "sandbox-oauth" } } })
}

#[tokio::test]
async fn tasks_are_forwarded_with_the_vendors_shapes() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, with_oauth()).await;
    let account = [SERVICE_ACCOUNT, JSON];
    let ids = json!({ "distinct_ids": ["nobody"], "compliance_type": "GDPR" }).to_string();

    let asked = relay.post("/api/app/data-retrievals/v3.0/?token=sandbox-token", &account, ids.clone()).await;
    assert_eq!((asked.status, asked.body.as_str()), (201, r#"{"results":{"task_id":"1"},"status":"ok"}"#));
    let task = relay.send("GET", "/api/app/data-retrievals/v3.0/1", &account, "").await.ok().json();
    assert_eq!(task["results"]["distinct_ids"], json!(["nobody"]));
    sandbox.switch(json!({ "mixpanel": { "gdpr_answer": "page" } })).await;
    let asked = relay.post("/api/app/data-deletions/v3.0", &account, ids.clone()).await.ok().json();
    assert_eq!(asked["results"][0]["tracking_id"], "2");
    let cancelled = relay.send("DELETE", "/api/app/data-deletions/v3.0/2", &account, "").await;
    assert_eq!((cancelled.status, cancelled.body.as_str()), (204, ""));

    // The vendor's refusals come as they are, and so does the account's own page.
    let refused = relay.post("/api/app/data-deletions/v3.0", &account, r#"{"distinct_ids":[]}"#).await;
    assert_eq!((refused.status, &refused.json()["status"]), (400, &json!("error")));
    assert!(
        relay.send("GET", "/api/app/me/?include_workspace_users=false", &account, "").await.ok().body.contains("12345")
    );

    // A project token is a name, and another project's token is not ours to send.
    let basic = ("authorization", "Basic c2FuZGJveC10b2tlbjo=");
    for headers in [&[][..], &[basic], &[("authorization", "Bearer sandbox-oauth")]] {
        let refused = relay.post("/api/app/data-deletions/v3.0/", headers, ids.clone()).await;
        assert_eq!((refused.status, &refused.json()["status"]), (401, &json!("error")), "{headers:?}");
    }
    let other = relay.post("/api/app/data-deletions/v3.0/?token=other", &account, ids).await;
    assert_eq!((other.status, &other.json()["error"]), (400, &json!("token is invalid")));
}

/// A relay that has no token of its own, for callers who have one.
#[tokio::test]
async fn a_callers_own_token_passes_where_the_operator_lets_it() {
    let sandbox = Sandbox::start().await;
    let pass = json!({ "connectors": { "mixpanel": { "oauth_pass_through": true } } });
    let relay = Relay::start(&sandbox, pass).await;
    let ids = json!({ "distinct_ids": ["ada"], "compliance_type": "GDPR" }).to_string();
    let delete = async |token: &str| {
        let headers = [("authorization", token), JSON];
        relay.post("/api/app/data-deletions/v3.0/?token=sandbox-token", &headers, ids.clone()).await
    };
    let asked = delete("Bearer sandbox-oauth").await;
    assert_eq!((asked.status, asked.body.as_str()), (201, r#"{"results":{"task_id":"1"},"status":"ok"}"#));
    assert_eq!(delete("Bearer rubbish").await.status, 401);
    let look = [("authorization", "Bearer sandbox-oauth")];
    let me = relay.send("GET", "/api/app/me", &look, "").await.ok();
    assert!(me.body.contains("12345"), "{me:?}");
    // It is an erasure of the relay's too, which says what it cannot follow.
    let erasure = eventually(PATIENCE, async || {
        let erasures = relay.admin("GET", "/v1/erasures").await.ok().json();
        let text = erasures.to_string();
        if text.contains("as task 1") { Ok(erasures) } else { Err(text) }
    })
    .await;
    assert_eq!(erasure["items"].as_array().unwrap().len(), 1, "{erasure}");
    let calls = sandbox.get("/mixpanel/requests?path=/api/app/data-deletions&limit=10").await;
    assert_eq!(calls["requests"].as_array().unwrap().len(), 1, "rubbish went no further than the question whose it is");
}

#[tokio::test]
async fn without_an_oauth_token_the_relay_says_so() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let answer = relay.post("/api/app/data-deletions/v3.0/", &[SERVICE_ACCOUNT], r#"{"distinct_ids":["a"]}"#).await;
    assert_eq!(answer.status, 501);
    assert!(answer.json()["error"].as_str().unwrap().contains("oauth_token"), "{answer:?}");
}
