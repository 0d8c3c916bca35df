//! What would become of a letter if it were sent again now.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::Parts;
use super::super::answers::AdminError;
use super::Item;
use crate::delivery::dead_letters::later::{Later, later_updates};
use crate::delivery::dead_letters::{DeadLetter, DeadLetterId};
use crate::mapping::{Came, Operation, ProfileDecision, ProfileView, dataset_of, map_profile, map_row, preview_again};
use crate::people::person::Person;
use crate::people::roster::{self, PersonId, Roster};
use crate::record::{Destination, Kind, Origin};
use crate::store::StoreError;

/// A letter of a dry run.
#[derive(Serialize)]
pub struct Judged {
    #[serde(flatten)]
    item: Item,
    /// What would be sent now.
    now: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_back: Option<Later>,
}

/// Letters that must not go without `force`.
pub async fn held_back(
    parts: &Parts,
    letters: &[(DeadLetterId, DeadLetter)],
) -> Result<HashMap<DeadLetterId, Later>, StoreError> {
    let mixpanel = parts.legs.iter().find(|leg| leg.destination() == Destination::Mixpanel);
    match mixpanel {
        Some(leg) => {
            let delivered = *leg.durable_cursor().borrow();
            later_updates(&parts.journal, letters, delivered).await
        }
        None => Ok(HashMap::new()),
    }
}

pub async fn judge(
    parts: &Parts,
    id: DeadLetterId,
    letter: DeadLetter,
    any_age: bool,
    held_back: Option<Later>,
) -> Result<Judged, AdminError> {
    let now = match id.destination {
        Destination::Mixpanel => at_mixpanel(held_back),
        Destination::Brevo => at_brevo(parts, &letter, any_age).await?,
    };
    Ok(Judged { item: Item::new(id, letter)?, now, held_back })
}

fn at_mixpanel(held_back: Option<Later>) -> Value {
    let explanation = match held_back {
        None => return json!({ "decision": "send" }),
        Some(Later::Delivered) => "a later update of this profile has reached Mixpanel; this one would undo it",
        Some(Later::NotKnown) => {
            "the journal does not reach back far enough to rule out a later update of this profile"
        }
    };
    json!({ "decision": "hold_back", "explanation": explanation })
}

/// The preview of the record, and for a profile the person's present values, which are what is sent.
async fn at_brevo(parts: &Parts, letter: &DeadLetter, any_age: bool) -> Result<Value, StoreError> {
    let mapping = parts.mapping.now().mapping.clone();
    let now = (!any_age).then(|| parts.clock.now());
    let came = Came { at: letter.received_at, origin: letter.origin };
    let mut shown = preview_again(&letter.record, &mapping, came, now);
    if letter.kind != Kind::Profile {
        return Ok(shown);
    }
    let Ok(view) = ProfileView::parse(letter.record.as_bytes()) else { return Ok(shown) };
    let dataset = (letter.origin == Origin::Dataset).then(|| dataset_of(letter.record.as_bytes())).flatten();
    let decision = match dataset {
        Some(dataset) => map_row(&dataset, &view, &mapping),
        None => map_profile(&view, &mapping),
    };
    let touched: Vec<String> = match (&letter.write, decision) {
        (Some(write), _) => write.attributes.iter().cloned().collect(),
        (None, ProfileDecision::Change(change)) => change.operations.iter().filter_map(attribute).collect(),
        (None, ProfileDecision::Skip(_)) => return Ok(shown),
    };
    let Some(person) = person(parts, view.distinct_id.as_deref().unwrap_or_default()).await? else { return Ok(shown) };
    let mut values = Map::new();
    values.extend(person.email.as_ref().map(|email| ("email".to_owned(), json!(email.as_str()))));
    for name in touched {
        let value = person.attributes.iter().find(|(attribute, _)| attribute.as_str() == name);
        values.insert(name, value.map_or(Value::Null, |(_, value)| value.clone()));
    }
    if letter.write.is_some() {
        shown = json!({ "kind": "profile", "decision": "send" });
    }
    shown["present_values"] = Value::Object(values);
    Ok(shown)
}

fn attribute(operation: &Operation) -> Option<String> {
    match operation {
        Operation::Attribute(name, _) if !name.is_kept_back() => Some(name.to_string()),
        _ => None,
    }
}

async fn person(parts: &Parts, id: &str) -> Result<Option<Person>, StoreError> {
    let id = PersonId::from(id);
    let mut roster = Roster::default();
    roster.take_in(roster::load(&parts.state, vec![id.clone()]).await?);
    Ok(roster.get(&roster.canonical(&id)).map(|resident| resident.person.clone()))
}

/// The event's name, for counting; profiles and groups by their kind.
pub fn counted_as(letter: &DeadLetter) -> String {
    #[derive(serde::Deserialize)]
    struct Named {
        event: String,
    }
    match serde_json::from_str::<Named>(&letter.record) {
        Ok(named) if matches!(letter.kind, Kind::Event | Kind::Identity) => named.event,
        _ => letter.kind.label().to_owned(),
    }
}
