//! What Brevo would get of records, by the mapping in force and by another one.

use http::{Method, StatusCode};
use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::HERE;
use crate::config;
use crate::console::Console;
use crate::console::api::Refusal;
use crate::console::frame::{self, number};
use crate::console::guard::Form;
use crate::console::json::{count, items, pretty, text};
use crate::console::pieces::{Choice, Outcome, address, beside, choice, fate, field};
use crate::console::session::Session;

/// How many of the last records are looked at.
const RECENT: [Choice<'_>; 5] = [("", "none"), ("10", "10"), ("50", "50"), ("200", "200"), ("1000", "1,000")];
/// Records that are shown; those that differ come first.
const SHOWN: usize = 20;

/// What is tried: the fields of the form.
#[derive(Default)]
pub(super) struct Trial {
    mapping: String,
    records: String,
    recent: String,
    /// Where a record that was picked stands.
    picked: String,
    unmask: bool,
}

impl Trial {
    /// On the record at `picked`, or on nothing in particular.
    pub(super) fn of(picked: String) -> Self {
        Self { picked, ..Self::default() }
    }

    pub(super) fn read(form: &Form) -> Self {
        Self {
            mapping: form.get("mapping").to_owned(),
            records: form.get("records").to_owned(),
            recent: form.get("recent").to_owned(),
            picked: form.get("picked").to_owned(),
            unmask: !form.get("unmask").is_empty(),
        }
    }

    pub(super) async fn made(&self, console: &Console, session: &Session) -> Outcome {
        let question = match self.question() {
            Ok(question) => question,
            Err(message) => return Outcome::refused(&invalid(message)),
        };
        let path = address("/v1/mapping/preview", &[("masked", session.masked(self.unmask))]);
        match console.api.send(&session.caller, Method::POST, &path, &question).await {
            Ok(answer) => shown(&answer, self.is_other()),
            Err(refusal) => Outcome::refused(&refusal),
        }
    }

    fn is_other(&self) -> bool {
        !self.mapping.trim().is_empty()
    }

    /// In the API's form.
    fn question(&self) -> Result<Value, String> {
        let records = records(self.records.trim())?;
        let mut question = json!({ "records": records, "recent": self.recent.parse().unwrap_or(0) });
        let picked = self.picked.trim();
        if !picked.is_empty() {
            question["positions"] = json!([picked]);
        }
        if self.is_other() {
            let block = config::block(&self.mapping).map_err(|error| format!("The mapping: {error}."))?;
            question["mapping"] = Value::Object(block);
        }
        Ok(question)
    }

    pub(super) fn form(&self, session: &Session, in_force: &str) -> Markup {
        // Whoever may not try one on what others have sent begins with what is in force.
        let mapping = if self.is_other() || !session.operates() { &self.mapping } else { in_force };
        let of_none = [&self.recent, &self.records, &self.picked].iter().all(|it| it.is_empty());
        let recent = if of_none { "50" } else { &self.recent };
        html! {
            section .card aria-label="Try one out" {
                h2 { "Try one out" }
                p .quiet {
                    "Nothing is changed and nothing is sent. What you leave out stays as it is in force."
                    @if !session.operates() { " On the last records an operator can try another mapping; you can on records of your own." }
                }
                form method="post" action=(HERE) {
                    (frame::csrf(session))
                    div .beside {
                        div {
                            label for="mapping" { "A mapping, as in the configuration file" }
                            textarea #mapping name="mapping" spellcheck="false" { (mapping) }
                        }
                        div {
                            label for="records" { "Records of your own: JSON, one or several" }
                            textarea #records name="records" spellcheck="false" placeholder=r#"{"event": "Purchase", "properties": {"distinct_id": "u-1"}}"# { (self.records) }
                        }
                    }
                    div .row {
                        (choice("recent", "Of the last records", &RECENT, recent))
                        (field("picked", "The one at this position", html! { input #picked name="picked" value=(self.picked) placeholder="1.42.0"; }))
                        @if session.operates() {
                            label .check { input type="checkbox" name="unmask" value="true" checked[self.unmask]; "Show personal data" }
                        }
                        button type="submit" name="order" value="try" { "Show what Brevo would get" }
                    }
                }
            }
        }
    }
}

fn invalid(message: String) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, message, hint: "Nothing was tried.".to_owned() }
}

/// One record, a list of them, or one after the other.
fn records(text: &str) -> Result<Vec<Value>, String> {
    let mut records = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        match value.map_err(|error| format!("The records: {error}."))? {
            Value::Array(several) => records.extend(several),
            one => records.push(one),
        }
    }
    Ok(records)
}

fn shown(answer: &Value, other: bool) -> Outcome {
    let all = items(answer, "items");
    if all.is_empty() {
        let next = html! { p { "Paste one, pick one on the page of records, or choose how many of the last ones are looked at. One that was picked may be gone by now (retention.history)." } };
        return Outcome::done("There is no record to look at.", next);
    }
    let differs = |item: &&Value| item["differs"] == true;
    let (first, rest): (Vec<&Value>, Vec<&Value>) = all.iter().partition(differs);
    let title = match (other, count(answer, "differing")) {
        (false, _) => format!("What Brevo gets of {} records", number(all.len() as u64)),
        (true, 0) => format!("None of {} records would be sent otherwise.", number(all.len() as u64)),
        (true, differing) => {
            format!("{} of {} records would be sent otherwise.", number(differing), number(all.len() as u64))
        }
    };
    Outcome::asks(html! {
        section .card.asks aria-label="The trial" role="status" {
            h2 { (title) }
            (decisions(all, other))
            @for item in first.iter().chain(&rest).take(SHOWN) { (entry(item, other)) }
            @if all.len() > SHOWN { p .quiet { "The first " (SHOWN) " are shown, those that differ before the others." } }
            @if other { p { "Satisfied? Put the mapping into the configuration file, then reload it below." } }
        }
    })
}

/// How many records end how, and by which rule.
fn decisions(all: &[Value], other: bool) -> Markup {
    let counted = |by: &str| {
        let mut counts: Map<String, Value> = Map::new();
        for item in all {
            let said = &item[by];
            let word = [text(said, "decision"), text(said, "rule")].join(" ").trim().replace('_', " ");
            let so_far = counts.get(&word).and_then(Value::as_u64).unwrap_or_default();
            counts.insert(word, (so_far + 1).into());
        }
        counts.iter().map(|(word, count)| format!("{word}: {count}")).collect::<Vec<_>>().join(", ")
    };
    html! {
        dl .facts {
            dt { "In force" } dd { (counted("now")) }
            @if other { dt { "Tried" } dd { (counted("then")) } }
        }
    }
}

fn entry(item: &Value, other: bool) -> Markup {
    let (record, now, then) = (pretty(&item["record"]), fate(&item["now"]), fate(&item["then"]));
    let differs = item["differs"] == true;
    let name = item["record"]["event"].as_str().unwrap_or("an update");
    let mut texts = vec![("The record", &*record), ("In force", &now)];
    if other && differs {
        texts.push(("Tried", &then));
    }
    let inside = html! { (beside(&texts)) };
    html! {
        details open[differs] {
            summary {
                (name) " " code .quiet { (text(item, "position")) } " "
                @if differs { span .badge .warn { "differs" } }
                @else { span .quiet { (text(&item["now"], "decision")) " " (text(&item["now"], "rule").replace('_', " ")) } }
            }
            (inside)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_however_they_are_pasted() {
        let one = json!({ "event": "a" });
        assert_eq!(records(""), Ok(Vec::new()));
        for text in [r#"{"event":"a"}"#, r#"[{"event":"a"}]"#] {
            assert_eq!(records(text), Ok(vec![one.clone()]));
        }
        assert_eq!(records("{\"event\":\"a\"}\n{\"event\":\"a\"}\n"), Ok(vec![one.clone(), one]));
        assert!(records("{").is_err());
    }
}
