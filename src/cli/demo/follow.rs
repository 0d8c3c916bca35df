//! One event on its way: as the app sent it, as it is stored, as Mixpanel got it, as Brevo got it.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;

use super::DemoError;
use super::arrivals::list;
use super::http::Http;
use super::story::{FOLLOWED_AT_BREVO, FOLLOWED_EMAIL, FOLLOWED_EVENT, FOLLOWED_EVENT_ID, Step};
use crate::record::{EntryId, Position, Record};
use crate::store::Journal;

/// Decoded bytes of the journal read at once.
const READ_BYTES: usize = 1 << 20;

pub struct Followed {
    /// The request's line and how its body is encoded.
    pub request: String,
    pub sent: Value,
    pub position: Position,
    pub record: Record,
    /// Properties that the edge has added or changed.
    pub stamped: Vec<String>,
    pub at_mixpanel: Value,
    /// Whether Mixpanel has the stored record, nothing more and nothing less.
    pub whole: bool,
    /// The write that made the contact, and the body of its call.
    pub contact_write: Value,
    pub contact_body: String,
    pub at_brevo: Value,
}

pub async fn follow(
    steps: &[Step],
    journal: &Arc<dyn Journal>,
    http: &Http,
    control: SocketAddr,
) -> Result<Followed, DemoError> {
    let (step, sent) = sent(steps).ok_or(DemoError::LostTrack("the app's request"))?;
    let (position, record) = stored(journal).await?.ok_or(DemoError::LostTrack("the journal"))?;
    let body: Value = serde_json::from_slice(&record.body).map_err(|_| DemoError::LostTrack("the stored record"))?;

    let url = format!("http://{control}/mixpanel/events?raw=1&event={FOLLOWED_EVENT}");
    let events = http.json(&url, None).await?;
    let own = |event: &&Value| event["record"]["$mp_metadata"]["$mp_event_id"] == FOLLOWED_EVENT_ID;
    let at_mixpanel = list(&events["events"]).iter().find(own).ok_or(DemoError::LostTrack("Mixpanel"))?.clone();

    let lost = DemoError::LostTrack("Brevo");
    let contact = http.json(&format!("http://{control}/brevo/contacts/{FOLLOWED_EMAIL}"), None).await?;
    let id = contact["id"].as_i64().ok_or(lost)?;
    let writes = http.json(&format!("http://{control}/brevo/updates?contact_id={id}"), None).await?;
    let url = format!("http://{control}/brevo/events?contact_id={id}&event_name={FOLLOWED_AT_BREVO}");
    let events = http.json(&url, None).await?;
    let (Some(contact_write), Some(at_brevo)) =
        (list(&writes["updates"]).first().cloned(), list(&events["events"]).first().cloned())
    else {
        return Err(DemoError::LostTrack("Brevo"));
    };
    Ok(Followed {
        request: format!("{} {}, {}", step.request.method, step.request.path, step.request.wire),
        stamped: stamped(&sent["properties"], &body["properties"]),
        whole: at_mixpanel["record"] == body,
        sent,
        position,
        record,
        at_mixpanel,
        contact_body: contact_body(http, control).await?,
        contact_write,
        at_brevo,
    })
}

/// The call that made the contact, as it came.
async fn contact_body(http: &Http, control: SocketAddr) -> Result<String, DemoError> {
    let requests = http.json(&format!("http://{control}/brevo/requests?path=/v3/contacts"), None).await?;
    let bodies = list(&requests["requests"]).iter().filter_map(|request| request["body"].as_str());
    let own = bodies.filter(|body| body.contains(FOLLOWED_EMAIL)).map(str::to_owned).next();
    own.ok_or(DemoError::LostTrack("the call that made the contact"))
}

fn sent(steps: &[Step]) -> Option<(&Step, Value)> {
    steps.iter().find_map(|step| {
        let records: Value = serde_json::from_str(&step.request.records).ok()?;
        let own = list(&records).iter().find(|record| record["$mp_metadata"]["$mp_event_id"] == FOLLOWED_EVENT_ID)?;
        Some((step, own.clone()))
    })
}

async fn stored(journal: &Arc<dyn Journal>) -> Result<Option<(Position, Record)>, DemoError> {
    let mut from = EntryId::FIRST;
    loop {
        let entries = journal.read(from, READ_BYTES).await?;
        let Some(last) = entries.last() else { return Ok(None) };
        from = last.id.next();
        for entry in &entries {
            for (index, record) in entry.records.iter().enumerate() {
                if String::from_utf8_lossy(&record.body).contains(FOLLOWED_EVENT_ID) {
                    return Ok(Some((entry.position(index), record.clone())));
                }
            }
        }
    }
}

fn stamped(sent: &Value, stored: &Value) -> Vec<String> {
    let all = stored.as_object().into_iter().flatten();
    all.filter(|(name, value)| sent.get(name.as_str()) != Some(value)).map(|(name, _)| name.clone()).collect()
}
