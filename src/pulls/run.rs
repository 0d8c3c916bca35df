//! A backfill as it is written down and shown: what was asked, how far it is, what it has counted. Pure but for its row.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::pages::PageCursor;
use crate::clock::UnixMillis;
use crate::feed::Fed;
use crate::store::{KeyRange, State, StoreError, Table, WriteBatch, write_when_there_is_room};

/// Sorts as the runs began.
pub type RunId = String;

/// Names of events that are counted apart; the rest is counted together.
const MAX_NAMES: usize = 500;
/// The name that the rest is counted under.
const OTHERS: &str = "(others)";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Profiles,
    Events,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub what: Kind,
    /// The first day (`yyyy-mm-dd`): of events, or on which a profile was last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Only events of these names; all that are mapped without any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// Read and count, and send nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Let old events set off automations.
    #[serde(default)]
    pub trigger_automations: bool,
    /// The dry run of the same question that has shown what would be set off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<RunId>,
}

impl Question {
    /// Whether both ask for the same, one of them dry.
    pub fn is_same(&self, other: &Question) -> bool {
        let bare = |question: &Question| Question { dry_run: true, after: None, ..question.clone() };
        bare(self) == bare(other)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Running,
    Done,
    Cancelled,
    Failed,
}

/// Events of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventCounts {
    /// To be sent.
    pub sent: u64,
    /// Older than `stale_after`: nothing is sent of them.
    pub stale: u64,
    /// Of when this relay delivered already.
    pub own_delivery: u64,
    /// By the mapping, nothing of them goes to Brevo.
    pub not_mapped: u64,
}

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Profiles or events read.
    pub read: u64,
    /// Handed to the journal; by a dry run: that would be.
    pub fed: u64,
    pub erased: u64,
    /// Profiles without an address, as far as they came at all.
    pub without_address: u64,
    /// Profiles of people whom the relay does not know yet.
    pub new_people: u64,
    pub events: BTreeMap<String, EventCounts>,
}

impl Counts {
    pub fn take_fed(&mut self, fed: Fed) {
        self.fed += fed.appended;
        self.erased += fed.erased;
    }

    pub fn of_event(&mut self, name: &str) -> &mut EventCounts {
        let apart = self.events.contains_key(name) || self.events.len() < MAX_NAMES;
        self.events.entry(if apart { name } else { OTHERS }.to_owned()).or_default()
    }
}

/// Where to read on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cursor {
    Profiles { filter: String, page: PageCursor },
    Events(DayCursor),
}

/// A day, and how many of its lines are done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayCursor {
    #[serde(with = "as_text")]
    pub day: Date,
    #[serde(with = "as_text")]
    pub last: Date,
    pub lines: u64,
    /// Chained hash of them: whether another answer begins with the same.
    pub hash: u64,
    /// What was counted before this day, in case it has to be read from its beginning.
    pub before: Counts,
}

mod as_text {
    use jiff::civil::Date;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(date: &Date, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(date)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Date, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// One backfill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backfill {
    pub id: RunId,
    pub question: Question,
    pub stage: Stage,
    pub started_at: UnixMillis,
    pub finished_at: Option<UnixMillis>,
    pub failure: Option<String>,
    pub cursor: Cursor,
    /// Profiles or days done, and in all; of profiles that is known with the first page.
    pub done: u64,
    pub total: Option<u64>,
    /// Until it is done, by the budgets.
    pub estimate_seconds: Option<u64>,
    pub counts: Counts,
}

impl Backfill {
    /// As the admin API shows it.
    pub fn shown(&self) -> Value {
        let Question { what, from, to, events, dry_run, trigger_automations, .. } = &self.question;
        let uncertain = matches!(&self.cursor, Cursor::Profiles { page, .. } if page.uncertain);
        json!({
            "id": self.id,
            "what": what,
            "from": from,
            "to": to,
            "events_asked_for": events,
            "dry_run": dry_run,
            "trigger_automations": trigger_automations,
            "state": self.stage,
            "started_at": self.started_at.to_string(),
            "finished_at": self.finished_at.map(|at| at.to_string()),
            "failure": self.failure,
            "progress": {
                "done": self.done,
                "total": self.total,
                "unit": match what { Kind::Profiles => "profiles", Kind::Events => "days" },
            },
            "estimate_seconds": self.estimate_seconds,
            "read": self.counts.read,
            "fed": self.counts.fed,
            "erased": self.counts.erased,
            "without_address": self.counts.without_address,
            "new_people": self.counts.new_people,
            "by_event": self.counts.events,
            "may_have_passed_over": uncertain,
        })
    }

    pub async fn write(&self, state: &Arc<dyn State>) -> Result<(), StoreError> {
        let value = serde_json::to_vec(self).map_err(|error| StoreError::Failed(error.to_string()))?;
        let mut batch = WriteBatch::new();
        batch.put(Table::Backfills, self.id.as_bytes(), value);
        write_when_there_is_room(state.as_ref(), batch).await
    }

    pub async fn read(state: &Arc<dyn State>, id: &str) -> Result<Option<Self>, StoreError> {
        let stored = state.get(Table::Backfills, vec![id.as_bytes().to_vec()]).await?.into_iter().next().flatten();
        stored.map(|value| parsed(&value)).transpose()
    }

    /// All that are kept, oldest first. There are few: each takes somebody who asks.
    pub async fn all(state: &Arc<dyn State>) -> Result<Vec<Self>, StoreError> {
        let rows = state.scan(Table::Backfills, KeyRange::all(), MAX_KEPT + 1).await?;
        rows.iter().map(|(_, value)| parsed(value)).collect()
    }
}

/// Backfills kept; the oldest goes when another is asked for.
pub const MAX_KEPT: usize = 200;

fn parsed(value: &[u8]) -> Result<Backfill, StoreError> {
    serde_json::from_slice(value).map_err(|error| StoreError::Corrupt(format!("a backfill: {error}")))
}

/// The backfill that is being carried out.
#[derive(Debug)]
pub struct UnderWay {
    pub id: RunId,
    pub called_off: CancellationToken,
}
