//! Letters that are on their way again: rows of the same table under keys of their own, so that moving a letter is one
//! write and counts it in exactly one place.
//!
//! Rows come to be only while the leg stands back ([`crate::delivery::shift`]), so a leg that runs reads each of them once,
//! in order, and never looks back.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::{DeadLetter, DeadLetterId, Replay, decode_row};
use crate::clock::UnixMillis;
use crate::record::{Destination, Position};
use crate::store::{KeyRange, State, StoreError, Table, WriteBatch};

/// Letters read at a time; the next are read when these are settled.
const AT_ONCE: usize = 200;
/// Letters read at a time may take this many bytes: the rest of a page is read again.
const BYTES_AT_ONCE: usize = 4 << 20;

fn prefix(destination: Destination) -> Vec<u8> {
    match destination {
        Destination::Mixpanel => vec![b'M'],
        Destination::Brevo => vec![b'B'],
    }
}

fn key(id: DeadLetterId) -> Vec<u8> {
    let mut key = prefix(id.destination);
    key.extend_from_slice(&id.position.to_bytes());
    key
}

/// Moves a letter that is held to those on their way.
pub fn send(id: DeadLetterId, letter: DeadLetter, replay: Replay, batch: &mut WriteBatch) -> Result<(), StoreError> {
    super::delete(id, batch);
    let letter = DeadLetter { replay: Some(replay), ..letter };
    batch.put(Table::DeadLetters, key(id), letter.encode()?);
    Ok(())
}

/// The letter is there: whatever has become of its record is counted by who calls this.
pub fn arrived(id: DeadLetterId, batch: &mut WriteBatch) {
    batch.delete(Table::DeadLetters, key(id));
}

/// A letter, if it is on its way.
pub async fn find(state: &Arc<dyn State>, id: DeadLetterId) -> Result<Option<DeadLetter>, StoreError> {
    let row = state.get(Table::DeadLetters, vec![key(id)]).await?.into_iter().flatten().next();
    row.map(|value| super::decode(id, &value)).transpose()
}

/// How many letters are on their way to `destination`, and since when the first of them is.
pub async fn on_their_way(
    state: &Arc<dyn State>,
    destination: Destination,
) -> Result<(u64, Option<UnixMillis>), StoreError> {
    let (count, _) = state.count(Table::DeadLetters, KeyRange::prefix(prefix(destination))).await?;
    let first = page(state, destination, None, 1).await?;
    Ok((count, first.first().and_then(|(_, letter)| letter.replay).map(|replay| replay.at)))
}

/// Up to `limit` letters on their way to `destination`, oldest position first, starting after `after`.
pub async fn page(
    state: &Arc<dyn State>,
    destination: Destination,
    after: Option<Position>,
    limit: usize,
) -> Result<Vec<(DeadLetterId, DeadLetter)>, StoreError> {
    let mut range = KeyRange::prefix(prefix(destination));
    if let Some(position) = after {
        range = range.after(key(DeadLetterId { destination, position }));
    }
    let pairs = state.scan(Table::DeadLetters, range, limit).await?;
    pairs.into_iter().map(|(key, value)| decode_row(&prefix(destination), destination, &key, &value)).collect()
}

/// A leg's reading end of the letters that are on their way to it.
pub struct Replays {
    state: Arc<dyn State>,
    destination: Destination,
    after: Option<Position>,
    done: bool,
    reading: Option<Reading>,
}

type Reading = BoxFuture<'static, Result<Vec<(DeadLetterId, DeadLetter)>, StoreError>>;

impl Replays {
    pub fn new(state: Arc<dyn State>, destination: Destination) -> Self {
        Self { state, destination, after: None, done: false, reading: None }
    }

    /// The next letters, each once; pends for ever when there are no more. Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<(DeadLetterId, DeadLetter)>, StoreError> {
        while !self.done {
            let reading = self.reading.get_or_insert_with(|| {
                let (state, destination, after) = (self.state.clone(), self.destination, self.after);
                Box::pin(async move { page(&state, destination, after, AT_ONCE).await })
            });
            let mut letters = reading.await?;
            self.reading = None;
            self.done = letters.len() < AT_ONCE;
            let mut bytes = 0;
            let fitting = letters.iter().take_while(|(_, letter)| {
                let fits = bytes < BYTES_AT_ONCE;
                bytes += letter.record.len();
                fits
            });
            let fitting = fitting.count();
            self.done &= fitting == letters.len();
            letters.truncate(fitting);
            if let Some((last, _)) = letters.last() {
                self.after = Some(last.position);
                return Ok(letters);
            }
        }
        std::future::pending().await
    }
}
