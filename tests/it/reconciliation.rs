//! Both sides' counts of a day, through whole processes.

use serde_json::{Value, json};

use crate::harness::http::JSON;
use crate::harness::records::{event, now_ms, set};
use crate::harness::relay::ADMIN_TOKEN;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually};

/// Seconds of yesterday's noon, and the day's name.
fn yesterday() -> (u64, String) {
    let today = now_ms() / 1000 / 86_400;
    let noon = (today - 1) * 86_400 + 43_200;
    let day = jiff::Timestamp::from_second(noon.cast_signed()).unwrap().to_string();
    (noon, day[..10].to_owned())
}

fn purchase(n: usize, time: u64) -> Value {
    let mut event = event("Purchase", "u", &format!("purchase-{n}"));
    event["properties"]["time"] = json!(time);
    event
}

async fn compare(relay: &Relay, day: &str) -> Value {
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let body = json!({ "day": day }).to_string();
    relay.post("/v1/reconciliation", &[("authorization", &bearer), JSON], body).await.ok().json()
}

fn side<'a>(report: &'a Value, destination: &str) -> &'a Value {
    report["destinations"].as_array().unwrap().iter().find(|side| side["destination"] == destination).unwrap()
}

#[tokio::test]
async fn what_was_delivered_is_held_against_what_the_vendors_count() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    let (noon, day) = yesterday();
    relay.take("/engage", &json!([set("u", json!({ "$email": "u@example.com" }))])).await;
    let events: Vec<_> = (0..5).map(|n| purchase(n, noon)).collect();
    relay.take("/track", &json!(events)).await;
    relay.take("/track", &json!([purchase(9, now_ms() / 1000)])).await;
    for destination in ["mixpanel", "brevo"] {
        relay.drained(destination).await;
    }
    // What was counted is written down with what was delivered.
    assert!(relay.terminate().await.success());
    relay.start_again().await;
    for destination in ["mixpanel", "brevo"] {
        relay.drained(destination).await;
    }

    let report = compare(&relay, &day).await;
    for (destination, name) in [("mixpanel", "Purchase"), ("brevo", "order_completed")] {
        let side = side(&report, destination);
        assert_eq!(
            (&side["delivered"], &side["counted"], &side["missing"]),
            (&json!(5), &json!(5), &json!(0)),
            "{report}"
        );
        assert_eq!(side["events"], json!([{ "name": name, "delivered": 5, "counted": 5 }]), "{report}");
        assert_eq!(side["causes"], json!([]), "{report}");
    }

    // Sent again by an app: Mixpanel keeps one, and the relay has delivered two.
    relay.take("/track", &json!([purchase(0, noon)])).await;
    eventually(PATIENCE, async || {
        let report = compare(&relay, &day).await;
        let side = side(&report, "mixpanel");
        let told = (&side["delivered"], &side["counted"], &side["missing"], &side["causes"][0]["code"]);
        if told == (&json!(6), &json!(5), &json!(1), &json!("resent")) { Ok(()) } else { Err(report.to_string()) }
    })
    .await;
    let metrics = relay.metrics().await;
    assert_eq!(metrics.sum("mixrelay_reconciliation_events_missing", &[("destination", "mixpanel")]), 1.0);
    let (code, said, _) = relay.command(&["reconcile", "--kept"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("mixpanel: delivered 6, counted there 5, missing 1"), "{said}");
    let (code, _, complaint) = relay.command(&["reconcile", "2020-02-30"]).await;
    assert_eq!(code, Some(1));
    assert!(complaint.contains("2020-02-30 is no day"), "{complaint}");
}
