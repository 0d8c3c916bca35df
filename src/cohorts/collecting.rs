//! Getting the members together: pages asked of Mixpanel, or pages that were pushed, into the run's rows.

use super::members::Member;
use super::rows::{MEMBER, Rows, UnmatchedRow};
use super::run::{Run, Source, Stage, Unmatched};
use super::worker::{Engine, StepError};
use crate::mixpanel::cohorts;
use crate::privacy::Erased;
use crate::store::{StoreError, WriteBatch, write_when_there_is_room};

/// People whom nobody could match, kept by name for each run; all of them are counted.
pub(super) const UNMATCHED_KEPT: u64 = 1_000;

/// How often the pages are asked for anew, each time from the first, because Mixpanel had forgotten the session.
const RESTARTS: u32 = 3;

impl Engine {
    /// Asks for the next page. The session is one picture of the cohort; a mirror of several would lose whoever moved
    /// between pages, so a session that is over means to begin anew.
    pub(super) async fn collect(&self, run: &mut Run) -> Result<(), StepError> {
        let Stage::Collecting { session, page, restarts } = run.stage.clone() else { return Ok(()) };
        let Some(cohort) = run.order.source.cohort() else { return Ok(()) };
        let Some(mixpanel) = &self.vendors.mixpanel else { return Err(StepError::NoServiceAccount) };
        if page == 0 && run.name.is_none() {
            self.look_the_cohort_up(run, cohort).await?;
        }
        let properties = self.resolver.properties();
        let request = mixpanel.calls.cohort_page(cohort, page, session.as_deref(), &properties);
        let request = request.ok_or(StepError::NoServiceAccount)?;
        let answer = mixpanel.ask(request).await?;
        run.counts.queries += 1;
        if page > 0 && cohorts::session_is_over(&answer) {
            return self.begin_anew(run, restarts).await;
        }
        let read = cohorts::page(&answer).map_err(|error| StepError::Refused(error.to_string()))?;
        let asked: u64 = (u64::from(page) + 1) * cohorts::PAGE;
        let last = read.last || read.total.is_some_and(|total| total <= asked) || read.session.is_none();
        let members: Vec<Member> =
            read.people.into_iter().map(|(distinct_id, properties)| Member { distinct_id, properties }).collect();
        run.expected = read.total.or(run.expected);
        run.stage = if last {
            Stage::Reading { offset: 0, count: 0, restarts: 0 }
        } else {
            Stage::Collecting { session: read.session.or(session), page: page + 1, restarts }
        };
        self.desk.take_in(run, &members).await?;
        Ok(())
    }

    async fn begin_anew(&self, run: &mut Run, restarts: u32) -> Result<(), StepError> {
        if restarts == RESTARTS {
            return Err(StepError::SessionsTooShort);
        }
        tracing::warn!(
            run = run.id,
            "Mixpanel has forgotten the pages of a cohort; they are asked for from the first one"
        );
        let state = self.desk.state.as_ref();
        Rows { state, run: &run.id }.forget_all().await?;
        (run.counts.members, run.counts.unmatched) = (0, Default::default());
        run.stage = Stage::Collecting { session: None, page: 0, restarts: restarts + 1 };
        Ok(self.desk.save(run, WriteBatch::new()).await?)
    }

    async fn look_the_cohort_up(&self, run: &mut Run, cohort: u64) -> Result<(), StepError> {
        let Some(known) = self.cohorts().await?.into_iter().find(|known| known.id == cohort) else {
            return Err(StepError::NoSuchCohort(cohort));
        };
        run.counts.queries += 1;
        (run.name, run.expected) = (Some(known.name), Some(known.count));
        Ok(self.desk.save(run, WriteBatch::new()).await?)
    }

    /// The project's saved cohorts: one query.
    pub(super) async fn cohorts(&self) -> Result<Vec<cohorts::Cohort>, StepError> {
        let Some(mixpanel) = &self.vendors.mixpanel else { return Err(StepError::NoServiceAccount) };
        let request = mixpanel.calls.cohorts().ok_or(StepError::NoServiceAccount)?;
        let answer = mixpanel.ask(request).await?;
        cohorts::list(&answer).map_err(|error| StepError::Refused(error.to_string()))
    }
}

impl super::Desk {
    /// Writes a page of members down together with the run as it is after it.
    pub(super) async fn take_in(&self, run: &mut Run, members: &[Member]) -> Result<(), StoreError> {
        // Held until the rows are written: whoever is erased after this finds them there.
        let erased = self.resolver.tombstones.now();
        let mut batch = WriteBatch::new();
        self.put_members(run, members, &erased, &mut batch).await?;
        run.put(&mut batch)?;
        write_when_there_is_room(self.state.as_ref(), batch).await?;
        drop(erased);
        self.changed();
        Ok(())
    }

    async fn put_members(
        &self,
        run: &mut Run,
        members: &[Member],
        erased: &Erased,
        batch: &mut WriteBatch,
    ) -> Result<(), StoreError> {
        let id = run.id.clone();
        let rows = Rows { state: self.state.as_ref(), run: &id };
        let ids: Vec<&str> = members.iter().map(|member| member.distinct_id.as_str()).collect();
        let (held, unmatched) = (rows.holds(&ids).await?, rows.is_unmatched(&ids).await?);
        let (mut seen, mut new) = (std::collections::HashSet::new(), Vec::new());
        let resolved = self.resolver.resolve(members, run.order.mode, erased).await?;
        for (((member, resolved), held), unmatched) in members.iter().zip(resolved).zip(held).zip(unmatched) {
            if !seen.insert(&member.distinct_id) || held || unmatched {
                continue;
            }
            run.counts.members += 1;
            match resolved {
                Ok(row) => new.push((member.distinct_id.as_str(), row)),
                Err(why) => note_unmatched(run, &rows, &member.distinct_id, why, None, erased, batch)?,
            }
        }
        rows.put_members(&new, batch).await
    }

    /// How many members stand in rows.
    pub(super) async fn members_held(&self, run: &Run) -> Result<u64, StoreError> {
        Rows { state: self.state.as_ref(), run: &run.id }.count(MEMBER).await
    }
}

/// Counts somebody who is not brought to the list, and keeps who it is while there is room. Of an erased person nothing is
/// kept.
pub(super) fn note_unmatched(
    run: &mut Run,
    rows: &Rows<'_>,
    distinct_id: &str,
    why: Unmatched,
    said: Option<String>,
    erased: &Erased,
    batch: &mut WriteBatch,
) -> Result<(), StoreError> {
    let kept = run.counts.unmatched_total() < UNMATCHED_KEPT;
    *run.counts.unmatched.entry(why).or_default() += 1;
    if kept && why != Unmatched::Erased && !erased.covers_id(distinct_id) {
        rows.put_unmatched(&UnmatchedRow { distinct_id: distinct_id.to_owned(), why, said }, batch)?;
    }
    Ok(())
}

/// Whether members of this source are asked for.
pub(super) fn first_stage(source: &Source, pages: u32) -> Stage {
    match source {
        Source::Cohort { .. } => Stage::Collecting { session: None, page: 0, restarts: 0 },
        Source::Pushed { .. } | Source::Dataset { .. } => Stage::Receiving { pages, held: Default::default() },
    }
}
