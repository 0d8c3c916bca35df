//! A name for every request: in the answer, and in every log line that comes of the request, so that a complaint about an
//! answer finds its lines.
//!
//! A proxy's `X-Request-Id` is taken over when it is harmless; otherwise one is minted. Requests themselves are not
//! logged, since the hot path writes no lines: only those that end in a 5xx other than 503 are, and all of them at `debug`. Neither says
//! more of the address than the route's template, for paths and queries hold people's ids and tokens.
//!
//! Ingestion is [`named`] and not [`traced`]: it writes no lines, and what lines would need cost it a sixth of its
//! instructions.

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{self, Next};
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode};
use tower::ServiceBuilder;
use tower_http::cors::CorsLayer;
use tower_http::request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tracing::Instrument as _;

pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// A UUID has 36 characters, a trace id 32.
const MAX: usize = 64;

/// Names every request of the router, with its CORS if it has any: one layer, since axum boxes each.
pub fn named(router: Router, cors: Option<CorsLayer>) -> Router {
    router.layer(
        ServiceBuilder::new()
            .map_request(without_harm)
            .layer(SetRequestIdLayer::new(HEADER, Minted))
            .layer(PropagateRequestIdLayer::new(HEADER))
            .option_layer(cors),
    )
}

/// Has log lines that come of the router's requests say which, and failures be logged. Inside of [`named`].
pub fn traced(router: Router) -> Router {
    router.layer(middleware::from_fn(trace))
}

async fn trace(request: Request, next: Next) -> Response {
    let id = request.headers().get(&HEADER).and_then(|id| id.to_str().ok()).unwrap_or_default();
    let span = tracing::info_span!("request", id);
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let method = request.method().clone();
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
        span.in_scope(|| tracing::warn!(%method, route, status = status.as_u16(), "a request has failed"));
    } else {
        span.in_scope(|| tracing::debug!(%method, route, status = status.as_u16(), "answered"));
    }
    response
}

/// Takes away a name that could break a log line or an answer.
fn without_harm(mut request: Request) -> Request {
    if request.headers().get(&HEADER).is_some_and(|id| !is_harmless(id)) {
        request.headers_mut().remove(&HEADER);
    }
    request
}

/// Letters, digits and a few signs that ids are written with.
fn is_harmless(id: &HeaderValue) -> bool {
    let sign = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    (1..=MAX).contains(&id.len()) && id.as_bytes().iter().all(sign)
}

/// Names that are unlikely to come twice while anybody remembers the first.
#[derive(Clone, Copy)]
struct Minted;

impl MakeRequestId for Minted {
    fn make_request_id<B>(&mut self, _request: &http::Request<B>) -> Option<RequestId> {
        let id = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        HeaderValue::from_str(&id).ok().map(RequestId::new)
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt as _;

    use super::*;

    async fn answered(sent: Option<&str>) -> String {
        let app = named(traced(Router::new().route("/", get(|| async { "ok" }))), None);
        let mut request = http::Request::get("/");
        if let Some(id) = sent {
            request = request.header(HEADER, id);
        }
        let response = app.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        response.headers()[HEADER].to_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_harmless_id_is_kept_and_every_other_request_gets_one() {
        assert_eq!(answered(Some("0f1e-2d:3c")).await, "0f1e-2d:3c");
        let long = "x".repeat(MAX + 1);
        for sent in [None, Some("two words"), Some("{\"a\":1}"), Some(""), Some(long.as_str())] {
            let minted = answered(sent).await;
            assert_eq!(minted.len(), 32, "{sent:?}");
        }
        assert_ne!(answered(None).await, answered(None).await);
    }
}
