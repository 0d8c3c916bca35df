//! P1: a success answer means stored. SIGKILL at any moment loses nothing that was acknowledged.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::http::{Client, GZIP, JSON, gzip};
use crate::harness::records::{event, set};
use crate::harness::relay::SERVICE_ACCOUNT;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, tunable};

/// What the writers share: where to write, when to stop, and what was acknowledged.
struct Writers {
    http: Client,
    base: String,
    stop: AtomicBool,
    acknowledged: AtomicUsize,
    events: Mutex<BTreeSet<String>>,
    profiles: Mutex<BTreeSet<String>>,
}

impl Writers {
    /// Sends one request until it is acknowledged, as an SDK with a queue does. False when it was told to stop before.
    async fn push(&self, path: &str, headers: &[(&str, &str)], body: &[u8], success: &str) -> bool {
        loop {
            let answer = self.http.send("POST", &format!("{}{path}", self.base), headers, body.to_vec()).await;
            match answer {
                Ok(answer) if answer.status == 200 => {
                    assert!(answer.body.contains(success), "{path}: {answer:?}");
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                Ok(answer) => assert_eq!(answer.status, 503, "{path}: {answer:?}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            if self.stop.load(Ordering::Relaxed) {
                return false;
            }
        }
    }

    /// One event or a few at a time, over `/track`.
    async fn track(self: Arc<Self>, writer: usize) {
        for n in 0.. {
            let ids: Vec<String> = (0..1 + n % 7).map(|k| format!("track-{writer}-{n}-{k}")).collect();
            let events: Vec<Value> = ids.iter().map(|id| event("Tracked", &format!("person-{writer}"), id)).collect();
            if !self.push("/track?ip=0", &[JSON], &serde_json::to_vec(&events).unwrap(), "1").await {
                return;
            }
            self.events.lock().unwrap().extend(ids);
        }
    }

    /// Compressed batches of two hundred, over `/import`.
    async fn import(self: Arc<Self>) {
        for n in 0.. {
            let ids: Vec<String> = (0..200).map(|k| format!("import-{n}-{k}")).collect();
            let events: Vec<Value> = ids.iter().map(|id| event("Imported", "importer", id)).collect();
            let body = gzip(&serde_json::to_vec(&events).unwrap());
            let headers = [JSON, GZIP, SERVICE_ACCOUNT];
            if !self.push("/import?strict=1&project_id=12345", &headers, &body, "\"num_records_imported\":200").await {
                return;
            }
            self.events.lock().unwrap().extend(ids);
        }
    }

    /// A profile at a time, over `/engage`.
    async fn engage(self: Arc<Self>) {
        for n in 0.. {
            let id = format!("profile-{n}");
            let body = json!([set(&id, json!({ "visits": n, "$email": format!("{id}@example.com") }))]);
            if !self.push("/engage?ip=0", &[JSON], body.to_string().as_bytes(), "1").await {
                return;
            }
            self.profiles.lock().unwrap().insert(id);
        }
    }
}

#[tokio::test]
async fn kill_9_while_writing_loses_nothing_acknowledged() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({ "connectors": { "brevo": null } })).await;
    let writers = Arc::new(Writers {
        http: Client::new(),
        base: relay.url(""),
        stop: AtomicBool::default(),
        acknowledged: AtomicUsize::default(),
        events: Mutex::default(),
        profiles: Mutex::default(),
    });
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..3 {
        tasks.spawn(writers.clone().track(writer));
    }
    tasks.spawn(writers.clone().import());
    tasks.spawn(writers.clone().engage());

    for round in 0..tunable("MIXRELAY_TEST_KILLS", 8) {
        // Each life is of another length, so that the kills fall into different work.
        let target = writers.acknowledged.load(Ordering::Relaxed) + 20 + 37 * (round % 4);
        eventually(PATIENCE, async || {
            let acknowledged = writers.acknowledged.load(Ordering::Relaxed);
            if acknowledged >= target { Ok(()) } else { Err(format!("{acknowledged} acknowledged of {target}")) }
        })
        .await;
        relay.kill().await;
        relay.start_again().await;
    }
    writers.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }

    relay.drained("mixpanel").await;
    let arrived = sandbox.mixpanel_insert_ids().await;
    let acknowledged = writers.events.lock().unwrap().clone();
    let lost: Vec<&String> = acknowledged.iter().filter(|id| !arrived.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged events are lost: {lost:?}", lost.len(), acknowledged.len());
    let profiles = writers.profiles.lock().unwrap().clone();
    for id in &profiles {
        assert!(sandbox.mixpanel_profile(id).await.is_some(), "the acknowledged profile {id} is lost");
    }
    println!("{} events and {} profiles acknowledged, all arrived", acknowledged.len(), profiles.len());
}

/// CORE 1: positions come from a stored counter. With row ids, a store that was emptied and opened again would begin
/// at 1, below the legs' checkpoints, and everything written then would be passed over.
#[tokio::test]
async fn drained_restarted_and_written_again_nothing_is_skipped() {
    let sandbox = Sandbox::start().await;
    let tweaks = json!({ "connectors": { "brevo": null }, "retention": { "history": "1s", "history_bytes": 1 } });
    let mut relay = Relay::start(&sandbox, tweaks).await;
    let mut sent = 0;
    for life in 0..3 {
        for n in 0..5 {
            relay.take("/track", &json!([event("Lived", "phoenix", &format!("life-{life}-{n}"))])).await;
            sent += 1;
        }
        sandbox.mixpanel_has_events(sent, PATIENCE).await;
        relay.drained("mixpanel").await;
        eventually(PATIENCE, async || {
            let store = relay.admin("GET", "/v1/status").await.ok().json()["store"].clone();
            // The entry that a leg's cursor stands in may stay.
            let trimmed = store["entries"].as_u64().unwrap() <= 1;
            if trimmed { Ok(()) } else { Err(format!("the journal is not trimmed yet: {store}")) }
        })
        .await;
        if life % 2 == 0 {
            assert!(relay.terminate().await.success());
        } else {
            relay.kill().await;
        }
        relay.start_again().await;
    }
    relay.take("/track", &json!([event("Lived", "phoenix", "life-3-0")])).await;
    sandbox.mixpanel_has_events(sent + 1, PATIENCE).await;
    assert!(relay.drained("mixpanel").await.adds_up());
}

#[tokio::test]
async fn sigterm_drains_and_exits_0() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({ "connectors": { "brevo": null } })).await;
    let black_hole = Sandbox::fault("mixpanel", "/import", json!({ "kind": "black_hole" }));
    sandbox.faults(black_hole).await;
    for n in 0..50 {
        relay.take("/track", &json!([event("Drained", "someone", &format!("drain-{n}"))])).await;
    }
    sandbox.heal().await;
    let status = relay.terminate().await;
    assert!(status.success(), "{status}");
    relay.start_again().await;
    sandbox.mixpanel_has_events(50, PATIENCE).await;
}

/// CORE 4: a profile update that is folded is not yet sent. Killed in between, the debt is still paid.
#[tokio::test]
async fn killed_between_fold_and_send_the_send_still_happens() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    sandbox.faults(Sandbox::fault("brevo", "/v3/contacts", json!({ "kind": "status", "status": 503 }))).await;
    let updates: Vec<Value> = (0..20)
        .map(|n| set(&format!("owed-{n}"), json!({ "$email": format!("o{n}@example.com"), "plan": "pro" })))
        .collect();
    relay.take("/engage", &updates.into()).await;
    // Folded and tried: what the vendor refused stays owed.
    eventually(PATIENCE, async || {
        let tried = sandbox.brevo_counts().await["requests"]["faulted"].as_u64().unwrap_or(0);
        if tried > 0 { Ok(()) } else { Err("nothing has been tried yet".to_owned()) }
    })
    .await;
    for _ in 0..3 {
        relay.kill().await;
        relay.start_again().await;
        let balance = relay.balance("brevo").await;
        assert_eq!((balance.backlog, balance.delivered), (20, 0), "{balance:?}");
    }
    sandbox.heal().await;
    assert_eq!(relay.drained("brevo").await.delivered, 20);
    for n in 0..20 {
        let contact = sandbox.brevo_contact(&format!("o{n}@example.com")).await;
        assert_eq!(contact.unwrap()["attributes"]["PLAN_TYPE"], "pro", "owed-{n}");
    }
}

/// The same kill loop with both destinations: everything mapped reaches Brevo too, and the counts still add up.
#[tokio::test]
async fn kill_9_while_both_legs_work_loses_nothing_at_either() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    let mut people = 0_usize;
    // More than ten: each kill costs an unfinished slice of the hourly budgets, and those must not run dry by it.
    for round in 0..tunable("MIXRELAY_TEST_KILLS", 12) {
        for _ in 0..10 {
            let id = format!("buyer-{people}");
            relay.take("/engage", &json!([set(&id, json!({ "$email": format!("{id}@example.com") }))])).await;
            relay.take("/track", &json!([event("Purchase", &id, &format!("bought-{people}"))])).await;
            people += 1;
        }
        // Sometimes at once, sometimes when part of the round has got through.
        let target = people - 10 + 3 * (round % 3);
        eventually(PATIENCE, async || {
            let there = sandbox.brevo_events().await.len();
            if there >= target { Ok(()) } else { Err(format!("{there} at Brevo of {people}")) }
        })
        .await;
        relay.kill().await;
        relay.start_again().await;
    }
    let mixpanel = relay.drained("mixpanel").await;
    let brevo = relay.drained("brevo").await;
    let all = 2 * people as u64;
    assert_eq!((mixpanel.accepted, mixpanel.delivered), (all, all));
    assert_eq!((brevo.delivered, brevo.skipped, brevo.dead_letters), (all, 0, 0));
    let ids = sandbox.mixpanel_insert_ids().await;
    let events = sandbox.brevo_events().await;
    for n in 0..people {
        assert!(ids.contains_key(&format!("bought-{n}")), "bought-{n} is not at Mixpanel");
        let contact = sandbox.brevo_contact(&format!("buyer-{n}")).await.unwrap();
        assert!(events.iter().any(|event| event["contact_id"] == contact["id"]), "bought-{n} is not at Brevo");
    }
}
