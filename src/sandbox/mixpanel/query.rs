//! Query endpoints (contract §9), answered from what is stored, under the project's quota.
//!
//! `where` is evaluated for profiles, as far as [`super::expression`] goes; elsewhere `where`, `on` and JQL are not: a query that carries them gets an answer set through the control API
//! (`answers`, by endpoint), else all data, and says so in `x-sandbox-note`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::super::account::MixpanelAccount;
use super::super::http::{Call, Reply};
use super::super::switches::LastSeenIs;
use super::arrivals::Arrival;
use super::export::Days;
use super::expression::Expression;
use super::import::{basic, unauthorized};
use super::{Context, Mixpanel, State};
use crate::clock::UnixMillis;

const PAGE_SIZE: usize = 1_000;

/// Why a query cannot be answered; the texts are the vendor's where it has published one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("{0} is a required parameter")]
    Missing(&'static str),
    #[error("{0} must be in the format yyyy-mm-dd")]
    Date(&'static str),
    #[error("from_date must not be after to_date")]
    Reversed,
    #[error("request for page in uncached query for params")]
    Uncached,
    #[error("behaviors and filter_by_cohort cannot be used together")]
    TwoFilters,
    #[error("cohort not found")]
    UnknownCohort,
}

/// The parameters of a query, from its query string and its form or JSON body.
pub struct Params(Vec<(String, String)>);

impl Params {
    pub fn of(call: &Call) -> Self {
        let mut all = call.query.clone();
        match serde_json::from_slice::<Map<String, Value>>(&call.body) {
            Ok(object) => all.extend(object.into_iter().map(|(name, value)| match value {
                Value::String(text) => (name, text),
                other => (name, other.to_string()),
            })),
            Err(_) => all.extend(form_urlencoded::parse(&call.body).into_owned()),
        }
        Self(all)
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A JSON array of strings, or one bare string.
    fn strings(&self, name: &str) -> Option<Vec<String>> {
        let text = self.get(name)?;
        Some(serde_json::from_str(text).unwrap_or_else(|_| vec![text.to_owned()]))
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.get(name)?.parse().ok()
    }
}

/// Service account or OAuth token with its project, or the project secret.
pub fn authorize(mixpanel: &Mixpanel, call: &Call, params: &Params) -> Result<(), Reply> {
    let account = &mixpanel.account;
    if let Some(token) = call.header("authorization").and_then(|header| header.strip_prefix("Bearer ")) {
        return if token == account.oauth_token {
            member(account, params)
        } else {
            Err(unauthorized("Invalid credentials"))
        };
    }
    let (user, secret) =
        call.header("authorization").and_then(basic).ok_or_else(|| unauthorized("Invalid credentials"))?;
    if user == account.project_secret && secret.is_empty() {
        return Ok(());
    }
    if user != account.service_account || secret != account.service_secret {
        return Err(unauthorized("Invalid service account credentials"));
    }
    member(account, params)
}

fn member(account: &MixpanelAccount, params: &Params) -> Result<(), Reply> {
    match params.get("project_id") {
        Some(id) if id == account.project_id => Ok(()),
        Some(_) => Err(Reply::json(StatusCode::FORBIDDEN, &json!({ "error": "not a project member" }))),
        None => Err(bad("project_id is a required parameter")),
    }
}

fn bad(error: &str) -> Reply {
    Reply::json(StatusCode::BAD_REQUEST, &json!({ "error": error }))
}

/// The answer of one endpoint, its name being the path after `/api/query/`.
pub fn answer(mixpanel: &Mixpanel, endpoint: &str, params: &Params, context: &Context<'_>) -> Reply {
    let mut state = mixpanel.state();
    if let Some(canned) = state.answers.get(endpoint) {
        return Reply::ok(canned);
    }
    let filtered = params.get("where").is_some_and(|text| endpoint != "engage" || Expression::parse(text).is_none());
    let evaluated = filtered || params.get("on").is_some() || endpoint == "jql";
    let outcome = match endpoint {
        "cohorts/list" => Ok(json!(state.cohorts.iter().map(|cohort| &cohort["entry"]).collect::<Vec<_>>())),
        "engage" => engage(&mut state, params, context),
        "jql" => jql(params),
        "events" | "segmentation" | "events/properties" => series(&state, params, context),
        "segmentation/sum" | "segmentation/average" => daily(&state, params, context),
        "segmentation/numeric" => Ok(json!({ "data": { "series": [], "values": {} }, "legend_size": 0 })),
        "events/top" => Ok(top(&state, params)),
        "events/names" => Ok(names(&state, params)),
        "events/properties/top" => property_top(&state, params),
        "events/properties/values" => property_values(&state, params),
        "stream/query" => stream(&state, params, context),
        "insights" => insights(&state, params, context),
        "funnels/list" => Ok(json!([{ "funnel_id": 1, "name": "Sandbox funnel" }])),
        "funnels" => required(params, &["funnel_id", "from_date", "to_date"])
            .map(|()| json!({ "meta": { "dates": [] }, "data": {} })),
        "retention" => required(params, &["from_date", "to_date"]).map(|()| json!({})),
        "retention/addiction" => required(params, &["from_date", "to_date"]).map(|()| json!({ "data": {} })),
        _ => return Reply::json(StatusCode::NOT_FOUND, &json!({ "error": "endpoint not found" })),
    };
    let reply = match outcome {
        Ok(body) => Reply::ok(&body),
        Err(error) if context.switches.query_error_in_ok => Reply::ok(&json!({ "error": error.to_string() })),
        Err(error) => bad(&error.to_string()),
    };
    let reply = reply.header("x-server-elapsed", "12");
    if evaluated { reply.header("x-sandbox-note", "expressions and scripts are not evaluated") } else { reply }
}

/// The 429 of the quota, in the vendor's words.
pub fn quota_exceeded(mixpanel: &Mixpanel, call: &Call, context: &Context<'_>, running: usize, used: u64) -> Reply {
    let switches = context.switches;
    let request =
        if call.raw_query.is_empty() { call.path.clone() } else { format!("{}?{}", call.path, call.raw_query) };
    let error = format!(
        "Query rate limit exceeded for project_id: {}. {running}/{} queries running concurrently and {used}/{} queries \
         running in the last hour. Please wait before retrying.",
        mixpanel.account.project_id, switches.concurrent_queries, switches.queries_per_hour
    );
    let reply = Reply::json(StatusCode::TOO_MANY_REQUESTS, &json!({ "request": request, "error": error }));
    if switches.retry_after_on_429 { reply.header("retry-after", "60") } else { reply }
}

fn required(params: &Params, names: &[&'static str]) -> Result<(), QueryError> {
    match names.iter().find(|name| params.get(name).is_none()) {
        Some(name) => Err(QueryError::Missing(name)),
        None => Ok(()),
    }
}

fn jql(params: &Params) -> Result<Value, QueryError> {
    required(params, &["script"]).map(|()| json!([]))
}

/// Profiles page by page. Page 0 opens a session whose result stays as it was while pages are read.
fn engage(state: &mut State, params: &Params, context: &Context<'_>) -> Result<Value, QueryError> {
    let page = params.number("page").unwrap_or(0);
    if let (Some(most), Some(id)) = (context.switches.session_pages, params.get("session_id"))
        && state.sessions.contains_key(id)
    {
        let asked = state.session_pages.entry(id.to_owned()).or_default();
        *asked += 1;
        if *asked > most {
            state.sessions.remove(id);
        }
    }
    let session = match params.get("session_id") {
        Some(id) => id.to_owned(),
        None if page > 0 => return Err(QueryError::Uncached),
        None => {
            let id = format!("{}-{}", context.now.0, state.sessions.len());
            let shown = context.now - Duration::from_millis(context.switches.profile_lag_ms);
            let result = select(state, params, shown, context.switches.last_seen_is)?;
            state.sessions.insert(id.clone(), result);
            id
        }
    };
    let result = state.sessions.get(&session).ok_or(QueryError::Uncached)?;
    let total = result.len();
    let page_of = result.iter().skip(page * PAGE_SIZE).take(PAGE_SIZE).cloned().collect::<Vec<Value>>();
    // Sessions end by themselves at the vendor; the oldest goes here once there are many.
    while state.sessions.len() > 64 {
        state.sessions.pop_first();
    }
    Ok(json!({
        "page": page, "page_size": PAGE_SIZE, "results": page_of, "session_id": session, "status": "ok", "total": total,
    }))
}

fn select(state: &State, params: &Params, shown: UnixMillis, last_seen: LastSeenIs) -> Result<Vec<Value>, QueryError> {
    let ids: Option<BTreeSet<String>> = params
        .get("distinct_id")
        .map(|id| BTreeSet::from([id.to_owned()]))
        .or_else(|| params.strings("distinct_ids").map(BTreeSet::from_iter));
    let members: Option<BTreeSet<String>> = match params.get("filter_by_cohort") {
        None => None,
        Some(_) if params.get("behaviors").is_some() => {
            return Err(QueryError::TwoFilters);
        }
        Some(filter) => Some(cohort_members(state, filter)?),
    };
    let filter = params.get("where").and_then(Expression::parse);
    let outputs = params.strings("output_properties");
    let groups = params.get("data_group_id").is_some();
    let profiles = if groups { &state.groups } else { &state.people }.as_of(shown);
    let wanted = |id: &String| {
        ids.as_ref().is_none_or(|ids| ids.contains(id)) && members.as_ref().is_none_or(|members| members.contains(id))
    };
    let mut results: Vec<Value> = profiles
        .iter()
        .filter(|(id, properties)| {
            wanted(id) && filter.as_ref().is_none_or(|filter| filter.holds(properties, last_seen))
        })
        .map(|(id, properties)| {
            let shown = |name: &String| outputs.as_ref().is_none_or(|outputs| outputs.contains(name));
            let properties: Map<String, Value> =
                properties.iter().filter(|(name, _)| shown(name)).map(|(k, v)| (k.clone(), v.clone())).collect();
            json!({ "$distinct_id": id, "$properties": properties })
        })
        .collect();
    if let (Some(members), true) = (&members, params.get("include_all_users") != Some("false")) {
        let bare =
            members.iter().filter(|id| !profiles.contains_key(id) && ids.as_ref().is_none_or(|ids| ids.contains(*id)));
        results.extend(bare.map(|id| json!({ "$distinct_id": id, "$properties": {} })));
    }
    Ok(results)
}

fn cohort_members(state: &State, filter: &str) -> Result<BTreeSet<String>, QueryError> {
    let wanted = serde_json::from_str::<Value>(filter).ok().and_then(|filter| filter["id"].as_i64());
    let cohort = state.cohorts.iter().find(|cohort| cohort["entry"]["id"].as_i64() == wanted && wanted.is_some());
    let members = cohort.ok_or(QueryError::UnknownCohort)?["members"].as_array();
    Ok(members.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// Deduplicated events within the dates, of the names asked for.
fn events<'a>(
    state: &'a State,
    params: &Params,
    context: &Context<'_>,
) -> Result<(Days, Vec<&'a Arrival>), QueryError> {
    let days = Days::of(params, context.now)?;
    let names = params.strings("event");
    let mut view = state.arrivals.deduplicated();
    view.retain(|arrival| {
        days.contains(arrival.time_ms)
            && names.as_ref().is_none_or(|names| names.iter().any(|name| **name == *arrival.name))
    });
    Ok((days, view))
}

fn counts(days: &Days, view: &[&Arrival], unique: bool) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut seen = BTreeSet::new();
    let mut values: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for arrival in view {
        let by_day = values
            .entry(arrival.name.to_string())
            .or_insert_with(|| days.names().into_iter().map(|day| (day, 0)).collect());
        let day = Days::name_of(arrival.time_ms);
        if !unique || seen.insert((&arrival.name, &arrival.distinct_id, day.clone())) {
            *by_day.entry(day).or_default() += 1;
        }
    }
    values
}

fn series(state: &State, params: &Params, context: &Context<'_>) -> Result<Value, QueryError> {
    required(params, &["event"])?;
    let (days, view) = events(state, params, context)?;
    let values = counts(&days, &view, params.get("type") == Some("unique"));
    Ok(json!({ "data": { "series": days.names(), "values": values }, "legend_size": values.len() }))
}

fn daily(state: &State, params: &Params, context: &Context<'_>) -> Result<Value, QueryError> {
    required(params, &["event", "on"])?;
    let (days, _) = events(state, params, context)?;
    let results: BTreeMap<String, u64> = days.names().into_iter().map(|day| (day, 0)).collect();
    Ok(json!({ "status": "ok", "computed_at": context.now.to_string(), "results": results }))
}

fn insights(state: &State, params: &Params, context: &Context<'_>) -> Result<Value, QueryError> {
    required(params, &["bookmark_id"])?;
    let (days, view) = events(state, params, context)?;
    let range = days.names();
    Ok(json!({
        "computed_at": context.now.to_string(),
        "date_range": { "from_date": range.first(), "to_date": range.last() },
        "headers": ["$event"],
        "series": counts(&days, &view, false),
    }))
}

fn by_name(state: &State) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for arrival in state.arrivals.deduplicated() {
        *counts.entry(arrival.name.to_string()).or_default() += 1;
    }
    counts
}

fn top(state: &State, params: &Params) -> Value {
    let mut counts: Vec<(String, usize)> = by_name(state).into_iter().collect();
    counts.sort_by_key(|(_, amount)| std::cmp::Reverse(*amount));
    let events: Vec<Value> = counts
        .into_iter()
        .take(params.number("limit").unwrap_or(100))
        .map(|(event, amount)| json!({ "amount": amount, "event": event, "percent_change": 0.0 }))
        .collect();
    json!({ "events": events, "type": params.get("type").unwrap_or("general") })
}

fn names(state: &State, params: &Params) -> Value {
    by_name(state).into_keys().take(params.number("limit").unwrap_or(255)).collect()
}

/// The properties of stored events of one name.
fn properties_of(state: &State, event: &str) -> Vec<Map<String, Value>> {
    let view = state.arrivals.deduplicated().into_iter().filter(|arrival| &*arrival.name == event);
    view.filter_map(|arrival| arrival.as_stored(&state.identity)["properties"].as_object().cloned()).collect()
}

fn property_top(state: &State, params: &Params) -> Result<Value, QueryError> {
    let event = params.get("event").ok_or(QueryError::Missing("event"))?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for name in
        properties_of(state, event).into_iter().flat_map(|properties| properties.into_iter().map(|(name, _)| name))
    {
        *counts.entry(name).or_default() += 1;
    }
    let limit = params.number("limit").unwrap_or(10);
    Ok(counts
        .into_iter()
        .take(limit)
        .map(|(name, count)| (name, json!({ "count": count })))
        .collect::<Map<_, _>>()
        .into())
}

fn property_values(state: &State, params: &Params) -> Result<Value, QueryError> {
    let event = params.get("event").ok_or(QueryError::Missing("event"))?;
    let name = params.get("name").ok_or(QueryError::Missing("name"))?;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let values: BTreeSet<String> =
        properties_of(state, event).iter().filter_map(|all| all.get(name)).map(text).collect();
    Ok(values.into_iter().take(params.number("limit").unwrap_or(255)).collect())
}

fn stream(state: &State, params: &Params, context: &Context<'_>) -> Result<Value, QueryError> {
    required(params, &["distinct_ids", "from_date", "to_date"])?;
    let ids = params.strings("distinct_ids").unwrap_or_default();
    let (_, view) = events(state, params, context)?;
    let wanted = |arrival: &&Arrival| {
        let canonical = state.identity.canonical(&arrival.distinct_id);
        ids.iter().any(|id| state.identity.canonical(id) == canonical)
    };
    let events: Vec<Value> =
        view.into_iter().filter(wanted).map(|arrival| arrival.as_stored(&state.identity)).collect();
    Ok(json!({ "status": "ok", "results": { "events": events } }))
}
