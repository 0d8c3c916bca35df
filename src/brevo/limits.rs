//! What fits into one of Brevo's requests. (How many requests an hour holds is the budgets' affair: headers say.)
//!
//! Sizes are decimal where the documentation says "KB" or "MB": the smaller reading is safe under both.

/// Events in one `POST /events/batch` (contract §2.3).
pub const MAX_BATCH_EVENTS: usize = 200;
/// Body of one `POST /events/batch` (contract §2.3).
pub const MAX_BATCH_BYTES: usize = 512_000;
/// Serialised `event_properties` of one event (contract §2.1).
pub const MAX_EVENT_PROPERTIES_BYTES: usize = 50_000;
/// Body of one `POST /contacts/import`: 10 MB are allowed, 8 MB advised (contract §3.6).
pub const MAX_IMPORT_BYTES: usize = 8_000_000;
/// Members in one list change (contract §4.2).
pub const MAX_LIST_CHANGE: usize = 150;
/// Largest page of `GET /contacts/lists/{listId}/contacts` (contract §4).
pub const MAX_MEMBERS_PAGE: usize = 500;
/// Largest page of `GET /contacts/lists` and `GET /contacts/folders` (contract §4).
pub const MAX_PAGE: usize = 50;
