//! A run as it is stored and shown: what was asked, how far it is, what it has counted. Nothing of people is in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::brevo::limits::{MAX_LIST_CHANGE, MAX_MEMBERS_PAGE};
use crate::brevo::names::AttributeName;
use crate::clock::UnixMillis;
use crate::cohorts::{Trigger, Unmatched};
use crate::config::SyncMode;
use crate::store::{StoreError, Table, WriteBatch};

/// Sorts by the time of asking.
pub type RunId = String;

/// First byte of the keys of [`Table::Datasets`]: a run, when a planned one was last begun, what was confirmed.
pub(super) const RUN: u8 = b'r';
pub(super) const PLAN: u8 = b's';
pub(super) const CONFIRMED: u8 = b'c';

/// How far a run is. Each is entered together with the rows that it goes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Stage {
    /// There is no whole answer yet; whatever was kept of one goes.
    Asking,
    /// Everybody is kept; those behind `after` are still to be looked at.
    Comparing {
        after: Option<Vec<u8>>,
    },
    /// Pages of members are being handed to the lists' desk: the next one, from 1.
    Members {
        page: u32,
        pages: u32,
        after: Option<Vec<u8>>,
    },
    /// The list's own run works.
    Listing {
        run: String,
    },
    Ended(Ended),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub at: UnixMillis,
    pub outcome: Outcome,
    /// For people: why it stopped or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    /// The brake has held its list.
    Stopped,
    Failed,
    /// The definition has changed on the way.
    Replaced,
}

impl Outcome {
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Stopped => "stopped",
            Outcome::Failed => "failed",
            Outcome::Replaced => "replaced",
        }
    }
}

/// Which rows of people a run has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Held {
    Nothing,
    Unmatched,
    #[default]
    Everybody,
}

/// Numbers of rows, people and calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// In the answer.
    pub rows: u64,
    /// Whom they are about, each once.
    pub people: u64,
    /// Rows about somebody of whom there was one already.
    pub repeated: u64,
    /// Rows in which a column stands that is mapped.
    pub columns: BTreeMap<String, u64>,
    /// People whom Brevo has, or could have.
    pub matched: u64,
    pub unmatched: BTreeMap<Unmatched, u64>,
    /// Of those matched, people of whom something changes; by attribute, what.
    pub changed: u64,
    pub attributes: BTreeMap<AttributeName, u64>,
    /// Records handed to the journal.
    pub fed: u64,
    pub queries: u64,
}

/// What the list's run has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ListCounts {
    pub run: String,
    pub status: String,
    pub why: Option<String>,
    pub before: u64,
    pub present: u64,
    pub to_add: u64,
    pub to_remove: u64,
    pub added: u64,
    pub removed: u64,
    pub unmatched: BTreeMap<String, u64>,
    pub calls: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    pub dataset: String,
    /// Of the definition.
    pub fingerprint: String,
    pub dry_run: bool,
    /// The brake does not hold.
    pub force: bool,
    pub trigger: Trigger,
    pub asked_at: UnixMillis,
    pub stage: Stage,
    pub counts: Counts,
    #[serde(default)]
    pub(super) list: Option<ListCounts>,
    #[serde(default)]
    pub(super) held: Held,
}

impl Run {
    pub fn ended(&self) -> Option<&Ended> {
        match &self.stage {
            Stage::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    pub(super) fn is(&self, outcome: Outcome) -> bool {
        self.ended().is_some_and(|ended| ended.outcome == outcome)
    }

    pub(super) fn put(&self, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let value = serde_json::to_vec(self).map_err(|e| StoreError::Failed(e.to_string()))?;
        batch.put(Table::Datasets, key(RUN, &self.id), value);
        Ok(())
    }

    pub(super) fn read(value: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(value).map_err(|e| StoreError::Corrupt(format!("a data set's run: {e}")))
    }

    /// As callers see it.
    pub fn shown(&self) -> Value {
        let (status, why, finished) = match self.ended() {
            Some(ended) => (ended.outcome.label(), ended.why.clone(), Some(ended.at.to_string())),
            None => ("running", None, None),
        };
        let Counts { rows, people, repeated, columns, matched, unmatched, changed, attributes, fed, queries: _ } =
            &self.counts;
        let unmatched: BTreeMap<&str, u64> = unmatched.iter().map(|(why, people)| (why.label(), *people)).collect();
        let list = self.list.as_ref().map(|list| {
            json!({
                "run": list.run, "status": list.status, "why": list.why, "before": list.before, "already_in": list.present,
                "to_add": list.to_add, "to_remove": list.to_remove, "added": list.added, "removed": list.removed,
                "unmatched": list.unmatched, "calls": list.calls,
            })
        });
        json!({
            "id": self.id,
            "dataset": self.dataset,
            "definition": self.fingerprint,
            "status": status,
            "why": why,
            "stage": self.stage_name(),
            "dry_run": self.dry_run,
            "force": self.force,
            "trigger": self.trigger,
            "rows": rows,
            "people": people,
            "repeated": repeated,
            "columns": columns,
            "matched": matched,
            "unmatched": unmatched,
            "changed": changed,
            "attributes": attributes,
            "fed": fed,
            "list": list,
            "costs": self.costs(),
            "asked_at": self.asked_at.to_string(),
            "finished_at": finished,
        })
    }

    /// Queries made; calls of Brevo that a run takes: one for each contact that changes, at most, and for the list its pages
    /// and its changes, 150 people each.
    fn costs(&self) -> Value {
        let list_calls = self.list.as_ref().map_or(0, |list| {
            let changes = |people: u64| people.div_ceil(MAX_LIST_CHANGE as u64);
            let pages = list.before.div_ceil(MAX_MEMBERS_PAGE as u64).max(1);
            list.calls.max(pages) + if self.dry_run { changes(list.to_add) + changes(list.to_remove) } else { 0 }
        });
        json!({ "queries": self.counts.queries, "contact_writes": self.counts.changed, "list_calls": list_calls })
    }

    fn stage_name(&self) -> &'static str {
        match self.stage {
            Stage::Asking => "asking",
            Stage::Comparing { .. } => "comparing",
            Stage::Members { .. } => "members",
            Stage::Listing { .. } => "listing",
            Stage::Ended(_) => "ended",
        }
    }

    pub(super) fn note_unmatched(&mut self, why: Unmatched) {
        *self.counts.unmatched.entry(why).or_default() += 1;
    }

    /// What was counted of an answer that is asked for anew.
    pub(super) fn begin_anew(&mut self) {
        let queries = self.counts.queries;
        self.counts = Counts { queries, ..Counts::default() };
    }
}

impl ListCounts {
    /// Of the list's run.
    pub fn of(run: &crate::cohorts::Run) -> Self {
        let counts = &run.counts;
        let there = counts.present + counts.unmatched_total();
        let adds = run.order.mode != SyncMode::Remove;
        let unmatched = counts.unmatched.iter().map(|(why, people)| (why.label().to_owned(), *people)).collect();
        Self {
            run: run.id.clone(),
            status: run.ended().map_or("running", |ended| ended.outcome.label()).to_owned(),
            why: run.ended().and_then(|ended| ended.why.clone()),
            before: counts.list_before,
            present: counts.present,
            to_add: if adds { counts.members.saturating_sub(there) } else { 0 },
            to_remove: counts.to_remove,
            added: counts.added,
            removed: counts.removed,
            unmatched,
            calls: counts.list_calls,
        }
    }
}

pub(super) fn key(section: u8, name: &str) -> Vec<u8> {
    let mut key = vec![section];
    key.extend_from_slice(name.as_bytes());
    key
}
