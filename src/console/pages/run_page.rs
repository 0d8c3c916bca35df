//! Runs, as the pages of cohorts and of data sets show them: a table, newest first, and one run with the people whom it
//! could not match. What a run is about is the page's own.

use axum::extract::{Path, Query};
use axum::response::{IntoResponse as _, Redirect, Response};
use http::HeaderMap;
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use crate::console::Console;
use crate::console::frame::{self, number};
use crate::console::json::{count, encoded, items, text};
use crate::console::pieces::{Column, Outcome, address, column, moment, table, unmasking};
use crate::console::session::Session;

/// The runs of one page.
pub struct RunPage {
    /// The page's address; a run's is below it.
    pub here: &'static str,
    /// The route that lists the runs; one run's is below it.
    pub route: &'static str,
    pub title: &'static str,
    pub way_back: &'static str,
    /// What there is to say, and to do, when there are none.
    pub none: (&'static str, &'static str),
    pub columns: &'static [Column],
    /// The key of a run's id.
    pub id: &'static str,
    /// The key of the people who could not be matched, and what their ids are called.
    pub unmatched: (&'static str, &'static str),
    /// The cells of a run's row.
    pub row: fn(&Value) -> Markup,
    /// The card with what one run came to.
    pub card: fn(&Session, &Value) -> Markup,
}

#[derive(Deserialize)]
pub struct Look {
    #[serde(default)]
    unmask: bool,
}

impl RunPage {
    fn address_of(&self, run: &Value) -> String {
        format!("{}/runs/{}", self.here, encoded(text(run, self.id)))
    }

    /// A run by the time at which it was asked for.
    pub fn link(&self, run: &Value, asked: &str) -> Markup {
        html! { a href=(self.address_of(run)) { (moment(asked)) } }
    }

    /// To the run that has just been begun.
    pub fn begun(&self, run: &Value) -> Response {
        Redirect::to(&self.address_of(run)).into_response()
    }

    /// The table with its title, for a page. Its first part keeps itself up to date.
    pub async fn section(&self, console: &Console, session: &Session, cursor: &str) -> Markup {
        let runs = self.table(console, session, cursor).await;
        html! {
            h2 { "Runs" }
            @if cursor.is_empty() { section data-live={ (self.here) "/live" } data-every="3" { (runs) } } @else { (runs) }
        }
    }

    pub async fn table(&self, console: &Console, session: &Session, cursor: &str) -> Markup {
        let path = address(self.route, &[("limit", "50"), ("cursor", cursor)]);
        let answer = match console.api.get(&session.caller, &path).await {
            Ok(answer) => answer,
            Err(refusal) => return frame::refusal(&refusal),
        };
        let runs = items(&answer, "items");
        if runs.is_empty() {
            return frame::empty(self.none.0, self.none.1);
        }
        html! {
            (table("Newest first", self.columns, html! { @for run in runs { tr { ((self.row)(run)) } } }))
            @if let Some(next) = answer["next"].as_str() {
                p { a href=(address(self.here, &[("cursor", next)])) { "Older ones" } }
            }
        }
    }

    /// One run, with the people who could not be matched.
    pub async fn show(
        &self,
        console: &Console,
        session: &Session,
        Path(id): Path<String>,
        Query(look): Query<Look>,
        headers: &HeaderMap,
    ) -> Response {
        let path = format!("{}/{}", self.route, encoded(&id));
        let run =
            match console.api.get(&session.caller, &address(&path, &[("masked", session.masked(look.unmask))])).await {
                Ok(run) => run,
                Err(refusal) => {
                    return Outcome::refused(&refusal).on(|said| frame::page(session, self.title, self.here, said));
                }
            };
        let inside = html! { ((self.card)(session, &run)) (self.people(session, &run, look.unmask)) };
        // Only itself, once more, for as long as the run is under way.
        if headers.contains_key(frame::FRAGMENT) {
            return inside.into_response();
        }
        let to = address(
            &format!("{}/runs/{}", self.here, encoded(&id)),
            &[("unmask", if look.unmask { "true" } else { "" })],
        );
        let live = (run["status"] == "running").then_some(to);
        let body = html! {
            section data-live=[live] data-every="2" { (inside) }
            p { a href=(self.here) { (self.way_back) } }
        };
        frame::page(session, self.title, self.here, body).into_response()
    }

    fn people(&self, session: &Session, run: &Value, unmask: bool) -> Markup {
        let (key, id) = self.unmatched;
        let people = items(run, key);
        let other = address(&self.address_of(run), &[("unmask", if unmask { "" } else { "true" })]);
        html! {
            @if !people.is_empty() {
                h2 { "Not matched" }
                p { (unmasking(session, unmask, &other)) }
                (table("The first thousand", &[column(id), column("Why")], html! {
                    @for one in people { tr { td { code { (text(one, "distinct_id")) } } td { (text(one, "why").replace('_', " ")) } } }
                }))
            }
        }
    }
}

/// How a run stands; `more`: what else belongs to the word.
pub fn state(run: &Value, more: &str) -> Markup {
    let (class, word) = match text(run, "status") {
        "running" => ("warn", text(run, "stage")),
        "done" => ("good", "done"),
        "observed" => ("good", "compared only"),
        "stopped" => ("bad", "stopped by the brake"),
        "failed" => ("bad", "failed"),
        other => ("", other),
    };
    html! { span .badge.(class) { (word.replace('_', " ")) (more) } }
}

/// Cells with a run's figures.
pub fn figures_of(run: &Value, keys: &[&str]) -> Markup {
    html! { @for key in keys { td .number { (number(count(run, key))) } } }
}

/// How many people could not be matched, by reason; lines of a `dl`.
pub fn unmatched(run: &Value) -> Markup {
    html! {
        @for (why, people) in run["unmatched"].as_object().into_iter().flatten() {
            dt { "Not matched: " (why.replace('_', " ")) } dd { (number(people.as_u64().unwrap_or_default())) }
        }
    }
}
