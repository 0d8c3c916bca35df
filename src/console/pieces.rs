//! Pieces that pages share: tables, orders and what came of them, addresses with a query.

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use maud::{Markup, html};
use serde_json::Value;

use super::api::Refusal;
use super::frame;
use super::json::{encoded, items, pretty, text};
use super::session::Session;

/// A table's column.
#[derive(Clone, Copy)]
pub struct Column {
    name: &'static str,
    figures: bool,
}

pub const fn column(name: &'static str) -> Column {
    Column { name, figures: false }
}

/// A column of numbers; its cells are `td .number`.
pub const fn figures(name: &'static str) -> Column {
    Column { name, figures: true }
}

/// A table that scrolls by itself where it is wider than the page; `rows` are its `tr`s.
pub fn table(caption: &str, columns: &[Column], rows: Markup) -> Markup {
    html! {
        div .wide tabindex="0" {
            table {
                caption { (caption) }
                thead { tr { @for column in columns { th .number[column.figures] scope="col" { (column.name) } } } }
                tbody { (rows) }
            }
        }
    }
}

/// A value of a choice, and what it is called.
pub type Choice<'a> = (&'a str, &'a str);

/// One of several values.
pub fn choice(name: &str, label: &str, values: &[Choice<'_>], chosen: &str) -> Markup {
    field(
        name,
        label,
        html! {
            select id=(name) name=(name) {
                @for (value, label) in values { option value=(value) selected[*value == chosen] { (label) } }
            }
        },
    )
}

/// A labelled field; `input` has `name` as its id.
pub fn field(name: &str, label: &str, input: Markup) -> Markup {
    html! { div { label for=(name) { (label) } (input) } }
}

/// A destination as people write it.
pub fn vendor(name: &str) -> &str {
    match name {
        "mixpanel" => "Mixpanel",
        "brevo" => "Brevo",
        other => other,
    }
}

/// The way to personal data and back, for those who may.
pub fn unmasking(session: &Session, unmask: bool, other: &str) -> Markup {
    html! {
        @if session.operates() {
            a href=(other) { @if unmask { "Mask personal data" } @else { "Show personal data" } }
        }
    }
}

/// What a mapping makes of a record, in the order in which people ask: what is decided and why, which calls, what else.
pub fn fate(said: &Value) -> String {
    let rule = text(said, "rule");
    let rule = if rule.is_empty() { String::new() } else { format!(", rule {rule}") };
    let explanation = text(said, "explanation");
    let explanation = if explanation.is_empty() { String::new() } else { format!(": {explanation}") };
    let mut parts = vec![format!("{}{rule}{explanation}", text(said, "decision").replace('_', " "))];
    for call in items(said, "calls") {
        parts.push(format!("{} {}\n{}", text(call, "method"), text(call, "path"), pretty(&call["body"])));
    }
    const TOLD: [&str; 6] = ["kind", "distinct_id", "decision", "rule", "explanation", "calls"];
    let something = |value: &Value| !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty());
    let rest = said.as_object().into_iter().flatten();
    for (key, value) in rest.filter(|(key, value)| !TOLD.contains(&key.as_str()) && something(value)) {
        parts.push(format!("{}:\n{}", key.replace('_', " "), pretty(value)));
    }
    parts.join("\n\n")
}

/// Texts side by side, or below each other where there is no room.
pub fn beside(texts: &[(&str, &str)]) -> Markup {
    html! {
        div .beside {
            @for (label, text) in texts { div { div .quiet { (label) } pre tabindex="0" aria-label=(label) role="region" { (text) } } }
        }
    }
}

/// An RFC 3339 time to the second, with a place where a narrow column may break it.
pub fn moment(at: &str) -> Markup {
    let (day, time) = at.split_once('T').unwrap_or((at, ""));
    let time = time.get(..8).map_or_else(|| time.to_owned(), |time| format!("{time}Z"));
    html! { time datetime=(at) title=(at) { span { (day) } " " span { (time) } } }
}

/// Something long, shown when asked for.
pub fn folded(label: &str, text: &str) -> Markup {
    html! { details { summary { (label) } pre tabindex="0" { (text) } } }
}

/// A form: `fields` go with it, unseen. `inside`: whatever else is to be filled in, and the button.
pub fn order(session: &Session, to: &str, fields: &[(&str, &str)], inside: Markup) -> Markup {
    html! {
        form method="post" action=(to) {
            (frame::csrf(session))
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            (inside)
        }
    }
}

/// A page's address, or a route's, with those fields of its query that say something.
pub fn address(path: &str, fields: &[(&str, &str)]) -> String {
    let said = fields.iter().filter(|(_, value)| !value.is_empty());
    let query: Vec<String> = said.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

/// What came of an order, to stand on top of its page.
pub struct Outcome {
    status: StatusCode,
    said: Markup,
    asks: bool,
}

impl Outcome {
    /// In a sentence; `next`: what follows from it.
    pub fn done(what: &str, next: Markup) -> Self {
        let said = html! { div .verdict role="status" { p { strong { (what) } } (next) } };
        Self { status: StatusCode::OK, said, asks: false }
    }

    /// A question before anything is done.
    pub fn asks(question: Markup) -> Self {
        Self { status: StatusCode::OK, said: question, asks: true }
    }

    pub fn refused(refusal: &Refusal) -> Self {
        Self { status: refusal.status, said: frame::refusal(refusal), asks: false }
    }

    /// Whether nothing has been done until somebody answers.
    pub fn is_question(&self) -> bool {
        self.asks
    }

    /// What stands on top, for a page that is put together before the answer is.
    pub fn said(&self) -> &Markup {
        &self.said
    }

    /// The page with it on top.
    pub fn on(self, page: impl FnOnce(Markup) -> Markup) -> Response {
        (self.status, page(self.said)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fate_is_told_in_the_order_in_which_people_ask() {
        let skipped =
            json!({ "kind": "event", "decision": "skip", "rule": "stale", "explanation": "too old", "dropped": [] });
        assert_eq!(fate(&skipped), "skip, rule stale: too old");
        let sent = json!({
            "decision": "send", "calls": [{ "method": "POST", "path": "/events", "body": 1 }], "not_placed": ["PLAN"],
        });
        assert_eq!(fate(&sent), "send\n\nPOST /events\n1\n\nnot placed:\n[\n  \"PLAN\"\n]");
    }

    #[test]
    fn an_address_has_what_is_said() {
        assert_eq!(address("/a", &[("b", "")]), "/a");
        assert_eq!(address("/a", &[("b", "1&c=2"), ("d", ""), ("e", "f")]), "/a?b=1%26c%3D2&e=f");
    }
}
