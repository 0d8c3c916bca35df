//! One object of Mixpanel's event stream, as a template of somebody's has rendered it (Mixpanel contract §12.2). Pure.
//!
//! A template gives texts where it must not fail to be JSON: everything may be a text, and an absent value is an empty
//! one. So a text says nothing of its type; whoever wants a number or a truth at Brevo puts it under `numbers` or
//! `booleans`. Names are Mixpanel's own (`event`, `properties.time`, ...) or those of the template's variables.

use serde_json::{Map, Number, Value, json};

use crate::clock::UnixMillis;
use crate::mixpanel::reserved::{is_identity_event, names_nobody};
use crate::mixpanel::validate::EARLIEST;
use crate::record::Kind;

/// Longest name of an event.
const MAX_NAME: usize = 255;
/// From here on a Unix time is in milliseconds: as seconds it would be the year 5138.
const MILLIS_FROM: f64 = 1e11;
/// The end of the year 9999: no calendar goes further.
const LAST_MILLI: f64 = 253_402_300_799_999.0;

/// Why one of the objects in a body is not taken. The others are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("not an object")]
    NotAnObject,
    #[error("no name of an event: put {{{{ event_name }}}} under `event`")]
    NoEvent,
    #[error(
        "no insert_id, without which a repetition could not be told from another event: put {{{{ insert_id }}}} under `insert_id`"
    )]
    NoInsertId,
    #[error("nobody is named: put {{{{ distinct_id }}}} under `distinct_id`")]
    Nobody,
    #[error("no time that can be read: put {{{{ event_time }}}} under `time`")]
    NoTime,
    #[error("project_id is not the project of this relay")]
    OtherProject,
}

impl Unusable {
    /// The `reason` label of `mixrelay_records_rejected_total`.
    pub fn label(self) -> &'static str {
        match self {
            Unusable::NotAnObject => "not_an_object",
            Unusable::NoEvent => "event_missing",
            Unusable::NoInsertId => "insert_id_missing",
            Unusable::Nobody => "distinct_id_missing",
            Unusable::NoTime => "time_missing",
            Unusable::OtherProject => "other_project",
        }
    }
}

/// An event as the relay stores it.
#[derive(Clone, Debug, PartialEq)]
pub struct Streamed {
    pub kind: Kind,
    pub insert_id: String,
    /// `{"event", "properties"}`.
    pub body: Value,
}

/// Reads one object. `project_id`: the relay's own, if it is known; `token`: what records carry.
pub fn read(item: Value, project_id: Option<&str>, token: &str) -> Result<Streamed, Unusable> {
    let Value::Object(mut item) = item else { return Err(Unusable::NotAnObject) };
    let mut properties = object(item.remove("properties"));
    let name = take(&mut item, &["event", "event_name"]).filter(|name| name.len() <= MAX_NAME);
    let name = name.ok_or(Unusable::NoEvent)?;
    if let (Some(theirs), Some(ours)) = (take(&mut item, &["project_id"]), project_id)
        && theirs != ours
    {
        return Err(Unusable::OtherProject);
    }
    // Among properties Mixpanel's own names alone are Mixpanel's: a bare `user_id` there is whatever the app means by it.
    let mut either = |names: &[&str], own: &[&str]| take(&mut item, names).or_else(|| take(&mut properties, own));
    let insert_id = either(&["insert_id", "$insert_id"], &["$insert_id"]).ok_or(Unusable::NoInsertId)?;
    let time = either(&["time", "event_time"], &["time"]).as_deref().and_then(time);
    // The rest of the relay takes nothing earlier for a time: such an event would be skipped as stale, and be of no day.
    let time = time.filter(|at| *at >= EARLIEST).ok_or(Unusable::NoTime)?;
    let somebody = |id: Option<String>| id.filter(|id| !names_nobody(id));
    let distinct_id = somebody(either(&["distinct_id", "$distinct_id"], &["distinct_id", "$distinct_id"]));
    let device_id = somebody(either(&["device_id", "$device_id"], &["$device_id"]));
    let user_id = somebody(either(&["user_id", "$user_id"], &["$user_id"]));
    if distinct_id.is_none() && device_id.is_none() && user_id.is_none() {
        return Err(Unusable::Nobody);
    }
    let mut typed = numbers(object(item.remove("numbers")));
    typed.extend(booleans(object(item.remove("booleans"))));
    // Whatever else the template has written is a property.
    properties.extend(item);
    properties.retain(|_, value| says_something(value));
    properties.extend(typed);
    for (name, id) in [("distinct_id", distinct_id), ("$device_id", device_id), ("$user_id", user_id)] {
        properties.extend(id.map(|id| (name.to_owned(), id.into())));
    }
    properties.insert("token".to_owned(), token.into());
    properties.insert("time".to_owned(), time.0.into());
    properties.insert("$insert_id".to_owned(), insert_id.clone().into());
    let kind = if is_identity_event(&name) { Kind::Identity } else { Kind::Event };
    Ok(Streamed { kind, insert_id, body: json!({ "event": name, "properties": properties }) })
}

/// An object, or the text of one.
fn object(value: Option<Value>) -> Map<String, Value> {
    match value {
        Some(Value::Object(members)) => members,
        Some(Value::String(text)) => serde_json::from_str(&text).unwrap_or_default(),
        _ => Map::new(),
    }
}

/// The first of `names` with a value, as text; all of them are taken out.
fn take(members: &mut Map<String, Value>, names: &[&str]) -> Option<String> {
    let found: Vec<Value> = names.iter().filter_map(|name| members.remove(*name)).collect();
    found.into_iter().find_map(|value| match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

fn says_something(value: &Value) -> bool {
    !value.is_null() && value.as_str().is_none_or(|text| !text.trim().is_empty())
}

fn numbers(members: Map<String, Value>) -> Map<String, Value> {
    let number = |value: Value| match value {
        Value::Number(number) => Some(Value::Number(number)),
        Value::String(text) => serde_json::from_str::<Number>(text.trim()).ok().map(Value::Number),
        _ => None,
    };
    members.into_iter().filter_map(|(name, value)| Some((name, number(value)?))).collect()
}

fn booleans(members: Map<String, Value>) -> Map<String, Value> {
    let truth = |value: Value| match value {
        Value::Bool(truth) => Some(Value::Bool(truth)),
        Value::String(text) => text.trim().to_lowercase().parse().ok().map(Value::Bool),
        _ => None,
    };
    members.into_iter().filter_map(|(name, value)| Some((name, truth(value)?))).collect()
}

/// Seconds or milliseconds since 1970, or a date as ISO 8601 or Liquid writes it, in UTC where no zone is said.
fn time(text: &str) -> Option<UnixMillis> {
    if let Ok(number) = text.parse::<f64>() {
        let millis = if number >= MILLIS_FROM { number } else { number * 1000.0 };
        return (millis > 0.0 && millis <= LAST_MILLI).then(|| UnixMillis(millis.round() as u64));
    }
    // `2026-11-24 10:00:00 UTC`, `2026-11-24 10:00:00 +0000`.
    let text =
        text.strip_suffix(" UTC").map_or_else(|| text.replace(" +", "+").replace(" -", "-"), |at| format!("{at}Z"));
    let zoned = text.parse::<jiff::Timestamp>().or_else(|_| format!("{text}Z").parse());
    zoned.ok().and_then(|at| u64::try_from(at.as_millisecond()).ok()).map(UnixMillis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 1_795_514_400_000; // 2026-11-24T10:00:00Z

    fn body(item: Value) -> Value {
        read(item, Some("12345"), "tok").unwrap().body
    }

    #[test]
    fn mixpanels_own_form_is_taken_as_it_is() {
        let item = json!({"event": "Purchase", "properties": {
            "time": AT / 1000, "distinct_id": "u", "$insert_id": "i", "amount": 9.5, "plan": "pro", "gone": null}});
        let expected = json!({"event": "Purchase", "properties": {
            "token": "tok", "time": AT, "distinct_id": "u", "$insert_id": "i", "amount": 9.5, "plan": "pro"}});
        assert_eq!(body(item), expected);
    }

    #[test]
    fn a_template_of_texts_is_read() {
        let item = json!({
            "event": "Purchase", "time": "2026-11-24T10:00:00Z", "distinct_id": "u", "insert_id": "i",
            "project_id": "12345", "device_id": "d", "user_id": "",
            "properties": {"plan": "pro", "coupon": "", "zip": "01234"},
            "numbers": {"amount": "9.5", "count": "3", "none": "", "odd": "x"},
            "booleans": {"first": "True", "none": ""},
        });
        let expected = json!({"event": "Purchase", "properties": {
            "token": "tok", "time": AT, "distinct_id": "u", "$insert_id": "i", "$device_id": "d",
            "plan": "pro", "zip": "01234", "amount": 9.5, "count": 3, "first": true}});
        assert_eq!(body(item), expected);
    }

    #[test]
    fn the_variables_own_names_do_and_what_else_is_there_is_a_property() {
        let item = json!({"event_name": "A", "event_time": AT, "distinct_id": 42, "insert_id": "i",
            "properties": "{\"a\":1}", "b": "2", "c": ""});
        let expected = json!({"event": "A", "properties": {
            "token": "tok", "time": AT, "distinct_id": "42", "$insert_id": "i", "a": 1, "b": "2"}});
        assert_eq!(body(item), expected);
    }

    #[test]
    fn times_are_read_in_every_form() {
        for (text, expected) in [
            ("1795514400", Some(AT)),
            ("1795514400.5", Some(AT + 500)),
            ("1795514400000", Some(AT)),
            ("2026-11-24T10:00:00Z", Some(AT)),
            ("2026-11-24T12:00:00+02:00", Some(AT)),
            ("2026-11-24T10:00:00.250Z", Some(AT + 250)),
            ("2026-11-24T10:00:00", Some(AT)),
            ("2026-11-24 10:00:00", Some(AT)),
            ("2026-11-24 10:00:00 UTC", Some(AT)),
            ("2026-11-24 12:00:00 +0200", Some(AT)),
            ("2026-11-24 08:00:00 -0200", Some(AT)),
            ("0", None),
            ("-5", None),
            ("1e300", None),
            ("soon", None),
        ] {
            assert_eq!(time(text), expected.map(UnixMillis), "{text}");
        }
    }

    #[test]
    fn an_apps_own_ids_among_the_properties_name_nobody() {
        let own = json!({"user_id": "order-owner", "device_id": "printer", "insert_id": "coin", "$device_id": "d"});
        let item = json!({"event": "A", "time": AT, "distinct_id": "u", "insert_id": "i", "properties": own});
        let expected = json!({"event": "A", "properties": {"token": "tok", "time": AT, "distinct_id": "u",
            "$insert_id": "i", "$device_id": "d", "user_id": "order-owner", "device_id": "printer", "insert_id": "coin"}});
        assert_eq!(body(item), expected);
        let nobody = json!({"event": "A", "time": AT, "insert_id": "i", "properties": {"user_id": "u"}});
        assert_eq!(read(nobody, None, "t"), Err(Unusable::Nobody));
    }

    #[test]
    fn identity_events_are_told_apart() {
        let item = json!({"event": "$identify", "time": AT, "distinct_id": "u", "insert_id": "i"});
        assert_eq!(read(item, None, "t").unwrap().kind, Kind::Identity);
    }

    #[test]
    fn what_cannot_be_used_says_what_the_template_lacks() {
        let whole = json!({"event": "A", "time": AT, "distinct_id": "u", "insert_id": "i", "project_id": "12345"});
        assert!(read(whole.clone(), Some("12345"), "t").is_ok());
        for (member, value, expected) in [
            ("event", json!(""), Unusable::NoEvent),
            ("event", json!("x".repeat(256)), Unusable::NoEvent),
            ("time", json!("soon"), Unusable::NoTime),
            ("time", json!(""), Unusable::NoTime),
            ("time", json!("2200"), Unusable::NoTime),
            ("distinct_id", json!("undefined"), Unusable::Nobody),
            ("distinct_id", json!(""), Unusable::Nobody),
            ("insert_id", json!(""), Unusable::NoInsertId),
            ("project_id", json!("other"), Unusable::OtherProject),
        ] {
            let mut item = whole.clone();
            item[member] = value;
            assert_eq!(read(item.clone(), Some("12345"), "t"), Err(expected), "{item}");
        }
        assert_eq!(read(json!(7), None, "t"), Err(Unusable::NotAnObject));
        assert!(read(whole, None, "t").is_ok());
    }
}
