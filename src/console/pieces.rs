//! Pieces that pages share: tables, orders and what came of them, addresses with a query.

use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use maud::{Markup, html};

use super::api::Refusal;
use super::frame;
use super::json::encoded;
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

/// Texts side by side, or below each other where there is no room.
pub fn beside(texts: &[(&str, &str)]) -> Markup {
    html! {
        div .beside {
            @for (label, text) in texts { div { div .quiet { (label) } pre tabindex="0" aria-label=(label) role="region" { (text) } } }
        }
    }
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
}

impl Outcome {
    /// In a sentence; `next`: what follows from it.
    pub fn done(what: &str, next: Markup) -> Self {
        let said = html! { div .verdict role="status" { p { strong { (what) } } (next) } };
        Self { status: StatusCode::OK, said }
    }

    /// A question before anything is done.
    pub fn asks(question: Markup) -> Self {
        Self { status: StatusCode::OK, said: question }
    }

    pub fn refused(refusal: &Refusal) -> Self {
        Self { status: refusal.status, said: frame::refusal(refusal) }
    }

    /// The page with it on top.
    pub fn on(self, page: impl FnOnce(Markup) -> Markup) -> Response {
        (self.status, page(self.said)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_what_is_said() {
        assert_eq!(address("/a", &[("b", "")]), "/a");
        assert_eq!(address("/a", &[("b", "1&c=2"), ("d", ""), ("e", "f")]), "/a?b=1%26c%3D2&e=f");
    }
}
