//! What the relay holds about a person, and erasing them.

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::config::Role;
use crate::console::Console;
use crate::console::frame::{self, number};
use crate::console::guard::Form;
use crate::console::json::{encoded, items, pretty, text};
use crate::console::mask;
use crate::console::session::Session;

const HERE: &str = "/console/people";

#[derive(Deserialize)]
pub struct Search {
    #[serde(default)]
    id: String,
    /// Whether personal data is shown as it is.
    #[serde(default)]
    unmask: bool,
}

pub async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(search): Query<Search>,
) -> Markup {
    let id = search.id.trim();
    let found = if id.is_empty() {
        frame::empty(
            "Whom are you looking for?",
            "Any distinct_id of theirs will do; ids that belong together are found by one of them.",
        )
    } else {
        match console.api.get(&session.caller, &format!("/v1/people/{}", encoded(id))).await {
            Ok(person) => about(&session, id, &person, search.unmask && session.caller.role >= Role::Operator),
            Err(refusal) => frame::refusal(&refusal),
        }
    };
    let body = html! {
        form .row method="get" action=(HERE) role="search" {
            div { label for="id" { "distinct_id" } input #id name="id" value=(id) required; }
            button type="submit" { "Find" }
        }
        (found)
    };
    frame::page(&session, "People", HERE, body)
}

fn about(session: &Session, id: &str, person: &Value, unmask: bool) -> Markup {
    let (held, shelf, letters) = (items(person, "held"), items(person, "shelf"), items(person, "dead_letters"));
    let shown = |value: &Value| pretty(&if unmask { value.clone() } else { mask::value(value) });
    html! {
        @if let Some(since) = person["erased_since"].as_str() {
            div .verdict.warn { p { strong { "Erased since " (since) "." } " Records of this id are stopped." } }
        }
        @if held.is_empty() && shelf.is_empty() && letters.is_empty() {
            (frame::empty("Nothing is held of this id.", "Either nothing of theirs passed the relay, or nothing that a mapping wanted."))
        } @else {
            @if !unmask && session.caller.role >= Role::Operator {
                p { a href={ (HERE) "?id=" (encoded(id)) "&unmask=true" } { "Show personal data" } }
            }
            h2 { "Known under" }
            ul { @for one in items(person, "ids") { li { code { (one.as_str().map_or(String::new(), |id| if unmask { id.to_owned() } else { mask::text(id) })) } } } }
            @for row in held {
                h2 { "What is held of " code { (if unmask { text(row, "id").to_owned() } else { mask::text(text(row, "id")) }) } }
                pre tabindex="0" { (shown(row)) }
            }
            @if !shelf.is_empty() {
                h2 { "Waiting on the shelf: " (number(shelf.len() as u64)) }
                p .hint { "Records that wait until an email or a phone says who this is at Brevo." }
                @for record in shelf { pre tabindex="0" { (shown(record)) } }
            }
            @if !letters.is_empty() {
                h2 { "Dead letters: " (number(letters.len() as u64)) }
                @for letter in letters { pre tabindex="0" { (shown(letter)) } }
            }
            @if session.caller.role >= Role::Admin {
                h2 { "Erase" }
                p { "Deletes the person here, at Mixpanel and, as configured, at Brevo. It cannot be taken back." }
                form method="post" action="/console/people/erase" data-confirm="Erase this person for good?" {
                    (frame::csrf(session))
                    input type="hidden" name="id" value=(id);
                    button .danger type="submit" { "Erase this person" }
                }
            }
        }
    }
}

pub async fn erase(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(form): Extension<Form>,
) -> Response {
    match console.api.delete(&session.caller, &format!("/v1/people/{}", encoded(form.get("id")))).await {
        Ok(_) => Redirect::to("/console/erasures").into_response(),
        Err(refusal) => {
            (refusal.status, frame::page(&session, "People", HERE, frame::refusal(&refusal))).into_response()
        }
    }
}
