use proptest::prelude::*;
use serde_json::json;

use super::*;

fn sent(properties: &str) -> (Value, Vec<(String, DropReason)>) {
    let fields: Fields<'_> = serde_json::from_str(properties).unwrap();
    let EventProperties { json, dropped } = event_properties(&fields, &Shape::default());
    let json = json.map_or(Value::Null, |json| serde_json::from_str(json.get()).unwrap());
    (json, dropped.into_iter().map(|d| (d.property, d.reason)).collect())
}

#[test]
fn only_the_apps_own_properties_are_sent() {
    let (json, dropped) = sent(
        r#"{"token":"t","distinct_id":"u","time":1,"ip":"1.2.3.4","$os":"iOS","$insert_id":"i","mp_lib":"web","plan":"pro","email":"a@b.c"}"#,
    );
    assert_eq!(json, json!({"plan": "pro", "email": "a@b.c"}));
    assert!(dropped.is_empty());
}

#[test]
fn nothing_to_send_is_no_object() {
    assert_eq!(sent(r#"{"token":"t","gone":null}"#).0, Value::Null);
}

#[test]
fn nulls_vanish_and_keys_become_valid_at_every_depth() {
    let (json, _) = sent(r#"{"cart items":[{"unit price":1.5,"note":null},null,"x"],"a":{"b.c":{"d e":true}}}"#);
    assert_eq!(json, json!({"cart_items": [{"unit_price": 1.5}, "x"], "a": {"b_c": {"d_e": true}}}));
}

#[test]
fn of_two_equal_names_the_last_counts() {
    assert_eq!(sent(r#"{"a":1,"a":2}"#).0, json!({"a": 2}));
}

#[test]
fn keys_that_meet_keep_apart() {
    let (json, _) = sent(r#"{"a.b":3,"a b":2,"a_b":1,"c d":4,"c.d":5}"#);
    let object = json.as_object().unwrap();
    assert_eq!(object["a_b"], 1, "the key that needed no change keeps its name");
    assert_eq!(object["c_d"], 4, "else the first in byte order gets it");
    assert_eq!(object.len(), 5);
    let again = sent(r#"{"c.d":5,"c d":4,"a_b":1,"a b":2,"a.b":3}"#).0;
    assert_eq!(json, again, "whatever the order of the record");
    // A loser's name depends on itself alone.
    let key =
        |json: &Value, value: i64| json.as_object().unwrap().iter().find(|(_, v)| **v == value).unwrap().0.clone();
    assert_eq!(key(&json, 3), key(&sent(r#"{"a_b":1,"a.b":3}"#).0, 3));
}

#[test]
fn unreadable_values_cost_only_themselves() {
    let (json, dropped) =
        sent(r#"{"big":1e999,"half":"\ud800","deep":{"half":"\ud800"},"whole":"\ud83d\ude00","n":1e5}"#);
    assert_eq!(json, json!({"whole": "😀", "n": 1e5}));
    let names: Vec<_> = dropped.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["big", "deep", "half"]);
    assert!(dropped.iter().all(|(_, reason)| *reason == DropReason::Unreadable));
}

#[test]
fn the_largest_properties_go_first() {
    let properties = json!({"small": "x", "large": "y".repeat(30_000), "larger": "z".repeat(40_000)}).to_string();
    let (json, dropped) = sent(&properties);
    assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), ["large", "small"]);
    assert_eq!(dropped, [("larger".to_owned(), DropReason::TooLarge)]);
}

#[test]
fn numbers_travel_digit_for_digit() {
    let fields: Fields<'_> = serde_json::from_str(r#"{"price":9.50,"id":12345678901234567890123}"#).unwrap();
    let json = event_properties(&fields, &Shape::default()).json.unwrap();
    assert_eq!(json.get(), r#"{"id":12345678901234567890123,"price":9.50}"#);
}

proptest! {
    #[test]
    fn properties_are_valid_complete_and_inside_the_limit(
        lengths in prop::collection::btree_map("[a-c .é]{0,3}", 0usize..9000, 0..14),
    ) {
        let members: BTreeMap<_, _> = lengths.into_iter().map(|(key, length)| (key, "x".repeat(length))).collect();
        let text = serde_json::to_string(&members).unwrap();
        let fields: Fields<'_> = serde_json::from_str(&text).unwrap();
        let found = event_properties(&fields, &Shape::default());
        let kept = match &found.json {
            Some(json) => {
                prop_assert!(json.get().len() <= MAX_EVENT_PROPERTIES_BYTES);
                serde_json::from_str::<BTreeMap<String, Value>>(json.get()).unwrap()
            }
            None => BTreeMap::new(),
        };
        prop_assert_eq!(kept.len() + found.dropped.len(), members.len());
        let valid = |key: &String| !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
        prop_assert!(kept.keys().all(valid));
    }
}

#[test]
fn chosen_names_come_before_those_that_happen_to_be_alike() {
    let rule = crate::config::EventRule {
        name: "e".to_owned(),
        rename: [("amount".to_owned(), "value".to_owned())].into(),
        constants: [("source".to_owned(), json!("app"))].into(),
        ..crate::config::EventRule::default()
    };
    let shape = crate::mapping::rule::EventRule::compile(&rule, std::time::Duration::ZERO).shape;
    let fields: Fields<'_> =
        serde_json::from_str(r#"{"value":1,"amount":2,"source":"ad","va lue":3,"amount":4}"#).unwrap();
    let json = event_properties(&fields, &shape).json.unwrap();
    let json: serde_json::Map<String, Value> = serde_json::from_str(json.get()).unwrap();
    assert_eq!((&json["value"], &json["source"], &json["va_lue"]), (&json!(4), &json!("app"), &json!(3)));
    let other = json.iter().find(|(_, value)| **value == 1).unwrap().0;
    assert!(other.starts_with("value_"), "nothing is lost: {json:?}");
    assert_eq!(json.len(), 4);
}
