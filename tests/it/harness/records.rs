//! Records as apps send them.

use serde_json::{Value, json};

use super::sandbox::TOKEN;

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    // The relay's rule about the wall clock is for the relay; a test only needs a time that is not stale.
    #[allow(clippy::disallowed_methods)]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// An event with an id of its own, as Python's and the browser's SDK send them.
pub fn event(name: &str, distinct_id: &str, insert_id: &str) -> Value {
    json!({ "event": name, "properties": {
        "token": TOKEN, "distinct_id": distinct_id, "$insert_id": insert_id, "time": now_ms() / 1000,
    }})
}

/// A profile update with one operator.
pub fn update(distinct_id: &str, operator: &str, value: Value) -> Value {
    json!({ "$token": TOKEN, "$distinct_id": distinct_id, operator: value })
}

pub fn set(distinct_id: &str, properties: Value) -> Value {
    update(distinct_id, "$set", properties)
}
