//! Records that a vendor refused for good, with its answer.

use axum::Extension;
use axum::extract::{Query, State};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::config::Role;
use crate::console::Console;
use crate::console::frame;
use crate::console::json::{encoded, items, pretty, text};
use crate::console::mask;
use crate::console::session::Session;

const HERE: &str = "/console/dead-letters";

#[derive(Default, Deserialize)]
pub struct Filter {
    #[serde(default)]
    destination: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    since: String,
    #[serde(default)]
    cursor: String,
    #[serde(default)]
    unmask: bool,
}

impl Filter {
    fn query(&self, cursor: &str) -> String {
        let fields =
            [("destination", &*self.destination), ("reason", &self.reason), ("since", &self.since), ("cursor", cursor)];
        let set = fields.into_iter().filter(|(_, value)| !value.is_empty());
        set.map(|(name, value)| format!("&{name}={}", encoded(value))).collect()
    }
}

pub async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(filter): Query<Filter>,
) -> Markup {
    let path = format!("/v1/dead-letters?limit=50{}", filter.query(&filter.cursor));
    let list = match console.api.get(&session.caller, &path).await {
        Ok(answer) => shown(&session, &filter, &answer),
        Err(refusal) => frame::refusal(&refusal),
    };
    frame::page(&session, "Dead letters", HERE, html! { (search(&filter)) (list) })
}

fn search(filter: &Filter) -> Markup {
    html! {
        form .row method="get" action=(HERE) role="search" {
            div {
                label for="destination" { "Destination" }
                select #destination name="destination" {
                    @for (value, name) in [("", "any"), ("mixpanel", "Mixpanel"), ("brevo", "Brevo")] {
                        option value=(value) selected[filter.destination == value] { (name) }
                    }
                }
            }
            div { label for="reason" { "Reason" } input #reason name="reason" value=(filter.reason); }
            div { label for="since" { "Died since" } input #since name="since" value=(filter.since) placeholder="2026-01-31T12:00:00Z"; }
            button type="submit" { "Filter" }
        }
    }
}

fn shown(session: &Session, filter: &Filter, answer: &Value) -> Markup {
    let letters = items(answer, "items");
    if letters.is_empty() {
        return frame::empty(
            "No dead letters.",
            "A record that a vendor refuses for good is kept here with the vendor's words.",
        );
    }
    let unmask = filter.unmask && session.caller.role >= Role::Operator;
    html! {
        @if !unmask && session.caller.role >= Role::Operator {
            p { a href={ (HERE) "?unmask=true" (filter.query(&filter.cursor)) } { "Show personal data" } }
        }
        div .wide tabindex="0" {
            table {
                caption { "Oldest first" }
                thead { tr { th scope="col" { "Died" } th scope="col" { "Where" } th scope="col" { "Kind" } th scope="col" { "Reason" } th scope="col" { "The vendor's answer" } th scope="col" { "Record" } } }
                tbody {
                    @for letter in letters {
                        tr {
                            td { (text(letter, "died_at")) br; code .quiet { (text(letter, "id")) } }
                            td { (text(letter, "destination")) } td { (text(letter, "kind")) } td { (text(letter, "reason")) }
                            td { (if unmask { text(letter, "answer").to_owned() } else { masked_answer(text(letter, "answer")) }) }
                            td { details { summary { "Show" } pre tabindex="0" { (pretty(&if unmask { letter["record"].clone() } else { mask::value(&letter["record"]) })) } } }
                        }
                    }
                }
            }
        }
        @if let Some(next) = answer["next"].as_str() { p { a href={ (HERE) "?" (filter.query(next).trim_start_matches('&')) } { "More" } } }
    }
}

/// A vendor may quote what it refuses: addresses in its words are masked.
fn masked_answer(answer: &str) -> String {
    let word = |word: &str| if word.contains('@') { mask::text(word) } else { word.to_owned() };
    answer.split(' ').map(word).collect::<Vec<_>>().join(" ")
}
