//! The relay, as a process of its own on a store of its own.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::{Answer, Client, JSON};
use super::metrics::Balance;
use super::process::Process;
use super::sandbox::TOKEN;
use super::{Disk, Metrics, PATIENCE, Sandbox, eventually, same};

pub const ADMIN_TOKEN: &str = "test-admin-token";
/// Basic credentials of the sandbox's service account, which opens `/import`.
pub const SERVICE_ACCOUNT: (&str, &str) = ("authorization", "Basic c2FuZGJveC1zYTpzYW5kYm94LXNlY3JldA==");

pub struct Relay {
    process: Process,
    http: Client,
    address: String,
    config: Value,
    dir: TempDir,
    /// Beneath the store, when it is to fail.
    disk: Option<Disk>,
}

/// The tests' configuration: both vendors at the sandbox, a mapping for each kind of thing, a private store.
fn config(sandbox: &Sandbox, dir: &Path) -> Value {
    let mixpanel = format!("http://{}", sandbox.mixpanel());
    json!({
        "connectors": {
            "mixpanel": {
                "project_token": TOKEN,
                "service_account": { "username": "sandbox-sa", "secret": "sandbox-secret" },
                "project_id": "12345",
                "endpoints": {
                    "ingestion": mixpanel, "query": mixpanel, "app": mixpanel, "export": mixpanel, "cdn": mixpanel,
                },
            },
            "brevo": { "api_key": "xkeysib-sandbox", "base_url": format!("http://{}/v3", sandbox.brevo()) },
        },
        "lists": { "all_users": 15 },
        "event_mapping": { "Purchase": "order_completed", "Sign Up": "customer_created" },
        "property_mapping": {
            "$email": "email", "$first_name": "FIRSTNAME", "plan": "PLAN_TYPE", "signup_date": "SIGNUP_DATE",
            "total_revenue": "LTV",
        },
        "privacy": { "consent": "none" },
        "server": { "listen": "127.0.0.1:0" },
        "auth": { "admin_token": ADMIN_TOKEN },
        "store": format!("sqlite:{}", dir.join("mixrelay.db").display()),
        // The tests are about the relay, not about the machine that they happen to run on.
        "store_min_free": "16MiB",
        "allow_volatile_store": true,
    })
}

/// Objects are merged key by key, null takes a key away, everything else replaces.
pub fn merge(into: &mut Value, tweaks: Value) {
    match (into, tweaks) {
        (Value::Object(into), Value::Object(tweaks)) => {
            for (key, value) in tweaks {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert_with(|| json!({})), value);
                }
            }
        }
        (into, tweaks) => *into = tweaks,
    }
}

impl Relay {
    pub async fn start(sandbox: &Sandbox, tweaks: Value) -> Self {
        match Self::try_start(sandbox, tweaks).await {
            Ok(relay) => relay,
            Err((status, log)) => panic!("the relay did not start, {status}:\n{log}"),
        }
    }

    /// On a disk that can be made to fail, if there is one.
    pub async fn start_on(sandbox: &Sandbox, tweaks: Value, disk: Option<Disk>) -> Self {
        match Self::try_start_on(sandbox, tweaks, disk).await {
            Ok(relay) => relay,
            Err((status, log)) => panic!("the relay did not start, {status}:\n{log}"),
        }
    }

    /// The error is how the process ended instead of starting, and what it said.
    pub async fn try_start(sandbox: &Sandbox, tweaks: Value) -> Result<Self, (ExitStatus, String)> {
        Self::try_start_on(sandbox, tweaks, None).await
    }

    async fn try_start_on(sandbox: &Sandbox, tweaks: Value, disk: Option<Disk>) -> Result<Self, (ExitStatus, String)> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut config = config(sandbox, dir.path());
        if let Some(disk) = &disk {
            config["store"] = format!("sqlite:{}", disk.store().join("mixrelay.db").display()).into();
        }
        merge(&mut config, tweaks);
        write_config(dir.path(), &config);
        let process = match launch(dir.path(), disk.as_ref()).await {
            Ok(process) => process,
            Err(status) => return Err((status, std::fs::read_to_string(log(dir.path())).unwrap())),
        };
        let address = listening(&process, "listening");
        // Restarts come back where the apps look for them.
        config["server"]["listen"] = address.clone().into();
        write_config(dir.path(), &config);
        Ok(Self { process, http: Client::new(), address, config, dir, disk })
    }

    /// Starts again on the same store and address, after [`Self::kill`] or [`Self::terminate`].
    pub async fn start_again(&mut self) {
        self.try_start_again().await.unwrap_or_else(|status| {
            panic!("the relay did not start again, {status}:\n{}", std::fs::read_to_string(self.log()).unwrap())
        });
    }

    /// The same; the error is how it ended instead.
    pub async fn try_start_again(&mut self) -> Result<(), ExitStatus> {
        self.process = launch(self.dir.path(), self.disk.as_ref()).await?;
        Ok(())
    }

    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// Changes the configuration for the next start.
    pub fn configure(&mut self, tweaks: Value) {
        merge(&mut self.config, tweaks);
        write_config(self.dir.path(), &self.config);
    }

    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    pub async fn terminate(&mut self) -> ExitStatus {
        self.process.terminate().await
    }

    /// `host:port` of the private listener, when there is one.
    pub fn admin_address(&self) -> String {
        listening(&self.process, "admin")
    }

    /// Lets the private listener come back where it was after a restart, as the public one does.
    pub fn keep_admin_address(&mut self) {
        let address = self.admin_address();
        self.configure(json!({ "server": { "admin_listen": address } }));
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// `host:port`, the same after every restart.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    pub fn log(&self) -> PathBuf {
        log(self.dir.path())
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn http(&self) -> &Client {
        &self.http
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        self.http.send(method, &self.url(path), headers, body).await.unwrap()
    }

    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Answer {
        self.send("POST", path, headers, body).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// Posts JSON to `/track`, `/engage` or `/groups` as SDKs do, and fails the test unless it is taken.
    #[track_caller]
    pub fn take(&self, path: &str, records: &Value) -> impl Future<Output = ()> + use<'_> {
        let (path, body) = (path.to_owned(), records.to_string());
        async move {
            let answer = self.post(&format!("{path}?ip=0"), &[JSON], body).await.ok();
            assert_eq!(answer.body, "1", "{path}: {answer:?}");
        }
    }

    pub async fn admin(&self, method: &str, path: &str) -> Answer {
        let bearer = format!("Bearer {ADMIN_TOKEN}");
        self.send(method, path, &[("authorization", &bearer)], "").await
    }

    /// The destination's dead letters, once there are `expected`: they are written down with the next checkpoint.
    pub async fn dead_letters(&self, destination: &str, expected: usize) -> Vec<Value> {
        let path = format!("/v1/dead-letters?destination={destination}&limit=1000");
        eventually(PATIENCE, async || {
            let page = self.admin("GET", &path).await.ok().json();
            let items = page["items"].as_array().unwrap().clone();
            same("dead letters", items.len(), expected).map(|()| items)
        })
        .await
    }

    /// Runs a subcommand on the relay's configuration: its exit code, what it said, and what it complained about.
    pub async fn command(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mixrelay"));
        command.args(arguments).arg("--config").arg(self.directory().join("mixrelay.yaml"));
        let output = command.stdin(std::process::Stdio::null()).output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.admin("GET", "/metrics").await.ok().body)
    }

    pub async fn balance(&self, destination: &str) -> Balance {
        self.metrics().await.balance(destination)
    }

    /// Waits for a quiet moment at which the destination's numbers are `expected`, the sum included.
    pub async fn settles(&self, destination: &str, expected: Balance) {
        assert!(expected.adds_up(), "the test's own arithmetic: {expected:?}");
        eventually(PATIENCE, async || {
            let found = self.balance(destination).await;
            if found == expected {
                Ok(())
            } else {
                Err(format!("{destination}: found {found:?}, expected {expected:?}"))
            }
        })
        .await;
    }

    /// Waits until nothing accepted is still owed to the destination; what has no address may stay parked.
    pub async fn drained_or_parked(&self, destination: &str) -> Balance {
        eventually(PATIENCE, async || {
            let balance = self.balance(destination).await;
            let settled = balance.backlog == 0 && balance.adds_up();
            if settled { Ok(balance) } else { Err(format!("{destination}: {balance:?}")) }
        })
        .await
    }

    /// Waits until nothing accepted is still owed to the destination, nor parked: a person's records may wait on a shelf
    /// for a moment while what they depend on is under way.
    pub async fn drained(&self, destination: &str) -> Balance {
        eventually(PATIENCE, async || {
            let balance = self.balance(destination).await;
            let settled = balance.backlog == 0 && balance.parked == 0 && balance.adds_up();
            if settled { Ok(balance) } else { Err(format!("{destination}: {balance:?}")) }
        })
        .await
    }
}

fn listening(process: &Process, which: &str) -> String {
    let said: Value = serde_json::from_str(&process.said).unwrap();
    said[which].as_str().unwrap_or_else(|| panic!("no {which} in {said}")).to_owned()
}

fn log(dir: &Path) -> PathBuf {
    dir.join("relay.log")
}

/// JSON is YAML, and JSON can be merged.
fn write_config(dir: &Path, config: &Value) {
    std::fs::write(dir.join("mixrelay.yaml"), serde_json::to_string_pretty(config).unwrap()).unwrap();
}

async fn launch(dir: &Path, disk: Option<&Disk>) -> Result<Process, ExitStatus> {
    let path = dir.join("mixrelay.yaml");
    let environment = disk.map(Disk::environment).unwrap_or_default();
    Process::start_with(&["serve", "--config", path.to_str().unwrap()], &environment, &log(dir), "{").await
}
