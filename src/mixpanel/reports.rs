//! Questions whose answers are rows: JQL scripts (`POST /api/query/jql`) and saved Insights reports
//! (`GET /api/query/insights`), contract §9. The calls, and how their answers say no; [`Rows`] reads the rest.
//!
//! What a script answers is up to the script, and how a report with breakdowns is nested is not written down: every row
//! is read by itself and as far as it can be, and an answer that is no table is an error and never an empty one.

use std::collections::BTreeMap;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::calls::{Calls, join};
use super::quota;
use crate::vendor::{Cost, Family, Priority, VendorAnswer, VendorRequest};

/// Longest answer that is read.
pub const MAX_ANSWER: usize = 32 << 20;
/// Most rows that are taken.
pub const MAX_ROWS: usize = 500_000;
/// How much of the vendor's words is shown.
const SHOWN: usize = 300;
/// The key of all values of a breakdown together.
const OVERALL: &str = "$overall";

impl Calls {
    /// Runs `script`. `None` without a service account and its project.
    pub fn jql(&self, script: &str) -> Option<VendorRequest> {
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("script", script).finish();
        let mut request = self.report("/api/query/jql", &[], Family::MixpanelJql)?;
        request.method = http::Method::POST;
        let content = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers.insert(CONTENT_TYPE, content);
        request.body = form.into();
        Some(request)
    }

    /// Asks for a saved report. `None` as for [`Calls::jql`].
    pub fn insights(&self, bookmark: u64) -> Option<VendorRequest> {
        self.report("/api/query/insights", &[("bookmark_id", &bookmark.to_string())], Family::MixpanelQuery)
    }

    fn report(&self, path: &'static str, query: &[(&str, &str)], family: Family) -> Option<VendorRequest> {
        let (authorization, project_id) = self.query_credentials()?;
        let mut url = join(&self.query, path);
        url.query_pairs_mut().append_pair("project_id", project_id).extend_pairs(query);
        Some(VendorRequest {
            method: http::Method::GET,
            url,
            headers: HeaderMap::from_iter([(AUTHORIZATION, authorization.clone())]),
            body: bytes::Bytes::new(),
            endpoint: path,
            family,
            priority: Priority::Cohorts,
            cost: Cost::CALL,
            note: None,
        })
    }
}

/// Why an answer is no table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRows {
    #[error("Mixpanel refuses the script or the report (412): {0}")]
    Script(String),
    #[error("Mixpanel answered {status}: {words}")]
    Refused { status: u16, words: String },
    #[error("Mixpanel's answer is no list of rows but {0}")]
    Shape(String),
    #[error("the answer has {0} rows, and at most {MAX_ROWS} are taken: let the script find fewer people")]
    TooMany(usize),
    #[error("the report has no breakdown, so its rows are no people: break it down by distinct_id")]
    NoBreakdown,
}

/// Judges the answer by its status, and by the error that may be inside a 200.
pub fn judged(answer: &VendorAnswer) -> Result<(), NoRows> {
    let said = error_of(&answer.body);
    let words = || said.clone().unwrap_or_else(|| answer.excerpt(SHOWN));
    match answer.status.as_u16() {
        200 if quota::is_answer(&answer.body, false) => Ok(()),
        200 if said.is_some() => Err(NoRows::Refused { status: 200, words: words() }),
        200 => Err(shape(&answer.body)),
        412 => Err(NoRows::Script(words())),
        status => Err(NoRows::Refused { status, words: words() }),
    }
}

/// The `error` of an answer that has one.
fn error_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Answer {
        error: Value,
    }
    let Answer { error } = serde_json::from_slice(body).ok()?;
    let text = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
    Some(text.chars().take(SHOWN).collect())
}

/// One row: whatever stands there, by column.
#[derive(Clone, Debug, PartialEq)]
pub struct Row(Value);

impl Row {
    /// The value under `name`: a member of that name; else, with dots, the way into objects (`value.days`) and lists
    /// (`key.0`); else a member of `properties` (rows of profiles) or of `value` (what a reducer has made).
    pub fn column(&self, name: &str) -> Option<&Value> {
        let inside = |outer: &str| self.0.get(outer).and_then(|inner| at(inner, name));
        at(&self.0, name).or_else(|| inside("properties")).or_else(|| inside("value"))
    }

    /// Who the row is about. Beside the column itself: with the vendor's `$` in front of it, or what the rows are grouped by
    /// (`key`, or the first of it).
    pub fn id(&self, column: &str) -> Option<String> {
        let dollar = || self.0.get(format!("${column}"));
        let key = || match self.0.get("key") {
            Some(Value::Array(parts)) => parts.first(),
            other => other,
        };
        match self.column(column).or_else(dollar).or_else(key)? {
            Value::String(id) => Some(id.clone()),
            Value::Number(id) => Some(id.to_string()),
            _ => None,
        }
    }

    /// The names of its columns, for people.
    pub fn columns(&self) -> Vec<String> {
        match &self.0 {
            Value::Object(members) => members.keys().cloned().collect(),
            Value::Array(items) => (0..items.len()).map(|at| at.to_string()).collect(),
            _ => Vec::new(),
        }
    }
}

fn at<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    let direct = match value {
        Value::Object(members) => members.get(name),
        Value::Array(items) => name.parse::<usize>().ok().and_then(|at| items.get(at)),
        _ => None,
    };
    direct.or_else(|| {
        let (first, rest) = name.split_once('.')?;
        at(at(value, first).filter(|inner| inner.is_object() || inner.is_array())?, rest)
    })
}

/// The rows of an answer, read when they are looked at.
pub enum Rows<'a> {
    Listed(Vec<&'a RawValue>),
    Nested(Vec<Row>),
}

impl<'a> Rows<'a> {
    /// What a script has answered: a list.
    pub fn of_script(body: &'a [u8]) -> Result<Self, NoRows> {
        let listed: Vec<&RawValue> = serde_json::from_slice(body).map_err(|_| shape(body))?;
        bounded(listed.len())?;
        Ok(Rows::Listed(listed))
    }

    /// What a report has answered. A row for each way through its breakdowns, with the breakdowns' values under the headers'
    /// names and each metric's value under the metric's name; if there is but one metric, under `value` too.
    pub fn of_report(body: &[u8]) -> Result<Self, NoRows> {
        #[derive(Deserialize)]
        struct Report {
            headers: Vec<String>,
            series: Map<String, Value>,
        }
        let report: Report = serde_json::from_slice(body).map_err(|_| shape(body))?;
        let Some((_, breakdowns)) = report.headers.split_first() else { return Err(NoRows::NoBreakdown) };
        if breakdowns.is_empty() {
            return Err(NoRows::NoBreakdown);
        }
        let alone = report.series.len() == 1;
        let mut rows: BTreeMap<Vec<String>, Map<String, Value>> = BTreeMap::new();
        for (metric, nested) in &report.series {
            let mut found = Vec::new();
            walk(nested, breakdowns.len(), &mut Vec::new(), &mut found).ok_or_else(|| shape(body))?;
            for (path, value) in found {
                let row = rows.entry(path).or_default();
                if alone {
                    row.insert("value".to_owned(), value.clone());
                }
                row.insert(metric.clone(), value);
            }
            bounded(rows.len())?;
        }
        let row = |(path, mut row): (Vec<String>, Map<String, Value>)| {
            row.extend(breakdowns.iter().cloned().zip(path.into_iter().map(Value::String)));
            Row(Value::Object(row))
        };
        Ok(Rows::Nested(rows.into_iter().map(row).collect()))
    }

    pub fn len(&self) -> usize {
        match self {
            Rows::Listed(rows) => rows.len(),
            Rows::Nested(rows) => rows.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to `count` rows from the one at `from` on.
    pub fn some(&self, from: usize, count: usize) -> Vec<Row> {
        let until = (from + count).min(self.len());
        match self {
            // Each has been found to be JSON.
            Rows::Listed(rows) => rows[from.min(until)..until]
                .iter()
                .map(|row| Row(serde_json::from_str(row.get()).unwrap_or(Value::Null)))
                .collect(),
            Rows::Nested(rows) => rows[from.min(until)..until].to_vec(),
        }
    }
}

/// What the answer is instead. Of one that is JSON only its kind: it may speak of people, and this is kept and shown.
fn shape(body: &[u8]) -> NoRows {
    let kind = match serde_json::from_slice(body) {
        Ok(Value::Object(_)) => "an object",
        Ok(Value::Array(_)) => "a list in another form",
        Ok(_) => "a single value",
        // A page of something in between, which tells what that is.
        Err(_) if body.starts_with(b"<") => {
            return NoRows::Shape(format!("begins {:?}", String::from_utf8_lossy(&body[..body.len().min(80)])));
        }
        Err(_) => "no JSON",
    };
    NoRows::Shape(kind.to_owned())
}

fn bounded(rows: usize) -> Result<(), NoRows> {
    if rows > MAX_ROWS { Err(NoRows::TooMany(rows)) } else { Ok(()) }
}

/// Every way through `levels` breakdowns, with the value at its end. `None`: it is nested in another way.
fn walk(nested: &Value, levels: usize, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, Value)>) -> Option<()> {
    if levels == 0 {
        found.push((path.clone(), end(nested)));
        return Some(());
    }
    for (name, inner) in nested.as_object()? {
        if name != OVERALL {
            path.push(name.clone());
            walk(inner, levels - 1, path, found)?;
            path.pop();
        }
    }
    Some(())
}

/// The value at the end of a way: a number; of a series by time, what stands under `all`, else what is newest.
fn end(value: &Value) -> Value {
    match value {
        Value::Object(series) => match series.get(OVERALL).or_else(|| series.get("all")) {
            Some(whole) => end(whole),
            // Days and hours sort as texts.
            None => series.iter().max_by_key(|(time, _)| *time).map_or(Value::Null, |(_, newest)| newest.clone()),
        },
        other => other.clone(),
    }
}

#[cfg(test)]
#[path = "reports_tests.rs"]
mod tests;
