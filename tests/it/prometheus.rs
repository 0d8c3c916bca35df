//! A real Prometheus scrapes real relays by the shipped configuration and loads the shipped rules: every query of the
//! dashboard is answered with data, each rule fires on the fault that it names, and none on the relay that is well.
//!
//! What takes long there is shortened here, by one rule: a minute of `for:` is a second, and the relays are looked at
//! every second. `promtool test rules` (`alerts.rs`) holds the same rules at their own times.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::http::{Client, JSON};
use crate::harness::records::{event, set};
use crate::harness::relay::SERVICE_ACCOUNT;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

fn shipped(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)).unwrap()
}

/// The shipped rules with a second for each minute of `for:`; nothing else is changed.
fn quick_rules() -> String {
    let quick = |line: &str| match line.trim().strip_prefix("for: ") {
        Some(long) => format!("        for: {}s", long.strip_suffix('m').expect("a time in minutes")),
        None => line.to_owned(),
    };
    shipped("prometheus/mixrelay.rules.yml").lines().map(quick).collect::<Vec<_>>().join("\n")
}

/// The shipped configuration for these relays, looked at every second.
fn configuration(rules: &Path, relays: &[&Relay]) -> String {
    let addresses: Vec<String> = relays.iter().map(|relay| format!("{:?}", relay.admin_address())).collect();
    let changes = [
        ("15s", "1s"),
        ("/etc/prometheus/mixrelay.rules.yml", rules.to_str().unwrap()),
        (r#""relay:9090""#, &addresses.join(", ")),
    ];
    changes.into_iter().fold(shipped("prometheus/prometheus.yml"), |text, (from, to)| {
        assert!(text.contains(from), "no {from} in the shipped configuration");
        text.replace(from, to)
    })
}

struct Prometheus {
    child: Child,
    address: String,
    http: Client,
    _dir: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Prometheus {
    async fn start(relays: &[&Relay]) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (file, rules) = (dir.path().join("prometheus.yml"), dir.path().join("mixrelay.rules.yml"));
        std::fs::write(&rules, quick_rules()).unwrap();
        std::fs::write(&file, configuration(&rules, relays)).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdout(Stdio::null())
            .spawn()
            .expect("tests/setup.sh installs prometheus");
        let prometheus = Self { child, address, http: Client::new(), _dir: dir };
        eventually(PATIENCE, async || {
            let url = format!("http://{}/-/ready", prometheus.address);
            let answer = prometheus.http.send("GET", &url, &[], "").await.map_err(|error| error.to_string())?;
            same("ready", answer.status, 200)
        })
        .await;
        prometheus
    }

    async fn api(&self, path: &str) -> Value {
        let answer = self.http.send("GET", &format!("http://{}/api/v1/{path}", self.address), &[], "").await.unwrap();
        answer.ok().json()["data"].clone()
    }

    /// The series that a query answers with.
    async fn query(&self, expression: &str) -> Vec<Value> {
        let query: String = url::form_urlencoded::byte_serialize(expression.as_bytes()).collect();
        self.api(&format!("query?query={query}")).await["result"].as_array().unwrap().clone()
    }

    /// Every alert that fires for a relay, as `name` or `name destination`.
    async fn firing(&self, relay: &Relay) -> BTreeSet<String> {
        let instance = relay.admin_address();
        let of_it = |alert: &&Value| alert["labels"]["instance"] == *instance && alert["state"] == "firing";
        let name = |alert: &Value| {
            let label = |name: &str| alert["labels"][name].as_str();
            let about = label("destination").map(|destination| format!(" {destination}")).unwrap_or_default();
            format!("{}{about}", label("alertname").unwrap())
        };
        self.api("alerts").await["alerts"].as_array().unwrap().iter().filter(of_it).map(name).collect()
    }

    /// Waits until exactly these fire for a relay.
    async fn fires(&self, relay: &Relay, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
        eventually(PATIENCE, async || same("alerts", self.firing(relay).await, expected.clone())).await;
    }
}

/// The queries of the dashboard's panels.
fn dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&shipped("grafana/mixrelay.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

fn is_number(series: &Value) -> bool {
    series["value"][1].as_str().and_then(|value| value.parse().ok()).is_some_and(|value: f64| !value.is_nan())
}

/// Brevo refuses its key, Mixpanel refuses a record for good, an app has another project's token, the hour's questions
/// are used up, and an erasure is refused.
async fn hurt(sandbox: &Sandbox, relay: &Relay) {
    relay.take("/engage", &json!([set("u", json!({ "$email": "u@example.com" }))])).await;
    relay.take("/track", &json!([event("Purchase", "00000000-0000-0000-0000-000000000000", "placeholder")])).await;
    let stranger = json!([{ "event": "x", "properties": { "token": "of-another-project", "distinct_id": "u" } }]);
    assert_eq!(relay.post("/track?ip=0", &[JSON], stranger.to_string()).await.ok().body, "0");
    let spent = "Query rate limit exceeded for project_id: 12345. 1/5 queries running concurrently and 61/60 queries \
                 running in the last hour.";
    let limited = json!({ "kind": "status", "status": 429, "body": { "request": "x", "error": spent } });
    let refused =
        json!({ "kind": "status", "status": 403, "body": { "status": "error", "error": "no such privilege" } });
    sandbox
        .faults(json!([
            Sandbox::fault("mixpanel", "/api/query", limited),
            Sandbox::fault("mixpanel", "/api/app/data-deletions", refused),
        ]))
        .await;
    let question = relay.send("GET", "/events/names?type=general", &[SERVICE_ACCOUNT], "").await;
    assert_eq!(question.status, 429, "{question:?}");
    relay.admin("DELETE", "/v1/people/somebody").await;
    eventually(PATIENCE, async || {
        let receipt = relay.admin("GET", "/v1/erasures").await.ok().json()["items"][0].clone();
        same("Mixpanel's side", &receipt["mixpanel"]["state"]["is"], &json!("failed"))
    })
    .await;
    sandbox.heal().await;
}

/// A value has no place at Brevo, and a mirror would empty its list.
async fn misconfigure(sandbox: &Sandbox, relay: &Relay) {
    let contacts: Vec<Value> =
        (0..4).map(|n| json!({ "email": format!("p{n}@example.com"), "list_ids": [16] })).collect();
    sandbox.control("POST", "/brevo/seed", json!({ "lists": [{ "id": 16, "name": "Engaged" }] })).await;
    sandbox.control("POST", "/brevo/seed", json!({ "contacts": contacts })).await;
    let cohort = json!({ "id": 7, "name": "Engaged users", "members": [] });
    sandbox.control("POST", "/mixpanel/seed", json!({ "cohorts": [cohort] })).await;
    relay.take("/engage", &json!([set("v", json!({ "$email": "v@example.com", "shoe": 44 }))])).await;
    let order = json!({ "cohortId": 7, "targetList": 16, "syncMode": "mirror" });
    let stopped = relay.post("/cohorts/sync", &[SERVICE_ACCOUNT, JSON], order.to_string()).await;
    assert_eq!(stopped.status, 409, "{stopped:?}");
}

/// A record of every ending that a relay in good health knows.
async fn work(relay: &Relay, n: usize) {
    relay.take("/engage", &json!([set("ada", json!({ "$email": "ada@example.com", "plan": "pro" }))])).await;
    let events = [("Purchase", "ada"), ("Viewed", "ada"), ("Purchase", "nobody-yet")];
    let events = events.map(|(name, id)| event(name, id, &format!("{id}-{name}-{n}")));
    relay.take("/track", &json!(events)).await;
}

#[tokio::test]
async fn rules_fire_on_the_faults_they_name_and_a_dashboard_shows_what_is_there() {
    let sandbox = Sandbox::start().await;
    let own_port = json!({ "server": { "admin_listen": "127.0.0.1:0" } });
    let with = |more: Value| {
        let mut tweaks = own_port.clone();
        crate::harness::relay::merge(&mut tweaks, more);
        tweaks
    };
    let well = Relay::start(&sandbox, own_port.clone()).await;
    let refused =
        json!({ "brevo": { "api_key": "xkeysib-of-somebody-else" }, "mixpanel": { "oauth_token": "sandbox-oauth" } });
    let hurting = Relay::start(&sandbox, with(json!({ "connectors": refused }))).await;
    let no_place = json!({ "property_mapping": { "shoe": "SHOE_SIZE" }, "connectors": { "brevo": { "create_attributes": false } } });
    let mut astray = Relay::start(&sandbox, with(no_place)).await;
    astray.keep_admin_address();
    let prometheus = Prometheus::start(&[&well, &hurting, &astray]).await;

    // Two looks at each while nothing is wrong: what grows afterwards has something to grow from.
    eventually(PATIENCE, async || {
        let seen = prometheus.query("count_over_time(mixrelay_dead_letters{destination=\"brevo\"}[1h]) >= 2").await;
        same("relays seen twice", seen.len(), 3)
    })
    .await;
    work(&well, 0).await;
    hurt(&sandbox, &hurting).await;
    misconfigure(&sandbox, &astray).await;
    let of_the_hurt = [
        "MixrelayBudgetExhausted",
        "MixrelayDeadLettersGrow mixpanel",
        "MixrelayDestinationPaused brevo",
        "MixrelayErasureFailed",
        "MixrelayUnknownToken",
    ];
    prometheus.fires(&hurting, &of_the_hurt).await;
    let astray_by = ["MixrelayAttributeNotPlaced", "MixrelayBrakePulled"];
    prometheus.fires(&astray, &astray_by).await;

    // Its disk is full, and then it is gone.
    assert!(astray.terminate().await.success());
    astray.configure(json!({ "store_min_free": "1000000GiB" }));
    astray.start_again().await;
    prometheus.fires(&astray, &[&astray_by[..], &["MixrelayRefuses"]].concat()).await;
    astray.terminate().await;
    prometheus.fires(&astray, &[&astray_by[..], &["MixrelayDown"]].concat()).await;

    work(&well, 1).await;
    well.drained_or_parked("brevo").await;
    for expression in dashboard() {
        eventually(PATIENCE, async || {
            let found = prometheus.query(&expression).await;
            if found.iter().any(is_number) { Ok(()) } else { Err(format!("{expression}: {found:?}")) }
        })
        .await;
    }
    let rules = prometheus.api("rules").await;
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    let shipped = shipped("prometheus/mixrelay.rules.yml").matches("- alert: ").count();
    let sound = rules.iter().filter(|rule| rule["health"] == "ok").count();
    assert_eq!((rules.len(), sound), (shipped, shipped), "{rules:?}");
    // Nothing was ever about to fire for the one that is well.
    let ever = format!("count_over_time(ALERTS{{instance={:?}}}[1h])", well.admin_address());
    assert_eq!(prometheus.query(&ever).await, Vec::<Value>::new());
}
