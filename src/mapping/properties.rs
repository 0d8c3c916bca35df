//! Which properties of an event Brevo gets, under which keys, and how much of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use serde_json::value::RawValue;

use super::fields::Fields;
use super::rule::Shape;
use crate::brevo::limits::MAX_EVENT_PROPERTIES_BYTES;
use crate::brevo::names::{distinguished_key, sanitised_key};

/// `event_properties` of one event.
#[derive(Clone, Debug, Default)]
pub struct EventProperties {
    /// One object inside Brevo's limits; `None` when it would be empty.
    pub json: Option<Box<RawValue>>,
    pub dropped: Vec<Dropped>,
}

/// A property that Brevo should have got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// As the app named it.
    pub property: String,
    pub reason: DropReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// The event's properties exceeded Brevo's 50 KB, and this was the largest.
    TooLarge,
    /// Readers of JSON do not agree on it: a number outside every range, broken escapes, nesting without end.
    Unreadable,
}

impl DropReason {
    pub fn label(self) -> &'static str {
        match self {
            DropReason::TooLarge => "too_large",
            DropReason::Unreadable => "unreadable",
        }
    }
}

/// By default Brevo gets the app's own properties: none of Mixpanel's, no token, no id, no address.
fn is_the_apps_own(key: &str) -> bool {
    !key.starts_with('$') && !key.starts_with("mp_") && !matches!(key, "token" | "distinct_id" | "time" | "ip")
}

pub fn event_properties(fields: &Fields<'_>, shape: &Shape) -> EventProperties {
    // By key: of two equal ones the last counts, and collisions resolve the same way every time.
    let chosen: BTreeMap<&str, &RawValue> = fields
        .iter()
        .map(|(key, value)| (key.as_ref(), value))
        .filter(|(key, _)| shape.takes(key, is_the_apps_own(key)))
        .collect();
    let mut dropped = Vec::new();
    // Names that somebody chose come first: whatever meets one of them gives way.
    let constant = |(name, json): (&'_ String, &'_ String)| (name.clone(), json.clone());
    let mut sized: Vec<Member<'_>> = shape
        .constants
        .iter()
        .map(constant)
        .map(|(name, json)| Member {
            key: Cow::Owned(name.clone()),
            property: Cow::Owned(name),
            text: Cow::Owned(json),
        })
        .collect();
    let mut members = Vec::with_capacity(chosen.len());
    for (key, raw) in chosen {
        let renamed = shape.renamed(key);
        if shape.constants.contains_key(renamed.unwrap_or(key)) {
            continue;
        }
        match (clean(raw), renamed) {
            (Ok(Some(text)), Some(name)) => {
                sized.push(Member { key: Cow::Owned(name.to_owned()), property: Cow::Borrowed(key), text });
            }
            (Ok(Some(text)), None) => members.push((key, text)),
            (Ok(None), _) => {}
            (Err(()), _) => dropped.push(Dropped { property: key.to_owned(), reason: DropReason::Unreadable }),
        }
    }
    let taken: HashSet<String> = sized.iter().map(|member| member.key.to_string()).collect();
    let keys = unique_keys(members.iter().map(|(key, _)| *key).collect(), taken);
    let member = |(key, (property, text))| Member { key, property: Cow::Borrowed(property), text };
    sized.extend(keys.into_iter().zip(members).map(member));
    sized.sort_by(|a, b| a.property.cmp(&b.property));
    drop_the_largest(&mut sized, &mut dropped);
    EventProperties { json: to_object(&sized), dropped }
}

struct Member<'a> {
    /// As Brevo gets it.
    key: Cow<'a, str>,
    /// As the app named it.
    property: Cow<'a, str>,
    /// The value's JSON.
    text: Cow<'a, str>,
}

impl Member<'_> {
    /// `"key":value,` in bytes.
    fn size(&self) -> usize {
        self.key.len() + self.text.len() + 4
    }
}

/// Keys hold nothing that JSON would escape, see [`sanitised_key`].
fn to_object(members: &[Member<'_>]) -> Option<Box<RawValue>> {
    if members.is_empty() {
        return None;
    }
    let mut json = String::with_capacity(members.iter().map(Member::size).sum::<usize>() + 2);
    for member in members {
        json.push(if json.is_empty() { '{' } else { ',' });
        json.push('"');
        json.push_str(&member.key);
        json.push_str("\":");
        json.push_str(&member.text);
    }
    json.push('}');
    // Cannot fail: the values came out of a JSON text, and the keys need no escapes.
    Some(RawValue::from_string(json).expect("an object of JSON values is JSON"))
}

fn drop_the_largest(members: &mut Vec<Member<'_>>, dropped: &mut Vec<Dropped>) {
    let mut total = 2 + members.iter().map(Member::size).sum::<usize>();
    while total > MAX_EVENT_PROPERTIES_BYTES {
        let Some((largest, _)) = members.iter().enumerate().max_by_key(|(_, member)| member.size()) else { return };
        let member = members.remove(largest);
        total -= member.size();
        dropped.push(Dropped { property: member.property.into_owned(), reason: DropReason::TooLarge });
    }
}

/// The value's JSON as Brevo gets it: `None` for null, scalars as they came, objects and lists without nulls and with
/// valid keys.
fn clean(raw: &RawValue) -> Result<Option<Cow<'_, str>>, ()> {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b't' | b'f') => Ok(Some(Cow::Borrowed(text))),
        // An escape may be half of a pair, which a reader may refuse together with the whole batch.
        Some(b'"') if text.contains("\\u") && serde_json::from_str::<String>(text).is_err() => Err(()),
        Some(b'"') => Ok(Some(Cow::Borrowed(text))),
        Some(b'{' | b'[') => {
            let value: Value = serde_json::from_str(text).map_err(|_| ())?;
            Ok(clean_value(value).map(|value| Cow::Owned(value.to_string())))
        }
        _ if text.parse().is_ok_and(f64::is_finite) => Ok(Some(Cow::Borrowed(text))),
        _ => Err(()),
    }
}

fn clean_value(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Array(items) => Some(items.into_iter().filter_map(clean_value).collect()),
        Value::Object(members) => {
            let members: BTreeMap<String, Value> =
                members.into_iter().filter_map(|(key, value)| Some((key, clean_value(value)?))).collect();
            let keys = unique_keys(members.keys().map(String::as_str).collect(), HashSet::new());
            let keys: Vec<String> = keys.into_iter().map(Cow::into_owned).collect();
            Some(Value::Object(keys.into_iter().zip(members.into_values()).collect()))
        }
        scalar => Some(scalar),
    }
}

/// A valid key for each of `keys` (which are different and in byte order), no two alike. A key that is valid as it is
/// stays; of those that meet in one name the first gets it, and the others a hash of their own behind it. None is one of
/// those that are `taken` already.
fn unique_keys(keys: Vec<&str>, mut taken: HashSet<String>) -> Vec<Cow<'_, str>> {
    let sanitised: Vec<_> = keys.iter().map(|key| sanitised_key(key)).collect();
    let stays =
        |key: &Cow<'_, str>, taken: &HashSet<String>| matches!(key, Cow::Borrowed(_)) && !taken.contains(key.as_ref());
    if sanitised.iter().all(|key| stays(key, &taken)) {
        return sanitised;
    }
    let stay: HashSet<String> = sanitised.iter().filter(|key| stays(key, &taken)).map(|key| key.to_string()).collect();
    taken.extend(stay.iter().cloned());
    let mut resolve = |raw: &str, key: Cow<'_, str>| {
        let mut key = key.into_owned();
        let mut attempt = 0;
        while !taken.insert(key.clone()) {
            key = distinguished_key(raw, attempt);
            attempt += 1;
        }
        key
    };
    keys.into_iter()
        .zip(sanitised)
        .map(|(raw, key)| match key {
            Cow::Borrowed(key) if stay.contains(key) => Cow::Borrowed(key),
            changed => Cow::Owned(resolve(raw, changed)),
        })
        .collect()
}

#[cfg(test)]
#[path = "properties_tests.rs"]
mod tests;
