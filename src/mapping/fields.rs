//! Borrowed reading of JSON objects: names and raw values, nothing copied that need not be.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::clock::UnixMillis;
use crate::mixpanel::reserved::names_nobody;

/// The record's bytes are not of the shape that the edge accepts. Cannot happen to a record that it stored, short of a
/// fault: the leg makes it a dead letter.
#[derive(Debug, thiserror::Error)]
#[error("the record cannot be read: {0}")]
pub struct Unreadable(#[from] serde_json::Error);

/// A string that borrows from the input unless it holds escapes.
#[derive(Debug, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// An object's members in the order of the text. A name may occur twice: the last one counts.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Fields<'a> {
    pub fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Cow<'a, str>, &'a RawValue)> {
        self.0.iter().map(|(key, value)| (key, *value))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                // Most records of real SDKs carry ten to thirty properties.
                let mut members = Vec::with_capacity(24);
                while let Some(Text(key)) = map.next_key()? {
                    members.push((key, map.next_value()?));
                }
                Ok(Fields(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// A string or a number as text; `None` for anything else and for text with broken escapes.
pub fn scalar_text(raw: &RawValue) -> Option<Cow<'_, str>> {
    match raw.get().as_bytes().first()? {
        b'"' => serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|Text(text)| text),
        b'-' | b'0'..=b'9' => Some(Cow::Borrowed(raw.get())),
        _ => None,
    }
}

/// The id that `raw` names, numbers included; `None` where it names nobody.
pub fn id(raw: &RawValue) -> Option<Cow<'_, str>> {
    let text = scalar_text(raw)?;
    if text.trim().is_empty() || names_nobody(&text) { None } else { Some(text) }
}

/// From here on a Unix time is in milliseconds: as seconds it would be the year 5138, as milliseconds it is 1973.
const FIRST_MILLI: f64 = 1e11;
/// The end of the year 9999: no calendar goes further.
const LAST_MILLI: f64 = 253_402_300_799_999.0;

/// A Unix time in seconds (with or without a fraction) or milliseconds, as a number or as text.
pub fn time(raw: &RawValue) -> Option<UnixMillis> {
    let text = scalar_text(raw)?;
    let value: f64 = text.trim().parse().ok().filter(|value: &f64| value.is_finite() && *value > 0.0)?;
    let millis = if value >= FIRST_MILLI { value } else { value * 1000.0 };
    (millis <= LAST_MILLI).then(|| UnixMillis(millis.round() as u64))
}

/// Mixpanel's reading of `$ignore`: true or a text that is not empty (Mixpanel contract §3).
pub fn is_set(raw: &RawValue) -> bool {
    raw.get() == "true" || raw.get().starts_with('"') && raw.get() != "\"\""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn times_are_read_in_either_unit() {
        for (json, expected) in [
            ("1700000000", Some(1_700_000_000_000)),
            ("1700000000.123", Some(1_700_000_000_123)),
            ("1700000000123", Some(1_700_000_000_123)),
            ("\"1700000000\"", Some(1_700_000_000_000)),
            ("0", None),
            ("-5", None),
            ("null", None),
            ("1e300", None),
            ("\"soon\"", None),
        ] {
            assert_eq!(time(raw(json)), expected.map(UnixMillis), "{json}");
        }
    }

    #[test]
    fn ids_that_name_nobody_are_none() {
        for json in
            ["\"\"", "\" \"", "\" null \"", "\"undefined\"", "\"NULL\"", "0", "-1", "null", "true", "[]", "{\"a\":1}"]
        {
            assert_eq!(id(raw(json)), None, "{json}");
        }
        assert_eq!(id(raw("\"user-1\"")).as_deref(), Some("user-1"));
        assert_eq!(id(raw("42")).as_deref(), Some("42"));
        assert_eq!(id(raw(r#""a\u00e9""#)).as_deref(), Some("aé"));
    }

    #[test]
    fn ignore_is_true_or_some_text() {
        for (json, expected) in [("true", true), ("\"x\"", true), ("\"\"", false), ("false", false), ("1", false)] {
            assert_eq!(is_set(raw(json)), expected, "{json}");
        }
    }

    #[test]
    fn the_last_of_two_members_counts_and_plain_names_are_borrowed() {
        let fields: Fields<'_> = serde_json::from_str(r#"{"a":1,"b\n":2,"a":3}"#).unwrap();
        assert_eq!(fields.get("a").map(RawValue::get), Some("3"));
        assert_eq!(fields.get("b\n").map(RawValue::get), Some("2"));
        assert!(matches!(fields.0[0].0, Cow::Borrowed("a")));
    }
}
