//! Lanes: how the Mixpanel leg keeps order and still sends the largest legal batches. Pure.
//!
//! A lane has one call under way at a time, so what it sends stays in order; lanes run beside each other. Events are
//! spread over [`EVENT_LANES`] lanes by device, because the first event that names a user wins the device (contract §6).
//! Identity events and profile updates share one lane, groups have their own: order per id holds across calls there,
//! and within the lane a batch may overtake records of *other* ids to become large. Not in projects of the original ID-merge
//! mode: there any two ids may have become one person long ago, so nothing overtakes anything.

use std::collections::{HashSet, VecDeque};

use crate::config::IdentityMode;
use crate::delivery::books::Item;
use crate::mixpanel::calls::{Call, MAX_BYTES, MAX_RECORDS};
use crate::mixpanel::keys::{self, Key};
use crate::record::{EntryId, Kind, Project};

/// Enough to keep a distant vendor busy at the project's own limit: 4 × 2,000 events per 200 ms round trip.
pub const EVENT_LANES: usize = 4;

/// How far a batch looks for records of its call. Bounds the work per batch.
const LOOKAHEAD: usize = 3 * MAX_RECORDS;

#[derive(Debug)]
struct Queued {
    item: Item,
    call: Call,
    /// Ids that this record must stay in order with; empty in event lanes, which never reorder.
    keys: Vec<Key>,
}

/// Records of one call, in order.
#[derive(Debug)]
pub struct Batch {
    pub call: Call,
    pub items: Vec<Item>,
}

impl Batch {
    /// Two halves, the first of which has to be sent first. `Err` gives the batch back when there is nothing to halve.
    pub fn split(mut self) -> Result<(Batch, Batch), Batch> {
        if self.items.len() < 2 {
            return Err(self);
        }
        let second = self.items.split_off(self.items.len() / 2);
        let call = self.call;
        Ok((self, Batch { call, items: second }))
    }

    /// Takes out what stands in the journal below `below`.
    pub fn remove_below(&mut self, below: EntryId) -> Vec<Item> {
        let (old, kept) = std::mem::take(&mut self.items).into_iter().partition(|item| stands_below(item, below));
        self.items = kept;
        old
    }
}

#[derive(Debug, Default)]
struct Lane {
    queue: VecDeque<Queued>,
    /// Pieces of a refused batch, to be sent before anything else, in this order.
    pieces: VecDeque<Batch>,
    busy: bool,
}

impl Lane {
    fn take(&mut self, overtaking: bool) -> Option<Batch> {
        if self.busy {
            return None;
        }
        let batch = self.pieces.pop_front().or_else(|| self.pack(overtaking))?;
        self.busy = true;
        Some(batch)
    }

    /// The largest batch of the front record's call. Records of other calls stay, and keep every later record that shares
    /// an id with them; none may be passed over where `overtaking` is off.
    fn pack(&mut self, overtaking: bool) -> Option<Batch> {
        let call = self.queue.front()?.call;
        let mut batch = Batch { call, items: Vec::new() };
        let mut passed: Vec<Queued> = Vec::new();
        let mut held: HashSet<Key> = HashSet::new();
        let mut bytes = 0;
        for _ in 0..LOOKAHEAD.min(self.queue.len()) {
            let Some(next) = self.queue.front() else { break };
            let fits = batch.items.is_empty() || bytes + next.item.record.body.len() < MAX_BYTES;
            let stays = next.call != call && !overtaking;
            if batch.items.len() == MAX_RECORDS || !fits || stays {
                break;
            }
            let Some(next) = self.queue.pop_front() else { break };
            if next.call == call && next.keys.iter().all(|key| !held.contains(key)) {
                bytes += next.item.record.body.len() + 1;
                batch.items.push(next.item);
            } else {
                held.extend(&next.keys);
                passed.push(next);
            }
        }
        for queued in passed.into_iter().rev() {
            self.queue.push_front(queued);
        }
        Some(batch)
    }
}

/// Names a lane; only handed out with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneId(usize);

const ORDERED: usize = EVENT_LANES;
const GROUPS: usize = EVENT_LANES + 1;

#[derive(Debug)]
pub struct Lanes {
    lanes: [Lane; EVENT_LANES + 2],
    can_import: bool,
    overtaking: bool,
}

impl Lanes {
    /// `can_import`: whether events of our own project go through `/import`.
    pub fn new(can_import: bool, identity: IdentityMode) -> Self {
        Self { lanes: Default::default(), can_import, overtaking: identity == IdentityMode::Simplified }
    }

    pub fn push(&mut self, item: Item) {
        let record = &item.record;
        let own = record.project == Project::Ours;
        let (lane, call) = match record.kind {
            Kind::Event => {
                let lane = (keys::event_key(&record.body) % EVENT_LANES as u64) as usize;
                (lane, if own && self.can_import { Call::Import } else { Call::Track })
            }
            Kind::Identity if own && self.can_import && is_merge(&record.body) => (ORDERED, Call::Merge),
            Kind::Identity => (ORDERED, Call::Identity),
            Kind::Profile if keys::additive(&record.body) => (ORDERED, Call::EngageAdditive),
            Kind::Profile => (ORDERED, Call::Engage),
            Kind::Group => (GROUPS, Call::Groups),
        };
        // A lane with one kind of call sends in order of arrival; ids matter only where calls can pass each other.
        let keys = if lane == ORDERED { keys::ordered_keys(record) } else { Vec::new() };
        self.lanes[lane].queue.push_back(Queued { item, call, keys });
    }

    /// The next batch of every idle lane that has one. Each lane given out is busy until [`Lanes::done`].
    pub fn take(&mut self) -> Vec<(LaneId, Batch)> {
        let overtaking = self.overtaking;
        let ready = |(index, lane): (usize, &mut Lane)| lane.take(overtaking).map(|batch| (LaneId(index), batch));
        self.lanes.iter_mut().enumerate().filter_map(ready).collect()
    }

    /// The lane's batch is settled.
    pub fn done(&mut self, lane: LaneId) {
        self.lanes[lane.0].busy = false;
    }

    /// The lane's batch was called back without having been sent: what is left of it goes first.
    pub fn put_back(&mut self, lane: LaneId, batch: Batch) {
        let lane = &mut self.lanes[lane.0];
        if !batch.items.is_empty() {
            lane.pieces.push_front(batch);
        }
        lane.busy = false;
    }

    /// Takes out what stands in the journal below `below`.
    pub fn remove_below(&mut self, below: EntryId) -> Vec<Item> {
        let mut removed = Vec::new();
        for lane in &mut self.lanes {
            for batch in &mut lane.pieces {
                removed.extend(batch.remove_below(below));
            }
            lane.pieces.retain(|batch| !batch.items.is_empty());
            let (old, kept) =
                std::mem::take(&mut lane.queue).into_iter().partition(|queued| stands_below(&queued.item, below));
            lane.queue = kept;
            let old: VecDeque<Queued> = old;
            removed.extend(old.into_iter().map(|queued| queued.item));
        }
        removed
    }

    /// The lane's batch was refused: its pieces go first.
    pub fn redo(&mut self, lane: LaneId, pieces: (Batch, Batch)) {
        let lane = &mut self.lanes[lane.0];
        lane.pieces.push_front(pieces.1);
        lane.pieces.push_front(pieces.0);
        lane.busy = false;
    }
}

/// Letters that are sent again are not in the journal: letting go of them would make no room there.
fn stands_below(item: &Item, below: EntryId) -> bool {
    !item.ticket.is_replay() && item.position.entry < below
}

fn is_merge(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        event: std::borrow::Cow<'a, str>,
    }
    serde_json::from_slice::<Named<'_>>(body).is_ok_and(|named| named.event == "$merge")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::clock::UnixMillis;
    use crate::delivery::ledger::{Ledger, Limits};
    use crate::record::{Destinations, Epoch, Origin, Position, Record};

    fn items(bodies: &[(Kind, String)]) -> Vec<Item> {
        let start = Position { epoch: Epoch(1), entry: EntryId(1), index: 0 };
        let mut ledger = Ledger::resume(start, vec![], Limits::default());
        let mut items = Vec::new();
        for (index, (kind, body)) in (0u32..).zip(bodies) {
            let position = Position { index, ..start };
            let record = Record {
                kind: *kind,
                origin: Origin::App,
                destinations: Destinations::ALL,
                project: Project::Ours,
                received_at: UnixMillis(1),
                body: Bytes::from(body.clone()),
            };
            let ticket = ledger.admit(position, UnixMillis(1), 100).unwrap();
            items.push(Item { ticket, position, record, again: None });
        }
        items
    }

    fn profile(id: u8) -> (Kind, String) {
        (Kind::Profile, format!(r#"{{"$distinct_id":"{id}","$set":{{"a":1}}}}"#))
    }

    fn add(id: u8) -> (Kind, String) {
        (Kind::Profile, format!(r#"{{"$distinct_id":"{id}","$add":{{"a":1}}}}"#))
    }

    fn identify(user: u8, device: u8) -> (Kind, String) {
        let body = format!(
            r#"{{"event":"$identify","properties":{{"distinct_id":"{user}","$anon_distinct_id":"{device}"}}}}"#
        );
        (Kind::Identity, body)
    }

    #[test]
    fn a_batch_passes_other_calls_but_not_the_same_id() {
        let mut lanes = Lanes::new(true, IdentityMode::Simplified);
        for item in items(&[profile(1), add(2), profile(3), profile(2), add(3)]) {
            lanes.push(item);
        }
        let mut sent = Vec::new();
        while let Some((lane, batch)) = lanes.take().pop() {
            sent.push((batch.call, batch.items.iter().map(|item| item.position.index).collect::<Vec<_>>()));
            lanes.done(lane);
        }
        assert_eq!(sent, [(Call::Engage, vec![0, 2]), (Call::EngageAdditive, vec![1, 4]), (Call::Engage, vec![3]),]);
    }

    /// P4, per person from the link on. Ids 1 and 2 have been one person's for long, and 3 joins them: the last update, by 1,
    /// must not overtake the one by 3, which has to wait for the link.
    #[test]
    fn order_holds_per_person_in_an_original_project() {
        let mut lanes = Lanes::new(true, IdentityMode::Original);
        for item in items(&[profile(1), identify(2, 3), profile(3), profile(1), add(1), profile(2)]) {
            lanes.push(item);
        }
        let mut sent = Vec::new();
        while let Some((lane, batch)) = lanes.take().pop() {
            sent.extend(batch.items.iter().map(|item| item.position.index));
            lanes.done(lane);
        }
        assert_eq!(sent, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_busy_lane_gives_nothing_out_and_pieces_go_first() {
        let mut lanes = Lanes::new(true, IdentityMode::Simplified);
        for item in items(&[profile(1), profile(2), profile(3)]) {
            lanes.push(item);
        }
        let (lane, batch) = lanes.take().pop().unwrap();
        assert!(lanes.take().is_empty());
        lanes.redo(lane, batch.split().unwrap());
        let (lane, first) = lanes.take().pop().unwrap();
        assert_eq!(first.items[0].position.index, 0);
        lanes.done(lane);
        let (_, second) = lanes.take().pop().unwrap();
        assert_eq!(second.items.iter().map(|i| i.position.index).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn batches_keep_to_the_limits() {
        let big = format!(r#"{{"event":"e","properties":{{"distinct_id":"d","x":"{}"}}}}"#, "x".repeat(900_000));
        let mut lanes = Lanes::new(true, IdentityMode::Simplified);
        for item in items(&vec![(Kind::Event, big); 25]) {
            lanes.push(item);
        }
        let mut seen = 0;
        while let Some((lane, batch)) = lanes.take().pop() {
            assert!(batch.items.iter().map(|i| i.record.body.len()).sum::<usize>() <= MAX_BYTES);
            seen += batch.items.len();
            lanes.done(lane);
        }
        assert_eq!(seen, 25);
    }

    proptest! {
        /// Whatever the mixture, each id's profile and identity records are sent in order, and none is lost.
        #[test]
        fn order_holds_per_id(choice in proptest::collection::vec((0u8..4, 0u8..5, 5u8..8), 1..60)) {
            let bodies: Vec<_> = choice
                .iter()
                .map(|(what, user, device)| match what {
                    0 => profile(*user),
                    1 => add(*device),
                    2 => profile(*device),
                    _ => identify(*user, *device),
                })
                .collect();
            let all = items(&bodies);
            let mut expected: HashMap<Key, Vec<u32>> = HashMap::new();
            let mut lanes = Lanes::new(true, IdentityMode::Simplified);
            for item in all {
                for key in keys::ordered_keys(&item.record) {
                    expected.entry(key).or_default().push(item.position.index);
                }
                lanes.push(item);
            }
            let mut actual: HashMap<Key, Vec<u32>> = HashMap::new();
            let mut turn = 0;
            while let Some((lane, batch)) = lanes.take().pop() {
                turn += 1;
                if turn % 3 == 0 && batch.items.len() > 1 {
                    lanes.redo(lane, batch.split().unwrap());
                    continue;
                }
                for item in batch.items {
                    for key in keys::ordered_keys(&item.record) {
                        actual.entry(key).or_default().push(item.position.index);
                    }
                }
                lanes.done(lane);
            }
            prop_assert_eq!(actual, expected);
        }
    }
}
