//! Identifiers that the edge gives: minted ones for records that have none, derived ones for records whose own cannot
//! be used. All are 32 hexadecimal digits, which `/import` takes (at most 36 of `[A-Za-z0-9-]`, contract §3).

use std::sync::atomic::{AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_128;

use crate::mixpanel::wire::Raw;

/// Makes identifiers that no other process makes: hashes of a random key and a counter. One system call a process
/// instead of one an event.
#[derive(Debug)]
pub struct Minter {
    key: [u8; 16],
    next: AtomicU64,
}

impl Minter {
    /// Fails when the system has no randomness to give.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 16];
        getrandom::fill(&mut key)?;
        Ok(Self { key, next: AtomicU64::new(0) })
    }

    pub fn mint(&self) -> u128 {
        let mut input = [0; 24];
        input[..16].copy_from_slice(&self.key);
        input[16..].copy_from_slice(&self.next.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        xxh3_128(&input)
    }
}

/// What an identifier is derived from; part of the hash, so that the two cannot meet.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// An `$insert_id` that `/import` would refuse.
    InsertId,
    /// `$mp_metadata.$mp_event_id`, which native SDKs repeat when they resend (contract §13).
    EventId,
}

/// The identifier derived from a value: the same for the same value, always.
pub fn derive(source: Source, value: &str) -> u128 {
    let prefix: &[u8] = match source {
        Source::InsertId => b"$insert_id\0",
        Source::EventId => b"$mp_event_id\0",
    };
    xxh3_128(&[prefix, value.as_bytes()].concat())
}

/// `$mp_event_id` inside an event's `$mp_metadata`, if that is an object with a usable one.
pub fn event_id(metadata: Raw<'_>) -> Option<u128> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        #[serde(rename = "$mp_event_id")]
        event_id: String,
    }
    let metadata: Metadata = serde_json::from_str(metadata.text()).ok()?;
    (!metadata.event_id.is_empty()).then(|| derive(Source::EventId, &metadata.event_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_never_change() {
        // Written down so that an upgrade cannot change them: a resend must match what an older relay stored.
        assert_eq!(format!("{:032x}", derive(Source::InsertId, "evt_abc123")), "9a1e547474224e994c1cb3f09d4d95b7");
        assert_eq!(format!("{:032x}", derive(Source::EventId, "evt_abc123")), "7048decd2646b3cd5e6db22714e5096b");
    }

    #[test]
    fn minted_ids_differ() {
        let minter = Minter::new().unwrap();
        assert_ne!(minter.mint(), minter.mint());
        assert_ne!(Minter::new().unwrap().mint(), Minter { key: [0; 16], next: AtomicU64::new(0) }.mint());
    }
}
