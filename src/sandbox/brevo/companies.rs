//! Companies and CRM attributes (contract §6).

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::super::http::Reply;
use super::super::switches::{ClearBy, CompaniesPage};
use super::{Answer, Context, State, error, invalid, missing, no_content, not_found};
use crate::clock::UnixMillis;

const KINDS: [&str; 7] = ["text", "user", "number", "single-select", "date", "boolean", "multi-choice"];
const MAX_LABEL: usize = 50;

#[derive(Debug)]
struct Company {
    attributes: Map<String, Value>,
    contacts: BTreeSet<i64>,
    deals: BTreeSet<String>,
    created_at: UnixMillis,
    modified_at: UnixMillis,
}

#[derive(Debug)]
struct CrmAttribute {
    label: String,
    kind: String,
    options: Vec<String>,
}

#[derive(Debug)]
pub struct Companies {
    by_id: BTreeMap<String, Company>,
    attributes: BTreeMap<String, CrmAttribute>,
    last: u64,
}

impl Default for Companies {
    fn default() -> Self {
        let standard = [
            ("name", "text"),
            ("domain", "text"),
            ("industry", "text"),
            ("number_of_employees", "number"),
            ("revenue", "number"),
            ("phone_number", "text"),
            ("owner", "user"),
        ];
        let attribute = |(name, kind): (&str, &str)| {
            (
                name.to_owned(),
                CrmAttribute { label: name.replace('_', " "), kind: kind.to_owned(), options: Vec::new() },
            )
        };
        Self { by_id: BTreeMap::new(), attributes: standard.into_iter().map(attribute).collect(), last: 0 }
    }
}

impl Companies {
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn all_json(&self) -> Vec<Value> {
        self.by_id.iter().map(|(id, company)| describe(id, company)).collect()
    }

    pub fn unlink_everywhere(&mut self, contact: i64) {
        for company in self.by_id.values_mut() {
            company.contacts.remove(&contact);
        }
    }

    /// A company that was there before anyone called.
    pub fn seed(&mut self, attributes: Map<String, Value>, now: UnixMillis) -> String {
        self.insert(attributes, now)
    }

    /// Attributes that the account does not know are left out, as those of contacts are.
    fn insert(&mut self, attributes: Map<String, Value>, now: UnixMillis) -> String {
        self.last += 1;
        let id = format!("{:08x}5eed{:012x}", now.as_secs() & 0xffff_ffff, self.last);
        let company = Company {
            attributes,
            contacts: BTreeSet::new(),
            deals: BTreeSet::new(),
            created_at: now,
            modified_at: now,
        };
        self.by_id.insert(id.clone(), company);
        id
    }
}

fn describe(id: &str, company: &Company) -> Value {
    json!({ "id": id, "attributes": company.attributes, "linkedContactsIds": company.contacts,
        "linkedDealsIds": company.deals })
}

fn integers(body: &Value, name: &str) -> Result<Option<BTreeSet<i64>>, Reply> {
    match &body[name] {
        Value::Null => Ok(None),
        Value::Array(items) => {
            let ids: Option<BTreeSet<i64>> = items.iter().map(Value::as_i64).collect();
            ids.map(Some).ok_or_else(|| invalid(&format!("{name} should be a list of integers")))
        }
        _ => Err(invalid(&format!("{name} should be a list of integers"))),
    }
}

fn strings(body: &Value, name: &str) -> BTreeSet<String> {
    body[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn check_contacts(state: &State, ids: &BTreeSet<i64>) -> Result<(), Reply> {
    match ids.iter().find(|id| state.directory.get(**id).is_none()) {
        Some(id) => Err(invalid(&format!("Contact {id} does not exist"))),
        None => Ok(()),
    }
}

/// The attributes of a body that the account knows; the rest is counted and lost.
fn known_attributes(state: &mut State, body: &Value) -> Map<String, Value> {
    let mut known = body["attributes"].as_object().cloned().unwrap_or_default();
    let before = known.len();
    known.retain(|name, _| state.companies.attributes.contains_key(name));
    state.counters.add("attributes_dropped", "unknown_company_attribute", (before - known.len()) as u64);
    known
}

pub fn create(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let body = &context.body;
    let name = body["name"].as_str().filter(|name| !name.is_empty()).ok_or_else(|| missing("name is required"))?;
    let contacts = integers(body, "linkedContactsIds")?.unwrap_or_default();
    check_contacts(state, &contacts)?;
    if !body["attributes"]["phone_number"].is_null() && body["countryCode"].is_null() {
        return Err(missing("countryCode is required with phone_number"));
    }
    let mut attributes = known_attributes(state, body);
    attributes.insert("name".into(), name.into());
    let id = state.companies.insert(attributes, context.now);
    if let Some(company) = state.companies.by_id.get_mut(&id) {
        company.contacts = contacts;
        company.deals = strings(body, "linkedDealsIds");
    }
    Ok(Reply::ok(&json!({ "id": id })))
}

fn company<'a>(state: &'a mut State, id: &str) -> Result<&'a mut Company, Reply> {
    state.companies.by_id.get_mut(id).ok_or_else(|| not_found("Company not found"))
}

pub fn get(state: &mut State, _: &Context<'_>, path: &[&str]) -> Answer {
    Ok(Reply::ok(&describe(path[1], company(state, path[1])?)))
}

/// `linkedContactsIds` replaces the whole set.
pub fn update(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    company(state, path[1])?;
    let contacts = integers(&context.body, "linkedContactsIds")?;
    check_contacts(state, contacts.as_ref().unwrap_or(&BTreeSet::new()))?;
    let attributes = known_attributes(state, &context.body);
    let held = company(state, path[1])?;
    write(&mut held.attributes, attributes, context.switches.clear_by);
    if let Some(name) = context.body["name"].as_str() {
        held.attributes.insert("name".into(), name.into());
    }
    if let Some(contacts) = contacts {
        held.contacts = contacts;
    }
    if context.body["linkedDealsIds"].is_array() {
        held.deals = strings(&context.body, "linkedDealsIds");
    }
    held.modified_at = context.now;
    Ok(Reply::ok(&describe(path[1], held)))
}

/// Sets what has a value, and empties what has none, the way that the account does it.
fn write(held: &mut Map<String, Value>, attributes: Map<String, Value>, clear_by: ClearBy) {
    for (name, value) in attributes {
        let clears = match &value {
            Value::Null => Some(matches!(clear_by, ClearBy::Both | ClearBy::Null)),
            Value::String(text) if text.is_empty() => Some(matches!(clear_by, ClearBy::Both | ClearBy::EmptyString)),
            _ => None,
        };
        match clears {
            None => drop(held.insert(name, value)),
            Some(true) => drop(held.remove(&name)),
            Some(false) => {}
        }
    }
}

pub fn delete(state: &mut State, _: &Context<'_>, path: &[&str]) -> Answer {
    company(state, path[1])?;
    state.companies.by_id.remove(path[1]);
    Ok(no_content())
}

pub fn link_unlink(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    let link = integers(&context.body, "linkContactIds")?.unwrap_or_default();
    let unlink = integers(&context.body, "unlinkContactIds")?.unwrap_or_default();
    company(state, path[2])?;
    check_contacts(state, &link)?;
    let held = company(state, path[2])?;
    held.contacts.extend(link);
    held.contacts.retain(|contact| !unlink.contains(contact));
    held.deals.extend(strings(&context.body, "linkDealsIds"));
    let unlinked = strings(&context.body, "unlinkDealsIds");
    held.deals.retain(|deal| !unlinked.contains(deal));
    held.modified_at = context.now;
    Ok(no_content())
}

/// `filters[attributes.name]=…`; `page` counts pages from 1, or companies from 0.
pub fn list(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let call = context.call;
    let number = |name: &str, default: usize| match call.query(name) {
        None => Ok(default),
        Some(text) => text.parse::<usize>().map_err(|_| invalid(&format!("{name} should be a number"))),
    };
    let (page, limit) = (number("page", 0)?, number("limit", 50)?);
    let most = context.switches.companies_max_limit;
    if limit == 0 || limit > most {
        return Err(error(StatusCode::BAD_REQUEST, "out_of_range", &format!("Limit exceeds max value: {most}")));
    }
    let offset = match context.switches.companies_page {
        CompaniesPage::Pages => page.saturating_sub(1) * limit,
        CompaniesPage::Companies => page,
    };
    let filters: Vec<(&str, &str)> = call
        .query
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix("filters[attributes.")?.strip_suffix(']')?, value.as_str())))
        .collect();
    let contact = call.query("linkedContactsIds").and_then(|id| id.parse::<i64>().ok());
    let text =
        |value: Option<&Value>| value.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let wanted = |company: &Company| {
        contact.is_none_or(|id| company.contacts.contains(&id))
            && filters.iter().all(|(name, value)| text(company.attributes.get(*name)).as_deref() == Some(*value))
    };
    let mut found: Vec<(&String, &Company)> =
        state.companies.by_id.iter().filter(|(_, company)| wanted(company)).collect();
    match call.query("sortBy") {
        Some("modifiedAt") => found.sort_by_key(|(_, company)| company.modified_at),
        _ => found.sort_by_key(|(_, company)| company.created_at),
    }
    if call.query("sort") != Some("asc") {
        found.reverse();
    }
    let items: Vec<Value> =
        found.into_iter().skip(offset).take(limit).map(|(id, company)| describe(id, company)).collect();
    Ok(Reply::ok(&json!({ "items": items })))
}

pub fn list_attributes(state: &mut State, _: &Context<'_>, path: &[&str]) -> Answer {
    if path[2] != "companies" {
        return Ok(Reply::ok(&json!([])));
    }
    let all = state.companies.attributes.iter().map(|(name, attribute)| {
        let options: Vec<Value> =
            attribute.options.iter().map(|option| json!({ "key": key_of(option), "value": option })).collect();
        json!({
            "internalName": name, "label": attribute.label, "attributeTypeName": attribute.kind,
            "attributeOptions": options, "isRequired": name == "name", "isValueReadonly": false,
        })
    });
    Ok(Reply::ok(&all.collect()))
}

/// The name that the account makes of a label.
fn key_of(label: &str) -> String {
    label.to_lowercase().chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '_' }).collect()
}

pub fn create_attribute(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let body = &context.body;
    let label = body["label"].as_str().filter(|label| (1..=MAX_LABEL).contains(&label.len()));
    let label = label.ok_or_else(|| invalid("label should have 1 to 50 characters"))?;
    let kind = body["attributeType"].as_str().filter(|kind| KINDS.contains(kind));
    let kind = kind.ok_or_else(|| invalid("Invalid attributeType"))?;
    if !matches!(body["objectType"].as_str(), Some("companies" | "deals")) {
        return Err(invalid("Invalid objectType"));
    }
    let name = key_of(label);
    if state.companies.attributes.contains_key(&name) {
        return Err(error(StatusCode::BAD_REQUEST, "duplicate_parameter", "Attribute already exists"));
    }
    let options = strings(body, "optionsLabels").into_iter().collect();
    state.companies.last += 1;
    let id = format!("{:08x}a77b{:012x}", context.now.as_secs() & 0xffff_ffff, state.companies.last);
    if body["objectType"] == "companies" {
        state.companies.attributes.insert(name, CrmAttribute { label: label.into(), kind: kind.into(), options });
    }
    Ok(Reply::ok(&json!({ "id": id })))
}

/// What an import is to do when its time has come.
#[derive(Debug)]
pub struct Import {
    rows: Vec<BTreeMap<String, String>>,
    updates: bool,
    links: bool,
    unlinks: bool,
    unsets: bool,
}

/// A CSV in a multipart part named `file`, its first row the attribute names.
pub fn import(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let bad =
        |reason: &str| Reply::json(StatusCode::BAD_REQUEST, &json!({ "message": format!("Bad request : {reason}") }));
    let content_type = context.call.header("content-type").unwrap_or_default();
    let boundary = content_type.split("boundary=").nth(1).map(|text| text.trim_matches('"'));
    let boundary = boundary.ok_or_else(|| bad("multipart/form-data expected"))?;
    let body = String::from_utf8_lossy(&context.call.body);
    let csv = part(&body, boundary, "file").ok_or_else(|| bad("file is missing"))?;
    let mapping: Value =
        part(&body, boundary, "mapping").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let option = |name: &str| mapping[name] == json!(true);
    let mut lines = csv.lines().filter(|line| !line.trim().is_empty()).map(cells);
    let header = lines.next().unwrap_or_default();
    let work = Import {
        rows: lines.map(|cells| header.iter().cloned().zip(cells).collect()).collect(),
        updates: option("update_existing_records"),
        links: option("link_entities"),
        unlinks: option("unlink_entities"),
        unsets: option("unset_empty_attributes"),
    };
    let process = state.imports.schedule_companies(work, context);
    Ok(Reply::ok(&json!({ "processId": process })))
}

/// The cells of a line; those in quotes may hold commas, and doubled quotes for one.
fn cells(line: &str) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = line.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell)),
            char => cell.push(char),
        }
    }
    cells.push(cell);
    cells
}

/// Updates rows with a `company_id` where that was asked for, and makes a company of every other row that has a name.
pub fn apply_import(state: &mut State, work: &Import, now: UnixMillis) {
    for row in &work.rows {
        let known = row.get("company_id").filter(|id| work.updates && state.companies.by_id.contains_key(*id)).cloned();
        if known.is_none() && row.get("name").is_none_or(|name| name.trim().is_empty()) {
            state.counters.add("imports", "companies_without_name", 1);
            continue;
        }
        let id = known.unwrap_or_else(|| state.companies.insert(Map::new(), now));
        let attributes = &state.companies.attributes;
        let Some(company) = state.companies.by_id.get_mut(&id) else { continue };
        for (name, cell) in row {
            let Some(attribute) = attributes.get(name) else { continue };
            let value = match attribute.kind.as_str() {
                "number" => cell.trim().parse::<f64>().ok().map(Value::from),
                _ => Some(cell.as_str().into()),
            };
            match value {
                _ if cell.is_empty() && work.unsets => drop(company.attributes.remove(name)),
                Some(value) if !cell.is_empty() => drop(company.attributes.insert(name.clone(), value)),
                _ => {}
            }
        }
        company.modified_at = now;
        let contact = row.get("associated_contact").and_then(|id| id.trim().parse::<i64>().ok());
        if work.links {
            company.contacts.extend(contact.filter(|id| state.directory.get(*id).is_some()));
        } else if work.unlinks {
            company.contacts.retain(|linked| Some(*linked) != contact);
        }
    }
    state.counters.add("imports", "companies", work.rows.len() as u64);
}

/// The content of one named part of a multipart body.
fn part<'a>(body: &'a str, boundary: &str, name: &str) -> Option<&'a str> {
    let marker = format!("name=\"{name}\"");
    let separator = format!("--{boundary}");
    body.split(separator.as_str()).find_map(|piece| {
        let (head, content) = piece.split_once("\r\n\r\n")?;
        head.contains(&marker).then(|| content.strip_suffix("\r\n").unwrap_or(content))
    })
}
