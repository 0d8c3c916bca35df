//! What was delivered on a day, held against what the vendors say that they have: every day, and when somebody asks.
//!
//! It owns the questions to the vendors, the comparison and the kept reports. What was delivered it takes from the legs'
//! books ([`crate::delivery::day_book`]); it changes nothing that the legs see.
//!
//! Invariants:
//! * one comparison at a time; one query at Mixpanel for [`crate::mixpanel::counts::MAX_NAMES`] names, and none for a day on
//!   which nothing was delivered;
//! * a vendor that does not answer leaves a report that says so, never a wrong number.

mod counting;
mod daily;
mod report;

use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use tokio::sync::Mutex;

pub use counting::{BrevoSide, MixpanelSide};
pub use report::{Comparison, Report};

use crate::clock::SharedClock;
use crate::delivery::day_book::{self, day_of};
use crate::delivery::status::LegStatus;

use crate::store::{KeyRange, State, StoreError, Table, WriteBatch};
use crate::telemetry;
use crate::vendor::{Family, Priority};

/// What the rows of reports begin with in their table.
const REPORTS: u8 = 1;
/// More reports than days are ever kept.
const MAX_REPORTS: usize = 1_000;

/// What comparing is made of.
pub struct Parts {
    pub state: Arc<dyn State>,
    pub clock: SharedClock,
    /// In which the project's days begin.
    pub timezone: TimeZone,
    /// `None` without a service account, or when nothing is delivered there.
    pub mixpanel: Option<MixpanelSide>,
    /// `None` when Brevo is not configured.
    pub brevo: Option<BrevoSide>,
    pub legs: Vec<LegStatus>,
}

pub struct Reconciler {
    parts: Parts,
    /// Held while a day is compared.
    turn: Mutex<()>,
}

/// Why a day is not compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("{day} is not over: its last event may come yet")]
    NotOver { day: Date },
    #[error("{day} is too long ago: days are counted for {} days", day_book::KEPT.as_secs() / 86_400)]
    TooOld { day: Date },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Reconciler {
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self { parts, turn: Mutex::new(()) })
    }

    /// The day before today, in the project's zone.
    pub fn yesterday(&self) -> Option<Date> {
        self.today()?.yesterday().ok()
    }

    fn today(&self) -> Option<Date> {
        day_of(self.parts.clock.now(), &self.parts.timezone)
    }

    /// How long a question to Mixpanel would wait for its place in the hour; `None` when it is not asked.
    pub async fn wait(&self) -> Option<Duration> {
        let side = self.parts.mixpanel.as_ref()?;
        let standing = side.budgets.standing(Family::MixpanelQuery, Priority::Backfill, 1).await?;
        Some(standing.wait)
    }

    /// Compares `day`, which must be over, and keeps the report in the place of an earlier one.
    pub async fn compare(&self, day: Date) -> Result<Report, CompareError> {
        if self.today().is_none_or(|today| day >= today) {
            return Err(CompareError::NotOver { day });
        }
        if self.oldest().is_none_or(|oldest| day < oldest) {
            return Err(CompareError::TooOld { day });
        }
        let _turn = self.turn.lock().await;
        let mut destinations = Vec::new();
        for leg in &self.parts.legs {
            let delivered = day_book::delivered(&self.parts.state, leg.destination(), day).await?;
            let counted = self.counted(leg.destination(), &delivered, day).await;
            destinations.push(Comparison::new(delivered, counted?, &leg.report().await?));
        }
        let timezone = self.parts.timezone.iana_name().unwrap_or("UTC").to_owned();
        let report = Report { day, timezone, made_at: self.parts.clock.now(), destinations };
        self.keep(&report).await?;
        report.publish();
        Ok(report)
    }

    fn oldest(&self) -> Option<Date> {
        day_of(self.parts.clock.now() - day_book::KEPT, &self.parts.timezone)
    }

    /// Reports, newest first.
    pub async fn reports(&self) -> Result<Vec<Report>, StoreError> {
        let rows = self.parts.state.scan(Table::Days, KeyRange::prefix([REPORTS]), MAX_REPORTS).await?;
        let read = |value: &[u8]| {
            serde_json::from_slice(value).map_err(|e| StoreError::Corrupt(format!("a day's comparison: {e}")))
        };
        rows.iter().rev().map(|(_, value)| read(value)).collect()
    }

    /// Writes the report, and lets go of counts and reports that are too old.
    async fn keep(&self, report: &Report) -> Result<(), StoreError> {
        let mut batch = WriteBatch::new();
        let value = serde_json::to_vec(report).map_err(|e| StoreError::Failed(e.to_string()))?;
        batch.put(Table::Days, key(report.day), value);
        if let Some(oldest) = self.oldest() {
            day_book::forget_before(oldest, &mut batch);
            batch.delete_range(Table::Days, vec![REPORTS], key(oldest));
        }
        self.parts.state.write(batch).await
    }
}

fn key(day: Date) -> Vec<u8> {
    [&[REPORTS][..], &day_book::day_bytes(day)].concat()
}

impl Report {
    fn publish(&self) {
        for comparison in &self.destinations {
            if let Some(missing) = comparison.missing() {
                telemetry::events_missing(comparison.destination, missing);
            }
        }
    }
}

#[cfg(test)]
mod tests;
