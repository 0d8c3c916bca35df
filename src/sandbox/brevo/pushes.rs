//! Pushes to the webhooks that the account has, in the vendor's two payloads (contract §8.2).

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::pushes::Delivery;
use super::Brevo;
use super::directory::Key;
use crate::clock::UnixMillis;

/// Something that happened to a mail or a contact.
#[derive(Clone, Debug, Deserialize)]
pub struct Happening {
    /// As payloads write it: `hard_bounce`.
    pub event: String,
    pub email: String,
    /// `transactional` or `marketing`.
    #[serde(rename = "type", default = "transactional")]
    pub kind: String,
    /// Members to add or replace.
    #[serde(default)]
    pub fields: Map<String, Value>,
}

fn transactional() -> String {
    "transactional".to_owned()
}

impl Brevo {
    /// One for every webhook that has subscribed to it.
    pub fn deliveries(&self, happening: &Happening, now: UnixMillis) -> Vec<Delivery> {
        let mut state = self.state();
        state.seq += 1;
        let seq = state.seq;
        let contact_id = state.directory.owner(Key::Email, &happening.email.to_lowercase()).unwrap_or(0);
        let subscribed = |webhook: &&Value| {
            let events = webhook["events"].as_array().map(Vec::as_slice).unwrap_or_default();
            webhook["type"] == happening.kind && events.iter().any(|event| event == subscription(&happening.event))
        };
        let delivery = |webhook: &Value| {
            let mut payload = payload(happening, &webhook["id"], contact_id, seq, now);
            if webhook["batched"] == true {
                payload = json!([payload]);
            }
            Delivery {
                url: webhook["url"].as_str().unwrap_or_default().to_owned(),
                authorization: webhook["auth"]["token"].as_str().map(|token| format!("Bearer {token}")),
                body: payload,
            }
        };
        state.webhooks.all().filter(subscribed).map(delivery).collect()
    }
}

/// Subscribing has other names than payloads have.
fn subscription(event: &str) -> &str {
    match event {
        "hard_bounce" => "hardBounce",
        "soft_bounce" => "softBounce",
        "invalid_email" => "invalid",
        "unique_opened" => "uniqueOpened",
        "unsubscribe" => "unsubscribed",
        "list_addition" => "listAddition",
        "contact_updated" => "contactUpdated",
        "contact_deleted" => "contactDeleted",
        other => other,
    }
}

fn payload(happening: &Happening, webhook: &Value, contact_id: i64, seq: u64, now: UnixMillis) -> Value {
    let seconds = now.as_secs();
    let mut payload = if happening.kind == "marketing" {
        json!({
            "id": webhook, "camp_id": 5, "campaign name": "Sandbox campaign", "email": happening.email,
            "event": happening.event, "date_sent": "2026-11-24 10:00:00", "date_event": "2026-11-24 10:00:00",
            "ts_sent": seconds, "ts_event": seconds, "ts": seconds, "tag": "",
        })
    } else {
        json!({
            "id": webhook, "event": happening.event, "email": happening.email, "date": "2026-11-24 10:00:00",
            "ts": seconds, "ts_event": seconds, "ts_epoch": now.0, "message-id": format!("<{seq}@sandbox>"),
            "subject": "Sandbox mail", "sending_ip": "192.0.2.1", "template_id": 1, "tags": ["sandbox"],
            "tag": "[\"sandbox\"]", "contact_id": contact_id, "X-Mailin-custom": "",
        })
    };
    for (name, value) in &happening.fields {
        payload[name] = value.clone();
    }
    payload
}
