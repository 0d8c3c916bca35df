//! Raw export (contract §8): stored events, duplicates included, one JSON object per line.

use axum::http::StatusCode;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};
use std::io::Write;

use super::super::http::{Call, Reply};
use super::query::{Params, QueryError};
use super::{Context, Mixpanel};
use crate::clock::UnixMillis;

const MAX_LIMIT: usize = 100_000;
const DEFAULT_DAYS: i32 = 31;
const GZIP_FROM: usize = 1_400;

/// An inclusive range of UTC days.
#[derive(Clone, Copy, Debug)]
pub struct Days {
    from: Date,
    to: Date,
}

fn date_of(ms: i64) -> Date {
    let at = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    jiff::tz::Offset::UTC.to_datetime(at).date()
}

impl Days {
    /// `from_date` and `to_date`; without them the last 31 days.
    pub fn of(params: &Params, now: UnixMillis) -> Result<Self, QueryError> {
        let today = date_of(i64::try_from(now.0).unwrap_or(i64::MAX));
        let read = |name: &'static str| match params.get(name) {
            None => Ok(None),
            Some(text) => text.parse::<Date>().map(Some).map_err(|_| QueryError::Date(name)),
        };
        let to = read("to_date")?.unwrap_or(today);
        let from = read("from_date")?.unwrap_or_else(|| to.saturating_sub(DEFAULT_DAYS.days()));
        if from > to {
            return Err(QueryError::Reversed);
        }
        Ok(Self { from, to })
    }

    pub fn contains(&self, ms: i64) -> bool {
        let day = date_of(ms);
        self.from <= day && day <= self.to
    }

    pub fn name_of(ms: i64) -> String {
        date_of(ms).to_string()
    }

    pub fn names(&self) -> Vec<String> {
        self.from.series(1.day()).take_while(|day| *day <= self.to).map(|day| day.to_string()).collect()
    }
}

pub fn answer(mixpanel: &Mixpanel, call: &Call, params: &Params, context: &Context<'_>) -> Reply {
    let bad = |error: String| Reply::json(StatusCode::BAD_REQUEST, &json!({ "error": error }));
    if params.get("from_date").is_none() || params.get("to_date").is_none() {
        return bad("from_date and to_date are required parameters".into());
    }
    let days = match Days::of(params, context.now) {
        Ok(days) => days,
        Err(error) => return bad(error.to_string()),
    };
    if days.to > date_of(i64::try_from(context.now.0).unwrap_or(i64::MAX)) {
        return bad("to_date cannot be later than today".into());
    }
    let switches = context.switches;
    if switches.export_max_days.is_some_and(|most| days.names().len() as i64 > most) {
        return bad("the date range is too long".into());
    }
    let names: Option<Vec<String>> = params.get("event").and_then(|text| serde_json::from_str(text).ok());
    let limit = params.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    if params.get("limit").is_some() && limit > MAX_LIMIT {
        return bad(format!("limit must be at most {MAX_LIMIT}"));
    }
    let lines = lines(mixpanel, days, names.as_deref(), limit, params.get("time_in_ms") == Some("true"));
    let breaks_after = switches.export_breaks_after.filter(|kept| *kept < lines.len());
    let mut state = mixpanel.state();
    let breaks =
        breaks_after.is_some() && switches.export_breaks_times.is_none_or(|times| state.exports_broken < times);
    state.exports_broken += u64::from(breaks);
    drop(state);
    deliver(call, lines, breaks_after.filter(|_| breaks))
}

fn lines(mixpanel: &Mixpanel, days: Days, names: Option<&[String]>, limit: usize, in_ms: bool) -> Vec<String> {
    let state = mixpanel.state();
    let wanted = state.arrivals.stored().filter(|arrival| {
        days.contains(arrival.time_ms) && names.is_none_or(|names| names.iter().any(|name| **name == *arrival.name))
    });
    wanted
        .take(limit)
        .map(|arrival| {
            let mut event = arrival.as_stored(&state.identity);
            if in_ms {
                event["properties"]["time"] = arrival.time_ms.into();
            }
            event.to_string()
        })
        .collect()
}

fn deliver(call: &Call, mut lines: Vec<String>, breaks_after: Option<usize>) -> Reply {
    if let Some(kept) = breaks_after {
        lines.truncate(kept);
        lines.push("terminated early".into());
    }
    let mut body = lines.join("\n").into_bytes();
    if !body.is_empty() {
        body.push(b'\n');
    }
    let wants_gzip = call.header("accept-encoding").is_some_and(|codings| codings.contains("gzip"));
    if wants_gzip && body.len() > GZIP_FROM {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        if let Ok(packed) = gzip.write_all(&body).and_then(|()| gzip.finish()) {
            return Reply::text(StatusCode::OK, packed).header("content-encoding", "gzip");
        }
    }
    Reply::text(StatusCode::OK, body)
}

/// The vendor's sample of a 429; export has a quota of its own.
pub fn quota_exceeded() -> Reply {
    let body: Value = json!({ "error": "too many export requests in the last hour" });
    Reply::json(StatusCode::TOO_MANY_REQUESTS, &body)
}
