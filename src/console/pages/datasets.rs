//! Data sets: how each stands, its runs, and running one after what it would change has been looked at.

use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::console::Console;
use crate::console::api::Refusal;
use crate::console::frame::{self, duration, number};
use crate::console::guard::Form;
use crate::console::json::{count, encoded, items, text};
use crate::console::pieces::{Column, Outcome, column, figures, moment, order};
use crate::console::session::Session;

use super::run_page::{self, Look, RunPage};

const HERE: &str = "/console/datasets";
const RUNS: &[Column] = &[
    column("Asked"),
    column("Data set"),
    column("State"),
    figures("Rows"),
    figures("People"),
    figures("Matched"),
    figures("Changed"),
];
const PAGE: RunPage = RunPage {
    here: HERE,
    route: "/v1/datasets/runs",
    title: "A data set's run",
    way_back: "All data sets and runs",
    none: ("No data set has been run.", "Each is shown first: a dry run says what it would change."),
    columns: RUNS,
    id: "id",
    unmatched: ("unmatched_people", "Id"),
    row,
    card: run_card,
};

#[derive(Default, Deserialize)]
pub struct Page {
    #[serde(default)]
    cursor: String,
}

pub async fn page(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Query(page): Query<Page>,
) -> Markup {
    put_together(&console, &session, &page.cursor, html! {}).await
}

/// The part that keeps itself up to date.
pub async fn live(State(console): State<Console>, Extension(session): Extension<Session>) -> Markup {
    PAGE.table(&console, &session, "").await
}

/// Shows what a data set would change, or changes it.
pub async fn act(
    State(console): State<Console>,
    Extension(session): Extension<Session>,
    Extension(form): Extension<Form>,
) -> Response {
    match ordered(&console, &session, &form).await {
        Ok(run) => PAGE.begun(&run),
        Err(refusal) => {
            let outcome = Outcome::refused(&refusal);
            let page = put_together(&console, &session, "", outcome.said().clone()).await;
            outcome.on(|_| page)
        }
    }
}

/// For good only what has been looked at: the form says by which definition that was.
async fn ordered(console: &Console, session: &Session, form: &Form) -> Result<Value, Refusal> {
    let (name, dry_run, force) = (form.get("name"), !form.get("dry_run").is_empty(), !form.get("force").is_empty());
    if !dry_run {
        let answer = console.api.get(&session.caller, "/v1/datasets").await?;
        let dataset = items(&answer, "datasets").iter().find(|dataset| text(dataset, "name") == name);
        if dataset.is_some_and(|dataset| text(dataset, "definition") != form.get("definition")) {
            return Err(Refusal {
                status: StatusCode::CONFLICT,
                message: "The definition has changed since you looked at what it would change.".to_owned(),
                hint: "Look at it again: another dry run shows what it would change now.".to_owned(),
            });
        }
    }
    let path = format!("/v1/datasets/{}/run", encoded(name));
    let asked = json!({ "dry_run": dry_run, "force": force });
    console.api.send(&session.caller, Method::POST, &path, &asked).await
}

async fn put_together(console: &Console, session: &Session, cursor: &str, said: Markup) -> Markup {
    let (sets, runs) = (sets(console, session).await, PAGE.section(console, session, cursor).await);
    let body = html! {
        (said)
        (sets)
        (runs)
    };
    frame::page(session, "Data sets", HERE, body)
}

async fn sets(console: &Console, session: &Session) -> Markup {
    let answer = match console.api.get(&session.caller, "/v1/datasets").await {
        Ok(answer) => answer,
        Err(refusal) => return frame::refusal(&refusal),
    };
    let sets = items(&answer, "datasets");
    html! {
        @if sets.is_empty() {
            (frame::empty("There is no data set.", "What a JQL script or a saved report says of people becomes attributes and a list's members: write one under datasets in the configuration."))
        }
        div .cards { @for set in sets { (card(session, set)) } }
    }
}

fn card(session: &Session, set: &Value) -> Markup {
    let question = &set["question"];
    let problem = set["problem"].as_str();
    let last = &set["last_run"];
    html! {
        section .card aria-label={ "Data set " (text(set, "name")) } {
            h2 {
                (text(set, "name"))
                @match (problem, set["confirmed"].as_bool()) {
                    (Some(_), _) => span .badge .bad { "cannot be run" },
                    (_, Some(true)) => span .badge .good { "confirmed" },
                    _ => span .badge .warn { "not shown yet" },
                }
            }
            @if let Some(problem) = problem { p .bad { (problem) } }
            dl .facts {
                @if let Some(script) = question["jql"].as_str() { dt { "Script" } dd { code { (script) } } }
                @if let Some(report) = question["insights"].as_u64() { dt { "Report" } dd { (report) } }
                @for (of, attribute) in set["attributes"].as_object().into_iter().flatten() {
                    dt { "Column " code { (of) } } dd { (attribute.as_str().unwrap_or_default()) }
                }
                @if let Some(list) = set["list"].as_i64() { dt { "List" } dd { (list) ", " (text(set, "mode")) } }
                dt { "Every" } dd { (duration(set["every_seconds"].as_f64().unwrap_or_default())) }
                dt { "Next" } dd { (moment(text(set, "next_at"))) }
                dt { "Definition" } dd { code { (text(set, "definition")) } }
                @if last.is_object() { dt { "Last run" } dd { (to_run(last)) " " (state(last)) } }
            }
            @if session.operates() && problem.is_none() { (orders(session, set)) }
        }
    }
}

fn orders(session: &Session, set: &Value) -> Markup {
    let (name, definition) = (text(set, "name"), text(set, "definition"));
    html! {
        div .row {
            (order(session, HERE, &[("name", name), ("dry_run", "yes")], html! {
                button .plain type="submit" { "Show what " (name) " would change" }
            }))
            @if set["confirmed"] == true {
                (order(session, HERE, &[("name", name), ("definition", definition)], html! {
                    button .plain type="submit" data-confirm={ "Run " (name) " for good now?" } { "Run " (name) " now" }
                }))
            }
        }
    }
}

fn to_run(run: &Value) -> Markup {
    PAGE.link(run, text(run, "asked_at"))
}

fn row(run: &Value) -> Markup {
    html! {
        td { (to_run(run)) } td { (text(run, "dataset")) } td { (state(run)) }
        (run_page::figures_of(run, &["rows", "people", "matched", "changed"]))
    }
}

fn state(run: &Value) -> Markup {
    run_page::state(run, if run["dry_run"] == true { ", dry run" } else { "" })
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

fn run_card(session: &Session, run: &Value) -> Markup {
    let dry = run["dry_run"] == true;
    html! {
        section .card aria-label="The run" {
            h2 { (text(run, "dataset")) " " (state(run)) }
            @if let Some(why) = run["why"].as_str() { p { strong { (why) } } }
            dl .facts {
                dt { "Asked" } dd { (moment(text(run, "asked_at"))) }
                @if let Some(at) = run["finished_at"].as_str() { dt { "Ended" } dd { (moment(at)) } }
                dt { "Definition" } dd { code { (text(run, "definition")) } }
                @for (key, label) in [
                    ("rows", "Rows"), ("people", "People in them"), ("repeated", "Rows about somebody once more"),
                    ("matched", "Matched"), ("changed", if dry { "People it would change" } else { "People changed" }),
                ] { dt { (label) } dd { (number(count(run, key))) } }
                @for (attribute, people) in run["attributes"].as_object().into_iter().flatten() {
                    dt { (attribute) } dd { (number(people.as_u64().unwrap_or_default())) }
                }
                (list(&run["list"], dry))
                (run_page::unmatched(run))
                @for (key, label) in [("queries", "Queries"), ("contact_writes", "Contact writes"), ("list_calls", "List calls")] {
                    dt { "At most: " (label) } dd { (number(count(&run["costs"], key))) }
                }
            }
            @if session.operates() && dry && run["status"] == "done" { (for_good(session, run)) }
        }
    }
}

fn list(list: &Value, dry: bool) -> Markup {
    let labels = if dry {
        [("to_add", "Would come into the list"), ("to_remove", "Would leave it"), ("already_in", "In it already")]
    } else {
        [("added", "Came into the list"), ("removed", "Left it"), ("already_in", "In it already")]
    };
    html! {
        @if list.is_object() { @for (key, label) in labels { dt { (label) } dd { (number(count(list, key))) } } }
    }
}

/// What has just been looked at, by the same definition.
fn for_good(session: &Session, run: &Value) -> Markup {
    let fields = [("name", text(run, "dataset")), ("definition", text(run, "definition"))];
    order(
        session,
        HERE,
        &fields,
        html! {
            label .check { input type="checkbox" name="force" value="yes"; "Past the brake on removals" }
            button type="submit" data-confirm="Change it, now and whenever it is due?" { "Change it, now and whenever it is due" }
        },
    )
}
