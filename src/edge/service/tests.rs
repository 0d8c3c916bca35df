//! The edge as callers see it: whole requests against the router, with a journal in memory.

use std::sync::Mutex;

use axum::body::Body;
use axum::extract::ConnectInfo;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::*;
use crate::clock::{ManualClock, UnixMillis};
use crate::config;
use crate::record::{EntryId, Epoch, PerKind, Position, Record};
use crate::store::{Appends, Entry, EraseReport, JournalSize, Picker, Sent, StoreError, Tail, TrimReport};

mod answers;
mod document;
mod stamps;

pub(in crate::edge) const NOW: UnixMillis = UnixMillis(1_750_000_000_000);

/// A journal that keeps records in memory, or fails as told.
#[derive(Default)]
pub(in crate::edge) struct MemoryJournal {
    pub records: Mutex<Vec<Record>>,
    pub failure: Mutex<Option<AppendError>>,
    /// Requests that were handed over as they were sent.
    pub sent: Mutex<Vec<Sent>>,
}

impl Appends for MemoryJournal {
    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<Position, AppendError>> {
        Box::pin(async move {
            self.ready()?;
            self.records.lock().unwrap().extend(records);
            Ok(Position::default())
        })
    }

    fn append_sent(&self, records: Vec<Record>, sent: Sent) -> BoxFuture<'_, Result<Position, AppendError>> {
        self.sent.lock().unwrap().push(sent);
        self.append(records)
    }

    fn ready(&self) -> Result<(), AppendError> {
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

impl Journal for MemoryJournal {
    fn read(&self, _: EntryId, _: usize) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn tip(&self) -> watch::Receiver<EntryId> {
        watch::channel(EntryId::FIRST).1
    }
    fn epoch(&self) -> Epoch {
        Epoch::default()
    }
    fn accepted(&self) -> PerKind {
        PerKind::default()
    }
    fn count_from(&self, _: EntryId) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async { Ok(0) })
    }
    fn trim(&self, _: EntryId, _: Tail, _: UnixMillis) -> BoxFuture<'_, Result<TrimReport, StoreError>> {
        Box::pin(async { Ok(TrimReport::default()) })
    }
    fn erase(&self, _: EntryId, below: EntryId, _: Picker) -> BoxFuture<'_, Result<EraseReport, StoreError>> {
        Box::pin(async move { Ok(EraseReport { next: below, emptied: 0 }) })
    }
    fn scrub(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async { Ok(true) })
    }
    fn size(&self) -> BoxFuture<'_, Result<JournalSize, StoreError>> {
        Box::pin(async { Ok(JournalSize::default()) })
    }
}

/// An edge with its journal, and ways to call it.
pub(in crate::edge) struct Edge {
    pub app: Router,
    pub journal: Arc<MemoryJournal>,
    pub clock: Arc<ManualClock>,
}

pub(in crate::edge) const CONFIG: &str = r#"
connectors:
  mixpanel:
    project_token: "tok"
    service_account: { username: "sa", secret: "sa-secret" }
    project_id: "12345"
  brevo: { api_key: "xkeysib-1" }
other_tokens: { forward: ["other"] }
server: { path_prefix: "/m", trusted_proxies: ["10.0.0.0/8"] }
auth:
  admin_token: "admin"
  api_keys: ["key-1", "key-2"]
  signing_secrets: ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
"#;

pub(in crate::edge) fn config(yaml: &str) -> Config {
    match config::parse(yaml, "test.yaml", &|_| None) {
        Ok(loaded) => loaded.config,
        Err(errors) => panic!("{errors}"),
    }
}

impl Edge {
    pub fn new(yaml: &str) -> Self {
        // A second installation is refused, and the first serves as well.
        drop(rustls::crypto::ring::default_provider().install_default());
        let (journal, clock) = (Arc::new(MemoryJournal::default()), ManualClock::at(NOW));
        let parts = EdgeParts::new(Arc::new(config(yaml)), journal.clone(), clock.clone()).unwrap();
        Self { app: router(parts), journal, clock }
    }

    pub async fn send(&self, mut request: Request<Body>) -> (StatusCode, HeaderMap, String) {
        let peer = SocketAddr::from(([203, 0, 113, 7], 4711));
        request.extensions_mut().insert(ConnectInfo(peer));
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, String::from_utf8_lossy(&body).into_owned())
    }

    /// POSTs and returns status and body.
    pub async fn post(&self, uri: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (u16, String) {
        let mut request = Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (status, _, text) = self.send(request.body(body.into()).unwrap()).await;
        (status.as_u16(), text)
    }

    pub async fn get(&self, uri: &str) -> (u16, String) {
        let (status, _, text) = self.send(Request::get(uri).body(Body::empty()).unwrap()).await;
        (status.as_u16(), text)
    }

    /// Takes what has been stored.
    pub fn stored(&self) -> Vec<Record> {
        std::mem::take(&mut *self.journal.records.lock().unwrap())
    }

    pub fn stored_json(&self) -> Vec<Value> {
        self.stored().iter().map(|record| serde_json::from_slice(&record.body).unwrap()).collect()
    }
}

const JSON: (&str, &str) = ("content-type", "application/json");
const EVENT: &str = r#"{"event":"A b+c","properties":{"token":"tok","distinct_id":"u"}}"#;

fn basic(credentials: &str) -> String {
    format!("Basic {}", BASE64.encode(credentials))
}

#[tokio::test]
async fn every_sdk_encoding_is_stored_the_same() {
    let edge = Edge::new(CONFIG);
    let array = format!("[{EVENT}]");
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let base64 = BASE64.encode(&array);
    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let form = ("content-type", "application/x-www-form-urlencoded");
    let beacon = ("content-type", "text/plain;charset=UTF-8");
    let gz = ("content-encoding", "gzip");
    type Post<'p> = (&'p str, Vec<(&'p str, &'p str)>, Vec<u8>);
    let posts: Vec<Post<'_>> = vec![
        ("/track/?verbose=0&ip=1&_=17", vec![form], format!("data={}", encoded(&array)).into()),
        ("/track/?ip=1&_=17", vec![form], format!("data={}", encoded(&base64)).into()),
        ("/track/?ip=1", vec![beacon], format!("data={}", encoded(&base64)).into()),
        ("/track", vec![form], format!("data={base64}").into()),
        ("/track?ip=0", vec![form], format!("data={}", encoded(&base64)).into()),
        ("/track", vec![form], format!("data={}&verbose=0&ip=0&api_key=", encoded(&array)).into()),
        ("/track", vec![JSON], array.clone().into()),
        ("/track/", vec![JSON, gz], gzip(&array)),
        ("/track", vec![form, gz], gzip(&format!("data={}", encoded(&base64)))),
        ("/track/?ip=1", vec![form], format!("data={}", encoded(EVENT)).into()),
        ("/track/", vec![form], format!("ip=1&data={base64}").into()),
        ("/m/track/", vec![], format!("\u{feff} {array}").into()),
        ("/m/track", vec![("content-type", "application/x-ndjson")], format!("{EVENT}\n").into()),
    ];
    for (uri, headers, body) in posts {
        let answer = edge.post(uri, &headers, body).await;
        assert_eq!(answer, (200, "1".to_owned()), "{uri} {headers:?}");
        let stored = edge.stored_json();
        assert_eq!(stored.len(), 1, "{uri}");
        assert_eq!(stored[0]["event"], "A b+c", "{uri}");
        assert_eq!(stored[0]["properties"]["time"], NOW.0);
    }
    for data in [encoded(EVENT), encoded(&base64), BASE64.encode(EVENT)] {
        assert_eq!(edge.get(&format!("/track?ip=0&verbose=0&data={data}")).await, (200, "1".to_owned()));
        assert_eq!(edge.stored_json()[0]["event"], "A b+c");
    }
}

/// Whatever is not stored must not stand in the journal either, inside the request that it came in.
#[tokio::test]
async fn a_request_is_stored_as_sent_only_when_all_of_it_is_stored_unchanged() {
    let edge = Edge::new(CONFIG);
    let auth = basic("sa:sa-secret");
    let headers = [JSON, ("authorization", auth.as_str()), ("content-encoding", "gzip")];
    let event = |id: &str, more: &str| {
        format!(
            r#"{{"event":"e","properties":{{"token":"tok","time":1740000000,"distinct_id":"u",{more}"$insert_id":"{id}"}}}}"#
        )
    };
    let cases = [
        (format!("[{}, {}]", event("a", ""), event("b", "")), true),
        (format!("{}\n{}\n", event("a", ""), event("b", "")), true),
        // One is refused, one is changed.
        (format!("[{},{}]", event("a", ""), event("b!", "")), false),
        (format!("[{},7]", event("a", "")), false),
        (format!("[{}]", event("a", "").replace(r#""token":"tok","#, "")), false),
    ];
    for (text, as_sent) in cases {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
        edge.post("/import?strict=1&project_id=12345", &headers, encoder.finish().unwrap()).await;
        assert!(!edge.stored().is_empty(), "{text}");
        let sent: Vec<Sent> = std::mem::take(&mut *edge.journal.sent.lock().unwrap());
        assert_eq!(sent.len(), usize::from(as_sent), "{text}");
        assert!(sent.iter().all(|sent| sent.text == text.as_bytes()), "{text}");
    }
}

#[tokio::test]
async fn time_comes_from_the_clock_that_was_handed_in() {
    let edge = Edge::new(CONFIG);
    edge.clock.advance(std::time::Duration::from_secs(2));
    assert_eq!(edge.post("/track", &[JSON], EVENT).await.0, 200);
    assert_eq!(edge.stored()[0].received_at, UnixMillis(NOW.0 + 2_000));
}

#[tokio::test]
async fn the_published_examples_are_answered_as_documented_and_arrive() {
    let edge = Edge::new(CONFIG);
    let ok = r#"{"code":200,"status":"OK","num_records_imported":1}"#.to_owned();
    let event =
        r#"[{"event":"Signed Up","properties":{"time":1740000000,"distinct_id":"user_1","$insert_id":"evt_abc123"}}]"#;
    let auth = basic("sa:sa-secret");
    let answer = edge.post("/import", &[JSON, ("authorization", &auth)], event).await;
    assert_eq!(answer, (200, ok.clone()));
    let stored = &edge.stored_json()[0]["properties"];
    assert_eq!(stored["mixrelay_insert_id"], "evt_abc123");
    assert_eq!(stored["$insert_id"], "9a1e547474224e994c1cb3f09d4d95b7");
    assert_eq!((&stored["time"], &stored["token"]), (&Value::from(1_740_000_000), &Value::from("tok")));

    let update = r#"[{"$token":"tok","$distinct_id":"user_1","$set":{"plan":"pro"}}]"#;
    assert_eq!(edge.post("/engage", &[JSON], update).await, (200, ok));
    assert_eq!(edge.stored_json()[0]["$set"]["plan"], "pro");
    // What SDKs send keeps its `1`.
    let go = ("accept", "text/plain");
    assert_eq!(edge.post("/engage", &[JSON, go], update).await, (200, "1".to_owned()));
    assert_eq!(edge.post("/engage/?ip=1", &[JSON], update).await, (200, "1".to_owned()));
}
