//! Saved cohorts and who is in them: `POST /api/query/cohorts/list`, `POST /api/query/engage` with `filter_by_cohort`
//! (contract §9).

use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::calls::{Calls, join};
use super::profiles::NotRead;
use crate::vendor::{Cost, Family, Priority, VendorAnswer, VendorRequest};

/// People in a page of the answer.
pub const PAGE: u64 = 1_000;

/// A saved cohort.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Cohort {
    pub id: u64,
    pub name: String,
    #[serde(default)]
    pub count: u64,
}

/// A page of a cohort's people.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub people: Vec<(String, Map<String, Value>)>,
    pub session: Option<String>,
    /// People on all pages.
    pub total: Option<u64>,
    /// There are no more.
    pub last: bool,
}

impl Calls {
    /// `None` without a service account and its project, as for profiles.
    pub fn cohorts(&self) -> Option<VendorRequest> {
        self.query("/api/query/cohorts/list", String::new())
    }

    /// A page of the cohort's people with these `properties`, from 0; those behind the first want the session that it has
    /// opened.
    pub fn cohort_page(
        &self,
        cohort: u64,
        page: u32,
        session: Option<&str>,
        properties: &[String],
    ) -> Option<VendorRequest> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("filter_by_cohort", &serde_json::json!({ "id": cohort }).to_string())
            .append_pair("include_all_users", "true")
            .append_pair("output_properties", &serde_json::json!(properties).to_string());
        if let Some(session) = session {
            form.append_pair("session_id", session).append_pair("page", &page.to_string());
        }
        self.query("/api/query/engage", form.finish())
    }

    fn query(&self, path: &'static str, form: String) -> Option<VendorRequest> {
        let (authorization, project_id) = self.query_credentials()?;
        let mut url = join(&self.query, path);
        url.query_pairs_mut().append_pair("project_id", project_id);
        let content = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, content), (AUTHORIZATION, authorization.clone())]);
        Some(VendorRequest {
            method: http::Method::POST,
            url,
            headers,
            body: form.into(),
            endpoint: path,
            family: Family::MixpanelQuery,
            priority: Priority::Cohorts,
            cost: Cost::CALL,
            note: None,
        })
    }
}

#[derive(Deserialize)]
struct Body {
    results: Vec<Row>,
    #[serde(default)]
    session_id: Option<String>,
    #[serde(default)]
    page_size: Option<u64>,
    #[serde(default)]
    total: Option<u64>,
}

#[derive(Deserialize)]
struct Row {
    #[serde(rename = "$distinct_id")]
    distinct_id: Value,
    #[serde(rename = "$properties", default)]
    properties: Map<String, Value>,
}

/// Reads the list of cohorts.
pub fn list(answer: &VendorAnswer) -> Result<Vec<Cohort>, NotRead> {
    read(answer)
}

/// Reads a page.
pub fn page(answer: &VendorAnswer) -> Result<Page, NotRead> {
    let body: Body = read(answer)?;
    let size = body.page_size.filter(|size| *size > 0).unwrap_or(PAGE);
    let last = (body.results.len() as u64) < size;
    let person = |row: Row| match row.distinct_id {
        Value::String(id) => (id, row.properties),
        other => (other.to_string(), row.properties),
    };
    Ok(Page {
        people: body.results.into_iter().map(person).collect(),
        session: body.session_id,
        total: body.total,
        last,
    })
}

/// Whether the answer says that the session of the pages is over: they have to be asked for from the first one.
pub fn session_is_over(answer: &VendorAnswer) -> bool {
    String::from_utf8_lossy(&answer.body[..answer.body.len().min(2_000)]).contains("uncached query")
}

/// The JSON of a query's answer.
pub(super) fn read<T: serde::de::DeserializeOwned>(answer: &VendorAnswer) -> Result<T, NotRead> {
    let status = answer.status.as_u16();
    if status == 429 {
        return Err(NotRead::Limited);
    }
    let refused = || NotRead::Refused { status, words: answer.excerpt(300) };
    if status != 200 {
        return Err(refused());
    }
    serde_json::from_slice(&answer.body).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::StatusCode;

    use super::*;
    use crate::config;

    fn answer(status: u16, body: &'static str) -> VendorAnswer {
        VendorAnswer::new(StatusCode::from_u16(status).unwrap(), HeaderMap::new(), Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn pages_behind_the_first_name_its_session() {
        let text = "connectors:\n  mixpanel:\n    project_token: t\n    project_id: \"7\"\n    \
                    service_account: { username: u, secret: s }\n";
        let calls = Calls::new(&config::parse(text, "test", &|_| None).unwrap().config.mixpanel).unwrap();
        let form = |request: VendorRequest| form_urlencoded::parse(&request.body).into_owned().collect::<Vec<_>>();
        let first = form(calls.cohort_page(5, 0, None, &["$email".to_owned()]).unwrap());
        assert_eq!(first[0], ("filter_by_cohort".to_owned(), r#"{"id":5}"#.to_owned()));
        assert!(!first.iter().any(|(key, _)| key == "page" || key == "session_id"));
        let second = form(calls.cohort_page(5, 1, Some("s"), &[]).unwrap());
        assert!(second.contains(&("page".to_owned(), "1".to_owned())), "{second:?}");
        assert!(second.contains(&("session_id".to_owned(), "s".to_owned())), "{second:?}");
    }

    #[test]
    fn a_page_that_is_not_full_is_the_last() {
        let body = r#"{"page":0,"page_size":2,"results":[{"$distinct_id":"a","$properties":{"n":1}},
            {"$distinct_id":7}],"session_id":"s","status":"ok","total":3}"#;
        let read = page(&answer(200, body)).unwrap();
        assert_eq!((read.last, read.session.as_deref(), read.total), (false, Some("s"), Some(3)));
        assert_eq!(read.people[1].0, "7");
        let last = r#"{"page":1,"page_size":2,"results":[{"$distinct_id":"b","$properties":{}}],"session_id":"s"}"#;
        assert!(page(&answer(200, last)).unwrap().last);
        assert!(matches!(page(&answer(200, r#"{"error":"no"}"#)), Err(NotRead::Refused { .. })));
        assert!(session_is_over(&answer(400, r#"{"error":"request for page in uncached query for params"}"#)));
    }

    #[test]
    fn cohorts_are_listed() {
        let read = list(&answer(200, r#"[{"id":1,"name":"Few","count":3,"is_visible":1}]"#)).unwrap();
        assert_eq!(read, [Cohort { id: 1, name: "Few".to_owned(), count: 3 }]);
    }
}
