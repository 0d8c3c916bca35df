//! Events: `event` and `properties`.

use std::borrow::Cow;
use std::ops::Range;

use super::element::{Element, FromObject};
use super::raw::Raw;
use super::scan::{NotJson, Scanner};

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
    whole: Option<Raw<'a>>,
}

impl Properties<'_> {
    /// Where the closing brace of `properties` stands in `text`. `None` for an empty object.
    pub fn closing_brace(&self, text: &str) -> Option<usize> {
        self.whole.filter(|_| self.count > 0).map(|whole| whole.span(text).end - 1)
    }
}

impl<'a> Raw<'a> {
    /// The value read as properties, when it is an object.
    pub fn as_properties(self) -> Option<Properties<'a>> {
        match Scanner::whole(self.text()).ok()? {
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
    whole: Option<Raw<'a>>,
    properties_seen: bool,
}

impl Event<'_> {
    /// Where the record stands in `text`, from brace to brace.
    pub fn span(&self, text: &str) -> Option<Range<usize>> {
        self.whole.map(|whole| whole.span(text))
    }
}

impl<'t> FromObject<'t> for Properties<'t> {
    fn member(&mut self, key: Cow<'t, str>, scanner: &mut Scanner<'t>) -> Result<(), NotJson> {
        let (value, depth) = scanner.value()?;
        self.count += 1;
        self.depth = self.depth.max(depth);
        match &*key {
            "token" => self.token = Some(value),
            "time" => self.time = Some(value),
            "distinct_id" => self.distinct_id = Some(value),
            "$insert_id" => self.insert_id = Some(value),
            "$device_id" => self.device_id = Some(value),
            "$user_id" => self.user_id = Some(value),
            "$ignore" => self.ignore = Some(value),
            "ip" => self.ip.push(value),
            "$ip" => self.dollar_ip.push(value),
            _ => {}
        }
        Ok(())
    }

    fn ends(&mut self, whole: Raw<'t>) {
        self.whole = Some(whole);
    }
}

impl<'t> FromObject<'t> for Event<'t> {
    fn member(&mut self, key: Cow<'t, str>, scanner: &mut Scanner<'t>) -> Result<(), NotJson> {
        if key == "properties" {
            self.properties = match scanner.element()? {
                Element::Object(properties) if !self.properties_seen => Some(properties),
                Element::Object(_) | Element::Other => None,
            };
            self.properties_seen = true;
            return Ok(());
        }
        let (value, depth) = scanner.value()?;
        self.depth = self.depth.max(depth);
        match &*key {
            "event" => self.event = Some(value),
            "$mp_metadata" => self.metadata = Some(value),
            _ => {}
        }
        Ok(())
    }

    fn ends(&mut self, whole: Raw<'t>) {
        self.whole = Some(whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Event<'_> {
        match Scanner::whole(text).unwrap() {
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
