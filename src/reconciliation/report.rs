//! Two sides' counts of one day, and what is known of their differences. Pure.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::counting::Counted;
use crate::clock::UnixMillis;
use crate::delivery::day_book::OTHERS;
use crate::delivery::status;
use crate::record::Destination;

/// A day, compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub day: Date,
    /// In which the day begins and ends.
    pub timezone: String,
    pub made_at: UnixMillis,
    pub destinations: Vec<Comparison>,
}

/// One vendor's side of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    pub destination: Destination,
    /// Events of the day that the relay has delivered.
    pub delivered: u64,
    /// Those that the vendor counts of the same names; `None` when it could not be asked.
    pub counted: Option<u64>,
    /// Why the vendor could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_counted: Option<String>,
    /// By the name under which the destination knows them, those that differ most first.
    pub events: Vec<Line>,
    /// What may be the cause, beginning with what the relay itself knows of.
    #[serde(default)]
    pub causes: Vec<Cause>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub name: String,
    pub delivered: u64,
    pub counted: Option<u64>,
}

impl Line {
    fn difference(&self) -> u64 {
        self.counted.map_or(0, |counted| counted.abs_diff(self.delivered))
    }

    fn missing(&self) -> u64 {
        self.counted.map_or(0, |counted| self.delivered.saturating_sub(counted))
    }

    fn more(&self) -> u64 {
        self.counted.map_or(0, |counted| counted.saturating_sub(self.delivered))
    }
}

/// A known reason why the two sides differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    pub code: CauseCode,
    /// Records, where the relay has counted them; since the store was made, not of this day alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseCode {
    Waiting,
    DeadLetters,
    MaybeTwice,
    Resent,
    NotByThisRelay,
    Deleted,
    NotNamed,
}

impl CauseCode {
    fn text(self, destination: Destination) -> &'static str {
        match (self, destination) {
            (CauseCode::Waiting, _) => "records have not been delivered yet, and may be of this day",
            (CauseCode::DeadLetters, _) => "records were refused and are held as dead letters",
            (CauseCode::MaybeTwice, _) => {
                "records were sent again after an answer that did not come: the vendor may have them twice, and the relay counts \
                 them once"
            }
            (CauseCode::Resent, Destination::Mixpanel) => {
                "apps send again what they got no answer for; the relay passes it on, and Mixpanel keeps one of the same \
                 $insert_id. Events that are hidden in Mixpanel's Lexicon are not counted either"
            }
            (CauseCode::Resent, Destination::Brevo) => {
                "Brevo takes a minute to show what it has, and may drop what it cannot use"
            }
            (CauseCode::NotByThisRelay, _) => {
                "events of these names reach the vendor by another way too, or came before this relay"
            }
            (CauseCode::Deleted, _) => "contacts or people were deleted since, and their events with them",
            (CauseCode::NotNamed, _) => "more names than the relay counts apart: the rest is one line without a name",
        }
    }
}

impl Comparison {
    pub(super) fn new(delivered: BTreeMap<String, u64>, counted: Counted, leg: &status::Report) -> Self {
        let destination = leg.destination;
        let (by_name, not_counted) = match counted {
            Ok(by_name) => (Some(by_name), None),
            Err(why) => (None, Some(why)),
        };
        let vendor = |name: &str| by_name.as_ref().and_then(|by_name| by_name.get(name).copied());
        let mut events: Vec<Line> =
            delivered.into_iter().map(|(name, delivered)| Line { counted: vendor(&name), name, delivered }).collect();
        events.sort_by_key(|line| (std::cmp::Reverse((line.difference(), line.delivered)), line.name.clone()));
        let sum = |count: fn(&Line) -> u64| events.iter().map(count).sum();
        let counted = by_name.map(|_| sum(|line| line.counted.unwrap_or(0)));
        let causes = causes(destination, &events, leg);
        Self { destination, delivered: sum(|line| line.delivered), counted, not_counted, events, causes }
    }

    /// Events that were delivered and are not counted there, whatever others are counted too often; `None` when the vendor
    /// was not asked.
    pub fn missing(&self) -> Option<u64> {
        self.counted.map(|_| self.events.iter().map(Line::missing).sum())
    }
}

fn causes(destination: Destination, events: &[Line], leg: &status::Report) -> Vec<Cause> {
    let missing = events.iter().any(|line| line.missing() > 0);
    let more = events.iter().any(|line| line.more() > 0);
    let known = |code, records: u64| (records > 0).then_some((code, Some(records)));
    let possible = |code, holds: bool| holds.then_some((code, None));
    let causes = [
        known(CauseCode::Waiting, leg.backlog + leg.parked),
        known(CauseCode::DeadLetters, leg.dead_letters),
        known(CauseCode::MaybeTwice, if more { leg.maybe_twice } else { 0 }),
        possible(CauseCode::Resent, missing),
        possible(CauseCode::Deleted, missing),
        possible(CauseCode::NotByThisRelay, more),
        possible(CauseCode::NotNamed, events.iter().any(|line| line.name == OTHERS)),
    ];
    let cause = |(code, records): (CauseCode, _)| Cause { code, records, text: code.text(destination).to_owned() };
    causes.into_iter().flatten().map(cause).collect()
}
