//! `/import` (contract §3).

use axum::http::StatusCode;
use base64::Engine;
use serde_json::{Value, json};

use super::super::http::{Call, Reply};
use super::super::switches::{AbsentStrict, FailedRecordIdKey, ImportLimit, LenientAnswer, LongInsertId};
use super::arrivals::{Arrival, Kind};
use super::decode::{DecodeError, Submission, decode};
use super::validate::{Flaw, MAX_EVENT_BYTES, id_text, json_len, strict, time_ms};
use super::{Context, IdentityMode, Mixpanel, State, identity};

const MAX_BODY: usize = 10 * 1024 * 1024;
const MAX_EVENTS: usize = 2_000;

/// Who calls, by the Authorization header.
enum Caller {
    Known,
    /// The key of very old clients: answered with success, and nothing is stored.
    LegacyKey,
}

pub fn answer(mixpanel: &Mixpanel, call: &Call, context: &Context<'_>) -> (Reply, Option<usize>) {
    let (mut submission, outcome) = decode(call, MAX_BODY);
    let batch = Some(submission.records.len());
    let caller = match authorize(mixpanel, call, &submission) {
        Ok(caller) => caller,
        Err(refusal) => return (refusal, batch),
    };
    if let Caller::LegacyKey = caller {
        return (Reply::ok(&json!({ "status": 1, "error": null })), batch);
    }
    let refusal = match outcome {
        Err(DecodeError::TooLarge) => Some(too_large()),
        Err(DecodeError::BrokenGzip) => Some(bad_request("could not decompress the request body")),
        Err(DecodeError::NoData) => Some(Reply::ok(&json!({ "error": "data, missing or empty", "status": 0 }))),
        Ok(()) if submission.records.len() > MAX_EVENTS => Some(too_large()),
        Ok(()) => None,
    };
    let reply = refusal.unwrap_or_else(|| import(mixpanel, call, &mut submission, context));
    (reply, batch)
}

fn authorize(mixpanel: &Mixpanel, call: &Call, submission: &Submission) -> Result<Caller, Reply> {
    let account = &mixpanel.account;
    let Some(header) = call.header("authorization") else {
        return match submission.option("api_key") {
            Some(_) => Ok(Caller::LegacyKey),
            None => Err(unauthorized("Invalid credentials")),
        };
    };
    if let Some(token) = header.strip_prefix("Bearer ") {
        return if token == account.oauth_token { Ok(Caller::Known) } else { Err(unauthorized("Invalid credentials")) };
    }
    let (user, secret) = basic(header).ok_or_else(|| unauthorized("Invalid credentials"))?;
    if user == account.service_account {
        if secret != account.service_secret {
            return Err(unauthorized("Invalid credentials: user is not a project member"));
        }
        return match call.query("project_id") {
            Some(id) if id == account.project_id => Ok(Caller::Known),
            Some(_) => Err(unauthorized("service account is not a project member")),
            None => Err(bad_request("project_id is required with a service account")),
        };
    }
    if secret.is_empty() && (user == account.project_token || user == account.project_secret) {
        return Ok(Caller::Known);
    }
    if secret.is_empty() {
        return Err(unauthorized(
            "Unauthorized, invalid project secret. See docs for more information: \
             https://developer.mixpanel.com/reference/authentication#project-secret",
        ));
    }
    Err(unauthorized("Not a valid service account username"))
}

/// User and secret of a Basic header, base64 or plain; a lone name has no secret.
pub fn basic(header: &str) -> Option<(String, String)> {
    let value = header.strip_prefix("Basic ")?.trim();
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(value)
        .or_else(|_| base64::engine::general_purpose::URL_SAFE.decode(value))
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_else(|| value.to_owned());
    let (user, secret) = decoded.split_once(':').unwrap_or((&decoded, ""));
    Some((user.to_owned(), secret.to_owned()))
}

fn import(mixpanel: &Mixpanel, call: &Call, submission: &mut Submission, context: &Context<'_>) -> Reply {
    let switches = context.switches;
    let strict_mode = match submission.option("strict") {
        Some(value) => value == "1",
        None => switches.import_absent_strict == AbsentStrict::Strict && !submission.form,
    };
    let records = std::mem::take(&mut submission.records);
    let sent = records.len();
    if !strict_mode && records.iter().all(|record| record.as_object().is_none_or(serde_json::Map::is_empty)) {
        return Reply::ok(&json!({ "error": "data, missing or empty", "status": 0 }));
    }
    let identity_event = |record: &Value| record["event"].as_str().is_some_and(identity::is_identity_event);
    if context.mode == IdentityMode::Simplified && records.iter().any(identity_event) {
        let mut state = mixpanel.state();
        state.arrivals.counters.add("refused", "identity_event_batch", records.len() as u64);
        return failed(
            vec!["identity events are not allowed when project is using simplified identity management".into()],
            0,
        );
    }
    let mut failures = Vec::new();
    let mut good = Vec::with_capacity(records.len());
    for (index, record) in records.into_iter().enumerate() {
        let verdict = if strict_mode { check_strict(&record, context) } else { check_lenient(&record, context) };
        match verdict {
            Ok(time_ms) => good.push((arrival(&record, time_ms, call, submission, context), record)),
            Err(flaw) => failures.push(failure(index, &record, &flaw, switches.failed_record_id_key)),
        }
    }
    let imported = good.len();
    {
        let mut state = mixpanel.state();
        if let Some(limit) = switches.import_limit
            && over_limit(&mut state, limit, sent, call, context)
        {
            return too_many(switches.retry_after_on_429);
        }
        state.arrivals.counters.add("failed_validation", "event", failures.len() as u64);
        for (arrival, record) in good {
            state.store_event(arrival, record, context);
        }
    }
    if strict_mode {
        return if failures.is_empty() {
            Reply::ok(&json!({ "code": 200, "num_records_imported": imported, "status": "OK" }))
        } else {
            failed(failures, imported)
        };
    }
    lenient_answer(submission, imported, switches.import_lenient_answer)
}

fn lenient_answer(submission: &Submission, imported: usize, shape: LenientAnswer) -> Reply {
    let status = u8::from(imported > 0);
    if submission.form && submission.verbose() {
        let error = if imported > 0 { Value::Null } else { "some data points in the request failed validation".into() };
        Reply::ok(&json!({ "status": status, "error": error }))
    } else if submission.verbose() || shape == LenientAnswer::Json {
        Reply::ok(&json!({ "code": 200, "num_records_imported": imported, "status": status }))
    } else {
        Reply::text(StatusCode::OK, status.to_string())
    }
}

fn check_strict(record: &Value, context: &Context<'_>) -> Result<i64, Flaw> {
    let time = strict(record, context.now, context.mode, context.switches)?;
    if json_len(record) > MAX_EVENT_BYTES {
        return Err(Flaw { field: String::new(), message: "event exceeds the limit of 1 MB".into() });
    }
    Ok(time)
}

/// Without strict only what cannot be an event at all is left out.
fn check_lenient(record: &Value, context: &Context<'_>) -> Result<i64, Flaw> {
    let named = record["event"].as_str().is_some_and(|name| !name.is_empty());
    if !named || !record["properties"].is_object() || json_len(record) > MAX_EVENT_BYTES {
        return Err(Flaw { field: "event".into(), message: "'event' must not be missing or blank".into() });
    }
    let now = i64::try_from(context.now.0).unwrap_or(i64::MAX);
    Ok(time_ms(&record["properties"]["time"]).unwrap_or(now).min(now))
}

fn arrival(record: &Value, time_ms: i64, call: &Call, submission: &Submission, context: &Context<'_>) -> Arrival {
    let properties = &record["properties"];
    let stored_as = match properties.as_object() {
        Some(properties) => identity::stored_distinct_id(context.mode, properties),
        None => String::new(),
    };
    let mut arrival =
        Arrival::new(context.now, "/import", Kind::Event, record["event"].as_str().unwrap_or_default(), &stored_as);
    arrival.time_ms = time_ms;
    let insert_id = id_text(properties.get("$insert_id")).map(|mut id| {
        if context.switches.long_insert_id == LongInsertId::Truncate && id.is_char_boundary(36) {
            id.truncate(36);
        }
        id
    });
    let mut arrival = arrival.identified(insert_id.as_deref(), &stored_as);
    arrival.ip = match properties.get("ip") {
        Some(Value::String(ip)) if ip != "0" => Some(ip.as_str().into()),
        Some(_) => None,
        None if submission.option("ip") == Some("1") => Some(context.caller_address(call).into()),
        None => (context.switches.import_geo_from_request && submission.option("ip").is_none())
            .then(|| context.caller_address(call).into()),
    };
    if context.ignored(properties) {
        arrival.outcome = "ignored";
    }
    arrival
}

fn over_limit(state: &mut State, limit: ImportLimit, events: usize, call: &Call, context: &Context<'_>) -> bool {
    let bytes = call.inflated(MAX_BODY).map_or(call.body.len(), |body| body.len());
    let (bytes, events) = state.import_minute.add(context.now, bytes as u64, events as u64);
    bytes > limit.bytes_per_minute || events > limit.events_per_minute
}

fn failure(index: usize, record: &Value, flaw: &Flaw, key: FailedRecordIdKey) -> Value {
    let key = match key {
        FailedRecordIdKey::InsertId => "insert_id",
        FailedRecordIdKey::DollarInsertId => "$insert_id",
    };
    let insert_id = id_text(record["properties"].get("$insert_id")).unwrap_or_default();
    json!({ "index": index, key: insert_id, "field": flaw.field, "message": flaw.message })
}

fn failed(records: Vec<Value>, imported: usize) -> Reply {
    Reply::json(
        StatusCode::BAD_REQUEST,
        &json!({
            "code": 400,
            "error": "some data points in the request failed validation",
            "failed_records": records,
            "num_records_imported": imported,
            "status": "Bad Request",
        }),
    )
}

fn bad_request(error: &str) -> Reply {
    Reply::json(StatusCode::BAD_REQUEST, &json!({ "code": 400, "error": error, "status": "Bad Request" }))
}

pub fn unauthorized(error: &str) -> Reply {
    Reply::json(StatusCode::UNAUTHORIZED, &json!({ "code": 401, "error": error, "status": "Unauthorized" }))
}

fn too_large() -> Reply {
    let error = format!("request exceeds max limit of {MAX_BODY} bytes");
    Reply::json(
        StatusCode::PAYLOAD_TOO_LARGE,
        &json!({ "code": 413, "error": error, "status": "Request Entity Too Large" }),
    )
}

pub fn too_many(retry_after: bool) -> Reply {
    let reply = Reply::json(
        StatusCode::TOO_MANY_REQUESTS,
        &json!({
            "code": 429,
            "error": "Project exceeded rate limits. Please retry the request with exponential backoff.",
            "status": "Too Many Requests",
        }),
    );
    if retry_after { reply.header("retry-after", "2") } else { reply }
}
