//! Cohorts, and the runs that bring them into Brevo's lists.

use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use http::{HeaderMap, Method};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::console::Console;
use crate::console::frame::{self, duration, number};
use crate::console::guard::Form;
use crate::console::json::{count, encoded, items, text};
use crate::console::pieces::{
    Choice, Column, Outcome, address, choice, column, field, figures, moment, table, unmasking,
};
use crate::console::session::Session;

const HERE: &str = "/console/cohorts";
const MODES: [Choice<'_>; 3] = [("mirror", "mirror: exactly these"), ("add", "add"), ("remove", "remove")];
const RUNS: &[Column] = &[
    column("Asked"),
    column("Cohort"),
    figures("List"),
    column("Mode"),
    column("State"),
    figures("Members"),
    figures("Added"),
    figures("Removed"),
];
const COHORTS: &[Column] =
    &[figures("Id"), column("Name"), figures("People"), figures("Queries a run"), column("Goes to")];

#[derive(Deserialize)]
pub struct Page {
    #[serde(default)]
    cursor: String,
    /// Whether Mixpanel is asked for its cohorts, which costs a query.
    #[serde(default)]
    ask: bool,
}

pub async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(page): Query<Page>,
) -> Markup {
    put_together(&console, &session, &page, html! {}).await
}

/// The part that keeps itself up to date.
pub async fn live(State(console): State<Console>, Extension(session): Extension<Session>) -> Markup {
    runs(&console, &session, "").await
}

/// Brings a cohort into a list.
pub async fn begin(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(form): Extension<Form>,
) -> Response {
    let asked = json!({
        "cohortId": form.get("cohort").trim(), "targetList": form.get("list").trim(), "syncMode": form.get("mode"),
        "force": !form.get("force").is_empty(),
    });
    match console.api.send(&session.caller, Method::POST, "/v1/cohorts/runs", &asked).await {
        Ok(run) => Redirect::to(&format!("{HERE}/runs/{}", encoded(text(&run, "runId")))).into_response(),
        Err(refusal) => {
            let outcome = Outcome::refused(&refusal);
            let first = Page { cursor: String::new(), ask: false };
            let page = put_together(&console, &session, &first, outcome.said().clone()).await;
            outcome.on(|_| page)
        }
    }
}

async fn put_together(console: &Console, session: &Session, page: &Page, said: Markup) -> Markup {
    let runs = runs(console, session, &page.cursor).await;
    let cohorts = if page.ask {
        cohorts(console, session).await
    } else {
        html! {}
    };
    let body = html! {
        (said)
        @if session.operates() { (asking(session)) }
        p { a href=(address(HERE, &[("ask", "true")])) { "Ask Mixpanel for its cohorts" } span .quiet { " (one of the hour's 60 queries)" } }
        (cohorts)
        h2 { "Runs" }
        @if page.cursor.is_empty() { section data-live={ (HERE) "/live" } data-every="3" { (runs) } } @else { (runs) }
    };
    frame::page(session, "Cohorts", HERE, body)
}

fn asking(session: &Session) -> Markup {
    html! {
        form method="post" action=(HERE) {
            (frame::csrf(session))
            div .row {
                (field("cohort", "Cohort's id", html! { input #cohort name="cohort" inputmode="numeric" required; }))
                (field("list", "List's id or name", html! { input #list name="list" required; }))
                (choice("mode", "Mode", &MODES, "mirror"))
                label .check { input type="checkbox" name="force" value="yes"; "Past the brake on removals" }
                button type="submit" { "Bring it into the list" }
            }
        }
    }
}

async fn cohorts(console: &Console, session: &Session) -> Markup {
    let answer = match console.api.get(&session.caller, "/v1/cohorts").await {
        Ok(answer) => answer,
        Err(refusal) => return frame::refusal(&refusal),
    };
    let cohorts = items(&answer, "cohorts");
    if cohorts.is_empty() {
        return frame::empty("The project has no cohorts.", "Save one at Mixpanel, then ask again.");
    }
    let target = |target: &Value| {
        let every =
            target["everySeconds"].as_f64().map_or(String::new(), |every| format!(", every {}", duration(every)));
        format!("list {}, {}{every}", target["listId"], text(target, "syncMode"))
    };
    let rows = html! {
        @for cohort in cohorts {
            tr {
                td .number { (cohort["id"]) } td { (text(cohort, "name")) } td .number { (number(count(cohort, "count"))) }
                td .number { (number(count(cohort, "queries"))) }
                td {
                    @for one in items(cohort, "targets") { (target(one)) br; }
                    @if cohort["betterPushed"] == true { span .quiet { "large: have Mixpanel push it (docs/cohorts.md)" } }
                }
            }
        }
    };
    table("Mixpanel's cohorts", COHORTS, rows)
}

async fn runs(console: &Console, session: &Session, cursor: &str) -> Markup {
    let path = address("/v1/cohorts/runs", &[("limit", "50"), ("cursor", cursor)]);
    let answer = match console.api.get(&session.caller, &path).await {
        Ok(answer) => answer,
        Err(refusal) => return frame::refusal(&refusal),
    };
    let runs = items(&answer, "items");
    if runs.is_empty() {
        return frame::empty(
            "No cohort has been brought into a list.",
            "Begin a run above, or plan one under cohorts in the configuration.",
        );
    }
    let rows = html! {
        @for run in runs {
            tr {
                td { a href={ (HERE) "/runs/" (encoded(text(run, "runId"))) } { (moment(text(run, "askedAt"))) } }
                td { (text(run, "cohortName")) } td .number { (run["listId"]) } td { (text(run, "syncMode")) }
                td { (state(run)) }
                @for key in ["membersCount", "added", "removed"] { td .number { (number(count(run, key))) } }
            }
        }
    };
    html! {
        (table("Newest first", RUNS, rows))
        @if let Some(next) = answer["next"].as_str() { p { a href=(address(HERE, &[("cursor", next)])) { "Older ones" } } }
    }
}

fn state(run: &Value) -> Markup {
    let (class, word) = match text(run, "status") {
        "running" => ("warn", text(run, "stage")),
        "done" => ("good", "done"),
        "observed" => ("good", "compared only"),
        "stopped" => ("bad", "stopped by the brake"),
        "failed" => ("bad", "failed"),
        other => ("", other),
    };
    html! {
        span .badge.(class) { (word.replace('_', " ")) }
        @if let Some(left) = run["estimateSeconds"].as_f64() { " " span .quiet { "about " (duration(left)) " left" } }
    }
}

#[derive(Deserialize)]
pub struct Look {
    #[serde(default)]
    unmask: bool,
}

/// One run, with the people who could not be matched.
pub async fn run(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Path(id): Path<String>,
    Query(look): Query<Look>,
    headers: HeaderMap,
) -> Response {
    let path = format!("/v1/cohorts/runs/{}", encoded(&id));
    match console.api.get(&session.caller, &address(&path, &[("masked", session.masked(look.unmask))])).await {
        Ok(run) => {
            let inside = one(&session, &run, look.unmask);
            // Only itself, once more, for as long as the run is under way.
            if headers.contains_key(frame::FRAGMENT) {
                return inside.into_response();
            }
            let to =
                address(&format!("{HERE}/runs/{}", encoded(&id)), &[("unmask", if look.unmask { "true" } else { "" })]);
            let live = (run["status"] == "running").then_some(to);
            let body = html! {
                section data-live=[live] data-every="2" { (inside) }
                p { a href=(HERE) { "All runs" } }
            };
            frame::page(&session, "A cohort's run", HERE, body).into_response()
        }
        Err(refusal) => Outcome::refused(&refusal).on(|said| frame::page(&session, "A cohort's run", HERE, said)),
    }
}

fn one(session: &Session, run: &Value, unmask: bool) -> Markup {
    let people = items(run, "people");
    let here = format!("{HERE}/runs/{}", encoded(text(run, "runId")));
    html! {
        section .card aria-label="The run" {
            h2 { (text(run, "cohortName")) " into list " (run["listId"]) " " (state(run)) }
            @if let Some(why) = run["why"].as_str() { p { strong { (why) } } }
            dl .facts {
                dt { "Asked" } dd { (moment(text(run, "askedAt"))) }
                @if let Some(at) = run["finishedAt"].as_str() { dt { "Ended" } dd { (moment(at)) } }
                dt { "Mode" } dd { (text(run, "syncMode")) @if run["force"] == true { ", past the brake" } }
                @for (key, label) in [
                    ("membersCount", "Members"), ("listBefore", "In the list before"), ("alreadyInList", "In it already"),
                    ("added", "Added"), ("created", "Of those, new contacts"), ("toRemove", "To be taken out"),
                    ("removed", "Taken out"), ("queries", "Queries of Mixpanel"), ("listCalls", "Calls of Brevo's lists"),
                ] { dt { (label) } dd { (number(count(run, key))) } }
                @for (why, people) in run["unmatched"].as_object().into_iter().flatten() {
                    dt { "Not matched: " (why.replace('_', " ")) } dd { (number(people.as_u64().unwrap_or_default())) }
                }
            }
        }
        @if !people.is_empty() {
            h2 { "Not matched" }
            p { (unmasking(session, unmask, &address(&here, &[("unmask", if unmask { "" } else { "true" })]))) }
            (table("The first thousand", &[column("distinct_id"), column("Why")], html! {
                @for one in people { tr { td { code { (text(one, "distinct_id")) } } td { (text(one, "why").replace('_', " ")) } } }
            }))
        }
    }
}
