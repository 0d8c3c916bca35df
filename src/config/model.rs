//! What the configuration file says, after defaults and environment have been applied. Shapes and defaults are
//! documented in `docs/configuration.md`; nothing here is optional unless its absence means something.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ipnet::IpNet;
use jiff::tz::TimeZone;
use url::Url;

mod mapping;
mod sync;

pub use mapping::*;
pub use sync::*;

/// A value that must never be printed: `Debug` and `Display` show `***`. [`Secret::expose`] is the only way in.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Clone, Debug)]
pub struct Config {
    pub mixpanel: Mixpanel,
    /// `None` without a `brevo` block and without `BREVO_API_KEY`: records are skipped for Brevo, rule `disabled`.
    pub brevo: Option<Brevo>,
    pub mapping: Mapping,
    /// What the file says of the mapping, for showing: by its keys, `${NAME}` as it is written.
    pub mapping_words: serde_json::Map<String, serde_json::Value>,
    pub privacy: Privacy,
    pub server: Server,
    pub store: Store,
    pub auth: Auth,
    pub retention: Retention,
    pub parking: Parking,
    pub when_full: WhenFull,
    pub dedup_window: Duration,
    pub enrichment: Enrichment,
    pub cohorts: Cohorts,
    pub deletion: Deletion,
    pub webhooks: Webhooks,
    pub alerts: Alerts,
    /// How often changed profiles are pulled from Mixpanel; `None`: never.
    pub sync_profiles_every: Option<Duration>,
}

impl Config {
    pub const DEDUP_WINDOW: Duration = Duration::from_hours(24);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    Us,
    Eu,
    In,
}

impl Residency {
    pub const ALL: [Residency; 3] = [Residency::Us, Residency::Eu, Residency::In];

    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            Residency::Us => "US",
            Residency::Eu => "EU",
            Residency::In => "IN",
        }
    }
}

/// The project's ID-merge mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityMode {
    Simplified,
    Original,
}

impl IdentityMode {
    /// As the file writes it.
    pub fn label(self) -> &'static str {
        match self {
            IdentityMode::Simplified => "simplified",
            IdentityMode::Original => "original",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Mixpanel {
    /// False: nothing is delivered to Mixpanel (records are skipped there, rule `disabled`); ingestion still works.
    pub enabled: bool,
    /// One or more (rotation); never empty. The first is the one that the relay itself uses.
    pub project_tokens: Vec<String>,
    pub service_account: Option<ServiceAccount>,
    pub oauth_token: Option<Secret>,
    /// Whether callers of the read side may bring OAuth tokens of their own.
    pub oauth_pass_through: bool,
    pub project_id: Option<String>,
    pub residency: Residency,
    /// In which the project's days begin.
    pub timezone: TimeZone,
    pub identity: IdentityMode,
    pub sync: Sync,
    pub endpoints: MixpanelEndpoints,
    /// Tokens of other projects whose records are forwarded to Mixpanel alone.
    pub forward_tokens: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct ServiceAccount {
    pub username: String,
    pub secret: Secret,
}

impl ServiceAccount {
    /// `Authorization` of the account. Never to be printed.
    pub fn basic(&self) -> String {
        format!("Basic {}", BASE64.encode(format!("{}:{}", self.username, self.secret.expose())))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sync {
    pub events: bool,
    pub profiles: bool,
    pub cohorts: bool,
    pub groups: bool,
}

impl Default for Sync {
    fn default() -> Self {
        Self { events: true, profiles: true, cohorts: true, groups: false }
    }
}

/// Base URLs to which the vendor's whole path is added. From `data_residency`, or from `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MixpanelEndpoints {
    pub ingestion: Url,
    pub query: Url,
    pub app: Url,
    pub export: Url,
    pub cdn: Url,
}

#[derive(Clone, Debug)]
pub struct Brevo {
    pub api_key: Secret,
    /// With the `/v3` path, without a trailing slash.
    pub base_url: Url,
    pub mode: BrevoMode,
    /// Lower-cased `*@domain` or full addresses; only read in [`BrevoMode::Pilot`].
    pub pilot_emails: Vec<String>,
    pub create_attributes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrevoMode {
    /// Map everything, send nothing.
    Observe,
    /// Send only for `pilot_emails`.
    Pilot,
    Live,
}

/// The part that can be reloaded while running.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    /// Mixpanel event name → what becomes of it.
    pub events: BTreeMap<String, EventRule>,
    /// Mixpanel profile property → Brevo attribute in upper case (`SMS` is the phone), or `email`.
    /// Loaded ones are legal names, and none is reserved.
    pub properties: BTreeMap<String, String>,
    /// By attribute; those of which nothing more is said are not here.
    pub attributes: BTreeMap<String, AttributeRule>,
    pub unmapped_events: UnmappedEvents,
    /// List name → Brevo list id.
    pub lists: BTreeMap<String, u64>,
    /// Mixpanel group key → how its groups become Brevo companies.
    pub groups: BTreeMap<String, GroupMapping>,
    pub stale_after: Duration,
    pub tests: Vec<MappingTest>,
}

impl Default for Mapping {
    fn default() -> Self {
        Self {
            events: BTreeMap::new(),
            properties: BTreeMap::new(),
            attributes: BTreeMap::new(),
            unmapped_events: UnmappedEvents::default(),
            lists: BTreeMap::new(),
            groups: BTreeMap::new(),
            stale_after: Duration::from_hours(72),
            tests: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMapping {
    /// The group property that names the company.
    pub name: String,
    /// Group property → company attribute.
    pub properties: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnmappedEvents {
    #[default]
    Skip,
    Forward,
}

#[derive(Clone, Debug, Default)]
pub struct Privacy {
    pub ip: IpPolicy,
    /// Keys the hashes of `hash` below.
    pub hash_key: Option<Secret>,
    pub mixpanel: PropertyPolicy,
    pub brevo: PropertyPolicy,
    pub consent: Consent,
    pub on_consent_withdrawn: OnConsentWithdrawn,
}

/// What one destination gets of a record's properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertyPolicy {
    pub drop: Vec<String>,
    pub hash: Vec<String>,
    /// Empty: everything that is not dropped.
    pub only: Vec<String>,
}

/// Whether Brevo gets only people who said yes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Consent {
    /// Nothing was chosen: as [`Consent::NotNeeded`], but `check` warns.
    #[default]
    Unchosen,
    /// `consent: none`.
    NotNeeded,
    /// The profile property must have this value; an absent one means no.
    Required { property: String, value: serde_json::Value },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConsentWithdrawn {
    #[default]
    Blocklist,
    RemoveFromLists,
    DeleteContact,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpPolicy {
    #[default]
    Keep,
    /// Last octet of IPv4, last 80 bits of IPv6 set to zero.
    Truncate,
    Drop,
}

#[derive(Clone, Debug)]
pub struct Server {
    pub listen: SocketAddr,
    /// Where `/metrics`, `/healthz` and the admin API are open without going through the public listener.
    pub admin_listen: Option<SocketAddr>,
    pub trusted_proxies: Vec<IpNet>,
    pub cors_origins: CorsOrigins,
    /// With a leading slash and without a trailing one.
    pub path_prefix: Option<String>,
    pub tls: Option<Tls>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            admin_listen: None,
            trusted_proxies: Vec::new(),
            cors_origins: CorsOrigins::Any,
            path_prefix: None,
            tls: None,
        }
    }
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigins {
    /// Echo whatever origin asks.
    Any,
    /// Exact origins, lower-cased.
    Only(Vec<String>),
}

#[derive(Clone, Debug)]
pub struct Store {
    pub engine: StoreEngine,
    /// Free bytes below which the edge answers 503; `None`: the larger of 64 MiB and 5 % of the file system.
    pub min_free: Option<u64>,
    pub allow_volatile: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEngine {
    /// The journal's file; the state file stands beside it.
    Sqlite(PathBuf),
}

#[derive(Clone, Debug, Default)]
pub struct Auth {
    pub admin_token: Option<Secret>,
    pub api_keys: Vec<Secret>,
    /// `whsec_` secrets, decoded.
    pub signing_secrets: Vec<SigningSecret>,
    /// Named tokens for people and scripts.
    pub tokens: Vec<NamedToken>,
}

#[derive(Clone, Debug)]
pub struct NamedToken {
    pub name: String,
    pub role: Role,
    pub token: Secret,
}

/// Each may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Viewer,
    Operator,
    Admin,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Viewer, Role::Operator, Role::Admin];

    /// Its name in the configuration.
    pub fn label(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(pub Vec<u8>);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Clone, Debug)]
pub struct Alerts {
    /// Age of the oldest undelivered record from which on somebody is told.
    pub behind_after: Duration,
    pub webhooks: Vec<AlertWebhook>,
}

impl Default for Alerts {
    fn default() -> Self {
        Self { behind_after: Duration::from_secs(900), webhooks: Vec::new() }
    }
}

/// Where alerts are posted to, and what signs them.
#[derive(Clone, Debug)]
pub struct AlertWebhook {
    pub url: Url,
    pub secret: SigningSecret,
}

#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub history: Duration,
    pub history_bytes: u64,
    pub dead_letters: Duration,
    pub dead_letter_bytes: u64,
    pub runs: Duration,
    pub unseen_people: Duration,
    pub tombstones: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            history: Duration::from_hours(24),
            history_bytes: 2 << 30,
            dead_letters: Duration::from_hours(24 * 30),
            dead_letter_bytes: 2 << 30,
            runs: Duration::from_hours(24 * 90),
            unseen_people: Duration::from_hours(24 * 400),
            tombstones: Duration::from_hours(24 * 400),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Parking {
    pub max_age: Duration,
    pub max_records: u64,
    pub max_bytes: u64,
}

impl Default for Parking {
    fn default() -> Self {
        Self { max_age: Duration::from_hours(24 * 7), max_records: 1_000_000, max_bytes: 1 << 30 }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    #[default]
    Refuse,
    SkipMixpanel,
    SkipBrevo,
}
