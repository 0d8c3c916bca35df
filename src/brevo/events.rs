//! Events that Brevo has, read back: `GET /events` (contract §3).

use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::Deserialize;

use super::calls::{Calls, Endpoint};
use crate::vendor::{Family, Priority, VendorAnswer, VendorRequest};

/// Events on a page.
pub const PAGE: usize = 2_000;

impl Calls {
    /// A page of the events that happened from the beginning of `from` to that of `to`, newest first. In which zone Brevo
    /// takes the two days is unconfirmed: ask for one more on either side.
    pub fn events_between(&self, from: Date, to: Date, offset: usize) -> VendorRequest {
        let endpoint = Endpoint { label: "/events", family: Family::BrevoOther };
        let mut request = self.request(Method::GET, endpoint, "/events", Bytes::new());
        request
            .url
            .query_pairs_mut()
            .append_pair("startDate", &from.to_string())
            .append_pair("endDate", &to.to_string())
            .append_pair("limit", &PAGE.to_string())
            .append_pair("offset", &offset.to_string());
        request.priority = Priority::Backfill;
        request
    }
}

/// An event as Brevo gives it back.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct ReadEvent {
    pub event_name: String,
    /// When it happened.
    pub event_date: Timestamp,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    events: Vec<ReadEvent>,
}

/// Why a page could not be read, in Brevo's words.
#[derive(Debug, thiserror::Error)]
#[error("Brevo answers {status}: {words}")]
pub struct NotRead {
    status: u16,
    words: String,
}

pub fn page(answer: &VendorAnswer) -> Result<Vec<ReadEvent>, NotRead> {
    let refused = || NotRead { status: answer.status.as_u16(), words: answer.excerpt(200) };
    if answer.status != 200 {
        return Err(refused());
    }
    let body: Body = serde_json::from_slice(&answer.body).map_err(|_| refused())?;
    Ok(body.events)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    #[test]
    fn a_page_is_names_and_times() {
        let answer = |status: u16, body: &'static str| {
            VendorAnswer::new(
                StatusCode::from_u16(status).unwrap(),
                HeaderMap::new(),
                Bytes::from_static(body.as_bytes()),
            )
        };
        let body = r#"{"events":[{"contact_id":1,"event_name":"order","event_date":"2026-11-20T01:02:03.004+01:00"}],"count":1}"#;
        let read = page(&answer(200, body)).unwrap();
        assert_eq!(
            (read[0].event_name.as_str(), read[0].event_date.to_string().as_str()),
            ("order", "2026-11-20T00:02:03.004Z")
        );
        assert_eq!(page(&answer(200, r#"{"count":0}"#)).unwrap(), []);
        assert!(page(&answer(403, "no")).unwrap_err().to_string().contains("403: no"));
    }
}
