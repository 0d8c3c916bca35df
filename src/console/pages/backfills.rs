//! Bringing to Brevo what was there before the relay: asking for it, looking at it, calling it off.

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use http::Method;
use maud::{Markup, html};
use serde_json::{Map, Value, json};

use crate::console::Console;
use crate::console::api::Refusal;
use crate::console::frame::{self, duration, number};
use crate::console::guard::Form;
use crate::console::json::{count, encoded, items, text};
use crate::console::pieces::{Choice, Outcome, choice, column, field, figures, moment, order, table};
use crate::console::session::Session;

const HERE: &str = "/console/backfills";
const KINDS: [Choice<'_>; 2] = [("profiles", "profiles"), ("events", "events")];

pub async fn page(State(console): State<Console>, Extension(session): Extension<Session>) -> Markup {
    put_together(&console, &session, html! {}).await
}

/// The part that keeps itself up to date.
pub async fn live(State(console): State<Console>, Extension(session): Extension<Session>) -> Markup {
    runs(&console, &session).await
}

/// Begins one, or calls one off.
pub async fn act(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(form): Extension<Form>,
) -> Response {
    let outcome = match ordered(&console, &session, &form).await {
        Ok(what) => Outcome::done(&what, html! {}),
        Err(refusal) => Outcome::refused(&refusal),
    };
    let page = put_together(&console, &session, outcome.said().clone()).await;
    outcome.on(|_| page)
}

async fn ordered(console: &Console, session: &Session, form: &Form) -> Result<String, Refusal> {
    let id = form.get("cancel");
    if !id.is_empty() {
        let path = format!("/v1/backfills/{}/cancel", encoded(id));
        console.api.post(&session.caller, &path).await?;
        return Ok("It is called off. What it has brought stays.".to_owned());
    }
    let run = console.api.send(&session.caller, Method::POST, "/v1/backfills", &question(form)).await?;
    let dry = if run["dry_run"] == true { "Nothing is sent: it reads and counts. " } else { "" };
    Ok(match run["estimate_seconds"].as_f64() {
        Some(seconds) => format!("Begun. {dry}By the vendors' limits it takes about {}.", duration(seconds)),
        None => format!("Begun. {dry}How long it takes is known with its first page."),
    })
}

/// In the API's form.
fn question(form: &Form) -> Value {
    let mut question = Map::new();
    for key in ["what", "from", "to", "after"] {
        let value = form.get(key).trim();
        if !value.is_empty() {
            question.insert(key.to_owned(), value.into());
        }
    }
    let events: Vec<&str> = form
        .all("events")
        .iter()
        .flat_map(|names| names.lines())
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    question.insert("events".to_owned(), json!(events));
    for key in ["dry_run", "trigger_automations"] {
        question.insert(key.to_owned(), (!form.get(key).is_empty()).into());
    }
    question.into()
}

async fn put_together(console: &Console, session: &Session, said: Markup) -> Markup {
    let runs = runs(console, session).await;
    let body = html! {
        (said)
        @if session.operates() { (asking(session)) }
        section data-live={ (HERE) "/live" } data-every="3" { (runs) }
    };
    frame::page(session, "Backfills", HERE, body)
}

fn asking(session: &Session) -> Markup {
    html! {
        details .card {
            summary { "Begin a backfill" }
            form method="post" action=(HERE) {
                (frame::csrf(session))
                div .row {
                    (choice("what", "What", &KINDS, "profiles"))
                    (field("from", "From (events need it)", html! { input #from name="from" type="date"; }))
                    (field("to", "To, included", html! { input #to name="to" type="date"; }))
                }
                (field("events", "Only these events, one a line; without any, all that are mapped", html! { textarea .short #events name="events" {} }))
                label .check { input type="checkbox" name="dry_run" value="yes" checked; "Only read and count: nothing is sent" }
                label .check { input type="checkbox" name="trigger_automations" value="yes"; "Let old events set off Brevo's automations; the dry run of the same question shows how many first" }
                div .row { button type="submit" { "Begin" } }
            }
        }
    }
}

async fn runs(console: &Console, session: &Session) -> Markup {
    let answer = match console.api.get(&session.caller, "/v1/backfills").await {
        Ok(answer) => answer,
        Err(refusal) => return frame::refusal(&refusal),
    };
    let runs = items(&answer, "items");
    html! {
        @if runs.is_empty() {
            (frame::empty("There has been no backfill.", "Profiles and events of before this relay are brought to Brevo by one; begin with a dry run, which counts and sends nothing."))
        }
        ol .letters aria-label="Backfills, newest first" { @for run in runs { li .card { (shown(session, run)) } } }
    }
}

fn shown(session: &Session, run: &Value) -> Markup {
    let (id, state) = (text(run, "id"), text(run, "state"));
    let class = match state {
        "running" => "warn",
        "done" => "good",
        "failed" => "bad",
        _ => "",
    };
    let progress = &run["progress"];
    let span = [("from", text(run, "from")), ("to", text(run, "to"))];
    html! {
        div .row {
            strong { (text(run, "what")) @if run["dry_run"] == true { ", dry run" } }
            span .badge.(class) { (state) }
            @for (word, day) in span { @if !day.is_empty() { span { (word) " " (day) } } }
            span .quiet { (moment(text(run, "started_at"))) " " code { (id) } }
        }
        @if let Some(total) = progress["total"].as_u64() {
            progress aria-label="Progress" value=(count(progress, "done")) max=(total.max(1)) {}
        }
        p {
            (number(count(progress, "done")))
            @if let Some(total) = progress["total"].as_u64() { " of " (number(total)) }
            " " (text(progress, "unit"))
            @if let Some(left) = run["estimate_seconds"].as_f64().filter(|_| state == "running") { ", about " (duration(left)) " left" }
            "; " (number(count(run, "read"))) " read, " (number(count(run, "fed")))
            @if run["dry_run"] == true { " would be handed on" } @else { " handed on" }
            @if count(run, "new_people") > 0 { ", " (number(count(run, "new_people"))) " people new to the relay" }
            @if count(run, "without_address") > 0 { ", " (number(count(run, "without_address"))) " without an address" }
            @if count(run, "erased") > 0 { ", " (number(count(run, "erased"))) " left out as erased" }
        }
        @if let Some(failure) = run["failure"].as_str() { p .bad { (failure) } }
        (by_event(run))
        @if session.operates() && state == "running" {
            (order(session, HERE, &[("cancel", id)], html! {
                button .plain.danger type="submit" data-confirm="End this backfill? What it has brought stays." { "Call it off" }
            }))
        }
        @if session.operates() && state == "done" && run["dry_run"] == true { (do_it(session, run)) }
    }
}

/// The same question, for good.
fn do_it(session: &Session, run: &Value) -> Markup {
    let events: Vec<&str> = items(run, "events_asked_for").iter().filter_map(Value::as_str).collect();
    let events = events.join("\n");
    let triggers = if run["trigger_automations"] == true { "yes" } else { "" };
    let fields = [
        ("what", text(run, "what")),
        ("from", text(run, "from")),
        ("to", text(run, "to")),
        ("events", &events),
        ("trigger_automations", triggers),
        ("after", text(run, "id")),
    ];
    order(
        session,
        HERE,
        &fields,
        html! {
            button .plain type="submit" data-confirm="Bring all of this to Brevo?" { "Do it for good" }
        },
    )
}

fn by_event(run: &Value) -> Markup {
    let columns =
        [column("Event"), figures("Sent"), figures("Too old"), figures("Delivered already"), figures("Not mapped")];
    let rows = html! {
        @for (name, counts) in run["by_event"].as_object().into_iter().flatten() {
            tr {
                td { (name) }
                @for key in ["sent", "stale", "own_delivery", "not_mapped"] { td .number { (number(count(counts, key))) } }
            }
        }
    };
    html! {
        @if run["by_event"].as_object().is_some_and(|events| !events.is_empty()) { (table("By event", &columns, rows)) }
    }
}
