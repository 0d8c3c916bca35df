//! The demo's side of HTTP: an app towards the relay, a reader towards the admin and control APIs.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::DemoError;
use super::sdk::Request;
use crate::vendor::read_capped;

/// Longer than anything on loopback takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Largest answer that is read.
const MAX_ANSWER: usize = 16 << 20;

#[derive(Clone)]
pub struct Http(reqwest::Client);

impl Http {
    pub fn new() -> Result<Self, DemoError> {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build();
        Ok(Self(client.map_err(DemoError::Client)?))
    }

    /// Sends what an SDK has made.
    pub async fn send(&self, relay: SocketAddr, request: &Request) -> Result<(StatusCode, String), DemoError> {
        let mut call = self.0.request(request.method.clone(), format!("http://{relay}{}", request.path));
        for (name, value) in &request.headers {
            call = call.header(*name, value);
        }
        let (status, body) = read(call.body(request.body.clone())).await?;
        Ok((status, String::from_utf8_lossy(&body).trim_end().to_owned()))
    }

    /// A page of text; with the admin token where one is given.
    pub async fn text(&self, url: &str, token: Option<&str>) -> Result<String, DemoError> {
        let call = self.0.get(url);
        let call = match token {
            Some(token) => call.bearer_auth(token),
            None => call,
        };
        let (status, body) = read(call).await?;
        if !status.is_success() {
            return Err(DemoError::Answer { url: url.to_owned(), status });
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    pub async fn json(&self, url: &str, token: Option<&str>) -> Result<Value, DemoError> {
        let text = self.text(url, token).await?;
        serde_json::from_str(&text).map_err(|source| DemoError::NotJson { url: url.to_owned(), source })
    }
}

async fn read(call: reqwest::RequestBuilder) -> Result<(StatusCode, Bytes), DemoError> {
    let response = call.send().await.map_err(DemoError::Client)?;
    let status = response.status();
    Ok((status, read_capped(response, MAX_ANSWER).await?))
}
