//! What the SDKs ask for besides ingestion: replay, flags, settings, the old `/decide`, their library (contract §13, §14).

use axum::http::{Method, StatusCode};
use serde_json::json;

use super::super::http::{Call, Reply};
use super::import::{basic, unauthorized};
use super::{Context, Mixpanel};

/// Says what it is, so that a page that loads it can tell the real library from this one.
const LIBRARY: &str = "/* mixrelay sandbox: a stand-in for Mixpanel's browser library */\n\
     window.mixpanel = window.mixpanel || { __sandbox: true };\n";

/// `/record` and `/settings` want `Basic token:`, `/flags` the same or a service account.
fn authorized(mixpanel: &Mixpanel, call: &Call) -> bool {
    let account = &mixpanel.account;
    call.header("authorization").and_then(basic).is_some_and(|(user, secret)| {
        (user == account.project_token && secret.is_empty())
            || (user == account.service_account && secret == account.service_secret)
    })
}

pub fn record(mixpanel: &Mixpanel, call: &Call) -> Reply {
    if !authorized(mixpanel, call) {
        return unauthorized("Invalid credentials");
    }
    mixpanel.state().arrivals.counters.add("replay", "requests", 1);
    Reply::ok(&json!({ "code": 200, "status": "OK" }))
}

pub fn flags(mixpanel: &Mixpanel, call: &Call, rest: &[&str]) -> Reply {
    if !authorized(mixpanel, call) {
        return unauthorized("Invalid credentials");
    }
    match rest {
        ["definitions"] => Reply::ok(&json!({ "flags": mixpanel.state().flag_definitions })),
        [_, "first-time-events"] if call.method == Method::POST => Reply::ok(&json!({ "status": "ok" })),
        [] => Reply::ok(&json!({ "flags": mixpanel.state().flags, "pending_first_time_events": [] })),
        _ => Reply::json(StatusCode::NOT_FOUND, &json!({ "error": "not found" })),
    }
}

pub fn settings(mixpanel: &Mixpanel, call: &Call) -> Reply {
    if !authorized(mixpanel, call) {
        return unauthorized("Invalid credentials");
    }
    Reply::ok(&json!({ "sdk_config": { "config": {} }, "recording": { "is_enabled": true } }))
}

/// Retired in April 2026; old mobile SDKs still ask and expect an object of this shape.
pub fn decide() -> Reply {
    Reply::ok(&json!({ "notifications": [], "surveys": [], "automatic_events": true }))
}

pub fn library(context: &Context<'_>) -> Reply {
    let body = format!("{LIBRARY}/* served at {} */\n", context.now);
    Reply::new(StatusCode::OK, "application/javascript", body).header("cache-control", "public, max-age=600")
}
