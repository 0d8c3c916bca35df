//! Shapes that every admin answer shares.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::delivery::dead_letters::orders::OrderError;
use crate::store::StoreError;

/// `{"error":{"code","message","hint"}}`.
#[derive(Debug)]
pub struct AdminError {
    status: StatusCode,
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
    pub fn unauthorized() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            code: "unauthorized",
            message: "this route needs the admin token".to_owned(),
            hint: "send Authorization: Bearer <token>; without auth.admin_token the token is in the file admin-token beside \
                   the store",
        }
    }

    pub fn forbidden() -> Self {
        Self {
            status: StatusCode::FORBIDDEN,
            code: "forbidden",
            message: "this token's role does not allow that".to_owned(),
            hint: "use a token with the role operator or admin (auth.tokens), or the admin token",
        }
    }

    /// For routes of callers, not of the people who run the relay.
    pub fn bad_key() -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            code: "unauthorized",
            message: "this route needs the service account, an API key or a signature".to_owned(),
            hint: "send Authorization: Bearer <one of auth.api_keys>",
        }
    }

    /// The relay could, and will not as things stand.
    pub fn conflict(code: &'static str, message: String, hint: &'static str) -> Self {
        Self { status: StatusCode::CONFLICT, code, message, hint }
    }

    /// A vendor's limit leaves no room for it now.
    pub fn limited(message: String, hint: &'static str) -> Self {
        Self { status: StatusCode::TOO_MANY_REQUESTS, code: "limited", message, hint }
    }

    /// It is a vendor that does not do it.
    pub fn vendor(message: String, hint: &'static str) -> Self {
        Self { status: StatusCode::BAD_GATEWAY, code: "vendor", message, hint }
    }

    pub fn not_found(message: String, hint: &'static str) -> Self {
        Self { status: StatusCode::NOT_FOUND, code: "not_found", message, hint }
    }

    pub fn stopping(message: String) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "stopping",
            message,
            hint: "nothing was changed: ask again once it is back",
        }
    }

    pub fn invalid(message: String, hint: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code: "invalid", message, hint }
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
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "store",
            message: error.to_string(),
            hint: "see the relay's log; a failed store ends the process, and the next start says what it found",
        }
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let body = Body { code: self.code, message: &self.message, hint: self.hint };
        (self.status, Json(&Envelope { error: body })).into_response()
    }
}
