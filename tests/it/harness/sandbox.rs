//! Both vendors, as a process of their own.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::http::{Client, JSON};
use super::process::Process;
use super::{eventually, same};

pub const TOKEN: &str = "sandbox-token";

/// More than any test sends.
const ALL: usize = 10_000_000;

/// Whether other tests may run beside this one. Held, never read.
enum Turn {
    Shared { _guard: OwnedRwLockReadGuard<()> },
    Alone { _guard: OwnedRwLockWriteGuard<()> },
}

fn turns() -> std::sync::Arc<RwLock<()>> {
    static TURNS: std::sync::OnceLock<std::sync::Arc<RwLock<()>>> = std::sync::OnceLock::new();
    TURNS.get_or_init(std::sync::Arc::default).clone()
}

pub struct Sandbox {
    _process: Process,
    mixpanel: String,
    brevo: String,
    control: String,
    http: Client,
    _dir: TempDir,
    _turn: Turn,
}

impl Sandbox {
    pub async fn start() -> Self {
        Self::new(Turn::Shared { _guard: turns().read_owned().await }).await
    }

    /// For tests that measure time or memory: no other test runs meanwhile.
    pub async fn start_alone() -> Self {
        Self::new(Turn::Alone { _guard: turns().write_owned().await }).await
    }

    async fn new(turn: Turn) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let any = "127.0.0.1:0";
        let arguments = ["sandbox", "--mixpanel", any, "--brevo", any, "--control", any];
        let process = Process::start(&arguments, &dir.path().join("sandbox.log"), "store:").await.unwrap();
        // It prints a configuration for a relay in front of it.
        let address = |before: &str| {
            let found = process.said.split_once(before).unwrap_or_else(|| panic!("no {before} in {}", process.said)).1;
            found.chars().take_while(|&c| c.is_ascii_digit() || c == '.' || c == ':').collect::<String>()
        };
        Self {
            mixpanel: address("ingestion: \"http://"),
            brevo: address("base_url: \"http://"),
            control: address("curl http://"),
            http: Client::new(),
            _process: process,
            _dir: dir,
            _turn: turn,
        }
    }

    /// `host:port` of each of the vendors.
    pub fn mixpanel(&self) -> &str {
        &self.mixpanel
    }

    pub fn brevo(&self) -> &str {
        &self.brevo
    }

    /// `host:port` of its own routes.
    pub fn control_address(&self) -> &str {
        &self.control
    }

    pub async fn control(&self, method: &str, path: &str, body: Value) -> Value {
        let url = format!("http://{}{path}", self.control);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.http.send(method, &url, &[JSON], body).await.unwrap().ok().json()
    }

    pub async fn get(&self, path: &str) -> Value {
        self.control("GET", path, Value::Null).await
    }

    /// `None` when there is no such thing.
    pub async fn find(&self, path: &str) -> Option<Value> {
        let url = format!("http://{}{path}", self.control);
        let answer = self.http.send("GET", &url, &[], "").await.unwrap();
        (answer.status != 404).then(|| answer.ok().json())
    }

    /// Replaces the faults in force.
    pub async fn faults(&self, faults: Value) {
        self.control("PUT", "/faults", faults).await;
    }

    pub async fn heal(&self) {
        self.control("DELETE", "/faults", Value::Null).await;
    }

    pub async fn switch(&self, switches: Value) {
        self.control("PUT", "/switches", switches).await;
    }

    /// Every event that Mixpanel stored, as it came, oldest first.
    pub async fn mixpanel_events(&self) -> Vec<Value> {
        let answer = self.get(&format!("/mixpanel/events?raw=1&limit={ALL}")).await;
        assert_eq!(answer["forgotten"], 0, "the sandbox's log was too small for this test");
        let events = answer["events"].as_array().unwrap();
        events.iter().filter(|event| event["outcome"] == "stored").cloned().collect()
    }

    /// How often each `$insert_id` arrived at Mixpanel.
    pub async fn mixpanel_insert_ids(&self) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for event in self.mixpanel_events().await {
            *ids.entry(event["insert_id"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        ids
    }

    /// The properties of a profile at Mixpanel.
    pub async fn mixpanel_profile(&self, distinct_id: &str) -> Option<Value> {
        let found = self.find(&format!("/mixpanel/profiles/{distinct_id}")).await?;
        Some(found["$properties"].clone())
    }

    /// Profile and group updates as they came.
    pub async fn mixpanel_updates(&self) -> Vec<Value> {
        let answer = self.get(&format!("/mixpanel/updates?limit={ALL}")).await;
        answer["updates"].as_array().unwrap().clone()
    }

    pub async fn mixpanel_counts(&self) -> Value {
        self.get("/mixpanel/counts").await
    }

    pub async fn brevo_counts(&self) -> Value {
        self.get("/brevo/counts").await
    }

    /// Events that Brevo applied to a contact, oldest first.
    pub async fn brevo_events(&self) -> Vec<Value> {
        let answer = self.get(&format!("/brevo/events?outcome=applied&limit={ALL}")).await;
        answer["events"].as_array().unwrap().clone()
    }

    pub async fn brevo_contact(&self, id: &str) -> Option<Value> {
        self.find(&format!("/brevo/contacts/{id}")).await
    }

    /// Waits until Mixpanel has stored as many different events as `expected`.
    pub async fn mixpanel_has_events(&self, expected: usize, within: Duration) {
        eventually(within, async || {
            let records = self.mixpanel_counts().await["records"].clone();
            let stored = records["stored"]["event"].as_u64().unwrap_or(0);
            let duplicates = records["duplicates"]["event"].as_u64().unwrap_or(0);
            same("different events at Mixpanel", stored - duplicates, expected as u64)
        })
        .await;
    }

    /// Makes one fault rule for a vendor's paths that begin so.
    pub fn fault(vendor: &str, path: &str, kind: Value) -> Value {
        let mut fault = json!({ "vendor": vendor });
        if !path.is_empty() {
            fault["path_prefix"] = path.into();
        }
        for (key, value) in kind.as_object().unwrap() {
            fault[key] = value.clone();
        }
        fault
    }
}
