//! What the relay counts, read from its `/metrics` as an operator's scraper would: the sums of promise P2.

use crate::record::Destination;

/// The samples of one scrape.
#[derive(Debug, Default)]
pub struct Figures(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Figures {
    /// Reads the text exposition; lines that are no samples are passed over.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// The sum over every sample of `name` whose labels contain `labels`. Counts are whole numbers.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let fits = |sample: &&Sample| {
            let has = |(key, value): &(&str, &str)| sample.labels.iter().any(|(k, v)| k == key && v == value);
            sample.name == name && labels.iter().all(has)
        };
        self.0.iter().filter(fits).map(|sample| sample.value).sum::<f64>() as u64
    }

    /// The samples of `name` that are not zero, by the value of `label`.
    fn by(&self, name: &str, within: (&str, &str), label: &str) -> Vec<(String, u64)> {
        let of = |sample: &&Sample| {
            sample.name == name && sample.labels.iter().any(|(k, v)| (k.as_str(), v.as_str()) == within)
        };
        let value = |sample: &Sample| {
            let (_, named) = sample.labels.iter().find(|(key, _)| key == label)?;
            (sample.value > 0.0).then(|| (named.clone(), sample.value as u64))
        };
        let mut found: Vec<_> = self.0.iter().filter(of).filter_map(value).collect();
        found.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        found
    }

    pub fn accepted(&self, kind: &str) -> u64 {
        self.sum("mixrelay_records_accepted_total", &[("kind", kind)])
    }

    /// Records refused at the edge, by reason.
    pub fn rejected(&self) -> Vec<(String, u64)> {
        KINDS.iter().flat_map(|kind| self.by("mixrelay_records_rejected_total", ("kind", kind), "reason")).collect()
    }

    pub fn account(&self, destination: Destination) -> Account {
        let label = ("destination", destination.label());
        Account {
            accepted: self.sum("mixrelay_records_accepted_total", &[]),
            delivered: KINDS.map(|kind| self.sum("mixrelay_records_delivered_total", &[label, ("kind", kind)])),
            skipped: self.by("mixrelay_records_skipped_total", label, "rule"),
            parked: self.sum("mixrelay_records_parked", &[label]),
            dead_letters: self.sum("mixrelay_dead_letters", &[label]),
            backlog: self.sum("mixrelay_backlog_records", &[label]),
        }
    }
}

/// The published kinds, in the order of [`Account::delivered`].
pub const KINDS: [&str; 3] = ["event", "profile", "group"];

/// One destination's line of promise P2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub accepted: u64,
    pub delivered: [u64; 3],
    pub skipped: Vec<(String, u64)>,
    pub parked: u64,
    pub dead_letters: u64,
    pub backlog: u64,
}

impl Account {
    pub fn delivered_total(&self) -> u64 {
        self.delivered.iter().sum()
    }

    pub fn skipped_total(&self) -> u64 {
        self.skipped.iter().map(|(_, count)| count).sum()
    }

    pub fn adds_up(&self) -> bool {
        let ended = self.delivered_total() + self.skipped_total();
        self.accepted == ended + self.parked + self.dead_letters + self.backlog
    }
}

/// `name{key="value",...} number`.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (series, ""),
    };
    let label = |pair: &str| {
        let (key, value) = pair.split_once('=')?;
        Some((key.to_owned(), value.trim_matches('"').to_owned()))
    };
    // The relay's label values are words from enums: none holds a comma.
    let labels = labels.split(',').filter_map(label).collect();
    Some(Sample { name: name.to_owned(), labels, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = "# TYPE mixrelay_records_accepted_total counter\n\
        mixrelay_records_accepted_total{kind=\"event\"} 5\n\
        mixrelay_records_accepted_total{kind=\"profile\"} 1\n\
        mixrelay_records_delivered_total{destination=\"brevo\",kind=\"event\"} 2\n\
        mixrelay_records_delivered_total{destination=\"mixpanel\",kind=\"event\"} 5\n\
        mixrelay_records_skipped_total{destination=\"brevo\",rule=\"stale\"} 0\n\
        mixrelay_records_skipped_total{destination=\"brevo\",rule=\"unmapped_event\"} 3\n\
        mixrelay_records_parked{destination=\"brevo\"} 1\n\
        mixrelay_backlog_records{destination=\"mixpanel\"} 0\n";

    #[test]
    fn an_account_is_read_from_the_exposition() {
        let account = Figures::parse(SCRAPE).account(Destination::Brevo);
        assert_eq!((account.accepted, account.delivered, account.parked), (6, [2, 0, 0], 1));
        assert_eq!(account.skipped, [("unmapped_event".to_owned(), 3)]);
        assert!(account.adds_up());
    }

    #[test]
    fn a_missing_record_is_noticed() {
        let account = Figures::parse(SCRAPE).account(Destination::Mixpanel);
        assert!(!account.adds_up(), "{account:?}");
    }
}
