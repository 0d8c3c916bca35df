//! Events delivered, by the day on which they happened and by name: what a vendor's own counts are held against.
//!
//! Rows go into the same write as the checkpoint that counts the same events, so that no crash counts one twice or not at
//! all. No row is read to be added to: a process begins a chapter of its own whenever it starts and whenever a day begins,
//! and whoever reads adds the chapters up.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::clock::UnixMillis;
use crate::record::Destination;
use crate::store::{KeyRange, State, StoreError, Table, WriteBatch};

/// How long days can be compared, and how far back an event may lie when it is received to be counted: what a backfill
/// brings of years ago makes no rows.
pub const KEPT: Duration = Duration::from_hours(24 * 40);
/// How far ahead of its arrival an event may say that it happened.
const AHEAD: Duration = Duration::from_hours(24);
/// Names and days in a chapter. Beyond it events are counted without their names.
const MAX_ROWS: usize = 5_000;
/// The name that stands for all that had no room.
pub const OTHERS: &str = "";
/// What the rows of counts begin with in their table.
const COUNTS: u8 = 0;

/// A number that grows with every chapter; kept in the checkpoint.
pub type Chapter = u64;

/// The events of one destination.
#[derive(Debug)]
pub struct DayBook {
    destination: Destination,
    timezone: TimeZone,
    chapter: Chapter,
    /// The latest day on which anything arrived.
    today: Option<Date>,
    days: BTreeMap<Date, HashMap<String, Row>>,
    rows: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    count: u64,
    written: u64,
}

impl DayBook {
    /// `last` is the chapter of the checkpoint that the leg goes on from.
    pub fn open(destination: Destination, timezone: TimeZone, last: Chapter) -> Self {
        Self { destination, timezone, chapter: last + 1, today: None, days: BTreeMap::new(), rows: 0 }
    }

    pub fn chapter(&self) -> Chapter {
        self.chapter
    }

    /// Counts an event that happened `at` and came in at `received_at`. A new day's first event has the chapter before
    /// written into `batch`.
    pub fn count(&mut self, name: &str, at: UnixMillis, received_at: UnixMillis, batch: &mut WriteBatch) {
        if at + KEPT < received_at || at > received_at + AHEAD {
            return;
        }
        let (Some(day), Some(today)) = (self.day(at), self.day(received_at)) else { return };
        if self.today.is_some_and(|before| before < today) {
            self.write(batch);
            self.days.clear();
            self.rows = 0;
            self.chapter += 1;
        }
        self.today = self.today.max(Some(today));
        let names = self.days.entry(day).or_default();
        if let Some(row) = names.get_mut(name) {
            row.count += 1;
            return;
        }
        let name = if self.rows < MAX_ROWS { name } else { OTHERS };
        self.rows += 1;
        names.entry(name.to_owned()).or_default().count += 1;
    }

    /// Adds the rows that have grown since the last time.
    pub fn write(&mut self, batch: &mut WriteBatch) {
        for (day, names) in &mut self.days {
            let day = [prefix(self.destination, *day).as_slice(), &self.chapter.to_be_bytes()].concat();
            for (name, row) in names.iter_mut().filter(|(_, row)| row.count > row.written) {
                batch.put(Table::Days, [day.as_slice(), name.as_bytes()].concat(), row.count.to_be_bytes().to_vec());
                row.written = row.count;
            }
        }
    }

    fn day(&self, at: UnixMillis) -> Option<Date> {
        day_of(at, &self.timezone)
    }
}

/// The day of `timezone` that `at` falls into.
pub fn day_of(at: UnixMillis, timezone: &TimeZone) -> Option<Date> {
    let at = Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
    Some(timezone.to_datetime(at).date())
}

/// Days order as they follow each other.
pub fn day_bytes(day: Date) -> [u8; 4] {
    let [high, low] = day.year().to_be_bytes();
    [high, low, day.month().unsigned_abs(), day.day().unsigned_abs()]
}

fn prefix(destination: Destination, day: Date) -> Vec<u8> {
    [&[COUNTS, destination.code()][..], &day_bytes(day)].concat()
}

/// Rows read in one go.
const PAGE: usize = 2_000;

/// The events of a day that were delivered to `destination`, by name; [`OTHERS`] holds those that are counted without one.
pub async fn delivered(
    state: &Arc<dyn State>,
    destination: Destination,
    day: Date,
) -> Result<BTreeMap<String, u64>, StoreError> {
    let prefix = prefix(destination, day);
    let mut range = KeyRange::prefix(prefix.clone());
    let mut counts = BTreeMap::new();
    loop {
        let rows = state.scan(Table::Days, range.clone(), PAGE).await?;
        for (key, value) in &rows {
            let (name, count) = read(&key[prefix.len()..], value)
                .ok_or_else(|| StoreError::Corrupt(format!("a day's count of {destination}")))?;
            *counts.entry(name).or_default() += count;
        }
        match rows.last() {
            Some((last, _)) if rows.len() == PAGE => range.from = [last.as_slice(), &[0]].concat(), // the next key in byte order
            _ => return Ok(counts),
        }
    }
}

/// What stands behind the prefix, and its value.
fn read(key: &[u8], value: &[u8]) -> Option<(String, u64)> {
    let name = key.get(size_of::<Chapter>()..)?;
    Some((String::from_utf8(name.to_vec()).ok()?, u64::from_be_bytes(value.try_into().ok()?)))
}

/// Lets go of days before `day`.
pub fn forget_before(day: Date, batch: &mut WriteBatch) {
    for destination in Destination::ALL {
        batch.delete_range(Table::Days, vec![COUNTS, destination.code()], prefix(destination, day));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;

    const HOUR: u64 = 3_600_000;
    /// 2026-11-20T00:00:00Z
    const MIDNIGHT: u64 = 1_795_132_800_000;
    const MIXPANEL: Destination = Destination::Mixpanel;

    fn counted(book: &mut DayBook, events: &[(&str, u64)]) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for (name, at) in events {
            book.count(name, UnixMillis(*at), UnixMillis(*at), &mut batch);
        }
        book.write(&mut batch);
        batch
    }

    async fn of(state: &Arc<dyn State>, day: &str) -> Vec<(String, u64)> {
        delivered(state, MIXPANEL, day.parse().unwrap()).await.unwrap().into_iter().collect()
    }

    #[tokio::test]
    async fn days_and_processes_are_chapters_and_add_up() {
        let (_directory, state) = testing::state();
        let mut book = DayBook::open(MIXPANEL, TimeZone::UTC, 0);
        state.write(counted(&mut book, &[("a", MIDNIGHT), ("b", MIDNIGHT), ("a", MIDNIGHT + 1)])).await.unwrap();
        state.write(counted(&mut book, &[("a", MIDNIGHT + 2)])).await.unwrap();
        // The day turns, and an event of the day before comes late.
        let late = counted(&mut book, &[("a", MIDNIGHT + 3), ("a", MIDNIGHT + 25 * HOUR), ("a", MIDNIGHT + 4)]);
        state.write(late).await.unwrap();
        let mut next = DayBook::open(MIXPANEL, TimeZone::UTC, book.chapter());
        state.write(counted(&mut next, &[("a", MIDNIGHT + 5)])).await.unwrap();
        let mut other = DayBook::open(Destination::Brevo, TimeZone::UTC, 0);
        state.write(counted(&mut other, &[("a", MIDNIGHT)])).await.unwrap();
        assert_eq!(of(&state, "2026-11-20").await, [("a".to_owned(), 6), ("b".to_owned(), 1)]);
        assert_eq!(of(&state, "2026-11-21").await, [("a".to_owned(), 1)]);

        let mut batch = WriteBatch::new();
        forget_before("2026-11-21".parse().unwrap(), &mut batch);
        state.write(batch).await.unwrap();
        assert_eq!((of(&state, "2026-11-20").await.len(), of(&state, "2026-11-21").await.len()), (0, 1));
    }

    #[tokio::test]
    async fn a_day_is_one_of_the_projects_zone() {
        let (_directory, state) = testing::state();
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let mut book = DayBook::open(MIXPANEL, berlin, 0);
        state.write(counted(&mut book, &[("a", MIDNIGHT - HOUR), ("a", MIDNIGHT - HOUR - 1)])).await.unwrap();
        assert_eq!(
            (of(&state, "2026-11-20").await, of(&state, "2026-11-19").await),
            (vec![("a".to_owned(), 1)], vec![("a".to_owned(), 1)])
        );
    }

    #[test]
    fn what_is_old_or_ahead_is_not_counted() {
        let mut book = DayBook::open(MIXPANEL, TimeZone::UTC, 0);
        let (mut batch, now) = (WriteBatch::new(), UnixMillis(MIDNIGHT));
        for at in [now - KEPT - Duration::from_millis(1), now + AHEAD + Duration::from_millis(1)] {
            book.count("a", at, now, &mut batch);
        }
        book.write(&mut batch);
        assert!(batch.is_empty());
    }

    #[tokio::test]
    async fn names_without_end_are_counted_together() {
        let (_directory, state) = testing::state();
        let mut book = DayBook::open(MIXPANEL, TimeZone::UTC, 0);
        let names: Vec<_> = (0..MAX_ROWS + 10).map(|n| format!("name {n}")).collect();
        let events: Vec<_> = names.iter().map(|name| (name.as_str(), MIDNIGHT)).collect();
        state.write(counted(&mut book, &events)).await.unwrap();
        let counts = delivered(&state, MIXPANEL, "2026-11-20".parse().unwrap()).await.unwrap();
        assert_eq!((counts.len(), counts[OTHERS]), (MAX_ROWS + 1, 10));
    }
}
