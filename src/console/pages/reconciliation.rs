//! What was delivered on a day beside what the vendors count.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::Method;
use maud::{Markup, html};
use serde_json::{Value, json};

use crate::console::Console;
use crate::console::frame::{self, number};
use crate::console::guard::Form;
use crate::console::json::{count, items, text};
use crate::console::pieces::{Column, Outcome, column, field, figures, moment, table, vendor};
use crate::console::session::Session;

const HERE: &str = "/console/reconciliation";
const COLUMNS: &[Column] = &[column("Event"), figures("Delivered"), figures("Counted there"), figures("Difference")];

pub async fn page(State(console): State<Console>, Extension(session): Extension<Session>) -> Markup {
    put_together(&console, &session, html! {}).await
}

/// Compares a day.
pub async fn act(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(form): Extension<Form>,
) -> Response {
    let day = form.get("day").trim();
    let order = if day.is_empty() { json!({}) } else { json!({ "day": day }) };
    let outcome = match console.api.send(&session.caller, Method::POST, "/v1/reconciliation", &order).await {
        Ok(report) => Outcome::done(&format!("{} is compared.", text(&report, "day")), html! {}),
        Err(refusal) => Outcome::refused(&refusal),
    };
    let page = put_together(&console, &session, outcome.said().clone()).await;
    outcome.on(|_| page)
}

async fn put_together(console: &Console, session: &Session, said: Markup) -> Markup {
    let reports = match console.api.get(&session.caller, "/v1/reconciliation").await {
        Ok(answer) => html! {
            @let reports = items(&answer, "items");
            @if reports.is_empty() {
                (frame::empty("No day has been compared yet.", "Every morning the day before is, from six o'clock on in the project's time zone; it costs one of Mixpanel's sixty queries an hour."))
            }
            @for report in reports { (shown(report)) }
        },
        Err(refusal) => frame::refusal(&refusal),
    };
    let body = html! {
        (said)
        @if session.operates() { section { (asking(session)) } }
        (reports)
    };
    frame::page(session, "Reconciliation", HERE, body)
}

fn asking(session: &Session) -> Markup {
    html! {
        form .card method="post" action=(HERE) {
            (frame::csrf(session))
            div .row {
                (field("day", "A day that is over; without one, yesterday", html! { input #day name="day" type="date"; }))
                button type="submit" { "Compare" }
            }
        }
    }
}

fn shown(report: &Value) -> Markup {
    html! {
        section {
            h2 { (text(report, "day")) }
            p .quiet { "Days of " (text(report, "timezone")) ", compared " (moment(text(report, "made_at"))) }
            @for side in items(report, "destinations") { (of(side)) }
        }
    }
}

/// One vendor's side.
fn of(side: &Value) -> Markup {
    let missing = side["missing"].as_u64();
    let class = match missing {
        Some(0) => "good",
        Some(_) => "bad",
        None => "warn",
    };
    html! {
        div .card {
            div .row {
                strong { (vendor(text(side, "destination"))) }
                span .badge.(class) {
                    @match missing {
                        Some(0) => "nothing is missing",
                        Some(missing) => { (number(missing)) " missing" },
                        None => "not counted",
                    }
                }
                span { (number(count(side, "delivered"))) " delivered" }
                @if let Some(counted) = side["counted"].as_u64() { span { (number(counted)) " counted there" } }
            }
            @if let Some(why) = side["not_counted"].as_str() { p { (why) } }
            @if !items(side, "events").is_empty() { (table("By name, the largest difference first", COLUMNS, rows(side))) }
            @if !items(side, "causes").is_empty() {
                ul { @for cause in items(side, "causes") {
                    li { @if let Some(records) = cause["records"].as_u64() { (number(records)) " " } (text(cause, "text")) }
                } }
            }
        }
    }
}

fn rows(side: &Value) -> Markup {
    html! {
        @for event in items(side, "events") {
            @let (delivered, counted) = (count(event, "delivered"), event["counted"].as_u64());
            tr {
                td { @if text(event, "name").is_empty() { "all other names" } @else { code { (text(event, "name")) } } }
                td .number { (number(delivered)) }
                td .number { @if let Some(counted) = counted { (number(counted)) } }
                td .number { @if let Some(counted) = counted { (difference(delivered, counted)) } }
            }
        }
    }
}

fn difference(delivered: u64, counted: u64) -> String {
    match counted.cmp(&delivered) {
        std::cmp::Ordering::Less => format!("−{}", number(delivered - counted)),
        std::cmp::Ordering::Equal => "0".to_owned(),
        std::cmp::Ordering::Greater => format!("+{}", number(counted - delivered)),
    }
}
