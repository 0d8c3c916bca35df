//! Dead letters: records that a vendor refused for good, kept with the reason, the vendor's answer and the record's bytes.
//!
//! A letter is *held* until somebody purges it, or replays it. A replay moves its row, in one write, to those that are *on
//! their way* ([`replay`]): the record is backlog again, under its old id, and was not accepted a second time (CORE 9).

pub mod later;
pub mod old;
pub mod orders;
pub mod replay;
pub mod search;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::UnixMillis;
use crate::record::{Destination, Kind, Origin, Position, Project, Record};
use crate::settlement::DeadReason;
use crate::store::{KeyRange, State, StoreError, Table, WriteBatch};

/// Longest piece of a vendor's answer that is kept.
pub const MAX_ANSWER: usize = 2048;

/// A dead letter's name: its destination and the position of the record. It stays the same through replays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeadLetterId {
    pub destination: Destination,
    pub position: Position,
}

impl DeadLetterId {
    fn key(self) -> Vec<u8> {
        let mut key = prefix(self.destination);
        key.extend_from_slice(&self.position.to_bytes());
        key
    }

    #[cfg(test)]
    fn from_key(key: &[u8]) -> Option<Self> {
        let destination = Destination::ALL.into_iter().find(|d| key.starts_with(&prefix(*d)))?;
        Some(Self { destination, position: Position::from_bytes(&key[1..])? })
    }
}

fn prefix(destination: Destination) -> Vec<u8> {
    vec![destination.code()]
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.destination, self.position)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a dead letter: it looks like mixpanel-1.42.0")]
pub struct NotAnId;

impl FromStr for DeadLetterId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let (destination, position) = text.split_once('-').ok_or(NotAnId)?;
        let destination = Destination::ALL.into_iter().find(|d| d.label() == destination).ok_or(NotAnId)?;
        Ok(Self { destination, position: position.parse().map_err(|_| NotAnId)? })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub kind: Kind,
    pub origin: Origin,
    pub reason: DeadReason,
    /// The vendor's answer about this record, at most [`MAX_ANSWER`] bytes.
    pub answer: String,
    pub received_at: UnixMillis,
    pub died_at: UnixMillis,
    /// The record's bytes, which are UTF-8 JSON.
    pub record: String,
    /// Of another project than ours ([`Project::Foreign`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign: bool,
    /// There for a contact or a company whose write was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<RefusedWrite>,
    /// There while the letter is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
}

/// What a write would have told Brevo of a person or a group. Several records may be behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedWrite {
    /// Attributes whose values were owed, by Brevo's names.
    pub attributes: BTreeSet<String>,
    /// An address, a number or an id was owed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub identifiers: bool,
    /// Brevo was to be told that the person has withdrawn their consent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawal: bool,
    /// The group's company, or a deleted profile's contact, was to go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deletion: bool,
}

/// How a letter is to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    pub at: UnixMillis,
    /// Send an event however old it is (CORE 10).
    #[serde(default)]
    pub trigger_automations: bool,
}

impl DeadLetter {
    pub fn new(record: &Record, reason: DeadReason, answer: &str, now: UnixMillis) -> Self {
        let mut end = answer.len().min(MAX_ANSWER);
        while !answer.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            kind: record.kind,
            origin: record.origin,
            reason,
            answer: answer[..end].to_owned(),
            received_at: record.received_at,
            died_at: now,
            record: String::from_utf8_lossy(&record.body).into_owned(),
            foreign: record.project == Project::Foreign,
            write: None,
            replay: None,
        }
    }

    /// The letter of a write that was refused.
    pub fn of_write(self, write: RefusedWrite) -> Self {
        Self { write: Some(write), ..self }
    }

    /// The record as it goes to `destination` again. Its origin stays with it on a shelf, where it says as much of a replay as
    /// there is to know.
    pub fn to_record(&self, destination: Destination) -> Record {
        let triggers = self.replay.is_some_and(|replay| replay.trigger_automations);
        Record {
            kind: self.kind,
            origin: match self.origin {
                // How the body is to be read goes with it; a row sets off nothing.
                Origin::Dataset => Origin::Dataset,
                _ if triggers => Origin::ReplayToTrigger,
                _ => Origin::Replay,
            },
            destinations: destination.into(),
            project: if self.foreign { Project::Foreign } else { Project::Ours },
            received_at: self.received_at,
            body: self.record.clone().into(),
        }
    }

    /// Adds the letter to `batch`; returns how many bytes it will hold.
    pub fn put(&self, destination: Destination, position: Position, batch: &mut WriteBatch) -> Result<u64, StoreError> {
        let value = self.encode()?;
        let bytes = value.len() as u64;
        batch.put(Table::DeadLetters, DeadLetterId { destination, position }.key(), value);
        Ok(bytes)
    }

    /// What it costs to hold in memory, about.
    pub fn bytes(&self) -> usize {
        self.record.len() + self.answer.len()
    }

    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(self).map_err(|e| StoreError::Failed(e.to_string()))
    }
}

/// How many letters are held for `destination`, and their bytes.
pub async fn held(state: &Arc<dyn State>, destination: Destination) -> Result<(u64, u64), StoreError> {
    state.count(Table::DeadLetters, KeyRange::prefix(prefix(destination))).await
}

/// Up to `limit` letters of `destination`, oldest position first, starting after `after`.
pub async fn page(
    state: &Arc<dyn State>,
    destination: Destination,
    after: Option<DeadLetterId>,
    limit: usize,
) -> Result<Vec<(DeadLetterId, DeadLetter)>, StoreError> {
    let mut range = KeyRange::prefix(prefix(destination));
    if let Some(after) = after {
        range = range.after(after.key());
    }
    let pairs = state.scan(Table::DeadLetters, range, limit).await?;
    pairs.into_iter().map(|(key, value)| decode_row(&prefix(destination), destination, &key, &value)).collect()
}

/// Those of `ids` that are held, with how many bytes each takes.
pub async fn get(
    state: &Arc<dyn State>,
    ids: &[DeadLetterId],
) -> Result<Vec<(DeadLetterId, DeadLetter, u64)>, StoreError> {
    let values = state.get(Table::DeadLetters, ids.iter().map(|id| id.key()).collect()).await?;
    let mut letters = Vec::with_capacity(ids.len());
    for (id, value) in ids.iter().zip(values) {
        if let Some(value) = value {
            letters.push((*id, decode(*id, &value)?, value.len() as u64));
        }
    }
    Ok(letters)
}

fn decode_row(
    prefix: &[u8],
    destination: Destination,
    key: &[u8],
    value: &[u8],
) -> Result<(DeadLetterId, DeadLetter), StoreError> {
    let position = key.strip_prefix(prefix).and_then(Position::from_bytes);
    let position = position.ok_or_else(|| StoreError::Corrupt("key of a dead letter".to_owned()))?;
    let id = DeadLetterId { destination, position };
    Ok((id, decode(id, value)?))
}

fn decode(id: DeadLetterId, value: &[u8]) -> Result<DeadLetter, StoreError> {
    serde_json::from_slice(value).map_err(|e| StoreError::Corrupt(format!("dead letter {id}: {e}")))
}

/// Removes a letter; the caller counts it.
pub fn delete(id: DeadLetterId, batch: &mut WriteBatch) {
    batch.delete(Table::DeadLetters, id.key());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EntryId, Epoch};

    #[test]
    fn ids_read_back_from_text_and_from_keys() {
        let position = Position { epoch: Epoch(1), entry: EntryId(42), index: 7 };
        for destination in Destination::ALL {
            let id = DeadLetterId { destination, position };
            assert_eq!(id.to_string().parse(), Ok(id));
            assert_eq!(DeadLetterId::from_key(&id.key()), Some(id));
        }
        for wrong in ["", "mixpanel", "mixpanel-1.2", "mixpanel-1.2.3.4", "other-1.2.3", "mixpanel-1.2.x"] {
            assert_eq!(wrong.parse::<DeadLetterId>(), Err(NotAnId), "{wrong}");
        }
    }
}
