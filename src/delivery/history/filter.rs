//! Which pieces of the journal may hold a record of somebody: small filters over what records are looked for by.
//!
//! A filter covers neighbouring entries and holds hashes of every `$insert_id`, id and address in them. It may say yes
//! where there is nothing (once in three hundred times), never no where there is something. It follows from the entries
//! alone, so it is true whenever it is written; entries that no filter covers are read: the newest, those that were on their way into one
//! when a process was killed, those among which somebody was erased.
//!
//! ```text
//! epoch, last entry → version, number of bits per hash, first entry, bits
//! ```

use xxhash_rust::xxh3::xxh3_64;

use crate::mixpanel::keys;
use crate::record::{EntryId, Epoch, Position, Record};
use crate::store::{KeyRange, State, StoreError, Table, Walk, WriteBatch, write_when_there_is_room};

const VERSION: u8 = 1;
/// A filter is written once it holds so many different hashes: about a thousand records.
const MOST_HASHES: usize = 2_048;
/// And covers no more entries, however little is in them.
const MOST_ENTRIES: u64 = 4_096;
/// Bits of a filter for each hash, and how many of them a hash sets.
const BITS: usize = 12;
const SET: u8 = 6;
const HEAD: usize = 10;
/// Filters that are looked through at once.
const FILTERS: usize = 500;

/// What is looked for by: an `$insert_id`, an id without `$device:`, or an address in lower case.
pub fn hash(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

/// Calls `each` with the hash of everything by which the record can be found. False when that may not be all.
fn hashes(record: &Record, mut each: impl FnMut(u64)) -> bool {
    keys::names(record.kind, &record.body, |name| each(hash(name)));
    keys::addresses(&record.body, |address| each(hash(address)))
}

/// The filter that is being made.
#[derive(Debug)]
struct Making {
    epoch: Epoch,
    first: EntryId,
    last: EntryId,
    /// False: something of these entries cannot be found by hashes.
    whole: bool,
    hashes: Vec<u64>,
}

/// Filters on their way into the state.
#[derive(Debug, Default)]
pub struct Filters {
    making: Option<Making>,
    made: Vec<Making>,
}

impl Filters {
    /// An entry begins whose records are handed to [`Self::take`] next.
    pub fn begin(&mut self, epoch: Epoch, entry: EntryId) {
        let follows = |making: &Making| making.epoch == epoch && making.last.next() == entry;
        if !self.making.as_ref().is_some_and(follows) || self.is_full() {
            self.close();
        }
        match &mut self.making {
            Some(making) => making.last = entry,
            None => {
                self.making = Some(Making { epoch, first: entry, last: entry, whole: true, hashes: Vec::new() });
            }
        }
    }

    pub fn take(&mut self, record: &Record) {
        if let Some(making) = &mut self.making {
            making.whole &= hashes(record, |hash| making.hashes.push(hash));
        }
    }

    /// A person's ids come again and again: only where there are many hashes are those counted that differ.
    fn is_full(&mut self) -> bool {
        let Some(making) = &mut self.making else { return false };
        if making.last.0 - making.first.0 >= MOST_ENTRIES {
            return true;
        }
        if making.hashes.len() < MOST_HASHES {
            return false;
        }
        making.hashes.sort_unstable();
        making.hashes.dedup();
        making.hashes.len() >= MOST_HASHES / 2
    }

    /// Ends the one that is being made.
    pub fn close(&mut self) {
        self.made.extend(self.making.take());
    }

    pub fn write(&mut self, batch: &mut WriteBatch) {
        for made in self.made.drain(..).filter(|made| made.whole) {
            let last = Position { epoch: made.epoch, entry: made.last, index: 0 };
            batch.put(Table::Filters, key(last), Filter::of(made.first, made.hashes).0);
        }
    }
}

pub fn key(last: Position) -> Vec<u8> {
    last.to_bytes()[..12].to_vec()
}

/// Forgets the filters that may hold one of `names`: what they cover is read from now on.
pub async fn forget_named(state: &dyn State, names: &[&str]) -> Result<(), StoreError> {
    let hashes: Vec<u64> = names.iter().map(|name| hash(name.strip_prefix("$device:").unwrap_or(name))).collect();
    let mut walk = Walk::new(state, Table::Filters, KeyRange::all(), FILTERS);
    while let Some(rows) = walk.next().await? {
        let mut batch = WriteBatch::new();
        for (key, value) in rows {
            let filter = Filter::decode(&value)?;
            if hashes.iter().any(|hash| filter.may_hold(*hash)) {
                batch.delete(Table::Filters, key);
            }
        }
        if !batch.is_empty() {
            write_when_there_is_room(state, batch).await?;
        }
    }
    Ok(())
}

/// A filter as it is stored.
#[derive(Clone, Debug)]
pub struct Filter(Vec<u8>);

impl Filter {
    fn of(first: EntryId, mut hashes: Vec<u64>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        let mut bytes = vec![VERSION, SET];
        bytes.extend_from_slice(&first.0.to_le_bytes());
        bytes.resize(HEAD + (hashes.len() * BITS).div_ceil(8).max(1), 0);
        let mut filter = Self(bytes);
        for hash in hashes {
            for bit in filter.bits(hash) {
                filter.0[HEAD + bit / 8] |= 1 << (bit % 8);
            }
        }
        filter
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        if bytes.len() <= HEAD || bytes[0] != VERSION {
            return Err(StoreError::Corrupt("a filter of history".to_owned()));
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The first entry that it covers.
    pub fn first(&self) -> EntryId {
        EntryId(self.0[2..HEAD].try_into().map_or(0, u64::from_le_bytes))
    }

    pub fn may_hold(&self, hash: u64) -> bool {
        self.bits(hash).all(|bit| self.0[HEAD + bit / 8] & (1 << (bit % 8)) != 0)
    }

    fn bits(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let bits = ((self.0.len() - HEAD) * 8) as u64;
        // Two halves of one hash do for as many as are wanted (Kirsch and Mitzenmacher).
        let (start, step) = (hash & 0xffff_ffff, (hash >> 32) | 1);
        (0..u64::from(self.0[1])).map(move |n| (start.wrapping_add(n.wrapping_mul(step)) % bits) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_never_says_no_to_what_it_holds_and_seldom_yes_to_the_rest() {
        for count in [1, 10, 2_048, 9_000] {
            let held: Vec<u64> = (0..count).map(|n| hash(&format!("held-{n}"))).collect();
            let filter = Filter::of(EntryId(7), held.clone());
            let filter = Filter::decode(&filter.0).unwrap();
            assert_eq!(filter.first(), EntryId(7));
            assert!(held.iter().all(|hash| filter.may_hold(*hash)));
            let wrong = (0..10_000).filter(|n| filter.may_hold(hash(&format!("other-{n}")))).count();
            assert!(count == 1 || wrong < 100, "{count} held: {wrong} of 10,000 others");
        }
        assert!(Filter::decode(&[]).is_err() && Filter::decode(&[VERSION + 1; 40]).is_err());
    }
}
