//! Raw export through the relay: whole or broken, never short, whatever the vendor does in the middle.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::http::{Answer, JSON, gzip};
use crate::harness::records::now_ms;
use crate::harness::relay::SERVICE_ACCOUNT;
use crate::harness::sandbox::TOKEN;
use crate::harness::{Relay, Sandbox};

const DAY: u64 = 86_400;

/// Puts `count` events into the sandbox, spread over `days` days up to today, each day's not together.
async fn fill(sandbox: &Sandbox, relay: &Relay, count: u64, days: u64) {
    let now = now_ms() / 1000;
    let events: Vec<Value> = (0..count)
        .map(|n| {
            let properties = json!({
                "token": TOKEN, "distinct_id": "ada", "$insert_id": format!("e-{n}"), "time": now - (n * 7 % days) * DAY,
                "n": n, "padding": "0123456789",
            });
            json!({ "event": if n % 2 == 0 { "Even" } else { "Odd" }, "properties": properties })
        })
        .collect();
    let url = format!("http://{}/import?strict=1&project_id=12345", sandbox.mixpanel());
    for batch in events.chunks(2000) {
        let body = gzip(json!(batch).to_string().as_bytes());
        let headers = [SERVICE_ACCOUNT, JSON, ("content-encoding", "gzip")];
        relay.http().send("POST", &url, &headers, body).await.unwrap().ok();
    }
}

fn day(ago: u64) -> String {
    let at = jiff::Timestamp::from_millisecond((now_ms() - ago * DAY * 1000).try_into().unwrap()).unwrap();
    jiff::tz::Offset::UTC.to_datetime(at).date().to_string()
}

fn path(from: u64, more: &str) -> String {
    format!("/export?from_date={}&to_date={}{more}", day(from), day(0))
}

/// How often each event came.
fn numbers(body: &str) -> BTreeMap<u64, usize> {
    let mut numbers = BTreeMap::new();
    for line in body.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        *numbers.entry(event["properties"]["n"].as_u64().unwrap()).or_default() += 1;
    }
    numbers
}

fn each_once(body: &str, count: u64) {
    let numbers = numbers(body);
    assert_eq!(numbers.len() as u64, count);
    assert!(numbers.values().all(|times| *times == 1), "{numbers:?}");
}

async fn try_get(relay: &Relay, path: &str) -> Result<Answer, reqwest::Error> {
    relay.http().send("GET", &relay.url(path), &[SERVICE_ACCOUNT], "").await
}

async fn get(relay: &Relay, path: &str) -> Answer {
    try_get(relay, path).await.unwrap()
}

async fn calls(sandbox: &Sandbox) -> usize {
    let requests = sandbox.get("/mixpanel/requests?path=/api/2.0/export&limit=1000").await;
    requests["requests"].as_array().unwrap().len()
}

#[tokio::test]
async fn an_export_passes_with_its_parameters() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    fill(&sandbox, &relay, 300, 20).await;
    let answer = get(&relay, &path(20, "")).await.ok();
    each_once(&answer.body, 300);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain"));
    assert_eq!(answer.header("ratelimit"), Some("\"export\";r=59"));
    let vendors_path = format!("/api/2.0{}", path(20, "&event=%5B%22Odd%22%5D&project_id=1"));
    assert_eq!(get(&relay, &vendors_path).await.status, 403, "another project's service account");
    let odd = get(&relay, &vendors_path.replace("project_id=1", "time_in_ms=true")).await.ok();
    assert_eq!(odd.body.lines().count(), 150);
    assert!(odd.body.lines().all(|line| line.contains("\"time\":1") && !line.contains("Even")));
    assert_eq!(get(&relay, &path(20, "&limit=7")).await.ok().body.lines().count(), 7);
    let nothing = get(&relay, &path(20, "&event=%5B%22None%22%5D")).await.ok();
    assert_eq!(nothing.body, "");
    // What the vendor refuses is the vendor's to explain.
    let refused = get(&relay, "/export?from_date=2026-01-01").await;
    assert_eq!(refused.status, 400);
    assert!(refused.json()["error"].as_str().unwrap().contains("to_date"));

    // Compressed on both ways.
    let gzip_too = [SERVICE_ACCOUNT, ("accept-encoding", "gzip")];
    let compressed = relay.send("GET", &path(20, ""), &gzip_too, "").await;
    assert_eq!(compressed.header("content-encoding"), Some("gzip"));
    assert!(compressed.body.len() < answer.body.len() / 2, "{}", compressed.body.len());
    let requests = sandbox.get("/mixpanel/requests?path=/api/2.0/export&limit=1").await;
    assert!(requests["requests"][0]["headers"]["accept-encoding"].as_str().unwrap().contains("gzip"), "{requests}");
}

#[tokio::test]
async fn a_long_range_goes_out_in_legal_calls() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    fill(&sandbox, &relay, 800, 400).await;
    each_once(&get(&relay, &path(400, "")).await.ok().body, 800);
    assert_eq!(calls(&sandbox).await, 5);
    assert_eq!(get(&relay, &path(400, "&limit=300")).await.ok().body.lines().count(), 300);
}

#[tokio::test]
async fn an_export_that_is_terminated_early_goes_on_where_it_broke() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    fill(&sandbox, &relay, 300, 20).await;
    sandbox.switch(json!({ "mixpanel": { "export_breaks_after": 100, "export_breaks_times": 1 } })).await;
    each_once(&get(&relay, &path(20, "")).await.ok().body, 300);
    assert_eq!(calls(&sandbox).await, 2);

    // As long as it breaks off whole answers, shorter ones are asked for.
    sandbox.switch(json!({ "mixpanel": { "export_breaks_after": 100, "export_breaks_times": null } })).await;
    each_once(&get(&relay, &path(20, "")).await.ok().body, 300);

    // A connection that breaks in the middle.
    sandbox.switch(json!({ "mixpanel": { "export_breaks_after": null } })).await;
    let fault = json!({ "kind": "break_off", "after_bytes": 300, "times": 2 });
    sandbox.faults(Sandbox::fault("mixpanel", "/api/2.0/export", fault)).await;
    each_once(&get(&relay, &path(20, "")).await.ok().body, 300);
}

#[tokio::test]
async fn an_export_that_cannot_be_whole_is_broken() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    fill(&sandbox, &relay, 300, 1).await;
    // All on one day, which cannot be asked for in parts.
    sandbox.switch(json!({ "mixpanel": { "export_breaks_after": 100 } })).await;
    let broken = try_get(&relay, &path(1, "")).await;
    assert!(broken.is_err(), "{broken:?}");
    assert!(calls(&sandbox).await <= 8);
    let log = std::fs::read_to_string(relay.log()).unwrap();
    assert!(log.contains("an export was broken off"), "{log}");
}

#[tokio::test]
async fn exports_have_an_hour_of_their_own() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    // Somebody else has used most of the hour, which the relay learns by a refusal.
    let text = "1/100 queries running concurrently and 57/60 queries running in the last hour.";
    let fault = json!({ "kind": "status", "status": 429, "times": 1, "body": { "error": text } });
    sandbox.faults(Sandbox::fault("mixpanel", "/api/2.0/export", fault)).await;
    assert_eq!(get(&relay, &path(1, "")).await.status, 429);
    // Three hundred days would be the last three calls, four hundred one too many.
    assert_eq!(get(&relay, &path(350, "")).await.status, 429);
    for _ in 0..3 {
        let answer = relay.send("GET", &path(1, ""), &[SERVICE_ACCOUNT, ("prefer", "wait=30")], "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    relay.kill().await;
    relay.start_again().await;
    let refused = get(&relay, &path(1, "")).await;
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() > 3000);
    assert!(refused.json()["error"].as_str().unwrap().starts_with("Export rate limit exceeded"), "{refused:?}");
    // Queries are another budget.
    get(&relay, "/funnels/list").await.ok();
    assert_eq!(calls(&sandbox).await, 4);
}

/// Answers every call with `megabytes` of events, a chunk after another: nobody holds them.
async fn vendor_of(megabytes: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let line = json!({ "event": "Big", "properties": { "time": 1_750_000_000, "padding": "x".repeat(970) } });
    let lines = format!("{line}\n").repeat(1024);
    let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            drop(stream.read(&mut head).await);
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
            let mut written = stream.write_all(answer.as_bytes()).await;
            for _ in 0..megabytes {
                if written.is_ok() {
                    written = stream.write_all(chunk.as_bytes()).await;
                }
            }
            drop(stream.write_all(b"0\r\n\r\n").await);
        }
    });
    address
}

/// A large export goes through in memory that does not grow with it. MIXRELAY_TEST_EXPORT_MIB=10240 is the promise's size.
#[tokio::test]
async fn a_large_export_is_not_held_in_memory() {
    let megabytes: u64 = crate::harness::tunable("MIXRELAY_TEST_EXPORT_MIB", 192).try_into().unwrap();
    let vendor = format!("http://{}", vendor_of(megabytes).await);
    let sandbox = Sandbox::start_alone().await;
    let relay = json!({ "connectors": { "mixpanel": { "endpoints": { "export": vendor } } } });
    let mut relay = Relay::start(&sandbox, relay).await;
    let before = relay.process().peak_resident();
    let request = reqwest::Client::builder().no_proxy().build().unwrap().get(relay.url(&path(20, "")));
    let mut response = request.header(SERVICE_ACCOUNT.0, SERVICE_ACCOUNT.1).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut length = 0;
    while let Some(chunk) = response.chunk().await.unwrap() {
        length += chunk.len() as u64;
    }
    assert!(length >= megabytes << 20, "{length}");
    let after = relay.process().peak_resident();
    println!("peak resident: {} MiB before, {} MiB after {} MiB", before >> 20, after >> 20, length >> 20);
    assert!(after - before < 32 << 20, "{before} {after}");
}
