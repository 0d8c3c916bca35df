//! Companies and CRM attributes (contract §6).

use std::collections::{BTreeMap, BTreeSet};

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::super::http::Reply;
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
    held.attributes.extend(attributes);
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

/// `filters[attributes.name]=…`; `page` counts from 1.
pub fn list(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let call = context.call;
    let number = |name: &str, default: usize| match call.query(name) {
        None => Ok(default),
        Some(text) => text.parse::<usize>().map_err(|_| invalid(&format!("{name} should be a number"))),
    };
    let (page, limit) = (number("page", 1)?.max(1), number("limit", 50)?);
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
    if call.query("sort") == Some("desc") {
        found.reverse();
    }
    let items: Vec<Value> =
        found.into_iter().skip((page - 1) * limit).take(limit).map(|(id, company)| describe(id, company)).collect();
    Ok(Reply::ok(&json!({ "items": items })))
}

pub fn list_attributes(state: &mut State, _: &Context<'_>, path: &[&str]) -> Answer {
    if path[2] != "companies" {
        return Ok(Reply::ok(&json!([])));
    }
    let all = state.companies.attributes.iter().map(|(name, attribute)| {
        json!({
            "internalName": name, "label": attribute.label, "attributeTypeName": attribute.kind,
            "attributeOptions": attribute.options, "isRequired": name == "name", "isValueReadonly": false,
        })
    });
    Ok(Reply::ok(&all.collect()))
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
    let name: String =
        label.to_lowercase().chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '_' }).collect();
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

/// A CSV in a multipart part named `file`, its first row the attribute names; rows with `company_id` update.
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
    let updates = mapping["update_existing_records"] == json!(true);
    let mut lines = csv.lines().filter(|line| !line.trim().is_empty());
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').map(str::trim).collect();
    for line in lines {
        let row: BTreeMap<&str, &str> = header.iter().copied().zip(line.split(',').map(str::trim)).collect();
        let attributes: Map<String, Value> = row
            .iter()
            .filter(|(name, value)| state.companies.attributes.contains_key(**name) && !value.is_empty())
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect();
        let known = row.get("company_id").filter(|id| updates && state.companies.by_id.contains_key(**id));
        let id = match known {
            Some(id) => (*id).to_owned(),
            None => state.companies.insert(Map::new(), context.now),
        };
        let contact = row.get("associated_contact").and_then(|id| id.parse::<i64>().ok());
        if let Some(company) = state.companies.by_id.get_mut(&id) {
            company.attributes.extend(attributes);
            company.modified_at = context.now;
            if mapping["link_entities"] == json!(true) {
                company.contacts.extend(contact);
            }
        }
    }
    let process = state.imports.record_done("COMPANIES_IMPORT", context.now);
    Ok(Reply::ok(&json!({ "processId": process })))
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
