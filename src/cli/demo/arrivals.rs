//! What has arrived at the two vendors, as the sandbox's control API shows it.

use std::net::SocketAddr;

use serde_json::Value;

use super::DemoError;
use super::http::Http;

pub struct Arrivals {
    /// Records that Mixpanel has received, resends among them, by kind: event, profile, group.
    pub at_mixpanel: [u64; 3],
    /// Events among them that repeat an earlier one by its `$insert_id`.
    pub resends: u64,
    /// Events applied to a contact at Brevo.
    pub events_at_brevo: u64,
    /// Events that Brevo has dropped because it did not know the contact.
    pub lost_at_brevo: u64,
    pub contacts: Vec<Contact>,
}

/// A contact at Brevo.
pub struct Contact {
    pub email: String,
    pub attributes: Vec<(String, String)>,
    pub lists: Vec<i64>,
    /// Names, in order of arrival.
    pub events: Vec<String>,
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub async fn read(http: &Http, control: SocketAddr) -> Result<Arrivals, DemoError> {
    let mixpanel = http.json(&format!("http://{control}/mixpanel/counts"), None).await?;
    let brevo = http.json(&format!("http://{control}/brevo/counts"), None).await?;
    let contacts = http.json(&format!("http://{control}/brevo/contacts"), None).await?;
    let events = http.json(&format!("http://{control}/brevo/events"), None).await?;
    let received = &mixpanel["records"]["received"];
    Ok(Arrivals {
        at_mixpanel: super::figures::KINDS.map(|kind| number(&received[kind])),
        resends: number(&mixpanel["records"]["duplicates"]["event"]),
        events_at_brevo: number(&brevo["counts"]["events"]["applied"]),
        lost_at_brevo: number(&brevo["events_dropped_unknown_contact"]),
        contacts: list(&contacts["contacts"]).iter().map(|shown| contact(shown, list(&events["events"]))).collect(),
    })
}

fn contact(shown: &Value, events: &[Value]) -> Contact {
    let id = shown["id"].as_i64().unwrap_or_default();
    let own = events.iter().filter(|event| event["contact_id"] == id);
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Contact {
        email: shown["email"].as_str().unwrap_or_default().to_owned(),
        attributes: shown["attributes"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), plain(value)))
            .collect(),
        lists: list(&shown["listIds"]).iter().filter_map(Value::as_i64).collect(),
        events: own.filter_map(|event| event["event_name"].as_str()).map(str::to_owned).collect(),
    }
}
