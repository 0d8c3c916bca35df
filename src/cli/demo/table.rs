//! What the demo prints, from what it saw.

use serde_json::Value;

/// One SDK's user.
pub(super) struct Row {
    pub sdk: &'static str,
    pub sent: u64,
    pub accepted: u64,
    pub mixpanel_events: usize,
    pub mixpanel_updates: usize,
    pub brevo_contact: Option<String>,
    pub brevo_events: usize,
}

/// `1`, `{"status": 1, ...}` and `/import`'s `{"code": 200, ...}` all say that everything was taken.
pub(super) fn accepted(answer: &[u8]) -> bool {
    match serde_json::from_slice(answer) {
        Ok(Value::Number(number)) => number.as_u64() == Some(1),
        Ok(Value::Object(answer)) => {
            answer.get("status").and_then(Value::as_u64) == Some(1)
                || answer.get("code").and_then(Value::as_u64) == Some(200)
        }
        _ => false,
    }
}

pub(super) fn count(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

/// Records that some destination has not dealt with.
pub(super) fn backlog(status: &Value) -> u64 {
    let destinations = status["destinations"].as_array().into_iter().flatten();
    destinations.filter_map(|destination| destination["backlog"].as_u64()).sum()
}

pub(super) fn people(rows: &[Row]) -> String {
    let mut out = String::from(
        "\n  sent as                  sent  accepted  | Mixpanel: events  updates  | Brevo: events  contact\n",
    );
    for row in rows {
        out.push_str(&format!(
            "  {:<22} {:>6} {:>9}  | {:>16} {:>8}  | {:>13}  {}\n",
            row.sdk,
            row.sent,
            row.accepted,
            row.mixpanel_events,
            row.mixpanel_updates,
            row.brevo_events,
            row.brevo_contact.as_deref().unwrap_or("none"),
        ));
    }
    out
}

pub(super) fn destinations(status: &Value) -> String {
    const COLUMNS: [&str; 5] = ["delivered", "skipped", "parked", "dead_letters", "backlog"];
    let mut out = format!("\n  {:<12}", "");
    out.extend(COLUMNS.iter().map(|column| format!("{:>14}", column.replace('_', " "))));
    out.push('\n');
    for destination in status["destinations"].as_array().into_iter().flatten() {
        out.push_str(&format!("  {:<12}", destination["destination"].as_str().unwrap_or_default()));
        out.extend(COLUMNS.iter().map(|column| format!("{:>14}", destination[*column].to_string())));
        out.push('\n');
    }
    out
}

pub(super) fn followed(places: &[(&str, Value)]) -> String {
    let mut out = String::from("\nOne purchase, all the way:\n");
    for (place, value) in places {
        let text = if value.is_null() { "nothing yet".to_owned() } else { format!("{value:#}") };
        out.push_str(&format!("\n  {place}\n"));
        out.extend(text.lines().map(|line| format!("    {line}\n")));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_of_success_is_known() {
        for (answer, good) in [
            ("1", true),
            ("0", false),
            (r#"{"error":null,"status":1}"#, true),
            (r#"{"error":"data, missing or empty","status":0}"#, false),
            (r#"{"code":200,"num_records_imported":2,"status":"OK"}"#, true),
            (
                r#"{"code":400,"error":"some data points in the request failed validation","status":"Bad Request"}"#,
                false,
            ),
            ("<html>", false),
        ] {
            assert_eq!(accepted(answer.as_bytes()), good, "{answer}");
        }
    }

    #[test]
    fn quiet_means_that_no_destination_has_a_backlog() {
        let status = json!({"destinations": [{"destination": "mixpanel", "backlog": 0}, {"destination": "brevo", "backlog": 2}]});
        assert_eq!(backlog(&status), 2);
        assert!(destinations(&status).contains("brevo"));
    }
}
