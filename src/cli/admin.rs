//! The running relay's admin API, for subcommands that ask it.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;

use super::Failure;
use super::health::{address, scheme};
use crate::admin::auth::{AdminTokenError, admin_token};
use crate::config::{Config, Secret};
use crate::vendor::{TransportError, read_capped};

/// For an answer to begin or go on. An order waits for its leg to stand back, which waits for calls under way; a long export
/// takes as long as it takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest answer that is read at once.
const MAX_ANSWER: usize = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Token(#[from] AdminTokenError),
    #[error("the relay at {at} does not answer: {source}; is it running with this configuration?")]
    NoAnswer { at: String, source: reqwest::Error },
    #[error("the answer of the relay at {at} broke off: {source}")]
    BrokenOff { at: String, source: reqwest::Error },
    #[error("the answer of the relay at {at} cannot be read: {source}")]
    Unreadable { at: String, source: TransportError },
    #[error("the answer of the relay at {at} makes no sense: {source}")]
    Nonsense { at: String, source: serde_json::Error },
    #[error("the relay answered {status}: {message}; {hint}")]
    Refused { status: http::StatusCode, message: String, hint: String },
    #[error("{at} answered {status}, and not in a relay's words; does another program listen there?")]
    Stranger { at: String, status: http::StatusCode },
}

pub(super) struct Admin {
    client: reqwest::Client,
    /// Scheme and address.
    at: String,
    token: Secret,
}

/// Lets `act` ask the relay of the configuration at `path`.
pub(super) fn with(
    path: &Path,
    act: impl AsyncFnOnce(&Admin, &Config) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    let config = super::load(path)?.config;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let admin = Admin::new(&config)?;
    runtime.block_on(act(&admin, &config))
}

impl Admin {
    fn new(config: &Config) -> Result<Self, Failure> {
        // The address is this machine's own, and the certificate names the relay's public host.
        let client = reqwest::Client::builder().no_proxy().read_timeout(PATIENCE).tls_danger_accept_invalid_certs(true);
        let at = format!("{}://{}", scheme(&config.server), address(&config.server));
        let token = admin_token(config).map_err(AskError::from)?;
        Ok(Self { client: client.build().map_err(Failure::Tls)?, at, token })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, AskError> {
        self.json(Method::GET, path, None).await
    }

    pub(super) async fn send(&self, method: Method, path: &str, body: &Value) -> Result<Value, AskError> {
        self.json(method, path, Some(body)).await
    }

    /// Writes an answer of any length to `out`.
    pub(super) async fn copy(&self, path: &str, out: &mut impl Write) -> Result<(), Failure> {
        let mut answer = self.call(Method::GET, path, None).await?;
        let broken_off = |source| AskError::BrokenOff { at: self.at.clone(), source };
        while let Some(piece) = answer.chunk().await.map_err(broken_off)? {
            out.write_all(&piece).map_err(Failure::Output)?;
        }
        Ok(())
    }

    async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, AskError> {
        let answer = self.read(self.call(method, path, body).await?).await?;
        serde_json::from_slice(&answer).map_err(|source| AskError::Nonsense { at: self.at.clone(), source })
    }

    async fn read(&self, answer: reqwest::Response) -> Result<Bytes, AskError> {
        let read = read_capped(answer, MAX_ANSWER).await;
        read.map_err(|source| AskError::Unreadable { at: self.at.clone(), source })
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<reqwest::Response, AskError> {
        let mut request = self.client.request(method, format!("{}{path}", self.at)).bearer_auth(self.token.expose());
        if let Some(body) = body {
            request = request.header(http::header::CONTENT_TYPE, "application/json").body(body.to_string());
        }
        let answer = request.send().await.map_err(|source| AskError::NoAnswer { at: self.at.clone(), source })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let said: Value = serde_json::from_slice(&self.read(answer).await?).unwrap_or_default();
        let text = |name: &str| said["error"][name].as_str().map(str::to_owned);
        Err(match text("message") {
            Some(message) => AskError::Refused { status, message, hint: text("hint").unwrap_or_default() },
            None => AskError::Stranger { at: self.at.clone(), status },
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;

    use super::*;

    #[tokio::test]
    async fn every_refusal_says_something() {
        super::super::use_ring();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let own = r#"{"error":{"code":"c","message":"no such thing","hint":"look for another"}}"#;
        let app = Router::new()
            .route("/own", get(move || async move { (StatusCode::NOT_FOUND, own) }))
            .route("/strange", get(|| async { (StatusCode::BAD_GATEWAY, "<html>") }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let admin = Admin { client, at, token: Secret::new("t".to_owned()) };
        let said = async |path: &str| admin.get(path).await.unwrap_err().to_string();
        assert_eq!(said("/own").await, "the relay answered 404 Not Found: no such thing; look for another");
        assert!(said("/strange").await.contains("502 Bad Gateway, and not in a relay's words"));
    }
}
