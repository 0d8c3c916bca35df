//! An erasure as it is stored: what was asked, what has been done, what each destination has answered.

use serde::{Deserialize, Serialize};

use crate::brevo::identifiers::{ContactId, Email, Phone};
use crate::clock::UnixMillis;
use crate::record::{Destination, EntryId, Position};
use crate::store::{StoreError, Table, WriteBatch};

/// Sorts by the time of asking.
pub type ErasureId = String;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// `DELETE /v1/people/{id}`.
    Admin,
    /// `POST /api/app/data-deletions/v3.0/`, which Mixpanel had taken.
    MixpanelDeletion,
}

/// A destination's side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Side {
    /// Still to be asked, or asked again.
    Waiting,
    /// Mixpanel has taken a task that is not at its end.
    UnderWay {
        task: String,
        status: String,
    },
    Done,
    /// It will not be asked: `why` says what the configuration lacks or says.
    NotAsked {
        why: String,
    },
    /// It has said no, for good.
    Failed,
}

impl Side {
    pub fn ended(&self) -> bool {
        !matches!(self, Side::Waiting | Side::UnderWay { .. })
    }
}

/// What was taken away in the relay itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    pub people: u64,
    pub owed: u64,
    pub parked: u64,
    pub dead_letters: u64,
    /// Records emptied in the journal.
    pub journal_records: u64,
}

/// How far the relay's own part is. Each step can be done again after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Tombstones stand; nothing of the person is let through any more.
    Asked,
    /// The journal holds the mark.
    #[serde(alias = "mixpanel_rows")]
    Marked,
    /// What waits for Brevo is gone, and every id of these people is known and stands among the tombstones.
    BrevoRows,
    /// What waits for Mixpanel is gone too.
    Rows,
    /// The journal's blocks are emptied.
    Journal,
    /// Nothing is left in the files.
    Done,
}

/// A contact at Brevo that is to go. Personal data, forgotten once it is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContactToGo {
    pub id: Option<ContactId>,
    pub ext_id: Option<String>,
    pub email: Option<Email>,
    pub phone: Option<Phone>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Erasure {
    pub id: ErasureId,
    pub asked: Asked,
    pub requested_at: UnixMillis,
    pub compliance: String,
    /// How many ids were asked for, and how many are erased with them: all that are known to be the same people's.
    pub ids: u64,
    pub erased_ids: u64,
    /// Keyed hashes of what was asked for: who knows an id finds its receipt.
    pub subjects: Vec<String>,
    pub stage: Stage,
    pub position: Option<Position>,
    /// Where Brevo's leg stood when it was asked for: links that it had not read begin here.
    #[serde(default)]
    pub links_from: Option<EntryId>,
    pub removed: Removed,
    pub mixpanel: Side,
    pub brevo: Side,
    /// Contacts deleted at Brevo, and those that it would not delete.
    pub contacts: u64,
    #[serde(default)]
    pub contacts_refused: u64,
    /// The last words of each destination, less what could name somebody.
    pub mixpanel_said: Option<String>,
    pub brevo_said: Option<String>,
    pub finished_at: Option<UnixMillis>,
    /// Somebody has been alerted that a vendor refuses part of it.
    #[serde(default)]
    pub alerted: bool,
    /// Names were forgotten in the row and may still stand in the files.
    #[serde(default)]
    pub to_scrub: bool,
    /// Personal data, each forgotten as soon as nobody needs it any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked_for: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to_erase: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to_go: Vec<ContactToGo>,
}

impl Erasure {
    pub fn put(&self, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let value = serde_json::to_vec(self).map_err(|e| StoreError::Failed(e.to_string()))?;
        batch.put(Table::Erasures, self.id.as_bytes(), value);
        Ok(())
    }

    pub fn read(value: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(value).map_err(|e| StoreError::Corrupt(format!("an erasure: {e}")))
    }

    pub fn side_mut(&mut self, destination: Destination) -> &mut Side {
        match destination {
            Destination::Mixpanel => &mut self.mixpanel,
            Destination::Brevo => &mut self.brevo,
        }
    }

    /// Whether a vendor has refused part of it, whatever the other does.
    pub fn is_refused(&self) -> bool {
        self.mixpanel == Side::Failed || self.brevo == Side::Failed || self.contacts_refused > 0
    }

    pub fn is_finished(&self) -> bool {
        self.finished_at.is_some()
    }

    /// Lets go of the names that nobody needs any more.
    pub fn forget(&mut self) {
        let names = |erasure: &Self| erasure.asked_for.len() + erasure.to_erase.len() + erasure.to_go.len();
        let before = names(self);
        if self.mixpanel != Side::Waiting {
            self.asked_for.clear();
        }
        if self.stage == Stage::Done {
            self.to_erase.clear();
        }
        if self.brevo.ended() {
            self.to_go.clear();
        }
        self.to_scrub |= names(self) < before;
    }

    /// Whether nothing is left to do, and nothing to forget.
    pub fn has_ended(&self) -> bool {
        self.stage == Stage::Done && self.mixpanel.ended() && self.brevo.ended() && !self.to_scrub
    }

    /// What others may see.
    pub fn shown(&self) -> serde_json::Value {
        let Removed { people, owed, parked, dead_letters, journal_records } = self.removed;
        serde_json::json!({
            "id": self.id,
            "asked": self.asked,
            "requested_at": self.requested_at.to_string(),
            "compliance_type": self.compliance,
            "ids": self.ids,
            "erased_ids": self.erased_ids,
            "subjects": self.subjects,
            "position": self.position.map(|position| position.to_string()),
            "relay": {
                "stage": self.stage, "people": people, "owed": owed, "parked": parked,
                "dead_letters": dead_letters, "journal_records": journal_records,
            },
            "mixpanel": { "state": self.mixpanel, "said": self.mixpanel_said },
            "brevo": {
                "state": self.brevo, "contacts": self.contacts, "refused": self.contacts_refused, "said": self.brevo_said,
            },
            "finished_at": self.finished_at.map(|at| at.to_string()),
        })
    }
}
