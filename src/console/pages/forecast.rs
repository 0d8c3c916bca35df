//! What Brevo would get if it were live: the overview's card in observe mode.

use maud::{Markup, html};
use serde_json::Value;

use crate::console::frame::{duration, number};
use crate::console::json::count;

/// Names that are shown; the most frequent ones.
const SHOWN: usize = 12;
/// Each kind of call: its field, and what it is called.
const CALLS: [(&str, &str); 3] = [("contacts", "Contacts"), ("events", "Events"), ("companies", "Companies")];

/// Nothing in another mode.
pub fn card(forecast: &Value) -> Markup {
    if !forecast.is_object() {
        return html! {};
    }
    let observed = forecast["observed_seconds"].as_f64().unwrap_or_default();
    let without = count(forecast, "without_address");
    let held = count(forecast, "events_without_address");
    html! {
        section .card aria-label="If Brevo were live" {
            h2 { "If Brevo were live" span .badge .warn { "observing" } }
            p { "Nothing is sent to Brevo. In the last " (duration(observed)) " it would have got:" }
            dl .facts {
                dt { "Contacts" } dd { "about " (number(count(forecast, "contacts"))) }
                @if count(forecast, "companies") > 0 { dt { "Companies" } dd { "about " (number(count(forecast, "companies"))) } }
                @if without > 0 { dt { "People without an address" } dd { "about " (number(without)) ", whose records would wait" } }
                @if held > 0 { dt { "Events of theirs" } dd { (number(held)) } }
            }
            (calls(forecast))
            (names("Events", "Times", &forecast["events"], count(forecast, "other_events")))
            (names("Attributes", "Updates", &forecast["attributes"], 0))
        }
    }
}

/// What it would cost, and whether the account allows it.
fn calls(forecast: &Value) -> Markup {
    html! {
        div .wide tabindex="0" {
            table {
                caption { "Calls an hour, from well gathered to one for each record" }
                thead { tr { th scope="col" { "For" } th .number scope="col" { "At least" } th .number scope="col" { "At most" } th .number scope="col" { "Allowed" } } }
                tbody {
                    @for (field, label) in CALLS {
                        @let span = &forecast["calls_per_hour"][field];
                        @let allowed = count(&forecast["allowed_per_hour"], field);
                        tr {
                            td { (label) }
                            td .number .bad[count(span, "least") > allowed] { (number(count(span, "least"))) }
                            td .number { (number(count(span, "most"))) }
                            td .number { (number(allowed)) }
                        }
                    }
                }
            }
        }
        @for (field, label) in CALLS {
            @if count(&forecast["calls_per_hour"][field], "least") > count(&forecast["allowed_per_hour"], field) {
                p { strong { (label) ": more than the account allows." } " The relay would fall behind. Map less, or ask Brevo for a higher limit." }
            }
        }
    }
}

fn names(title: &str, counted: &str, names: &Value, others: u64) -> Markup {
    let mut all: Vec<(&String, u64)> = names
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, count)| (name, count.as_u64().unwrap_or_default()))
        .collect();
    all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let more: u64 = all.iter().skip(SHOWN).map(|(_, count)| count).sum::<u64>() + others;
    html! {
        @if !all.is_empty() {
            div .wide tabindex="0" {
                table {
                    thead { tr { th scope="col" { (title) } th .number scope="col" { (counted) } } }
                    tbody {
                        @for (name, count) in all.iter().take(SHOWN) { tr { td { (name) } td .number { (number(*count)) } } }
                        @if more > 0 { tr { td { "Others" } td .number { (number(more)) } } }
                    }
                }
            }
        }
    }
}
