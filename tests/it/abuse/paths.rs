//! Paths that climb, hide or name another host: none of them gets to a vendor, nor to a file.

use serde_json::{Value, json};

use crate::harness::raw::Raw;
use crate::harness::{Relay, Sandbox};

const KEY: &str = "reader-key-0123456789";

async fn asked(relay: &Relay, target: &str) -> String {
    let mut connection = Raw::connect(relay.address()).await.unwrap();
    let head =
        format!("GET {target} HTTP/1.1\r\nhost: relay\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n\r\n");
    connection.write(head).await.unwrap();
    let said = connection.read_to_end().await.unwrap_or_default();
    said.split("\r\n").next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn no_path_climbs_out_of_where_it_may_go() {
    let sandbox = Sandbox::start().await;
    let tweaks = json!({ "auth": { "api_keys": [KEY] }, "server": { "path_prefix": "/m" } });
    let relay = Relay::start(&sandbox, tweaks).await;
    let dots = ["..", "%2e%2e", "%2E%2e", ".%2e", "..%2f..", "..%5c..", "%252e%252e", "..;", "..%00", "%c0%ae%c0%ae"];
    let mut targets: Vec<String> = Vec::new();
    for dots in dots {
        for base in [
            "/api/query",
            "/api/2.0",
            "/libs",
            "/m/libs",
            "/flags",
            "/console/assets",
            "/lookup-tables",
            "/docs",
            "/v1/people",
        ] {
            targets.push(format!("{base}/{dots}/app/me"));
            targets.push(format!("{base}/{dots}/{dots}/import"));
            targets.push(format!("{base}/{dots}/{dots}/{dots}/etc/passwd"));
        }
    }
    for odd in [
        "/api/query//evil.example/x",
        "/api/query/@evil.example",
        "/api/query/x:80",
        "/libs//evil.example/x",
        "/libs/\\evil.example",
        "/flags//evil.example",
        "/flags/a%2Fb",
        "/flags/%0d%0ax-injected:1",
        "/api/app/data-deletions/..%2f..%2fme",
        "/api/app/data-retrievals/v3.0/..",
        "//evil.example/flags",
        "http://evil.example/libs/../import",
        "http://evil.example/api/app/workspaces",
        "/api/2.0/nessie/pipeline/create",
        "/api/2.0/export/../import",
    ] {
        targets.push(odd.to_owned());
    }
    for target in &targets {
        let status = asked(&relay, target).await;
        // 501: nobody has given this relay the token that such a call takes.
        assert!(status.starts_with("HTTP/1.1 4") || status.starts_with("HTTP/1.1 501"), "{target}: {status}");
    }
    let requests = sandbox.get("/mixpanel/requests?limit=10000").await;
    let paths: Vec<&Value> = requests["requests"].as_array().unwrap().iter().map(|request| &request["path"]).collect();
    let own = ["/api/app/me", "/api/app/me/"];
    assert!(paths.iter().all(|path| own.contains(&path.as_str().unwrap_or_default())), "{paths:?}");
}
