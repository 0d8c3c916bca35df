//! `POST` `GET` `DELETE /api/app/data-deletions/v3.0/`, the same for `data-retrievals`, and `GET /api/app/me`, forwarded
//! with the vendor's shapes (contract §11).

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{self, MethodRouter};
use axum::{Json, Router};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::desk::{AskError, Desk};
use super::receipt::{Asked, Side};
use crate::clock::SharedClock;
use crate::edge::auth::{Claim, Identity, Keys};
use crate::mixpanel::app::{AppCalls, Task, task_id};
use crate::read_side::{AccessError, ReadSide};
use crate::telemetry;
use crate::vendor::stack::Stack;
use crate::vendor::{VendorAnswer, VendorRequest};

/// 1,999 ids of the longest kind fit.
const MAX_BODY: usize = 1 << 20;
/// The longest that a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);
/// The longest that a caller waits, its turn in the budget included.
const PATIENCE: Duration = Duration::from_secs(25);

/// Every operation served here, for the test that holds the published description against it.
pub const OPERATIONS: &[(&str, &str)] = &[
    ("get", ME),
    ("post", DELETIONS),
    ("get", DELETION),
    ("delete", DELETION),
    ("post", RETRIEVALS),
    ("get", RETRIEVAL),
];

const ME: &str = "/api/app/me";
const DELETIONS: &str = "/api/app/data-deletions/v3.0";
const DELETION: &str = "/api/app/data-deletions/v3.0/{id}";
const RETRIEVALS: &str = "/api/app/data-retrievals/v3.0";
const RETRIEVAL: &str = "/api/app/data-retrievals/v3.0/{id}";

/// What the routes work with.
pub struct Parts {
    pub keys: Keys,
    pub calls: AppCalls,
    /// One attempt, past the destination's gate.
    pub stack: Stack,
    pub clock: SharedClock,
    /// What says whether a caller's own OAuth token may go out.
    pub read_side: Arc<ReadSide>,
    /// Where a deletion that Mixpanel has taken becomes one of the relay's own.
    pub desk: Arc<Desk>,
}

struct Door {
    parts: Parts,
}

pub fn router(parts: Parts) -> Router {
    let door = Arc::new(Door { parts });
    let create = |task: Task, route: &'static str| {
        routing::post(move |State(door): State<Arc<Door>>, request: Request| {
            door.serve(route, Some(task), None, request)
        })
    };
    let look = |task: Task, route: &'static str| {
        let handler = move |State(door): State<Arc<Door>>, Path(id): Path<String>, request: Request| {
            door.serve(route, Some(task), Some(id), request)
        };
        let looking: MethodRouter<Arc<Door>> = routing::get(handler);
        if task == Task::Deletion { looking.delete(handler) } else { looking }
    };
    let me = routing::get(|State(door): State<Arc<Door>>, request: Request| door.serve(ME, None, None, request));
    let mut router = Router::new();
    // The vendor's own paths end in a slash; callers leave it out as often as not.
    for (path, handler) in [
        (ME, me),
        (DELETIONS, create(Task::Deletion, DELETIONS)),
        (DELETION, look(Task::Deletion, DELETION)),
        (RETRIEVALS, create(Task::Retrieval, RETRIEVALS)),
        (RETRIEVAL, look(Task::Retrieval, RETRIEVAL)),
    ] {
        router = router.route(path, handler.clone()).route(&format!("{path}/"), handler);
    }
    router.with_state(door)
}

/// Why the relay answers in the vendor's place.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Refusal {
    #[error("Invalid credentials")]
    Unauthorized,
    #[error("the body is larger than a megabyte, or broke off")]
    BadBody,
    #[error("token is invalid")]
    Token,
    #[error("the relay has no connectors.mixpanel.oauth_token, which Mixpanel wants for this")]
    NoOauth,
    #[error("the relay has no credentials for Mixpanel")]
    NoCredentials,
    #[error("Mixpanel takes one such call a second, and others are before this one")]
    Later,
    #[error("Mixpanel has taken the deletion, and the relay's store has not: send it again")]
    NotStored,
    #[error("Mixpanel did not answer")]
    NoAnswer,
}

impl Refusal {
    fn status(self) -> StatusCode {
        match self {
            Refusal::Unauthorized => StatusCode::UNAUTHORIZED,
            Refusal::BadBody | Refusal::Token => StatusCode::BAD_REQUEST,
            Refusal::NoOauth | Refusal::NoCredentials => StatusCode::NOT_IMPLEMENTED,
            Refusal::Later | Refusal::NotStored => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::NoAnswer => StatusCode::BAD_GATEWAY,
        }
    }
}

/// The vendor's form of an error (contract §11).
#[derive(Serialize)]
struct Error {
    error: String,
    status: &'static str,
}

impl Door {
    async fn serve(
        self: Arc<Self>,
        route: &'static str,
        task: Option<Task>,
        id: Option<String>,
        request: Request,
    ) -> Response {
        let started = Instant::now();
        let response = match self.forward(task, id.as_deref(), request).await {
            Ok(answer) => as_it_came(answer),
            Err(refusal) => refused(refusal),
        };
        telemetry::http_request(route, response.status().as_u16(), started.elapsed());
        response
    }

    async fn forward(&self, task: Option<Task>, id: Option<&str>, request: Request) -> Result<VendorAnswer, Refusal> {
        let (head, body) = request.into_parts();
        let claim = self.parts.keys.claim(&head.headers);
        let own = match claim {
            Claim::Nobody => return Err(Refusal::Unauthorized),
            Claim::Wrong => Some(self.own_token(&head.headers).await?),
            _ => None,
        };
        let body = tokio::time::timeout(BODY_TIME, Limited::new(body, MAX_BODY).collect()).await;
        let body = body.ok().and_then(Result::ok).ok_or(Refusal::BadBody)?.to_bytes();
        if own.is_none() {
            self.admit(claim, &body)?;
        }
        let deletion = task == Some(Task::Deletion) && head.method == Method::POST;
        let request = match task {
            None => self.parts.calls.me(head.uri.query(), own).ok_or(Refusal::NoCredentials)?,
            Some(task) => self.task(task, head.method, head.uri.query(), (id, body.clone()), own)?,
        };
        let answer = self.send(request).await?;
        if deletion {
            self.erase(&body, &answer).await?;
        }
        Ok(answer)
    }

    /// A deletion that Mixpanel has taken erases here too. Where that cannot be written down the caller gets no success,
    /// and asks again.
    async fn erase(&self, body: &[u8], answer: &VendorAnswer) -> Result<(), Refusal> {
        let Some(task) = task_id(answer) else { return Ok(()) };
        let body: Value = serde_json::from_slice(body).map_err(|_| Refusal::BadBody)?;
        let id = |id: &Value| match id {
            Value::String(id) => Some(id.clone()),
            Value::Number(id) => Some(id.to_string()),
            _ => None,
        };
        let ids = body["distinct_ids"].as_array().map(|ids| ids.iter().filter_map(id).collect()).unwrap_or_default();
        let compliance = body["compliance_type"].as_str().unwrap_or("GDPR");
        let side = Side::UnderWay { task, status: "PENDING".to_owned() };
        match self.parts.desk.ask(ids, Asked::MixpanelDeletion, compliance, side).await {
            // Ids that stand for nobody are Mixpanel's affair alone.
            Ok(_) | Err(AskError::Nobody) => Ok(()),
            Err(error) => {
                tracing::error!(%error, "a deletion that Mixpanel has taken could not be written down");
                Err(Refusal::NotStored)
            }
        }
    }

    /// The caller's, where the operator lets those pass: it goes out in place of the relay's.
    async fn own_token(&self, headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
        match self.parts.read_side.passed_through(headers).await {
            Ok(token) => token.ok_or(Refusal::Unauthorized),
            Err(AccessError::NoAnswer) => Err(Refusal::NoAnswer),
            Err(_) => Err(Refusal::Unauthorized),
        }
    }

    /// The read side's door: the service account, an API key or a signature; a project token is a name, not a secret.
    fn admit(&self, claim: Claim, body: &[u8]) -> Result<(), Refusal> {
        match claim {
            Claim::Proven(Identity::ServiceAccount | Identity::ApiKey | Identity::Signed) => Ok(()),
            Claim::Signed(signed) => {
                let mut verifier = self.parts.keys.verifier(signed);
                verifier.update(body);
                let reserved = verifier.finish(self.parts.clock.now());
                reserved.map(|reserved| reserved.keep()).map_err(|_| Refusal::Unauthorized)
            }
            Claim::Proven(Identity::ProjectToken { .. }) | Claim::Nobody | Claim::Wrong => Err(Refusal::Unauthorized),
        }
    }

    fn task(
        &self,
        task: Task,
        method: Method,
        query: Option<&str>,
        (id, body): (Option<&str>, Bytes),
        own: Option<HeaderValue>,
    ) -> Result<VendorRequest, Refusal> {
        let query = query.unwrap_or_default().as_bytes();
        let asked = form_urlencoded::parse(query).find(|(key, _)| key == "token").map(|(_, token)| token);
        let token = self.parts.calls.token(asked.as_deref()).ok_or(Refusal::Token)?;
        self.parts.calls.task(task, method, token, id, body, own).ok_or(Refusal::NoOauth)
    }

    async fn send(&self, request: VendorRequest) -> Result<VendorAnswer, Refusal> {
        match tokio::time::timeout(PATIENCE, self.parts.stack.clone().oneshot(request)).await {
            Ok(answer) => answer.map_err(|_| Refusal::NoAnswer),
            Err(_elapsed) => Err(Refusal::Later),
        }
    }
}

fn as_it_came(answer: VendorAnswer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    for name in [CONTENT_TYPE, RETRY_AFTER] {
        if let Some(value) = answer.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}

fn refused(refusal: Refusal) -> Response {
    let mut response = (refusal.status(), Json(Error { error: refusal.to_string(), status: "error" })).into_response();
    if let Refusal::Later | Refusal::NotStored = refusal {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}
