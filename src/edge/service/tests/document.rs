//! `openapi.yaml` names every route that the edge serves, with its methods.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::*;

#[derive(Deserialize)]
struct Document {
    openapi: String,
    paths: BTreeMap<String, BTreeMap<String, IgnoredAny>>,
}

#[tokio::test]
async fn the_document_covers_the_route_table() {
    let edge = Edge::new(CONFIG);
    let (status, text) = edge.get("/openapi.yaml").await;
    assert_eq!(status, 200);
    let document: Document = serde_saphyr::from_str(&text).unwrap();
    assert!(document.openapi.starts_with("3."));
    for route in ROUTES {
        let path = route.path.replace("{*", "{");
        let operations = document.paths.get(&path).unwrap_or_else(|| panic!("openapi.yaml lacks {path}"));
        let documented: BTreeSet<&str> =
            operations.keys().map(String::as_str).filter(|key| *key != "parameters").collect();
        let served: BTreeSet<&str> = route.methods.names().iter().copied().collect();
        assert_eq!(documented, served, "{path}");
    }
}

#[tokio::test]
async fn people_read_the_document_as_a_page_that_runs_nothing() {
    let edge = Edge::new(CONFIG);
    let (status, head, page) = edge.send(Request::get("/docs").body(Body::empty()).unwrap()).await;
    assert_eq!(status, 200);
    assert_eq!(head["content-type"], "text/html; charset=utf-8");
    assert!(head["content-security-policy"].to_str().unwrap().starts_with("default-src 'none';"));
    assert!(page.contains("Track events") && !page.contains("<script"));
}
