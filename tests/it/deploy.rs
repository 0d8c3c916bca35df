//! What stands in `deploy/`, as far as a machine without a container engine can tell.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::http::JSON;
use crate::harness::raw::Raw;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(deploy().join(file)).unwrap()
}

/// The metrics' names in an expression.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("mixrelay_"))
}

#[tokio::test]
async fn dashboard_and_rules_ask_for_metrics_that_a_relay_shows() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    // One record of each ending, so that every series is there.
    let event =
        |name: &str, token: &str| json!({ "event": name, "properties": { "token": token, "distinct_id": "u" } });
    relay.take("/track", &json!([event("Purchase", "sandbox-token"), event("Other", "sandbox-token")])).await;
    relay.post("/track?ip=0", &[JSON], json!([event("x", "other")]).to_string()).await.ok();
    relay.drained_or_parked("brevo").await;
    relay.drained("mixpanel").await;
    let shown = relay.admin("GET", "/metrics").await.ok().body;
    let declared: BTreeSet<&str> =
        shown.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();

    let dashboard: Value = serde_json::from_str(&read("grafana/mixrelay.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let queries = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let mut asked: Vec<String> = queries.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(asked.len() > 15);
    let rules = read("prometheus/mixrelay.rules.yml");
    asked.extend(rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned));
    // Nothing was refused for good here, so these have no series yet.
    let silent = ["mixrelay_records_dead_total"];
    for name in asked.iter().flat_map(|expression| names(expression)) {
        let base = name.strip_suffix("_bucket").unwrap_or(name);
        assert!(declared.contains(base) || silent.contains(&base), "{name} is not in\n{shown}");
    }
    assert_eq!(rules, read("helm/mixrelay/mixrelay.rules.yml"), "the chart carries the same rules");
}

#[test]
fn the_systemd_units_are_sound() {
    let dir = tempfile::tempdir().unwrap();
    for unit in ["mixrelay.service", "mixrelay.socket"] {
        let text = read(unit).replace("/usr/local/bin/mixrelay", env!("CARGO_BIN_EXE_mixrelay"));
        std::fs::write(dir.path().join(unit), text).unwrap();
    }
    let units = ["mixrelay.service", "mixrelay.socket"].map(|unit| dir.path().join(unit));
    let done = Command::new("systemd-analyze").arg("verify").args(&units).output().expect("tests/setup.sh installs it");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    // Other units of the machine are none of our business.
    let ours: Vec<_> = said.lines().filter(|line| line.contains("mixrelay")).collect();
    assert!(ours.is_empty(), "{said}");
}

/// A proxy that ends with its test.
pub struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The shipped configuration, without TLS, on a port of the system's choice.
pub async fn nginx(dir: &Path, relay: &str) -> (Proxy, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let plain: String = read("proxies/nginx.conf")
        .replace("127.0.0.1:8080", relay)
        .replace("listen 443 ssl;", &format!("listen 127.0.0.1:{port};"))
        .lines()
        .filter(|line| !line.contains("ssl_certificate") && !line.contains("http2 on"))
        .map(|line| format!("{line}\n"))
        .collect();
    let dir = dir.display();
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/{kind};"))
        .join("\n");
    let whole = format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log;\nevents {{}}\n\
         http {{ access_log off; {temp}\n{plain} }}\n"
    );
    std::fs::write(format!("{dir}/nginx.conf"), whole).unwrap();
    let mut command = Command::new("nginx");
    command.args(["-c", &format!("{dir}/nginx.conf"), "-p", &dir.to_string(), "-e", &format!("{dir}/error.log")]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("tests/setup.sh installs nginx");
    let nginx = Proxy(child);
    let address = format!("127.0.0.1:{port}");
    eventually(PATIENCE, async || {
        tokio::net::TcpStream::connect(&address).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    (nginx, address)
}

#[tokio::test]
async fn behind_nginx_a_browser_can_read_every_answer_and_loses_nothing_over_a_restart() {
    const ORIGIN: (&str, &str) = ("origin", "https://shop.example");
    let sandbox = Sandbox::start().await;
    let trusted = json!({ "server": { "trusted_proxies": ["127.0.0.1"] }, "connectors": { "brevo": null } });
    let mut relay = Relay::start(&sandbox, trusted).await;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (_nginx, address) = nginx(dir.path(), relay.address()).await;
    let url = |path: &str| format!("http://{address}{path}");
    let event = |id: &str| {
        json!([{ "event": "e", "properties": { "token": "sandbox-token", "distinct_id": "u", "$insert_id": id } }])
            .to_string()
    };
    let client = crate::harness::http::Client::new();
    let send = async |id: &str| client.send("POST", &url("/track?ip=1"), &[JSON, ORIGIN], event(id)).await.unwrap();
    let readable = |answer: &crate::harness::http::Answer| {
        let allowed: Vec<_> = answer.headers.get_all("access-control-allow-origin").iter().collect();
        assert_eq!(allowed, ["https://shop.example"], "{answer:?}");
        assert_eq!(answer.headers["access-control-allow-credentials"], "true");
    };
    let answer = send("before").await;
    readable(&answer);
    assert_eq!(answer.body, "1");

    assert!(relay.terminate().await.success());
    let away = send("restart").await;
    assert_eq!(away.status, 503);
    assert_eq!(away.headers["retry-after"], "5");
    readable(&away);
    let preflight =
        [ORIGIN, ("access-control-request-method", "POST"), ("access-control-request-headers", "content-type")];
    let asked = client.send("OPTIONS", &url("/track"), &preflight, "").await.unwrap();
    assert_eq!((asked.status, asked.headers["access-control-allow-headers"].to_str().unwrap()), (204, "content-type"));
    readable(&asked);

    relay.start_again().await;
    // As the SDK does: the same batch again.
    let back = send("restart").await;
    readable(&back);
    assert_eq!(back.body, "1");
    // nginx refuses by the length alone.
    let head = format!(
        "POST /track HTTP/1.1\r\nhost: r\r\norigin: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        ORIGIN.1,
        21 << 20
    );
    let mut raw = Raw::connect(&address).await.unwrap();
    raw.write(&head).await.unwrap();
    raw.finish().await.unwrap();
    let refused = raw.read_to_end().await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 413"), "{refused}");
    assert!(refused.contains("Access-Control-Allow-Origin: https://shop.example"), "{refused}");
    relay.drained("mixpanel").await;
    eventually(PATIENCE, async || {
        let ids: Vec<String> = sandbox.mixpanel_insert_ids().await.into_keys().collect();
        same("events at Mixpanel", ids, vec!["before".to_owned(), "restart".to_owned()])
    })
    .await;
}

/// The shipped Caddyfile, without TLS, on a port of the system's choice.
async fn caddy(dir: &Path, relay: &str) -> (Proxy, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let site = format!("{{\n\tadmin off\n\tauto_https off\n}}\nhttp://127.0.0.1:{port} {{");
    let shipped = read("proxies/Caddyfile");
    assert!(shipped.contains("\nrelay.example.com {") && shipped.contains("reverse_proxy 127.0.0.1:8080 {"));
    let plain = shipped.replace("relay.example.com {", &site).replace("127.0.0.1:8080 {", &format!("{relay} {{"));
    std::fs::write(dir.join("Caddyfile"), plain).unwrap();
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(dir.join("Caddyfile")).env("HOME", dir);
    for home in ["XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
        command.env(home, dir);
    }
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("tests/setup.sh installs caddy");
    let (caddy, address) = (Proxy(child), format!("127.0.0.1:{port}"));
    eventually(PATIENCE, async || {
        tokio::net::TcpStream::connect(&address).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    (caddy, address)
}

#[tokio::test]
async fn behind_caddy_a_browser_can_read_every_answer() {
    const ORIGIN: (&str, &str) = ("origin", "https://shop.example");
    let sandbox = Sandbox::start().await;
    let trusted = json!({ "server": { "trusted_proxies": ["127.0.0.1"] }, "connectors": { "brevo": null } });
    let mut relay = Relay::start(&sandbox, trusted).await;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (_caddy, address) = caddy(dir.path(), relay.address()).await;
    let client = crate::harness::http::Client::new();
    let url = format!("http://{address}/track?ip=1");
    let send = async |body: String| client.send("POST", &url, &[JSON, ORIGIN], body).await.unwrap();
    let readable = |answer: &crate::harness::http::Answer| {
        let allowed: Vec<_> = answer.headers.get_all("access-control-allow-origin").iter().collect();
        assert_eq!(allowed, ["https://shop.example"], "{:?}", answer.headers);
    };
    let event =
        json!([{ "event": "e", "properties": { "token": "sandbox-token", "distinct_id": "u", "$insert_id": "one" } }]);
    let taken = send(event.to_string()).await;
    readable(&taken);
    assert_eq!(taken.body, "1");
    // The relay's own word, which has the SDK send halves.
    let large = send(" ".repeat(21 << 20)).await;
    readable(&large);
    assert_eq!(large.status, 413);

    assert!(relay.terminate().await.success());
    let away = send(event.to_string()).await;
    readable(&away);
    assert_eq!((away.status, away.header("retry-after")), (503, Some("5")));
    let preflight =
        [ORIGIN, ("access-control-request-method", "POST"), ("access-control-request-headers", "content-type")];
    let asked = client.send("OPTIONS", &url, &preflight, "").await.unwrap();
    readable(&asked);
    assert_eq!((asked.status, asked.header("access-control-allow-headers")), (204, Some("content-type")));
    relay.start_again().await;
    readable(&send(event.to_string()).await);
    sandbox.mixpanel_has_events(1, PATIENCE).await;
}
