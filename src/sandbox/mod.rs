//! Both vendors, simulated on loopback: what `mixrelay demo`, the tests and a user without accounts run against.
//!
//! Owns: the vendors' validation, answers, limits and quirks as their documentation and recorded answers have them,
//! faults on request, and an inspection API that shows what arrived. Every point on which sources disagree is a field
//! of [`Switches`], the likeliest reading first, and can be changed while running.
//!
//! Must not know: any other room. It is the judge of the relay's clients, so it shares no code with them, wire types
//! included; only the clock is common, so that tests move its windows.
//!
//! Invariants: counters are exact whatever the bounds of the logs; a record's arrival time is taken once its request
//! has been read; state changes of one vendor are serialised, so an answer always describes what it did.

mod account;
mod brevo;
mod control;
mod faults;
mod http;
mod journal;
mod limits;
mod mixpanel;
mod pushes;
mod server;
mod switches;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::BoxError;
use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clock::{SharedClock, UnixMillis};

pub use account::{AttributeSpec, BrevoAccount, MixpanelAccount, SandboxConfig};
pub use faults::{Fault, FaultKind, Moment, Vendor};
pub use switches::*;

use faults::Faults;
use http::{Call, Reply};
use server::Reset;

/// Whom a request without a connection comes from.
#[cfg(test)]
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A running simulation; clones share its state.
#[derive(Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

struct Inner {
    config: SandboxConfig,
    clock: SharedClock,
    switches: Mutex<Arc<Switches>>,
    faults: Mutex<Faults>,
    mixpanel: mixpanel::Mixpanel,
    brevo: brevo::Brevo,
}

impl Sandbox {
    pub fn new(config: SandboxConfig, clock: SharedClock) -> Self {
        let switches = Mutex::new(Arc::new(config.switches.clone()));
        let mixpanel = mixpanel::Mixpanel::new(config.mixpanel.clone());
        let brevo = brevo::Brevo::new(config.brevo.clone(), clock.now());
        let faults = Mutex::default();
        Self { inner: Arc::new(Inner { config, clock, switches, faults, mixpanel, brevo }) }
    }

    /// Serves until `shutdown` resolves: Mixpanel (ingestion, query, app, export and cdn on one port), Brevo (under
    /// `/v3`) and the control API. Open connections are then cut, as a vendor's outage would cut them.
    pub async fn serve(
        self,
        mixpanel: TcpListener,
        brevo: TcpListener,
        control: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let stop = CancellationToken::new();
        let of = |vendor: Vendor| {
            let sandbox = self.clone();
            move |request: hyper::Request<Incoming>, peer, reset| sandbox.clone().vendor(vendor, request, peer, reset)
        };
        let control_plane = {
            let sandbox = self.clone();
            move |request: hyper::Request<Incoming>, peer, _: Reset| sandbox.clone().control(request, peer)
        };
        let served = async {
            tokio::try_join!(
                server::run(mixpanel, of(Vendor::Mixpanel), stop.clone()),
                server::run(brevo, of(Vendor::Brevo), stop.clone()),
                server::run(control, control_plane, stop.clone()),
            )
        };
        let stopping = async {
            shutdown.await;
            stop.cancel();
        };
        let (served, ()) = tokio::join!(served, stopping);
        served.map(|_| ())
    }

    /// One request to a vendor. `None` means the connection ends without an answer.
    async fn vendor(
        self,
        vendor: Vendor,
        request: hyper::Request<impl HttpBody<Data = Bytes, Error: Into<BoxError>>>,
        peer: SocketAddr,
        reset: Reset,
    ) -> Option<Response<Body>> {
        let call = match Call::read(request, peer).await {
            Ok(call) => call,
            Err(refusal) => return Some(refusal.into_response()),
        };
        let plan = self.faults().take(vendor, &call);
        if !plan.delay.is_zero() {
            tokio::time::sleep(plan.delay).await;
        }
        let switches = self.switches();
        if let Some(kind) = plan.before {
            self.log_faulted(vendor, &call, &switches);
            return kind.play(vendor, None, reset).await;
        }
        let reply = match vendor {
            Vendor::Mixpanel => self.inner.mixpanel.answer(&call, &switches, &self.inner.clock).await,
            Vendor::Brevo => self.inner.brevo.answer(&call, &switches, self.now()),
        };
        match plan.after {
            Some(kind) => kind.play(vendor, Some(reply), reset).await,
            None => Some(reply.into_response()),
        }
    }

    /// A request without a connection, for tests whose clock moves whenever nothing in the process does: how long a socket
    /// takes is no part of their time. `None` as above.
    #[cfg(test)]
    pub(crate) async fn asked(&self, vendor: Vendor, request: hyper::Request<Body>) -> Option<Response<Body>> {
        self.clone().vendor(vendor, request, NOBODY, Reset::default()).await
    }

    /// The same, of the control API.
    #[cfg(test)]
    pub(crate) async fn controlled(&self, request: hyper::Request<Body>) -> Option<Response<Body>> {
        self.clone().control(request, NOBODY).await
    }

    fn log_faulted(&self, vendor: Vendor, call: &Call, switches: &Switches) {
        match vendor {
            Vendor::Mixpanel => self.inner.mixpanel.log_faulted(call, switches, self.now()),
            Vendor::Brevo => self.inner.brevo.log_faulted(call, switches, self.now()),
        }
    }

    async fn control(
        self,
        request: hyper::Request<impl HttpBody<Data = Bytes, Error: Into<BoxError>>>,
        peer: SocketAddr,
    ) -> Option<Response<Body>> {
        let reply: Reply = match Call::read(request, peer).await {
            Ok(call) => control::answer(&self, &call).await,
            Err(refusal) => refusal,
        };
        Some(reply.into_response())
    }

    fn now(&self) -> UnixMillis {
        self.inner.clock.now()
    }

    fn switches(&self) -> Arc<Switches> {
        lock(&self.inner.switches).clone()
    }

    fn set_switches(&self, switches: Switches) {
        *lock(&self.inner.switches) = Arc::new(switches);
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        lock(&self.inner.faults)
    }

    /// Back to the account as configured: records, logs, counters, faults and switches.
    fn reset(&self) {
        self.set_switches(self.inner.config.switches.clone());
        self.faults().clear();
        self.inner.mixpanel.reset();
        self.inner.brevo.reset(self.now());
    }
}

/// A panic in one handler must not hide what arrived before it, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
