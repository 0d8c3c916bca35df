//! Records that a vendor refused for good, with its answer; sending them again and letting them go.

mod orders;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use http::HeaderValue;
use http::header::CONTENT_DISPOSITION;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use self::orders::Order;
use crate::console::Console;
use crate::console::frame;
use crate::console::guard::Form;
use crate::console::json::{items, pretty, text};
use crate::console::pieces::{Choice, address, beside, choice, field, moment, unmasking, vendor};
use crate::console::session::Session;
use crate::settlement::DeadReason;

const HERE: &str = "/console/dead-letters";
const EXPORT: &str = "/console/dead-letters/export";

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Filter {
    destination: String,
    reason: String,
    since: String,
    cursor: String,
    unmask: bool,
}

impl Filter {
    /// What says which letters, as the API has it.
    fn which(&self) -> [(&'static str, &str); 3] {
        [("destination", &self.destination), ("reason", &self.reason), ("since", self.since.trim())]
    }

    fn is_set(&self) -> bool {
        self.which().iter().any(|(_, value)| !value.is_empty())
    }

    /// This page, from `cursor` on.
    fn address(&self, cursor: &str, unmask: bool) -> String {
        let [destination, reason, since] = self.which();
        let unmask = if unmask { "true" } else { "" };
        address(HERE, &[destination, reason, since, ("cursor", cursor), ("unmask", unmask)])
    }

    /// All letters of the filter, at `path`.
    fn all(&self, session: &Session, path: &str, rest: &[(&str, &str)]) -> String {
        let mut fields = self.which().to_vec();
        fields.push(("masked", session.masked(self.unmask)));
        fields.extend(rest);
        address(path, &fields)
    }
}

pub async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(filter): Query<Filter>,
) -> Markup {
    let list = listed(&console, &session, &filter).await;
    put_together(&session, html! {}, list)
}

/// Asks back, or does it.
pub async fn act(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(filter): Query<Filter>,
    Extension(form): Extension<Form>,
) -> Response {
    let outcome = Order::read(&form).given(&console, &session, &filter).await;
    let list = if outcome.is_question() {
        html! {}
    } else {
        listed(&console, &session, &filter).await
    };
    outcome.on(|said| put_together(&session, said, list))
}

/// The letters of the filter as a file, one JSON object a line.
pub async fn export(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(filter): Query<Filter>,
) -> Response {
    match console.api.stream(&session.caller, &filter.all(&session, "/v1/dead-letters/export", &[])).await {
        Ok(mut response) => {
            let name = HeaderValue::from_static("attachment; filename=\"dead-letters.ndjson\"");
            response.headers_mut().insert(CONTENT_DISPOSITION, name);
            response
        }
        Err(refusal) => (refusal.status, put_together(&session, frame::refusal(&refusal), html! {})).into_response(),
    }
}

fn put_together(session: &Session, said: Markup, list: Markup) -> Markup {
    frame::page(session, "Dead letters", HERE, html! { (said) (list) })
}

async fn listed(console: &Console, session: &Session, filter: &Filter) -> Markup {
    let path = filter.all(session, "/v1/dead-letters", &[("limit", "50"), ("cursor", &filter.cursor)]);
    let list = match console.api.get(&session.caller, &path).await {
        Ok(answer) => shown(session, filter, &answer),
        Err(refusal) => frame::refusal(&refusal),
    };
    html! { (search(filter)) (list) }
}

fn search(filter: &Filter) -> Markup {
    let destinations: [Choice<'_>; 3] = [("", "any"), ("mixpanel", "Mixpanel"), ("brevo", "Brevo")];
    let any: Choice<'_> = ("", "any");
    let reasons: Vec<Choice<'_>> =
        std::iter::once(any).chain(DeadReason::ALL.iter().map(|reason| (reason.label(), reason.label()))).collect();
    html! {
        form .row method="get" action=(HERE) role="search" {
            (choice("destination", "Destination", &destinations, &filter.destination))
            (choice("reason", "Reason", &reasons, &filter.reason))
            (field("since", "Died since", html! { input #since name="since" value=(filter.since) placeholder="2026-01-31T12:00:00Z"; }))
            @if filter.unmask { input type="hidden" name="unmask" value="true"; }
            button type="submit" { "Filter" }
        }
    }
}

fn shown(session: &Session, filter: &Filter, answer: &Value) -> Markup {
    let letters = items(answer, "items");
    if letters.is_empty() && answer["next"].is_null() {
        return match filter.is_set() {
            true => frame::empty("No dead letter is like that.", "Take something out of the filter above."),
            false => frame::empty(
                "No dead letters.",
                "A record that a vendor refuses for good is kept here with the vendor's words, to be sent again once the reason is mended.",
            ),
        };
    }
    html! {
        div .row {
            (unmasking(session, filter.unmask, &filter.address(&filter.cursor, !filter.unmask)))
            a href=(filter.all(session, EXPORT, &[("unmask", if filter.unmask { "true" } else { "" })])) { "Export as NDJSON" }
        }
        @if session.operates() { (orders::for_many(session, filter)) }
        ol .letters aria-label="Dead letters, oldest first" { @for letter in letters { (entry(session, filter, letter)) } }
        @if let Some(next) = answer["next"].as_str() { p { a href=(filter.address(next, filter.unmask)) { "More" } } }
    }
}

fn entry(session: &Session, filter: &Filter, letter: &Value) -> Markup {
    let id = text(letter, "id");
    html! {
        li .card {
            div .row {
                @if session.operates() {
                    input type="checkbox" name="id" value=(id) form=(orders::CHOSEN) aria-label={ "Choose " (id) };
                }
                strong { (vendor(text(letter, "destination"))) " refused this " (text(letter, "kind")) }
                span .badge .bad { (text(letter, "reason").replace('_', " ")) }
                span .quiet { (moment(text(letter, "died_at"))) " " code { (id) } }
            }
            (beside(&[
                ("The record", &pretty(&letter["record"])),
                ("The vendor's answer", &answer(text(letter, "answer"))),
            ]))
            @if session.operates() { (orders::for_one(session, filter, id)) }
            @else { p .quiet { "An operator can send it again." } }
        }
    }
}

/// A vendor answers in JSON more often than not; anything else is shown as it is.
fn answer(said: &str) -> String {
    serde_json::from_str::<Value>(said).map_or_else(|_| said.to_owned(), |said| pretty(&said))
}
