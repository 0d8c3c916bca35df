//! What the configuration file says, after defaults and environment have been applied. Shapes and defaults are
//! documented in `docs/configuration.md`; nothing here is optional unless its absence means something.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

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
    pub privacy: Privacy,
    pub server: Server,
    pub store: Store,
    pub auth: Auth,
    pub retention: Retention,
    pub parking: Parking,
    pub when_full: WhenFull,
    pub dedup_window: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    Us,
    Eu,
    In,
}

/// The project's ID-merge mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityMode {
    Simplified,
    Original,
}

#[derive(Clone, Debug)]
pub struct Mixpanel {
    /// False: nothing is delivered to Mixpanel (records are skipped there, rule `disabled`); ingestion still works.
    pub enabled: bool,
    /// One or more (rotation); never empty. The first is the one that the relay itself uses.
    pub project_tokens: Vec<String>,
    pub service_account: Option<ServiceAccount>,
    pub oauth_token: Option<Secret>,
    pub project_id: Option<String>,
    pub residency: Residency,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sync {
    pub events: bool,
    pub profiles: bool,
    pub cohorts: bool,
    pub groups: bool,
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
#[derive(Clone, Debug)]
pub struct Mapping {
    /// Mixpanel event name → Brevo event name.
    pub events: BTreeMap<String, String>,
    /// Mixpanel profile property → Brevo attribute, or `email` / `SMS` for the identifiers.
    pub properties: BTreeMap<String, String>,
    pub unmapped_events: UnmappedEvents,
    /// List name → Brevo list id.
    pub lists: BTreeMap<String, u64>,
    pub stale_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnmappedEvents {
    Skip,
    Forward,
}

#[derive(Clone, Debug)]
pub struct Privacy {
    pub ip: IpPolicy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpPolicy {
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

#[derive(Clone, Debug)]
pub struct Auth {
    pub admin_token: Option<Secret>,
    pub api_keys: Vec<Secret>,
    /// `whsec_` secrets, decoded.
    pub signing_secrets: Vec<SigningSecret>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(pub Vec<u8>);

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub history: Duration,
    pub history_bytes: u64,
    pub dead_letters: Duration,
    pub dead_letter_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Parking {
    pub max_age: Duration,
    pub max_records: u64,
    pub max_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    Refuse,
    SkipMixpanel,
    SkipBrevo,
}
