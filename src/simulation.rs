//! Hours of a relay's life in a second of a test's: its rooms, store and vendors under tokio's paused clock.
//!
//! A paused clock jumps to the next timer whenever the runtime has nothing to do. So that it never jumps over something
//! that only takes the machine's time, everything that leaves the runtime's one thread holds it: the store's calls run as
//! blocking tasks, during which tokio lets no time pass, and the vendors are asked without a socket. What is left is
//! waiting on purpose, and the wall clock, here and at the vendors, goes by it.
//!
//! For `#[tokio::test(start_paused = true)]`, whose runtime has one thread.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::Service;

use crate::clock::{Clock, UnixMillis, Uptime};
use crate::record::{EntryId, Epoch, PerKind, Position, Record};
use crate::sandbox::{Sandbox, Vendor};
use crate::store::{
    AppendError, Appends, Entry, EraseReport, Journal, JournalSize, KeyRange, Pair, Picker, State, StoreError, Table,
    Tail, TrimReport, WriteBatch,
};
use crate::vendor::{TransportError, VendorAnswer, VendorRequest};

/// When a simulation begins, 2026-03-01T08:00:00Z.
const BEGINNING: UnixMillis = UnixMillis(1_772_352_000_000);

/// The wall's clock in step with tokio's.
#[derive(Debug)]
pub struct SimulatedClock {
    from: Instant,
    /// For threads that know nothing of the runtime and its clock: what it last showed.
    shown: AtomicU64,
}

impl SimulatedClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { from: Instant::now(), shown: AtomicU64::new(BEGINNING.0) })
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> UnixMillis {
        if Handle::try_current().is_err() {
            return UnixMillis(self.shown.load(Ordering::SeqCst));
        }
        let now = BEGINNING + self.from.elapsed();
        self.shown.store(now.0, Ordering::SeqCst);
        now
    }

    fn uptime(&self) -> Option<Uptime> {
        let millis = u64::try_from(self.from.elapsed().as_millis()).ok()?;
        Some(Uptime { boot: "simulated".to_owned(), millis })
    }
}

/// Makes a call of the store's a blocking task.
async fn held<S, T, F>(store: Arc<S>, call: F) -> T
where
    S: Send + Sync + ?Sized + 'static,
    T: Send + 'static,
    F: for<'a> FnOnce(&'a S) -> BoxFuture<'a, T> + Send + 'static,
{
    let called = tokio::task::spawn_blocking(move || Handle::current().block_on(call(&store)));
    called.await.expect("a call of the store does not panic")
}

/// A state during whose calls no time passes.
pub struct HeldState(pub Arc<dyn State>);

impl State for HeldState {
    fn get(&self, table: Table, keys: Vec<Vec<u8>>) -> BoxFuture<'_, Result<Vec<Option<Bytes>>, StoreError>> {
        Box::pin(held(self.0.clone(), move |state| state.get(table, keys)))
    }

    fn scan(&self, table: Table, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>> {
        Box::pin(held(self.0.clone(), move |state| state.scan(table, range, limit)))
    }

    fn scan_back(&self, table: Table, range: KeyRange, limit: usize) -> BoxFuture<'_, Result<Vec<Pair>, StoreError>> {
        Box::pin(held(self.0.clone(), move |state| state.scan_back(table, range, limit)))
    }

    fn count(&self, table: Table, range: KeyRange) -> BoxFuture<'_, Result<(u64, u64), StoreError>> {
        Box::pin(held(self.0.clone(), move |state| state.count(table, range)))
    }

    fn write(&self, batch: WriteBatch) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(held(self.0.clone(), move |state| state.write(batch)))
    }

    fn scrub(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(held(self.0.clone(), |state| state.scrub()))
    }
}

/// A journal during whose calls no time passes.
pub struct HeldJournal(pub Arc<dyn Journal>);

impl Appends for HeldJournal {
    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<Position, AppendError>> {
        Box::pin(held(self.0.clone(), move |journal| journal.append(records)))
    }

    fn ready(&self) -> Result<(), AppendError> {
        self.0.ready()
    }
}

impl Journal for HeldJournal {
    fn read(&self, from: EntryId, max_bytes: usize) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        Box::pin(held(self.0.clone(), move |journal| journal.read(from, max_bytes)))
    }

    fn tip(&self) -> watch::Receiver<EntryId> {
        self.0.tip()
    }

    fn epoch(&self) -> Epoch {
        self.0.epoch()
    }

    fn accepted(&self) -> PerKind {
        self.0.accepted()
    }

    fn count_from(&self, from: EntryId) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(held(self.0.clone(), move |journal| journal.count_from(from)))
    }

    fn trim(&self, below: EntryId, tail: Tail, now: UnixMillis) -> BoxFuture<'_, Result<TrimReport, StoreError>> {
        Box::pin(held(self.0.clone(), move |journal| journal.trim(below, tail, now)))
    }

    fn erase(&self, from: EntryId, below: EntryId, belongs: Picker) -> BoxFuture<'_, Result<EraseReport, StoreError>> {
        Box::pin(held(self.0.clone(), move |journal| journal.erase(from, below, belongs)))
    }

    fn scrub(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(held(self.0.clone(), |journal| journal.scrub()))
    }

    fn size(&self) -> BoxFuture<'_, Result<JournalSize, StoreError>> {
        Box::pin(held(self.0.clone(), |journal| journal.size()))
    }
}

/// A call to a vendor, as the wire would have carried it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub at: UnixMillis,
    pub path: String,
    pub status: u16,
}

/// Both vendors and their control API, asked without a socket. The bottom of every stack of a simulation.
#[derive(Clone)]
pub struct Direct {
    sandbox: Sandbox,
    clock: Arc<SimulatedClock>,
    /// Every call, oldest first.
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// The longest answer read.
const MAX_ANSWER: usize = 1 << 28;

impl Direct {
    /// The base URLs of Mixpanel and Brevo: hosts that nobody could reach.
    pub const BASES: [&'static str; 2] = ["http://mixpanel.invalid", "http://brevo.invalid/v3"];

    pub fn new(sandbox: Sandbox, clock: Arc<SimulatedClock>) -> Self {
        Self { sandbox, clock, asked: Arc::default() }
    }

    /// Every call to a vendor so far, oldest first.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub async fn control(&self, method: &str, path: &str, body: &Value) -> (u16, Bytes) {
        let request = http::Request::builder().method(method).uri(path).body(Body::from(body.to_string()));
        let answer = self.sandbox.controlled(request.expect("a request")).await.expect("control answers");
        let status = answer.status().as_u16();
        (status, Limited::new(answer.into_body(), MAX_ANSWER).collect().await.expect("an answer").to_bytes())
    }

    /// One call, to Brevo or else to Mixpanel by its host. `None`: the vendor has hung up.
    pub async fn exchange(&self, request: http::Request<Body>) -> Option<http::Response<Bytes>> {
        let vendor = if request.uri().host() == Some("brevo.invalid") { Vendor::Brevo } else { Vendor::Mixpanel };
        let (at, path) = (self.clock.now(), request.uri().path().to_owned());
        let answer = self.sandbox.asked(vendor, request).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.ok()?.to_bytes();
        let asked = Asked { at, path, status: head.status.as_u16() };
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        Some(http::Response::from_parts(head, body))
    }

    async fn ask(self, request: VendorRequest) -> Result<VendorAnswer, TransportError> {
        let VendorRequest { method, url, headers, body, .. } = request;
        let mut sent = http::Request::builder().method(method).uri(url.as_str());
        *sent.headers_mut().expect("a fresh request") = headers;
        let answer = self.exchange(sent.body(Body::from(body)).expect("a request")).await;
        let answer = answer.ok_or_else(|| TransportError::Broken("the vendor has hung up".to_owned()))?;
        let (head, body) = answer.into_parts();
        Ok(VendorAnswer::new(head.status, head.headers, body))
    }
}

impl Service<VendorRequest> for Direct {
    type Response = VendorAnswer;
    type Error = TransportError;
    type Future = Pin<Box<dyn Future<Output = Result<VendorAnswer, TransportError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: VendorRequest) -> Self::Future {
        Box::pin(self.clone().ask(request))
    }
}
