//! Real connections over loopback: callers that stall, break off or leave.

use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::clock::ManualClock;
use crate::edge::budget::Budget;
use crate::edge::service::tests::{CONFIG, MemoryJournal, NOW, config};
use crate::edge::{EdgeParts, IntakeLimits, router};

struct Served {
    address: SocketAddr,
    journal: Arc<MemoryJournal>,
    budget: Budget,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn served(limits: ConnectionLimits) -> Served {
    drop(rustls::crypto::ring::default_provider().install_default());
    let journal = Arc::new(MemoryJournal::default());
    let mut parts = EdgeParts::new(Arc::new(config(CONFIG)), journal.clone(), ManualClock::at(NOW)).unwrap();
    parts.limits = IntakeLimits { idle: Duration::from_millis(200), total: Duration::from_secs(2), ..parts.limits };
    let budget = parts.budget.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(plain(listener), router(parts), limits, shutdown.clone()));
    Served { address, journal, budget, shutdown, task }
}

fn plain(listener: TcpListener) -> Door {
    Door { listener, tls: None }
}

fn limits() -> ConnectionLimits {
    ConnectionLimits {
        connections: 64,
        talking: 64,
        head: Duration::from_millis(200),
        stall: Duration::from_millis(200),
        drain: Duration::from_millis(500),
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is how a server ends a connection whose request it did not read to the end.
    drop(stream.read_to_end(&mut bytes).await);
    String::from_utf8_lossy(&bytes).into_owned()
}

const HALF: &str = "POST /track HTTP/1.1\r\nhost: r\r\norigin: https://shop.example\r\ncontent-type: application/json\r\n\
                    content-length: 500\r\n\r\n[{\"event\":\"a\",";

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let served = served(limits()).await;
    let started = Instant::now();
    for beginning in ["", "P", "GET / HTTP/1.1\r\nhost:"] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        read_all(&mut stream).await;
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_slow_body_is_told_to_come_back_with_cors_headers() {
    let served = served(limits()).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(HALF.as_bytes()).await.unwrap();
    let answer = read_all(&mut stream).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 503"), "{answer}");
    assert!(answer.contains("retry-after: 5"), "{answer}");
    assert!(answer.contains("access-control-allow-origin: https://shop.example"), "{answer}");
    assert!(served.journal.records.lock().unwrap().is_empty());
}

#[tokio::test]
async fn half_a_request_is_not_stored_and_gives_its_budget_back() {
    let served = served(limits()).await;
    let free = served.budget.free();
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(HALF.as_bytes()).await.unwrap();
    drop(stream);
    let given_back = async {
        while served.budget.free() != free {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), given_back).await.unwrap();
    assert!(served.journal.records.lock().unwrap().is_empty());
}

#[tokio::test]
async fn more_connections_than_allowed_wait_outside() {
    let served = served(ConnectionLimits { connections: 1, ..limits() }).await;
    let mut first = TcpStream::connect(served.address).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut second = TcpStream::connect(served.address).await.unwrap();
    second.write_all(b"GET /healthz HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n").await.unwrap();
    // The first is cut off after its head's time; then it is the second's turn.
    assert!(read_all(&mut second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn who_says_nothing_leaves_room_for_those_who_talk() {
    let served = served(ConnectionLimits { talking: 1, head: Duration::from_secs(60), ..limits() }).await;
    let _silent =
        [TcpStream::connect(served.address).await.unwrap(), TcpStream::connect(served.address).await.unwrap()];
    let ask = b"GET /healthz HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n";
    for _ in 0..2 {
        let mut talks = TcpStream::connect(served.address).await.unwrap();
        talks.write_all(ask).await.unwrap();
        assert!(read_all(&mut talks).await.starts_with("HTTP/1.1 200"));
    }
    served.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), served.task)
        .await
        .expect("silent callers hold up no shutdown")
        .unwrap();
}

#[tokio::test]
async fn a_shutdown_answers_what_is_under_way_and_ends() {
    let served = served(limits()).await;
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: r\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    served.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), served.task).await.unwrap().unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_caller_that_does_not_read_its_answer_is_cut_off() {
    let gone = CancellationToken::new();
    let held = Arc::new(std::sync::Mutex::new(Some(gone.clone().drop_guard())));
    let endless = move || {
        let held = held.lock().unwrap().take();
        let piece = futures_util::stream::repeat_with(move || {
            let _held = &held;
            Ok::<_, Infallible>(bytes::Bytes::from_static(&[0; 64 << 10]))
        });
        std::future::ready(Response::new(Body::from_stream(piece)))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().route("/", axum::routing::get(endless));
    let task = tokio::spawn(serve(plain(listener), app, limits(), CancellationToken::new()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: r\r\n\r\n").await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), gone.cancelled()).await.expect("the answer was dropped");
    task.abort();
}

/// A relay's server behind TLS with a certificate for `localhost`, and a client that trusts it.
async fn served_with_tls(app: Router) -> (String, reqwest::ClientBuilder, SocketAddr, CancellationToken) {
    drop(rustls::crypto::ring::default_provider().install_default());
    let dir = tempfile::tempdir().unwrap();
    let pair = tls::tests::made();
    let certificate = tls::Certificate::load(&tls::tests::in_files(dir.path(), &pair)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let door = Door { listener, tls: Some(certificate.server_config().unwrap()) };
    let shutdown = CancellationToken::new();
    tokio::spawn(serve(door, app, limits(), shutdown.clone()));
    let root = reqwest::Certificate::from_pem(pair.0.as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([root]).resolve("localhost", address);
    (format!("https://localhost:{}", address.port()), client, address, shutdown)
}

fn hello() -> Router {
    Router::new().route("/", axum::routing::get(|| async { "hello" }))
}

#[tokio::test]
async fn tls_speaks_both_versions_of_http_and_not_without_tls() {
    let (url, client, address, _) = served_with_tls(hello()).await;
    let answer = client.build().unwrap().get(&url).send().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (http::Version::HTTP_2, 200));
    assert_eq!(crate::vendor::read_capped(answer, 100).await.unwrap(), "hello");

    let (url, client, ..) = served_with_tls(hello()).await;
    let answer = client.http1_only().build().unwrap().get(&url).send().await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_11);

    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: r\r\n\r\n").await.unwrap();
    assert!(!read_all(&mut stream).await.contains("HTTP"), "nothing is answered in plain text");
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_cut_off() {
    let (_, _, address, _) = served_with_tls(hello()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[22, 3, 1]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), read_all(&mut stream)).await.expect("it was closed");
}

#[tokio::test]
async fn a_stream_that_does_not_take_its_answer_is_cut_off() {
    let gone = CancellationToken::new();
    let held = Arc::new(std::sync::Mutex::new(Some(gone.clone().drop_guard())));
    let endless = move || {
        let held = held.lock().unwrap().take();
        let piece = futures_util::stream::repeat_with(move || {
            let _held = &held;
            Ok::<_, Infallible>(bytes::Bytes::from_static(&[0; 64 << 10]))
        });
        std::future::ready(Response::new(Body::from_stream(piece)))
    };
    let (url, client, ..) = served_with_tls(Router::new().route("/", axum::routing::get(endless))).await;
    let answer = client.build().unwrap().get(&url).send().await.unwrap();
    assert_eq!(answer.version(), http::Version::HTTP_2);
    tokio::time::timeout(Duration::from_secs(10), gone.cancelled()).await.expect("the answer was dropped");
    drop(answer);
}
