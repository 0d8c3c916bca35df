//! Pages of members that somebody pushes: which run they belong to, and when it is whole.
//!
//! A run's place in the order of sessions is the first page's. Sessions may come side by side, each page any number of times and
//! in any order:
//! * a session is begun once: what comes again after its run has ended changes nothing, unless it has failed;
//! * a full copy that is whole takes the place of every session of the same group and list that began before it and is not:
//!   what these still bring is older, and is answered and left out;
//! * differences and dry runs take nobody's place.

use super::Desk;
use super::collecting::first_stage;
use super::desk::{Active, AskError};
use super::members::Member;
use super::run::{Order, Outcome, Run, RunId, Stage};
use crate::config::SyncMode;
use crate::store::StoreError;

/// Pages of one push. A page has a thousand people.
const MAX_PAGES: u32 = 100_000;
/// Sessions of one group, list and mode whose pages may be still to come; the oldest gives way to another.
const MAX_UNFINISHED: usize = 4;
/// Later full copies that are looked at: those of a day, for no session waits longer.
const MAX_LATER: usize = 100;

/// A page of members from somebody else, who has them in pages of one session.
#[derive(Clone, Debug, PartialEq)]
pub struct Push {
    /// What is to be done with all of them. Its source tells one session from another.
    pub order: Order,
    pub name: Option<String>,
    /// From 1.
    pub page: u32,
    pub pages: u32,
    pub members: Vec<Member>,
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

impl Desk {
    /// Takes a page of members; the run begins with the last one.
    pub async fn push(&self, push: Push) -> Result<Run, PushError> {
        let Push { order, name, page, pages, members } = push;
        if page == 0 || page > pages || pages > MAX_PAGES {
            return Err(PushError::NoSuchPage { page, pages });
        }
        let mut active = self.active.lock().await;
        let mut run = match self.of_session(&order).await? {
            Some(run) => run,
            None => {
                self.make_room(&order, &mut active).await?;
                self.begin(order.clone(), first_stage(&order.source, pages), &mut active).await?
            }
        };
        let Stage::Receiving { pages: expected, mut held } = run.stage.clone() else { return Ok(run) };
        // Its members stand in rows, and those without a row are counted.
        if !held.insert(page) {
            return Ok(run);
        }
        run.name = name.or(run.name);
        let pages = pages.max(expected);
        if (1..=pages).any(|page| !held.contains(&page)) {
            run.stage = Stage::Receiving { pages, held };
            self.take_in(&mut run, &members).await?;
        } else if self.is_superseded(&run).await? {
            self.replace(&mut run, &mut active).await?;
        } else {
            run.stage = Stage::Reading { offset: 0, count: 0, restarts: 0 };
            self.take_in(&mut run, &members).await?;
            active.receiving.remove(&run.id);
            self.supersede(&run, &mut active).await?;
            self.wake.notify_one();
        }
        Ok(run)
    }

    /// The run of the very session. One that has failed is begun anew by whatever comes again.
    async fn of_session(&self, order: &Order) -> Result<Option<Run>, StoreError> {
        let Some(id) = self.index.of_session(order).await? else { return Ok(None) };
        let run = self.get(&id).await?;
        Ok(run.filter(|run| run.ended().is_none_or(|ended| ended.outcome != Outcome::Failed)))
    }

    /// Whether a full copy that was begun later is whole.
    async fn is_superseded(&self, run: &Run) -> Result<bool, StoreError> {
        for id in self.index.later(run, SyncMode::Mirror, MAX_LATER).await? {
            let later = self.get(&id).await?;
            let whole = later.filter(|later| !later.order.dry_run).is_some_and(|later| match later.stage {
                Stage::Receiving { .. } | Stage::Collecting { .. } => false,
                Stage::Ended(ended) => !matches!(ended.outcome, Outcome::Failed | Outcome::Replaced),
                _ => true,
            });
            if whole {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What began before a full copy that is whole, and is not whole itself, will not be needed.
    async fn supersede(&self, whole: &Run, active: &mut Active) -> Result<(), StoreError> {
        if whole.order.mode != SyncMode::Mirror || whole.order.dry_run {
            return Ok(());
        }
        let older = self.unfinished(&whole.order, active).into_iter().filter(|(id, _)| *id < whole.id);
        for (id, _) in older.collect::<Vec<_>>() {
            if let Some(mut run) = self.get(&id).await? {
                self.replace(&mut run, active).await?;
            }
        }
        Ok(())
    }

    /// Room for another session of the same group, list and mode.
    async fn make_room(&self, order: &Order, active: &mut Active) -> Result<(), StoreError> {
        let mut unfinished = self.unfinished(order, active);
        unfinished.retain(|(_, held)| held.mode == order.mode);
        let too_many = (unfinished.len() + 1).saturating_sub(MAX_UNFINISHED);
        for (id, _) in unfinished.into_iter().take(too_many) {
            if let Some(mut run) = self.get(&id).await? {
                self.replace(&mut run, active).await?;
            }
        }
        Ok(())
    }

    /// Sessions of the same group and list whose pages are still to come, oldest first.
    fn unfinished(&self, order: &Order, active: &Active) -> Vec<(RunId, Order)> {
        let held = active.receiving.iter().filter_map(|id| Some((id.clone(), active.runs.get(id)?.clone())));
        held.filter(|(_, held)| held.same_place(order)).collect()
    }

    async fn replace(&self, run: &mut Run, active: &mut Active) -> Result<(), StoreError> {
        self.give_up(run, Outcome::Replaced, "later sessions began before all of its pages were there", active).await
    }
}
