//! Every point of the two contracts that sources leave open, and how the sandbox reads it at the moment.
//!
//! The first variant of an enum, and the default of a number or flag, is the likeliest reading. `PUT /switches` on the
//! control API merges a partial JSON object into these.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Switches {
    pub mixpanel: MixpanelSwitches,
    pub brevo: BrevoSwitches,
    pub logs: LogSwitches,
}

/// How much is kept for inspection. Counters are exact whatever these say.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSwitches {
    /// Keep ids and arrival times only, no bodies: for throughput tests. Set it before traffic starts.
    pub counts_only: bool,
    /// Records kept with their bodies, per vendor.
    pub records: usize,
    /// Records kept per vendor in `counts_only` mode.
    pub counts_only_records: usize,
    /// Requests kept with their headers, per vendor.
    pub requests: usize,
    /// Keys remembered to recognise duplicates; beyond it `duplicates_are_exact` turns false.
    pub dedup_keys: usize,
}

impl Default for LogSwitches {
    fn default() -> Self {
        Self {
            counts_only: false,
            records: 200_000,
            counts_only_records: 2_000_000,
            requests: 10_000,
            dedup_keys: 10_000_000,
        }
    }
}

impl LogSwitches {
    pub(super) fn record_limit(&self) -> usize {
        if self.counts_only { self.counts_only_records } else { self.records }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityMode {
    #[default]
    Simplified,
    Original,
}

/// How a query compares `$last_seen`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastSeenIs {
    #[default]
    Time,
    Text,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixpanelSwitches {
    pub last_seen_is: LastSeenIs,
    /// A session of `/engage` is forgotten after this many pages of it.
    pub session_pages: Option<u64>,
    /// Overrides the account's mode.
    pub identity: Option<IdentityMode>,
    /// The specification says that an absent `strict` means 1; clients show that it means 0.
    pub import_absent_strict: AbsentStrict,
    /// `/import` with `strict=0`, JSON body, no `verbose`.
    pub import_lenient_answer: LenientAnswer,
    /// Whether `/import` looks up the caller's address when an event has no `ip`.
    pub import_geo_from_request: bool,
    pub long_insert_id: LongInsertId,
    /// An event of a simplified project that names nobody; "accept" is how importers probe for the mode.
    pub import_nameless: Nameless,
    pub failed_record_id_key: FailedRecordIdKey,
    pub old_track_event: OldTrackEvent,
    /// The rule behind `1`: one good object is enough, or all must be good.
    pub track_success: TrackSuccess,
    /// More than 2,000 records on `/track`, `/engage`, `/groups`.
    pub oversize_batch: OversizeBatch,
    /// `$identify` and its kin on `/track` of a simplified project; stored, they link a device as any event does.
    pub simplified_identity_event: SimplifiedIdentityEvent,
    /// `$identify` of an original project wants a version 4 UUID as the anonymous id.
    pub anon_id_must_be_uuid4: bool,
    /// An operator that meets a value of another type.
    pub operator_type_mismatch: TypeMismatch,
    /// `$add` and `$append` on groups.
    pub group_add_append: GroupAddAppend,
    /// Whether `$mp_metadata.$mp_event_id` takes part in deduplication.
    pub mp_event_id_dedups: bool,
    pub img: ImageKind,
    pub retry_after_on_429: bool,
    /// Rolling-minute limit of `/import`; off by default so that throughput tests run free.
    pub import_limit: Option<ImportLimit>,
    pub query_limits: bool,
    pub queries_per_hour: u64,
    pub concurrent_queries: usize,
    /// How late the profile query shows a change.
    pub profile_lag_ms: u64,
    /// How long a query occupies its slot.
    pub query_duration_ms: u64,
    /// A query error arrives inside a 200, as one old client reports.
    pub query_error_in_ok: bool,
    /// The export breaks off after so many lines with `terminated early` inside its 200.
    pub export_breaks_after: Option<usize>,
    /// How many exports do so; all when absent.
    pub export_breaks_times: Option<u64>,
    /// The most days in one export, more being refused; absent: any.
    pub export_max_days: Option<i64>,
    pub gdpr_answer: GdprAnswer,
    /// Time from a GDPR request to SUCCESS.
    pub gdpr_duration_ms: u64,
}

impl Default for MixpanelSwitches {
    fn default() -> Self {
        Self {
            identity: None,
            import_absent_strict: AbsentStrict::default(),
            import_lenient_answer: LenientAnswer::default(),
            import_geo_from_request: true,
            long_insert_id: LongInsertId::default(),
            import_nameless: Nameless::default(),
            failed_record_id_key: FailedRecordIdKey::default(),
            old_track_event: OldTrackEvent::default(),
            track_success: TrackSuccess::default(),
            oversize_batch: OversizeBatch::default(),
            simplified_identity_event: SimplifiedIdentityEvent::default(),
            anon_id_must_be_uuid4: true,
            operator_type_mismatch: TypeMismatch::default(),
            group_add_append: GroupAddAppend::default(),
            mp_event_id_dedups: false,
            img: ImageKind::default(),
            retry_after_on_429: false,
            import_limit: None,
            query_limits: true,
            queries_per_hour: 60,
            concurrent_queries: 5,
            profile_lag_ms: 0,
            query_duration_ms: 0,
            query_error_in_ok: false,
            last_seen_is: LastSeenIs::default(),
            session_pages: None,
            export_breaks_after: None,
            export_breaks_times: None,
            export_max_days: Some(100),
            gdpr_answer: GdprAnswer::default(),
            gdpr_duration_ms: 5_000,
        }
    }
}

/// The documented ceiling is 2 GB and 1.8 million events in a rolling minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportLimit {
    pub bytes_per_minute: u64,
    pub events_per_minute: u64,
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $first:ident, $($rest:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            #[default]
            $first,
            $($rest),+
        }
    };
}

choice!(AbsentStrict { Lenient, Strict });
choice!(LenientAnswer { Plain, Json });
choice!(LongInsertId { Reject, Truncate });
choice!(Nameless { Accept, Reject });
choice!(FailedRecordIdKey { InsertId, DollarInsertId });
choice!(OldTrackEvent { AcceptAndDrop, Refuse });
choice!(TrackSuccess { AnyValid, AllValid });
choice!(OversizeBatch { Accept, Refuse, TooLarge });
choice!(SimplifiedIdentityEvent { Ignore, Store, Refuse });
choice!(TypeMismatch { Keep, Overwrite });
choice!(GroupAddAppend { Ignore, Apply });
choice!(ImageKind { Png, Gif });
choice!(GdprAnswer { Spec, Page });

choice!(
    /// The rate table of the Brevo account.
    Tier { General, Advanced, Extended }
);
choice!(BatchBucket { Events, Other });
choice!(BareContactsBucket { Contacts, Other });
choice!(UnknownContact { Drop, Create });
choice!(MixedBatch { MultiStatus, AcceptedShortCount });
choice!(OversizeBrevoBatch { BadRequest, PayloadTooLarge });
choice!(ConflictCode { InvalidParameter, DuplicateParameter });
choice!(ListShape { Wrapped, Bare });
choice!(RateWindow { Fixed, Sliding });
choice!(ImportBooleans { Ignored, Applied });
choice!(
    /// How an import ends: in the last two cases as `failed`, with none of its rows applied, or with every other one of
    /// its contacts (all of its companies).
    ImportEnd { Completed, Cancelled, Failed, CutShort }
);
choice!(ClearBy { Both, EmptyString, Null, Neither });
choice!(BadPropertyKey { Reject, Drop });
choice!(RetiredBatch { NotFound, Gone });
choice!(DateTimeInDate { Drop, Accept });
choice!(
    /// What `page` of `GET /companies` counts.
    CompaniesPage { Pages, Companies }
);

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrevoSwitches {
    /// Overrides the account's tier.
    pub tier: Option<Tier>,
    /// Off lets throughput tests run free; no `x-sib-ratelimit-*` headers are sent then.
    pub rate_limits: bool,
    pub rate_window: RateWindow,
    /// Replaces the per-second ceiling of the fast rows (`/events`, `/contacts`).
    pub per_second: Option<u64>,
    /// Replaces the hourly ceiling of all other endpoints.
    pub other_per_hour: Option<u64>,
    pub events_batch_bucket: BatchBucket,
    pub bare_contacts_bucket: BareContactsBucket,
    pub rate_headers_on_401: bool,
    /// The key is fine, the caller's address is not.
    pub unrecognised_ip: bool,
    pub unknown_contact: UnknownContact,
    pub mixed_batch: MixedBatch,
    pub oversize_batch: OversizeBrevoBatch,
    pub bad_property_key: BadPropertyKey,
    pub conflict_code: ConflictCode,
    pub list_shape: ListShape,
    /// 425 for a write to a contact within this time of another write to it; absent: never.
    pub too_early_ms: Option<u64>,
    pub clear_by: ClearBy,
    /// Values sent sooner than this after their attribute was created are dropped.
    pub attribute_delay_ms: u64,
    pub datetime_in_date: DateTimeInDate,
    pub import_booleans: ImportBooleans,
    /// Whether an `EXT_ID` among the attributes of an import's row becomes the contact's.
    pub import_ext_id: bool,
    /// Time an import waits as `queued`, then works as `processing`; one at a time.
    pub import_queued_ms: u64,
    pub import_processing_ms: u64,
    pub import_end: ImportEnd,
    pub retired_batch: RetiredBatch,
    pub companies_page: CompaniesPage,
    /// Largest `limit` of `GET /companies`.
    pub companies_max_limit: usize,
}

impl Default for BrevoSwitches {
    fn default() -> Self {
        Self {
            tier: None,
            rate_limits: true,
            rate_window: RateWindow::default(),
            per_second: None,
            other_per_hour: None,
            events_batch_bucket: BatchBucket::default(),
            bare_contacts_bucket: BareContactsBucket::default(),
            rate_headers_on_401: false,
            unrecognised_ip: false,
            unknown_contact: UnknownContact::default(),
            mixed_batch: MixedBatch::default(),
            oversize_batch: OversizeBrevoBatch::default(),
            bad_property_key: BadPropertyKey::default(),
            conflict_code: ConflictCode::default(),
            list_shape: ListShape::default(),
            too_early_ms: None,
            clear_by: ClearBy::default(),
            attribute_delay_ms: 3_000,
            datetime_in_date: DateTimeInDate::default(),
            import_booleans: ImportBooleans::default(),
            import_ext_id: true,
            import_queued_ms: 500,
            import_processing_ms: 1_000,
            import_end: ImportEnd::default(),
            retired_batch: RetiredBatch::default(),
            companies_page: CompaniesPage::default(),
            companies_max_limit: 1_000,
        }
    }
}
