//! The read side's routes.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::{self, MethodRouter};
use http::{Response, StatusCode};
use tokio::time::Instant;

use super::paths::{KNOWN, short};
use super::{ReadSide, answers, export};
use crate::config::CorsOrigins;
use crate::edge::cors;
use crate::telemetry;

/// Every path under the vendor's own prefixes.
const PREFIXED: [&str; 2] = ["/api/query/{*rest}", "/api/2.0/{*rest}"];

/// Read only, as at the vendor.
const EXPORTS: [&str; 2] = ["/export", export::PATH];

/// Every operation served here, for the test that holds the published description against it.
pub fn operations() -> Vec<(&'static str, String)> {
    let short = KNOWN.iter().map(short);
    let prefixed = PREFIXED.iter().map(|path| path.replace("{*", "{"));
    let exports = EXPORTS.iter().map(|path| ("get", (*path).to_owned()));
    short.chain(prefixed).flat_map(|path| [("get", path.clone()), ("post", path)]).chain(exports).collect()
}

/// GET and POST everywhere: the vendor documents one of them for each endpoint, and its own clients send the other too
/// (contract §1).
pub fn router(desk: Arc<ReadSide>, origins: &CorsOrigins) -> Router {
    let mut router = Router::new();
    for endpoint in KNOWN {
        let path = short(endpoint);
        let handler = asking(endpoint.label, &desk);
        router = router.route(&path, handler.clone()).route(&format!("{path}/"), handler);
    }
    for path in PREFIXED {
        router = router.route(path, asking(path, &desk));
    }
    for path in EXPORTS {
        let handler = exporting(path, &desk);
        router = router.route(path, handler.clone()).route(&format!("{path}/"), handler);
    }
    router
        .method_not_allowed_fallback(async || {
            answers::error(StatusCode::METHOD_NOT_ALLOWED, "", "method not allowed".to_owned())
        })
        .layer(cors::layer(origins))
}

/// `route` is the metric label.
fn asking(route: &'static str, desk: &Arc<ReadSide>) -> MethodRouter {
    let desk = desk.clone();
    let handler = move |request: Request| {
        let desk = desk.clone();
        async move {
            let started = Instant::now();
            let (head, body) = request.into_parts();
            let response: Response<Body> = desk.query(head, body).await;
            telemetry::http_request(route, response.status().as_u16(), started.elapsed());
            response
        }
    };
    routing::get(handler.clone()).post(handler)
}

fn exporting(route: &'static str, desk: &Arc<ReadSide>) -> MethodRouter {
    let desk = desk.clone();
    routing::get(move |request: Request| async move {
        let started = Instant::now();
        let (head, body) = request.into_parts();
        let response: Response<Body> = desk.export(head, body).await;
        // Until the answer begins: how long it goes on is the caller's affair.
        telemetry::http_request(route, response.status().as_u16(), started.elapsed());
        response
    })
}
