//! The dedup window (CORE 8): which events Brevo has been sent, or will be.
//!
//! An event with an id of its own enters with the position that made the entry; the same key at another position is a
//! duplicate, the same key at the same position is a replay after a crash and goes on. Entries stand in buckets as long
//! as the window, of which the current and the last are looked at; older ones are dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::intake::DedupKeys;
use crate::clock::UnixMillis;
use crate::mapping::DedupKey;
use crate::record::Position;
use crate::store::{State, StoreError, Table, WriteBatch};

pub struct Window {
    length: Duration,
    /// Mixpanel's event stream may bring the same events again, under other keys than their own.
    echoes: bool,
    /// Entries that are not known to be written down, by the page they were handed out with.
    fresh: HashMap<DedupKey, (Position, u64)>,
    dropped_below: u32,
}

impl Window {
    /// `length` of zero switches deduplication off.
    pub fn new(length: Duration, echoes: bool) -> Self {
        Self { length, echoes, fresh: HashMap::new(), dropped_below: 0 }
    }

    pub fn is_off(&self) -> bool {
        self.length.is_zero()
    }

    /// Forgets the key that an event has in what Mixpanel gives back where none may come: no stream is taken, and the event
    /// is not `given_back` by a backfill, now or later.
    pub fn keep_needed(&self, keys: &mut DedupKeys, given_back: bool) {
        if !self.echoes && !given_back {
            keys[1] = None;
        }
    }

    /// Takes the key out by which a pulled event is looked up and never entered: where a project has one `$insert_id` on
    /// many events, those of an export would be taken for one.
    pub fn take_looked_up(&self, keys: &mut DedupKeys) -> Option<DedupKey> {
        keys[1].take_if(|_| !self.echoes)
    }

    /// Whether another position than `position` has brought an event under `key`; `stored` is what the lookup found.
    pub fn knows(&self, key: &DedupKey, position: Position, stored: Option<Position>) -> bool {
        self.entered(key, stored).is_some_and(|first| first != position)
    }

    fn entered(&self, key: &DedupKey, stored: Option<Position>) -> Option<Position> {
        self.fresh.get(key).map(|(first, _)| *first).or(stored)
    }

    fn bucket(&self, at: UnixMillis) -> u32 {
        let length = u64::try_from(self.length.as_millis()).unwrap_or(u64::MAX).max(1);
        u32::try_from(at.0 / length).unwrap_or(u32::MAX)
    }

    /// The keys to look up for events received at `at`.
    pub fn lookups(&self, key: DedupKey, at: UnixMillis) -> [Vec<u8>; 2] {
        let bucket = self.bucket(at);
        [row(bucket, &key), row(bucket.saturating_sub(1), &key)]
    }

    /// Whether `position` repeats an event that another position has brought, under any of its keys; `stored` is what the
    /// lookups found. A new event is entered, and its rows added to `batch`, which `page` will write.
    pub fn repeats(
        &mut self,
        keys: DedupKeys,
        position: Position,
        received_at: UnixMillis,
        stored: [Option<Position>; 2],
        page: u64,
        batch: &mut WriteBatch,
    ) -> bool {
        let entered = |(key, stored): (Option<DedupKey>, Option<Position>)| {
            let key = key?;
            Some((key, self.entered(&key, stored)))
        };
        let entered: Vec<(DedupKey, Option<Position>)> = keys.into_iter().zip(stored).filter_map(entered).collect();
        if entered.iter().any(|(_, first)| first.is_some_and(|first| first != position)) {
            return true;
        }
        for (key, _) in entered.into_iter().filter(|(_, first)| first.is_none()) {
            self.fresh.insert(key, (position, page));
            batch.put(Table::Dedup, row(self.bucket(received_at), &key), position.to_bytes().to_vec());
        }
        false
    }

    /// Forgets what is written down by now and drops buckets that nobody looks at any more.
    pub fn written(&mut self, page: u64, now: UnixMillis, batch: &mut WriteBatch) {
        self.fresh.retain(|_, (_, entered)| *entered > page);
        let oldest_kept = self.bucket(now).saturating_sub(1);
        if oldest_kept > self.dropped_below {
            batch.delete_range(Table::Dedup, Vec::new(), oldest_kept.to_be_bytes().to_vec());
            self.dropped_below = oldest_kept;
        }
    }
}

fn row(bucket: u32, key: &DedupKey) -> Vec<u8> {
    let mut row = bucket.to_be_bytes().to_vec();
    row.extend_from_slice(key);
    row
}

/// What the store knows of `lookups`, two for each event, in order.
pub async fn look_up(state: &Arc<dyn State>, lookups: Vec<[Vec<u8>; 2]>) -> Result<Vec<Option<Position>>, StoreError> {
    let keys = lookups.into_iter().flatten().collect();
    let values = state.get(Table::Dedup, keys).await?;
    let position = |value: &Option<bytes::Bytes>| value.as_deref().and_then(Position::from_bytes);
    Ok(values.chunks(2).map(|pair| pair.iter().find_map(position)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EntryId, Epoch};

    const KEY: DedupKey = [7; 16];
    const HOUR: Duration = Duration::from_secs(3600);

    fn at(index: u32) -> Position {
        Position { epoch: Epoch(1), entry: EntryId(1), index }
    }

    #[test]
    fn a_replay_is_not_its_own_duplicate() {
        let mut window = Window::new(HOUR, false);
        let mut batch = WriteBatch::new();
        let now = UnixMillis(10 * 3_600_000);
        assert!(!window.repeats([Some(KEY), None], at(1), now, [None; 2], 1, &mut batch));
        assert!(window.repeats([Some(KEY), None], at(2), now, [None; 2], 1, &mut batch));
        window.written(1, now, &mut batch);
        // After a crash the store holds the entry, and the record is read again.
        let mut restarted = Window::new(HOUR, false);
        assert!(!restarted.repeats([Some(KEY), None], at(1), now, [Some(at(1)), None], 1, &mut batch));
        assert!(restarted.repeats([Some(KEY), None], at(3), now, [Some(at(1)), None], 1, &mut batch));
    }

    #[test]
    fn an_event_and_its_echo_are_one_whichever_comes_first() {
        const ECHO: DedupKey = [8; 16];
        let now = UnixMillis(10 * 3_600_000);
        for (first, second) in
            [([Some(KEY), Some(ECHO)], [Some(ECHO), None]), ([Some(ECHO), None], [Some(KEY), Some(ECHO)])]
        {
            let (mut window, mut batch) = (Window::new(HOUR, true), WriteBatch::new());
            assert!(!window.repeats(first, at(1), now, [None; 2], 1, &mut batch));
            assert!(window.repeats(second, at(2), now, [None; 2], 1, &mut batch));
            // Neither is its own duplicate when it is read again.
            assert!(!window.repeats(first, at(1), now, [None; 2], 1, &mut batch));
        }
        let (window, mut keys) = (Window::new(HOUR, false), [Some(KEY), Some(ECHO)]);
        window.keep_needed(&mut keys, true);
        assert_eq!(keys, [Some(KEY), Some(ECHO)]);
        window.keep_needed(&mut keys, false);
        assert_eq!(keys, [Some(KEY), None]);
    }

    #[test]
    fn a_key_is_found_in_this_bucket_and_the_last() {
        let window = Window::new(HOUR, false);
        let entered = row(window.bucket(UnixMillis(5 * 3_600_000)), &KEY);
        assert!(window.lookups(KEY, UnixMillis(5 * 3_600_000 + 1)).contains(&entered));
        assert!(window.lookups(KEY, UnixMillis(6 * 3_600_000 + 1)).contains(&entered));
        assert!(!window.lookups(KEY, UnixMillis(7 * 3_600_000 + 1)).contains(&entered));
    }
}
