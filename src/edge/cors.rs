//! CORS on every answer, errors included: without it a browser SDK sees a dead network and throws its batch away (P6).
//!
//! mixpanel-js sends credentials with its batches, so the origin is echoed, never `*` (contract §4).

use std::time::Duration;

use http::header::{AGE, ORIGIN, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::request_ids;
use crate::config::CorsOrigins;

/// How long a browser may remember a preflight's answer; two hours is the most that Chromium honours.
const MAX_AGE: Duration = Duration::from_secs(7200);

pub fn layer(origins: &CorsOrigins) -> CorsLayer {
    let allow_origin = match origins {
        CorsOrigins::Any => AllowOrigin::mirror_request(),
        CorsOrigins::Only(list) => {
            let list = list.clone();
            AllowOrigin::predicate(move |origin: &HeaderValue, _| {
                origin.to_str().is_ok_and(|origin| list.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)))
            })
        }
    };
    CorsLayer::new()
        .allow_origin(allow_origin)
        .allow_credentials(true)
        .allow_headers(AllowHeaders::mirror_request())
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::OPTIONS])
        .expose_headers([
            RETRY_AFTER,
            AGE,
            request_ids::HEADER,
            HeaderName::from_static("ratelimit"),
            HeaderName::from_static("ratelimit-policy"),
        ])
        .vary([ORIGIN])
        .max_age(MAX_AGE)
}
