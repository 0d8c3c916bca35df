//! The tower stack in front of a destination.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use super::budget::{Budgets, Reading, Slot};
use super::gate::SharedGate;
use super::verdict::{Judge, judge};
use super::{TransportError, VendorAnswer, VendorRequest, Verdict};
use crate::telemetry;

/// How long an answer may take. Mixpanel's own SDKs wait 90 s at most; both vendors answer in well under a second.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What a vendor's answer says about the limits, if it does.
pub type Meter = fn(&VendorAnswer) -> Option<Reading>;

/// How one vendor's answers are read.
#[derive(Clone, Copy)]
pub struct Reader {
    pub judge: Judge,
    pub meter: Meter,
    /// How long one may take: [`ANSWER_TIMEOUT`].
    pub answer_timeout: Duration,
}

pub type Stack = BoxCloneSyncService<VendorRequest, VendorAnswer, TransportError>;

/// Builds the stack of one destination. A call through it resolves only with a definite answer, or with
/// [`TransportError::Store`]: everything else is waited out inside, for as long as it takes. Dropping the call's future
/// is how to give up.
pub fn build(transport: impl Bottom, gate: Arc<SharedGate>, budgets: Arc<Budgets>, reader: Reader) -> Stack {
    let stack = ServiceBuilder::new()
        // Outermost, so that every attempt waits for the gate and pays from the budget again, and so that nobody above
        // retries a second time.
        .retry(TryAgain { gate: gate.clone(), reader, doubtful: 0 })
        // The last waits before the wire: what passes here counts at the vendor.
        .layer(AdmissionLayer { gate: Some(gate), budgets, meter: reader.meter })
        // Counts attempts as the vendor sees them, timeouts included.
        .layer(MetricsLayer)
        // Innermost, so that it measures the vendor and not our own waiting.
        .layer(TimeoutLayer { after: reader.answer_timeout })
        .service(transport);
    BoxCloneSyncService::new(stack)
}

/// What sends: [`super::Transport`], or [`super::upload::Upload`].
pub trait Bottom:
    Service<VendorRequest, Response = VendorAnswer, Error = TransportError, Future = Answering>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Bottom for S where
    S: Service<VendorRequest, Response = VendorAnswer, Error = TransportError, Future = Answering>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// One attempt, past the gate and without trying again: for probes of a paused destination, and for callers who wait.
pub fn probe_stack(transport: impl Bottom, budgets: Arc<Budgets>, reader: Reader) -> Stack {
    let stack = ServiceBuilder::new()
        .layer(AdmissionLayer { gate: None, budgets, meter: reader.meter })
        .layer(MetricsLayer)
        .layer(TimeoutLayer { after: reader.answer_timeout })
        .service(transport);
    BoxCloneSyncService::new(stack)
}

pub type Answering = Pin<Box<dyn Future<Output = Result<VendorAnswer, TransportError>> + Send>>;

/// The retry policy: all judgement is in the verdict, all waiting in the gate.
#[derive(Clone)]
struct TryAgain {
    gate: Arc<SharedGate>,
    reader: Reader,
    doubtful: u32,
}

impl tower::retry::Policy<VendorRequest, VendorAnswer, TransportError> for TryAgain {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut VendorRequest,
        result: &mut Result<VendorAnswer, TransportError>,
    ) -> Option<Self::Future> {
        if matches!(result, Err(TransportError::Store(_))) {
            return None;
        }
        let verdict = judge(self.reader.judge, result);
        self.gate.record(verdict);
        match result {
            // A 502 or a page in between says nothing of what was done behind it.
            Ok(_) if verdict == Verdict::Retry => self.doubtful += 1,
            Ok(answer) => answer.doubtful = self.doubtful,
            Err(error) if error.doubtful() => self.doubtful += 1,
            Err(_) => {}
        }
        (verdict != Verdict::Definite).then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &VendorRequest) -> Option<VendorRequest> {
        Some(request.clone()) // the body is shared, not copied
    }
}

/// Gate and budget in one, because each may close while a call waits at the other.
#[derive(Clone)]
struct AdmissionLayer {
    /// `None` for probes, which are to find out whether the gate may open.
    gate: Option<Arc<SharedGate>>,
    budgets: Arc<Budgets>,
    meter: Meter,
}

#[derive(Clone)]
struct AdmissionService<S> {
    inner: S,
    admission: AdmissionLayer,
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = AdmissionService<S>;
    fn layer(&self, inner: S) -> AdmissionService<S> {
        AdmissionService { inner, admission: self.clone() }
    }
}

impl AdmissionLayer {
    /// The gate first: a call held at a closed one must not have spent anything. And again after the budget, where the
    /// wait may have been an hour: what was claimed before a gate that has closed meanwhile is given up, since it would
    /// leave later than the budget has counted it.
    async fn admit(&self, request: &VendorRequest) -> Result<Slot, TransportError> {
        loop {
            if let Some(gate) = &self.gate {
                gate.passed().await;
            }
            let slot = self.budgets.claim(request.family, request.priority, request.cost).await?;
            if self.gate.as_ref().is_none_or(|gate| gate.lets_pass()) {
                return Ok(slot);
            }
        }
    }
}

impl<S> Service<VendorRequest> for AdmissionService<S>
where
    S: Service<VendorRequest, Response = VendorAnswer, Error = TransportError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = VendorAnswer;
    type Error = TransportError;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: VendorRequest) -> Answering {
        let inner = take_ready(&mut self.inner);
        let admission = self.admission.clone();
        Box::pin(async move {
            let _running = admission.admit(&request).await?;
            // Last of all, so that nothing is noted that waits; the budget counts from the answer.
            if let Some(note) = &request.note {
                note.written().await?;
            }
            let family = request.family;
            let answer = inner.oneshot(request).await?;
            if let Some(reading) = (admission.meter)(&answer) {
                admission.budgets.learn(family, reading).await?;
            }
            Ok(answer)
        })
    }
}

#[derive(Clone, Copy)]
struct MetricsLayer;

#[derive(Clone)]
struct MetricsService<S> {
    inner: S,
}

impl<S> Layer<S> for MetricsLayer {
    type Service = MetricsService<S>;
    fn layer(&self, inner: S) -> MetricsService<S> {
        MetricsService { inner }
    }
}

impl<S> Service<VendorRequest> for MetricsService<S>
where
    S: Service<VendorRequest, Response = VendorAnswer, Error = TransportError>,
    S::Future: Send + 'static,
{
    type Response = VendorAnswer;
    type Error = TransportError;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: VendorRequest) -> Answering {
        let (vendor, endpoint) = (request.family.vendor(), request.endpoint);
        let answering = self.inner.call(request);
        Box::pin(async move {
            let result = answering.await;
            telemetry::vendor_request(vendor, endpoint, result.as_ref().ok().map(|answer| answer.status.as_u16()));
            result
        })
    }
}

/// tower's own timeout boxes its error; this one keeps the error type.
#[derive(Clone, Copy)]
struct TimeoutLayer {
    after: Duration,
}

#[derive(Clone)]
struct TimeoutService<S> {
    inner: S,
    after: Duration,
}

impl<S> Layer<S> for TimeoutLayer {
    type Service = TimeoutService<S>;
    fn layer(&self, inner: S) -> TimeoutService<S> {
        TimeoutService { inner, after: self.after }
    }
}

impl<S> Service<VendorRequest> for TimeoutService<S>
where
    S: Service<VendorRequest, Response = VendorAnswer, Error = TransportError>,
    S::Future: Send + 'static,
{
    type Response = VendorAnswer;
    type Error = TransportError;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: VendorRequest) -> Answering {
        let answering = self.inner.call(request);
        let after = self.after;
        Box::pin(
            async move { tokio::time::timeout(after, answering).await.unwrap_or(Err(TransportError::Timeout(after))) },
        )
    }
}

/// The service that `poll_ready` was called on, leaving a clone behind (tower's rule for calling inside a future).
fn take_ready<S: Clone>(inner: &mut S) -> S {
    let clone = inner.clone();
    std::mem::replace(inner, clone)
}
