//! Groups as companies, through whole processes.

use serde_json::{Value, json};

use crate::harness::records::{event, set};
use crate::harness::sandbox::TOKEN;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

fn group(id: &str, properties: Value) -> Value {
    json!({"$token": TOKEN, "$group_key": "company_id", "$group_id": id, "$set": properties})
}

fn groups_on() -> Value {
    json!({
        "sync": { "groups": true },
        "group_mapping": { "company_id": { "name": "$name", "properties": { "industry": "industry" } } },
    })
}

async fn companies(sandbox: &Sandbox) -> Vec<Value> {
    sandbox.get("/brevo/companies").await["companies"].as_array().unwrap().clone()
}

#[tokio::test]
async fn groups_become_companies_with_their_people_over_a_kill() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, groups_on()).await;
    relay.take("/groups", &json!([group("a", json!({"$name": "ACME", "industry": "Steel"}))])).await;
    relay.kill().await;
    relay.start_again().await;
    let mut visit = event("Purchase", "ada", "i1");
    visit["properties"]["company_id"] = "a".into();
    relay.take("/engage", &json!([set("ada", json!({"$email": "ada@example.com"}))])).await;
    relay.take("/track", &json!([visit])).await;
    relay.take("/groups", &json!([group("a", json!({"industry": "Glass"}))])).await;
    eventually(PATIENCE, async || {
        let all = companies(&sandbox).await;
        let [company] = &all[..] else { return Err(format!("{all:?}")) };
        same("attributes", &company["attributes"], &json!({"name": "ACME", "industry": "Glass"}))?;
        same("links", company["linkedContactsIds"].as_array().map(Vec::len), Some(1))
    })
    .await;
    let balance = relay.drained("brevo").await;
    assert_eq!(balance.delivered, 4, "two group records, a profile update and an event");
    let status = relay.admin("GET", "/v1/status").await.ok().json();
    let brevo = status["destinations"].as_array().unwrap().iter().find(|one| one["destination"] == "brevo").unwrap();
    assert_eq!((&brevo["groups"]["owed"], &brevo["groups"]["calls_per_hour"]), (&json!(0), &json!(100)), "{brevo}");
}

#[tokio::test]
async fn with_groups_off_mixpanel_still_gets_everything() {
    let sandbox = Sandbox::start().await;
    let mut off = groups_on();
    off["sync"]["groups"] = false.into();
    let relay = Relay::start(&sandbox, off).await;
    relay.take("/groups", &json!([group("a", json!({"$name": "ACME"})), group("b", json!({"industry": "x"}))])).await;
    assert_eq!(relay.drained("mixpanel").await.delivered, 2);
    assert_eq!(relay.drained("brevo").await.skipped, 2);
    assert!(companies(&sandbox).await.is_empty());
    assert_eq!(sandbox.mixpanel_counts().await["groups"], 2);
}
