//! What a run knows of people, in rows of [`Table::CohortRows`]: `run id, section byte, key`.
//!
//! | section | key | value |
//! |---|---|---|
//! | `m` | hash of the `distinct_id` | the member, by whatever Brevo may know them |
//! | `i` | hash of an identifier | the hashes of the members who have it: two people may share an address |
//! | `p` | the member's hash | how far the member is ([`Mark`]) |
//! | `r` | contact id | nothing: the contact is to leave the list |
//! | `u` | hash of the `distinct_id` | who could not be matched, and why; a bounded number of them |

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::run::{RunId, Unmatched};
use crate::brevo::identifiers::{ContactId, Email, Phone};
use crate::brevo::names::AttributeName;
use crate::people::PersonHash;
use crate::store::{KeyRange, Pair, State, StoreError, Table, WriteBatch};

pub(super) const MEMBER: u8 = b'm';
const INDEX: u8 = b'i';
const MARK: u8 = b'p';
pub(super) const REMOVAL: u8 = b'r';
const UNMATCHED: u8 = b'u';

/// Rows that one write deletes, at most: as many as others can wait for.
const DELETE_STEP: usize = 5_000;

/// A kind of identifier by which Brevo may know a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    ExtId,
    Email,
    Id,
    Phone,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::ExtId, Kind::Email, Kind::Id, Kind::Phone];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// A member, as far as the list is concerned.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct MemberRow {
    /// The person's id on the way to Brevo.
    pub person: String,
    /// The ext_id that their contact has, or would have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ext_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<Phone>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact_id: Option<ContactId>,
    /// What Mixpanel says of them that a new contact is to have; a person whom the relay knows has their own values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<AttributeName, Value>,
}

impl MemberRow {
    pub fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::ExtId => self.ext_id.is_some(),
            Kind::Email => self.email.is_some(),
            Kind::Id => self.contact_id.is_some(),
            Kind::Phone => self.phone.is_some(),
        }
    }

    /// Hashes of all their identifiers.
    pub fn hashes(&self) -> Vec<PersonHash> {
        let ext_id = self.ext_id.as_deref().map(|id| hash(Kind::ExtId, id));
        let email = self.email.as_ref().map(|email| hash(Kind::Email, email.as_str()));
        let id = self.contact_id.map(|id| hash(Kind::Id, &id.0.to_string()));
        let phone = self.phone.as_ref().map(|phone| hash(Kind::Phone, phone.digits()));
        [ext_id, email, id, phone].into_iter().flatten().collect()
    }

    pub fn read(value: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(value).map_err(|e| StoreError::Corrupt(format!("member of a cohort run: {e}")))
    }
}

/// An identifier's place in the index.
pub(super) fn hash(kind: Kind, text: &str) -> PersonHash {
    PersonHash::of(&format!("{}\0{text}", kind as u8))
}

/// How far a member is: in the list, or not found there under some of their identifiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark(u8);

impl Mark {
    const SETTLED: u8 = 0x80;

    /// Nothing is left to do for them.
    pub const DONE: Mark = Mark(Self::SETTLED);

    pub fn is_settled(self) -> bool {
        self.0 & Self::SETTLED != 0
    }

    pub fn tried(self, kind: Kind) -> bool {
        self.0 & kind.bit() != 0
    }

    pub fn and_tried(self, kind: Kind) -> Mark {
        Mark(self.0 | kind.bit())
    }
}

/// Somebody who could not be matched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnmatchedRow {
    pub distinct_id: String,
    pub why: Unmatched,
    /// What Brevo said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<String>,
}

/// The rows of one run.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub state: &'a dyn State,
    pub run: &'a RunId,
}

impl<'a> Rows<'a> {
    fn key(&self, section: u8, key: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.run.len() + 1 + key.len());
        out.extend_from_slice(self.run.as_bytes());
        out.push(section);
        out.extend_from_slice(key);
        out
    }

    fn bare(&self, key: &[u8]) -> Vec<u8> {
        key[self.run.len() + 1..].to_vec()
    }

    /// A page of a section behind `after`, keys without what comes before them.
    pub async fn page(&self, section: u8, after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, StoreError> {
        let mut range = KeyRange::prefix(self.key(section, &[]));
        if let Some(after) = after {
            range = range.after(self.key(section, after));
        }
        let rows = self.state.scan(Table::CohortRows, range, limit).await?;
        Ok(rows.into_iter().map(|(key, value)| (self.bare(&key), value)).collect())
    }

    pub async fn count(&self, section: u8) -> Result<u64, StoreError> {
        Ok(self.state.count(Table::CohortRows, KeyRange::prefix(self.key(section, &[]))).await?.0)
    }

    async fn get(&self, section: u8, keys: &[Vec<u8>]) -> Result<Vec<Option<Bytes>>, StoreError> {
        let keys = keys.iter().map(|key| self.key(section, key)).collect();
        self.state.get(Table::CohortRows, keys).await
    }

    pub async fn marks(&self, members: &[Vec<u8>]) -> Result<Vec<Mark>, StoreError> {
        let marks = self.get(MARK, members).await?;
        Ok(marks.into_iter().map(|mark| Mark(mark.and_then(|mark| mark.first().copied()).unwrap_or(0))).collect())
    }

    /// The members whom the index names, in the order of `hashes`.
    pub async fn owners(&self, hashes: &[PersonHash]) -> Result<Vec<Vec<Vec<u8>>>, StoreError> {
        let keys: Vec<_> = hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect();
        let owners =
            |row: Option<Bytes>| row.iter().flat_map(|row| row.chunks(PersonHash::LEN)).map(<[u8]>::to_vec).collect();
        Ok(self.get(INDEX, &keys).await?.into_iter().map(owners).collect())
    }

    /// Which of `distinct_ids` are members already.
    pub async fn holds(&self, distinct_ids: &[&str]) -> Result<Vec<bool>, StoreError> {
        let keys: Vec<_> = distinct_ids.iter().map(|id| PersonHash::of(id).as_bytes().to_vec()).collect();
        Ok(self.get(MEMBER, &keys).await?.into_iter().map(|row| row.is_some()).collect())
    }

    /// Adds members, and to the index whatever they are known by.
    pub async fn put_members(&self, members: &[(&str, MemberRow)], batch: &mut WriteBatch) -> Result<(), StoreError> {
        let mut index: BTreeMap<PersonHash, Vec<Vec<u8>>> = BTreeMap::new();
        for (distinct_id, row) in members {
            let value = serde_json::to_vec(row).map_err(|e| StoreError::Failed(e.to_string()))?;
            let member = PersonHash::of(distinct_id).as_bytes().to_vec();
            for hash in row.hashes() {
                index.entry(hash).or_default().push(member.clone());
            }
            batch.put(Table::CohortRows, self.key(MEMBER, &member), value);
        }
        let hashes: Vec<PersonHash> = index.keys().copied().collect();
        for ((hash, new), known) in index.into_iter().zip(self.owners(&hashes).await?) {
            let owners: Vec<u8> = known.into_iter().chain(new).flatten().collect();
            batch.put(Table::CohortRows, self.key(INDEX, hash.as_bytes()), owners);
        }
        Ok(())
    }

    pub fn put_mark(&self, member: &[u8], mark: Mark, batch: &mut WriteBatch) {
        batch.put(Table::CohortRows, self.key(MARK, member), vec![mark.0]);
    }

    pub fn put_removal(&self, contact: ContactId, batch: &mut WriteBatch) {
        batch.put(Table::CohortRows, self.key(REMOVAL, &contact.0.to_be_bytes()), Bytes::new());
    }

    pub fn delete_removal(&self, contact: ContactId, batch: &mut WriteBatch) {
        batch.delete(Table::CohortRows, self.key(REMOVAL, &contact.0.to_be_bytes()));
    }

    pub fn put_unmatched(&self, row: &UnmatchedRow, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let value = serde_json::to_vec(row).map_err(|e| StoreError::Failed(e.to_string()))?;
        let key = self.key(UNMATCHED, PersonHash::of(&row.distinct_id).as_bytes());
        batch.put(Table::CohortRows, key, value);
        Ok(())
    }

    pub async fn unmatched(&self, limit: usize) -> Result<Vec<UnmatchedRow>, StoreError> {
        let rows = self.page(UNMATCHED, None, limit).await?;
        let read = |(_, value): Pair| serde_json::from_slice(&value).map_err(|e| StoreError::Corrupt(e.to_string()));
        rows.into_iter().map(read).collect()
    }

    /// Whether somebody is known to be unmatched.
    pub async fn is_unmatched(&self, distinct_ids: &[&str]) -> Result<Vec<bool>, StoreError> {
        let keys: Vec<_> = distinct_ids.iter().map(|id| PersonHash::of(id).as_bytes().to_vec()).collect();
        Ok(self.get(UNMATCHED, &keys).await?.into_iter().map(|row| row.is_some()).collect())
    }

    /// Adds to `batch` what takes away all that the run knows of `distinct_ids`, who may share addresses.
    pub async fn take(&self, distinct_ids: &[String], batch: &mut WriteBatch) -> Result<(), StoreError> {
        let keys: Vec<Vec<u8>> = distinct_ids.iter().map(|id| PersonHash::of(id).as_bytes().to_vec()).collect();
        let mut hashes = Vec::new();
        for member in self.get(MEMBER, &keys).await?.into_iter().flatten() {
            hashes.extend(MemberRow::read(&member)?.hashes());
        }
        for (hash, owners) in hashes.iter().zip(self.owners(&hashes).await?) {
            let left: Vec<u8> = owners.into_iter().filter(|owner| !keys.contains(owner)).flatten().collect();
            let place = self.key(INDEX, hash.as_bytes());
            if left.is_empty() {
                batch.delete(Table::CohortRows, place);
            } else {
                batch.put(Table::CohortRows, place, left);
            }
        }
        for key in &keys {
            for section in [MEMBER, MARK, UNMATCHED] {
                batch.delete(Table::CohortRows, self.key(section, key));
            }
        }
        Ok(())
    }

    /// Takes away what the list was read for: it is read again.
    pub async fn forget_the_list(&self) -> Result<(), StoreError> {
        self.delete_section(MARK).await?;
        self.delete_section(REMOVAL).await
    }

    /// Everything of members: pages are received or asked for anew, or the run has ended.
    pub async fn forget_members(&self) -> Result<(), StoreError> {
        for section in [MEMBER, INDEX, MARK, REMOVAL] {
            self.delete_section(section).await?;
        }
        Ok(())
    }

    /// Everything.
    pub async fn forget_all(&self) -> Result<(), StoreError> {
        self.forget_members().await?;
        self.delete_section(UNMATCHED).await
    }

    /// In steps: one deletion of a hundred thousand rows would keep the legs' checkpoints waiting.
    async fn delete_section(&self, section: u8) -> Result<(), StoreError> {
        loop {
            let rows =
                self.state.scan(Table::CohortRows, KeyRange::prefix(self.key(section, &[])), DELETE_STEP).await?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            let (from, mut to) = (self.key(section, &[]), last.clone());
            to.push(0);
            let mut batch = WriteBatch::new();
            batch.delete_range(Table::CohortRows, from, to);
            crate::store::write_when_there_is_room(self.state, batch).await?;
        }
    }
}
