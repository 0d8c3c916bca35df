//! Works on runs, step by step, and begins the planned ones. It stands back as the runs into lists do
//! ([`crate::cohorts`]): each run goes on afterwards as after a crash.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::definition::{Definition, DefinitionError};
use super::desk::Desk;
use super::run::{Outcome, Run, RunId, Stage};
use crate::clock::UnixMillis;
use crate::cohorts::{self, NotAnswered, PushError, due};
use crate::feed::FeedError;
use crate::mixpanel::reports::NoRows;
use crate::store::{AppendError, StoreError};

/// Runs worked on at once, each of a data set of its own.
const AT_ONCE: usize = 3;
/// Between two looks at what has been kept long enough.
const CLEAN_EVERY: Duration = Duration::from_secs(3600);
/// Between two looks at what is planned: the wall clock may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Why a run cannot go on. Only a failed store is more than the run's own affair.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("connectors.mixpanel has no service_account and project_id, which queries want")]
    NoServiceAccount,
    #[error("the configuration has no such data set any more")]
    Gone,
    #[error("its definition has changed since it was begun")]
    Changed,
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    #[error(transparent)]
    NotAnswered(NotAnswered),
    #[error(transparent)]
    NoRows(#[from] NoRows),
    #[error("no row has a column {column}; the first has {}", .seen.join(", "))]
    NoIds { column: String, seen: Vec<String> },
    #[error("its rows cannot be stored: {0}")]
    Feed(AppendError),
    #[error("its list cannot be changed: {0}")]
    List(PushError),
    #[error("the run of its list is gone")]
    ListGone,
}

impl From<NotAnswered> for StepError {
    fn from(error: NotAnswered) -> Self {
        match error {
            NotAnswered::Store(error) => StepError::Store(error),
            other => StepError::NotAnswered(other),
        }
    }
}

impl From<FeedError> for StepError {
    fn from(error: FeedError) -> Self {
        match error {
            FeedError::Store(error) => StepError::Store(error),
            FeedError::Append(AppendError::Poisoned(why)) => StepError::Store(StoreError::Failed(why.to_string())),
            FeedError::Append(error) => StepError::Feed(error),
        }
    }
}

impl From<PushError> for StepError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Ask(cohorts::AskError::Store(error)) => StepError::Store(error),
            other => StepError::List(other),
        }
    }
}

/// What steps are taken with.
pub struct Engine {
    pub(super) desk: Arc<Desk>,
}

impl Engine {
    pub fn new(desk: Arc<Desk>) -> Self {
        Self { desk }
    }

    /// The definition by which the run was begun.
    async fn definition(&self, run: &Run) -> Result<Definition, StepError> {
        let dataset = self.desk.dataset(&run.dataset).ok_or(StepError::Gone)?;
        let definition = Definition::load(dataset).await?;
        if definition.fingerprint() == run.fingerprint { Ok(definition) } else { Err(StepError::Changed) }
    }

    /// One step; each leaves the run where a new process could go on.
    async fn step(&self, run: &mut Run, definition: &Definition) -> Result<(), StepError> {
        match run.stage {
            Stage::Asking => self.ask(run, definition).await,
            Stage::Comparing { .. } => self.compare_some(run, definition).await,
            Stage::Members { .. } => self.hand_members_over(run, definition).await,
            Stage::Listing { .. } => self.follow_list(run).await,
            Stage::Ended(_) => Ok(()),
        }
    }

    /// Works on a run to its end.
    pub(super) async fn work(&self, id: RunId) -> Result<RunId, StoreError> {
        let Some(mut run) = self.desk.get(&id).await? else { return Ok(id) };
        let definition = self.definition(&run).await;
        while run.ended().is_none() {
            let done = match &definition {
                Ok(definition) => self.step(&mut run, definition).await,
                Err(StepError::Changed | StepError::Gone) => {
                    let why = definition.as_ref().err().map(ToString::to_string);
                    self.desk.end(&mut run, Outcome::Replaced, why).await?;
                    break;
                }
                Err(error) => {
                    self.desk.end(&mut run, Outcome::Failed, Some(error.to_string())).await?;
                    break;
                }
            };
            match done {
                Ok(()) => {}
                Err(StepError::Store(error)) => return Err(error),
                Err(error) => self.desk.end(&mut run, Outcome::Failed, Some(error.to_string())).await?,
            }
        }
        told(&run);
        Ok(id)
    }
}

fn told(run: &Run) {
    let Some(ended) = run.ended() else { return };
    let (dataset, counts, why) = (&run.dataset, &run.counts, ended.why.as_deref().unwrap_or_default());
    let (rows, matched, changed, dry_run) = (counts.rows, counts.matched, counts.changed, run.dry_run);
    if ended.outcome == Outcome::Done {
        tracing::info!(run = run.id, dataset, dry_run, rows, matched, changed, "a data set was run");
    } else {
        tracing::warn!(run = run.id, dataset, dry_run, outcome = ended.outcome.label(), why, "a data set was not run");
    }
}

#[derive(Clone)]
pub struct Worker {
    engine: Arc<Engine>,
    /// When the process began.
    start: UnixMillis,
}

impl Worker {
    pub fn new(engine: Arc<Engine>) -> Self {
        let start = engine.desk.parts.clock.now();
        Self { engine, start }
    }

    /// Works until `over`; everything that is known of people is in rows when it returns.
    pub async fn run(self, over: CancellationToken) -> Result<(), StoreError> {
        let desk = self.engine.desk.clone();
        let mut tasks: JoinSet<Result<RunId, StoreError>> = JoinSet::new();
        let mut busy: Vec<RunId> = Vec::new();
        let (mut look_at, mut clean_at) = (Instant::now(), Instant::now());
        while !over.is_cancelled() {
            if look_at <= Instant::now() {
                look_at = Instant::now() + self.begin_planned().await?.min(LOOK_EVERY);
            }
            if clean_at <= Instant::now() {
                desk.clean().await?;
                clean_at = Instant::now() + CLEAN_EVERY;
            }
            for id in desk.workable().await {
                if busy.len() < AT_ONCE && !busy.contains(&id) {
                    let engine = self.engine.clone();
                    busy.push(id.clone());
                    tasks.spawn(async move { engine.work(id).await });
                }
            }
            tokio::select! {
                () = over.cancelled() => {}
                () = desk.wake.notified() => {}
                Some(ended) = tasks.join_next() => {
                    let id = ended.map_err(|died| StoreError::Failed(format!("a task of a data set died: {died}")))??;
                    busy.retain(|busy| *busy != id);
                    desk.ended(&id).await;
                    // What it knows of people is not needed any more.
                    clean_at = Instant::now();
                }
                () = tokio::time::sleep_until(look_at) => {}
            }
        }
        tasks.shutdown().await;
        desk.written().await
    }

    /// Begins what is due, and says how long nothing else will be.
    async fn begin_planned(&self) -> Result<Duration, StoreError> {
        let desk = &self.engine.desk;
        let mut next = LOOK_EVERY;
        for dataset in desk.parts.datasets.iter().filter(|_| desk.parts.on) {
            let name = format!("data set {}", dataset.name);
            let due = due(&name, dataset.every, desk.last_time(&dataset.name).await?, self.start);
            if due <= desk.parts.clock.now() {
                desk.begin_planned(dataset).await?;
            } else {
                next = next.min(due.since(desk.parts.clock.now()));
            }
        }
        Ok(next)
    }
}
