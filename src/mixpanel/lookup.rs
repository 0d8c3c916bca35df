//! Calls about lookup tables (contract §7).

use bytes::Bytes;
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use url::Url;

use super::calls::{BadCredentials, join, secret_header};
use crate::config;
use crate::vendor::{Cost, Family, Priority, VendorRequest};

/// Longest id; the vendor's are UUIDs.
const MAX_ID: usize = 64;

/// Builds calls with the relay's service account.
#[derive(Clone, Debug)]
pub struct LookupCalls {
    ingestion: Url,
    authorization: HeaderValue,
    project_id: String,
}

impl LookupCalls {
    /// `None` where nothing may go to Mixpanel, or where there is no service account with its project.
    pub fn new(config: &config::Mixpanel) -> Result<Option<Self>, BadCredentials> {
        let account = config.service_account.as_ref().filter(|_| config.enabled);
        let Some((account, project_id)) = account.zip(config.project_id.clone()) else { return Ok(None) };
        let authorization = secret_header(&account.basic())?;
        Ok(Some(Self { ingestion: config.endpoints.ingestion.clone(), authorization, project_id }))
    }

    /// `GET /lookup-tables`.
    pub fn list(&self) -> VendorRequest {
        self.request(Method::GET, "/lookup-tables", "/lookup-tables", HeaderMap::new())
    }

    /// `PUT /lookup-tables/{id}`, without its body. `None` for an id that cannot be one.
    pub fn replace(&self, id: &str, gzip: bool) -> Option<VendorRequest> {
        if !is_id(id) {
            return None;
        }
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("text/csv"))]);
        if gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Some(self.request(Method::PUT, &format!("/lookup-tables/{id}"), "/lookup-tables/{id}", headers))
    }

    fn request(&self, method: Method, path: &str, endpoint: &'static str, mut headers: HeaderMap) -> VendorRequest {
        let mut url = join(&self.ingestion, path);
        url.query_pairs_mut().append_pair("project_id", &self.project_id);
        headers.insert(AUTHORIZATION, self.authorization.clone());
        VendorRequest {
            method,
            url,
            headers,
            body: Bytes::new(),
            endpoint,
            family: Family::MixpanelLookupTables,
            priority: Priority::Callers,
            cost: Cost::CALL,
            note: None,
        }
    }
}

/// Letters, digits and dashes: nothing that could change a path.
fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !id.is_empty() && id.len() <= MAX_ID && id.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_carry_the_relays_account_and_an_id_cannot_change_the_path() {
        let text = "connectors:\n  mixpanel:\n    project_token: t\n    project_id: \"7\"\n    \
                    service_account: { username: u, secret: s }\n";
        let config = config::parse(text, "test", &|_| None).unwrap().config.mixpanel;
        let calls = LookupCalls::new(&config).unwrap().unwrap();
        let request = calls.replace("55b4fb2b-e8de", true).unwrap();
        assert_eq!(request.url.as_str(), "https://api.mixpanel.com/lookup-tables/55b4fb2b-e8de?project_id=7");
        assert_eq!(
            (&request.headers[AUTHORIZATION], &request.headers[CONTENT_ENCODING]),
            (&"Basic dTpz".parse().unwrap(), &"gzip".parse().unwrap())
        );
        assert_eq!(calls.list().url.as_str(), "https://api.mixpanel.com/lookup-tables?project_id=7");
        for id in ["", "..", "a/b", "a?b", "a%2fb", &"a".repeat(65)] {
            assert!(calls.replace(id, false).is_none(), "{id}");
        }
        assert!(LookupCalls::new(&config::Mixpanel { project_id: None, ..config.clone() }).unwrap().is_none());
        assert!(LookupCalls::new(&config::Mixpanel { enabled: false, ..config }).unwrap().is_none());
    }
}
