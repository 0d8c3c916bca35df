//! Asking the admin API without leaving the process.

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use http::header::CONTENT_TYPE;
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
        self.call(caller, Method::GET, path, None).await
    }

    pub async fn post(&self, caller: &Caller, path: &str) -> Result<Value, Refusal> {
        self.call(caller, Method::POST, path, None).await
    }

    pub async fn delete(&self, caller: &Caller, path: &str) -> Result<Value, Refusal> {
        self.call(caller, Method::DELETE, path, None).await
    }

    /// An order with what it is about.
    pub async fn send(&self, caller: &Caller, method: Method, path: &str, body: &Value) -> Result<Value, Refusal> {
        self.call(caller, method, path, Some(body)).await
    }

    async fn call(&self, caller: &Caller, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Refusal> {
        read(self.answer(caller, method, path, body).await?).await
    }

    /// An answer that is handed on as it comes, however long it is.
    pub async fn stream(&self, caller: &Caller, path: &str) -> Result<Response, Refusal> {
        let response = self.answer(caller, Method::GET, path, None).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        Err(read(response).await.err().unwrap_or_else(|| Refusal::of(status, &Value::Null)))
    }

    async fn answer(
        &self,
        caller: &Caller,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response, Refusal> {
        let mut request = Request::builder().method(method).uri(path).extension(caller.clone());
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(body.map_or_else(Body::empty, |body| Body::from(body.to_string())));
        let request = request.map_err(|e| failed(e.to_string()))?;
        let Ok(response) = self.router.clone().oneshot(request).await;
        Ok(response)
    }
}

fn failed(what: String) -> Refusal {
    Refusal { status: StatusCode::INTERNAL_SERVER_ERROR, message: what, hint: "see the relay's log".to_owned() }
}

async fn read(response: Response) -> Result<Value, Refusal> {
    let status = response.status();
    let bytes = response.into_body().collect().await.map_err(|e| failed(e.to_string()))?.to_bytes();
    let answer = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    if status.is_success() { Ok(answer) } else { Err(Refusal::of(status, &answer)) }
}
