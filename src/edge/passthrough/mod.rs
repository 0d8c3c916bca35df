//! What the relay does not store: session replay, feature flags, settings and the SDK's own files, streamed through to
//! the vendor and back (DESIGN 2.1). It touches no disk, so it works when the disk is full.
//!
//! What leaves: the call as it came, with its query, its body's bytes and its `Authorization`, less the hop-by-hop
//! headers, plus the caller's address as `privacy.ip` allows. What comes back: the vendor's answer, less hop-by-hop headers and its CORS
//! headers, which are this relay's affair. On a failure each route has an answer that its SDKs survive ([`fallback`]).

mod answers;
mod hop;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, request};
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use url::Url;

use self::answers::{Kept, LastAnswers, Question};
use super::answer;
use super::caller;
use super::privacy;
use super::routes::Upstream;
use crate::clock::SharedClock;
use crate::config::{Config, IpPolicy};

/// Calls under way at once; each holds a few buffers on both sides.
const CONCURRENT: usize = 1024;
/// A vendor that says nothing for this long has failed, whether before its answer or in the middle of it.
const SILENCE: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(5);
/// The longest that a call's body may take to arrive.
const WHOLE_BODY: Duration = Duration::from_secs(120);
/// When callers are asked to come back after a failure, in seconds.
const RETRY_AFTER: u32 = 10;

pub struct PassThrough {
    client: reqwest::Client,
    ingestion: Url,
    cdn: Url,
    path_prefix: String,
    trusted_proxies: Vec<IpNet>,
    ip_policy: IpPolicy,
    clock: SharedClock,
    /// Given back when an answer has been streamed to its end.
    slots: Arc<Semaphore>,
    flags: Arc<LastAnswers>,
}

/// Why the vendor's answer is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// No answer, or one that broke off before it could be passed on.
    Vendor,
    /// Too many calls under way here.
    Full,
    /// The path cannot be one of the vendor's.
    BadPath,
}

impl PassThrough {
    /// Fails when TLS cannot be set up.
    pub fn new(config: &Config, clock: SharedClock) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // Bodies pass as they are, compressed or not.
            .no_gzip()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .pool_idle_timeout(Duration::from_secs(60))
            .build()?;
        Ok(Self {
            client,
            ingestion: config.mixpanel.endpoints.ingestion.clone(),
            cdn: config.mixpanel.endpoints.cdn.clone(),
            path_prefix: config.server.path_prefix.clone().unwrap_or_default(),
            trusted_proxies: config.server.trusted_proxies.clone(),
            ip_policy: config.privacy.ip,
            clock,
            slots: Arc::new(Semaphore::new(CONCURRENT)),
            flags: Arc::default(),
        })
    }

    /// What forgets every remembered answer: somebody whom one of them may be for is being erased.
    pub fn forgetting(&self) -> impl Fn() + Send + Sync + 'static {
        let flags = self.flags.clone();
        move || flags.forget()
    }

    /// Passes one call through.
    pub async fn handle(
        self: Arc<Self>,
        upstream: Upstream,
        head: request::Parts,
        body: Body,
        peer: IpAddr,
    ) -> Response<Body> {
        let question = (upstream == Upstream::Flags).then(|| Question::of(&head)).flatten();
        let era = self.flags.era();
        let failure = match self.forward(upstream, head, body, peer).await {
            Ok((response, slot)) if upstream == Upstream::Flags && response.status().is_success() => {
                match self.keep(question.map(|question| (era, question)), response, slot).await {
                    Ok(response) => return response,
                    Err(failure) => failure,
                }
            }
            Ok((response, slot)) if !has_failed(upstream, response.status()) => {
                let (status, headers) = (response.status(), response.headers().clone());
                return assemble(status, &headers, Body::from_stream(held(response.bytes_stream(), slot)));
            }
            Ok(_) => Failure::Vendor,
            Err(failure) => failure,
        };
        self.fallback(upstream, failure, question)
    }

    async fn forward(
        &self,
        upstream: Upstream,
        head: request::Parts,
        body: Body,
        peer: IpAddr,
    ) -> Result<(reqwest::Response, OwnedSemaphorePermit), Failure> {
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| Failure::Full)?;
        let base = if matches!(upstream, Upstream::Library(_)) { &self.cdn } else { &self.ingestion };
        let url = target(base, &self.path_prefix, upstream, head.uri.path(), head.uri.query());
        let url = url.ok_or(Failure::BadPath)?;
        let caller = caller::address(&head.headers, peer, &self.trusted_proxies);
        let headers = outgoing(&head.headers, privacy::allowed(caller, self.ip_policy));
        let request =
            self.client.request(head.method, url).headers(headers).body(reqwest::Body::wrap_stream(paced(body)));
        Ok((request.send().await.map_err(|_| Failure::Vendor)?, slot))
    }

    /// Reads a good `/flags` answer whole, so that one that breaks off can still be replaced, and remembers it, with the era
    /// that it was asked for in.
    async fn keep(
        &self,
        question: Option<(u64, Question)>,
        mut response: reqwest::Response,
        slot: OwnedSemaphorePermit,
    ) -> Result<Response<Body>, Failure> {
        let status = response.status();
        let headers = response.headers().clone();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| Failure::Vendor)? {
            if body.len() + chunk.len() > answers::MAX_ANSWER {
                // Too long to remember: what has been read goes first, the rest follows as it comes.
                let read = stream::iter([Ok(Bytes::from(body)), Ok(chunk)]);
                let all = held(read.chain(response.bytes_stream()), slot);
                return Ok(assemble(status, &headers, Body::from_stream(all)));
            }
            body.extend_from_slice(&chunk);
        }
        let body = Bytes::from(body);
        if let Some((era, question)) = question {
            let kept = Kept {
                content_type: headers.get(CONTENT_TYPE).cloned(),
                content_encoding: headers.get(CONTENT_ENCODING).cloned(),
                body: body.clone(),
            };
            self.flags.remember(era, question, kept, self.clock.now());
        }
        Ok(assemble(status, &headers, Body::from(body)))
    }

    /// What a route answers instead of the vendor.
    fn fallback(&self, upstream: Upstream, failure: Failure, question: Option<Question>) -> Response<Body> {
        if failure == Failure::BadPath {
            return answer::json(StatusCode::NOT_FOUND, &Error { error: "no such route" });
        }
        match upstream {
            // SDKs fall back on their defaults when the object is empty, and on an error they are stuck (contract §14).
            Upstream::Flags => match question.and_then(|q| self.flags.recall(&q, self.clock.now())) {
                Some(kept) => kept.into_response(),
                None => answer::body(StatusCode::OK, JSON, Bytes::from_static(br#"{"flags":{}}"#)),
            },
            // Retired by the vendor in April 2026; the old SDKs that still ask want an object and go on.
            Upstream::Decide => answer::body(StatusCode::OK, JSON, Bytes::from_static(DECIDE)),
            // Session replay keeps its batch and comes back; for settings every SDK has a rule of its own for an error
            // (contract §13), which no invented answer would respect.
            Upstream::Record | Upstream::Settings | Upstream::Library(_) => {
                let error = Error { error: "the vendor does not answer; come back later" };
                let mut response = answer::json(StatusCode::SERVICE_UNAVAILABLE, &error);
                response.headers_mut().insert(http::header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
                response
            }
        }
    }
}

const JSON: &str = "application/json";
/// The headers that tell the vendor who called.
const CALLER: [HeaderName; 2] = [HeaderName::from_static("x-forwarded-for"), HeaderName::from_static("x-real-ip")];
const DECIDE: &[u8] = br#"{"notifications":[],"event_bindings":[],"variants":[]}"#;

#[derive(serde::Serialize)]
struct Error {
    error: &'static str,
}

/// Whether an answer counts as the vendor's failure.
fn has_failed(upstream: Upstream, status: StatusCode) -> bool {
    match upstream {
        // A retired endpoint answers whatever its host does with unknown paths.
        Upstream::Decide => !status.is_success(),
        _ => status.is_server_error(),
    }
}

/// The vendor's stream, holding a slot until it ends. One that the vendor breaks off is broken off here too, never ended
/// as if whole.
fn held(
    stream: impl Stream<Item = reqwest::Result<Bytes>>,
    slot: OwnedSemaphorePermit,
) -> impl Stream<Item = reqwest::Result<Bytes>> {
    stream.inspect_err(move |_| {
        let _held = &slot;
    })
}

/// The caller's body, broken off when it stalls: a slow caller must not hold a connection to the vendor for ever.
fn paced(body: Body) -> impl Stream<Item = Result<Bytes, axum::Error>> {
    let deadline = Instant::now() + WHOLE_BODY;
    stream::unfold(Some(body.into_data_stream()), move |stream| async move {
        let mut stream = stream?;
        let by = deadline.min(Instant::now() + SILENCE);
        match tokio::time::timeout_at(by, stream.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(stream))),
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Err(elapsed) => Some((Err(axum::Error::new(elapsed)), None)),
        }
    })
}

fn assemble(status: StatusCode, headers: &HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = hop::end_to_end(headers);
    let cors: Vec<_> =
        response.headers().keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
    for name in cors {
        response.headers_mut().remove(name);
    }
    response
}

fn outgoing(headers: &HeaderMap, caller: Option<IpAddr>) -> HeaderMap {
    let mut headers = hop::end_to_end(headers);
    headers.remove(HOST);
    // The relay's own cookies, if any, are not the vendor's affair; the vendor's opt-out travels in the body.
    headers.remove(http::header::COOKIE);
    headers.remove(http::header::FORWARDED);
    for name in CALLER {
        headers.remove(&name);
        if let Some(address) = caller.and_then(|address| HeaderValue::from_str(&address.to_string()).ok()) {
            headers.insert(name, address);
        }
    }
    headers
}

/// Where a path goes. `None` for a path that climbs or hides something: the vendor's base must stay in front.
pub(crate) fn target(base: &Url, prefix: &str, upstream: Upstream, path: &str, query: Option<&str>) -> Option<Url> {
    let path = path.strip_prefix(prefix).unwrap_or(path);
    if !is_plain(path) {
        return None;
    }
    let path = if let Upstream::Library(Some(file)) = upstream { file } else { path };
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url.set_query(query);
    Some(url)
}

/// Whether a path means what it says, for every server that may look at it.
fn is_plain(path: &str) -> bool {
    // Overlong forms of `.` and `/` are no UTF-8.
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8();
    if decoded.map_or(true, |decoded| decoded.contains(char::is_control)) {
        return false;
    }
    let lower = path.to_ascii_lowercase();
    // A percent sign behind a percent sign is for somebody who decodes twice.
    let hides = ["%2e", "%2f", "%5c", "%25", "\\", "//", "%00"].iter().any(|hidden| lower.contains(hidden));
    !hides && !path.split('/').any(|segment| segment.starts_with(".."))
}

#[cfg(test)]
mod tests;
