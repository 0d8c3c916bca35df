//! One value of a group's profile, and what was done to it while its base was unknown. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::mapping::GroupOp;

/// A value, or what is to be done with one that is not known yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slot {
    /// Null: known to be empty.
    Known(Value),
    /// In order; at most two changes of a list around one `$set_once`, however many records there were.
    Pending(Vec<Step>),
}

/// What an operator does to a base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    SetOnce(Value),
    /// First `removed` go, then `added` come where they are missing.
    List {
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        removed: Vec<Value>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        added: Vec<Value>,
        /// Something was added at some time: there is a list from then on, if an empty one.
        #[serde(default)]
        makes: bool,
    },
}

impl Slot {
    /// An attribute that no record has touched.
    pub fn untouched(empty: bool) -> Self {
        if empty { Slot::Known(Value::Null) } else { Slot::Pending(Vec::new()) }
    }

    pub fn known(&self) -> Option<&Value> {
        match self {
            Slot::Known(value) => Some(value),
            Slot::Pending(_) => None,
        }
    }

    pub fn apply(&mut self, op: GroupOp) {
        let step = match op {
            GroupOp::Set(_, value) => return *self = Slot::Known(value),
            GroupOp::Unset(_) | GroupOp::Delete => return *self = Slot::Known(Value::Null),
            GroupOp::SetOnce(_, value) => Step::SetOnce(value),
            GroupOp::Union(_, added) => {
                Step::List { makes: !added.is_empty(), removed: Vec::new(), added: distinct(added) }
            }
            GroupOp::Remove(_, member) => Step::List { removed: vec![member], added: Vec::new(), makes: false },
        };
        match self {
            Slot::Known(value) => *value = step.applied(std::mem::take(value)),
            Slot::Pending(steps) => remember(steps, step),
        }
    }

    /// Does what was remembered, now that the base is known.
    pub fn resolve(&mut self, base: &Value) {
        if let Slot::Pending(steps) = self {
            *self = Slot::Known(steps.drain(..).fold(base.clone(), |value, step| step.applied(value)));
        }
    }
}

/// Adds a step, in as few as say the same.
fn remember(steps: &mut Vec<Step>, step: Step) {
    let has_value = steps.iter().any(|step| matches!(step, Step::SetOnce(_)));
    match (steps.last_mut(), step) {
        (
            Some(Step::List { removed, added, makes }),
            Step::List { removed: more_removed, added: more_added, makes: makes_too },
        ) => {
            *makes |= makes_too;
            for member in more_removed {
                added.retain(|present| *present != member);
                push_missing(removed, member);
            }
            for member in more_added {
                push_missing(added, member);
            }
        }
        // There is a value from the first on, and a list that loses members stays one.
        (_, Step::SetOnce(_)) if has_value => {}
        (_, step) => steps.push(step),
    }
}

fn push_missing(list: &mut Vec<Value>, member: Value) {
    if !list.contains(&member) {
        list.push(member);
    }
}

fn distinct(members: Vec<Value>) -> Vec<Value> {
    let mut distinct = Vec::new();
    members.into_iter().for_each(|member| push_missing(&mut distinct, member));
    distinct
}

impl Step {
    /// What Mixpanel makes of `value` (Mixpanel contract §5). `$union` on a single value is unconfirmed there: here it
    /// becomes the first member; and `$remove` of it leaves an empty list.
    fn applied(self, value: Value) -> Value {
        let (removed, added, makes) = match self {
            Step::SetOnce(first) => return if value.is_null() { first } else { value },
            Step::List { removed, added, makes } => (removed, added, makes),
        };
        let mut list = match value {
            Value::Array(list) => list,
            Value::Null if !makes => return Value::Null,
            Value::Null => Vec::new(),
            single if !makes && !removed.contains(&single) => return single,
            single => vec![single],
        };
        list.retain(|member| !removed.contains(member));
        added.into_iter().for_each(|member| push_missing(&mut list, member));
        Value::Array(list)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn op() -> impl Strategy<Value = GroupOp> {
        let name = || "tags".to_owned();
        let member = || (0..4u8).prop_map(|n| json!(n));
        prop_oneof![
            member().prop_map(move |value| GroupOp::Set(name(), value)),
            prop::collection::vec(member(), 0..3).prop_map(move |list| GroupOp::Set(name(), json!(list))),
            member().prop_map(move |value| GroupOp::SetOnce(name(), value)),
            prop::collection::vec(member(), 0..3).prop_map(move |list| GroupOp::Union(name(), list)),
            member().prop_map(move |value| GroupOp::Remove(name(), value)),
            Just(GroupOp::Unset(name())),
        ]
    }

    fn base() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            Just(json!(2)),
            prop::collection::btree_set(0..4u8, 0..4).prop_map(|list| json!(list)),
        ]
    }

    proptest! {
        /// Whether the base was known from the start or only at the end makes no difference, and memory stays small.
        #[test]
        fn a_base_that_comes_late_gives_the_same_value(base in base(), ops in prop::collection::vec(op(), 0..12)) {
            let (mut early, mut late) = (Slot::Known(base.clone()), Slot::Pending(Vec::new()));
            for op in ops {
                early.apply(op.clone());
                late.apply(op);
                if let Slot::Pending(steps) = &late {
                    prop_assert!(steps.len() <= 3, "{steps:?}");
                }
            }
            late.resolve(&base);
            prop_assert_eq!(early, late);
        }
    }
}
