use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn rules(policy: Value) -> Rules {
    let names = |key: &str| -> Vec<String> { serde_json::from_value(policy[key].clone()).unwrap_or_default() };
    let policy = PropertyPolicy { drop: names("drop"), hash: names("hash"), only: names("only") };
    Rules::new(&policy, Some(&Secret::new("key"))).unwrap()
}

fn ruled(policy: Value, kind: Kind, body: &str) -> Option<String> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let out = rules(policy).outgoing(kind, &body).unwrap();
    out.map(|out| String::from_utf8(out.to_vec()).unwrap())
}

/// HMAC-SHA256 of "ada" under "key", by another implementation (Python's hmac).
const ADA: &str = "708a727d2475357eaacc4f88c80d7eec3218ce0cabcf2694f6fecd080545cc6f";
/// Of "42".
const FORTY_TWO: &str = "f2991b7ce981d0b5adc5e6a0f31acaeb407bfc21354bbcc31a0c43eaffa83d65";

#[test]
fn what_no_rule_touches_keeps_its_bytes() {
    let body =
        r#"{ "event" : "a", "properties":{"n":1.50, "big":12345678901234567890123,"card":"4111" , "s":"\u00e9"} }"#;
    assert_eq!(ruled(json!({"drop": ["other"]}), Kind::Event, body).as_deref(), Some(body));
    let expected = r#"{ "event" : "a", "properties":{"n":1.50, "big":12345678901234567890123, "s":"\u00e9"}}"#;
    assert_eq!(ruled(json!({"drop": ["card"]}), Kind::Event, body).as_deref(), Some(expected));
}

#[test]
fn hashes_are_of_the_values_string_form() {
    let body = r#"{"event":"e","properties":{"a":"ada","n":42,"t":"42","l":["ada",42,null],"z":null,"u":"\u0061da"}}"#;
    let out = ruled(json!({"hash": ["a", "n", "t", "l", "z", "u"]}), Kind::Event, body).unwrap();
    let out: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        out["properties"],
        json!({"a": ADA, "n": FORTY_TWO, "t": FORTY_TWO, "l": [ADA, FORTY_TWO, null], "z": null, "u": ADA})
    );
}

#[test]
fn only_keeps_what_the_vendor_needs() {
    let body = r#"{"event":"e","properties":{"token":"t","time":1,"distinct_id":"d","$insert_id":"i","$device_id":"x","$user_id":"u","ip":"1.2.3.4","plan":"p","card":1},"extra":"secret"}"#;
    let out: Value = serde_json::from_str(&ruled(json!({"only": ["plan"]}), Kind::Event, body).unwrap()).unwrap();
    let mut left: Vec<&str> = out["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    left.sort_unstable();
    assert_eq!(left, ["$device_id", "$insert_id", "$user_id", "distinct_id", "plan", "time", "token"]);
    assert_eq!(out["extra"], Value::Null);
    let named = ruled(json!({"drop": ["$device_id"], "hash": ["distinct_id"]}), Kind::Event, body).unwrap();
    assert!(!named.contains("$device_id") && !named.contains(r#""distinct_id":"d""#), "{named}");
}

#[test]
fn an_identity_event_keeps_what_it_links() {
    let body = r#"{"event":"$identify","properties":{"token":"t","$identified_id":"u","$anon_id":"a","city":"x"}}"#;
    let expected = r#"{"event":"$identify","properties":{"token":"t","$identified_id":"u","$anon_id":"a"}}"#;
    assert_eq!(ruled(json!({"only": ["plan"]}), Kind::Identity, body).as_deref(), Some(expected));
}

#[test]
fn operators_are_ruled_alike_on_people_and_groups() {
    let policy = json!({"drop": ["card"], "hash": ["name", "sum"]});
    for kind in [Kind::Profile, Kind::Group] {
        let body = r#"{"$token":"t","$distinct_id":"d","$set":{"card":1,"name":"ada"},"$union":{"name":["ada"],"card":[1]},"$append":{"card":2},"$add":{"sum":3,"n":1},"$unset":["card","name"],"$remove":{"name":"ada"}}"#;
        let out = ruled(policy.clone(), kind, body).unwrap();
        let expected = format!(
            r#"{{"$token":"t","$distinct_id":"d","$set":{{"name":"{ADA}"}},"$union":{{"name":["{ADA}"]}},"$add":{{"n":1}},"$unset":["name"],"$remove":{{"name":"{ADA}"}}}}"#
        );
        assert_eq!(out, expected, "{kind:?}");
    }
}

#[test]
fn an_update_of_which_nothing_is_left_is_told() {
    let policy = || json!({"drop": ["card"]});
    for body in [
        r#"{"$token":"t","$distinct_id":"d","$set":{"card":1}}"#,
        r#"{"$token":"t","$distinct_id":"d","$unset":["card"]}"#,
        r#"{"$token":"t","$distinct_id":"d","$unset":"card"}"#,
        r#"{"$token":"t","$distinct_id":"d","$set":"card"}"#,
    ] {
        assert_eq!(ruled(policy(), Kind::Profile, body), None, "{body}");
    }
    for body in [
        r#"{"$token":"t","$distinct_id":"d","$delete":""}"#,
        r#"{"$token":"t","$distinct_id":"d","$set":{}}"#,
        r#"{"$token":"t","$distinct_id":"d"}"#,
    ] {
        assert_eq!(ruled(policy(), Kind::Profile, body).as_deref(), Some(body));
    }
}

#[test]
fn an_address_at_the_top_of_a_profile_update_is_a_property_too() {
    let body = r#"{"$token":"t","$distinct_id":"d","$ip":"1.2.3.4","$set":{"plan":1}}"#;
    let out = ruled(json!({"only": ["plan"]}), Kind::Profile, body).unwrap();
    assert_eq!(out, r#"{"$token":"t","$distinct_id":"d","$set":{"plan":1}}"#);
    assert!(ruled(json!({"hash": ["$distinct_id"]}), Kind::Profile, body).unwrap().contains("1.2.3.4"));
}

#[test]
fn a_key_in_escapes_or_given_twice_is_not_missed() {
    let body = r#"{"event":"e","properties":{"c\u0061rd":"4111","card":"4112","x":{"card":"inside"}}}"#;
    let out = ruled(json!({"drop": ["card"]}), Kind::Event, body).unwrap();
    assert_eq!(out, r#"{"event":"e","properties":{"x":{"card":"inside"}}}"#);
}

#[test]
fn what_cannot_be_read_does_not_leave() {
    let rules = rules(json!({"drop": ["card"]}));
    for body in ["[]", "not json", r#"{"event":"e","properties":[{"card":1}]}"#] {
        assert!(rules.outgoing(Kind::Event, &Bytes::copy_from_slice(body.as_bytes())).is_err(), "{body}");
    }
}

#[test]
fn a_hashed_id_is_known_by_its_hash() {
    assert_eq!(rules(json!({"hash": ["distinct_id"]})).pseudonym("ada").as_deref(), Some(ADA));
    assert_eq!(rules(json!({"hash": ["$email"]})).pseudonym("ada"), None);
}

proptest! {
    /// Against a plain rebuild of the parsed object.
    #[test]
    fn dropping_is_what_dropping_from_the_parsed_value_is(
        properties in proptest::collection::btree_map("[a-d]", any::<i32>(), 0..4),
        pretty in any::<bool>(),
    ) {
        let value = json!({"event": "e", "properties": properties});
        let body = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
        let out = ruled(json!({"drop": ["a", "c"]}), Kind::Event, &body).unwrap();
        let mut expected = value;
        for name in ["a", "c"] {
            expected["properties"].as_object_mut().unwrap().remove(name);
        }
        prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
    }
}
