//! P8: Brevo is used at close to the fewest calls possible.

use serde_json::{Value, json};

use crate::harness::records::{event, set};
use crate::harness::{Relay, Sandbox};

/// Everyone's profile changes ten times over and everyone does ten things, in requests as apps make them: mixed and small.
/// One call for each record would be 4,000. It all waits before the first call, so that the count does not depend on how
/// fast the machine is: while budget and time are plenty, freshness comes before economy.
#[tokio::test]
async fn twenty_records_cost_less_than_one_call() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    relay.admin("POST", "/v1/destinations/brevo/pause").await.ok();
    let people = 200;
    for round in 0..10 {
        let updates: Vec<Value> = (0..people)
            .map(|n| {
                set(&format!("p{n}"), json!({ "$email": format!("p{n}@example.com"), "plan": format!("plan {round}") }))
            })
            .collect();
        let events: Vec<Value> =
            (0..people).map(|n| event("Purchase", &format!("p{n}"), &format!("bought-{round}-{n}"))).collect();
        for (updates, events) in updates.chunks(50).zip(events.chunks(50)) {
            relay.take("/engage", &updates.to_vec().into()).await;
            relay.take("/track", &events.to_vec().into()).await;
        }
    }
    relay.admin("POST", "/v1/destinations/brevo/resume").await.ok();
    let balance = relay.drained("brevo").await;
    assert_eq!((balance.delivered, balance.dead_letters), (4_000, 0));
    let counts = sandbox.brevo_counts().await;
    let calls = counts["requests"]["total"].as_u64().unwrap();
    println!("Brevo's calls for 2,000 profile updates and 2,000 events of {people} people: {calls}");
    assert!(calls <= 200, "{counts}");
    assert_eq!(sandbox.brevo_events().await.len(), 2_000);
    for n in [0, people / 2, people - 1] {
        let contact = sandbox.brevo_contact(&format!("p{n}@example.com")).await.unwrap();
        assert_eq!(contact["attributes"]["PLAN_TYPE"], "plan 9", "{contact}");
    }
}
