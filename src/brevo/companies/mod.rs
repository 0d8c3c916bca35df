//! Companies (contract §6): their wire types, the calls that the relay makes for them, and what the answers mean.
//!
//! All of it draws on the 100 calls an hour of [`Family::BrevoOther`], behind whoever needs one of those at once.

pub mod attributes;
pub mod calls;
pub mod csv;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::coerce::AttributeValue;
use super::identifiers::ContactId;
use super::outcome::{ReadError, Refusal, is_misrouted, read};
use crate::vendor::VendorAnswer;

/// A company's id: 24 hexadecimal digits, checked only for being safe in a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct CompanyId(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a company")]
pub struct NotACompanyId;

impl CompanyId {
    pub fn parse(raw: &str) -> Result<Self, NotACompanyId> {
        let ok = (1..=64).contains(&raw.len()) && raw.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if ok { Ok(Self(raw.to_owned())) } else { Err(NotACompanyId) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CompanyId {
    type Error = NotACompanyId;
    fn try_from(raw: String) -> Result<Self, NotACompanyId> {
        Self::parse(&raw)
    }
}

impl fmt::Display for CompanyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Body of `POST /companies` and `PATCH /companies/{id}`. Links are never in it: `linkedContactsIds` replaces all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CompanyWrite {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// By internal name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, AttributeValue>,
    /// Wanted with `phone_number`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country_code: Option<u32>,
}

/// Body of `PATCH /companies/link-unlink/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkChange {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub link_contact_ids: Vec<ContactId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unlink_contact_ids: Vec<ContactId>,
}

/// A company as read.
#[derive(Clone, Debug, Deserialize)]
pub struct Company {
    pub id: CompanyId,
    #[serde(default)]
    pub attributes: Map<String, Value>,
}

impl Company {
    pub fn name(&self) -> Option<&str> {
        self.attributes.get("name").and_then(Value::as_str)
    }
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    items: Option<Vec<Company>>,
}

/// `POST /companies`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateOutcome {
    Created(CompanyId),
    Invalid(Refusal),
    /// The endpoint is not there: hold the companies, not this one.
    Misrouted(Refusal),
}

/// `PATCH` and `DELETE` of one company.
#[derive(Clone, Debug, PartialEq)]
pub enum ChangeOutcome {
    /// With the company as it is now, where the answer shows it.
    Done(Option<Box<Map<String, Value>>>),
    /// Somebody has deleted it at Brevo.
    NotFound,
    Invalid(Refusal),
    Misrouted(Refusal),
}

pub fn created(answer: &VendorAnswer) -> CreateOutcome {
    if !answer.status.is_success() {
        let refusal = Refusal::read(answer);
        return if is_misrouted(answer) { CreateOutcome::Misrouted(refusal) } else { CreateOutcome::Invalid(refusal) };
    }
    match read::<super::wire::Created<CompanyId>>(answer) {
        Ok(created) => CreateOutcome::Created(created.id),
        // Somebody between answers for Brevo: nothing is known to have been made.
        Err(_) => CreateOutcome::Misrouted(Refusal::read(answer)),
    }
}

pub fn changed(answer: &VendorAnswer) -> ChangeOutcome {
    if answer.status.is_success() {
        return ChangeOutcome::Done(read::<Company>(answer).ok().map(|company| Box::new(company.attributes)));
    }
    let refusal = Refusal::read(answer);
    match refusal.status {
        // Without Brevo's own words it is the way there that was not found.
        404 if !refusal.code.is_empty() => ChangeOutcome::NotFound,
        _ if is_misrouted(answer) => ChangeOutcome::Misrouted(refusal),
        _ => ChangeOutcome::Invalid(refusal),
    }
}

/// `GET /companies/{id}`: `None` when there is no such company.
pub fn company(answer: &VendorAnswer) -> Result<Option<Company>, ReadError> {
    match read(answer) {
        Ok(company) => Ok(Some(company)),
        Err(ReadError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// `GET /companies`.
pub fn page(answer: &VendorAnswer) -> Result<Vec<Company>, ReadError> {
    read::<Page>(answer).map(|page| page.items.unwrap_or_default())
}

#[cfg(test)]
mod tests;
