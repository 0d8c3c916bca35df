//! Bases: the values that profile operators wait for (CORE 5).

use super::{BrevoLeg, Parts};
use crate::clock::UnixMillis;
use crate::people::debt::Debt;
use crate::people::roster::{self, PersonId};
use crate::record::Position;
use crate::store::StoreError;

/// What the leg knows of those who wait for a base.
pub(super) struct Bases {
    /// Records of which a part waits.
    pub(super) records: u64,
    /// From here on every record that touches a mapped value was folded by this mapping. Before it, another one may have
    /// passed over what this one would have taken.
    seen_from: Position,
}

impl Bases {
    pub(super) async fn open(parts: &Parts) -> Result<Self, StoreError> {
        let records = roster::records_waiting_for_bases(&parts.state).await?;
        let tip = *parts.journal.tip().borrow();
        Ok(Self { records, seen_from: Position { epoch: parts.journal.epoch(), entry: tip, index: 0 } })
    }

    pub(super) fn seen_from(&self) -> Position {
        self.seen_from
    }
}

impl BrevoLeg {
    /// A part of this record waits for a base. The rest of it, if any, is owed already.
    pub(super) fn await_base(&mut self, id: &PersonId, position: Position, received_at: UnixMillis) {
        self.roster.edit(id).person.unknown.count(position, received_at);
        self.bases.records += 1;
    }

    /// Records that waited for a base are owed once nothing of their person waits any more.
    pub(super) fn after_waiting(&mut self, id: &PersonId) {
        if let Some(released) = self.roster.edit(id).person.unknown.release() {
            self.bases.records = self.bases.records.saturating_sub(released.records);
            self.owe(id, Debt::of_released(released));
        }
    }
}
