//! Days, compared with what the vendors count.

use std::time::Duration;

use axum::extract::State as Extract;
use axum::{Extension, Json};
use jiff::civil::Date;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Parts;
use super::answers::AdminError;
use super::audit::{self, Action};
use super::auth::Caller;
use super::extract::{JsonBody, QueryString};
use crate::reconciliation::{CompareError, Report};

const DEFAULT_LIMIT: usize = 14;
const MAX_LIMIT: usize = 100;
/// How long somebody waits for a comparison; it goes on without them.
const PATIENCE: Duration = Duration::from_secs(25);

#[derive(Debug, Default, Deserialize)]
pub struct Filter {
    limit: Option<usize>,
}

/// The newest first.
pub async fn list(
    Extract(parts): Extract<Parts>,
    QueryString(filter): QueryString<Filter>,
) -> Result<Json<Value>, AdminError> {
    let limit = filter.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let reports = parts.reconciler.reports().await?;
    let items: Vec<Value> = reports.iter().take(limit).map(shown).collect();
    Ok(Json(json!({ "items": items })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// In the project's zone; without it the day before today.
    day: Option<String>,
}

/// Compares a day now: one of the hour's queries, and a few of Brevo's calls.
pub async fn compare(
    Extract(parts): Extract<Parts>,
    Extension(caller): Extension<Caller>,
    JsonBody(order): JsonBody<Order>,
) -> Result<Json<Value>, AdminError> {
    let day = match &order.day {
        Some(text) => text.parse::<Date>().map_err(|_| wrong_day(format!("{text} is no day")))?,
        None => parts.reconciler.yesterday().ok_or_else(|| wrong_day("the clock shows no day".to_owned()))?,
    };
    if let Some(wait) = parts.reconciler.wait().await.filter(|wait| *wait > PATIENCE) {
        let why = format!("Mixpanel's hour of queries is used up: there is a place in {} s", wait.as_secs() + 1);
        return Err(AdminError::limited(why, wait, "GET /v1/status shows what is left"));
    }
    audit::note(&parts, &caller, Action::Compare, json!({ "day": day })).await?;
    let reconciler = parts.reconciler.clone();
    let comparing = tokio::spawn(async move { reconciler.compare(day).await });
    match tokio::time::timeout(PATIENCE, comparing).await {
        Ok(Ok(Ok(report))) => Ok(Json(shown(&report))),
        Ok(Ok(Err(CompareError::Store(error)))) => Err(error.into()),
        Ok(Ok(Err(error))) => Err(wrong_day(error.to_string())),
        Ok(Err(_)) => Err(AdminError::stopping("the relay is about to stop".to_owned())),
        Err(_) => Err(AdminError::vendor(
            format!("{day} is still being compared after {} s", PATIENCE.as_secs()),
            "it goes on: GET /v1/reconciliation shows it once it is done; GET /v1/status shows what budgets are left",
        )),
    }
}

fn wrong_day(why: String) -> AdminError {
    AdminError::invalid(why, "send {\"day\": \"yyyy-mm-dd\"}, a day that is over")
}

fn shown(report: &Report) -> Value {
    let side = |side: &crate::reconciliation::Comparison| {
        json!({
            "destination": side.destination, "delivered": side.delivered, "counted": side.counted, "missing": side.missing(),
            "not_counted": side.not_counted, "events": side.events, "causes": side.causes,
        })
    };
    json!({
        "day": report.day, "timezone": report.timezone, "made_at": report.made_at.to_string(),
        "destinations": report.destinations.iter().map(side).collect::<Vec<_>>(),
    })
}
