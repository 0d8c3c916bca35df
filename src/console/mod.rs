//! The console: pages for the people who run the relay.
//!
//! Owns sessions, pages and their assets. Must not know store, legs or vendors: whatever a page shows or does is asked of
//! the admin API (in the process, in the name of whoever is logged in), so that the console can do nothing that `/v1`
//! cannot, by the same roles.
//!
//! Invariants: nothing but the login page and the assets is served without a session; every change carries the session's
//! token against forged requests; personal data is asked for masked, by the API's own masking, until somebody wants to see
//! it; nothing is loaded from elsewhere and nothing runs that is written into a page.

mod api;
mod assets;
mod frame;
mod guard;
mod json;
mod pages;
mod pieces;
pub mod pulse;
mod session;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};

use self::api::Api;
use self::pulse::Pulse;
use self::session::Sessions;
use crate::admin;

/// What every page is made from.
#[derive(Clone)]
pub struct Console {
    api: Api,
    sessions: Sessions,
    pulse: Pulse,
}

impl Console {
    /// `runs`: the admin API of runs into lists and of data sets, for callers who are known.
    pub fn new(admin: admin::Parts, runs: Router) -> Result<Self, getrandom::Error> {
        let sessions = Sessions::new(admin.auth.clone(), admin.clock.clone())?;
        Ok(Self { sessions, pulse: Pulse::new(), api: Api::new(admin::known_callers_router(admin).merge(runs)) })
    }

    /// Takes the samples that the overview's charts are drawn from, for as long as the process lives.
    pub async fn keep_pulse(self) {
        self.pulse.keep(&self.api).await;
    }
}

/// Everything under `/console`.
pub fn router(console: Console) -> Router {
    let inside = Router::new()
        .route("/console", get(pages::overview::page))
        .route("/console/live", get(pages::overview::live))
        .route("/console/destinations/{name}/{what}", post(pages::overview::gate))
        .route("/console/records", get(pages::records::page))
        .route("/console/records/live", get(pages::records::live))
        .route("/console/mapping", get(pages::mapping::page).post(pages::mapping::act))
        .route("/console/cohorts", get(pages::cohorts::page).post(pages::cohorts::begin))
        .route("/console/cohorts/live", get(pages::cohorts::live))
        .route("/console/cohorts/runs/{id}", get(pages::cohorts::run))
        .route("/console/datasets", get(pages::datasets::page).post(pages::datasets::act))
        .route("/console/datasets/live", get(pages::datasets::live))
        .route("/console/datasets/runs/{id}", get(pages::datasets::run))
        .route("/console/backfills", get(pages::backfills::page).post(pages::backfills::act))
        .route("/console/backfills/live", get(pages::backfills::live))
        .route("/console/audit", get(pages::audit::page))
        .route("/console/people", get(pages::people::page))
        .route("/console/people/erase", post(pages::people::erase))
        .route("/console/dead-letters", get(pages::dead_letters::page).post(pages::dead_letters::act))
        .route("/console/dead-letters/export", get(pages::dead_letters::export))
        .route("/console/lookup-tables", get(pages::lookup_tables::page))
        .route("/console/reconciliation", get(pages::reconciliation::page).post(pages::reconciliation::act))
        .route("/console/erasures", get(pages::erasures::page))
        .route("/console/logout", post(guard::logout))
        .layer(from_fn_with_state(console.clone(), guard::require_session));
    Router::new()
        .route("/console/login", get(guard::login_page).post(guard::login))
        .route("/console/assets/{name}", get(assets::asset))
        .merge(inside)
        .layer(from_fn(guard::harden))
        .with_state(console)
}

#[cfg(test)]
mod tests;
