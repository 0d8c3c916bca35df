//! Where bases come from: Mixpanel's profiles, many at once, or Brevo's contacts, where Mixpanel cannot be asked.
//!
//! What is found passes the mapping and its privacy rules as an update would, so that a hashed property is compared with
//! hashed ones, and what Brevo may not have is not read into a person.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::compose::address;
use crate::brevo;
use crate::brevo::identifiers::{ContactRef, Email, Phone};
use crate::brevo::names::AttributeName;
use crate::brevo::outcome;
use crate::brevo::wire::Contact as BrevoContact;
use crate::delivery::LegError;
use crate::mapping::{Change, CompiledMapping, Operation, ProfileDecision, ProfileView, Target, map_profile};
use crate::mixpanel;
use crate::mixpanel::profiles::{self, NotRead};
use crate::people::person::{Found, Person};
use crate::people::roster::PersonId;
use crate::people::unknown::Base;
use crate::privacy::Rules;
use crate::record::{Kind, Position};
use crate::vendor::budget::Budgets;
use crate::vendor::stack::Stack;
use crate::vendor::{Family, Priority, TransportError};

/// How long after a change Mixpanel may still show a profile as it was before: its profile feed takes less than a minute
/// (Mixpanel contract §6).
pub const SETTLE: Duration = Duration::from_secs(60);

/// Contacts read from Brevo in one go, and at once.
const CONTACTS: usize = 50;
const CONTACTS_AT_ONCE: usize = 4;

/// Whom to ask.
pub enum BaseSource {
    Mixpanel(Box<MixpanelBases>),
    /// There is no service account, or nothing is delivered to Mixpanel.
    Brevo,
}

pub struct MixpanelBases {
    pub calls: mixpanel::calls::Calls,
    /// One attempt a call: trying again is up to the leg, which may ask for fewer then.
    pub stack: Stack,
    pub budgets: Arc<Budgets>,
    /// Below it everything has ended at Mixpanel.
    pub delivered: watch::Receiver<Position>,
    pub settle: Duration,
    /// Mapped properties that Mixpanel gets as the apps sent them. It has no base for others.
    pub properties: Vec<String>,
}

/// What was found for people, in their order: by a base that holds their updates up to somewhere, and for what that one
/// cannot know.
pub(super) type FoundBases = Vec<(PersonId, Vec<(Base, Found)>)>;

/// How an attempt to read bases ended.
pub(super) enum Asked {
    Found {
        found: FoundBases,
        /// Whom the answer may have named by another id: to be asked for alone.
        alone: Vec<PersonId>,
        /// Until the next question is worth its price.
        pause: Duration,
    },
    /// The answer was larger than is read: ask for fewer.
    TooLong,
    /// Not now.
    Failed(String),
}

/// The mapped properties that Mixpanel gets as the apps send them, whatever `rules` keep from it.
pub fn unchanged_at_mixpanel(mapping: &CompiledMapping, rules: Option<&Rules>) -> Vec<String> {
    let unchanged = |property: &str| {
        let update = Bytes::from(serde_json::json!({"$distinct_id": "-", "$set": {property: "-"}}).to_string());
        rules
            .is_none_or(|rules| rules.outgoing(Kind::Profile, &update).is_ok_and(|sent| sent.as_ref() == Some(&update)))
    };
    let consent = mapping.consent.as_ref().map(|rule| rule.property.as_str());
    let all = mapping.properties().map(|(property, _)| property).chain(consent);
    let mut properties: Vec<_> = all.filter(|property| unchanged(property)).map(str::to_owned).collect();
    properties.sort_unstable();
    properties.dedup();
    properties
}

impl BaseSource {
    /// People in one reading.
    pub(super) fn most(&self) -> usize {
        match self {
            BaseSource::Mixpanel(_) => profiles::MAX_PEOPLE,
            BaseSource::Brevo => CONTACTS,
        }
    }

    /// Whether this person's base could be read at all by now. Brevo knows people by address; without one they may be
    /// there under an address that is still to come.
    pub(super) fn may_know(&self, person: &Person) -> bool {
        match self {
            BaseSource::Mixpanel(_) => true,
            BaseSource::Brevo => person.addressable() || person.unknown.holds_identifier(),
        }
    }
}

/// What Mixpanel has taken, and shows by now.
#[derive(Debug, Default)]
pub(super) struct Settled(VecDeque<(Instant, Position)>);

impl Settled {
    /// Takes note of how far Mixpanel's leg is, and says up to where a profile read now is complete.
    pub(super) fn through(&mut self, source: &BaseSource, now: Instant) -> Option<Position> {
        let BaseSource::Mixpanel(source) = source else { return None };
        let delivered = *source.delivered.borrow();
        if self.0.back().is_none_or(|(_, last)| *last != delivered) {
            self.0.push_back((now, delivered));
        }
        let shown = |at: Instant| at + source.settle <= now;
        while self.0.get(1).is_some_and(|(at, _)| shown(*at)) {
            self.0.pop_front();
        }
        self.0.front().filter(|(at, _)| shown(*at)).map(|(_, position)| *position)
    }
}

/// Asks Mixpanel for these people's profiles, which hold everything below `through`.
pub(super) async fn ask_mixpanel(
    ids: Vec<PersonId>,
    through: Position,
    mapping: Arc<CompiledMapping>,
    request: crate::vendor::VendorRequest,
    stack: Stack,
    budgets: Arc<Budgets>,
    asked_for: Vec<String>,
) -> Result<Asked, LegError> {
    let answer = match stack.oneshot(request).await {
        Ok(answer) => answer,
        Err(TransportError::Store(error)) => return Err(error.into()),
        Err(TransportError::TooLong(_)) => return Ok(Asked::TooLong),
        Err(error) => return Ok(Asked::Failed(error.to_string())),
    };
    let mut profiles = match profiles::read(&answer) {
        Ok(profiles) => profiles,
        Err(error) => {
            if error == NotRead::Limited {
                let overrun = mixpanel::quota::overrun(&answer.headers, &answer.body);
                budgets.overrun(Family::MixpanelQuery, overrun).await?;
            }
            return Ok(Asked::Failed(error.to_string()));
        }
    };
    let only = ids.len() == 1;
    let (mut found, mut alone) = (Vec::new(), Vec::new());
    let mut missing = Vec::new();
    for id in ids {
        match profiles.remove(id.as_ref()) {
            Some(properties) => found.push((id, Some(properties))),
            None => missing.push(id),
        }
    }
    // Somebody is there under an id that nobody asked for: one of the missing, by their canonical id at Mixpanel.
    let stranger = profiles.into_values().next();
    match (stranger, only) {
        (None, _) => found.extend(missing.into_iter().map(|id| (id, None))),
        (Some(properties), true) => found.extend(missing.into_iter().map(|id| (id, Some(properties.clone())))),
        (Some(_), false) => alone = missing,
    }
    let bases = |properties: Option<Box<serde_json::value::RawValue>>| {
        let mut known = found_in(properties.as_ref().map_or("{}", |json| json.get()), &mapping);
        let mut elsewhere = Found::default();
        let fills = |property: &String, name: &AttributeName| {
            matches!(mapping.target(property), Some(Target::Attribute(filled)) if filled == name)
                || mapping.consent_in(property) == Some(name)
        };
        for name in mapping.kept() {
            if !asked_for.iter().any(|property| fills(property, name)) {
                known.attributes.remove(name);
                elsewhere.attributes.insert(name.clone(), Value::Null);
            }
        }
        vec![(Base::At(through), known), (Base::Before, elsewhere)]
    };
    let found = found.into_iter().map(|(id, properties)| (id, bases(properties))).collect();
    Ok(Asked::Found { found, alone, pause: pause(&budgets).await })
}

/// Profile properties as an update of everything would set them.
fn found_in(properties: &str, mapping: &CompiledMapping) -> Found {
    let mut found = Found::default();
    found.attributes.extend(mapping.kept().map(|name| (name.clone(), Value::Null)));
    let update = Bytes::from(format!(r#"{{"$distinct_id":"-","$set":{properties}}}"#));
    let Ok(Some(visible)) = mapping.visible(Kind::Profile, &update) else { return found };
    let Ok(view) = ProfileView::parse(&visible) else { return found };
    let ProfileDecision::Change(change) = map_profile(&view, mapping) else { return found };
    for operation in change.operations {
        match operation {
            Operation::Attribute(name, Change::Set(value)) => drop(found.attributes.insert(name, value)),
            Operation::Email(email) => found.email = Some(email.value),
            Operation::Phone(phone) => found.phone = Some(phone.value),
            Operation::Attribute(..) | Operation::Delete { .. } => {}
        }
    }
    found
}

/// Asks Brevo for these people's contacts. Nothing that waits was ever sent there.
pub(super) async fn ask_brevo(
    people: Vec<(PersonId, Person)>,
    mapping: Arc<CompiledMapping>,
    calls: brevo::calls::Calls,
    stack: Stack,
) -> Result<Asked, LegError> {
    let (mapping, calls, stack) = (&mapping, &calls, &stack);
    let read = |(id, person): (PersonId, Person)| async move {
        let contact = find(&id, &person, calls, stack).await?;
        Ok::<_, LegError>(contact.map(|contact| (id, vec![(Base::Before, found_at_brevo(contact, &person, mapping))])))
    };
    let read: Vec<_> = futures_util::stream::iter(people).map(read).buffered(CONTACTS_AT_ONCE).collect().await;
    let mut found = Vec::new();
    for base in read {
        found.extend(base?);
    }
    Ok(Asked::Found { found, alone: Vec::new(), pause: Duration::ZERO })
}

/// The person's contact by whatever Brevo may know it by; `None` where the answers do not say.
async fn find(
    id: &str,
    person: &Person,
    calls: &brevo::calls::Calls,
    stack: &Stack,
) -> Result<Option<Option<BrevoContact>>, LegError> {
    let known = address(id, &person.contact);
    let once = |name: AttributeName| person.unknown.given_once(&name);
    let email = person.email.clone().or_else(|| Email::parse(once(AttributeName::email())?).ok());
    let phone = person.phone.clone().or_else(|| Phone::parse(once(AttributeName::sms())?).ok());
    let (email, phone) = (email.as_ref().map(ContactRef::Email), phone.as_ref().map(ContactRef::Phone));
    for at in [known.or(Some(ContactRef::ExtId(id))), email, phone].into_iter().flatten() {
        let answer = stack.clone().oneshot(calls.contact(at)).await?;
        match outcome::contact(&answer) {
            Ok(Some(contact)) => return Ok(Some(Some(contact))),
            Ok(None) => {}
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(None))
}

fn found_at_brevo(contact: Option<BrevoContact>, person: &Person, mapping: &CompiledMapping) -> Found {
    let mut found = Found::default();
    found.attributes.extend(mapping.kept().map(|name| (name.clone(), Value::Null)));
    // Brevo cannot tell what it is never told.
    found.attributes.retain(|name, _| !name.is_kept_back() || person.unknown.holds(name));
    let Some(contact) = contact else { return found };
    for (name, value) in &mut found.attributes {
        *value = match contact.attributes.get(name.as_str()) {
            None => Value::Null,
            Some(Value::String(text)) if text.is_empty() => Value::Null,
            // As the relay writes lists into a text.
            Some(Value::String(text)) if person.unknown.wants_list(name) => text.split(", ").map(Value::from).collect(),
            Some(value) => value.clone(),
        };
    }
    // A contact without an address shows one that Brevo made up (contract §3.1).
    let email = contact.email.filter(|email| !email.ends_with("@mailin-sms.com"));
    found.email = email.and_then(|email| Email::parse(&email).ok());
    let phone = contact.attributes.get("SMS").and_then(Value::as_str);
    found.phone = phone.and_then(|digits| Phone::parse(&format!("+{}", digits.trim_start_matches('+'))).ok());
    found
}

/// With little left of the hour's queries, a while in which more people join the next one.
async fn pause(budgets: &Budgets) -> Duration {
    match budgets.standing(Family::MixpanelQuery, Priority::Live, 1).await {
        Some(standing) if standing.remaining * 2 < standing.limit.amount => {
            standing.limit.span / u32::try_from(standing.limit.amount).unwrap_or(u32::MAX).max(1)
        }
        _ => Duration::ZERO,
    }
}
