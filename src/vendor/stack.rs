//! The tower stack in front of a destination.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

use super::budget::{Budgets, Reading};
use super::gate::SharedGate;
use super::verdict::{Judge, judge};
use super::{Transport, TransportError, VendorAnswer, VendorRequest, Verdict};
use crate::telemetry;

/// How long an answer may take. Mixpanel's own SDKs wait 90 s at most; both vendors answer in well under a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What a vendor's answer says about the limits, if it does.
pub type Meter = fn(&VendorAnswer) -> Option<Reading>;

/// How one vendor's answers are read.
#[derive(Clone, Copy)]
pub struct Reader {
    pub judge: Judge,
    pub meter: Meter,
}

pub type Stack = BoxCloneSyncService<VendorRequest, VendorAnswer, TransportError>;

/// Builds the stack of one destination. A call through it resolves only with a definite answer, or with
/// [`TransportError::Store`]: everything else is waited out inside, for as long as it takes. Dropping the call's future
/// is how to give up.
pub fn build(transport: Transport, gate: Arc<SharedGate>, budgets: Arc<Budgets>, reader: Reader) -> Stack {
    let stack = ServiceBuilder::new()
        // Outermost, so that every attempt waits for the gate and pays from the budget again, and so that nobody above
        // retries a second time.
        .retry(TryAgain { gate: gate.clone(), reader, doubtful: 0 })
        // Before the budget: a call held at a closed gate must not have spent anything.
        .layer(GateLayer { gate })
        // The last wait before the wire: what passes here counts at the vendor.
        .layer(BudgetLayer { budgets, meter: reader.meter })
        // Counts attempts as the vendor sees them, timeouts included.
        .layer(MetricsLayer)
        // Innermost, so that it measures the vendor and not our own waiting.
        .layer(TimeoutLayer { after: ANSWER_TIMEOUT })
        .service(transport);
    BoxCloneSyncService::new(stack)
}

/// One attempt, past the gate and without trying again: for probes of a paused destination.
pub fn probe_stack(transport: Transport, budgets: Arc<Budgets>, reader: Reader) -> Stack {
    let stack = ServiceBuilder::new()
        .layer(BudgetLayer { budgets, meter: reader.meter })
        .layer(MetricsLayer)
        .layer(TimeoutLayer { after: ANSWER_TIMEOUT })
        .service(transport);
    BoxCloneSyncService::new(stack)
}

type Answering = Pin<Box<dyn Future<Output = Result<VendorAnswer, TransportError>> + Send>>;

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

#[derive(Clone)]
struct GateLayer {
    gate: Arc<SharedGate>,
}

#[derive(Clone)]
struct GateService<S> {
    inner: S,
    gate: Arc<SharedGate>,
}

impl<S> Layer<S> for GateLayer {
    type Service = GateService<S>;
    fn layer(&self, inner: S) -> GateService<S> {
        GateService { inner, gate: self.gate.clone() }
    }
}

impl<S> Service<VendorRequest> for GateService<S>
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
        let gate = self.gate.clone();
        Box::pin(async move {
            gate.passed().await;
            inner.oneshot(request).await
        })
    }
}

#[derive(Clone)]
struct BudgetLayer {
    budgets: Arc<Budgets>,
    meter: Meter,
}

#[derive(Clone)]
struct BudgetService<S> {
    inner: S,
    budgets: Arc<Budgets>,
    meter: Meter,
}

impl<S> Layer<S> for BudgetLayer {
    type Service = BudgetService<S>;
    fn layer(&self, inner: S) -> BudgetService<S> {
        BudgetService { inner, budgets: self.budgets.clone(), meter: self.meter }
    }
}

impl<S> Service<VendorRequest> for BudgetService<S>
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
        let (budgets, meter) = (self.budgets.clone(), self.meter);
        Box::pin(async move {
            let family = request.family;
            budgets.claim(family, request.priority, request.cost).await?;
            let answer = inner.oneshot(request).await?;
            if let Some(reading) = meter(&answer) {
                budgets.learn(family, reading).await?;
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
