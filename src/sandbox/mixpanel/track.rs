//! `/track`, `/engage` and `/groups`: nearly always a 200, and a body that says 1 or 0 (contract §4, §5).

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::super::http::{Call, Reply};
use super::super::switches::{
    GroupAddAppend, ImageKind, MixpanelSwitches, OldTrackEvent, OversizeBatch, SimplifiedIdentityEvent, TrackSuccess,
};
use super::arrivals::{Arrival, Kind, STORED, geo};
use super::decode::{DecodeError, Submission, decode};
use super::profiles::{Rules, group_id, operator};
use super::validate::{id_text, time_ms};
use super::{Context, IdentityMode, Mixpanel, State, identity};

const MAX_BODY: usize = 10 * 1024 * 1024;
const MAX_RECORDS: usize = 2_000;
const FIVE_DAYS_MS: i64 = 5 * 24 * 3_600_000;
const HOUR_MS: i64 = 3_600_000;

/// Smallest images of one transparent pixel.
const PNG_PIXEL: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\0\0\0\rIDATx\x9cc\xf8\x0f\x04\0\x09\xfb\x03\xfd\xfb\x5e\x6b\x2b\0\0\0\0IEND\xaeB`\x82";
const GIF_PIXEL: &[u8] =
    b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff!\xf9\x04\x01\0\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x01D\0;";

type Refusal = &'static str;

pub fn answer(mixpanel: &Mixpanel, call: &Call, kind: Kind, context: &Context<'_>) -> (Reply, Option<usize>) {
    let (mut submission, outcome) = decode(call, MAX_BODY);
    let batch = Some(submission.records.len());
    let oversize = submission.records.len() > MAX_RECORDS && context.switches.oversize_batch != OversizeBatch::Accept;
    let too_large = outcome == Err(DecodeError::TooLarge)
        || (oversize && context.switches.oversize_batch == OversizeBatch::TooLarge);
    if too_large {
        return (Reply::text(StatusCode::PAYLOAD_TOO_LARGE, "0"), batch);
    }
    let verdicts = match outcome {
        Err(_) => vec![Err("data, missing or empty")],
        Ok(()) if submission.records.is_empty() => vec![Err("data, missing or empty")],
        Ok(()) if oversize => vec![Err("too many records in one request")],
        Ok(()) => {
            let mut state = mixpanel.state();
            let records = std::mem::take(&mut submission.records);
            let take = |record| take(&mut state, mixpanel, kind, record, call, &submission, context);
            records.into_iter().map(take).collect()
        }
    };
    (respond(call, &submission, kind, &verdicts, context.switches), batch)
}

fn take(
    state: &mut State,
    mixpanel: &Mixpanel,
    kind: Kind,
    record: Value,
    call: &Call,
    submission: &Submission,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    let taken = match kind {
        Kind::Event => event(state, mixpanel, record, call, submission, context),
        Kind::Profile | Kind::Group => profile(state, mixpanel, kind, &record, call, submission, context),
    };
    if taken.is_err() {
        state.arrivals.counters.add("failed_validation", kind.name(), 1);
    }
    taken
}

fn event(
    state: &mut State,
    mixpanel: &Mixpanel,
    record: Value,
    call: &Call,
    submission: &Submission,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    let name = record["event"].as_str().filter(|name| !name.is_empty()).ok_or("event, missing")?;
    let properties = record["properties"].as_object().ok_or("token, missing or empty")?;
    let token = properties.get("token").and_then(Value::as_str).filter(|token| !token.is_empty());
    let token = token.ok_or("token, missing or empty")?;
    let identity_event = identity::is_identity_event(name);
    if name == "$identify"
        && id_text(properties.get("distinct_id")).is_none()
        && !properties.contains_key("$identified_id")
    {
        return Err("distinct_id, missing or empty");
    }
    let stored_as = identity::stored_distinct_id(context.mode, properties);
    let mut arrival = Arrival::new(context.now, "/track", Kind::Event, name, &stored_as);
    let now = arrival.time_ms;
    let time = properties.get("time").and_then(time_ms).unwrap_or(now);
    arrival.time_ms = if time > now && time <= now + HOUR_MS { now } else { time };
    let event_id = record["$mp_metadata"]["$mp_event_id"].as_str().filter(|_| context.switches.mp_event_id_dedups);
    let insert_id = id_text(properties.get("$insert_id"));
    let mut arrival = arrival.identified(insert_id.as_deref().or(event_id), &stored_as);
    arrival.ip = match (submission.option("ip"), properties.get("ip").and_then(Value::as_str)) {
        (Some("1"), _) => Some(context.caller_address(call).into()),
        (_, Some(ip)) if ip != "0" => Some(ip.into()),
        _ => None,
    };
    let old = time < now - FIVE_DAYS_MS;
    if old && context.switches.old_track_event == OldTrackEvent::Refuse {
        return Err("time, older than 5 days");
    }
    arrival.outcome = if token != mixpanel.account.project_token {
        "wrong_token"
    } else if context.ignored(&record["properties"]) {
        "ignored"
    } else if old {
        "older_than_5_days"
    } else if time > now + HOUR_MS {
        "in_the_future"
    } else if name == "$merge" {
        "merge_is_for_import_only"
    } else if identity_event && context.mode == IdentityMode::Simplified {
        match context.switches.simplified_identity_event {
            SimplifiedIdentityEvent::Ignore => "identity_event_ignored",
            SimplifiedIdentityEvent::Store => STORED,
            SimplifiedIdentityEvent::Refuse => return Err("identity events are not allowed in this project"),
        }
    } else {
        arrival.outcome
    };
    state.store_event(arrival, record, context);
    Ok(())
}

fn profile(
    state: &mut State,
    mixpanel: &Mixpanel,
    kind: Kind,
    record: &Value,
    call: &Call,
    submission: &Submission,
    context: &Context<'_>,
) -> Result<(), Refusal> {
    let fields = record.as_object().ok_or("data, missing or empty")?;
    let token = fields.get("$token").and_then(Value::as_str).filter(|token| !token.is_empty());
    let token = token.ok_or("$token, missing or empty")?;
    let id = match kind {
        Kind::Group => group_id(fields).ok_or("$group_key or $group_id, missing or empty")?,
        _ => {
            let id = id_text(fields.get("$distinct_id")).filter(|id| !id.is_empty());
            let id = id.ok_or("$distinct_id, missing or empty")?;
            let literal = fields.get("$ignore_alias") == Some(&json!(true));
            if literal { id } else { state.identity.canonical(&id).to_owned() }
        }
    };
    let operator = operator(fields).ok_or("no operator in the record")?;
    let mut arrival = Arrival::new(context.now, call_path(kind), kind, operator, &id);
    arrival.record = (!context.logs.counts_only).then(|| Box::new(record.clone()));
    arrival.ip = profile_address(fields, kind, call, submission, context);
    if token != mixpanel.account.project_token {
        arrival.outcome = "wrong_token";
    } else {
        let add_append = kind == Kind::Profile || context.switches.group_add_append == GroupAddAppend::Apply;
        let rules = Rules {
            mismatch: context.switches.operator_type_mismatch,
            list_and_number_ops: add_append,
            keeps_last_seen: kind == Kind::Profile,
            lag: Duration::from_millis(context.switches.profile_lag_ms),
            now: context.now,
        };
        let place = arrival.ip.as_deref().map(place).unwrap_or_default();
        let profiles = if kind == Kind::Group { &mut state.groups } else { &mut state.people };
        profiles.apply(&id, fields, place, rules);
        state.arrivals.counters.add("operators", operator, 1);
    }
    state.arrivals.push(arrival, context.logs);
    Ok(())
}

fn call_path(kind: Kind) -> &'static str {
    if kind == Kind::Group { "/groups" } else { "/engage" }
}

/// `$ip` of the record, else the caller's unless `ip=0`. Groups have no place.
fn profile_address(
    fields: &Map<String, Value>,
    kind: Kind,
    call: &Call,
    submission: &Submission,
    context: &Context<'_>,
) -> Option<Box<str>> {
    if kind == Kind::Group {
        return None;
    }
    match fields.get("$ip") {
        Some(Value::String(ip)) if ip != "0" && !ip.is_empty() => Some(ip.as_str().into()),
        Some(_) => None,
        None if submission.option("ip") == Some("0") => None,
        None => Some(context.caller_address(call).into()),
    }
}

fn place(ip: &str) -> Map<String, Value> {
    let place = geo(ip);
    let keys = [
        ("$city", place.city),
        ("$region", place.region),
        ("$country_code", place.country.to_owned()),
        ("$timezone", "Etc/UTC".to_owned()),
        ("$geo_source", "ip".to_owned()),
    ];
    keys.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

fn respond(
    call: &Call,
    submission: &Submission,
    kind: Kind,
    verdicts: &[Result<(), Refusal>],
    switches: &MixpanelSwitches,
) -> Reply {
    let good = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
    let success = match switches.track_success {
        TrackSuccess::AnyValid => good > 0,
        TrackSuccess::AllValid => good == verdicts.len(),
    };
    let error = verdicts.iter().find_map(|verdict| verdict.err()).filter(|_| !success);
    let status = u8::from(success);
    let reply = if submission.flag("img") {
        match switches.img {
            ImageKind::Png => Reply::new(StatusCode::OK, "image/png", PNG_PIXEL),
            ImageKind::Gif => Reply::new(StatusCode::OK, "image/gif", GIF_PIXEL),
        }
    } else if let Some(callback) = submission.option("callback") {
        Reply::new(StatusCode::OK, "text/javascript", format!("{callback}({status});"))
    } else if kind != Kind::Event && submission.flag("strict") {
        per_record(verdicts)
    } else if submission.verbose() {
        Reply::ok(&json!({ "error": error, "status": status }))
    } else {
        Reply::new(StatusCode::OK, "text/plain", status.to_string())
    };
    cors(call, reply)
}

/// `strict=1` of profiles: "JSON with per-record error messages"; the shape is the one of `/import`.
fn per_record(verdicts: &[Result<(), Refusal>]) -> Reply {
    let failed: Vec<Value> = verdicts
        .iter()
        .enumerate()
        .filter_map(|(index, verdict)| verdict.err().map(|message| json!({ "index": index, "message": message })))
        .collect();
    let good = verdicts.len() - failed.len();
    if failed.is_empty() {
        return Reply::ok(&json!({ "code": 200, "num_good_events": good, "status": "OK", "error": null }));
    }
    Reply::json(
        StatusCode::BAD_REQUEST,
        &json!({
            "code": 400,
            "error": "some data points in the request failed validation",
            "failed_records": failed,
            "num_good_events": good,
            "status": "Bad Request",
        }),
    )
}

/// The caller's origin, exactly, and credentials: browsers send a cookie along.
pub fn cors(call: &Call, reply: Reply) -> Reply {
    match call.header("origin") {
        Some(origin) => reply
            .header("access-control-allow-origin", origin)
            .header("access-control-allow-credentials", "true")
            .header("access-control-allow-methods", "GET, POST, OPTIONS")
            .header("access-control-allow-headers", "Authorization, Content-Type, traceparent")
            .header("access-control-expose-headers", "Retry-After"),
        None => reply,
    }
}
