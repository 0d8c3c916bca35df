//! Works on runs, step by step, and begins the planned ones.
//!
//! Runs stand back like the legs do (`delivery::shift`) while an erasure takes rows away: a step holds members in memory, and
//! one that went on would bring them to Brevo after they are gone here. Each run goes on afterwards as after a crash.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use super::members::Resolver;
use super::run::{Missing, Outcome, Run, RunId, Stage};
use super::schedule::Planned;
use super::vendors::{BrevoSide, NotAnswered, Vendors};
use crate::alerts::Bell;
use crate::brevo::identifiers::ListId;
use crate::clock::UnixMillis;
use crate::delivery::LegError;
use crate::store::StoreError;
use crate::vendor::TransportError;

/// Runs worked on at once, each into a list of its own.
const AT_ONCE: usize = 3;
/// Between two looks at what has been kept long enough.
const CLEAN_EVERY: Duration = Duration::from_secs(3600);
/// Between two looks at what is planned: the wall clock may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long calls that Brevo has already may take to be answered when runs stand back: one that was given up could be
/// carried out after the erasure has looked.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// Why a run cannot go on. Only a failed store is more than the run's own affair.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("connectors.brevo is not configured")]
    NoBrevo,
    #[error("connectors.mixpanel has no service_account and project_id, which queries want")]
    NoServiceAccount,
    #[error("the project has no cohort {0}")]
    NoSuchCohort(u64),
    #[error("the account has no list {}", .0.0)]
    NoSuchList(ListId),
    #[error(
        "Mixpanel forgets the cohort's pages before all are read: let it push the cohort instead (docs/cohorts.md)"
    )]
    SessionsTooShort,
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Call(TransportError),
    #[error("a task died")]
    Task,
    #[error("a list change without people")]
    Nobody,
}

impl From<TransportError> for StepError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Store(error) => StepError::Store(error),
            other => StepError::Call(other),
        }
    }
}

impl From<NotAnswered> for StepError {
    fn from(error: NotAnswered) -> Self {
        match error {
            NotAnswered::Store(error) => StepError::Store(error),
            other => StepError::Refused(other.to_string()),
        }
    }
}

impl StepError {
    /// What the order names and does not exist.
    pub(super) fn missing(&self) -> Option<Missing> {
        match self {
            StepError::NoSuchCohort(_) => Some(Missing::Cohort),
            StepError::NoSuchList(_) => Some(Missing::List),
            _ => None,
        }
    }

    pub(super) fn of_leg(error: LegError) -> Self {
        match error {
            LegError::Store(error) => StepError::Store(error),
            LegError::Call(error) => error.into(),
            LegError::Task(_) => StepError::Task,
        }
    }
}

/// What steps are taken with.
pub struct Engine {
    pub(super) desk: Arc<Desk>,
    pub(super) resolver: Resolver,
    pub(super) vendors: Vendors,
    pub(super) max_removal_share: f64,
    pub(super) bell: Arc<Bell>,
    /// Runs that an earlier process or shift was working on: the first list change of each may have been made already.
    resumed: Mutex<HashSet<RunId>>,
}

impl Engine {
    pub fn new(desk: Arc<Desk>, vendors: Vendors, max_removal_share: f64, bell: Arc<Bell>) -> Self {
        let resolver = desk.resolver.clone();
        Self { desk, resolver, vendors, max_removal_share, bell, resumed: Mutex::default() }
    }

    pub(super) fn brevo(&self) -> Result<&BrevoSide, StepError> {
        self.vendors.brevo.as_ref().ok_or(StepError::NoBrevo)
    }

    /// Whether the next list change of this run is the first that this process makes of it. Once.
    pub(super) fn first_after_a_crash(&self, run: &RunId) -> bool {
        self.resumed.lock().unwrap_or_else(PoisonError::into_inner).remove(run)
    }

    /// One step; each leaves the run where a new process could go on.
    async fn step(&self, run: &mut Run) -> Result<(), StepError> {
        match run.stage {
            // Nobody works on a push before it is whole.
            Stage::Receiving { .. } | Stage::Ended(_) => Ok(()),
            Stage::Collecting { .. } => self.collect(run).await,
            Stage::Reading { .. } => self.read_list(run).await,
            Stage::LookingUp { .. } => self.look_up(run).await,
            Stage::Removing => self.remove_some(run).await,
            Stage::Adding { .. } => self.add_some(run).await,
            Stage::Creating { .. } => self.create_some(run).await,
        }
    }

    /// Works on a run to its end.
    async fn work(&self, id: RunId) -> Result<RunId, StoreError> {
        let Some(mut run) = self.desk.get(&id).await? else { return Ok(id) };
        while run.ended().is_none() {
            match self.step(&mut run).await {
                Ok(()) => {}
                Err(StepError::Store(error)) => return Err(error),
                Err(error) => self.desk.fail(&mut run, &error).await?,
            }
        }
        told(&run);
        Ok(id)
    }
}

fn told(run: &Run) {
    let Some(ended) = run.ended() else { return };
    let counts = &run.counts;
    let (group, list, why) = (run.group(), run.order.list.0, ended.why.as_deref().unwrap_or_default());
    if matches!(ended.outcome, Outcome::Stopped | Outcome::Failed) {
        tracing::warn!(
            run = run.id,
            group,
            list,
            outcome = ended.outcome.label(),
            why,
            "a list was not brought up to date"
        );
    } else {
        let (members, added, removed) = (counts.members, counts.added, counts.removed);
        let unmatched = counts.unmatched_total();
        tracing::info!(run = run.id, group, list, members, added, removed, unmatched, "a list is up to date");
    }
}

#[derive(Clone)]
pub struct Worker {
    engine: Arc<Engine>,
    plans: Arc<[Planned]>,
    /// When the process began.
    start: UnixMillis,
}

/// Runs that are being worked on.
#[derive(Default)]
struct UnderWay {
    tasks: JoinSet<Result<RunId, StoreError>>,
    /// Each, and into which list.
    busy: Vec<(RunId, ListId)>,
}

impl Worker {
    pub fn new(engine: Arc<Engine>, plans: Vec<Planned>) -> Self {
        let start = engine.desk.clock.now();
        Self { engine, plans: plans.into(), start }
    }

    /// Works until `over`; everything that is known of people is in rows when it returns.
    pub async fn run(self, over: CancellationToken) -> Result<(), StoreError> {
        let desk = self.engine.desk.clone();
        let interrupted = desk.workable().await.into_iter().map(|(id, _)| id);
        self.engine.resumed.lock().unwrap_or_else(PoisonError::into_inner).extend(interrupted);
        let mut under_way = UnderWay::default();
        let (mut look_at, mut clean_at) = (Instant::now(), Instant::now());
        while !over.is_cancelled() {
            if look_at <= Instant::now() {
                look_at = Instant::now() + self.begin_planned().await?.min(LOOK_EVERY);
            }
            if clean_at <= Instant::now() {
                desk.clean().await?;
                clean_at = Instant::now() + CLEAN_EVERY;
            }
            self.start_some(&mut under_way).await;
            tokio::select! {
                () = over.cancelled() => {}
                () = desk.wake.notified() => {}
                Some(ended) = under_way.tasks.join_next() => {
                    let id = ended.map_err(|died| StoreError::Failed(format!("a task of a cohort run died: {died}")))??;
                    under_way.busy.retain(|(busy, _)| *busy != id);
                    desk.ended(&id).await?;
                    // What it knows of people is not needed any more.
                    clean_at = Instant::now();
                }
                () = tokio::time::sleep_until(look_at) => {}
            }
        }
        self.stand_back(under_way).await
    }

    async fn stand_back(&self, mut under_way: UnderWay) -> Result<(), StoreError> {
        let silence = match &self.engine.vendors.brevo {
            Some(brevo) => brevo.silent(LAST_ANSWERS).await,
            None => None,
        };
        under_way.tasks.shutdown().await;
        drop(silence);
        self.engine.desk.written().await
    }

    /// Begins what is due, and says how long nothing else will be.
    async fn begin_planned(&self) -> Result<Duration, StoreError> {
        let desk = &self.engine.desk;
        let mut next = LOOK_EVERY;
        for plan in self.plans.iter() {
            let due = plan.due(desk.last_time(plan).await?, self.start);
            if due <= desk.clock.now() {
                desk.begin_planned(plan).await?;
            } else {
                next = next.min(due.since(desk.clock.now()));
            }
        }
        Ok(next)
    }

    /// The oldest run of each list, as far as there is room.
    async fn start_some(&self, under_way: &mut UnderWay) {
        let UnderWay { tasks, busy } = under_way;
        let mut lists: HashSet<ListId> = busy.iter().map(|(_, list)| *list).collect();
        for (id, order) in self.engine.desk.workable().await {
            if busy.iter().any(|(busy, _)| *busy == id) {
                continue;
            }
            let first_of_its_list = lists.insert(order.list);
            if first_of_its_list && busy.len() < AT_ONCE {
                let engine = self.engine.clone();
                busy.push((id.clone(), order.list));
                tasks.spawn(async move { engine.work(id).await });
            }
        }
    }
}
