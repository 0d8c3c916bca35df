//! The read side's door: who may ask, and with whose credentials the relay then asks the vendor (DESIGN 2.4).
//!
//! Callers prove themselves to the relay; the relay's own credentials go out. Where the operator allows it
//! (`connectors.mixpanel.oauth_pass_through`), a caller's OAuth token goes out instead of ours, once Mixpanel has said that it
//! belongs to this project: otherwise anybody's rubbish could spend the budget.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::upstream::{Failure, Upstream};
use crate::clock::UnixMillis;
use crate::edge::auth::{Claim, Identity, Keys, Verifier};

/// How long Mixpanel's word about a token is believed.
const PROVEN_FOR: Duration = Duration::from_secs(600);
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Tokens remembered at once.
const MAX_TOKENS: usize = 1024;
/// The account's page names its projects; one with many is long.
const MAX_PAGE: usize = 4 << 20;

/// Whose credentials go out.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub authorization: HeaderValue,
    /// Answers are kept apart by this: noughts for the relay's own account, else the token's hash.
    pub scope: [u8; 32],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    #[error("Invalid credentials")]
    Unauthorized,
    #[error("project_id is not the project of this relay")]
    OtherProject,
    #[error("the relay has no service account and no OAuth token for Mixpanel")]
    NoCredentials,
    #[error("Mixpanel cannot be asked whether the token is good")]
    NoAnswer,
}

/// What a caller's headers amount to, before the body is there.
pub enum Caller {
    Known { service_account: bool },
    Signed(Verifier),
    Token(HeaderValue),
}

pub struct Access {
    keys: Keys,
    project_id: Option<String>,
    own: Option<HeaderValue>,
    pass_through: bool,
    tokens: Mutex<HashMap<[u8; 32], (Instant, bool)>>,
}

impl Access {
    pub fn new(keys: Keys, own: Option<HeaderValue>, project_id: Option<String>, pass_through: bool) -> Self {
        let tokens = Mutex::default();
        Self { keys, project_id, own, pass_through, tokens }
    }

    /// The relay's own, where it has any.
    pub fn own_credentials(&self) -> Option<Credentials> {
        self.own.clone().map(|authorization| Credentials { authorization, scope: [0; 32] })
    }

    pub fn caller(&self, headers: &HeaderMap) -> Result<Caller, AccessError> {
        match self.keys.claim(headers) {
            Claim::Proven(Identity::ServiceAccount) => Ok(Caller::Known { service_account: true }),
            Claim::Proven(Identity::ApiKey | Identity::Signed) => Ok(Caller::Known { service_account: false }),
            Claim::Signed(signed) => Ok(Caller::Signed(self.keys.verifier(signed))),
            // A project token is in every app: it opens nothing here.
            Claim::Proven(Identity::ProjectToken { .. }) | Claim::Nobody => Err(AccessError::Unauthorized),
            Claim::Wrong => match headers.get(AUTHORIZATION) {
                Some(value) if self.pass_through && is_bearer(value) => {
                    let mut value = value.clone();
                    value.set_sensitive(true);
                    Ok(Caller::Token(value))
                }
                _ => Err(AccessError::Unauthorized),
            },
        }
    }

    /// With which credentials the caller's question goes out. `asked` is the project that the caller named: a service
    /// account may have several, and answers of another than it asked for would be wrong in silence.
    pub async fn admit(
        &self,
        caller: Caller,
        asked: Option<&str>,
        upstream: &Upstream,
        now: UnixMillis,
    ) -> Result<Credentials, AccessError> {
        let names_project = match caller {
            Caller::Known { service_account } => service_account,
            Caller::Signed(verifier) => {
                let reservation = verifier.finish(now).map_err(|_| AccessError::Unauthorized)?;
                reservation.keep();
                false
            }
            Caller::Token(token) => {
                self.refuse_other_project(asked)?;
                return self.prove(token, upstream).await;
            }
        };
        if names_project {
            self.refuse_other_project(asked)?;
        }
        let authorization = self.own.clone().ok_or(AccessError::NoCredentials)?;
        Ok(Credentials { authorization, scope: [0; 32] })
    }

    fn refuse_other_project(&self, asked: Option<&str>) -> Result<(), AccessError> {
        match (asked, &self.project_id) {
            (Some(asked), Some(own)) if asked != own => Err(AccessError::OtherProject),
            _ => Ok(()),
        }
    }

    /// Asks the account's own page, which costs no query (contract §11), whether the token knows this project.
    pub async fn prove(&self, token: HeaderValue, upstream: &Upstream) -> Result<Credentials, AccessError> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let good = match self.remembered(hash) {
            Some(good) => good,
            None => {
                let page = upstream.account_page(token.clone(), MAX_PAGE).await;
                let good = match page {
                    Ok(Some(page)) => knows_project(&page, self.project_id.as_deref()),
                    Ok(None) => false,
                    Err(Failure::NoAnswer | Failure::Broken | Failure::TooLong) => return Err(AccessError::NoAnswer),
                };
                self.remember(hash, good);
                good
            }
        };
        if good { Ok(Credentials { authorization: token, scope: hash }) } else { Err(AccessError::Unauthorized) }
    }

    fn remembered(&self, hash: [u8; 32]) -> Option<bool> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(&hash).filter(|(at, good)| at.elapsed() < valid_for(*good)).map(|(_, good)| *good)
    }

    fn remember(&self, hash: [u8; 32], good: bool) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= MAX_TOKENS {
            tokens.retain(|_, (at, good)| at.elapsed() < valid_for(*good));
        }
        // All of them fresh: somebody is guessing. The guesses go, or they would keep the good ones out.
        if tokens.len() >= MAX_TOKENS {
            tokens.retain(|_, (_, good)| *good);
        }
        if tokens.len() < MAX_TOKENS {
            tokens.insert(hash, (Instant::now(), good));
        }
    }
}

fn valid_for(good: bool) -> Duration {
    if good { PROVEN_FOR } else { REFUSED_FOR }
}

fn is_bearer(value: &HeaderValue) -> bool {
    value.as_bytes().get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "))
}

#[derive(Deserialize)]
struct Page {
    results: Results,
}

#[derive(Deserialize)]
struct Results {
    projects: HashMap<String, IgnoredAny>,
}

/// Without a configured project any project of the token would do for the vendor, and none for us.
fn knows_project(page: &[u8], project_id: Option<&str>) -> bool {
    let page: Option<Page> = serde_json::from_slice(page).ok();
    page.zip(project_id).is_some_and(|(page, id)| page.results.projects.contains_key(id))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    use hmac::{Hmac, KeyInit as _, Mac as _};

    use super::*;
    use crate::config;

    const CONFIG: &str = r#"
connectors: { mixpanel: { project_token: "tok", service_account: { username: "sa", secret: "s" }, project_id: "12345" } }
auth: { api_keys: ["key-1"], signing_secrets: ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] }
"#;
    const NOW: UnixMillis = UnixMillis(1_750_000_000_000);

    fn access() -> (Access, Upstream) {
        // A second installation is refused, and the first serves as well.
        drop(rustls::crypto::ring::default_provider().install_default());
        let config = config::parse(CONFIG, "test.yaml", &|_| None).unwrap().config;
        let own = Some(HeaderValue::from_static("Basic b3du"));
        let access = Access::new(Keys::new(&config), own, config.mixpanel.project_id.clone(), false);
        (access, Upstream::new(config.mixpanel.endpoints).unwrap())
    }

    async fn admitted(headers: &[(&'static str, String)], body: &[u8], access: &Access, upstream: &Upstream) -> bool {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let Ok(mut caller) = access.caller(&headers) else { return false };
        if let Caller::Signed(verifier) = &mut caller {
            verifier.update(body);
        }
        let credentials = access.admit(caller, None, upstream, NOW).await;
        credentials.is_ok_and(|credentials| credentials.authorization == "Basic b3du" && credentials.scope == [0; 32])
    }

    #[tokio::test]
    async fn a_signature_opens_the_door_once() {
        let (access, upstream) = access();
        let body = b"script=x";
        let secret = BASE64.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
        mac.update(b"msg_1.1750000000.");
        mac.update(body);
        let signature = format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()));
        let signed = [
            ("webhook-id", "msg_1".to_owned()),
            ("webhook-timestamp", "1750000000".to_owned()),
            ("webhook-signature", signature),
        ];
        assert!(!admitted(&signed, b"script=y", &access, &upstream).await, "another body");
        assert!(admitted(&signed, body, &access, &upstream).await);
        assert!(!admitted(&signed, body, &access, &upstream).await, "replayed");
    }

    #[tokio::test]
    async fn a_project_token_opens_nothing() {
        let (access, upstream) = access();
        let basic = |text: &str| [("authorization", format!("Basic {}", BASE64.encode(text)))];
        for (text, opens) in [("sa:s", true), ("key-1:", true), ("key-1", true), ("tok:", false), ("sa:x", false)] {
            assert_eq!(admitted(&basic(text), b"", &access, &upstream).await, opens, "{text}");
        }
    }

    #[test]
    fn only_a_token_of_this_project_is_good() {
        let page = br#"{"status":"ok","results":{"projects":{"12345":{"name":"x"}},"workspaces":{}}}"#;
        assert!(knows_project(page, Some("12345")));
        assert!(!knows_project(page, Some("1234")));
        assert!(!knows_project(page, None));
        assert!(!knows_project(br#"{"status":"error","error":"no"}"#, Some("12345")));
    }
}
