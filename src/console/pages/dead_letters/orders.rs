//! Sending letters again and letting them go: asked for, shown as it would be, then done.

use std::collections::BTreeMap;

use http::Method;
use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::Filter;
use crate::config::Role;
use crate::console::Console;
use crate::console::api::Refusal;
use crate::console::frame::{self, number};
use crate::console::guard::Form;
use crate::console::json::{count, items, pretty, text};
use crate::console::pieces::{Outcome, address, beside, fate, order};
use crate::console::session::Session;

/// Calls of the API, of up to a thousand letters each, that one press makes; the page then offers to go on.
const AT_ONCE: usize = 10;
/// Letters of which is shown what would be sent now.
const SHOWN: usize = 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Replay,
    Purge,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Replay => "replay",
            What::Purge => "purge",
        }
    }
}

/// The form that the boxes beside letters belong to.
pub(super) const CHOSEN: &str = "chosen";
const ALL: &str = "all";

/// What a form of this page asks for.
pub(super) struct Order {
    what: What,
    /// Which letters; `None`: all that the filter names.
    ids: Option<Vec<String>>,
    /// Where the order before stopped.
    cursor: String,
    /// Whether the question has been answered; without, nothing is changed.
    sure: bool,
    force: bool,
    trigger_automations: bool,
}

/// What has come of it; of a question, what would.
#[derive(Default)]
struct Told {
    letters: u64,
    by_name: BTreeMap<String, u64>,
    held_back: usize,
    items: Vec<Value>,
    /// Where letters begin that have not been looked at.
    next: String,
}

impl Told {
    fn take(&mut self, answer: &Value) {
        self.letters += count(answer, "replayed") + count(answer, "purged");
        for (name, letters) in answer["by_name"].as_object().into_iter().flatten() {
            *self.by_name.entry(name.clone()).or_default() += letters.as_u64().unwrap_or_default();
        }
        self.held_back += answer["held_back"].as_object().map_or(0, Map::len);
        let room = SHOWN.saturating_sub(self.items.len());
        self.items.extend(items(answer, "items").iter().take(room).cloned());
        self.next = text(answer, "next").to_owned();
    }

    /// Letters in words; there may be more than were looked at.
    fn letters(&self) -> String {
        let more = if self.next.is_empty() { "" } else { "at least " };
        let what = if self.letters == 1 { "letter" } else { "letters" };
        format!("{more}{} {what}", number(self.letters))
    }
}

impl Order {
    pub(super) fn read(form: &Form) -> Self {
        let says = |name: &str| !form.get(name).is_empty();
        Self {
            what: if form.get("order") == What::Purge.name() { What::Purge } else { What::Replay },
            ids: (form.get("which") != ALL).then(|| form.all("id").to_vec()),
            cursor: form.get("cursor").to_owned(),
            sure: says("sure"),
            force: says("force"),
            trigger_automations: says("trigger_automations"),
        }
    }

    pub(super) async fn given(&self, console: &Console, session: &Session, filter: &Filter) -> Outcome {
        if self.ids.as_ref().is_some_and(Vec::is_empty) {
            return Outcome::done("No letter was chosen.", html! { p { "Tick the boxes of those that are meant." } });
        }
        match self.carried_out(console, session, filter).await {
            Err(refusal) => Outcome::refused(&refusal),
            Ok(told) if told.letters == 0 && told.held_back == 0 => {
                Outcome::done("None of these letters is held any more.", html! {})
            }
            Ok(told) if self.sure => self.done(session, filter, &told),
            Ok(told) => self.asks_back(session, filter, &told),
        }
    }

    async fn carried_out(&self, console: &Console, session: &Session, filter: &Filter) -> Result<Told, Refusal> {
        let (method, path) = match self.what {
            What::Replay => (Method::POST, "/v1/dead-letters/replay"),
            What::Purge => (Method::DELETE, "/v1/dead-letters"),
        };
        let path = address(path, &[("masked", session.masked(filter.unmask))]);
        let mut body = self.body(filter);
        let mut told = Told::default();
        for _ in 0..AT_ONCE {
            told.take(&console.api.send(&session.caller, method.clone(), &path, &body).await?);
            if told.next.is_empty() {
                break;
            }
            body["cursor"] = told.next.clone().into();
        }
        Ok(told)
    }

    fn body(&self, filter: &Filter) -> Value {
        let mut body = json!({ "dry_run": !self.sure });
        if let Some(ids) = &self.ids {
            body["ids"] = json!(ids);
        } else {
            let named = filter.which().into_iter().filter(|(_, value)| !value.is_empty());
            body["filter"] = named.map(|(name, value)| (name.to_owned(), value.into())).collect::<Map<_, _>>().into();
            if !self.cursor.is_empty() {
                body["cursor"] = self.cursor.clone().into();
            }
        }
        if self.what == What::Replay {
            body["force"] = self.force.into();
            body["trigger_automations"] = self.trigger_automations.into();
        }
        body
    }

    fn asks_back(&self, session: &Session, filter: &Filter, told: &Told) -> Outcome {
        let which = if self.ids.is_some() { CHOSEN } else { ALL };
        let mut fields = vec![("order", self.what.name()), ("which", which), ("cursor", &self.cursor), ("sure", "yes")];
        fields.extend(self.ids.iter().flatten().map(|id| ("id", &**id)));
        let leave = html! { a href=(filter.address(&filter.cursor, filter.unmask)) { "Leave them as they are" } };
        let (title, inside) = match self.what {
            What::Replay => (
                format!("Send {} again?", told.letters()),
                html! {
                    (consequences(told))
                    div .row { button type="submit" { "Send again" } (leave) }
                },
            ),
            What::Purge => (
                format!("Let {} go for good?", told.letters()),
                html! {
                    p { "Neither the relay nor the vendor has them afterwards. Without this they stay until " code { "retention.dead_letters" } " is over." }
                    div .row { button .danger type="submit" { "Purge for good" } (leave) }
                },
            ),
        };
        Outcome::asks(html! {
            section .card.asks aria-label=(title) {
                h2 { (title) }
                @if !told.by_name.is_empty() {
                    ul { @for (name, letters) in &told.by_name { li { code { (name) } ": " (number(*letters)) } } }
                }
                (order(session, &filter.address(&filter.cursor, filter.unmask), &fields, inside))
                @if !told.items.is_empty() { (difference(&told.items)) }
            }
        })
    }

    fn done(&self, session: &Session, filter: &Filter, told: &Told) -> Outcome {
        let verb = match (self.what, told.letters) {
            (What::Replay, 1) => "letter is sent again",
            (What::Replay, _) => "letters are sent again",
            (What::Purge, 1) => "letter is gone",
            (What::Purge, _) => "letters are gone",
        };
        let on = [("order", self.what.name()), ("which", ALL), ("cursor", &*told.next)];
        let next = html! {
            @if told.held_back > 0 { p { (stay(told.held_back)) } }
            @if self.what == What::Replay { p { "What a vendor refuses again comes back here." } }
            @if !told.next.is_empty() {
                (order(session, &filter.address("", filter.unmask), &on, html! { button type="submit" { "Go on with the others" } }))
            }
        };
        Outcome::done(&format!("{} {verb}.", number(told.letters)), next)
    }
}

fn stay(held_back: usize) -> String {
    let what = if held_back == 1 { "letter stays" } else { "letters stay" };
    let why = "a later update of the same profile has reached Mixpanel, or may have, and would be undone";
    format!("{} {what}: {why}.", number(held_back as u64))
}

/// What there is to decide before letters are sent again.
fn consequences(told: &Told) -> Markup {
    html! {
        @if told.held_back > 0 {
            p { (stay(told.held_back)) }
            label .check { input type="checkbox" name="force" value="yes"; "Send these too" }
        }
        label .check {
            input type="checkbox" name="trigger_automations" value="yes";
            "Send events to Brevo however old they are; its automations fire on them"
        }
    }
}

/// What was refused, beside what would be sent now.
fn difference(letters: &[Value]) -> Markup {
    html! {
        h3 { "What would be sent now, by today's mapping" }
        @for letter in letters {
            p { code { (text(letter, "id")) } }
            (beside(&[("The record", &pretty(&letter["record"])), ("Now", &fate(&letter["now"]))]))
        }
    }
}

fn buttons(session: &Session, label: impl Fn(&str) -> String) -> Markup {
    html! {
        button .plain type="submit" name="order" value=(What::Replay.name()) { (label("Send again")) }
        @if session.caller.role >= Role::Admin {
            button .plain.danger type="submit" name="order" value=(What::Purge.name()) { (label("Purge")) }
        }
    }
}

/// What can be done with one letter.
pub(super) fn for_one(session: &Session, filter: &Filter, id: &str) -> Markup {
    let to = filter.address(&filter.cursor, filter.unmask);
    let inside = html! { div .row { (buttons(session, |verb| format!("{verb}…"))) } };
    order(session, &to, &[("which", CHOSEN), ("id", id)], inside)
}

/// What can be done with those that are ticked, and with all that the filter names.
pub(super) fn for_many(session: &Session, filter: &Filter) -> Markup {
    let to = filter.address(&filter.cursor, filter.unmask);
    let all = if filter.is_set() { "all of this filter" } else { "all" };
    html! {
        div .row {
            form #(CHOSEN) method="post" action=(to) {
                (frame::csrf(session))
                input type="hidden" name="which" value=(CHOSEN);
                div .row { (buttons(session, |verb| format!("{verb} those ticked…"))) }
            }
            (order(session, &to, &[("which", ALL)], html! {
                div .row { (buttons(session, |verb| format!("{verb} {all}…"))) }
            }))
        }
    }
}
