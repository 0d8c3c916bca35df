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
use crate::console::pieces::{Outcome, address, order, unmasking};
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
        let path = address(&format!("/v1/people/{}", encoded(id)), &[("masked", session.masked(search.unmask))]);
        match console.api.get(&session.caller, &path).await {
            Ok(person) => about(&session, id, &person, search.unmask),
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
    let other = address(HERE, &[("id", id), ("unmask", if unmask { "" } else { "true" })]);
    html! {
        @if let Some(since) = person["erased_since"].as_str() {
            div .verdict.warn { p { strong { "Erased since " (since) "." } " Records of this id are stopped." } }
        }
        @if held.is_empty() && shelf.is_empty() && letters.is_empty() {
            (frame::empty("Nothing is held of this id.", "Either nothing of theirs passed the relay, or nothing that a mapping wanted."))
        } @else {
            p { (unmasking(session, unmask, &other)) }
            h2 { "Known under" }
            ul { @for one in items(person, "ids") { li { code { (one.as_str().unwrap_or_default()) } } } }
            @for row in held {
                h2 { "What is held of " code { (text(row, "id")) } }
                pre tabindex="0" { (pretty(row)) }
            }
            @if !shelf.is_empty() {
                h2 { "Waiting on the shelf: " (number(shelf.len() as u64)) }
                p .hint { "Records that wait until an email or a phone says who this is at Brevo." }
                @for record in shelf { pre tabindex="0" { (pretty(record)) } }
            }
            @if !letters.is_empty() {
                h2 { "Dead letters: " (number(letters.len() as u64)) }
                @for letter in letters { pre tabindex="0" { (pretty(letter)) } }
            }
            @if session.caller.role >= Role::Admin {
                h2 { "Erase" }
                p { "Deletes the person here, at Mixpanel and, as configured, at Brevo. It cannot be taken back." }
                (order(session, "/console/people/erase", &[("id", id)], html! {
                    button .danger type="submit" data-confirm="Erase this person for good?" { "Erase this person" }
                }))
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
        Err(refusal) => Outcome::refused(&refusal).on(|said| frame::page(&session, "People", HERE, said)),
    }
}
