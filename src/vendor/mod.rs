//! Outgoing HTTP: what every call to a vendor has in common.
//!
//! A call is a [`VendorRequest`]; it goes through one tower stack per destination ([`stack`]) that waits for the
//! destination's [`gate`], claims from the durable [`budget`], measures, bounds and sends, and it comes back as a
//! [`VendorAnswer`] that can be judged for good. The room knows how to wait and how to try again; it knows neither
//! vendor: what an answer means is handed in as a [`verdict::Judge`].

pub mod budget;
pub mod gate;
pub mod in_flight;
pub mod stack;
pub mod transport;
pub mod upload;
pub mod verdict;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use url::Url;

pub use in_flight::Note;
pub use transport::{Transport, TransportError, read_capped};
pub use verdict::{PauseCause, Verdict};

/// One call, complete but for the credentials that its client has already put into `headers`.
#[derive(Clone, Debug)]
pub struct VendorRequest {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The metric label: the endpoint's path template.
    pub endpoint: &'static str,
    pub family: Family,
    pub priority: Priority,
    pub cost: Cost,
    /// To be written down before it leaves, where arriving twice would matter.
    pub note: Option<Note>,
}

impl VendorRequest {
    /// The same, which leaves when `note` is written.
    pub fn noted(self, note: Note) -> Self {
        Self { note: Some(note), ..self }
    }
}

/// The answer to a call, body included.
#[derive(Clone, Debug)]
pub struct VendorAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// How many earlier attempts of this call may have arrived and ended without the vendor's own answer (no answer, a
    /// 5xx, somebody else's page). What such a call changed may have been changed twice.
    pub doubtful: u32,
}

impl VendorAnswer {
    pub fn new(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        Self { status, headers, body, doubtful: 0 }
    }

    /// The body as text for people, cut at `max` bytes and with broken UTF-8 replaced.
    pub fn excerpt(&self, max: usize) -> String {
        String::from_utf8_lossy(&self.body[..self.body.len().min(max)]).into_owned()
    }
}

/// A group of endpoints that share one of a vendor's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// `/import`, `/track`, `/engage`, `/groups`: 2 GB a minute, 30,000 events a second (Mixpanel contract §3).
    MixpanelIngestion,
    /// All query endpoints of a project: 60 an hour and 5 at once (Mixpanel contract §9).
    MixpanelQuery,
    /// `/jql`: the same again on its own.
    MixpanelJql,
    /// Raw export: 60 an hour, 3 a second, 100 at once (Mixpanel contract §8).
    MixpanelExport,
    /// `/api/app/...`: no published limit; counted, not held back.
    MixpanelApp,
    /// GDPR tasks: 1 a second (Mixpanel contract §11).
    MixpanelGdpr,
    /// `/lookup-tables`: 100 in any 24 hours (Mixpanel contract §7).
    MixpanelLookupTables,
    /// `POST /events`: 10/s and 36,000/h on ordinary plans (Brevo contract §1.3).
    BrevoEvents,
    /// `POST /events/batch`: whether it shares the row of `/events` is unconfirmed, so it is learned on its own.
    BrevoEventsBatch,
    /// `/contacts/...`, lists, attributes and imports included: 10/s and 36,000/h.
    BrevoContacts,
    /// Everything else at Brevo: 100 an hour.
    BrevoOther,
}

impl Family {
    pub const ALL: [Family; 11] = [
        Family::MixpanelIngestion,
        Family::MixpanelQuery,
        Family::MixpanelJql,
        Family::MixpanelExport,
        Family::MixpanelApp,
        Family::MixpanelGdpr,
        Family::MixpanelLookupTables,
        Family::BrevoEvents,
        Family::BrevoEventsBatch,
        Family::BrevoContacts,
        Family::BrevoOther,
    ];

    pub fn vendor(self) -> &'static str {
        match self {
            Family::MixpanelIngestion
            | Family::MixpanelQuery
            | Family::MixpanelJql
            | Family::MixpanelExport
            | Family::MixpanelApp
            | Family::MixpanelGdpr
            | Family::MixpanelLookupTables => "mixpanel",
            Family::BrevoEvents | Family::BrevoEventsBatch | Family::BrevoContacts | Family::BrevoOther => "brevo",
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Family::MixpanelIngestion => "ingestion",
            Family::MixpanelQuery => "query",
            Family::MixpanelJql => "jql",
            Family::MixpanelExport => "export",
            Family::MixpanelApp => "app",
            Family::MixpanelGdpr => "gdpr",
            Family::MixpanelLookupTables => "lookup_tables",
            Family::BrevoEvents => "events",
            Family::BrevoEventsBatch => "events_batch",
            Family::BrevoContacts => "contacts",
            Family::BrevoOther => "other",
        }
    }
}

/// Who goes first when a budget is short (CORE 14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    Live,
    Cohorts,
    /// Somebody asked through the query proxy and waits for the answer.
    Callers,
    Backfill,
}

impl Priority {
    pub const ALL: [Priority; 4] = [Priority::Live, Priority::Cohorts, Priority::Callers, Priority::Backfill];
}

/// What a call takes from its family's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    pub calls: u64,
    pub records: u64,
    pub bytes: u64,
}

impl Cost {
    pub const CALL: Cost = Cost { calls: 1, records: 0, bytes: 0 };
}
