//! An erasure at the two destinations: Mixpanel's deletion task, Brevo's contacts. One attempt a call; trying again is the
//! worker's.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::Value;
use tower::ServiceExt as _;

use super::desk::Desk;
use super::receipt::{ContactToGo, Side};
use crate::brevo::calls::Calls;
use crate::brevo::identifiers::ContactRef;
use crate::brevo::outcome;
use crate::brevo::wire;
use crate::delivery::brevo_leg;
use crate::mixpanel::app::{self, AppCalls, MAX_DELETION, Progress};
use crate::people::person::{Contact, Identifiers, Person};
use crate::privacy::Rules;
use crate::store::StoreError;
use crate::vendor::stack::Stack;
use crate::vendor::{VendorAnswer, VendorRequest};

/// Longest id that Brevo is asked about (contract §3.2).
const MAX_EXT_ID: usize = 255;
/// Longest piece of a vendor's words that is kept.
const MAX_WORDS: usize = 200;

pub struct Vendors {
    pub app: AppCalls,
    /// What makes other ids of people's on the way to Mixpanel.
    pub hidden: Option<Rules>,
    pub app_stack: Stack,
    pub contacts: Contacts,
}

/// What becomes of contacts at Brevo.
pub enum Contacts {
    Delete { calls: Box<Calls>, stack: Stack },
    Keep { why: &'static str },
}

/// What one attempt has come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Now(Side),
    /// Refused for good, in these words.
    Failed(String),
    Later(String),
    /// One contact is not there any more; whether it was.
    Gone(bool),
    /// One contact stays, in these words.
    Kept(String),
}

impl Vendors {
    pub fn deletes_contacts(&self) -> bool {
        matches!(self.contacts, Contacts::Delete { .. })
    }

    /// Asks for the deletion, or how far it is.
    pub async fn mixpanel(&self, side: &Side, ids: &[String], compliance: &str) -> Outcome {
        match side {
            Side::UnderWay { task, .. } => {
                let Some(request) = self.app.deletion_progress(task) else {
                    // A caller's own token has asked for it, and is not kept.
                    let why =
                        format!("Mixpanel has it as task {task}; following it takes connectors.mixpanel.oauth_token");
                    return Outcome::Now(Side::NotAsked { why });
                };
                match send(&self.app_stack, request).await {
                    Err(outcome) => outcome,
                    Ok(answer) => match app::progress(&answer) {
                        Some(Progress::Success) => Outcome::Now(Side::Done),
                        Some(Progress::UnderWay(status)) => Outcome::Now(Side::UnderWay { task: task.clone(), status }),
                        Some(Progress::Ended(status)) => Outcome::Failed(status),
                        None => Outcome::Later(words(&answer, &[])),
                    },
                }
            }
            _ => {
                let known_as = |id: &String| self.hidden.as_ref().and_then(|rules| rules.pseudonym(id));
                let sent = ids.iter().map(|id| known_as(id).unwrap_or_else(|| id.clone()));
                let sent: Vec<String> = sent.take(MAX_DELETION).collect();
                let Some(request) = self.app.deletion(&sent, compliance) else { return not_configured() };
                match send(&self.app_stack, request).await {
                    Err(outcome) => outcome,
                    Ok(answer) => match app::task_id(&answer) {
                        Some(task) => Outcome::Now(Side::UnderWay { task, status: "PENDING".to_owned() }),
                        None if answer.status.is_client_error() => Outcome::Failed(words(&answer, ids)),
                        None => Outcome::Later(words(&answer, ids)),
                    },
                }
            }
        }
    }

    /// Deletes one contact; `None` when none is left.
    pub async fn brevo(&self, desk: &Desk, contact: Option<&ContactToGo>) -> Result<Outcome, StoreError> {
        let (calls, stack) = match &self.contacts {
            Contacts::Keep { why } => return Ok(Outcome::Now(Side::NotAsked { why: (*why).to_owned() })),
            Contacts::Delete { calls, stack } => (calls, stack),
        };
        let Some(contact) = contact else { return Ok(Outcome::Now(Side::Done)) };
        // An import that holds the person would make the contact again.
        if brevo_leg::import_runs(&desk.state).await? {
            return Ok(Outcome::Later("an import is under way at Brevo".to_owned()));
        }
        for reference in references(contact) {
            let answer = match send(stack, calls.contact(reference)).await {
                Ok(answer) => answer,
                Err(outcome) => return Ok(outcome),
            };
            // Somebody else's 404 does not say that there is no contact.
            if outcome::lost_its_way(&answer) {
                return Ok(Outcome::Later(words(&answer, &[])));
            }
            match answer.status {
                StatusCode::OK => {}
                // Not a form that Brevo knows an identifier by.
                StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => continue,
                _ => return Ok(Outcome::Later(words(&answer, &[]))),
            }
            let Ok(found) = serde_json::from_slice::<wire::Contact>(&answer.body) else {
                return Ok(Outcome::Later("Brevo's answer is no contact".to_owned()));
            };
            if found.email_blacklisted {
                let own = contact.email.as_ref().map(|email| email.as_str().to_owned());
                let addresses: Vec<String> =
                    found.email.map(|email| email.to_lowercase()).into_iter().chain(own).collect();
                desk.remember_blocklisted(&addresses).await?;
            }
            return Ok(match send(stack, calls.delete_contact(ContactRef::Id(found.id))).await {
                Err(outcome) => outcome,
                Ok(answer) if outcome::lost_its_way(&answer) => Outcome::Later(words(&answer, &[])),
                Ok(answer) => match answer.status {
                    StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::NOT_FOUND => Outcome::Gone(true),
                    // A registered user of the account's (contract §3.4).
                    StatusCode::METHOD_NOT_ALLOWED => Outcome::Kept(words(&answer, &[])),
                    _ => Outcome::Later(words(&answer, &[])),
                },
            });
        }
        Ok(Outcome::Gone(false))
    }
}

/// What to delete at Brevo: the contacts that it has confirmed, whoever goes by one of the ids there, and what an import
/// makes, which may have none of the ids.
pub fn contacts_to_go<'a>(
    ids: &[String],
    people: impl Iterator<Item = (&'a str, &'a Person)>,
    imported: Vec<Identifiers>,
) -> Vec<ContactToGo> {
    let mut contacts: BTreeMap<&str, ContactToGo> = BTreeMap::new();
    for id in ids {
        contacts.insert(id, ContactToGo { ext_id: Some(id.clone()), ..ContactToGo::default() });
    }
    for (id, person) in people {
        let Some(contact) = contacts.get_mut(id) else { continue };
        if let Contact::Known { email, contact_id, phone, known_as, .. } = &person.contact {
            (contact.id, contact.email, contact.phone) = (*contact_id, email.clone(), phone.clone());
            contact.ext_id = known_as.as_ref().map(|id| id.to_string()).or_else(|| contact.ext_id.take());
        }
    }
    let by_address = |Identifiers { email, phone }| ContactToGo { email, phone, ..ContactToGo::default() };
    contacts.into_values().chain(imported.into_iter().map(by_address)).collect()
}

fn not_configured() -> Outcome {
    Outcome::Now(Side::NotAsked { why: "connectors.mixpanel.oauth_token is not set".to_owned() })
}

fn references(contact: &ContactToGo) -> Vec<ContactRef<'_>> {
    let id = contact.id.map(ContactRef::Id);
    let ext_id = contact.ext_id.as_deref().filter(|id| id.len() <= MAX_EXT_ID).map(ContactRef::ExtId);
    let email = contact.email.as_ref().map(ContactRef::Email);
    let phone = contact.phone.as_ref().map(ContactRef::Phone);
    id.into_iter().chain(ext_id).chain(email).chain(phone).collect()
}

/// The answer, or what to do about it when it is not about this request.
async fn send(stack: &Stack, request: VendorRequest) -> Result<VendorAnswer, Outcome> {
    match stack.clone().oneshot(request).await {
        Err(error) => Err(Outcome::Later(error.to_string())),
        Ok(answer) if answer.status.is_server_error() || answer.status == StatusCode::TOO_MANY_REQUESTS => {
            Err(Outcome::Later(answer.status.to_string()))
        }
        Ok(answer) => Ok(answer),
    }
}

/// The vendor's words, unless they name one of `ids`.
fn words(answer: &VendorAnswer, ids: &[String]) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let said = [&body["error"], &body["message"]].into_iter().find_map(|said| said.as_str()).unwrap_or_default();
    if said.is_empty() || ids.iter().any(|id| said.contains(id.as_str())) {
        return answer.status.to_string();
    }
    format!("{}: {}", answer.status, said.chars().take(MAX_WORDS).collect::<String>())
}
