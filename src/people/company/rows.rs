//! The rows of [`Table::Companies`]: companies by group, whose a company is, and which groups are owed something.
//!
//! | key | value |
//! |---|---|
//! | `g` + group | the [`Company`], as JSON |
//! | `o` + group | [`Owed`], as JSON: that Brevo is owed something for the group |
//! | `c` + company id | the group whose company it is |
//! | `l` + group + NUL + distinct_id | nothing: the company is owed whether that person is in it |

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Company, GroupId, Place};
use crate::brevo::companies::CompanyId;
use crate::clock::UnixMillis;
use crate::people::roster::PersonId;
use crate::store::{KeyRange, State, StoreError, Table, WriteBatch};

const COMPANY: u8 = b'g';
const OWED: u8 = b'o';
const CLAIM: u8 = b'c';
const LINK: u8 = b'l';

/// No group's name holds it: JSON text escapes it.
const NUL: u8 = 0;

/// What a start has to know of a group that is owed something, without reading its company.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    pub oldest: UnixMillis,
    pub records: u64,
}

fn key(kind: u8, name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(kind);
    key.extend_from_slice(name.as_bytes());
    key
}

/// Writes a company with everything that follows from it. `owed`: what a call under way covers included.
pub fn put(group: &GroupId, company: &Company, owed: Option<Owed>, batch: &mut WriteBatch) -> Result<(), StoreError> {
    batch.put(Table::Companies, key(COMPANY, group), json(company)?);
    match owed {
        Some(owed) => batch.put(Table::Companies, key(OWED, group), json(&owed)?),
        None => batch.delete(Table::Companies, key(OWED, group)),
    }
    if let Place::At { id, .. } = &company.place {
        batch.put(Table::Companies, key(CLAIM, id.as_str()), group.as_bytes().to_vec());
    }
    Ok(())
}

/// Gives a company id back: it is no group's any more.
pub fn release(id: &CompanyId, batch: &mut WriteBatch) {
    batch.delete(Table::Companies, key(CLAIM, id.as_str()));
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|e| StoreError::Failed(e.to_string()))
}

/// Reads `groups`; one never seen is a new company.
pub async fn load(state: &Arc<dyn State>, groups: Vec<GroupId>) -> Result<Vec<(GroupId, Company)>, StoreError> {
    let keys = groups.iter().map(|group| key(COMPANY, group)).collect();
    let rows = state.get(Table::Companies, keys).await?;
    let read = |(group, row): (GroupId, Option<bytes::Bytes>)| {
        let company = row.map(|row| serde_json::from_slice(&row)).transpose();
        let company: Option<Company> = company.map_err(|e| StoreError::Corrupt(format!("a company: {e}")))?;
        Ok((group, company.unwrap_or_default()))
    };
    groups.into_iter().zip(rows).map(read).collect()
}

/// Of `ids`, those that are already some group's.
pub async fn claimed(
    state: &Arc<dyn State>,
    ids: Vec<CompanyId>,
) -> Result<std::collections::BTreeMap<CompanyId, GroupId>, StoreError> {
    let keys = ids.iter().map(|id| key(CLAIM, id.as_str())).collect();
    let rows = state.get(Table::Companies, keys).await?;
    let owner = |(id, row): (CompanyId, Option<bytes::Bytes>)| {
        let row = row?;
        Some(std::str::from_utf8(&row).map(|group| (id, GroupId::from(group))).map_err(damaged))
    };
    ids.into_iter().zip(rows).filter_map(owner).collect()
}

fn link_key(group: &str, person: &str) -> Vec<u8> {
    let mut key = key(LINK, group);
    key.push(NUL);
    key.extend_from_slice(person.as_bytes());
    key
}

/// Lists a person for a group's company.
pub fn put_link(group: &GroupId, person: &PersonId, batch: &mut WriteBatch) {
    batch.put(Table::Companies, link_key(group, person), Vec::new());
}

pub fn remove_link(group: &GroupId, person: &PersonId, batch: &mut WriteBatch) {
    batch.delete(Table::Companies, link_key(group, person));
}

/// Up to `limit` of the people listed for a group's company.
pub async fn links(state: &Arc<dyn State>, group: &GroupId, limit: usize) -> Result<Vec<PersonId>, StoreError> {
    let range = KeyRange::prefix(link_key(group, ""));
    let pairs = state.scan(Table::Companies, range, limit).await?;
    let person = |(key, _): (Vec<u8>, bytes::Bytes)| {
        let person = std::str::from_utf8(&key[group.len() + 2..]).map_err(damaged)?;
        Ok(PersonId::from(person))
    };
    pairs.into_iter().map(person).collect()
}

/// A page of the groups of all listed links, one for each person, in key order; `after` is the last key of the page before.
pub async fn linked_groups(
    state: &Arc<dyn State>,
    after: &mut Option<Vec<u8>>,
    limit: usize,
) -> Result<Vec<GroupId>, StoreError> {
    let mut range = KeyRange::prefix([LINK]);
    if let Some(after) = after.take() {
        range = range.after(after);
    }
    let pairs = state.scan(Table::Companies, range, limit).await?;
    *after = pairs.last().map(|(key, _)| key.clone());
    let group = |(key, _): (Vec<u8>, bytes::Bytes)| {
        let end = key.iter().position(|byte| *byte == NUL).unwrap_or(key.len());
        std::str::from_utf8(&key[1..end]).map(GroupId::from).map_err(damaged)
    };
    pairs.into_iter().map(group).collect()
}

/// A page of the groups that are owed something, in order of their names, after `after`.
pub async fn owed(
    state: &Arc<dyn State>,
    after: Option<&GroupId>,
    limit: usize,
) -> Result<Vec<(GroupId, Owed)>, StoreError> {
    let mut range = KeyRange::prefix([OWED]);
    if let Some(after) = after {
        range = range.after(key(OWED, after));
    }
    let pairs = state.scan(Table::Companies, range, limit).await?;
    let read = |(key, value): (Vec<u8>, bytes::Bytes)| {
        let group = std::str::from_utf8(&key[1..]).map_err(damaged)?;
        let owed = serde_json::from_slice(&value).map_err(|e| StoreError::Corrupt(format!("a company's debt: {e}")))?;
        Ok((GroupId::from(group), owed))
    };
    pairs.into_iter().map(read).collect()
}

fn damaged(error: std::str::Utf8Error) -> StoreError {
    StoreError::Corrupt(format!("the name of a group: {error}"))
}
