//! HTTP/2, where one connection can ask for a thousand things and take each of them back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{PATIENCE, Relay, Sandbox};

const RESIDENT: u64 = 256 << 20;

/// A relay whose TLS ends at itself, and what a client needs to trust it.
struct Secure {
    relay: Relay,
    connector: TlsConnector,
    _files: TempDir,
}

impl Secure {
    async fn start(sandbox: &Sandbox) -> Self {
        let files = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let (cert, key) = (files.path().join("c.pem"), files.path().join("k.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let tls = json!({ "cert": cert, "key": key });
        let relay = Relay::start(sandbox, json!({ "server": { "tls": tls } })).await;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { relay, connector: TlsConnector::from(Arc::new(config)), _files: files }
    }

    async fn stream(&self) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.relay.address()).await.unwrap();
        self.connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap()
    }

    /// A client, and how its connection ended.
    async fn connect(&self) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
        let (client, connection) = h2::client::handshake(self.stream().await).await.unwrap();
        (client, tokio::spawn(connection))
    }

    async fn is_well(&mut self) {
        let (client, _connection) = self.connect().await;
        let mut client = tokio::time::timeout(PATIENCE, client.ready()).await.unwrap().unwrap();
        let (answer, _) = client.send_request(request("/healthz"), true).unwrap();
        assert_eq!(tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 200);
        let peak = self.relay.process().peak_resident();
        assert!(peak < RESIDENT, "{} MiB resident", peak >> 20);
    }
}

fn request(path: &str) -> http::Request<()> {
    http::Request::get(format!("https://localhost{path}")).body(()).unwrap()
}

/// "Rapid reset" (CVE-2023-44487): a stream costs its caller nothing and the server the work that it began.
#[tokio::test]
async fn streams_that_are_reset_at_once_end_the_connection() {
    let sandbox = Sandbox::start().await;
    let mut secure = Secure::start(&sandbox).await;
    let (mut client, ended) = secure.connect().await;
    let attack = async {
        for sent in 0..200_000_u32 {
            client = match client.ready().await {
                Ok(client) => client,
                Err(_) => return sent,
            };
            let Ok((answer, mut stream)) = client.send_request(request("/track?data=W10="), false) else { return sent };
            stream.send_reset(h2::Reason::CANCEL);
            drop(answer);
            if sent % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        200_000
    };
    let sent = tokio::time::timeout(PATIENCE, attack).await.expect("the attack ends");
    let how = tokio::time::timeout(PATIENCE, ended).await.expect("the connection ends").unwrap();
    assert!(sent < 200_000, "all of them were taken");
    // Told to be calm, where the line was still open to say so.
    let error = how.expect_err("ended by the relay");
    assert!(error.is_io() || error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM), "after {sent}: {error}");
    secure.is_well().await;
}

/// More streams than allowed wait at the client; heads without measure are refused.
#[tokio::test]
async fn streams_and_heads_are_bounded() {
    let sandbox = Sandbox::start().await;
    let mut secure = Secure::start(&sandbox).await;
    let (client, _connection) = secure.connect().await;
    let mut client = client.ready().await.unwrap();
    let long = "a".repeat(1 << 20);
    let mut head = request("/healthz");
    head.headers_mut().insert("x-long", long.parse().unwrap());
    if let Ok((answer, _)) = client.send_request(head, true) {
        match tokio::time::timeout(PATIENCE, answer).await.unwrap() {
            Ok(answer) => assert_eq!(answer.status(), 431),
            Err(error) => assert!(error.is_go_away() || error.is_reset() || error.is_io(), "{error}"),
        }
    }
    let (client, _connection) = secure.connect().await;
    let mut client = client.ready().await.unwrap();
    // One answer first: with it the client knows how many streams it may open.
    let (answer, _) = client.send_request(request("/healthz"), true).unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap().status(), 200);
    // Bodies that never come hold their streams open; what is too many waits at the client, or is refused.
    assert!(client.current_max_send_streams() <= 128);
    let mut open = Vec::new();
    for _ in 0..1_000 {
        let post = http::Request::post("https://localhost/track").body(()).unwrap();
        let Ok(Ok(ready)) = tokio::time::timeout(Duration::from_millis(50), client.ready()).await else { break };
        client = ready;
        open.push(client.send_request(post, false).unwrap());
    }
    secure.is_well().await;
}
