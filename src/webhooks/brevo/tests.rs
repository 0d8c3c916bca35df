use serde_json::json;

use crate::people::address_book::stand_in;
use crate::record::{Destinations, Origin, Record};
use crate::store::Table;
use crate::webhooks::testing::Webhooks;

const PATH: &str = "/webhooks/brevo";
const BEARER: &str = "Bearer secret-1";

async fn served() -> Webhooks {
    Webhooks::new("webhooks: { brevo: { token: secret-1 } }").await
}

fn opened(email: &str) -> serde_json::Value {
    json!({"event": "opened", "email": email, "ts_event": 1_795_500_000, "message-id": "<m>"})
}

#[tokio::test]
async fn a_push_is_stored_for_mixpanel_before_it_is_answered() {
    let webhooks = served().await;
    webhooks.put(Table::Addresses, "aada@example.com\u{1f}ada", "\"owns\"").await;
    let (status, answer) = webhooks.post(PATH, BEARER, opened("Ada@Example.com").to_string()).await;
    assert_eq!((status, answer), (200, json!({"stored": 1, "refused": []})));
    let records = webhooks.records().await;
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].origin, records[0].destinations), (Origin::BrevoWebhook, Destinations::MIXPANEL));
    let body = &webhooks.bodies().await[0];
    assert_eq!((&body["event"], &body["properties"]["distinct_id"]), (&json!("Brevo Email Opened"), &json!("ada")));
}

#[tokio::test]
async fn what_is_good_of_a_batch_is_kept() {
    let webhooks = served().await;
    let batch = json!({"events": [opened("a@example.com"), {"event": "opened"}, 7, opened("b@example.com")]});
    let (status, answer) = webhooks.post(&format!("{PATH}/"), BEARER, batch.to_string()).await;
    assert_eq!((status, &answer["stored"]), (200, &json!(2)));
    let refused: Vec<_> =
        answer["refused"].as_array().unwrap().iter().map(|one| one["index"].as_u64().unwrap()).collect();
    assert_eq!(refused, [1, 2]);
    assert_eq!(webhooks.records().await.len(), 2);
}

#[tokio::test]
async fn what_cannot_be_used_is_said_to_be_so() {
    let webhooks = served().await;
    for body in ["", "{", "[1,", "\"opened\"", "[7]", r#"{"event":"opened"}"#] {
        let (status, answer) = webhooks.post(PATH, BEARER, body).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }
    assert_eq!(webhooks.post(PATH, BEARER, "[]").await.0, 200);
    let (status, answer) = webhooks.post(PATH, "Bearer other", opened("a@example.com").to_string()).await;
    assert_eq!((status, &answer["error"]["code"]), (401, &json!("unauthorized")));
    let closed = Webhooks::new("").await;
    let (status, answer) = closed.post(PATH, BEARER, opened("a@example.com").to_string()).await;
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("not_served")));
    assert!(webhooks.records().await.is_empty() && closed.records().await.is_empty());
}

#[tokio::test]
async fn a_body_that_finds_no_room_comes_back_later() {
    let webhooks = served().await;
    let many: Vec<_> = (0..9_000).map(|n| opened(&format!("a{n}@example.com"))).collect();
    // Twice its size is more than these tests' budget.
    let (status, answer) = webhooks.post(PATH, BEARER, serde_json::Value::from(many).to_string()).await;
    assert_eq!((status, &answer["error"]["code"]), (429, &json!("busy")));
}

#[tokio::test]
async fn an_erased_persons_push_leaves_its_place_alone() {
    let webhooks = served().await;
    webhooks.put(Table::Addresses, "aada@example.com\u{1f}ada", "\"owns\"").await;
    let now = webhooks.tombstones.now();
    let marks = [now.of_id("ada"), now.of_id(&stand_in("gone@example.com"))];
    drop(now);
    webhooks.tombstones.replace(|ids, _| ids.extend(marks));
    let unsubscribed = json!({"event": "unsubscribed", "email": "ada@example.com", "ts_event": 1_795_500_000});
    let batch = json!([unsubscribed, opened("gone@example.com"), opened("bob@example.com")]);
    assert_eq!(webhooks.post(PATH, BEARER, batch.to_string()).await.0, 200);
    let records = webhooks.records().await;
    let erased: Vec<bool> = records.iter().map(Record::is_erased).collect();
    assert_eq!(erased, [true, true, true, false]);
}
