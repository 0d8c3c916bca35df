//! Once a day, some hours after the day is over, for what comes late.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::{Date, DateTime};

use super::{CompareError, Reconciler};
use crate::clock::UnixMillis;
use crate::store::StoreError;

/// The project's hour from which on the day before is compared.
const FROM_HOUR: i8 = 6;
/// Between two looks at the clock, which may be set.
const LOOK: Duration = Duration::from_secs(60);
/// After a comparison in which a vendor did not answer.
const AGAIN_AFTER: Duration = Duration::from_hours(1);
/// Comparisons of one day; afterwards somebody has to ask.
const TRIES: u32 = 6;

/// What the daily comparison goes by.
#[derive(Debug, Default)]
struct Plan {
    /// A relay that begins during a day has nothing to say of the day before.
    was_there: bool,
    day: Option<Date>,
    tries: u32,
    next_try: UnixMillis,
}

impl Plan {
    /// The day to compare now, if there is one. `done` is the day of the newest report.
    fn due(&mut self, now: UnixMillis, local: DateTime, done: Option<Date>) -> Option<Date> {
        let yesterday = local.date().yesterday().ok()?;
        self.was_there |= done.is_some() || local.hour() < FROM_HOUR;
        if self.day != Some(yesterday) {
            *self = Self { was_there: self.was_there, day: Some(yesterday), ..Self::default() };
        }
        let waits = now < self.next_try || self.tries >= TRIES;
        let settled = self.tries == 0 && done >= Some(yesterday);
        (self.was_there && local.hour() >= FROM_HOUR && !waits && !settled).then_some(yesterday)
    }

    fn tried(&mut self, now: UnixMillis, answered: bool) {
        self.tries = if answered { TRIES } else { self.tries + 1 };
        self.next_try = now + AGAIN_AFTER;
    }
}

impl Reconciler {
    /// Compares the day before, every day, for as long as the process lives; only a failed store ends it.
    pub async fn daily(self: Arc<Self>) -> Result<Infallible, StoreError> {
        let mut plan = Plan::default();
        let reports = self.reports().await?;
        if let Some(report) = reports.first() {
            report.publish();
        }
        let mut done = reports.first().map(|report| report.day);
        loop {
            let now = self.parts.clock.now();
            if let Some(day) = self.local(now).and_then(|local| plan.due(now, local, done)) {
                match self.compare(day).await {
                    Ok(report) => {
                        let answered = report.destinations.iter().all(|side| side.not_counted.is_none());
                        plan.tried(now, answered);
                        done = done.max(Some(day));
                    }
                    Err(CompareError::Store(error)) => return Err(error),
                    Err(error) => {
                        tracing::warn!("{error}");
                        plan.tried(now, false);
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn local(&self, now: UnixMillis) -> Option<DateTime> {
        let now = jiff::Timestamp::from_millisecond(i64::try_from(now.0).ok()?).ok()?;
        Some(self.parts.timezone.to_datetime(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime {
        text.parse().unwrap()
    }

    fn day(text: &str) -> Option<Date> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_day_before_is_compared_once_from_the_hour_on() {
        let mut plan = Plan::default();
        let now = UnixMillis(0);
        assert_eq!(plan.due(now, at("2026-11-20T05:59:00"), None), None);
        assert_eq!(plan.due(now, at("2026-11-20T06:00:00"), None), day("2026-11-19"));
        plan.tried(now, true);
        assert_eq!(plan.due(now + AGAIN_AFTER * 9, at("2026-11-20T15:00:00"), day("2026-11-19")), None);
        assert_eq!(plan.due(now, at("2026-11-21T06:01:00"), day("2026-11-19")), day("2026-11-20"));
    }

    #[test]
    fn a_relay_that_was_not_there_asks_nothing() {
        let mut plan = Plan::default();
        assert_eq!(plan.due(UnixMillis(0), at("2026-11-20T12:00:00"), None), None);
        // One that was there and is back does.
        assert_eq!(plan.due(UnixMillis(0), at("2026-11-20T12:00:00"), day("2026-11-18")), day("2026-11-19"));
        assert_eq!(Plan::default().due(UnixMillis(0), at("2026-11-20T12:00:00"), day("2026-11-19")), None);
    }

    #[test]
    fn a_vendor_that_does_not_answer_is_asked_again_a_few_times() {
        let mut plan = Plan::default();
        let (mut now, noon, done) = (UnixMillis(0), at("2026-11-20T12:00:00"), day("2026-11-19"));
        assert!(plan.due(now, noon, day("2026-11-18")).is_some());
        for _ in 1..TRIES {
            plan.tried(now, false);
            assert_eq!(plan.due(now, noon, done), None);
            now = now + AGAIN_AFTER;
            assert!(plan.due(now, noon, done).is_some());
        }
        plan.tried(now, false);
        assert_eq!(plan.due(now + AGAIN_AFTER, noon, done), None);
    }
}
