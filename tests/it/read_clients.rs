//! Clients that know nothing of the relay, with only their host changed: those that others have written for Mixpanel's query
//! API and export, and `curl` as Mixpanel's reference has it.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::records::{event, now_ms};
use crate::harness::sdk::run_client;
use crate::harness::{PATIENCE, Relay, Sandbox};

const KEY: &str = "reader-key-0123456789";

fn today() -> String {
    let at = jiff::Timestamp::from_millisecond(now_ms().try_into().unwrap()).unwrap();
    jiff::tz::Offset::UTC.to_datetime(at).date().to_string()
}

/// A project with two people, a cohort and two purchases of today.
async fn project() -> (Sandbox, Relay) {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "auth": { "api_keys": [KEY] } })).await;
    let seed = json!({
        "profiles": [
            { "distinct_id": "ada", "properties": { "$email": "ada@example.com", "plan": "pro" } },
            { "distinct_id": "bob", "properties": { "plan": "free" } },
        ],
        "cohorts": [{ "id": 7, "name": "Pioneers", "members": ["ada"] }],
        "answers": {
            "jql": [{ "key": ["pro"], "value": 2 }],
            // Which the reference does not describe, and the tap asks for.
            "engage/properties": { "results": { "plan": { "count": 2, "type": "string" } }, "status": "ok" },
            "events/properties/top": { "plan": { "count": 2 } },
        },
    });
    sandbox.control("POST", "/mixpanel/seed", seed).await;
    let mut purchases = [event("Purchase", "ada", "one"), event("Purchase", "ada", "two")];
    purchases.iter_mut().for_each(|purchase| purchase["properties"]["plan"] = "pro".into());
    relay.take("/track", &json!(purchases)).await;
    sandbox.mixpanel_has_events(2, PATIENCE).await;
    (sandbox, relay)
}

/// PyPI's `mixpanel-jql`, which writes the script itself and reads the answer as it streams in.
#[tokio::test]
async fn a_client_of_jql_reads_through_the_relay() {
    let (sandbox, relay) = project().await;
    let plan = json!({ "client": "jql", "event": "Purchase", "day": today() });
    let rows = run_client(&relay.url(""), KEY, plan).await;
    assert_eq!(rows, json!([{ "key": ["pro"], "value": 2 }]));
    let asked = sandbox.get("/mixpanel/requests?path=/api/2.0/jql&limit=10").await;
    let body = asked["requests"][0]["body"].to_string();
    assert!(body.contains("groupBy") && body.contains("Purchase"), "the script came as it was written: {asked}");
}

/// PyPI's `tap-mixpanel`: discovery, then profiles, cohorts with their members, and the raw export.
#[tokio::test]
async fn a_singer_tap_replicates_through_the_relay() {
    let (_sandbox, relay) = project().await;
    let streams = json!(["engage", "cohorts", "cohort_members", "export"]);
    let records =
        run_client(&relay.url(""), KEY, json!({ "client": "tap", "streams": streams, "start": today() })).await;
    let of = |stream: &str, name: &str| -> Vec<Value> {
        records[stream].as_array().unwrap().iter().map(|record| record[name].clone()).collect()
    };
    assert_eq!(of("engage", "distinct_id"), [json!("ada"), json!("bob")], "{records}");
    assert_eq!(of("engage", "plan"), [json!("pro"), json!("free")]);
    assert_eq!(of("cohorts", "name"), [json!("Pioneers")]);
    assert_eq!(of("cohort_members", "distinct_id"), [json!("ada")]);
    let mut ids: Vec<String> = of("export", "mp_reserved_insert_id").iter().map(ToString::to_string).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["\"one\"", "\"two\""]);
    assert_eq!(of("export", "event"), [json!("Purchase"), json!("Purchase")]);
}

/// Status and body that `curl` is given.
async fn curl(relay: &Relay, arguments: &[&str]) -> (String, String) {
    let mut command = tokio::process::Command::new("curl");
    command.args(["--silent", "--noproxy", "*", "--write-out", "\n%{http_code}"]).args(arguments).stdin(Stdio::null());
    let output = command.output().await.expect("curl is there: run tests/setup.sh");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{arguments:?} at {}", relay.url("")));
    (status.to_owned(), body.to_owned())
}

/// One call of each endpoint, in the form of the reference's own examples: `--request`, `--url`, `--header`, and forms in the body.
#[tokio::test]
async fn the_references_own_curl_calls_are_answered() {
    let (_sandbox, relay) = project().await;
    let (day, authorization) = (today(), format!("authorization: Basic {}", base64_of(&format!("{KEY}:"))));
    let dates = format!("from_date={day}&to_date={day}");
    for (path, expected) in [
        ("insights?bookmark_id=123".to_owned(), "computed_at"),
        (format!("funnels?funnel_id=1&{dates}"), "meta"),
        ("funnels/list?".to_owned(), "Sandbox funnel"),
        (format!("retention?{dates}&retention_type=birth&born_event=Purchase&unit=day"), "{"),
        (format!("retention/addiction?{dates}&unit=day&addiction_unit=hour"), "data"),
        (format!("segmentation?event=Purchase&{dates}&unit=day&type=general"), "\"Purchase\""),
        (format!("segmentation/numeric?event=Purchase&{dates}&on=properties%5B%22amount%22%5D"), "data"),
        (format!("segmentation/sum?event=Purchase&{dates}&on=properties%5B%22amount%22%5D"), "results"),
        (format!("segmentation/average?event=Purchase&{dates}&on=properties%5B%22amount%22%5D"), "results"),
        (format!("events?event=%5B%22Purchase%22%5D&type=general&unit=day&{dates}"), "\"Purchase\""),
        ("events/top?type=general&limit=10".to_owned(), "amount"),
        ("events/names?type=general".to_owned(), "\"Purchase\""),
        (format!("events/properties?event=Purchase&name=plan&type=general&unit=day&{dates}"), "data"),
        ("events/properties/top?event=Purchase".to_owned(), "plan"),
        ("events/properties/values?event=Purchase&name=plan".to_owned(), "pro"),
        (format!("stream/query?distinct_ids=%5B%22ada%22%5D&{dates}"), "Purchase"),
    ] {
        let url = format!("{}&project_id=12345", relay.url(&format!("/api/query/{path}")).replace("?&", "?"));
        let call =
            ["--request", "GET", "--url", &url, "--header", "accept: application/json", "--header", &authorization];
        let (status, body) = curl(&relay, &call).await;
        assert!(status == "200" && body.contains(expected), "{path}: {status} {body}");
    }
    let form = "content-type: application/x-www-form-urlencoded";
    for (path, data, expected) in [
        ("cohorts/list", "", "Pioneers"),
        ("engage", "filter_by_cohort={\"id\":7}", "ada@example.com"),
        ("engage", "distinct_ids=[\"bob\"]", "free"),
        ("jql", "script=function main() { return Events({}) }", "\"value\":2"),
    ] {
        let url = relay.url(&format!("/api/query/{path}?project_id=12345"));
        let mut call = vec!["--request", "POST", "--url", &url, "--header", "accept: application/json"];
        call.extend(["--header", &authorization, "--header", form]);
        if !data.is_empty() {
            call.extend(["--data-urlencode", data]);
        }
        let (status, body) = curl(&relay, &call).await;
        assert!(status == "200" && body.contains(expected), "{path}: {status} {body}");
    }
    let url = relay.url(&format!("/api/2.0/export?{dates}&event=%5B%22Purchase%22%5D"));
    let (status, body) =
        curl(&relay, &["--url", &url, "--header", "accept: text/plain", "--header", &authorization]).await;
    assert!(status == "200" && body.trim_end().lines().count() == 2, "{status} {body}");
}

fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
