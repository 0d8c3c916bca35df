//! The commands and blocks of the documentation, run: what README.md and docs/ show in fences is either done here, against a
//! relay with both vendors simulated, or stands in [`BLOCKS`] with the reason why not and with what holds it instead. A block
//! that is new, or changed in its first line, fails until it does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::records::{event, set};
use crate::harness::relay::ADMIN_TOKEN;
use crate::harness::sandbox::TOKEN;
use crate::harness::{Relay, Sandbox};

/// What is done with a block.
enum Use {
    /// Its lines are run by a shell; every command must succeed.
    Run,
    /// It is read as part of a configuration, `mapping_tests` included.
    Configure,
    /// Held elsewhere: by a test of this name, or by the build itself.
    Elsewhere(&'static str),
    /// It shows something, or is for a machine that is not here: why.
    Shown(&'static str),
}
use Use::{Configure, Elsewhere, Run, Shown};

/// By page and first line, in the order of the pages.
const BLOCKS: &[(&str, &str, Use)] = &[
    ("README.md", "make demo ", Elsewhere("fn everything_that_the_demo_sends_")),
    ("README.md", "Where every accepted record is now", Elsewhere("fn everything_that_the_demo_sends_")),
    ("README.md", "connectors:", Configure),
    ("docs/alerts.md", "alerts:", Configure),
    ("docs/alerts.md", "{\"type\":\"mixrelay.destination_paused\"", Elsewhere("fn each_cause_is_told_once_")),
    ("docs/architecture.md", " app ── HTTP", Shown("a drawing")),
    ("docs/backfill.md", "mixrelay backfill profiles --dry-run", Run),
    ("docs/backfill.md", "mixrelay backfill events --from", Run),
    ("docs/backfill.md", "sync_profiles_every: 1h", Configure),
    ("docs/cohorts.md", "lists: { engaged_users: 16 }", Configure),
    ("docs/cohorts.md", "curl -u \"$KEY:\" ", Run),
    ("docs/datasets.md", "lists: { at_risk: 17 }", Configure),
    ("docs/datasets.md", "// dormant.js", Shown("JQL, which Mixpanel runs; the sandbox answers what it is told to")),
    ("docs/datasets.md", "mixrelay datasets run dormant ", Run),
    ("docs/datasets.md", "curl -H \"Authorization: Bearer $T\"", Run),
    ("docs/deployment.md", "server:", Configure),
    ("docs/first-day.md", "mixrelay init", Elsewhere("fn somebody_at_a_terminal_")),
    ("docs/first-day.md", "mixrelay check --test-contact", Run),
    ("docs/groups.md", "sync: { groups: true }", Configure),
    ("docs/mapping.md", "event_mapping:", Configure),
    ("docs/mapping.md", "property_mapping:", Configure),
    ("docs/mapping.md", "lookup_tables:", Configure),
    ("docs/mapping.md", "mapping_tests:", Configure),
    ("docs/mapping.md", "mapping tests:", Elsewhere("String::from(\"mapping tests:")),
    ("docs/operations.md", "mixrelay dead-letters list", Run),
    ("docs/operations.md", "mixrelay trace --insert-id", Run),
    ("docs/operations.md", "curl -s localhost:8080/v1/mapping/preview", Run),
    ("docs/performance.md", "make bench ", Shown("the bench, which takes minutes and wants the machine to itself")),
    (
        "docs/performance.md",
        "cargo bench --locked --bench relay -- accept &",
        Shown("a profile, which wants perf and inferno"),
    ),
    ("docs/privacy.md", "privacy:", Configure),
    ("docs/proof.md", "make soak ", Elsewhere("MIXRELAY_SOAK_MINUTES")),
    ("docs/read-side.md", "curl -u \"$KEY:\" ", Run),
    ("docs/read-side.md", "RateLimit-Policy:", Elsewhere("fn two_hundred_callers_stay_within_")),
    ("docs/reconciliation.md", "mixrelay reconcile ", Run),
    ("docs/sandbox.md", "mixrelay sandbox ", Elsewhere("pub struct Sandbox")),
    ("docs/sandbox.md", "curl -X PUT $CONTROL/switches", Run),
    ("docs/sdks.md", "mixpanel.init(TOKEN", Elsewhere("fn mixpanel_browser_loses_nothing")),
    ("docs/sdks.md", "Mixpanel.initialize(", Shown("Swift runs on Apple's systems; its requests: sdk_journeys.rs")),
    ("docs/sdks.md", "MixpanelAPI mixpanel", Shown("runs on Android")),
    ("docs/sdks.md", "const mixpanel = new Mixpanel(", Shown("runs in React Native")),
    ("docs/sdks.md", "const mixpanel = Mixpanel.init(", Elsewhere("pub async fn run_node")),
    ("docs/sdks.md", "mp = Mixpanel(TOKEN", Elsewhere("pub async fn run_python")),
    ("docs/sdks.md", "curl https://relay.example.com/track", Run),
    ("docs/webhooks.md", "webhooks:", Configure),
    ("docs/webhooks.md", "mixrelay check --register-webhooks", Run),
    ("docs/webhooks.md", "webhooks:", Configure),
    ("docs/webhooks.md", "{", Elsewhere("fn a_template_of_texts_is_read")),
    ("docs/webhooks.md", "webhooks:", Configure),
];

struct Block {
    page: String,
    line: usize,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every fenced block of the pages that users read, in order.
fn blocks() -> Vec<Block> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    pages.sort();
    pages.insert(0, root().join("README.md"));
    pages.iter().flat_map(|page| fenced(page)).collect()
}

fn fenced(page: &Path) -> Vec<Block> {
    let (name, text) =
        (page.strip_prefix(root()).unwrap().display().to_string(), std::fs::read_to_string(page).unwrap());
    let (mut found, mut open): (Vec<Block>, Option<(usize, Block)>) = (Vec::new(), None);
    for (number, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let fence = line.trim_start().starts_with("```");
        match &mut open {
            None if fence => open = Some((indent, Block { page: name.clone(), line: number + 1, text: String::new() })),
            None => {}
            Some(_) if fence => found.extend(open.take().map(|(_, block)| block)),
            Some((indent, block)) => block.text += &format!("{}\n", line.get(*indent..).unwrap_or_default()),
        }
    }
    assert!(open.is_none(), "{name} ends within a fence");
    found
}

fn sources() -> String {
    let mut all = String::new();
    let mut open = vec![root().join("tests/it"), root().join("src")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                open.push(entry);
            } else if entry.extension().is_some_and(|it| it == "rs") && !entry.ends_with("docs_commands.rs") {
                all += &std::fs::read_to_string(&entry).unwrap();
            }
        }
    }
    all
}

/// Each block with what is done with it; those that [`BLOCKS`] does not know, and what it knows that is not there any more, are
/// told by their places.
fn uses() -> (Vec<(Block, &'static Use)>, Vec<String>) {
    let mut known: Vec<_> = BLOCKS.iter().collect();
    let (mut used, mut faults) = (Vec::new(), Vec::new());
    for block in blocks() {
        match known.iter().position(|(page, begins, _)| block.page == *page && block.text.starts_with(begins)) {
            Some(at) => used.push((block, &known.remove(at).2)),
            None => {
                faults.push(format!("{}:{}: not in BLOCKS: {:?}", block.page, block.line, block.text.lines().next()))
            }
        }
    }
    faults.extend(known.iter().map(|(page, begins, _)| format!("{page}: no block begins with {begins:?}")));
    (used, faults)
}

#[test]
fn every_block_has_its_use_and_what_holds_it_is_there() {
    let ((used, mut faults), sources) = (uses(), sources());
    for (block, what) in used {
        match what {
            Elsewhere(held) if !sources.contains(held) => {
                faults.push(format!("{}:{}: no `{held}`", block.page, block.line))
            }
            Shown(why) => assert!(!why.is_empty()),
            Elsewhere(_) | Run | Configure => {}
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn with(wanted: fn(&Use) -> bool) -> impl Iterator<Item = Block> {
    uses().0.into_iter().filter(move |(_, what)| wanted(what)).map(|(block, _)| block)
}

fn mixrelay(directory: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mixrelay"));
    command.current_dir(directory).stdin(Stdio::null()).env_clear();
    command
}

/// What the configurations in the documentation refer to.
fn files_that_are_named(directory: &Path) {
    let key = rcgen::generate_simple_self_signed(["relay.example.com".to_owned()]).unwrap();
    for (name, content) in [
        ("fullchain.pem", key.cert.pem()),
        ("privkey.pem", key.signing_key.serialize_pem()),
        ("products.csv", "product_id,category,price\nmug-1,Mugs,9.5\n".to_owned()),
        ("dormant.js", "function main() { return People(); }".to_owned()),
    ] {
        std::fs::write(directory.join(name), content).unwrap();
    }
}

#[tokio::test]
async fn every_configuration_is_one() {
    let dir = tempfile::tempdir().unwrap();
    files_that_are_named(dir.path());
    let connectors = "connectors:\n  mixpanel:\n    project_token: \"t\"\n    service_account: { username: \"u\", secret: \"s\" }\n    \
                      project_id: \"12345\"\n  brevo: { api_key: \"k\" }\n";
    // What a block leans on without saying it.
    let leans_on = [
        ("engaged_users", "lists: { engaged_users: 16, at_risk: 17 }\n"),
        ("mapping_tests:", "event_mapping: { Purchase: order_completed }\n"),
    ];
    let names = [
        "MIXPANEL_SA_SECRET",
        "BREVO_API_KEY",
        "MIXRELAY_HASH_KEY",
        "BREVO_WEBHOOK_TOKEN",
        "MIXPANEL_WEBHOOK_PASSWORD",
    ];
    let secrets: BTreeMap<&str, String> =
        names.into_iter().map(|name| (name, format!("{:x<32}", name.to_lowercase()))).collect();
    for block in with(|what| matches!(what, Configure)) {
        let mut text = block.text.replace("/etc/mixrelay/", "");
        let says = |text: &str, key: &str| text.lines().any(|line| line.starts_with(key));
        for (word, lines) in leans_on {
            let key = lines.split(':').next().unwrap();
            if text.contains(word) && !says(&text, key) {
                text += lines;
            }
        }
        if !says(&text, "connectors:") {
            text += connectors;
        }
        std::fs::write(dir.path().join("mixrelay.yaml"), &text).unwrap();
        let mut command = mixrelay(dir.path());
        command.args(["check", "--offline"]).envs(&secrets);
        command.env("MIXRELAY_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let done = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{}:{}\n{text}\n{said}", block.page, block.line);
    }
}

const KEY: &str = "key-of-the-documentation";

/// A relay and its vendors, with all in it that the commands speak of.
async fn lived_in(sandbox: &Sandbox) -> Relay {
    let lists = json!([{ "id": 16, "name": "Engaged" }, { "id": 17, "name": "At risk" }]);
    let contact = json!({ "email": "ada@example.com", "ext_id": "ada" });
    sandbox.control("POST", "/brevo/seed", json!({ "lists": lists, "contacts": [contact] })).await;
    let cohort = json!({ "id": 12345, "name": "Engaged users", "members": ["ada"] });
    let profile = json!({ "distinct_id": "ada", "properties": { "$email": "ada@example.com" } });
    let rows = json!([{ "distinct_id": "ada", "days": 31 }]);
    sandbox
        .control(
            "POST",
            "/mixpanel/seed",
            json!({ "cohorts": [cohort], "profiles": [profile], "answers": { "jql": rows } }),
        )
        .await;
    let script =
        tempfile::Builder::new().suffix(".js").tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap().into_temp_path();
    std::fs::write(&script, "function main() { return People(); }").unwrap();
    let dataset = json!({
        "name": "dormant", "jql": script.keep().unwrap(), "schedule": "365d", "id": "distinct_id",
        "attributes": { "days": "DAYS_AWAY" }, "list": "at_risk", "mode": "mirror",
    });
    let tweaks = json!({
        "auth": { "api_keys": [KEY] }, "lists": { "engaged_users": 16, "at_risk": 17 }, "datasets": [dataset],
        "webhooks": { "brevo": { "token": "a-long-random-token" } },
    });
    let relay = Relay::start(sandbox, tweaks).await;
    relay.take("/engage", &json!([set("ada", json!({ "$email": "ada@example.com", "plan": "pro" }))])).await;
    relay.drained("brevo").await;
    let answer = json!({ "code": "invalid_parameter", "message": "not today" });
    sandbox
        .faults(Sandbox::fault("brevo", "/v3/events", json!({ "kind": "status", "status": 400, "body": answer })))
        .await;
    let events: Vec<Value> = (0..2).map(|n| event("Purchase", "ada", &format!("refused-{n}"))).collect();
    relay.take("/track", &events.into()).await;
    relay.dead_letters("brevo", 2).await;
    sandbox.heal().await;
    relay
}

/// What stands in the documentation for what is so on this machine: the only place where it is said.
async fn substitutions(sandbox: &Sandbox, relay: &Relay) -> Vec<(&'static str, String)> {
    let letters = relay.dead_letters("brevo", 2).await;
    let letter = |at: usize| letters[at]["id"].as_str().unwrap().to_owned();
    let today = jiff::Timestamp::now();
    let day = |before: i64| (today - jiff::SignedDuration::from_hours(24 * before)).to_string()[..10].to_owned();
    vec![
        // Brevo calls nobody in this test: the address need only look public.
        (
            "--register-webhooks https://relay.example.com",
            "--register-webhooks https://relay.invalid.example".to_owned(),
        ),
        ("https://relay.example.com", relay.url("")),
        ("https://relay/", relay.url("/")),
        ("localhost:8080", relay.address().to_owned()),
        ("$CONTROL", sandbox.control_address().to_owned()),
        ("your-project-token", TOKEN.to_owned()),
        ("you@your-company.example", "ada@example.com".to_owned()),
        ("brevo-1.42.0", letter(0)),
        ("brevo-1.42.1", letter(1)),
        ("7a1f…", "refused-0".to_owned()),
        ("user-42", "ada".to_owned()),
        ("2026-01-01", day(4)),
        ("2026-10-01", day(50)),
        ("2026-11-01", day(3)),
        ("2026-11-20", day(5)),
        ("2026-11-24", day(1)),
    ]
}

/// Stands for `curl`: an answer of 400 or more is a failure.
const CURL: &str = "#!/bin/sh\nexec /usr/bin/curl --silent --show-error --fail-with-body --noproxy '*' \"$@\"\n";

#[tokio::test]
async fn every_command_does_what_it_is_shown_for() {
    let sandbox = Sandbox::start().await;
    let relay = lived_in(&sandbox).await;
    let tools = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let binary = format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_mixrelay"));
    for (name, script) in [("curl", CURL), ("mixrelay", &binary)] {
        use std::os::unix::fs::PermissionsExt as _;
        let path = tools.path().join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", tools.path().display(), std::env::var("PATH").unwrap());
    let substitutions = substitutions(&sandbox, &relay).await;
    for block in with(|what| matches!(what, Run)) {
        let text = substitutions.iter().fold(block.text, |text, (from, to)| text.replace(from, to));
        // Orders that ask first are agreed to; a run's id is that of the one before.
        let script = text.lines().fold("set -e\n".to_owned(), |script, line| {
            let line = if line.contains("/datasets/dormant/run") { wait_for_the_run(line) } else { line.to_owned() };
            script + &line + "\n"
        });
        let mut command = tokio::process::Command::new("sh");
        command.kill_on_drop(true);
        command.args(["-c", &script]).current_dir(relay.directory()).env("PATH", &path);
        command.env("KEY", KEY).env("T", ADMIN_TOKEN).env("TOKEN", ADMIN_TOKEN).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A shell that is done already does not listen.
        drop(tokio::io::AsyncWriteExt::write_all(&mut stdin, "y\n".repeat(20).as_bytes()).await);
        drop(stdin);
        let done =
            tokio::time::timeout(crate::harness::PATIENCE, child.wait_with_output()).await.expect(&block.page).unwrap();
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{}:{}\n{script}\n{said}", block.page, block.line);
        // One of the blocks breaks the vendors on purpose.
        sandbox.heal().await;
    }
}

/// The line, then its run's id in `$ID`, and the run's end: the next line is about it, or is refused beside it.
fn wait_for_the_run(line: &str) -> String {
    let shown = "$(curl -H \"Authorization: Bearer $T\" ${RUNS}$ID)";
    format!(
        "RUN=$({line}); ID=$(echo \"$RUN\" | sed 's/.*\"id\":\"\\([^\"]*\\)\".*/\\1/'); \
         RUNS=$(echo '{line}' | sed 's|.*\\(http://[^ ]*\\)/dormant/run.*|\\1/runs/|'); \
         while echo \"{shown}\" | grep -q '\"status\":\"running\"'; do sleep 0.1; done"
    )
}
