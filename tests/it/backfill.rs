//! What the relay reads at Mixpanel by itself: profiles and events of before, and changed profiles on a schedule. It
//! changes nothing that an app has said, sends nothing twice, and goes on after a `kill -9`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::http::{JSON, gzip};
use crate::harness::records::{event, now_ms, set};
use crate::harness::relay::{ADMIN_TOKEN, SERVICE_ACCOUNT};
use crate::harness::sandbox::TOKEN;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

const DAY: u64 = 86_400;

/// Puts profiles into Mixpanel past the relay, as an app did before there was one.
async fn profiles(sandbox: &Sandbox, relay: &Relay, profiles: &[Value]) {
    let url = format!("http://{}/engage?ip=0", sandbox.mixpanel());
    for batch in profiles.chunks(1_000) {
        relay.http().send("POST", &url, &[JSON], json!(batch).to_string()).await.unwrap().ok();
    }
}

/// The same for events, `age` seconds old.
async fn events(sandbox: &Sandbox, relay: &Relay, events: impl Iterator<Item = (u64, u64)>) {
    let events: Vec<Value> = events
        .map(|(n, age)| {
            let properties = json!({
                "token": TOKEN, "distinct_id": "ada", "$user_id": "ada", "$insert_id": format!("old-{n}"),
                "time": now_ms() - age * 1000, "n": n,
            });
            json!({ "event": if n % 10 == 9 { "Unmapped" } else { "Purchase" }, "properties": properties })
        })
        .collect();
    let url = format!("http://{}/import?strict=1&project_id=12345", sandbox.mixpanel());
    let headers = [SERVICE_ACCOUNT, JSON, ("content-encoding", "gzip")];
    relay.http().send("POST", &url, &headers, gzip(json!(events).to_string().as_bytes())).await.unwrap().ok();
}

fn day(ago: u64) -> String {
    let at = jiff::Timestamp::from_millisecond((now_ms() - ago * DAY * 1000).try_into().unwrap()).unwrap();
    jiff::tz::Offset::UTC.to_datetime(at).date().to_string()
}

async fn ask(relay: &Relay, question: &Value) -> (u16, Value) {
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let answer = relay.post("/v1/backfills", &[("authorization", &bearer), JSON], question.to_string()).await;
    (answer.status, answer.json())
}

async fn begun(relay: &Relay, question: &Value) -> String {
    let (status, run) = ask(relay, question).await;
    assert_eq!(status, 202, "{run}");
    let audit = relay.admin("GET", "/v1/audit").await.ok().json();
    let note = &audit["items"][0];
    assert_eq!((&note["action"], &note["detail"]["begun"]), (&json!("backfill"), &run["id"]), "{audit}");
    run["id"].as_str().unwrap().to_owned()
}

async fn show(relay: &Relay, id: &str) -> Value {
    relay.admin("GET", &format!("/v1/backfills/{id}")).await.ok().json()
}

async fn ended(relay: &Relay, id: &str) -> Value {
    let run = eventually(2 * PATIENCE, async || {
        let run = show(relay, id).await;
        if run["state"] == "running" { Err(run.to_string()) } else { Ok(run) }
    })
    .await;
    assert_eq!(run["state"], "done", "{run}");
    run
}

/// How often Brevo applied the event with each `n`.
async fn at_brevo(sandbox: &Sandbox) -> BTreeMap<u64, usize> {
    let mut times = BTreeMap::new();
    for applied in sandbox.brevo_events().await {
        let n = applied["event"]["event_properties"]["n"].as_u64().unwrap_or(u64::MAX);
        *times.entry(n).or_default() += 1;
    }
    times
}

#[tokio::test]
async fn profiles_of_before_become_contacts_over_a_kill_and_what_an_app_said_stays() {
    let sandbox = Sandbox::start().await;
    // Sessions are forgotten after a page, so that a run has to open them anew.
    sandbox.switch(json!({ "mixpanel": { "session_pages": 1 } })).await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    let count = 2_300;
    let before: Vec<Value> = (0..count)
        .map(|n| set(&format!("p{n}"), json!({ "$email": format!("p{n}@example.com"), "plan": "before" })))
        .collect();
    profiles(&sandbox, &relay, &before).await;
    profiles(&sandbox, &relay, &[set("visitor", json!({ "plan": "before" }))]).await;
    relay.take("/engage", &json!([set("p0", json!({ "$email": "p0@example.com", "plan": "now" }))])).await;
    relay.drained("brevo").await;
    // With the next checkpoint.
    eventually(PATIENCE, async || {
        let held = relay.admin("GET", "/v1/people/p0").await.ok().json()["held"].clone();
        same("written down", held.as_array().is_some_and(|held| !held.is_empty()), true)
    })
    .await;

    let (_, dry) = ask(&relay, &json!({ "what": "profiles", "dry_run": true })).await;
    let dry = ended(&relay, dry["id"].as_str().unwrap()).await;
    assert_eq!((&dry["progress"]["total"], &dry["new_people"]), (&json!(count), &json!(999)), "{dry}");
    assert_eq!(relay.balance("brevo").await.accepted, 1);

    let id = begun(&relay, &json!({ "what": "profiles" })).await;
    assert_eq!(ask(&relay, &json!({ "what": "profiles" })).await.0, 409);
    eventually(PATIENCE, async || {
        let run = show(&relay, &id).await;
        if run["read"].as_u64() >= Some(1_000) { Ok(()) } else { Err(run.to_string()) }
    })
    .await;
    relay.kill().await;
    relay.start_again().await;
    // Said while the backfill goes on.
    relay.take("/engage", &json!([set("p2299", json!({ "plan": "now" }))])).await;
    let run = ended(&relay, &id).await;
    assert_eq!((&run["progress"]["total"], &run["may_have_passed_over"]), (&json!(count), &json!(false)), "{run}");
    relay.drained("brevo").await;
    assert_eq!(sandbox.brevo_counts().await["contacts"], count);
    for (n, plan) in [(0, "now"), (7, "before"), (1_500, "before"), (2_299, "now")] {
        let contact = sandbox.brevo_contact(&format!("p{n}@example.com")).await.unwrap();
        assert_eq!(contact["attributes"]["PLAN_TYPE"], plan, "{contact}");
        assert_eq!(contact["listIds"], json!([15]));
    }

    // Once more costs Brevo nothing.
    let contacts = async || {
        let shown = sandbox.get("/brevo/requests?limit=100000&path=/v3/contacts").await;
        let requests = shown["requests"].as_array().unwrap().iter();
        requests.filter(|request| request["method"] != "GET").count()
    };
    let writes = contacts().await;
    let id = begun(&relay, &json!({ "what": "profiles" })).await;
    ended(&relay, &id).await;
    relay.drained("brevo").await;
    assert_eq!(contacts().await, writes);
}

#[tokio::test]
async fn events_of_before_come_once_and_old_ones_only_when_asked() {
    let sandbox = Sandbox::start().await;
    // Every first export of a day breaks off in its middle.
    sandbox.switch(json!({ "mixpanel": { "export_breaks_after": 4, "export_breaks_times": 2 } })).await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    // Recent ones first: of the last hours, so that they are of today or yesterday.
    events(&sandbox, &relay, (0..20).map(|n| (n, 3_600 + n * 60))).await;
    events(&sandbox, &relay, (100..150).map(|n| (n, 4 * DAY + n))).await;
    relay.take("/engage", &json!([set("ada", json!({ "$email": "ada@example.com" }))])).await;
    // The first is older than its acceptance, with which this relay's delivery begins (even a machine that stores it in the
    // same millisecond sees that); the second is not.
    for (n, age_ms) in [(1_000, 1_000), (1_001, 0)] {
        let mut live = event("Purchase", "ada", &format!("live-{n}"));
        live["properties"]["n"] = json!(n);
        live["properties"]["time"] = json!(now_ms() - age_ms);
        relay.take("/track", &json!([live])).await;
        relay.drained("brevo").await;
        eventually(PATIENCE, async || {
            let since = relay.admin("GET", "/v1/status").await.ok().json()["brevo_delivers_since"].clone();
            same("written down", since.is_string(), true)
        })
        .await;
    }
    relay.drained("mixpanel").await;

    let question = json!({ "what": "events", "from": day(5), "to": day(0) });
    let with = |more: Value| {
        let mut question = question.clone();
        question.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        question
    };
    let dry = begun(&relay, &with(json!({ "dry_run": true }))).await;
    let dry = ended(&relay, &dry).await;
    let purchases = &dry["by_event"]["Purchase"];
    let counted = json!({ "sent": 19, "stale": 45, "own_delivery": 1, "not_mapped": 0 });
    assert_eq!(*purchases, counted, "{dry}");
    assert_eq!(at_brevo(&sandbox).await, BTreeMap::from([(1_000, 1), (1_001, 1)]));

    let id = begun(&relay, &question).await;
    relay.kill().await;
    relay.start_again().await;
    ended(&relay, &id).await;
    relay.drained("brevo").await;
    let recent: BTreeMap<u64, usize> = (0..20).filter(|n| n % 10 != 9).chain([1_000, 1_001]).map(|n| (n, 1)).collect();
    assert_eq!(at_brevo(&sandbox).await, recent);

    // Automations only after the counts.
    let trigger = with(json!({ "trigger_automations": true }));
    let (status, refused) = ask(&relay, &trigger).await;
    assert_eq!(status, 400, "{refused}");
    let dry = begun(&relay, &with(json!({ "trigger_automations": true, "dry_run": true }))).await;
    assert_eq!(ended(&relay, &dry).await["by_event"]["Purchase"]["stale"], 0);
    let id = begun(&relay, &with(json!({ "trigger_automations": true, "after": dry }))).await;
    ended(&relay, &id).await;
    relay.drained("brevo").await;
    let all: BTreeMap<u64, usize> =
        (0..20).chain(100..150).filter(|n| n % 10 != 9).chain([1_000, 1_001]).map(|n| (n, 1)).collect();
    assert_eq!(at_brevo(&sandbox).await, all);
}

#[tokio::test]
async fn changed_profiles_are_pulled_on_a_schedule_however_mixpanel_compares_times() {
    for last_seen_is in ["time", "text"] {
        let sandbox = Sandbox::start().await;
        sandbox.switch(json!({ "mixpanel": { "last_seen_is": last_seen_is } })).await;
        let mut relay = Relay::start(&sandbox, json!({})).await;
        let computed = json!({ "$email": "ada@example.com", "plan": "pro" });
        let long_ago = json!({
            "$token": TOKEN, "$distinct_id": "bob", "$time": now_ms() / 1000 - 9 * DAY,
            "$set": { "$email": "bob@example.com" },
        });
        profiles(&sandbox, &relay, &[set("ada", computed), long_ago]).await;
        relay.terminate().await;
        relay.configure(json!({ "sync_profiles_every": "1h" }));
        relay.start_again().await;
        let status = eventually(PATIENCE, async || {
            let status = relay.admin("GET", "/v1/status").await.ok().json()["sync_profiles"].clone();
            if status["last"].is_null() { Err(status.to_string()) } else { Ok(status) }
        })
        .await;
        assert_eq!((&status["last"]["profiles"], &status["last"]["failure"]), (&json!(1), &Value::Null), "{status}");
        relay.drained("brevo").await;
        let contact = sandbox.brevo_contact("ada@example.com").await.unwrap();
        assert_eq!(contact["attributes"]["PLAN_TYPE"], "pro");
        assert_eq!(sandbox.brevo_contact("bob@example.com").await, None);
    }
}

#[tokio::test]
async fn the_command_line_shows_what_a_backfill_would_bring() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    profiles(&sandbox, &relay, &[set("ada", json!({ "$email": "ada@example.com" }))]).await;
    let mixrelay = async |arguments: &[&str]| relay.command(&[&["backfill"], arguments].concat()).await;
    let (code, said, _) = mixrelay(&["profiles", "--dry-run"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("1 of 1 profiles, 1 fed, done (dry run)"), "{said}");
    assert!(said.contains("of 1 profiles read, 1 are of people whom the relay does not know yet"), "{said}");
    let (code, said, _) = mixrelay(&["profiles"]).await;
    assert_eq!(code, Some(0), "{said}");
    eventually(PATIENCE, async || same("contact", sandbox.brevo_contact("ada@example.com").await.is_some(), true))
        .await;
    let (code, said, _) = mixrelay(&["show"]).await;
    assert_eq!((code, said.lines().count()), (Some(0), 2), "{said}");
    let (code, _, complaint) = mixrelay(&["events"]).await;
    assert_eq!(code, Some(1));
    assert!(complaint.contains("`from` says on which day events begin"), "{complaint}");
}

/// How often a fault has struck.
async fn struck(sandbox: &Sandbox) -> u64 {
    sandbox.get("/faults").await["faults"][0]["hits"].as_u64().unwrap()
}

/// Two people, of whom one is known already.
async fn live_events(relay: &Relay, n: u64) {
    relay.take("/engage", &json!([set("carol", json!({ "$email": "carol@example.com" }))])).await;
    let purchases = [("bob", n), ("carol", n + 1)].map(|(who, n)| {
        let mut live = event("Purchase", who, &format!("live-{n}"));
        live["properties"]["n"] = json!(n);
        live
    });
    relay.take("/track", &json!(purchases)).await;
}

/// The import in which profiles of before travel never ends: what apps send goes past it, and past all who wait behind it.
#[tokio::test]
async fn what_apps_send_goes_past_a_backfill_of_profiles() {
    let sandbox = Sandbox::start().await;
    sandbox.switch(json!({ "brevo": { "import_processing_ms": 3_600_000 } })).await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let before: Vec<Value> =
        (0..3_000).map(|n| set(&format!("p{n}"), json!({ "$email": format!("p{n}@example.com") }))).collect();
    profiles(&sandbox, &relay, &before).await;
    relay.take("/engage", &json!([set("bob", json!({ "$email": "bob@example.com" }))])).await;
    relay.drained("brevo").await;
    begun(&relay, &json!({ "what": "profiles" })).await;
    eventually(PATIENCE, async || {
        let imports = sandbox.get("/brevo/requests?limit=10&path=/v3/contacts/import").await;
        same("an import has begun", imports["requests"].as_array().is_some_and(|all| !all.is_empty()), true)
    })
    .await;
    live_events(&relay, 1).await;
    eventually(PATIENCE, async || same("at Brevo", at_brevo(&sandbox).await, BTreeMap::from([(1, 1), (2, 1)]))).await;
    assert!(relay.balance("brevo").await.backlog > 0, "the profiles are still under way");
}

/// Brevo never answers the first call with events of before: what apps send goes past it, and past all that are behind it.
#[tokio::test]
async fn what_apps_send_goes_past_a_backfill_of_events() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    for from in [0, 1_500] {
        events(&sandbox, &relay, (from..from + 1_500).map(|n| (100 + n, 3_600 + n))).await;
    }
    let known = ["ada", "bob"].map(|who| set(who, json!({ "$email": format!("{who}@example.com") })));
    relay.take("/engage", &json!(known)).await;
    relay.drained("brevo").await;
    sandbox.faults(Sandbox::fault("brevo", "/v3/events", json!({ "kind": "black_hole", "times": 1 }))).await;
    let id = begun(&relay, &json!({ "what": "events", "from": day(1) })).await;
    eventually(PATIENCE, async || same("calls without an answer", struck(&sandbox).await, 1)).await;
    live_events(&relay, 1).await;
    eventually(PATIENCE, async || same("at Brevo", at_brevo(&sandbox).await, BTreeMap::from([(1, 1), (2, 1)]))).await;
    // There is no room for more of them.
    assert_eq!(show(&relay, &id).await["state"], "running");
}

/// Without a name to ask for, Mixpanel would export everything for nothing.
#[tokio::test]
async fn a_backfill_of_events_that_nothing_maps_is_refused() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "event_mapping": null })).await;
    let (status, told) = ask(&relay, &json!({ "what": "events", "from": day(1) })).await;
    assert_eq!((status, &told["error"]["code"]), (400, &json!("invalid")), "{told}");
    assert!(
        told["error"]["message"].as_str().is_some_and(|message| message.contains("event_mapping is empty")),
        "{told}"
    );
}
