//! The calls that the relay makes, as requests ready for the vendor stack.
//!
//! Requests have [`Priority::Live`]; a caller that can wait lowers it. Where a call's items may need several requests,
//! each [`PackedCall`] says which items it carries.

use std::ops::Range;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{HeaderName, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use url::Url;

use super::account::AttributeToCreate;
use super::identifiers::{ContactRef, ListId, ProcessId};
use super::import_body::ImportBody;
use super::limits::{MAX_BATCH_BYTES, MAX_BATCH_EVENTS, MAX_LIST_CHANGE, MAX_MEMBERS_PAGE, MAX_PAGE};
use super::pack::{Capacity, Packed, pack, write_json};
use super::wire::{ContactUpdate, ContactUpsert, Event, ListMembers, NewAttribute, NewFolder, NewList};
use crate::config;
use crate::vendor::{Cost, Family, Priority, VendorRequest};

const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// Everything that could mean something in a path is escaped, `@` and `+` too.
const IDENTIFIER: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connectors.brevo.api_key has characters that no HTTP header may carry")]
pub struct BadApiKey;

/// One request of several, and the indices of the items in it.
#[derive(Clone, Debug)]
pub struct PackedCall {
    pub range: Range<usize>,
    pub request: VendorRequest,
}

/// Builds calls with the account's key.
#[derive(Clone, Debug)]
pub struct Calls {
    base: Url,
    api_key: HeaderValue,
}

/// What an endpoint is: its path template (the metric label) and the limit that it draws on (contract §1.3).
#[derive(Clone, Copy)]
pub(super) struct Endpoint {
    pub(super) label: &'static str,
    pub(super) family: Family,
}

impl Endpoint {
    const fn contacts(label: &'static str) -> Self {
        Self { label, family: Family::BrevoContacts }
    }
}

impl Calls {
    pub fn new(config: &config::Brevo) -> Result<Self, BadApiKey> {
        let mut api_key = HeaderValue::from_str(config.api_key.expose()).map_err(|_| BadApiKey)?;
        api_key.set_sensitive(true);
        Ok(Self { base: config.base_url.clone(), api_key })
    }

    /// `POST /events`.
    pub fn event(&self, event: &Event) -> VendorRequest {
        let endpoint = Endpoint { label: "/events", family: Family::BrevoEvents };
        self.post(endpoint, "/events", json(event))
    }

    /// `POST /events/batch`: at most 200 events and 512 KB each (contract §2.3).
    pub fn events(&self, events: &[Event]) -> Vec<PackedCall> {
        let endpoint = Endpoint { label: "/events/batch", family: Family::BrevoEventsBatch };
        let capacity = Capacity { items: MAX_BATCH_EVENTS, bytes: MAX_BATCH_BYTES };
        let packed = pack("{\"events\":[", events, "]}", capacity);
        self.packed(endpoint, "/events/batch", packed)
    }

    /// `POST /contacts`.
    pub fn upsert_contact(&self, contact: &ContactUpsert) -> VendorRequest {
        self.post(Endpoint::contacts("/contacts"), "/contacts", json(contact))
    }

    /// `PUT /contacts/{identifier}`.
    pub fn update_contact(&self, contact: ContactRef<'_>, update: &ContactUpdate) -> VendorRequest {
        let mut request =
            self.request(Method::PUT, Endpoint::contacts("/contacts/{identifier}"), &path_of(contact), json(update));
        request.url.query_pairs_mut().append_pair("identifierType", identifier_type(contact));
        request
    }

    /// `GET /contacts/{identifier}`.
    pub fn contact(&self, contact: ContactRef<'_>) -> VendorRequest {
        let mut request = self.get(Endpoint::contacts("/contacts/{identifier}"), &path_of(contact));
        request.url.query_pairs_mut().append_pair("identifierType", identifier_type(contact));
        request
    }

    /// `DELETE /contacts/{identifier}`.
    pub fn delete_contact(&self, contact: ContactRef<'_>) -> VendorRequest {
        let endpoint = Endpoint::contacts("/contacts/{identifier}");
        let mut request = self.request(Method::DELETE, endpoint, &path_of(contact), Bytes::new());
        request.url.query_pairs_mut().append_pair("identifierType", identifier_type(contact));
        request
    }

    /// `POST /contacts/import`. Imports must not run side by side: send the next one when [`Calls::process`] says that the
    /// one before has ended (contract §3.6).
    pub fn import(&self, import: ImportBody) -> VendorRequest {
        let records = import.len() as u64;
        let endpoint = Endpoint::contacts("/contacts/import");
        let mut request = self.post(endpoint, "/contacts/import", import.into_json().into());
        request.cost.records = records;
        request
    }

    /// `GET /processes/{processId}`: one of the account's 100 calls an hour.
    pub fn process(&self, process: ProcessId) -> VendorRequest {
        let endpoint = Endpoint { label: "/processes/{processId}", family: Family::BrevoOther };
        self.get(endpoint, &format!("/processes/{}", process.0))
    }

    /// `GET /processes`, the newest ten: one of the account's 100 calls an hour.
    pub fn processes(&self) -> VendorRequest {
        let endpoint = Endpoint { label: "/processes", family: Family::BrevoOther };
        let mut request = self.get(endpoint, "/processes");
        request.url.query_pairs_mut().append_pair("limit", "10").append_pair("sort", "desc");
        request
    }

    /// `POST /contacts/lists/{listId}/contacts/add`, 150 members each. The contacts must exist (contract §4.2).
    pub fn add_to_list(&self, list: ListId, members: &ListMembers) -> Vec<PackedCall> {
        self.change_list(list, members, "add", "/contacts/lists/{listId}/contacts/add")
    }

    /// `POST /contacts/lists/{listId}/contacts/remove`, 150 members each.
    pub fn remove_from_list(&self, list: ListId, members: &ListMembers) -> Vec<PackedCall> {
        self.change_list(list, members, "remove", "/contacts/lists/{listId}/contacts/remove")
    }

    fn change_list(&self, list: ListId, members: &ListMembers, verb: &str, label: &'static str) -> Vec<PackedCall> {
        let capacity = Capacity { items: MAX_LIST_CHANGE, bytes: usize::MAX };
        let packed = match members {
            ListMembers::Emails(emails) => pack("{\"emails\":[", emails, "]}", capacity),
            ListMembers::Ids(ids) => pack("{\"ids\":[", ids, "]}", capacity),
            ListMembers::ExtIds(ids) => pack("{\"extIds\":[", ids, "]}", capacity),
        };
        self.packed(Endpoint::contacts(label), &format!("/contacts/lists/{}/contacts/{verb}", list.0), packed)
    }

    /// `GET /contacts/attributes`: all of them, there is no paging.
    pub fn attributes(&self) -> VendorRequest {
        self.get(Endpoint::contacts("/contacts/attributes"), "/contacts/attributes")
    }

    /// `POST /contacts/attributes/normal/{NAME}`. Values sent within the next seconds may still be dropped (contract §5).
    pub fn create_attribute(&self, attribute: &AttributeToCreate) -> VendorRequest {
        let endpoint = Endpoint::contacts("/contacts/attributes/{category}/{name}");
        let path = format!("/contacts/attributes/normal/{}", attribute.name);
        self.post(endpoint, &path, json(&NewAttribute { kind: attribute.kind.label() }))
    }

    /// A page of `GET /contacts/lists`, from `offset`.
    pub fn lists(&self, offset: u64) -> VendorRequest {
        self.page(Endpoint::contacts("/contacts/lists"), "/contacts/lists", MAX_PAGE, offset)
    }

    /// `GET /contacts/lists/{listId}`.
    pub fn list(&self, list: ListId) -> VendorRequest {
        self.get(Endpoint::contacts("/contacts/lists/{listId}"), &format!("/contacts/lists/{}", list.0))
    }

    /// A page of `GET /contacts/lists/{listId}/contacts`, from `offset`.
    pub fn list_members(&self, list: ListId, offset: u64) -> VendorRequest {
        let endpoint = Endpoint::contacts("/contacts/lists/{listId}/contacts");
        self.page(endpoint, &format!("/contacts/lists/{}/contacts", list.0), MAX_MEMBERS_PAGE, offset)
    }

    /// `POST /contacts/lists`. Whether names are unique is unconfirmed: look first.
    pub fn create_list(&self, list: &NewList<'_>) -> VendorRequest {
        self.post(Endpoint::contacts("/contacts/lists"), "/contacts/lists", json(list))
    }

    /// A page of `GET /contacts/folders`, from `offset`.
    pub fn folders(&self, offset: u64) -> VendorRequest {
        self.page(Endpoint::contacts("/contacts/folders"), "/contacts/folders", MAX_PAGE, offset)
    }

    /// `POST /contacts/folders`.
    pub fn create_folder(&self, folder: &NewFolder<'_>) -> VendorRequest {
        self.post(Endpoint::contacts("/contacts/folders"), "/contacts/folders", json(folder))
    }

    /// `GET /account`: one of the account's 100 calls an hour.
    pub fn account(&self) -> VendorRequest {
        self.get(Endpoint { label: "/account", family: Family::BrevoOther }, "/account")
    }

    /// Asks whether Brevo would take something, without a record and outside the scarce 100 calls an hour.
    pub fn probe(&self) -> VendorRequest {
        let mut request = self.get(Endpoint::contacts("/contacts/lists"), "/contacts/lists");
        request.url.query_pairs_mut().append_pair("limit", "1");
        request
    }

    fn page(&self, endpoint: Endpoint, path: &str, limit: usize, offset: u64) -> VendorRequest {
        let mut request = self.get(endpoint, path);
        let (limit, offset) = (limit.to_string(), offset.to_string());
        // Oldest first, so that what is created meanwhile cannot push anything over a page's edge.
        request
            .url
            .query_pairs_mut()
            .append_pair("limit", &limit)
            .append_pair("offset", &offset)
            .append_pair("sort", "asc");
        request
    }

    fn packed(&self, endpoint: Endpoint, path: &str, packed: Vec<Packed>) -> Vec<PackedCall> {
        let request = |Packed { range, body }| {
            let mut request = self.post(endpoint, path, body);
            request.cost.records = range.len() as u64;
            PackedCall { range, request }
        };
        packed.into_iter().map(request).collect()
    }

    fn get(&self, endpoint: Endpoint, path: &str) -> VendorRequest {
        self.request(Method::GET, endpoint, path, Bytes::new())
    }

    fn post(&self, endpoint: Endpoint, path: &str, body: Bytes) -> VendorRequest {
        self.request(Method::POST, endpoint, path, body)
    }

    /// `path` begins with a slash and is escaped already.
    pub(super) fn request(&self, method: Method, endpoint: Endpoint, path: &str, body: Bytes) -> VendorRequest {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        let mut headers = HeaderMap::with_capacity(3);
        headers.insert(API_KEY, self.api_key.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let cost = Cost { calls: 1, records: 0, bytes: body.len() as u64 };
        let Endpoint { label, family } = endpoint;
        VendorRequest {
            method,
            url,
            headers,
            body,
            endpoint: label,
            family,
            priority: Priority::Live,
            cost,
            note: None,
        }
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> Bytes {
    let mut body = Vec::new();
    write_json(&mut body, value);
    body.into()
}

fn path_of(contact: ContactRef<'_>) -> String {
    let escaped = |text: &str| utf8_percent_encode(text, IDENTIFIER).to_string();
    let identifier = match contact {
        ContactRef::Id(id) => id.0.to_string(),
        ContactRef::ExtId(id) => escaped(id),
        ContactRef::Email(email) => escaped(email.as_str()),
        ContactRef::Phone(phone) => phone.digits().to_owned(),
    };
    format!("/contacts/{identifier}")
}

fn identifier_type(contact: ContactRef<'_>) -> &'static str {
    match contact {
        ContactRef::Id(_) => "contact_id",
        ContactRef::ExtId(_) => "ext_id",
        ContactRef::Email(_) => "email_id",
        ContactRef::Phone(_) => "phone_id",
    }
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
