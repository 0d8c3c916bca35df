//! Which groups a record says that its person belongs to: a property that is a mapped group key, a single value or a list
//! of them (Mixpanel contract §5). Pure.

use serde_json::Value;
use serde_json::value::RawValue;

use super::compiled::CompiledMapping;
use super::event::EventView;
use super::fields::Fields;
use super::profile::{Operator, ProfileView};

/// What a record says of its person and groups of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Belonging {
    Joins {
        key: String,
        ids: Vec<String>,
    },
    Leaves {
        key: String,
        ids: Vec<String>,
    },
    /// In these and in no others of the key.
    Only {
        key: String,
        ids: Vec<String>,
    },
}

/// An event shows its person at work for a group; it says nothing of others.
pub fn of_event(view: &EventView<'_>, mapping: &CompiledMapping) -> Vec<Belonging> {
    of_fields(&view.properties, mapping, |key, ids| Belonging::Joins { key, ids })
}

/// A profile's own list of groups.
pub fn of_profile(view: &ProfileView<'_>, mapping: &CompiledMapping) -> Vec<Belonging> {
    let of_operator = |operator: &Operator<'_>| match operator {
        Operator::Set(fields) => of_fields(fields, mapping, |key, ids| Belonging::Only { key, ids }),
        Operator::SetOnce(fields) | Operator::Append(fields) | Operator::Union(fields) => {
            of_fields(fields, mapping, |key, ids| Belonging::Joins { key, ids })
        }
        Operator::Remove(fields) => of_fields(fields, mapping, |key, ids| Belonging::Leaves { key, ids }),
        Operator::Unset(names) => names
            .iter()
            .filter(|name| mapping.group(name).is_some())
            .map(|name| Belonging::Only { key: name.to_string(), ids: Vec::new() })
            .collect(),
        Operator::Add(_) | Operator::Delete => Vec::new(),
    };
    view.operators.iter().flat_map(of_operator).collect()
}

fn of_fields(
    fields: &Fields<'_>,
    mapping: &CompiledMapping,
    belonging: impl Fn(String, Vec<String>) -> Belonging,
) -> Vec<Belonging> {
    if !mapping.links_groups() {
        return Vec::new();
    }
    let mapped = fields.iter().filter(|(name, _)| mapping.group(name).is_some());
    mapped.map(|(name, value)| belonging(name.to_string(), ids(value))).collect()
}

fn ids(raw: &RawValue) -> Vec<String> {
    let id = |value: &Value| match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    match serde_json::from_str::<Value>(raw.get()) {
        Ok(Value::Array(members)) => members.iter().filter_map(id).collect(),
        Ok(value) => id(&value).into_iter().collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{GroupMapping, Mapping, Sync};

    fn mapping(groups: bool) -> CompiledMapping {
        let target = GroupMapping { name: "$name".to_owned(), properties: [].into() };
        let mapping = Mapping { groups: [("company_id".to_owned(), target)].into(), ..Mapping::default() };
        CompiledMapping::compile(&mapping, Sync { groups, ..Sync::default() }).unwrap()
    }

    fn profile(operator: &str, operand: Value) -> Vec<Belonging> {
        let body = json!({"$distinct_id": "u", operator: operand}).to_string();
        of_profile(&ProfileView::parse(body.as_bytes()).unwrap(), &mapping(true))
    }

    #[test]
    fn profiles_say_which_groups_their_person_is_in() {
        let (key, ids) = (|| "company_id".to_owned(), |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect());
        for (operator, operand, belonging) in [
            ("$set", json!({"company_id": "a", "x": 1}), Belonging::Only { key: key(), ids: ids(&["a"]) }),
            ("$set", json!({"company_id": ["a", 7, null]}), Belonging::Only { key: key(), ids: ids(&["a", "7"]) }),
            ("$set", json!({"company_id": null}), Belonging::Only { key: key(), ids: ids(&[]) }),
            ("$set_once", json!({"company_id": "a"}), Belonging::Joins { key: key(), ids: ids(&["a"]) }),
            ("$union", json!({"company_id": ["a"]}), Belonging::Joins { key: key(), ids: ids(&["a"]) }),
            ("$append", json!({"company_id": "a"}), Belonging::Joins { key: key(), ids: ids(&["a"]) }),
            ("$remove", json!({"company_id": "a"}), Belonging::Leaves { key: key(), ids: ids(&["a"]) }),
            ("$unset", json!(["company_id", "x"]), Belonging::Only { key: key(), ids: ids(&[]) }),
        ] {
            assert_eq!(profile(operator, operand), [belonging], "{operator}");
        }
        assert_eq!(profile("$set", json!({"plan": "x"})), []);
        assert_eq!(profile("$delete", json!("")), []);
    }

    #[test]
    fn events_only_add() {
        let body = json!({"event": "e", "properties": {"distinct_id": "u", "company_id": ["a", "b"]}}).to_string();
        let view = EventView::parse(body.as_bytes()).unwrap();
        let ids = ["a", "b"].map(str::to_owned).to_vec();
        assert_eq!(of_event(&view, &mapping(true)), [Belonging::Joins { key: "company_id".to_owned(), ids }]);
        assert_eq!(of_event(&view, &mapping(false)), []);
    }
}
