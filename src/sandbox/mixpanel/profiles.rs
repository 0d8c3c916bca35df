//! User and group profiles with their operators (contract §5).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::super::switches::TypeMismatch;
use super::validate::{id_text, time_ms};
use crate::clock::UnixMillis;

/// The operators in the order in which one record's are applied, should it hold several.
const OPERATORS: [&str; 8] = ["$set", "$set_once", "$add", "$union", "$append", "$remove", "$unset", "$delete"];

/// When a profile changed, and what was there before.
type Change = (UnixMillis, Option<Map<String, Value>>);

/// A profile's properties by its id; for groups the id is `group_key:group_id`.
#[derive(Debug, Default)]
pub struct Profiles {
    by_id: BTreeMap<String, Map<String, Value>>,
    /// With a lag: what was there before each change that a query does not show yet, oldest first.
    before: BTreeMap<String, Vec<Change>>,
}

/// How one update is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub mismatch: TypeMismatch,
    /// `$add` and `$append` are not for groups.
    pub list_and_number_ops: bool,
    /// Groups have no `$last_seen`.
    pub keeps_last_seen: bool,
    /// How late a query shows a change.
    pub lag: Duration,
    pub now: UnixMillis,
}

/// The operator of a record, by the name it is counted under; `None` when it has none.
pub fn operator(record: &Map<String, Value>) -> Option<&'static str> {
    OPERATORS.into_iter().find(|operator| record.contains_key(*operator))
}

impl Profiles {
    pub fn get(&self, id: &str) -> Option<&Map<String, Value>> {
        self.by_id.get(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Map<String, Value>)> {
        self.by_id.iter()
    }

    /// Profiles as they were at `then`.
    pub fn as_of(&self, then: UnixMillis) -> BTreeMap<&String, &Map<String, Value>> {
        let mut shown: BTreeMap<_, _> = self.by_id.iter().collect();
        for (id, changes) in &self.before {
            match changes.iter().find(|(at, _)| *at > then) {
                Some((_, Some(before))) => drop(shown.insert(id, before)),
                Some((_, None)) => drop(shown.remove(id)),
                None => {}
            }
        }
        shown
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn remove(&mut self, id: &str) {
        self.by_id.remove(id);
    }

    pub fn put(&mut self, id: String, properties: Map<String, Value>) {
        self.by_id.insert(id, properties);
    }

    /// Applies all operators of `record`. `geo` are the keys that the caller's or the record's address gives.
    pub fn apply(&mut self, id: &str, record: &Map<String, Value>, geo: Map<String, Value>, rules: Rules) {
        if !rules.lag.is_zero() {
            let before = self.by_id.get(id).cloned();
            let changes = self.before.entry(id.to_owned()).or_default();
            changes.retain(|(at, _)| *at + rules.lag > rules.now);
            changes.push((rules.now, before));
        }
        for operator in OPERATORS {
            let Some(argument) = record.get(operator) else { continue };
            if operator == "$delete" {
                self.by_id.remove(id);
                continue;
            }
            if matches!(operator, "$add" | "$append") && !rules.list_and_number_ops {
                continue;
            }
            let creates = !matches!(operator, "$remove" | "$unset");
            if !creates && !self.by_id.contains_key(id) {
                continue;
            }
            apply_one(self.by_id.entry(id.to_owned()).or_default(), operator, argument, rules.mismatch);
        }
        if let Some(profile) = self.by_id.get_mut(id) {
            profile.extend(geo);
            if rules.keeps_last_seen && record.get("$ignore_time") != Some(&json!(true)) {
                profile.insert("$last_seen".into(), last_seen(record, rules.now).into());
            }
        }
    }
}

/// `$time` of the record, else now, in Mixpanel's zone-less form.
fn last_seen(record: &Map<String, Value>, now: UnixMillis) -> String {
    let ms = record.get("$time").and_then(time_ms).and_then(|ms| u64::try_from(ms).ok());
    let text = ms.map_or(now, UnixMillis).to_string();
    text.get(..19).unwrap_or(&text).to_owned()
}

fn apply_one(profile: &mut Map<String, Value>, operator: &str, argument: &Value, mismatch: TypeMismatch) {
    if operator == "$unset" {
        for name in argument.as_array().into_iter().flatten().filter_map(Value::as_str) {
            profile.remove(name);
        }
        return;
    }
    for (name, value) in argument.as_object().into_iter().flatten() {
        let held = profile.get(name);
        let next = match operator {
            "$set" => Some(value.clone()),
            "$set_once" => held.is_none().then(|| value.clone()),
            "$add" => add(held, value, mismatch),
            "$union" => union(held, value, mismatch),
            "$append" => append(held, value, mismatch),
            _ => remove(held, value),
        };
        if let Some(next) = next {
            profile.insert(name.clone(), next);
        }
    }
}

fn add(held: Option<&Value>, by: &Value, mismatch: TypeMismatch) -> Option<Value> {
    let number = match held {
        None => &json!(0),
        Some(held) if held.is_number() => held,
        Some(_) if mismatch == TypeMismatch::Overwrite => &json!(0),
        Some(_) => return None,
    };
    match (number.as_i64(), by.as_i64()) {
        (Some(a), Some(b)) if a.checked_add(b).is_some() => Some((a + b).into()),
        _ => Some((number.as_f64()? + by.as_f64()?).into()),
    }
}

/// The list held, an empty one where there is none, or `None` where something else stands and stays.
fn list_of(held: Option<&Value>, mismatch: TypeMismatch) -> Option<Vec<Value>> {
    match held {
        None => Some(Vec::new()),
        Some(Value::Array(items)) => Some(items.clone()),
        Some(_) if mismatch == TypeMismatch::Overwrite => Some(Vec::new()),
        Some(_) => None,
    }
}

fn union(held: Option<&Value>, value: &Value, mismatch: TypeMismatch) -> Option<Value> {
    let mut list = list_of(held, mismatch)?;
    let new = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
    for item in new {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
    Some(list.into())
}

fn append(held: Option<&Value>, value: &Value, mismatch: TypeMismatch) -> Option<Value> {
    let mut list = list_of(held, mismatch)?;
    list.push(value.clone());
    Some(list.into())
}

fn remove(held: Option<&Value>, value: &Value) -> Option<Value> {
    let mut list = held?.as_array()?.clone();
    list.retain(|item| item != value);
    Some(list.into())
}

/// The id of a group record: `group_key:group_id`.
pub fn group_id(record: &Map<String, Value>) -> Option<String> {
    let key = record.get("$group_key")?.as_str().filter(|key| !key.is_empty())?;
    let id = id_text(record.get("$group_id")).filter(|id| !id.is_empty())?;
    Some(format!("{key}:{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(updates: &[Value], mismatch: TypeMismatch) -> Value {
        let mut profiles = Profiles::default();
        let rules = Rules {
            mismatch,
            list_and_number_ops: true,
            keeps_last_seen: true,
            lag: Duration::ZERO,
            now: UnixMillis(0),
        };
        for update in updates {
            let mut record = update.as_object().expect("object").clone();
            record.insert("$ignore_time".into(), true.into());
            profiles.apply("u", &record, Map::new(), rules);
        }
        profiles.get("u").map_or(Value::Null, |profile| profile.clone().into())
    }

    #[test]
    fn every_operator() {
        let keep = TypeMismatch::Keep;
        let state = after(
            &[
                json!({ "$set": { "a": 1, "gone": 1 } }),
                json!({ "$set_once": { "a": 2, "b": "first" } }),
                json!({ "$add": { "a": -3, "n": 1.5 } }),
                json!({ "$append": { "list": "x" } }),
                json!({ "$append": { "list": "x" } }),
                json!({ "$union": { "list": ["x", "y"] } }),
                json!({ "$remove": { "list": "x", "absent": 1 } }),
                json!({ "$unset": ["gone", "never"] }),
            ],
            keep,
        );
        assert_eq!(state, json!({ "a": -2, "b": "first", "n": 1.5, "list": ["y"] }));
        assert_eq!(after(&[json!({ "$set": { "a": 1 } }), json!({ "$delete": "" })], keep), Value::Null);
        assert_eq!(after(&[json!({ "$unset": ["a"] })], keep), Value::Null, "unset creates no profile");
    }

    #[test]
    fn a_value_of_another_type_stays_or_goes_by_switch() {
        let updates = [json!({ "$set": { "a": "text" } }), json!({ "$add": { "a": 1 } })];
        assert_eq!(after(&updates, TypeMismatch::Keep), json!({ "a": "text" }));
        assert_eq!(after(&updates, TypeMismatch::Overwrite), json!({ "a": 1 }));
    }

    #[test]
    fn last_seen_follows_time_unless_told_not_to() {
        let mut profiles = Profiles::default();
        let rules = Rules {
            mismatch: TypeMismatch::Keep,
            list_and_number_ops: true,
            keeps_last_seen: true,
            lag: Duration::ZERO,
            now: UnixMillis(0),
        };
        let record = json!({ "$set": { "a": 1 }, "$time": 1_700_000_000 });
        profiles.apply("u", record.as_object().expect("object"), Map::new(), rules);
        assert_eq!(profiles.get("u").expect("there")["$last_seen"], "2023-11-14T22:13:20");
    }

    #[test]
    fn a_query_that_lags_shows_what_was_there_before() {
        let mut profiles = Profiles::default();
        for second in 1..4 {
            let rules = Rules {
                mismatch: TypeMismatch::Keep,
                list_and_number_ops: true,
                keeps_last_seen: false,
                lag: Duration::from_secs(10),
                now: UnixMillis(second * 1_000),
            };
            let record = json!({ "$add": { "n": 1 } });
            profiles.apply("u", record.as_object().expect("object"), Map::new(), rules);
        }
        let shown = |then| profiles.as_of(UnixMillis(then)).get(&"u".to_owned()).map(|profile| profile["n"].clone());
        assert_eq!([500, 1_500, 2_000, 9_000].map(shown), [None, Some(json!(1)), Some(json!(2)), Some(json!(3))]);
    }
}
