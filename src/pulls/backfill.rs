//! Backfills: asked for, looked up, called off, and carried out one at a time.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::ToSpan as _;
use jiff::civil::Date;
use tokio_util::sync::CancellationToken;

use super::pages::PageCursor;
use super::run::{Backfill, Counts, Cursor, DayCursor, Kind, MAX_KEPT, Question, Stage, UnderWay};
use super::{PullError, Pulls};
use crate::clock::UnixMillis;
use crate::delivery::brevo_leg::delivers_since;
use crate::mixpanel::profiles::MAX_PEOPLE;
use crate::people::roster::PersonId;
use crate::record::{Destinations, Origin};
use crate::store::{StoreError, Table, WriteBatch, write_when_there_is_room};
use crate::telemetry;
use crate::vendor::{Family, Priority};

/// Seconds that a call takes, about, where no budget holds it back.
const SECONDS_PER_CALL: u64 = 2;

/// Why no backfill was begun.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("the backfill {0} is under way; there is one at a time")]
    Busy(String),
    #[error("{0}")]
    Invalid(&'static str),
    #[error(
        "events that are to set off automations are shown first: make a dry run of the same, and name it as `after`"
    )]
    NotShown,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the system has no randomness to give: {0}")]
    Random(#[from] getrandom::Error),
}

impl Pulls {
    /// Begins a backfill; it goes on by itself, over restarts too.
    pub async fn ask(&self, question: Question) -> Result<Backfill, AskError> {
        let cursor = self.beginning(&question).await?;
        let kept = Backfill::all(&self.parts.state).await?;
        if let Some(running) = kept.iter().find(|run| run.stage == Stage::Running) {
            return Err(AskError::Busy(running.id.clone()));
        }
        if question.trigger_automations && !question.dry_run {
            let shown = |run: &&Backfill| run.question.dry_run && run.stage == Stage::Done;
            let named = kept.iter().find(|run| Some(&run.id) == question.after.as_ref()).filter(shown);
            named.filter(|run| run.question.is_same(&question)).ok_or(AskError::NotShown)?;
        }
        let now = self.parts.clock.now();
        let total = match &cursor {
            Cursor::Events(days) => Some(days_between(days.day, days.last)),
            Cursor::Profiles { .. } => None,
        };
        let mut run = Backfill {
            id: new_id(now)?,
            question,
            stage: Stage::Running,
            started_at: now,
            finished_at: None,
            failure: None,
            cursor,
            done: 0,
            total,
            estimate_seconds: None,
            counts: Counts::default(),
        };
        self.estimate(&mut run).await;
        if let Some(oldest) = kept.first().filter(|_| kept.len() >= MAX_KEPT) {
            let mut batch = WriteBatch::new();
            batch.delete(Table::Backfills, oldest.id.as_bytes());
            write_when_there_is_room(self.parts.state.as_ref(), batch).await?;
        }
        run.write(&self.parts.state).await?;
        self.wake.notify_one();
        tracing::info!(backfill = run.id, dry_run = run.question.dry_run, "a backfill has begun");
        Ok(run)
    }

    /// Newest first.
    pub async fn backfills(&self) -> Result<Vec<Backfill>, StoreError> {
        let mut all = Backfill::all(&self.parts.state).await?;
        all.reverse();
        Ok(all)
    }

    pub async fn backfill(&self, id: &str) -> Result<Option<Backfill>, StoreError> {
        Backfill::read(&self.parts.state, id).await
    }

    /// Calls a backfill off; what it has fed stays. False when it is not under way.
    pub fn call_off(&self, id: &str) -> bool {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let found = under_way.as_ref().filter(|under_way| under_way.id == id);
        found.is_some_and(|under_way| {
            under_way.called_off.cancel();
            true
        })
    }

    /// Carries backfills out for as long as the process lives; only a failed store ends it.
    pub async fn carry_out(self: Arc<Self>) -> Result<Infallible, StoreError> {
        loop {
            // Registered before the look, so that what is asked for in between is not missed.
            let woken = self.wake.notified();
            let waiting = Backfill::all(&self.parts.state).await?;
            match waiting.into_iter().find(|run| run.stage == Stage::Running) {
                Some(run) => self.finish(run).await?,
                None => woken.await,
            }
        }
    }

    async fn finish(&self, mut run: Backfill) -> Result<(), StoreError> {
        let called_off = CancellationToken::new();
        let under_way = UnderWay { id: run.id.clone(), called_off: called_off.clone() };
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = Some(under_way);
        let reading = async {
            match run.question.what {
                Kind::Profiles => self.read_profiles(&mut run).await,
                Kind::Events => self.read_events(&mut run).await,
            }
        };
        let ended = called_off.run_until_cancelled(reading).await;
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // What was written down last counts: a reading that was dropped had not fed what it had counted since.
        if !matches!(ended, Some(Ok(()))) {
            run = Backfill::read(&self.parts.state, &run.id).await?.unwrap_or(run);
        }
        (run.stage, run.failure) = match ended {
            None => (Stage::Cancelled, None),
            Some(Ok(())) => (Stage::Done, None),
            Some(Err(error)) => (Stage::Failed, Some(error.store()?)),
        };
        run.finished_at = Some(self.parts.clock.now());
        run.estimate_seconds = None;
        run.write(&self.parts.state).await?;
        tracing::info!(backfill = run.id, state = ?run.stage, failure = run.failure, fed = run.counts.fed, "a backfill ended");
        Ok(())
    }

    async fn read_profiles(&self, run: &mut Backfill) -> Result<(), PullError> {
        let source = self.parts.profiles.as_ref().ok_or(PullError::NoServiceAccount)?;
        if source.wanted.is_empty() {
            return Err(PullError::NothingMapped);
        }
        loop {
            let Cursor::Profiles { filter, page: cursor } = &mut run.cursor else { return Ok(()) };
            let page = source.page(filter, cursor).await?;
            let at = cursor.page;
            cursor.page += 1;
            telemetry::pulled("profiles", page.rows.len() as u64);
            let mut drafts = Vec::with_capacity(page.rows.len());
            let mut people = Vec::with_capacity(page.rows.len());
            for (id, profile) in &page.rows {
                run.counts.without_address += u64::from(!source.wanted.has_address(profile));
                if let Some(draft) = source.wanted.draft(id, profile) {
                    drafts.push(draft);
                    people.push(PersonId::from(id.as_str()));
                }
            }
            run.counts.read += page.rows.len() as u64;
            run.counts.new_people += self.unknown(people).await?;
            if run.question.dry_run {
                run.counts.fed += drafts.len() as u64;
            } else {
                let fed = self.parts.feed.append(Origin::Pull, Destinations::BREVO, drafts).await?;
                run.counts.take_fed(fed);
            }
            run.total = Some(page.total);
            run.done = (at * MAX_PEOPLE as u64 + page.rows.len() as u64).min(page.total.max(run.counts.read));
            self.estimate(run).await;
            // One page says how many there are, and what they are like.
            if page.last || run.question.dry_run {
                return Ok(());
            }
            run.write(&self.parts.state).await?;
        }
    }

    async fn unknown(&self, people: Vec<PersonId>) -> Result<u64, StoreError> {
        let keys = people.iter().map(|id| id.as_bytes().to_vec()).collect();
        let known = self.parts.state.get(Table::People, keys).await?;
        Ok(known.iter().filter(|row| row.is_none()).count() as u64)
    }

    /// Where the question's first reading begins, when it can be asked at all.
    async fn beginning(&self, question: &Question) -> Result<Cursor, AskError> {
        let (from, to) = (date(question.from.as_deref())?, date(question.to.as_deref())?);
        if from.zip(to).is_some_and(|(from, to)| from > to) {
            return Err(AskError::Invalid("`from` is after `to`"));
        }
        if !self.parts.brevo {
            return Err(AskError::Invalid("connectors.brevo is not configured, so there is nothing to fill"));
        }
        match question.what {
            Kind::Profiles => {
                let Some(source) = &self.parts.profiles else {
                    return Err(AskError::Invalid("profiles are read with a service account and its project_id"));
                };
                if !question.events.is_empty() || question.trigger_automations {
                    return Err(AskError::Invalid("`events` and `trigger_automations` are for events"));
                }
                let midnight = |date: Date| format!("{date}T00:00:00");
                let from = from.map(midnight);
                let to = to.map(|to| midnight(to.saturating_add(1.day())));
                let filter = source.wanted.filter(from.as_deref(), to.as_deref());
                Ok(Cursor::Profiles { filter, page: PageCursor::default() })
            }
            Kind::Events => {
                let Some(from) = from else { return Err(AskError::Invalid("`from` says on which day events begin")) };
                let mapping = self.parts.mapping.now().mapping.clone();
                if mapping.event_names().is_some_and(|mut names| names.next().is_none()) {
                    return Err(AskError::Invalid("event_mapping is empty, so no event would be sent"));
                }
                let now = self.parts.clock.now();
                let until = delivers_since(&self.parts.state).await?.unwrap_or(now).min(now);
                // A day more, for a project whose zone is ahead; what is this relay's own is left out line by line.
                let last = day_of(until).saturating_add(1.day()).min(day_of(now));
                let last = to.unwrap_or(last).min(last);
                let first = match question.dry_run || question.trigger_automations {
                    true => from,
                    // Whole days of which everything is too old need not be read.
                    false => from.max(day_of(now - mapping.longest_stale_after() - Duration::from_hours(24))),
                };
                if first > last {
                    return Err(AskError::Invalid(
                        "nothing of these days would be sent: this relay delivered already, or every event is older than \
                         stale_after and would set nothing off (trigger_automations)",
                    ));
                }
                let before = Counts::default();
                Ok(Cursor::Events(DayCursor { day: first, last, lines: 0, hash: 0, before }))
            }
        }
    }

    /// How long the rest takes by the vendors' limits; whatever else there is to do comes first.
    pub(super) async fn estimate(&self, run: &mut Backfill) {
        let Some(total) = run.total else { return };
        let left = total.saturating_sub(run.done);
        let (family, calls) = match run.question.what {
            Kind::Profiles => (Family::MixpanelQuery, left.div_ceil(MAX_PEOPLE as u64)),
            Kind::Events => (Family::MixpanelExport, left),
        };
        let standing = self.parts.budgets.standing(family, Priority::Backfill, 1).await;
        let reading = standing.map_or(0, |standing| {
            let hours = standing.limit.span.as_secs();
            waiting(calls, standing.remaining, standing.limit.amount * 3 / 4, hours)
        });
        let reading = reading + calls * SECONDS_PER_CALL;
        let writing = match (run.question.what, self.parts.budgets.windows(Family::BrevoContacts).await.pop()) {
            (Kind::Profiles, Some((limit, _))) => left * limit.span.as_secs() / limit.amount.max(1),
            _ => 0,
        };
        run.estimate_seconds = Some(if run.question.dry_run { reading } else { reading.max(writing) });
    }
}

/// Seconds until `calls` have had their places, of which there are `remaining` now and `per_span` in every `span`.
fn waiting(calls: u64, remaining: u64, per_span: u64, span: u64) -> u64 {
    calls.saturating_sub(remaining).div_ceil(per_span.max(1)) * span
}

fn date(text: Option<&str>) -> Result<Option<Date>, AskError> {
    let invalid = |_| AskError::Invalid("`from` and `to` are days, as yyyy-mm-dd");
    text.map(|text| text.parse().map_err(invalid)).transpose()
}

/// In UTC.
pub(super) fn day_of(at: UnixMillis) -> Date {
    let at = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    jiff::tz::Offset::UTC.to_datetime(at).date()
}

/// Days from `first` to `last`, both included.
pub(super) fn days_between(first: Date, last: Date) -> u64 {
    first.until(last).map_or(1, |span| u64::try_from(span.get_days()).unwrap_or(0) + 1)
}

fn new_id(now: UnixMillis) -> Result<String, getrandom::Error> {
    let mut random = [0; 4];
    getrandom::fill(&mut random)?;
    Ok(format!("{:012x}{:08x}", now.0, u32::from_be_bytes(random)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hours_quota_is_waited_for() {
        for (calls, remaining, expected) in [(0, 45, 0), (45, 45, 0), (46, 45, 3600), (100, 10, 7200)] {
            assert_eq!(waiting(calls, remaining, 45, 3600), expected);
        }
    }

    #[test]
    fn days_are_counted_with_both_ends() {
        let day = |text: &str| text.parse::<Date>().unwrap();
        assert_eq!(days_between(day("2026-02-28"), day("2026-03-01")), 2);
        assert_eq!(day_of(UnixMillis(1_700_000_000_000)), day("2023-11-14"));
        assert!(date(Some("14.11.2023")).is_err());
    }
}
