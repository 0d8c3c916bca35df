//! What Mixpanel's answers to write calls mean: one table for the destination ([`judge`]), one for the records
//! ([`outcome`]). Pure.

use std::time::Duration;

use http::header::RETRY_AFTER;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::calls::Call;
use crate::vendor::budget::Reading;
use crate::vendor::{PauseCause, VendorAnswer, Verdict};

/// A hint longer than this is not believed: nothing published speaks of hours.
const MAX_HINT: Duration = Duration::from_secs(600);

/// Judges an answer for the destination as a whole.
///
/// | answer | verdict |
/// |---|---|
/// | 200 that reads like the vendor's | definite |
/// | 200 that does not (a captive portal, a proxy's page) | retry |
/// | 400, 413, 422 | definite: about this request |
/// | 401 / 402 / 403 | pause |
/// | 429 | rate limited, `Retry-After` where there is one (none is documented) |
/// | anything else | retry: unknown is never taken for permanent |
pub fn judge(answer: &VendorAnswer) -> Verdict {
    match answer.status.as_u16() {
        200 if Plain::read(&answer.body).is_some() => Verdict::Definite,
        400 | 413 | 422 => Verdict::Definite,
        401 => Verdict::Pause(PauseCause::Credentials),
        402 => Verdict::Pause(PauseCause::Payment),
        403 => Verdict::Pause(PauseCause::Permission),
        429 => Verdict::RateLimited { after: retry_after(answer) },
        _ => Verdict::Retry,
    }
}

/// Mixpanel sends no rate headers (contract §9).
pub fn meter(_: &VendorAnswer) -> Option<Reading> {
    None
}

fn retry_after(answer: &VendorAnswer) -> Option<Duration> {
    let seconds: u64 = answer.headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_HINT))
}

/// What became of a call's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All of them arrived.
    Delivered,
    /// Those named did not, for the reason given with each; the others did (a strict 400 has stored the good ones).
    Failed(Vec<(usize, String)>),
    /// None arrived, and the answer does not say whose fault it was.
    Refused(String),
    /// None arrived: the call is too large.
    TooLarge,
}

/// Reads the outcome of a call that carried `sent` records from its definite answer.
pub fn outcome(call: Call, sent: usize, answer: &VendorAnswer) -> Outcome {
    match answer.status.as_u16() {
        413 => return Outcome::TooLarge,
        200 => {}
        _ => return refusal(sent, answer),
    }
    match Plain::read(&answer.body) {
        Some(Plain::Good) => Outcome::Delivered,
        // An old form of the import API reports errors inside a 200.
        Some(Plain::Bad(_)) if matches!(call, Call::Import | Call::Merge) => refusal(sent, answer),
        Some(Plain::Bad(reason)) => Outcome::Refused(reason),
        None => Outcome::Refused(answer.excerpt(200)),
    }
}

/// A 200's body: `1`, `0`, `{"status":1,...}`, `{"code":200,"status":"OK",...}` or `{"error":...,"status":0}`.
enum Plain {
    Good,
    Bad(String),
}

impl Plain {
    fn read(body: &[u8]) -> Option<Self> {
        match body.trim_ascii() {
            b"1" => return Some(Plain::Good),
            b"0" => return Some(Plain::Bad("refused without a reason".to_owned())),
            _ => {}
        }
        let body: Body<'_> = serde_json::from_slice(body).ok()?;
        match (body.status?.get(), body.error) {
            ("1" | "\"OK\"" | "\"ok\"", _) => Some(Plain::Good),
            (_, Some(reason)) => Some(Plain::Bad(reason)),
            (status, None) => Some(Plain::Bad(format!("status {status}"))),
        }
    }
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default)]
    status: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    num_records_imported: Option<u64>,
    #[serde(borrow, default)]
    failed_records: Vec<&'a RawValue>,
}

/// An element of `failed_records` when it is an object; both spellings of the id are seen on the wire (contract §3), and
/// the index suffices.
#[derive(Deserialize)]
struct FailedRecord {
    index: usize,
    #[serde(default)]
    field: String,
    #[serde(default)]
    message: String,
}

fn refusal(sent: usize, answer: &VendorAnswer) -> Outcome {
    let Ok(body) = serde_json::from_slice::<Body<'_>>(&answer.body) else {
        return Outcome::Refused(answer.excerpt(500));
    };
    let mut failed = Vec::new();
    for raw in &body.failed_records {
        match serde_json::from_str::<FailedRecord>(raw.get()) {
            Ok(record) if record.index < sent => {
                let separator = if record.field.is_empty() { "" } else { ": " };
                failed.push((record.index, format!("{}{separator}{}", record.field, record.message)));
            }
            // A bare string speaks of the whole batch (contract §3, identity events); an index out of range of nothing.
            _ => return Outcome::Refused(raw.get().trim_matches('"').to_owned()),
        }
    }
    failed.sort();
    failed.dedup_by_key(|(index, _)| *index);
    let stored = body.num_records_imported.unwrap_or(0);
    // The good ones are only taken as stored when the vendor's own count agrees.
    if !failed.is_empty() && (failed.len() == sent || stored as usize + failed.len() >= sent) {
        return Outcome::Failed(failed);
    }
    Outcome::Refused(body.error.unwrap_or_else(|| answer.excerpt(500)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn answer(status: u16, body: &str) -> VendorAnswer {
        VendorAnswer::new(
            StatusCode::from_u16(status).unwrap(),
            HeaderMap::new(),
            Bytes::copy_from_slice(body.as_bytes()),
        )
    }

    #[test]
    fn the_destination_table() {
        let pause = Verdict::Pause;
        let limited = Verdict::RateLimited { after: None };
        for (status, body, verdict) in [
            (200, r#"{"code":200,"num_records_imported":2,"status":"OK"}"#, Verdict::Definite),
            (200, "1", Verdict::Definite),
            (200, "0", Verdict::Definite),
            (200, r#"{"status": 1, "error": null}"#, Verdict::Definite),
            (200, r#"{"error":"data, missing or empty","status":0}"#, Verdict::Definite),
            (200, "<html>Please log in to the hotel's network</html>", Verdict::Retry),
            (200, "", Verdict::Retry),
            (204, "", Verdict::Retry),
            (301, "", Verdict::Retry),
            (400, "{}", Verdict::Definite),
            (
                401,
                r#"{"code":401,"error":"Invalid credentials","status":"Unauthorized"}"#,
                pause(PauseCause::Credentials),
            ),
            (402, "", pause(PauseCause::Payment)),
            (403, "", pause(PauseCause::Permission)),
            (404, "", Verdict::Retry),
            (408, "", Verdict::Retry),
            (413, "", Verdict::Definite),
            (429, "", limited),
            (500, "", Verdict::Retry),
            (502, "", Verdict::Retry),
            (503, "", Verdict::Retry),
        ] {
            assert_eq!(judge(&answer(status, body)), verdict, "{status} {body}");
        }
    }

    #[test]
    fn a_retry_after_is_read_and_capped() {
        let mut limited = answer(429, "");
        limited.headers.insert(RETRY_AFTER, "7".parse().unwrap());
        assert_eq!(judge(&limited), Verdict::RateLimited { after: Some(Duration::from_secs(7)) });
        limited.headers.insert(RETRY_AFTER, "86400000".parse().unwrap());
        assert_eq!(judge(&limited), Verdict::RateLimited { after: Some(MAX_HINT) });
        limited.headers.insert(RETRY_AFTER, "Wed, 21 Oct 2026 07:28:00 GMT".parse().unwrap());
        assert_eq!(judge(&limited), Verdict::RateLimited { after: None });
    }

    #[test]
    fn the_record_table() {
        let mixed = r#"{"code":400,"error":"some data points in the request failed validation","failed_records":[
            {"index":1,"insert_id":"x","field":"properties.time","message":"must not be missing"},
            {"index":1,"$insert_id":"x","field":"event","message":"also"}],"num_records_imported":2,"status":"Bad Request"}"#;
        assert_eq!(outcome(Call::Import, 3, &answer(400, mixed)), Outcome::Failed(vec![(1, "event: also".to_owned())]));
        let identity = r#"{"code":400,"num_records_imported":0,"failed_records":["identity events are not allowed when project is using simplified identity management"],"status":"Bad Request"}"#;
        assert!(
            matches!(outcome(Call::Import, 3, &answer(400, identity)), Outcome::Refused(m) if m.starts_with("identity events"))
        );
        let miscounted =
            r#"{"failed_records":[{"index":0,"message":"m"}],"num_records_imported":0,"status":"Bad Request"}"#;
        assert!(matches!(outcome(Call::Import, 3, &answer(400, miscounted)), Outcome::Refused(_)));
        assert!(matches!(outcome(Call::Import, 1, &answer(400, miscounted)), Outcome::Failed(_)));
        let wild = r#"{"failed_records":[{"index":70,"message":"m"}],"num_records_imported":2}"#;
        assert!(matches!(outcome(Call::Import, 3, &answer(400, wild)), Outcome::Refused(_)));
        assert!(matches!(outcome(Call::Import, 3, &answer(400, "not json")), Outcome::Refused(_)));
        assert_eq!(outcome(Call::Import, 3, &answer(413, "")), Outcome::TooLarge);
        assert_eq!(outcome(Call::Track, 3, &answer(200, "1")), Outcome::Delivered);
        assert_eq!(
            outcome(Call::Engage, 3, &answer(200, r#"{"error":"$distinct_id, missing or empty","status":0}"#)),
            Outcome::Refused("$distinct_id, missing or empty".to_owned())
        );
    }
}
