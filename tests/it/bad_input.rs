//! Bad input of every sort: the documented answer, and memory that stays bounded.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::harness::http::{Client, GZIP, JSON, gzip};
use crate::harness::raw::Raw;
use crate::harness::records::event;
use crate::harness::relay::{ADMIN_TOKEN, SERVICE_ACCOUNT};
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same, tunable};

const MIB: u64 = 1 << 20;

/// What P10 promises, in whatever trouble.
const RESIDENT: u64 = 256 * MIB;

#[tokio::test]
async fn nesting_of_any_depth_is_answered() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    for depth in [33, 1_000, 1_000_000] {
        let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let value = format!(r#"[{{"event":"E","properties":{{"token":"sandbox-token","deep":{nested}}}}}]"#);
        for body in [nested, value] {
            for path in ["/track?ip=1", "/engage?ip=1", "/groups?ip=1"] {
                let answer = relay.post(path, &[JSON], body.clone()).await;
                assert_eq!((answer.status, answer.body.as_str()), (200, "0"), "{path} at depth {depth}");
            }
            let answer = relay.post("/import?strict=1&project_id=12345", &[JSON, SERVICE_ACCOUNT], body).await;
            assert_eq!(answer.status, 400, "{answer:?}");
        }
    }
    assert!(relay.process().is_running());
}

#[tokio::test]
async fn a_decompression_bomb_stops_at_the_cap() {
    let sandbox = Sandbox::start_alone().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    let bomb = gzip(&vec![b' '; 512 << 20]);
    assert!(bomb.len() < 8 << 20, "under the cap as sent: {}", bomb.len());
    let mut bombs = tokio::task::JoinSet::new();
    for n in 0..16 {
        let (http, url, bomb) = (relay.http().clone(), relay.url("/track?ip=1"), bomb.clone());
        let origin = if n % 2 == 0 { ("origin", "https://shop.example.com") } else { ("x-nothing", "") };
        bombs.spawn(async move { (n, http.send("POST", &url, &[JSON, GZIP, origin], bomb).await.unwrap()) });
    }
    while let Some(answered) = bombs.join_next().await {
        let (n, answer) = answered.unwrap();
        // Room for all of them at once there may not be; "later" is an answer too.
        let expected = if n % 2 == 0 { 413 } else { 200 };
        assert!(answer.status == expected || answer.status == 503, "{answer:?}");
    }
    let answer = relay.post("/track?ip=1", &[JSON, GZIP], bomb.clone()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "0"));
    let answer = relay.post("/import", &[JSON, GZIP, SERVICE_ACCOUNT], bomb).await;
    assert_eq!(answer.status, 413);
    let peak = relay.process().peak_resident();
    println!("{} MiB resident at most", peak / MIB);
    assert!(peak < RESIDENT, "{} MiB resident under the bombs", peak / MIB);
}

#[tokio::test]
async fn a_body_that_is_not_what_it_says_is_a_0() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let good = json!([event("E", "d", "cut")]).to_string();
    let mut cut = gzip(good.as_bytes());
    cut.truncate(cut.len() - 9);
    for (encoding, body) in [("gzip", cut), ("deflate", good.clone().into_bytes()), ("br", good.into_bytes())] {
        let answer = relay.post("/track?ip=1", &[JSON, ("content-encoding", encoding)], body).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "0"), "{encoding}");
    }
    assert_eq!(relay.metrics().await.sum("mixrelay_records_accepted_total", &[]), 0.0);
}

#[tokio::test]
async fn half_a_request_stores_nothing() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let body = json!([event("E", "d", "half")]).to_string();
    let head = format!("POST /track?ip=1 HTTP/1.1\r\nhost: relay\r\ncontent-length: {}\r\n\r\n", body.len());
    // Every place where a line may go dead, from inside the head to one byte before the end.
    for cut in [9, head.len() - 1, head.len(), head.len() + 1, head.len() + body.len() - 1] {
        let mut connection = Raw::connect(relay.address()).await.unwrap();
        connection.write(&format!("{head}{body}").as_bytes()[..cut]).await.unwrap();
        connection.finish().await.unwrap();
        let said = connection.read_to_end().await.unwrap_or_default();
        assert!(!said.ends_with('1'), "half a request was acknowledged, cut at {cut}: {said}");
    }
    // The same in chunks, with the last one missing.
    let mut connection = Raw::connect(relay.address()).await.unwrap();
    let chunked = format!(
        "POST /track?ip=1 HTTP/1.1\r\nhost: relay\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n",
        body.len()
    );
    connection.write(chunked).await.unwrap();
    connection.finish().await.unwrap();
    let said = connection.read_to_end().await.unwrap_or_default();
    assert!(!said.ends_with('1'), "{said}");
    assert_eq!(relay.metrics().await.sum("mixrelay_records_accepted_total", &[]), 0.0);
    relay.take("/track", &json!([event("E", "d", "whole")])).await;
    sandbox.mixpanel_has_events(1, PATIENCE).await;
}

#[tokio::test]
async fn garbage_instead_of_http_is_a_400_or_a_closed_door() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    let long = format!("GET /track?data={} HTTP/1.1\r\n\r\n", "A".repeat(1 << 20));
    for garbage in ["\0\u{1}\u{2}\r\n\r\n", "GET\r\n\r\n", "\u{16}\u{3}\u{1}", &long] {
        let mut connection = Raw::connect(relay.address()).await.unwrap();
        // A door that closes early resets the rest of what is written.
        drop(connection.write(garbage).await);
        drop(connection.finish().await);
        let said = connection.read_to_end().await.unwrap_or_default();
        let refused = said.is_empty() || said.starts_with("HTTP/1.1 4");
        assert!(refused, "{said}");
    }
    assert!(relay.process().is_running());
    assert_eq!(relay.get("/healthz").await.status, 200);
}

/// Callers that open a connection and dawdle cost little memory and nobody else's time.
#[tokio::test]
async fn thousands_of_slow_connections_leave_room_for_others() {
    let sandbox = Sandbox::start_alone().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    let wanted = tunable("MIXRELAY_TEST_SLOW_CONNECTIONS", 2_000);
    let head = "POST /track?ip=1 HTTP/1.1\r\nhost: relay\r\ncontent-type: application/json\r\n";
    let mut slow = Vec::with_capacity(wanted);
    for n in 0..wanted {
        let mut connection = Raw::connect(relay.address()).await.unwrap();
        let begun = match n % 3 {
            0 => "POST /tra".to_owned(),
            1 => head.to_owned(),
            _ => format!("{head}content-length: 2000000\r\n\r\n[{{\"event\":\"E\","),
        };
        connection.write(begun).await.unwrap();
        slow.push(connection);
    }
    let begun = Instant::now();
    for n in 0..20 {
        relay.take("/track", &json!([event("E", "d", &format!("fast-{n}"))])).await;
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "20 requests beside {wanted} slow connections took {took:?}");
    let peak = relay.process().peak_resident();
    println!("{} MiB resident at most, 20 requests in {took:?}", peak / MIB);
    assert!(peak < RESIDENT, "{} MiB resident with {wanted} slow connections", peak / MIB);
    sandbox.mixpanel_has_events(20, PATIENCE).await;
    drop(slow);
    eventually(PATIENCE, async || {
        let answer = Client::new().send("GET", &relay.url("/healthz"), &[], "").await.map_err(|e| e.to_string())?;
        same("status", answer.status, 200)
    })
    .await;
}

/// A refusal of the admin API looks like every other answer of it.
#[tokio::test]
async fn what_the_admin_api_cannot_read_is_a_400_with_words() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let admin = ("authorization", bearer.as_str());
    for (method, path, headers, body) in [
        ("GET", "/v1/audit?limit=null", &[admin][..], ""),
        ("GET", "/v1/dead-letters?limit=1&limit=2", &[admin], ""),
        ("GET", "/v1/dead-letters/export?since=x", &[admin], ""),
        ("GET", "/v1/trace?limit=-1", &[admin], ""),
        ("GET", "/v1/erasures?limit=x", &[admin], ""),
        ("GET", "/v1/cohorts/runs?limit=x", &[admin], ""),
        ("POST", "/v1/mapping/preview", &[admin], "{}"),
        ("POST", "/v1/mapping/preview", &[admin, JSON], "{"),
        ("POST", "/v1/dead-letters/replay", &[admin, JSON], "[]"),
        ("DELETE", "/v1/dead-letters", &[admin, JSON], "7"),
        ("POST", "/v1/backfills", &[admin, JSON], r#"{"what":"everything"}"#),
    ] {
        let answer = relay.send(method, path, headers, body).await;
        assert_eq!(answer.status, 400, "{method} {path}: {answer:?}");
        let told = answer.json();
        assert_eq!(told["error"]["code"], "invalid", "{method} {path}: {told}");
        assert!(told["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{method} {path}");
    }
}
