//! Group updates: what Brevo's company is owed for one. Pure.
//!
//! Mixpanel takes `$set`, `$set_once`, `$union`, `$remove`, `$unset` and `$delete` on groups; `$add` and `$append` are not
//! supported there (Mixpanel contract §5) and change nothing here either.

use serde_json::Value;
use serde_json::value::RawValue;

use super::compiled::CompiledMapping;
use super::profile::{GroupView, Operator};
use crate::config::GroupMapping;
use crate::settlement::SkipRule;

/// The company attribute that holds the name (Brevo contract §6).
pub const NAME: &str = "name";

/// One change of one company attribute, or the end of the group. In the order of the record.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupOp {
    Set(String, Value),
    SetOnce(String, Value),
    /// Members that the list gets where it lacks them.
    Union(String, Vec<Value>),
    /// The member that the list loses.
    Remove(String, Value),
    Unset(String),
    Delete,
}

impl GroupOp {
    /// The one attribute that it changes; `None` for the end of all of them.
    pub fn attribute(&self) -> Option<&str> {
        match self {
            GroupOp::Set(attribute, _)
            | GroupOp::SetOnce(attribute, _)
            | GroupOp::Union(attribute, _)
            | GroupOp::Remove(attribute, _)
            | GroupOp::Unset(attribute) => Some(attribute),
            GroupOp::Delete => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum GroupDecision {
    Change(Vec<GroupOp>),
    Skip(SkipRule),
}

pub fn map_group(view: &GroupView<'_>, mapping: &CompiledMapping) -> GroupDecision {
    if !mapping.sync.groups {
        return GroupDecision::Skip(SkipRule::GroupsOff);
    }
    let Some(target) = view.group_key.as_deref().and_then(|key| mapping.group(key)) else {
        return GroupDecision::Skip(SkipRule::UnmappedGroup);
    };
    let ops: Vec<_> = view.operators.iter().flat_map(|operator| changes(operator, target)).collect();
    if ops.is_empty() { GroupDecision::Skip(SkipRule::NoMappedProperty) } else { GroupDecision::Change(ops) }
}

fn changes(operator: &Operator<'_>, target: &GroupMapping) -> Vec<GroupOp> {
    let fields = match operator {
        Operator::Delete => return vec![GroupOp::Delete],
        Operator::Unset(names) => {
            return names.iter().flat_map(|name| attributes(target, name)).map(GroupOp::Unset).collect();
        }
        Operator::Add(_) | Operator::Append(_) => return Vec::new(),
        Operator::Set(fields) | Operator::SetOnce(fields) | Operator::Union(fields) | Operator::Remove(fields) => {
            fields
        }
    };
    let mut ops = Vec::new();
    for (property, raw) in fields.iter() {
        for attribute in attributes(target, property) {
            ops.extend(change(operator, attribute, raw));
        }
    }
    ops
}

/// `None` for a value that JSON readers do not agree on, and for nothing to add.
fn change(operator: &Operator<'_>, attribute: String, raw: &RawValue) -> Option<GroupOp> {
    let value: Value = serde_json::from_str(raw.get()).ok()?;
    Some(match (operator, value) {
        (Operator::Set(_), Value::Null) => GroupOp::Unset(attribute),
        (Operator::Set(_), value) => GroupOp::Set(attribute, value),
        (Operator::SetOnce(_) | Operator::Union(_), Value::Null) => return None,
        (Operator::SetOnce(_), value) => GroupOp::SetOnce(attribute, value),
        // SDKs wrap a single value, but not all of them (Mixpanel contract §5).
        (Operator::Union(_), Value::Array(members)) => GroupOp::Union(attribute, members),
        (Operator::Union(_), member) => GroupOp::Union(attribute, vec![member]),
        (Operator::Remove(_), member) => GroupOp::Remove(attribute, member),
        (Operator::Add(_) | Operator::Append(_) | Operator::Unset(_) | Operator::Delete, _) => return None,
    })
}

/// The company attributes that groups of this mapping fill.
pub fn attributes_of(target: &GroupMapping) -> impl Iterator<Item = &str> {
    std::iter::once(NAME).chain(target.properties.values().map(String::as_str))
}

/// Where a group property goes: the name, an attribute, or both.
fn attributes(target: &GroupMapping, property: &str) -> impl Iterator<Item = String> {
    let name = (target.name == property).then(|| NAME.to_owned());
    let mapped = target.properties.get(property).filter(|attribute| *attribute != NAME || name.is_none()).cloned();
    name.into_iter().chain(mapped)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{Mapping, Sync};

    fn mapping(groups: bool) -> CompiledMapping {
        let target = GroupMapping {
            name: "$name".to_owned(),
            properties: [("industry", "industry"), ("tags", "tags")].map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
        };
        let mapping = Mapping { groups: [("company_id".to_owned(), target)].into(), ..Mapping::default() };
        CompiledMapping::compile(&mapping, Sync { groups, ..Sync::default() }).unwrap()
    }

    fn decide(body: Value, groups: bool) -> GroupDecision {
        let body = body.to_string();
        map_group(&GroupView::parse(body.as_bytes()).unwrap(), &mapping(groups))
    }

    fn ops(operator: &str, operand: Value) -> Vec<GroupOp> {
        match decide(json!({"$group_key": "company_id", "$group_id": "a", operator: operand}), true) {
            GroupDecision::Change(ops) => ops,
            GroupDecision::Skip(rule) => panic!("{operator} was skipped, {}", rule.label()),
        }
    }

    #[test]
    fn operators_become_changes_of_attributes() {
        let industry = || "industry".to_owned();
        assert_eq!(
            ops("$set", json!({"$name": "ACME", "industry": "Steel", "other": 1})),
            [GroupOp::Set(NAME.to_owned(), json!("ACME")), GroupOp::Set(industry(), json!("Steel"))]
        );
        assert_eq!(ops("$set", json!({"industry": null})), [GroupOp::Unset(industry())]);
        assert_eq!(ops("$set_once", json!({"industry": "x"})), [GroupOp::SetOnce(industry(), json!("x"))]);
        assert_eq!(ops("$union", json!({"tags": ["a"]})), [GroupOp::Union("tags".to_owned(), vec![json!("a")])]);
        assert_eq!(ops("$union", json!({"tags": "a"})), [GroupOp::Union("tags".to_owned(), vec![json!("a")])]);
        assert_eq!(ops("$remove", json!({"tags": "a"})), [GroupOp::Remove("tags".to_owned(), json!("a"))]);
        assert_eq!(ops("$unset", json!(["industry", "other"])), [GroupOp::Unset(industry())]);
        assert_eq!(ops("$delete", json!("")), [GroupOp::Delete]);
    }

    #[test]
    fn what_brevo_needs_nothing_of_is_skipped_by_its_rule() {
        let update =
            |key: &str, operator: &str, operand: Value| json!({"$group_key": key, "$group_id": "a", operator: operand});
        for (body, on, rule) in [
            (update("company_id", "$set", json!({"industry": "x"})), false, SkipRule::GroupsOff),
            (update("team", "$set", json!({"industry": "x"})), true, SkipRule::UnmappedGroup),
            (update("company_id", "$set", json!({"other": "x"})), true, SkipRule::NoMappedProperty),
            (update("company_id", "$add", json!({"industry": 1})), true, SkipRule::NoMappedProperty),
            (update("company_id", "$append", json!({"tags": "x"})), true, SkipRule::NoMappedProperty),
        ] {
            assert_eq!(decide(body.clone(), on), GroupDecision::Skip(rule), "{body}");
        }
    }
}
