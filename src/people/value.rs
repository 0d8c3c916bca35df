//! What a profile operator makes of a known value (Mixpanel contract §5). Pure.
//!
//! Null stands for a property that the profile does not have. What an operator does to a value of a type that it is not
//! for is unconfirmed; here it does nothing, which is what the vendor documents for `$set_once` and `$remove`.

use serde_json::{Number, Value};

use crate::mapping::Change;

/// The most that a list may take up, as JSON or nearly: Mixpanel's own limit for a list on a profile (contract §5).
pub const MAX_LIST_BYTES: usize = 256 << 10;

/// The value after `change`; `None` where it stays as it is.
pub fn changed(held: &Value, change: &Change) -> Option<Value> {
    match change {
        Change::Set(value) => Some(value.clone()),
        Change::Unset => Some(Value::Null),
        Change::SetOnce(value) => held.is_null().then(|| value.clone()),
        Change::Add(by) => match held {
            Value::Null => Some(Value::Number(by.clone())),
            Value::Number(held) => sum(held, by).map(Value::Number),
            _ => None,
        },
        Change::Append(items) => grown(held, items, |_, _| true),
        Change::Union(items) => grown(held, items, |list, item| !list.contains(item)),
        Change::Remove(item) => {
            let list = held.as_array()?;
            let left: Vec<_> = list.iter().filter(|held| *held != item).cloned().collect();
            (left.len() < list.len()).then_some(Value::Array(left))
        }
    }
}

/// Whole numbers stay whole; `None` where the sum is no number.
fn sum(a: &Number, b: &Number) -> Option<Number> {
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64())
        && let Some(sum) = a.checked_add(b)
    {
        return Some(sum.into());
    }
    Number::from_f64(a.as_f64()? + b.as_f64()?)
}

fn grown(held: &Value, items: &[Value], wanted: fn(&[Value], &Value) -> bool) -> Option<Value> {
    let mut list = match held {
        Value::Null => Vec::new(),
        Value::Array(list) => list.clone(),
        _ => return None,
    };
    let (before, mut bytes) = (list.len(), size_of(&list));
    for item in items {
        bytes += size(item);
        if bytes > MAX_LIST_BYTES {
            break;
        }
        if wanted(&list, item) {
            list.push(item.clone());
        }
    }
    // An empty list is not the same as none: a union with nothing makes one.
    (list.len() > before || held.is_null()).then_some(Value::Array(list))
}

fn size_of(list: &[Value]) -> usize {
    list.iter().map(size).sum()
}

/// About what a value takes up as JSON.
pub fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 3,
        Value::Array(list) => 2 + size_of(list),
        Value::Object(members) => 2 + members.iter().map(|(key, value)| key.len() + 4 + size(value)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn after(held: Value, change: Change) -> Value {
        changed(&held, &change).unwrap_or(held)
    }

    fn number(value: impl Into<Number>) -> Number {
        value.into()
    }

    #[test]
    fn every_operator_on_nothing_on_its_own_type_and_on_another() {
        let list = |items: &[&str]| json!(items);
        let union = |items: &[&str]| Change::Union(items.iter().map(|item| json!(item)).collect());
        for (held, change, expected) in [
            (json!(null), Change::Set(json!("x")), json!("x")),
            (json!(["a"]), Change::Set(json!(1)), json!(1)),
            (json!("x"), Change::Unset, json!(null)),
            (json!(null), Change::SetOnce(json!("x")), json!("x")),
            (json!("a"), Change::SetOnce(json!("x")), json!("a")),
            (json!(null), Change::Add(number(-2)), json!(-2)),
            (json!(1_000), Change::Add(number(10)), json!(1_010)),
            (json!(1.5), Change::Add(number(1)), json!(2.5)),
            (json!(i64::MAX), Change::Add(number(1)), json!(9_223_372_036_854_775_807.0)),
            (json!("12"), Change::Add(number(1)), json!("12")),
            (json!(null), Change::Append(vec![json!("x")]), list(&["x"])),
            (list(&["x"]), Change::Append(vec![json!("x")]), list(&["x", "x"])),
            (json!("a"), Change::Append(vec![json!("x")]), json!("a")),
            (json!(null), union(&["x", "x"]), list(&["x"])),
            (json!(null), union(&[]), list(&[])),
            (list(&["x", "x"]), union(&["x", "y"]), list(&["x", "x", "y"])),
            (json!(7), union(&["x"]), json!(7)),
            (list(&["x", "y", "x"]), Change::Remove(json!("x")), list(&["y"])),
            (list(&["x"]), Change::Remove(json!("x")), list(&[])),
            (json!(null), Change::Remove(json!("x")), json!(null)),
            (json!("x"), Change::Remove(json!("x")), json!("x")),
        ] {
            assert_eq!(after(held.clone(), change.clone()), expected, "{held} {change:?}");
        }
    }

    #[test]
    fn a_sum_that_is_no_number_changes_nothing() {
        let huge = Number::from_f64(f64::MAX).unwrap();
        assert_eq!(changed(&json!(f64::MAX), &Change::Add(huge)), None);
    }

    #[test]
    fn what_changes_nothing_says_so() {
        let once = Change::SetOnce(json!("y"));
        assert_eq!(changed(&json!("x"), &once), None);
        assert_eq!(changed(&json!(["a"]), &Change::Union(vec![json!("a")])), None);
        assert_eq!(changed(&json!(["a"]), &Change::Remove(json!("b"))), None);
    }

    #[test]
    fn a_list_stops_growing_at_the_vendors_limit() {
        let item = json!("x".repeat(1_000));
        let full = after(json!(null), Change::Append(vec![item.clone(); 1_000]));
        let length = full.as_array().unwrap().len();
        assert!((200..=262).contains(&length), "{length}");
        assert_eq!(changed(&full, &Change::Append(vec![item])), None);
    }
}
