//! Where runs are asked for, fed and looked up. All of it is durable when it returns; the [`super::worker`] does the rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, watch};
use tokio::time::Instant;

use super::collecting::first_stage;
use super::members::{Member, Resolver};
use super::rows::{Rows, UnmatchedRow};
use super::run::{Ended, Held, Order, Outcome, RUN, Run, RunId, Source, Stage, Trigger, key, next_id};
use super::schedule::{LastTime, Planned};
use super::worker::StepError;
use crate::brevo::identifiers::ListId;
use crate::clock::{SharedClock, UnixMillis};
use crate::config::SyncMode;
use crate::store::{KeyRange, State, StoreError, Table, WriteBatch, write_when_there_is_room};
use crate::telemetry;

/// Rows read at once.
const PAGE: usize = 500;
/// Runs that may wait or be under way together.
const MAX_ACTIVE: usize = 1_000;
/// How long a stopped run can be let go on, and a push that is not complete waits for its other pages.
pub(super) const HELD: Duration = Duration::from_hours(24);
/// Runs of one group and list that tell whom they could not match; older ones only say how many.
const REPORTS: usize = 10;
/// Pages of one push. A page has a thousand people.
const MAX_PAGES: u32 = 100_000;

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

/// A page of members from somebody else, who has them in pages of one session.
#[derive(Clone, Debug, PartialEq)]
pub struct Push {
    /// The cohort's id at Mixpanel.
    pub cohort: u64,
    pub name: Option<String>,
    pub session: String,
    pub list: ListId,
    pub mode: SyncMode,
    /// From 1.
    pub page: u32,
    pub pages: u32,
    pub members: Vec<Member>,
    /// They have left a group that the list mirrors: the brake is that of a mirror.
    pub of_a_mirror: bool,
}

/// Why a page was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("page {page} of {pages} cannot be")]
    NoSuchPage { page: u32, pages: u32 },
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl From<StoreError> for PushError {
    fn from(error: StoreError) -> Self {
        PushError::Ask(error.into())
    }
}

pub struct Desk {
    pub(super) state: Arc<dyn State>,
    pub(super) clock: SharedClock,
    pub(super) resolver: Resolver,
    pub(super) wake: Notify,
    /// `retention.runs`.
    keep: Duration,
    /// False with `sync.cohorts: false` and without Brevo: nothing is begun.
    on: bool,
    /// Runs that have not ended, oldest first, and the newest id given.
    active: Mutex<Active>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Active {
    pub runs: BTreeMap<RunId, Order>,
    /// Runs whose pages are still to come: nobody works on them.
    pub receiving: std::collections::BTreeSet<RunId>,
    newest: Option<RunId>,
}

impl Desk {
    /// Reads what earlier processes left. `keep`: `retention.runs`; `on`: whether anything may be begun.
    pub async fn open(
        resolver: Resolver,
        clock: SharedClock,
        keep: Duration,
        on: bool,
    ) -> Result<Arc<Self>, StoreError> {
        let desk = Self {
            state: resolver.state.clone(),
            clock,
            resolver,
            wake: Notify::new(),
            keep,
            on,
            active: Mutex::default(),
            changes: watch::Sender::new(0),
        };
        let mut active = Active::default();
        for run in desk.all().await? {
            active.newest = active.newest.max(Some(run.id.clone()));
            if run.ended().is_none() {
                if let Stage::Receiving { .. } = run.stage {
                    active.receiving.insert(run.id.clone());
                }
                active.runs.insert(run.id, run.order);
            }
        }
        *desk.active.lock().await = active;
        Ok(Arc::new(desk))
    }

    /// Begins a run, unless one brings the same group into the same list already: then that one is the answer. A run that
    /// the brake has stopped within a day is let go on by an order with `force`.
    pub async fn ask(&self, order: Order) -> Result<Run, AskError> {
        let mut active = self.active.lock().await;
        let same =
            |held: &Order| held.same_place(&order) && held.mode == order.mode && held.of_a_mirror == order.of_a_mirror;
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

    async fn begin(&self, order: Order, stage: Stage, active: &mut Active) -> Result<Run, AskError> {
        if !self.on {
            return Err(AskError::Off);
        }
        if active.runs.len() >= MAX_ACTIVE {
            return Err(AskError::Busy);
        }
        let id = next_id(self.clock.now(), active.newest.as_ref());
        let run = Run::new(id.clone(), order.clone(), self.clock.now(), stage);
        self.save(&run, WriteBatch::new()).await?;
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
        let runs = self.all().await?;
        Ok(runs.into_iter().rfind(|run| run.order.same_place(order) && run.order.mode == order.mode))
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

    /// Takes a page of members; the run begins with the last one.
    pub async fn push(&self, push: Push) -> Result<Run, PushError> {
        let Push { cohort, name, session, list, mode, page, pages, members, of_a_mirror } = push;
        if page == 0 || page > pages || pages > MAX_PAGES {
            return Err(PushError::NoSuchPage { page, pages });
        }
        let source = Source::Pushed { id: cohort, session };
        let order = Order { source, list, mode, force: false, of_a_mirror, trigger: Trigger::Webhook };
        let mut active = self.active.lock().await;
        let mut run = match self.of_session(&order, &active).await? {
            Some(run) => run,
            None => {
                self.replace_earlier(&order, &mut active).await?;
                self.begin(order.clone(), first_stage(&order.source, pages), &mut active).await?
            }
        };
        let Stage::Receiving { pages: expected, mut held } = run.stage.clone() else { return Ok(run) };
        // Its members stand in rows, and those without a row are counted.
        if !held.insert(page) {
            return Ok(run);
        }
        run.name = name.or(run.name);
        let whole = (1..=pages).all(|page| held.contains(&page));
        run.stage = if whole {
            Stage::Reading { offset: 0, count: 0, restarts: 0 }
        } else {
            Stage::Receiving { pages: pages.max(expected), held }
        };
        self.take_in(&mut run, &members).await?;
        if whole {
            active.receiving.remove(&run.id);
            self.wake.notify_one();
        }
        Ok(run)
    }

    /// The run of the very session, while it has not ended.
    async fn of_session(&self, order: &Order, active: &Active) -> Result<Option<Run>, StoreError> {
        let same = |held: &Order| held.source == order.source && held.list == order.list && held.mode == order.mode;
        match active.runs.iter().rfind(|(_, held)| same(held)) {
            Some((id, _)) => Ok(self.get(id).await?.filter(|run| run.ended().is_none())),
            None => Ok(None),
        }
    }

    /// A session that was never completed gives way to a later one of the same cohort, list and mode.
    async fn replace_earlier(&self, order: &Order, active: &mut Active) -> Result<(), StoreError> {
        let earlier: Vec<RunId> = active
            .receiving
            .iter()
            .filter(|id| active.runs.get(*id).is_some_and(|held| held.same_place(order) && held.mode == order.mode))
            .cloned()
            .collect();
        for id in earlier {
            self.give_up(&id, Outcome::Replaced, "a later session began before all of its pages were there", active)
                .await?;
        }
        Ok(())
    }

    async fn give_up(&self, id: &RunId, outcome: Outcome, why: &str, active: &mut Active) -> Result<(), StoreError> {
        if let Some(mut run) = self.get(id).await? {
            self.end(&mut run, WriteBatch::new(), outcome, Some(why.to_owned())).await?;
        }
        active.receiving.remove(id);
        active.runs.remove(id);
        Ok(())
    }

    pub async fn get(&self, id: &str) -> Result<Option<Run>, StoreError> {
        let rows = self.state.get(Table::CohortRuns, vec![key(id)]).await?;
        rows.into_iter().flatten().next().map(|value| Run::read(&value)).transpose()
    }

    /// Runs, newest first, below `before`.
    pub async fn list(&self, before: Option<&str>, limit: usize) -> Result<Vec<Run>, StoreError> {
        let mut runs = self.all().await?;
        runs.retain(|run| before.is_none_or(|before| run.id.as_str() < before));
        runs.reverse();
        runs.truncate(limit);
        Ok(runs)
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

    /// Every run that is kept, oldest first.
    async fn all(&self) -> Result<Vec<Run>, StoreError> {
        let mut runs = Vec::new();
        let mut range = KeyRange::prefix([RUN]);
        loop {
            let rows = self.state.scan(Table::CohortRuns, range.clone(), PAGE).await?;
            let Some((last, _)) = rows.last() else { return Ok(runs) };
            range.from = last.clone();
            range.from.push(0);
            for (_, value) in rows {
                runs.push(Run::read(&value)?);
            }
        }
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
        let now = self.clock.now();
        let runs = self.all().await?;
        let mut later_runs: BTreeMap<(ListId, Source), usize> = BTreeMap::new();
        // Newest first: what came later into the same list is counted by then.
        for run in runs.iter().rev() {
            let place = later_runs.entry(run.order.place()).or_default();
            let later = *place;
            *place += 1;
            let late = matches!(run.stage, Stage::Receiving { .. }) && now.since(run.asked_at) >= HELD;
            if late {
                let mut active = self.active.lock().await;
                // Its last page may have come meanwhile.
                if active.receiving.contains(&run.id) {
                    let why = "its other pages did not come within a day";
                    self.give_up(&run.id, Outcome::Failed, why, &mut active).await?;
                }
            }
            let Some(ended) = run.ended() else { continue };
            let rows = Rows { state: self.state.as_ref(), run: &run.id };
            if now.since(ended.at) >= self.keep {
                rows.forget_all().await?;
                let mut batch = WriteBatch::new();
                batch.delete(Table::CohortRuns, key(&run.id));
                write_when_there_is_room(self.state.as_ref(), batch).await?;
                continue;
            }
            let waits = ended.outcome == Outcome::Stopped && now.since(ended.at) < HELD && later == 0;
            if ended.held == Held::Members && !waits {
                self.forget_rows(run, Held::Unmatched).await?;
            } else if ended.held == Held::Unmatched && later >= REPORTS {
                self.forget_rows(run, Held::Nothing).await?;
            }
        }
        Ok(())
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
        self.save(&run, WriteBatch::new()).await
    }
}
