//! `mode: observe`: Brevo is sent nothing, and the relay says what it would have got, and for how many calls.

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::records::{event, set};
use crate::harness::sdk::Browser;
use crate::harness::{Relay, Sandbox, same};

#[tokio::test]
async fn what_live_would_send_is_told_and_brevo_hears_nothing() {
    let sandbox = Sandbox::start().await;
    let tweaks = json!({ "connectors": { "brevo": { "mode": "observe" } } });
    let relay = Relay::start(&sandbox, tweaks).await;
    let status = relay.admin("GET", "/v1/status").await.ok().json();
    same("a forecast of nothing", status["brevo_forecast"].clone(), json!(null)).unwrap();

    let people = ["ada", "bob", "visitor"];
    let mut updates = vec![set("visitor", json!({ "plan": "free" }))];
    for person in &people[..2] {
        let email = format!("{person}@example.com");
        updates.push(set(person, json!({ "$email": email, "plan": "free" })));
        updates.push(set(person, json!({ "plan": "pro" })));
    }
    relay.take("/engage", &json!(updates)).await;
    relay.drained("brevo").await;
    let events: Vec<_> = people.iter().map(|person| event("Purchase", person, &format!("{person}-1"))).collect();
    relay.take("/track", &json!(events)).await;
    relay.take("/track", &json!([event("Not Mapped", "ada", "ada-2")])).await;
    relay.drained("brevo").await;

    let status = relay.admin("GET", "/v1/status").await.ok().json();
    let forecast = &status["brevo_forecast"];
    let counts = json!({
        "contacts": forecast["contacts"], "without_address": forecast["without_address"], "events": forecast["events"],
        "events_without_address": forecast["events_without_address"], "plan": forecast["attributes"]["PLAN_TYPE"],
    });
    let expected = json!({
        "contacts": 2, "without_address": 1, "events": { "order_completed": 2 }, "events_without_address": 1, "plan": 4,
    });
    same("the forecast", counts, expected).unwrap();
    assert!(forecast["calls_per_hour"]["contacts"]["most"].as_u64() >= Some(4), "{forecast}");
    assert!(forecast["allowed_per_hour"]["contacts"].as_u64() > Some(100), "{forecast}");
    same("requests to Brevo", sandbox.get("/brevo/requests").await["requests"].clone(), json!([])).unwrap();

    let mut browser = Browser::open().await;
    browser.log_in(&relay).await;
    let page = browser.call("textContent", json!(["[aria-label='If Brevo were live']"])).await;
    assert!(page.as_str().is_some_and(|page| page.contains("order_completed") && page.contains("PLAN_TYPE")), "{page}");
    same("faults of accessibility", browser.inaccessible().await, json!([])).unwrap();
    browser.screenshot("observe").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_of_each_mapped_event_is_sent_for_ones_own_contact() {
    let sandbox = Sandbox::start().await;
    let tweaks = json!({
        "connectors": { "brevo": { "mode": "observe" } },
        "event_mapping": {
            "Purchase": "order_completed",
            "Sign Up": { "name": "customer_created", "pick": ["plan"], "rename": { "utm_source": "source" } },
            "Hidden": { "name": "paid", "when": { "amount": { "above": 100 } } },
        },
        "mapping_tests": [
            { "name": "a small one", "given": { "event": "Hidden", "properties": { "distinct_id": "a", "amount": 1 } },
              "expect": { "skipped": "condition_not_met" } },
            { "name": "a large one", "given": { "event": "Hidden", "properties": { "distinct_id": "a", "amount": 101 } },
              "expect": { "event": "paid" } },
        ],
    });
    let relay = Relay::start(&sandbox, tweaks).await;
    let config = relay.directory().join("mixrelay.yaml");
    let output = tokio::task::block_in_place(|| {
        let arguments = ["check", "--config", config.to_str().unwrap(), "--test-contact", "Me@Example.com"];
        std::process::Command::new(env!("CARGO_BIN_EXE_mixrelay")).args(arguments).output().unwrap()
    });
    let said = String::from_utf8(output.stdout).unwrap();
    for line in [
        "event_mapping.Hidden: paid sent, with amount",
        "event_mapping.Purchase: order_completed sent without properties",
        "event_mapping.Sign Up: customer_created sent, with plan, source",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let mut sent = BTreeMap::new();
    for applied in sandbox.brevo_events().await {
        let event = &applied["event"];
        let name = event["event_name"].as_str().unwrap().to_owned();
        sent.insert(name, (event["identifiers"]["email_id"].clone(), event["event_properties"].clone()));
    }
    let me = json!("me@example.com");
    let expected = BTreeMap::from([
        ("customer_created".to_owned(), (me.clone(), json!({ "plan": "sample", "source": "sample" }))),
        ("order_completed".to_owned(), (me.clone(), json!(null))),
        ("paid".to_owned(), (me, json!({ "amount": 101 }))),
    ]);
    assert_eq!(sent, expected, "{said}");
}
