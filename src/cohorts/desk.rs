//! Where runs are asked for, fed and looked up. All of it is durable when it returns; the [`super::worker`] does the rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, watch};
use tokio::time::Instant;

use super::collecting::first_stage;
use super::index::{self, Index};
use super::members::Resolver;
use super::rows::{Rows, UnmatchedRow};
use super::run::{Ended, Held, Order, Outcome, Run, RunId, Stage, key, next_id};
use super::schedule::{LastTime, Planned};
use super::worker::StepError;
use crate::clock::{SharedClock, UnixMillis};
use crate::config::SyncMode;
use crate::store::{State, StoreError, Table, WriteBatch, write_when_there_is_room};
use crate::telemetry;

/// Runs that may wait or be under way together.
const MAX_ACTIVE: usize = 1_000;
/// How long a stopped run can be let go on, and a push that is not complete waits for its other pages.
pub(super) const HELD: Duration = Duration::from_hours(24);
/// Runs of one group and list that tell whom they could not match; older ones only say how many.
const REPORTS: usize = 10;

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("cohorts are switched off, or Brevo is not configured")]
    Off,
    #[error("too many runs wait already")]
    Busy,
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub struct Desk {
    pub(super) state: Arc<dyn State>,
    pub(super) index: Index,
    pub(super) clock: SharedClock,
    pub(super) resolver: Resolver,
    pub(super) wake: Notify,
    /// `retention.runs`.
    keep: Duration,
    /// False with `sync.cohorts: false` and without Brevo: nothing is begun.
    on: bool,
    /// Runs that have not ended, oldest first, and the newest id given.
    pub(super) active: Mutex<Active>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Active {
    pub runs: BTreeMap<RunId, Order>,
    /// Runs whose pages are still to come: nobody works on them.
    pub receiving: std::collections::BTreeSet<RunId>,
    newest: Option<RunId>,
}

impl Active {
    /// As earlier processes left them.
    async fn read(index: &Index) -> Result<Self, StoreError> {
        let mut active = Active { newest: index.newest().await?, ..Active::default() };
        let mut after = None;
        loop {
            let open = index.open_runs(after.as_ref()).await?;
            let Some(last) = open.last() else { return Ok(active) };
            after = Some(last.clone());
            for id in open {
                let Some(run) = index.run(&id).await?.filter(|run| run.ended().is_none()) else { continue };
                if let Stage::Receiving { .. } = run.stage {
                    active.receiving.insert(id.clone());
                }
                active.runs.insert(id, run.order);
            }
        }
    }
}

impl Desk {
    /// Reads what earlier processes left. `keep`: `retention.runs`; `on`: whether anything may be begun.
    pub async fn open(
        resolver: Resolver,
        clock: SharedClock,
        keep: Duration,
        on: bool,
    ) -> Result<Arc<Self>, StoreError> {
        let index = Index::open(resolver.state.clone()).await?;
        let active = Active::read(&index).await?;
        let desk = Self {
            state: resolver.state.clone(),
            index,
            clock,
            resolver,
            wake: Notify::new(),
            keep,
            on,
            active: Mutex::new(active),
            changes: watch::Sender::new(0),
        };
        Ok(Arc::new(desk))
    }

    /// Begins a run, unless one brings the same group into the same list already: then that one is the answer. A run that
    /// the brake has stopped within a day is let go on by an order with `force`.
    pub async fn ask(&self, order: Order) -> Result<Run, AskError> {
        let mut active = self.active.lock().await;
        let same = |held: &Order| {
            let alike = held.mode == order.mode && held.of_a_mirror == order.of_a_mirror;
            held.same_place(&order) && alike && held.dry_run == order.dry_run
        };
        let under_way = active.runs.iter().filter(|(id, held)| !active.receiving.contains(*id) && same(held));
        for (id, _) in under_way {
            // The worker may not have noticed yet that a run has ended.
            if let Some(run) = self.get(id).await?.filter(|run| run.ended().is_none()) {
                return Ok(run);
            }
        }
        if let (true, Some(run)) = (order.force, self.stopped(&order).await?) {
            return self.let_go_on(run, &mut active).await;
        }
        let stage = first_stage(&order.source, 1);
        self.begin(order, stage, &mut active).await
    }

    pub(super) async fn begin(&self, order: Order, stage: Stage, active: &mut Active) -> Result<Run, AskError> {
        if !self.on {
            return Err(AskError::Off);
        }
        if active.runs.len() >= MAX_ACTIVE {
            return Err(AskError::Busy);
        }
        let id = next_id(self.clock.now(), active.newest.as_ref());
        let run = Run::new(id.clone(), order.clone(), self.clock.now(), stage);
        let mut batch = WriteBatch::new();
        index::put(&run, &mut batch);
        self.save(&run, batch).await?;
        active.newest = Some(id.clone());
        if let Stage::Receiving { .. } = run.stage {
            active.receiving.insert(id.clone());
        }
        active.runs.insert(id, order);
        self.wake.notify_one();
        Ok(run)
    }

    /// The newest run that has brought the same group into the same list by the same mode.
    pub(super) async fn last_of(&self, order: &Order) -> Result<Option<Run>, StoreError> {
        match self.index.last_of(order).await? {
            Some(id) => self.get(&id).await,
            None => Ok(None),
        }
    }

    /// The newest run for the same place, if the brake has stopped it and its members are still there.
    async fn stopped(&self, order: &Order) -> Result<Option<Run>, StoreError> {
        let last = self.last_of(order).await?;
        let held = |ended: &Ended| {
            ended.outcome == Outcome::Stopped && ended.held == Held::Members && self.clock.now().since(ended.at) < HELD
        };
        Ok(last.filter(|run| run.ended().is_some_and(held)))
    }

    /// The list is read again: much may have changed since.
    async fn let_go_on(&self, mut run: Run, active: &mut Active) -> Result<Run, AskError> {
        run.order.force = true;
        Rows { state: self.state.as_ref(), run: &run.id }.forget_the_list().await?;
        (run.counts.present, run.counts.to_remove) = (0, 0);
        run.stage = Stage::Reading { offset: 0, count: 0, restarts: 0 };
        self.save(&run, WriteBatch::new()).await?;
        active.runs.insert(run.id.clone(), run.order.clone());
        self.wake.notify_one();
        Ok(run)
    }

    /// Ends a run whose pages are still to come.
    pub(super) async fn give_up(
        &self,
        run: &mut Run,
        outcome: Outcome,
        why: &str,
        active: &mut Active,
    ) -> Result<(), StoreError> {
        self.end(run, WriteBatch::new(), outcome, Some(why.to_owned())).await?;
        active.receiving.remove(&run.id);
        active.runs.remove(&run.id);
        Ok(())
    }

    pub async fn get(&self, id: &str) -> Result<Option<Run>, StoreError> {
        self.index.run(id).await
    }

    /// Runs, newest first, below `before`.
    pub async fn list(&self, before: Option<&str>, limit: usize) -> Result<Vec<Run>, StoreError> {
        self.index.newest_first(before, limit).await
    }

    /// The run once it has ended, or as it is at `deadline`.
    pub async fn wait(&self, id: &str, deadline: Instant) -> Result<Option<Run>, StoreError> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let run = self.get(id).await?;
            if run.as_ref().is_none_or(|run| run.ended().is_some()) {
                return Ok(run);
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Ok(run),
            }
        }
    }

    /// People of the run who could not be matched, as far as they are kept.
    pub async fn unmatched(&self, id: &RunId, limit: usize) -> Result<Vec<UnmatchedRow>, StoreError> {
        Rows { state: self.state.as_ref(), run: id }.unmatched(limit).await
    }

    /// Writes the run down as it is, with the rows that it implies.
    pub(super) async fn save(&self, run: &Run, mut batch: WriteBatch) -> Result<(), StoreError> {
        run.put(&mut batch)?;
        write_when_there_is_room(self.state.as_ref(), batch).await?;
        self.changed();
        Ok(())
    }

    /// Whatever was handed to the store before is in it when this returns, also what nobody waits for any more: writes are
    /// carried out in their order.
    pub(super) async fn written(&self) -> Result<(), StoreError> {
        let mut batch = WriteBatch::new();
        batch.delete(Table::CohortRuns, key(""));
        write_when_there_is_room(self.state.as_ref(), batch).await
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The run has come to its end. Its rows go with [`Self::clean`].
    pub(super) async fn end(
        &self,
        run: &mut Run,
        batch: WriteBatch,
        outcome: Outcome,
        why: Option<String>,
    ) -> Result<(), StoreError> {
        let ended = Ended { at: self.clock.now(), outcome, why, missing: None, held: Held::Members };
        self.end_as(run, batch, ended).await
    }

    /// It cannot go on.
    pub(super) async fn fail(&self, run: &mut Run, why: &StepError) -> Result<(), StoreError> {
        let (at, missing) = (self.clock.now(), why.missing());
        let why = Some(why.to_string());
        let ended = Ended { at, outcome: Outcome::Failed, why, missing, held: Held::Members };
        self.end_as(run, WriteBatch::new(), ended).await
    }

    async fn end_as(&self, run: &mut Run, batch: WriteBatch, ended: Ended) -> Result<(), StoreError> {
        telemetry::cohort_run(ended.outcome.label());
        run.stage = Stage::Ended(ended);
        let counts = &run.counts;
        for (change, people) in
            [("added", counts.added), ("removed", counts.removed), ("unmatched", counts.unmatched_total())]
        {
            telemetry::cohort_people(change, people);
        }
        self.save(run, batch).await
    }

    /// The worker is done with the run, which somebody may have let go on meanwhile.
    pub(super) async fn ended(&self, id: &RunId) -> Result<(), StoreError> {
        let mut active = self.active.lock().await;
        if self.get(id).await?.is_none_or(|run| run.ended().is_some()) {
            active.runs.remove(id);
        }
        Ok(())
    }

    /// Runs that somebody could work on, oldest first.
    pub(super) async fn workable(&self) -> Vec<(RunId, Order)> {
        let active = self.active.lock().await;
        let workable = active.runs.iter().filter(|(id, _)| !active.receiving.contains(*id));
        workable.map(|(id, order)| (id.clone(), order.clone())).collect()
    }

    /// Begins a planned run, and notes when.
    pub(super) async fn begin_planned(&self, plan: &Planned) -> Result<(), StoreError> {
        match self.ask(plan.order.clone()).await {
            Ok(_) => {}
            Err(AskError::Busy) => {
                tracing::warn!(group = plan.order.source.label(), "too many runs wait: this one is left out")
            }
            Err(AskError::Off) => return Ok(()),
            Err(AskError::Store(error)) => return Err(error),
        }
        let value =
            serde_json::to_vec(&LastTime { at: self.clock.now() }).map_err(|e| StoreError::Failed(e.to_string()))?;
        let mut batch = WriteBatch::new();
        batch.put(Table::CohortRuns, plan.key(), value);
        write_when_there_is_room(self.state.as_ref(), batch).await
    }

    /// When a planned run was last begun.
    pub(super) async fn last_time(&self, plan: &Planned) -> Result<Option<UnixMillis>, StoreError> {
        let rows = self.state.get(Table::CohortRuns, vec![plan.key()]).await?;
        let read = |value: bytes::Bytes| serde_json::from_slice::<LastTime>(&value).ok();
        Ok(rows.into_iter().flatten().next().and_then(read).map(|last| last.at))
    }

    /// Takes away what ended runs no longer need, runs that were kept long enough, and pushes that were never completed.
    pub(super) async fn clean(&self) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let open = self.index.open_runs(after.as_ref()).await?;
            let Some(last) = open.last() else { break };
            after = Some(last.clone());
            for id in open {
                if let Some(run) = self.get(&id).await? {
                    self.tidy(&run).await?;
                }
            }
        }
        self.forget_old().await
    }

    async fn tidy(&self, run: &Run) -> Result<(), StoreError> {
        let now = self.clock.now();
        let Some(ended) = run.ended() else {
            let late = matches!(run.stage, Stage::Receiving { .. }) && now.since(run.asked_at) >= HELD;
            return if late { self.give_up_late(&run.id).await } else { Ok(()) };
        };
        let waits = ended.outcome == Outcome::Stopped && now.since(ended.at) < HELD && self.later(run, 1).await? == 0;
        if ended.held == Held::Members && !waits {
            self.forget_rows(run, Held::Unmatched).await?;
        } else if ended.held == Held::Unmatched && self.later(run, REPORTS).await? >= REPORTS {
            self.forget_rows(run, Held::Nothing).await?;
        }
        Ok(())
    }

    /// How many runs have brought the same group into the same list since, counted up to `most`.
    async fn later(&self, run: &Run, most: usize) -> Result<usize, StoreError> {
        let mut later = 0;
        for mode in [SyncMode::Mirror, SyncMode::Add, SyncMode::Remove] {
            later += self.index.later(run, mode, most).await?.len();
        }
        Ok(later)
    }

    async fn give_up_late(&self, id: &RunId) -> Result<(), StoreError> {
        let mut active = self.active.lock().await;
        // Its last page may have come meanwhile.
        if let (true, Some(mut run)) = (active.receiving.contains(id), self.get(id).await?) {
            let why = "its other pages did not come within a day";
            self.give_up(&mut run, Outcome::Failed, why, &mut active).await?;
        }
        Ok(())
    }

    /// Takes away runs that were kept long enough: as far as pages of the oldest have any.
    async fn forget_old(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut after = None;
        loop {
            let oldest = self.index.oldest_first(after.as_ref(), index::PAGE).await?;
            let old = |run: &Run| run.ended().is_some_and(|ended| now.since(ended.at) >= self.keep);
            if !oldest.iter().any(old) {
                return Ok(());
            }
            after = oldest.last().map(|run| run.id.clone());
            for run in oldest.iter().filter(|run| old(run)) {
                Rows { state: self.state.as_ref(), run: &run.id }.forget_all().await?;
                let mut batch = WriteBatch::new();
                index::delete(run, &mut batch);
                write_when_there_is_room(self.state.as_ref(), batch).await?;
            }
        }
    }

    /// Under the lock, so that nobody lets the run go on meanwhile.
    async fn forget_rows(&self, run: &Run, held: Held) -> Result<(), StoreError> {
        let active = self.active.lock().await;
        if active.runs.contains_key(&run.id) {
            return Ok(());
        }
        let rows = Rows { state: self.state.as_ref(), run: &run.id };
        match held {
            Held::Nothing => rows.forget_all().await?,
            Held::Unmatched | Held::Members => rows.forget_members().await?,
        }
        let mut run = run.clone();
        let held = if run.counts.unmatched_total() == 0 { Held::Nothing } else { held };
        if let Stage::Ended(ended) = &mut run.stage {
            ended.held = held;
        }
        let mut batch = WriteBatch::new();
        if !run.is_open() {
            index::close(&run, &mut batch);
        }
        self.save(&run, batch).await
    }
}
