//! Past events, a day's export at a time.
//!
//! Mixpanel promises no order within a day, so the cursor holds how many lines are done and a chained hash of them: asked
//! again, as many are walked over, and when they are not the very same the day is read from its beginning. What is fed
//! twice by that is known by the dedup window.

use std::time::Duration;

use bytes::Bytes;
use jiff::ToSpan as _;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::run::{Backfill, Cursor, DayCursor};
use super::{PullError, Pulls};
use crate::clock::UnixMillis;
use crate::delivery::brevo_leg::delivers_since;
use crate::feed::Draft;
use crate::mapping::{EventDecision, EventView, map_event};
use crate::read_side::{Days, NotExported};
use crate::record::{Destinations, Kind, Origin};
use crate::telemetry;

/// Events that are fed together.
const BATCH: usize = 500;
/// Failures in a row after which a day is given up, and the backfill with it.
const MAX_FAILURES: u32 = 12;
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// What a line means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Sent,
    Stale,
    OwnDelivery,
    NotMapped,
}

impl Pulls {
    pub(super) async fn read_events(&self, run: &mut Backfill) -> Result<(), PullError> {
        let until = delivers_since(&self.parts.state).await?;
        let names = self.names(&run.question.events);
        loop {
            let Cursor::Events(at) = &run.cursor else { return Ok(()) };
            if at.day > at.last {
                return Ok(());
            }
            let (mut failures, mut done) = (0, at.lines);
            while let Err(error) = self.read_day(run, until, &names).await? {
                let Cursor::Events(at) = &run.cursor else { return Ok(()) };
                failures = if at.lines > done { 1 } else { failures + 1 };
                done = at.lines;
                if failures > MAX_FAILURES {
                    return Err(PullError::TooOften(failures, error));
                }
                let wait = FIRST_BACKOFF.saturating_mul(1 << failures.min(10)).min(LONGEST_BACKOFF);
                tracing::warn!(
                    error,
                    failures,
                    retry_s = wait.as_secs(),
                    "an export failed; its day is asked for again"
                );
                tokio::time::sleep(wait).await;
            }
            run.done += 1;
            if let Cursor::Events(at) = &mut run.cursor {
                *at = DayCursor {
                    day: at.day.saturating_add(1.day()),
                    last: at.last,
                    lines: 0,
                    hash: 0,
                    before: run.counts.clone(),
                };
            }
            self.estimate(run).await;
            run.write(&self.parts.state).await?;
        }
    }

    /// The names to ask for: as few as the mapping makes of use. Without any, all come.
    fn names(&self, wanted: &[String]) -> Vec<String> {
        let mapping = self.parts.mapping.now().mapping.clone();
        let mut names: Vec<String> = match (wanted, mapping.event_names()) {
            ([], Some(mapped)) => mapped.map(str::to_owned).collect(),
            ([], None) => Vec::new(),
            (wanted, _) => wanted.to_vec(),
        };
        names.sort_unstable();
        names
    }

    /// Reads what is left of the cursor's day. `Ok(Err)`: it broke off, and another try may do.
    async fn read_day(
        &self,
        run: &mut Backfill,
        until: Option<UnixMillis>,
        names: &[String],
    ) -> Result<Result<(), String>, PullError> {
        let Cursor::Events(at) = run.cursor.clone() else { return Ok(Ok(())) };
        let (mut walked, mut chain) = (0, 0);
        let mut drafts = Vec::new();
        let mut lines = match self.parts.exports.export_lines(Days { from: at.day, to: at.day }, names).await {
            Ok(lines) => lines,
            Err(error) => return again(error).map(Err),
        };
        loop {
            let chunk = match lines.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) if walked < at.lines => {
                    begin_again(run, &at);
                    return Ok(Err("the day has fewer lines than before".to_owned()));
                }
                Ok(None) => {
                    self.feed_events(run, std::mem::take(&mut drafts), &at, (walked, chain)).await?;
                    return Ok(Ok(()));
                }
                Err(error) => {
                    let error = again(error)?;
                    self.back_to_what_was_written(run).await?;
                    return Ok(Err(error));
                }
            };
            for line in chunk {
                walked += 1;
                chain = xxh3_64_with_seed(&line, chain);
                if walked <= at.lines {
                    if walked == at.lines && chain != at.hash {
                        begin_again(run, &at);
                        return Ok(Err("the day's lines are others than before".to_owned()));
                    }
                    continue;
                }
                telemetry::pulled("events", 1);
                if self.take_line(run, &line, until) == Line::Sent {
                    drafts.push(Draft::new(Kind::Event, line));
                }
            }
            if drafts.len() >= BATCH {
                self.feed_events(run, std::mem::take(&mut drafts), &at, (walked, chain)).await?;
            }
        }
    }

    /// What was counted of lines that were never fed does not count.
    async fn back_to_what_was_written(&self, run: &mut Backfill) -> Result<(), PullError> {
        if let Some(written) = Backfill::read(&self.parts.state, &run.id).await? {
            *run = written;
        }
        Ok(())
    }

    async fn feed_events(
        &self,
        run: &mut Backfill,
        drafts: Vec<Draft>,
        at: &DayCursor,
        (lines, hash): (u64, u64),
    ) -> Result<(), PullError> {
        if run.question.dry_run {
            run.counts.fed += drafts.len() as u64;
        } else {
            let origin = if run.question.trigger_automations { Origin::PullToTrigger } else { Origin::Pull };
            let fed = self.parts.feed.append(origin, Destinations::BREVO, drafts).await?;
            run.counts.take_fed(fed);
        }
        run.cursor = Cursor::Events(DayCursor { lines, hash, ..at.clone() });
        run.write(&self.parts.state).await?;
        Ok(())
    }

    /// Counts a line, and says what it means.
    fn take_line(&self, run: &mut Backfill, line: &Bytes, until: Option<UnixMillis>) -> Line {
        run.counts.read += 1;
        let Ok(view) = EventView::parse(line) else { return Line::NotMapped };
        let (now, mapping) = (self.parts.clock.now(), self.parts.mapping.now().mapping.clone());
        let counts = run.counts.of_event(&view.name);
        let meaning = match map_event(&view, &mapping, now) {
            EventDecision::Skip(_) => Line::NotMapped,
            EventDecision::Send(event) if until.is_some_and(|until| event.time >= until) => Line::OwnDelivery,
            EventDecision::Send(event) if event.is_stale(now) && !run.question.trigger_automations => Line::Stale,
            EventDecision::Send(_) => Line::Sent,
        };
        *match meaning {
            Line::Sent => &mut counts.sent,
            Line::Stale => &mut counts.stale,
            Line::OwnDelivery => &mut counts.own_delivery,
            Line::NotMapped => &mut counts.not_mapped,
        } += 1;
        meaning
    }
}

/// The day is read from its first line, and counted anew.
fn begin_again(run: &mut Backfill, at: &DayCursor) {
    run.counts = at.before.clone();
    run.cursor = Cursor::Events(DayCursor { lines: 0, hash: 0, ..at.clone() });
}

/// The words of what passes; what does not ends the backfill.
fn again(error: NotExported) -> Result<String, PullError> {
    match error {
        NotExported::Again(cut) => Ok(cut.to_string()),
        NotExported::Store(error) => Err(error.into()),
        other => Err(PullError::Refused(other.to_string())),
    }
}
