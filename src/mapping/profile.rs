//! Profile and group updates: the operators in them, and what Brevo is owed for a profile's.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::compiled::{CompiledMapping, Target};
use super::fields::{self, Fields, Text, Unreadable};
use crate::brevo::coerce::Unplaced;
use crate::brevo::identifiers::{Email, Phone};
use crate::brevo::names::AttributeName;
use crate::clock::UnixMillis;
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
    pub email: Option<Email>,
    pub phone: Option<Phone>,
    /// As Mixpanel has them; the account's attribute types are applied when they are sent, because those can change.
    /// No name is in both `set` and `unset`.
    pub set: Vec<(AttributeName, Value)>,
    pub unset: Vec<AttributeName>,
    /// An operator beyond `$set` and `$unset` touches a mapped property: what Brevo is owed depends on what was there.
    /// `set` and `unset` then hold the rest of the update and must not be sent ahead of the fold.
    pub needs_fold: bool,
    /// The profile is deleted at Mixpanel.
    pub delete: bool,
    /// Identifiers that cannot be placed, by property.
    pub unplaced: Vec<(String, Unplaced)>,
}

impl ProfileChange {
    /// Nothing is left to send: the update is skipped, rule `not_placed`.
    pub fn is_empty(&self) -> bool {
        let nothing_set = self.email.is_none() && self.phone.is_none() && self.set.is_empty() && self.unset.is_empty();
        nothing_set && !self.needs_fold && !self.delete
    }
}

pub fn map_profile(view: &ProfileView<'_>, mapping: &CompiledMapping) -> ProfileDecision {
    if !mapping.sync.profiles {
        return ProfileDecision::Skip(SkipRule::ProfilesOff);
    }
    let mut collector =
        Collector { mapping, change: ProfileChange::default(), assigned: BTreeMap::new(), touched: false };
    for operator in &view.operators {
        collector.take(operator);
    }
    collector.decide()
}

struct Collector<'m> {
    mapping: &'m CompiledMapping,
    change: ProfileChange,
    /// `None`: to be emptied.
    assigned: BTreeMap<AttributeName, Option<Value>>,
    touched: bool,
}

impl Collector<'_> {
    fn take(&mut self, operator: &Operator<'_>) {
        match operator {
            Operator::Set(properties) => {
                for (property, value) in properties.iter() {
                    self.set(property, value);
                }
            }
            Operator::Unset(properties) => properties.iter().for_each(|property| self.unset(property)),
            Operator::Delete => self.change.delete = true,
            Operator::SetOnce(properties)
            | Operator::Add(properties)
            | Operator::Append(properties)
            | Operator::Union(properties)
            | Operator::Remove(properties) => {
                self.change.needs_fold |= properties.iter().any(|(key, _)| self.mapping.target(key).is_some());
            }
        }
    }

    fn set(&mut self, property: &str, raw: &RawValue) {
        let Some(target) = self.mapping.target(property) else { return };
        self.touched = true;
        let value = match serde_json::from_str::<Value>(raw.get()) {
            Ok(Value::Null) => return self.unset(property),
            Ok(value) => value,
            Err(_) => return self.change.unplaced.push((property.to_owned(), Unplaced::Unreadable)),
        };
        match target {
            Target::Attribute(name) => {
                self.assigned.insert(name.clone(), Some(value));
            }
            Target::Email => match value.as_str().map(Email::parse) {
                Some(Ok(email)) => self.change.email = Some(email),
                Some(Err(_)) | None => self.change.unplaced.push((property.to_owned(), Unplaced::NotAnEmail)),
            },
            Target::Phone => match phone(&value) {
                Ok(phone) => self.change.phone = Some(phone),
                Err(reason) => self.change.unplaced.push((property.to_owned(), reason)),
            },
        }
    }

    /// An identifier is never emptied: it is how Brevo knows the contact.
    fn unset(&mut self, property: &str) {
        if let Some(target) = self.mapping.target(property) {
            self.touched = true;
            if let Target::Attribute(name) = target {
                self.assigned.insert(name.clone(), None);
            }
        }
    }

    fn decide(mut self) -> ProfileDecision {
        if !self.touched && !self.change.needs_fold && !self.change.delete {
            return ProfileDecision::Skip(SkipRule::NoMappedProperty);
        }
        for (name, value) in self.assigned {
            match value {
                Some(value) => self.change.set.push((name, value)),
                None => self.change.unset.push(name),
            }
        }
        ProfileDecision::Change(self.change)
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
mod tests {
    use serde_json::json;

    use super::super::compiled::tests::published;
    use super::*;
    use crate::config::UnmappedEvents;

    fn decide(body: &Value) -> ProfileDecision {
        let body = body.to_string();
        map_profile(&ProfileView::parse(body.as_bytes()).unwrap(), &published(UnmappedEvents::Skip))
    }

    fn change(body: &Value) -> ProfileChange {
        match decide(body) {
            ProfileDecision::Change(change) => change,
            ProfileDecision::Skip(rule) => panic!("{body} was skipped, {}", rule.label()),
        }
    }

    fn name(raw: &str) -> AttributeName {
        AttributeName::parse(raw).unwrap()
    }

    #[test]
    fn an_update_is_read_with_every_operator() {
        let body =
            br#"{"$token":"t","$distinct_id":"u","$time":1700000000,"$ip":"0","$set":{"a":1},"$set_once":{"a":1},
            "$add":{"a":1},"$append":{"a":1},"$union":{"a":[1]},"$remove":{"a":1},"$unset":["a","b"],"$delete":""}"#;
        let view = ProfileView::parse(body).unwrap();
        assert_eq!(view.distinct_id.as_deref(), Some("u"));
        assert_eq!(view.time, Some(UnixMillis(1_700_000_000_000)));
        assert!(matches!(
            view.operators.as_slice(),
            [
                Operator::Set(_),
                Operator::SetOnce(_),
                Operator::Add(_),
                Operator::Append(_),
                Operator::Union(_),
                Operator::Remove(_),
                Operator::Unset(names),
                Operator::Delete
            ] if *names == ["a", "b"]
        ));
    }

    #[test]
    fn a_group_update_is_read() {
        let body = br#"{"$token":"t","$group_key":"company_id","$group_id":7,"$set":{"$name":"ACME"}}"#;
        let view = GroupView::parse(body).unwrap();
        assert_eq!(view.group_key.as_deref(), Some("company_id"));
        assert_eq!(view.group_id.as_deref(), Some("7"));
        assert_eq!(view.operators.len(), 1);
    }

    #[test]
    fn set_gives_identifiers_and_attributes() {
        let change = change(&json!({"$distinct_id": "u", "$set": {
            "$email": " Ada@Example.COM", "$phone": "+33 6 12 34 56 78", "plan": "pro", "total_revenue": 12.5, "other": 1,
        }}));
        assert_eq!(change.email, Some(Email::parse("ada@example.com").unwrap()));
        assert_eq!(change.phone, Some(Phone::parse("+33612345678").unwrap()));
        assert_eq!(change.set, [(name("LTV"), json!(12.5)), (name("PLAN_TYPE"), json!("pro"))]);
        assert!(change.unset.is_empty() && !change.needs_fold && !change.delete && change.unplaced.is_empty());
    }

    #[test]
    fn null_and_unset_empty_attributes_but_no_identifier() {
        let found = change(&json!({"$set": {"plan": null, "$email": null}}));
        assert_eq!(found.unset, [name("PLAN_TYPE")]);
        assert_eq!(found.email, None);
        assert_eq!(change(&json!({"$unset": ["plan", "$email", "other"]})).unset, [name("PLAN_TYPE")]);
        assert_eq!(change(&json!({"$unset": "plan"})).unset, [name("PLAN_TYPE")]);
    }

    #[test]
    fn of_two_assignments_the_later_counts() {
        let body = br#"{"$unset":["plan"],"$set":{"plan":"a","plan":"b"}}"#;
        let view = ProfileView::parse(body).unwrap();
        let ProfileDecision::Change(change) = map_profile(&view, &published(UnmappedEvents::Skip)) else {
            panic!("skipped")
        };
        assert_eq!((change.set, change.unset), (vec![(name("PLAN_TYPE"), json!("b"))], vec![]));
    }

    #[test]
    fn other_operators_need_the_fold_only_where_they_touch_a_mapped_property() {
        for operator in ["$set_once", "$add", "$append", "$union", "$remove"] {
            assert!(change(&json!({operator: {"total_revenue": 1}})).needs_fold, "{operator}");
            assert_eq!(
                decide(&json!({operator: {"other": 1}})),
                ProfileDecision::Skip(SkipRule::NoMappedProperty),
                "{operator}"
            );
            let mixed = change(&json!({operator: {"other": 1}, "$set": {"plan": "x"}}));
            assert!(!mixed.needs_fold, "{operator}");
        }
    }

    #[test]
    fn an_update_without_a_mapped_property_is_skipped() {
        for body in [
            json!({"$set": {"other": 1}}),
            json!({"$unset": ["other"]}),
            json!({"$set": "not an object"}),
            json!({"$set": {}}),
            json!({}),
        ] {
            assert_eq!(decide(&body), ProfileDecision::Skip(SkipRule::NoMappedProperty), "{body}");
        }
    }

    #[test]
    fn identifiers_that_cannot_be_placed_are_reported() {
        let change = change(&json!({"$set": {"$email": "n/a", "$phone": 33612345678u64}}));
        assert!(change.is_empty());
        let mut unplaced = change.unplaced;
        unplaced.sort();
        let owned = |property: &str, reason| (property.to_owned(), reason);
        assert_eq!(unplaced, [owned("$email", Unplaced::NotAnEmail), owned("$phone", Unplaced::NoCountryCode)]);
    }

    #[test]
    fn delete_is_passed_on() {
        for operand in [json!(""), json!("null"), json!(null)] {
            let change = change(&json!({"$delete": operand}));
            assert!(change.delete && !change.is_empty());
        }
    }

    #[test]
    fn profiles_can_be_switched_off() {
        let mut mapping = published(UnmappedEvents::Skip);
        mapping.sync.profiles = false;
        let view = ProfileView::parse(br#"{"$set":{"plan":"x"}}"#).unwrap();
        assert_eq!(map_profile(&view, &mapping), ProfileDecision::Skip(SkipRule::ProfilesOff));
    }
}
