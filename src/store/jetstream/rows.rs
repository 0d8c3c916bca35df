//! What the journal keeps in the state: sums of sections, and which numbers it continues.

use bytes::Bytes;

use super::ledger::{Before, Ledger, Section};
use crate::record::{EntryId, Epoch};
use crate::store::{KeyRange, State, StoreError, Table, Walk, WriteBatch};

const BEFORE: &[u8] = b"journal/before";
const EPOCH: &[u8] = b"journal/epoch";
const SECTION: &[u8] = b"journal/section/";
/// More sections than a journal of any size has.
const ALL: usize = 10_000_000;
/// The epoch of a journal that was never anything else.
const FIRST_EPOCH: Epoch = Epoch(1);

pub(super) async fn ledger(state: &dyn State) -> Result<Ledger, StoreError> {
    let before = match one(state, BEFORE).await? {
        Some(row) => read(&row)?,
        None => Before::default(),
    };
    let rows = state.scan(Table::Meta, KeyRange::prefix(SECTION), ALL).await?;
    let sections = rows.iter().map(|(_, row)| read(row)).collect::<Result<Vec<Section>, _>>()?;
    Ok(Ledger::restore(before, sections))
}

pub(super) async fn epoch(state: &dyn State) -> Result<Epoch, StoreError> {
    match one(state, EPOCH).await? {
        Some(row) => read(&row),
        None => Ok(FIRST_EPOCH),
    }
}

/// Sections that are full.
pub(super) fn closed(sections: &[Section]) -> Result<WriteBatch, StoreError> {
    let mut batch = WriteBatch::new();
    for section in sections {
        batch.put(Table::Meta, key(section.first), written(section)?);
    }
    Ok(batch)
}

/// The oldest section is gone, and `before` knows of it.
pub(super) fn trimmed(section: &Section, before: Before) -> Result<WriteBatch, StoreError> {
    let mut batch = WriteBatch::new();
    batch.put(Table::Meta, BEFORE, written(&before)?);
    batch.delete(Table::Meta, key(section.first));
    batch.delete_range(Table::Rewritten, rewritten(EntryId(0)), rewritten(EntryId(section.last + 1)));
    Ok(batch)
}

/// Where the block stands that took an entry's place.
pub(super) fn rewritten(entry: EntryId) -> Vec<u8> {
    entry.0.to_be_bytes().to_vec()
}

/// The entries in whose place another block stands.
pub(super) async fn all_rewritten(state: &dyn State) -> Result<Vec<EntryId>, StoreError> {
    const STEP: usize = 256;
    let mut all = Vec::new();
    let mut walk = Walk::new(state, Table::Rewritten, KeyRange::all(), STEP);
    while let Some(rows) = walk.next().await? {
        for (key, _) in rows {
            let number = key.as_slice().try_into().map(u64::from_be_bytes);
            all.push(EntryId(number.map_err(|_| StoreError::Corrupt("a rewritten entry has no number".to_owned()))?));
        }
    }
    Ok(all)
}

fn key(first: u64) -> Vec<u8> {
    [SECTION, &first.to_be_bytes()].concat()
}

async fn one(state: &dyn State, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
    Ok(state.get(Table::Meta, vec![key.to_vec()]).await?.into_iter().flatten().next())
}

fn read<T: serde::de::DeserializeOwned>(row: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(row).map_err(|error| StoreError::Corrupt(format!("a row of the journal's ledger: {error}")))
}

fn written<T: serde::Serialize>(row: &T) -> Result<Bytes, StoreError> {
    serde_json::to_vec(row).map(Bytes::from).map_err(|error| StoreError::Failed(error.to_string()))
}
