//! Mixpanel's rules for one event (contract §3): what strict import refuses, and in which words.
//!
//! The vendor publishes only some messages; for the rest these words are the sandbox's own, in the same manner.

use serde_json::{Map, Value};

use super::super::switches::{LongInsertId, MixpanelSwitches, Nameless};
use super::IdentityMode;
use crate::clock::UnixMillis;

pub const MAX_EVENT_BYTES: usize = 1024 * 1024;
const MAX_KEYS: usize = 255;
const MAX_DEPTH: usize = 3;
const MAX_NESTED_BYTES: usize = 8 * 1024;
const MAX_INSERT_ID: usize = 36;
const EARLIEST_MS: i64 = 31_536_000_000;
const HOUR_MS: i64 = 3_600_000;

const BLOCKED_IDS: [&str; 17] = [
    "00000000-0000-0000-0000-000000000000",
    "anon",
    "anonymous",
    "nil",
    "none",
    "null",
    "n/a",
    "na",
    "undefined",
    "unknown",
    "<nil>",
    "0",
    "-1",
    "true",
    "false",
    "[]",
    "{}",
];

/// Why a record is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Flaw {
    pub field: String,
    pub message: String,
}

impl Flaw {
    fn of(field: &str, rule: &str) -> Self {
        Self { field: field.to_owned(), message: format!("'{field}' is invalid: {rule}") }
    }
}

/// A text or number used as an id.
pub fn id_text(value: Option<&Value>) -> Option<String> {
    match value {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    }
}

/// Seconds or milliseconds since 1970, the unit told by size: no event of today is a 12-digit number of seconds.
pub fn time_ms(value: &Value) -> Option<i64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    let ms = if number.abs() >= 1e11 { number } else { number * 1000.0 };
    // Saturates on nonsense, which the range check then refuses.
    Some(ms as i64)
}

/// Strict rules for one event of `/import`; the time in milliseconds when it passes.
pub fn strict(record: &Value, now: UnixMillis, mode: IdentityMode, switches: &MixpanelSwitches) -> Result<i64, Flaw> {
    let Some(event) = record.as_object() else {
        return Err(Flaw::of("event", "must be an object"));
    };
    if event.get("event").and_then(Value::as_str).is_none_or(|name| name.trim().is_empty()) {
        return Err(Flaw { field: "event".into(), message: "'event' must not be missing or blank".into() });
    }
    let Some(properties) = event.get("properties").and_then(Value::as_object) else {
        return Err(Flaw::of("properties", "must not be missing"));
    };
    let time = strict_time(properties, now)?;
    // A merge names two persons and has no sender.
    if event["event"] != "$merge" {
        strict_distinct_id(properties, mode, switches)?;
    }
    strict_insert_id(properties, switches)?;
    strict_shape(properties)?;
    Ok(time)
}

fn strict_time(properties: &Map<String, Value>, now: UnixMillis) -> Result<i64, Flaw> {
    let field = "properties.time";
    let value = properties.get("time").filter(|time| !time.is_null());
    let value = value.ok_or_else(|| Flaw::of(field, "must not be missing"))?;
    let time = value.is_number().then(|| time_ms(value)).flatten();
    let time = time.ok_or_else(|| Flaw::of(field, "must be specified as seconds since epoch"))?;
    let now = i64::try_from(now.0).unwrap_or(i64::MAX);
    if time < EARLIEST_MS {
        Err(Flaw::of(field, "must not be before 1971-01-01"))
    } else if time > now.saturating_add(HOUR_MS) {
        Err(Flaw::of(field, "must not be in the future"))
    } else {
        Ok(time.min(now))
    }
}

fn strict_distinct_id(
    properties: &Map<String, Value>,
    mode: IdentityMode,
    switches: &MixpanelSwitches,
) -> Result<(), Flaw> {
    let field = "properties.distinct_id";
    match id_text(properties.get("distinct_id")) {
        Some(id) if BLOCKED_IDS.contains(&id.to_ascii_lowercase().as_str()) => {
            Err(Flaw::of(field, "must not be a placeholder value"))
        }
        Some(_) => Ok(()),
        None => {
            let named = ["$device_id", "$user_id"].iter().any(|key| id_text(properties.get(*key)).is_some());
            let accepted = named || switches.import_nameless == Nameless::Accept;
            if mode == IdentityMode::Simplified && accepted {
                Ok(())
            } else {
                Err(Flaw::of(field, "must not be missing"))
            }
        }
    }
}

fn strict_insert_id(properties: &Map<String, Value>, switches: &MixpanelSwitches) -> Result<(), Flaw> {
    let field = "$insert_id";
    let Some(id) = id_text(properties.get(field)).filter(|id| !id.is_empty()) else {
        return Err(Flaw::of(field, "must not be missing"));
    };
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        Err(Flaw::of(field, "must only contain alphanumeric or hyphen '-' characters"))
    } else if id.len() > MAX_INSERT_ID && switches.long_insert_id == LongInsertId::Reject {
        Err(Flaw::of(field, "must be at most 36 bytes"))
    } else if BLOCKED_IDS.contains(&id.to_ascii_lowercase().as_str()) {
        Err(Flaw::of(field, "must not be a placeholder value"))
    } else {
        Ok(())
    }
}

fn strict_shape(properties: &Map<String, Value>) -> Result<(), Flaw> {
    if properties.len() >= MAX_KEYS {
        return Err(Flaw::of("properties", "must have fewer than 255 keys"));
    }
    for (name, value) in properties {
        if !(value.is_object() || value.is_array()) {
            continue;
        }
        let refuse = |rule: &str| {
            Err(Flaw { field: format!("properties.{name}"), message: format!("properties.{name} is invalid: {rule}") })
        };
        if !narrow(value) {
            return refuse("lists and objects must have fewer than 255 elements");
        }
        if depth(value) > MAX_DEPTH {
            return refuse("objects must not be nested deeper than 3");
        }
        if json_len(value) > MAX_NESTED_BYTES {
            return refuse("lists and objects must be at most 8 KB");
        }
    }
    Ok(())
}

fn narrow(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.len() < MAX_KEYS && items.iter().all(narrow),
        Value::Object(fields) => fields.len() < MAX_KEYS && fields.values().all(narrow),
        _ => true,
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The length of the value as compact JSON, near enough for a limit: escapes are not counted.
pub fn json_len(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(number) if number.is_f64() => 12,
        Value::Number(number) => number.as_i64().map_or(20, |n| n.unsigned_abs().max(1).ilog10() as usize + 1),
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| json_len(item) + 1).sum::<usize>(),
        Value::Object(fields) => 2 + fields.iter().map(|(key, item)| key.len() + 4 + json_len(item)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn flaw(patch: Value, mode: IdentityMode) -> Option<(String, String)> {
        let mut event = json!({ "event": "e", "properties":
            { "time": 1_799_999_000, "distinct_id": "u", "$insert_id": "a-1", "p": { "q": [1] } } });
        for (key, value) in patch.as_object().expect("object") {
            match key.as_str() {
                "event" => event["event"] = value.clone(),
                _ if value == "(absent)" => drop(event["properties"].as_object_mut().expect("object").remove(key)),
                _ => event["properties"][key] = value.clone(),
            }
        }
        strict(&event, NOW, mode, &MixpanelSwitches::default()).err().map(|flaw| (flaw.field, flaw.message))
    }

    #[test]
    fn the_published_messages() {
        let original = IdentityMode::Original;
        let published = [
            (json!({ "time": "(absent)" }), "'properties.time' is invalid: must not be missing"),
            (json!({ "time": 4_102_444_800_i64 }), "'properties.time' is invalid: must not be in the future"),
            (json!({ "time": "2020-01-01" }), "'properties.time' is invalid: must be specified as seconds since epoch"),
            (json!({ "distinct_id": "(absent)" }), "'properties.distinct_id' is invalid: must not be missing"),
            (
                json!({ "$insert_id": "evt_1" }),
                "'$insert_id' is invalid: must only contain alphanumeric or hyphen '-' characters",
            ),
            (json!({ "event": "  " }), "'event' must not be missing or blank"),
        ];
        for (patch, message) in published {
            assert_eq!(flaw(patch, original).expect("refused").1, message);
        }
    }

    #[test]
    fn limits_of_size_and_shape() {
        let mode = IdentityMode::Simplified;
        assert_eq!(flaw(json!({}), mode), None);
        assert_eq!(flaw(json!({ "distinct_id": "(absent)" }), mode), None, "simplified projects take it");
        let deep = json!({ "p": { "a": { "b": { "c": {} } } } });
        let wide: Vec<u8> = vec![0; 255];
        for (patch, field) in [
            (deep, "properties.p"),
            (json!({ "p": wide }), "properties.p"),
            (json!({ "p": ["x".repeat(9000)] }), "properties.p"),
            (json!({ "$insert_id": "a".repeat(37) }), "$insert_id"),
            (json!({ "distinct_id": "Undefined" }), "properties.distinct_id"),
            (json!({ "time": 1_000 }), "properties.time"),
        ] {
            assert_eq!(flaw(patch, mode).expect("refused").0, field);
        }
    }

    #[test]
    fn seconds_and_milliseconds_are_told_apart() {
        assert_eq!(time_ms(&json!(1_700_000_000.5)), Some(1_700_000_000_500));
        assert_eq!(time_ms(&json!(1_700_000_000_500_i64)), Some(1_700_000_000_500));
    }
}
