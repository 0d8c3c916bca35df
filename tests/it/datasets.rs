//! Data sets, through whole processes: what a script's rows change, on whose word, and over kills.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::harness::http::JSON;
use crate::harness::records::set;
use crate::harness::relay::{ADMIN_TOKEN, SERVICE_ACCOUNT, merge};
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

const LIST: i64 = 17;
const MINE: &str = "/v1/datasets/quiet/run";

/// A relay with the data set `quiet`, and the file of its script.
struct Rig {
    relay: Relay,
    script: NamedTempFile,
    dataset: Value,
}

/// `more`: what else the data set says. A yearly plan of this name is looked at nine minutes after the start, and so does not
/// come in between.
async fn rig(sandbox: &Sandbox, more: Value) -> Rig {
    let script = tempfile::Builder::new().suffix(".js").tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::write(script.path(), "function main() { return People(); }").unwrap();
    let mut dataset = json!({
        "name": "quiet", "jql": script.path(), "schedule": "365d", "attributes": { "days": "DAYS_AWAY" },
    });
    merge(&mut dataset, more);
    let relay = Relay::start(sandbox, json!({ "datasets": [dataset] })).await;
    Rig { relay, script, dataset }
}

async fn answers(sandbox: &Sandbox, rows: Value) {
    sandbox.control("POST", "/mixpanel/seed", json!({ "answers": { "jql": rows } })).await;
}

async fn order(relay: &Relay, path: &str, order: Value) -> (u16, Value) {
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let answer = relay.post(path, &[("authorization", &bearer), JSON], order.to_string()).await;
    (answer.status, answer.json())
}

async fn begun(relay: &Relay, asked: Value) -> String {
    let (status, run) = order(relay, MINE, asked).await;
    assert_eq!(status, 202, "{run}");
    run["id"].as_str().unwrap().to_owned()
}

async fn show(relay: &Relay, id: &str) -> Value {
    relay.admin("GET", &format!("/v1/datasets/runs/{id}")).await.ok().json()
}

async fn ended(relay: &Relay, id: &str) -> Value {
    eventually(2 * PATIENCE, async || {
        let run = show(relay, id).await;
        if run["status"] == "running" { Err(run.to_string()) } else { Ok(run) }
    })
    .await
}

async fn run(relay: &Relay, asked: Value) -> Value {
    let id = begun(relay, asked).await;
    let ended = ended(relay, &id).await;
    relay.drained_or_parked("brevo").await;
    ended
}

async fn confirmed(relay: &Relay) -> Value {
    let dry = run(relay, json!({ "dry_run": true })).await;
    assert_eq!(dry["status"], "done", "{dry}");
    run(relay, json!({})).await
}

/// Waits until the relay has written down what it has told Brevo: runs look people up there.
async fn written(relay: &Relay, people: &[&str]) {
    for id in people {
        eventually(PATIENCE, async || {
            let held = relay.admin("GET", &format!("/v1/people/{id}")).await.ok().json()["held"].to_string();
            if held.contains("DAYS_AWAY") { Ok(()) } else { Err(held) }
        })
        .await;
    }
}

async fn days(sandbox: &Sandbox, person: &str) -> Value {
    let contact = sandbox.brevo_contact(&format!("{person}@example.com")).await.unwrap();
    contact["attributes"]["DAYS_AWAY"].clone()
}

/// People whom the relay knows, with an address each, once Brevo has them.
async fn known(sandbox: &Sandbox, relay: &Relay, people: &[&str]) {
    let updates: Vec<Value> =
        people.iter().map(|id| set(id, json!({ "$email": format!("{id}@example.com") }))).collect();
    relay.take("/engage", &json!(updates)).await;
    relay.drained("brevo").await;
    for id in people {
        assert!(sandbox.brevo_contact(&format!("{id}@example.com")).await.is_some(), "{id}");
        // A run looks people up where they are written down.
        eventually(PATIENCE, async || {
            let held = relay.admin("GET", &format!("/v1/people/{id}")).await.ok().json()["held"].clone();
            same("written down", held.as_array().is_some_and(|held| !held.is_empty()), true)
        })
        .await;
    }
}

/// How often Brevo was asked to change anything, by method and path.
async fn writes(sandbox: &Sandbox) -> Vec<(String, Value)> {
    let counts = sandbox.brevo_counts().await;
    let requests = counts["requests"].as_object().unwrap().iter().filter(|(call, _)| !call.starts_with("GET "));
    requests.map(|(call, count)| (call.clone(), count.clone())).collect()
}

/// Ada is away, Bob has never been, nobody knows Cyd, and Dan has been erased.
#[tokio::test]
async fn what_a_dry_run_has_shown_a_run_changes_and_a_second_one_changes_nothing() {
    let sandbox = Sandbox::start().await;
    let Rig { relay, script: _script, .. } = rig(&sandbox, json!({})).await;
    known(&sandbox, &relay, &["ada", "bob", "dan"]).await;
    relay.admin("DELETE", "/v1/people/dan").await;
    eventually(PATIENCE, async || {
        let erasures = relay.admin("GET", "/v1/erasures").await.ok().json();
        if erasures["items"][0]["finished_at"].is_string() { Ok(()) } else { Err(erasures.to_string()) }
    })
    .await;
    let row = |id: &str, days: Value| json!({ "distinct_id": id, "days": days, "more": 1 });
    let rows = json!([row("ada", json!(40)), row("bob", Value::Null), row("cyd", json!(3)), row("dan", json!(9))]);
    answers(&sandbox, rows).await;

    let (status, refused) = order(&relay, MINE, json!({})).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("dry_run_first")), "{refused}");
    let dry = run(&relay, json!({ "dry_run": true })).await;
    let unmatched = json!({ "no_address": 1, "erased": 1 });
    assert_eq!((&dry["status"], &dry["rows"], &dry["unmatched"]), (&json!("done"), &json!(4), &unmatched), "{dry}");
    assert_eq!(
        (&dry["changed"], &dry["attributes"], &dry["fed"]),
        (&json!(1), &json!({ "DAYS_AWAY": 1 }), &json!(0)),
        "{dry}"
    );
    assert_eq!(dry["unmatched_people"], json!([{ "distinct_id": "cyd", "why": "no_address" }]), "{dry}");
    assert_eq!(days(&sandbox, "ada").await, Value::Null);

    let real = run(&relay, json!({})).await;
    assert_eq!((&real["status"], &real["changed"], &real["fed"]), (&json!("done"), &json!(1), &json!(1)), "{real}");
    assert_eq!(days(&sandbox, "ada").await, json!(40));
    written(&relay, &["ada"]).await;
    let before = writes(&sandbox).await;
    let again = run(&relay, json!({})).await;
    assert_eq!((&again["changed"], &again["fed"]), (&json!(0), &json!(0)), "{again}");
    assert_eq!(writes(&sandbox).await, before);

    let audit = relay.admin("GET", "/v1/audit").await.ok().json();
    let notes = audit["items"].as_array().unwrap().iter().filter(|note| note["action"] == "dataset");
    let dry_runs: Vec<&Value> = notes.map(|note| &note["detail"]["dry_run"]).collect();
    assert_eq!(dry_runs, [&json!(false), &json!(false), &json!(true)], "newest first: {audit}");
    let listed = relay.admin("GET", "/v1/datasets").await.ok().json();
    assert_eq!(
        (&listed["datasets"][0]["confirmed"], &listed["datasets"][0]["last_run"]["id"]),
        (&json!(true), &again["id"])
    );
    assert_eq!(relay.admin("GET", "/v1/datasets/runs").await.ok().json()["items"].as_array().unwrap().len(), 3);
    assert!(relay.balance("brevo").await.adds_up());
}

#[tokio::test]
async fn a_column_that_is_not_there_changes_nothing_and_null_clears() {
    let sandbox = Sandbox::start().await;
    let Rig { relay, script: _script, .. } = rig(&sandbox, json!({})).await;
    known(&sandbox, &relay, &["ada", "bob"]).await;
    answers(&sandbox, json!([{ "distinct_id": "ada", "days": 40 }, { "distinct_id": "bob", "days": 9 }])).await;
    assert_eq!(confirmed(&relay).await["changed"], 2);
    written(&relay, &["ada", "bob"]).await;
    answers(&sandbox, json!([{ "distinct_id": "ada" }, { "distinct_id": "bob", "days": null }])).await;
    let second = run(&relay, json!({})).await;
    assert_eq!((&second["changed"], &second["columns"]), (&json!(1), &json!({ "days": 1 })), "{second}");
    assert_eq!((days(&sandbox, "ada").await, days(&sandbox, "bob").await.as_i64()), (json!(40), None));
}

/// Answers that cannot be read are never taken for empty ones.
#[tokio::test]
async fn an_answer_that_is_no_table_changes_nothing_and_says_why() {
    let sandbox = Sandbox::start().await;
    let Rig { relay, script: _script, .. } = rig(&sandbox, json!({ "list": LIST, "mode": "mirror" })).await;
    seed_list(&sandbox, 2).await;
    for (answer, words) in [
        (json!({ "error": "no such thing" }), "no such thing"),
        (json!({ "days": 1 }), "an object"),
        (json!([{ "who": "ada", "days": 1 }]), "no row has a column distinct_id; the first has days, who"),
    ] {
        answers(&sandbox, answer.clone()).await;
        let run = run(&relay, json!({ "dry_run": true })).await;
        assert_eq!(run["status"], "failed", "{answer}: {run}");
        assert!(run["why"].as_str().unwrap().contains(words), "{answer}: {run}");
    }
    let (status, refused) = order(&relay, MINE, json!({})).await;
    assert_eq!(status, 409, "none of them has shown anything: {refused}");
    assert_eq!(members(&sandbox).await.len(), 2);
    let (status, _) = order(&relay, "/v1/datasets/others/run", json!({})).await;
    assert_eq!(status, 404);
    let (status, _) = order(&relay, MINE, json!({ "dryrun": true })).await;
    assert_eq!(status, 400);
}

/// Waits for a run that the plan has begun, up to six seconds after the start.
async fn planned(relay: &Relay) -> Value {
    eventually(PATIENCE, async || {
        let runs = relay.admin("GET", "/v1/datasets/runs").await.ok().json();
        let run = &runs["items"][0];
        if run["trigger"] == "schedule" && run["status"] == "done" { Ok(run.clone()) } else { Err(runs.to_string()) }
    })
    .await
}

#[tokio::test]
async fn a_plan_that_nobody_has_confirmed_shows_and_changes_nothing() {
    let sandbox = Sandbox::start().await;
    answers(&sandbox, json!([{ "distinct_id": "ada", "days": 1, "mail": "ada@example.com" }])).await;
    let more = json!({ "schedule": "1m", "attributes": { "mail": "email" } });
    let Rig { relay, script, .. } = rig(&sandbox, more).await;
    let shown = planned(&relay).await;
    assert_eq!((&shown["dry_run"], &shown["changed"], &shown["fed"]), (&json!(true), &json!(1), &json!(0)), "{shown}");
    assert!(sandbox.brevo_contact("ada@example.com").await.is_none());
    // Another script is another definition, which nobody has seen.
    std::fs::write(script.path(), "function main() { return []; }").unwrap();
    let (status, refused) = order(&relay, MINE, json!({})).await;
    assert_eq!((status, &refused["error"]["code"]), (409, &json!("dry_run_first")), "{refused}");
}

#[tokio::test]
async fn a_plan_changes_what_was_confirmed() {
    let sandbox = Sandbox::start().await;
    let Rig { mut relay, script: _script, mut dataset } = rig(&sandbox, json!({})).await;
    known(&sandbox, &relay, &["ada"]).await;
    answers(&sandbox, json!([{ "distinct_id": "ada", "days": 1 }])).await;
    assert_eq!(confirmed(&relay).await["fed"], 1);
    answers(&sandbox, json!([{ "distinct_id": "ada", "days": 2 }])).await;
    // How often it is run is no part of the definition.
    dataset["schedule"] = json!("1m");
    relay.configure(json!({ "datasets": [dataset] }));
    relay.terminate().await;
    relay.start_again().await;
    let run = planned(&relay).await;
    assert_eq!((&run["dry_run"], &run["fed"]), (&json!(false), &json!(1)), "{run}");
    eventually(PATIENCE, async || same("days", days(&sandbox, "ada").await, json!(2))).await;
}

/// Contacts `l{n}`, all of them in the list.
async fn seed_list(sandbox: &Sandbox, people: usize) {
    sandbox.control("POST", "/brevo/seed", json!({ "lists": [{ "id": LIST, "name": "Quiet" }] })).await;
    let contact = |n| json!({ "email": format!("l{n}@example.com"), "ext_id": format!("l{n}"), "list_ids": [LIST] });
    let contacts: Value = (0..people).map(contact).collect();
    sandbox.control("POST", "/brevo/seed", json!({ "contacts": contacts })).await;
}

async fn members(sandbox: &Sandbox) -> BTreeSet<String> {
    let shown = sandbox.get("/brevo/contacts?limit=1000000").await;
    let contacts = shown["contacts"].as_array().unwrap().iter();
    let inside = contacts.filter(|contact| contact["listIds"].as_array().unwrap().contains(&json!(LIST)));
    inside.map(|contact| contact["email"].as_str().unwrap().to_owned()).collect()
}

/// l0..l3 are in the list; the rows are of l3 and of l4, whose address they bring.
#[tokio::test]
async fn its_people_become_the_list_behind_the_brake() {
    let sandbox = Sandbox::start().await;
    let more = json!({ "list": LIST, "mode": "mirror", "attributes": { "mail": "email", "days": "DAYS_AWAY" } });
    let Rig { relay, script: _script, .. } = rig(&sandbox, more).await;
    seed_list(&sandbox, 4).await;
    let row = |id: &str| json!({ "distinct_id": id, "mail": format!("{id}@example.com"), "days": 7 });
    answers(&sandbox, json!([row("l3"), row("l4")])).await;
    let dry = run(&relay, json!({ "dry_run": true })).await;
    let list = &dry["list"];
    assert_eq!((&dry["status"], &list["to_remove"], &list["to_add"]), (&json!("done"), &json!(3), &json!(1)), "{dry}");
    assert!(list["why"].as_str().unwrap().contains("max_removal_share"), "{dry}");
    assert_eq!(members(&sandbox).await.len(), 4);

    let stopped = run(&relay, json!({})).await;
    assert_eq!(stopped["status"], "stopped", "{stopped}");
    assert!(stopped["why"].as_str().unwrap().contains("mixrelay datasets run quiet --force"), "{stopped}");
    assert_eq!(members(&sandbox).await.len(), 4);
    let forced = run(&relay, json!({ "force": true })).await;
    assert_eq!((&forced["status"], &forced["list"]["removed"]), (&json!("done"), &json!(3)), "{forced}");
    let expected: BTreeSet<String> = ["l3@example.com", "l4@example.com"].map(str::to_owned).into();
    assert_eq!(members(&sandbox).await, expected);
    assert_eq!((days(&sandbox, "l3").await, days(&sandbox, "l4").await), (json!(7), json!(7)));
}

/// A thousand and a half, killed while Mixpanel thinks, when rows have come into the journal, and while the list waits.
#[tokio::test]
async fn a_run_that_is_killed_goes_on_where_it_was() {
    let sandbox = Sandbox::start().await;
    let people = 1_500;
    let more = json!({ "list": LIST, "mode": "add", "attributes": { "mail": "email", "days": "DAYS_AWAY" } });
    let Rig { mut relay, script: _script, .. } = rig(&sandbox, more).await;
    seed_list(&sandbox, 0).await;
    let row = |n| json!({ "distinct_id": format!("p{n}"), "mail": format!("p{n}@example.com"), "days": n });
    answers(&sandbox, (0..people).map(row).collect()).await;
    let dry = run(&relay, json!({ "dry_run": true })).await;
    assert_eq!((&dry["changed"], &dry["list"]["to_add"]), (&json!(people), &json!(people)), "{dry}");

    let hang = json!({ "kind": "black_hole" });
    let down = json!({ "kind": "status", "status": 503 });
    sandbox.faults(json!([Sandbox::fault("mixpanel", "/api/query/jql", hang)])).await;
    let id = begun(&relay, json!({})).await;
    reached(&relay, &id, |run| run["costs"]["queries"] == 1).await;
    relay.kill().await;
    sandbox.faults(json!([Sandbox::fault("brevo", "/v3/contacts/lists", down)])).await;
    relay.start_again().await;
    reached(&relay, &id, |run| run["fed"].as_u64() > Some(0)).await;
    relay.kill().await;
    relay.start_again().await;
    reached(&relay, &id, |run| run["stage"] == "listing").await;
    relay.kill().await;
    sandbox.heal().await;
    relay.start_again().await;
    let done = ended(&relay, &id).await;
    assert_eq!(
        (&done["status"], &done["matched"], &done["costs"]["queries"]),
        (&json!("done"), &json!(people), &json!(2)),
        "{done}"
    );
    relay.drained("brevo").await;
    assert_eq!(members(&sandbox).await.len(), people);
    for n in [0, 1, people / 2, people - 1] {
        assert_eq!(days(&sandbox, &format!("p{n}")).await, json!(n));
    }
    assert!(relay.balance("brevo").await.adds_up());
    // What is known of people is in their rows then.
    relay.terminate().await;
    relay.start_again().await;
    let again = run(&relay, json!({})).await;
    assert_eq!((&again["changed"], &again["list"]["added"]), (&json!(0), &json!(0)), "{again}");
}

async fn reached(relay: &Relay, id: &str, there: impl Fn(&Value) -> bool) {
    eventually(2 * PATIENCE, async || {
        let run = show(relay, id).await;
        if there(&run) { Ok(()) } else { Err(run.to_string()) }
    })
    .await;
}

/// Callers may use up their part of the hour, and not the part that is kept.
#[tokio::test]
async fn callers_cannot_use_up_what_is_kept_for_data_sets() {
    let sandbox = Sandbox::start().await;
    let Rig { relay, script: _script, .. } = rig(&sandbox, json!({})).await;
    answers(&sandbox, json!([])).await;
    let mut refused = 0;
    for n in 0..60 {
        let answer =
            relay.post("/jql", &[SERVICE_ACCOUNT], format!("script=function%20main()%7Breturn%20{n}%7D")).await;
        match answer.status {
            200 => {}
            429 => refused += 1,
            _ => panic!("{answer:?}"),
        }
    }
    assert!(refused >= 15, "a quarter of sixty: {refused}");
    let dry = run(&relay, json!({ "dry_run": true })).await;
    assert_eq!((&dry["status"], &dry["rows"]), (&json!("done"), &json!(0)), "{dry}");
}

/// A saved report that is broken down by `distinct_id`.
#[tokio::test]
async fn a_saved_report_is_asked_as_a_script_is() {
    let sandbox = Sandbox::start().await;
    let Rig { relay, script: _script, .. } =
        rig(&sandbox, json!({ "jql": null, "insights": 12345, "attributes": { "days": null, "value": "SCORE" } }))
            .await;
    known(&sandbox, &relay, &["ada"]).await;
    let report = json!({
        "headers": ["$metric", "$distinct_id"], "series": { "Score": { "ada": { "all": 5 }, "$overall": { "all": 9 } } },
    });
    sandbox.control("POST", "/mixpanel/seed", json!({ "answers": { "insights": report } })).await;
    let done = confirmed(&relay).await;
    assert_eq!((&done["status"], &done["rows"], &done["fed"]), (&json!("done"), &json!(1), &json!(1)), "{done}");
    assert_eq!(sandbox.brevo_contact("ada@example.com").await.unwrap()["attributes"]["SCORE"], 5);
}

/// The command line shows, asks, and changes; without a yes nothing.
#[tokio::test]
async fn the_command_line_shows_before_it_changes() {
    let sandbox = Sandbox::start().await;
    let Rig { relay, script: _script, .. } = rig(&sandbox, json!({})).await;
    known(&sandbox, &relay, &["ada"]).await;
    answers(&sandbox, json!([{ "distinct_id": "ada", "days": 40 }])).await;
    let mixrelay = async |arguments: &[&str]| {
        let config = relay.directory().join("mixrelay.yaml");
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mixrelay"));
        command.arg("--config").arg(config).arg("datasets").args(arguments).stdin(std::process::Stdio::null());
        let output = command.output().await.unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = mixrelay(&["list"]).await;
    assert!(code == Some(0) && said.starts_with("quiet: not confirmed") && said.contains("not run yet"), "{said}");
    let (code, said) = mixrelay(&["run", "quiet"]).await;
    assert!(
        code == Some(0) && said.contains("DAYS_AWAY would change for 1") && said.contains("nothing was changed"),
        "{said}"
    );
    assert_eq!(days(&sandbox, "ada").await, Value::Null);
    let (code, said) = mixrelay(&["run", "quiet", "--yes"]).await;
    assert!(code == Some(0) && said.contains("DAYS_AWAY changed for 1"), "{said}");
    relay.drained("brevo").await;
    assert_eq!(days(&sandbox, "ada").await, json!(40));
    assert!(mixrelay(&["list"]).await.1.starts_with("quiet: confirmed"));
    assert_eq!(mixrelay(&["run", "others"]).await.0, Some(1));
}
