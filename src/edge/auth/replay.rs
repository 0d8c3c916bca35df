//! Ids of signed requests that were used: each is taken once within the signature's tolerance.
//!
//! Held in memory only. After a restart an id could be used a second time for the rest of its five minutes; the
//! records' own `$insert_id`s still make such a replay a duplicate (`docs/decisions/2026-11-24-edge-answers.md`). An id is given back when
//! its request was not stored, because senders retry with the same id.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::xxh3_128;

use super::signature::{SignatureError, TOLERANCE};
use crate::clock::UnixMillis;

/// Ids remembered at once: at 200 signed requests a second, all of the tolerance on both sides of the present.
const CAPACITY: usize = 131_072;

#[derive(Clone, Debug, Default)]
pub(super) struct ReplayGuard(Arc<Mutex<Used>>);

#[derive(Debug, Default)]
struct Used {
    /// Hash of id → when it was taken.
    ids: HashMap<u128, UnixMillis>,
    order: VecDeque<(UnixMillis, u128)>,
}

impl ReplayGuard {
    fn lock(&self) -> MutexGuard<'_, Used> {
        // The map is whole between statements; a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reserve(&self, id: &str, now: UnixMillis) -> Result<Reservation, SignatureError> {
        let key = xxh3_128(id.as_bytes());
        let mut used = self.lock();
        // A timestamp may lie ahead by the tolerance, so its signature is good for twice that.
        while let Some((at, old)) = used.order.front().copied() {
            if now.since(at) <= TOLERANCE * 2 {
                break;
            }
            used.order.pop_front();
            if used.ids.get(&old) == Some(&at) {
                used.ids.remove(&old);
            }
        }
        if used.ids.contains_key(&key) {
            return Err(SignatureError::Replayed);
        }
        if used.order.len() >= CAPACITY {
            return Err(SignatureError::TooMany);
        }
        used.ids.insert(key, now);
        used.order.push_back((now, key));
        Ok(Reservation { guard: self.clone(), key: Some(key) })
    }
}

/// An id that is taken while its request is under way; given back when dropped, unless kept.
#[derive(Debug)]
pub struct Reservation {
    guard: ReplayGuard,
    key: Option<u128>,
}

impl Reservation {
    /// The request was stored: the id stays taken.
    pub fn keep(mut self) {
        self.key = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.guard.lock().ids.remove(&key);
        }
    }
}
