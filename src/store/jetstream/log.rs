//! What stands in the state's log: claims, write batches, heartbeats, goodbyes.
//!
//! ```text
//! Mixrelay-State: 1 LOG TERM NUMBER PART PARTS      (a header; what is no batch has part 1 of 1)
//! payload := kind u8, body
//! body    := JSON of a Claim | (empty: heartbeat, goodbye) | raw_len u32, a piece of one zstd frame
//! frame   := op*
//! op      := 1 table key value | 2 table key | 3 table from to
//! table   := len u8, name;   key, from, to := len u32, bytes;   value := len u32, bytes
//! ```
//!
//! LOG is the id of the log, made by its first claim: a copy that was made from another one is told by it. TERM
//! counts claims; NUMBER counts what a worker has appended under its claim. Integers are little-endian.

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::store::{Op, StoreError, Table, WriteBatch};

const NAME: &str = "Mixrelay-State";
const VERSION: &str = "1";
const LEVEL: i32 = 1;
/// More than any batch is: what a damaged length may not ask for.
const MAX_RAW: usize = 1 << 30;

/// Who works from here on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Of the relay's directory: the same after a restart.
    pub worker: String,
    /// Where others reach it.
    pub address: Option<String>,
    pub version: String,
}

/// Which message of the log it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub log: String,
    pub term: u64,
    pub number: u64,
    pub part: u32,
    pub parts: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Claim(Claim),
    /// A piece of a batch: all of them together are one frame.
    Piece(Bytes),
    Heartbeat,
    /// The worker ends in good order: nobody needs to wait for silence.
    Goodbye,
}

impl Stamp {
    pub(super) fn write(&self, headers: &mut HeaderMap) {
        let Self { log, term, number, part, parts } = self;
        headers.insert(NAME, format!("{VERSION} {log} {term} {number} {part} {parts}"));
    }

    pub(super) fn read(headers: Option<&HeaderMap>) -> Result<Self, StoreError> {
        let unknown = || StoreError::Corrupt("a message of the state's log that this version cannot read".to_owned());
        let text = headers.and_then(|headers| headers.get(NAME)).ok_or_else(unknown)?.as_str();
        let mut words = text.split(' ');
        if words.next() != Some(VERSION) {
            return Err(unknown());
        }
        let log = words.next().ok_or_else(unknown)?.to_owned();
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).ok_or_else(unknown);
        let (term, counted) = (number()?, number()?);
        let (part, parts) = (number()?, number()?);
        let small = |value: u64| u32::try_from(value).map_err(|_| unknown());
        Ok(Self { log, term, number: counted, part: small(part)?, parts: small(parts)? })
    }
}

impl Entry {
    pub(super) fn write(&self) -> Bytes {
        match self {
            Entry::Claim(claim) => {
                let mut payload = vec![b'c'];
                payload.extend(serde_json::to_vec(claim).unwrap_or_default());
                payload.into()
            }
            Entry::Piece(piece) => {
                let mut payload = Vec::with_capacity(1 + piece.len());
                payload.push(b'w');
                payload.extend_from_slice(piece);
                payload.into()
            }
            Entry::Heartbeat => Bytes::from_static(b"h"),
            Entry::Goodbye => Bytes::from_static(b"g"),
        }
    }

    pub(super) fn read(payload: Bytes) -> Result<Self, StoreError> {
        let unknown = |why: &str| StoreError::Corrupt(format!("a message of the state's log {why}"));
        match payload.first() {
            Some(b'c') => serde_json::from_slice(&payload[1..])
                .map(Entry::Claim)
                .map_err(|error| unknown(&format!("is no claim: {error}"))),
            Some(b'w') => Ok(Entry::Piece(payload.slice(1..))),
            Some(b'h') => Ok(Entry::Heartbeat),
            Some(b'g') => Ok(Entry::Goodbye),
            _ => Err(unknown("is of a kind that this version does not know")),
        }
    }
}

/// A batch as pieces of at most `limit` bytes, at least one.
pub(super) fn encode(batch: &WriteBatch, limit: usize) -> Result<Vec<Bytes>, StoreError> {
    let mut raw = Vec::new();
    for op in &batch.ops {
        match op {
            Op::Put { table, key, value } => {
                push_head(&mut raw, 1, *table);
                push_bytes(&mut raw, key);
                push_bytes(&mut raw, value);
            }
            Op::Delete { table, key } => {
                push_head(&mut raw, 2, *table);
                push_bytes(&mut raw, key);
            }
            Op::DeleteRange { table, from, to } => {
                push_head(&mut raw, 3, *table);
                push_bytes(&mut raw, from);
                push_bytes(&mut raw, to);
            }
        }
    }
    let too_large = || StoreError::Failed("a batch is larger than the log's format allows".to_owned());
    let len = u32::try_from(raw.len()).ok().filter(|_| raw.len() <= MAX_RAW).ok_or_else(too_large)?;
    let compressed = zstd::bulk::compress(&raw, LEVEL).map_err(|error| StoreError::Failed(error.to_string()))?;
    let mut frame = Vec::with_capacity(4 + compressed.len());
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(&compressed);
    let frame = Bytes::from(frame);
    let limit = limit.max(1);
    Ok((0..frame.len()).step_by(limit).map(|at| frame.slice(at..frame.len().min(at + limit))).collect())
}

fn push_head(raw: &mut Vec<u8>, kind: u8, table: Table) {
    let name = table.name().as_bytes();
    raw.extend_from_slice(&[kind, u8::try_from(name.len()).unwrap_or(u8::MAX)]);
    raw.extend_from_slice(name);
}

fn push_bytes(raw: &mut Vec<u8>, bytes: &[u8]) {
    // The sum of all is bounded above.
    raw.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    raw.extend_from_slice(bytes);
}

/// The batch of a frame that has been put together again.
pub(super) fn decode(frame: &[u8]) -> Result<WriteBatch, StoreError> {
    let damaged = || StoreError::Corrupt("a batch of the state's log is damaged".to_owned());
    let (len, compressed) = frame.split_first_chunk().ok_or_else(damaged)?;
    let len = u32::from_le_bytes(*len) as usize;
    if len > MAX_RAW {
        return Err(damaged());
    }
    let raw = Bytes::from(zstd::bulk::decompress(compressed, len).map_err(|_| damaged())?);
    if raw.len() != len {
        return Err(damaged());
    }
    let mut ops = Reader { raw, at: 0 };
    let mut batch = WriteBatch::new();
    while ops.at < ops.raw.len() {
        let kind = ops.byte().ok_or_else(damaged)?;
        let table = ops.table()?.ok_or_else(damaged)?;
        let first = ops.bytes().ok_or_else(damaged)?;
        match kind {
            1 => batch.put(table, first, ops.bytes().ok_or_else(damaged)?),
            2 => batch.delete(table, first),
            3 => batch.delete_range(table, first, ops.bytes().ok_or_else(damaged)?),
            _ => return Err(damaged()),
        }
    }
    Ok(batch)
}

struct Reader {
    raw: Bytes,
    at: usize,
}

impl Reader {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.raw.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn take(&mut self, len: usize) -> Option<Bytes> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.raw.len())?;
        let taken = self.raw.slice(self.at..end);
        self.at = end;
        Some(taken)
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let len = self.take(4)?;
        let len = u32::from_le_bytes(len.as_ref().try_into().ok()?);
        self.take(len as usize)
    }

    /// An error for a table of a newer version.
    fn table(&mut self) -> Result<Option<Table>, StoreError> {
        let Some(name) = self.byte().and_then(|len| self.take(usize::from(len))) else { return Ok(None) };
        let table = Table::ALL.into_iter().find(|table| table.name().as_bytes() == name);
        let newer = || format!("the table {} is not known: run the version that writes it", name.escape_ascii());
        table.map(Some).ok_or_else(|| StoreError::Corrupt(newer()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn op() -> impl Strategy<Value = Op> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        let table = || proptest::sample::select(Table::ALL.to_vec());
        prop_oneof![
            (table(), bytes(), bytes()).prop_map(|(table, key, value)| Op::Put { table, key, value: value.into() }),
            (table(), bytes()).prop_map(|(table, key)| Op::Delete { table, key }),
            (table(), bytes(), bytes()).prop_map(|(table, from, to)| Op::DeleteRange { table, from, to }),
        ]
    }

    proptest! {
        #[test]
        fn a_batch_is_read_as_it_was_written(ops in proptest::collection::vec(op(), 0..40), limit in 1_usize..200) {
            let batch = WriteBatch { ops };
            let pieces = encode(&batch, limit).unwrap();
            prop_assert!(!pieces.is_empty() && pieces.iter().all(|piece| piece.len() <= limit));
            prop_assert_eq!(decode(&pieces.concat()).unwrap(), batch);
        }

        #[test]
        fn damage_is_an_error(mut frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            // Never a panic, nor memory for a length that nothing stands behind.
            drop(decode(&frame));
            frame.truncate(3);
            prop_assert!(decode(&frame).is_err());
        }
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let claim = Claim { worker: "w".to_owned(), address: Some("http://a:1".to_owned()), version: "1".to_owned() };
        for entry in [Entry::Claim(claim), Entry::Piece(Bytes::from_static(b"xy")), Entry::Heartbeat, Entry::Goodbye] {
            assert_eq!(Entry::read(entry.write()).unwrap(), entry);
        }
        assert!(Entry::read(Bytes::new()).is_err());
        assert!(Entry::read(Bytes::from_static(b"z")).is_err());
        let stamp = Stamp { log: "ab".to_owned(), term: 3, number: 9, part: 1, parts: 2 };
        let mut headers = HeaderMap::new();
        stamp.write(&mut headers);
        assert_eq!(Stamp::read(Some(&headers)).unwrap(), stamp);
        headers.insert(NAME, "2 ab 1 1 1 1");
        assert!(Stamp::read(Some(&headers)).is_err());
    }
}
