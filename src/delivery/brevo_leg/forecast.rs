//! What Brevo would get if the mode were `live`, counted while it is `observe`.
//!
//! Counted in hours from the first record on, so that a forecast of ten minutes already says something and one of a day
//! shows the busiest hour. How many different people or groups there were is estimated (within two per cent or so): the
//! sets themselves could be as large as the project. What is hashed for that is hashed with a number of this process's
//! own, so that nobody can be found by it. A restart begins anew.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cardinality_estimator::CardinalityEstimator;
use serde::Serialize;

use crate::brevo::limits::MAX_BATCH_EVENTS;
use crate::brevo::names::EventName;
use crate::clock::UnixMillis;
use crate::people::person::{Folded, Person};

const HOUR: Duration = Duration::from_secs(3_600);
/// Hours that are looked back at.
const HOURS: usize = 24;
/// Names that are counted each by itself; a mapping that takes every event has no bound of its own.
const MAX_NAMES: usize = 200;
/// What is seen in less is not taken for an hour's worth.
const SHORTEST: Duration = Duration::from_secs(60);

/// Different things, counted without being kept.
type Distinct = CardinalityEstimator<u64>;

/// What live mode would have sent, as far as it has been seen. Shared by the leg and who asks.
#[derive(Debug, Default)]
pub struct Forecast {
    counted: Mutex<Option<Counted>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Counted {
    since: UnixMillis,
    /// Consecutive, the present one last; before the first there were `passed` others.
    hours: VecDeque<Hour>,
    passed: u64,
}

#[derive(Debug, Default)]
struct Hour {
    contact_updates: u64,
    events: Names,
    events_without_address: u64,
    attributes: Names,
    contacts: Distinct,
    without_address: Distinct,
    companies: Distinct,
    company_updates: u64,
}

#[derive(Clone, Debug, Default)]
struct Names {
    by_name: BTreeMap<String, u64>,
    others: u64,
}

/// The forecast as shown. Counts of people and groups are estimates.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct ForecastReport {
    pub since: String,
    /// Of the hours that are looked back at, at most 24.
    pub observed_seconds: f64,
    /// People with an address or a number whose contacts would have been written.
    pub contacts: u64,
    /// People about whom something came and who have neither: their records would wait.
    pub without_address: u64,
    pub companies: u64,
    /// By Brevo's names.
    pub events: BTreeMap<String, u64>,
    /// Of all names beyond the first two hundred.
    pub other_events: u64,
    pub events_without_address: u64,
    /// Updates that touch an attribute, by Brevo's names.
    pub attributes: BTreeMap<String, u64>,
    pub calls_per_hour: Calls,
}

/// Calls in the busiest whole hour, or what a first hour comes to at its present pace.
#[derive(Clone, Copy, Debug, Serialize, PartialEq)]
pub struct Calls {
    pub contacts: Span,
    pub events: Span,
    pub companies: Span,
}

/// `least`: updates of one person gathered, events in full batches. `most`: a call for every record.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq)]
pub struct Span {
    pub least: u64,
    pub most: u64,
}

impl Forecast {
    /// A profile update, and what it means for a person who is `after` it as given.
    pub fn profile(&self, now: UnixMillis, id: &str, after: &Person, folded: &Folded) {
        let hash = self.hasher.hash_one(id);
        self.count(now, |hour| {
            if !after.addressable() {
                return hour.without_address.insert_hash(hash);
            }
            hour.contact_updates += 1;
            hour.contacts.insert_hash(hash);
            folded
                .attributes
                .iter()
                .filter(|name| !name.is_kept_back())
                .for_each(|name| hour.attributes.add(name.as_str()));
        });
    }

    /// An event of the person as known so far.
    pub fn event(&self, now: UnixMillis, id: &str, person: Option<&Person>, name: &EventName) {
        let hash = self.hasher.hash_one(id);
        self.count(now, |hour| {
            if person.is_some_and(Person::addressable) {
                return hour.events.add(name.as_str());
            }
            hour.events_without_address += 1;
            hour.without_address.insert_hash(hash);
        });
    }

    pub fn company(&self, now: UnixMillis, group: &str) {
        let group = self.hasher.hash_one(group);
        self.count(now, |hour| {
            hour.company_updates += 1;
            hour.companies.insert_hash(group);
        });
    }

    /// Nothing before the first record.
    pub fn report(&self, now: UnixMillis) -> Option<ForecastReport> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = counted.as_mut()?;
        counted.go_to(now);
        Some(counted.report(now))
    }

    fn count(&self, now: UnixMillis, into: impl FnOnce(&mut Hour)) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = counted.get_or_insert_with(|| Counted { since: now, hours: VecDeque::new(), passed: 0 });
        into(counted.go_to(now));
    }
}

impl Counted {
    /// The hour of `now`. A clock that was set back counts in the last one.
    fn go_to(&mut self, now: UnixMillis) -> &mut Hour {
        let number = now.since(self.since).as_secs() / HOUR.as_secs();
        let last = self.passed + self.hours.len() as u64;
        // Of a long silence no more than is looked back at.
        let missing = (number + 1).saturating_sub(last);
        let skipped = missing.saturating_sub(HOURS as u64);
        if skipped > 0 {
            self.passed = last + skipped;
            self.hours.clear();
        }
        for _ in skipped..missing {
            self.hours.push_back(Hour::default());
        }
        while self.hours.len() > HOURS {
            self.hours.pop_front();
            self.passed += 1;
        }
        self.hours.back_mut().unwrap_or_else(|| unreachable!("an hour was added when there was none"))
    }

    fn report(&self, now: UnixMillis) -> ForecastReport {
        let elapsed = now.since(self.since);
        let observed = elapsed.saturating_sub(HOUR.saturating_mul(self.passed.try_into().unwrap_or(u32::MAX)));
        let mut all = Hour::default();
        self.hours.iter().for_each(|hour| all.add(hour));
        ForecastReport {
            since: self.since.to_string(),
            observed_seconds: observed.as_secs_f64(),
            contacts: all.contacts.estimate() as u64,
            without_address: all.without_address.estimate() as u64,
            companies: all.companies.estimate() as u64,
            events: all.events.by_name,
            other_events: all.events.others,
            events_without_address: all.events_without_address,
            attributes: all.attributes.by_name,
            calls_per_hour: self.calls_per_hour(elapsed),
        }
    }

    fn calls_per_hour(&self, elapsed: Duration) -> Calls {
        // The present hour is not whole.
        let whole = self.hours.len() - 1;
        if whole == 0 {
            let part = elapsed.max(SHORTEST).as_secs_f64() / HOUR.as_secs_f64();
            return self.hours.back().map(Hour::calls).unwrap_or_default().scaled(1.0 / part.min(1.0));
        }
        self.hours.iter().take(whole).map(Hour::calls).fold(Calls::default(), Calls::max)
    }
}

impl Hour {
    fn add(&mut self, other: &Self) {
        self.contact_updates += other.contact_updates;
        self.events_without_address += other.events_without_address;
        self.company_updates += other.company_updates;
        self.events.join(&other.events);
        self.attributes.join(&other.attributes);
        self.contacts.merge(&other.contacts);
        self.without_address.merge(&other.without_address);
        self.companies.merge(&other.companies);
    }

    fn calls(&self) -> Calls {
        let events = self.events.total();
        let span = |least: u64, most: u64| Span { least: least.min(most), most };
        Calls {
            contacts: span(self.contacts.estimate() as u64, self.contact_updates),
            events: span(events.div_ceil(MAX_BATCH_EVENTS as u64), events),
            companies: span(self.companies.estimate() as u64, self.company_updates),
        }
    }
}

impl Names {
    fn add(&mut self, name: &str) {
        self.add_many(name, 1);
    }

    fn add_many(&mut self, name: &str, count: u64) {
        if let Some(counted) = self.by_name.get_mut(name) {
            *counted += count;
        } else if self.by_name.len() < MAX_NAMES {
            self.by_name.insert(name.to_owned(), count);
        } else {
            self.others += count;
        }
    }

    fn join(&mut self, other: &Self) {
        other.by_name.iter().for_each(|(name, count)| self.add_many(name, *count));
        self.others += other.others;
    }

    fn total(&self) -> u64 {
        self.by_name.values().sum::<u64>() + self.others
    }
}

impl Default for Calls {
    fn default() -> Self {
        let nothing = Span::default();
        Self { contacts: nothing, events: nothing, companies: nothing }
    }
}

impl Calls {
    fn max(self, other: Self) -> Self {
        let larger = |a: Span, b: Span| Span { least: a.least.max(b.least), most: a.most.max(b.most) };
        Self {
            contacts: larger(self.contacts, other.contacts),
            events: larger(self.events, other.events),
            companies: larger(self.companies, other.companies),
        }
    }

    fn scaled(self, factor: f64) -> Self {
        let scale = |count: u64| (count as f64 * factor).ceil() as u64;
        let span = |span: Span| Span { least: scale(span.least), most: scale(span.most) };
        Self { contacts: span(self.contacts), events: span(self.events), companies: span(self.companies) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::brevo::identifiers::Email;
    use crate::brevo::names::AttributeName;

    const START: UnixMillis = UnixMillis(1_800_000_000_000);

    fn after(seconds: u64) -> UnixMillis {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn nothing_is_said_before_there_was_anything() {
        assert_eq!(Forecast::default().report(START), None);
    }

    fn ada() -> Person {
        Person { email: Some(Email::parse("ada@example.com").unwrap()), ..Person::default() }
    }

    fn ordered() -> EventName {
        EventName::sanitised("order_completed")
    }

    impl Forecast {
        fn orders(&self, at: UnixMillis) {
            self.event(at, "ada", Some(&ada()), &ordered());
        }
    }

    #[test]
    fn ten_minutes_are_taken_for_a_sixth_of_an_hour() {
        let forecast = Forecast::default();
        let folded = Folded { attributes: vec![AttributeName::parse("PLAN").unwrap()], ..Folded::default() };
        for n in 0..600 {
            forecast.profile(after(n), &format!("p{}", n % 60), &ada(), &folded);
            forecast.orders(after(n));
        }
        forecast.event(after(600), "visitor", None, &ordered());
        forecast.profile(after(600), "visitor", &Person::default(), &folded);
        forecast.company(after(600), "company/acme");
        let report = forecast.report(after(600)).unwrap();
        assert_eq!((report.contacts, report.without_address, report.companies), (60, 1, 1));
        assert_eq!(report.events, BTreeMap::from([("order_completed".to_owned(), 600)]));
        assert_eq!(report.attributes, BTreeMap::from([("PLAN".to_owned(), 600)]));
        assert_eq!((report.events_without_address, report.observed_seconds), (1, 600.0));
        let calls = report.calls_per_hour;
        assert_eq!(calls.contacts, Span { least: 360, most: 3_600 });
        assert_eq!(calls.events, Span { least: 3 * 6, most: 3_600 });
        assert_eq!(calls.companies, Span { least: 6, most: 6 });
    }

    #[test]
    fn a_single_record_is_not_taken_for_one_in_no_time() {
        let forecast = Forecast::default();
        forecast.orders(START);
        assert_eq!(forecast.report(START).unwrap().calls_per_hour.events, Span { least: 60, most: 60 });
    }

    #[test]
    fn the_busiest_whole_hour_of_the_last_day_counts() {
        let forecast = Forecast::default();
        for hour in 0..30 {
            // The busiest of all is more than a day ago, and the present one is not over.
            for n in 0..[100, 5, 20][(hour == 28) as usize * 2 + (1..28).contains(&hour) as usize] {
                forecast.orders(after(hour * 3_600 + n));
            }
        }
        let report = forecast.report(after(29 * 3_600 + 1_800)).unwrap();
        assert_eq!(report.calls_per_hour.events, Span { least: 1, most: 20 });
        assert_eq!(report.observed_seconds, 23.5 * 3_600.0);
    }

    #[test]
    fn a_long_silence_leaves_nothing_to_look_back_at() {
        let forecast = Forecast::default();
        forecast.orders(START);
        let report = forecast.report(after(1_000_000)).unwrap();
        assert!(report.events.is_empty());
        assert_eq!(report.calls_per_hour.events, Span::default());
    }

    #[test]
    fn a_clock_that_is_set_back_counts_on() {
        let forecast = Forecast::default();
        forecast.orders(after(7_300));
        forecast.orders(START);
        assert_eq!(forecast.report(START).unwrap().events["order_completed"], 2);
    }

    #[test]
    fn more_names_than_are_kept_are_counted_together() {
        let forecast = Forecast::default();
        let names = (0..250).map(|n| EventName::sanitised(&format!("event_{n}")));
        names.for_each(|name| forecast.event(START, "ada", Some(&ada()), &name));
        let report = forecast.report(START).unwrap();
        assert_eq!((report.events.len(), report.other_events), (200, 50));
    }

    #[test]
    fn many_people_are_counted_about_right() {
        let forecast = Forecast::default();
        let nothing = Folded::default();
        (0..100_000).for_each(|n| forecast.profile(START, &format!("p{n}"), &ada(), &nothing));
        let contacts = forecast.report(START).unwrap().contacts;
        assert!((95_000..=105_000).contains(&contacts), "{contacts}");
    }
}
