//! Answers that may be given again, bounded in bytes, pure: time is passed in.
//!
//! They live in memory only, for minutes, and hold personal data (profiles): nothing of them survives the process, nor an
//! erasure. Whom an answer speaks of cannot be told from outside it, so an erasure takes all of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

/// All kept answers together.
const MAX_BYTES: usize = 24 << 20;
/// What an entry takes beside its body, roughly.
const OVERHEAD: usize = 512;

/// Hash of everything that an answer depends on: method, path, parameters, and whose credentials asked. A cryptographic
/// one, or a caller could make a question that meets somebody else's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; 32]);

/// A whole answer of the vendor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub status: StatusCode,
    pub content_type: Option<HeaderValue>,
    pub content_disposition: Option<HeaderValue>,
    pub body: Bytes,
}

impl Whole {
    fn weight(&self) -> usize {
        self.body.len() + OVERHEAD
    }
}

#[derive(Debug)]
struct Entry {
    answer: Arc<Whole>,
    at: Instant,
    keep: Duration,
}

/// Oldest answers make room for new ones.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Key, Entry>,
    order: VecDeque<(Instant, Key)>,
    bytes: usize,
    /// How often everything was forgotten.
    era: u64,
}

impl Cache {
    /// A kept answer, its age, and for how long it is kept in all.
    pub fn get(&self, key: Key, max_age: Option<Duration>, now: Instant) -> Option<(Arc<Whole>, Duration, Duration)> {
        let entry = self.entries.get(&key)?;
        let age = now.saturating_duration_since(entry.at);
        let fresh = age < max_age.map_or(entry.keep, |max_age| max_age.min(entry.keep));
        fresh.then(|| (entry.answer.clone(), age, entry.keep))
    }

    /// The present era: an answer that was asked for in an earlier one is not kept.
    pub fn era(&self) -> u64 {
        self.era
    }

    pub fn forget(&mut self) {
        *self = Self { era: self.era + 1, ..Self::default() };
    }

    pub fn put(&mut self, key: Key, answer: Arc<Whole>, keep: Duration, now: Instant) {
        if keep.is_zero() {
            return;
        }
        self.bytes += answer.weight();
        if let Some(old) = self.entries.insert(key, Entry { answer, at: now, keep }) {
            self.bytes -= old.answer.weight();
        }
        self.order.push_back((now, key));
        while let Some((at, oldest)) = self.order.front().copied() {
            // A question asked again stands further back with its newer answer.
            let entry = self.entries.get(&oldest).filter(|entry| entry.at == at);
            let expired = entry.is_none_or(|entry| now.saturating_duration_since(at) >= entry.keep);
            if !expired && self.bytes <= MAX_BYTES {
                return;
            }
            if let Some(weight) = entry.map(|entry| entry.answer.weight()) {
                self.entries.remove(&oldest);
                self.bytes -= weight;
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> Key {
        Key([n; 32])
    }

    const KEEP: Duration = Duration::from_secs(60);

    fn answer(length: usize) -> Arc<Whole> {
        let body = vec![b'x'; length].into();
        Arc::new(Whole { status: StatusCode::OK, content_type: None, content_disposition: None, body })
    }

    #[tokio::test(start_paused = true)]
    async fn answers_grow_old() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        cache.put(key(1), answer(10), KEEP, start);
        cache.put(key(2), answer(10), Duration::ZERO, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        let (_, age, keep) = cache.get(key(1), None, at(20)).unwrap();
        assert_eq!((age, keep), (Duration::from_secs(20), KEEP));
        assert!(cache.get(key(1), Some(Duration::from_secs(20)), at(20)).is_none());
        assert!(cache.get(key(1), Some(Duration::ZERO), at(0)).is_none());
        assert!(cache.get(key(1), None, at(60)).is_none());
        assert!(cache.get(key(2), None, start).is_none(), "never kept");
    }

    #[tokio::test(start_paused = true)]
    async fn everything_can_be_forgotten() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        cache.put(key(1), answer(10), KEEP, start);
        let era = cache.era();
        cache.forget();
        assert!(cache.get(key(1), None, start).is_none());
        assert!(cache.era() != era);
        assert_eq!((cache.bytes, cache.order.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_make_room() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        for n in 0..100 {
            cache.put(key(n), answer(1 << 20), KEEP, start);
            assert!(cache.bytes <= MAX_BYTES);
        }
        assert!(cache.get(key(0), None, start).is_none());
        assert!(cache.get(key(99), None, start).is_some());
        // Asked again and again: one entry, and the queue of it does not grow for ever.
        for _ in 0..1000 {
            cache.put(key(99), answer(5), KEEP, start);
        }
        cache.put(key(100), answer(5), KEEP, start + KEEP);
        assert_eq!((cache.entries.len(), cache.order.len()), (1, 1));
        assert_eq!(cache.bytes, 5 + OVERHEAD);
    }
}
