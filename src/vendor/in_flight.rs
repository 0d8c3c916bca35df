//! Calls under way that a vendor would take twice, written down before they leave (P5).
//!
//! A process that dies takes the answers with it that it has had since its last checkpoint. Its records are sent again by
//! the next one, and nobody can tell which of them had arrived. So such a call leaves when its note is durable, and the note
//! goes with the checkpoint that knows how the call ended. What notes a process finds at its start is what may be there
//! twice: never less than what is, and more where a call had been noted and had not arrived.

use std::fmt;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::record::Destination;
use crate::store::{KeyRange, State, StoreError, Table, Walk, WriteBatch, write_when_there_is_room};

/// Notes read at once.
const PAGE: usize = 500;

/// The note of one call, of which every attempt has a clone.
#[derive(Clone)]
pub struct Note(Arc<Inner>);

struct Inner {
    state: Arc<dyn State>,
    key: Vec<u8>,
    records: u64,
    written: OnceCell<()>,
}

impl Note {
    /// Returns when the call may leave. Only the first attempt has anything to wait for.
    pub async fn written(&self) -> Result<(), StoreError> {
        let Inner { state, key, records, written } = &*self.0;
        let write = || async {
            let mut batch = WriteBatch::new();
            batch.put(Table::Vendors, key.clone(), records.to_be_bytes().to_vec());
            write_when_there_is_room(state.as_ref(), batch).await
        };
        written.get_or_try_init(write).await.copied()
    }

    /// The call has ended, as the checkpoint says that `batch` is written with.
    pub fn end(self, batch: &mut WriteBatch) {
        if self.0.written.initialized() {
            batch.delete(Table::Vendors, self.0.key.clone());
        }
    }
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Note").field("records", &self.0.records).field("written", &self.0.written.get()).finish()
    }
}

/// The notes of one destination.
pub struct InFlight {
    state: Arc<dyn State>,
    destination: Destination,
    /// No note in the store has this number or a higher one.
    next: u64,
}

impl InFlight {
    /// Takes the notes of earlier processes out, with `batch`; returns how many records they were of.
    pub async fn open(
        state: &Arc<dyn State>,
        destination: Destination,
        batch: &mut WriteBatch,
    ) -> Result<(Self, u64), StoreError> {
        let (mut next, mut left) = (0, 0);
        let mut walk = Walk::new(
            state.as_ref(),
            Table::Vendors,
            KeyRange { from: key(destination, 0), to: Some(key(destination, u64::MAX)) },
            PAGE,
        );
        while let Some(notes) = walk.next().await? {
            for (key, value) in notes {
                let number = |bytes: &[u8]| bytes.last_chunk().copied().map(u64::from_be_bytes);
                let (Some(at), Some(records)) = (number(&key), number(&value)) else {
                    return Err(StoreError::Corrupt(format!("a note of a call to {destination}")));
                };
                next = at + 1;
                left += records;
                batch.delete(Table::Vendors, key);
            }
        }
        Ok((Self { state: state.clone(), destination, next }, left))
    }

    /// A note for a call of so many records.
    pub fn begin(&mut self, records: usize) -> Note {
        let key = key(self.destination, self.next);
        self.next += 1;
        Note(Arc::new(Inner { state: self.state.clone(), key, records: records as u64, written: OnceCell::new() }))
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("destination", &self.destination).field("next", &self.next).finish()
    }
}

fn key(destination: Destination, number: u64) -> Vec<u8> {
    let mut key = format!("{}/call ", destination.label()).into_bytes();
    key.extend_from_slice(&number.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;

    const BREVO: Destination = Destination::Brevo;

    #[tokio::test]
    async fn what_was_under_way_is_found_once_and_what_ended_or_never_left_is_not() {
        let (_directory, state) = testing::state();
        let mut batch = WriteBatch::new();
        let (mut calls, left) = InFlight::open(&state, BREVO, &mut batch).await.unwrap();
        assert_eq!(left, 0);
        let [ended, lost, again, waited] = [1, 20, 300, 4_000].map(|records| calls.begin(records));
        for note in [&ended, &lost, &again, &again] {
            note.written().await.unwrap();
        }
        ended.end(&mut batch);
        waited.end(&mut batch);
        state.write(batch).await.unwrap();

        let mut batch = WriteBatch::new();
        let (mut calls, left) = InFlight::open(&state, BREVO, &mut batch).await.unwrap();
        assert_eq!(left, 320);
        assert_eq!(InFlight::open(&state, Destination::Mixpanel, &mut WriteBatch::new()).await.unwrap().1, 0);
        // A call of before the batch is written is not taken for one of the earlier process.
        calls.begin(5).written().await.unwrap();
        state.write(batch).await.unwrap();
        assert_eq!(InFlight::open(&state, BREVO, &mut WriteBatch::new()).await.unwrap().1, 5);
    }
}
