//! Where runs are asked for and looked up, and what was confirmed. All of it is durable when it returns; the
//! [`super::worker`] does the rest.
//!
//! A data set writes into contacts by itself, on a schedule, what a script says. So a definition ([`Definition`]) changes
//! nothing before somebody has seen what it would do: a run that writes is begun only when a dry run of the very definition
//! has come to its end, and by asking for it somebody has confirmed it. From then on it is run on its schedule, until it is
//! another definition. A plan whose definition nobody has confirmed makes the dry run by itself, once, and then waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Notify};

use super::definition::{Definition, DefinitionError};
use super::kept::{PERSON, Rows, UNMATCHED};
use super::run::{CONFIRMED, Counts, Ended, Held, Outcome, PLAN, RUN, Run, RunId, Stage, key};
use crate::clock::{SharedClock, UnixMillis};
use crate::cohorts::{self, MixpanelSide, Resolver, Trigger, UnmatchedRow, next_id};
use crate::config::Dataset;
use crate::feed::Feed;
use crate::store::{KeyRange, State, StoreError, Table, Walk, WriteBatch, write_when_there_is_room};
use crate::telemetry;

/// Rows read at once.
const PAGE: usize = 500;
/// Runs of one data set that tell whom they could not match; older ones only say how many.
const REPORTS: usize = 10;

/// What data sets are made of.
pub struct Parts {
    pub state: Arc<dyn State>,
    pub clock: SharedClock,
    pub datasets: Vec<Dataset>,
    /// Whether Brevo is there to be told anything.
    pub on: bool,
    /// `retention.runs`.
    pub keep: Duration,
    pub resolver: Resolver,
    pub lists: Arc<cohorts::Desk>,
    /// `None` without a service account: then nothing can be asked.
    pub mixpanel: Option<MixpanelSide>,
    pub feed: Arc<Feed>,
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("Brevo is not configured")]
    Off,
    #[error("the configuration has no data set {0}")]
    NoSuch(String),
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error("no dry run of {0} as it is defined now has come to its end")]
    NotShown(String),
    #[error("run {0} of this data set is under way")]
    Busy(RunId),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Which definition somebody has confirmed, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Confirmed {
    pub fingerprint: String,
    pub at: UnixMillis,
}

/// How a data set stands.
pub(super) struct Standing {
    /// `Err`: it cannot be asked as it is.
    pub definition: Result<Definition, DefinitionError>,
    pub confirmed: Option<Confirmed>,
    pub last: Option<Run>,
}

impl Standing {
    /// Whether what is defined now is what somebody has confirmed.
    pub fn is_confirmed(&self) -> bool {
        let now = self.definition.as_ref().ok().map(Definition::fingerprint);
        self.confirmed.as_ref().map(|confirmed| &confirmed.fingerprint) == now.as_ref() && now.is_some()
    }
}

pub struct Desk {
    pub(super) parts: Parts,
    pub(super) wake: Notify,
    /// Runs that have not ended, and the newest id given.
    active: Mutex<Active>,
}

#[derive(Debug, Default)]
struct Active {
    runs: BTreeMap<RunId, String>,
    newest: Option<RunId>,
}

/// Every run that is kept, oldest first.
pub(super) async fn runs(state: &Arc<dyn State>) -> Result<Vec<Run>, StoreError> {
    let mut runs = Vec::new();
    let mut walk = Walk::new(state.as_ref(), Table::Datasets, KeyRange::prefix([RUN]), PAGE);
    while let Some(rows) = walk.next().await? {
        for (_, value) in rows {
            runs.push(Run::read(&value)?);
        }
    }
    Ok(runs)
}

impl Desk {
    /// Reads what earlier processes left.
    pub async fn open(parts: Parts) -> Result<Arc<Self>, StoreError> {
        let mut active = Active::default();
        for run in runs(&parts.state).await? {
            active.newest = active.newest.max(Some(run.id.clone()));
            if run.ended().is_none() {
                active.runs.insert(run.id, run.dataset);
            }
        }
        Ok(Arc::new(Self { parts, wake: Notify::new(), active: Mutex::new(active) }))
    }

    pub(super) fn dataset(&self, name: &str) -> Option<&Dataset> {
        self.parts.datasets.iter().find(|dataset| dataset.name == name)
    }

    /// Begins a run, unless the same is under way: then that one is the answer. One that writes confirms the definition;
    /// `note` adds to the write what says who has asked.
    pub async fn ask(
        &self,
        name: &str,
        dry_run: bool,
        force: bool,
        note: impl FnOnce(&Run, &mut WriteBatch) -> Result<(), StoreError>,
    ) -> Result<Run, AskError> {
        let dataset = self.dataset(name).ok_or_else(|| AskError::NoSuch(name.to_owned()))?;
        let definition = Definition::load(dataset).await?;
        let mut active = self.active.lock().await;
        if let Some(run) = self.under_way(name, &active).await? {
            let same = run.dry_run == dry_run && run.fingerprint == definition.fingerprint();
            return if same { Ok(run) } else { Err(AskError::Busy(run.id)) };
        }
        let mut batch = WriteBatch::new();
        if !dry_run {
            let fingerprint = definition.fingerprint();
            let known = self.confirmed(name).await?.is_some_and(|confirmed| confirmed.fingerprint == fingerprint);
            if !known && !self.was_shown(name, &fingerprint).await? {
                return Err(AskError::NotShown(name.to_owned()));
            }
            let confirmed = Confirmed { fingerprint, at: self.parts.clock.now() };
            let value = serde_json::to_vec(&confirmed).map_err(|e| StoreError::Failed(e.to_string()))?;
            batch.put(Table::Datasets, key(CONFIRMED, name), value);
        }
        let run = self.run_of(&definition, dry_run, force, Trigger::Request, &active);
        note(&run, &mut batch)?;
        self.begin(run, batch, &mut active).await
    }

    fn run_of(&self, definition: &Definition, dry_run: bool, force: bool, trigger: Trigger, active: &Active) -> Run {
        let now = self.parts.clock.now();
        Run {
            id: next_id(now, active.newest.as_ref()),
            dataset: definition.dataset.name.clone(),
            fingerprint: definition.fingerprint(),
            dry_run,
            force,
            trigger,
            asked_at: now,
            stage: Stage::Asking,
            counts: Counts::default(),
            list: None,
            held: Held::Everybody,
        }
    }

    async fn begin(&self, run: Run, batch: WriteBatch, active: &mut Active) -> Result<Run, AskError> {
        if !self.parts.on {
            return Err(AskError::Off);
        }
        self.save(&run, batch).await?;
        active.newest = Some(run.id.clone());
        active.runs.insert(run.id.clone(), run.dataset.clone());
        self.wake.notify_one();
        Ok(run)
    }

    /// Begins what is due of `dataset`, and notes when it was looked at.
    pub(super) async fn begin_planned(&self, dataset: &Dataset) -> Result<(), StoreError> {
        let (name, now) = (&dataset.name, self.parts.clock.now());
        let mut batch = WriteBatch::new();
        let value = serde_json::to_vec(&now).map_err(|e| StoreError::Failed(e.to_string()))?;
        batch.put(Table::Datasets, key(PLAN, name), value);
        let mut active = self.active.lock().await;
        let definition = match Definition::load(dataset).await {
            Ok(definition) if self.under_way(name, &active).await?.is_none() => definition,
            other => {
                if let Err(error) = other {
                    tracing::warn!(dataset = name, %error, "a data set cannot be run");
                }
                return write_when_there_is_room(self.parts.state.as_ref(), batch).await;
            }
        };
        let fingerprint = definition.fingerprint();
        let confirmed = self.confirmed(name).await?.is_some_and(|confirmed| confirmed.fingerprint == fingerprint);
        if !confirmed && self.was_shown(name, &fingerprint).await? {
            tracing::warn!(dataset = name, "a data set waits for somebody to confirm it: mixrelay datasets run {name}");
            return write_when_there_is_room(self.parts.state.as_ref(), batch).await;
        }
        let run = self.run_of(&definition, !confirmed, false, Trigger::Schedule, &active);
        match self.begin(run, batch, &mut active).await {
            Err(AskError::Store(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// When the plan was last looked at.
    pub(super) async fn last_time(&self, name: &str) -> Result<Option<UnixMillis>, StoreError> {
        let row = self.row(key(PLAN, name)).await?;
        Ok(row.and_then(|value| serde_json::from_slice(&value).ok()))
    }

    async fn row(&self, key: Vec<u8>) -> Result<Option<bytes::Bytes>, StoreError> {
        Ok(self.parts.state.get(Table::Datasets, vec![key]).await?.into_iter().flatten().next())
    }

    async fn confirmed(&self, name: &str) -> Result<Option<Confirmed>, StoreError> {
        let row = self.row(key(CONFIRMED, name)).await?;
        row.map(|value| serde_json::from_slice(&value).map_err(|e| StoreError::Corrupt(format!("a data set: {e}"))))
            .transpose()
    }

    /// Whether a dry run of the definition has come to its end.
    async fn was_shown(&self, name: &str, fingerprint: &str) -> Result<bool, StoreError> {
        let shown =
            |run: &Run| run.dataset == name && run.fingerprint == fingerprint && run.dry_run && run.is(Outcome::Done);
        Ok(runs(&self.parts.state).await?.iter().any(shown))
    }

    async fn under_way(&self, name: &str, active: &Active) -> Result<Option<Run>, StoreError> {
        for (id, _) in active.runs.iter().filter(|(_, dataset)| *dataset == name) {
            // The worker may not have noticed yet that a run has ended.
            if let Some(run) = self.get(id).await?.filter(|run| run.ended().is_none()) {
                return Ok(Some(run));
            }
        }
        Ok(None)
    }

    /// How each data set of the configuration stands, in its order.
    pub(super) async fn standing(&self, dataset: &Dataset) -> Result<Standing, StoreError> {
        let runs = runs(&self.parts.state).await?;
        Ok(Standing {
            definition: Definition::load(dataset).await,
            confirmed: self.confirmed(&dataset.name).await?,
            last: runs.into_iter().rfind(|run| run.dataset == dataset.name),
        })
    }

    pub async fn get(&self, id: &str) -> Result<Option<Run>, StoreError> {
        self.row(key(RUN, id)).await?.map(|value| Run::read(&value)).transpose()
    }

    /// Runs, newest first, below `before`.
    pub async fn list(&self, before: Option<&str>, limit: usize) -> Result<Vec<Run>, StoreError> {
        let mut runs = runs(&self.parts.state).await?;
        runs.retain(|run| before.is_none_or(|before| run.id.as_str() < before));
        runs.reverse();
        runs.truncate(limit);
        Ok(runs)
    }

    /// People of the run who could not be matched, as far as they are kept.
    pub async fn unmatched(&self, id: &RunId, limit: usize) -> Result<Vec<UnmatchedRow>, StoreError> {
        self.rows(id).unmatched(limit).await
    }

    pub(super) fn rows<'a>(&'a self, run: &'a RunId) -> Rows<'a> {
        Rows { state: self.parts.state.as_ref(), run }
    }

    /// Writes the run down as it is, with the rows that it implies.
    pub(super) async fn save(&self, run: &Run, mut batch: WriteBatch) -> Result<(), StoreError> {
        run.put(&mut batch)?;
        write_when_there_is_room(self.parts.state.as_ref(), batch).await
    }

    /// The run has come to its end; its rows go with [`Self::clean`].
    pub(super) async fn end(&self, run: &mut Run, outcome: Outcome, why: Option<String>) -> Result<(), StoreError> {
        run.stage = Stage::Ended(Ended { at: self.parts.clock.now(), outcome, why });
        telemetry::dataset_run(outcome.label(), run.dry_run);
        if !run.dry_run {
            telemetry::dataset_people("changed", run.counts.changed);
            telemetry::dataset_people("unmatched", run.counts.unmatched.values().sum());
        }
        self.save(run, WriteBatch::new()).await
    }

    pub(super) async fn ended(&self, id: &RunId) {
        self.active.lock().await.runs.remove(id);
    }

    /// Runs that somebody could work on, oldest first.
    pub(super) async fn workable(&self) -> Vec<RunId> {
        self.active.lock().await.runs.keys().cloned().collect()
    }

    /// Whatever was handed to the store before is in it when this returns: writes are carried out in their order.
    pub(super) async fn written(&self) -> Result<(), StoreError> {
        let mut batch = WriteBatch::new();
        batch.delete(Table::Datasets, key(RUN, ""));
        write_when_there_is_room(self.parts.state.as_ref(), batch).await
    }

    /// Takes away what ended runs no longer need, and runs that were kept long enough.
    pub(super) async fn clean(&self) -> Result<(), StoreError> {
        let now = self.parts.clock.now();
        let runs = runs(&self.parts.state).await?;
        for run in &runs {
            let Some(ended) = run.ended() else { continue };
            let late = now.since(ended.at) >= self.parts.keep;
            let later = runs.iter().filter(|later| later.id > run.id && later.dataset == run.dataset).count();
            let held = if late || later >= REPORTS { Held::Nothing } else { Held::Unmatched };
            if held < run.held {
                let rows = self.rows(&run.id);
                rows.forget(PERSON).await?;
                if held == Held::Nothing {
                    rows.forget(UNMATCHED).await?;
                }
                self.save(&Run { held, ..run.clone() }, WriteBatch::new()).await?;
            }
            if late {
                let mut batch = WriteBatch::new();
                batch.delete(Table::Datasets, key(RUN, &run.id));
                write_when_there_is_room(self.parts.state.as_ref(), batch).await?;
            }
        }
        Ok(())
    }
}
