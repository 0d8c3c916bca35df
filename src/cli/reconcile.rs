//! `mixrelay reconcile`: what was delivered on a day beside what the vendors count, asked of the running relay.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use reqwest::Method;
use serde_json::{Value, json};

use super::Failure;
use super::admin;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The day, yyyy-mm-dd, in the project's zone; without it yesterday.
    #[arg(value_name = "DAY")]
    day: Option<String>,
    /// Show what has been compared already, and ask no vendor.
    #[arg(long, conflicts_with = "day")]
    kept: bool,
}

/// Exits with 1 when a vendor counts fewer events than were delivered.
pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<ExitCode, Failure> {
    admin::with(path, async |relay, _| {
        let reports = if arguments.kept {
            relay.get("/v1/reconciliation").await?["items"].as_array().cloned().unwrap_or_default()
        } else {
            let order = arguments.day.as_ref().map_or(json!({}), |day| json!({ "day": day }));
            vec![relay.send(Method::POST, "/v1/reconciliation", &order).await?]
        };
        let mut out = std::io::stdout().lock();
        for report in &reports {
            out.write_all(text(report).as_bytes()).map_err(Failure::Output)?;
        }
        let missing = reports.iter().any(|report| sides(report).any(|side| side["missing"].as_u64() > Some(0)));
        Ok(if missing { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    })
}

fn sides(report: &Value) -> impl Iterator<Item = &Value> {
    report["destinations"].as_array().into_iter().flatten()
}

fn text(report: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = format!("{} ({})\n", word(&report["day"]), word(&report["timezone"]));
    for side in sides(report) {
        let counts = match side["not_counted"].as_str() {
            Some(why) => format!("not counted there: {why}"),
            None => format!("counted there {}, missing {}", side["counted"], side["missing"]),
        };
        text.push_str(&format!("  {}: delivered {}, {counts}\n", word(&side["destination"]), side["delivered"]));
        for event in side["events"].as_array().into_iter().flatten() {
            let number = |value: &Value| value.as_u64().map_or("-".to_owned(), |number| number.to_string());
            let (delivered, counted) = (number(&event["delivered"]), number(&event["counted"]));
            let name = event["name"].as_str().filter(|name| !name.is_empty()).unwrap_or("(all other names)");
            text.push_str(&format!("    {delivered:>10} {counted:>10}  {name}\n"));
        }
        for cause in side["causes"].as_array().into_iter().flatten() {
            let records = cause["records"].as_u64().map_or(String::new(), |records| format!("{records} "));
            text.push_str(&format!("    {records}{}\n", word(&cause["text"])));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_from_top_to_bottom() {
        let report = json!({
            "day": "2026-11-20", "timezone": "UTC",
            "destinations": [
                { "destination": "mixpanel", "delivered": 6, "counted": 5, "missing": 1, "not_counted": null,
                    "events": [{ "name": "a", "delivered": 6, "counted": 5 }, { "name": "", "delivered": 1, "counted": null }],
                    "causes": [{ "code": "waiting", "records": 3, "text": "records have not been delivered yet" }] },
                { "destination": "brevo", "delivered": 2, "counted": null, "missing": null, "not_counted": "no answer",
                    "events": [], "causes": [] },
            ],
        });
        assert_eq!(
            text(&report),
            "2026-11-20 (UTC)\n  mixpanel: delivered 6, counted there 5, missing 1\n             6          5  a\n             \
             1          -  (all other names)\n    3 records have not been delivered yet\n  brevo: delivered 2, not counted \
             there: no answer\n"
        );
    }
}
