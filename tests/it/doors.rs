//! How one gets in: TLS on the relay's own listener, and listeners that a service manager holds.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};

use crate::harness::{Relay, Sandbox};

#[tokio::test]
async fn a_relay_with_a_certificate_is_asked_over_tls_and_checks_its_own_health() {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (dir.path().join("c.pem"), dir.path().join("k.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let tls = json!({ "cert": cert, "key": key });

    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "server": { "tls": tls } })).await;
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let address = relay.address().parse().unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).resolve("localhost", address);
    let url = format!("https://localhost:{}/track?ip=0", address.port());
    let event = json!([{ "event": "Purchase", "properties": { "token": "sandbox-token", "distinct_id": "u1" } }]);
    let sent = client.build().unwrap().post(&url).header("content-type", "application/json");
    let answer = sent.body(event.to_string()).send().await.unwrap();
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);
    assert_eq!(mixrelay::vendor::read_capped(answer, 100).await.unwrap(), "1");

    let config = relay.directory().join("mixrelay.yaml");
    let health = Command::new(env!("CARGO_BIN_EXE_mixrelay")).arg("health").arg("--config").arg(&config).status();
    assert!(health.await.unwrap().success());
    let mut letters = Command::new(env!("CARGO_BIN_EXE_mixrelay"));
    let said = letters.args(["dead-letters", "list", "--config"]).arg(&config).output().await.unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    std::fs::write(&cert, "").unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_mixrelay"));
    let said = check.args(["check", "--offline", "--config"]).arg(&config).output().await.unwrap();
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8(said.stdout).unwrap().contains("c.pem holds no certificate"));
}

/// A relay that opens no listener of its own, and talks to nobody.
fn listening_nowhere(dir: &Path) -> PathBuf {
    let config = dir.join("mixrelay.yaml");
    let text = json!({
        "connectors": { "mixpanel": { "enabled": false, "project_token": "t" } },
        // Nobody could listen there: the socket is handed over instead.
        "server": { "listen": "192.0.2.1:1" },
        "store": format!("sqlite:{}", dir.join("mixrelay.db").display()),
        "store_min_free": "16MiB",
        "allow_volatile_store": true,
    });
    std::fs::write(&config, text.to_string()).unwrap();
    config
}

fn socket() -> std::net::TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(64).unwrap().into_std().unwrap()
}

/// As a service manager starts it: the socket is descriptor 3.
async fn handed_over(config: &Path, socket: OwnedFd) -> Child {
    let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --config \"$1\"";
    let log = File::options().create(true).append(true).open(config.with_extension("log")).unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_mixrelay")]).arg(config);
    let mut child =
        command.stdin(socket).stdout(Stdio::piped()).stderr(log).kill_on_drop(true).spawn().expect("sh is there");
    let mut said = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut said).await.unwrap();
    assert!(said.starts_with('{'), "{said}");
    child
}

#[tokio::test]
async fn a_caller_who_comes_while_the_relay_restarts_waits_instead_of_being_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = listening_nowhere(dir.path());
    let held = socket();
    let address = held.local_addr().unwrap();

    let mut first = handed_over(&config, held.try_clone().unwrap().into()).await;
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    let ready = || client.get(format!("http://{address}/readyz")).send();
    assert_eq!(ready().await.unwrap().status(), 200);

    first.kill().await.unwrap();
    let between = tokio::spawn(ready());
    let _second = handed_over(&config, held.into()).await;
    assert_eq!(between.await.unwrap().unwrap().status(), 200);
}

/// Connections to it would be taken by the kernel and hang for ever.
#[tokio::test]
async fn a_socket_that_nothing_would_serve_is_refused() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = listening_nowhere(dir.path());
    let script = "exec 3<&0 4<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" serve --config \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_mixrelay")]).arg(&config).stdin(OwnedFd::from(socket()));
    let ended = command.kill_on_drop(true).output().await.unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains("2 sockets were handed over") && said.contains("server.admin_listen"), "{said}");
}
