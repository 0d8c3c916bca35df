//! What has just been accepted, and what became of it: the live tail, and the way of one record.

use axum::Extension;
use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::console::Console;
use crate::console::frame;
use crate::console::json::{items, pretty, text};
use crate::console::pieces::{Choice, address, beside, choice, fate, field, moment, unmasking, vendor};
use crate::console::session::Session;

const HERE: &str = "/console/records";
const LIVE: &str = "/console/records/live";
const SHOWN: &str = "30";
const KINDS: [Choice<'_>; 4] =
    [("", "any"), ("event", "events"), ("profile", "profile updates"), ("group", "group updates")];
const OUTCOMES: [Choice<'_>; 7] = [
    ("", "any"),
    ("delivered", "delivered"),
    ("skipped", "skipped"),
    ("backlog", "waiting"),
    ("parked", "parked"),
    ("dead", "refused"),
    ("settled", "done, not known how"),
];
const DESTINATIONS: [Choice<'_>; 3] = [("", "either"), ("mixpanel", "Mixpanel"), ("brevo", "Brevo")];
const BY: [Choice<'_>; 3] = [("distinct_id", "distinct_id"), ("email", "email"), ("insert_id", "$insert_id")];

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Filter {
    kind: String,
    event: String,
    outcome: String,
    destination: String,
    by: String,
    of: String,
    cursor: String,
    unmask: bool,
}

impl Filter {
    fn named(&self) -> [(&str, &str); 6] {
        [
            ("kind", &self.kind),
            ("event", self.event.trim()),
            ("outcome", &self.outcome),
            ("destination", &self.destination),
            ("by", &self.by),
            ("of", self.of.trim()),
        ]
    }

    fn address(&self, path: &str, cursor: &str, unmask: bool) -> String {
        let mut fields = self.named().to_vec();
        fields.push(("cursor", cursor));
        fields.push(("unmask", if unmask { "true" } else { "" }));
        address(path, &fields)
    }

    /// As the API has it.
    fn asked(&self, session: &Session) -> String {
        let by = BY.iter().map(|(by, _)| *by).find(|by| *by == self.by).unwrap_or("distinct_id");
        let fields = [
            ("limit", SHOWN),
            ("kind", &self.kind),
            ("event", self.event.trim()),
            ("outcome", &self.outcome),
            ("destination", &self.destination),
            (by, self.of.trim()),
            ("cursor", &self.cursor),
            ("masked", session.masked(self.unmask)),
        ];
        address("/v1/trace", &fields)
    }

    fn is_set(&self) -> bool {
        [&self.kind, &self.event, &self.outcome, &self.destination, &self.of]
            .iter()
            .any(|value| !value.trim().is_empty())
    }
}

pub async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(filter): Query<Filter>,
) -> Markup {
    let shown = shown(&console, &session, &filter).await;
    let body = html! {
        (search(&filter))
        p { (unmasking(&session, filter.unmask, &filter.address(HERE, &filter.cursor, !filter.unmask))) }
        // Older ones stay as they are.
        @if filter.cursor.is_empty() {
            section data-live=(filter.address(LIVE, "", filter.unmask)) data-every="5" { (shown) }
        } @else { (shown) }
    };
    frame::page(&session, "Records", HERE, body)
}

/// The part that keeps itself up to date.
pub async fn live(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(filter): Query<Filter>,
) -> Markup {
    shown(&console, &session, &filter).await
}

fn search(filter: &Filter) -> Markup {
    html! {
        form .row method="get" action=(HERE) role="search" {
            (choice("kind", "Kind", &KINDS, &filter.kind))
            (field("event", "Event", html! { input #event name="event" value=(filter.event) placeholder="Purchase"; }))
            (choice("outcome", "Which", &OUTCOMES, &filter.outcome))
            (choice("destination", "at", &DESTINATIONS, &filter.destination))
            (choice("by", "Found by", &BY, &filter.by))
            (field("of", "which is", html! { input #of name="of" value=(filter.of); }))
            @if filter.unmask { input type="hidden" name="unmask" value="true"; }
            button type="submit" { "Filter" }
        }
    }
}

async fn shown(console: &Console, session: &Session, filter: &Filter) -> Markup {
    let answer = match console.api.get(&session.caller, &filter.asked(session)).await {
        Ok(answer) => answer,
        Err(refusal) => return frame::refusal(&refusal),
    };
    let records = items(&answer, "items");
    html! {
        @if records.is_empty() && answer["next"].is_null() {
            @if filter.is_set() {
                (frame::empty("No record is like that.", "Only the last ones are kept (retention.history). Take something out of the filter above."))
            } @else {
                (frame::empty("Nothing has been accepted yet.", "Point an SDK's host at this relay, and its records appear here."))
            }
        }
        // What is looked for by how it stands is looked for among so many at a time.
        @if records.is_empty() && !answer["next"].is_null() {
            p .quiet { "None of these is like that; there are older ones." }
        }
        ol .letters aria-label="Records, newest first" { @for record in records { (entry(record)) } }
        @if let Some(next) = answer["next"].as_str() {
            p { a href=(filter.address(HERE, next, filter.unmask)) { "Older ones" } }
        }
    }
}

fn entry(item: &Value) -> Markup {
    let record = &item["record"];
    let name = match (record["event"].as_str(), text(item, "kind")) {
        (Some(event), _) => event.to_owned(),
        (None, kind) => format!("{kind} update"),
    };
    let legs = ["mixpanel", "brevo"].map(|leg| (leg, &item["destinations"][leg]));
    html! {
        li .card {
            div .row {
                strong { (name) }
                @for (leg, standing) in legs { (outcome(leg, standing)) }
                span .quiet { (moment(text(item, "received_at"))) " " code { (text(item, "position")) } " from " (origin(&item["origin"])) }
            }
            @for (leg, standing) in legs { (why(leg, standing)) }
            details {
                summary { "The record, and what Brevo gets of it" }
                p { a href=(address("/console/mapping", &[("record", text(item, "position"))])) { "Try a mapping on it" } }
                (beside(&[("The record", &pretty(record)), ("By today's mapping", &fate(&legs[1].1["mapping"]))]))
            }
        }
    }
}

fn origin(origin: &Value) -> String {
    origin.as_str().map_or_else(|| "elsewhere".to_owned(), |origin| origin.replace('_', " "))
}

fn outcome(leg: &str, standing: &Value) -> Markup {
    let outcome = text(standing, "outcome");
    let (class, word) = match outcome {
        "dead" => ("bad", "refused"),
        "backlog" => ("warn", "waits"),
        "parked" => ("warn", "parked"),
        "skipped" => ("", "skipped"),
        "delivered" => ("good", "delivered"),
        _ => ("", "done"),
    };
    html! { span .badge.(class) { (vendor(leg)) ": " (word) } }
}

/// The reason, where there is one.
fn why(leg: &str, standing: &Value) -> Markup {
    let told = ["explanation", "why", "answer"].map(|key| text(standing, key));
    let told = told.into_iter().find(|told| !told.is_empty());
    let at = text(standing, "at");
    html! {
        @if told.is_some() || !at.is_empty() {
            p {
                span .quiet { (vendor(leg)) ": " }
                @if let Some(told) = told { (told) " " }
                @if let Some(last) = standing["with"].as_str() {
                    "written together with later updates of its person or group, up to " code { (last) } " "
                }
                @if !at.is_empty() { span .quiet { (moment(at)) } }
            }
        }
        @if let Some(id) = standing["dead_letter"].as_str() {
            p { a href=(address("/console/dead-letters", &[("destination", leg)])) { "To its dead letter" } " " code { (id) } }
        }
    }
}
