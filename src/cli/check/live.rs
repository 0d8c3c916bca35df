//! Questions to the vendors that cost next to nothing and change nothing there.

use std::time::Duration;

use http::header::HeaderMap;
use http::{Method, StatusCode};
use serde_json::Value;
use tower::ServiceExt as _;
use url::Url;

use super::{brevo, cohorts, datasets, mixpanel};
use crate::config::Config;
use crate::vendor::{Cost, Family, Priority, Transport, TransportError, VendorAnswer, VendorRequest};

/// A check is for people who wait for it.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Verdict {
    Works,
    /// Could not be asked, or will work less well than was meant.
    Doubtful,
    Fails,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Finding {
    pub verdict: Verdict,
    /// What was looked at: a dotted key, or a vendor's name.
    pub subject: String,
    pub said: String,
}

impl Finding {
    pub fn works(subject: impl Into<String>, said: impl Into<String>) -> Self {
        Self { verdict: Verdict::Works, subject: subject.into(), said: said.into() }
    }

    pub fn doubtful(subject: impl Into<String>, said: impl Into<String>) -> Self {
        Self { verdict: Verdict::Doubtful, subject: subject.into(), said: said.into() }
    }

    pub fn fails(subject: impl Into<String>, said: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fails, subject: subject.into(), said: said.into() }
    }
}

/// Every live check, the two vendors side by side.
pub(in crate::cli) async fn all(config: &Config, vendors: &Vendors) -> Vec<Finding> {
    let (mut findings, brevo) = tokio::join!(mixpanel::check(config, vendors), brevo::check(config, vendors));
    findings.extend(brevo);
    findings.extend(cohorts::check(config, vendors).await);
    findings.extend(datasets::check(config));
    findings
}

/// The way to both vendors.
pub(in crate::cli) struct Vendors {
    transport: Transport,
}

/// Why a question has no usable answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum NoAnswer {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    TooLate,
}

impl Vendors {
    pub fn new(transport: Transport) -> Self {
        Self { transport }
    }

    /// Asks `GET base + path`. The body is [`Value::Null`] when it is not JSON.
    pub async fn get(
        &self,
        base: &Url,
        path: &'static str,
        id: Option<u64>,
        headers: HeaderMap,
        family: Family,
    ) -> Result<(StatusCode, Value), NoAnswer> {
        let question = Question { method: Method::GET, path, id, query: None, headers, body: Vec::new(), family };
        self.ask(base, question).await
    }

    /// Asks `base` the question. The answer is as of [`Self::get`].
    pub(super) async fn ask(&self, base: &Url, question: Question<'_>) -> Result<(StatusCode, Value), NoAnswer> {
        let Question { method, path, id, query, headers, body, family } = question;
        let mut url = below(base, path, id);
        url.set_query(query);
        let request = VendorRequest {
            method,
            url,
            headers,
            body: body.into(),
            endpoint: path,
            family,
            priority: Priority::Live,
            cost: Cost::CALL,
            note: None,
        };
        self.send(request).await
    }

    /// Sends any request. The answer's body is [`Value::Null`] when it is not JSON.
    pub async fn send(&self, request: VendorRequest) -> Result<(StatusCode, Value), NoAnswer> {
        let answer = self.call(request).await?;
        Ok((answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null)))
    }

    /// The same, with the answer as it came.
    pub(super) async fn call(&self, request: VendorRequest) -> Result<VendorAnswer, NoAnswer> {
        let asked = tokio::time::timeout(PATIENCE, self.transport.clone().oneshot(request));
        Ok(asked.await.map_err(|_| NoAnswer::TooLate)??)
    }
}

/// One call to a vendor.
pub(super) struct Question<'a> {
    pub method: Method,
    pub path: &'static str,
    pub id: Option<u64>,
    pub query: Option<&'a str>,
    pub headers: HeaderMap,
    /// JSON; empty: none.
    pub body: Vec<u8>,
    pub family: Family,
}

/// `path`, and then the id, added to the base's own path.
pub(in crate::cli) fn below(base: &Url, path: &str, id: Option<u64>) -> Url {
    let mut url = base.clone();
    let mut whole = format!("{}{path}", base.path().trim_end_matches('/'));
    if let Some(id) = id {
        whole.push_str(&format!("/{id}"));
    }
    url.set_path(&whole);
    url
}
