//! Events: what is read of one, and what Brevo gets of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::compiled::CompiledMapping;
use super::fields::{self, Fields, Text, Unreadable};
use super::properties::{Dropped, event_properties};
use crate::brevo::identifiers::{ListId, Membership};
use crate::brevo::names::EventName;
use crate::brevo::wire;
use crate::clock::UnixMillis;
use crate::mixpanel::reserved::is_identity_event;
use crate::settlement::SkipRule;

/// An event's (or identity event's) body, read in one pass and borrowed from its bytes.
#[derive(Clone, Debug)]
pub struct EventView<'a> {
    pub name: Cow<'a, str>,
    /// `None` where it is absent or names nobody (`undefined`, an empty text, ...); the same for the two ids below.
    pub distinct_id: Option<Cow<'a, str>>,
    pub device_id: Option<Cow<'a, str>>,
    pub user_id: Option<Cow<'a, str>>,
    /// `properties.time`, in whichever unit it came.
    pub time: Option<UnixMillis>,
    pub insert_id: Option<Cow<'a, str>>,
    /// `$mp_metadata.$mp_event_id`, which native mobile SDKs send in place of an `$insert_id`.
    pub mp_event_id: Option<Cow<'a, str>>,
    /// `$ignore` is set: Mixpanel drops the event, and Brevo never sees it.
    pub ignored: bool,
    pub properties: Fields<'a>,
}

impl<'a> EventView<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, Unreadable> {
        let outer: Outer<'a> = serde_json::from_slice(body)?;
        let mut view = EventView {
            name: outer.event,
            distinct_id: None,
            device_id: None,
            user_id: None,
            time: None,
            insert_id: None,
            mp_event_id: outer.metadata.and_then(|metadata| metadata.event_id),
            ignored: false,
            properties: Fields::default(),
        };
        for (key, value) in outer.properties.iter() {
            match key.as_ref() {
                "distinct_id" => view.distinct_id = fields::id(value),
                "$device_id" => view.device_id = fields::id(value),
                "$user_id" => view.user_id = fields::id(value),
                "time" => view.time = fields::time(value),
                "$insert_id" => view.insert_id = fields::id(value),
                "$ignore" => view.ignored = fields::is_set(value),
                _ => {}
            }
        }
        view.properties = outer.properties;
        Ok(view)
    }

    /// An id that a property names (`$anon_distinct_id`, `$identified_id`, `alias`, ...).
    pub fn id(&self, property: &str) -> Option<Cow<'a, str>> {
        fields::id(self.properties.get(property)?)
    }
}

struct Outer<'a> {
    event: Cow<'a, str>,
    properties: Fields<'a>,
    metadata: Option<Metadata<'a>>,
}

#[derive(Default)]
struct Metadata<'a> {
    event_id: Option<Cow<'a, str>>,
}

impl<'de> Deserialize<'de> for Outer<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OuterVisitor;
        impl<'de> Visitor<'de> for OuterVisitor {
            type Value = Outer<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut event, mut properties, mut metadata) = (None, Fields::default(), None);
                while let Some(Text(key)) = map.next_key()? {
                    match key.as_ref() {
                        "event" => event = Some(map.next_value::<Text<'de>>()?.0),
                        "properties" => properties = map.next_value::<Option<_>>()?.unwrap_or_default(),
                        "$mp_metadata" => metadata = Some(metadata_of(map.next_value()?)),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                let event = event.ok_or_else(|| A::Error::missing_field("event"))?;
                Ok(Outer { event, properties, metadata })
            }
        }
        deserializer.deserialize_map(OuterVisitor)
    }
}

/// Metadata of another shape than the SDKs' says nothing.
fn metadata_of(raw: &RawValue) -> Metadata<'_> {
    let Ok(fields) = serde_json::from_str::<Fields<'_>>(raw.get()) else { return Metadata::default() };
    Metadata { event_id: fields.get("$mp_event_id").and_then(fields::id) }
}

/// What becomes of an event at Brevo, staleness, duplicates and modes apart: those depend on more than the record.
#[derive(Debug)]
pub enum EventDecision {
    Send(MappedEvent),
    Skip(SkipRule),
}

/// An event in Brevo's terms, for a person still to be named.
#[derive(Clone, Debug)]
pub struct MappedEvent {
    pub name: EventName,
    pub time: UnixMillis,
    /// From this age on it sets off no automation.
    pub stale_after: Duration,
    /// Lists that the person is to be in or out of, once the event is there.
    pub lists: BTreeMap<ListId, Membership>,
    /// One object; `None` when nothing is in it.
    pub properties: Option<Box<RawValue>>,
    /// Properties that would have been sent but cannot be.
    pub dropped: Vec<Dropped>,
}

impl MappedEvent {
    /// Whether it is too old to set off automations when it is sent at `now` (CORE 10).
    pub fn is_stale(&self, now: UnixMillis) -> bool {
        now.since(self.time) > self.stale_after
    }

    pub fn into_wire(self, identifiers: wire::EventIdentifiers) -> wire::Event {
        wire::Event {
            event_name: self.name,
            identifiers,
            event_date: self.time.to_string(),
            event_properties: self.properties,
        }
    }
}

/// `received_at` stands in for a missing time. For identity events too: one that is mapped by name is sent as well.
pub fn map_event(view: &EventView<'_>, mapping: &CompiledMapping, received_at: UnixMillis) -> EventDecision {
    if !mapping.sync.events {
        return EventDecision::Skip(SkipRule::EventsOff);
    }
    if view.ignored {
        return EventDecision::Skip(SkipRule::Ignored);
    }
    let Some(rule) = mapping.event(&view.name) else {
        let identity = is_identity_event(&view.name);
        return EventDecision::Skip(if identity { SkipRule::IdentityEvent } else { SkipRule::UnmappedEvent });
    };
    if !rule.applies_to(&view.properties) {
        return EventDecision::Skip(SkipRule::ConditionNotMet);
    }
    let properties = event_properties(&view.properties, &rule.shape);
    EventDecision::Send(MappedEvent {
        name: rule.name.clone(),
        time: view.time.unwrap_or(received_at),
        stale_after: rule.stale_after,
        lists: rule.lists.clone(),
        properties: properties.json,
        dropped: properties.dropped,
    })
}

#[cfg(test)]
mod tests {
    use super::super::compiled::tests::published;
    use super::*;
    use crate::config::UnmappedEvents;

    const RECEIVED: UnixMillis = UnixMillis(1_700_000_100_000);

    fn decide(body: &str) -> EventDecision {
        map_event(&EventView::parse(body.as_bytes()).unwrap(), &published(UnmappedEvents::Skip), RECEIVED)
    }

    #[test]
    fn an_event_of_a_mobile_sdk_is_read() {
        let body = br#"{"event":"Purchase","properties":{"token":"t","distinct_id":"$device:D1","$device_id":"D1",
            "$user_id":42,"time":1700000000123,"amount":9.5,"$ignore":""},"$mp_metadata":{"$mp_event_id":"e1","$mp_session_id":"s"}}"#;
        let view = EventView::parse(body).unwrap();
        assert_eq!(view.name, "Purchase");
        assert_eq!(view.distinct_id.as_deref(), Some("$device:D1"));
        assert_eq!(view.device_id.as_deref(), Some("D1"));
        assert_eq!(view.user_id.as_deref(), Some("42"));
        assert_eq!(view.time, Some(UnixMillis(1_700_000_000_123)));
        assert_eq!(view.insert_id, None);
        assert_eq!(view.mp_event_id.as_deref(), Some("e1"));
        assert!(!view.ignored);
        assert!(matches!(view.name, Cow::Borrowed(_)) && matches!(view.distinct_id, Some(Cow::Borrowed(_))));
    }

    #[test]
    fn an_identity_events_ids_can_be_asked_for() {
        let body = br#"{"event":"$identify","properties":{"distinct_id":"U","$anon_distinct_id":"$device:A"}}"#;
        let view = EventView::parse(body).unwrap();
        assert_eq!(view.id("$anon_distinct_id").as_deref(), Some("$device:A"));
        assert_eq!(view.id("$identified_id"), None);
    }

    #[test]
    fn odd_bodies_are_read_as_far_as_they_go() {
        let view = EventView::parse(br#"{"event":"A","properties":null,"$mp_metadata":7,"more":[1]}"#).unwrap();
        assert!(view.properties.is_empty() && view.mp_event_id.is_none());
        for body in ["{}", "[]", r#"{"event":1}"#, r#"{"event":"A","properties":[]}"#, "{"] {
            assert!(EventView::parse(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn skips_name_their_rule() {
        for (body, rule) in [
            (r#"{"event":"Other","properties":{}}"#, SkipRule::UnmappedEvent),
            (r#"{"event":"$identify","properties":{}}"#, SkipRule::IdentityEvent),
            (r#"{"event":"Purchase","properties":{"$ignore":true}}"#, SkipRule::Ignored),
        ] {
            assert!(matches!(decide(body), EventDecision::Skip(found) if found == rule), "{body}");
        }
        let mut off = published(UnmappedEvents::Skip);
        off.sync.events = false;
        let view = EventView::parse(br#"{"event":"Purchase"}"#).unwrap();
        assert!(matches!(map_event(&view, &off, RECEIVED), EventDecision::Skip(SkipRule::EventsOff)));
    }

    #[test]
    fn a_mapped_event_becomes_brevos() {
        let body = r#"{"event":"Purchase","properties":{"token":"t","distinct_id":"u","time":1700000000,"$os":"iOS","mp_lib":"x","amount":9.50,"Item Name":"Mug"}}"#;
        let EventDecision::Send(event) = decide(body) else { panic!("skipped") };
        let identifiers = wire::EventIdentifiers { ext_id: Some("u".to_owned()), ..Default::default() };
        assert_eq!(
            serde_json::to_string(&event.into_wire(identifiers)).unwrap(),
            r#"{"event_name":"order_completed","identifiers":{"ext_id":"u"},"event_date":"2023-11-14T22:13:20.000Z","event_properties":{"Item_Name":"Mug","amount":9.50}}"#
        );
    }

    #[test]
    fn without_a_time_the_arrival_counts() {
        let EventDecision::Send(event) = decide(r#"{"event":"Purchase","properties":{"time":null}}"#) else {
            panic!("skipped")
        };
        assert_eq!(event.time, RECEIVED);
        assert!(event.properties.is_none());
    }

    #[test]
    fn staleness_is_counted_from_the_events_own_time() {
        let hour = Duration::from_secs(3600);
        let EventDecision::Send(mut event) = decide(r#"{"event":"Purchase"}"#) else { panic!("skipped") };
        event.stale_after = hour;
        assert!(!event.is_stale(RECEIVED + hour));
        assert!(event.is_stale(RECEIVED + hour + Duration::from_millis(1)));
        assert!(!event.is_stale(UnixMillis(0)));
    }
}
