//! Reading `/metrics`, and the sum of promise P2.

use std::collections::BTreeMap;

/// One exposition: series with their labels, and their values.
#[derive(Clone, Debug)]
pub struct Metrics(Vec<(String, BTreeMap<String, String>, f64)>);

/// Where the accepted records are, for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    pub accepted: u64,
    pub delivered: u64,
    pub skipped: u64,
    pub parked: u64,
    pub dead_letters: u64,
    pub backlog: u64,
}

impl Balance {
    pub fn adds_up(&self) -> bool {
        self.accepted == self.delivered + self.skipped + self.parked + self.dead_letters + self.backlog
    }
}

impl Metrics {
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(lines.map(|line| series(line).unwrap_or_else(|| panic!("not a sample: {line}"))).collect())
    }

    /// The sum over all series of `name` that carry `labels`.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |has: &BTreeMap<String, String>| {
            labels.iter().all(|(key, value)| has.get(*key).is_some_and(|found| found == value))
        };
        self.0.iter().filter(|(found, has, _)| found == name && carries(has)).map(|(_, _, value)| value).sum()
    }

    pub fn balance(&self, destination: &str) -> Balance {
        let of = |name: &str| self.sum(name, &[("destination", destination)]) as u64;
        Balance {
            accepted: self.sum("mixrelay_records_accepted_total", &[]) as u64,
            delivered: of("mixrelay_records_delivered_total"),
            skipped: of("mixrelay_records_skipped_total"),
            parked: of("mixrelay_records_parked"),
            dead_letters: of("mixrelay_dead_letters"),
            backlog: of("mixrelay_backlog_records"),
        }
    }
}

/// `name{key="value",...} number`; the relay's label values hold no quotes and no commas.
fn series(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let (name, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = name.split_once('{') else { return Some((name.to_owned(), BTreeMap::new(), value)) };
    let pairs = labels.strip_suffix('}')?.split(',');
    let label = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        Some((key.to_owned(), value.trim_matches('"').to_owned()))
    };
    Some((name.to_owned(), pairs.map(label).collect::<Option<_>>()?, value))
}
