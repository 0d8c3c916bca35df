//! The calls, as requests ready for the vendor stack.

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;

use super::attributes::NewAttribute;
use super::{CompanyId, CompanyWrite, LinkChange};
use crate::brevo::calls::{Calls, Endpoint, json};
use crate::vendor::{Family, Priority, VendorRequest};

/// Between the parts of an import's body. A file that holds it is not sent ([`super::csv`] escapes nothing else).
const BOUNDARY: &str = "mixrelay-companies-7f3a1c5e9b2d4860";

const fn other(label: &'static str) -> Endpoint {
    Endpoint { label, family: Family::BrevoOther }
}

/// What an import does with its rows (contract §6).
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ImportOptions {
    pub link_entities: bool,
    pub unlink_entities: bool,
    /// False: every row is a new company. True: rows with a `company_id` are of those.
    pub update_existing_records: bool,
    pub unset_empty_attributes: bool,
}

impl Calls {
    /// `POST /companies`.
    pub fn create_company(&self, write: &CompanyWrite) -> VendorRequest {
        self.other(Method::POST, other("/companies"), "/companies", json(write))
    }

    /// `PATCH /companies/{id}`.
    pub fn update_company(&self, id: &CompanyId, write: &CompanyWrite) -> VendorRequest {
        self.other(Method::PATCH, other("/companies/{id}"), &format!("/companies/{id}"), json(write))
    }

    /// `DELETE /companies/{id}`.
    pub fn delete_company(&self, id: &CompanyId) -> VendorRequest {
        self.other(Method::DELETE, other("/companies/{id}"), &format!("/companies/{id}"), Bytes::new())
    }

    /// `GET /companies/{id}`.
    pub fn company(&self, id: &CompanyId) -> VendorRequest {
        self.other(Method::GET, other("/companies/{id}"), &format!("/companies/{id}"), Bytes::new())
    }

    /// The companies of this name.
    pub fn companies_named(&self, name: &str) -> VendorRequest {
        let mut request = self.other(Method::GET, other("/companies"), "/companies", Bytes::new());
        request.url.query_pairs_mut().append_pair("filters[attributes.name]", name).append_pair("sort", "asc");
        request
    }

    /// A page of all companies, oldest first. Whether `page` counts pages or companies is unconfirmed (contract §6).
    pub fn companies(&self, page: u64, limit: u64) -> VendorRequest {
        let mut request = self.other(Method::GET, other("/companies"), "/companies", Bytes::new());
        let (page, limit) = (page.to_string(), limit.to_string());
        request
            .url
            .query_pairs_mut()
            .append_pair("page", &page)
            .append_pair("limit", &limit)
            .append_pair("sort", "asc");
        request
    }

    /// `PATCH /companies/link-unlink/{id}`: the safe way, which leaves everyone who is not named as they are.
    pub fn link_company(&self, id: &CompanyId, change: &LinkChange) -> VendorRequest {
        let endpoint = other("/companies/link-unlink/{id}");
        self.other(Method::PATCH, endpoint, &format!("/companies/link-unlink/{id}"), json(change))
    }

    /// `GET /crm/attributes/companies`.
    pub fn company_attributes(&self) -> VendorRequest {
        self.other(Method::GET, other("/crm/attributes/companies"), "/crm/attributes/companies", Bytes::new())
    }

    /// `POST /crm/attributes`.
    pub fn create_company_attribute(&self, attribute: &NewAttribute) -> VendorRequest {
        self.other(Method::POST, other("/crm/attributes"), "/crm/attributes", json(attribute))
    }

    /// `POST /companies/import`: a CSV file and what to do with its rows, as multipart.
    pub fn import_companies(&self, csv: &str, options: ImportOptions) -> VendorRequest {
        let options = String::from_utf8_lossy(&json(&options)).into_owned();
        let part = |head: &str, content: &str| {
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
        };
        let file = part("name=\"file\"; filename=\"companies.csv\"\r\nContent-Type: text/csv", csv);
        let mapping = part("name=\"mapping\"", &options);
        let body = format!("{file}{mapping}--{BOUNDARY}--\r\n");
        let mut request = self.other(Method::POST, other("/companies/import"), "/companies/import", body.into());
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        if let Ok(kind) = HeaderValue::from_str(&kind) {
            request.headers.insert(CONTENT_TYPE, kind);
        }
        request
    }

    /// Companies can wait; an account or a process that somebody waits for goes first.
    fn other(&self, method: Method, endpoint: Endpoint, path: &str, body: Bytes) -> VendorRequest {
        VendorRequest { priority: Priority::Cohorts, ..self.request(method, endpoint, path, body) }
    }
}
