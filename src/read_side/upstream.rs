//! Calls to Mixpanel's query, export and app hosts that are streamed or answered to a caller: no retries, no gate; what
//! the vendor says goes to whoever asked.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};

use super::access::Credentials;
use crate::config::MixpanelEndpoints;
use crate::mixpanel::calls::join;
use crate::telemetry;

/// A vendor that says nothing for this long has failed: JQL may take two minutes (contract §9).
const SILENCE: Duration = Duration::from_secs(150);
const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no answer of the vendor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("Mixpanel did not answer")]
    NoAnswer,
    #[error("Mixpanel's answer broke off")]
    Broken,
    #[error("Mixpanel's answer is longer than anyone should send")]
    TooLong,
}

/// The host that a path is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    Query,
    Export,
}

/// One call, whole but for the credentials.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub method: Method,
    pub host: Host,
    pub path: String,
    pub query: String,
    pub content_type: Option<HeaderValue>,
    pub body: Bytes,
    /// The metric label.
    pub label: &'static str,
}

pub struct Upstream {
    client: reqwest::Client,
    endpoints: MixpanelEndpoints,
    /// In a simulation.
    #[cfg(test)]
    pub(super) direct: Option<crate::simulation::Direct>,
}

impl Upstream {
    /// Fails when TLS cannot be set up.
    pub fn new(endpoints: MixpanelEndpoints) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            // A redirect would carry our credentials to wherever it points.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .pool_idle_timeout(Duration::from_secs(60))
            .user_agent(concat!("mixrelay/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            client,
            endpoints,
            #[cfg(test)]
            direct: None,
        })
    }

    /// Sends, and returns when the vendor's head is there. Bodies come inflated.
    pub async fn send(&self, call: &Outgoing, credentials: &Credentials) -> Result<reqwest::Response, Failure> {
        let base = match call.host {
            Host::Query => &self.endpoints.query,
            Host::Export => &self.endpoints.export,
        };
        let mut url = join(base, &call.path);
        url.set_query(Some(&call.query).filter(|query| !query.is_empty()).map(String::as_str));
        let mut headers = HeaderMap::from_iter([
            (AUTHORIZATION, credentials.authorization.clone()),
            (ACCEPT, HeaderValue::from_static("*/*")),
        ]);
        if let Some(content_type) = &call.content_type {
            headers.insert(CONTENT_TYPE, content_type.clone());
        }
        let request = self.client.request(call.method.clone(), url).headers(headers).body(call.body.clone());
        #[cfg(test)]
        if let Some(direct) = &self.direct {
            let request = http::Request::try_from(request.build().map_err(|_| Failure::NoAnswer)?);
            let request = request.map_err(|_| Failure::NoAnswer)?.map(axum::body::Body::new);
            return direct.exchange(request).await.map(reqwest::Response::from).ok_or(Failure::NoAnswer);
        }
        let response = request.send().await;
        let status = response.as_ref().ok().map(|response| response.status().as_u16());
        telemetry::vendor_request("mixpanel", call.label, status);
        response.map_err(|_| Failure::NoAnswer)
    }

    /// The account's own page; `None` when the vendor refuses the token.
    pub async fn account_page(&self, authorization: HeaderValue, max: usize) -> Result<Option<Bytes>, Failure> {
        let url = join(&self.endpoints.app, "/api/app/me/");
        let response = self.client.get(url).header(AUTHORIZATION, authorization).send().await;
        telemetry::vendor_request("mixpanel", "/api/app/me", response.as_ref().ok().map(|r| r.status().as_u16()));
        let mut response = response.map_err(|_| Failure::NoAnswer)?;
        match response.status() {
            StatusCode::OK => match read(&mut response, max).await? {
                Body::Whole(page) => Ok(Some(page)),
                Body::Begun(_) => Err(Failure::TooLong),
            },
            status if status.is_server_error() => Err(Failure::NoAnswer),
            _ => Ok(None),
        }
    }
}

/// An answer's body as far as it was read.
#[derive(Debug)]
pub enum Body {
    Whole(Bytes),
    /// The first bytes of a longer one.
    Begun(Bytes),
}

/// Reads up to a little more than `max` bytes.
pub async fn read(response: &mut reqwest::Response, max: usize) -> Result<Body, Failure> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| Failure::Broken)? {
        body.extend_from_slice(&chunk);
        if body.len() > max {
            return Ok(Body::Begun(body.freeze()));
        }
    }
    Ok(Body::Whole(body.freeze()))
}
