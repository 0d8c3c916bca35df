//! The lookup tables in use.

use axum::Extension;
use axum::extract::State;
use maud::{Markup, html};
use serde_json::Value;

use crate::console::Console;
use crate::console::frame::{self, number};
use crate::console::json::{items, text};
use crate::console::pieces::{column, figures, table};
use crate::console::session::Session;

pub async fn page(State(console): State<Console>, Extension(session): Extension<Session>) -> Markup {
    let body = match console.api.get(&session.caller, "/v1/status").await {
        Ok(status) => shown(items(&status, "lookup_tables")),
        Err(refusal) => frame::refusal(&refusal),
    };
    frame::page(&session, "Lookup tables", "/console/lookup-tables", body)
}

fn shown(tables: &[Value]) -> Markup {
    if tables.is_empty() {
        return frame::empty(
            "No lookup table is configured.",
            "Name one under lookup_tables, a CSV file or the id of Mixpanel's, and join its columns under enrich.",
        );
    }
    let columns = [column("Name"), figures("Rows"), column("Columns"), column("Came by"), column("Problem")];
    let rows = html! {
        @for table in tables {
            tr {
                td { (text(table, "name")) }
                td .number { (table["rows"].as_u64().map_or("none yet".to_owned(), number)) }
                td { @for column in items(table, "columns") { code { (column.as_str().unwrap_or_default()) } " " } }
                td { (text(table, "came_by")) }
                td .bad { (text(table, "problem")) }
            }
        }
    };
    table("Tables that properties are joined to", &columns, rows)
}
