//! What a record says about who is who (contract §6). Pure.
//!
//! From an event and the project's mode: the id that it counts for, and the link that it makes. Whether the link is
//! taken depends on the links before it and is decided in [`super::links`].

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::roster::PersonId;
use crate::config::IdentityMode;
use crate::mapping::{EventView, fields};
use crate::mixpanel::reserved::{is_identity_event, names_nobody};

/// What a device's id begins with where it stands for a person.
const DEVICE: &str = "$device:";

/// Which rules a link goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Simplified: `$device_id` and `$user_id` together on any event.
    Device,
    /// Original: `$identify`.
    Identify,
    /// Original: `$create_alias`.
    Alias,
    /// Original: `$merge`.
    Merge,
}

/// `from` and `into` are one person from here on, under `into` or whom that is by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub verb: Verb,
    pub from: PersonId,
    pub into: PersonId,
}

/// The id that the event counts for, as far as the event alone says: in simplified projects the user, else the device,
/// else what `distinct_id` says; in original ones what `distinct_id` says.
pub fn person<'a>(view: &'a EventView<'_>, mode: IdentityMode) -> Option<Cow<'a, str>> {
    let distinct_id = || view.distinct_id.as_deref().filter(|id| names_somebody(id)).map(Cow::Borrowed);
    let device = || view.device_id.as_deref().and_then(device);
    let user = || user(view).map(Cow::Borrowed);
    match mode {
        IdentityMode::Simplified => user().or_else(device).or_else(distinct_id),
        IdentityMode::Original => distinct_id().or_else(user).or_else(device),
    }
}

/// Whether an id that is none of the blocked words stands for somebody: a device's may be made of such a word.
pub fn names_somebody(id: &str) -> bool {
    !id.starts_with(DEVICE) || device(id).is_some()
}

/// The link that the event makes, if any. Events that Mixpanel drops make none.
pub fn link(view: &EventView<'_>, mode: IdentityMode) -> Option<Link> {
    if view.ignored {
        return None;
    }
    let (verb, from, into) = match mode {
        IdentityMode::Simplified => pair(view)?,
        IdentityMode::Original => verb(view)?,
    };
    (from != into && names_somebody(&from) && names_somebody(&into)).then(|| Link {
        verb,
        from: PersonId::from(from),
        into: PersonId::from(into),
    })
}

type Ends<'a> = (Verb, Cow<'a, str>, Cow<'a, str>);

/// Simplified projects know pairs of device and user only. Their identity events are no links, but SDKs put a pair into
/// them all the same: the old id, where it is a device's, and the new one.
fn pair<'a>(view: &'a EventView<'_>) -> Option<Ends<'a>> {
    let mut device = view.device_id.as_deref().and_then(device);
    let mut user = user(view).map(Cow::Borrowed);
    if is_identity_event(&view.name) && (device.is_none() || user.is_none()) {
        let before = view.id("$anon_distinct_id").filter(|id| id.starts_with(DEVICE));
        device = device.or_else(|| before.and_then(|id| self::device(&id).map(|id| Cow::Owned(id.into_owned()))));
        user = user.or_else(|| view.distinct_id.as_deref().filter(|id| !id.starts_with(DEVICE)).map(Cow::Borrowed));
    }
    Some((Verb::Device, device?, user?))
}

/// A device's id is no user, wherever it stands.
fn user<'a>(view: &'a EventView<'_>) -> Option<&'a str> {
    view.user_id.as_deref().filter(|id| !id.starts_with(DEVICE))
}

/// The person whom a device stands for until a user is known; one prefix is taken for part of the form, not of the id.
fn device(id: &str) -> Option<Cow<'_, str>> {
    let bare = id.strip_prefix(DEVICE).unwrap_or(id);
    if bare.trim().is_empty() || names_nobody(bare) {
        return None;
    }
    Some(if bare.len() < id.len() { Cow::Borrowed(id) } else { Cow::Owned(format!("{DEVICE}{bare}")) })
}

fn verb<'a>(view: &'a EventView<'_>) -> Option<Ends<'a>> {
    match view.name.as_ref() {
        "$identify" => {
            let user = view.id("$identified_id").or_else(|| view.id("distinct_id"))?;
            let before = view.id("$anon_id").or_else(|| view.id("$anon_distinct_id"))?;
            // Whoever is identified twice without a log-out in between sends the first user's id here: without this
            // rule of Mixpanel's two people would become one.
            is_uuid4(before.strip_prefix(DEVICE).unwrap_or(&before)).then_some((Verb::Identify, before, user))
        }
        "$create_alias" => Some((Verb::Alias, view.id("alias")?, view.id("distinct_id")?)),
        "$merge" => {
            let ids: Vec<&RawValue> = serde_json::from_str(view.properties.get("$distinct_ids")?.get()).ok()?;
            let [first, second] = ids.as_slice() else { return None };
            Some((Verb::Merge, fields::id(second)?, fields::id(first)?))
        }
        _ => None,
    }
}

/// Whether an id looks like one that an SDK made up for a visitor. A contact does not lose the id of an account to it.
pub fn is_anonymous(id: &str) -> bool {
    id.starts_with(DEVICE) || is_uuid4(id)
}

fn is_uuid4(text: &str) -> bool {
    let bytes = text.as_bytes();
    let in_form = |(at, byte): (usize, &u8)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        14 => *byte == b'4',
        19 => matches!(byte.to_ascii_lowercase(), b'8' | b'9' | b'a' | b'b'),
        _ => byte.is_ascii_hexdigit(),
    };
    bytes.len() == 36 && bytes.iter().enumerate().all(in_form)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use IdentityMode::{Original, Simplified};

    const UUID: &str = "f47ac10b-58cc-4372-a567-0e02b2c3d479";

    fn read<T>(event: &str, properties: &Value, look: impl Fn(&EventView<'_>) -> T) -> T {
        let body = json!({"event": event, "properties": properties}).to_string();
        look(&EventView::parse(body.as_bytes()).unwrap())
    }

    fn who(properties: &Value, mode: IdentityMode) -> Option<String> {
        read("e", properties, |view| person(view, mode).map(Cow::into_owned))
    }

    /// `from` and `into`.
    fn linked(event: &str, properties: &Value, mode: IdentityMode) -> Option<(String, String)> {
        read(event, properties, |view| link(view, mode)).map(|link| (link.from.to_string(), link.into.to_string()))
    }

    fn ends(from: &str, into: &str) -> Option<(String, String)> {
        Some((from.to_owned(), into.to_owned()))
    }

    #[test]
    fn a_simplified_project_counts_for_the_user_else_the_device_else_the_distinct_id() {
        for (properties, expected) in [
            (json!({"distinct_id": "d", "$user_id": "u", "$device_id": "x"}), Some("u")),
            (json!({"distinct_id": "$device:x", "$device_id": "x"}), Some("$device:x")),
            (json!({"distinct_id": "d", "$device_id": "$device:x"}), Some("$device:x")),
            (json!({"distinct_id": "u"}), Some("u")),
            (json!({"distinct_id": "$device:x"}), Some("$device:x")),
            (json!({"$device_id": 7}), Some("$device:7")),
            (json!({"$user_id": "anonymous", "$device_id": "x"}), Some("$device:x")),
            (json!({"$device_id": "00000000-0000-0000-0000-000000000000"}), None),
            (json!({"$device_id": "$device:null"}), None),
            (json!({"distinct_id": "0", "$user_id": "", "$device_id": " "}), None),
            (json!({"distinct_id": "$device:null"}), None),
            (json!({}), None),
        ] {
            assert_eq!(who(&properties, Simplified).as_deref(), expected, "{properties}");
        }
    }

    #[test]
    fn an_original_project_counts_for_the_distinct_id() {
        for (properties, expected) in [
            (json!({"distinct_id": "d", "$user_id": "u", "$device_id": "x"}), Some("d")),
            (json!({"distinct_id": "null", "$user_id": "u"}), Some("u")),
            (json!({"$device_id": "x"}), Some("$device:x")),
            (json!({}), None),
        ] {
            assert_eq!(who(&properties, Original).as_deref(), expected, "{properties}");
        }
    }

    #[test]
    fn a_device_and_a_user_on_any_event_of_a_simplified_project_are_a_pair() {
        let pair = json!({"distinct_id": "u", "$device_id": "x", "$user_id": "u"});
        assert_eq!(linked("Purchase", &pair, Simplified), ends("$device:x", "u"));
        assert_eq!(linked("Purchase", &pair, Original), None);
        for (device, from) in
            [("$device:x", "$device:x"), ("$device:$device:x", "$device:$device:x"), ("x", "$device:x")]
        {
            let pair = json!({"$device_id": device, "$user_id": "u"});
            assert_eq!(linked("e", &pair, Simplified), ends(from, "u"));
        }
        for lone in [
            json!({"$device_id": "x", "distinct_id": "u"}),
            json!({"$user_id": "u"}),
            json!({"$device_id": "x", "$user_id": "undefined"}),
            json!({"$device_id": "unknown", "$user_id": "u"}),
            json!({"$device_id": "x", "$user_id": "$device:y"}),
            json!({"$device_id": "x", "$user_id": "u", "$ignore": true}),
        ] {
            assert_eq!(linked("e", &lone, Simplified), None, "{lone}");
        }
    }

    #[test]
    fn an_identity_event_of_a_simplified_project_counts_as_the_pair_that_an_sdk_puts_into_it() {
        let browser = json!({"distinct_id": "u", "$anon_distinct_id": "$device:x", "$device_id": "x", "$user_id": "u"});
        assert_eq!(linked("$identify", &browser, Simplified), ends("$device:x", "u"));
        let bare = json!({"distinct_id": "u", "$anon_distinct_id": "$device:x"});
        assert_eq!(linked("$identify", &bare, Simplified), ends("$device:x", "u"));
        assert_eq!(linked("Purchase", &bare, Simplified), None);
        for no_pair in [
            json!({"distinct_id": "u2", "$anon_distinct_id": "u1"}),
            json!({"$identified_id": "u", "$anon_id": UUID}),
            json!({"distinct_id": "$device:y", "$anon_distinct_id": "$device:x"}),
            json!({"distinct_id": "u", "$anon_distinct_id": "$device:0"}),
        ] {
            assert_eq!(linked("$identify", &no_pair, Simplified), None, "{no_pair}");
        }
        assert_eq!(linked("$create_alias", &json!({"distinct_id": "a", "alias": "b"}), Simplified), None);
        assert_eq!(linked("$merge", &json!({"$distinct_ids": ["a", "b"]}), Simplified), None);
    }

    #[test]
    fn identify_links_a_version_4_uuid_to_a_user() {
        let device = format!("$device:{UUID}");
        for properties in [
            json!({"$identified_id": "u", "$anon_id": UUID}),
            json!({"distinct_id": "u", "$anon_distinct_id": UUID, "$device_id": "x", "$user_id": "u"}),
            json!({"distinct_id": "other", "$identified_id": "u", "$anon_id": UUID}),
        ] {
            assert_eq!(linked("$identify", &properties, Original), ends(UUID, "u"), "{properties}");
        }
        let prefixed = json!({"distinct_id": "u", "$anon_distinct_id": device});
        assert_eq!(linked("$identify", &prefixed, Original), ends(&device, "u"));
        for properties in [
            json!({"distinct_id": "u2", "$anon_distinct_id": "u1"}),
            json!({"distinct_id": "u", "$anon_distinct_id": "f47ac10b-58cc-1372-a567-0e02b2c3d479"}),
            json!({"distinct_id": "u"}),
            json!({"$anon_id": UUID}),
            json!({"distinct_id": UUID, "$anon_distinct_id": UUID}),
            json!({"distinct_id": "anonymous", "$anon_distinct_id": UUID}),
        ] {
            assert_eq!(linked("$identify", &properties, Original), None, "{properties}");
        }
    }

    #[test]
    fn aliases_and_merges_link_any_two_ids() {
        assert_eq!(linked("$create_alias", &json!({"distinct_id": "d", "alias": "a"}), Original), ends("a", "d"));
        assert_eq!(linked("$create_alias", &json!({"distinct_id": "d", "alias": "null"}), Original), None);
        assert_eq!(linked("$create_alias", &json!({"distinct_id": "d", "alias": "d"}), Original), None);
        assert_eq!(linked("$merge", &json!({"$distinct_ids": ["a", 2]}), Original), ends("2", "a"));
        for ids in [json!(["a"]), json!(["a", "b", "c"]), json!(["a", "nil"]), json!("a"), json!([["a"], "b"])] {
            assert_eq!(linked("$merge", &json!({"$distinct_ids": ids}), Original), None, "{ids}");
        }
    }

    #[test]
    fn ids_of_visitors_are_told_from_those_of_accounts() {
        for id in ["$device:x", UUID, "F47AC10B-58CC-4372-A567-0E02B2C3D479"] {
            assert!(is_anonymous(id), "{id}");
        }
        for id in ["u", "42", "f47ac10b-58cc-1372-a567-0e02b2c3d479", "f47ac10b-58cc-4372-c567-0e02b2c3d479"] {
            assert!(!is_anonymous(id), "{id}");
        }
    }
}
