//! The newest entries as they were before compression. A leg that keeps up reads from here what it would otherwise ask
//! the file for, decompress and check, and two legs share one copy of every record's bytes.
//!
//! Holds only entries that are durable, in order and without gaps. Personal data: whole records, in memory alone and
//! bounded by [`MAX_BYTES`]; what is trimmed is forgotten here too.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::record::{EntryId, Epoch, Record};
use crate::store::{Entry, block};

/// A few reads of a leg: who is further behind reads the file.
const MAX_BYTES: usize = 8 << 20;

/// An entry.
pub(super) struct Held {
    pub id: EntryId,
    pub epoch: Epoch,
    pub records: u32,
    pub content: Content,
}

/// What an entry's block was made of.
#[derive(Clone)]
pub(super) enum Content {
    /// See [`block`]. Small requests were packed into it, so that none of their buffers is held.
    Payload(Bytes),
    /// Of one large request, as slices of its body, and how many bytes they would be as a payload.
    Records(Arc<[Record]>, usize),
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Content::Payload(payload) => payload.len(),
            Content::Records(_, bytes) => *bytes,
        }
    }

    fn records(&self, count: u32) -> Option<Vec<Record>> {
        match self {
            Content::Payload(payload) => block::decode_payload(payload, count).ok(),
            Content::Records(records, _) => Some(records.to_vec()),
        }
    }
}

#[derive(Default)]
pub(super) struct Recent(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    entries: VecDeque<Held>,
    bytes: usize,
}

impl Recent {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in entries that have become durable and forgets the oldest.
    pub(super) fn push(&self, entries: Vec<Held>) {
        let mut inner = self.inner();
        for entry in entries {
            inner.bytes += entry.content.len();
            inner.entries.push_back(entry);
        }
        while inner.bytes > MAX_BYTES && inner.pop_front() {}
    }

    pub(super) fn forget_below(&self, below: EntryId) {
        let mut inner = self.inner();
        while inner.entries.front().is_some_and(|entry| entry.id < below) && inner.pop_front() {}
    }

    /// Entries from `from` on, as [`crate::store::Journal::read`] gives them. `None` when `from` is not held.
    pub(super) fn read(&self, from: EntryId, max_bytes: usize) -> Option<Vec<Entry>> {
        let mut found = Vec::new();
        {
            let inner = self.inner();
            let first = inner.entries.front()?.id;
            let at = usize::try_from(from.0.checked_sub(first.0)?).ok()?;
            let mut bytes = 0;
            for entry in inner.entries.iter().skip(at) {
                found.push((entry.id, entry.epoch, entry.records, entry.content.clone()));
                bytes += entry.content.len();
                if bytes >= max_bytes {
                    break;
                }
            }
        }
        // What cannot be read here is left to the file, which reports damage.
        let decode = |(id, epoch, count, content): (EntryId, Epoch, u32, Content)| {
            Some(Entry { epoch, id, records: content.records(count)?, lost: 0 })
        };
        let entries: Vec<_> = found.into_iter().map_while(decode).collect();
        if entries.is_empty() { None } else { Some(entries) }
    }
}

impl Inner {
    fn pop_front(&mut self) -> bool {
        let popped = self.entries.pop_front();
        self.bytes -= popped.as_ref().map_or(0, |entry| entry.content.len());
        popped.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::record::{Destinations, Kind, Origin, Project};

    fn held(id: u64, bytes: usize) -> Held {
        let record = Record {
            kind: Kind::Event,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: UnixMillis(id),
            body: Bytes::from(vec![b'x'; bytes]),
        };
        let mut payload = Vec::new();
        block::push_record(&mut payload, &record);
        Held { id: EntryId(id), epoch: Epoch(1), records: 1, content: Content::Payload(payload.into()) }
    }

    fn ids(read: Option<Vec<Entry>>) -> Option<Vec<u64>> {
        read.map(|entries| entries.iter().map(|entry| entry.id.0).collect())
    }

    #[test]
    fn what_is_held_is_read_in_order_up_to_the_bound() {
        let recent = Recent::default();
        assert_eq!(ids(recent.read(EntryId(1), 100)), None);
        recent.push((5..9).map(|id| held(id, 100)).collect());
        assert_eq!(ids(recent.read(EntryId(4), 1)), None, "older entries are in the file");
        assert_eq!(ids(recent.read(EntryId(5), 1)), Some(vec![5]), "at least one");
        assert_eq!(ids(recent.read(EntryId(6), 10_000)), Some(vec![6, 7, 8]));
        assert_eq!(ids(recent.read(EntryId(9), 1)), None);
        recent.forget_below(EntryId(7));
        assert_eq!(ids(recent.read(EntryId(6), 1)), None, "trimmed");
        assert_eq!(ids(recent.read(EntryId(7), 1)), Some(vec![7]));
    }

    #[test]
    fn the_oldest_make_room() {
        let recent = Recent::default();
        recent.push((1..4).map(|id| held(id, MAX_BYTES / 2)).collect());
        assert_eq!(ids(recent.read(EntryId(2), 1)), None);
        assert_eq!(ids(recent.read(EntryId(3), 1)), Some(vec![3]));
        recent.push(vec![held(4, 2 * MAX_BYTES)]);
        assert_eq!(ids(recent.read(EntryId(4), 1)), None, "too large to be kept at all");
    }
}
