//! Status, metrics, pause and resume.

use std::sync::PoisonError;

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::json;

use super::Parts;
use super::answers::AdminError;
use super::audit::{self, Action};
use super::auth::Caller;
use crate::delivery::brevo_leg::{ForecastReport, delivers_since};
use crate::delivery::status::{LegStatus, Report};
use crate::delivery::{outlook, pauses};
use crate::pulls::SyncReport;
use crate::record::Destination;
use crate::store::{JournalSize, StoreError};
use crate::tables::TableStatus;
use crate::telemetry;
use crate::vendor::Family;
use crate::vendor::verdict::PauseCause;

#[derive(Serialize)]
pub struct Status {
    version: &'static str,
    accepted: AcceptedCounts,
    store: StoreSize,
    destinations: Vec<Outlook>,
    budgets: Vec<Budget>,
    lookup_tables: Vec<TableStatus>,
    sync_profiles: SyncReport,
    /// Since when events are this relay's own to bring to Brevo; null before the first.
    brevo_delivers_since: Option<String>,
    /// What Brevo would get if its mode were `live`; null in another mode, and before the first record.
    brevo_forecast: Option<Forecast>,
}

/// With what the account allows of each kind of call in an hour.
#[derive(Serialize)]
struct Forecast {
    #[serde(flatten)]
    report: ForecastReport,
    allowed_per_hour: Allowed,
}

#[derive(Serialize)]
struct Allowed {
    contacts: u64,
    events: u64,
    companies: u64,
}

#[derive(Serialize)]
struct AcceptedCounts {
    event: u64,
    profile: u64,
    group: u64,
}

#[derive(Serialize)]
struct StoreSize {
    entries: u64,
    records: u64,
    bytes: u64,
    /// Bytes that may still be stored before the watermark.
    room: u64,
    /// Null while the store takes appends; else why it does not.
    refuses: Option<String>,
}

#[derive(Serialize)]
struct Budget {
    vendor: &'static str,
    family: &'static str,
    limit: u64,
    seconds: f64,
    remaining: u64,
}

pub async fn status(State(parts): State<Parts>) -> Result<Json<Status>, AdminError> {
    let accepted = parts.journal.accepted();
    let size = parts.journal.size().await?;
    let mut budgets = Vec::new();
    for family in Family::ALL {
        for (limit, remaining) in parts.budgets.windows(family).await {
            budgets.push(Budget {
                vendor: family.vendor(),
                family: family.label(),
                limit: limit.amount,
                seconds: limit.span.as_secs_f64(),
                remaining,
            });
        }
    }
    let brevo_forecast = match parts.forecast.as_ref().and_then(|forecast| forecast.report(parts.clock.now())) {
        Some(report) => Some(Forecast { report, allowed_per_hour: allowed(&parts).await }),
        None => None,
    };
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        accepted: AcceptedCounts { event: accepted.event, profile: accepted.profile, group: accepted.group },
        store: StoreSize {
            entries: size.entries,
            records: size.records,
            bytes: size.bytes,
            room: size.room,
            refuses: parts.journal.ready().err().map(|error| error.to_string()),
        },
        destinations: outlooks(&parts, &size).await?,
        budgets,
        lookup_tables: parts.tables.status(),
        sync_profiles: parts.pulls.sync_report(),
        brevo_delivers_since: delivers_since(&parts.state).await?.map(|at| at.to_string()),
        brevo_forecast,
    }))
}

async fn allowed(parts: &Parts) -> Allowed {
    let [contacts, events, companies] = [Family::BrevoContacts, Family::BrevoEvents, Family::BrevoOther];
    Allowed {
        contacts: an_hour(parts, contacts).await,
        events: an_hour(parts, events).await,
        companies: an_hour(parts, companies).await,
    }
}

/// What the tightest window of a family comes to in an hour.
async fn an_hour(parts: &Parts, family: Family) -> u64 {
    let windows = parts.budgets.windows(family).await.into_iter();
    let hourly = windows.map(|(limit, _)| limit.amount as f64 * 3_600.0 / limit.span.as_secs_f64());
    hourly.fold(f64::INFINITY, f64::min).floor() as u64
}

/// A destination's report with how long the relay can go without it.
#[derive(Serialize)]
struct Outlook {
    #[serde(flatten)]
    report: Report,
    /// Hours until the disk reaches the watermark if this destination takes nothing from now on and records are accepted
    /// at the present rate. Null: nothing is being accepted.
    disk_hours_left: Option<f64>,
}

async fn outlooks(parts: &Parts, size: &JournalSize) -> Result<Vec<Outlook>, StoreError> {
    let per_second = parts.pace.lock().unwrap_or_else(PoisonError::into_inner).per_second();
    let disk_hours_left = outlook::hours_left(size, per_second);
    let reports = reports(parts).await?;
    Ok(reports.into_iter().map(|report| Outlook { report, disk_hours_left }).collect())
}

async fn reports(parts: &Parts) -> Result<Vec<Report>, StoreError> {
    let mut reports = Vec::with_capacity(parts.legs.len());
    for leg in parts.legs.iter() {
        reports.push(leg.report().await?);
    }
    Ok(reports)
}

/// The exposition, with everything that is read from the store brought up to date first.
pub async fn metrics(State(parts): State<Parts>) -> Result<Response, AdminError> {
    let accepted = parts.journal.accepted();
    telemetry::accepted_total("event", accepted.event);
    telemetry::accepted_total("profile", accepted.profile);
    telemetry::accepted_total("group", accepted.group);
    reports(&parts).await?;
    let size = parts.journal.size().await?;
    let per_second = parts.pace.lock().unwrap_or_else(PoisonError::into_inner).per_second();
    telemetry::store(size.room, parts.journal.ready().is_err(), outlook::hours_left(&size, per_second));
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], parts.metrics.render()).into_response())
}

pub async fn pause(
    State(parts): State<Parts>,
    Path(name): Path<String>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Report>, AdminError> {
    let leg = leg(&parts, &name)?;
    pauses::remember(&parts.state, leg.destination(), true).await?;
    audit::note(&parts, &caller, Action::Pause, json!({ "destination": leg.destination() })).await?;
    leg.gate().pause(PauseCause::ByHand);
    tracing::warn!(destination = %leg.destination(), "paused by hand");
    Ok(Json(leg.report().await?))
}

pub async fn resume(
    State(parts): State<Parts>,
    Path(name): Path<String>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Report>, AdminError> {
    let leg = leg(&parts, &name)?;
    pauses::remember(&parts.state, leg.destination(), false).await?;
    audit::note(&parts, &caller, Action::Resume, json!({ "destination": leg.destination() })).await?;
    leg.gate().resume();
    tracing::info!(destination = %leg.destination(), "resumed by hand");
    Ok(Json(leg.report().await?))
}

fn leg<'a>(parts: &'a Parts, name: &str) -> Result<&'a LegStatus, AdminError> {
    let wanted = destination(name)?;
    let found = parts.legs.iter().find(|leg| leg.destination() == wanted);
    found.ok_or_else(|| AdminError::not_found(format!("{name} has no leg"), "mixpanel and brevo are the destinations"))
}

/// A destination by its published name.
pub fn destination(name: &str) -> Result<Destination, AdminError> {
    let found = Destination::ALL.into_iter().find(|destination| destination.label() == name);
    found.ok_or_else(|| {
        AdminError::not_found(format!("no destination {name}"), "mixpanel and brevo are the destinations")
    })
}
