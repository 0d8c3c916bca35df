//! What callers are told: the vendor's answers with where they stand, and refusals in the vendor's own form (contract §9).

use std::time::Duration;

use axum::body::Body;
use http::header::{AGE, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::access::AccessError;
use super::cache::Whole;
use super::paths::PathError;
use super::upstream::Failure;
use super::wishes::Wishes;
use crate::edge::intake::IntakeError;
use crate::vendor::Family;
use crate::vendor::budget::Standing;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// When there is nobody to ask, in seconds.
const LATER: u64 = 10;

/// The vendor's form of an error.
#[derive(Serialize)]
struct Error<'a> {
    request: &'a str,
    error: String,
}

/// `error` as the vendor says it.
pub fn error(status: StatusCode, request: &str, error: String) -> Response<Body> {
    let body = serde_json::to_string(&Error { request, error }).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// How old an answer is, and how long it is kept; zero of the latter: it is not.
#[derive(Clone, Copy, Debug)]
pub struct Freshness {
    pub age: Duration,
    pub keep: Duration,
}

impl Freshness {
    /// Just given, and not kept.
    pub const NEW: Freshness = Freshness { age: Duration::ZERO, keep: Duration::ZERO };
}

pub fn whole(answer: &Whole, freshness: Freshness) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.body.clone()));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    for (name, value) in [(CONTENT_TYPE, &answer.content_type), (CONTENT_DISPOSITION, &answer.content_disposition)] {
        if let Some(value) = value {
            headers.insert(name, value.clone());
        }
    }
    let cache_control = match freshness.keep.as_secs() {
        0 => HeaderValue::from_static("no-store"),
        // Private: the next caller of a shared cache has not proved anything to us.
        seconds => number("private, max-age=", seconds),
    };
    headers.insert(CACHE_CONTROL, cache_control);
    headers.insert(AGE, HeaderValue::from(freshness.age.as_secs()));
    response
}

/// Adds where the budget stands (draft-ietf-httpapi-ratelimit-headers), and that a wait was granted.
pub fn with_standing(
    mut response: Response<Body>,
    family: Family,
    standing: Option<Standing>,
    wishes: &Wishes,
) -> Response<Body> {
    let headers = response.headers_mut();
    if let Some(standing) = standing {
        let (name, limit) = (family.label(), standing.limit);
        // The window is a little longer than what it stands for (`Limit::per_hour`); the vendor's word is the hour.
        let window = limit.span.as_secs() / 60 * 60;
        let policy = format!("\"{name}\";q={};w={window}", limit.amount);
        let mut now = format!("\"{name}\";r={}", standing.remaining);
        if !standing.wait.is_zero() {
            now.push_str(&format!(";t={}", seconds(standing.wait)));
        }
        for (name, text) in [(RATELIMIT_POLICY, policy), (RATELIMIT, now)] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
    }
    if wishes.wait_was_asked {
        headers.insert(PREFERENCE_APPLIED, number("wait=", wishes.wait.as_secs()));
    }
    response
}

/// The 429 of a budget that has no place.
pub fn no_place(family: Family, request: &str, project_id: &str, standing: Option<Standing>) -> Response<Body> {
    let what = if family == Family::MixpanelExport { "Export" } else { "Query" };
    let mut text = format!("{what} rate limit exceeded for project_id: {project_id}.");
    let mut retry_after = LATER;
    if let Some(standing) = standing {
        let used = standing.limit.amount.saturating_sub(standing.remaining);
        let (running, most) = standing.running.unwrap_or_default();
        text.push_str(&format!(
            " {running}/{most} queries running concurrently and {used}/{} queries running in the last hour.",
            standing.limit.amount
        ));
        retry_after = seconds(standing.wait);
    }
    text.push_str(&format!(" Please wait {retry_after} seconds before retrying."));
    let mut response = error(StatusCode::TOO_MANY_REQUESTS, request, text);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(retry_after));
    response
}

/// Whole seconds, rounded up, at least one: nobody is to come back at once.
fn seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

fn number(before: &'static str, value: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("{before}{value}")).unwrap_or_else(|_| HeaderValue::from_static(before))
}

/// A question that does not reach the budget, or an answer that does not come.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Intake(#[from] IntakeError),
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error("the relay's store has failed")]
    Store,
}

impl Refusal {
    fn status(self) -> StatusCode {
        match self {
            Refusal::Path(PathError::NotPlain) => StatusCode::NOT_FOUND,
            Refusal::Path(PathError::NoQuery) | Refusal::Access(AccessError::OtherProject) => StatusCode::FORBIDDEN,
            Refusal::Access(AccessError::Unauthorized) => StatusCode::UNAUTHORIZED,
            Refusal::Access(AccessError::NoCredentials) => StatusCode::NOT_IMPLEMENTED,
            Refusal::Access(AccessError::NoAnswer) | Refusal::Failure(_) => StatusCode::BAD_GATEWAY,
            Refusal::Intake(IntakeError::TooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Intake(IntakeError::TooSlow) => StatusCode::REQUEST_TIMEOUT,
            Refusal::Intake(IntakeError::NoRoom(_)) | Refusal::Store => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::Intake(_) => StatusCode::BAD_REQUEST,
        }
    }

    pub fn answer(self, request: &str) -> Response<Body> {
        let mut response = error(self.status(), request, self.to_string());
        let headers = response.headers_mut();
        match self.status() {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"mixrelay\", Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from(LATER));
            }
            _ => {}
        }
        response
    }
}

/// The headers of a vendor's answer that are the answer's own.
pub fn own_headers(headers: &HeaderMap) -> (Option<HeaderValue>, Option<HeaderValue>) {
    (headers.get(CONTENT_TYPE).cloned(), headers.get(CONTENT_DISPOSITION).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vendor::budget::Limit;

    #[test]
    fn a_429_says_when_and_why_in_the_vendors_words() {
        let standing = Standing {
            limit: Limit::per_hour(60),
            remaining: 0,
            wait: Duration::from_millis(90_500),
            running: Some((1, 5)),
        };
        let response = no_place(Family::MixpanelQuery, "/api/query/funnels?x=1", "7", Some(standing));
        let response = with_standing(response, Family::MixpanelQuery, Some(standing), &Wishes::of(&HeaderMap::new()));
        assert_eq!(response.status(), 429);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("retry-after"), "91");
        assert_eq!(header("ratelimit"), "\"query\";r=0;t=91");
        assert_eq!(header("ratelimit-policy"), "\"query\";q=60;w=3600");
        assert!(!response.headers().contains_key("preference-applied"));
    }
}
