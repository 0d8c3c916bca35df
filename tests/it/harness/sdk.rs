//! Mixpanel's own SDKs, each in a process of its own (`tests/sdk/`), and how what arrived is held against what they were
//! told to send.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::relay::ADMIN_TOKEN;
use super::sandbox::TOKEN;
use super::{Relay, Sandbox};

/// A browser's start on two busy cores is slow; nothing else takes long.
const PATIENCE: Duration = Duration::from_secs(120);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn installed(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: run tests/setup.sh", path.display());
    path
}

fn node(script: &str) -> Command {
    let directory = root().join("tests/sdk/node");
    installed(directory.join("node_modules/.installed"));
    let mut command = Command::new("node");
    command.arg(script).current_dir(directory);
    command
}

/// Starts a driver; its complaints go where the test's output goes.
fn start(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    // Loopback is reached directly, whatever the machine's settings for the rest.
    for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy).env_remove(proxy.to_uppercase());
    }
    command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}; run tests/setup.sh"))
}

/// Gives a driver its plan, and returns the errors that the SDK reported.
async fn run(command: Command, plan: Value) -> Vec<String> {
    let report = report(command, plan).await;
    report["errors"].as_array().unwrap().iter().map(|error| error.as_str().unwrap().to_owned()).collect()
}

/// Gives a driver its plan, and returns what it says at its end.
async fn report(command: Command, plan: Value) -> Value {
    let mut child = start(command);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(plan.to_string().as_bytes()).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("the driver hangs").unwrap();
    assert!(output.status.success(), "the driver ended with {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// npm's `mixpanel`. `calls` are `[method, [argument, ...]]`.
pub async fn run_node(host: &str, api_key: &str, verbose: bool, calls: Value) -> Vec<String> {
    let calls: Vec<Value> = pairs(&calls).map(|(method, args)| json!({ "method": method, "args": args })).collect();
    let plan = json!({ "host": host, "key": api_key, "token": TOKEN, "verbose": verbose, "calls": calls });
    run(node("server.js"), plan).await
}

fn python(script: &str) -> Command {
    let mut command = Command::new(installed(root().join(".cache/sdk-python/bin/python")));
    command.arg(root().join("tests/sdk/python").join(script));
    command
}

/// PyPI's `mixpanel-utils` with an API key of the relay's. `calls` are `{"method", "args", "kwargs"}`; what each returned.
pub async fn run_reader(base: &str, key: &str, calls: Value) -> Vec<Value> {
    let report = report(python("reader.py"), json!({ "base": base, "key": key, "calls": calls })).await;
    report["answers"].as_array().unwrap().clone()
}

/// A client of the read side that somebody else has written (`clients.py` says which there are), with an API key of the
/// relay's; what it has read.
pub async fn run_client(base: &str, key: &str, mut plan: Value) -> Value {
    plan["base"] = base.into();
    plan["key"] = key.into();
    report(python("clients.py"), plan).await
}

/// PyPI's `mixpanel`. `calls` are `[method, [argument, ...]]`.
pub async fn run_python(base: &str, buffered: bool, calls: &Value) -> Vec<String> {
    let command = python("driver.py");
    let calls: Vec<Value> = pairs(calls).map(|(method, args)| json!({ "method": method, "args": args })).collect();
    run(command, json!({ "base": base, "token": TOKEN, "buffered": buffered, "calls": calls })).await
}

fn pairs(calls: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    calls.as_array().unwrap().iter().map(|call| (&call[0], &call[1]))
}

/// `mixpanel-browser` on a page in headless Chromium.
pub struct Browser {
    _child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Browser {
    /// Opens the page; the SDK is loaded and not initialised.
    pub async fn open() -> Self {
        let mut child = start(node("browser.js"));
        let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut browser = Self { _child: child, stdin, stdout };
        assert_eq!(browser.hear().await, json!({ "ready": true }));
        browser.go_to_page().await;
        browser
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, self.stdout.read_line(&mut line)).await.expect("the browser hangs").unwrap();
        assert!(!line.is_empty(), "the browser's driver has ended; is everything there? run tests/setup.sh");
        serde_json::from_str(&line).unwrap()
    }

    async fn ask(&mut self, command: Value) -> Value {
        self.stdin.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let answer = self.hear().await;
        assert!(answer.get("error").is_none(), "{command}: {answer}");
        answer["value"].clone()
    }

    /// Loads the page anew; returns its origin.
    pub async fn go_to_page(&mut self) -> String {
        self.ask(json!({ "goto": "page" })).await.as_str().unwrap().to_owned()
    }

    /// Leaves the page, as a click on a link to elsewhere does.
    pub async fn go_away(&mut self) {
        self.ask(json!({ "goto": "away" })).await;
    }

    /// Calls a method of Playwright's `Page`; returns what it returns, if that is a text, a number or a truth value.
    pub async fn call(&mut self, method: &str, arguments: Value) -> Value {
        self.ask(json!({ "call": method, "with": arguments })).await
    }

    /// What the page's console has said in anger so far.
    pub async fn complaints(&mut self) -> Value {
        self.ask(json!({ "complaints": true })).await
    }

    /// Serious faults of accessibility of the page as it stands, by axe-core.
    pub async fn inaccessible(&mut self) -> Value {
        self.ask(json!({ "axe": true })).await
    }

    /// Opens the relay's console as its admin.
    pub async fn log_in(&mut self, relay: &Relay) {
        self.log_in_with(relay, ADMIN_TOKEN).await;
    }

    /// As whoever the token stands for.
    pub async fn log_in_with(&mut self, relay: &Relay, token: &str) {
        self.call("goto", json!([relay.url("/console")])).await;
        self.call("fill", json!(["#token", token])).await;
        self.call("press", json!(["#token", "Enter"])).await;
        self.call("waitForSelector", json!(["section[data-live]"])).await;
    }

    /// Keeps what the page looks like, for whoever names a directory in `MIXRELAY_TEST_SCREENSHOTS`.
    pub async fn screenshot(&mut self, name: &str) {
        if let Ok(directory) = std::env::var("MIXRELAY_TEST_SCREENSHOTS") {
            let file = format!("{directory}/{name}.png");
            self.call("screenshot", json!([{ "path": file, "fullPage": true }])).await;
        }
    }

    /// Runs the body of an async function in the page.
    pub async fn run(&mut self, script: &str) -> Value {
        self.ask(json!({ "evaluate": script })).await
    }
}

/// Fails unless `found` has everything that was `told`, and beyond it only what `may_add` allows.
#[track_caller]
pub fn holds(found: &Value, told: &Value, may_add: impl Fn(&str) -> bool) {
    for (name, value) in told.as_object().unwrap() {
        assert_eq!(&found[name], value, "{name} in {found}");
    }
    for name in found.as_object().unwrap().keys() {
        assert!(told.get(name).is_some() || may_add(name), "{name} was added to {found}");
    }
}

/// The operators that arrived for each person or group, in order: `{"id": [["$set", {...}], ...]}`.
pub async fn updates_by_id(sandbox: &Sandbox) -> BTreeMap<String, Vec<Value>> {
    let mut updates: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for update in sandbox.mixpanel_updates().await {
        let operator = update["name"].as_str().unwrap();
        let id = update["distinct_id"].as_str().unwrap().to_owned();
        updates.entry(id).or_default().push(json!([operator, update["record"][operator]]));
    }
    updates
}
