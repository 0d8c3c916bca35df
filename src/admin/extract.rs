//! What a caller has written, read so that a refusal has the shape of every other answer.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::answers::AdminError;

const BODY: &str = "send one JSON object with Content-Type: application/json, as openapi.yaml describes it";
const QUERY: &str = "give each parameter once, as openapi.yaml describes it";

/// How long a body may take to arrive: it holds a connection.
const BODY_TIME: Duration = Duration::from_secs(30);

/// A JSON body; anything else is a 400 that says what is wrong.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = AdminError;

    async fn from_request(request: Request, state: &S) -> Result<Self, AdminError> {
        let Ok(read) = tokio::time::timeout(BODY_TIME, axum::Json::from_request(request, state)).await else {
            return Err(AdminError::invalid("the body did not arrive in time".to_owned(), BODY));
        };
        read.map(|axum::Json(value)| Self(value)).map_err(|refused| AdminError::invalid(refused.body_text(), BODY))
    }
}

/// The query string, likewise.
pub struct QueryString<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryString<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminError> {
        let read = axum::extract::Query::from_request_parts(parts, state).await;
        read.map(|axum::extract::Query(value)| Self(value))
            .map_err(|refused| AdminError::invalid(refused.body_text(), QUERY))
    }
}
