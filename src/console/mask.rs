//! Personal data, less what names anybody.
//!
//! Masked is every text of a record but its event's name and the few that name an app or a machine; keys, numbers and
//! shapes stay, since they are what a mistake is found by.

use serde_json::Value;

/// Keys whose texts name nobody.
const PLAIN: &[&str] = &["event", "$insert_id", "mp_lib", "$lib_version", "$os", "$browser", "kind", "time", "reason"];

/// What of a text is shown: its first two characters and, of an address, its domain.
pub fn text(text: &str) -> String {
    let first: String = text.chars().take(2).collect();
    match text.rsplit_once('@') {
        Some((_, domain)) if domain.contains('.') => format!("{}…@{domain}", text.chars().next().unwrap_or_default()),
        _ if text.chars().count() <= 2 => "…".to_owned(),
        _ => format!("{first}…"),
    }
}

/// The same of everything inside a value.
pub fn value(value: &Value) -> Value {
    match value {
        Value::String(inner) => Value::String(text(inner)),
        Value::Array(items) => Value::Array(items.iter().map(self::value).collect()),
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(key, inner)| {
                    (key.clone(), if PLAIN.contains(&key.as_str()) { inner.clone() } else { self::value(inner) })
                })
                .collect(),
        ),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nobody_is_named_and_shapes_stay() {
        let record = json!({
            "event": "Purchase",
            "properties": { "distinct_id": "ada-1", "$email": "ada@example.com", "total": 9.5, "tags": ["vip", "x"] },
        });
        let masked = json!({
            "event": "Purchase",
            "properties": { "distinct_id": "ad…", "$email": "a…@example.com", "total": 9.5, "tags": ["vi…", "…"] },
        });
        assert_eq!(value(&record), masked);
    }

    #[test]
    fn short_and_foreign_texts_are_masked_whole() {
        assert_eq!(text("Bo"), "…");
        assert_eq!(text(""), "…");
        assert_eq!(text("Ωμέγα"), "Ωμ…");
        assert_eq!(text("a@b"), "a@…");
    }
}
