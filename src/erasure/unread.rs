//! Widens erasures by links that wait in the journal (CORE 12).
//!
//! Brevo's leg is the one that links ids, and it may be far behind, or not there at all. What it has not read is looked
//! through here, from where it stood when an erasure was asked for: from then on it passes over records of the people, the
//! ones that link them among these. What is found gets its tombstones before the next look, so that nothing of theirs
//! comes in behind it, and the looking ends once a whole round has found nobody.
//!
//! Nothing is written but ids found and their tombstones; after a crash it begins anew with what was found by then.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::receipt::Erasure;
use crate::config::IdentityMode;
use crate::mapping::EventView;
use crate::people::identity;
use crate::people::kin::{Found, Kin, Read};
use crate::people::{erase, roster};
use crate::privacy::Rules;
use crate::record::{Destination, EntryId, Kind, Position, Record};
use crate::store::{Journal, State, StoreError};

/// Decoded bytes looked through at once.
const STEP: usize = 1 << 20;
/// People read at once.
const PEOPLE: usize = 500;

pub struct Unread {
    pub journal: Arc<dyn Journal>,
    pub state: Arc<dyn State>,
    pub mode: IdentityMode,
    /// What makes other ids of people's on the way to Brevo.
    pub hidden: Option<Rules>,
    /// Whether Brevo's leg links ids at all. Else every link that is held counts as unread.
    pub linked_by_leg: bool,
}

impl Unread {
    /// One round: what the journal below `below` adds to each of `erasures`, in their order.
    pub async fn look_through(&self, erasures: &[&mut Erasure], below: EntryId) -> Result<Vec<Found>, StoreError> {
        let from = erasures.iter().map(|erasure| self.from(erasure)).min().unwrap_or(below);
        let sought: BTreeSet<&str> = erasures.iter().flat_map(|one| one.to_erase.iter().map(String::as_str)).collect();
        let mut kin = Kin::of(sought.iter().copied(), self.mode);
        // In a simplified project nobody but the people themselves leads on, so once is enough.
        while self.collect(&mut kin, from, below).await? && self.mode == IdentityMode::Original {}
        if kin.is_full() {
            tracing::warn!("there are more ids than an erasure looks at which unread links may make the same people's");
        }
        if kin.near().count() > sought.len() {
            self.take(&mut kin, from, below).await?;
        }
        Ok(erasures.iter().map(|erasure| kin.others(&erasure.to_erase)).collect())
    }

    fn from(&self, erasure: &Erasure) -> EntryId {
        erasure.links_from.filter(|_| self.linked_by_leg).unwrap_or(EntryId::FIRST)
    }

    /// One pass that collects who is near. True when somebody was new.
    async fn collect(&self, kin: &mut Kin, from: EntryId, below: EntryId) -> Result<bool, StoreError> {
        let (mut at, mut grown) = (from, false);
        while let Some((links, next)) = self.links(at, below).await? {
            grown = links.iter().fold(grown, |grown, (_, link)| kin.notice(link) || grown);
            at = next;
        }
        if grown && self.mode == IdentityMode::Original {
            let near: Vec<String> = kin.near().map(ToString::to_string).collect();
            for near in near.chunks(PEOPLE) {
                let stored = erase::cluster(&self.state, near).await?;
                kin.know(stored.into_iter().map(Into::into));
            }
        }
        Ok(grown)
    }

    /// The pass that takes the links among them.
    async fn take(&self, kin: &mut Kin, from: EntryId, below: EntryId) -> Result<(), StoreError> {
        let near: Vec<_> = kin.near().cloned().collect();
        for near in near.chunks(PEOPLE) {
            kin.take_in(roster::load(&self.state, near.to_vec()).await?);
        }
        let mut at = from;
        while let Some((links, next)) = self.links(at, below).await? {
            let missing = kin.missing(&links);
            for missing in missing.chunks(PEOPLE) {
                kin.take_in(roster::load(&self.state, missing.to_vec()).await?);
            }
            kin.take(&links);
            at = next;
        }
        Ok(())
    }

    /// The links of some entries from `from` on, and where the next begin. `None` at the end.
    async fn links(
        &self,
        from: EntryId,
        below: EntryId,
    ) -> Result<Option<(Vec<(Position, Read)>, EntryId)>, StoreError> {
        if from >= below {
            return Ok(None);
        }
        let entries = self.journal.read(from, STEP).await?;
        let Some(last) = entries.last() else { return Ok(None) };
        let next = EntryId(last.id.0 + 1);
        let mut links = Vec::new();
        for entry in entries.iter().filter(|entry| entry.id < below) {
            for (index, record) in entry.records.iter().enumerate() {
                links.extend(self.link(record).map(|link| (entry.position(index), link)));
            }
        }
        // Other tasks have their turn between two steps, however fast the disk is.
        tokio::task::yield_now().await;
        Ok(Some((links, next)))
    }

    fn link(&self, record: &Record) -> Option<Read> {
        let says = matches!(record.kind, Kind::Event | Kind::Identity) && !record.is_erased();
        if !says || !record.destinations.contains(Destination::Brevo) {
            return None;
        }
        let raw = identity::link(&EventView::parse(&record.body).ok()?, self.mode)?;
        let Some(rules) = &self.hidden else { return Some(Read { known_as: raw.clone(), raw }) };
        let hidden = rules.outgoing(record.kind, &record.body).ok().flatten();
        let link = hidden.and_then(|body| identity::link(&EventView::parse(&body).ok()?, self.mode));
        // A hash is no UUID, so that the leg may see no link where Mixpanel does. They are one person's all the same.
        Some(Read { known_as: link.unwrap_or_else(|| raw.clone()), raw })
    }
}

#[cfg(test)]
mod tests;
