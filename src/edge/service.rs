//! The router: the table of [`super::routes`] bound to its handlers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::middleware;
use axum::routing::{self, MethodRouter};
use bytes::Bytes;
use http::header::CONTENT_SECURITY_POLICY;
use http::{HeaderValue, Response, StatusCode};
use tokio::time::Instant;

use super::auth::{self, Keys};
use super::budget::{self, Budget};
use super::ids::Minter;
use super::ingest::Ingest;
use super::intake::IntakeLimits;
use super::passthrough::PassThrough;
use super::routes::{Endpoint, Methods, ROUTES, Route, Upstream};
use super::{answer, cors, reference, request_ids};
use crate::alerts::Bell;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::mixpanel::Api;
use crate::mixpanel::validate::Tokens;
use crate::privacy::Tombstones;
use crate::store::{AppendError, Journal};
use crate::telemetry;

/// What the edge needs, handed in.
pub struct EdgeParts {
    pub config: Arc<Config>,
    pub keys: Keys,
    pub journal: Arc<dyn Journal>,
    pub clock: SharedClock,
    pub minter: Minter,
    pub pass_through: PassThrough,
    pub limits: IntakeLimits,
    pub budget: Budget,
    pub tombstones: Arc<Tombstones>,
    /// Hears of tokens that are nobody's.
    pub bell: Arc<Bell>,
}

/// Why the edge cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("the system has no randomness to give: {0}")]
    Random(#[from] getrandom::Error),
    #[error("TLS for calls to the vendor cannot be set up: {0}")]
    Tls(#[from] reqwest::Error),
}

impl EdgeParts {
    /// With the limits that the documentation states. A TLS provider must be installed in the process.
    pub fn new(config: Arc<Config>, journal: Arc<dyn Journal>, clock: SharedClock) -> Result<Self, EdgeError> {
        Ok(Self {
            minter: Minter::new()?,
            pass_through: PassThrough::new(&config, clock.clone())?,
            limits: IntakeLimits::default(),
            budget: Budget::new(budget::DEFAULT_BYTES),
            tombstones: Arc::default(),
            bell: Arc::default(),
            keys: Keys::new(&config),
            config,
            journal,
            clock,
        })
    }
}

/// Ingestion, pass-through, health and the API document. Admin routes are merged in by the caller.
pub fn router(parts: EdgeParts) -> Router {
    let config = parts.config.clone();
    let tokens = Tokens::new(config.mixpanel.project_tokens.clone(), config.mixpanel.forward_tokens.clone());
    let keys = Arc::new(parts.keys);
    let mut ingestion = Router::new();
    let mut others = health_router(parts.journal.clone());
    let ingest = Arc::new(Ingest {
        config: parts.config,
        journal: parts.journal,
        clock: parts.clock,
        tokens,
        keys: keys.clone(),
        budget: parts.budget,
        limits: parts.limits,
        minter: parts.minter,
        tombstones: parts.tombstones,
        bell: parts.bell,
        appends: telemetry::Appends::new(),
    });
    let pass_through = Arc::new(parts.pass_through);
    let prefix = config.server.path_prefix.as_deref();
    for route in ROUTES {
        let (router, handler) = match route.endpoint {
            Endpoint::Ingest(api) => (&mut ingestion, ingesting(route, api, &ingest, &keys)),
            Endpoint::Pass(upstream) => (&mut others, passing(route, upstream, &pass_through)),
            Endpoint::Welcome => {
                (&mut others, fixed(route, || answer::body(StatusCode::OK, "application/json", WELCOME)))
            }
            Endpoint::Health | Endpoint::Ready => continue,
            Endpoint::OpenApi => {
                (&mut others, fixed(route, || answer::body(StatusCode::OK, "application/yaml", OPENAPI)))
            }
            Endpoint::Docs => (&mut others, fixed(route, docs)),
        };
        for path in paths(route, prefix) {
            *router = std::mem::take(router).route(&path, handler.clone());
        }
    }
    let router = ingestion
        .merge(request_ids::traced(others))
        .method_not_allowed_fallback(|| async { not_found(StatusCode::METHOD_NOT_ALLOWED, "method not allowed") })
        .fallback(|| async { not_found(StatusCode::NOT_FOUND, "no such route") });
    // Outermost, so that no answer leaves without either.
    request_ids::named(router, Some(cors::layer(&config.server.cors_origins)))
}

/// The process's health and the store's, for both listeners: whoever watches may see only one of them.
pub fn health_router(journal: Arc<dyn Journal>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let handler = match route.endpoint {
            Endpoint::Health => fixed(route, || answer::body(StatusCode::OK, "text/plain; charset=utf-8", OK)),
            Endpoint::Ready => {
                let journal = journal.clone();
                fixed(route, move || ready(journal.as_ref()))
            }
            _ => continue,
        };
        router = router.route(route.path, handler);
    }
    router
}

const OK: Bytes = Bytes::from_static(b"ok\n");
const OPENAPI_TEXT: &str = include_str!("../../openapi.yaml");
const OPENAPI: Bytes = Bytes::from_static(OPENAPI_TEXT.as_bytes());
/// Nothing but the page's own style; it runs no script and is in nobody's frame.
const DOCS_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
/// The vendor's own words at `GET /` (contract §1).
const WELCOME: Bytes =
    Bytes::from_static(br#"{"error":"Welcome. Get started with our API by visiting https://developer.mixpanel.com/"}"#);

/// Every path that a route answers at.
fn paths(route: &Route, prefix: Option<&str>) -> Vec<String> {
    let mut paths = vec![route.path.to_owned()];
    if route.for_apps {
        let is_file = route.path.contains(['.', '*']);
        if !is_file {
            paths.push(format!("{}/", route.path));
        }
        if let Some(prefix) = prefix {
            paths.extend(paths.clone().into_iter().map(|path| format!("{prefix}{path}")));
        }
    }
    paths
}

fn ingesting(route: &'static Route, api: Api, ingest: &Arc<Ingest>, keys: &Arc<Keys>) -> MethodRouter {
    let ingest = ingest.clone();
    let metrics = Arc::new(telemetry::Hot::new(route.path));
    let handler = move |request: Request| {
        let (ingest, metrics) = (ingest.clone(), metrics.clone());
        async move {
            let started = Instant::now();
            let peer = peer(&request);
            let (head, body) = request.into_parts();
            let response = ingest.handle(api, head, body, peer).await;
            metrics.http_request(response.status().as_u16(), started.elapsed());
            response
        }
    };
    let router = by_method(route.methods, handler);
    // Only /import asks who is calling; the others are public by nature.
    if api == Api::Import { router.layer(middleware::from_fn_with_state(keys.clone(), auth::identify)) } else { router }
}

fn passing(route: &'static Route, upstream: Upstream, pass_through: &Arc<PassThrough>) -> MethodRouter {
    let pass_through = pass_through.clone();
    by_method(route.methods, move |request: Request| {
        let pass_through = pass_through.clone();
        async move {
            let started = Instant::now();
            let peer = peer(&request);
            let (head, body) = request.into_parts();
            let response = pass_through.handle(upstream, head, body, peer).await;
            telemetry::http_request(route.path, response.status().as_u16(), started.elapsed());
            response
        }
    })
}

fn by_method<H, T>(methods: Methods, handler: H) -> MethodRouter
where
    H: axum::handler::Handler<T, ()>,
    T: 'static,
{
    match methods {
        Methods::Get => routing::get(handler),
        Methods::Post => routing::post(handler),
        Methods::GetPost => routing::get(handler.clone()).post(handler),
    }
}

fn fixed(route: &'static Route, answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static) -> MethodRouter {
    routing::get(move || async move {
        let started = Instant::now();
        let response = answer();
        telemetry::http_request(route.path, response.status().as_u16(), started.elapsed());
        response
    })
}

/// [`OPENAPI`] for people, written when somebody asks for it first.
fn docs() -> Response<Body> {
    static PAGE: OnceLock<Option<Bytes>> = OnceLock::new();
    // The document is in the binary, and a test reads it: it is never `None`.
    let page = PAGE.get_or_init(|| reference::page(OPENAPI_TEXT).ok().map(Bytes::from));
    let Some(page) = page else { return not_found(StatusCode::NOT_FOUND, "openapi.yaml cannot be read") };
    let mut response = answer::body(StatusCode::OK, "text/html; charset=utf-8", page.clone());
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, DOCS_POLICY);
    response
}

/// The peer's address, which the server loop puts into every request. Without one (a router called directly) nothing
/// is known of the caller.
fn peer(request: &Request) -> IpAddr {
    let info = request.extensions().get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip())
}

#[derive(serde::Serialize)]
struct Plain<'a> {
    error: &'a str,
}

fn not_found(status: StatusCode, error: &str) -> Response<Body> {
    telemetry::http_request("unmatched", status.as_u16(), std::time::Duration::ZERO);
    answer::json(status, &Plain { error })
}

fn ready(journal: &dyn Journal) -> Response<Body> {
    match journal.ready() {
        Ok(()) => answer::body(StatusCode::OK, "text/plain; charset=utf-8", Bytes::from_static(b"ready\n")),
        Err(error) => {
            // What failed, without the file names that a detail may hold: the route is open to all.
            let error = match error {
                AppendError::Busy | AppendError::TooLarge { .. } => "the store is busy",
                AppendError::DiskFull { .. } => "the disk is nearly full",
                AppendError::Poisoned(_) => "the store has failed",
                AppendError::Full(_) => "the store is full",
                AppendError::Unavailable(_) => "the store cannot be reached",
            };
            answer::json(StatusCode::SERVICE_UNAVAILABLE, &Plain { error })
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
