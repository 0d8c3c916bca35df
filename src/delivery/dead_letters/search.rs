//! Finding letters: by their ids, or all that a filter picks, a bounded page at a time.

use std::sync::Arc;

use super::{DeadLetter, DeadLetterId, get, page};
use crate::clock::UnixMillis;
use crate::record::Destination;
use crate::settlement::DeadReason;
use crate::store::{State, StoreError};

/// Letters read from the store at a time: each may hold a record of a megabyte.
const AT_ONCE: usize = 16;

/// What a letter has to be like; what is `None` is not asked about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub destination: Option<Destination>,
    pub reason: Option<DeadReason>,
    /// Died at or after it.
    pub since: Option<UnixMillis>,
}

impl Filter {
    fn picks(&self, letter: &DeadLetter) -> bool {
        self.reason.is_none_or(|reason| reason == letter.reason)
            && self.since.is_none_or(|since| letter.died_at >= since)
    }
}

/// Where a search ends for now.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub letters: usize,
    /// Bytes of letters that have been looked at, whether they were asked for or not (P10).
    pub bytes: usize,
}

/// Letters, and where the next page begins; `None` on the last.
#[derive(Debug, Default)]
pub struct Found {
    pub letters: Vec<(DeadLetterId, DeadLetter)>,
    pub next: Option<DeadLetterId>,
}

/// Oldest first, Mixpanel's before Brevo's, starting after `after`.
pub async fn by_filter(
    state: &Arc<dyn State>,
    filter: &Filter,
    mut after: Option<DeadLetterId>,
    bounds: Bounds,
) -> Result<Found, StoreError> {
    let mut found = Found::default();
    let mut bytes = 0;
    for destination in Destination::ALL {
        let other = filter.destination.is_some_and(|only| only != destination);
        if other || after.is_some_and(|after| after.destination > destination) {
            continue;
        }
        let mut from = after.take_if(|after| after.destination == destination);
        loop {
            let letters = page(state, destination, from, bounds.letters.min(AT_ONCE)).await?;
            if letters.is_empty() {
                break;
            }
            for (id, letter) in letters {
                from = Some(id);
                bytes += letter.bytes();
                if filter.picks(&letter) {
                    found.letters.push((id, letter));
                }
                if found.letters.len() == bounds.letters || bytes >= bounds.bytes {
                    return Ok(Found { next: Some(id), ..found });
                }
            }
        }
    }
    Ok(found)
}

/// Those of `ids` that are held.
pub async fn by_id(state: &Arc<dyn State>, ids: &[DeadLetterId]) -> Result<Found, StoreError> {
    let mut found = Found::default();
    for ids in ids.chunks(AT_ONCE) {
        found.letters.extend(get(state, ids).await?.into_iter().map(|(id, letter, _)| (id, letter)));
    }
    Ok(found)
}
