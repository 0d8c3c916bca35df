//! The strict rules, one case a rule, in the vendor's words.

use serde_json::{Value, json};

use super::*;
use crate::mixpanel::wire::{Element, Scanner};

const NOW: UnixMillis = UnixMillis(1_750_000_000_000);

fn judge(value: &Value, rules: Rules, identity: IdentityMode) -> Result<Accepted, Problem> {
    let text = value.to_string();
    let Element::Object(parsed) = Scanner::whole(&text).unwrap() else { panic!() };
    let tokens = Tokens::new(vec!["tok".to_owned()], Vec::new());
    event(&parsed, text.len(), rules, &tokens, Some(Project::Ours), identity, NOW)
}

/// A good event with one property changed; `null` takes it out.
fn with(key: &str, value: Value) -> Value {
    let mut event = json!({"event":"a","properties":{"time":1_740_000_000,"distinct_id":"u","$insert_id":"i-1"}});
    match value {
        Value::Null => drop(event["properties"].as_object_mut().unwrap().remove(key)),
        value => event["properties"][key] = value,
    }
    event
}

#[test]
fn strict_import_refuses_what_the_vendor_refuses() {
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }));
    let mut many = with("token", json!("tok"));
    for n in 0..252 {
        many["properties"][format!("p{n}")] = json!(n);
    }
    let cases = [
        (json!({"event":" ","properties":{"a":1}}), Problem::EventMissing),
        (json!({"event":7,"properties":{"a":1}}), Problem::EventMissing),
        (json!({"properties":{"a":1}}), Problem::EventMissing),
        (json!({"event":"a"}), Problem::PropertiesMissing),
        (json!({"event":"a","properties":[]}), Problem::PropertiesMissing),
        (json!({"event":"a","properties":{}}), Problem::PropertiesMissing),
        (with("token", json!("another")), Problem::TokenUnknown),
        (with("token", json!(5)), Problem::TokenUnknown),
        (with("time", Value::Null), Problem::TimeMissing),
        (with("time", json!("yesterday")), Problem::TimeNotEpoch),
        (with("time", json!(31_535_999)), Problem::TimeNotEpoch),
        (with("time", json!(-1)), Problem::TimeNotEpoch),
        (with("time", json!(NOW.0 + 3_600_001)), Problem::TimeInFuture),
        (with("time", json!(4_102_444_800_u64)), Problem::TimeInFuture),
        (with("distinct_id", json!("Undefined")), Problem::DistinctIdBlocked),
        (with("distinct_id", json!(0)), Problem::DistinctIdBlocked),
        (with("$insert_id", Value::Null), Problem::InsertIdMissing),
        (with("$insert_id", json!("null")), Problem::InsertIdBlocked),
        (with("$insert_id", json!("a_b")), Problem::InsertIdBadCharacters),
        (with("$insert_id", json!("a".repeat(37))), Problem::InsertIdTooLong),
        (with("x", nested(4)), Problem::NestsTooDeep),
        (with("x", nested(40)), Problem::TooDeep),
        (many, Problem::TooManyProperties),
    ];
    for (event, problem) in cases {
        assert_eq!(judge(&event, Rules::ImportStrict, IdentityMode::Simplified), Err(problem), "{event}");
    }
    for good in [
        with("time", json!(NOW.0)),
        with("time", json!(NOW.0 / 1000 + 3599)),
        with("time", json!(1_740_000_000.5)),
        with("distinct_id", json!("")),
        with("$insert_id", json!("a".repeat(36))),
        with("x", nested(3)),
    ] {
        assert!(judge(&good, Rules::ImportStrict, IdentityMode::Simplified).is_ok(), "{good}");
    }
}

#[test]
fn only_original_projects_insist_on_a_distinct_id() {
    let event = with("distinct_id", Value::Null);
    let strict = |identity| judge(&event, Rules::ImportStrict, identity);
    assert_eq!(strict(IdentityMode::Original), Err(Problem::DistinctIdMissing));
    assert!(strict(IdentityMode::Simplified).is_ok());
}

#[test]
fn track_and_lenient_import_repair_what_strict_refuses() {
    for rules in [Rules::Track, Rules::ImportLenient] {
        let repair = |event: &Value| judge(event, rules, IdentityMode::Original).unwrap().repair;
        assert!(repair(&with("time", Value::Null)).time);
        assert!(repair(&with("time", json!(4_102_444_800_u64))).time);
        assert!(!repair(&with("time", json!("yesterday"))).time);
        assert!(repair(&with("distinct_id", Value::Null)).distinct_id);
        assert!(repair(&with("token", Value::Null)).token);
        assert_eq!(repair(&with("$insert_id", json!("null"))).insert_id, InsertId::Absent);
        let unusable = InsertId::Unusable(Problem::InsertIdBadCharacters);
        assert_eq!(repair(&with("$insert_id", json!("evt_abc123"))).insert_id, unusable);
    }
}

#[test]
fn the_words_are_the_vendors() {
    // Contract §3, "Seen validation messages", and §4, "Seen reasons".
    assert_eq!(Problem::TimeMissing.strict(), ("properties.time", "'properties.time' is invalid: must not be missing"));
    assert_eq!(Problem::EventMissing.strict(), ("event", "'event' must not be missing or blank"));
    assert_eq!(
        Problem::InsertIdBadCharacters.strict().1,
        "'$insert_id' is invalid: must only contain alphanumeric or hyphen '-' characters"
    );
    assert_eq!(Problem::TokenMissing.reason(), "token, missing or empty");
    assert_eq!(Problem::ProfileDistinctIdMissing.reason(), "$distinct_id, missing or empty");
}
