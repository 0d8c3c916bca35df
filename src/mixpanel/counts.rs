//! How often events happened, by Mixpanel's own count: `GET /api/query/events` (contract §9).

use std::collections::BTreeMap;

use http::header::{AUTHORIZATION, HeaderMap};
use jiff::civil::Date;
use serde::Deserialize;

use super::calls::{Calls, join};
use super::cohorts::read;
use super::profiles::NotRead;
use crate::vendor::{Cost, Family, Priority, VendorAnswer, VendorRequest};

/// Names in one question: their text travels in the URL.
pub const MAX_NAMES: usize = 100;

impl Calls {
    /// `None` without a service account and its project, as for profiles. `names` are [`MAX_NAMES`] at the most.
    pub fn event_counts(&self, names: &[&str], day: Date) -> Option<VendorRequest> {
        let (authorization, project_id) = self.query_credentials()?;
        let mut url = join(&self.query, "/api/query/events");
        url.query_pairs_mut()
            .append_pair("project_id", project_id)
            .append_pair("event", &serde_json::json!(names).to_string())
            .append_pair("type", "general")
            .append_pair("unit", "day")
            .append_pair("from_date", &day.to_string())
            .append_pair("to_date", &day.to_string());
        Some(VendorRequest {
            method: http::Method::GET,
            url,
            headers: HeaderMap::from_iter([(AUTHORIZATION, authorization.clone())]),
            body: bytes::Bytes::new(),
            endpoint: "/api/query/events",
            family: Family::MixpanelQuery,
            priority: Priority::Backfill,
            cost: Cost::CALL,
            note: None,
        })
    }
}

#[derive(Deserialize)]
struct Body {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    values: BTreeMap<String, BTreeMap<String, u64>>,
}

/// The counts of `day` by name. An event that the project does not know is not among them.
pub fn counts(answer: &VendorAnswer, day: Date) -> Result<BTreeMap<String, u64>, NotRead> {
    let body: Body = read(answer)?;
    let day = day.to_string();
    // Keys are days, and with some units days with a time.
    let of_day = |days: BTreeMap<String, u64>| days.iter().filter(|(at, _)| at.starts_with(&day)).map(|(_, n)| n).sum();
    Ok(body.data.values.into_iter().map(|(name, days)| (name, of_day(days))).collect())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;

    use super::*;
    use crate::config;

    #[test]
    fn a_days_counts_are_asked_for_and_read() {
        let text = "connectors:\n  mixpanel:\n    project_token: t\n    project_id: \"7\"\n    \
                    service_account: { username: u, secret: s }\n";
        let calls = Calls::new(&config::parse(text, "test", &|_| None).unwrap().config.mixpanel).unwrap();
        let day: Date = "2026-11-20".parse().unwrap();
        let request = calls.event_counts(&["a", "b c"], day).unwrap();
        let asked: BTreeMap<_, _> = request.url.query_pairs().into_owned().collect();
        let asked = |name: &str| asked[name].as_str();
        assert_eq!(
            (asked("event"), asked("from_date"), asked("to_date")),
            (r#"["a","b c"]"#, "2026-11-20", "2026-11-20")
        );

        let body = r#"{"data":{"series":["2026-11-20"],"values":{"a":{"2026-11-20":5,"2026-11-21":1},
            "b c":{"2026-11-20 00:00:00":2}}},"legend_size":2}"#;
        let answer = |body: &'static str| {
            VendorAnswer::new(StatusCode::OK, HeaderMap::new(), Bytes::from_static(body.as_bytes()))
        };
        assert_eq!(counts(&answer(body), day).unwrap(), [("a".to_owned(), 5), ("b c".to_owned(), 2)].into());
        assert!(matches!(counts(&answer(r#"{"error":"no"}"#), day), Err(NotRead::Refused { .. })));
    }
}
