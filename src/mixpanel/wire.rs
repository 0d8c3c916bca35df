//! Records as they stand in a request's text: one serde pass that borrows, keeping the raw text of the fields that the
//! relay reads and the places where it may edit.
//!
//! A span is found from a borrowed value's address relative to the text. That works because every record that can be
//! accepted holds at least one value: its own braces are the next ones outwards from its first and last value.

use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A value's JSON text, borrowed from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a>(&'a str);

impl<'a> Raw<'a> {
    /// The JSON text, without surrounding white space.
    pub fn text(self) -> &'a str {
        self.0
    }

    pub fn is_null(self) -> bool {
        self.0 == "null"
    }

    /// The string's value when this is a JSON string. Borrowed unless it has escapes.
    pub fn as_str(self) -> Option<std::borrow::Cow<'a, str>> {
        let inner = self.0.strip_prefix('"')?.strip_suffix('"')?;
        if !inner.contains('\\') {
            return Some(std::borrow::Cow::Borrowed(inner));
        }
        serde_json::from_str::<String>(self.0).ok().map(std::borrow::Cow::Owned)
    }

    /// Neither `null` nor a string of nothing but white space.
    pub fn is_present(self) -> bool {
        !self.is_null() && self.as_str().is_none_or(|text| !text.trim().is_empty())
    }

    /// The value read as properties, when it is an object.
    pub fn as_properties(self) -> Option<Properties<'a>> {
        let mut deserializer = serde_json::Deserializer::from_str(self.0);
        match ElementSeed::default().deserialize(&mut deserializer).ok()? {
            Element::Object(properties) => Some(properties),
            Element::Other => None,
        }
    }

    /// Where the value stands in `text`, which must be the text it was parsed from.
    pub fn span(self, text: &str) -> Range<usize> {
        let start = (self.0.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
        start..start + self.0.len()
    }
}

impl<'a> From<&'a RawValue> for Raw<'a> {
    fn from(raw: &'a RawValue) -> Self {
        Raw(raw.get())
    }
}

/// Address of the byte after the last value read in an object: where the search for its closing brace begins.
type EndAddress = usize;

fn end_address(raw: Raw<'_>) -> EndAddress {
    raw.0.as_ptr() as usize + raw.0.len()
}

/// The first `}` at or after `from`; only white space stands between, because the text has been parsed.
fn closing_brace(text: &str, from: EndAddress) -> Option<usize> {
    let from = from.wrapping_sub(text.as_ptr() as usize);
    let rest = text.as_bytes().get(from..)?;
    rest.iter().position(|byte| *byte == b'}').map(|at| from + at)
}

/// The opening brace of the object whose first value starts at `value`: back over the colon and the key. A key's opening
/// quote is the nearest one that no backslash precedes.
fn opening_brace(text: &str, value: usize) -> Option<usize> {
    let bytes = text.as_bytes().get(..value)?;
    let colon = bytes.iter().rposition(|byte| *byte == b':')?;
    let mut quote = bytes[..colon].iter().rposition(|byte| *byte == b'"')?;
    loop {
        quote = bytes[..quote].iter().rposition(|byte| *byte == b'"')?;
        if quote == 0 || bytes[quote - 1] != b'\\' {
            break;
        }
    }
    bytes[..quote].iter().rposition(|byte| *byte == b'{')
}

/// How deep arrays and objects nest in a value's text: 0 for a scalar, 1 for `{}`.
pub fn depth(raw: Raw<'_>) -> usize {
    if !raw.0.starts_with(['{', '[']) {
        return 0;
    }
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    for byte in raw.0.bytes() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The fields of an event's `properties` that the edge reads.
#[derive(Clone, Debug, Default)]
pub struct Properties<'a> {
    pub token: Option<Raw<'a>>,
    pub time: Option<Raw<'a>>,
    pub distinct_id: Option<Raw<'a>>,
    pub insert_id: Option<Raw<'a>>,
    pub device_id: Option<Raw<'a>>,
    pub user_id: Option<Raw<'a>>,
    pub ignore: Option<Raw<'a>>,
    /// Every `ip`: a key given twice must not smuggle an address past the privacy rule.
    pub ip: Vec<Raw<'a>>,
    /// Every `$ip`.
    pub dollar_ip: Vec<Raw<'a>>,
    /// Number of properties, and how deep the deepest value nests.
    pub count: usize,
    pub depth: usize,
    first: Option<Raw<'a>>,
    end: EndAddress,
}

impl Properties<'_> {
    fn opening_brace(&self, text: &str) -> Option<usize> {
        opening_brace(text, self.first?.span(text).start)
    }

    /// Where the closing brace of `properties` stands in `text`. `None` for an empty object.
    pub fn closing_brace(&self, text: &str) -> Option<usize> {
        (self.count > 0).then(|| closing_brace(text, self.end)).flatten()
    }
}

/// One element of an `/import` or `/track` call.
#[derive(Clone, Debug, Default)]
pub struct Event<'a> {
    pub event: Option<Raw<'a>>,
    /// `None` when absent, given twice or not an object.
    pub properties: Option<Properties<'a>>,
    /// `$mp_metadata`, the sibling of `properties` that native SDKs send (contract §13).
    pub metadata: Option<Raw<'a>>,
    /// How deep the deepest value beside `properties` nests.
    pub depth: usize,
    first: Edge<'a>,
    last: Edge<'a>,
    properties_seen: bool,
}

/// What stands first or last in an event: a plain value, or `properties`, whose own brace lies between.
#[derive(Clone, Copy, Debug, Default)]
enum Edge<'a> {
    #[default]
    Nothing,
    Value(Raw<'a>),
    Properties,
}

impl Event<'_> {
    /// Where the record stands in `text`. `None` for an object without a value, or without usable `properties`.
    pub fn span(&self, text: &str) -> Option<Range<usize>> {
        let properties = self.properties.as_ref()?;
        let first_value = match self.first {
            Edge::Nothing => return None,
            Edge::Value(raw) => raw.span(text).start,
            Edge::Properties => properties.opening_brace(text)?,
        };
        let last_value_end = match self.last {
            Edge::Nothing => return None,
            Edge::Value(raw) => end_address(raw),
            Edge::Properties => properties.closing_brace(text)? + 1 + text.as_ptr() as usize,
        };
        Some(opening_brace(text, first_value)?..closing_brace(text, last_value_end)? + 1)
    }
}

/// One element of an `/engage` or `/groups` call.
#[derive(Clone, Debug, Default)]
pub struct Update<'a> {
    pub token: Option<Raw<'a>>,
    pub distinct_id: Option<Raw<'a>>,
    pub group_key: Option<Raw<'a>>,
    pub group_id: Option<Raw<'a>>,
    pub ignore: Option<Raw<'a>>,
    /// Every `$ip` at the top level.
    pub ip: Vec<Raw<'a>>,
    /// Operators present (`$set`, `$unset`, ...), with their operands.
    pub operators: Vec<(Operator, Raw<'a>)>,
    pub depth: usize,
    first: Option<Raw<'a>>,
    end: EndAddress,
}

impl Update<'_> {
    /// Where the record stands in `text`. `None` for an object without a value.
    pub fn span(&self, text: &str) -> Option<Range<usize>> {
        Some(opening_brace(text, self.first?.span(text).start)?..closing_brace(text, self.end)? + 1)
    }
}

/// The profile operators (contract §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    Set,
    SetOnce,
    Add,
    Union,
    Append,
    Remove,
    Unset,
    Delete,
}

impl Operator {
    pub fn from_key(key: &str) -> Option<Self> {
        Some(match key {
            "$set" => Operator::Set,
            "$set_once" => Operator::SetOnce,
            "$add" => Operator::Add,
            "$union" => Operator::Union,
            "$append" => Operator::Append,
            "$remove" => Operator::Remove,
            "$unset" => Operator::Unset,
            "$delete" => Operator::Delete,
            _ => return None,
        })
    }

    pub fn key(self) -> &'static str {
        match self {
            Operator::Set => "$set",
            Operator::SetOnce => "$set_once",
            Operator::Add => "$add",
            Operator::Union => "$union",
            Operator::Append => "$append",
            Operator::Remove => "$remove",
            Operator::Unset => "$unset",
            Operator::Delete => "$delete",
        }
    }
}

/// One element of a call's array, or one line of NDJSON.
#[derive(Clone, Debug)]
pub enum Element<T> {
    Object(T),
    /// A JSON value of another kind, or a line that is not JSON.
    Other,
}

/// A record type that can be read from a JSON object, field by field.
pub trait FromObject<'de>: Default {
    fn read_fields<A: MapAccess<'de>>(&mut self, map: A) -> Result<(), A::Error>;
}

/// Dispatches on a key without allocating for it.
struct Key<F>(F);

impl<'de, R, F: FnOnce(&str) -> R> DeserializeSeed<'de> for Key<F> {
    type Value = R;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<R, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, R, F: FnOnce(&str) -> R> Visitor<'de> for Key<F> {
    type Value = R;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E>(self, key: &str) -> Result<R, E> {
        Ok((self.0)(key))
    }
}

/// Reads any JSON value: an object into `T`, everything else as [`Element::Other`].
pub struct ElementSeed<T>(std::marker::PhantomData<T>);

impl<T> Default for ElementSeed<T> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<'de, T: FromObject<'de>> DeserializeSeed<'de> for ElementSeed<T> {
    type Value = Element<T>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: FromObject<'de>> Visitor<'de> for ElementSeed<T> {
    type Value = Element<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        let mut value = T::default();
        value.read_fields(map)?;
        Ok(Element::Object(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Element::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Element::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Element::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Element::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Element::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Element::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Element::Other)
    }
}

#[derive(Clone, Copy)]
enum PropertyKey {
    Token,
    Time,
    DistinctId,
    InsertId,
    DeviceId,
    UserId,
    Ignore,
    Ip,
    DollarIp,
    Other,
}

impl PropertyKey {
    fn of(key: &str) -> Self {
        match key {
            "token" => PropertyKey::Token,
            "time" => PropertyKey::Time,
            "distinct_id" => PropertyKey::DistinctId,
            "$insert_id" => PropertyKey::InsertId,
            "$device_id" => PropertyKey::DeviceId,
            "$user_id" => PropertyKey::UserId,
            "$ignore" => PropertyKey::Ignore,
            "ip" => PropertyKey::Ip,
            "$ip" => PropertyKey::DollarIp,
            _ => PropertyKey::Other,
        }
    }
}

impl<'de> FromObject<'de> for Properties<'de> {
    fn read_fields<A: MapAccess<'de>>(&mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key(PropertyKey::of))? {
            let value = Raw::from(map.next_value::<&'de RawValue>()?);
            self.first = self.first.or(Some(value));
            self.count += 1;
            self.depth = self.depth.max(depth(value));
            self.end = end_address(value);
            match key {
                PropertyKey::Token => self.token = Some(value),
                PropertyKey::Time => self.time = Some(value),
                PropertyKey::DistinctId => self.distinct_id = Some(value),
                PropertyKey::InsertId => self.insert_id = Some(value),
                PropertyKey::DeviceId => self.device_id = Some(value),
                PropertyKey::UserId => self.user_id = Some(value),
                PropertyKey::Ignore => self.ignore = Some(value),
                PropertyKey::Ip => self.ip.push(value),
                PropertyKey::DollarIp => self.dollar_ip.push(value),
                PropertyKey::Other => {}
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum EventKey {
    Event,
    Properties,
    Metadata,
    Other,
}

impl EventKey {
    fn of(key: &str) -> Self {
        match key {
            "event" => EventKey::Event,
            "properties" => EventKey::Properties,
            "$mp_metadata" => EventKey::Metadata,
            _ => EventKey::Other,
        }
    }
}

impl<'de> FromObject<'de> for Event<'de> {
    fn read_fields<A: MapAccess<'de>>(&mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key(EventKey::of))? {
            let edge = if let EventKey::Properties = key {
                let element = map.next_value_seed(ElementSeed::<Properties<'de>>::default())?;
                self.properties = match element {
                    Element::Object(properties) if !self.properties_seen => Some(properties),
                    Element::Object(_) | Element::Other => None,
                };
                self.properties_seen = true;
                Edge::Properties
            } else {
                let value = Raw::from(map.next_value::<&'de RawValue>()?);
                self.depth = self.depth.max(depth(value));
                match key {
                    EventKey::Event => self.event = Some(value),
                    EventKey::Metadata => self.metadata = Some(value),
                    EventKey::Properties | EventKey::Other => {}
                }
                Edge::Value(value)
            };
            if let Edge::Nothing = self.first {
                self.first = edge;
            }
            self.last = edge;
        }
        Ok(())
    }
}

/// What a key of a profile update means to the edge.
#[derive(Clone, Copy)]
enum UpdateKey {
    Token,
    DistinctId,
    GroupKey,
    GroupId,
    Ignore,
    Ip,
    Operator(Operator),
    Other,
}

impl UpdateKey {
    fn of(key: &str) -> Self {
        match key {
            "$token" => UpdateKey::Token,
            "$distinct_id" => UpdateKey::DistinctId,
            "$group_key" => UpdateKey::GroupKey,
            "$group_id" => UpdateKey::GroupId,
            "$ignore" => UpdateKey::Ignore,
            "$ip" => UpdateKey::Ip,
            other => Operator::from_key(other).map_or(UpdateKey::Other, UpdateKey::Operator),
        }
    }
}

impl<'de> FromObject<'de> for Update<'de> {
    fn read_fields<A: MapAccess<'de>>(&mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key(UpdateKey::of))? {
            let value = Raw::from(map.next_value::<&'de RawValue>()?);
            self.first = self.first.or(Some(value));
            self.end = end_address(value);
            self.depth = self.depth.max(depth(value));
            match key {
                UpdateKey::Token => self.token = Some(value),
                UpdateKey::DistinctId => self.distinct_id = Some(value),
                UpdateKey::GroupKey => self.group_key = Some(value),
                UpdateKey::GroupId => self.group_id = Some(value),
                UpdateKey::Ignore => self.ignore = Some(value),
                UpdateKey::Ip => self.ip.push(value),
                UpdateKey::Operator(operator) => self.operators.push((operator, value)),
                UpdateKey::Other => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event<'_> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        match ElementSeed::<Event<'_>>::default().deserialize(&mut deserializer).unwrap() {
            Element::Object(event) => event,
            Element::Other => panic!("not an object: {text}"),
        }
    }

    #[test]
    fn spans_are_found_whatever_stands_first_and_last() {
        let cases = [
            r#"{"event":"a","properties":{"token":"t"}}"#,
            r#"{"properties":{"token":"t"},"event":"a"}"#,
            r#"{ "properties" : { "token" : "t" } }"#,
            r#"{"properties":{"token":"t","list":[{"a":"}"}]}}"#,
            r#"{"ev\"{:ent":1,"properties":{"a\\\"{:b":"t"},"x":{"y":{}}}"#,
            r#"{"$mp_metadata":{"$mp_event_id":"f"},"properties":{"x\\":{}}, "event":"a:\"{" }"#,
        ];
        for case in cases {
            let padded = format!("  \n{case}  ");
            let event = event(&padded);
            assert_eq!(&padded[event.span(&padded).unwrap()], case);
            let close = event.properties.unwrap().closing_brace(&padded).unwrap();
            assert_eq!(padded.as_bytes()[close], b'}');
        }
    }

    #[test]
    fn an_escaped_key_is_still_recognised() {
        let text = r#"{"\u0065vent":"a","properties":{"\u0024insert_id":"x"}}"#;
        let event = event(text);
        assert_eq!(event.event.unwrap().text(), r#""a""#);
        assert_eq!(event.properties.unwrap().insert_id.unwrap().text(), r#""x""#);
    }

    #[test]
    fn properties_given_twice_are_no_properties() {
        assert!(event(r#"{"properties":{"ip":"1.2.3.4"},"properties":{"a":1}}"#).properties.is_none());
        assert!(event(r#"{"properties":7,"properties":{"a":1}}"#).properties.is_none());
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        let of = |text: &'static str| depth(Raw(text));
        assert_eq!(of("1"), 0);
        assert_eq!(of("{}"), 1);
        assert_eq!(of(r#"[{"a":"]]]]\"[["},[]]"#), 2);
    }
}
