//! Calls through a whole edge to a vendor on loopback that records what it was asked.

use std::sync::Mutex;

use axum::Router;
use axum::extract::{Request, State};
use http::Method;
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;

use super::*;
use crate::edge::service::tests::{CONFIG, Edge};
use crate::store::AppendError;

#[derive(Default)]
struct Vendor {
    asked: Mutex<Vec<(Method, String, HeaderMap, Bytes)>>,
    answer: Mutex<(u16, &'static str)>,
}

async fn take(State(vendor): State<Arc<Vendor>>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    vendor.asked.lock().unwrap().push((head.method, head.uri.to_string(), head.headers, body));
    let (status, text) = *vendor.answer.lock().unwrap();
    let mut response = answer::body(StatusCode::from_u16(status).unwrap(), "application/json", text.into());
    response.headers_mut().insert("access-control-allow-origin", HeaderValue::from_static("*"));
    response.headers_mut().insert("x-vendor", HeaderValue::from_static("yes"));
    response.headers_mut().insert("retry-after", HeaderValue::from_static("3"));
    response
}

/// An edge before a vendor that answers 200 `{"flags":{"a":1}}` until told otherwise.
async fn edge() -> (Edge, Arc<Vendor>, tokio::task::JoinHandle<()>) {
    edge_with("").await
}

async fn edge_with(more: &str) -> (Edge, Arc<Vendor>, tokio::task::JoinHandle<()>) {
    let vendor = Arc::new(Vendor::default());
    *vendor.answer.lock().unwrap() = (200, r#"{"flags":{"a":1}}"#);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let app = Router::new().fallback(take).with_state(vendor.clone());
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let endpoints = format!("endpoints: {{ ingestion: \"{base}/up\", cdn: \"{base}/cdn\" }}\n    project_id:");
    (Edge::new(&(CONFIG.replace("project_id:", &endpoints) + more)), vendor, task)
}

fn request(method: &str, uri: &str, body: &'static [u8]) -> http::Request<Body> {
    http::Request::builder()
        .method(method)
        .uri(uri)
        .header("host", "relay.example")
        .header("origin", "https://shop.example")
        .header("authorization", "Basic dG9rOg==")
        .header("cookie", "session=secret")
        .header("x-forwarded-for", "6.6.6.6")
        .header("connection", "x-mine")
        .header("x-mine", "1")
        .body(Body::from(body))
        .unwrap()
}

#[tokio::test]
async fn a_call_arrives_as_it_was_made_and_so_does_its_answer() {
    let (edge, vendor, _task) = edge().await;
    *edge.journal.failure.lock().unwrap() = Some(AppendError::DiskFull { free: 0, watermark: 1 });
    // Session replay is gzip without a header that says so.
    let bytes: &[u8] = &[0x1f, 0x8b, 0, 255, 7];
    let (status, headers, body) = edge.send(request("POST", "/m/record/?format=gzip&seq=0", bytes)).await;
    assert_eq!((status.as_u16(), body.as_str()), (200, r#"{"flags":{"a":1}}"#));
    assert_eq!(headers["x-vendor"], "yes");
    let origins: Vec<_> = headers.get_all("access-control-allow-origin").iter().collect();
    assert_eq!(origins, ["https://shop.example"]);

    let (method, uri, headers, sent) = vendor.asked.lock().unwrap().remove(0);
    assert_eq!((method, uri.as_str(), &sent[..]), (Method::POST, "/up/record/?format=gzip&seq=0", bytes));
    assert_eq!(headers["authorization"], "Basic dG9rOg==");
    assert_eq!(headers["x-forwarded-for"], "203.0.113.7");
    assert_eq!(headers["x-real-ip"], "203.0.113.7");
    assert_ne!(headers["host"], "relay.example");
    assert!(!headers.contains_key("cookie") && !headers.contains_key("x-mine"));
}

#[tokio::test]
async fn the_address_is_passed_on_as_far_as_the_privacy_rule_allows() {
    for (policy, expected) in [("truncate", Some("203.0.113.0")), ("drop", None)] {
        let (edge, vendor, _task) = edge_with(&format!("\nprivacy: {{ ip: {policy} }}\n")).await;
        edge.send(request("POST", "/record", b"x")).await;
        let (_, _, headers, _) = vendor.asked.lock().unwrap().remove(0);
        for name in CALLER {
            assert_eq!(headers.get(&name).map(|value| value.to_str().unwrap()), expected, "{name}, {policy}");
        }
    }
}

#[tokio::test]
async fn every_route_goes_where_the_vendor_serves_it() {
    let (edge, vendor, _task) = edge().await;
    for (asked, arrives) in [
        ("/flags?context=%7B%7D&token=tok", "/up/flags?context=%7B%7D&token=tok"),
        ("/flags/definitions", "/up/flags/definitions"),
        ("/settings/?sdk_config=1", "/up/settings/?sdk_config=1"),
        ("/m/settings", "/up/settings"),
        ("/decide?v=1", "/up/decide?v=1"),
        ("/lib.min.js", "/cdn/libs/mixpanel-2-latest.min.js"),
        ("/m/lib.js", "/cdn/libs/mixpanel-2-latest.js"),
        ("/libs/async-modules/recorder-1.js?x=1", "/cdn/libs/async-modules/recorder-1.js?x=1"),
    ] {
        assert_eq!(edge.send(request("GET", asked, b"")).await.0, 200, "{asked}");
        assert_eq!(vendor.asked.lock().unwrap().remove(0).1, arrives);
    }
}

#[tokio::test]
async fn a_path_cannot_climb() {
    let (edge, vendor, _task) = edge().await;
    for path in [
        "/libs/../track",
        "/libs/%2e%2e/track",
        "/flags/a%2Fb",
        "/flags/..%5c",
        "/libs//host/x",
        "/libs/%252e%252e/x",
        "/libs/..;/x",
        "/libs/%c0%ae/x",
        "/flags/%0d%0ax",
    ] {
        assert_eq!(edge.send(request("GET", path, b"")).await.0, 404, "{path}");
    }
    assert!(vendor.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn flags_outlive_the_vendor_for_a_while() {
    let (edge, vendor, task) = edge().await;
    let ask = |query: &str| request("GET", &format!("/flags/?context={query}"), b"");
    let good = r#"{"flags":{"a":1}}"#;
    assert_eq!(edge.send(ask("u1")).await.2, good);
    *vendor.answer.lock().unwrap() = (502, "bad gateway");
    assert_eq!(edge.send(ask("u1")).await.2, good);
    assert_eq!(edge.send(ask("u2")).await.2, r#"{"flags":{}}"#);
    // What the vendor refuses is its answer, not its failure.
    *vendor.answer.lock().unwrap() = (401, "no");
    assert_eq!(edge.send(ask("u1")).await.0, 401);
    task.abort();
    drop(task.await);
    let (status, headers, body) = edge.send(ask("u1")).await;
    assert_eq!((status.as_u16(), body.as_str()), (200, good));
    assert!(headers.contains_key("access-control-allow-origin"));
    edge.clock.advance(Duration::from_secs(601));
    assert_eq!(edge.send(ask("u1")).await.2, r#"{"flags":{}}"#);
}

#[tokio::test]
async fn without_the_vendor_each_route_has_an_answer_that_sdks_survive() {
    let (edge, vendor, task) = edge().await;
    *vendor.answer.lock().unwrap() = (404, "retired");
    assert_eq!(edge.send(request("GET", "/decide", b"")).await.2.as_bytes(), DECIDE);
    *vendor.answer.lock().unwrap() = (429, "slow down");
    let (status, headers, _) = edge.send(request("POST", "/record", b"x")).await;
    assert_eq!((status.as_u16(), &headers["retry-after"]), (429, &HeaderValue::from(3)));
    task.abort();
    drop(task.await);
    for path in ["/record", "/settings", "/m/lib.min.js"] {
        let method = if path == "/record" { "POST" } else { "GET" };
        let (status, headers, _) = edge.send(request(method, path, b"")).await;
        assert_eq!(status, 503, "{path}");
        assert!(headers.contains_key("retry-after") && headers.contains_key("access-control-allow-origin"));
    }
    assert_eq!(edge.send(request("GET", "/decide", b"")).await.2.as_bytes(), DECIDE);
}
