//! Asking the admin API without leaving the process.

use axum::Router;
use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::admin::auth::Caller;

/// Why the API gave no answer to show: its own words.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: StatusCode,
    pub message: String,
    pub hint: String,
}

impl Refusal {
    fn of(status: StatusCode, answer: &Value) -> Self {
        let text = |key: &str| answer["error"][key].as_str().unwrap_or_default().to_owned();
        let message = match text("message") {
            message if message.is_empty() => format!("the relay answered {status}"),
            message => message,
        };
        Self { status, message, hint: text("hint") }
    }
}

/// The admin API, as whoever is logged in.
#[derive(Clone)]
pub struct Api {
    router: Router,
}

impl Api {
    /// `router` asks nobody for a token: it goes by the [`Caller`] that comes with a request.
    pub fn new(router: Router) -> Self {
        Self { router }
    }

    pub async fn get(&self, caller: &Caller, path: &str) -> Result<Value, Refusal> {
        self.call(caller, Method::GET, path).await
    }

    pub async fn post(&self, caller: &Caller, path: &str) -> Result<Value, Refusal> {
        self.call(caller, Method::POST, path).await
    }

    pub async fn delete(&self, caller: &Caller, path: &str) -> Result<Value, Refusal> {
        self.call(caller, Method::DELETE, path).await
    }

    async fn call(&self, caller: &Caller, method: Method, path: &str) -> Result<Value, Refusal> {
        let failed = |what: String| Refusal {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: what,
            hint: "see the relay's log".to_owned(),
        };
        let request = Request::builder().method(method).uri(path).extension(caller.clone()).body(Body::empty());
        let request = request.map_err(|e| failed(e.to_string()))?;
        let Ok(response) = self.router.clone().oneshot(request).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|e| failed(e.to_string()))?.to_bytes();
        let answer = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_success() { Ok(answer) } else { Err(Refusal::of(status, &answer)) }
    }
}
