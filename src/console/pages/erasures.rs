//! Erasures and how far each is.

use axum::Extension;
use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::console::Console;
use crate::console::frame::{self, number};
use crate::console::json::{count, items, pretty, text};
use crate::console::pieces::{Column, address, column, figures, folded, moment, table};
use crate::console::session::Session;

const HERE: &str = "/console/erasures";
const COLUMNS: &[Column] = &[
    column("Asked"),
    column("By"),
    figures("Ids"),
    column("Relay"),
    column("Mixpanel"),
    column("Brevo"),
    column("Receipt"),
];

#[derive(Deserialize)]
pub struct Page {
    #[serde(default)]
    cursor: String,
}

pub async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(page): Query<Page>,
) -> Markup {
    let path = address("/v1/erasures", &[("limit", "50"), ("cursor", &page.cursor)]);
    let body = match console.api.get(&session.caller, &path).await {
        Ok(answer) => shown(&answer),
        Err(refusal) => frame::refusal(&refusal),
    };
    frame::page(&session, "Erasures", HERE, body)
}

fn shown(answer: &Value) -> Markup {
    let erasures = items(answer, "items");
    if erasures.is_empty() {
        return frame::empty(
            "Nobody has been erased.",
            "An admin erases somebody on the page People, DELETE /v1/people/{id} does the same, and so does a GDPR deletion that is sent to Mixpanel through the relay.",
        );
    }
    html! {
        (table("Newest first", COLUMNS, html! { @for erasure in erasures { (row(erasure)) } }))
        @if let Some(next) = answer["next"].as_str() {
            p { a href=(address(HERE, &[("cursor", next)])) { "Older ones" } }
        }
    }
}

fn row(erasure: &Value) -> Markup {
    let side = |name: &str| {
        let state = text(&erasure[name]["state"], "is").replace('_', " ");
        let class = match state.as_str() {
            "done" => "good",
            "failed" => "bad",
            _ => "",
        };
        html! { td .(class) { (state) @if let Some(said) = erasure[name]["said"].as_str() { br; span .quiet { (said) } } } }
    };
    html! {
        tr {
            td { (moment(text(erasure, "requested_at"))) }
            td { (text(erasure, "asked").replace('_', " ")) }
            td .number { (number(count(erasure, "erased_ids"))) }
            td { (text(&erasure["relay"], "stage").replace('_', " ")) }
            (side("mixpanel"))
            (side("brevo"))
            td { (folded("Show", &pretty(erasure))) }
        }
    }
}
