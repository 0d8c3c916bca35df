//! Is anything stuck, since when, why, and what to press.

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde_json::Value;

use crate::config::Role;
use crate::console::Console;
use crate::console::frame::{self, chart, duration, number};
use crate::console::json::{count, encoded, items, text};
use crate::console::pages::forecast;
use crate::console::pieces::{Outcome, address, column, figures, order, table, vendor as label};
use crate::console::pulse::Lines;
use crate::console::session::Session;

const HERE: &str = "/console";
/// A healthy destination's oldest record is younger than this.
const YOUNG: f64 = 60.0;

pub async fn page(State(console): State<Console>, Extension(session): Extension<Session>) -> Markup {
    let live = live(State(console), Extension(session.clone())).await;
    frame::page(&session, "Overview", HERE, html! { section data-live="/console/live" data-every="2" { (live) } })
}

/// The part that keeps itself up to date.
pub async fn live(State(console): State<Console>, Extension(session): Extension<Session>) -> Markup {
    match console.api.get(&session.caller, "/v1/status").await {
        Ok(status) => shown(&session, &status, &console.pulse.lines()),
        Err(refusal) => frame::refusal(&refusal),
    }
}

/// Pauses or resumes a destination.
pub async fn gate(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path((name, what)): Path<(String, String)>,
) -> Response {
    let path = format!("/v1/destinations/{}/{}", encoded(&name), encoded(&what));
    match console.api.post(&session.caller, &path).await {
        Ok(_) => Redirect::to(HERE).into_response(),
        Err(refusal) => Outcome::refused(&refusal).on(|said| frame::page(&session, "Overview", HERE, said)),
    }
}

fn shown(session: &Session, status: &Value, lines: &Lines) -> Markup {
    let legs = items(status, "destinations");
    html! {
        (verdict(status, legs))
        div .cards {
            @for (index, leg) in legs.iter().enumerate() {
                (destination(session, leg, lines.legs.get(index)))
            }
            (forecast::card(&status["brevo_forecast"]))
            (intake(status, lines))
            (budgets(status))
        }
    }
}

/// One sentence for each thing that is wrong, or that nothing is.
fn verdict(status: &Value, legs: &[Value]) -> Markup {
    let mut troubles: Vec<(bool, String, Markup)> = Vec::new();
    if let Some(why) = status["store"]["refuses"].as_str() {
        let next =
            "Free disk space, or give the store a larger disk: apps keep what they cannot send for a while only.";
        troubles.push((true, format!("Nothing is accepted: {why}."), html! { (next) }));
    }
    for leg in legs {
        let name = label(text(leg, "destination"));
        let waiting = format!(
            "{} records wait, the oldest since {}",
            number(count(leg, "backlog")),
            duration(leg["oldest_undelivered_seconds"].as_f64().unwrap_or_default()),
        );
        match text(&leg["state"], "is") {
            "paused" => {
                let advice = text(leg, "advice");
                troubles.push((true, format!("{name} is paused: {advice}."), html! { (waiting) "." (lasts(leg)) }));
            }
            "backing_off" => {
                let failures = count(&leg["state"], "failures");
                let why = format!("{name} does not answer, or answers with errors ({failures} times in a row).");
                troubles.push((true, why, html! { "The relay tries again by itself. " (waiting) "." (lasts(leg)) }));
            }
            _ if leg["oldest_undelivered_seconds"].as_f64().is_some_and(|age| age > YOUNG) => {
                let next = "Look at the budgets below: a call that has to wait for its vendor's limit waits here.";
                troubles.push((false, format!("{name} is behind: {waiting}."), html! { (next) }));
            }
            _ => {}
        }
        let dead = count(leg, "dead_letters");
        if dead > 0 {
            let why = match dead {
                1 => format!("One record was refused by {name} and is held as a dead letter."),
                dead => format!("{} records were refused by {name} and are held as dead letters.", number(dead)),
            };
            let path = address("/console/dead-letters", &[("destination", text(leg, "destination"))]);
            let next = html! { a href=(path) { "See each with the vendor's answer" } ", mend the reason, and send them again." };
            troubles.push((false, why, next));
        }
    }
    html! {
        @if troubles.is_empty() { div .verdict role="status" { p { strong { "Nothing is stuck." } } } }
        @for (bad, what, next) in &troubles {
            div .verdict .bad[*bad] .warn[!*bad] role="status" { p { strong { (what) } } p { (next) } }
        }
    }
}

fn lasts(leg: &Value) -> String {
    leg["disk_hours_left"]
        .as_f64()
        .map_or(String::new(), |hours| format!(" The disk lasts for {}.", duration(hours * 3600.0)))
}

fn destination(session: &Session, leg: &Value, lines: Option<&(Vec<f64>, Vec<f64>)>) -> Markup {
    let name = text(leg, "destination");
    let (class, state) = match text(&leg["state"], "is") {
        "paused" => ("bad", "paused"),
        "backing_off" => ("warn", "backing off"),
        _ => ("good", "open"),
    };
    let by_hand = leg["state"]["cause"] == "by_hand";
    let what = if class == "bad" { "resume" } else { "pause" };
    html! {
        section .card aria-label=(label(name)) {
            h2 { (label(name)) span .badge.(class) { (state) } }
            dl .facts {
                dt { "Waiting" } dd { (number(count(leg, "backlog"))) }
                dt { "Oldest" } dd { (duration(leg["oldest_undelivered_seconds"].as_f64().unwrap_or_default())) }
                @if let Some(hours) = leg["disk_hours_left"].as_f64() {
                    dt { "Disk lasts without it" } dd { (duration(hours * 3600.0)) }
                }
                dt { "Delivered" } dd { (number(count(leg, "delivered"))) }
                dt { "Skipped by a rule" } dd { (number(count(leg, "skipped"))) }
                dt { "Parked" } dd { (number(count(leg, "parked"))) }
                dt { "Dead letters" } dd { a href={ "/console/dead-letters?destination=" (name) } { (number(count(leg, "dead_letters"))) } }
                @if count(leg, "not_placed") > 0 { dt { "Values without a place" } dd { (number(count(leg, "not_placed"))) } }
                @if count(leg, "conflicts") > 0 { dt { "Identifiers of somebody else" } dd { (number(count(leg, "conflicts"))) } }
                @if leg["groups"].is_object() && count(&leg["groups"], "owed") > 0 {
                    dt { "Companies owed" }
                    dd { (number(count(&leg["groups"], "owed"))) ", about " (duration(leg["groups"]["estimated_hours"].as_f64().unwrap_or_default() * 3600.0)) }
                }
            }
            @if let Some((rate, backlog)) = lines.filter(|(rate, _)| rate.len() > 1) {
                (chart(&format!("Settled a second, now {:.0}", rate.last().copied().unwrap_or_default()), rate))
                (chart(&format!("Waiting, now {:.0}", backlog.last().copied().unwrap_or_default()), backlog))
            }
            @if session.caller.role >= Role::Operator {
                (order(session, &format!("/console/destinations/{name}/{what}"), &[], html! {
                    button .plain type="submit" data-confirm=[(what == "pause").then(|| format!("Pause {}?", label(name)))] {
                        @if what == "pause" { "Pause " (label(name)) }
                        @else if by_hand { "Resume " (label(name)) }
                        @else { "Try " (label(name)) " now" }
                    }
                }))
            }
        }
    }
}

fn intake(status: &Value, lines: &Lines) -> Markup {
    let store = &status["store"];
    html! {
        section .card aria-label="Accepted" {
            h2 { "Accepted" }
            dl .facts {
                dt { "Events" } dd { (number(count(&status["accepted"], "event"))) }
                dt { "Profile updates" } dd { (number(count(&status["accepted"], "profile"))) }
                dt { "Group updates" } dd { (number(count(&status["accepted"], "group"))) }
                dt { "In the journal" } dd { (number(count(store, "records"))) " records, " (bytes(count(store, "bytes"))) }
                dt { "Room left" } dd { (bytes(count(store, "room"))) }
                dt { "Version" } dd { (text(status, "version")) }
            }
            @if lines.accepted.len() > 1 {
                (chart(&format!("Accepted a second, now {:.0}", lines.accepted.last().copied().unwrap_or_default()), &lines.accepted))
            }
        }
    }
}

fn budgets(status: &Value) -> Markup {
    let columns = [column("Vendor"), column("For"), figures("Left"), column("Of")];
    let rows = html! {
        @for budget in items(status, "budgets") {
            tr {
                td { (label(text(budget, "vendor"))) } td { (text(budget, "family").replace('_', " ")) }
                td .number .bad[count(budget, "remaining") == 0] { (number(count(budget, "remaining"))) }
                td { (number(count(budget, "limit"))) " in " (duration(budget["seconds"].as_f64().unwrap_or_default())) }
            }
        }
    };
    html! {
        section .card aria-label="Budgets" {
            h2 { "Budgets" }
            (table("Calls that each vendor still allows", &columns, rows))
        }
    }
}

fn bytes(count: u64) -> String {
    bytesize::ByteSize::b(count).display().iec().to_string()
}
