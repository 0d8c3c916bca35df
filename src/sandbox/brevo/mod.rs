//! Brevo v3, simulated: contacts, lists, attributes, events, imports, companies, account and webhooks under `/v3`.
//!
//! Order of judgement, as at the vendor: key, rate limit, route, body. A request takes effect in one piece under the lock.

mod account;
mod attributes;
mod companies;
mod contacts;
mod directory;
mod events;
mod imports;
mod inspect;
mod lists;
mod pushes;
mod rates;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::{Mutex, MutexGuard};

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::account::BrevoAccount;
use super::http::{Call, Reply};
use super::journal::{Counters, Recent, Requests};
use super::lock;
use super::switches::{BrevoSwitches, LogSwitches, RetiredBatch, Switches, Tier};
use crate::clock::UnixMillis;

use attributes::Attributes;
use companies::Companies;
use contacts::ContactWrite;
use directory::Directory;
use events::Events;
use imports::Imports;
use lists::Lists;
use rates::{Family, Rates};

pub use inspect::SeedError;

const UNAUTHORISED_IP: &str = "We have detected you are using an unrecognised IP address 127.0.0.1. If you performed this \
     action make sure to add the new IP address in this link: https://app.brevo.com/security/authorised_ips";

pub struct Brevo {
    account: BrevoAccount,
    state: Mutex<State>,
}

/// All that the account remembers.
struct State {
    directory: Directory,
    attributes: Attributes,
    lists: Lists,
    events: Events,
    imports: Imports,
    companies: Companies,
    webhooks: account::Webhooks,
    rates: Rates,
    requests: Requests,
    counters: Counters,
    writes: Recent<ContactWrite>,
    seq: u64,
}

/// What one request is judged by.
struct Context<'a> {
    call: &'a Call,
    /// The body as JSON; null when there is none.
    body: Value,
    switches: &'a BrevoSwitches,
    logs: &'a LogSwitches,
    tier: Tier,
    now: UnixMillis,
}

impl Context<'_> {
    fn page(&self, default: usize, max: usize) -> Result<Page, Reply> {
        let number = |name: &str, default: usize| match self.call.query(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| invalid(&format!("{name} should be a number"))),
        };
        let (limit, offset) = (number("limit", default)?, number("offset", 0)?);
        if limit == 0 || limit > max {
            let text = format!("Limit exceeds max value: {max}");
            return Err(error(StatusCode::BAD_REQUEST, "out_of_range", &text));
        }
        let newest_first = self.call.query("sort").is_none_or(|sort| sort != "asc");
        Ok(Page { limit, offset, newest_first })
    }
}

/// One page of a listing.
#[derive(Clone, Copy, Debug)]
struct Page {
    limit: usize,
    offset: usize,
    newest_first: bool,
}

impl Page {
    fn of<T>(self, mut all: Vec<T>) -> Vec<T> {
        if self.newest_first {
            all.reverse();
        }
        all.into_iter().skip(self.offset).take(self.limit).collect()
    }
}

fn error(status: StatusCode, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({ "code": code, "message": message }))
}

fn invalid(message: &str) -> Reply {
    error(StatusCode::BAD_REQUEST, "invalid_parameter", message)
}

fn missing(message: &str) -> Reply {
    error(StatusCode::BAD_REQUEST, "missing_parameter", message)
}

fn not_found(message: &str) -> Reply {
    error(StatusCode::NOT_FOUND, "document_not_found", message)
}

fn no_content() -> Reply {
    Reply::empty(StatusCode::NO_CONTENT)
}

fn created(body: &Value) -> Reply {
    Reply::json(StatusCode::CREATED, body)
}

/// An answer, or the refusal that takes its place.
type Answer = Result<Reply, Reply>;
type Handler = fn(&mut State, &Context<'_>, &[&str]) -> Answer;

/// The endpoint, its name in counts, and what answers it. `rest` of the path is handed to the handler.
fn route(method: &str, path: &[&str]) -> Option<(&'static str, Handler)> {
    if let ["contacts", "attributes", ..] | ["contacts", "lists", ..] | ["contacts", "folders", ..] = path {
        return contact_structures(method, path);
    }
    Some(match (method, path) {
        ("POST", ["events"]) => ("POST /events", events::create),
        ("POST", ["events", "batch"]) => ("POST /events/batch", events::create_batch),
        ("GET", ["events"]) => ("GET /events", events::list),
        ("POST", ["contacts"]) => ("POST /contacts", contacts::create),
        ("GET", ["contacts"]) => ("GET /contacts", contacts::list),
        ("POST", ["contacts", "batch"]) => ("POST /contacts/batch", retired),
        ("POST", ["contacts", "import"]) => ("POST /contacts/import", imports::create),
        ("POST", ["contacts", "export"]) => ("POST /contacts/export", imports::export),
        ("POST", ["contacts", "doubleOptinConfirmation"]) => {
            ("POST /contacts/doubleOptinConfirmation", contacts::opt_in)
        }
        ("GET", ["contacts", "segments"]) => ("GET /contacts/segments", lists::segments),
        ("GET", ["contacts", _]) => ("GET /contacts/{identifier}", contacts::get),
        ("PUT", ["contacts", _]) => ("PUT /contacts/{identifier}", contacts::update),
        ("DELETE", ["contacts", _]) => ("DELETE /contacts/{identifier}", contacts::delete),
        ("GET", ["processes"]) => ("GET /processes", imports::list),
        ("GET", ["processes", _]) => ("GET /processes/{id}", imports::get),
        ("POST", ["companies"]) => ("POST /companies", companies::create),
        ("GET", ["companies"]) => ("GET /companies", companies::list),
        ("POST", ["companies", "import"]) => ("POST /companies/import", companies::import),
        ("PATCH", ["companies", "link-unlink", _]) => ("PATCH /companies/link-unlink/{id}", companies::link_unlink),
        ("GET", ["companies", _]) => ("GET /companies/{id}", companies::get),
        ("PATCH", ["companies", _]) => ("PATCH /companies/{id}", companies::update),
        ("DELETE", ["companies", _]) => ("DELETE /companies/{id}", companies::delete),
        ("GET", ["crm", "attributes", _]) => ("GET /crm/attributes/{type}", companies::list_attributes),
        ("POST", ["crm", "attributes"]) => ("POST /crm/attributes", companies::create_attribute),
        ("GET", ["account"]) => ("GET /account", account::get),
        ("POST", ["webhooks"]) => ("POST /webhooks", account::create_webhook),
        ("GET", ["webhooks"]) => ("GET /webhooks", account::list_webhooks),
        ("GET", ["webhooks", _]) => ("GET /webhooks/{id}", account::get_webhook),
        ("PUT", ["webhooks", _]) => ("PUT /webhooks/{id}", account::update_webhook),
        ("DELETE", ["webhooks", _]) => ("DELETE /webhooks/{id}", account::delete_webhook),
        _ => return None,
    })
}

fn contact_structures(method: &str, path: &[&str]) -> Option<(&'static str, Handler)> {
    Some(match (method, &path[1..]) {
        ("GET", ["attributes"]) => ("GET /contacts/attributes", attributes::list),
        ("POST", ["attributes", _, _]) => ("POST /contacts/attributes/{category}/{name}", attributes::create),
        ("PUT", ["attributes", _, _]) => ("PUT /contacts/attributes/{category}/{name}", attributes::update),
        ("DELETE", ["attributes", _, _]) => ("DELETE /contacts/attributes/{category}/{name}", attributes::delete),
        ("GET", ["lists"]) => ("GET /contacts/lists", lists::list),
        ("POST", ["lists"]) => ("POST /contacts/lists", lists::create),
        ("GET", ["lists", _]) => ("GET /contacts/lists/{id}", lists::get),
        ("PUT", ["lists", _]) => ("PUT /contacts/lists/{id}", lists::update),
        ("DELETE", ["lists", _]) => ("DELETE /contacts/lists/{id}", lists::delete),
        ("GET", ["lists", _, "contacts"]) => ("GET /contacts/lists/{id}/contacts", lists::members),
        ("POST", ["lists", _, "contacts", "add"]) => ("POST /contacts/lists/{id}/contacts/add", lists::add),
        ("POST", ["lists", _, "contacts", "remove"]) => ("POST /contacts/lists/{id}/contacts/remove", lists::remove),
        ("GET", ["folders"]) => ("GET /contacts/folders", lists::list_folders),
        ("POST", ["folders"]) => ("POST /contacts/folders", lists::create_folder),
        ("GET", ["folders", _]) => ("GET /contacts/folders/{id}", lists::get_folder),
        ("DELETE", ["folders", _]) => ("DELETE /contacts/folders/{id}", lists::delete_folder),
        ("GET", ["folders", _, "lists"]) => ("GET /contacts/folders/{id}/lists", lists::folder_lists),
        _ => return None,
    })
}

fn known_by_another_method(path: &[&str]) -> bool {
    ["GET", "POST", "PUT", "PATCH", "DELETE"].iter().any(|method| route(method, path).is_some())
}

/// `POST /contacts/batch` ended on 2026-10-30 (contract §3.5).
fn retired(_: &mut State, context: &Context<'_>, _: &[&str]) -> Answer {
    let status = match context.switches.retired_batch {
        RetiredBatch::NotFound => StatusCode::NOT_FOUND,
        RetiredBatch::Gone => StatusCode::GONE,
    };
    Err(error(status, "document_not_found", "This endpoint has been retired, use POST /contacts/import"))
}

impl State {
    /// The place of a contact write or an event in the order of all.
    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    fn new(account: &BrevoAccount, now: UnixMillis) -> Self {
        Self {
            directory: Directory::default(),
            attributes: Attributes::new(&account.attributes),
            lists: Lists::new(&account.lists, now),
            events: Events::default(),
            imports: Imports::default(),
            companies: Companies::default(),
            webhooks: account::Webhooks::default(),
            rates: Rates::default(),
            requests: Requests::default(),
            counters: Counters::default(),
            writes: Recent::default(),
            seq: 0,
        }
    }
}

impl Brevo {
    pub fn new(account: BrevoAccount, now: UnixMillis) -> Self {
        let state = Mutex::new(State::new(&account, now));
        Self { account, state }
    }

    pub fn reset(&self, now: UnixMillis) {
        *self.state() = State::new(&self.account, now);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    pub fn log_faulted(&self, call: &Call, switches: &Switches, now: UnixMillis) {
        self.state().requests.note_faulted(call, now, &switches.logs);
    }

    fn context<'a>(&self, call: &'a Call, body: Value, switches: &'a Switches, now: UnixMillis) -> Context<'a> {
        let tier = switches.brevo.tier.unwrap_or(self.account.tier);
        Context { call, body, switches: &switches.brevo, logs: &switches.logs, tier, now }
    }

    pub fn answer(&self, call: &Call, switches: &Switches, now: UnixMillis) -> Reply {
        let segments = call.segments();
        let parts: Vec<&str> = segments.iter().map(Cow::as_ref).collect();
        let path = parts.strip_prefix(&["v3"]).unwrap_or(&[]);
        let route = route(call.method.as_str(), path);
        let name = route.map_or("unknown", |(name, _)| name);
        let body = serde_json::from_slice(&call.body);
        let malformed = body.is_err() && !call.body.is_empty() && !is_multipart(call);
        let body = body.unwrap_or_default();
        let context = self.context(call, body, switches, now);
        let mut state = self.state();
        imports::settle(&mut state, &context);
        let reply = self.judge(&mut state, &context, path, route.filter(|_| !malformed), malformed);
        state.requests.note(call, name, batch_of(&context.body), &reply, now, context.logs);
        reply
    }

    fn judge(
        &self,
        state: &mut State,
        context: &Context<'_>,
        path: &[&str],
        route: Option<(&'static str, Handler)>,
        malformed: bool,
    ) -> Reply {
        let family = Family::of(context.call.method.as_str(), path, context.switches);
        if let Err(refusal) = self.check_key(context) {
            return if context.switches.rate_headers_on_401 {
                rates::with_headers(refusal, state.rates.look(family, context))
            } else {
                refusal
            };
        }
        let standing = match state.rates.take(family, context) {
            Ok(standing) => standing,
            Err(refusal) => {
                state.counters.add("rate_limited", family.name(), 1);
                return refusal;
            }
        };
        state.counters.add("calls", family.name(), 1);
        let reply = match route {
            Some((_, handler)) => handler(state, context, path).unwrap_or_else(|refusal| refusal),
            None if malformed => error(StatusCode::BAD_REQUEST, "bad_request", "Body is not a valid JSON"),
            None if known_by_another_method(path) => {
                error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed")
            }
            None => error(StatusCode::NOT_FOUND, "document_not_found", "Route not found"),
        };
        rates::with_headers(reply, standing)
    }

    fn check_key(&self, context: &Context<'_>) -> Result<(), Reply> {
        let refuse = |message: &str| Err(error(StatusCode::UNAUTHORIZED, "unauthorized", message));
        match context.call.header("api-key") {
            None => refuse("authentication not found in headers"),
            Some(key) if key != self.account.api_key => refuse("Key not found"),
            Some(_) if context.switches.unrecognised_ip => refuse(UNAUTHORISED_IP),
            Some(_) => Ok(()),
        }
    }
}

fn is_multipart(call: &Call) -> bool {
    call.header("content-type").is_some_and(|kind| kind.starts_with("multipart/"))
}

/// How many records a body carries, for the request log.
fn batch_of(body: &Value) -> Option<usize> {
    ["events", "jsonBody", "emails", "ids", "extIds"].iter().find_map(|key| body[key].as_array().map(Vec::len))
}
