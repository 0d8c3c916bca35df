//! A run as it is stored: what was asked, how far it is, what came of it. Nothing of people is in it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::brevo::identifiers::ListId;
use crate::clock::UnixMillis;
use crate::config::SyncMode;
use crate::store::{StoreError, Table, WriteBatch};

/// Sorts by the time of asking; letters and digits, all of one length.
pub type RunId = String;

/// First byte of the keys of [`Table::CohortRuns`]: a run, when a planned one was last begun ([`super::index`] has the others).
pub(super) const RUN: u8 = b'r';
pub(super) const PLAN: u8 = b's';

/// Where the members come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Source {
    /// A cohort, asked of Mixpanel.
    Cohort { id: u64 },
    /// A cohort that Mixpanel pushes, by its session.
    Pushed { id: u64, session: String },
    /// A data set, by its name, and the run of it that has found them.
    Dataset { name: String, run: String },
}

impl Source {
    /// The cohort's id at Mixpanel.
    pub fn cohort(&self) -> Option<u64> {
        match self {
            Source::Cohort { id } | Source::Pushed { id, .. } => Some(*id),
            Source::Dataset { .. } => None,
        }
    }

    /// As people name it.
    pub fn label(&self) -> String {
        match self {
            Source::Cohort { id } | Source::Pushed { id, .. } => format!("cohort {id}"),
            Source::Dataset { name, .. } => format!("data set {name}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    Request,
    Schedule,
    Webhook,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub source: Source,
    pub list: ListId,
    pub mode: SyncMode,
    /// The brake does not hold.
    pub force: bool,
    /// Who is taken out leaves a mirror: somebody else has found the difference.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_a_mirror: bool,
    /// Look, and change nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    pub trigger: Trigger,
}

impl Order {
    /// Whether `max_removal_share` holds: a list that mirrors a group must not empty because the group did.
    pub(super) fn brakes(&self) -> bool {
        (self.mode == SyncMode::Mirror || self.of_a_mirror) && !self.force
    }

    /// Whether both bring the same group into the same list.
    pub fn same_place(&self, other: &Order) -> bool {
        self.place() == other.place()
    }

    /// The list, and the group that is brought into it, however it comes here.
    pub(super) fn place(&self) -> (ListId, Source) {
        let group = match &self.source {
            Source::Cohort { id } | Source::Pushed { id, .. } => Source::Cohort { id: *id },
            Source::Dataset { name, .. } => Source::Dataset { name: name.clone(), run: RunId::new() },
        };
        (self.list, group)
    }
}

/// Why somebody in the group is not brought to the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    /// The id stands for nobody, or the privacy rules leave nothing of it.
    NoId,
    /// Brevo does not know the id, and there is neither an address nor a phone number to make a contact from.
    NoAddress,
    /// The consent rule wants a yes.
    NoConsent,
    Erased,
    /// In `pilot` mode, somebody who is no pilot.
    NotPilot,
    /// Brevo would not take them.
    Refused,
}

impl Unmatched {
    pub fn label(self) -> &'static str {
        match self {
            Unmatched::NoId => "no_id",
            Unmatched::NoAddress => "no_address",
            Unmatched::NoConsent => "no_consent",
            Unmatched::Erased => "erased",
            Unmatched::NotPilot => "not_pilot",
            Unmatched::Refused => "refused",
        }
    }
}

/// Numbers of people, and of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// People in the group, each once.
    pub members: u64,
    /// In the list before.
    pub list_before: u64,
    /// Members who were there already.
    pub present: u64,
    /// In the list, and to be taken out.
    pub to_remove: u64,
    pub removed: u64,
    pub added: u64,
    /// Of those added: contacts that Brevo did not have.
    pub created: u64,
    pub unmatched: BTreeMap<Unmatched, u64>,
    /// Queries made of Mixpanel, and calls of Brevo, single contact writes and imports left out.
    pub queries: u64,
    pub list_calls: u64,
}

impl Counts {
    pub fn unmatched_total(&self) -> u64 {
        self.unmatched.values().sum()
    }
}

/// How far a run is. Each is entered together with the rows that it goes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Stage {
    /// Pages of a push are still to come; from 1.
    Receiving {
        pages: u32,
        held: BTreeSet<u32>,
    },
    /// Pages are being asked of Mixpanel: the next one, from 0, of the session that the first one has opened.
    Collecting {
        session: Option<String>,
        page: u32,
        restarts: u32,
    },
    /// The list is being read; `count` is how many were in it when that began.
    Reading {
        offset: u64,
        count: u64,
        restarts: u32,
    },
    /// The list is long and the group is small: each member is looked up instead.
    LookingUp {
        after: Option<Vec<u8>>,
    },
    Removing,
    /// `by_address`: addresses are tried before ids of ours. Stored, so that the call that was under way at a crash is made
    /// again as it was.
    Adding {
        after: Option<Vec<u8>>,
        #[serde(default)]
        by_address: bool,
    },
    Creating {
        after: Option<Vec<u8>>,
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
    /// What it failed for, where the order names something that does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
    pub held: Held,
}

/// Something that an order names and a vendor does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    Cohort,
    List,
}

/// Which rows of people a run that has ended still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    Nothing,
    /// Those who could not be matched.
    Unmatched,
    /// Its members too: it can be let go on, or nobody has cleaned up yet.
    Members,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Done,
    /// In `observe` mode: nothing was changed.
    Observed,
    /// The brake: it would have removed too many.
    Stopped,
    Failed,
    /// A later push took its place before it was complete.
    Replaced,
}

impl Outcome {
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Observed => "observed",
            Outcome::Stopped => "stopped",
            Outcome::Failed => "failed",
            Outcome::Replaced => "replaced",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    pub order: Order,
    /// The group's name, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many the group is said to have, before they have been counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<u64>,
    pub asked_at: UnixMillis,
    pub stage: Stage,
    pub counts: Counts,
}

impl Run {
    pub fn new(id: RunId, order: Order, at: UnixMillis, stage: Stage) -> Self {
        Self { id, order, name: None, expected: None, asked_at: at, stage, counts: Counts::default() }
    }

    pub fn ended(&self) -> Option<&Ended> {
        match &self.stage {
            Stage::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    /// Whether it has not ended, or still has rows of people.
    pub(super) fn is_open(&self) -> bool {
        self.held() != Held::Nothing
    }

    /// Which rows of people it has.
    pub(super) fn held(&self) -> Held {
        self.ended().map_or(Held::Members, |ended| ended.held)
    }

    /// The name that a person would know the group by.
    pub fn group(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.order.source.label())
    }

    /// Members who are in the list now, as far as the run has come.
    pub fn synced(&self) -> u64 {
        match self.order.mode {
            SyncMode::Mirror | SyncMode::Add => self.counts.present + self.counts.added,
            SyncMode::Remove => self.counts.removed,
        }
    }

    pub(super) fn put(&self, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let value = serde_json::to_vec(self).map_err(|e| StoreError::Failed(e.to_string()))?;
        batch.put(Table::CohortRuns, key(&self.id), value);
        Ok(())
    }

    pub(super) fn read(value: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(value).map_err(|e| StoreError::Corrupt(format!("cohort run: {e}")))
    }
}

/// Of every [`RunId`].
pub(super) const ID_LEN: usize = 16;

pub(super) fn key(id: &str) -> Vec<u8> {
    let mut key = vec![RUN];
    key.extend_from_slice(id.as_bytes());
    key
}

/// A new run's id; `after`: the newest one so far, which it sorts behind.
pub fn next_id(now: UnixMillis, after: Option<&RunId>) -> RunId {
    let after = after.and_then(|id| u64::from_str_radix(id, 16).ok());
    let wanted = now.0 << 8;
    format!("{:016x}", after.map_or(wanted, |after| wanted.max(after + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_time_even_when_the_clock_is_set_back() {
        let first = next_id(UnixMillis(5_000), None);
        let second = next_id(UnixMillis(5_000), Some(&first));
        let third = next_id(UnixMillis(1), Some(&second));
        assert!(first < second && second < third, "{first} {second} {third}");
        assert_eq!(first.len(), ID_LEN);
    }

    #[test]
    fn a_cohort_is_the_same_group_asked_for_or_pushed() {
        let order = |source| Order {
            source,
            list: ListId(1),
            mode: SyncMode::Mirror,
            force: false,
            of_a_mirror: false,
            dry_run: false,
            trigger: Trigger::Request,
        };
        let asked = order(Source::Cohort { id: 7 });
        assert!(asked.same_place(&order(Source::Pushed { id: 7, session: "s".to_owned() })));
        assert!(!asked.same_place(&order(Source::Cohort { id: 8 })));
        let dataset = |name: &str, run: &str| order(Source::Dataset { name: name.to_owned(), run: run.to_owned() });
        assert!(!asked.same_place(&dataset("7", "a")));
        assert!(dataset("x", "a").same_place(&dataset("x", "b")) && !dataset("x", "a").same_place(&dataset("y", "a")));
        assert!(!asked.same_place(&Order { list: ListId(2), ..asked.clone() }));
    }
}
