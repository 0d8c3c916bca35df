//! Alerts as webhooks: signed, told once, not again after a restart. And the rules for Prometheus, by its own tool.

use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::harness::http::JSON;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

const SECRET: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[derive(Clone, Default)]
struct Receiver {
    taken: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    /// Refuses the first message once, then takes everything whose signature holds.
    async fn start() -> (Self, String) {
        let receiver = Self::default();
        let (all, refused) = (receiver.clone(), Arc::new(Mutex::new(false)));
        let app = Router::new().route(
            "/hook",
            post(move |headers: HeaderMap, body: Bytes| {
                let first = !std::mem::replace(&mut *refused.lock().unwrap(), true);
                if !first {
                    all.take(&headers, &body);
                }
                let status = if first { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT };
                std::future::ready(status)
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (receiver, url)
    }

    fn take(&self, headers: &HeaderMap, body: &[u8]) {
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        let mut mac = Hmac::<Sha256>::new_from_slice(&BASE64.decode(SECRET).unwrap()).unwrap();
        mac.update(format!("{}.{}.", text("webhook-id"), text("webhook-timestamp")).as_bytes());
        mac.update(body);
        let expected = format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()));
        assert_eq!(text("webhook-signature"), expected);
        self.taken.lock().unwrap().push(serde_json::from_slice(body).unwrap());
    }

    fn kinds(&self) -> Vec<String> {
        let mut kinds: Vec<_> =
            self.taken.lock().unwrap().iter().map(|it| it["type"].as_str().unwrap().to_owned()).collect();
        kinds.sort();
        kinds
    }

    async fn has(&self, expected: &[&str]) {
        eventually(PATIENCE, async || {
            same("alerts", self.kinds(), expected.iter().map(|it| (*it).to_owned()).collect())
        })
        .await;
    }
}

#[tokio::test]
async fn each_cause_is_told_once_signed_and_not_again_after_a_restart() {
    let sandbox = Sandbox::start().await;
    let (receiver, url) = Receiver::start().await;
    let alerts = json!({ "webhooks": [{ "url": url, "secret": format!("whsec_{SECRET}") }] });
    let mut relay = Relay::start(&sandbox, json!({ "alerts": alerts })).await;
    relay.admin("POST", "/v1/destinations/brevo/pause").await.ok();
    receiver.has(&["mixrelay.destination_paused"]).await;
    let told = receiver.taken.lock().unwrap()[0].clone();
    assert_eq!(told["data"]["subject"], "brevo");
    assert!(told["data"]["text"].as_str().unwrap().contains("paused by hand"), "{told}");

    relay.terminate().await;
    relay.start_again().await;
    let stranger = json!([{ "event": "x", "properties": { "token": "of-another-project", "distinct_id": "u" } }]);
    for _ in 0..3 {
        assert_eq!(relay.post("/track?ip=0", &[JSON], stranger.to_string()).await.ok().body, "0");
    }
    // The pause goes on, and was told within the hour; the token is new.
    receiver.has(&["mixrelay.destination_paused", "mixrelay.unknown_token"]).await;
    let metrics = relay.admin("GET", "/metrics").await.ok().body;
    assert!(metrics.contains("mixrelay_alerts_total{cause=\"unknown_token\"} 3"), "{metrics}");
    assert!(metrics.contains("mixrelay_alerts_total{cause=\"brake_pulled\"} 0"), "{metrics}");
    for gauge in ["mixrelay_store_room_bytes ", "mixrelay_store_refuses 0", "mixrelay_disk_hours_left "] {
        assert!(metrics.contains(gauge), "no {gauge} in {metrics}");
    }
}

/// CORE 12: an erasure that a vendor refuses for good does not end in silence.
#[tokio::test]
async fn core_12_an_erasure_that_mixpanel_refuses_is_told() {
    let sandbox = Sandbox::start().await;
    let (receiver, url) = Receiver::start().await;
    let alerts = json!({ "webhooks": [{ "url": url, "secret": format!("whsec_{SECRET}") }] });
    let mixpanel = json!({ "mixpanel": { "oauth_token": "sandbox-oauth" } });
    let relay = Relay::start(&sandbox, json!({ "alerts": alerts, "connectors": mixpanel })).await;
    let refusal =
        json!({ "kind": "status", "status": 403, "body": { "status": "error", "error": "no such privilege" } });
    sandbox.faults(Sandbox::fault("mixpanel", "/api/app/data-deletions", refusal)).await;
    relay.admin("DELETE", "/v1/people/ada").await;
    receiver.has(&["mixrelay.erasure_failed"]).await;
    let receipt = relay.admin("GET", "/v1/erasures").await.ok().json()["items"][0].clone();
    assert_eq!(receipt["mixpanel"]["state"]["is"], "failed", "{receipt}");
    assert_eq!(receipt["brevo"]["state"]["is"], "done", "{receipt}");
    assert!(receipt["mixpanel"]["said"].as_str().unwrap().contains("no such privilege"), "{receipt}");
    assert!(receipt["finished_at"].is_string(), "{receipt}");
}

#[test]
fn the_rules_for_prometheus_fire_on_what_they_name_and_on_nothing_else() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");
    for args in [["check", "rules", "mixrelay.rules.yml"], ["test", "rules", "mixrelay.rules.test.yml"]] {
        let done =
            Command::new("promtool").args(args).current_dir(dir).output().expect("tests/setup.sh installs promtool");
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "promtool {args:?}: {said}");
    }
}
