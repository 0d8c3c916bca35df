//! `mixrelay store`, beside a relay that goes on working.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

async fn store(args: &[&str], journal: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixrelay"));
    command.arg("store").args(args).arg("--file").arg(journal).env_clear().output().await.unwrap()
}

async fn said(args: &[&str], journal: &Path) -> String {
    let output = store(args, journal).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

fn purchases(of: &str) -> Value {
    let event =
        |n: u32| json!({ "event": "Purchase", "properties": { "token": "sandbox-token", "distinct_id": of, "n": n } });
    (0..50).map(event).collect()
}

async fn paused(relay: &Relay) -> Vec<Value> {
    let status = relay.admin("GET", "/v1/status").await.ok().json();
    status["destinations"].as_array().unwrap().iter().map(|each| each["state"]["cause"].clone()).collect()
}

#[tokio::test]
async fn a_backup_of_a_running_relay_starts_paused_and_goes_on_from_where_it_was() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({ "connectors": { "brevo": null } })).await;
    relay.take("/track", &purchases("before")).await;
    relay.drained("mixpanel").await;
    relay.admin("POST", "/v1/destinations/mixpanel/pause").await.ok();
    relay.take("/track", &purchases("waiting")).await;

    let journal = relay.directory().join("mixrelay.db");
    let info = said(&["info"], &journal).await;
    assert!(info.contains("accepted since it was made: 100 events"), "{info}");
    let verified = said(&["verify"], &journal).await;
    assert!(verified.contains("with 100 records") && verified.ends_with("nothing wrong was found\n"), "{verified}");

    let copy = relay.directory().join("backup");
    let told = said(&["backup", copy.to_str().unwrap()], &journal).await;
    assert!(told.contains("mixpanel: up to ") && told.contains("both destinations paused"), "{told}");
    let again = store(&["backup", copy.to_str().unwrap()], &journal).await;
    assert_eq!(again.status.code(), Some(1), "a backup is not written over another");
    said(&["verify"], &copy.join("mixrelay.db")).await;
    // What comes after the backup is not in it, and the relay was not disturbed.
    relay.admin("POST", "/v1/destinations/mixpanel/resume").await.ok();
    relay.take("/track", &purchases("after")).await;
    relay.drained("mixpanel").await;
    relay.kill().await;

    relay.configure(json!({ "store": format!("sqlite:{}", copy.join("mixrelay.db").display()) }));
    relay.start_again().await;
    assert_eq!(paused(&relay).await, ["restored", "restored"]);
    let log = std::fs::read_to_string(relay.log()).unwrap();
    assert!(log.contains("this store is a restored backup"), "{log}");
    relay.terminate().await;
    relay.start_again().await;
    assert_eq!(paused(&relay).await, ["restored", "restored"], "until somebody resumes them");
    for destination in ["mixpanel", "brevo"] {
        relay.admin("POST", &format!("/v1/destinations/{destination}/resume")).await.ok();
    }
    relay.take("/track", &purchases("restored")).await;
    let balance = relay.drained("mixpanel").await;
    assert_eq!(balance.delivered, 150, "those before the backup are not sent again: {balance:?}");
    eventually(PATIENCE, async || {
        let events = sandbox.mixpanel_events().await;
        let waiting =
            events.iter().filter(|event| event["distinct_id"].as_str().is_some_and(|id| id.contains("waiting")));
        same("sent before and after, and recognised by Mixpanel", waiting.count() >= 50, true)
    })
    .await;
    said(&["verify"], &copy.join("mixrelay.db")).await;
}

#[tokio::test]
async fn a_damaged_block_and_files_that_do_not_belong_together_are_told() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({ "connectors": { "brevo": null } })).await;
    relay.take("/track", &purchases("u")).await;
    relay.drained("mixpanel").await;
    relay.terminate().await;
    let journal = relay.directory().join("mixrelay.db");
    let conn = rusqlite::Connection::open(&journal).unwrap();
    conn.execute("UPDATE blocks SET block = zeroblob(length(block))", []).unwrap();
    drop(conn);
    let found = store(&["verify"], &journal).await;
    assert_eq!(found.status.code(), Some(1));
    let text = String::from_utf8(found.stdout).unwrap();
    assert!(text.contains("wrong: entry 1 cannot be read: 50 records are lost"), "{text}");

    let conn = rusqlite::Connection::open(journal.with_extension("state.db")).unwrap();
    conn.execute("UPDATE store SET id = 'other'", []).unwrap();
    drop(conn);
    let refused = store(&["info"], &journal).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("belong to different stores"));
}
