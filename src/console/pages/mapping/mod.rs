//! The mapping in force, trying another one out, and taking up the file's.

mod trying;
mod words;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::Response;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use self::trying::Trial;
use crate::console::Console;
use crate::console::frame;
use crate::console::guard::Form;
use crate::console::json::text;
use crate::console::pieces::{Outcome, folded, moment, order};
use crate::console::session::Session;

const HERE: &str = "/console/mapping";

#[derive(Deserialize)]
pub struct Page {
    /// The position of a record that was picked elsewhere.
    #[serde(default)]
    record: String,
}

pub async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(page): Query<Page>,
) -> Markup {
    let body = parts(&console, &session, &Trial::of(page.record)).await;
    frame::page(&session, "Mapping", HERE, body)
}

/// Tries out what the form says, or takes up what the file says.
pub async fn act(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(form): Extension<Form>,
) -> Response {
    let trial = Trial::read(&form);
    let outcome = match form.get("order") {
        "reload" => reload(&console, &session).await,
        _ => trial.made(&console, &session).await,
    };
    let below = parts(&console, &session, &trial).await;
    outcome.on(|said| frame::page(&session, "Mapping", HERE, html! { (said) (below) }))
}

async fn reload(console: &Console, session: &Session) -> Outcome {
    match console.api.post(&session.caller, "/v1/mapping/reload").await {
        Ok(answer) => {
            let version = &answer["version"];
            let next = html! { p { "Dead letters that the old one is to blame for can now be sent again." } };
            match answer["changed"].as_bool() {
                Some(true) => Outcome::done(&format!("Version {} is in force.", version["number"]), next),
                _ => Outcome::done(
                    "The file says what is in force already.",
                    html! { p { "Change the mapping in the configuration file first." } },
                ),
            }
        }
        Err(refusal) => Outcome::refused(&refusal),
    }
}

async fn parts(console: &Console, session: &Session, trial: &Trial) -> Markup {
    let now = match console.api.get(&session.caller, "/v1/mapping").await {
        Ok(now) => now,
        Err(refusal) => return frame::refusal(&refusal),
    };
    let block = now["mapping"].as_object().map(words::written).unwrap_or_default();
    html! { (in_force(session, &now, &block)) (trial.form(session, &block)) }
}

fn in_force(session: &Session, now: &Value, block: &str) -> Markup {
    let version = &now["version"];
    html! {
        section .card aria-label="In force" {
            h2 { "Version " (version["number"]) span .badge .good { "in force" } }
            p { "Since " (moment(text(version, "since"))) ", " span .quiet { "hash " code { (text(version, "hash")) } } }
            (folded("What it says", block))
            @if session.operates() {
                p { "Change it in the configuration file, then have it taken up: it is checked whole first, its "
                    code { "mapping_tests" } " included, and what cannot be is refused." }
                (order(session, HERE, &[("order", "reload")], html! {
                    button .plain type="submit" data-confirm="Take up the mapping that the file has now?" { "Reload the file's mapping" }
                }))
            }
        }
    }
}
