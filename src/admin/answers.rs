//! Shapes that every admin answer shares.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::delivery::dead_letters::orders::OrderError;
use crate::store::StoreError;

/// `{"error":{"code","message","hint"}}`.
#[derive(Debug)]
pub struct AdminError {
    status: StatusCode,
    /// When to come back, if that is known.
    retry_after: Option<Duration>,
    code: &'static str,
    message: String,
    hint: &'static str,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    code: &'a str,
    message: &'a str,
    hint: &'a str,
}

impl AdminError {
    fn new(status: StatusCode, code: &'static str, message: String, hint: &'static str) -> Self {
        Self { status, retry_after: None, code, message, hint }
    }

    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this route needs the admin token".to_owned(),
            "send Authorization: Bearer <token>; without auth.admin_token the token is in the file admin-token beside \
                   the store",
        )
    }

    pub fn forbidden() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            "this token's role does not allow that".to_owned(),
            "use a token with the role operator or admin (auth.tokens), or the admin token",
        )
    }

    /// The role is enough for the route, but not for this question.
    pub fn forbidden_as(message: String, hint: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message, hint)
    }

    /// For routes of callers, not of the people who run the relay.
    pub fn bad_key() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "this route needs the service account, an API key or a signature".to_owned(),
            "send Authorization: Bearer <one of auth.api_keys>",
        )
    }

    /// The relay could, and will not as things stand.
    pub fn conflict(code: &'static str, message: String, hint: &'static str) -> Self {
        Self::new(StatusCode::CONFLICT, code, message, hint)
    }

    /// A vendor's limit leaves no room for it before `wait` is over.
    pub fn limited(message: String, wait: Duration, hint: &'static str) -> Self {
        Self { retry_after: Some(wait), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "limited", message, hint) }
    }

    /// It is a vendor that does not do it.
    pub fn vendor(message: String, hint: &'static str) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "vendor", message, hint)
    }

    pub fn not_found(message: String, hint: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message, hint)
    }

    pub fn stopping(message: String) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            message,
            "nothing was changed: ask again once it is back",
        )
    }

    pub fn invalid(message: String, hint: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message, hint)
    }
}

impl From<OrderError> for AdminError {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::Store(error) => error.into(),
            OrderError::Stopping => Self::stopping(error.to_string()),
        }
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "store",
            error.to_string(),
            "see the relay's log; a failed store ends the process, and the next start says what it found",
        )
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let body = Body { code: self.code, message: &self.message, hint: self.hint };
        let mut response = (self.status, Json(&Envelope { error: body })).into_response();
        if let Some(wait) = self.retry_after {
            // Rounded up: who comes back then finds a place.
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
        }
        response
    }
}
