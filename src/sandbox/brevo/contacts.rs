//! Contacts: create, upsert, update, read, delete (contract §3).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::super::http::Reply;
use super::super::switches::ConflictCode;
use super::attributes::Fit;
use super::directory::{Contact, Key};
use super::{Answer, Context, State, created, error, invalid, missing, no_content, not_found};
use crate::clock::UnixMillis;

/// What brought a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    Create,
    Update,
    OptIn,
    Event,
    Import,
    Seed,
}

impl Via {
    pub fn name(self) -> &'static str {
        match self {
            Via::Create => "POST /contacts",
            Via::Update => "PUT /contacts",
            Via::OptIn => "POST /contacts/doubleOptinConfirmation",
            Via::Event => "event",
            Via::Import => "import",
            Via::Seed => "seed",
        }
    }
}

/// One write that took effect, for the inspection API.
#[derive(Debug)]
pub struct ContactWrite {
    seq: u64,
    at: UnixMillis,
    pub via: Via,
    pub contact_id: i64,
    /// The attributes as sent, fitting or not. Absent in counts-only mode.
    attributes: Option<Map<String, Value>>,
    lists: BTreeSet<i64>,
}

impl ContactWrite {
    pub fn to_json(&self) -> Value {
        json!({ "seq": self.seq, "at": self.at, "via": self.via.name(), "contact_id": self.contact_id,
            "attributes": self.attributes, "lists": self.lists })
    }
}

/// A write as its body asks for it: identifiers told apart from attributes.
#[derive(Debug, Default)]
pub struct Write {
    /// `None` clears the identifier.
    pub identifiers: BTreeMap<Key, Option<String>>,
    pub attributes: Map<String, Value>,
    pub lists: BTreeSet<i64>,
    pub unlink: BTreeSet<i64>,
    pub email_blacklisted: Option<bool>,
    pub sms_blacklisted: Option<bool>,
    pub force_merge: bool,
}

impl Write {
    /// A body of `POST /contacts` or `PUT /contacts/{identifier}`.
    fn read(body: &Value) -> Result<Self, Reply> {
        let fields = body.as_object().ok_or_else(|| missing("Body is missing"))?;
        let mut write = Self {
            force_merge: flag(fields, "forceMerge")?.unwrap_or(false),
            email_blacklisted: flag(fields, "emailBlacklisted")?,
            sms_blacklisted: flag(fields, "smsBlacklisted")?,
            lists: ids(fields, "listIds")?,
            unlink: ids(fields, "unlinkListIds")?,
            ..Self::default()
        };
        match fields.get("attributes") {
            None | Some(Value::Null) => {}
            Some(Value::Object(attributes)) => write.take_attributes(attributes)?,
            Some(_) => return Err(invalid("attributes should be an object")),
        }
        for (key, field) in [(Key::Email, "email"), (Key::ExtId, "ext_id")] {
            match fields.get(field) {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) => drop(write.identifiers.insert(key, Some(normal(key, text)?))),
                Some(_) => return Err(invalid(&format!("{field} should be a string"))),
            }
        }
        Ok(write)
    }

    /// Sorts the identifiers out of the attributes. Phones may come as numbers.
    pub fn take_attributes(&mut self, attributes: &Map<String, Value>) -> Result<(), Reply> {
        for (name, value) in attributes {
            match (Key::from_attribute(name), value) {
                (None, _) => drop(self.attributes.insert(name.clone(), value.clone())),
                (Some(Key::Email), Value::Null) => return Err(invalid("email is not valid")),
                (Some(key), Value::Null) => drop(self.identifiers.insert(key, None)),
                (Some(key), Value::String(text)) if text.is_empty() && key != Key::Email => {
                    self.identifiers.insert(key, None);
                }
                (Some(key), Value::String(text)) => drop(self.identifiers.insert(key, Some(normal(key, text)?))),
                (Some(key), Value::Number(number)) => {
                    self.identifiers.insert(key, Some(normal(key, &number.to_string())?));
                }
                (Some(key), _) => return Err(invalid(&format!("{} is not valid", key.word()))),
            }
        }
        Ok(())
    }

    /// Who holds the identifiers of this write.
    pub fn owners(&self, state: &State) -> Vec<(Key, i64)> {
        let held =
            |(key, value): (&Key, &Option<String>)| Some((*key, state.directory.owner(*key, value.as_deref()?)?));
        self.identifiers.iter().filter_map(held).collect()
    }
}

fn normal(key: Key, text: &str) -> Result<String, Reply> {
    key.normal(text).ok_or_else(|| match key {
        Key::Email => invalid("email is not valid in the body"),
        Key::ExtId => invalid("ext_id is not valid"),
        Key::Sms => invalid("Invalid phone number"),
        other => invalid(&format!("Invalid {} number", other.word())),
    })
}

fn flag(fields: &Map<String, Value>, name: &str) -> Result<Option<bool>, Reply> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(invalid(&format!("{name} should be a boolean"))),
    }
}

fn ids(fields: &Map<String, Value>, name: &str) -> Result<BTreeSet<i64>, Reply> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(BTreeSet::new()),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_i64().ok_or_else(|| invalid(&format!("{name} should be a list of ids"))))
            .collect(),
        Some(_) => Err(invalid(&format!("{name} should be a list of ids"))),
    }
}

/// The 400 for identifiers that belong to someone else.
fn conflict(verb: &str, keys: &[Key], code: &str) -> Reply {
    let words: Vec<&str> = keys.iter().map(|key| key.word()).collect();
    let message = format!("Unable to {verb} contact, {} is already associated with another Contact", words.join(", "));
    Reply::json(
        StatusCode::BAD_REQUEST,
        &json!({ "code": code, "message": message, "metadata": { "duplicate_identifiers": words } }),
    )
}

fn conflict_on_update(keys: &[Key], context: &Context<'_>) -> Reply {
    let code = match context.switches.conflict_code {
        ConflictCode::InvalidParameter => "invalid_parameter",
        ConflictCode::DuplicateParameter => "duplicate_parameter",
    };
    conflict("update", keys, code)
}

fn check_lists(state: &State, write: &Write) -> Result<(), Reply> {
    match write.lists.iter().chain(&write.unlink).find(|list| !state.lists.exists(**list)) {
        Some(list) => Err(invalid(&format!("List ID {list} does not exist"))),
        None => Ok(()),
    }
}

/// 425: the same contact was written a moment ago.
fn check_pace(state: &State, id: i64, context: &Context<'_>) -> Result<(), Reply> {
    let pause = context.switches.too_early_ms.map(Duration::from_millis);
    let busy = |contact: &Contact| pause.is_some_and(|pause| context.now.since(contact.modified_at) < pause);
    if state.directory.get(id).is_some_and(busy) {
        return Err(error(StatusCode::TOO_EARLY, "account_in_process", "Contact is being processed, try again later"));
    }
    Ok(())
}

pub fn create(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let write = Write::read(&context.body)?;
    if write.identifiers.values().all(Option::is_none) {
        return Err(missing("Either of Email, SMS, EXT_ID, WHATSAPP or LANDLINE_NUMBER is required"));
    }
    check_lists(state, &write)?;
    let owners = write.owners(state);
    if owners.is_empty() {
        let id = state.directory.create(context.now);
        apply(state, id, write, Via::Create, context);
        state.counters.add("contacts", "created", 1);
        return Ok(created(&json!({ "id": id })));
    }
    let fields = context.body.as_object();
    let update = fields.map_or(Ok(None), |fields| flag(fields, "updateEnabled"))?.unwrap_or(false);
    if !update && !write.force_merge {
        let keys: Vec<Key> = owners.iter().map(|(key, _)| *key).collect();
        return Err(conflict("create", &keys, "duplicate_parameter"));
    }
    // An email, then an ext_id, then a phone says whom an upsert means.
    let rank = |key: Key| if key == Key::Email { 0 } else { 1 + key as usize };
    let target = owners.iter().min_by_key(|(key, _)| rank(*key)).map_or(0, |(_, id)| *id);
    let id = settle_owners(state, target, &write, context)?;
    apply(state, id, write, Via::Create, context);
    state.counters.add("contacts", "updated", 1);
    let wants_id = context.body["getId"].as_bool().unwrap_or(false) && context.body["forceMerge"] == json!(true);
    Ok(if wants_id { Reply::ok(&json!({ "id": id })) } else { no_content() })
}

/// The contact to write to once other owners of its identifiers have been merged or have made it a conflict.
fn settle_owners(state: &mut State, target: i64, write: &Write, context: &Context<'_>) -> Result<i64, Reply> {
    check_pace(state, target, context)?;
    let others: Vec<(Key, i64)> = write.owners(state).into_iter().filter(|(_, owner)| *owner != target).collect();
    if others.is_empty() {
        return Ok(target);
    }
    if !write.force_merge {
        let keys: Vec<Key> = others.iter().map(|(key, _)| *key).collect();
        return Err(conflict_on_update(&keys, context));
    }
    let all: BTreeSet<i64> = others.iter().map(|(_, owner)| *owner).chain([target]).collect();
    state.counters.add("contacts", "merged_away", all.len() as u64 - 1);
    Ok(state.directory.merge(&all).unwrap_or(target))
}

/// Carries out a write whose identifiers are free. Attributes that do not fit are lost without a word.
pub fn apply(state: &mut State, id: i64, write: Write, via: Via, context: &Context<'_>) {
    let entry = ContactWrite {
        seq: state.next_seq(),
        at: context.now,
        via,
        contact_id: id,
        attributes: (!context.logs.counts_only).then(|| write.attributes.clone()),
        lists: write.lists.clone(),
    };
    state.writes.push(entry, context.logs.record_limit());
    state.counters.add("contact_writes", via.name(), 1);
    let mut dropped = Vec::new();
    let mut fitted = Vec::new();
    for (name, value) in &write.attributes {
        match state.attributes.fit(name, value, context.now, context.switches) {
            Fit::Store(value) => fitted.push((name.clone(), Some(value))),
            Fit::Clear => fitted.push((name.clone(), None)),
            Fit::Drop(reason) => dropped.push(reason),
        }
    }
    for reason in dropped {
        state.counters.add("attributes_dropped", reason, 1);
    }
    let new_email = write.identifiers.get(&Key::Email).cloned().flatten();
    for (key, value) in write.identifiers {
        let cleared_last = value.is_none() && key == Key::Email;
        if !cleared_last {
            let resubscribes = key == Key::Email
                && state.directory.get(id).is_some_and(|contact| {
                    contact.identifier(Key::Email).is_some_and(|former| Some(former) != new_email.as_deref())
                });
            state.directory.identify(id, key, value);
            if resubscribes
                && let Some(contact) = state.directory.get_mut(id)
                && contact.email_blacklisted
            {
                contact.email_blacklisted = false;
                state.counters.add("contacts", "resubscribed_by_email_change", 1);
            }
        }
    }
    let Some(contact) = state.directory.get_mut(id) else { return };
    for (name, value) in fitted {
        match value {
            Some(value) => drop(contact.attributes.insert(name, value)),
            None => drop(contact.attributes.remove(&name)),
        }
    }
    contact.list_ids.extend(&write.lists);
    contact.list_ids.retain(|list| !write.unlink.contains(list));
    contact.email_blacklisted = write.email_blacklisted.unwrap_or(contact.email_blacklisted);
    contact.sms_blacklisted = write.sms_blacklisted.unwrap_or(contact.sms_blacklisted);
    contact.modified_at = context.now;
}

/// The contact a path names: an email or a numeric id, or what `identifierType` says.
fn find(state: &State, context: &Context<'_>, identifier: &str, sms_too: bool) -> Result<i64, Reply> {
    let by = |key: Key| state.directory.owner(key, &key.normal(identifier)?);
    let number = || identifier.parse::<i64>().ok().filter(|id| state.directory.get(*id).is_some());
    let found = match context.call.query("identifierType") {
        Some("email_id") => by(Key::Email),
        Some("contact_id") => number(),
        Some("ext_id") => by(Key::ExtId),
        Some("phone_id") => by(Key::Sms),
        Some("whatsapp_id") => by(Key::Whatsapp),
        Some("landline_number_id") => by(Key::Landline),
        Some(_) => return Err(invalid("Invalid identifierType")),
        None if identifier.contains('@') => by(Key::Email),
        None if identifier.bytes().all(|byte| byte.is_ascii_digit() || byte == b'+') => {
            number().or_else(|| if sms_too { by(Key::Sms) } else { None })
        }
        None => return Err(invalid("Invalid email address")),
    };
    found.ok_or_else(|| not_found("Contact does not exist"))
}

pub fn get(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    let id = find(state, context, path[1], true)?;
    let contact = state.directory.get(id).ok_or_else(|| not_found("Contact does not exist"))?;
    let mut shown = contact.to_json();
    shown["statistics"] = json!({});
    Ok(Reply::ok(&shown))
}

pub fn update(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    let id = find(state, context, path[1], false)?;
    let write = Write::read(&context.body)?;
    check_lists(state, &write)?;
    let id = settle_owners(state, id, &write, context)?;
    apply(state, id, write, Via::Update, context);
    state.counters.add("contacts", "updated", 1);
    Ok(no_content())
}

pub fn delete(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    let id = find(state, context, path[1], false)?;
    state.directory.remove(id);
    state.companies.unlink_everywhere(id);
    state.counters.add("contacts", "deleted", 1);
    Ok(no_content())
}

pub fn list(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let page = context.page(50, 1000)?;
    let ids: Vec<i64> = context.call.query_list("ids").iter().filter_map(|id| id.parse().ok()).collect();
    let lists: Vec<i64> = context.call.query_list("listIds").iter().filter_map(|id| id.parse().ok()).collect();
    let since = |name: &str| match context.call.query(name) {
        None => Ok(None),
        Some(text) => match text.parse::<jiff::Timestamp>() {
            Ok(at) => Ok(Some(u64::try_from(at.as_millisecond()).unwrap_or(0))),
            Err(_) => Err(invalid(&format!("{name} should be a date-time"))),
        },
    };
    let (modified, created) = (since("modifiedSince")?, since("createdSince")?);
    let filter = context.call.query("filter").map(parse_filter).transpose()?;
    let wanted = |contact: &&Contact| {
        (ids.is_empty() || ids.contains(&contact.id))
            && (lists.is_empty() || lists.iter().any(|list| contact.list_ids.contains(list)))
            && modified.is_none_or(|since| contact.modified_at.0 >= since)
            && created.is_none_or(|since| contact.created_at.0 >= since)
            && filter.as_ref().is_none_or(|(name, value)| contact.to_json()["attributes"][name.as_str()] == *value)
    };
    let all: Vec<&Contact> = state.directory.all().filter(wanted).collect();
    let count = all.len();
    let contacts: Vec<Value> = page.of(all).into_iter().map(Contact::to_json).collect();
    Ok(Reply::ok(&json!({ "contacts": contacts, "count": count })))
}

/// `equals(ATTRIBUTE,"value")`.
fn parse_filter(filter: &str) -> Result<(String, Value), Reply> {
    let inner = filter.strip_prefix("equals(").and_then(|rest| rest.strip_suffix(')'));
    let (name, value) = inner.and_then(|inner| inner.split_once(',')).ok_or_else(|| invalid("Invalid filter"))?;
    let value = serde_json::from_str(value.trim()).map_err(|_| invalid("Invalid filter"))?;
    Ok((name.trim().to_owned(), value))
}

/// The contact would join its lists after a click that nobody makes here; it is created without them.
pub fn opt_in(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let required = ["email", "includeListIds", "templateId", "redirectionUrl"];
    if let Some(name) = required.iter().find(|name| context.body[**name].is_null()) {
        return Err(missing(&format!("{name} is missing")));
    }
    let write = Write::read(&context.body)?;
    let owner = write.owners(state).first().map(|(_, id)| *id);
    let id = owner.unwrap_or_else(|| state.directory.create(context.now));
    apply(state, id, write, Via::OptIn, context);
    let status = if owner.is_some() { StatusCode::NO_CONTENT } else { StatusCode::CREATED };
    Ok(Reply::empty(status))
}
