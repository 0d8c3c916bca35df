//! Who was erased (CORE 12): keyed hashes that edge and legs ask, so that late phones and backlogs bring nobody back.
//!
//! Held whole in memory, about a hundred bytes for an id, for as long as `retention.tombstones`. Without the store's key,
//! which is random, a hash says nothing of an id.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::clock::UnixMillis;
use crate::mixpanel::keys;
use crate::record::Kind;

/// What is stored of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    pub since: UnixMillis,
}

/// The keyed hash of one id or address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mark(pub [u8; 32]);

#[derive(Clone)]
struct StoreKey(Hmac<Sha256>);

impl StoreKey {
    fn new(key: &[u8; 32]) -> Self {
        // HMAC takes keys of every length.
        Self(Hmac::new_from_slice(key).expect("a key of any length"))
    }

    fn mark(&self, domain: &[u8], text: &str) -> Mark {
        let mut mac = self.0.clone();
        mac.update(domain);
        mac.update(text.as_bytes());
        Mark(mac.finalize().into_bytes().into())
    }
}

/// Everyone who is erased, as of one moment.
pub struct Erased {
    key: StoreKey,
    ids: HashSet<Mark>,
    /// Addresses and phone numbers whose contact was blocklisted when it was deleted.
    blocklisted: HashSet<Mark>,
}

impl Erased {
    /// Whether the record is one of an erased person.
    pub fn covers(&self, kind: Kind, body: &[u8]) -> bool {
        !self.ids.is_empty() && keys::people(kind, body).iter().any(|id| self.covers_id(id))
    }

    pub fn covers_id(&self, id: &str) -> bool {
        self.ids.contains(&self.of_id(id))
    }

    /// Whether a contact of this address, lower case, or number must come back blocklisted.
    pub fn keeps_blocklisted(&self, address: &str) -> bool {
        !self.blocklisted.is_empty() && self.blocklisted.contains(&self.of_address(address))
    }

    /// A device is the same person with and without its prefix (contract §6).
    pub fn of_id(&self, id: &str) -> Mark {
        self.key.mark(b"id\0", id.strip_prefix("$device:").unwrap_or(id))
    }

    pub fn of_address(&self, address: &str) -> Mark {
        self.key.mark(b"address\0", address)
    }
}

impl std::fmt::Debug for Tombstones {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tombstones")
    }
}

/// The one set that everybody asks.
pub struct Tombstones(RwLock<Inner>);

struct Inner {
    now: Arc<Erased>,
    /// Earlier ones that somebody may still judge by.
    earlier: Vec<Weak<Erased>>,
}

impl Tombstones {
    pub fn new(key: &[u8; 32], ids: HashSet<Mark>, blocklisted: HashSet<Mark>) -> Self {
        let now = Arc::new(Erased { key: StoreKey::new(key), ids, blocklisted });
        Self(RwLock::new(Inner { now, earlier: Vec::new() }))
    }

    /// Who is erased now. Whoever stores records by this answer holds it until they are stored: see [`Self::settled`].
    pub fn now(&self) -> Arc<Erased> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).now.clone()
    }

    /// Whether nobody judges by an answer of before the last [`Self::replace`] any more: what is stored from now on was
    /// judged by the present one.
    pub fn settled(&self) -> bool {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        inner.earlier.retain(|earlier| earlier.strong_count() > 0);
        inner.earlier.is_empty()
    }

    /// Puts other sets in the place of the present ones.
    pub fn replace(&self, change: impl FnOnce(&mut HashSet<Mark>, &mut HashSet<Mark>)) {
        let mut inner = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let (mut ids, mut blocklisted) = (inner.now.ids.clone(), inner.now.blocklisted.clone());
        change(&mut ids, &mut blocklisted);
        let next = Arc::new(Erased { key: inner.now.key.clone(), ids, blocklisted });
        let earlier = Arc::downgrade(&std::mem::replace(&mut inner.now, next));
        inner.earlier.push(earlier);
    }
}

impl Default for Tombstones {
    /// Nobody is erased.
    fn default() -> Self {
        Self::new(&[0; 32], HashSet::new(), HashSet::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_of_whom_it_acts_for() {
        let tombstones = Tombstones::default();
        let (ada, device) = (tombstones.now().of_id("ada"), tombstones.now().of_id("$device:d1"));
        tombstones.replace(|ids, _| ids.extend([ada, device]));
        let now = tombstones.now();
        for (kind, body, covered) in [
            (Kind::Event, r#"{"event":"e","properties":{"distinct_id":"ada"}}"#, true),
            (Kind::Event, r#"{"event":"e","properties":{"distinct_id":"\u0061da"}}"#, true),
            (Kind::Event, r#"{"event":"e","properties":{"distinct_id":"bob","friend":"ada"}}"#, false),
            (Kind::Event, r#"{"event":"e","properties":{"$device_id":"d1"}}"#, true),
            (Kind::Event, r#"{"event":"e","properties":{"distinct_id":"$device:d1","$device_id":"d1"}}"#, true),
            // Somebody else on the same device.
            (
                Kind::Event,
                r#"{"event":"e","properties":{"distinct_id":"bob","$user_id":"bob","$device_id":"d1"}}"#,
                false,
            ),
            (
                Kind::Event,
                r#"{"event":"e","properties":{"distinct_id":"d1","$user_id":"bob","$device_id":"d1"}}"#,
                false,
            ),
            (Kind::Event, r#"{"event":"e","properties":{"distinct_id":"ada","$user_id":"bob"}}"#, true),
            (Kind::Identity, r#"{"event":"$identify","properties":{"$identified_id":"bob","$anon_id":"ada"}}"#, true),
            (Kind::Identity, r#"{"event":"$merge","properties":{"$distinct_ids":["bob","ada"]}}"#, true),
            (Kind::Profile, r#"{"$distinct_id":"ada","$set":{}}"#, true),
            (Kind::Group, r#"{"$group_key":"k","$group_id":"ada","$set":{}}"#, false),
            (Kind::Event, "", false),
        ] {
            assert_eq!(now.covers(kind, body.as_bytes()), covered, "{body}");
        }
    }

    #[test]
    fn numbers_are_ids_and_keys_tell_stores_apart() {
        let (one, other) = (Tombstones::default(), Tombstones::new(&[1; 32], HashSet::new(), HashSet::new()));
        let mark = one.now().of_id("42");
        assert_ne!(mark, other.now().of_id("42"));
        assert_ne!(mark, one.now().of_address("42"));
        let before = one.now();
        one.replace(|ids, _| {
            ids.insert(mark);
        });
        assert!(!one.settled());
        assert!(one.now().covers(Kind::Profile, br#"{"$distinct_id":42}"#));
        assert!(!before.covers_id("42"));
        drop(before);
        assert!(one.settled());
    }
}
