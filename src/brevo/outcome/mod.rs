//! What Brevo's answers mean: for the destination as a whole ([`judge`]), for its limits ([`meter`], [`RateHeaders`]),
//! and, in the modules below, for the records that a call carried. Pure.
//!
//! The functions for single calls are given answers that [`judge`] called definite.

mod contacts;
mod events;
mod lists;

use std::fmt;
use std::time::Duration;

use http::HeaderMap;
use http::header::DATE;
use serde::de::DeserializeOwned;

pub use contacts::{IdentifierKind, UpdateOutcome, UpsertOutcome, contact, update, upsert};
pub use events::{BatchOutcome, EventOutcome, RejectedEvent, batch, event};
pub use lists::{AttributeOutcome, ImportOutcome, ListOutcome, attribute_created, import, list_change};

use super::wire::ErrorBody;
use crate::vendor::budget::Reading;
use crate::vendor::{PauseCause, VendorAnswer, Verdict};

/// Judges an answer for the destination as a whole (contract §1.2, §1.3).
///
/// | answer | verdict |
/// |---|---|
/// | 2xx, empty or JSON | definite |
/// | 2xx with an error inside, which no success carries | retry |
/// | 2xx with anything else (a captive portal, a proxy's page) | retry |
/// | 401 that speaks of an IP address | pause: unknown IP |
/// | 401 / 402 / 403 | pause |
/// | 429 | rate limited, `x-sib-ratelimit-reset` capped |
/// | 408, 5xx, redirects | retry |
/// | 425 | definite: about one contact, which is busy |
/// | any other 4xx | definite |
pub fn judge(answer: &VendorAnswer) -> Verdict {
    match answer.status.as_u16() {
        200..=299 if reads_like_the_vendor(&answer.body) && !says_it_failed(&answer.body) => Verdict::Definite,
        401 if speaks_of_an_ip(&answer.body) => Verdict::Pause(PauseCause::UnknownIp),
        401 => Verdict::Pause(PauseCause::Credentials),
        402 => Verdict::Pause(PauseCause::Payment),
        403 => Verdict::Pause(PauseCause::Permission),
        408 => Verdict::Retry,
        429 => {
            Verdict::RateLimited { after: RateHeaders::read(&answer.headers).reset.map(|reset| reset.min(MAX_HOLD)) }
        }
        400..=499 => Verdict::Definite,
        _ => Verdict::Retry,
    }
}

/// What an answer says about the limit of its family.
pub fn meter(answer: &VendorAnswer) -> Option<Reading> {
    let headers = RateHeaders::read(&answer.headers);
    Some(Reading { limit: headers.limit?, remaining: headers.remaining })
}

fn reads_like_the_vendor(body: &[u8]) -> bool {
    body.trim_ascii_start().first().is_none_or(|first| matches!(first, b'{' | b'['))
}

/// Brevo's error model (contract §1.2). No success of version 3 has a `code`, but the one of version 2 did.
fn says_it_failed(body: &[u8]) -> bool {
    serde_json::from_slice::<ErrorBody>(body)
        .is_ok_and(|error| !error.code.is_empty() && !error.message.is_empty() && error.code != "success")
}

/// Only the text separates a blocked address from a bad key (contract §1.2).
fn speaks_of_an_ip(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).to_lowercase();
    text.contains("ip address") || text.contains("authorised_ips")
}

/// The longest that one family's limit holds back the whole destination. A quota by the hour that is used up is the
/// budget's affair, which keeps that family waiting and lets the others go.
const MAX_HOLD: Duration = Duration::from_secs(5);

/// A reset is believed up to this where the window is not known.
const MAX_RESET: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// `x-sib-ratelimit-*` (contract §1.3). Any of them may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateHeaders {
    /// Ceiling of the current window.
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
    /// Time until the window ends, never longer than the window.
    pub reset: Option<Duration>,
}

impl RateHeaders {
    pub fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
        let limit = text("x-sib-ratelimit-limit").and_then(|text| text.parse().ok());
        let remaining = text("x-sib-ratelimit-remaining").and_then(|text| text.parse().ok());
        let reset = text("x-sib-ratelimit-reset").and_then(|text| text.parse().ok());
        let cap = limit.map_or(MAX_RESET, window_of);
        let reset = reset.and_then(|reset| time_to_go(reset, headers)).map(|reset| reset.min(cap));
        Self { limit, remaining, reset }
    }
}

/// The window that a ceiling counts over: the published ones per second are all below the smallest one per hour.
fn window_of(limit: u64) -> Duration {
    if limit < 100 { Duration::from_secs(1) } else { HOUR }
}

/// Normally seconds to go; milliseconds have been seen, and an epoch is what other vendors mean by the same name
/// (contract §1.3). No window is longer than an hour, so a larger number is not in seconds. An epoch is held against the
/// answer's own `Date`.
fn time_to_go(reset: f64, headers: &HeaderMap) -> Option<Duration> {
    if !(0.0..1e15).contains(&reset) {
        return None;
    }
    if reset < 1e9 {
        let seconds = if reset > HOUR.as_secs_f64() { reset / 1000.0 } else { reset };
        return Some(Duration::from_secs_f64(seconds));
    }
    let epoch = if reset >= 1e11 { reset / 1000.0 } else { reset };
    let date = headers.get(DATE)?.to_str().ok()?;
    let sent = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?;
    Some(Duration::from_secs_f64((epoch - sent.as_second() as f64).max(0.0)))
}

/// Brevo's own words about a request that it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: u16,
    /// May be empty; codes have changed without notice (contract §1.2).
    pub code: String,
    /// Cut at [`Refusal::MAX_MESSAGE`] characters. Where the answer is not Brevo's JSON, its beginning.
    pub message: String,
}

impl Refusal {
    pub const MAX_MESSAGE: usize = 500;

    pub(in crate::brevo) fn read(answer: &VendorAnswer) -> Self {
        let status = answer.status.as_u16();
        match serde_json::from_slice::<ErrorBody>(&answer.body) {
            Ok(ErrorBody { code, message, .. }) if !(code.is_empty() && message.is_empty()) => {
                Self { status, code, message: cut(message) }
            }
            _ => Self { status, code: String::new(), message: cut(answer.excerpt(Self::MAX_MESSAGE)) },
        }
    }
}

fn cut(mut message: String) -> String {
    if let Some((end, _)) = message.char_indices().nth(Refusal::MAX_MESSAGE) {
        message.truncate(end);
    }
    message
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}

/// Why something that was asked for was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("Brevo refused to answer: {0}")]
    Refused(Refusal),
    #[error("Brevo has no such thing: {0}")]
    NotFound(Refusal),
    #[error("Brevo's answer cannot be read: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// The answer of any call that is asked for its body: lists, attributes, a contact, a process, the account, and the new
/// id of a list or folder.
pub fn read<T: DeserializeOwned>(answer: &VendorAnswer) -> Result<T, ReadError> {
    if answer.status.is_success() {
        return Ok(serde_json::from_slice(&answer.body)?);
    }
    let refusal = Refusal::read(answer);
    Err(if refusal.status == 404 { ReadError::NotFound(refusal) } else { ReadError::Refused(refusal) })
}

/// Whether a write's answer speaks of the endpoint, not of the record in it: the base URL does not lead to Brevo's API,
/// or the endpoint was retired (contract §3.5). Records must not be given up for that.
pub(in crate::brevo) fn is_misrouted(answer: &VendorAnswer) -> bool {
    matches!(answer.status.as_u16(), 404 | 405 | 406 | 410 | 415)
}

/// Whether a 404 has none of Brevo's own words: then it is the way there that was not found, and says nothing of the
/// contact.
pub fn lost_its_way(answer: &VendorAnswer) -> bool {
    answer.status == http::StatusCode::NOT_FOUND && Refusal::read(answer).code.is_empty()
}

#[cfg(test)]
mod tests;
