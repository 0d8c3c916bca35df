//! The project's events as a real-time stream pushes them: rendered by a template of texts, up to 500 a call
//! (contract §12.2).

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::pushes::Delivery;
use super::Mixpanel;

/// Events in one push.
const FLUSH: usize = 500;

/// A stream to begin, or to go on with.
#[derive(Clone, Debug, Deserialize)]
pub struct Streaming {
    pub url: String,
    #[serde(default)]
    pub authorization: Option<String>,
    /// Events that were streamed before.
    #[serde(default)]
    pub from: usize,
}

impl Mixpanel {
    /// Everything stored since `from`, without duplicates, and what to go on from.
    pub fn stream(&self, streaming: &Streaming) -> (Vec<Delivery>, usize) {
        let state = self.state();
        let view = state.arrivals.deduplicated();
        let stored = view.iter().skip(streaming.from).map(|arrival| arrival.as_stored(&state.identity));
        let events: Vec<Value> = stored.map(|event| rendered(&event, &self.account.project_id)).collect();
        let delivery = |events: &[Value]| Delivery {
            url: streaming.url.clone(),
            authorization: streaming.authorization.clone(),
            body: events.into(),
        };
        (events.chunks(FLUSH).map(delivery).collect(), view.len())
    }
}

/// What the documented template makes of an event: `{{ ... }}` between quotes gives texts, and absent values empty ones.
fn rendered(event: &Value, project_id: &str) -> Value {
    let empty = Map::new();
    let properties = event["properties"].as_object().unwrap_or(&empty);
    let text = |name: &str| match properties.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let named: Map<String, Value> = properties
        .iter()
        .filter(|(name, value)| {
            !name.starts_with('$') && *name != "distinct_id" && *name != "time" && !value.is_number()
        })
        .map(|(name, _)| (name.clone(), text(name).into()))
        .collect();
    let numbers: Map<String, Value> = properties
        .iter()
        .filter(|(name, value)| !name.starts_with('$') && *name != "time" && value.is_number())
        .map(|(name, _)| (name.clone(), text(name).into()))
        .collect();
    json!({
        "event": event["event"], "time": text("time"), "distinct_id": text("distinct_id"),
        "insert_id": text("$insert_id"), "project_id": project_id, "device_id": text("$device_id"),
        "user_id": text("$user_id"), "properties": named, "numbers": numbers,
    })
}
