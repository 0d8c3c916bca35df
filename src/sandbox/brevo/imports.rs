//! Contact imports and their processes: asynchronous, one at a time, by the clock (contract §3.6).

use std::collections::BTreeSet;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::super::http::Reply;
use super::super::switches::{ImportBooleans, ImportEnd};
use super::contacts::{Via, Write, apply};
use super::directory::Key;
use super::{Answer, Context, State, companies, error, invalid, missing};
use crate::clock::UnixMillis;

const MAX_IMPORT: usize = 10 * 1024 * 1024;

/// One row: attributes, among them the identifiers.
type Row = Map<String, Value>;

#[derive(Debug, Default)]
struct Process {
    name: &'static str,
    created_at: UnixMillis,
    starts_at: UnixMillis,
    ends_at: UnixMillis,
    end: ImportEnd,
    /// What is still to be done when it ends.
    work: Option<Work>,
    invalid_emails: u64,
    duplicates: [u64; 5],
}

/// What an import brings.
#[derive(Debug)]
enum Work {
    Contacts(Import),
    Companies(companies::Import),
}

#[derive(Debug)]
struct Import {
    rows: Vec<Row>,
    lists: BTreeSet<i64>,
    update_existing: bool,
    empty_erases: bool,
    email_blacklist: bool,
    sms_blacklist: bool,
}

#[derive(Debug, Default)]
pub struct Imports {
    processes: Vec<Process>,
}

impl Imports {
    /// A process that is over as soon as it is begun; its id.
    pub fn record_done(&mut self, name: &'static str, now: UnixMillis) -> usize {
        self.push(Process { name, created_at: now, starts_at: now, ends_at: now, ..Process::default() })
    }

    fn push(&mut self, process: Process) -> usize {
        self.processes.push(process);
        self.processes.len()
    }

    /// Waits for its turn: an import starts when the one before it has ended.
    fn schedule(&mut self, name: &'static str, work: Work, context: &Context<'_>) -> usize {
        let queued = context.now + Duration::from_millis(context.switches.import_queued_ms);
        let free = self.processes.iter().map(|process| process.ends_at).max().unwrap_or_default();
        let starts_at = queued.max(free);
        let ends_at = starts_at + Duration::from_millis(context.switches.import_processing_ms);
        let end = context.switches.import_end;
        let work = Some(work);
        self.push(Process { name, created_at: context.now, starts_at, ends_at, end, work, ..Process::default() })
    }

    pub fn schedule_companies(&mut self, work: companies::Import, context: &Context<'_>) -> usize {
        self.schedule("COMPANIES_IMPORT", Work::Companies(work), context)
    }
}

impl Process {
    fn describe(&self, id: usize, now: UnixMillis) -> Value {
        let status = match () {
            () if now >= self.ends_at => match self.end {
                ImportEnd::Completed => "completed",
                ImportEnd::Cancelled => "cancelled",
                ImportEnd::Failed | ImportEnd::CutShort => "failed",
            },
            () if now >= self.starts_at => "processing",
            () => "queued",
        };
        let mut shown =
            json!({ "id": id, "name": self.name, "status": status, "created_at": self.created_at.to_string() });
        if status == "completed" {
            shown["completed_at"] = self.ends_at.to_string().into();
            let [ext_id, email, phone, whatsapp, landline] = self.duplicates;
            shown["info"] = json!({ "import": {
                "invalid_emails": self.invalid_emails, "duplicate_contact_id": 0, "duplicate_ext_id": ext_id,
                "duplicate_email_id": email, "duplicate_phone_id": phone, "duplicate_whatsapp_id": whatsapp,
                "duplicate_landline_number_id": landline,
            } });
        }
        shown
    }
}

/// Applies the imports whose time has come, in their order.
pub fn settle(state: &mut State, context: &Context<'_>) {
    for at in 0..state.imports.processes.len() {
        let process = &mut state.imports.processes[at];
        if process.ends_at > context.now {
            continue;
        }
        let (end, work) = (process.end, process.work.take());
        let work = match work {
            Some(_) if matches!(end, ImportEnd::Cancelled | ImportEnd::Failed) => {
                state.counters.add("imports", "not_done", 1);
                continue;
            }
            Some(Work::Contacts(work)) => work,
            Some(Work::Companies(work)) => {
                companies::apply_import(state, &work, context.now);
                continue;
            }
            None => continue,
        };
        let every = if end == ImportEnd::CutShort { 2 } else { 1 };
        for row in work.rows.iter().step_by(every) {
            let (invalid, duplicates) = import_row(state, row, &work, context);
            let process = &mut state.imports.processes[at];
            process.invalid_emails += u64::from(invalid);
            for key in duplicates {
                process.duplicates[key as usize] += 1;
            }
        }
        state.counters.add("imports", "rows", work.rows.len() as u64);
        state.counters.add("imports", if every == 1 { "completed" } else { "cut_short" }, 1);
    }
}

/// One row: found by its identifiers in order of priority, merged where they point at several contacts.
fn import_row(state: &mut State, row: &Row, work: &Import, context: &Context<'_>) -> (bool, Vec<Key>) {
    let mut write = Write { lists: work.lists.clone(), ..Write::default() };
    write.email_blacklisted = work.email_blacklist.then_some(true);
    write.sms_blacklisted = work.sms_blacklist.then_some(true);
    let mut invalid_email = false;
    for (name, value) in row {
        let empty = value.is_null() || value == "";
        match Key::from_attribute(name) {
            Some(_) if empty => {}
            Some(Key::ExtId) if !context.switches.import_ext_id => {}
            Some(key) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                match key.normal(&text) {
                    Some(value) => drop(write.identifiers.insert(key, Some(value))),
                    None => invalid_email |= key == Key::Email,
                }
            }
            None if empty && !(work.empty_erases && work.update_existing) => {}
            None if value.is_boolean() && context.switches.import_booleans == ImportBooleans::Ignored => {
                state.counters.add("attributes_dropped", "boolean_in_import", 1);
            }
            None => drop(write.attributes.insert(name.clone(), value.clone())),
        }
    }
    if write.identifiers.is_empty() {
        state.counters.add("imports", "rows_without_identifier", 1);
        return (invalid_email, Vec::new());
    }
    let owners = write.owners(state);
    let Some((first, target)) = owners.first().copied() else {
        let id = state.directory.create(context.now);
        apply(state, id, write, Via::Import, context);
        return (invalid_email, Vec::new());
    };
    let all: BTreeSet<i64> = owners.iter().map(|(_, id)| *id).collect();
    if !work.update_existing {
        // An existing contact keeps its values but joins the lists.
        if let Some(contact) = state.directory.get_mut(target) {
            contact.list_ids.extend(&work.lists);
        }
        return (invalid_email, vec![first]);
    }
    let id = if all.len() > 1 { state.directory.merge(&all).unwrap_or(target) } else { target };
    apply(state, id, write, Via::Import, context);
    (invalid_email, vec![first])
}

pub fn create(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let body = &context.body;
    let sources = ["fileUrl", "fileBody", "jsonBody"].map(|name| !body[name].is_null());
    if sources.iter().filter(|given| **given).count() != 1 {
        return Err(missing("Exactly one of fileUrl, fileBody or jsonBody is required"));
    }
    if context.call.body.len() > MAX_IMPORT {
        return Err(error(StatusCode::BAD_REQUEST, "out_of_range", "The import exceeds the limit of 10 MB"));
    }
    let rows = match (body["jsonBody"].as_array(), body["fileBody"].as_str()) {
        (Some(items), _) => items.iter().map(json_row).collect::<Result<Vec<Row>, Reply>>()?,
        (_, Some(csv)) => csv_rows(csv),
        _ => return Err(invalid("fileUrl cannot be fetched by the sandbox")),
    };
    let work = Import {
        rows,
        lists: target_lists(state, context)?,
        update_existing: body["updateExistingContacts"].as_bool().unwrap_or(true),
        empty_erases: body["emptyContactsAttributes"].as_bool().unwrap_or(false),
        email_blacklist: body["emailBlacklist"].as_bool().unwrap_or(false),
        sms_blacklist: body["smsBlacklist"].as_bool().unwrap_or(false),
    };
    let id = state.imports.schedule("IMPORTUSER", Work::Contacts(work), context);
    Ok(Reply::json(StatusCode::ACCEPTED, &json!({ "processId": id })))
}

fn target_lists(state: &mut State, context: &Context<'_>) -> Result<BTreeSet<i64>, Reply> {
    let body = &context.body;
    let ids: BTreeSet<i64> = body["listIds"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
    if let Some(unknown) = ids.iter().find(|id| !state.lists.exists(**id)) {
        return Err(invalid(&format!("List ID {unknown} does not exist")));
    }
    if !ids.is_empty() {
        return Ok(ids);
    }
    let name = body["newList"]["listName"].as_str().ok_or_else(|| missing("listIds or newList is required"))?;
    let folder = body["newList"]["folderId"].as_i64().unwrap_or(1);
    let id = state.lists.create(name, folder, context.now).ok_or_else(|| invalid("Folder ID does not exist"))?;
    Ok(BTreeSet::from([id]))
}

/// `{email, attributes}`; other identifiers are among the attributes.
fn json_row(item: &Value) -> Result<Row, Reply> {
    let mut row = item["attributes"].as_object().cloned().unwrap_or_default();
    if !item.is_object() {
        return Err(invalid("jsonBody should be a list of objects"));
    }
    if !item["email"].is_null() {
        row.insert("EMAIL".into(), item["email"].clone());
    }
    Ok(row)
}

/// CSV with `;` and a header row. Values are texts; those that read as numbers are numbers.
fn csv_rows(csv: &str) -> Vec<Row> {
    let mut lines = csv.lines().filter(|line| !line.trim().is_empty());
    let header: Vec<String> =
        lines.next().map_or(Vec::new(), |line| line.split(';').map(|cell| cell.trim().to_uppercase()).collect());
    lines
        .map(|line| {
            let cells = line.split(';').map(|cell| {
                let text = cell.trim().trim_matches('"');
                text.parse::<f64>().ok().map_or_else(|| text.into(), Value::from)
            });
            header.iter().cloned().zip(cells).collect()
        })
        .collect()
}

pub fn get(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    let index = path[1].parse::<usize>().ok().and_then(|id| id.checked_sub(1));
    let found = index.and_then(|index| state.imports.processes.get(index).map(|process| (index, process)));
    let (index, process) =
        found.ok_or_else(|| error(StatusCode::NOT_FOUND, "invalid_parameter", "processId is invalid"))?;
    Ok(Reply::ok(&process.describe(index + 1, context.now)))
}

pub fn list(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let page = context.page(10, 50)?;
    let all: Vec<Value> = state
        .imports
        .processes
        .iter()
        .enumerate()
        .map(|(index, process)| process.describe(index + 1, context.now))
        .collect();
    let count = all.len();
    Ok(Reply::ok(&json!({ "processes": page.of(all), "count": count })))
}

/// The process exists; its file would come by email, which is not simulated.
pub fn export(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    if !context.body["customContactFilter"].is_object() {
        return Err(missing("customContactFilter is missing"));
    }
    let id = state.imports.record_done("CONTACT_EXPORT", context.now);
    Ok(Reply::json(StatusCode::ACCEPTED, &json!({ "processId": id })))
}
