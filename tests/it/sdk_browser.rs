//! `mixpanel-browser` in headless Chromium, on a page of another origin: through a restart, a full disk and the end of
//! the page, everything that it was told to send arrives.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::sdk::{Browser, holds, updates_by_id};
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

/// Between two flushes of the SDK. A restart fits in, and a test need not wait long.
const FLUSH_MS: u64 = 3_000;

fn init(host: &str) -> String {
    let config = json!({
        "api_host": host, "persistence": "localStorage", "batch_flush_interval_ms": FLUSH_MS,
        "track_pageview": false, "autocapture": false, "ip": true,
    });
    format!("mixpanel.init('sandbox-token', {config});")
}

/// The SDK adds its own, all but a few with its prefixes.
fn of_the_sdk(name: &str) -> bool {
    let plain = ["token", "time", "distinct_id", "ip", "mixrelay_insert_id"];
    name.starts_with('$') || name.starts_with("mp_") || plain.contains(&name)
}

/// Waits for `expected` different events, and returns the properties of each by its `n`.
async fn by_n(sandbox: &Sandbox, expected: usize) -> BTreeMap<u64, Value> {
    sandbox.mixpanel_has_events(expected, PATIENCE).await;
    let events = sandbox.get("/mixpanel/events?limit=100000").await;
    let events = events["events"].as_array().unwrap();
    let found: BTreeMap<u64, Value> = events
        .iter()
        .filter_map(|event| event["properties"]["n"].as_u64().map(|n| (n, event["properties"].clone())))
        .collect();
    assert_eq!(found.len(), expected, "each once, by its own $insert_id");
    found
}

fn track(name: &str, range: std::ops::Range<u64>) -> String {
    let (from, to) = (range.start, range.end);
    format!("for (let n = {from}; n < {to}; n++) mixpanel.track({name:?}, {{ n, price: 9.5 }});")
}

/// Tracking returns before the SDK has queued the event, and only what is queued goes into the beacon.
const QUEUED: &str = "
    const queued = () => JSON.parse(localStorage.getItem('__mpq_sandbox-token_ev') ?? '[]').length;
    for (let tries = 0; queued() < 10 && tries < 100; tries++) await new Promise((resolve) => setTimeout(resolve, 10));
    return queued();
";

#[tokio::test]
async fn mixpanel_browser_loses_nothing() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({ "connectors": { "brevo": null } })).await;
    let mut browser = Browser::open().await;
    browser.run(&init(&relay.url(""))).await;

    // Events, an identity, a profile and a group, in batches.
    browser.run("mixpanel.identify('u-1'); mixpanel.people.set({ plan: 'pro', $email: 'u1@example.com' });").await;
    browser.run("mixpanel.people.increment('visits', 3); mixpanel.people.union('tags', ['a', 'b']);").await;
    browser.run("mixpanel.set_group('company', 'acme');").await;
    browser.run("mixpanel.get_group('company', 'acme').set({ industry: 'anvils' });").await;
    browser.run(&track("Viewed", 0..120)).await;
    // Identity events are for projects of the original mode; they carry no `n`.
    let identity = browser.run("return mixpanel.get_distinct_id();").await;
    assert_eq!(identity, "u-1");
    let events = by_n(&sandbox, 120).await;
    for (n, properties) in &events {
        holds(properties, &json!({ "n": n, "price": 9.5, "distinct_id": "u-1", "company": ["acme"] }), of_the_sdk);
        assert!(properties["$insert_id"].as_str().is_some_and(|id| !id.is_empty()), "{properties}");
    }
    eventually(PATIENCE, async || {
        let updates = updates_by_id(&sandbox).await;
        // A profile's updates are folded by the SDK in an order of its own; the outcome counts.
        let profile = sandbox.mixpanel_profile("u-1").await.unwrap_or(Value::Null);
        let found = json!([profile["plan"], profile["$email"], profile["visits"], profile["tags"]]);
        same("profile", found, json!(["pro", "u1@example.com", 3, ["a", "b"]]))?;
        let group = updates.get("company:acme").cloned().unwrap_or_default();
        same("group", group, vec![json!(["$set", { "industry": "anvils" }])])
    })
    .await;

    // A restart between two flushes: what is tracked while nobody listens waits in the page.
    assert!(relay.terminate().await.success());
    browser.run(&track("During a restart", 200..230)).await;
    relay.start_again().await;
    by_n(&sandbox, 150).await;

    // A full disk: the answer says "later", the browser may read it, and the batch is kept.
    assert!(relay.terminate().await.success());
    relay.configure(json!({ "store_min_free": "1000000GiB" }));
    relay.start_again().await;
    browser.run(&track("On a full disk", 300..330)).await;
    eventually(PATIENCE, async || {
        let refused = relay.metrics().await.sum("mixrelay_http_requests_total", &[("status", "503")]);
        if refused >= 1.0 { Ok(()) } else { Err("the browser has not been refused yet".to_owned()) }
    })
    .await;
    assert!(relay.terminate().await.success());
    relay.configure(json!({ "store_min_free": "16MiB" }));
    relay.start_again().await;
    by_n(&sandbox, 180).await;

    // The end of the page: a beacon, and what the next page finds in storage is the same again, under the same ids.
    browser.run(&track("Last words", 400..410)).await;
    assert_eq!(browser.run(QUEUED).await, 10);
    browser.go_away().await;
    by_n(&sandbox, 190).await;
    browser.go_to_page().await;
    browser.run(&init(&relay.url(""))).await;
    browser.run(&track("Back", 500..501)).await;
    let events = by_n(&sandbox, 191).await;
    assert_eq!(events.keys().filter(|&&n| n >= 400).count(), 11);
    assert!(relay.drained("mixpanel").await.adds_up());
}

/// Behind the shipped nginx configuration, which answers for the relay while it is away: what is tracked before, during and
/// after each restart arrives once.
#[tokio::test]
async fn mixpanel_browser_keeps_every_event_through_restarts_behind_nginx() {
    let sandbox = Sandbox::start().await;
    let trusted = json!({ "server": { "trusted_proxies": ["127.0.0.1"] }, "connectors": { "brevo": null } });
    let mut relay = Relay::start(&sandbox, trusted).await;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (_nginx, address) = crate::deploy::nginx(dir.path(), relay.address()).await;
    let refusals = || {
        let log = std::fs::read_to_string(dir.path().join("error.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains("refused") && line.contains("/track")).count()
    };
    let mut browser = Browser::open().await;
    browser.run(&init(&format!("http://{address}"))).await;
    browser.run(&track("Viewed", 0..20)).await;
    by_n(&sandbox, 20).await;
    for restart in 1..=2 {
        assert!(relay.terminate().await.success());
        let before = refusals();
        browser.run(&track("Viewed", restart * 20..restart * 20 + 20)).await;
        // The SDK has been told to come back, by nginx and in a form that it can read.
        eventually(PATIENCE, async || if refusals() > before { Ok(()) } else { Err("nothing was sent".to_owned()) })
            .await;
        relay.start_again().await;
        by_n(&sandbox, 20 + 20 * restart as usize).await;
    }
}
