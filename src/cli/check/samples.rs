//! `check --test-contact EMAIL`: one event of each mapped name for a contact of the user's own, since Brevo's editor offers
//! only events, and properties of them, that it has seen.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::live::{Finding, Vendors};
use crate::brevo::calls::Calls;
use crate::brevo::identifiers::Email;
use crate::brevo::names::EventName;
use crate::brevo::outcome::{self, EventOutcome, UpsertOutcome};
use crate::brevo::wire::{ContactUpsert, Event, EventIdentifiers};
use crate::clock::UnixMillis;
use crate::config::{Config, EventRule};
use crate::mapping::properties::event_properties;
use crate::mapping::{CompiledMapping, EventDecision, EventView, map_event};

const SUBJECT: &str = "--test-contact";
/// Between two events: an account allows ten a second (contract §1.3), and a relay may be using them.
const PAUSE: Duration = Duration::from_millis(250);

/// Reads the address as the command line has it.
pub(super) fn address(text: &str) -> Result<Email, String> {
    Email::parse(text).map_err(|error| error.to_string())
}

/// Makes the contact if it is missing, and sends the samples.
pub(super) async fn send(
    config: &Config,
    mapping: &CompiledMapping,
    vendors: &Vendors,
    email: &Email,
    now: UnixMillis,
) -> Vec<Finding> {
    let Some(brevo) = &config.brevo else {
        return vec![Finding::fails(SUBJECT, "nothing sent: connectors.brevo.api_key is not set")];
    };
    let calls = match Calls::new(brevo) {
        Ok(calls) => calls,
        Err(error) => return vec![Finding::fails(SUBJECT, format!("nothing sent: {error}"))],
    };
    if config.mapping.events.is_empty() {
        return vec![Finding::doubtful(SUBJECT, "nothing sent: event_mapping is empty")];
    }
    let mut findings = vec![contact(vendors, &calls, email).await];
    if findings[0].verdict == super::live::Verdict::Fails {
        return findings;
    }
    for (name, rule) in &config.mapping.events {
        let Sample { name: target, properties } = sample(config, mapping, (name, rule), now);
        let subject = format!("event_mapping.{name}");
        let said = told(&target, properties.as_deref());
        let event = Event {
            event_name: target,
            identifiers: EventIdentifiers { email_id: Some(email.clone()), ..EventIdentifiers::default() },
            event_date: now.to_string(),
            event_properties: properties,
        };
        findings.push(match vendors.call(calls.event(&event)).await {
            Ok(answer) => match outcome::event(&answer) {
                EventOutcome::Accepted => Finding::works(subject, said),
                EventOutcome::Rejected(refusal) | EventOutcome::Misrouted(refusal) => {
                    Finding::fails(subject, format!("Brevo refuses the sample: {refusal}"))
                }
            },
            Err(error) => Finding::doubtful(subject, format!("no sample sent: {error}")),
        });
        tokio::time::sleep(PAUSE).await;
    }
    findings
}

/// Brevo drops events of addresses that it does not know, with a success answer (contract §2.1).
async fn contact(vendors: &Vendors, calls: &Calls, email: &Email) -> Finding {
    let contact = ContactUpsert {
        email: Some(email.clone()),
        ext_id: None,
        attributes: BTreeMap::new(),
        list_ids: Vec::new(),
        update_enabled: true,
        email_blacklisted: None,
        sms_blacklisted: None,
    };
    match vendors.call(calls.upsert_contact(&contact)).await {
        Ok(answer) => match outcome::upsert(&answer) {
            UpsertOutcome::Created(id) => {
                Finding::works(SUBJECT, format!("contact {} made for {}", id.0, email.as_str()))
            }
            UpsertOutcome::Updated | UpsertOutcome::TooEarly => {
                Finding::works(SUBJECT, format!("{} is a contact", email.as_str()))
            }
            UpsertOutcome::Conflict { refusal, .. }
            | UpsertOutcome::Invalid(refusal)
            | UpsertOutcome::Misrouted(refusal) => {
                Finding::fails(SUBJECT, format!("nothing sent: Brevo refuses the contact: {refusal}"))
            }
        },
        Err(error) => Finding::fails(SUBJECT, format!("nothing sent: {error}")),
    }
}

struct Sample {
    name: EventName,
    properties: Option<Box<RawValue>>,
}

/// As the first of `mapping_tests` with such an event has it; without one, as the rule alone tells.
fn sample(config: &Config, mapping: &CompiledMapping, (name, rule): (&str, &EventRule), now: UnixMillis) -> Sample {
    let examples = config.mapping.tests.iter().map(|test| &test.given).filter(|given| given["event"] == name);
    let mapped = examples.filter_map(|given| mapped(given, mapping, now)).next();
    mapped.unwrap_or_else(|| {
        let made = json!({ "event": name, "properties": stand_ins(rule) }).to_string();
        let properties = EventView::parse(made.as_bytes()).ok().and_then(|view| {
            let rule = mapping.event(name)?;
            event_properties(&view.properties, &rule.shape).json
        });
        Sample { name: EventName::sanitised(&rule.name), properties }
    })
}

fn mapped(given: &Value, mapping: &CompiledMapping, now: UnixMillis) -> Option<Sample> {
    let text = given.to_string();
    match map_event(&EventView::parse(text.as_bytes()).ok()?, mapping, now) {
        EventDecision::Send(event) => Some(Sample { name: event.name, properties: event.properties }),
        EventDecision::Skip(_) => None,
    }
}

/// A text for each property that the rule names.
fn stand_ins(rule: &EventRule) -> Map<String, Value> {
    let named = rule.pick.iter().flatten().chain(rule.rename.keys());
    named.map(|property| (property.clone(), Value::from("sample"))).collect()
}

fn told(name: &EventName, properties: Option<&RawValue>) -> String {
    let keys =
        properties.and_then(|raw| serde_json::from_str::<Map<String, Value>>(raw.get()).ok()).unwrap_or_default();
    if keys.is_empty() {
        return format!(
            "{} sent without properties; an example under mapping_tests would show Brevo which it has",
            name.as_str()
        );
    }
    format!("{} sent, with {}", name.as_str(), keys.keys().cloned().collect::<Vec<_>>().join(", "))
}
