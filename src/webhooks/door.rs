//! What a push must carry, and the bytes that it brings: credentials first, then the body within the edge's budget.

use axum::body::Body;
use axum::response::IntoResponse as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, Response, StatusCode};
use serde::Serialize;
use subtle::Choice;

use crate::config::{Secret, WebhookLogin};
use crate::edge::budget::{Account, Budget, NoRoom};
use crate::edge::intake::{self, Intake, IntakeError, IntakeLimits};
use crate::hashed::Hashed;
use crate::store::{AppendError, StoreError};

/// A header of its own for the secret, where a sender's form offers a custom header and nothing else.
const OWN_HEADER: &str = "x-mixrelay-token";

/// Why nothing of a push was taken. The answer tells the sender whether to come back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("{key} is not set, so this webhook is not served")]
    NotServed { key: &'static str },
    #[error("the credentials are not those of {key}")]
    Unauthorized { key: &'static str },
    #[error("the body {0}")]
    BadBody(&'static str),
    #[error("the body is larger than 10 MB")]
    TooLarge,
    /// Nothing is wrong with the push: 429, and never 5xx, which Brevo takes for the end of it (Brevo contract §8.3).
    #[error("{why}; come back later")]
    Later { why: &'static str, retry_after: u32 },
}

impl Refusal {
    pub fn status(&self) -> StatusCode {
        match self {
            Refusal::NotServed { .. } => StatusCode::NOT_FOUND,
            Refusal::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Refusal::BadBody(_) => StatusCode::BAD_REQUEST,
            Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::Later { .. } => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Refusal::NotServed { .. } => "not_served",
            Refusal::Unauthorized { .. } => "unauthorized",
            Refusal::BadBody(_) => "invalid",
            Refusal::TooLarge => "too_large",
            Refusal::Later { .. } => "busy",
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Refusal::NotServed { .. } => "set it in the configuration, and start the relay again",
            Refusal::Unauthorized { .. } => "give the sender the credentials that the configuration names",
            Refusal::BadBody(_) => "docs/webhooks.md shows what is expected here",
            Refusal::TooLarge => "send less at once",
            Refusal::Later { .. } => "the sender tries again by itself",
        }
    }

    /// The headers that go with the answer.
    pub fn put_headers(&self, headers: &mut HeaderMap) {
        match self {
            Refusal::Later { retry_after, .. } => drop(headers.insert(RETRY_AFTER, HeaderValue::from(*retry_after))),
            Refusal::Unauthorized { .. } => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"mixrelay\""));
            }
            _ => {}
        }
    }

    /// As the relay's own routes answer: `{"error":{"code","message","hint"}}`.
    pub fn into_response(self) -> Response<Body> {
        #[derive(Serialize)]
        struct Error {
            code: &'static str,
            message: String,
            hint: &'static str,
        }
        #[derive(Serialize)]
        struct Envelope {
            error: Error,
        }
        let error = Error { code: self.code(), message: self.to_string(), hint: self.hint() };
        let mut response = (self.status(), axum::Json(Envelope { error })).into_response();
        self.put_headers(response.headers_mut());
        response
    }
}

impl From<IntakeError> for Refusal {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::TooLarge => Refusal::TooLarge,
            IntakeError::NotInflatable | IntakeError::UnknownEncoding => {
                Refusal::BadBody("is not what its Content-Encoding says")
            }
            IntakeError::TooSlow | IntakeError::Broken => {
                Refusal::Later { why: "the body did not arrive whole", retry_after: 1 }
            }
            IntakeError::NoRoom(NoRoom) => Refusal::Later { why: "the relay is busy", retry_after: 1 },
        }
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy => Refusal::Later { why: "the store is busy", retry_after: 1 },
            AppendError::DiskFull { .. } => Refusal::Later { why: "the disk is nearly full", retry_after: 10 },
            AppendError::TooLarge { .. } => Refusal::TooLarge,
            AppendError::Poisoned(_) => Refusal::Later { why: "the store has failed", retry_after: 10 },
            AppendError::Full(_) => Refusal::Later { why: "the store is full", retry_after: 10 },
            AppendError::Unavailable(_) => Refusal::Later { why: "the store cannot be reached", retry_after: 5 },
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let why = match error {
            StoreError::DiskFull => "the disk is full",
            StoreError::Failed(_) | StoreError::Corrupt(_) => "the store has failed",
        };
        Refusal::Later { why, retry_after: 10 }
    }
}

/// Who may push. Basic credentials and a bearer token open the same door, for the vendors' forms differ in what they
/// let one enter.
pub struct Door {
    /// The configuration's key, for the answer.
    key: &'static str,
    /// What an `Authorization` may hold once it is decoded; empty: nobody may.
    accepted: Vec<Hashed>,
    /// The password alone, whoever the user is.
    password: Option<Hashed>,
}

impl Door {
    /// `webhooks.brevo`: the token as a bearer token, or as the password of any user.
    pub fn of_token(key: &'static str, token: Option<&Secret>) -> Self {
        let token = token.map(|token| Hashed::of(token.expose()));
        Self { key, accepted: token.iter().cloned().collect(), password: token }
    }

    /// `webhooks.mixpanel`: the pair, or the password as a bearer token.
    pub fn of_login(key: &'static str, login: Option<&WebhookLogin>) -> Self {
        let accepted = login.into_iter().flat_map(|login| {
            let password = login.password.expose();
            [Hashed::of(&format!("{}:{password}", login.username)), Hashed::of(password)]
        });
        Self { key, accepted: accepted.collect(), password: None }
    }

    /// Whether the caller may come in.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.accepted.is_empty() {
            return Err(Refusal::NotServed { key: self.key });
        }
        let text = |header: &HeaderValue| header.to_str().ok().map(str::to_owned);
        let authorization = headers.get(AUTHORIZATION).and_then(text);
        let presented = match authorization {
            Some(authorization) => credentials(&authorization),
            None => headers.get(OWN_HEADER).and_then(text),
        };
        let presented = presented.ok_or(Refusal::Unauthorized { key: self.key })?;
        let own = Hashed::of(&presented);
        // All are compared, so that the time does not tell which one was near.
        let mut open = self.accepted.iter().fold(Choice::from(0), |open, accepted| open | accepted.matches(&own));
        if let (Some(password), Some((_, given))) = (&self.password, presented.split_once(':')) {
            open |= password.matches(&Hashed::of(given));
        }
        if bool::from(open) { Ok(()) } else { Err(Refusal::Unauthorized { key: self.key }) }
    }
}

/// A bearer token, or `user:password`.
fn credentials(authorization: &str) -> Option<String> {
    let (scheme, rest) = authorization.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        Some(rest.trim().to_owned())
    } else if scheme.eq_ignore_ascii_case("basic") {
        BASE64.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok())
    } else {
        None
    }
}

/// Reads the whole body. What it takes of the budget is held by the account, twice its size: the copy that is stored
/// is made beside it.
pub async fn read(
    headers: &HeaderMap,
    body: Body,
    limits: &IntakeLimits,
    budget: &Budget,
) -> Result<(Bytes, Account), Refusal> {
    let Intake { body, mut account, .. } = intake::read(headers, body, limits, budget, &mut |_| {}).await?;
    account.add(body.len()).await.map_err(IntakeError::NoRoom)?;
    Ok((body, account))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, authorization.parse().unwrap())])
    }

    #[test]
    fn a_token_opens_as_a_bearer_token_and_as_a_password() {
        let door = Door::of_token("webhooks.brevo.token", Some(&Secret::new("t:1")));
        let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair));
        for (authorization, opens) in [
            ("Bearer t:1".to_owned(), true),
            ("bearer  t:1 ".to_owned(), true),
            (basic("brevo:t:1"), true),
            (basic(":t:1"), true),
            (basic("t:1"), true),
            (basic("t:1:"), false),
            (basic("brevo:other"), false),
            ("Bearer other".to_owned(), false),
            ("Digest t:1".to_owned(), false),
            ("t:1".to_owned(), false),
        ] {
            assert_eq!(door.admit(&headers(&authorization)).is_ok(), opens, "{authorization}");
        }
        assert_eq!(door.admit(&HeaderMap::new()), Err(Refusal::Unauthorized { key: "webhooks.brevo.token" }));
        let own = HeaderMap::from_iter([(http::HeaderName::from_static(OWN_HEADER), "t:1".parse().unwrap())]);
        assert_eq!(door.admit(&own), Ok(()));
        let closed = Door::of_token("webhooks.brevo.token", None);
        assert_eq!(closed.admit(&headers("Bearer t")), Err(Refusal::NotServed { key: "webhooks.brevo.token" }));
    }

    #[test]
    fn a_login_opens_as_a_pair_and_its_password_as_a_bearer_token() {
        let login = WebhookLogin { username: "u".to_owned(), password: Secret::new("p") };
        let door = Door::of_login("webhooks.mixpanel", Some(&login));
        for (authorization, opens) in [
            (format!("Basic {}", BASE64.encode("u:p")), true),
            (format!("Basic {}", BASE64.encode("v:p")), false),
            ("Bearer p".to_owned(), true),
            ("Bearer u".to_owned(), false),
        ] {
            assert_eq!(door.admit(&headers(&authorization)).is_ok(), opens, "{authorization}");
        }
    }

    #[test]
    fn nothing_of_our_own_trouble_is_a_5xx_or_a_refusal_for_good() {
        let troubles: Vec<Refusal> = [AppendError::Busy, AppendError::DiskFull { free: 0, watermark: 1 }]
            .into_iter()
            .chain([AppendError::Poisoned("x".to_owned())])
            .map(Refusal::from)
            .chain([StoreError::DiskFull, StoreError::Failed("x".to_owned())].map(Refusal::from))
            .chain([IntakeError::NoRoom(NoRoom), IntakeError::TooSlow, IntakeError::Broken].map(Refusal::from))
            .collect();
        for trouble in troubles {
            let response = trouble.into_response();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            assert!(response.headers().contains_key(RETRY_AFTER));
        }
    }
}
