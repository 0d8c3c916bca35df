//! How Mixpanel's query side says no: the text of a 429, and errors inside a 200 (contract §9).

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::vendor::budget::Overrun;

/// A hint longer than this is not believed.
const MAX_HINT: Duration = Duration::from_secs(600);

/// Reads a 429. The vendor sends no headers about its limits, so its sentence is all there is: `... 1/5 queries running
/// concurrently and 61/60 queries running in the last hour`. One that reads otherwise teaches nothing but to rest.
pub fn overrun(headers: &HeaderMap, body: &[u8]) -> Overrun {
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let retry_after = seconds.map(|seconds| Duration::from_secs(seconds).min(MAX_HINT));
    let text = String::from_utf8_lossy(body);
    let hour = text.find("queries running in the last hour").and_then(|end| ratio(&text[..end]));
    Overrun { hour, retry_after }
}

/// The `used/allowed` that ends `text`.
fn ratio(text: &str) -> Option<(u64, u64)> {
    let (used, allowed) = text.trim_end().rsplit(' ').next()?.split_once('/')?;
    Some((used.parse().ok()?, allowed.parse().ok()?))
}

/// Whether a 200's body is an answer: JSON that is not an error in disguise. Other formats are told by `csv`, what the
/// caller has asked for.
pub fn is_answer(body: &[u8], csv: bool) -> bool {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(default)]
        error: Option<IgnoredAny>,
        #[serde(borrow, default)]
        status: Option<&'a RawValue>,
    }
    match body.trim_ascii_start().first() {
        Some(b'{') => match serde_json::from_slice::<Object<'_>>(body) {
            Ok(object) => object.error.is_none() && object.status.is_none_or(|status| status.get() != "\"error\""),
            Err(_) => false,
        },
        Some(b'[') => serde_json::from_slice::<IgnoredAny>(body).is_ok(),
        Some(b'<') | None => false,
        Some(_) => csv,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendors_sentence_is_read() {
        let body = br#"{"request":"/api/2.0/funnels?x","error":"Query rate limit exceeded for project_id: 7. 1/5 queries running concurrently and 61/60 queries running in the last hour. Please wait"}"#;
        assert_eq!(overrun(&HeaderMap::new(), body), Overrun { hour: Some((61, 60)), retry_after: None });
        let hint = HeaderMap::from_iter([(RETRY_AFTER, "100000".parse().unwrap())]);
        let known_to_rest = Overrun { hour: None, retry_after: Some(MAX_HINT) };
        for other in [&b"slow down"[..], b"queries running in the last hour", b"x/y queries running in the last hour"] {
            assert_eq!(overrun(&hint, other), known_to_rest);
        }
    }

    #[test]
    fn an_error_inside_a_200_is_none() {
        assert!(is_answer(br#"{"data":{"error":1},"status":"ok"}"#, false));
        assert!(is_answer(br#" [1]"#, false));
        assert!(is_answer(br#"{"error":null}"#, false));
        assert!(is_answer(b"a,b\n1,2", true));
        for bad in [&br#"{"error":"no"}"#[..], br#"{"status":"error"}"#, b"{\"a\":", b"[1", b"<html>", b"a,b", b""] {
            assert!(!is_answer(bad, false), "{}", String::from_utf8_lossy(bad));
        }
    }
}
