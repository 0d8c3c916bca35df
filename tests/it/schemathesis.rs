//! `openapi.yaml` against a running relay, tried by schemathesis with values that the document allows and with others: no
//! failure of the relay's own, and no answer that the document does not have.

use serde_json::json;
use tokio::process::Command;

use crate::harness::{Relay, Sandbox};

#[tokio::test]
async fn every_answer_is_one_that_the_document_has() {
    let sandbox = Sandbox::start().await;
    let tweaks = json!({
        "auth": { "api_keys": ["test-api-key"] },
        "webhooks": { "mixpanel": { "username": "u", "password": "wp" }, "brevo": { "token": "wt" } },
    });
    let relay = Relay::start(&sandbox, tweaks).await;
    let output = Command::new(".cache/api-python/bin/schemathesis")
        .args(["--config-file", "tests/api/schemathesis.toml", "--no-color", "run", "openapi.yaml"])
        .args(["--url", &format!("http://{}", relay.address())])
        .output()
        .await
        .expect("tests/setup.sh installs it");
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
    let number = |name: &str| -> usize {
        let line = report.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap_or_else(|| panic!("{report}"));
        line.trim().split('/').next().unwrap().parse().unwrap()
    };
    let document = include_str!("../../openapi.yaml");
    let operations = document.lines().filter(|line| line.trim_start().starts_with("operationId:")).count();
    assert_eq!((number("Tested:"), number("Selected:")), (operations, operations), "{report}");
}
