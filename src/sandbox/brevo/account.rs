//! The account itself, and the webhooks it has registered (contract §8, §9).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::http::Reply;
use super::super::switches::Tier;
use super::{Answer, Context, State, created, invalid, missing, no_content, not_found};

#[derive(Debug, Default)]
pub struct Webhooks {
    by_id: BTreeMap<u64, Value>,
    last: u64,
}

impl Webhooks {
    pub fn all(&self) -> impl Iterator<Item = &Value> {
        self.by_id.values()
    }
}

pub fn get(_: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let enterprise = context.tier == Tier::Extended;
    Ok(Reply::ok(&json!({
        "organization_id": "5fa2b8c123456789abcdef01",
        "user_id": 1,
        "enterprise": enterprise,
        "companyName": "Mixrelay Sandbox",
        "email": "sandbox@example.com",
        "firstName": "Sandy",
        "lastName": "Box",
        "address": { "city": "Paris", "country": "France", "street": "1 rue du Test", "zipCode": "75001" },
        "dateTimePreferences": { "timezone": "Europe/Paris", "timeFormat": "24", "dateFormat": "dd-mm-yyyy" },
        "marketingAutomation": { "enabled": true, "key": "sandbox-ma-key" },
        "plan": [{ "type": "free", "credits": 300, "creditsType": "sendLimit" }],
        "planVerticals": [],
        "relay": { "enabled": false, "data": { "port": 0, "relay": "", "userName": "" } },
    })))
}

const MARKETING: [&str; 10] = [
    "spam",
    "opened",
    "click",
    "hardBounce",
    "softBounce",
    "unsubscribed",
    "listAddition",
    "delivered",
    "contactUpdated",
    "contactDeleted",
];
const TRANSACTIONAL: [&str; 13] = [
    "sent",
    "request",
    "delivered",
    "hardBounce",
    "softBounce",
    "blocked",
    "spam",
    "invalid",
    "deferred",
    "click",
    "opened",
    "uniqueOpened",
    "unsubscribed",
];

fn check(webhook: &Value) -> Result<(), Reply> {
    if !webhook["url"].as_str().is_some_and(|url| url.starts_with("http")) {
        return Err(missing("url is missing or invalid"));
    }
    let known: &[&str] = match webhook["type"].as_str() {
        Some("transactional") => &TRANSACTIONAL,
        Some("marketing") => &MARKETING,
        Some("inbound") => &["inboundEmailProcessed"],
        _ => return Err(invalid("Invalid webhook type")),
    };
    let events = webhook["events"].as_array().filter(|events| !events.is_empty());
    let events = events.ok_or_else(|| missing("events is missing"))?;
    match events.iter().find(|event| !event.as_str().is_some_and(|event| known.contains(&event))) {
        Some(event) => Err(invalid(&format!("Invalid event {event}"))),
        None => Ok(()),
    }
}

pub fn create_webhook(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let mut webhook = context.body.clone();
    if !webhook.is_object() {
        return Err(missing("Body is missing"));
    }
    if webhook["type"].is_null() {
        webhook["type"] = "transactional".into();
    }
    check(&webhook)?;
    state.webhooks.last += 1;
    let id = state.webhooks.last;
    webhook["id"] = id.into();
    webhook["createdAt"] = context.now.to_string().into();
    webhook["modifiedAt"] = context.now.to_string().into();
    state.webhooks.by_id.insert(id, webhook);
    Ok(created(&json!({ "id": id })))
}

pub fn list_webhooks(state: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let kind = context.call.query("type").unwrap_or("transactional");
    let all: Vec<&Value> = state.webhooks.by_id.values().filter(|webhook| webhook["type"] == kind).collect();
    Ok(Reply::ok(&json!({ "webhooks": all })))
}

fn webhook<'a>(state: &'a mut State, id: &str) -> Result<&'a mut Value, Reply> {
    let id = id.parse::<u64>().map_err(|_| invalid("Webhook ID should be a number"))?;
    state.webhooks.by_id.get_mut(&id).ok_or_else(|| not_found("Webhook ID does not exist"))
}

pub fn get_webhook(state: &mut State, _: &Context<'_>, path: &[&str]) -> Answer {
    Ok(Reply::ok(webhook(state, path[1])?))
}

pub fn update_webhook(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    let held = webhook(state, path[1])?;
    let mut next = held.clone();
    for (name, value) in context.body.as_object().into_iter().flatten() {
        if !matches!(name.as_str(), "id" | "type" | "createdAt") {
            next[name] = value.clone();
        }
    }
    check(&next)?;
    next["modifiedAt"] = context.now.to_string().into();
    *held = next;
    Ok(no_content())
}

pub fn delete_webhook(state: &mut State, _: &Context<'_>, path: &[&str]) -> Answer {
    webhook(state, path[1])?;
    let id = path[1].parse::<u64>().unwrap_or_default();
    state.webhooks.by_id.remove(&id);
    Ok(no_content())
}
