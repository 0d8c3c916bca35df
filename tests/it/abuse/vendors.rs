//! What reaches a vendor of what callers say, and what a vendor, or whoever stands in its place, can make the relay do.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::http::{JSON, gzip};
use crate::harness::records::{event, set};
use crate::harness::sandbox::TOKEN;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually};

const KEY: (&str, &str) = ("authorization", "Bearer reader-key-0123456789");

/// A host that answers everything in one way, and remembers the paths that it was asked for.
struct Host {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Host {
    async fn start(answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static) -> Self {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let heard = asked.clone();
        let app = Router::new().fallback(move |request: Request<Body>| {
            heard.lock().unwrap().push(request.uri().path().to_owned());
            std::future::ready(answer())
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn everything_at(host: &Host) -> Value {
    let url = &host.url;
    json!({
        "connectors": {
            "mixpanel": {
                "oauth_token": "sandbox-oauth",
                "endpoints": { "ingestion": url, "query": url, "app": url, "export": url, "cdn": url },
            },
            "brevo": { "base_url": format!("{url}/v3") },
        },
        "auth": { "api_keys": ["reader-key-0123456789"] },
        "alerts": { "webhooks": [{ "url": format!("{url}/hook"), "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" }] },
    })
}

/// A vendor that sends the relay on, with its credentials and people's data, is not followed: by no client that it has.
#[tokio::test]
async fn no_redirect_is_followed() {
    let sandbox = Sandbox::start().await;
    for status in [301, 307] {
        let elsewhere = Host::start(|| Response::new(Body::from("{}"))).await;
        let to = format!("{}/stolen", elsewhere.url);
        let vendor = Host::start(move || {
            let answer = Response::builder().status(StatusCode::from_u16(status).unwrap()).header("location", &to);
            answer.body(Body::empty()).unwrap()
        })
        .await;
        let relay = Relay::start(&sandbox, everything_at(&vendor)).await;
        relay.take("/track", &json!([event("Purchase", "u", "r-1")])).await;
        relay.take("/engage", &json!([set("u", json!({ "$email": "ada@example.com" }))])).await;
        relay.admin("POST", "/v1/destinations/brevo/pause").await.ok();
        // What a vendor answers is the caller's to follow, or not.
        let caller = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        for (method, path) in [
            ("GET", "/segmentation?event=a"),
            ("POST", "/cohorts/list"),
            ("GET", "/export?from_date=2026-01-01&to_date=2026-01-01"),
            ("GET", "/api/app/me"),
            ("GET", "/lookup-tables"),
            ("GET", "/flags?token=sandbox-token"),
            ("POST", "/record"),
            ("GET", "/lib.min.js"),
        ] {
            let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
            caller.request(method, relay.url(path)).header(KEY.0, KEY.1).send().await.unwrap();
        }
        relay.post("/cohorts/sync", &[KEY, JSON], r#"{"cohortId":1,"targetList":15}"#).await;
        let wanted =
            ["/import", "/engage", "/v3/", "/api/query/segmentation", "/api/app/me", "/hook", "/libs/", "/record"];
        eventually(PATIENCE, async || {
            let asked = vendor.asked();
            let missing = wanted.iter().find(|wanted| !asked.iter().any(|path| path.starts_with(**wanted)));
            missing.map_or(Ok(()), |missing| Err(format!("{missing} was never asked for: {asked:?}")))
        })
        .await;
        assert!(elsewhere.asked().is_empty(), "{status}: {:?}", elsewhere.asked());
    }
}

/// A few kilobytes that a vendor, or who stands in its place, sends for a gigabyte.
#[tokio::test]
async fn a_vendors_bomb_is_not_swallowed() {
    let sandbox = Sandbox::start_alone().await;
    let bomb = gzip(&vec![b' '; 300 << 20]);
    let vendor = Host::start(move || {
        let answer = Response::builder().header("content-encoding", "gzip").header("content-type", "application/json");
        answer.body(Body::from(bomb.clone())).unwrap()
    })
    .await;
    let mut relay = Relay::start(&sandbox, everything_at(&vendor)).await;
    relay.take("/track", &json!([event("Purchase", "u", "b-1")])).await;
    relay.take("/engage", &json!([set("u", json!({ "$email": "ada@example.com" }))])).await;
    relay.send("GET", "/flags?token=sandbox-token", &[KEY], "").await;
    for path in ["/api/app/me", "/lookup-tables"] {
        relay.send("GET", path, &[KEY], "").await;
    }
    relay.post("/cohorts/sync", &[KEY, JSON], r#"{"cohortId":1,"targetList":15}"#).await;
    eventually(PATIENCE, async || {
        let asked = vendor.asked();
        let there = |wanted: &str| asked.iter().any(|path| path.starts_with(wanted));
        if there("/import") && there("/v3/") { Ok(()) } else { Err(format!("{asked:?}")) }
    })
    .await;
    assert_eq!(relay.get("/healthz").await.status, 200);
    let peak = relay.process().peak_resident();
    assert!(peak < 256 << 20, "{} MiB resident", peak >> 20);
}

/// Values as an app may send them become JSON and nothing else: no header, no path, no host.
#[tokio::test]
async fn no_value_becomes_a_header_or_a_path() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "unmapped_events": "forward", "sync": { "groups": true } })).await;
    let hostile = [
        "u\r\nx-injected: 1",
        "../../account?x-injected=1#",
        "http://evil.example/x-injected",
        "%0d%0ax-injected:%201",
        "a@b.example\nbcc: x-injected@evil.example",
        "\u{0}x-injected\u{85}\u{2028}",
        "${x-injected}{{x-injected}}",
    ];
    for (n, value) in hostile.iter().enumerate() {
        let mut tracked = event(value, value, &format!("h-{n}"));
        tracked["properties"]["$device_id"] = json!(value);
        tracked["properties"][value] = json!(value);
        relay.take("/track", &json!([tracked])).await;
        let update = json!({ "$email": value, "$first_name": value, "$phone": value, "plan": value });
        relay
            .take("/engage", &json!([set(value, update), set(value, json!({ "$email": format!("u{n}@example.com") }))]))
            .await;
        let group = json!({ "$token": TOKEN, "$group_key": "company", "$group_id": value, "$set": { "$name": value } });
        relay.take("/groups", &json!([group])).await;
    }
    relay.drained_or_parked("mixpanel").await;
    relay.drained_or_parked("brevo").await;
    // Who asks for a person by such an id does not choose a path either.
    for value in hostile {
        let id: String = form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>().replace('+', "%20");
        relay.admin("GET", &format!("/v1/people/{id}")).await;
        relay.admin("DELETE", &format!("/v1/people/{id}")).await;
    }
    relay.drained_or_parked("brevo").await;
    for vendor in ["mixpanel", "brevo"] {
        let requests = sandbox.get(&format!("/{vendor}/requests?limit=10000")).await;
        let requests = requests["requests"].as_array().unwrap();
        assert!(!requests.is_empty(), "{vendor}");
        for request in requests {
            let (path, headers) = (request["path"].as_str().unwrap(), request["headers"].to_string());
            assert!(!headers.contains("injected") && !headers.contains("evil"), "{request}");
            let own = [
                "/import",
                "/track",
                "/engage",
                "/groups",
                "/api/",
                "/v3/contacts",
                "/v3/events",
                "/v3/companies",
                "/v3/account",
                "/v3/crm/",
            ];
            assert!(own.iter().any(|own| path.starts_with(own)), "{request}");
            assert!(!path.contains("..") && !path.contains("//") && !path.contains("/account?"), "{request}");
            // An identifier is one part of a path, whatever stands in it.
            if let Some(rest) = path.strip_prefix("/v3/contacts/").filter(|rest| rest.contains("injected")) {
                assert!(!rest.contains(['/', '?', '#', '\r', '\n']), "{request}");
            }
        }
    }
}
