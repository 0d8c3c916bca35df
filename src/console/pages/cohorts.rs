//! Cohorts, and the runs that bring them into Brevo's lists.

use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use http::{HeaderMap, Method};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::console::Console;
use crate::console::frame::{self, duration, number};
use crate::console::guard::Form;
use crate::console::json::{count, items, text};
use crate::console::pieces::{Choice, Column, Outcome, address, choice, column, field, figures, moment, table};
use crate::console::session::Session;

use super::run_page::{self, Look, RunPage};

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
const PAGE: RunPage = RunPage {
    here: HERE,
    route: "/v1/cohorts/runs",
    title: "A cohort's run",
    way_back: "All runs",
    none: (
        "No cohort has been brought into a list.",
        "Begin a run above, or plan one under cohorts in the configuration.",
    ),
    columns: RUNS,
    id: "runId",
    unmatched: ("people", "distinct_id"),
    row,
    card,
};
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
    PAGE.table(&console, &session, "").await
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
        Ok(run) => PAGE.begun(&run),
        Err(refusal) => {
            let outcome = Outcome::refused(&refusal);
            let first = Page { cursor: String::new(), ask: false };
            let page = put_together(&console, &session, &first, outcome.said().clone()).await;
            outcome.on(|_| page)
        }
    }
}

async fn put_together(console: &Console, session: &Session, page: &Page, said: Markup) -> Markup {
    let runs = PAGE.section(console, session, &page.cursor).await;
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
        (runs)
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

fn row(run: &Value) -> Markup {
    html! {
        td { (PAGE.link(run, text(run, "askedAt"))) } td { (text(run, "cohortName")) }
        td .number { (run["listId"]) } td { (text(run, "syncMode")) } td { (state(run)) }
        (run_page::figures_of(run, &["membersCount", "added", "removed"]))
    }
}

fn state(run: &Value) -> Markup {
    html! {
        (run_page::state(run, ""))
        @if let Some(left) = run["estimateSeconds"].as_f64() { " " span .quiet { "about " (duration(left)) " left" } }
    }
}

pub async fn run(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    id: Path<String>,
    look: Query<Look>,
    headers: HeaderMap,
) -> Response {
    PAGE.show(&console, &session, id, look, &headers).await
}

fn card(_: &Session, run: &Value) -> Markup {
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
                (run_page::unmatched(run))
            }
        }
    }
}
