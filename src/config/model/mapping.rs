//! What `event_mapping`, `property_mapping` and `mapping_tests` say of one event, one attribute, one example.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::brevo::account::NewKind;
use crate::brevo::format::Format;
use crate::brevo::identifiers::Membership;

/// What becomes of the events of one name. A rule that is only a name maps the event as it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventRule {
    /// The event's name at Brevo.
    pub name: String,
    /// Property → what must hold of it; all of them must, or the event is skipped.
    pub when: BTreeMap<String, Vec<Condition>>,
    /// The properties that Brevo gets, by Mixpanel's names; `None`: all of the app's own.
    pub pick: Option<Vec<String>>,
    /// Mixpanel's name → the name that Brevo gets. A property that is renamed is picked.
    pub rename: BTreeMap<String, String>,
    /// Added to every event, in place of a property of the same name.
    pub constants: BTreeMap<String, Value>,
    /// In place of [`super::Mapping::stale_after`].
    pub stale_after: Option<Duration>,
    /// List id at Brevo → whether the person is to be in it, once the event is there.
    pub lists: BTreeMap<u64, Membership>,
}

impl From<&str> for EventRule {
    fn from(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

/// What must hold of a property.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// It is one of these, or a list that holds one of them.
    Is(Vec<Value>),
    /// It is none of these; an absent one is none.
    IsNot(Vec<Value>),
    Above(f64),
    AtLeast(f64),
    Below(f64),
    AtMost(f64),
    /// It is there and not null (or is not).
    Exists(bool),
}

/// What is known of an attribute besides its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttributeRule {
    /// The type with which it is created where the account lacks it; `None`: by its first value.
    pub kind: Option<NewKind>,
    /// How the app writes its values.
    pub format: Option<Format>,
}

/// A record and what the mapping has to make of it, checked by `mixrelay check`.
#[derive(Clone, Debug, PartialEq)]
pub struct MappingTest {
    pub name: String,
    /// The record, as apps send it.
    pub given: Value,
    pub expect: Expectation,
}

/// What is compared; what is `None` is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expectation {
    /// The rule that skips the record.
    pub skipped: Option<String>,
    /// The event's name at Brevo.
    pub event: Option<String>,
    /// All of the event's properties.
    pub properties: Option<Value>,
    /// The contact's address.
    pub email: Option<String>,
    /// All attributes that are written, `SMS` included.
    pub attributes: Option<Value>,
    /// All lists that the person is added to, by their ids.
    pub add_to_lists: Option<Vec<u64>>,
    pub remove_from_lists: Option<Vec<u64>>,
}
