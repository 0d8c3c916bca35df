//! Brevo's JSON, exactly as on the wire. Requests are only written, answers only read; fields that the relay has no use
//! for are left out of answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::coerce::AttributeValue;
use super::identifiers::{ContactId, Email, FolderId, ListId};
use super::names::{AttributeName, EventName};

/// Reads null as absence: the vendor's serialisers write either, and a start must not fail over it.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Attribute values of one contact, by name.
pub type Attributes = BTreeMap<AttributeName, AttributeValue>;

/// `POST /events`, and one element of `POST /events/batch` (contract §2.1).
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    pub event_name: EventName,
    pub identifiers: EventIdentifiers,
    /// RFC 3339 with a zone.
    pub event_date: String,
    /// One JSON object, at most [`super::limits::MAX_EVENT_PROPERTIES_BYTES`] long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_properties: Option<Box<RawValue>>,
}

/// Whose event it is; at least one is set. `contact_id` wins over all others (contract §2.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventIdentifiers {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact_id: Option<ContactId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email_id: Option<Email>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ext_id: Option<String>,
    /// Digits with the country code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone_id: Option<String>,
}

/// `POST /contacts` (contract §3.1). At least one of `email`, `ext_id` and the attribute `SMS` is set.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContactUpsert {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    #[serde(rename = "ext_id", skip_serializing_if = "Option::is_none")]
    pub ext_id: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: Attributes,
    /// Lists to join; never leaves one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub list_ids: Vec<ListId>,
    /// True: an existing contact is updated instead of being an error.
    pub update_enabled: bool,
    /// Only ever `true`, for whoever had asked for no emails before their contact was deleted: nobody is subscribed again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email_blacklisted: Option<bool>,
    /// The same for text messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sms_blacklisted: Option<bool>,
}

/// `PUT /contacts/{identifier}` (contract §3.3). A new email address goes into `attributes` as `EMAIL`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContactUpdate {
    #[serde(rename = "ext_id", skip_serializing_if = "Option::is_none")]
    pub ext_id: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: Attributes,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub list_ids: Vec<ListId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unlink_list_ids: Vec<ListId>,
    /// True: no more mail. Absent leaves it as it is; false would resubscribe, and is never sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email_blacklisted: Option<bool>,
    /// The same for text messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sms_blacklisted: Option<bool>,
}

/// `GET /contacts/{identifier}` (contract §3.4).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Contact {
    pub id: ContactId,
    /// Phone-only contacts show a placeholder address here (contract §3.1), which is not checked.
    #[serde(default)]
    pub email: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub email_blacklisted: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub sms_blacklisted: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub list_ids: Vec<ListId>,
    /// By name as Brevo writes it, identifiers (`EXT_ID`, `SMS`) among them.
    #[serde(default, deserialize_with = "or_default")]
    pub attributes: serde_json::Map<String, serde_json::Value>,
}

/// A page of `GET /contacts/lists/{listId}/contacts` (contract §4).
#[derive(Clone, Debug, Deserialize)]
pub struct ContactPage {
    #[serde(default, deserialize_with = "or_default")]
    pub contacts: Vec<Contact>,
    /// Everyone in the list, not only on this page.
    #[serde(default, deserialize_with = "or_default")]
    pub count: u64,
}

/// One row of `POST /contacts/import` (contract §3.6): every identifier but the address goes into `attributes`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImportContact {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    pub attributes: BTreeMap<String, AttributeValue>,
}

/// 201 of `POST /contacts`, `POST /contacts/lists`, `POST /contacts/folders`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Created<Id> {
    pub id: Id,
}

/// 202 of `POST /events/batch`.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct BatchAccepted {
    pub count: usize,
}

/// 207 and 400 of `POST /events/batch`.
#[derive(Clone, Debug, Deserialize)]
pub struct BatchErrors {
    #[serde(default)]
    pub failed_events: Option<usize>,
    pub errors: Vec<BatchError>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchError {
    /// From 0.
    #[serde(default, deserialize_with = "or_default")]
    pub event_index: Vec<usize>,
    #[serde(default)]
    pub message: String,
}

/// Every refusal but that of a batch (contract §1.2). Each field may be missing.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ErrorBody {
    #[serde(default)]
    pub code: String,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub metadata: Option<ErrorMetadata>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct ErrorMetadata {
    /// Names of the identifiers that another contact owns: `email`, `SMS`, ...
    #[serde(default)]
    pub duplicate_identifiers: Vec<String>,
}

/// Body of `POST /contacts/lists/{id}/contacts/add` and `.../remove`: one kind of identifier, 1 to 150 of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum ListMembers {
    /// Compared case-sensitively by Brevo, hence [`Email`].
    #[serde(rename = "emails")]
    Emails(Vec<Email>),
    #[serde(rename = "ids")]
    Ids(Vec<ContactId>),
    #[serde(rename = "extIds")]
    ExtIds(Vec<String>),
}

/// 201 of a list change. The schema wraps the two arrays in `contacts`, the examples do not (contract §4.2).
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum ListChanged {
    Wrapped { contacts: ListChange },
    Bare(ListChange),
}

#[derive(Clone, Debug, Deserialize)]
pub struct ListChange {
    #[serde(default, deserialize_with = "or_default")]
    pub success: Vec<serde_json::Value>,
    #[serde(default, deserialize_with = "or_default")]
    pub failure: Vec<serde_json::Value>,
}

/// `GET /contacts/attributes` (contract §5).
#[derive(Clone, Debug, Deserialize)]
pub struct AttributeList {
    #[serde(default)]
    pub attributes: Vec<Attribute>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attribute {
    pub name: String,
    pub category: String,
    #[serde(rename = "type", default)]
    pub kind: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub enumeration: Vec<EnumerationItem>,
    #[serde(default, deserialize_with = "or_default")]
    pub multi_category_options: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnumerationItem {
    /// A number, or a number in a string.
    pub value: serde_json::Value,
    pub label: String,
}

/// Body of `POST /contacts/attributes/{category}/{NAME}`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct NewAttribute {
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// A page of `GET /contacts/lists` (contract §4).
#[derive(Clone, Debug, Deserialize)]
pub struct ListPage {
    #[serde(default)]
    pub lists: Vec<List>,
    #[serde(default)]
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List {
    pub id: ListId,
    pub name: String,
    #[serde(default)]
    pub folder_id: Option<FolderId>,
    /// The one total that Brevo keeps filling (contract §4).
    #[serde(default, deserialize_with = "or_default")]
    pub unique_subscribers: u64,
}

/// A page of `GET /contacts/folders`.
#[derive(Clone, Debug, Deserialize)]
pub struct FolderPage {
    #[serde(default)]
    pub folders: Vec<Folder>,
    #[serde(default)]
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Folder {
    pub id: FolderId,
    pub name: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct NewFolder<'a> {
    pub name: &'a str,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewList<'a> {
    pub name: &'a str,
    pub folder_id: FolderId,
}

/// `GET /account` (contract §9).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    #[serde(default)]
    pub company_name: String,
    #[serde(default)]
    pub email: String,
    #[serde(default)]
    pub enterprise: bool,
    #[serde(default)]
    pub plan: Vec<Plan>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Plan {
    #[serde(rename = "type", default)]
    pub kind: String,
}

/// `GET /processes/{id}` (contract §3.6).
#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    pub status: ProcessStatus,
    #[serde(default)]
    pub error: Option<serde_json::Value>,
    /// Of an import: how many rows were no good, by kind; numbers or null, at the top or under `import` (contract §3.6).
    #[serde(default)]
    pub info: Option<serde_json::Value>,
}

impl Process {
    /// Whether an import says that some of its rows were not taken. Its counts of duplicates do not say so: whether rows
    /// that updated a contact are among them is not documented (contract §3.6).
    pub fn rows_were_refused(&self) -> bool {
        let counts = self.info.as_ref().map(|info| info.get("import").unwrap_or(info));
        counts.is_some_and(|counts| counts["invalid_emails"].as_u64().is_some_and(|count| count > 0))
    }
}

/// `GET /processes`: what has been asked of the account, newest first when asked so (contract §3.6).
#[derive(Clone, Debug, Deserialize)]
pub struct ProcessList {
    #[serde(default)]
    pub processes: Vec<ListedProcess>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ListedProcess {
    pub id: super::identifiers::ProcessId,
    #[serde(default)]
    pub name: Option<String>,
    pub status: ProcessStatus,
}

impl ListedProcess {
    /// Anything that has not ended and is not an export. What an import of companies is called is not documented
    /// (contract §3.6).
    pub fn may_be_an_import(&self) -> bool {
        let exports = self.name.as_deref().is_some_and(|name| name.contains("EXPORT"));
        !exports && matches!(self.status, ProcessStatus::Queued | ProcessStatus::Processing | ProcessStatus::Unknown)
    }

    /// A contact import that has not ended.
    pub fn is_running_import(&self) -> bool {
        self.name.as_deref() == Some("IMPORTUSER")
            && matches!(self.status, ProcessStatus::Queued | ProcessStatus::Processing | ProcessStatus::Unknown)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessStatus {
    Queued,
    Processing,
    Completed,
    Failed,
    Cancelled,
    /// A state that is not documented: still running, as far as anyone can tell.
    #[serde(other)]
    Unknown,
}

/// 202 of `POST /contacts/import`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessStarted {
    pub process_id: super::identifiers::ProcessId,
}
