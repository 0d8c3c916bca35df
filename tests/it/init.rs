//! `mixrelay init`: from keys to a relay in observe mode, as a script runs it and as somebody at a terminal does.

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::harness::http::{Client, JSON};
use crate::harness::process::Process;
use crate::harness::{Relay, Sandbox, eventually, same};

/// An account with something in it.
async fn lived_in() -> Sandbox {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "connectors": { "brevo": null } })).await;
    let at = |name: &str| json!({ "event": name, "properties": { "token": "sandbox-token", "distinct_id": "u1" } });
    relay.take("/track", &json!([at("Purchase"), at("Song Played"), at("$mp_web_page_view")])).await;
    let set = json!({ "$email": "ada@example.com", "plan": "pro", "Favourite Team": "red" });
    relay.take("/engage", &json!([{ "$token": "sandbox-token", "$distinct_id": "u1", "$set": set }])).await;
    relay.drained("mixpanel").await;
    sandbox
}

fn command(sandbox: &Sandbox, config: &Path) -> Vec<String> {
    let urls = (format!("http://{}", sandbox.mixpanel()), format!("http://{}/v3", sandbox.brevo()));
    let config = config.to_str().unwrap();
    ["init", "--config", config, "--mixpanel-url", &urls.0, "--brevo-url", &urls.1].map(str::to_owned).to_vec()
}

const KEYS: [(&str, &str); 4] = [
    ("MIXPANEL_TOKEN", "sandbox-token"),
    ("MIXPANEL_SA_USER", "sandbox-sa"),
    ("MIXPANEL_SA_SECRET", "sandbox-secret"),
    ("BREVO_API_KEY", "xkeysib-sandbox"),
];

async fn init(sandbox: &Sandbox, config: &Path, keys: &[(&str, &str)]) -> Output {
    let mut mixrelay = Command::new(env!("CARGO_BIN_EXE_mixrelay"));
    mixrelay.args(command(sandbox, config)).env_clear().envs(keys.iter().copied()).stdin(Stdio::null());
    mixrelay.output().await.unwrap()
}

#[tokio::test]
async fn a_script_gets_a_file_with_proposals_that_holds_no_key_and_is_never_overwritten() {
    let sandbox = lived_in().await;
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("mixrelay.yaml");
    let done = init(&sandbox, &config, &KEYS).await;
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert_eq!(done.status.code(), Some(0), "{out}{err}");
    assert!(out.contains("project 12345, region US") && out.contains("ID-merge mode is simplified"), "{out}");
    let text = std::fs::read_to_string(&config).unwrap();
    for line in [
        "project_token: \"sandbox-token\"",
        "secret: \"${MIXPANEL_SA_SECRET}\"",
        "project_id: \"12345\"",
        "identity: simplified",
        "api_key: \"${BREVO_API_KEY}\"",
        "mode: observe",
        "\n  \"Purchase\": \"order_completed\"\n",
        "\n  #\"Song Played\": \"song_played\"\n",
        "\n  \"plan\": \"PLAN_TYPE\"",
        "\n  #\"Favourite Team\": \"FAVOURITE_TEAM\"   # not at Brevo yet; text\n",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    assert!(!text.contains("$mp_web_page_view") && !text.contains("sandbox-secret") && !text.contains("xkeysib"));
    let stored = sandbox.mixpanel_counts().await["records"]["stored"]["event"].clone();
    assert_eq!(stored, 3, "asking has stored nothing at Mixpanel");

    let again = init(&sandbox, &config, &KEYS).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already"));
    assert_eq!(std::fs::read_to_string(&config).unwrap(), text);
}

#[tokio::test]
async fn an_original_project_is_told_apart_and_wrong_keys_write_nothing() {
    let sandbox = Sandbox::start().await;
    sandbox.switch(json!({ "mixpanel": { "identity": "original" } })).await;
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("mixrelay.yaml");
    for (at, wrong, said) in [
        (2, "other", "no region of Mixpanel knows"),
        (3, "xkeysib-other", "the Brevo API key: "),
        (0, "", "MIXPANEL_TOKEN"),
    ] {
        let mut keys = KEYS;
        keys[at].1 = wrong;
        let refused = init(&sandbox, &config, &keys).await;
        assert_eq!(refused.status.code(), Some(1));
        let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(complaint.contains(said), "{complaint}");
        assert!(!config.exists());
    }
    assert_eq!(init(&sandbox, &config, &KEYS).await.status.code(), Some(0));
    assert!(std::fs::read_to_string(&config).unwrap().contains("identity: original\n"));
    assert_eq!(sandbox.mixpanel_counts().await["records"]["stored"]["event"], Value::Null, "nothing was stored");
}

/// `script` gives the program a terminal of its own, and types what comes in.
#[tokio::test]
async fn somebody_at_a_terminal_answers_four_questions_and_has_a_relay_that_observes() {
    use std::os::unix::fs::PermissionsExt as _;

    let sandbox = lived_in().await;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = dir.path().join("mixrelay.yaml");
    let words: Vec<String> = command(&sandbox, &config).iter().map(|word| format!("'{word}'")).collect();
    let line = format!("'{}' {}", env!("CARGO_BIN_EXE_mixrelay"), words.join(" "));
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).env_clear().env("PATH", "/usr/bin:/bin");
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    keyboard.write_all(b"sandbox-token\nsandbox-sa\nsandbox-secret\nxkeysib-sandbox\n").await.unwrap();
    let done = child.wait_with_output().await.unwrap();
    let screen = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{screen}");
    assert!(screen.contains("Mixpanel project token") && screen.contains("written, in observe mode"), "{screen}");
    assert_eq!(std::fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o600);

    let mut text = std::fs::read_to_string(&config).unwrap();
    text.push_str(&format!(
        "server: {{ listen: \"127.0.0.1:0\" }}\nstore: \"sqlite:{}\"\nstore_min_free: 16MiB\nallow_volatile_store: true\n\
         auth: {{ admin_token: a }}\n",
        dir.path().join("m.db").display()
    ));
    std::fs::write(&config, text).unwrap();
    let log = dir.path().join("relay.log");
    let relay = Process::start(&["serve", "--config", config.to_str().unwrap()], &log, "{").await.unwrap();
    let said: Value = serde_json::from_str(&relay.said).unwrap();
    let url = |path: &str| format!("http://{}{path}", said["listening"].as_str().unwrap());
    let client = Client::new();
    let purchase = json!([{ "event": "Purchase", "properties": { "token": "sandbox-token", "distinct_id": "u1" } }]);
    assert_eq!(client.send("POST", &url("/track?ip=0"), &[JSON], purchase.to_string()).await.unwrap().body, "1");
    eventually(crate::harness::PATIENCE, async || {
        let status = client.send("GET", &url("/v1/status"), &[("authorization", "Bearer a")], "").await.unwrap().json();
        let brevo = &status["destinations"][1];
        same("skipped, since the mode is observe", brevo["skipped"].clone(), json!(1))
    })
    .await;
    assert_eq!(sandbox.brevo_counts().await["requests"]["POST /events"], Value::Null);
}
