//! Mixpanel, simulated: ingestion, query, app, export and cdn hosts on one port, told apart by path.
//!
//! Invariant: a request is decoded and validated outside the lock and takes effect in one piece under it.

mod arrivals;
mod decode;
mod export;
mod expression;
mod identity;
mod import;
mod inspect;
mod profiles;
mod project;
mod query;
mod static_files;
mod stream;
#[cfg(test)]
mod tests;
mod track;
mod validate;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::account::MixpanelAccount;
use super::http::{Call, Reply};
use super::journal::Requests;
use super::limits::{Bucket, Ceiling, RollingMinute};
use super::lock;
use super::switches::{LogSwitches, MixpanelSwitches, Switches};
use crate::clock::{SharedClock, UnixMillis};

use arrivals::{Arrival, Arrivals, Kind, STORED};
use identity::{Identity, Linked};
use profiles::Profiles;
use project::GdprTask;
use query::Params;

use super::switches::IdentityMode;

const EXPORTS_PER_SECOND: u64 = 3;

pub struct Mixpanel {
    account: MixpanelAccount,
    state: Mutex<State>,
}

/// All that the project remembers.
#[derive(Default)]
struct State {
    arrivals: Arrivals,
    identity: Identity,
    people: Profiles,
    groups: Profiles,
    requests: Requests,
    import_minute: RollingMinute,
    quotas: Quotas,
    /// Exports that were broken off because a switch says so.
    exports_broken: u64,
    /// Results of `/engage` queries, while their pages are read.
    sessions: BTreeMap<String, Vec<Value>>,
    /// Pages given of each session, where they are counted.
    session_pages: BTreeMap<String, u64>,
    /// `{"entry": <as listed>, "members": [distinct_id]}`.
    cohorts: Vec<Value>,
    /// Answers set through the control API, by query endpoint.
    answers: HashMap<String, Value>,
    tables: BTreeMap<String, String>,
    tasks: Vec<GdprTask>,
    flags: Value,
    flag_definitions: Value,
}

/// Quotas of the query side: one for all endpoints, JQL its own, export its own.
#[derive(Default)]
struct Quotas {
    query: Bucket,
    jql: Bucket,
    export: Bucket,
    running: usize,
    running_jql: usize,
}

/// What one request is judged by.
struct Context<'a> {
    switches: &'a MixpanelSwitches,
    logs: &'a LogSwitches,
    mode: IdentityMode,
    now: UnixMillis,
}

impl Context<'_> {
    /// The address a proxy names, else the peer's.
    fn caller_address(&self, call: &Call) -> String {
        let forwarded = call.header("x-forwarded-for").and_then(|chain| chain.split(',').next());
        match call.header("x-real-ip").or(forwarded).map(str::trim).filter(|address| !address.is_empty()) {
            Some(address) => address.to_owned(),
            None => call.peer.ip().to_string(),
        }
    }

    /// `$ignore` is true or a text that is not empty.
    fn ignored(&self, properties: &Value) -> bool {
        match &properties["$ignore"] {
            Value::Bool(flag) => *flag,
            Value::String(text) => !text.is_empty(),
            _ => false,
        }
    }
}

impl State {
    fn new() -> Self {
        Self { flags: json!({}), flag_definitions: json!([]), ..Self::default() }
    }

    /// Takes in one event: links ids, then logs it.
    fn store_event(&mut self, mut arrival: Arrival, record: Value, context: &Context<'_>) {
        if arrival.outcome == STORED
            && let Some(properties) = record["properties"].as_object()
        {
            let linked = match context.mode {
                IdentityMode::Simplified => self.identity.observe(properties),
                IdentityMode::Original if identity::is_identity_event(&arrival.name) => {
                    let linked = self.identity.act(&arrival.name, properties, context.switches.anon_id_must_be_uuid4);
                    let name = if linked == Linked::New { "linked" } else { "without_effect" };
                    self.arrivals.counters.add("identity_events", name, 1);
                    linked
                }
                IdentityMode::Original => Linked::Kept,
            };
            if linked == Linked::New {
                self.arrivals.counters.add("identity", "links", 1);
            }
        }
        if !context.logs.counts_only {
            arrival.record = Some(Box::new(record));
        }
        self.arrivals.push(arrival, context.logs);
    }

    /// Carries out deletions whose time has come.
    fn settle(&mut self, context: &Context<'_>) {
        let due = Duration::from_millis(context.switches.gdpr_duration_ms);
        let mut gone: Vec<String> = Vec::new();
        for task in &mut self.tasks {
            if task.deletion && !task.cancelled && !task.carried_out && context.now.since(task.requested) >= due {
                task.carried_out = true;
                gone.append(&mut task.distinct_ids.clone());
            }
        }
        for id in gone {
            for member in self.identity.members(&id) {
                self.people.remove(&member);
                self.arrivals.erase(&member);
            }
        }
    }
}

/// The endpoints, under the names by which they are counted.
enum Route<'p> {
    Welcome,
    Import,
    Records(Kind),
    LookupTables,
    LookupTable(&'p str),
    Record,
    Flags(&'p [&'p str]),
    Settings,
    Decide,
    Library,
    Me,
    Gdpr { deletion: bool, rest: &'p [&'p str] },
    Export,
    Query(&'p [&'p str]),
}

impl<'p> Route<'p> {
    fn of(parts: &'p [&'p str]) -> Option<(Self, &'static str)> {
        Some(match parts {
            [] => (Route::Welcome, "/"),
            ["import"] => (Route::Import, "/import"),
            ["track"] => (Route::Records(Kind::Event), "/track"),
            ["engage"] => (Route::Records(Kind::Profile), "/engage"),
            ["groups"] => (Route::Records(Kind::Group), "/groups"),
            ["lookup-tables"] => (Route::LookupTables, "/lookup-tables"),
            ["lookup-tables", id] => (Route::LookupTable(id), "/lookup-tables/{id}"),
            ["record"] => (Route::Record, "/record"),
            ["flags", rest @ ..] => (Route::Flags(rest), "/flags"),
            ["settings"] => (Route::Settings, "/settings"),
            ["decide"] => (Route::Decide, "/decide"),
            ["lib.min.js"] | ["libs", ..] => (Route::Library, "/lib.min.js"),
            ["api", "app", "me"] => (Route::Me, "/api/app/me"),
            ["api", "app", "data-retrievals", "v3.0", rest @ ..] => {
                (Route::Gdpr { deletion: false, rest }, "/api/app/data-retrievals")
            }
            ["api", "app", "data-deletions", "v3.0", rest @ ..] => {
                (Route::Gdpr { deletion: true, rest }, "/api/app/data-deletions")
            }
            ["api", "2.0", "export"] => (Route::Export, "/api/2.0/export"),
            ["api", "query" | "2.0", "engage"] => (Route::Query(&parts[2..]), "/api/query/engage"),
            ["api", "query" | "2.0", "jql"] => (Route::Query(&parts[2..]), "/api/query/jql"),
            ["api", "query" | "2.0", "cohorts", "list"] => (Route::Query(&parts[2..]), "/api/query/cohorts/list"),
            ["api", "query" | "2.0", _, ..] => (Route::Query(&parts[2..]), "/api/query"),
            _ => return None,
        })
    }
}

impl Mixpanel {
    pub fn new(account: MixpanelAccount) -> Self {
        Self { account, state: Mutex::new(State::new()) }
    }

    pub fn reset(&self) {
        *self.state() = State::new();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn context<'a>(&self, switches: &'a Switches, now: UnixMillis) -> Context<'a> {
        let mode = switches.mixpanel.identity.unwrap_or(self.account.identity);
        Context { switches: &switches.mixpanel, logs: &switches.logs, mode, now }
    }

    /// Notes a request that a fault kept from the endpoints.
    pub fn log_faulted(&self, call: &Call, switches: &Switches, now: UnixMillis) {
        self.state().requests.note_faulted(call, now, &switches.logs);
    }

    pub async fn answer(&self, call: &Call, switches: &Switches, clock: &SharedClock) -> Reply {
        let context = self.context(switches, clock.now());
        let segments = call.segments();
        let parts: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        let route = Route::of(&parts);
        let name = route.as_ref().map_or("unknown", |(_, name)| name);
        let (reply, batch) = match route {
            _ if call.method == Method::OPTIONS => (Reply::empty(StatusCode::NO_CONTENT), None),
            None => (Reply::json(StatusCode::NOT_FOUND, &json!({ "error": "not found" })), None),
            Some((Route::Query(parts), _)) => (self.query(call, &parts.join("/"), &context).await, None),
            Some((route, _)) => self.dispatch(call, route, &context),
        };
        let reply = track::cors(call, reply);
        self.state().requests.note(call, name, batch, &reply, context.now, context.logs);
        reply
    }

    fn dispatch(&self, call: &Call, route: Route<'_>, context: &Context<'_>) -> (Reply, Option<usize>) {
        self.state().settle(context);
        let reply = match route {
            Route::Import => return import::answer(self, call, context),
            Route::Records(kind) => return track::answer(self, call, kind, context),
            Route::Welcome => Reply::ok(&json!({
                "error": "Welcome. Get started with our API by visiting https://developer.mixpanel.com/" })),
            Route::LookupTables => project::lookup_tables(self, call),
            Route::LookupTable(id) => project::replace_lookup_table(self, call, id),
            Route::Record => static_files::record(self, call),
            Route::Flags(rest) => static_files::flags(self, call, rest),
            Route::Settings => static_files::settings(self, call),
            Route::Decide => static_files::decide(),
            Route::Library => static_files::library(context),
            Route::Me => project::me(self, call),
            Route::Gdpr { deletion, rest } => project::gdpr(self, call, deletion, rest, context),
            Route::Export => self.export(call, context),
            Route::Query(_) => Reply::json(StatusCode::NOT_FOUND, &json!({ "error": "not found" })),
        };
        (reply, None)
    }

    fn export(&self, call: &Call, context: &Context<'_>) -> Reply {
        let params = Params::of(call);
        if let Err(refusal) = query::authorize(self, call, &params) {
            return refusal;
        }
        let ceilings = [Ceiling::per_second(EXPORTS_PER_SECOND), Ceiling::per_hour(context.switches.queries_per_hour)];
        if context.switches.query_limits && !self.state().quotas.export.take(context.now, &ceilings, true).allowed {
            return export::quota_exceeded();
        }
        export::answer(self, call, &params, context)
    }

    async fn query(&self, call: &Call, endpoint: &str, context: &Context<'_>) -> Reply {
        self.state().settle(context);
        let params = Params::of(call);
        if let Err(refusal) = query::authorize(self, call, &params) {
            return refusal;
        }
        let slot = match QuerySlot::take(self, endpoint == "jql", context) {
            Ok(slot) => slot,
            Err((running, used)) => return query::quota_exceeded(self, call, context, running, used),
        };
        let duration = Duration::from_millis(context.switches.query_duration_ms);
        if !duration.is_zero() {
            tokio::time::sleep(duration).await;
        }
        let reply = query::answer(self, endpoint, &params, context);
        drop(slot);
        reply
    }
}

/// One running query; its place is free again when this is dropped, also when the caller hangs up.
struct QuerySlot<'a> {
    mixpanel: &'a Mixpanel,
    jql: bool,
}

impl<'a> QuerySlot<'a> {
    /// The error holds what runs and what has run in the last hour, the refused query included.
    fn take(mixpanel: &'a Mixpanel, jql: bool, context: &Context<'_>) -> Result<Self, (usize, u64)> {
        let mut state = mixpanel.state();
        let switches = context.switches;
        let quotas = &mut state.quotas;
        let (bucket, running) =
            if jql { (&mut quotas.jql, &mut quotas.running_jql) } else { (&mut quotas.query, &mut quotas.running) };
        if switches.query_limits {
            if *running >= switches.concurrent_queries {
                return Err((*running + 1, 1));
            }
            let ceiling = [Ceiling::per_hour(switches.queries_per_hour)];
            if !bucket.take(context.now, &ceiling, true).allowed {
                return Err((*running + 1, switches.queries_per_hour + 1));
            }
        }
        *running += 1;
        Ok(Self { mixpanel, jql })
    }
}

impl Drop for QuerySlot<'_> {
    fn drop(&mut self) {
        let mut state = self.mixpanel.state();
        let running = if self.jql { &mut state.quotas.running_jql } else { &mut state.quotas.running };
        *running = running.saturating_sub(1);
    }
}

/// The properties of a seeded or shown profile.
type Properties = Map<String, Value>;
