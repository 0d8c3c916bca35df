//! Who is calling, as far as credentials say (DESIGN 2.4).
//!
//! [`Keys`] holds what callers may present, hashed, so that comparing takes the same time for any wrong guess of any
//! length. [`identify`] is the layer: it puts a [`Claim`] into the request's extensions and refuses nobody; the handler
//! decides what its route wants, because a signature and the legacy `api_key` need the body.
//!
//! Ingestion from apps is public by nature: a project token is a name, not a secret.

mod replay;
mod signature;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE as BASE64_URL};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use subtle::Choice;

use replay::ReplayGuard;
pub use replay::Reservation;
pub use signature::{SignatureError, Signed, Verifier};

use crate::config::{Config, SigningSecret};
use crate::hashed::Hashed;
use crate::mixpanel::validate::Tokens;
use crate::record::Project;

/// Who a caller has proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    ServiceAccount,
    ApiKey,
    /// A Standard Webhooks signature over the body.
    Signed,
    /// Basic authentication with a project token as the user, as `/import` takes it (contract §2).
    ProjectToken {
        project: Project,
        token: String,
    },
}

/// What a request's headers claim.
#[derive(Clone, Debug)]
pub enum Claim {
    Nobody,
    Proven(Identity),
    /// Credentials are there and match nothing.
    Wrong,
    /// To be verified against the body.
    Signed(Signed),
}

/// Everything that callers may present. Clones share what has been used: there is one for the whole relay, so that a signed
/// request is good for one route only.
#[derive(Clone)]
pub struct Keys {
    /// `user:secret`.
    service_account: Option<Hashed>,
    api_keys: Vec<Hashed>,
    tokens: Tokens,
    signing_secrets: Vec<SigningSecret>,
    used: ReplayGuard,
}

impl Keys {
    pub fn new(config: &Config) -> Self {
        let account = config.mixpanel.service_account.as_ref();
        Self {
            service_account: account.map(|a| Hashed::of(&format!("{}:{}", a.username, a.secret.expose()))),
            api_keys: config.auth.api_keys.iter().map(|key| Hashed::of(key.expose())).collect(),
            tokens: Tokens::new(config.mixpanel.project_tokens.clone(), config.mixpanel.forward_tokens.clone()),
            signing_secrets: config.auth.signing_secrets.clone(),
            used: ReplayGuard::default(),
        }
    }

    /// What the headers claim. A signature goes before an `Authorization` header.
    pub fn claim(&self, headers: &HeaderMap) -> Claim {
        if let Some(signed) = Signed::from_headers(headers) {
            return Claim::Signed(signed);
        }
        let Some(value) = headers.get(AUTHORIZATION) else { return Claim::Nobody };
        let Ok(value) = value.to_str() else { return Claim::Wrong };
        let identity = match value.split_once(' ') {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => self.api_key(rest.trim()),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("basic") => self.basic(rest.trim()),
            _ => None,
        };
        identity.map_or(Claim::Wrong, Claim::Proven)
    }

    /// Whether `key` is one of the configured API keys.
    pub fn api_key(&self, key: &str) -> Option<Identity> {
        let presented = Hashed::of(key);
        // Every key is compared, so that the time does not tell which one was near.
        let found = self.api_keys.iter().fold(Choice::from(0), |found, key| found | key.matches(&presented));
        bool::from(found).then_some(Identity::ApiKey)
    }

    /// Basic credentials, base64 or plain: the vendor takes both (contract §2). Some clients leave the colon out.
    fn basic(&self, credentials: &str) -> Option<Identity> {
        // Old clients of the query API send the URL-safe alphabet.
        let decoded = BASE64.decode(credentials).or_else(|_| BASE64_URL.decode(credentials)).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        decoded.as_deref().and_then(|decoded| self.pair(decoded)).or_else(|| self.pair(credentials))
    }

    fn pair(&self, pair: &str) -> Option<Identity> {
        let presented = Hashed::of(pair);
        if self.service_account.as_ref().is_some_and(|account| account.matches(&presented).into()) {
            return Some(Identity::ServiceAccount);
        }
        let (user, password) = pair.split_once(':').unwrap_or((pair, ""));
        if !password.is_empty() {
            return None;
        }
        if let Some(identity) = self.api_key(user) {
            return Some(identity);
        }
        let project = self.tokens.project_of(user)?;
        Some(Identity::ProjectToken { project, token: user.to_owned() })
    }

    /// Starts verifying a signature; feed it the body as sent.
    pub fn verifier(&self, signed: Signed) -> Verifier {
        Verifier::new(signed, &self.signing_secrets, self.used.clone())
    }
}

/// The layer that notes every request's [`Claim`].
pub async fn identify(State(keys): State<Arc<Keys>>, mut request: Request, next: Next) -> Response {
    let claim = keys.claim(request.headers());
    request.extensions_mut().insert(claim);
    next.run(request).await
}

#[cfg(test)]
mod tests;
