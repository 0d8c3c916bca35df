//! Metrics: the published names and labels (DESIGN 2.5), each with a typed function, and nowhere else.
//!
//! Label values are `&'static str` that come from enums in the rooms that own them, so the set of series is bounded by
//! the source code. Totals of promise P2 live in the store; they are published as absolute values, so that they go on
//! where they were after a restart.

use std::convert::Infallible;
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::record::{Destination, Kind, Origin};

const HTTP_REQUESTS: &str = "mixrelay_http_requests_total";
const HTTP_SECONDS: &str = "mixrelay_http_request_seconds";
const ACCEPTED: &str = "mixrelay_records_accepted_total";
const FED: &str = "mixrelay_records_fed_total";
const PULLED: &str = "mixrelay_pulled_total";
const REJECTED: &str = "mixrelay_records_rejected_total";
const APPEND_SECONDS: &str = "mixrelay_append_seconds";
const DELIVERED: &str = "mixrelay_records_delivered_total";
const SKIPPED: &str = "mixrelay_records_skipped_total";
const PARKED: &str = "mixrelay_records_parked";
const DEAD_LETTERS: &str = "mixrelay_dead_letters";
const DEAD: &str = "mixrelay_records_dead_total";
const BACKLOG: &str = "mixrelay_backlog_records";
const OLDEST: &str = "mixrelay_oldest_undelivered_seconds";
const PAUSED: &str = "mixrelay_destination_paused";
const CONFLICTS: &str = "mixrelay_contact_conflicts_total";
const ADDRESSES_KEPT: &str = "mixrelay_addresses_kept_total";
const NOT_PLACED: &str = "mixrelay_values_not_placed_total";
const VENDOR_REQUESTS: &str = "mixrelay_vendor_requests_total";
const BUDGET_REMAINING: &str = "mixrelay_budget_remaining";
const COHORT_RUNS: &str = "mixrelay_cohort_runs_total";
const COHORT_PEOPLE: &str = "mixrelay_cohort_people_total";
const DATASET_RUNS: &str = "mixrelay_dataset_runs_total";
const DATASET_PEOPLE: &str = "mixrelay_dataset_people_total";
const LOOKUPS: &str = "mixrelay_lookups_total";
const ALERTS: &str = "mixrelay_alerts_total";
const STORE_ROOM: &str = "mixrelay_store_room_bytes";
const STORE_REFUSES: &str = "mixrelay_store_refuses";
const DISK_HOURS: &str = "mixrelay_disk_hours_left";
const EVENTS_MISSING: &str = "mixrelay_reconciliation_events_missing";
const PUSHED: &str = "mixrelay_webhook_items_total";

/// Upper bounds, in seconds, for the two latency histograms: from a fast sync to a timeout.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Between two foldings of recorded samples into their histograms.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Installs the process's recorder. Call once; the handle renders `/metrics`, and [`keep_up`] has to run beside it.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(HTTP_SECONDS.to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(APPEND_SECONDS.to_owned()), &SECONDS)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

/// Folds samples into their histograms for as long as the process lives. The recorder does so only when it is scraped or
/// told to: on a relay that nobody scrapes, the samples of every request would pile up in memory (P10).
pub async fn keep_up(handle: PrometheusHandle) -> Infallible {
    let mut tick = tokio::time::interval(UPKEEP_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        handle.run_upkeep();
    }
}

fn describe() {
    metrics::describe_counter!(HTTP_REQUESTS, "Requests answered, by route and status.");
    metrics::describe_histogram!(HTTP_SECONDS, "Time from a request's head to its answer.");
    metrics::describe_counter!(ACCEPTED, "Records stored and acknowledged, since the store was created.");
    metrics::describe_counter!(FED, "Records that the relay has fetched or received by itself, and stored.");
    metrics::describe_counter!(
        PULLED,
        "Profiles, events and rows of data sets that the relay has read at Mixpanel by itself."
    );
    metrics::describe_counter!(REJECTED, "Records refused at the edge, by reason.");
    metrics::describe_histogram!(APPEND_SECONDS, "Time from handing records to the store to their sync.");
    metrics::describe_counter!(DELIVERED, "Records that the destination has confirmed.");
    metrics::describe_counter!(SKIPPED, "Records that a rule kept from the destination.");
    metrics::describe_gauge!(PARKED, "Records that wait for something of their person's.");
    metrics::describe_gauge!(DEAD_LETTERS, "Dead letters held now.");
    metrics::describe_counter!(DEAD, "Records that became dead letters, by reason.");
    metrics::describe_gauge!(BACKLOG, "Records accepted and not yet settled for the destination.");
    metrics::describe_gauge!(OLDEST, "Age of the oldest record not yet settled for the destination.");
    metrics::describe_gauge!(PAUSED, "1 while the destination is paused.");
    metrics::describe_counter!(CONFLICTS, "Identifiers that belong to another contact at Brevo and were left out.");
    metrics::describe_counter!(ADDRESSES_KEPT, "New addresses that would have resubscribed a blocklisted contact.");
    metrics::describe_counter!(NOT_PLACED, "Values that Brevo has no place for, by reason.");
    metrics::describe_counter!(VENDOR_REQUESTS, "Calls made to a vendor, by endpoint and answer.");
    metrics::describe_gauge!(BUDGET_REMAINING, "Calls left in the current window of a vendor's limit.");
    metrics::describe_counter!(ALERTS, "Looks at which something worth an alert was seen, by cause.");
    metrics::describe_gauge!(STORE_ROOM, "Bytes that may still be stored before the watermark.");
    metrics::describe_gauge!(STORE_REFUSES, "1 while the store takes no records.");
    metrics::describe_gauge!(DISK_HOURS, "Hours until the watermark at the present rate, if nothing is delivered.");
    metrics::describe_counter!(COHORT_RUNS, "Runs that have brought a group into a list, by how they ended.");
    metrics::describe_counter!(COHORT_PEOPLE, "People whom runs have added, removed, or not matched.");
    metrics::describe_counter!(DATASET_RUNS, "Runs of data sets, by how they ended.");
    metrics::describe_counter!(DATASET_PEOPLE, "People of whom data sets have changed something, or not matched.");
    metrics::describe_counter!(LOOKUPS, "Look-ups in tables for Brevo, by result.");
    metrics::describe_gauge!(
        EVENTS_MISSING,
        "Of the last day compared: events delivered that the vendor does not count."
    );
    metrics::describe_counter!(PUSHED, "What the vendors' webhooks brought, by what became of it.");
}

/// A hot route's metrics, looked up once instead of once a request.
#[derive(Clone)]
pub struct Hot {
    route: &'static str,
    ok: metrics::Counter,
    seconds: metrics::Histogram,
}

/// How long appends take, looked up likewise.
pub struct Appends(metrics::Histogram);

/// How a look-up in a table ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    Found,
    /// The table has no such row.
    NoKey,
    /// There is no table yet.
    NoTable,
    /// The table's file could not be read.
    Failed,
}

impl Lookup {
    fn label(self) -> &'static str {
        match self {
            Lookup::Found => "found",
            Lookup::NoKey => "no_key",
            Lookup::NoTable => "no_table",
            Lookup::Failed => "failed",
        }
    }
}

/// Where a push came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Webhook {
    Brevo,
    MixpanelEvents,
    MixpanelCohorts,
}

impl Webhook {
    fn label(self) -> &'static str {
        match self {
            Webhook::Brevo => "brevo",
            Webhook::MixpanelEvents => "mixpanel_events",
            Webhook::MixpanelCohorts => "mixpanel_cohorts",
        }
    }
}

/// What became of one thing in a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Stored,
    /// The relay itself had sent it there.
    Echo,
    /// It cannot be used.
    Refused,
}

impl Pushed {
    fn label(self) -> &'static str {
        match self {
            Pushed::Stored => "stored",
            Pushed::Echo => "echo",
            Pushed::Refused => "refused",
        }
    }
}

// The facade's macros are allowed in this file alone.
#[allow(clippy::disallowed_macros)]
mod emit {
    use super::*;

    /// `route` is the route's template; `status` as answered.
    pub fn http_request(route: &'static str, status: u16, took: Duration) {
        metrics::counter!(HTTP_REQUESTS, "route" => route, "status" => status_label(status)).increment(1);
        metrics::histogram!(HTTP_SECONDS, "route" => route).record(took);
    }

    impl Hot {
        /// Made once the recorder is installed.
        pub fn new(route: &'static str) -> Self {
            Self {
                route,
                ok: metrics::counter!(HTTP_REQUESTS, "route" => route, "status" => status_label(200)),
                seconds: metrics::histogram!(HTTP_SECONDS, "route" => route),
            }
        }

        /// As [`http_request`].
        pub fn http_request(&self, status: u16, took: Duration) {
            if status == 200 {
                self.ok.increment(1);
            } else {
                metrics::counter!(HTTP_REQUESTS, "route" => self.route, "status" => status_label(status)).increment(1);
            }
            self.seconds.record(took);
        }
    }

    pub fn append(took: Duration) {
        metrics::histogram!(APPEND_SECONDS).record(took);
    }

    impl Appends {
        /// Made once the recorder is installed.
        #[expect(clippy::new_without_default, reason = "it must not be made before the recorder is installed")]
        pub fn new() -> Self {
            Self(metrics::histogram!(APPEND_SECONDS))
        }

        /// As [`append`].
        pub fn append(&self, took: Duration) {
            self.0.record(took);
        }
    }

    /// `kind` is a published kind label; `total` counts since the store was created.
    pub fn accepted_total(kind: &'static str, total: u64) {
        metrics::counter!(ACCEPTED, "kind" => kind).absolute(total);
    }

    pub fn fed(origin: Origin, kind: Kind) {
        metrics::counter!(FED, "origin" => origin.label(), "kind" => kind.label()).increment(1);
    }

    /// `what`: `profiles`, `events` or `dataset_rows`.
    pub fn pulled(what: &'static str, count: u64) {
        metrics::counter!(PULLED, "what" => what).increment(count);
    }

    pub fn rejected(kind: Kind, reason: &'static str, count: u64) {
        metrics::counter!(REJECTED, "kind" => kind.label(), "reason" => reason).increment(count);
    }

    pub fn delivered_total(destination: Destination, kind: &'static str, total: u64) {
        metrics::counter!(DELIVERED, "destination" => destination.label(), "kind" => kind).absolute(total);
    }

    pub fn skipped_total(destination: Destination, rule: &'static str, total: u64) {
        metrics::counter!(SKIPPED, "destination" => destination.label(), "rule" => rule).absolute(total);
    }

    pub fn dead_total(destination: Destination, reason: &'static str, total: u64) {
        metrics::counter!(DEAD, "destination" => destination.label(), "reason" => reason).absolute(total);
    }

    pub fn contact_conflicts_total(identifier: &'static str, total: u64) {
        metrics::counter!(CONFLICTS, "identifier" => identifier).absolute(total);
    }

    pub fn addresses_kept_total(total: u64) {
        metrics::counter!(ADDRESSES_KEPT).absolute(total);
    }

    pub fn not_placed_total(reason: &'static str, total: u64) {
        metrics::counter!(NOT_PLACED, "reason" => reason).absolute(total);
    }

    /// What a destination's leg holds now.
    pub struct Held {
        pub parked: u64,
        pub dead_letters: u64,
        pub backlog: u64,
        pub oldest: Duration,
        pub paused: bool,
    }

    pub fn held(destination: Destination, held: &Held) {
        let label = destination.label();
        metrics::gauge!(PARKED, "destination" => label).set(held.parked as f64);
        metrics::gauge!(DEAD_LETTERS, "destination" => label).set(held.dead_letters as f64);
        metrics::gauge!(BACKLOG, "destination" => label).set(held.backlog as f64);
        metrics::gauge!(OLDEST, "destination" => label).set(held.oldest.as_secs_f64());
        metrics::gauge!(PAUSED, "destination" => label).set(if held.paused { 1.0 } else { 0.0 });
    }

    /// `status` is the HTTP status, or `None` when no answer came.
    pub fn vendor_request(vendor: &'static str, endpoint: &'static str, status: Option<u16>) {
        let status = status.map_or("none", status_label);
        metrics::counter!(VENDOR_REQUESTS, "vendor" => vendor, "endpoint" => endpoint, "status" => status).increment(1);
    }

    /// `outcome` is how a run that brings a group into a list has ended.
    pub fn cohort_run(outcome: &'static str) {
        metrics::counter!(COHORT_RUNS, "outcome" => outcome).increment(1);
    }

    /// `change` is `added`, `removed` or `unmatched`.
    pub fn cohort_people(change: &'static str, people: u64) {
        metrics::counter!(COHORT_PEOPLE, "change" => change).increment(people);
    }

    /// `outcome` is how a data set's run has ended.
    pub fn dataset_run(outcome: &'static str, dry_run: bool) {
        let dry_run = if dry_run { "true" } else { "false" };
        metrics::counter!(DATASET_RUNS, "outcome" => outcome, "dry_run" => dry_run).increment(1);
    }

    /// `change` is `changed` or `unmatched`.
    pub fn dataset_people(change: &'static str, people: u64) {
        metrics::counter!(DATASET_PEOPLE, "change" => change).increment(people);
    }

    pub fn looked_up(result: Lookup) {
        metrics::counter!(LOOKUPS, "result" => result.label()).increment(1);
    }

    pub fn pushed(webhook: Webhook, outcome: Pushed, count: u64) {
        if count > 0 {
            metrics::counter!(PUSHED, "webhook" => webhook.label(), "outcome" => outcome.label()).increment(count);
        }
    }

    /// Of the last day compared, and by the vendor's own count.
    pub fn events_missing(destination: Destination, events: u64) {
        metrics::gauge!(EVENTS_MISSING, "destination" => destination.label()).set(events as f64);
    }

    /// `cause` is a published label of an alert.
    pub fn alert(cause: &'static str) {
        metrics::counter!(ALERTS, "cause" => cause).increment(1);
    }

    /// Shows the series of an alert before it was ever seen: an increase from nothing is none to Prometheus.
    pub fn no_alert_yet(cause: &'static str) {
        metrics::counter!(ALERTS, "cause" => cause).increment(0);
    }

    /// `hours` is `None` while nothing is accepted.
    pub fn store(room: u64, refuses: bool, hours: Option<f64>) {
        metrics::gauge!(STORE_ROOM).set(room as f64);
        metrics::gauge!(STORE_REFUSES).set(if refuses { 1.0 } else { 0.0 });
        metrics::gauge!(DISK_HOURS).set(hours.unwrap_or(f64::INFINITY));
    }

    pub fn budget_remaining(vendor: &'static str, family: &'static str, remaining: u64) {
        metrics::gauge!(BUDGET_REMAINING, "vendor" => vendor, "family" => family).set(remaining as f64);
    }
}

pub use emit::*;

/// Statuses that the relay or a vendor is known to use by name, the rest by class, so that a vendor's invention cannot
/// make a new series.
#[allow(clippy::match_overlapping_arm)] // named first, then by class: that is the point
fn status_label(status: u16) -> &'static str {
    match status {
        200 => "200",
        201 => "201",
        202 => "202",
        204 => "204",
        207 => "207",
        304 => "304",
        400 => "400",
        401 => "401",
        402 => "402",
        403 => "403",
        404 => "404",
        405 => "405",
        408 => "408",
        409 => "409",
        412 => "412",
        413 => "413",
        415 => "415",
        422 => "422",
        425 => "425",
        429 => "429",
        500 => "500",
        502 => "502",
        503 => "503",
        504 => "504",
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}
