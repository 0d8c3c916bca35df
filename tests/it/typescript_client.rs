//! A TypeScript client that is generated from `openapi.yaml` compiles, and finds by every route what it has sent
//! (`tests/api/round_trip.ts`).

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::relay::ADMIN_TOKEN;
use crate::harness::sandbox::TOKEN;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually};

const API_KEY: &str = "test-api-key";
/// The compiler takes seconds on an idle machine, and its time on one that compiles other things too.
const TOOLS_PATIENCE: Duration = Duration::from_secs(300);

/// Runs a script with Node.js, in `tests/api` and on loopback only; what it said.
async fn node(arguments: &[&str]) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/api");
    assert!(directory.join("node_modules/.installed").exists(), "run tests/setup.sh");
    let mut command = Command::new("node");
    command.args(arguments).current_dir(directory).stdin(std::process::Stdio::null()).kill_on_drop(true);
    for proxy in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(proxy).env_remove(proxy.to_uppercase());
    }
    let output = tokio::time::timeout(TOOLS_PATIENCE, command.output()).await.expect("the tool hangs").unwrap();
    let [said, complaints] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success(), "{arguments:?}:\n{said}{complaints}");
    said
}

#[tokio::test]
async fn a_generated_typescript_client_compiles_and_finds_what_it_has_sent() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "auth": { "api_keys": [API_KEY] } })).await;
    let generator = "node_modules/openapi-typescript/bin/cli.js";
    node(&[generator, "../../openapi.yaml", "-o", "generated/openapi.d.ts"]).await;
    node(&["node_modules/typescript/bin/tsc", "-p", "tsconfig.json"]).await;

    let said = node(&["generated/round_trip.js", &relay.url(""), ADMIN_TOKEN, API_KEY, TOKEN]).await;
    let found: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!(found["stored"], json!({ "error": null, "status": 1 }));
    assert_eq!(found["imported"]["num_records_imported"], 1);
    assert_eq!(found["accepted"]["event"], 2);
    assert_eq!(found["destinations"], json!(["mixpanel", "brevo"]));
    let traced = found["traced"].as_array().unwrap();
    assert_eq!(traced.len(), 2);
    assert!(traced.iter().all(|record| record["properties"]["amount"] == 12.5), "{traced:?}");
    assert_eq!(found["differing"], 1);
    assert_eq!(found["letters"], 0);
    assert!(found["names"].is_array(), "{found}");
    assert_eq!(found["unknown"], 404);
    assert_eq!(found["refused"], "unauthorized");

    eventually(PATIENCE, async || {
        let arrived = sandbox.mixpanel_insert_ids().await;
        if arrived.contains_key("typed-1") { Ok(()) } else { Err(format!("{arrived:?}")) }
    })
    .await;
}
