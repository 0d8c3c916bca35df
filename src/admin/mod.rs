//! The relay's own API for the people who run it: status, metrics, dead letters, pause and resume.
//!
//! Reads what legs and store let others see. What it changes (a gate, dead letters, an erasure) is noted in the [`audit`]
//! list. Errors are `{"error":{"code","message","hint"}}`. Who may see personal data as it is says [`sight`].

pub mod answers;
pub mod audit;
pub mod auth;
mod backfills;
mod dead_letters;
pub mod extract;
pub mod mapping;
pub mod mask;
mod people;
mod reconciliation;
pub mod sight;
mod status;
pub(crate) mod trace;

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use metrics_exporter_prometheus::PrometheusHandle;

use self::auth::{AdminAuth, authenticate, authorize};
use crate::clock::SharedClock;
use crate::delivery::brevo_leg::Forecast;
use crate::delivery::dead_letters::orders::Orders;
use crate::delivery::outlook::SharedPace;
use crate::delivery::status::LegStatus;
use crate::erasure::Desk;
use crate::in_force::InForce;
use crate::pulls::Pulls;
use crate::reconciliation::Reconciler;
use crate::store::{Journal, State};
use crate::tables::Catalog;
use crate::vendor::budget::Budgets;

/// What the admin API looks at.
#[derive(Clone)]
pub struct Parts {
    pub legs: Arc<Vec<LegStatus>>,
    pub journal: Arc<dyn Journal>,
    pub state: Arc<dyn State>,
    pub budgets: Arc<Budgets>,
    pub metrics: PrometheusHandle,
    pub clock: SharedClock,
    pub pace: SharedPace,
    pub tables: Arc<Catalog>,
    pub erasures: Arc<Desk>,
    pub orders: Arc<Orders>,
    pub mapping: Arc<InForce>,
    pub pulls: Arc<Pulls>,
    pub reconciler: Arc<Reconciler>,
    /// While Brevo's mode is `observe`.
    pub forecast: Option<Arc<Forecast>>,
    pub auth: AdminAuth,
}

/// Every operation served here, for the test that holds the published description against it.
pub const OPERATIONS: &[(&str, &str)] = &[
    ("get", "/metrics"),
    ("get", "/v1/status"),
    ("get", "/v1/dead-letters"),
    ("delete", "/v1/dead-letters"),
    ("get", "/v1/dead-letters/export"),
    ("post", "/v1/dead-letters/replay"),
    ("get", "/v1/audit"),
    ("get", "/v1/trace"),
    ("get", "/v1/mapping"),
    ("post", "/v1/mapping/preview"),
    ("post", "/v1/mapping/reload"),
    ("post", "/v1/destinations/{name}/pause"),
    ("post", "/v1/destinations/{name}/resume"),
    ("get", "/v1/backfills"),
    ("post", "/v1/backfills"),
    ("get", "/v1/backfills/{id}"),
    ("post", "/v1/backfills/{id}/cancel"),
    ("get", "/v1/reconciliation"),
    ("post", "/v1/reconciliation"),
    ("get", "/v1/erasures"),
    ("get", "/v1/people/{id}"),
    ("delete", "/v1/people/{id}"),
];

/// Shows what a mapping makes of records, and changes nothing.
const PREVIEW: &str = "/v1/mapping/preview";

fn api() -> Router<Parts> {
    Router::new()
        .route("/v1/status", get(status::status))
        .route("/v1/dead-letters", get(dead_letters::list).delete(dead_letters::purge))
        .route("/v1/dead-letters/export", get(dead_letters::export))
        .route("/v1/dead-letters/replay", post(dead_letters::replay))
        .route("/v1/audit", get(audit::list))
        .route("/v1/trace", get(trace::trace))
        .route("/v1/mapping", get(mapping::show))
        .route(PREVIEW, post(mapping::preview))
        .route("/v1/mapping/reload", post(mapping::reload))
        .route("/v1/destinations/{name}/pause", post(status::pause))
        .route("/v1/destinations/{name}/resume", post(status::resume))
        .route("/v1/backfills", get(backfills::list).post(backfills::begin))
        .route("/v1/backfills/{id}", get(backfills::show))
        .route("/v1/backfills/{id}/cancel", post(backfills::cancel))
        .route("/v1/reconciliation", get(reconciliation::list).post(reconciliation::compare))
        .route("/v1/erasures", get(people::erasures))
        .route("/v1/people/{id}", get(people::about).delete(people::erase))
}

/// The API for a caller who is known already: a [`auth::Caller`] must be among the request's extensions. The console calls
/// this one, in the name of whoever is logged in.
pub fn known_callers_router(parts: Parts) -> Router {
    api().layer(from_fn(authorize)).with_state(parts)
}

/// For the public listener: everything behind the admin token.
pub fn public_router(parts: Parts) -> Router {
    let auth = parts.auth.clone();
    api()
        .route("/metrics", get(status::metrics))
        .layer(from_fn(authorize))
        .layer(from_fn_with_state(auth, authenticate))
        .with_state(parts)
}

/// For `admin_listen`: metrics are open there, everything else still wants the token. No trust by address.
pub fn private_router(parts: Parts) -> Router {
    let auth = parts.auth.clone();
    api()
        .layer(from_fn(authorize))
        .layer(from_fn_with_state(auth, authenticate))
        .route("/metrics", get(status::metrics))
        .with_state(parts)
}

#[cfg(test)]
mod tests;
