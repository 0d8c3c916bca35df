//! What the control API shows of Brevo, and what it puts in.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::account::AttributeSpec;
use super::super::http::Call;
use super::super::switches::Switches;
use super::contacts::{ContactWrite, Via, Write, apply};
use super::directory::{Contact, Key};
use super::{Brevo, State, events, imports};
use crate::clock::UnixMillis;

const DEFAULT_LIMIT: usize = 1_000;

/// What `POST /brevo/seed` takes; all parts are optional and add to what is there.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Seed {
    attributes: Vec<AttributeSpec>,
    lists: Vec<SeedList>,
    contacts: Vec<SeedContact>,
    /// Attributes of companies, `name` among them.
    companies: Vec<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedList {
    id: i64,
    name: String,
}

/// Why a contact of a seed cannot be; `0` is its place in the list.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("contacts[{0}]: an identifier is not valid")]
    Identifier(usize),
    #[error("contacts[{0}]: an identifier belongs to another contact")]
    Taken(usize),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedContact {
    email: Option<String>,
    ext_id: Option<String>,
    #[serde(default)]
    attributes: Map<String, Value>,
    #[serde(default)]
    list_ids: Vec<i64>,
    #[serde(default)]
    email_blacklisted: bool,
}

fn limit(call: &Call) -> usize {
    call.query("limit").and_then(|limit| limit.parse().ok()).unwrap_or(DEFAULT_LIMIT)
}

impl Brevo {
    /// The state with all imports applied whose time has come.
    fn settled<T>(&self, call: &Call, switches: &Switches, now: UnixMillis, show: impl FnOnce(&mut State) -> T) -> T {
        let context = self.context(call, Value::Null, switches, now);
        let mut state = self.state();
        imports::settle(&mut state, &context);
        show(&mut state)
    }

    /// How many contacts were made. Those before an impossible one are in.
    pub fn seed(&self, seed: Seed, call: &Call, switches: &Switches, now: UnixMillis) -> Result<usize, SeedError> {
        let context = self.context(call, Value::Null, switches, now);
        let mut state = self.state();
        for spec in seed.attributes {
            state.attributes.put(spec, None);
        }
        for list in seed.lists {
            state.lists.put(list.id, &list.name, now);
        }
        for company in seed.companies {
            state.companies.seed(company, now);
        }
        let mut ids = 0;
        for (at, contact) in seed.contacts.into_iter().enumerate() {
            let mut write = Write { lists: contact.list_ids.into_iter().collect(), ..Write::default() };
            write.take_attributes(&contact.attributes).map_err(|_| SeedError::Identifier(at))?;
            for (key, value) in [(Key::Email, contact.email), (Key::ExtId, contact.ext_id)] {
                if let Some(value) = value {
                    let value = key.normal(&value).ok_or(SeedError::Identifier(at))?;
                    write.identifiers.insert(key, Some(value));
                }
            }
            if !write.owners(&state).is_empty() {
                return Err(SeedError::Taken(at));
            }
            let id = state.directory.create(now);
            write.email_blacklisted = Some(contact.email_blacklisted);
            apply(&mut state, id, write, Via::Seed, &context);
            ids += 1;
        }
        Ok(ids)
    }

    pub fn show_contacts(&self, call: &Call, switches: &Switches, now: UnixMillis) -> Value {
        self.settled(call, switches, now, |state| {
            let contacts: Vec<Value> = state.directory.all().take(limit(call)).map(Contact::to_json).collect();
            json!({ "contacts": contacts, "total": state.directory.len() })
        })
    }

    /// By email, ext_id, phone or numeric id.
    pub fn show_contact(&self, id: &str, call: &Call, switches: &Switches, now: UnixMillis) -> Option<Value> {
        self.settled(call, switches, now, |state| {
            let owner = |key: &Key| state.directory.owner(*key, &key.normal(id)?);
            let found = Key::ALL.iter().find_map(owner).or_else(|| id.parse().ok())?;
            state.directory.get(found).map(Contact::to_json)
        })
    }

    /// In order of arrival; filters `event_name`, `contact_id`, `outcome`; the newest `limit`.
    pub fn show_events(&self, call: &Call) -> Value {
        let state = self.state();
        let (name, outcome) = (call.query("event_name"), call.query("outcome"));
        let contact = call.query("contact_id").and_then(|id| id.parse::<i64>().ok());
        let mut newest: Vec<Value> = state
            .events
            .log
            .iter()
            .rev()
            .filter(|event| name.is_none_or(|name| *name == *event.name))
            .filter(|event| outcome.is_none_or(|outcome| outcome == event.outcome))
            .filter(|event| contact.is_none() || contact == event.contact_id)
            .take(limit(call))
            .map(events::BrevoEvent::to_json)
            .collect();
        newest.reverse();
        json!({ "events": newest, "forgotten": state.events.log.forgotten() })
    }

    /// Contact writes in order of arrival, whatever brought them; filters `contact_id`, `via`.
    pub fn show_updates(&self, call: &Call) -> Value {
        let state = self.state();
        let contact = call.query("contact_id").and_then(|id| id.parse::<i64>().ok());
        let via = call.query("via");
        let mut newest: Vec<Value> = state
            .writes
            .iter()
            .rev()
            .filter(|write| {
                contact.is_none_or(|id| id == write.contact_id) && via.is_none_or(|via| via == write.via.name())
            })
            .take(limit(call))
            .map(ContactWrite::to_json)
            .collect();
        newest.reverse();
        json!({ "updates": newest, "forgotten": state.writes.forgotten() })
    }

    pub fn show_companies(&self) -> Value {
        let state = self.state();
        json!({ "companies": state.companies.all_json(), "total": state.companies.len() })
    }

    pub fn show_list(&self, id: i64, call: &Call, switches: &Switches, now: UnixMillis) -> Option<Value> {
        self.settled(call, switches, now, |state| {
            let name = state.lists.name(id)?;
            let members: Vec<Value> = state
                .directory
                .all()
                .filter(|contact| contact.list_ids.contains(&id))
                .map(|contact| {
                    json!({ "id": contact.id, "email": contact.shown_email(), "ext_id": contact.identifier(Key::ExtId) })
                })
                .collect();
            Some(json!({ "id": id, "name": name, "total": members.len(), "members": members }))
        })
    }

    pub fn show_requests(&self, call: &Call) -> Value {
        self.state().requests.list(call.query("path"), limit(call))
    }

    pub fn show_counts(&self, call: &Call, switches: &Switches, now: UnixMillis) -> Value {
        self.settled(call, switches, now, |state| {
            json!({
                "counts": state.counters.to_json(),
                "requests": state.requests.counts(),
                "events_dropped_unknown_contact": state.counters.get("events", "dropped_unknown_contact"),
                "events_by_name": state.events.by_name(),
                "contacts": state.directory.len(),
                "companies": state.companies.len(),
            })
        })
    }
}
