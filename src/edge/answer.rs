//! Answers to ingestion calls, byte for byte as SDKs read them (contract §3, §4 and §13).
//!
//! Two decisions live here, both recorded in `docs/decisions/`: a batch of which at least one record was stored is a
//! success on `/track`, `/engage` and `/groups`; and `/engage` answers JSON only to a call that no SDK makes
//! ([`Form::Import`]).

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::accept::Failed;
use super::decode::{DecodeError, Shape};
use super::options::{IpOption, Options};
use crate::mixpanel::{Api, MAX_BODY_BYTES};

/// A 1x1 transparent PNG, the answer to `img=1`.
const PIXEL: &[u8] = include_bytes!("pixel.png");

/// What an answer looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// `1` or `0`.
    Plain,
    /// `{"error":null,"status":1}`.
    Verbose,
    /// `f(1);`.
    Script(String),
    Image,
    /// `{"code":200,"status":"OK","num_records_imported":1}`: `/import` without `strict=1`.
    Import,
    /// The vendor's strict answers, with `failed_records`.
    Strict,
}

impl Form {
    pub fn of(api: Api, options: &Options, shape: Shape, headers: &HeaderMap) -> Self {
        if options.strict && api != Api::Track {
            return Form::Strict;
        }
        if let Some(callback) = &options.callback {
            return Form::Script(callback.clone());
        }
        match (api, shape) {
            _ if options.img => Form::Image,
            (Api::Import, Shape::Json) => Form::Import,
            _ if options.verbose > 0 => Form::Verbose,
            (Api::Engage | Api::Groups, Shape::Json) if is_bare_json_call(options, headers) => Form::Import,
            _ => Form::Plain,
        }
    }
}

/// A JSON call with no option at all and no wish for plain text: the shape of hand-written calls. Every official SDK
/// that sends JSON to `/engage` says `ip=` (Swift, Objective-C) or `Accept: text/plain` (Go); the others send forms.
fn is_bare_json_call(options: &Options, headers: &HeaderMap) -> bool {
    let wants_text = headers.get(ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("text/plain"));
    options.ip == IpOption::Unsaid && !wants_text
}

/// Why a request as a whole was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    Unreadable(DecodeError),
    /// The body cannot be inflated, or was broken off.
    BadBody,
    TooLarge,
    TooManyRecords,
    /// What the credentials lack.
    Unauthorized(&'static str),
    TooSlow,
    /// Later is better; nothing was stored.
    Unavailable {
        why: &'static str,
        retry_after: u32,
    },
}

impl Refusal {
    /// The `reason` label of `mixrelay_records_rejected_total`.
    pub fn label(&self) -> &'static str {
        match self {
            Refusal::Unreadable(error) => error.label(),
            Refusal::BadBody => "bad_body",
            Refusal::TooLarge => "body_too_large",
            Refusal::TooManyRecords => "too_many_records",
            Refusal::Unauthorized(_) => "unauthorized",
            Refusal::TooSlow => "too_slow",
            Refusal::Unavailable { .. } => "unavailable",
        }
    }
}

/// Whether the caller is a browser: its SDK drops a batch on any status but 200, 413, 429 and 5xx, and halves it on
/// 413; every other SDK is better served by `0` (contract §13).
pub fn is_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(http::header::ORIGIN) || headers.contains_key(HeaderName::from_static("sec-fetch-mode"))
}

/// The answer when the records were looked at: `stored` of them are on disk.
pub fn judged(form: &Form, api: Api, stored: usize, failed: &[Failed]) -> Response<Body> {
    let reason = failed.first().map(|failed| failed.problem.reason());
    match form {
        Form::Strict => strict(api, stored, failed),
        Form::Import if stored == 0 => verbose(false, reason.unwrap_or_default()),
        Form::Import => json(StatusCode::OK, &Imported::new(stored, failed)),
        // A success may carry a reason: some records of the batch were refused, and silence helps nobody.
        Form::Verbose => match reason {
            Some(reason) => verbose(stored > 0, reason),
            None => body(StatusCode::OK, "application/json", Bytes::from_static(br#"{"error":null,"status":1}"#)),
        },
        _ => bare(form, StatusCode::OK, stored > 0),
    }
}

/// The answer when nothing was looked at.
pub fn refused(form: &Form, api: Api, browser: bool, refusal: &Refusal) -> Response<Body> {
    match refusal {
        Refusal::Unavailable { why, retry_after } => {
            let mut response = failure(form, api, StatusCode::SERVICE_UNAVAILABLE, why);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(*retry_after));
            response
        }
        Refusal::TooSlow if api == Api::Import => {
            failure(form, api, StatusCode::REQUEST_TIMEOUT, "the request body did not arrive in time")
        }
        // To an SDK a slow line is a reason to come back, never to give up (P6).
        Refusal::TooSlow => {
            let mut response =
                failure(form, api, StatusCode::SERVICE_UNAVAILABLE, "the request body did not arrive in time");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(5));
            response
        }
        Refusal::TooLarge => too_large(form, api, browser, "data, request exceeds the size limit", || {
            format!("request exceeds max limit of {MAX_BODY_BYTES} bytes")
        }),
        Refusal::TooManyRecords => too_large(form, api, browser, "data, more than 2000 records", || {
            "request exceeds max limit of 2000 records".to_owned()
        }),
        Refusal::Unauthorized(why) => {
            let error = Coded { code: 401, error: why, status: "Unauthorized" };
            json(StatusCode::UNAUTHORIZED, &error)
        }
        Refusal::Unreadable(error) => unreadable(form, api, &error.to_string()),
        Refusal::BadBody => unreadable(form, api, "data, the body cannot be read"),
    }
}

fn too_large(
    form: &Form,
    api: Api,
    browser: bool,
    reason: &'static str,
    vendor: impl FnOnce() -> String,
) -> Response<Body> {
    if api == Api::Import || browser {
        let error = Coded { code: 413, error: &vendor(), status: "Request Entity Too Large" };
        return json(StatusCode::PAYLOAD_TOO_LARGE, &error);
    }
    unreadable(form, api, reason)
}

/// Bad data: a 200 that says no (P6), or on a strict import the vendor's 400.
fn unreadable(form: &Form, api: Api, reason: &str) -> Response<Body> {
    match form {
        Form::Strict => {
            let status = if api == Api::Import { StatusCode::BAD_REQUEST } else { StatusCode::OK };
            json(status, &Coded { code: 400, error: reason, status: "Bad Request" })
        }
        Form::Verbose | Form::Import => verbose(false, reason),
        _ => bare(form, StatusCode::OK, false),
    }
}

fn failure(form: &Form, api: Api, status: StatusCode, why: &str) -> Response<Body> {
    match form {
        Form::Verbose => {
            let mut response = verbose(false, why);
            *response.status_mut() = status;
            response
        }
        Form::Plain | Form::Script(_) | Form::Image if api != Api::Import => bare(form, status, false),
        _ => {
            let reason = status.canonical_reason().unwrap_or_default();
            json(status, &Coded { code: status.as_u16(), error: why, status: reason })
        }
    }
}

#[derive(Serialize)]
struct Coded<'a> {
    code: u16,
    error: &'a str,
    status: &'a str,
}

#[derive(Serialize)]
struct Imported<'a> {
    code: u16,
    status: &'static str,
    num_records_imported: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed_records: Vec<FailedRecord<'a>>,
}

impl<'a> Imported<'a> {
    fn new(stored: usize, failed: &'a [Failed]) -> Self {
        Self { code: 200, status: "OK", num_records_imported: stored, failed_records: failed_records(failed) }
    }
}

#[derive(Serialize)]
struct StrictOk {
    code: u16,
    num_records_imported: usize,
    status: &'static str,
}

#[derive(Serialize)]
struct StrictFailed<'a> {
    code: u16,
    error: &'static str,
    failed_records: Vec<FailedRecord<'a>>,
    num_records_imported: usize,
    status: &'static str,
}

#[derive(Serialize)]
struct FailedRecord<'a> {
    index: usize,
    insert_id: &'a str,
    field: &'static str,
    message: &'static str,
}

fn failed_records(failed: &[Failed]) -> Vec<FailedRecord<'_>> {
    let record = |failed: &'_ Failed| {
        let (field, message) = failed.problem.strict();
        (field, message)
    };
    failed
        .iter()
        .map(|failed| {
            let (field, message) = record(failed);
            FailedRecord { index: failed.index, insert_id: failed.insert_id.as_deref().unwrap_or(""), field, message }
        })
        .collect()
}

fn strict(api: Api, stored: usize, failed: &[Failed]) -> Response<Body> {
    if failed.is_empty() {
        return json(StatusCode::OK, &StrictOk { code: 200, num_records_imported: stored, status: "OK" });
    }
    // Only /import may answer bad data with a 4xx (P6).
    let status = if api == Api::Import { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    json(
        status,
        &StrictFailed {
            code: 400,
            error: "some data points in the request failed validation",
            failed_records: failed_records(failed),
            num_records_imported: stored,
            status: "Bad Request",
        },
    )
}

#[derive(Serialize)]
struct Verbose<'a> {
    error: &'a str,
    status: u8,
}

fn verbose(success: bool, error: &str) -> Response<Body> {
    json(StatusCode::OK, &Verbose { error, status: u8::from(success) })
}

/// The forms that have no room for a reason.
fn bare(form: &Form, status: StatusCode, success: bool) -> Response<Body> {
    let digit = if success { "1" } else { "0" };
    match form {
        Form::Image => body(status, "image/png", Bytes::from_static(PIXEL)),
        Form::Script(callback) => {
            let mut response = body(status, "text/javascript", Bytes::from(format!("{callback}({digit});")));
            response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            response
        }
        _ => body(status, "text/plain; charset=utf-8", Bytes::from_static(digit.as_bytes())),
    }
}

/// A JSON answer. The edge's other files use it too.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    // These are plain structs of strings and numbers, which always serialise.
    let text = serde_json::to_vec(value).unwrap_or_default();
    body(status, "application/json", Bytes::from(text))
}

pub(super) fn body(status: StatusCode, content_type: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
