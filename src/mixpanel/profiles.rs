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
            note: None,
        })
    }
}

/// One page of everybody whom a filter leaves.
#[derive(Clone, Copy, Debug)]
pub struct PageQuestion<'a> {
    /// In the vendor's expression language (contract §10).
    pub filter: &'a str,
    pub properties: &'a [String],
    /// From nought; a later one is of the session that the first has opened.
    pub page: u64,
    pub session: Option<&'a str>,
}

impl Calls {
    /// Asks for a page, behind everybody else. `None` as for [`Calls::profiles`].
    pub fn profile_page(&self, question: PageQuestion<'_>) -> Option<VendorRequest> {
        let mut request = self.profiles(std::iter::empty(), question.properties)?;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("output_properties", &serde_json::json!(question.properties).to_string());
        form.append_pair("page", &question.page.to_string());
        if !question.filter.is_empty() {
            form.append_pair("where", question.filter);
        }
        if let Some(session) = question.session {
            form.append_pair("session_id", session);
        }
        request.body = form.finish().into();
        request.priority = Priority::Backfill;
        Some(request)
    }
}

/// A page of profiles.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProfilePage {
    /// In the vendor's order.
    pub rows: Vec<(String, serde_json::Map<String, serde_json::Value>)>,
    pub session: Option<String>,
    /// In all pages.
    pub total: u64,
    /// No further page follows.
    pub last: bool,
}

/// Reads a page, as [`read`] reads an answer.
pub fn read_page(answer: &VendorAnswer) -> Result<ProfilePage, NotRead> {
    #[derive(Deserialize)]
    struct Body {
        results: Vec<PageRow>,
        #[serde(default)]
        session_id: Option<String>,
        #[serde(default)]
        total: u64,
        #[serde(default)]
        page_size: Option<usize>,
    }
    #[derive(Deserialize)]
    struct PageRow {
        #[serde(rename = "$distinct_id")]
        distinct_id: serde_json::Value,
        #[serde(rename = "$properties", default)]
        properties: serde_json::Map<String, serde_json::Value>,
    }
    let status = answer.status.as_u16();
    let refused = || NotRead::Refused { status, words: answer.excerpt(300) };
    match status {
        200 => {}
        429 => return Err(NotRead::Limited),
        _ => return Err(refused()),
    }
    let body: Body = serde_json::from_slice(&answer.body).map_err(|_| refused())?;
    // Contract §9: stop when a page is not full.
    let last = body.results.len() < body.page_size.unwrap_or(MAX_PEOPLE).max(1);
    let rows = body.results.into_iter().map(|row| (text(row.distinct_id), row.properties)).collect();
    Ok(ProfilePage { rows, session: body.session_id, total: body.total, last })
}

fn text(id: serde_json::Value) -> String {
    match id {
        serde_json::Value::String(id) => id,
        other => other.to_string(),
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
    let by_id = |row: Row| (text(row.distinct_id), row.properties);
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
    fn a_page_is_of_its_session_and_tells_whether_it_is_the_last() {
        let account = "    project_id: \"7\"\n    service_account: { username: u, secret: s }\n";
        let properties = ["plan".to_owned()];
        let question = PageQuestion { filter: "x == 1", properties: &properties, page: 2, session: Some("s1") };
        let request = calls(account).profile_page(question).unwrap();
        let form: Vec<_> = form_urlencoded::parse(&request.body).into_owned().collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            form,
            [
                pair("output_properties", r#"["plan"]"#),
                pair("page", "2"),
                pair("where", "x == 1"),
                pair("session_id", "s1")
            ]
        );
        assert_eq!(request.priority, Priority::Backfill);
        let page = read_page(&answer(
            200,
            r#"{"page":0,"page_size":2,"results":[{"$distinct_id":"a","$properties":{"plan":"x"}},
            {"$distinct_id":7}],"session_id":"s","status":"ok","total":5}"#,
        ))
        .unwrap();
        assert_eq!((page.rows.len(), page.rows[1].0.as_str(), page.total, page.last), (2, "7", 5, false));
        assert!(read_page(&answer(200, r#"{"results":[]}"#)).unwrap().last);
        assert_eq!(read_page(&answer(429, "{}")).unwrap_err(), NotRead::Limited);
        assert!(matches!(read_page(&answer(400, "{}")), Err(NotRead::Refused { status: 400, .. })));
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
