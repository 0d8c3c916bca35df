//! What the vendors push: Brevo's email events to Mixpanel, Mixpanel's event streams and cohorts to Brevo.
//!
//! Owns the routes under `/webhooks`, what a push must carry ([`door`]), and how each vendor's body becomes records. It
//! appends to the journal as the edge does, from the edge's own budget of bytes.
//!
//! Must not know: how a record is delivered, which leg takes it, how a list is changed, HTTP calls to a vendor.
//!
//! Invariants:
//! * what was pushed is stored before it is answered (P1), and trouble of our own is "come back later" (429), never an answer
//!   that makes a vendor throw the push away or switch the webhook off;
//! * a push is for one destination, the other vendor: nothing goes back where it came from (CORE 9);
//! * one bad thing in a batch does not keep its neighbours out.

pub mod brevo;
pub mod door;
pub mod mixpanel;
mod taken;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing;
use bytes::Bytes;
use http::Response;
use http::request::Parts;
use tokio::time::Instant;

use self::brevo::BrevoWebhook;
use self::door::{Door, Refusal};
use self::mixpanel::EventStream;
use self::mixpanel::cohorts::CohortSyncs;
use crate::clock::SharedClock;
use crate::cohorts;
use crate::config::Config;
use crate::edge::IntakeLimits;
use crate::edge::budget::{Account, Budget};
use crate::privacy::{Erased, Tombstones};
use crate::record::Record;
use crate::store::{Journal, State};
use crate::telemetry;

/// From this size on a body is read on the blocking pool: parsing megabytes would hold up other connections.
const BIG: usize = 256 << 10;

const BREVO: &str = "/webhooks/brevo";
const EVENTS: &str = "/webhooks/mixpanel/events";
const COHORTS: &str = "/webhooks/mixpanel/cohorts";

/// Every operation served here, for the test that holds the published description against it.
pub const OPERATIONS: &[(&str, &str)] = &[("post", BREVO), ("post", EVENTS), ("post", COHORTS)];

/// What all webhooks work with.
pub struct Shared {
    pub config: Arc<Config>,
    pub journal: Arc<dyn Journal>,
    pub state: Arc<dyn State>,
    pub clock: SharedClock,
    pub tombstones: Arc<Tombstones>,
    /// Where pushed cohorts go.
    pub lists: Arc<cohorts::Desk>,
    /// The edge's.
    pub budget: Budget,
    pub limits: IntakeLimits,
}

impl Shared {
    /// What every push goes through first: credentials, then the body, then `read`, which says what is in it. The bytes stay
    /// on the account until it is dropped.
    async fn receive<T: Send + 'static>(
        &self,
        door: &Door,
        head: &Parts,
        body: Body,
        read: impl FnOnce(&Bytes) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<(T, Account), Refusal> {
        door.admit(&head.headers)?;
        let (body, account) = door::read(&head.headers, body, &self.limits, &self.budget).await?;
        Ok((off_the_workers(body, read).await??, account))
    }

    /// Stores `records`. The account is closed when they are synced, not before.
    async fn append(&self, records: Vec<Record>, account: Account) -> Result<(), Refusal> {
        if records.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let appended = self.journal.append(records).await;
        drop(account);
        telemetry::append(started.elapsed());
        Ok(appended.map(|_position| ())?)
    }
}

/// The routes, with and without a trailing slash.
pub fn router(shared: Shared) -> Router {
    let shared = Arc::new(shared);
    let brevo = Arc::new(BrevoWebhook::new(shared.clone()));
    let events = Arc::new(EventStream::new(shared.clone()));
    let cohorts = Arc::new(CohortSyncs::new(shared));
    let brevo = serve(BREVO, move |head, body| {
        let brevo = brevo.clone();
        async move { brevo.answer(head, body).await }
    });
    let events = serve(EVENTS, move |head, body| {
        let events = events.clone();
        async move { events.answer(head, body).await }
    });
    let cohorts = serve(COHORTS, move |head, body| {
        let cohorts = cohorts.clone();
        async move { cohorts.answer(head, body).await }
    });
    brevo.merge(events).merge(cohorts)
}

/// One route, measured.
fn serve<F, A>(path: &'static str, answer: F) -> Router
where
    F: Fn(Parts, Body) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send,
{
    let handler = routing::post(move |request: Request| {
        let answer = answer.clone();
        async move {
            let started = Instant::now();
            let (head, body) = request.into_parts();
            let response = answer(head, body).await;
            telemetry::http_request(path, response.status().as_u16(), started.elapsed());
            response
        }
    });
    Router::new().route(path, handler.clone()).route(&format!("{path}/"), handler)
}

/// An erased person's record is taken, since its sender would only try again, and its place alone is kept.
fn erase_if(erased: &Erased, record: &mut Record) {
    if erased.covers(record.kind, &record.body) {
        record.body = Bytes::new();
    }
}

/// Runs `read` over a body, beside the workers when it is big.
async fn off_the_workers<T: Send + 'static>(
    body: Bytes,
    read: impl FnOnce(&Bytes) -> T + Send + 'static,
) -> Result<T, Refusal> {
    if body.len() < BIG {
        return Ok(read(&body));
    }
    match tokio::task::spawn_blocking(move || read(&body)).await {
        Ok(read) => Ok(read),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down cancels.
            Err(_cancelled) => Err(Refusal::Later { why: "the relay is shutting down", retry_after: 1 }),
        },
    }
}
