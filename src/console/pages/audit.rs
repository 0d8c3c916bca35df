//! Who has done what.

use axum::Extension;
use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::console::Console;
use crate::console::frame;
use crate::console::json::{items, text};
use crate::console::pieces::{Column, address, column, moment, table};
use crate::console::session::Session;

const HERE: &str = "/console/audit";
const COLUMNS: &[Column] = &[column("When"), column("Who"), column("What"), column("Of what")];

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
    let path = address("/v1/audit", &[("limit", "100"), ("cursor", &page.cursor)]);
    let body = match console.api.get(&session.caller, &path).await {
        Ok(answer) => shown(&answer),
        Err(refusal) => frame::refusal(&refusal),
    };
    frame::page(&session, "Audit", HERE, body)
}

fn shown(answer: &Value) -> Markup {
    let notes = items(answer, "items");
    if notes.is_empty() {
        return frame::empty(
            "Nobody has changed anything yet.",
            "Whoever pauses, replays, purges, erases, reloads, begins a run or looks at personal data is written down here.",
        );
    }
    let rows = html! {
        @for note in notes {
            tr {
                td { (moment(text(note, "at"))) }
                td { (text(note, "who")) " " span .quiet { "(" (text(note, "role")) ")" } }
                td { strong { (text(note, "action").replace('_', " ")) } }
                td { (detail(&note["detail"])) }
            }
        }
    };
    html! {
        (table("Newest first, 400 days", COLUMNS, rows))
        @if let Some(next) = answer["next"].as_str() { p { a href=(address(HERE, &[("cursor", next)])) { "Older ones" } } }
    }
}

/// A note's fields that say something, one after the other.
fn detail(detail: &Value) -> Markup {
    let said = |value: &Value| {
        !matches!(value, Value::Null | Value::Bool(false)) && value.as_object().is_none_or(|of| !of.is_empty())
    };
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    html! {
        @for (key, value) in detail.as_object().into_iter().flatten().filter(|(_, value)| said(value)) {
            span .quiet { (key.replace('_', " ")) } " " code { (word(value)) } " "
        }
    }
}
