//! Cohorts into Brevo lists, through whole processes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::http::JSON;
use crate::harness::relay::ADMIN_TOKEN;
use crate::harness::relay::SERVICE_ACCOUNT;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, tunable};

const LIST: i64 = 16;

/// `POST /cohorts/sync`, once it has ended.
async fn sync(relay: &Relay, order: Value) -> (u16, Value) {
    let answer = relay.post("/cohorts/sync", &[SERVICE_ACCOUNT, JSON], order.to_string()).await;
    (answer.status, answer.json())
}

fn order(mode: &str) -> Value {
    json!({ "cohortId": 7, "targetList": LIST, "syncMode": mode })
}

async fn run(relay: &Relay, id: &str) -> Value {
    relay.admin("GET", &format!("/v1/cohorts/runs/{id}")).await.ok().json()
}

/// Addresses of everyone in the list.
async fn list(sandbox: &Sandbox) -> BTreeSet<String> {
    let shown = sandbox.get("/brevo/contacts?limit=1000000").await;
    let contacts = shown["contacts"].as_array().unwrap().iter();
    let inside = contacts.filter(|contact| contact["listIds"].as_array().unwrap().contains(&json!(LIST)));
    inside.map(|contact| contact["email"].as_str().unwrap().to_owned()).collect()
}

/// How often Brevo has changed anything. Whoever it does not know is asked for again: a refusal changes nothing.
async fn writes(sandbox: &Sandbox) -> usize {
    let shown = sandbox.get("/brevo/requests?limit=1000000").await;
    shown["requests"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|request| request["method"] != "GET" && request["status"].as_u64().unwrap() < 300)
        .count()
}

fn address(n: usize) -> String {
    format!("p{n}@example.com")
}

fn addresses(people: impl Iterator<Item = usize>) -> BTreeSet<String> {
    people.map(address).collect()
}

/// Contacts `p{n}` of Brevo's.
fn contacts(people: impl Iterator<Item = usize>, lists: &[i64]) -> Value {
    people.map(|n| json!({ "email": address(n), "ext_id": format!("p{n}"), "list_ids": lists })).collect()
}

/// Profiles `p{n}` of Mixpanel's.
fn profiles(people: impl Iterator<Item = usize>) -> Value {
    let profile = |n| json!({ "distinct_id": format!("p{n}"), "properties": { "$email": address(n), "plan": "pro" } });
    people.map(profile).collect()
}

async fn seed(sandbox: &Sandbox, profiles: Value, members: &[String], contacts: Value) {
    sandbox.control("POST", "/brevo/seed", json!({ "lists": [{ "id": LIST, "name": "Engaged" }] })).await;
    let cohort = json!({ "id": 7, "name": "Engaged users", "members": members });
    sandbox.control("POST", "/mixpanel/seed", json!({ "profiles": profiles, "cohorts": [cohort] })).await;
    sandbox.control("POST", "/brevo/seed", json!({ "contacts": contacts })).await;
}

fn ids(people: impl Iterator<Item = usize>) -> Vec<String> {
    people.map(|n| format!("p{n}")).collect()
}

/// p0..p6 are in the list, p4..p9 in the cohort: p9 is no contact, and nobody knows an address of p10.
#[tokio::test]
async fn a_list_becomes_the_cohort_and_a_second_run_writes_nothing() {
    let sandbox = Sandbox::start().await;
    let mut known = contacts(0..7, &[LIST]);
    known.as_array_mut().unwrap().extend(contacts(7..9, &[]).as_array().unwrap().clone());
    seed(&sandbox, profiles(0..10), &ids(4..11), known).await;
    let relay = Relay::start(&sandbox, json!({ "max_removal_share": 0.6 })).await;

    let (status, told) = sync(&relay, order("mirror")).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(told["cohortName"], "Engaged users");
    assert_eq!((&told["membersCount"], &told["syncedToBrevo"], &told["listId"]), (&json!(7), &json!(6), &json!(LIST)));
    assert_eq!((&told["removed"], &told["added"], &told["created"]), (&json!(4), &json!(3), &json!(1)), "{told}");
    assert_eq!(list(&sandbox).await, addresses(4..10));
    let made = sandbox.brevo_contact("p9@example.com").await.unwrap();
    assert_eq!(made["attributes"]["EXT_ID"], "p9", "{made}");
    let unmatched = run(&relay, told["runId"].as_str().unwrap()).await;
    assert_eq!(unmatched["people"], json!([{ "distinct_id": "p10", "why": "no_address" }]), "{unmatched}");

    let before = writes(&sandbox).await;
    let (status, again) = sync(&relay, order("mirror")).await;
    assert_eq!((status, &again["alreadyInList"], &again["added"]), (200, &json!(6), &json!(0)), "{again}");
    assert_ne!(again["runId"], told["runId"]);
    assert_eq!(writes(&sandbox).await, before);
    let runs = relay.admin("GET", "/v1/cohorts/runs").await.ok().json();
    assert_eq!(runs["items"].as_array().unwrap().len(), 2, "{runs}");
}

#[tokio::test]
async fn the_brake_stops_a_mirror_until_it_is_let_go_on() {
    let sandbox = Sandbox::start().await;
    seed(&sandbox, profiles(8..10), &ids(8..10), contacts(0..10, &[LIST])).await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let (status, told) = sync(&relay, order("mirror")).await;
    assert_eq!((status, &told["error"]["code"]), (409, &json!("too_many_removals")), "{told}");
    assert_eq!(list(&sandbox).await.len(), 10);
    let queries = sandbox.mixpanel_counts().await["requests"].clone();

    let mut forced = order("mirror");
    forced["force"] = json!(true);
    let (status, told) = sync(&relay, forced).await;
    assert_eq!((status, &told["removed"]), (200, &json!(8)), "{told}");
    assert_eq!(list(&sandbox).await, addresses(8..10));
    assert_eq!(sandbox.mixpanel_counts().await["requests"], queries, "the members were known already");
}

#[tokio::test]
async fn add_removes_nobody_and_remove_adds_nobody() {
    let sandbox = Sandbox::start().await;
    seed(&sandbox, profiles(0..6), &ids(2..6), contacts(0..4, &[LIST])).await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let (status, told) = sync(&relay, order("add")).await;
    assert_eq!((status, &told["syncedToBrevo"]), (200, &json!(4)), "{told}");
    assert_eq!(list(&sandbox).await, addresses(0..6));
    let (status, told) = sync(&relay, order("remove")).await;
    assert_eq!((status, &told["removed"]), (200, &json!(4)), "{told}");
    assert_eq!(list(&sandbox).await, addresses(0..2));
}

/// One of them is in the pilot, one has not agreed, one has been erased.
#[tokio::test]
async fn whoever_may_not_be_at_brevo_is_not_brought_there() {
    let sandbox = Sandbox::start().await;
    let profiles = json!([
        { "distinct_id": "yes", "properties": { "$email": "yes@pilot.example", "ok": true } },
        { "distinct_id": "other", "properties": { "$email": "other@example.com", "ok": true } },
        { "distinct_id": "no", "properties": { "$email": "no@pilot.example" } },
        { "distinct_id": "gone", "properties": { "$email": "gone@pilot.example", "ok": true } },
    ]);
    let members = ["yes", "other", "no", "gone"].map(str::to_owned);
    seed(&sandbox, profiles, &members, json!([])).await;
    let tweaks = json!({
        "connectors": { "brevo": { "mode": "pilot", "pilot_emails": ["*@pilot.example"] } },
        "privacy": { "consent": { "property": "ok", "value": true } },
    });
    let relay = Relay::start(&sandbox, tweaks).await;
    relay.admin("DELETE", "/v1/people/gone").await;
    let (status, told) = sync(&relay, order("mirror")).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(told["unmatched"], json!({ "not_pilot": 1, "no_consent": 1, "erased": 1 }), "{told}");
    assert_eq!(list(&sandbox).await, BTreeSet::from(["yes@pilot.example".to_owned()]));
}

#[tokio::test]
async fn whoever_has_not_agreed_is_taken_out_all_the_same() {
    let sandbox = Sandbox::start().await;
    seed(&sandbox, profiles(0..2), &ids(0..2), contacts(0..3, &[LIST])).await;
    let relay = Relay::start(&sandbox, json!({ "privacy": { "consent": { "property": "ok", "value": true } } })).await;
    let (status, told) = sync(&relay, order("remove")).await;
    assert_eq!((status, &told["removed"], &told["unmatched"]), (200, &json!(2), &json!({})), "{told}");
    assert_eq!(list(&sandbox).await, addresses(2..3));
}

#[tokio::test]
async fn a_planned_cohort_comes_by_itself_and_observe_changes_nothing() {
    let sandbox = Sandbox::start().await;
    seed(&sandbox, profiles(0..4), &ids(0..4), contacts(0..2, &[LIST])).await;
    let tweaks = json!({
        "connectors": { "brevo": { "mode": "observe" } },
        "cohorts": [{ "id": 7, "list": LIST, "mode": "mirror", "schedule": "1m" }],
    });
    let relay = Relay::start(&sandbox, tweaks).await;
    let ended = eventually(PATIENCE, async || {
        let runs = relay.admin("GET", "/v1/cohorts/runs").await.ok().json();
        match runs["items"].get(0) {
            Some(run) if run["status"] != "running" => Ok(run.clone()),
            _ => Err(runs.to_string()),
        }
    })
    .await;
    assert_eq!(
        (&ended["status"], &ended["alreadyInList"], &ended["trigger"]),
        (&json!("observed"), &json!(2), &json!("schedule")),
        "{ended}"
    );
    assert_eq!(list(&sandbox).await, addresses(0..2));
}

#[tokio::test]
async fn orders_that_cannot_be_are_refused_in_words() {
    let sandbox = Sandbox::start().await;
    seed(&sandbox, json!([]), &[], json!([])).await;
    let relay = Relay::start(&sandbox, json!({})).await;
    for (order, status, code) in [
        (json!({ "cohortId": 7 }), 400, "invalid"),
        (json!({ "cohortId": 7, "targetList": "nobody" }), 400, "invalid"),
        (json!({ "cohortId": 7, "targetList": 16, "syncMode": "replace" }), 400, "invalid"),
        (json!({ "cohortId": 8, "targetList": 16 }), 404, "not_found"),
        (json!({ "cohortId": 7, "targetList": 999 }), 404, "not_found"),
    ] {
        let (got, told) = sync(&relay, order.clone()).await;
        assert_eq!((got, told["error"]["code"].as_str().unwrap()), (status, code), "{order}: {told}");
    }
    let answer = relay.post("/cohorts/sync", &[JSON], order("mirror").to_string()).await;
    assert_eq!(answer.status, 401);
}

/// A cohort of `n` into a list of `n` others, killed three times on the way. `MIXRELAY_COHORT_PEOPLE=100000` is the full size.
#[tokio::test]
async fn a_large_cohort_takes_the_place_of_as_many_others_through_three_kills() {
    let people = tunable("MIXRELAY_COHORT_PEOPLE", 4_000);
    let sandbox = Sandbox::start().await;
    // Slow enough for a kill to strike in the middle.
    let limits = json!({ "per_second": if people > 20_000 { 99 } else { 20 } });
    let quick = json!({ "brevo": limits, "mixpanel": { "queries_per_hour": 6_000 } });
    sandbox.switch(quick).await;
    // One refusal tells the relay what this account may ask.
    let words = "1/5 queries running concurrently and 0/6000 queries running in the last hour";
    let limit = json!({ "kind": "status", "status": 429, "body": { "error": words }, "times": 1 });
    sandbox.faults(json!([Sandbox::fault("mixpanel", "/api/query", limit)])).await;
    let (members, others) = (0..people, people..2 * people);
    seed(&sandbox, json!([]), &[], json!([])).await;
    for part in members.clone().collect::<Vec<_>>().chunks(10_000) {
        let profiles = profiles(part.iter().copied());
        sandbox.control("POST", "/mixpanel/seed", json!({ "profiles": profiles })).await;
        let contacts = contacts(part.iter().copied(), &[]);
        sandbox.control("POST", "/brevo/seed", json!({ "contacts": contacts })).await;
    }
    for part in others.collect::<Vec<_>>().chunks(10_000) {
        let contacts = contacts(part.iter().copied(), &[LIST]);
        sandbox.control("POST", "/brevo/seed", json!({ "contacts": contacts })).await;
    }
    let cohort = json!({ "id": 7, "name": "Many", "members": ids(members.clone()) });
    sandbox.control("POST", "/mixpanel/seed", json!({ "cohorts": [cohort] })).await;

    let mut relay = Relay::start(&sandbox, json!({ "max_removal_share": 1.0 })).await;
    let order = order("mirror").to_string();
    let id = begin(&relay, &order).await;
    assert_eq!(begin(&relay, &order).await, id, "it is under way");
    let whole = u64::try_from(people).unwrap();
    // By what is done, not by time: in the middle of taking out, of bringing in, and near the end.
    let mut kills = vec![whole / 3, whole + whole / 4, whole + whole * 3 / 4];
    kills.reverse();
    let patience = PATIENCE * u32::try_from(people.div_ceil(10_000)).unwrap();
    let ended = loop {
        let done = eventually(patience, async || {
            let run = run(&relay, &id).await;
            let done = run["removed"].as_u64().unwrap() + run["added"].as_u64().unwrap();
            let reached = kills.last().is_some_and(|kill| done >= *kill);
            if reached || run["status"] != "running" { Ok(run) } else { Err(run.to_string()) }
        })
        .await;
        if done["status"] != "running" {
            break done;
        }
        kills.pop();
        relay.kill().await;
        relay.start_again().await;
    };
    assert_eq!((&ended["status"], &ended["unmatched"]), (&json!("done"), &json!({})), "{ended}");
    assert_eq!(list(&sandbox).await, addresses(members));

    let shown = sandbox.get("/brevo/requests?limit=1000000").await;
    let called = |method: &str, path: &str| {
        let is = |request: &&Value| request["method"] == method && request["path"].as_str().unwrap().contains(path);
        shown["requests"].as_array().unwrap().iter().filter(is).count() as u64
    };
    let (pages, changes) = (whole.div_ceil(500), whole.div_ceil(150));
    let (out, brought) = (called("POST", "/contacts/remove"), called("POST", "/contacts/add"));
    let (read, looked_up) = (called("GET", "/lists/16/contacts"), called("GET", "/contacts/p"));
    println!(
        "{people} people in the place of as many others: {read} pages of the list, {out} calls took out, {brought} brought in, \
         {looked_up} people were looked up; at the least {pages}, {changes}, {changes}"
    );
    // Each kill repeats the call that was under way, and has the people of one call looked up.
    assert!(out <= changes + 3 && brought <= changes + 3 && read <= pages + 3, "{read} {out} {brought}");
    assert!(looked_up <= 3 * 150, "{looked_up}");
}

/// A write that waits at the gate knew them before they were erased.
#[tokio::test]
async fn whoever_is_erased_while_their_contact_waits_to_be_written_does_not_become_one() {
    let sandbox = Sandbox::start().await;
    seed(&sandbox, profiles(0..1), &ids(0..1), json!([])).await;
    // Lists answer as ever; no contact is made.
    let as_ever = json!({ "kind": "slow", "chunk": 65536, "every_ms": 0 });
    let down = json!({ "kind": "status", "status": 503, "method": "POST" });
    let (lists, contacts) = ("/v3/contacts/lists", "/v3/contacts");
    sandbox.faults(json!([Sandbox::fault("brevo", lists, as_ever), Sandbox::fault("brevo", contacts, down)])).await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let id = begin(&relay, &order("mirror").to_string()).await;
    let audit = relay.admin("GET", "/v1/audit").await.ok().json();
    let note = &audit["items"][0];
    assert_eq!((&note["action"], &note["detail"]["run"]), (&json!("sync"), &json!(id)), "{audit}");
    eventually(PATIENCE, async || {
        let shown = sandbox.get("/brevo/requests?limit=1000000").await;
        let creates = |request: &Value| request["method"] == "POST" && request["path"] == "/v3/contacts";
        if shown["requests"].as_array().unwrap().iter().any(creates) { Ok(()) } else { Err(shown.to_string()) }
    })
    .await;
    relay.admin("POST", "/v1/destinations/brevo/pause").await.ok();
    relay.admin("DELETE", "/v1/people/p0").await;
    eventually(PATIENCE, async || {
        let erasures = relay.admin("GET", "/v1/erasures").await.ok().json();
        if erasures["items"][0]["finished_at"].is_string() { Ok(()) } else { Err(erasures.to_string()) }
    })
    .await;
    sandbox.heal().await;
    relay.admin("POST", "/v1/destinations/brevo/resume").await.ok();
    let ended = eventually(PATIENCE, async || {
        let run = run(&relay, &id).await;
        if run["status"] == "running" { Err(run.to_string()) } else { Ok(run) }
    })
    .await;
    assert_eq!((&ended["status"], &ended["created"]), (&json!("done"), &json!(0)), "{ended}");
    assert!(sandbox.brevo_contact("p0@example.com").await.is_none());
}

/// Sixty questions an hour are all that Mixpanel takes, and a part of them is set aside.
#[tokio::test]
async fn once_the_hour_is_used_up_the_answer_says_when_to_come_back() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let mut asked = 0;
    let refused = loop {
        let answer = relay.admin("GET", "/v1/cohorts").await;
        if answer.status != 200 {
            break answer;
        }
        asked += 1;
        assert!(asked <= 60, "the 61st question of an hour");
    };
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (429, &json!("limited")), "{refused:?}");
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    // An hour and what the budget leaves between windows.
    assert!((1..2 * 3_600).contains(&wait), "{wait} s");
}

/// Begins a run without waiting for it.
async fn begin(relay: &Relay, order: &str) -> String {
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let begun = relay.post("/v1/cohorts/runs", &[("authorization", &bearer), JSON], order.to_owned()).await;
    assert_eq!(begun.status, 202, "{begun:?}");
    begun.json()["runId"].as_str().unwrap().to_owned()
}
