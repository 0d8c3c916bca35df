//! Profile and group updates: the operators in them, and what Brevo is owed for a profile's.

use std::borrow::Cow;

use serde_json::Value;
use serde_json::value::RawValue;

use super::compiled::{CompiledMapping, Target};
use super::fields::{self, Fields, Text, Unreadable};
use super::operation::{Assignment, Change, Operation};
use crate::brevo::coerce::{Unplaced, masked};
use crate::brevo::identifiers::{Email, Phone};
use crate::brevo::names::AttributeName;
use crate::clock::UnixMillis;
use crate::config::OnProfileDelete;
use crate::settlement::SkipRule;

/// One operator of an update with its operand (Mixpanel contract §5).
#[derive(Clone, Debug)]
pub enum Operator<'a> {
    Set(Fields<'a>),
    SetOnce(Fields<'a>),
    Add(Fields<'a>),
    Append(Fields<'a>),
    Union(Fields<'a>),
    Remove(Fields<'a>),
    Unset(Vec<Cow<'a, str>>),
    Delete,
}

impl<'a> Operator<'a> {
    /// `None` for keys that are no operators, and for operands of a shape that Mixpanel does nothing with.
    fn parse(key: &str, operand: &'a RawValue) -> Option<Self> {
        let operator = match key {
            "$set" => Operator::Set,
            "$set_once" => Operator::SetOnce,
            "$add" => Operator::Add,
            "$append" => Operator::Append,
            "$union" => Operator::Union,
            "$remove" => Operator::Remove,
            "$unset" => return Some(Operator::Unset(names(operand))),
            "$delete" => return Some(Operator::Delete),
            _ => return None,
        };
        serde_json::from_str(operand.get()).ok().map(operator)
    }

    fn all(update: &Fields<'a>) -> Vec<Self> {
        update.iter().filter_map(|(key, operand)| Self::parse(key, operand)).collect()
    }
}

/// A list of names, or one name.
fn names(raw: &RawValue) -> Vec<Cow<'_, str>> {
    match serde_json::from_str::<Vec<Text<'_>>>(raw.get()) {
        Ok(names) => names.into_iter().map(|Text(name)| name).collect(),
        Err(_) => fields::scalar_text(raw).into_iter().collect(),
    }
}

/// A profile update's body, borrowed from its bytes.
#[derive(Clone, Debug)]
pub struct ProfileView<'a> {
    /// `None` where it is absent or names nobody.
    pub distinct_id: Option<Cow<'a, str>>,
    /// In the order of the text.
    pub operators: Vec<Operator<'a>>,
    /// `$time`, in whichever unit it came.
    pub time: Option<UnixMillis>,
    /// `$ignore_alias`: the update is for the literal id.
    pub ignore_alias: bool,
}

impl<'a> ProfileView<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, Unreadable> {
        let update: Fields<'a> = serde_json::from_slice(body)?;
        Ok(Self {
            distinct_id: update.get("$distinct_id").and_then(fields::id),
            operators: Operator::all(&update),
            time: update.get("$time").and_then(fields::time),
            ignore_alias: update.get("$ignore_alias").is_some_and(fields::is_set),
        })
    }
}

/// A group update's body, borrowed from its bytes.
#[derive(Clone, Debug)]
pub struct GroupView<'a> {
    pub group_key: Option<Cow<'a, str>>,
    pub group_id: Option<Cow<'a, str>>,
    pub operators: Vec<Operator<'a>>,
}

impl<'a> GroupView<'a> {
    pub fn parse(body: &'a [u8]) -> Result<Self, Unreadable> {
        let update: Fields<'a> = serde_json::from_slice(body)?;
        Ok(Self {
            group_key: update.get("$group_key").and_then(fields::scalar_text),
            group_id: update.get("$group_id").and_then(fields::id),
            operators: Operator::all(&update),
        })
    }
}

/// What becomes of a profile update at Brevo, modes and consent apart.
#[derive(Clone, Debug, PartialEq)]
pub enum ProfileDecision {
    Change(ProfileChange),
    Skip(SkipRule),
}

/// What an update changes of a contact.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProfileChange {
    /// In the order of the text. Values are as Mixpanel has them; the account's attribute types are applied when they are
    /// sent, because those can change.
    pub operations: Vec<Operation>,
    /// Identifiers that cannot be placed.
    pub unplaced: Vec<UnplacedIdentifier>,
}

/// A property that is mapped to an identifier, and holds none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnplacedIdentifier {
    pub property: String,
    pub reason: Unplaced,
    /// What it looks like, masked.
    pub sample: String,
}

impl ProfileChange {
    /// Nothing is left to do: the update is skipped, rule `not_placed`.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Whether the profile is deleted at Mixpanel.
    pub fn deletes(&self) -> bool {
        self.operations.iter().any(|operation| matches!(operation, Operation::Delete { .. }))
    }
}

/// The member of a row's body that names its data set. Only the relay's own records are looked at for it.
pub const DATASET: &str = "$dataset";

/// The data set that a record of [`crate::record::Origin::Dataset`] is a row of. `body`: as it is stored, since privacy rules
/// may leave the name out.
pub fn dataset_of(body: &[u8]) -> Option<String> {
    let update: Fields<'_> = serde_json::from_slice(body).ok()?;
    update.get(DATASET).and_then(fields::scalar_text).map(Cow::into_owned)
}

/// What a row of a data set changes of a contact. A column that was taken out of the configuration says nothing any more.
pub fn map_row(dataset: &str, view: &ProfileView<'_>, mapping: &CompiledMapping) -> ProfileDecision {
    if !mapping.sync.profiles {
        return ProfileDecision::Skip(SkipRule::ProfilesOff);
    }
    let mut collector = Collector { mapping, change: ProfileChange::default(), touched: false };
    for operator in &view.operators {
        if let Operator::Set(columns) = operator {
            collector.row(dataset, columns);
        }
    }
    if collector.touched {
        ProfileDecision::Change(collector.change)
    } else {
        ProfileDecision::Skip(SkipRule::NoMappedProperty)
    }
}

pub fn map_profile(view: &ProfileView<'_>, mapping: &CompiledMapping) -> ProfileDecision {
    let off = !mapping.sync.profiles;
    // Whether the person agrees counts for their events too.
    if off && mapping.consent.is_none() {
        return ProfileDecision::Skip(SkipRule::ProfilesOff);
    }
    let mut collector = Collector { mapping, change: ProfileChange::default(), touched: false };
    for operator in &view.operators {
        collector.take(operator);
    }
    if collector.touched {
        ProfileDecision::Change(collector.change)
    } else {
        ProfileDecision::Skip(if off { SkipRule::ProfilesOff } else { SkipRule::NoMappedProperty })
    }
}

struct Collector<'m> {
    mapping: &'m CompiledMapping,
    change: ProfileChange,
    touched: bool,
}

/// How an operator reads its operand for one property; `None` where it does nothing with it.
type Reading = fn(Value) -> Option<Change>;

impl<'m> Collector<'m> {
    fn take(&mut self, operator: &Operator<'_>) {
        match operator {
            Operator::Set(properties) => self.each(properties, set),
            Operator::SetOnce(properties) => self.each(properties, set_once),
            Operator::Add(properties) => self.each(properties, add),
            Operator::Append(properties) => self.each(properties, |value| Some(Change::Append(vec![value]))),
            Operator::Union(properties) => self.each(properties, union),
            Operator::Remove(properties) => self.each(properties, |value| Some(Change::Remove(value))),
            Operator::Unset(properties) => properties.iter().for_each(|property| self.unset(property)),
            Operator::Delete => {
                self.touched = true;
                let values = self.mapping.kept().chain(self.mapping.computed()).cloned().collect();
                let identifiers = self.mapping.on_profile_delete == OnProfileDelete::DeleteContact;
                self.push(Operation::Delete { values, identifiers });
            }
        }
    }

    fn each(&mut self, properties: &Fields<'_>, reading: Reading) {
        for (property, raw) in properties.iter() {
            let (target, consent) = self.places(property);
            if target.is_none() && consent.is_none() {
                continue;
            }
            self.touched = true;
            let Ok(value) = serde_json::from_str::<Value>(raw.get()) else {
                self.unplaced(property, Unplaced::Unreadable, &Value::Null);
                continue;
            };
            let Some(change) = reading(value) else { continue };
            if let Some(name) = consent {
                self.push(Operation::Attribute(name.clone(), change.clone()));
            }
            match target {
                Some(Target::Attribute(name)) => self.push(Operation::Attribute(name.clone(), change)),
                Some(Target::Email) => self.email(property, change),
                Some(Target::Phone) => self.phone(property, change),
                None => {}
            }
        }
    }

    fn row(&mut self, dataset: &str, columns: &Fields<'_>) {
        for (column, raw) in columns.iter() {
            let Some(target) = self.mapping.column(dataset, column) else { continue };
            self.touched = true;
            let Ok(value) = serde_json::from_str::<Value>(raw.get()) else {
                self.unplaced(column, Unplaced::Unreadable, &Value::Null);
                continue;
            };
            let Some(change) = set(value) else { continue };
            match target {
                Target::Attribute(name) => self.push(Operation::Attribute(name.clone(), change)),
                Target::Email => self.email(column, change),
                Target::Phone => self.phone(column, change),
            }
        }
    }

    /// An identifier is never emptied: it is how Brevo knows the contact.
    fn unset(&mut self, property: &str) {
        let (target, consent) = self.places(property);
        self.touched |= target.is_some() || consent.is_some();
        if let Some(name) = consent {
            self.push(Operation::Attribute(name.clone(), Change::Unset));
        }
        if let Some(Target::Attribute(name)) = target {
            self.push(Operation::Attribute(name.clone(), Change::Unset));
        }
    }

    /// Where `property` goes at Brevo, and where it is kept as the answer to the consent rule.
    fn places(&self, property: &str) -> (Option<&'m Target>, Option<&'m AttributeName>) {
        let target = self.mapping.target(property).filter(|_| self.mapping.sync.profiles);
        (target, self.mapping.consent_in(property))
    }

    fn email(&mut self, property: &str, change: Change) {
        let Some((value, once)) = given(change) else { return };
        match value.as_str().map(Email::parse) {
            Some(Ok(value)) => self.push(Operation::Email(Assignment { value, once })),
            Some(Err(_)) | None => self.unplaced(property, Unplaced::NotAnEmail, &value),
        }
    }

    fn phone(&mut self, property: &str, change: Change) {
        let Some((value, once)) = given(change) else { return };
        match phone(&value) {
            Ok(value) => self.push(Operation::Phone(Assignment { value, once })),
            Err(reason) => self.unplaced(property, reason, &value),
        }
    }

    fn push(&mut self, operation: Operation) {
        self.change.operations.push(operation);
    }

    fn unplaced(&mut self, property: &str, reason: Unplaced, value: &Value) {
        let (property, sample) = (property.to_owned(), masked(value));
        self.change.unplaced.push(UnplacedIdentifier { property, reason, sample });
    }
}

fn set(value: Value) -> Option<Change> {
    Some(if value.is_null() { Change::Unset } else { Change::Set(value) })
}

fn set_once(value: Value) -> Option<Change> {
    (!value.is_null()).then_some(Change::SetOnce(value))
}

fn add(value: Value) -> Option<Change> {
    match value {
        Value::Number(number) => Some(Change::Add(number)),
        _ => None,
    }
}

/// SDKs wrap a single item; the vendor's own list is a list.
fn union(value: Value) -> Option<Change> {
    match value {
        Value::Array(items) => Some(Change::Union(items)),
        Value::Null => None,
        item => Some(Change::Union(vec![item])),
    }
}

/// The value that a change gives to an identifier, and whether only to one that has none.
fn given(change: Change) -> Option<(Value, bool)> {
    match change {
        Change::Set(value) => Some((value, false)),
        Change::SetOnce(value) => Some((value, true)),
        Change::Unset | Change::Add(_) | Change::Append(_) | Change::Union(_) | Change::Remove(_) => None,
    }
}

fn phone(value: &Value) -> Result<Phone, Unplaced> {
    match value {
        Value::String(text) => Ok(Phone::parse(text)?),
        // A number has lost its plus or zeros, and with them what tells a country code.
        Value::Number(_) => Err(Unplaced::NoCountryCode),
        _ => Err(Unplaced::NotAPhone),
    }
}

#[cfg(test)]
#[path = "profile_tests.rs"]
mod tests;
