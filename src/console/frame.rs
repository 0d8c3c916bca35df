//! What every page is put into, and the small pieces that pages share.

use maud::{DOCTYPE, Markup, html};

use super::api::Refusal;
use super::session::Session;

/// A request for a part of a page that keeps itself up to date carries this header.
pub const FRAGMENT: &str = "x-fragment";

/// Name and address of each page, in the order of the bar.
const PAGES: &[(&str, &str)] = &[
    ("Overview", "/console"),
    ("Records", "/console/records"),
    ("People", "/console/people"),
    ("Dead letters", "/console/dead-letters"),
    ("Mapping", "/console/mapping"),
    ("Cohorts", "/console/cohorts"),
    ("Data sets", "/console/datasets"),
    ("Backfills", "/console/backfills"),
    ("Lookup tables", "/console/lookup-tables"),
    ("Counts", "/console/reconciliation"),
    ("Erasures", "/console/erasures"),
    ("Audit", "/console/audit"),
];

/// A page with the bar on top; `here` is the page's own address.
pub fn page(session: &Session, title: &str, here: &str, body: Markup) -> Markup {
    bare(
        title,
        html! {
            a .skip href="#content" { "To the content" }
            header .top {
                a .name href="/console" { img src="/console/assets/icon.svg" alt=""; "Mixrelay" }
                nav .pages aria-label="Pages" {
                    ul {
                        @for (name, path) in PAGES {
                            li { a href=(path) aria-current=[(*path == here).then_some("page")] { (name) } }
                        }
                    }
                }
                form .who method="post" action="/console/logout" {
                    span { (session.caller.name) " (" (session.caller.role.label()) ")" }
                    (csrf(session))
                    button .plain type="submit" { "Log out" }
                }
            }
            main #content { h1 { (title) } (body) }
        },
    )
}

/// A page without the bar.
pub fn bare(title: &str, body: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · Mixrelay" }
                link rel="icon" href="/console/assets/icon.svg";
                link rel="stylesheet" href="/console/assets/style.css";
                script defer src="/console/assets/console.js" {}
            }
            body { (body) }
        }
    }
}

/// The field that says that a form is this session's.
pub fn csrf(session: &Session) -> Markup {
    html! { input type="hidden" name="csrf" value=(session.csrf); }
}

/// Why there is nothing to show.
pub fn refusal(refusal: &Refusal) -> Markup {
    html! {
        div .verdict.bad role="alert" {
            p { strong { (refusal.message) } }
            @if !refusal.hint.is_empty() { p { (refusal.hint) } }
        }
    }
}

/// An empty page's place, with what to do next.
pub fn empty(what: &str, next: &str) -> Markup {
    html! { div .empty { p { strong { (what) } } p .quiet { (next) } } }
}

/// A number with its thousands apart.
pub fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A length of time in its two largest units.
pub fn duration(seconds: f64) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let whole = seconds.max(0.0) as u64;
    let first = UNITS.iter().position(|(_, length)| whole >= *length).unwrap_or(UNITS.len() - 1);
    let (unit, length) = UNITS[first];
    let large = format!("{} {unit}", whole / length);
    match UNITS.get(first + 1) {
        Some((small, size)) if whole % length / size > 0 => format!("{large} {} {small}", whole % length / size),
        _ => large,
    }
}

/// A line over time, newest at the right; `label` says in words what it shows.
pub fn chart(label: &str, points: &[f64]) -> Markup {
    const WIDTH: f64 = 300.0;
    const HEIGHT: f64 = 60.0;
    let top = points.iter().copied().fold(1.0_f64, f64::max);
    let step = WIDTH / points.len().saturating_sub(1).max(1) as f64;
    let place =
        |(index, value): (usize, &f64)| format!("{:.1},{:.1}", index as f64 * step, HEIGHT - value / top * HEIGHT);
    let line: Vec<String> = points.iter().enumerate().map(place).collect();
    let line = line.join(" ");
    let right = points.len().saturating_sub(1) as f64 * step;
    html! {
        figure {
            svg .chart viewBox="0 -2 300 64" preserveAspectRatio="none" role="img" aria-label=(label) {
                polygon points={ "0,60 " (line) " " (right) ",60" } {}
                polyline points=(line) {}
            }
            figcaption { (label) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!(number(0), "0");
        assert_eq!(number(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(duration(0.4), "0 s");
        assert_eq!(duration(61.0), "1 min 1 s");
        assert_eq!(duration(3_600.0), "1 h");
        assert_eq!(duration(90_061.0), "1 d 1 h");
    }
}
