//! What a vendor saw: bounded logs beside counters that never lose a unit.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};

use super::http::{Call, Reply};
use super::switches::LogSwitches;
use crate::clock::UnixMillis;

/// The newest entries, up to a bound.
#[derive(Debug)]
pub(super) struct Recent<T> {
    entries: VecDeque<T>,
    forgotten: u64,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), forgotten: 0 }
    }
}

impl<T> Recent<T> {
    pub fn push(&mut self, entry: T, limit: usize) {
        while self.entries.len() >= limit.max(1) {
            self.entries.pop_front();
            self.forgotten += 1;
        }
        self.entries.push_back(entry);
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.entries.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut()
    }

    /// Entries that the bound has pushed out.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

/// Exact counters, `group` → `name` → count. Groups and names are the simulator's own words, so their number is small.
#[derive(Debug, Default)]
pub(super) struct Counters(BTreeMap<&'static str, BTreeMap<&'static str, u64>>);

impl Counters {
    pub fn add(&mut self, group: &'static str, name: &'static str, by: u64) {
        if by > 0 {
            *self.0.entry(group).or_default().entry(name).or_default() += by;
        }
    }

    pub fn get(&self, group: &str, name: &str) -> u64 {
        self.0.get(group).and_then(|names| names.get(name)).copied().unwrap_or(0)
    }

    pub fn to_json(&self) -> Value {
        json!(self.0)
    }
}

/// Exact counts by names that callers choose, for as many names as a project may sensibly have.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<Box<str>, u64>);

const MAX_NAMES: usize = 10_000;

impl Names {
    pub fn add(&mut self, name: &str) {
        if let Some(count) = self.0.get_mut(name) {
            *count += 1;
        } else if self.0.len() < MAX_NAMES {
            self.0.insert(name.into(), 1);
        }
    }

    pub fn to_json(&self) -> Value {
        json!(self.0)
    }
}

/// One request as it is shown by `/…/requests`.
#[derive(Debug)]
pub(super) struct RequestEntry {
    at: UnixMillis,
    method: String,
    path: String,
    query: String,
    headers: Value,
    peer: String,
    bytes: usize,
    /// Records decoded from the body; `None` where the endpoint takes no batch or a fault struck first.
    batch: Option<usize>,
    body: Option<String>,
    status: Option<u16>,
}

impl RequestEntry {
    fn to_json(&self) -> Value {
        json!({
            "at": self.at, "method": self.method, "path": self.path, "query": self.query, "headers": self.headers,
            "peer": self.peer, "bytes": self.bytes, "batch": self.batch, "body": self.body, "status": self.status,
        })
    }
}

/// The bodies of small requests are kept readable; a batch is better looked at record by record.
const BODY_EXCERPT: usize = 4096;

/// Requests of one vendor: the log, and the counts by path and by status.
#[derive(Debug, Default)]
pub(super) struct Requests {
    log: Recent<RequestEntry>,
    total: u64,
    by_path: BTreeMap<&'static str, u64>,
    by_status: BTreeMap<u16, u64>,
    faulted: u64,
}

impl Requests {
    /// `path` is the endpoint's name.
    pub fn note(
        &mut self,
        call: &Call,
        path: &'static str,
        batch: Option<usize>,
        reply: &Reply,
        at: UnixMillis,
        logs: &LogSwitches,
    ) {
        let status = reply.status.as_u16();
        *self.by_path.entry(path).or_default() += 1;
        *self.by_status.entry(status).or_default() += 1;
        self.keep(call, batch, Some(status), at, logs);
    }

    /// A request that a fault kept from the vendor.
    pub fn note_faulted(&mut self, call: &Call, at: UnixMillis, logs: &LogSwitches) {
        self.faulted += 1;
        self.keep(call, None, None, at, logs);
    }

    fn keep(&mut self, call: &Call, batch: Option<usize>, status: Option<u16>, at: UnixMillis, logs: &LogSwitches) {
        self.total += 1;
        if logs.counts_only {
            return;
        }
        let body = call.inflated(BODY_EXCERPT).ok().filter(|body| !body.is_empty());
        let body = body.map(|body| String::from_utf8_lossy(&body).into_owned());
        let entry = RequestEntry {
            at,
            method: call.method.to_string(),
            path: call.path.clone(),
            query: call.raw_query.clone(),
            headers: call.headers_json(),
            peer: call.peer.to_string(),
            bytes: call.body.len(),
            batch,
            body,
            status,
        };
        self.log.push(entry, logs.requests);
    }

    pub fn counts(&self) -> Value {
        let by_status: BTreeMap<String, u64> = self.by_status.iter().map(|(k, v)| (k.to_string(), *v)).collect();
        json!({ "total": self.total, "by_path": self.by_path, "by_status": by_status, "faulted": self.faulted })
    }

    /// Newest last; `path` filters by prefix.
    pub fn list(&self, path: Option<&str>, limit: usize) -> Value {
        let matching = self.log.iter().filter(|entry| path.is_none_or(|prefix| entry.path.starts_with(prefix)));
        let mut newest: Vec<Value> = matching.rev().take(limit).map(RequestEntry::to_json).collect();
        newest.reverse();
        json!({ "requests": newest, "forgotten": self.log.forgotten() })
    }
}
