//! One event's rule, ready for use: whether it applies, and what becomes of the properties.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;

use super::fields::Fields;
use crate::brevo::identifiers::{ListId, Membership};
use crate::brevo::names::EventName;
use crate::config::{self, Condition};

/// What becomes of the events of one name.
#[derive(Clone, Debug)]
pub struct EventRule {
    pub name: EventName,
    when: BTreeMap<String, Vec<Condition>>,
    pub shape: Shape,
    pub stale_after: Duration,
    pub lists: BTreeMap<ListId, Membership>,
}

/// Which properties Brevo gets, and under which names.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// `None`: all of the app's own.
    pick: Option<BTreeSet<String>>,
    /// Mixpanel's name → Brevo's, which is a legal one.
    rename: BTreeMap<String, String>,
    /// Brevo's name → JSON.
    pub constants: BTreeMap<String, String>,
}

impl EventRule {
    pub fn compile(rule: &config::EventRule, stale_after: Duration) -> Self {
        Self {
            name: EventName::sanitised(&rule.name),
            when: rule.when.clone(),
            shape: Shape {
                pick: rule.pick.as_ref().map(|names| names.iter().cloned().collect()),
                rename: rule.rename.clone(),
                constants: rule.constants.iter().map(|(name, value)| (name.clone(), value.to_string())).collect(),
            },
            stale_after: rule.stale_after.unwrap_or(stale_after),
            lists: rule.lists.iter().map(|(list, membership)| (ListId(*list), *membership)).collect(),
        }
    }

    /// The event as it stands, under `name`.
    pub fn plain(name: EventName, stale_after: Duration) -> Self {
        Self { name, when: BTreeMap::new(), shape: Shape::default(), stale_after, lists: BTreeMap::new() }
    }

    /// Whether every condition holds.
    pub fn applies_to(&self, properties: &Fields<'_>) -> bool {
        self.when.iter().all(|(property, conditions)| {
            let value = properties.get(property).map(read).unwrap_or_default();
            conditions.iter().all(|condition| holds(condition, &value))
        })
    }
}

/// What cannot be read is as good as absent.
fn read(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).unwrap_or_default()
}

fn holds(condition: &Condition, value: &Value) -> bool {
    let beside =
        |compare: fn(&f64, &f64) -> bool, limit: &f64| number(value).is_some_and(|number| compare(&number, limit));
    match condition {
        Condition::Is(wanted) => wanted.iter().any(|wanted| is(value, wanted)),
        Condition::IsNot(unwanted) => !unwanted.iter().any(|unwanted| is(value, unwanted)),
        Condition::Above(limit) => beside(f64::gt, limit),
        Condition::AtLeast(limit) => beside(f64::ge, limit),
        Condition::Below(limit) => beside(f64::lt, limit),
        Condition::AtMost(limit) => beside(f64::le, limit),
        Condition::Exists(there) => value.is_null() != *there,
    }
}

/// Numbers are compared as numbers (9.0 is 9); a list is whatever is in it.
pub(super) fn is(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Array(items), _) => items.iter().any(|item| is(item, wanted)),
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

/// A number, or a text that is one: many apps send amounts as text.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
        _ => None,
    }
}

impl Shape {
    /// Whether Brevo gets `property`; `own`: it is one of the app's own.
    pub fn takes(&self, property: &str, own: bool) -> bool {
        let picked = self.pick.as_ref().map_or(own, |pick| pick.contains(property));
        picked || self.rename.contains_key(property)
    }

    /// The name that was chosen for `property`.
    pub fn renamed(&self, property: &str) -> Option<&str> {
        self.rename.get(property).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_hold_as_they_read() {
        let is = |value: Value| Condition::Is(vec![value]);
        for (condition, value, expected) in [
            (is(json!("pro")), json!("pro"), true),
            (is(json!("pro")), json!("Pro"), false),
            (is(json!(9)), json!(9.0), true),
            (is(json!(9)), json!("9"), false),
            (is(json!(true)), json!(true), true),
            (is(json!("a")), json!(["b", "a"]), true),
            (is(json!("a")), Value::Null, false),
            (Condition::IsNot(vec![json!("a"), json!("b")]), json!("b"), false),
            (Condition::IsNot(vec![json!("a")]), Value::Null, true),
            (Condition::Above(10.0), json!(10), false),
            (Condition::Above(10.0), json!("10.5"), true),
            (Condition::AtLeast(10.0), json!(10), true),
            (Condition::Below(0.0), json!(-1), true),
            (Condition::AtMost(3.0), json!(3), true),
            (Condition::AtMost(3.0), Value::Null, false),
            (Condition::AtMost(3.0), json!("few"), false),
            (Condition::Exists(true), json!(0), true),
            (Condition::Exists(true), Value::Null, false),
            (Condition::Exists(false), Value::Null, true),
        ] {
            assert_eq!(holds(&condition, &value), expected, "{condition:?} of {value}");
        }
    }
}
