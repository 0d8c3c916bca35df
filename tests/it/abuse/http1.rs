//! HTTP/1.1 as no client writes it: what one server takes for the body of a request, another must never take for a request
//! of its own.

use serde_json::json;

use crate::harness::raw::Raw;
use crate::harness::records::event;
use crate::harness::{PATIENCE, Relay, Sandbox};

/// A whole request that tracks one event.
fn track(insert_id: &str) -> String {
    let body = json!([event("E", "d", insert_id)]).to_string();
    format!("POST /track?ip=0 HTTP/1.1\r\nhost: relay\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Writes a request that says `connection: close`, and reads its answer.
async fn answer(relay: &Relay, bytes: &[u8]) -> String {
    let mut connection = Raw::connect(relay.address()).await.unwrap();
    connection.write(bytes).await.unwrap();
    connection.read_to_end().await.unwrap()
}

/// Writes `bytes` on a connection of its own, ends it, and reads until the relay closes it.
async fn exchange(relay: &Relay, bytes: &[u8]) -> String {
    let mut connection = Raw::connect(relay.address()).await.unwrap();
    // A door that closes early resets the rest of what is written.
    drop(connection.write(bytes).await);
    drop(connection.finish().await);
    connection.read_to_end().await.unwrap_or_default()
}

async fn accepted(relay: &Relay) -> f64 {
    relay.metrics().await.sum("mixrelay_records_accepted_total", &[])
}

/// Where a proxy in front could see one request and the relay two, the relay sees none, or takes the first and hangs up.
#[tokio::test]
async fn no_request_hides_in_another() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let hidden = track("hidden");
    let chunked = format!("0\r\n\r\n{hidden}");
    let (length, chunks) = (chunked.len(), format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()));
    let framing = [
        // Two lengths, or a length and chunks.
        (format!("content-length: {length}\r\ntransfer-encoding: chunked"), &chunked),
        (format!("transfer-encoding: chunked\r\ncontent-length: {length}"), &chunked),
        (format!("content-length: 0\r\ncontent-length: {length}"), &chunked),
        (format!("content-length: 0, {length}"), &chunked),
        (format!("content-length: {length}\r\ncontent-length: 0"), &chunked),
        // Lengths that some read as numbers.
        ("content-length: +0".to_owned(), &hidden),
        ("content-length: -0".to_owned(), &hidden),
        ("content-length: 0x0".to_owned(), &hidden),
        ("content-length: 0 0".to_owned(), &hidden),
        ("content-length:".to_owned(), &hidden),
        ("content-length: 18446744073709551616".to_owned(), &hidden),
        // Chunks under names that some do not know.
        (format!("content-length: {length}\r\ntransfer-encoding: xchunked"), &chunked),
        (format!("content-length: {length}\r\ntransfer-encoding: chunked, identity"), &chunked),
        (format!("content-length: {length}\r\ntransfer-encoding: identity\r\ntransfer-encoding: chunked"), &chunked),
        (format!("content-length: {length}\r\ntransfer-encoding:\r\n chunked"), &chunked),
        (format!("content-length: {length}\r\ntransfer-encoding : chunked"), &chunked),
        (format!("content-length: {length}\r\ntransfer-encoding: \u{b}chunked"), &chunked),
        ("transfer-encoding: gzip".to_owned(), &hidden),
        // Headers that some read on across a line, or end at another byte.
        (format!("x-folded: a\r\n content-length: {length}\r\ncontent-length: 0"), &hidden),
        ("content-length : 0".to_owned(), &hidden),
        ("x-bare: a\rcontent-length: 0".to_owned(), &hidden),
        ("x-nul: a\0b\r\ncontent-length: 0".to_owned(), &hidden),
        (": empty\r\ncontent-length: 0".to_owned(), &hidden),
        ("no colon\r\ncontent-length: 0".to_owned(), &hidden),
        ("x-\u{e9}: a\r\ncontent-length: 0".to_owned(), &hidden),
        // The hidden request as a chunk, of which the relay must read all.
        ("transfer-encoding: chunked".to_owned(), &chunks),
    ];
    for (headers, body) in &framing {
        let request = format!("POST /track?ip=0 HTTP/1.1\r\nhost: relay\r\n{headers}\r\n\r\n{body}");
        let said = exchange(&relay, request.as_bytes()).await;
        let answers = said.matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "{headers}: two requests were seen: {said}");
        assert_eq!(accepted(&relay).await, 0.0, "{headers}: {said}");
    }
    relay.take("/track", &json!([event("E", "d", "plain")])).await;
    sandbox.mixpanel_has_events(1, PATIENCE).await;
}

/// Version, method and target as attackers write them.
#[tokio::test]
async fn a_request_line_has_one_form() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let hidden = track("hidden");
    for line in [
        "POST /track?ip=0 HTTP/1.1 HTTP/1.1",
        "POST  /track?ip=0 HTTP/1.1",
        "POST\t/track?ip=0\tHTTP/1.1",
        "POST /track?ip=0 HTTP/9.9",
        "POST /track?ip=0 http/1.1",
        "POST /track?ip=0",
        "P\u{0}ST /track?ip=0 HTTP/1.1",
        "POST /track?a=\u{1} HTTP/1.1",
        "PRI * HTTP/2.0",
        "CONNECT evil.example:443 HTTP/1.1",
        "TRACE / HTTP/1.1",
        "GET evil.example HTTP/1.1",
    ] {
        let said = exchange(
            &relay,
            format!("{line}\r\nhost: relay\r\ncontent-length: {}\r\n\r\n{hidden}", hidden.len()).as_bytes(),
        )
        .await;
        assert!(!said.contains("HTTP/1.1 200"), "{line}: {said}");
        assert!(said.matches("HTTP/1.1 ").count() <= 1, "{line}: {said}");
    }
    // Nothing of a head comes back in an answer: TRACE and errors show no headers.
    let said = exchange(&relay, b"TRACE / HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer hush-hush\r\n\r\n").await;
    assert!(!said.contains("hush-hush"), "{said}");
    assert_eq!(accepted(&relay).await, 0.0);
}

/// Chunks in every form that the grammar has are read, and in every other one not.
#[tokio::test]
async fn odd_chunks_are_read_or_refused() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let head = "POST /track?ip=0 HTTP/1.1\r\nhost: relay\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let body = |id: &str| json!([event("E", "d", id)]).to_string();
    let single: String = body("single").chars().map(|c| format!("1\r\n{c}\r\n")).collect();
    let (extended, upper, trailed) = (body("extended"), body("upper"), body("trailed"));
    for good in [
        format!("{single}0\r\n\r\n"),
        format!("{:x};name=value;q=\"a\"\r\n{extended}\r\n0;last\r\n\r\n", extended.len()),
        format!("000{:X}\r\n{upper}\r\n00\r\n\r\n", upper.len()),
        format!("{:x}\r\n{trailed}\r\n0\r\nx-trailer: a\r\ncontent-length: 5\r\n\r\n", trailed.len()),
    ] {
        let said = answer(&relay, format!("{head}{good}").as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 200") && said.ends_with('1'), "{good}: {said}");
    }
    let bad = body("bad");
    let size = format!("{:x}", bad.len());
    for chunks in [
        format!("0x{size}\r\n{bad}\r\n0\r\n\r\n"),
        format!("-{size}\r\n{bad}\r\n0\r\n\r\n"),
        format!("+{size}\r\n{bad}\r\n0\r\n\r\n"),
        format!("{size} {size}\r\n{bad}\r\n0\r\n\r\n"),
        format!("\r\n{bad}\r\n0\r\n\r\n"),
        format!("{size}{bad}\r\n0\r\n\r\n"),
        format!("ffffffffffffffff\r\n{bad}\r\n0\r\n\r\n"),
        format!("1{size:0>32}\r\n{bad}\r\n0\r\n\r\n"),
        format!("1\r\n{bad}\r\n0\r\n\r\n"),
        format!("{size}\r\n{bad}0\r\n\r\n"),
        format!("{size}\r\n{bad}\r\n"),
        format!("{size}\n{bad}\n0\n\n"),
        // A line of extensions without an end.
        format!("{size};{}\r\n{bad}\r\n0\r\n\r\n", "x".repeat(64 << 10)),
    ] {
        let said = exchange(&relay, format!("{head}{chunks}").as_bytes()).await;
        let shown = &chunks[..chunks.len().min(60)];
        assert!(!said.ends_with("\r\n\r\n1"), "{shown:?}: {said}");
    }
    assert_eq!(accepted(&relay).await, 4.0);
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_in_turn() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let mut all: String = (0..50).map(|n| track(&format!("in-turn-{n}"))).collect();
    all.push_str("GET /nowhere HTTP/1.1\r\nhost: relay\r\n\r\n");
    all.push_str("GET /healthz HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n");
    all.push_str(&track("behind-the-close"));
    let said = answer(&relay, all.as_bytes()).await;
    let statuses: Vec<&str> = said.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses.len(), 52, "{said}");
    assert!(statuses[..50].iter().all(|status| *status == "200"), "{statuses:?}");
    assert_eq!(statuses[50..], ["404", "200"]);
    assert_eq!(accepted(&relay).await, 50.0);
}

/// A head is bounded in bytes and in lines, whatever shape it has.
#[tokio::test]
async fn a_head_without_measure_is_refused() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    let long = "a".repeat(1 << 20);
    let many: String = (0..20_000).map(|n| format!("x-{n}: 1\r\n")).collect();
    let same: String = "cookie: a=b\r\n".repeat(20_000);
    let queries: String = (0..100_000).map(|n| format!("&p{n}=1")).collect();
    for head in [
        format!("GET /healthz HTTP/1.1\r\nhost: relay\r\nx-long: {long}\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\nhost: relay\r\n{long}: 1\r\n\r\n"),
        format!("GET /healthz HTTP/1.1\r\nhost: relay\r\n{many}\r\n"),
        format!("GET /healthz HTTP/1.1\r\nhost: relay\r\n{same}\r\n"),
        format!("GET /track?{queries} HTTP/1.1\r\nhost: relay\r\n\r\n"),
        format!("{long} / HTTP/1.1\r\nhost: relay\r\n\r\n"),
        format!("GET /healthz HTTP/1.1{long}"),
        "\r\n".repeat(1 << 20),
    ] {
        let said = exchange(&relay, head.as_bytes()).await;
        let shown = &head[..60];
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{shown:?}: {said}");
    }
    assert!(relay.process().is_running());
    assert_eq!(relay.get("/healthz").await.status, 200);
}
