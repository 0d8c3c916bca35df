//! `privacy.{mixpanel,brevo}`: what a rule keeps back is in nothing that the vendor received.

use serde_json::json;

use crate::harness::records::{event, set, update};
use crate::harness::{PATIENCE, Relay, Sandbox, eventually};

#[tokio::test]
async fn nothing_of_a_dropped_property_reaches_a_vendor() {
    let sandbox = Sandbox::start().await;
    let rules = json!({ "privacy": {
        "hash_key": "k", "mixpanel": { "drop": ["card"], "hash": ["$email"] }, "brevo": { "drop": ["plan"] },
    }});
    let relay = Relay::start(&sandbox, rules).await;
    let mut bought = event("Purchase", "ada", "bought-1");
    bought["properties"]["card"] = "4111-secret".into();
    bought["properties"]["plan"] = "plan-secret".into();
    bought["properties"]["amount"] = 12.into();
    relay
        .take(
            "/engage",
            &json!([
                set("ada", json!({ "$email": "ada@example.com", "plan": "plan-secret", "card": "4111-secret" })),
                update("ada", "$union", json!({ "cards": ["x"], "card": ["4111-secret"] })),
                set("ada", json!({ "card": "4111-secret" })),
            ]),
        )
        .await;
    relay.take("/track", &json!([bought])).await;
    for (destination, delivered) in [("mixpanel", 3), ("brevo", 2)] {
        eventually(PATIENCE, async || {
            let found = relay.balance(destination).await;
            let done = (found.delivered, found.backlog, found.parked) == (delivered, 0, 0) && found.adds_up();
            if done { Ok(()) } else { Err(format!("{destination}: {found:?}")) }
        })
        .await;
    }
    let at_mixpanel = format!("{:?}{:?}", sandbox.mixpanel_events().await, sandbox.mixpanel_updates().await);
    assert!(!at_mixpanel.contains("4111-secret") && !at_mixpanel.contains("ada@example.com"), "{at_mixpanel}");
    assert!(at_mixpanel.contains("plan-secret") && at_mixpanel.contains("\"cards\""), "{at_mixpanel}");
    let at_brevo = format!("{:?}{:?}", sandbox.brevo_events().await, sandbox.brevo_contact("ada").await.unwrap());
    assert!(!at_brevo.contains("plan-secret") && at_brevo.contains("ada@example.com"), "{at_brevo}");
    let private = |destination| [("destination", destination), ("rule", "private")];
    let metrics = relay.metrics().await;
    assert_eq!(metrics.sum("mixrelay_records_skipped_total", &private("mixpanel")), 1.0);
}
