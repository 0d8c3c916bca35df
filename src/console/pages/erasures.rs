//! Erasures and how far each is.

use axum::Extension;
use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::console::Console;
use crate::console::frame::{self, number};
use crate::console::json::{count, encoded, items, pretty, text};
use crate::console::session::Session;

const HERE: &str = "/console/erasures";

#[derive(Deserialize)]
pub struct Page {
    cursor: Option<String>,
}

pub async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(page): Query<Page>,
) -> Markup {
    let cursor = page.cursor.map_or(String::new(), |cursor| format!("&cursor={}", encoded(&cursor)));
    let body = match console.api.get(&session.caller, &format!("/v1/erasures?limit=50{cursor}")).await {
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
        div .wide tabindex="0" {
            table {
                caption { "Newest first" }
                thead {
                    tr {
                        th scope="col" { "Asked" } th scope="col" { "By" } th .number scope="col" { "Ids" }
                        th scope="col" { "Relay" } th scope="col" { "Mixpanel" } th scope="col" { "Brevo" } th scope="col" { "Receipt" }
                    }
                }
                tbody { @for erasure in erasures { (row(erasure)) } }
            }
        }
        @if let Some(next) = answer["next"].as_str() {
            p { a href={ (HERE) "?cursor=" (encoded(next)) } { "Older ones" } }
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
            td { (text(erasure, "requested_at")) }
            td { (text(erasure, "asked").replace('_', " ")) }
            td .number { (number(count(erasure, "erased_ids"))) }
            td { (text(&erasure["relay"], "stage").replace('_', " ")) }
            (side("mixpanel"))
            (side("brevo"))
            td { details { summary { "Show" } pre tabindex="0" { (pretty(erasure)) } } }
        }
    }
}
