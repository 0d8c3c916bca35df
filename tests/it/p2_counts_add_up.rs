//! P2: nothing vanishes in silence. `/metrics` alone says where every accepted record is, over restarts.

use serde_json::{Value, json};

use crate::harness::metrics::Balance;
use crate::harness::records::{event, set};
use crate::harness::{Relay, Sandbox};

/// Deeper than the vendor's import takes; the edge lets it pass.
fn poison(insert_id: &str) -> Value {
    let mut event = event("Poison", "known-0", insert_id);
    event["properties"]["deep"] = json!({ "a": { "b": { "c": { "d": { "e": 1 } } } } });
    event
}

#[tokio::test]
async fn accepted_is_delivered_skipped_parked_dead_and_backlog() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;

    // 5 profiles and 20 mapped events of known people, 10 events that Brevo does not get, 3 of nobody known, 1 poison.
    let known: Vec<Value> = (0..5)
        .map(|n| set(&format!("known-{n}"), json!({ "$email": format!("k{n}@example.com"), "plan": "a" })))
        .collect();
    relay.take("/engage", &known.into()).await;
    for n in 0..20 {
        relay.take("/track", &json!([event("Purchase", &format!("known-{}", n % 5), &format!("mapped-{n}"))])).await;
    }
    let unmapped: Vec<Value> = (0..10).map(|n| event("Viewed", "known-0", &format!("unmapped-{n}"))).collect();
    relay.take("/track", &unmapped.into()).await;
    let nobody: Vec<Value> = (0..3).map(|n| event("Purchase", "nobody", &format!("nobody-{n}"))).collect();
    relay.take("/track", &nobody.into()).await;
    relay.take("/track", &json!([poison("poison-1")])).await;
    let mixpanel = Balance { accepted: 39, delivered: 38, skipped: 0, parked: 0, dead_letters: 1, backlog: 0 };
    let brevo = Balance { accepted: 39, delivered: 25, skipped: 11, parked: 3, dead_letters: 0, backlog: 0 };
    relay.settles("mixpanel", mixpanel).await;
    relay.settles("brevo", brevo).await;
    let metrics = relay.metrics().await;
    let skipped =
        metrics.sum("mixrelay_records_skipped_total", &[("destination", "brevo"), ("rule", "unmapped_event")]);
    assert_eq!(skipped, 11.0, "the rule is named");

    // Nobody answers any more: what comes now is backlog, and restarts do not change a single number. (The orderly one
    // comes first: a kill may take back deliveries since the last checkpoint, which are then made again.)
    sandbox.faults(json!([{ "kind": "status", "status": 503 }])).await;
    for n in 0..4 {
        relay.take("/track", &json!([event("Purchase", "known-1", &format!("later-{n}"))])).await;
    }
    relay
        .take("/engage", &json!([set("known-2", json!({ "plan": "b" })), set("known-2", json!({ "plan": "c" }))]))
        .await;
    let mixpanel = Balance { accepted: 45, backlog: 6, ..mixpanel };
    let brevo = Balance { accepted: 45, backlog: 6, ..brevo };
    relay.settles("mixpanel", mixpanel).await;
    relay.settles("brevo", brevo).await;
    assert!(relay.terminate().await.success());
    relay.start_again().await;
    relay.settles("mixpanel", mixpanel).await;
    relay.settles("brevo", brevo).await;
    relay.kill().await;
    relay.start_again().await;
    relay.settles("mixpanel", mixpanel).await;
    relay.settles("brevo", brevo).await;

    // The vendors are back, and the parked person becomes known.
    sandbox.heal().await;
    relay.take("/engage", &json!([set("nobody", json!({ "$email": "n@example.com" }))])).await;
    let mixpanel = Balance { accepted: 46, delivered: 45, backlog: 0, ..mixpanel };
    let brevo = Balance { accepted: 46, delivered: 35, parked: 0, backlog: 0, ..brevo };
    relay.settles("mixpanel", mixpanel).await;
    relay.settles("brevo", brevo).await;
    assert!(relay.terminate().await.success());
    relay.start_again().await;
    relay.settles("mixpanel", mixpanel).await;
    relay.settles("brevo", brevo).await;

    // The numbers are the vendors' too.
    assert_eq!(sandbox.mixpanel_events().await.len(), 37);
    assert_eq!(sandbox.brevo_events().await.len(), 27);
    assert_eq!(sandbox.brevo_contact("known-2").await.unwrap()["attributes"]["PLAN_TYPE"], "c");
}

/// A record that Brevo refuses is a dead letter there and a delivery at Mixpanel.
#[tokio::test]
async fn a_dead_letter_at_one_destination_is_a_delivery_at_the_other() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    relay.take("/engage", &json!([set("p", json!({ "$email": "p@example.com" }))])).await;
    relay
        .settles("brevo", Balance { accepted: 1, delivered: 1, skipped: 0, parked: 0, dead_letters: 0, backlog: 0 })
        .await;
    let refusal = json!({ "kind": "status", "status": 400, "times": 1,
        "body": { "code": "invalid_parameter", "message": "event_properties are not what they should be" } });
    sandbox.faults(Sandbox::fault("brevo", "/v3/events", refusal)).await;
    let refused = event("Purchase", "p", "refused-1");
    relay.take("/track", &json!([refused])).await;
    let brevo = Balance { accepted: 2, delivered: 1, skipped: 0, parked: 0, dead_letters: 1, backlog: 0 };
    relay.settles("brevo", brevo).await;
    relay.settles("mixpanel", Balance { delivered: 2, dead_letters: 0, ..brevo }).await;
    let letters = relay.dead_letters("brevo", 1).await;
    assert_eq!(letters[0]["record"], refused, "with the original bytes");
    assert!(letters[0]["answer"].as_str().unwrap().contains("not what they should be"), "{}", letters[0]);
    // Listed is written down: a kill does not bring it back to life.
    relay.kill().await;
    relay.start_again().await;
    relay.settles("brevo", brevo).await;
    assert_eq!(relay.dead_letters("brevo", 1).await, letters);
}
