//! Does Brevo know the key, and are the attributes and lists there that the configuration names? (Brevo contract §4, §5, §9)

use std::collections::BTreeMap;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::live::{Finding, NoAnswer, Vendors};
use crate::brevo::account::{AccountModel, AttributeKind, NewKind};
use crate::brevo::names::AttributeName;
use crate::brevo::wire::AttributeList;
use crate::config::{Brevo, BrevoMode, Config, Mapping};
use crate::vendor::Family;

const KEY: &str = "connectors.brevo.api_key";

/// A configuration names a handful; more are not worth the wait, nor the calls.
const MAX_LISTS: usize = 50;

pub(super) async fn check(config: &Config, vendors: &Vendors) -> Vec<Finding> {
    let Some(brevo) = &config.brevo else {
        return vec![Finding::doubtful(KEY, "none: nothing is sent to Brevo")];
    };
    let Some(headers) = key_header(brevo) else {
        return vec![Finding::fails(KEY, "holds characters that a header cannot carry")];
    };
    let account = Account { brevo, vendors, headers };
    let (known, key) = account.key().await;
    let mut findings = vec![key];
    // Without an accepted key every other question has the same answer.
    if known {
        findings.extend(account.attributes(&config.mapping).await);
        findings.extend(account.lists(&config.mapping.lists).await);
    }
    findings
}

pub(super) fn key_header(brevo: &Brevo) -> Option<HeaderMap> {
    let mut value = HeaderValue::from_str(brevo.api_key.expose()).ok()?;
    value.set_sensitive(true);
    Some(HeaderMap::from_iter([(HeaderName::from_static("api-key"), value)]))
}

struct Account<'a> {
    brevo: &'a Brevo,
    vendors: &'a Vendors,
    headers: HeaderMap,
}

impl Account<'_> {
    async fn get(&self, path: &'static str, id: Option<u64>) -> Result<(StatusCode, Value), NoAnswer> {
        let family = if path.starts_with("/contacts") { Family::BrevoContacts } else { Family::BrevoOther };
        self.vendors.get(&self.brevo.base_url, path, id, self.headers.clone(), family).await
    }

    /// Whether Brevo takes the key, and what to say about it.
    async fn key(&self) -> (bool, Finding) {
        let (status, body) = match self.get("/account", None).await {
            Ok(answer) => answer,
            Err(error) => return (false, Finding::doubtful(KEY, format!("not tested: {error}"))),
        };
        match status {
            StatusCode::OK => {
                let company = body["companyName"].as_str().unwrap_or("an account without a name");
                (true, Finding::works(KEY, format!("accepted by Brevo, for {company}")))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (false, Finding::fails(KEY, refusal(&body))),
            status => (false, Finding::doubtful(KEY, format!("not tested: Brevo answered {status}"))),
        }
    }

    async fn attributes(&self, mapping: &Mapping) -> Vec<Finding> {
        const SUBJECT: &str = "property_mapping";
        let body = match self.get("/contacts/attributes", None).await {
            Ok((StatusCode::OK, body)) => body,
            Ok((status, _)) => return vec![Finding::doubtful(SUBJECT, format!("not tested: Brevo answered {status}"))],
            Err(error) => return vec![Finding::doubtful(SUBJECT, format!("not tested: {error}"))],
        };
        let Ok(attributes) = serde_json::from_value::<AttributeList>(body) else {
            return vec![Finding::doubtful(SUBJECT, "not tested: Brevo's answer is no list of attributes")];
        };
        let account = AccountModel::new(&attributes, []);
        let mapped = mapping.properties.iter().filter(|(_, name)| *name != "email");
        let named = mapped.filter_map(|(property, name)| Some((property, AttributeName::parse(name).ok()?)));
        named
            .map(|(property, name)| {
                let wanted = mapping.attributes.get(name.as_str()).and_then(|rule| rule.kind);
                placed(self.brevo, format!("{SUBJECT}.{property}"), &name, wanted, account.kind(&name))
            })
            .collect()
    }

    async fn lists(&self, lists: &BTreeMap<String, u64>) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (name, id) in lists.iter().take(MAX_LISTS) {
            let subject = format!("lists.{name}");
            findings.push(match self.get("/contacts/lists", Some(*id)).await {
                Ok((StatusCode::OK, body)) => {
                    let title = body["name"].as_str().unwrap_or("without a name");
                    Finding::works(subject, format!("list {id}, {title:?}"))
                }
                Ok((StatusCode::NOT_FOUND, _)) => Finding::fails(
                    subject,
                    format!("Brevo has no list {id}; write the id that Brevo shows for the list"),
                ),
                Ok((status, _)) => Finding::doubtful(subject, format!("not tested: Brevo answered {status}")),
                Err(error) => Finding::doubtful(subject, format!("not tested: {error}")),
            });
        }
        findings
    }
}

/// Brevo drops values for attributes that it does not have, with a success answer (contract §5), so this is where a
/// person learns of it.
fn placed(
    brevo: &Brevo,
    subject: String,
    name: &AttributeName,
    wanted: Option<NewKind>,
    kind: Option<&AttributeKind>,
) -> Finding {
    match kind {
        Some(AttributeKind::ReadOnly) => {
            Finding::fails(subject, format!("attribute {name} is filled by Brevo or its users, and cannot be written"))
        }
        Some(kind) if wanted.is_some_and(|wanted| wanted.kind() != *kind) => Finding::doubtful(
            subject,
            format!(
                "attribute {name} is {} at Brevo, whatever `type` says, and values are fitted to that",
                kind.label()
            ),
        ),
        Some(kind) => Finding::works(subject, format!("attribute {name}, {}", kind.label())),
        None if brevo.create_attributes && brevo.mode == BrevoMode::Live => {
            Finding::works(subject, format!("attribute {name} will be created"))
        }
        None if brevo.create_attributes => Finding::doubtful(
            subject,
            format!("the account has no attribute {name} yet; it is created when mode is live"),
        ),
        None => Finding::fails(
            subject,
            format!(
                "the account has no attribute {name}, and Brevo drops its values without a word; \
                 create it, or set create_attributes: true"
            ),
        ),
    }
}

/// A blocked address is told apart by the text alone (contract §1.2).
pub(in crate::cli) fn refusal(body: &Value) -> String {
    let message = body["message"].as_str().unwrap_or_default();
    if message.contains("unrecognised IP address") {
        return "Brevo does not know this machine's address; add it at https://app.brevo.com/security/authorised_ips"
            .to_owned();
    }
    "Brevo refuses it; make a new key under SMTP & API, API keys".to_owned()
}
