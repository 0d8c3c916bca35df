//! What a profile update does to the values that Brevo gets: Mixpanel's operators, on mapped properties only.

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};

use crate::brevo::identifiers::{Email, Phone};
use crate::brevo::names::AttributeName;

/// One step of a profile update. Steps are applied in the order of the text.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Attribute(AttributeName, Change),
    Email(Assignment<Email>),
    Phone(Assignment<Phone>),
    /// `$delete`: the profile is gone at Mixpanel, and every mapped value with it.
    Delete {
        values: Vec<AttributeName>,
        /// Address and phone number go too, since the contact does.
        identifiers: bool,
    },
}

/// An identifier is only ever given: how Brevo knows a contact is never emptied, and no list or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment<T> {
    pub value: T,
    /// `$set_once`: only where there is none.
    pub once: bool,
}

/// What an operator does to one value (Mixpanel contract §5). What changes a list takes several items at once, so that
/// steps which wait for a value can be joined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Set(Value),
    Unset,
    SetOnce(Value),
    Add(Number),
    Append(Vec<Value>),
    Union(Vec<Value>),
    Remove(Value),
}

impl Change {
    /// Whether the outcome is the same whatever was there.
    pub fn assigns(&self) -> bool {
        matches!(self, Change::Set(_) | Change::Unset)
    }

    /// Whether doing it twice differs from doing it once.
    pub fn additive(&self) -> bool {
        matches!(self, Change::Add(_) | Change::Append(_))
    }
}
