//! Starting: what is refused before a port opens, and how the shell is told.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::harness::relay::ADMIN_TOKEN;
use crate::harness::{Relay, Sandbox};

#[tokio::test]
async fn a_second_process_on_the_same_store_is_refused() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let store = format!("sqlite:{}", relay.directory().join("mixrelay.db").display());
    let second = Relay::try_start(&sandbox, json!({ "store": store })).await;
    let Err((status, said)) = second else { panic!("two processes on one store") };
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("mixrelay.db"), "{said}");
    assert_eq!(relay.get("/readyz").await.status, 200, "the first is not disturbed");
}

#[tokio::test]
async fn a_store_in_memory_is_refused() {
    let sandbox = Sandbox::start().await;
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = format!("sqlite:{}", memory.path().join("mixrelay.db").display());
    let refused = Relay::try_start(&sandbox, json!({ "store": store, "allow_volatile_store": false })).await;
    let Err((status, said)) = refused else { panic!("a store in memory was taken") };
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("tmpfs") && said.contains("allow_volatile_store"), "{said}");
    assert_eq!(std::fs::read_dir(memory.path()).unwrap().count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn a_wrong_configuration_exits_1_and_opens_no_port() {
    let sandbox = Sandbox::start().await;
    let refused = Relay::try_start(&sandbox, json!({ "event_maping": {} })).await;
    let Err((status, said)) = refused else { panic!("an unknown key was taken") };
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("event_maping") && said.contains("did you mean `event_mapping`?"), "{said}");
}

#[tokio::test]
async fn a_port_that_is_taken_exits_1() {
    let sandbox = Sandbox::start().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = Relay::try_start(&sandbox, json!({ "server": { "listen": address } })).await;
    let Err((status, said)) = refused else { panic!("two listeners on one port") };
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("server.listen") && said.contains(&address), "{said}");
}

#[test]
fn serve_and_sandbox_refuse_a_command_line_that_they_do_not_know() {
    for arguments in [["serve", "--frobnicate"], ["sandbox", "--mixpanel"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_mixrelay")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test]
async fn metrics_want_a_token_in_public_and_none_in_private() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "server": { "admin_listen": "127.0.0.1:0" } })).await;
    assert_eq!(relay.get("/metrics").await.status, 401);
    assert_eq!(relay.get("/v1/status").await.status, 401);
    assert_eq!(relay.admin("GET", "/metrics").await.status, 200);
    let private = relay.admin_address();
    let client = relay.http();
    let open = client.send("GET", &format!("http://{private}/metrics"), &[], "").await.unwrap();
    assert_eq!(open.status, 200);
    let status = client.send("GET", &format!("http://{private}/v1/status"), &[], "").await.unwrap();
    assert_eq!(status.status, 401, "no trust by address");
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let headers = [("authorization", bearer.as_str())];
    assert_eq!(client.send("GET", &format!("http://{private}/v1/status"), &headers, "").await.unwrap().status, 200);
}

/// What a container's health check and an orchestrator's probes ask, where only the private listener can be reached.
#[tokio::test]
async fn a_relay_with_a_private_listener_says_there_how_it_is() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({ "server": { "admin_listen": "127.0.0.1:0" } })).await;
    let private = relay.admin_address();
    for (path, said) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = relay.http().send("GET", &format!("http://{private}{path}"), &[], "").await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, said), "{path}");
    }
    // The command line finds the listener by the configuration alone.
    relay.configure(json!({ "server": { "admin_listen": private } }));
    let config = relay.directory().join("mixrelay.yaml");
    let health = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mixrelay"));
        command.arg("health").arg("--config").arg(&config).output().unwrap()
    };
    let said = health();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    relay.kill().await;
    assert_eq!(health().status.code(), Some(1));
}

/// More connections than are allowed wait outside, until one of those that say nothing goes.
#[tokio::test]
async fn the_private_listener_bounds_its_connections_too() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const MOST: usize = 256;
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "server": { "admin_listen": "127.0.0.1:0" } })).await;
    let private = relay.admin_address();
    let mut silent = Vec::new();
    for _ in 0..MOST {
        silent.push(tokio::net::TcpStream::connect(&private).await.unwrap());
    }
    let mut one_more = tokio::net::TcpStream::connect(&private).await.unwrap();
    one_more.write_all(b"GET /healthz HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let early = tokio::time::timeout(Duration::from_millis(300), one_more.read_to_string(&mut answer)).await;
    assert!(early.is_err(), "{answer}");
    assert_eq!(relay.get("/healthz").await.status, 200, "the public listener has connections of its own");
    silent.pop();
    one_more.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// With no admin token configured one is made, in a file that only its owner can read.
#[tokio::test]
async fn an_admin_token_is_made_at_the_first_start() {
    use std::os::unix::fs::PermissionsExt as _;

    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({ "auth": null })).await;
    let mut made: Vec<_> = std::fs::read_dir(relay.directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("token"))
        .collect();
    assert_eq!(made.len(), 1, "{made:?}");
    let file = made.remove(0);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&file).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    assert_eq!(relay.send("GET", "/v1/status", &[("authorization", &bearer)], "").await.status, 200);
    assert!(relay.terminate().await.success());
    relay.start_again().await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), token, "kept over restarts");
    let log = std::fs::read_to_string(relay.log()).unwrap();
    assert!(!log.contains(token.trim()), "the token is in the log");
}
