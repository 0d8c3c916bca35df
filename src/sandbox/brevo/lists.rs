//! Lists and folders, and who is on them (contract §4).

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::super::http::Reply;
use super::super::switches::ListShape;
use super::directory::{Contact, Key};
use super::{Answer, Context, State, created, error, invalid, missing, no_content, not_found};
use crate::clock::UnixMillis;

const MAX_MEMBERS: usize = 150;
const FIRST_FOLDER: i64 = 1;

#[derive(Debug)]
struct List {
    name: String,
    folder: i64,
    created_at: UnixMillis,
}

#[derive(Debug)]
pub struct Lists {
    lists: BTreeMap<i64, List>,
    folders: BTreeMap<i64, String>,
}

impl Lists {
    pub fn new(ids: &[i64], now: UnixMillis) -> Self {
        let list = |id: &i64| (*id, List { name: format!("List {id}"), folder: FIRST_FOLDER, created_at: now });
        Self { lists: ids.iter().map(list).collect(), folders: BTreeMap::from([(FIRST_FOLDER, "Sandbox".to_owned())]) }
    }

    pub fn exists(&self, id: i64) -> bool {
        self.lists.contains_key(&id)
    }

    /// A list under an id of the caller's choice, in the first folder; one that exists is renamed.
    pub fn put(&mut self, id: i64, name: &str, now: UnixMillis) {
        self.lists.insert(id, List { name: name.to_owned(), folder: FIRST_FOLDER, created_at: now });
    }

    pub fn name(&self, id: i64) -> Option<&str> {
        self.lists.get(&id).map(|list| list.name.as_str())
    }

    /// `None` when the folder is unknown.
    pub fn create(&mut self, name: &str, folder: i64, now: UnixMillis) -> Option<i64> {
        if !self.folders.contains_key(&folder) {
            return None;
        }
        let id = self.lists.last_key_value().map_or(1, |(last, _)| last + 1);
        self.lists.insert(id, List { name: name.to_owned(), folder, created_at: now });
        Some(id)
    }
}

fn list_id(state: &State, text: &str) -> Result<i64, Reply> {
    let id = text.parse().map_err(|_| invalid("List ID should be a number"))?;
    if state.lists.exists(id) { Ok(id) } else { Err(not_found("List ID does not exist")) }
}

fn describe(state: &State, id: i64, list: &List) -> Value {
    let members = || state.directory.all().filter(|contact| contact.list_ids.contains(&id));
    json!({
        "id": id, "name": list.name, "folderId": list.folder, "totalSubscribers": 0, "totalBlacklisted": 0,
        "uniqueSubscribers": members().filter(|contact| !contact.email_blacklisted).count(),
    })
}

pub fn list(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let page = context.page(10, 50)?;
    let all: Vec<Value> = state.lists.lists.iter().map(|(id, list)| describe(state, *id, list)).collect();
    let count = all.len();
    Ok(Reply::ok(&json!({ "lists": page.of(all), "count": count })))
}

pub fn get(state: &mut State, _: &Context<'_>, path: &[&str]) -> Answer {
    let id = list_id(state, path[2])?;
    let list = &state.lists.lists[&id];
    let mut shown = describe(state, id, list);
    shown["createdAt"] = list.created_at.to_string().into();
    shown["dynamicList"] = false.into();
    shown["campaignStats"] = json!([]);
    Ok(Reply::ok(&shown))
}

pub fn create(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let name =
        context.body["name"].as_str().filter(|name| !name.is_empty()).ok_or_else(|| missing("name is missing"))?;
    let folder = context.body["folderId"].as_i64().ok_or_else(|| missing("folderId is missing"))?;
    let id = state.lists.create(name, folder, context.now).ok_or_else(|| not_found("Folder ID does not exist"))?;
    Ok(created(&json!({ "id": id })))
}

pub fn update(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    let id = list_id(state, path[2])?;
    let folder = context.body["folderId"].as_i64();
    if folder.is_some_and(|folder| !state.lists.folders.contains_key(&folder)) {
        return Err(not_found("Folder ID does not exist"));
    }
    if let Some(list) = state.lists.lists.get_mut(&id) {
        list.folder = folder.unwrap_or(list.folder);
        if let Some(name) = context.body["name"].as_str() {
            name.clone_into(&mut list.name);
        }
    }
    Ok(no_content())
}

pub fn delete(state: &mut State, _: &Context<'_>, path: &[&str]) -> Answer {
    let id = list_id(state, path[2])?;
    state.lists.lists.remove(&id);
    state.directory.leave_list(id);
    Ok(no_content())
}

pub fn members(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    let id = list_id(state, path[2])?;
    let page = context.page(50, 500)?;
    let all: Vec<&Contact> = state.directory.all().filter(|contact| contact.list_ids.contains(&id)).collect();
    let count = all.len();
    let contacts: Vec<Value> = page.of(all).into_iter().map(Contact::to_json).collect();
    Ok(Reply::ok(&json!({ "contacts": contacts, "count": count })))
}

/// Segments are made in the UI only; this account has none.
pub fn segments(_: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    context.page(10, 50)?;
    Ok(Reply::ok(&json!({ "segments": [], "count": 0 })))
}

pub fn add(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    change(state, context, path, true)
}

pub fn remove(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    if context.body["all"] == json!(true) {
        let id = list_id(state, path[2])?;
        let total = state.directory.all().filter(|contact| contact.list_ids.contains(&id)).count();
        state.directory.leave_list(id);
        let process = state.imports.record_done("LIST_REMOVE", context.now);
        return Ok(created(&json!({ "contacts": { "processId": process, "total": total } })));
    }
    change(state, context, path, false)
}

/// Unknown contacts and those that are in (or out) already count as failures; all failures together are a 400.
fn change(state: &mut State, context: &Context<'_>, path: &[&str], adding: bool) -> Answer {
    let list = list_id(state, path[2])?;
    let named = named(state, &context.body)?;
    let (mut success, mut failure) = (Vec::new(), Vec::new());
    for (shown, id) in named {
        let contact = id.and_then(|id| state.directory.get_mut(id));
        let changed = contact.is_some_and(|contact| {
            let changed = if adding { contact.list_ids.insert(list) } else { contact.list_ids.remove(&list) };
            if changed {
                contact.modified_at = context.now;
            }
            changed
        });
        if changed { success.push(shown) } else { failure.push(shown) }
    }
    let word = if adding { "list_added" } else { "list_removed" };
    state.counters.add("lists", word, success.len() as u64);
    state.counters.add("lists", "without_effect", failure.len() as u64);
    if success.is_empty() {
        let text = if adding {
            "Contact already in list and/or does not exist"
        } else {
            "Contact already removed from list and/or does not exist"
        };
        return Err(error(StatusCode::BAD_REQUEST, "invalid_parameter", text));
    }
    let outcome = json!({ "success": success, "failure": failure });
    Ok(created(&match context.switches.list_shape {
        ListShape::Wrapped => json!({ "contacts": outcome }),
        ListShape::Bare => outcome,
    }))
}

/// The contacts a body names, by exactly one of `emails` (letter case counts), `ids`, `extIds`.
fn named(state: &State, body: &Value) -> Result<Vec<(Value, Option<i64>)>, Reply> {
    let given: Vec<(&str, &Vec<Value>)> =
        ["emails", "ids", "extIds"].iter().filter_map(|key| Some((*key, body[*key].as_array()?))).collect();
    let [(key, items)] = given[..] else {
        return Err(invalid("Only one of emails, ids or extIds should be passed"));
    };
    if items.is_empty() || items.len() > MAX_MEMBERS {
        return Err(invalid("Number of contacts should be between 1 and 150"));
    }
    let find = |item: &Value| match key {
        "ids" => item.as_i64().and_then(|id| state.directory.get(id)).map(|contact| contact.id),
        "extIds" => item.as_str().and_then(|text| state.directory.owner(Key::ExtId, text)),
        _ => item.as_str().and_then(|text| state.directory.owner(Key::Email, text)),
    };
    Ok(items.iter().map(|item| (item.clone(), find(item))).collect())
}

pub fn list_folders(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let page = context.page(10, 50)?;
    let all: Vec<Value> = state.lists.folders.iter().map(|(id, name)| folder_json(state, *id, name)).collect();
    let count = all.len();
    Ok(Reply::ok(&json!({ "folders": page.of(all), "count": count })))
}

fn folder_json(state: &State, id: i64, name: &str) -> Value {
    let in_folder = |contact: &&Contact| {
        contact.list_ids.iter().any(|list| state.lists.lists.get(list).is_some_and(|list| list.folder == id))
    };
    let unique = state.directory.all().filter(in_folder).count();
    json!({ "id": id, "name": name, "totalSubscribers": 0, "totalBlacklisted": 0, "uniqueSubscribers": unique })
}

fn folder_id(state: &State, text: &str) -> Result<i64, Reply> {
    let id = text.parse().map_err(|_| invalid("Folder ID should be a number"))?;
    if state.lists.folders.contains_key(&id) { Ok(id) } else { Err(not_found("Folder ID does not exist")) }
}

pub fn create_folder(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let name =
        context.body["name"].as_str().filter(|name| !name.is_empty()).ok_or_else(|| missing("name is missing"))?;
    let id = state.lists.folders.last_key_value().map_or(1, |(last, _)| last + 1);
    state.lists.folders.insert(id, name.to_owned());
    Ok(created(&json!({ "id": id })))
}

pub fn get_folder(state: &mut State, _: &Context<'_>, path: &[&str]) -> Answer {
    let id = folder_id(state, path[2])?;
    Ok(Reply::ok(&folder_json(state, id, &state.lists.folders[&id])))
}

/// A folder takes its lists with it.
pub fn delete_folder(state: &mut State, _: &Context<'_>, path: &[&str]) -> Answer {
    let id = folder_id(state, path[2])?;
    state.lists.folders.remove(&id);
    let gone: Vec<i64> =
        state.lists.lists.iter().filter(|(_, list)| list.folder == id).map(|(list, _)| *list).collect();
    for list in gone {
        state.lists.lists.remove(&list);
        state.directory.leave_list(list);
    }
    Ok(no_content())
}

pub fn folder_lists(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    let id = folder_id(state, path[2])?;
    let page = context.page(10, 50)?;
    let inside = state.lists.lists.iter().filter(|(_, list)| list.folder == id);
    let all: Vec<Value> = inside.map(|(list_id, list)| describe(state, *list_id, list)).collect();
    let count = all.len();
    Ok(Reply::ok(&json!({ "lists": page.of(all), "count": count })))
}
