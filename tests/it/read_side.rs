//! The read side: Mixpanel's query API through one budget, asked as its own reference shows it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::http::{Answer, FORM};
use crate::harness::raw::Raw;
use crate::harness::records::{event, now_ms};
use crate::harness::relay::SERVICE_ACCOUNT;
use crate::harness::sandbox::TOKEN;
use crate::harness::sdk::run_reader;
use crate::harness::{Relay, Sandbox};

const KEY: &str = "reader-key-0123456789";
const BEARER: (&str, &str) = ("authorization", "Bearer reader-key-0123456789");

async fn relay(sandbox: &Sandbox) -> Relay {
    Relay::start(sandbox, json!({ "auth": { "api_keys": [KEY] } })).await
}

async fn get(relay: &Relay, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut all = vec![BEARER];
    all.extend_from_slice(headers);
    relay.send("GET", path, &all, "").await
}

async fn post(relay: &Relay, path: &str, form: &str) -> Answer {
    relay.send("POST", path, &[BEARER, FORM], form.to_owned()).await
}

/// Calls that reached the vendor under `path`, oldest first.
async fn asked(sandbox: &Sandbox, path: &str) -> Vec<Value> {
    let requests = sandbox.get(&format!("/mixpanel/requests?path={path}&limit=10000")).await;
    requests["requests"].as_array().unwrap().clone()
}

fn today() -> String {
    let at = jiff::Timestamp::from_millisecond(now_ms().try_into().unwrap()).unwrap();
    jiff::tz::Offset::UTC.to_datetime(at).date().to_string()
}

fn segmentation(name: &str) -> String {
    let today = today();
    format!("/segmentation?event={name}&from_date={today}&to_date={today}")
}

#[tokio::test]
async fn the_references_calls_work_with_another_host() {
    let sandbox = Sandbox::start().await;
    let relay = relay(&sandbox).await;
    let seed = json!({
        "profiles": [{ "distinct_id": "ada", "properties": { "$email": "ada@example.com" } }],
        "cohorts": [{ "id": 7, "name": "Pioneers", "members": ["ada"] }],
        "answers": { "jql": [{ "key": ["ada"], "value": 1 }] },
    });
    sandbox.control("POST", "/mixpanel/seed", seed).await;
    let purchases = [event("Purchase", "ada", "one"), event("Purchase", "ada", "two")];
    relay.take("/track", &json!(purchases)).await;
    sandbox.mixpanel_has_events(2, crate::harness::PATIENCE).await;

    let today = today();
    let expected = json!({ "Purchase": { &today: 2 } });
    let path = segmentation("Purchase");
    for prefix in ["", "/api/query", "/api/2.0"] {
        let answer = get(&relay, &format!("{prefix}{path}"), &[]).await.ok().json();
        assert_eq!(answer["data"]["values"], expected, "{prefix}");
    }
    let cohorts = post(&relay, "/cohorts/list", "").await.ok().json();
    assert_eq!(cohorts[0]["name"], "Pioneers");
    for answer in [
        post(&relay, "/engage/query", "filter_by_cohort=%7B%22id%22%3A7%7D").await,
        post(&relay, "/api/query/engage", "filter_by_cohort=%7B%22id%22%3A7%7D&project_id=12345").await,
        // As Mixpanel's own Python utilities ask.
        get(&relay, "/api/2.0/engage?distinct_id=ada&project_id=1", &[]).await,
    ] {
        assert_eq!(answer.ok().json()["results"][0]["$properties"]["$email"], "ada@example.com");
    }
    let jql = post(&relay, "/api/query/jql", "script=function+main()%7Breturn+Events(...)%7D&params=%7B%7D").await;
    assert_eq!(jql.ok().json()[0]["value"], 1);
    for path in [
        "/segmentation/sum?event=Purchase&on=1".to_owned(),
        format!("/retention?from_date={today}&to_date={today}"),
        format!("/retention/addiction?from_date={today}&to_date={today}&unit=day&addiction_unit=hour"),
        "/funnels/list".to_owned(),
        format!("/funnels?funnel_id=1&from_date={today}&to_date={today}"),
        "/insights?bookmark_id=1".to_owned(),
        "/events/names?type=general".to_owned(),
        "/events/top/?type=general".to_owned(),
        "/events/properties/values?event=Purchase&name=distinct_id".to_owned(),
        format!("/stream/query?distinct_ids=%5B%22ada%22%5D&from_date={today}&to_date={today}"),
    ] {
        get(&relay, &path, &[]).await.ok();
    }
    // The relay's credentials and project went out, and nothing of the caller's.
    let calls = asked(&sandbox, "/api/").await;
    // One question under two names is asked once.
    assert_eq!(calls.len(), 16);
    for call in calls.iter().filter(|call| call["path"] != "/api/app/me") {
        assert_eq!(call["headers"]["authorization"], SERVICE_ACCOUNT.1, "{call}");
        let query = call["query"].as_str().unwrap();
        assert!(query.contains("project_id=12345") && !query.contains("project_id=1&"), "{call}");
        assert!(!call["body"].to_string().contains("project_id"), "{call}");
    }
    // An error of the vendor's is passed on as it is.
    let error = get(&relay, "/insights", &[]).await;
    assert_eq!((error.status, error.json()["error"].clone()), (400, json!("bookmark_id is a required parameter")));
    let unknown = get(&relay, "/api/query/flows", &[]).await;
    assert_eq!((unknown.status, unknown.json()["error"].clone()), (404, json!("endpoint not found")));
}

#[tokio::test]
async fn only_who_may_ask_is_answered() {
    let sandbox = Sandbox::start().await;
    let relay = relay(&sandbox).await;
    let path = "/events/names?type=general";
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    let good = [
        SERVICE_ACCOUNT.1.to_owned(),
        BEARER.1.to_owned(),
        basic(&format!("{KEY}:")),
        basic(KEY),
        // As a tap does: the URL-safe alphabet, and no colon.
        format!("Basic {}", URL_SAFE_NO_PAD.encode(KEY)),
        format!("Basic {KEY}:"),
    ];
    for value in &good {
        relay.send("GET", path, &[("authorization", value)], "").await.ok();
    }
    for value in [basic(&format!("{TOKEN}:")), basic("sandbox-sa:wrong"), "Bearer sandbox-oauth".to_owned()] {
        let answer = relay.send("GET", path, &[("authorization", &value), ("origin", "https://a.example")], "").await;
        assert_eq!(answer.status, 401, "{value}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"));
        assert!(answer.json()["error"].is_string());
    }
    assert_eq!(relay.get(path).await.status, 401);
    // A service account that means another project is not answered with this one's data.
    assert_eq!(relay.send("GET", &format!("{path}&project_id=99"), &[SERVICE_ACCOUNT], "").await.status, 403);
    // No client would send these as they stand.
    for path in ["/api/query/../app/me", "/api/query/%2e%2e/app/me", "/api/query/a%2fb", "/api/query//127.0.0.1/x"] {
        let mut raw = Raw::connect(relay.address()).await.unwrap();
        let head =
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\nconnection: close\r\n\r\n", BEARER.1);
        raw.write(head).await.unwrap();
        let answer = raw.read_to_end().await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    assert_eq!(get(&relay, "/api/2.0/nessie/pipeline/jobs", &[]).await.status, 403);
    assert_eq!(post(&relay, "/api/2.0/annotations/create", "date=x").await.status, 403);
    assert_eq!(asked(&sandbox, "/api/app").await.len(), 0);
    assert_eq!(asked(&sandbox, "/api/query").await.len(), 1, "one question, asked once");
}

#[tokio::test]
async fn two_hundred_callers_stay_within_the_hour_and_a_kill_forgets_nothing() {
    let sandbox = Sandbox::start().await;
    sandbox.switch(json!({ "mixpanel": { "query_duration_ms": 50 } })).await;
    let mut relay = relay(&sandbox).await;
    let questions: Vec<String> = (0..20).map(|n| segmentation(&format!("Event{n}"))).collect();
    let wait = ("prefer", "wait=60");
    let callers = (0..200).map(|n| get(&relay, &questions[n % 20], std::slice::from_ref(&wait)));
    for answer in futures_util::future::join_all(callers).await {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("preference-applied"), Some("wait=60"));
    }
    let calls = asked(&sandbox, "/api/query").await;
    assert_eq!(calls.len(), 20, "each question once");
    assert!(calls.iter().all(|call| call["status"] == 200), "no more than five ran at once");

    // The rest of the hour, and more.
    let ask_more = async |relay: &Relay, from: usize| {
        let paths: Vec<String> = (from..from + 60).map(|n| segmentation(&format!("Other{n}"))).collect();
        let asked = paths.iter().map(|path| get(relay, path, &[("prefer", "wait=20")]));
        let answers = futures_util::future::join_all(asked).await;
        for refused in answers.iter().filter(|answer| answer.status != 200) {
            assert_eq!(refused.status, 429, "{refused:?}");
            let retry_after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=3605).contains(&retry_after), "{retry_after}");
            assert!(refused.header("ratelimit").unwrap().starts_with("\"query\";r=0;t="), "{refused:?}");
            assert_eq!(refused.header("ratelimit-policy"), Some("\"query\";q=60;w=3600"));
            let body = refused.json();
            assert!(body["error"].as_str().unwrap().contains("60/60 queries running in the last hour"), "{body}");
            assert!(body["request"].as_str().unwrap().starts_with("/api/query/segmentation?"), "{body}");
        }
        answers.iter().filter(|answer| answer.status == 200).count()
    };
    assert_eq!(ask_more(&relay, 0).await, 40);
    relay.kill().await;
    relay.start_again().await;
    assert_eq!(ask_more(&relay, 100).await, 0, "what was spent before the kill is spent");
    // JQL has an hour of its own, and what is kept costs nothing.
    post(&relay, "/jql", "script=x").await.ok();
    let calls = asked(&sandbox, "/api/query/segmentation").await;
    assert_eq!(calls.len(), 60);
    assert!(calls.iter().all(|call| call["status"] == 200), "the vendor has refused nothing");
}

#[tokio::test]
async fn an_answer_is_given_again_while_it_is_fresh() {
    let sandbox = Sandbox::start().await;
    let relay = relay(&sandbox).await;
    let count = async || asked(&sandbox, "/api/query").await.len();
    let path = "/segmentation?event=A&from_date=2026-01-01&to_date=2026-01-02";
    let first = get(&relay, path, &[]).await.ok();
    assert_eq!((first.header("age"), first.header("cache-control")), (Some("0"), Some("private, max-age=300")));
    // Another order, another project, the same question.
    let again =
        get(&relay, "/segmentation?to_date=2026-01-02&event=A&from_date=2026-01-01&project_id=4", &[]).await.ok();
    assert_eq!(again.body, first.body);
    assert_eq!(count().await, 1);
    get(&relay, path, &[("cache-control", "no-cache")]).await.ok();
    assert_eq!(count().await, 2);
    get(&relay, path, &[("cache-control", "max-age=200")]).await.ok();
    assert_eq!(count().await, 2);

    // An error is none, whatever its status says.
    sandbox.switch(json!({ "mixpanel": { "query_error_in_ok": true } })).await;
    for n in 3..5 {
        let answer = get(&relay, "/insights", &[]).await.ok();
        assert_eq!((answer.json()["error"].is_string(), answer.header("cache-control")), (true, Some("no-store")));
        assert_eq!(count().await, n);
    }
}

#[tokio::test]
async fn a_vendor_that_refuses_is_believed() {
    let sandbox = Sandbox::start().await;
    let relay = relay(&sandbox).await;
    let text = "Query rate limit exceeded for project_id: 12345. 1/5 queries running concurrently and 61/60 queries \
                running in the last hour.";
    let fault = json!({ "kind": "status", "status": 429, "body": { "request": "x", "error": text } });
    sandbox.faults(Sandbox::fault("mixpanel", "/api/query", fault)).await;
    let refused = get(&relay, "/events/names?type=general", &[]).await;
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 3000, "{refused:?}");
    sandbox.heal().await;
    assert_eq!(get(&relay, "/funnels/list", &[]).await.status, 429);
    assert_eq!(asked(&sandbox, "/api/query").await.len(), 1, "it was not asked again");
    assert_eq!(relay.metrics().await.sum("mixrelay_budget_remaining", &[("family", "query")]), 0.0);
}

#[tokio::test]
async fn a_vendor_that_fails_costs_its_caller_an_answer_and_nobody_else() {
    let sandbox = Sandbox::start().await;
    let relay = relay(&sandbox).await;
    let path = "/events/names?type=general";
    for (kind, status) in [
        (json!({ "kind": "reset", "times": 1 }), 502),
        (json!({ "kind": "status", "status": 503, "times": 1 }), 503),
        (json!({ "kind": "break_off", "after_bytes": 1, "times": 1 }), 502),
    ] {
        sandbox.faults(Sandbox::fault("mixpanel", "/api/query", kind.clone())).await;
        let answer = get(&relay, path, &[]).await;
        assert_eq!(answer.status, status, "{kind}: {answer:?}");
        assert!(answer.json()["error"].is_string());
    }
    get(&relay, path, &[]).await.ok();
}

#[tokio::test]
async fn oauth_tokens_are_the_relays_or_where_allowed_the_callers() {
    let sandbox = Sandbox::start().await;
    let oauth = json!({
        "connectors": { "mixpanel": { "service_account": null, "oauth_token": "sandbox-oauth" } },
        "auth": { "api_keys": [KEY] },
    });
    let relay = Relay::start(&sandbox, oauth).await;
    get(&relay, "/funnels/list", &[]).await.ok();
    assert_eq!(asked(&sandbox, "/api/query").await[0]["headers"]["authorization"], "Bearer sandbox-oauth");
    drop(relay);

    let own = json!({ "connectors": { "mixpanel": { "oauth_pass_through": true } } });
    let relay = Relay::start(&sandbox, own).await;
    let ask = async |token: &str| relay.send("GET", "/funnels/list", &[("authorization", token)], "").await;
    for _ in 0..3 {
        ask("Bearer sandbox-oauth").await.ok();
        assert_eq!(ask("Bearer rubbish").await.status, 401);
    }
    let calls = asked(&sandbox, "/api/query").await;
    assert_eq!(calls.len(), 2, "asked once more, and rubbish has not touched the budget");
    assert_eq!(calls[1]["headers"]["authorization"], "Bearer sandbox-oauth");
    assert_eq!(asked(&sandbox, "/api/app/me").await.iter().filter(|call| call["status"] == 401).count(), 1);
    // The relay's own account and a caller's token do not share answers.
    relay.send("GET", "/funnels/list", &[SERVICE_ACCOUNT], "").await.ok();
    assert_eq!(asked(&sandbox, "/api/query").await.len(), 3);
}

/// Mixpanel's own utilities, with only the host changed and an API key where the project secret was.
#[tokio::test]
async fn mixpanels_own_utilities_read_through_the_relay() {
    let sandbox = Sandbox::start().await;
    let relay = relay(&sandbox).await;
    let profiles: Vec<Value> = (0..2500)
        .map(|n| json!({ "distinct_id": format!("p-{n}"), "properties": { "plan": "pro", "n": n } }))
        .collect();
    let seed = json!({ "profiles": profiles, "answers": { "jql": [{ "key": ["pro"], "value": 2500 }] } });
    sandbox.control("POST", "/mixpanel/seed", seed).await;
    relay.take("/track", &json!([event("Purchase", "ada", "one"), event("Purchase", "ada", "two")])).await;
    sandbox.mixpanel_has_events(2, crate::harness::PATIENCE).await;
    let dates = json!({ "from_date": today(), "to_date": today() });
    let call = |method: &str, args: Value, kwargs: Value| json!({ "method": method, "args": args, "kwargs": kwargs });
    let calls = json!([
        call("query_engage", json!([]), json!({})),
        call("query_jql", json!(["function main() { return People().reduce(mixpanel.reducer.count()) }"]), json!({})),
        call("query_export", json!([&dates]), json!({})),
        call("query_export", json!([&dates]), json!({ "add_gzip_header": true })),
    ]);
    let answers = run_reader(&relay.url(""), KEY, calls).await;
    let people: std::collections::BTreeSet<&str> =
        answers[0].as_array().unwrap().iter().map(|person| person["$distinct_id"].as_str().unwrap()).collect();
    assert_eq!(people.len(), 2500);
    assert_eq!(answers[1][0]["value"], 2500);
    for events in &answers[2..] {
        assert_eq!(events.as_array().unwrap().len(), 2, "{events}");
        assert_eq!(events[0]["event"], "Purchase");
    }
}

/// Too long to be held for others: it is streamed to each who asks, and a break is passed on as one.
#[tokio::test]
async fn a_long_answer_is_streamed_and_never_ended_as_if_whole() {
    let sandbox = Sandbox::start().await;
    let relay = relay(&sandbox).await;
    let rows: Vec<String> = (0..60_000).map(|n| format!("{n:0>100}")).collect();
    sandbox.control("POST", "/mixpanel/seed", json!({ "answers": { "jql": rows } })).await;
    let (one, other) = tokio::join!(post(&relay, "/jql", "script=x"), post(&relay, "/jql", "script=x"));
    for answer in [one, other] {
        assert_eq!(answer.ok().json(), json!(rows));
    }
    let fault = json!({ "kind": "break_off", "after_bytes": 5_500_000 });
    sandbox.faults(Sandbox::fault("mixpanel", "/api/query/jql", fault)).await;
    let broken = relay.http().send("POST", &relay.url("/jql"), &[BEARER, FORM], "script=x").await;
    assert!(broken.is_err(), "{:?}", broken.map(|answer| answer.body.len()));
}

/// A call is paid for: it goes on without its caller, and whoever asks again gets its answer.
#[tokio::test]
async fn a_caller_who_hangs_up_wastes_no_call() {
    let sandbox = Sandbox::start().await;
    sandbox.switch(json!({ "mixpanel": { "query_duration_ms": 1500 } })).await;
    let relay = relay(&sandbox).await;
    let path = "/events/names?type=general";
    let gone = tokio::time::timeout(std::time::Duration::from_millis(500), get(&relay, path, &[])).await;
    assert!(gone.is_err());
    let answer = get(&relay, path, &[]).await.ok();
    assert_eq!(asked(&sandbox, "/api/query").await.len(), 1, "{answer:?}");
}
