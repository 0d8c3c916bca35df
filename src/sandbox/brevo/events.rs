//! Custom events, one by one and in batches (contract §2).

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::http::Reply;
use super::super::journal::{Names, Recent};
use super::super::switches::{BadPropertyKey, MixedBatch, OversizeBrevoBatch, UnknownContact};
use super::contacts::{Via, Write, apply};
use super::directory::Key;
use super::{Answer, Context, State, error, invalid, missing, no_content};
use crate::clock::UnixMillis;

const MAX_BATCH: usize = 200;
const MAX_BATCH_BYTES: usize = 512 * 1024;
const MAX_NAME: usize = 255;
const MAX_PROPERTIES: usize = 50 * 1024;
const SIX_MONTHS_MS: u64 = 183 * 24 * 3_600_000;

/// One event as it came.
#[derive(Debug)]
pub struct BrevoEvent {
    /// Shared with the log of contact writes, so that the two can be laid side by side.
    seq: u64,
    pub at: UnixMillis,
    pub name: Box<str>,
    pub contact_id: Option<i64>,
    /// The event's own time; that of receipt when it has none.
    date_ms: u64,
    pub outcome: &'static str,
    via: &'static str,
    /// Absent in counts-only mode.
    body: Option<Value>,
}

pub const APPLIED: &str = "applied";
const NO_CONTACT: &str = "dropped_unknown_contact";

impl BrevoEvent {
    pub fn to_json(&self) -> Value {
        json!({ "seq": self.seq, "at": self.at, "event_name": self.name, "contact_id": self.contact_id, "outcome": self.outcome,
            "via": self.via, "event": self.body })
    }

    fn read_back(&self) -> Value {
        let body = self.body.as_ref();
        let part = |name: &str| body.map_or(Value::Null, |body| body[name].clone());
        json!({
            "contact_id": self.contact_id,
            "event_date": UnixMillis(self.date_ms).to_string(),
            "event_name": self.name,
            "event_filter_id": null,
            "object_type": body.map_or(Value::Null, |body| body["object"]["type"].clone()),
            "event_properties": part("event_properties"),
            "contact_properties": part("contact_properties"),
        })
    }
}

#[derive(Debug, Default)]
pub struct Events {
    pub log: Recent<BrevoEvent>,
    by_name: Names,
}

impl Events {
    fn push(&mut self, event: BrevoEvent, limit: usize) {
        self.by_name.add(&event.name);
        self.log.push(event, limit);
    }

    pub fn by_name(&self) -> Value {
        self.by_name.to_json()
    }
}

fn plain_name(name: &str) -> bool {
    let fits = (1..=MAX_NAME).contains(&name.len());
    fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Why an event is refused, if it is.
fn flaw(event: &Value, bad_keys: BadPropertyKey) -> Option<&'static str> {
    let Some(fields) = event.as_object() else { return Some("event should be an object") };
    match fields.get("event_name").and_then(Value::as_str) {
        None | Some("") => return Some("event_name is required"),
        Some(name) if !plain_name(name) => {
            return Some("event_name must only contain alphanumeric characters, - and _, up to 255");
        }
        Some(_) => {}
    }
    if !fields.get("identifiers").is_some_and(named_somebody) {
        return Some("at least one identifier is required");
    }
    if let Some(date) = fields.get("event_date")
        && date.as_str().is_none_or(|text| text.parse::<Timestamp>().is_err())
    {
        return Some("event_date is not a valid date");
    }
    match fields.get("event_properties") {
        None | Some(Value::Null) => {}
        Some(Value::Object(properties)) => {
            if bad_keys == BadPropertyKey::Reject && !properties.keys().all(|key| plain_name(key)) {
                return Some("event_properties keys must only contain alphanumeric characters, - and _, up to 255");
            }
            if fields["event_properties"].to_string().len() > MAX_PROPERTIES {
                return Some("event_properties exceed the limit of 50 KB");
            }
        }
        Some(_) => return Some("event_properties should be an object"),
    }
    match fields.get("contact_properties") {
        None | Some(Value::Null | Value::Object(_)) => None,
        Some(_) => Some("contact_properties should be an object"),
    }
}

const IDENTIFIERS: [(&str, Key); 5] = [
    ("email_id", Key::Email),
    ("ext_id", Key::ExtId),
    ("phone_id", Key::Sms),
    ("whatsapp_id", Key::Whatsapp),
    ("landline_number_id", Key::Landline),
];

fn named_somebody(identifiers: &Value) -> bool {
    identifiers["contact_id"].is_i64()
        || IDENTIFIERS.iter().any(|(field, _)| identifiers[*field].as_str().is_some_and(|text| !text.is_empty()))
}

/// `contact_id` beats all others.
fn resolve(state: &State, identifiers: &Value) -> Option<i64> {
    if let Some(id) = identifiers["contact_id"].as_i64() {
        return state.directory.get(id).map(|contact| contact.id);
    }
    IDENTIFIERS.iter().find_map(|(field, key)| state.directory.owner(*key, &key.normal(identifiers[*field].as_str()?)?))
}

/// A contact made from the identifiers of an event.
fn create_contact(state: &mut State, identifiers: &Value, context: &Context<'_>) -> Option<i64> {
    let mut write = Write::default();
    for (field, key) in IDENTIFIERS {
        if let Some(value) = identifiers[field].as_str().and_then(|text| key.normal(text)) {
            write.identifiers.insert(key, Some(value));
        }
    }
    if write.identifiers.is_empty() {
        return None;
    }
    let id = state.directory.create(context.now);
    apply(state, id, write, Via::Event, context);
    Some(id)
}

fn take(state: &mut State, event: &Value, via: &'static str, context: &Context<'_>) {
    let mut contact_id = resolve(state, &event["identifiers"]);
    if contact_id.is_none() && context.switches.unknown_contact == UnknownContact::Create {
        contact_id = create_contact(state, &event["identifiers"], context);
    }
    let outcome = if contact_id.is_some() { APPLIED } else { NO_CONTACT };
    if let (Some(id), Some(properties)) = (contact_id, event["contact_properties"].as_object()) {
        let mut write = Write::default();
        // A phone that is not one is lost here, as any other value that does not fit.
        if write.take_attributes(properties).is_ok() && write.owners(state).iter().all(|(_, owner)| *owner == id) {
            apply(state, id, write, Via::Event, context);
        } else {
            state.counters.add("attributes_dropped", "conflicting_identifier", 1);
        }
    }
    let date = event["event_date"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let date_ms = date.and_then(|at| u64::try_from(at.as_millisecond()).ok()).unwrap_or(context.now.0);
    state.counters.add("events", "accepted", 1);
    state.counters.add("events", outcome, 1);
    let entry = BrevoEvent {
        seq: state.next_seq(),
        at: context.now,
        name: event["event_name"].as_str().unwrap_or_default().into(),
        contact_id,
        date_ms,
        outcome,
        via,
        body: (!context.logs.counts_only).then(|| without_bad_keys(event)),
    };
    state.events.push(entry, context.logs.record_limit());
}

/// Only reached with bad keys when the switch says that they are dropped.
fn without_bad_keys(event: &Value) -> Value {
    let mut event = event.clone();
    if let Some(properties) = event["event_properties"].as_object_mut() {
        properties.retain(|key, _| plain_name(key));
    }
    event
}

pub fn create(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    if let Some(flaw) = flaw(&context.body, context.switches.bad_property_key) {
        state.counters.add("events", "refused", 1);
        return Err(invalid(flaw));
    }
    take(state, &context.body, "POST /events", context);
    Ok(no_content())
}

pub fn create_batch(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    if context.body.is_array() {
        let text = "json: cannot unmarshal array into Go value of type main.unifiedEventsRequest";
        return Err(invalid(text));
    }
    let events = context.body["events"].as_array().ok_or_else(|| missing("events is required"))?;
    if events.is_empty() {
        return Err(missing("events should not be empty"));
    }
    if events.len() > MAX_BATCH || context.call.body.len() > MAX_BATCH_BYTES {
        let status = match context.switches.oversize_batch {
            OversizeBrevoBatch::BadRequest => StatusCode::BAD_REQUEST,
            OversizeBrevoBatch::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        };
        return Err(error(status, "invalid_parameter", "A batch holds at most 200 events and 512 KB"));
    }
    let mut errors: Vec<(&'static str, Vec<usize>)> = Vec::new();
    for (index, event) in events.iter().enumerate() {
        match flaw(event, context.switches.bad_property_key) {
            None => take(state, event, "POST /events/batch", context),
            Some(flaw) => match errors.iter_mut().find(|(message, _)| *message == flaw) {
                Some((_, indexes)) => indexes.push(index),
                None => errors.push((flaw, vec![index])),
            },
        }
    }
    let failed: usize = errors.iter().map(|(_, indexes)| indexes.len()).sum();
    state.counters.add("events", "refused", failed as u64);
    Ok(batch_answer(events.len(), failed, &errors, context.switches.mixed_batch))
}

fn batch_answer(total: usize, failed: usize, errors: &[(&str, Vec<usize>)], mixed: MixedBatch) -> Reply {
    if failed == 0 || (failed < total && mixed == MixedBatch::AcceptedShortCount) {
        let message = "Batch accepted. Valid events have been added to the processing queue.";
        return Reply::json(StatusCode::ACCEPTED, &json!({ "message": message, "count": total - failed }));
    }
    let errors: Vec<Value> =
        errors.iter().map(|(message, indexes)| json!({ "eventIndex": indexes, "message": message })).collect();
    let (status, word) = if failed == total {
        (StatusCode::BAD_REQUEST, "failed")
    } else {
        (StatusCode::MULTI_STATUS, "partial_success")
    };
    Reply::json(
        status,
        &json!({ "status": word, "total_events": total, "successful_events": total - failed, "failed_events": failed,
            "errors": errors }),
    )
}

/// Read-back: what reached a contact, newest first.
pub fn list(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let page = context.page(100, 10_000)?;
    let call = context.call;
    let names = call.query_list("event_name");
    let contacts = call.query_list("contact_id");
    let date = |name: &str| call.query(name).and_then(parse_day);
    let (from, to) = match (call.query("startDate"), call.query("endDate")) {
        (None, None) => (context.now.0.saturating_sub(SIX_MONTHS_MS), u64::MAX),
        (Some(_), Some(_)) => match (date("startDate"), date("endDate")) {
            (Some(from), Some(to)) => (from, to),
            _ => return Err(invalid("startDate and endDate should be dates")),
        },
        _ => return Err(missing("startDate and endDate must be given together")),
    };
    let wanted = |event: &&BrevoEvent| {
        event.outcome == APPLIED
            && (from..=to).contains(&event.date_ms)
            && (names.is_empty() || names.contains(&&*event.name))
            && (contacts.is_empty()
                || event.contact_id.is_some_and(|id| contacts.iter().any(|wanted| *wanted == id.to_string())))
    };
    let mut all: Vec<&BrevoEvent> = state.events.log.iter().filter(wanted).collect();
    all.sort_by_key(|event| std::cmp::Reverse(event.date_ms));
    let count = all.len();
    let shown: Vec<Value> = all.into_iter().skip(page.offset).take(page.limit).map(BrevoEvent::read_back).collect();
    Ok(Reply::ok(&json!({ "events": shown, "count": count })))
}

/// A date or a date-time, in milliseconds.
fn parse_day(text: &str) -> Option<u64> {
    let at = text.parse::<Timestamp>().or_else(|_| format!("{text}T00:00:00Z").parse()).ok()?;
    u64::try_from(at.as_millisecond()).ok()
}
