//! How long the disk lasts (P3): what a destination does not take piles up in the journal, at the pace at which records
//! are accepted. Pure, but for [`watch`], which keeps the pace.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::{Journal, JournalSize};

/// The present rate is that of the last ten minutes.
const SPAN: Duration = Duration::from_secs(600);
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// Accepted records over time.
#[derive(Debug, Default)]
pub struct Pace {
    samples: VecDeque<(Instant, u64)>,
}

impl Pace {
    /// Takes note of how many records had been accepted in all at `now`.
    pub fn sample(&mut self, now: Instant, accepted: u64) {
        while self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) > SPAN) {
            self.samples.pop_front();
        }
        self.samples.push_back((now, accepted));
    }

    /// Records a second. Zero until there are two samples.
    pub fn per_second(&self) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.samples.front(), self.samples.back()) else { return 0.0 };
        let seconds = to.duration_since(*from).as_secs_f64();
        if seconds > 0.0 { after.saturating_sub(*before) as f64 / seconds } else { 0.0 }
    }
}

/// Hours until the watermark if nothing more left the journal. `None`: at the present pace, never.
pub fn hours_left(size: &JournalSize, per_second: f64) -> Option<f64> {
    let bytes_each = size.bytes as f64 / size.records.max(1) as f64;
    let growth = per_second * bytes_each;
    (growth > 0.0).then(|| size.room as f64 / growth / 3600.0)
}

pub type SharedPace = Arc<Mutex<Pace>>;

/// Keeps `pace` for as long as it is polled.
pub async fn watch(journal: Arc<dyn Journal>, pace: SharedPace) {
    let mut ticks = tokio::time::interval(SAMPLE_EVERY);
    loop {
        let now = ticks.tick().await;
        pace.lock().unwrap_or_else(PoisonError::into_inner).sample(now, journal.accepted().total());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pace_is_that_of_the_last_minutes() {
        let mut pace = Pace::default();
        let start = Instant::now();
        assert_eq!(pace.per_second(), 0.0);
        pace.sample(start, 1_000_000);
        pace.sample(start + Duration::from_secs(10), 1_000_100);
        assert_eq!(pace.per_second(), 10.0);
        for minute in 1..=20 {
            pace.sample(start + Duration::from_secs(minute * 60), 1_000_100);
        }
        assert_eq!(pace.per_second(), 0.0, "what was long ago is not the present rate");
    }

    #[test]
    fn hours_follow_from_room_and_growth() {
        let size = JournalSize { records: 100, bytes: 10_000, room: 3_600_000, ..JournalSize::default() };
        assert_eq!(hours_left(&size, 10.0), Some(1.0));
        assert_eq!(hours_left(&size, 0.0), None);
    }
}
