//! P7: the vendors' limits are never overrun by us, and a destination that refuses us is left alone until it does not.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::records::{event, set};
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

/// How many calls each vendor has refused by its limits.
async fn refused_by_limit(sandbox: &Sandbox) -> (u64, u64) {
    let of = |counts: Value| counts["requests"]["by_status"]["429"].as_u64().unwrap_or(0);
    (of(sandbox.mixpanel_counts().await), of(sandbox.brevo_counts().await))
}

async fn burst(relay: &Relay, people: usize, events: usize, tag: &str) {
    let profiles: Vec<Value> = (0..people)
        .map(|n| set(&format!("{tag}-{n}"), json!({ "$email": format!("{tag}-{n}@example.com"), "plan": "pro" })))
        .collect();
    relay.take("/engage", &profiles.into()).await;
    let events: Vec<Value> =
        (0..events).map(|n| event("Purchase", &format!("{tag}-{}", n % people), &format!("{tag}-{n}"))).collect();
    for batch in events.chunks(500) {
        relay.take("/track", &batch.to_vec().into()).await;
    }
}

#[tokio::test]
async fn a_burst_meets_no_429_and_a_kill_does_not_forget_what_was_spent() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    burst(&relay, 300, 1_500, "first").await;
    eventually(PATIENCE, async || {
        let there = sandbox.brevo_events().await.len();
        if there > 100 { Ok(()) } else { Err(format!("{there} events at Brevo")) }
    })
    .await;
    relay.kill().await;
    relay.start_again().await;
    burst(&relay, 300, 1_500, "second").await;
    relay.drained("brevo").await;
    relay.drained("mixpanel").await;
    let counts = sandbox.brevo_counts().await;
    println!("Brevo's calls for 600 profile updates and 3,000 events: {}", counts["requests"]);
    assert_eq!(refused_by_limit(&sandbox).await, (0, 0), "{counts}");
    assert_eq!(counts["events_dropped_unknown_contact"], 0, "{counts}");
    assert!(sandbox.brevo_events().await.len() >= 3_000);
}

/// A vendor that says "slower" is believed, its hint honoured, and nothing is lost.
#[tokio::test]
async fn a_429_is_waited_out() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    sandbox
        .faults(json!([
            { "vendor": "mixpanel", "path_prefix": "/import", "kind": "status", "status": 429, "times": 2,
              "headers": { "retry-after": "1" } },
            { "vendor": "brevo", "path_prefix": "/v3/events", "kind": "status", "status": 429, "times": 2,
              "headers": { "x-sib-ratelimit-limit": "10", "x-sib-ratelimit-remaining": "0", "x-sib-ratelimit-reset": "1" } },
        ]))
        .await;
    // One event, so that no second call can be under way beside the refused one.
    burst(&relay, 1, 1, "slow").await;
    assert_eq!(relay.drained("mixpanel").await.delivered, 2);
    assert_eq!(relay.drained("brevo").await.delivered, 2);
    for (vendor, path) in [("mixpanel", "/import"), ("brevo", "/v3/events")] {
        let requests = sandbox.get(&format!("/{vendor}/requests?path={path}")).await;
        let times: Vec<u64> =
            requests["requests"].as_array().unwrap().iter().map(|request| request["at"].as_u64().unwrap()).collect();
        assert_eq!(times.len(), 3, "{vendor}: {times:?}");
        for pair in times.windows(2) {
            let waited = pair[1] - pair[0];
            assert!(waited >= 900, "{vendor} was asked again after {waited} ms of the second it wanted");
        }
    }
}

/// Wrong credentials pause a destination; it is asked again without records, and resumes by itself.
async fn pauses_and_resumes(vendor: &str, status: u16) {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    burst(&relay, 1, 3, "before").await;
    relay.drained(vendor).await;
    sandbox.faults(Sandbox::fault(vendor, "", json!({ "kind": "status", "status": status }))).await;
    burst(&relay, 2, 40, "during").await;
    let paused =
        async |relay: &Relay| relay.metrics().await.sum("mixrelay_destination_paused", &[("destination", vendor)]);
    eventually(PATIENCE, async || same("paused", paused(&relay).await, 1.0)).await;
    let balance = relay.balance(vendor).await;
    assert_eq!((balance.backlog, balance.dead_letters), (42, 0), "the backlog waits: {balance:?}");
    let status = relay.admin("GET", "/v1/status").await.ok().json();
    let told = status["destinations"].as_array().unwrap().iter().find(|d| d["destination"] == vendor).unwrap();
    assert!(told["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{told}");
    // A restart does not make it forget, or at worst it finds out again.
    relay.kill().await;
    relay.start_again().await;
    eventually(PATIENCE, async || same("paused", paused(&relay).await, 1.0)).await;

    sandbox.heal().await;
    eventually(Duration::from_secs(90), async || same("paused", paused(&relay).await, 0.0)).await;
    let balance = relay.drained(vendor).await;
    assert_eq!((balance.delivered, balance.dead_letters), (46, 0));
}

#[tokio::test]
async fn a_401_pauses_mixpanel_and_a_probe_resumes_it() {
    pauses_and_resumes("mixpanel", 401).await;
}

#[tokio::test]
async fn a_401_pauses_brevo_and_a_probe_resumes_it() {
    pauses_and_resumes("brevo", 401).await;
}

#[tokio::test]
async fn an_unpaid_account_pauses_brevo_and_a_probe_resumes_it() {
    pauses_and_resumes("brevo", 402).await;
}

/// People can pause and resume by hand; a pause by hand ends only by hand, not by a restart.
#[tokio::test]
async fn a_destination_can_be_paused_by_hand() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    relay.admin("POST", "/v1/destinations/mixpanel/pause").await.ok();
    burst(&relay, 1, 3, "held").await;
    relay.drained("brevo").await;
    relay.kill().await;
    relay.start_again().await;
    let balance = relay.balance("mixpanel").await;
    assert_eq!((balance.backlog, balance.delivered), (4, 0));
    relay.admin("POST", "/v1/destinations/mixpanel/resume").await.ok();
    assert_eq!(relay.drained("mixpanel").await.delivered, 4);
}
