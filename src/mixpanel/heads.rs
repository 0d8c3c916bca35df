//! What an event is called and when it happened, read from a stored record.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::validate;
use crate::clock::UnixMillis;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow)]
    properties: Properties<'a>,
}

#[derive(Deserialize)]
struct Properties<'a> {
    #[serde(borrow)]
    time: Option<&'a RawValue>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Head<'a> {
    pub name: Cow<'a, str>,
    pub time: UnixMillis,
}

/// `None` for an event without a time that `/import` would take: `/track` counts it when it arrives, and nobody knows when
/// that was.
pub fn of_event(body: &[u8]) -> Option<Head<'_>> {
    let event: Event<'_> = serde_json::from_slice(body).ok()?;
    let time = validate::epoch(event.properties.time?.get())?;
    Some(Head { name: event.event, time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_read_in_either_unit() {
        for time in ["1795132800", "1795132800.0", "1795132800000"] {
            let body = format!(r#"{{"event":"a \"b\"","properties":{{"x":{{"time":1}},"time":{time}}}}}"#);
            let head = of_event(body.as_bytes()).unwrap();
            assert_eq!((&*head.name, head.time), ("a \"b\"", UnixMillis(1_795_132_800_000)));
        }
        for properties in ["{}", r#"{"time":null}"#, r#"{"time":"soon"}"#, r#"{"time":-1}"#] {
            let body = format!(r#"{{"event":"a","properties":{properties}}}"#);
            assert_eq!(of_event(body.as_bytes()), None);
        }
    }
}
