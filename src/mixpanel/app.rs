//! Mixpanel's app host as far as the relay uses it: GDPR tasks and the account's own page (contract §11).

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use super::calls::{BadCredentials, join, secret_header};
use crate::config;
use crate::vendor::{Cost, Family, Priority, VendorAnswer, VendorRequest};

/// The most ids in one deletion (contract §11).
pub const MAX_DELETION: usize = 1_999;

/// The two kinds of GDPR task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Retrieval,
    Deletion,
}

impl Task {
    fn path(self) -> &'static str {
        match self {
            Task::Retrieval => "/api/app/data-retrievals/v3.0/",
            Task::Deletion => "/api/app/data-deletions/v3.0/",
        }
    }

    fn endpoint(self) -> &'static str {
        match self {
            Task::Retrieval => "/api/app/data-retrievals",
            Task::Deletion => "/api/app/data-deletions",
        }
    }
}

/// How far a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// PENDING, STAGING, STARTED: ask again.
    UnderWay(String),
    Success,
    /// FAILURE, REVOKED, NOT_FOUND, UNKNOWN, or a word that the contract does not have.
    Ended(String),
}

/// Builds calls to the app host with the relay's own credentials.
#[derive(Clone, Debug)]
pub struct AppCalls {
    base: Url,
    /// Of the OAuth token: GDPR tasks take nothing else.
    oauth: Option<HeaderValue>,
    account: Option<HeaderValue>,
    /// Ours; the first stands for a call that names none.
    tokens: Vec<String>,
}

impl AppCalls {
    pub fn new(config: &config::Mixpanel) -> Result<Self, BadCredentials> {
        let bearer = |token: &config::Secret| secret_header(&format!("Bearer {}", token.expose()));
        let oauth = config.oauth_token.as_ref().map(bearer).transpose()?;
        let account = config.service_account.as_ref().map(config::ServiceAccount::basic);
        let account = account.map(|basic| secret_header(&basic)).transpose()?;
        let tokens = config.project_tokens.clone();
        Ok(Self { base: config.endpoints.app.clone(), oauth, account, tokens })
    }

    /// The token to send for a call that named `asked`; `None` for a project that is not ours.
    pub fn token<'a>(&'a self, asked: Option<&str>) -> Option<&'a str> {
        let found = asked.map_or_else(|| self.tokens.first(), |asked| self.tokens.iter().find(|token| *token == asked));
        found.map(String::as_str)
    }

    /// `GET /api/app/me`, with a caller's own `authorization` where there is one; `None` without any credentials.
    pub fn me(&self, query: Option<&str>, authorization: Option<HeaderValue>) -> Option<VendorRequest> {
        let authorization = authorization.or_else(|| self.account.clone()).or_else(|| self.oauth.clone())?;
        let mut url = join(&self.base, "/api/app/me/");
        url.set_query(query);
        Some(request(Method::GET, url, authorization, Bytes::new(), "/api/app/me", Family::MixpanelApp))
    }

    /// A new task, or (`id`) a look at one or its cancellation, with a caller's own `authorization` where there is one. `None`
    /// without an OAuth token.
    pub fn task(
        &self,
        task: Task,
        method: Method,
        token: &str,
        id: Option<&str>,
        body: Bytes,
        authorization: Option<HeaderValue>,
    ) -> Option<VendorRequest> {
        let mut url = join(&self.base, task.path());
        if let (Some(id), Ok(mut segments)) = (id, url.path_segments_mut()) {
            segments.pop_if_empty().push(id);
        }
        url.query_pairs_mut().append_pair("token", token);
        Some(request(
            method,
            url,
            authorization.or_else(|| self.oauth.clone())?,
            body,
            task.endpoint(),
            Family::MixpanelGdpr,
        ))
    }

    /// A deletion of `distinct_ids`, at most [`MAX_DELETION`].
    pub fn deletion(&self, distinct_ids: &[String], compliance: &str) -> Option<VendorRequest> {
        let body = json!({ "distinct_ids": distinct_ids, "compliance_type": compliance }).to_string();
        self.task(Task::Deletion, Method::POST, self.token(None)?, None, body.into(), None)
    }

    /// Asks how far a deletion is.
    pub fn deletion_progress(&self, id: &str) -> Option<VendorRequest> {
        self.task(Task::Deletion, Method::GET, self.token(None)?, Some(id), Bytes::new(), None)
    }
}

fn request(
    method: Method,
    url: Url,
    authorization: HeaderValue,
    body: Bytes,
    endpoint: &'static str,
    family: Family,
) -> VendorRequest {
    let headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (AUTHORIZATION, authorization),
    ]);
    VendorRequest {
        method,
        url,
        headers,
        body,
        endpoint,
        family,
        priority: Priority::Live,
        cost: Cost::CALL,
        note: None,
    }
}

/// The id of the task that a create call has made. The spec and the vendor's page disagree about its place (contract §11).
pub fn task_id(answer: &VendorAnswer) -> Option<String> {
    if !matches!(answer.status, StatusCode::OK | StatusCode::CREATED) {
        return None;
    }
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    let results = &body["results"];
    let id = [&results["task_id"], &results[0]["tracking_id"], &results["tracking_id"], &results[0]["task_id"]];
    id.into_iter().find_map(|id| match id {
        Value::String(id) if !id.is_empty() => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    })
}

/// How far the task of the answer is; `None` when the answer does not say.
pub fn progress(answer: &VendorAnswer) -> Option<Progress> {
    if answer.status != StatusCode::OK {
        return None;
    }
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    let status = ["results", "result"].into_iter().find_map(|key| body[key]["status"].as_str())?;
    Some(match status {
        "PENDING" | "STAGING" | "STARTED" => Progress::UnderWay(status.to_owned()),
        "SUCCESS" => Progress::Success,
        _ => Progress::Ended(status.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &Value) -> VendorAnswer {
        VendorAnswer::new(StatusCode::from_u16(status).unwrap(), HeaderMap::new(), body.to_string().into())
    }

    #[test]
    fn both_published_shapes_of_a_new_task_are_read() {
        for (status, body, id) in [
            (201, json!({"status": "ok", "results": {"task_id": "a1"}}), Some("a1")),
            (200, json!({"status": "ok", "results": [{"status": "PENDING", "tracking_id": "77"}]}), Some("77")),
            (200, json!({"status": "ok", "results": [{"tracking_id": 77}]}), Some("77")),
            (200, json!({"status": "ok"}), None),
            (400, json!({"status": "error", "results": {"task_id": "a1"}}), None),
        ] {
            assert_eq!(task_id(&answer(status, &body)).as_deref(), id, "{body}");
        }
    }

    #[test]
    fn progress_is_read_under_either_key() {
        for (body, expected) in [
            (json!({"results": {"status": "STAGING"}}), Some(Progress::UnderWay("STAGING".to_owned()))),
            (json!({"result": {"status": "SUCCESS"}}), Some(Progress::Success)),
            (json!({"results": {"status": "FAILURE"}}), Some(Progress::Ended("FAILURE".to_owned()))),
            (json!({"results": {"status": "ODD"}}), Some(Progress::Ended("ODD".to_owned()))),
            (json!({"results": []}), None),
        ] {
            assert_eq!(progress(&answer(200, &body)), expected, "{body}");
        }
        assert_eq!(progress(&answer(500, &json!({}))), None);
    }

    #[test]
    fn calls_carry_our_token_and_oauth_alone_opens_tasks() {
        let calls = |extra: &str| {
            let text = format!("connectors: {{ mixpanel: {{ project_token: [t, u]{extra} }} }}");
            AppCalls::new(
                &config::parse(&text, "x", &|_| None).unwrap_or_else(|errors| panic!("{errors}")).config.mixpanel,
            )
            .unwrap()
        };
        let with = calls(", oauth_token: o, project_id: \"1\"");
        let request = with.task(Task::Deletion, Method::GET, "t", Some("a/../b"), Bytes::new(), None).unwrap();
        assert!(request.url.as_str().ends_with("/api/app/data-deletions/v3.0/a%2F..%2Fb?token=t"), "{}", request.url);
        assert_eq!(request.headers[AUTHORIZATION], "Bearer o");
        assert_eq!((with.token(None), with.token(Some("u")), with.token(Some("x"))), (Some("t"), Some("u"), None));
        let account = calls(", service_account: { username: a, secret: b }, project_id: \"1\"");
        assert!(account.deletion(&["d".to_owned()], "GDPR").is_none());
        assert_eq!(account.me(None, None).unwrap().headers[AUTHORIZATION], "Basic YTpi");
    }
}
