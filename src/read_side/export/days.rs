//! The days of an export, pure: into how many calls they go, and how a call is cut when it keeps failing.

use jiff::ToSpan as _;
use jiff::civil::Date;

use crate::read_side::params::Params;

/// The most days that one call may ask for.
const MAX_DAYS: i32 = 100;

/// Days from `from` to `to`, both included, as the vendor counts them: in UTC, or in an old project's own zone
/// (contract §8). The relay only counts, so it need not know which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days {
    pub from: Date,
    pub to: Date,
}

impl Days {
    /// `None`: the dates are absent, unreadable or reversed, about which the vendor has words of its own.
    pub fn of(params: &Params) -> Option<Self> {
        let date = |name: &str| params.get(name)?.parse::<Date>().ok();
        let (from, to) = (date("from_date")?, date("to_date")?);
        (from <= to).then_some(Self { from, to })
    }

    fn count(self) -> i32 {
        self.from.until(self.to).map_or(1, |span| span.get_days() + 1)
    }

    /// In calls of at most [`MAX_DAYS`], oldest first.
    pub fn pieces(self) -> Vec<Self> {
        let mut pieces = Vec::new();
        let mut from = self.from;
        while let Ok(to) = from.checked_add((MAX_DAYS - 1).days())
            && to < self.to
        {
            pieces.push(Self { from, to });
            // `to` is before another date, so it has a tomorrow.
            from = to.saturating_add(1.day());
        }
        pieces.push(Self { from, to: self.to });
        pieces
    }

    /// Two halves, older first; `None` for a single day.
    pub fn halves(self) -> Option<[Self; 2]> {
        let count = self.count();
        let to = self.from.saturating_add((count / 2 - 1).days());
        (count > 1).then(|| [Self { from: self.from, to }, Self { from: to.saturating_add(1.day()), to: self.to }])
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn days(from: &str, to: &str) -> Days {
        Days { from: from.parse().unwrap(), to: to.parse().unwrap() }
    }

    #[test]
    fn dates_are_read_from_the_parameters() {
        let of = |query: &str| Days::of(&Params::read(query, None, Bytes::new()));
        assert_eq!(of("from_date=2026-01-01&to_date=2026-01-01"), Some(days("2026-01-01", "2026-01-01")));
        for bad in ["from_date=2026-01-02&to_date=2026-01-01", "from_date=2026-01-02", "from_date=x&to_date=2026-01-01"]
        {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_hundred_days_are_one_call() {
        assert_eq!(days("2026-01-01", "2026-04-10").count(), 100);
        assert_eq!(days("2026-01-01", "2026-04-10").pieces().len(), 1);
        let pieces = days("2026-01-01", "2026-04-11").pieces();
        assert_eq!(pieces, [days("2026-01-01", "2026-04-10"), days("2026-04-11", "2026-04-11")]);
        let halves = days("2024-02-28", "2024-03-01").halves();
        assert_eq!(halves, Some([days("2024-02-28", "2024-02-28"), days("2024-02-29", "2024-03-01")]));
        assert_eq!(days("2024-02-28", "2024-02-28").halves(), None);
    }

    proptest! {
        /// Whatever is cut how often: every day once, in order, and no call too long.
        #[test]
        fn every_day_is_asked_for_once(length in 0i32..1000, cuts in 0usize..6) {
            let from: Date = "2020-01-01".parse().unwrap();
            let whole = Days { from, to: from.saturating_add(length.days()) };
            let mut parts = whole.pieces();
            prop_assert!(parts.iter().all(|part| part.count() <= MAX_DAYS));
            for _ in 0..cuts {
                parts = parts.into_iter().flat_map(|part| part.halves().map_or(vec![part], Vec::from)).collect();
            }
            prop_assert_eq!(parts[0].from, whole.from);
            prop_assert_eq!(parts[parts.len() - 1].to, whole.to);
            for pair in parts.windows(2) {
                prop_assert_eq!(pair[0].to.saturating_add(1.day()), pair[1].from);
            }
            prop_assert!(parts.iter().all(|part| part.from <= part.to));
        }
    }
}
