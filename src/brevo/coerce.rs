//! Any JSON value → the value that an attribute of a given type takes, or why it takes none.
//!
//! Brevo drops a value of the wrong type and answers with success (contract §5), so what is sent must already fit. The
//! table in `docs/mapping.md` shows every rule; a test runs it.

use serde::Serialize;
use serde_json::{Number, Value};

use super::account::{AttributeKind, CategoryOption};
use super::identifiers::{NotAPhone, Phone};

/// An attribute's value as written to Brevo.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum AttributeValue {
    /// Texts, phone numbers, category labels, and dates as `YYYY-MM-DD`.
    Text(String),
    Number(Number),
    Bool(bool),
    Options(Vec<String>),
    Null,
}

/// How an attribute is emptied. Which of the two works is unconfirmed (contract §3.3); the relay finds out once for an
/// account and remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clearing {
    #[default]
    EmptyString,
    Null,
}

impl Clearing {
    pub fn value(self) -> AttributeValue {
        match self {
            Clearing::EmptyString => AttributeValue::Text(String::new()),
            Clearing::Null => AttributeValue::Null,
        }
    }
}

impl AttributeValue {
    /// Imports are reported to ignore booleans (contract §3.6): a contact with one has to go by itself.
    pub fn importable(&self) -> bool {
        !matches!(self, AttributeValue::Bool(_))
    }
}

/// A value that fits.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    pub value: AttributeValue,
    /// Members of a list that are no options of the multiple choice, and therefore not in `value`.
    pub unknown_options: Vec<String>,
}

impl From<AttributeValue> for Placed {
    fn from(value: AttributeValue) -> Self {
        Self { value, unknown_options: Vec::new() }
    }
}

/// Why a value was not placed. [`Unplaced::label`] is what reports and counters say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Unplaced {
    #[error("null is no value")]
    Null,
    #[error("an object does not fit into an attribute")]
    Object,
    #[error("a list fits into text and multiple-choice attributes only")]
    List,
    #[error("not a date: expected YYYY-MM-DD, an ISO 8601 time or a Unix time")]
    NotADate,
    #[error("not a number")]
    NotANumber,
    #[error("neither true nor false")]
    NotABoolean,
    #[error("none of the attribute's options")]
    UnknownOption,
    #[error("not an email address")]
    NotAnEmail,
    #[error("the phone number has no country code (write +33612345678 or 0033612345678)")]
    NoCountryCode,
    #[error("not a phone number")]
    NotAPhone,
    #[error("the attribute is filled by Brevo")]
    ReadOnly,
    #[error("the account has no such attribute")]
    NoSuchAttribute,
    #[error("not a value that JSON readers agree on")]
    Unreadable,
}

impl Unplaced {
    pub const ALL: [Unplaced; 13] = [
        Unplaced::Null,
        Unplaced::Object,
        Unplaced::List,
        Unplaced::NotADate,
        Unplaced::NotANumber,
        Unplaced::NotABoolean,
        Unplaced::UnknownOption,
        Unplaced::NotAnEmail,
        Unplaced::NoCountryCode,
        Unplaced::NotAPhone,
        Unplaced::ReadOnly,
        Unplaced::NoSuchAttribute,
        Unplaced::Unreadable,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Unplaced::Null => "null",
            Unplaced::Object => "object",
            Unplaced::List => "list",
            Unplaced::NotADate => "not_a_date",
            Unplaced::NotANumber => "not_a_number",
            Unplaced::NotABoolean => "not_a_boolean",
            Unplaced::UnknownOption => "unknown_option",
            Unplaced::NotAnEmail => "not_an_email",
            Unplaced::NoCountryCode => "no_country_code",
            Unplaced::NotAPhone => "not_a_phone",
            Unplaced::ReadOnly => "read_only",
            Unplaced::NoSuchAttribute => "no_such_attribute",
            Unplaced::Unreadable => "unreadable",
        }
    }
}

impl From<NotAPhone> for Unplaced {
    fn from(error: NotAPhone) -> Self {
        match error {
            NotAPhone::NoCountryCode => Unplaced::NoCountryCode,
            NotAPhone::Malformed => Unplaced::NotAPhone,
        }
    }
}

/// Longest sample, in characters.
const MAX_SAMPLE: usize = 40;

/// What `value` looks like, for a log line: letters and digits are masked, for it may say who somebody is.
pub fn masked(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mask = |c: char| match c {
        c if c.is_numeric() => '9',
        c if c.is_uppercase() => 'X',
        c if c.is_alphabetic() => 'x',
        c if c.is_control() => ' ',
        c => c,
    };
    text.chars().take(MAX_SAMPLE).map(mask).collect()
}

/// The value of `kind` that `value` stands for. `None` as kind: the account lacks the attribute.
pub fn coerce(value: &Value, kind: Option<&AttributeKind>) -> Result<Placed, Unplaced> {
    let kind = kind.ok_or(Unplaced::NoSuchAttribute)?;
    match (kind, value) {
        (AttributeKind::ReadOnly, _) => Err(Unplaced::ReadOnly),
        (_, Value::Null) => Err(Unplaced::Null),
        (_, Value::Object(_)) => Err(Unplaced::Object),
        (AttributeKind::Text, _) => text(value).map(|text| AttributeValue::Text(text).into()),
        (AttributeKind::MultipleChoice(options), _) => multiple_choice(value, options),
        (_, Value::Array(_)) => Err(Unplaced::List),
        (AttributeKind::Date, _) => date(value).map(|date| AttributeValue::Text(date).into()),
        (AttributeKind::Float, _) => number(value).map(|number| AttributeValue::Number(number).into()),
        (AttributeKind::Boolean, _) => boolean(value).map(|bool| AttributeValue::Bool(bool).into()),
        (AttributeKind::Category(options), _) => {
            category(value, options).map(|label| AttributeValue::Text(label).into())
        }
        (AttributeKind::Phone, _) => {
            let phone = Phone::parse(&scalar_text(value).ok_or(Unplaced::NotAPhone)?)?;
            Ok(AttributeValue::Text(phone.to_string()).into())
        }
    }
}

/// Strings, numbers and booleans as text.
fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(bool) => Some(bool.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn text(value: &Value) -> Result<String, Unplaced> {
    let Value::Array(items) = value else { return scalar_text(value).ok_or(Unplaced::Object) };
    let items = items.iter().filter(|item| !item.is_null());
    let texts: Option<Vec<_>> = items.map(scalar_text).collect();
    texts.map(|texts| texts.join(", ")).ok_or(Unplaced::List)
}

/// Numbers up to this are no Unix times: Mixpanel's and everyone's data begins after 1971-01-01.
const FIRST_UNIX_SECOND: f64 = 31_536_000.0;
/// From here on a Unix time is in milliseconds: as seconds it would be the year 5138.
const FIRST_UNIX_MILLI: f64 = 1e11;
/// 9999-12-31, in milliseconds.
const LAST_UNIX_MILLI: f64 = 253_402_300_799_999.0;

fn date(value: &Value) -> Result<String, Unplaced> {
    let found = match value {
        Value::Number(number) => number.as_f64().and_then(unix_date),
        Value::String(text) => iso_date(text).or_else(|| {
            let text = text.trim();
            let digits = text.len() >= 9 && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
            digits.then(|| text.parse().ok()).flatten().and_then(unix_date)
        }),
        _ => None,
    };
    found.ok_or(Unplaced::NotADate)
}

fn unix_date(time: f64) -> Option<String> {
    let millis = if time >= FIRST_UNIX_MILLI { time } else { time * 1000.0 };
    if !(FIRST_UNIX_SECOND * 1000.0..=LAST_UNIX_MILLI).contains(&millis) {
        return None;
    }
    let at = jiff::Timestamp::from_millisecond(millis as i64).ok()?;
    Some(jiff::tz::Offset::UTC.to_datetime(at).date().to_string())
}

/// The day as written, whatever zone stands behind it. `01/02/2024` is two different days and therefore none.
fn iso_date(text: &str) -> Option<String> {
    let text = text.trim();
    let day = text.get(..10)?;
    let rest = &text[10..];
    let bytes = day.as_bytes();
    let shape = bytes[4] == b'-' && bytes[7] == b'-';
    let time_follows =
        rest.is_empty() || rest.starts_with(['T', 't', ' ']) && rest[1..].starts_with(|c: char| c.is_ascii_digit());
    if !shape || !time_follows {
        return None;
    }
    day.parse::<jiff::civil::Date>().ok().map(|date| date.to_string())
}

/// Whether `text` is a date in ISO 8601, with or without a time.
pub fn is_iso_date(text: &str) -> bool {
    iso_date(text).is_some()
}

fn number(value: &Value) -> Result<Number, Unplaced> {
    match value {
        Value::Number(number) => Ok(number.clone()),
        Value::String(text) => numeric(text.trim()).ok_or(Unplaced::NotANumber),
        _ => Err(Unplaced::NotANumber),
    }
}

/// Plain decimals only: `1,234` and `1.234,5` mean different numbers in different countries.
fn numeric(text: &str) -> Option<Number> {
    if !text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E')) {
        return None;
    }
    if let Ok(integer) = text.parse::<i64>() {
        return Some(integer.into());
    }
    text.parse().ok().and_then(Number::from_f64)
}

fn boolean(value: &Value) -> Result<bool, Unplaced> {
    let found = match value {
        Value::Bool(bool) => Some(*bool),
        Value::Number(number) => match number.as_f64() {
            Some(1.0) => Some(true),
            Some(0.0) => Some(false),
            _ => None,
        },
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "y" | "on" => Some(true),
            "false" | "0" | "no" | "n" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    };
    found.ok_or(Unplaced::NotABoolean)
}

/// The label of the option that `value` names: by label, by label in another case, by number.
fn category(value: &Value, options: &[CategoryOption]) -> Result<String, Unplaced> {
    let wanted = scalar_text(value).ok_or(Unplaced::UnknownOption)?;
    let wanted = wanted.trim();
    options
        .iter()
        .find(|option| option.label == wanted)
        .or_else(|| options.iter().find(|option| option.label.to_lowercase() == wanted.to_lowercase()))
        .or_else(|| options.iter().find(|option| option.value == wanted))
        .map(|option| option.label.clone())
        .ok_or(Unplaced::UnknownOption)
}

/// A list of options, or a string with one option or several between commas. Unknown ones are left out and reported;
/// where none is known, nothing is placed.
fn multiple_choice(value: &Value, options: &[String]) -> Result<Placed, Unplaced> {
    let wanted: Vec<String> = match value {
        Value::Array(items) => {
            let items = items.iter().filter(|item| !item.is_null());
            items.map(scalar_text).collect::<Option<_>>().ok_or(Unplaced::List)?
        }
        Value::String(text) if known_option(text, options).is_none() => {
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
        }
        scalar => scalar_text(scalar).into_iter().collect(),
    };
    let mut chosen = Vec::new();
    let mut unknown_options = Vec::new();
    for name in wanted {
        match known_option(&name, options) {
            Some(option) if chosen.contains(option) => {}
            Some(option) => chosen.push(option.clone()),
            None => unknown_options.push(name),
        }
    }
    if chosen.is_empty() && !unknown_options.is_empty() {
        return Err(Unplaced::UnknownOption);
    }
    Ok(Placed { value: AttributeValue::Options(chosen), unknown_options })
}

fn known_option<'a>(name: &str, options: &'a [String]) -> Option<&'a String> {
    let name = name.trim();
    options
        .iter()
        .find(|option| *option == name)
        .or_else(|| options.iter().find(|option| option.to_lowercase() == name.to_lowercase()))
}

#[cfg(test)]
#[path = "coerce_tests.rs"]
mod tests;
