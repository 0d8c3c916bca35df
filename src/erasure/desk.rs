//! Where erasures are asked for and looked up. Asking is durable and takes effect at once; the [`super::worker`] does the rest.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::receipt::{Asked, Erasure, ErasureId, Removed, Side, Stage};
use crate::clock::{SharedClock, UnixMillis};
use crate::delivery::checkpoint::Checkpoint;
use crate::mixpanel::reserved::names_nobody;
use crate::people::address_book::stand_in;
use crate::people::blocklist::{self, Blocklist};
use crate::people::erase;
use crate::privacy::{Mark, Rules, Tombstone, Tombstones};
use crate::record::Destination;
use crate::store::{KeyRange, State, StoreError, Table, Walk, WriteBatch, write_when_there_is_room};

/// Where the key of the tombstones stands in the table of singletons.
const KEY: &[u8] = b"tombstones/key";
/// First byte of a tombstone's key: an id that is erased. The other one is an address that stays blocklisted.
const ID: u8 = b'i';
/// Rows read at once.
const PAGE: usize = 5_000;

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("no id that names somebody")]
    Nobody,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the system has no randomness to give: {0}")]
    Random(#[from] getrandom::Error),
}

pub struct Desk {
    pub(super) state: Arc<dyn State>,
    pub(super) clock: SharedClock,
    pub(super) tombstones: Arc<Tombstones>,
    pub(super) wake: Notify,
    keep: Duration,
    /// What makes other ids of people's on the way to Brevo.
    hidden: Option<Rules>,
}

impl Desk {
    /// Reads who is erased. `keep`: `retention.tombstones`; `hidden`: `privacy.brevo`.
    pub async fn open(
        state: Arc<dyn State>,
        clock: SharedClock,
        keep: Duration,
        hidden: Option<Rules>,
    ) -> Result<Arc<Self>, AskError> {
        let key = key(&state).await?;
        let (mut ids, mut blocklisted) = (HashSet::new(), HashSet::new());
        let mut walk = Walk::new(state.as_ref(), Table::Tombstones, KeyRange::all(), PAGE);
        while let Some(rows) = walk.next().await? {
            for (key, _) in rows {
                match mark(&key) {
                    Some((ID, mark)) => ids.insert(mark),
                    Some((blocklist::ROW, mark)) => blocklisted.insert(mark),
                    _ => return Err(StoreError::Corrupt("key of a tombstone".to_owned()).into()),
                };
            }
        }
        let tombstones = Arc::new(Tombstones::new(&key, ids, blocklisted));
        Ok(Arc::new(Self { state, clock, tombstones, wake: Notify::new(), keep, hidden }))
    }

    pub fn tombstones(&self) -> Arc<Tombstones> {
        self.tombstones.clone()
    }

    /// Begins an erasure: when this returns, nothing of these people is let through any more, also after a crash.
    pub async fn ask(
        &self,
        ids: Vec<String>,
        asked: Asked,
        compliance: &str,
        mixpanel: Side,
    ) -> Result<Erasure, AskError> {
        let ids: BTreeSet<String> = ids.into_iter().filter(|id| !id.trim().is_empty() && !names_nobody(id)).collect();
        let ids: Vec<String> = ids.into_iter().collect();
        if ids.is_empty() {
            return Err(AskError::Nobody);
        }
        let mut known_as = ids.clone();
        known_as.extend(self.hidden.iter().flat_map(|rules| ids.iter().filter_map(|id| rules.pseudonym(id))));
        // Before the tombstones stand: from then on the leg passes over what links these people.
        let links_from = Checkpoint::load(&self.state, Destination::Brevo).await?.cursor.entry;
        let to_erase = erase::cluster(&self.state, &known_as).await?;
        let now = self.clock.now();
        let erased = self.tombstones.now();
        let subjects: BTreeSet<Mark> = ids.iter().map(|id| erased.of_id(id)).collect();
        let erasure = Erasure {
            id: new_id(now)?,
            asked,
            requested_at: now,
            compliance: compliance.to_owned(),
            ids: ids.len() as u64,
            erased_ids: to_erase.len() as u64,
            subjects: subjects.iter().map(hex).collect(),
            stage: Stage::Asked,
            position: None,
            links_from: Some(links_from),
            removed: Removed::default(),
            mixpanel,
            brevo: Side::Waiting,
            contacts: 0,
            contacts_refused: 0,
            to_scrub: false,
            mixpanel_said: None,
            brevo_said: None,
            finished_at: None,
            alerted: false,
            asked_for: ids,
            to_erase: to_erase.clone(),
            to_go: Vec::new(),
        };
        drop(erased);
        let mut batch = WriteBatch::new();
        erasure.put(&mut batch)?;
        self.entomb(&to_erase, batch).await?;
        self.wake.notify_one();
        tracing::info!(erasure = erasure.id, ids = erasure.ids, "an erasure has begun");
        Ok(erasure)
    }

    /// Writes `batch` with a tombstone for each of `ids`: when this returns, they stand. What Brevo pushes names people by
    /// their address, so the ids that are made of one are theirs too.
    pub(super) async fn entomb(&self, ids: &[String], mut batch: WriteBatch) -> Result<(), StoreError> {
        let addresses = erase::addresses(&self.state, ids).await?;
        let erased = self.tombstones.now();
        let mut marks: BTreeSet<Mark> = ids.iter().map(|id| erased.of_id(id)).collect();
        marks.extend(addresses.iter().flat_map(|address| [erased.of_id(address), erased.of_id(&stand_in(address))]));
        // Held until then, it would count as an answer that somebody still judges by.
        drop(erased);
        put_marks(&marks, ID, self.clock.now(), &mut batch)?;
        write_when_there_is_room(self.state.as_ref(), batch).await?;
        if !marks.is_empty() {
            self.tombstones.replace(|ids, _| ids.extend(marks));
        }
        Ok(())
    }

    /// Erasures, newest first, below `before`.
    pub async fn list(&self, before: Option<&str>, limit: usize) -> Result<Vec<Erasure>, StoreError> {
        let mut all = Vec::new();
        let mut walk = Walk::new(
            self.state.as_ref(),
            Table::Erasures,
            KeyRange { from: Vec::new(), to: before.map(|before| before.as_bytes().to_vec()) },
            PAGE,
        );
        while let Some(rows) = walk.next().await? {
            all.extend(rows.into_iter().map(|(_, value)| value));
            all.drain(..all.len().saturating_sub(limit));
        }
        all.iter().rev().map(|value| Erasure::read(value)).collect()
    }

    pub async fn get(&self, id: &str) -> Result<Option<Erasure>, StoreError> {
        let rows = self.state.get(Table::Erasures, vec![id.as_bytes().to_vec()]).await?;
        rows.into_iter().flatten().next().map(|value| Erasure::read(&value)).transpose()
    }

    /// Those that are not finished, oldest first.
    pub(super) async fn unfinished(&self) -> Result<Vec<ErasureId>, StoreError> {
        let mut unfinished: Vec<ErasureId> = Vec::new();
        let mut walk = Walk::new(self.state.as_ref(), Table::Erasures, KeyRange::all(), PAGE);
        while let Some(rows) = walk.next().await? {
            for (_, value) in rows {
                let erasure = Erasure::read(&value)?;
                if !erasure.is_finished() {
                    unfinished.push(erasure.id);
                }
            }
        }
        Ok(unfinished)
    }

    /// Since when `id` has been erased.
    pub async fn tombstone(&self, id: &str) -> Result<Option<Tombstone>, StoreError> {
        let key = row(ID, &self.tombstones.now().of_id(id));
        let rows = self.state.get(Table::Tombstones, vec![key]).await?;
        Ok(rows.into_iter().flatten().next().and_then(|value| serde_json::from_slice(&value).ok()))
    }

    /// Contacts of these addresses come back blocklisted, if they come back.
    pub(super) async fn remember_blocklisted(&self, addresses: &[String]) -> Result<(), StoreError> {
        let (state, tombstones, clock) = (self.state.clone(), self.tombstones.clone(), self.clock.clone());
        Blocklist { state, tombstones, clock }.remember(addresses).await
    }

    /// Forgets tombstones and receipts that have been kept long enough.
    pub(super) async fn expire(&self) -> Result<(), StoreError> {
        let before = self.clock.now() - self.keep;
        let mut batch = WriteBatch::new();
        let mut gone = HashSet::new();
        let mut walk = Walk::new(self.state.as_ref(), Table::Tombstones, KeyRange::all(), PAGE);
        while let Some(rows) = walk.next().await? {
            for (key, value) in rows {
                let old = serde_json::from_slice::<Tombstone>(&value).is_ok_and(|stone| stone.since < before);
                if let (true, Some((kind, mark))) = (old, mark(&key)) {
                    gone.insert((kind, mark));
                    batch.delete(Table::Tombstones, key);
                }
            }
        }
        for (key, value) in self.state.scan(Table::Erasures, KeyRange::all(), PAGE).await? {
            let erasure = Erasure::read(&value)?;
            if erasure.finished_at.is_some_and(|at| at < before) {
                batch.delete(Table::Erasures, key);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        write_when_there_is_room(self.state.as_ref(), batch).await?;
        self.tombstones.replace(|ids, blocklisted| {
            ids.retain(|mark| !gone.contains(&(ID, *mark)));
            blocklisted.retain(|mark| !gone.contains(&(blocklist::ROW, *mark)));
        });
        Ok(())
    }
}

/// The store's own key, made at the first start. Whoever has both files has it: it keeps tombstones from being compared
/// between stores or with lists of known ids outside.
async fn key(state: &Arc<dyn State>) -> Result<[u8; 32], AskError> {
    if let Some(found) = state.get(Table::Meta, vec![KEY.to_vec()]).await?.into_iter().flatten().next() {
        let bytes: Result<[u8; 32], _> = found.as_ref().try_into();
        return Ok(bytes.map_err(|_| StoreError::Corrupt("the key of the tombstones".to_owned()))?);
    }
    let mut key = [0; 32];
    getrandom::fill(&mut key)?;
    let mut batch = WriteBatch::new();
    batch.put(Table::Meta, KEY, key.to_vec());
    write_when_there_is_room(state.as_ref(), batch).await?;
    Ok(key)
}

fn new_id(now: UnixMillis) -> Result<ErasureId, getrandom::Error> {
    let mut random = [0; 4];
    getrandom::fill(&mut random)?;
    Ok(format!("{:012x}{:08x}", now.0, u32::from_be_bytes(random)))
}

fn hex(mark: &Mark) -> String {
    mark.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn row(kind: u8, mark: &Mark) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&mark.0);
    key
}

fn mark(key: &[u8]) -> Option<(u8, Mark)> {
    let (kind, mark) = key.split_first()?;
    Some((*kind, Mark(mark.try_into().ok()?)))
}

fn put_marks(marks: &BTreeSet<Mark>, kind: u8, now: UnixMillis, batch: &mut WriteBatch) -> Result<(), StoreError> {
    let value = serde_json::to_vec(&Tombstone { since: now }).map_err(|e| StoreError::Failed(e.to_string()))?;
    for mark in marks {
        batch.put(Table::Tombstones, row(kind, mark), value.clone());
    }
    Ok(())
}
