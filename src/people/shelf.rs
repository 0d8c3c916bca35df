//! Shelves: records that wait for something of their person's (CORE 7).
//!
//! Two tables: `shelves` holds a person's waiting records together, in order of position; `shelf_order` names all of
//! them in order of position, so that the oldest can be found and let go without reading the rest.
//!
//! A profile update of a person whom Brevo cannot address yet is folded *and* put here: the value is in the person, the
//! record waits to be counted.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::PersonHash;
use crate::clock::UnixMillis;
use crate::record::{Destinations, Kind, Origin, Position, Project, Record};
use crate::store::{KeyRange, State, StoreError, Table, WriteBatch};

/// A record on a shelf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    pub position: Position,
    pub record: Record,
}

/// An entry of the order table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub position: Position,
    /// Canonical distinct_id.
    pub person: String,
    pub received_at: UnixMillis,
    /// What the record counts for in `parking.max_bytes`.
    pub bytes: u64,
    pub kind: Kind,
}

/// Puts a record on its person's shelf; returns what it counts for.
pub fn put(person: &str, position: Position, record: &Record, batch: &mut WriteBatch) -> u64 {
    let value = encode(record);
    let bytes = value.len() as u64;
    let mut order = BytesMut::with_capacity(17 + person.len());
    order.put_u64(record.received_at.0);
    order.put_u64(bytes);
    order.put_u8(record.kind.code());
    order.put_slice(person.as_bytes());
    batch.put(Table::Shelves, key(person, position), value);
    batch.put(Table::ShelfOrder, position.to_bytes(), order.freeze());
    bytes
}

/// What a record on a shelf counts for.
pub fn size(record: &Record) -> u64 {
    (HEADER + record.body.len()) as u64
}

/// Takes a record off its shelf.
pub fn remove(person: &str, position: Position, batch: &mut WriteBatch) {
    batch.delete(Table::Shelves, key(person, position));
    batch.delete(Table::ShelfOrder, position.to_bytes());
}

/// Up to `limit` of a person's records, oldest first, from `after` (exclusive) on.
pub async fn of_person(
    state: &Arc<dyn State>,
    person: &str,
    after: Option<Position>,
    limit: usize,
) -> Result<Vec<Parked>, StoreError> {
    let mut range = KeyRange::prefix(PersonHash::of(person).as_bytes().to_vec());
    if let Some(after) = after {
        range = range.after(key(person, after));
    }
    let pairs = state.scan(Table::Shelves, range, limit).await?;
    let parked = |(key, value): (Vec<u8>, Bytes)| {
        let position = key.get(PersonHash::LEN..).and_then(Position::from_bytes);
        let (position, record) = position.zip(decode(value)).ok_or_else(damaged)?;
        Ok(Parked { position, record })
    };
    pairs.into_iter().map(parked).collect()
}

/// Up to `limit` waiting records of all people, oldest position first, from `after` (exclusive) on.
pub async fn oldest(state: &Arc<dyn State>, after: Option<Position>, limit: usize) -> Result<Vec<Waiting>, StoreError> {
    let mut range = KeyRange::all();
    if let Some(after) = after {
        range = range.after(after.to_bytes().to_vec());
    }
    let pairs = state.scan(Table::ShelfOrder, range, limit).await?;
    pairs.iter().map(|(key, value)| waiting(key, value).ok_or_else(damaged)).collect()
}

/// The record at `position`, if it waits.
pub async fn at(state: &Arc<dyn State>, position: Position) -> Result<Option<Waiting>, StoreError> {
    let key = position.to_bytes().to_vec();
    let row = state.get(Table::ShelfOrder, vec![key.clone()]).await?.into_iter().flatten().next();
    row.map(|value| waiting(&key, &value).ok_or_else(damaged)).transpose()
}

/// How many records wait, and their bytes.
pub async fn totals(state: &Arc<dyn State>) -> Result<(u64, u64), StoreError> {
    state.count(Table::Shelves, KeyRange::all()).await
}

fn damaged() -> StoreError {
    StoreError::Corrupt("a shelf row".to_owned())
}

fn key(person: &str, position: Position) -> Vec<u8> {
    let mut key = PersonHash::of(person).as_bytes().to_vec();
    key.extend_from_slice(&position.to_bytes());
    key
}

fn waiting(key: &[u8], value: &[u8]) -> Option<Waiting> {
    let position = Position::from_bytes(key)?;
    let (received_at, rest) = value.split_at_checked(8)?;
    let (bytes, rest) = rest.split_at_checked(8)?;
    let (kind, person) = rest.split_first()?;
    Some(Waiting {
        position,
        person: std::str::from_utf8(person).ok()?.to_owned(),
        received_at: UnixMillis(u64::from_be_bytes(received_at.try_into().ok()?)),
        bytes: u64::from_be_bytes(bytes.try_into().ok()?),
        kind: Kind::from_code(*kind)?,
    })
}

/// First byte of a shelf row's value.
const VERSION: u8 = 1;
/// Bytes of a row before the record's body.
const HEADER: usize = 13;

fn encode(record: &Record) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + record.body.len());
    out.put_u8(VERSION);
    out.put_u8(record.kind.code());
    out.put_u8(record.origin.code());
    out.put_u8(record.destinations.bits());
    out.put_u8(u8::from(record.project == Project::Foreign));
    out.put_u64(record.received_at.0);
    out.put_slice(&record.body);
    out.freeze()
}

fn decode(value: Bytes) -> Option<Record> {
    let [VERSION, kind, origin, destinations, foreign, received_at @ ..] = value.get(..HEADER)? else { return None };
    Some(Record {
        kind: Kind::from_code(*kind)?,
        origin: Origin::from_code(*origin)?,
        destinations: Destinations::from_bits(*destinations),
        project: if *foreign == 1 { Project::Foreign } else { Project::Ours },
        received_at: UnixMillis(u64::from_be_bytes(received_at.try_into().ok()?)),
        body: value.slice(HEADER..),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{EntryId, Epoch};

    #[test]
    fn rows_read_back() {
        let position = Position { epoch: Epoch(1), entry: EntryId(9), index: 3 };
        for origin in Origin::ALL {
            for kind in Kind::ALL {
                let record = Record {
                    kind,
                    origin,
                    destinations: Destinations::BREVO,
                    project: Project::Ours,
                    received_at: UnixMillis(1_700_000_000_000),
                    body: Bytes::from_static(b"{\"event\":\"x\"}"),
                };
                assert_eq!(decode(encode(&record)), Some(record.clone()));
                let mut batch = WriteBatch::new();
                let bytes = put("u", position, &record, &mut batch);
                let [_, crate::store::Op::Put { key, value, .. }] = &batch.ops[..] else { panic!("{batch:?}") };
                let read = waiting(key, value).unwrap();
                assert_eq!(
                    read,
                    Waiting { position, person: "u".to_owned(), received_at: record.received_at, bytes, kind }
                );
            }
        }
        assert_eq!(decode(Bytes::from_static(b"\x07short")), None);
    }
}
