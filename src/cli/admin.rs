//! The running relay's admin API, for subcommands that ask it.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use super::Failure;
use super::health::address;
use crate::admin::auth::{AdminTokenError, admin_token};
use crate::config::{Config, Secret};

/// An order waits for its leg to stand back, which waits for calls under way.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest answer that is read at once.
const MAX_ANSWER: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Token(#[from] AdminTokenError),
    #[error("the relay does not answer: {0}; is it running with this configuration?")]
    NoAnswer(#[from] reqwest::Error),
    #[error("the relay answered {status}: {message}")]
    Refused { status: http::StatusCode, message: String },
    #[error("the relay's answer makes no sense: {0}")]
    Answer(#[from] serde_json::Error),
    #[error("the relay's answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
}

pub(super) struct Admin {
    client: reqwest::Client,
    address: SocketAddr,
    token: Secret,
}

impl Admin {
    pub(super) fn new(config: &Config) -> Result<Self, Failure> {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().map_err(Failure::Tls)?;
        let token = admin_token(config).map_err(AskError::from)?;
        Ok(Self { client, address: address(&config.server), token })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, AskError> {
        json(self.call(Method::GET, path, None).await?).await
    }

    pub(super) async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value, AskError> {
        json(self.call(method, path, Some(body)).await?).await
    }

    /// An answer to be read piece by piece.
    pub(super) async fn stream(&self, path: &str) -> Result<reqwest::Response, AskError> {
        self.call(Method::GET, path, None).await
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<reqwest::Response, AskError> {
        let url = format!("http://{}{path}", self.address);
        let mut request = self.client.request(method, url).bearer_auth(self.token.expose());
        if let Some(body) = body {
            request = request.header(http::header::CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let answer = request.send().await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let said = json(answer).await.unwrap_or_default();
        let text = |name: &str| said["error"][name].as_str().unwrap_or_default().to_owned();
        Err(AskError::Refused { status, message: format!("{}; {}", text("message"), text("hint")) })
    }
}

async fn json(mut answer: reqwest::Response) -> Result<Value, AskError> {
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_ANSWER {
            return Err(AskError::TooLong);
        }
    }
    Ok(serde_json::from_slice(&body)?)
}
