//! `openapi.yaml` names what is served here and at the edge, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::OPERATIONS;
use crate::delivery::status::State;
use crate::edge::routes::ROUTES;
use crate::settlement::DeadReason;
use crate::vendor::verdict::PauseCause;

#[derive(serde::Deserialize)]
struct Document {
    paths: BTreeMap<String, BTreeMap<String, Value>>,
    components: Value,
}

fn document() -> Document {
    serde_saphyr::from_str(include_str!("../../openapi.yaml")).unwrap()
}

#[test]
fn the_document_has_exactly_the_operations_that_are_served() {
    let documented: BTreeSet<(String, String)> = document()
        .paths
        .into_iter()
        .flat_map(|(path, operations)| operations.into_keys().map(move |method| (method, path.clone())))
        .filter(|(method, _)| method != "parameters") // shared by the path's operations
        .collect();
    let edge = ROUTES.iter().flat_map(|route| {
        let path = route.path.replace("{*", "{");
        route.methods.names().iter().map(move |method| ((*method).to_owned(), path.clone()))
    });
    let own = OPERATIONS
        .iter()
        .chain(crate::erasure::routes::OPERATIONS)
        .chain(crate::cohorts::OPERATIONS)
        .chain(crate::datasets::OPERATIONS)
        .chain(crate::edge::lookup_tables::OPERATIONS)
        .chain(crate::webhooks::OPERATIONS)
        .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()));
    let read_side = crate::read_side::operations().into_iter().map(|(method, path)| (method.to_owned(), path));
    assert_eq!(documented, edge.chain(own).chain(read_side).collect());
}

#[test]
fn every_admin_operation_wants_the_admin_token() {
    let document = document();
    for (method, path) in OPERATIONS {
        let security = &document.paths[*path][*method]["security"];
        assert_eq!(security, &serde_json::json!([{ "admin": [] }]), "{method} {path}");
    }
}

#[test]
fn the_words_of_states_and_reasons_are_the_documented_ones() {
    let schemas = &document().components["schemas"];
    let state = &schemas["Destination"]["properties"]["state"]["properties"];
    for (value, words) in [
        (serde_json::to_value(State::Open), &state["is"]),
        (serde_json::to_value(State::BackingOff { failures: 1 }), &state["is"]),
        (serde_json::to_value(State::Paused { cause: PauseCause::ByHand }), &state["is"]),
    ] {
        assert!(words["enum"].as_array().unwrap().contains(&value.unwrap()["is"]), "{words}");
    }
    let reasons: Vec<Value> = DeadReason::ALL.iter().map(|reason| reason.label().into()).collect();
    assert_eq!(schemas["DeadLetter"]["properties"]["reason"]["enum"], Value::Array(reasons));
}
