//! Events: `event` and `properties`.

use std::ops::Range;

use serde::de::{DeserializeSeed as _, MapAccess};
use serde_json::value::RawValue;

use super::element::{Element, ElementSeed, FromObject, Key};
use super::raw::{EndAddress, Raw, closing_brace, depth, end_address, opening_brace};

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

impl<'a> Raw<'a> {
    /// The value read as properties, when it is an object.
    pub fn as_properties(self) -> Option<Properties<'a>> {
        let mut deserializer = serde_json::Deserializer::from_str(self.text());
        match ElementSeed::default().deserialize(&mut deserializer).ok()? {
            Element::Object(properties) => Some(properties),
            Element::Other => None,
        }
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
}
