//! Calls in the manner of Mixpanel's documentation, sent by hand and without options, are answered as users expect.

use serde_json::{Value, json};

use crate::harness::http::JSON;
use crate::harness::records::now_ms;
use crate::harness::relay::SERVICE_ACCOUNT;
use crate::harness::sandbox::TOKEN;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

const IMPORTED: &str = r#"{"code":200,"status":"OK","num_records_imported":1}"#;

#[tokio::test]
async fn the_import_and_engage_examples_are_answered_exactly_and_arrive() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "connectors": { "brevo": null } })).await;

    let events = json!([{ "event": "Signup", "properties": {
        "time": now_ms() / 1000, "distinct_id": "91304156-cafc-4673-a237-623d1129c801", "$insert_id": "evt_abc123",
        "plan": "pro",
    }}]);
    let answer = relay.post("/import", &[JSON, SERVICE_ACCOUNT], events.to_string()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, IMPORTED));

    let updates = json!([{
        "$token": TOKEN, "$distinct_id": "91304156-cafc-4673-a237-623d1129c801", "$set": { "plan": "pro" },
    }]);
    let answer = relay.post("/engage", &[JSON], updates.to_string()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, IMPORTED));

    sandbox.mixpanel_has_events(1, PATIENCE).await;
    let event = sandbox.mixpanel_events().await.remove(0);
    assert_eq!(event["name"], "Signup");
    let properties = &event["record"]["properties"];
    assert_eq!(properties["plan"], "pro");
    // The vendor refuses an underscore: the id that it gets is derived, and the caller's own is kept beside it.
    assert_eq!(properties["mixrelay_insert_id"], "evt_abc123");
    assert!(event["insert_id"].as_str().is_some_and(|id| id.len() == 32), "{event}");
    eventually(PATIENCE, async || {
        let profile = sandbox.mixpanel_profile("91304156-cafc-4673-a237-623d1129c801").await.unwrap_or(Value::Null);
        same("plan", profile["plan"].clone(), json!("pro"))
    })
    .await;
}
