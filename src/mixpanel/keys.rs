//! Which ids a record speaks of, as hashes: records that share one must reach Mixpanel in order.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use super::wire::Raw;
use crate::record::{Kind, Record};

/// Hash of one id. Two ids that collide are merely kept in order for no reason.
pub type Key = u64;

#[derive(serde::Deserialize)]
struct EventIds<'a> {
    #[serde(borrow)]
    properties: Ids<'a>,
}

/// Fields that are read, each as its text. Of a key that is given twice the last counts, as at Mixpanel and in the mapping: it
/// must not make a record nobody's.
macro_rules! fields {
    ($name:ident { $($field:ident = $key:literal),* $(,)? }) => {
        #[derive(Default)]
        struct $name<'a> {
            $($field: Option<&'a RawValue>,)*
        }

        impl<'de: 'a, 'a> Deserialize<'de> for $name<'a> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields<'a>(PhantomData<&'a ()>);

                impl<'de: 'a, 'a> Visitor<'de> for Fields<'a> {
                    type Value = $name<'a>;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                        let mut found = $name::default();
                        while let Some(Name(name)) = map.next_key()? {
                            match &*name {
                                $($key => found.$field = map.next_value()?,)*
                                _ => {
                                    map.next_value::<IgnoredAny>()?;
                                }
                            }
                        }
                        Ok(found)
                    }
                }

                deserializer.deserialize_map(Fields(PhantomData))
            }
        }
    };
}

#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

fields!(Ids {
    distinct_id = "distinct_id",
    device_id = "$device_id",
    user_id = "$user_id",
    anon_distinct_id = "$anon_distinct_id",
    anon_id = "$anon_id",
    identified_id = "$identified_id",
    alias = "alias",
    distinct_ids = "$distinct_ids",
    insert_id = "$insert_id",
});

fields!(ProfileIds { distinct_id = "$distinct_id", group_key = "$group_key", group_id = "$group_id" });

impl<'a> Ids<'a> {
    /// Every id in it that a person may have.
    fn all(self) -> impl Iterator<Item = &'a RawValue> {
        let single = [
            self.distinct_id,
            self.device_id,
            self.user_id,
            self.anon_distinct_id,
            self.anon_id,
            self.identified_id,
            self.alias,
        ];
        // An app may mean something else by the name: its event is somebody's all the same.
        let list = self.distinct_ids.and_then(|ids| serde_json::from_str::<Vec<&RawValue>>(ids.get()).ok());
        single.into_iter().flatten().chain(list.unwrap_or_default())
    }
}

/// The lane that an event travels in: a device's events stay in order, because the first of them that names a user wins
/// the device (contract §6). Order between devices of one person does not matter to Mixpanel.
pub fn event_key(body: &[u8]) -> Key {
    let Ok(event) = serde_json::from_slice::<EventIds<'_>>(body) else { return 0 };
    let ids = event.properties;
    ids.device_id.or(ids.distinct_id).map_or(0, |id| xxh3_64(bare(id)))
}

/// Every id that an identity event or a profile update names (contract §6 lists the shapes).
pub fn ordered_keys(record: &Record) -> Vec<Key> {
    match record.kind {
        Kind::Identity => {
            let Ok(event) = serde_json::from_slice::<EventIds<'_>>(&record.body) else { return vec![0] };
            event.properties.all().map(|id| xxh3_64(bare(id))).collect()
        }
        Kind::Profile | Kind::Group => {
            let Ok(ids) = serde_json::from_slice::<ProfileIds<'_>>(&record.body) else { return vec![0] };
            match (ids.distinct_id, ids.group_key, ids.group_id) {
                (Some(id), _, _) => vec![xxh3_64(bare(id))],
                (None, Some(key), Some(id)) => vec![xxh3_64(bare(key)) ^ xxh3_64(bare(id)).rotate_left(1)],
                _ => vec![0],
            }
        }
        Kind::Event => vec![event_key(&record.body)],
    }
}

/// Whose record it is: every id that an identity event names, the one that a profile update is for, and of an event
/// those it acts for. A device is one of them only where no user is named: others may use it too.
pub fn people(kind: Kind, body: &[u8]) -> Vec<String> {
    match kind {
        Kind::Group => Vec::new(),
        Kind::Profile => {
            let ids = serde_json::from_slice::<ProfileIds<'_>>(body).unwrap_or_default();
            ids.distinct_id.and_then(text).into_iter().collect()
        }
        Kind::Event | Kind::Identity => {
            let Ok(EventIds { properties: ids }) = serde_json::from_slice::<EventIds<'_>>(body) else {
                return Vec::new();
            };
            let named: Vec<Option<&RawValue>> = if kind == Kind::Identity {
                ids.all().map(Some).collect()
            } else if ids.user_id.is_some() {
                let device = ids.device_id.map(bare);
                let own = |id: &&RawValue| !id.get().starts_with("\"$device:") && Some(bare(id)) != device;
                vec![ids.user_id, ids.distinct_id.filter(own)]
            } else {
                vec![ids.distinct_id.or(ids.device_id)]
            };
            named.into_iter().flatten().filter_map(text).collect()
        }
    }
}

/// The id as text, numbers too.
fn text(id: &RawValue) -> Option<String> {
    plain(id).map(Cow::into_owned)
}

fn plain(id: &RawValue) -> Option<Cow<'_, str>> {
    let raw = Raw::from(id);
    raw.as_str().or_else(|| raw.text().parse::<f64>().is_ok().then(|| Cow::Borrowed(raw.text())))
}

/// Calls `each` with every name by which a record may be looked for but addresses: its `$insert_id`, and all ids in it, without
/// `$device:`.
pub fn names(kind: Kind, body: &[u8], mut each: impl FnMut(&str)) {
    let mut name = |id: &RawValue| {
        if let Some(name) = plain(id) {
            each(name.strip_prefix("$device:").unwrap_or(&name));
        }
    };
    match kind {
        Kind::Group => {}
        Kind::Profile => {
            let ids = serde_json::from_slice::<ProfileIds<'_>>(body).unwrap_or_default();
            ids.distinct_id.into_iter().for_each(name);
        }
        Kind::Event | Kind::Identity => {
            if let Ok(EventIds { properties }) = serde_json::from_slice::<EventIds<'_>>(body) {
                properties.insert_id.into_iter().for_each(&mut name);
                properties.all().for_each(name);
            }
        }
    }
}

/// Calls `each` with everything in the text that has the looks of an address, in lower case. False when one may be there
/// that is written in another way.
pub fn addresses(body: &[u8], mut each: impl FnMut(&str)) -> bool {
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || b"._%+-'!#$&*/=?^`{|}~".contains(byte) || !byte.is_ascii();
    for at in memchr::memchr_iter(b'@', body) {
        let before = body[..at].iter().rev().take_while(|byte| part(byte)).count();
        let behind = body[at + 1..].iter().take_while(|byte| part(byte)).count();
        if before == 0 || behind == 0 {
            continue;
        }
        if let Ok(address) = std::str::from_utf8(&body[at - before..at + 1 + behind]) {
            each(&address.to_lowercase());
        }
    }
    memchr::memmem::find(body, b"\\u0040").is_none()
}

/// Whether a profile update has `$add` or `$append`.
pub fn additive(body: &[u8]) -> bool {
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Operators<'a> {
        #[serde(borrow, rename = "$add")]
        add: Option<&'a RawValue>,
        #[serde(borrow, rename = "$append")]
        append: Option<&'a RawValue>,
    }
    serde_json::from_slice::<Operators<'_>>(body).is_ok_and(|ops| ops.add.is_some() || ops.append.is_some())
}

/// The id's text without quotes and without the `$device:` prefix under which the same device also travels.
fn bare(id: &RawValue) -> &[u8] {
    let text = id.get().trim_matches('"');
    text.strip_prefix("$device:").unwrap_or(text).as_bytes()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::clock::UnixMillis;
    use crate::record::{Destinations, Origin, Project};

    fn record(kind: Kind, body: &'static str) -> Record {
        Record {
            kind,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: UnixMillis(1),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn an_event_is_somebodys_whatever_an_app_calls_a_list_of_ids() {
        let odd = r#"{"event":"P","properties":{"distinct_id":"u","$distinct_ids":{"n":2}}}"#;
        assert_eq!(people(Kind::Event, odd.as_bytes()), ["u"]);
        assert_ne!(event_key(odd.as_bytes()), 0);
        let twice =
            r#"{"event":"P","properties":{"distinct_id":"v","$insert_id":"1","distinct_id":"u","$insert_id":"2"}}"#;
        assert_eq!(people(Kind::Event, twice.as_bytes()), ["u"], "the last counts");
        let merge = r#"{"event":"$merge","properties":{"$distinct_ids":["a","b"]}}"#;
        assert_eq!(people(Kind::Identity, merge.as_bytes()), ["a", "b"]);
    }

    #[test]
    fn an_identity_event_is_about_all_its_ids() {
        let identify = record(
            Kind::Identity,
            r#"{"event":"$identify","properties":{"distinct_id":"u","$anon_distinct_id":"$device:d","$device_id":"d"}}"#,
        );
        let keys = ordered_keys(&identify);
        let profile = record(Kind::Profile, r#"{"$distinct_id":"u","$set":{"a":1}}"#);
        let anonymous = record(Kind::Profile, r#"{"$distinct_id":"$device:d","$set":{"a":1}}"#);
        assert!(keys.contains(&ordered_keys(&profile)[0]));
        assert!(keys.contains(&ordered_keys(&anonymous)[0]));
        let merge = record(Kind::Identity, r#"{"event":"$merge","properties":{"$distinct_ids":["a","b"]}}"#);
        assert_eq!(ordered_keys(&merge).len(), 2);
    }

    #[test]
    fn additive_operators_are_seen() {
        assert!(additive(br#"{"$distinct_id":"u","$add":{"n":1}}"#));
        assert!(additive(br#"{"$append":{"n":1}}"#));
        assert!(!additive(br#"{"$set":{"$add":1}}"#));
    }
}
