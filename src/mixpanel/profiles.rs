//! Reading many people's profiles at once: `POST /api/query/engage` (contract §9).

use std::collections::HashMap;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::calls::{Calls, join};
use crate::vendor::{Cost, Family, Priority, VendorAnswer, VendorRequest};

/// A page of the answer, and so the most people in one call.
pub const MAX_PEOPLE: usize = 1_000;

impl Calls {
    /// Asks for these `properties` of up to [`MAX_PEOPLE`] people. `None` without a service account and its project: the
    /// query side takes no project token (contract §2).
    pub fn profiles<'a>(&self, ids: impl Iterator<Item = &'a str>, properties: &[String]) -> Option<VendorRequest> {
        let (authorization, project_id) = self.query_credentials()?;
        let mut url = join(&self.query, "/api/query/engage");
        url.query_pairs_mut().append_pair("project_id", project_id);
        let ids: Vec<&str> = ids.collect();
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("distinct_ids", &serde_json::json!(ids).to_string())
            .append_pair("output_properties", &serde_json::json!(properties).to_string())
            .finish();
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers =
            HeaderMap::from_iter([(CONTENT_TYPE, form), (http::header::AUTHORIZATION, authorization.clone())]);
        Some(VendorRequest {
            method: http::Method::POST,
            url,
            headers,
            body: body.into(),
            endpoint: "/api/query/engage",
            family: Family::MixpanelQuery,
            priority: Priority::Live,
            cost: Cost::CALL,
        })
    }
}

/// Profiles by the distinct_id under which the vendor gave them: the text of each one's `$properties` object.
pub type Profiles = HashMap<String, Box<RawValue>>;

/// Why an answer holds no profiles.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRead {
    #[error("over a limit of the query API")]
    Limited,
    #[error("the query API answers {status}: {words}")]
    Refused { status: u16, words: String },
}

#[derive(Deserialize)]
struct Body {
    results: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "$distinct_id")]
    distinct_id: serde_json::Value,
    #[serde(rename = "$properties")]
    properties: Box<RawValue>,
}

/// Reads the answer. An old client has seen errors inside a 200 (contract §9): a body without results is a refusal too.
pub fn read(answer: &VendorAnswer) -> Result<Profiles, NotRead> {
    let status = answer.status.as_u16();
    if status == 429 {
        return Err(NotRead::Limited);
    }
    let refused = || NotRead::Refused { status, words: answer.excerpt(300) };
    if status != 200 {
        return Err(refused());
    }
    let body: Body = serde_json::from_slice(&answer.body).map_err(|_| refused())?;
    let by_id = |row: Row| {
        let id = match row.distinct_id {
            serde_json::Value::String(id) => id,
            other => other.to_string(),
        };
        (id, row.properties)
    };
    Ok(body.results.into_iter().map(by_id).collect())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;

    use super::*;
    use crate::config;

    fn calls(credentials: &str) -> Calls {
        let text = format!("connectors:\n  mixpanel:\n    project_token: t\n{credentials}");
        Calls::new(&config::parse(&text, "test", &|_| None).unwrap().config.mixpanel).unwrap()
    }

    fn answer(status: u16, body: &'static str) -> VendorAnswer {
        VendorAnswer::new(StatusCode::from_u16(status).unwrap(), HeaderMap::new(), Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn the_call_is_a_form_with_json_in_it() {
        let account = "    project_id: \"7\"\n    service_account: { username: u, secret: s }\n";
        let request = calls(account).profiles(["a&b", "c"].into_iter(), &["$email".to_owned()]).unwrap();
        assert_eq!(request.url.as_str(), "https://mixpanel.com/api/query/engage?project_id=7");
        let form: Vec<_> = form_urlencoded::parse(&request.body).into_owned().collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(form, [pair("distinct_ids", r#"["a&b","c"]"#), pair("output_properties", r#"["$email"]"#)]);
        assert_eq!(request.family, Family::MixpanelQuery);
    }

    #[test]
    fn without_a_service_account_nobody_is_asked_for() {
        for credentials in ["", "    project_id: \"7\"\n    oauth_token: o\n"] {
            assert!(calls(credentials).profiles(["a"].into_iter(), &[]).is_none(), "{credentials}");
        }
    }

    #[test]
    fn answers_are_profiles_or_say_why_not() {
        let good = r#"{"page":0,"page_size":1000,"results":[{"$distinct_id":"a","$properties":{"n":1.50}},
            {"$distinct_id":7,"$properties":{}}],"session_id":"s","status":"ok","total":2}"#;
        let profiles = read(&answer(200, good)).unwrap();
        assert_eq!(profiles["a"].get(), r#"{"n":1.50}"#);
        assert!(profiles.contains_key("7"));
        assert_eq!(read(&answer(429, "{}")).unwrap_err(), NotRead::Limited);
        for (status, body) in [(200, r#"{"error":"no"}"#), (402, ""), (200, "<html>")] {
            assert!(matches!(read(&answer(status, body)), Err(NotRead::Refused { .. })), "{status} {body}");
        }
    }
}
