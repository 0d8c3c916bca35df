//! Calls to Mixpanel's ingestion, built from records that are final already (contract §3-§5).

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use url::Url;

use crate::config;
use crate::vendor::{Cost, Family, Priority, VendorRequest};

pub use super::MAX_RECORDS;

/// Uncompressed bytes in one call: less than [`super::MAX_BODY_BYTES`], which is the larger reading of "10 MB" (contract
/// §3); the smaller one is safe under both, and a little is left for what may be counted besides.
pub const MAX_BYTES: usize = 9_500_000;

/// A body smaller than this gains nothing from compression.
const WORTH_COMPRESSING: usize = 1_400;

/// The write endpoint that a batch goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    /// `/import?strict=1`: events, with deduplication, old times and per-record errors.
    Import,
    /// `/import?strict=1` with nothing but `$merge` events, which exist on no other endpoint (contract §6).
    Merge,
    /// `/track`: events without a service account, and events of foreign projects.
    Track,
    /// `/track` with nothing but `$identify` and `$create_alias`: in a simplified-ID project one of them would fail a
    /// whole `/import` batch (contract §3).
    Identity,
    /// `/engage`: profile updates that may arrive twice without harm.
    Engage,
    /// `/engage`: `$add` and `$append`, apart, so that few records are in doubt after a broken call (CORE 8).
    EngageAdditive,
    /// `/groups`.
    Groups,
}

impl Call {
    pub fn endpoint(self) -> &'static str {
        match self {
            Call::Import | Call::Merge => "/import",
            Call::Track | Call::Identity => "/track",
            Call::Engage | Call::EngageAdditive => "/engage",
            Call::Groups => "/groups",
        }
    }

    /// Whether the same call arriving twice changes what once would have made.
    pub fn additive(self) -> bool {
        matches!(self, Call::EngageAdditive)
    }
}

/// Why the configured credentials cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("connectors.mixpanel: the service account or OAuth token has characters that no HTTP header may carry")]
pub struct BadCredentials;

/// Builds calls with the relay's own credentials.
#[derive(Clone, Debug)]
pub struct Calls {
    ingestion: Url,
    pub(super) query: Url,
    app: Url,
    /// Whether the credentials are a service account's.
    service_account: bool,
    /// `Authorization` of the service account or the OAuth token.
    authorization: Option<HeaderValue>,
    project_id: Option<String>,
}

impl Calls {
    pub fn new(config: &config::Mixpanel) -> Result<Self, BadCredentials> {
        Ok(Self {
            ingestion: config.endpoints.ingestion.clone(),
            query: config.endpoints.query.clone(),
            service_account: config.service_account.is_some(),
            app: config.endpoints.app.clone(),
            authorization: authorization(config)?,
            project_id: config.project_id.clone(),
        })
    }

    /// Whether `/import` can be used: it wants the account and the project that the account is to act for.
    pub fn can_import(&self) -> bool {
        self.authorization.is_some() && self.project_id.is_some()
    }

    /// What the query side wants: a service account and the project that it is to act for.
    pub(super) fn query_credentials(&self) -> Option<(&HeaderValue, &str)> {
        self.authorization.as_ref().filter(|_| self.service_account).zip(self.project_id.as_deref())
    }

    /// Whether profiles can be read.
    pub fn can_query(&self) -> bool {
        self.query_credentials().is_some()
    }

    /// One call that carries `bodies`, each a JSON object, in order.
    pub fn records(&self, call: Call, bodies: &[Bytes]) -> VendorRequest {
        let mut url = join(&self.ingestion, call.endpoint());
        let mut headers = json_headers();
        match call {
            Call::Import | Call::Merge => {
                // ip=0 everywhere: the edge has written the address that counts into the record, and whether `/import` too
                // falls back on the caller's, which is ours, is unconfirmed (contract §3).
                url.query_pairs_mut().append_pair("strict", "1").append_pair("ip", "0");
                if let Some(project_id) = &self.project_id {
                    url.query_pairs_mut().append_pair("project_id", project_id);
                }
                self.authorize(&mut headers);
            }
            Call::Track | Call::Identity => {
                url.query_pairs_mut().append_pair("verbose", "1").append_pair("ip", "0");
            }
            // verbose=2: without it errors are silent (contract §5).
            Call::Engage | Call::EngageAdditive | Call::Groups => {
                url.query_pairs_mut().append_pair("verbose", "2").append_pair("ip", "0");
            }
        }
        let plain = array(bodies);
        let cost = Cost { calls: 1, records: bodies.len() as u64, bytes: plain.len() as u64 };
        // `/import` is the only write endpoint whose documentation offers gzip.
        let worth_it = matches!(call, Call::Import | Call::Merge) && plain.len() >= WORTH_COMPRESSING;
        let body = match worth_it.then(|| gzip(&plain)) {
            Some(Ok(compressed)) => {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                compressed
            }
            _ => plain,
        };
        VendorRequest {
            method: http::Method::POST,
            url,
            headers,
            body: body.into(),
            endpoint: call.endpoint(),
            family: Family::MixpanelIngestion,
            priority: Priority::Live,
            cost,
            note: None,
        }
    }

    /// Asks whether the vendor would take something, without a record: the account's own page where there is an
    /// account (contract §11), else an empty `/track`.
    pub fn probe(&self) -> VendorRequest {
        let mut headers = json_headers();
        let with_account = self.authorization.is_some();
        let (method, url, endpoint, body) = if with_account {
            self.authorize(&mut headers);
            let mut url = join(&self.app, "/api/app/me");
            url.query_pairs_mut().append_pair("include_workspace_users", "false");
            (http::Method::GET, url, "/api/app/me", Bytes::new())
        } else {
            let mut url = join(&self.ingestion, "/track");
            url.query_pairs_mut().append_pair("verbose", "1");
            (http::Method::POST, url, "/track", Bytes::from_static(b"[]"))
        };
        VendorRequest {
            method,
            url,
            headers,
            body,
            endpoint,
            family: Family::MixpanelApp,
            priority: Priority::Live,
            cost: Cost::CALL,
            note: None,
        }
    }

    fn authorize(&self, headers: &mut HeaderMap) {
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
    }
}

/// The relay's own credentials: the service account, else the OAuth token, else none.
pub fn authorization(config: &config::Mixpanel) -> Result<Option<HeaderValue>, BadCredentials> {
    match (&config.service_account, &config.oauth_token) {
        (Some(account), _) => secret_header(&account.basic()).map(Some),
        (None, Some(token)) => secret_header(&format!("Bearer {}", token.expose())).map(Some),
        (None, None) => Ok(None),
    }
}

pub(super) fn secret_header(value: &str) -> Result<HeaderValue, BadCredentials> {
    let mut value = HeaderValue::from_str(value).map_err(|_| BadCredentials)?;
    value.set_sensitive(true);
    Ok(value)
}

fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))])
}

/// The vendor's whole path added to a base URL, which may have a path of its own.
pub(crate) fn join(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

fn array(bodies: &[Bytes]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bodies.iter().map(|body| body.len() + 1).sum::<usize>() + 1);
    out.push(b'[');
    for (index, body) in bodies.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(body);
    }
    out.push(b']');
    out
}

fn gzip(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 4), Compression::fast());
    encoder.write_all(plain)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls() -> Calls {
        let text = "connectors:\n  mixpanel:\n    project_token: t\n    project_id: \"7\"\n    \
                    service_account: { username: u, secret: s }\n";
        Calls::new(&config::parse(text, "test", &|_| None).unwrap().config.mixpanel).unwrap()
    }

    #[test]
    fn no_call_lets_the_vendor_take_our_address_for_a_persons() {
        let body = Bytes::from_static(b"{}");
        for call in
            [Call::Import, Call::Merge, Call::Track, Call::Identity, Call::Engage, Call::EngageAdditive, Call::Groups]
        {
            let request = calls().records(call, std::slice::from_ref(&body));
            let ip: Vec<_> = request.url.query_pairs().filter(|(key, _)| key == "ip").collect();
            assert_eq!(ip, [("ip".into(), "0".into())], "{call:?}");
        }
    }

    #[test]
    fn only_import_is_strict_and_carries_credentials() {
        let bodies = [Bytes::from_static(b"{\"a\":1}"), Bytes::from_static(b"{}")];
        let import = calls().records(Call::Import, &bodies);
        assert_eq!(import.url.as_str(), "https://api.mixpanel.com/import?strict=1&ip=0&project_id=7");
        assert_eq!(import.headers[AUTHORIZATION], "Basic dTpz");
        assert_eq!(import.body, "[{\"a\":1},{}]");
        assert_eq!(import.cost, Cost { calls: 1, records: 2, bytes: 12 });
        assert!(!calls().records(Call::Track, &bodies).headers.contains_key(AUTHORIZATION));
    }
}
