//! What hangs on the project rather than on its records: lookup tables, `/api/app/me`, GDPR tasks (contract §7, §11).

use std::collections::{BTreeMap, HashMap};

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::super::http::{Call, Inflate, Reply};
use super::super::switches::GdprAnswer;
use super::import::{basic, unauthorized};
use super::{Context, Mixpanel};
use crate::clock::UnixMillis;

const MAX_TABLE: usize = 100 * 1024 * 1024;
const SHOWN_FAILURES: usize = 10;
const MAX_RETRIEVAL: usize = 2_000;
const MAX_DELETION: usize = 1_999;

fn member(mixpanel: &Mixpanel, call: &Call, project_secret: bool) -> bool {
    let account = &mixpanel.account;
    call.header("authorization").and_then(basic).is_some_and(|(user, secret)| {
        (user == account.service_account && secret == account.service_secret)
            || (project_secret && user == account.project_secret && secret.is_empty())
    })
}

pub fn me(mixpanel: &Mixpanel, call: &Call) -> Reply {
    let account = &mixpanel.account;
    let bearer = call.header("authorization").and_then(|header| header.strip_prefix("Bearer "));
    if !member(mixpanel, call, false) && bearer != Some(&account.oauth_token) {
        let body = json!({ "status": "error", "error": "Invalid service account credentials" });
        return Reply::json(StatusCode::UNAUTHORIZED, &body);
    }
    let project = json!({ "id": account.project_id.parse::<u64>().ok(), "name": "Sandbox", "token": account.project_token,
        "timezone": "UTC", "role": { "name": "admin" } });
    let projects: BTreeMap<&str, Value> = BTreeMap::from([(account.project_id.as_str(), project)]);
    Reply::ok(&json!({ "status": "ok", "results": {
        "projects": projects, "workspaces": {}, "organizations": { "1": { "id": 1, "name": "Sandbox" } } } }))
}

pub fn lookup_tables(mixpanel: &Mixpanel, call: &Call) -> Reply {
    if !member(mixpanel, call, false) || call.query("project_id") != Some(&mixpanel.account.project_id) {
        return unauthorized("Invalid credentials");
    }
    let tables = mixpanel.account.lookup_tables.iter();
    let results: Vec<Value> = tables.map(|id| json!({ "id": id, "name": "sandbox table" })).collect();
    Reply::ok(&json!({ "code": 200, "status": "OK", "results": results }))
}

pub fn replace_lookup_table(mixpanel: &Mixpanel, call: &Call, id: &str) -> Reply {
    if call.method != Method::PUT {
        return Reply::json(StatusCode::METHOD_NOT_ALLOWED, &json!({ "error": "method not allowed" }));
    }
    if !member(mixpanel, call, true) {
        return unauthorized("Invalid credentials");
    }
    if !mixpanel.account.lookup_tables.iter().any(|known| known == id) {
        let error = format!("Lookup table with id '{id}' was not found.");
        return Reply::json(StatusCode::NOT_FOUND, &json!({ "code": 404, "error": error, "status": "Not Found" }));
    }
    let body = match call.inflated(MAX_TABLE) {
        Ok(body) => String::from_utf8_lossy(&body).into_owned(),
        Err(Inflate::TooLarge) => {
            let body =
                json!({ "code": 413, "error": "lookup table exceeds 100 MB", "status": "Request Entity Too Large" });
            return Reply::json(StatusCode::PAYLOAD_TOO_LARGE, &body);
        }
        Err(Inflate::Broken) => {
            return Reply::json(
                StatusCode::BAD_REQUEST,
                &json!({ "code": 400, "error": "bad gzip", "status": "Bad Request" }),
            );
        }
    };
    let failures = table_failures(&csv_rows(&body));
    if !failures.is_empty() {
        return Reply::json(
            StatusCode::BAD_REQUEST,
            &json!({ "code": 400, "error": "some rows failed validation", "failed_records": failures, "status": "Bad Request" }),
        );
    }
    mixpanel.state().tables.insert(id.to_owned(), body);
    Reply::ok(&json!({ "code": 200, "status": "OK" }))
}

fn table_failures(rows: &[Vec<String>]) -> Vec<Value> {
    let Some((header, rows)) = rows.split_first() else {
        return vec![json!({ "index": 0, "message": "invalid row: wrong number of fields" })];
    };
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut failures = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        let key = row.first().map_or("", String::as_str);
        let message = if row.len() != header.len() {
            "invalid row: wrong number of fields".to_owned()
        } else if key.trim().is_empty() {
            "primary key is required and cannot be blank".to_owned()
        } else if let Some(first) = seen.insert(key, index + 1) {
            format!("invalid row: row indexes {first} and {} have the same primary key", index + 1)
        } else {
            continue;
        };
        failures.push(json!({ "index": index + 1, "message": message }));
    }
    failures.truncate(SHOWN_FAILURES);
    failures
}

/// RFC 4180: quoted fields may hold commas, quotes (doubled) and line breaks.
pub fn csv_rows(text: &str) -> Vec<Vec<String>> {
    split_rows(text, ',')
}

pub fn split_rows(text: &str, separator: char) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut row = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            _ if quoted => field.push(char),
            '\r' => {}
            '\n' => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            _ if char == separator => row.push(std::mem::take(&mut field)),
            _ => field.push(char),
        }
    }
    if !field.is_empty() || !row.is_empty() {
        row.push(field);
        rows.push(row);
    }
    rows.retain(|row| row.len() > 1 || !row[0].is_empty());
    rows
}

/// A data retrieval or deletion. Deletions take their people with them when done.
#[derive(Debug)]
pub struct GdprTask {
    pub deletion: bool,
    pub distinct_ids: Vec<String>,
    pub compliance_type: String,
    pub requested: UnixMillis,
    pub cancelled: bool,
    pub carried_out: bool,
}

impl GdprTask {
    fn status(&self, context: &Context<'_>) -> &'static str {
        let age = context.now.since(self.requested).as_millis();
        let duration = u128::from(context.switches.gdpr_duration_ms);
        match () {
            () if self.cancelled => "REVOKED",
            () if age >= duration => "SUCCESS",
            () if age >= duration / 2 => "STARTED",
            () => "PENDING",
        }
    }

    fn describe(&self, id: usize, account_project: &str, context: &Context<'_>) -> Value {
        json!({
            "status": self.status(context), "tracking_id": id.to_string(), "date_requested": self.requested.to_string(),
            "project_id": account_project, "compliance_type": self.compliance_type, "destination_url": null,
            "requesting_user": "sandbox@example.com", "distinct_id_count": self.distinct_ids.len(),
            "disclosure_type": "Data",
        })
    }
}

/// `kind` is `data-retrievals` or `data-deletions`; `rest` what follows `v3.0`.
pub fn gdpr(mixpanel: &Mixpanel, call: &Call, deletion: bool, rest: &[&str], context: &Context<'_>) -> Reply {
    let bearer = call.header("authorization").and_then(|header| header.strip_prefix("Bearer "));
    if bearer != Some(&mixpanel.account.oauth_token) {
        return error(StatusCode::UNAUTHORIZED, "Invalid credentials");
    }
    if call.query("token") != Some(&mixpanel.account.project_token) {
        return error(StatusCode::BAD_REQUEST, "token is invalid");
    }
    match (call.method.as_str(), rest) {
        ("POST", []) => create_task(mixpanel, call, deletion, context),
        ("GET", [id]) => show_task(mixpanel, id, deletion, context),
        ("DELETE", [id]) if deletion => cancel_task(mixpanel, id, context),
        _ => error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"),
    }
}

fn error(status: StatusCode, text: &str) -> Reply {
    Reply::json(status, &json!({ "error": text, "status": "error" }))
}

fn create_task(mixpanel: &Mixpanel, call: &Call, deletion: bool, context: &Context<'_>) -> Reply {
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let ids: Option<Vec<String>> = serde_json::from_value(body["distinct_ids"].clone()).ok();
    let limit = if deletion { MAX_DELETION } else { MAX_RETRIEVAL };
    let Some(distinct_ids) = ids.filter(|ids| !ids.is_empty() && ids.len() <= limit) else {
        return error(StatusCode::BAD_REQUEST, "distinct_ids must be a list of ids within the limit");
    };
    let compliance_type = body["compliance_type"].as_str().unwrap_or("GDPR").to_owned();
    if !matches!(compliance_type.as_str(), "GDPR" | "CCPA") {
        return error(StatusCode::BAD_REQUEST, "compliance_type must be GDPR or CCPA");
    }
    let mut state = mixpanel.state();
    let requested = context.now;
    state.tasks.push(GdprTask {
        deletion,
        distinct_ids,
        compliance_type,
        requested,
        cancelled: false,
        carried_out: false,
    });
    let id = state.tasks.len();
    match context.switches.gdpr_answer {
        GdprAnswer::Spec => {
            Reply::json(StatusCode::CREATED, &json!({ "status": "ok", "results": { "task_id": id.to_string() } }))
        }
        GdprAnswer::Page => {
            let task = state.tasks[id - 1].describe(id, &mixpanel.account.project_id, context);
            Reply::ok(&json!({ "status": "ok", "results": [task] }))
        }
    }
}

fn show_task(mixpanel: &Mixpanel, id: &str, deletion: bool, context: &Context<'_>) -> Reply {
    let state = mixpanel.state();
    let found = task_index(&state.tasks, id, deletion);
    let Some(index) = found else {
        return Reply::ok(
            &json!({ "status": "ok", "results": { "status": "NOT_FOUND", "result": "", "distinct_ids": [] } }),
        );
    };
    let task = &state.tasks[index];
    let status = task.status(context);
    let mut results = task.describe(index + 1, &mixpanel.account.project_id, context);
    results["distinct_ids"] = json!(task.distinct_ids);
    results["result"] =
        if status == "SUCCESS" && !deletion { "https://example.com/sandbox-export.zip".into() } else { "".into() };
    let key = if context.switches.gdpr_answer == GdprAnswer::Page && !deletion { "result" } else { "results" };
    Reply::ok(&json!({ "status": "ok", key: results }))
}

fn cancel_task(mixpanel: &Mixpanel, id: &str, context: &Context<'_>) -> Reply {
    let mut state = mixpanel.state();
    match task_index(&state.tasks, id, true) {
        None => error(StatusCode::NOT_FOUND, "not found"),
        Some(index) if state.tasks[index].status(context) == "PENDING" => {
            state.tasks[index].cancelled = true;
            Reply::empty(StatusCode::NO_CONTENT)
        }
        Some(_) => error(StatusCode::METHOD_NOT_ALLOWED, "the deletion has started"),
    }
}

fn task_index(tasks: &[GdprTask], id: &str, deletion: bool) -> Option<usize> {
    let index = id.parse::<usize>().ok()?.checked_sub(1)?;
    tasks.get(index).filter(|task| task.deletion == deletion).map(|_| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_by_rfc_4180() {
        let rows = csv_rows("id,name\r\n1,\"a, \"\"b\"\"\nc\"\n2,d");
        assert_eq!(rows, [vec!["id", "name"], vec!["1", "a, \"b\"\nc"], vec!["2", "d"]]);
    }

    #[test]
    fn the_vendors_words_for_bad_rows() {
        let messages: Vec<String> = table_failures(&csv_rows("id,n\n1,a\n,b\n1,c\n2"))
            .iter()
            .map(|failure| failure["message"].as_str().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(
            messages,
            [
                "primary key is required and cannot be blank",
                "invalid row: row indexes 1 and 3 have the same primary key",
                "invalid row: wrong number of fields",
            ]
        );
    }
}
