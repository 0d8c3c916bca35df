//! The demo's table: what was accepted, what became of it at each destination, and why.

use std::sync::Arc;

use serde_json::Value;

use super::DemoError;
use super::arrivals::{Arrivals, Contact, list};
use super::figures::{Account, Figures, KINDS};
use super::follow::Followed;
use super::paper::{Ink, Paper, WIDTH, fill, fit};
use super::story::{self, EXPECTED_CONTACTS, EXPECTED_DEAD_LETTERS, EXPECTED_PARKED, Step};
use crate::people::{roster, shelf};
use crate::record::{Destination, Kind};
use crate::settlement::SkipRule;
use crate::store::State;

/// What did not come out as it should have. Empty: all is well.
#[derive(Debug, Default)]
pub struct Findings(Vec<String>);

impl Findings {
    pub fn expect(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.0.push(otherwise());
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

fn name(destination: Destination) -> &'static str {
    match destination {
        Destination::Mixpanel => "Mixpanel",
        Destination::Brevo => "Brevo",
    }
}

fn plural(kind: &str) -> &'static str {
    match kind {
        "event" => "events",
        "profile" => "profile updates",
        _ => "group updates",
    }
}

/// Promise P2, a block for each destination.
pub fn accounts(paper: &Paper, figures: &Figures, findings: &mut Findings) -> std::io::Result<()> {
    paper.heading("Where every accepted record is now (from /metrics)")?;
    let head = format!(
        "{:<20}{:>9} {:>11} {:>10} {:>9} {:>15} {:>10}",
        "", "accepted", "= delivered", "+ skipped", "+ parked", "+ dead letters", "+ backlog"
    );
    paper.line(&paper.ink(Ink::Dim, &head))?;
    for destination in Destination::ALL {
        let account = figures.account(destination);
        total(paper, destination, &account)?;
        for (index, kind) in KINDS.into_iter().enumerate() {
            let row = format!("  {:<18}{:>9} {:>11}", plural(kind), figures.accepted(kind), account.delivered[index]);
            paper.line(&paper.ink(Ink::Dim, &row))?;
        }
        let of = name(destination);
        findings.expect(account.adds_up(), || format!("{of}: the sum does not come to {}", account.accepted));
        findings.expect(account.backlog == 0, || format!("{of}: {} records are still on their way", account.backlog));
    }
    Ok(())
}

fn total(paper: &Paper, destination: Destination, account: &Account) -> std::io::Result<()> {
    let row = format!(
        "{:<20}{:>9} {:>11} {:>10} {:>9} {:>15} {:>10}",
        name(destination),
        account.accepted,
        account.delivered_total(),
        account.skipped_total(),
        account.parked,
        account.dead_letters,
        account.backlog
    );
    let (ink, word) = if account.adds_up() { (Ink::Good, "adds up") } else { (Ink::Bad, "DOES NOT ADD UP") };
    paper.line(&format!("{}  {}", paper.ink(Ink::Bold, &row), paper.ink(ink, word)))
}

/// Why records did not go to a destination: rules, shelves, dead letters, and what the edge refused.
pub async fn reasons(
    paper: &Paper,
    figures: &Figures,
    state: &Arc<dyn State>,
    dead_letters: &Value,
) -> Result<(), DemoError> {
    paper.heading("What did not go out, and why")?;
    for destination in Destination::ALL {
        for (rule, count) in figures.account(destination).skipped {
            let why = SkipRule::ALL.iter().find(|known| known.label() == rule).map_or("", |known| known.explanation());
            row(paper, name(destination), &format!("{count} skipped"), &rule, why)?;
        }
    }
    for (what, why) in parked(state).await? {
        row(paper, name(Destination::Brevo), "1 parked", &what, why)?;
    }
    for letter in list(&dead_letters["items"]) {
        let text = |key: &str| letter[key].as_str().unwrap_or_default().to_owned();
        let destination = if letter["destination"] == "brevo" { Destination::Brevo } else { Destination::Mixpanel };
        row(paper, name(destination), "1 dead letter", &text("id"), &text("answer"))?;
    }
    for (reason, count) in figures.rejected() {
        row(paper, "the edge", &format!("{count} refused"), &reason, "answered 0 with the reason, and never accepted")?;
    }
    Ok(())
}

fn row(paper: &Paper, place: &str, count: &str, what: &str, why: &str) -> std::io::Result<()> {
    let lead = format!("{} {} {} ", fit(place, 9), fit(count, 13), fit(what, 22));
    let room = WIDTH - lead.chars().count();
    let mut lines = wrap(why, room).into_iter();
    paper.line(&format!("{lead}{}", paper.ink(Ink::Dim, &lines.next().unwrap_or_default())))?;
    for line in lines {
        paper.line(&format!("{:1$}{2}", "", WIDTH - room, paper.ink(Ink::Dim, &line)))?;
    }
    Ok(())
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(word.to_owned());
        } else {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// Records that wait for values or on shelves: whose they are, and what they wait for.
async fn parked(state: &Arc<dyn State>) -> Result<Vec<(String, &'static str)>, DemoError> {
    let mut told = Vec::new();
    for (person, awaiting) in roster::waiting_for_bases(state, None, 20).await? {
        let why = "an operator on a value that is not known yet: it waits, nothing is guessed";
        told.extend((0..awaiting.records).map(|_| (format!("{} {person}", Kind::Profile.label()), why)));
    }
    for row in shelf::oldest(state, None, 20).await? {
        let why = match row.kind {
            Kind::Event | Kind::Identity | Kind::Profile => {
                "nobody knows yet who this is: it waits for an email or a phone"
            }
            Kind::Group => "a group waits for its company",
        };
        told.push((format!("{} {}", row.kind.label(), row.person), why));
    }
    Ok(told)
}

/// What the vendors hold, and whether it is what it should be.
pub fn arrived(
    paper: &Paper,
    arrivals: &Arrivals,
    figures: &Figures,
    steps: &[Step],
    findings: &mut Findings,
) -> std::io::Result<()> {
    paper.heading("What arrived")?;
    let [events, profiles, groups] = arrivals.at_mixpanel;
    paper.line(&format!(
        "{} {events} events ({} of them a resend under its old $insert_id, which Mixpanel counts once),",
        paper.ink(Ink::Bold, &fit("Mixpanel", 9)),
        arrivals.resends
    ))?;
    paper.line(&format!("{:9} {profiles} profile updates, {groups} group update", ""))?;
    paper.line(&format!(
        "{} {} contacts, each there before the first event, and {} events",
        paper.ink(Ink::Bold, &fit("Brevo", 9)),
        arrivals.contacts.len(),
        arrivals.events_at_brevo
    ))?;
    for contact in &arrivals.contacts {
        let lists = contact.lists.iter().map(|id| format!("list {id}")).collect::<Vec<_>>().join(", ");
        paper.line(&format!("{:9} {} {lists}", "", fit(&contact.email, 22)))?;
        paper.line(&format!("{:11} {}", "", paper.ink(Ink::Dim, &attributes(contact))))?;
        paper.line(&format!("{:11} {}", "", contact.events.join(", ")))?;
    }
    check_arrivals(arrivals, figures, steps, findings);
    Ok(())
}

fn attributes(contact: &Contact) -> String {
    let shown = contact.attributes.iter().filter(|(name, _)| name != "EXT_ID");
    shown.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn check_arrivals(arrivals: &Arrivals, figures: &Figures, steps: &[Step], findings: &mut Findings) {
    let mut promised = story::Accepted::default();
    for step in steps {
        promised.event += step.accepted.event;
        promised.profile += step.accepted.profile;
        promised.group += step.accepted.group;
    }
    let mixpanel = figures.account(Destination::Mixpanel);
    for (index, promised) in [promised.event, promised.profile, promised.group].into_iter().enumerate() {
        let kind = KINDS[index];
        let accepted = figures.accepted(kind);
        findings.expect(accepted == promised, || {
            format!("the apps were told that {promised} {} were taken, and {accepted} are counted", plural(kind))
        });
        let (delivered, arrived) = (mixpanel.delivered[index], arrivals.at_mixpanel[index]);
        findings.expect(delivered == arrived, || {
            format!("Mixpanel has received {arrived} {}, and {delivered} are counted as delivered", plural(kind))
        });
    }
    let [delivered, ..] = figures.account(Destination::Brevo).delivered;
    findings.expect(delivered == arrivals.events_at_brevo, || {
        format!("Brevo has {} events, and {delivered} are counted as delivered", arrivals.events_at_brevo)
    });
    findings.expect(arrivals.lost_at_brevo == 0, || {
        format!("Brevo has dropped {} events because it did not know the contact", arrivals.lost_at_brevo)
    });
    let parked = figures.account(Destination::Brevo).parked;
    findings.expect(parked == EXPECTED_PARKED, || format!("{parked} records wait for Brevo, not {EXPECTED_PARKED}"));
    findings.expect(mixpanel.dead_letters == EXPECTED_DEAD_LETTERS, || {
        format!("Mixpanel has {} dead letters, not {EXPECTED_DEAD_LETTERS}", mixpanel.dead_letters)
    });
    for (email, events) in EXPECTED_CONTACTS {
        let found = arrivals.contacts.iter().find(|contact| contact.email == email);
        let got = found.map(|contact| contact.events.join(", "));
        findings.expect(got.as_deref() == Some(&events.join(", ")), || {
            format!("Brevo should have {email} with {}, and has {}", events.join(", "), got.unwrap_or("nobody".into()))
        });
    }
}

/// The one event in full.
pub fn followed(paper: &Paper, followed: &Followed, findings: &mut Findings) -> std::io::Result<()> {
    paper.heading("One event followed through")?;
    block(paper, "1 the app sends", &followed.request, &followed.sent.to_string())?;
    let stored = String::from_utf8_lossy(&followed.record.body);
    let place = format!("at {} of the journal, synced before the answer", followed.position);
    block(paper, "2 the relay stores", &place, &stored)?;
    for property in &followed.stamped {
        paper.line(&format!("    {}", paper.ink(Ink::Good, &format!("+ {property}: {}", stamp(property)))))?;
    }
    let arrival = &followed.at_mixpanel;
    let via = arrival["via"].as_str().unwrap_or_default();
    let whole = if followed.whole { "the stored record, nothing more and nothing less" } else { "CHANGED" };
    block(paper, "3 Mixpanel gets", &format!("POST {via}: {whole}"), &arrival["record"].to_string())?;
    let write = &followed.contact_write;
    let arrival = |of: &Value| format!("{}, arrival {}", of["via"].as_str().unwrap_or("?"), of["seq"]);
    block(paper, "4 Brevo gets first", &arrival(write), &followed.contact_body)?;
    block(paper, "5 and then", &arrival(&followed.at_brevo), &followed.at_brevo["event"].to_string())?;
    findings.expect(followed.whole, || "what Mixpanel got is not what was stored".to_owned());
    let order = (write["seq"].as_u64(), followed.at_brevo["seq"].as_u64());
    findings.expect(order.0 < order.1, || "Brevo got the event before its contact".to_owned());
    Ok(())
}

/// Why the edge has added a property.
fn stamp(property: &str) -> &'static str {
    match property {
        "$insert_id" => "derived from $mp_event_id, so that every resend carries the same one",
        "ip" => "the caller's address, because ip=1 says that the caller is the person",
        "time" => "the time of arrival at the relay, because the app sent none",
        _ => "what only the edge knows",
    }
}

fn block(paper: &Paper, title: &str, about: &str, json: &str) -> std::io::Result<()> {
    paper.line(&format!("{} {}", paper.ink(Ink::Bold, &fit(title, 20)), paper.ink(Ink::Dim, about)))?;
    for line in fill(json, WIDTH - 4) {
        paper.line(&format!("    {line}"))?;
    }
    Ok(())
}

/// All is well, or what is not.
pub fn verdict(paper: &Paper, findings: &Findings) -> std::io::Result<()> {
    paper.line("")?;
    if findings.is_empty() {
        return paper.line(&paper.ink(Ink::Good, "Every record that was answered with success is accounted for."));
    }
    for finding in findings.iter() {
        paper.line(&paper.ink(Ink::Bad, &format!("WRONG: {finding}")))?;
    }
    Ok(())
}
