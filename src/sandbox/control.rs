//! The control API: switches, faults, seeding, and a look at all that arrived. JSON throughout.

use axum::http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::Sandbox;
use super::brevo::SeedError;
use super::faults::read_faults;
use super::http::{Call, Reply};
use super::pushes;
use super::switches::Switches;

/// Why a control request is refused; the caller made a mistake and should read how.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("no such thing on the control API: {0}")]
    NotFound(String),
    #[error("the body is not what this takes: {0}")]
    Body(#[from] serde_json::Error),
    #[error("cannot seed: {0}")]
    Seed(#[from] SeedError),
}

impl Refusal {
    fn reply(&self) -> Reply {
        let status = match self {
            Refusal::NotFound(_) => StatusCode::NOT_FOUND,
            Refusal::Body(_) | Refusal::Seed(_) => StatusCode::BAD_REQUEST,
        };
        Reply::json(status, &json!({ "error": self.to_string() }))
    }
}

pub async fn answer(sandbox: &Sandbox, call: &Call) -> Reply {
    let segments = call.segments();
    let path: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    let outcome = match path.as_slice() {
        ["brevo", "push"] if call.method == Method::POST => push_from_brevo(sandbox, call).await,
        ["mixpanel", "stream"] if call.method == Method::POST => stream_from_mixpanel(sandbox, call).await,
        ["mixpanel", rest @ ..] => mixpanel(sandbox, call, rest),
        ["brevo", rest @ ..] => brevo(sandbox, call, rest),
        _ => own(sandbox, call, &path),
    };
    outcome.map_or_else(|refusal| refusal.reply(), |body| Reply::ok(&body))
}

fn read<T: DeserializeOwned>(call: &Call) -> Result<T, Refusal> {
    Ok(serde_json::from_slice(&call.body)?)
}

fn unknown(call: &Call) -> Refusal {
    Refusal::NotFound(format!("{} {}", call.method, call.path))
}

fn own(sandbox: &Sandbox, call: &Call, path: &[&str]) -> Result<Value, Refusal> {
    let done = json!({ "status": "ok" });
    match (call.method.as_str(), path) {
        ("GET", []) => Ok(json!({
            "sandbox": "mixrelay",
            "endpoints": ["/switches", "/faults", "/reset", "/mixpanel/{events,updates,profiles,groups,requests,counts,seed,stream}",
                "/brevo/{contacts,events,updates,companies,lists,requests,counts,seed,push}"],
        })),
        ("GET", ["switches"]) => Ok(json!(*sandbox.switches())),
        ("PUT", ["switches"]) => {
            let mut merged = json!(*sandbox.switches());
            merge(&mut merged, read(call)?);
            let switches: Switches = serde_json::from_value(merged)?;
            sandbox.set_switches(switches);
            Ok(json!(*sandbox.switches()))
        }
        ("GET", ["faults"]) => Ok(json!({ "faults": sandbox.faults().describe() })),
        ("PUT", ["faults"]) => {
            let body: Value = read(call)?;
            sandbox.faults().replace(read_faults(&body)?);
            Ok(done)
        }
        ("DELETE", ["faults"]) => {
            sandbox.faults().clear();
            Ok(done)
        }
        ("POST", ["reset"]) => {
            sandbox.reset();
            Ok(done)
        }
        _ => Err(unknown(call)),
    }
}

/// Objects are merged key by key, everything else replaces.
fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch,
    }
}

fn mixpanel(sandbox: &Sandbox, call: &Call, path: &[&str]) -> Result<Value, Refusal> {
    let vendor = &sandbox.inner.mixpanel;
    let found = match (call.method.as_str(), path) {
        ("GET", ["events"]) => Some(vendor.show_events(call)),
        ("GET", ["updates"]) => Some(vendor.show_updates(call)),
        ("GET", ["profiles"]) => Some(vendor.show_profiles(false, call)),
        ("GET", ["profiles", id]) => vendor.show_profile(false, id),
        ("GET", ["groups"]) => Some(vendor.show_profiles(true, call)),
        ("GET", ["groups", id]) => vendor.show_profile(true, id),
        ("GET", ["lookup-tables", id]) => vendor.show_lookup_table(id),
        ("GET", ["requests"]) => Some(vendor.show_requests(call)),
        ("GET", ["counts"]) => Some(vendor.show_counts()),
        ("POST", ["seed"]) => {
            vendor.seed(read(call)?);
            Some(json!({ "status": "ok" }))
        }
        _ => None,
    };
    found.ok_or_else(|| unknown(call))
}

async fn stream_from_mixpanel(sandbox: &Sandbox, call: &Call) -> Result<Value, Refusal> {
    let (deliveries, next) = sandbox.inner.mixpanel.stream(&read(call)?);
    Ok(json!({ "pushed": pushes::send(deliveries).await, "next": next }))
}

async fn push_from_brevo(sandbox: &Sandbox, call: &Call) -> Result<Value, Refusal> {
    let happening = read(call)?;
    let deliveries = sandbox.inner.brevo.deliveries(&happening, sandbox.now());
    Ok(json!({ "pushed": pushes::send(deliveries).await }))
}

fn brevo(sandbox: &Sandbox, call: &Call, path: &[&str]) -> Result<Value, Refusal> {
    let vendor = &sandbox.inner.brevo;
    let switches = sandbox.switches();
    let now = sandbox.now();
    let found = match (call.method.as_str(), path) {
        ("GET", ["contacts"]) => Some(vendor.show_contacts(call, &switches, now)),
        ("GET", ["contacts", id]) => vendor.show_contact(id, call, &switches, now),
        ("GET", ["events"]) => Some(vendor.show_events(call)),
        ("GET", ["updates"]) => Some(vendor.show_updates(call)),
        ("GET", ["companies"]) => Some(vendor.show_companies()),
        ("GET", ["lists", id]) => id.parse().ok().and_then(|id| vendor.show_list(id, call, &switches, now)),
        ("GET", ["requests"]) => Some(vendor.show_requests(call)),
        ("GET", ["counts"]) => Some(vendor.show_counts(call, &switches, now)),
        ("POST", ["seed"]) => {
            let seeded = vendor.seed(read(call)?, call, &switches, now)?;
            Some(json!({ "status": "ok", "contacts": seeded }))
        }
        _ => None,
    };
    found.ok_or_else(|| unknown(call))
}
