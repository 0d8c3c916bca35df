//! The log of records in the order in which they came, and the deduplicated view of it that queries see.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::Xxh3;

use super::super::journal::{Counters, Names, Recent};
use super::super::switches::LogSwitches;
use super::identity::Identity;
use crate::clock::UnixMillis;

const MAX_STRING: usize = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Event,
    Profile,
    Group,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Event => "event",
            Kind::Profile => "profile",
            Kind::Group => "group",
        }
    }
}

/// One record as it came. Times are milliseconds since 1970.
#[derive(Debug)]
pub struct Arrival {
    /// Counts all records from 1, in order of arrival.
    seq: u64,
    pub at: UnixMillis,
    pub via: &'static str,
    pub kind: Kind,
    /// The event's name, or the operator of a profile update.
    pub name: Box<str>,
    /// As the server names the sender; links made later are resolved when reading.
    pub distinct_id: Box<str>,
    pub insert_id: Option<Box<str>>,
    pub time_ms: i64,
    /// `stored`, or why it was not.
    pub outcome: &'static str,
    pub duplicate: bool,
    /// What deduplication compares; `None` for an event without an id of its own.
    key: Option<u64>,
    /// The address that places the event.
    pub ip: Option<Box<str>>,
    /// Absent in counts-only mode.
    pub record: Option<Box<Value>>,
}

pub const STORED: &str = "stored";

impl Arrival {
    pub fn new(at: UnixMillis, via: &'static str, kind: Kind, name: &str, distinct_id: &str) -> Self {
        Self {
            seq: 0,
            at,
            via,
            kind,
            name: name.into(),
            distinct_id: distinct_id.into(),
            insert_id: None,
            time_ms: i64::try_from(at.0).unwrap_or(i64::MAX),
            outcome: STORED,
            duplicate: false,
            key: None,
            ip: None,
            record: None,
        }
    }

    /// Gives an event its `$insert_id` and with it the key of deduplication (event, time, distinct_id, $insert_id).
    pub fn identified(mut self, insert_id: Option<&str>, sent_distinct_id: &str) -> Self {
        self.insert_id = insert_id.map(Into::into);
        self.key = insert_id.map(|insert_id| {
            let mut hash = Xxh3::new();
            for part in [&*self.name, sent_distinct_id, insert_id] {
                hash.update(part.as_bytes());
                hash.update(&[0xff]);
            }
            hash.update(&self.time_ms.to_le_bytes());
            hash.digest()
        });
        self
    }

    fn as_received(&self) -> Value {
        json!({
            "seq": self.seq, "at": self.at, "via": self.via, "kind": self.kind.name(), "name": self.name,
            "distinct_id": self.distinct_id, "insert_id": self.insert_id, "time_ms": self.time_ms,
            "outcome": self.outcome, "duplicate": self.duplicate, "record": self.record,
        })
    }

    /// The event as the project holds it: geography instead of the address, the server's own properties, long strings cut.
    pub fn as_stored(&self, identity: &Identity) -> Value {
        let mut properties: Map<String, Value> = self
            .record
            .as_ref()
            .and_then(|record| record["properties"].as_object())
            .into_iter()
            .flatten()
            .filter(|(name, _)| !matches!(name.as_str(), "token" | "ip"))
            .map(|(name, value)| (name.clone(), cut(value)))
            .collect();
        if let Some(ip) = &self.ip {
            let place = geo(ip);
            properties.insert("$city".into(), place.city.into());
            properties.insert("$region".into(), place.region.into());
            properties.insert("mp_country_code".into(), place.country.into());
        }
        properties.insert("distinct_id".into(), identity.canonical(&self.distinct_id).into());
        properties.insert("time".into(), self.time_ms.div_euclid(1000).into());
        properties.insert("mp_processing_time_ms".into(), json!(self.at));
        properties.insert("$mp_api_timestamp_ms".into(), json!(self.at));
        properties.insert("$mp_api_endpoint".into(), "api.mixpanel.com".into());
        if self.via == "/import" {
            properties.insert("$import".into(), true.into());
        }
        json!({ "event": self.name, "properties": properties })
    }
}

fn cut(value: &Value) -> Value {
    match value {
        Value::String(text) if text.len() > MAX_STRING => text.chars().take(MAX_STRING).collect::<String>().into(),
        Value::Array(items) => items.iter().map(cut).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), cut(value))).collect(),
        other => other.clone(),
    }
}

/// A place that shows which address was looked up.
pub struct Place {
    pub city: String,
    pub region: String,
    pub country: &'static str,
}

pub fn geo(ip: &str) -> Place {
    Place { city: format!("City of {ip}"), region: format!("Region of {ip}"), country: "ZZ" }
}

/// All arrivals of a project.
#[derive(Debug, Default)]
pub struct Arrivals {
    log: Recent<Arrival>,
    keys: HashSet<u64>,
    keys_full: bool,
    seq: u64,
    pub counters: Counters,
    /// Events received, by name.
    pub names: Names,
}

impl Arrivals {
    pub fn push(&mut self, mut arrival: Arrival, logs: &LogSwitches) {
        self.seq += 1;
        arrival.seq = self.seq;
        let kind = arrival.kind.name();
        self.counters.add("received", kind, 1);
        if arrival.kind == Kind::Event {
            self.names.add(&arrival.name);
        }
        if arrival.outcome == STORED {
            self.counters.add("stored", kind, 1);
            if let Some(key) = arrival.key {
                arrival.duplicate = !self.remember(key, logs.dedup_keys);
                if arrival.duplicate {
                    self.counters.add("duplicates", kind, 1);
                }
            }
        } else {
            self.counters.add("not_stored", arrival.outcome, 1);
        }
        if logs.counts_only {
            arrival.record = None;
            arrival.ip = None;
        }
        self.log.push(arrival, logs.record_limit());
    }

    fn remember(&mut self, key: u64, limit: usize) -> bool {
        if self.keys.len() < limit {
            return self.keys.insert(key);
        }
        self.keys_full = true;
        !self.keys.contains(&key)
    }

    /// Takes the content of a person's events away, as a deletion does.
    pub fn erase(&mut self, distinct_id: &str) {
        for arrival in self.log.iter_mut().filter(|arrival| &*arrival.distinct_id == distinct_id) {
            arrival.outcome = "erased";
            arrival.record = None;
            arrival.ip = None;
        }
    }

    pub fn duplicates_are_exact(&self) -> bool {
        !self.keys_full
    }

    pub fn forgotten(&self) -> u64 {
        self.log.forgotten()
    }

    /// Stored events, raw: what an export shows.
    pub fn stored(&self) -> impl DoubleEndedIterator<Item = &Arrival> {
        self.log.iter().filter(|arrival| arrival.kind == Kind::Event && arrival.outcome == STORED)
    }

    /// Stored events without duplicates, each in the place of its first arrival and with the content of its last.
    pub fn deduplicated(&self) -> Vec<&Arrival> {
        let mut places: HashMap<u64, usize> = HashMap::new();
        let mut view: Vec<&Arrival> = Vec::new();
        for arrival in self.stored() {
            match arrival.key.map(|key| *places.entry(key).or_insert(view.len())) {
                Some(place) if place < view.len() => view[place] = arrival,
                _ => view.push(arrival),
            }
        }
        view
    }

    /// The arrival log, oldest first, of the kinds and ids that `wanted` picks; the newest `limit` of them.
    pub fn raw(&self, wanted: impl Fn(&Arrival) -> bool, limit: usize) -> Vec<Value> {
        let mut newest: Vec<Value> =
            self.log.iter().rev().filter(|arrival| wanted(arrival)).take(limit).map(Arrival::as_received).collect();
        newest.reverse();
        newest
    }
}
