//! `GET /lookup-tables` and `PUT /lookup-tables/{id}`: forwarded with the relay's service account, and the table kept when
//! Mixpanel has taken it (contract §7).
//!
//! Unlike the rest of the edge, these routes wait for the vendor: the answer is the vendor's. A table goes from the
//! caller to a file without a name, from there into the catalog's format, which judges it by the vendor's rules, and
//! then to Mixpanel; it is put in use only after a 200. So a table is never in memory, and what enrichment uses is what
//! Mixpanel has.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::routing;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode, request};
use http_body_util::BodyExt as _;
use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::auth::{Claim, Identity, Keys, Reservation, Verifier};
use super::{answer, cors};
use crate::clock::SharedClock;
use crate::config::CorsOrigins;
use crate::mixpanel::lookup::LookupCalls;
use crate::store::Journal;
use crate::tables::{BuildError, Catalog, FailedRow, MAX_TABLE_BYTES};
use crate::telemetry;
use crate::vendor::budget::{Budgets, Overrun};
use crate::vendor::stack::{self, Reader};
use crate::vendor::upload::Upload;
use crate::vendor::{Family, Priority, Transport, TransportError, VendorAnswer, VendorRequest};

/// Tables on the way at once: each has a file of up to 200 MB.
const AT_ONCE: usize = 2;
/// Longest pause between two pieces of a table, and longest time for a whole one.
const IDLE: Duration = Duration::from_secs(15);
const WHOLE: Duration = Duration::from_secs(600);
/// How long Mixpanel may take over a table, its way there included.
const UPLOAD: Duration = Duration::from_secs(300);
/// A hint longer than the vendor's window is not believed.
const MAX_HINT: Duration = Duration::from_hours(24);

const LIST: &str = "/lookup-tables";
const TABLE: &str = "/lookup-tables/{id}";

/// Every operation served here, for the test that holds the published description against it.
pub const OPERATIONS: &[(&str, &str)] = &[("get", LIST), ("put", TABLE)];

/// What the routes work with.
pub struct Parts {
    pub keys: Keys,
    /// `None`: the relay has no account to forward with.
    pub calls: Option<LookupCalls>,
    pub project_id: Option<String>,
    pub cors_origins: CorsOrigins,
    pub transport: Transport,
    pub budgets: Arc<Budgets>,
    pub reader: Reader,
    pub journal: Arc<dyn Journal>,
    pub tables: Arc<Catalog>,
    pub clock: SharedClock,
}

struct Desk {
    parts: Parts,
    room: Semaphore,
}

/// Every answer has been through CORS, as the edge's have.
pub fn router(parts: Parts) -> Router {
    let cors = cors::layer(&parts.cors_origins);
    let desk = Arc::new(Desk { parts, room: Semaphore::new(AT_ONCE) });
    let list = routing::get(|State(desk): State<Arc<Desk>>, request: Request| async move {
        let started = Instant::now();
        measured(LIST, started, desk.list(request).await)
    });
    let put = routing::put(|State(desk): State<Arc<Desk>>, Path(id): Path<String>, request: Request| async move {
        let started = Instant::now();
        measured(TABLE, started, desk.replace(&id, request).await)
    });
    let mut router = Router::new();
    for (path, handler) in [(LIST, list), (TABLE, put)] {
        router = router.route(path, handler.clone()).route(&format!("{path}/"), handler);
    }
    router.layer(cors).with_state(desk)
}

fn measured(route: &'static str, started: Instant, result: Result<VendorAnswer, Refusal>) -> Response<Body> {
    let response = match result {
        Ok(answer) => as_it_came(answer),
        Err(refusal) => refusal.into_response(),
    };
    telemetry::http_request(route, response.status().as_u16(), started.elapsed());
    response
}

/// Why the relay answers in the vendor's place.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("Invalid credentials")]
    Unauthorized,
    #[error("project_id is not the project of this relay")]
    OtherProject,
    #[error("Lookup table with id '{0}' was not found.")]
    NoSuchTable(String),
    #[error("this relay has no service account and project_id for Mixpanel")]
    NoAccount,
    #[error("the body did not arrive whole")]
    BadBody,
    #[error("the body is not what its Content-Encoding says")]
    NotInflatable,
    #[error("lookup table exceeds max limit of {MAX_TABLE_BYTES} bytes")]
    TooLarge,
    /// In the vendor's words.
    #[error("Some data points in the request failed validation.")]
    Invalid(Vec<FailedRow>),
    /// Seconds until there is budget.
    #[error("Mixpanel takes 100 such calls in 24 hours, and they are used up")]
    UsedUp(u64),
    #[error("other tables are on their way")]
    Busy,
    #[error("the disk is nearly full")]
    DiskFull,
    #[error("the relay cannot keep the table: {0}")]
    Disk(#[source] io::Error),
    #[error("Mixpanel took the table, but the relay could not keep it; send it again: {0}")]
    NotKept(#[source] io::Error),
    #[error("Mixpanel cannot be reached")]
    Unreachable,
    #[error("Mixpanel did not answer; whether it took the table is not known, and the relay has not kept it")]
    NoAnswer,
}

/// The vendor's form of an error.
#[derive(Serialize)]
struct Coded<'a> {
    code: u16,
    error: String,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    failed_records: &'a [FailedRow],
    status: &'a str,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Refusal::Unauthorized | Refusal::OtherProject => StatusCode::UNAUTHORIZED,
            Refusal::NoSuchTable(_) => StatusCode::NOT_FOUND,
            Refusal::NoAccount => StatusCode::NOT_IMPLEMENTED,
            Refusal::BadBody | Refusal::NotInflatable | Refusal::Invalid(_) => StatusCode::BAD_REQUEST,
            Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Refusal::UsedUp(_) => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Busy | Refusal::DiskFull | Refusal::Disk(_) | Refusal::Unreachable => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Refusal::NotKept(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Refusal::NoAnswer => StatusCode::BAD_GATEWAY,
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Refusal::UsedUp(seconds) => Some(*seconds),
            Refusal::Busy | Refusal::Unreachable => Some(10),
            Refusal::DiskFull | Refusal::Disk(_) => Some(30),
            _ => None,
        }
    }

    fn into_response(self) -> Response<Body> {
        let status = self.status();
        let failed_records = if let Refusal::Invalid(rows) = &self { rows.as_slice() } else { &[] };
        let reason = status.canonical_reason().unwrap_or_default();
        let body = Coded { code: status.as_u16(), error: self.to_string(), failed_records, status: reason };
        let mut response = answer::json(status, &body);
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<BuildError> for Refusal {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::TooLarge => Refusal::TooLarge,
            BuildError::NotInflatable => Refusal::NotInflatable,
            BuildError::Invalid(rows) => Refusal::Invalid(rows),
            BuildError::Io(error) => Refusal::Disk(error),
        }
    }
}

impl From<TransportError> for Refusal {
    fn from(error: TransportError) -> Self {
        if error.doubtful() { Refusal::NoAnswer } else { Refusal::Unreachable }
    }
}

impl Desk {
    async fn list(&self, request: Request) -> Result<VendorAnswer, Refusal> {
        let (head, _) = request.into_parts();
        // A GET has nothing to sign but its headers.
        if let Some(verifier) = self.admit(&head)? {
            self.verify(verifier)?.keep();
        }
        let call = self.calls()?.list();
        self.check_budget().await?;
        self.send(self.parts.transport.clone(), call).await
    }

    async fn replace(&self, id: &str, request: Request) -> Result<VendorAnswer, Refusal> {
        let (head, body) = request.into_parts();
        let mut verifier = self.admit(&head)?;
        let calls = self.calls()?;
        let no_such_table = || Refusal::NoSuchTable(id.to_owned());
        calls.replace(id, false).ok_or_else(no_such_table)?;
        let _room = self.room.try_acquire().map_err(|_| Refusal::Busy)?;
        // Before a hundred megabytes are read for nothing.
        self.check_budget().await?;
        self.parts.journal.ready().map_err(|_| Refusal::DiskFull)?;
        let file = Arc::new(self.spool(body, &mut verifier).await?);
        let reserved = verifier.map(|verifier| self.verify(verifier)).transpose()?;

        let (tables, name, csv) = (self.parts.tables.clone(), id.to_owned(), file.try_clone().map_err(Refusal::Disk)?);
        let staged = blocking(move || tables.stage(&name, csv)).await??;
        let call = calls.replace(id, is_gzip(&file).map_err(Refusal::Disk)?).ok_or_else(no_such_table)?;
        let answer = self.send(Upload::new(self.parts.transport.clone(), file), call).await?;
        if answer.status == StatusCode::OK {
            // A resend of what has been done would be a replay; of what was refused it is not.
            if let Some(reserved) = reserved {
                reserved.keep();
            }
            blocking(move || staged.install()).await?.map_err(Refusal::NotKept)?;
        }
        Ok(answer)
    }

    /// Who may: the service account, an API key or a signature, which is still to be verified; a project token is a name,
    /// not a secret.
    fn admit(&self, head: &request::Parts) -> Result<Option<Verifier>, Refusal> {
        let query = head.uri.query().unwrap_or_default().as_bytes();
        let asked = form_urlencoded::parse(query).find(|(key, _)| key == "project_id").map(|(_, id)| id);
        if asked.zip(self.parts.project_id.as_deref()).is_some_and(|(asked, own)| asked != own) {
            return Err(Refusal::OtherProject);
        }
        match self.parts.keys.claim(&head.headers) {
            Claim::Proven(Identity::ServiceAccount | Identity::ApiKey | Identity::Signed) => Ok(None),
            Claim::Signed(signed) => Ok(Some(self.parts.keys.verifier(signed))),
            Claim::Proven(Identity::ProjectToken { .. }) | Claim::Nobody | Claim::Wrong => Err(Refusal::Unauthorized),
        }
    }

    fn verify(&self, verifier: Verifier) -> Result<Reservation, Refusal> {
        verifier.finish(self.parts.clock.now()).map_err(|_| Refusal::Unauthorized)
    }

    fn calls(&self) -> Result<&LookupCalls, Refusal> {
        self.parts.calls.as_ref().ok_or(Refusal::NoAccount)
    }

    async fn check_budget(&self) -> Result<(), Refusal> {
        let standing = self.parts.budgets.standing(Family::MixpanelLookupTables, Priority::Callers, 1).await;
        match standing {
            Some(standing) if !standing.wait.is_zero() => Err(Refusal::UsedUp(standing.wait.as_secs() + 1)),
            _ => Ok(()),
        }
    }

    /// The body as sent, in a file without a name.
    async fn spool(&self, mut body: Body, verifier: &mut Option<Verifier>) -> Result<File, Refusal> {
        let tables = self.parts.tables.clone();
        let spool = blocking(move || tables.spool()).await?.map_err(Refusal::Disk)?;
        let mut file = tokio::fs::File::from_std(spool);
        let deadline = Instant::now() + WHOLE;
        let mut length = 0;
        loop {
            let by = deadline.min(Instant::now() + IDLE);
            let frame = tokio::time::timeout_at(by, body.frame()).await.map_err(|_| Refusal::BadBody)?;
            let Some(frame) = frame else { break };
            let Ok(piece) = frame.map_err(|_| Refusal::BadBody)?.into_data() else { continue };
            length += piece.len() as u64;
            if length > MAX_TABLE_BYTES {
                return Err(Refusal::TooLarge);
            }
            if let Some(verifier) = verifier {
                verifier.update(&piece);
            }
            file.write_all(&piece).await.map_err(Refusal::Disk)?;
        }
        file.flush().await.map_err(Refusal::Disk)?;
        Ok(file.into_std().await)
    }

    /// One attempt. It waits for nothing but a claim that was free a moment ago.
    async fn send(&self, bottom: impl stack::Bottom, call: VendorRequest) -> Result<VendorAnswer, Refusal> {
        let reader = Reader { answer_timeout: UPLOAD, ..self.parts.reader };
        let stack = stack::probe_stack(bottom, self.parts.budgets.clone(), reader);
        let answer = stack.oneshot(call).await?;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            let hint = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let retry_after = hint.map(|seconds| Duration::from_secs(seconds).min(MAX_HINT));
            let overrun = Overrun { hour: None, retry_after };
            let noted = self.parts.budgets.overrun(Family::MixpanelLookupTables, overrun).await;
            noted.map_err(|_| Refusal::Unreachable)?; // the store has failed, and the process is ending
        }
        Ok(answer)
    }
}

/// Work that waits for the disk. Fails only while the process ends.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(Refusal::Busy),
        },
    }
}

fn is_gzip(file: &File) -> io::Result<bool> {
    let mut magic = [0; 2];
    Ok(file.read_at(&mut magic, 0)? == 2 && magic == [0x1f, 0x8b])
}

fn as_it_came(answer: VendorAnswer) -> Response<Body> {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    for name in [CONTENT_TYPE, RETRY_AFTER] {
        if let Some(value) = answer.headers.get(&name) {
            response.headers_mut().insert(name, value.clone());
        }
    }
    response
}
