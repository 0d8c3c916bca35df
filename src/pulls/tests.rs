use serde_json::{Map, Value, json};

use super::*;
use crate::config::{Consent, Mapping, Sync};
use crate::mapping::CompiledMapping;

fn mapping() -> CompiledMapping {
    let properties = [("$email", "email"), ("$phone", "SMS"), ("plan", "PLAN_TYPE"), ("$city", "CITY")];
    let mapping = Mapping {
        properties: properties.map(|(property, name)| (property.to_owned(), name.to_owned())).into(),
        ..Mapping::default()
    };
    let consent = Consent::Required { property: "ok".to_owned(), value: json!(true) };
    CompiledMapping::compile(&mapping, Sync::default()).unwrap().with_consent(&consent)
}

fn wanted() -> Wanted {
    Wanted::new(&mapping(), crate::delivery::brevo_leg::unchanged_at_mixpanel(&mapping(), None))
}

fn profile(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn mapped_properties_are_asked_for_those_that_mixpanel_computes_included() {
    assert_eq!(wanted().asked(), ["$city", "$email", "$phone", "ok", "plan", "$last_seen"]);
}

#[test]
fn a_filter_leaves_people_with_an_address_who_were_seen() {
    let addresses = r#"(defined(properties["$email"]) or defined(properties["$phone"]))"#;
    assert_eq!(wanted().filter(None, None), addresses);
    assert_eq!(
        wanted().filter(Some("a"), Some("b")),
        format!(
            r#"(properties["$last_seen"] >= datetime("a") or properties["$last_seen"] >= "a") and (properties["$last_seen"] < datetime("b") or properties["$last_seen"] < "b") and {addresses}"#
        )
    );
}

#[test]
fn a_profile_becomes_a_record_of_what_is_mapped_and_what_is_absent() {
    let wanted = wanted();
    let found = profile(json!({"$email": "a@x.io", "plan": null, "$last_seen": "2026-11-24T10:00:00", "more": 1}));
    let draft = wanted.draft("ada", &found).unwrap();
    let body: Value = serde_json::from_slice(&draft.body).unwrap();
    assert_eq!(
        body,
        json!({"$distinct_id": "ada", "$set": {"$email": "a@x.io"}, "$unset": ["$city", "$phone", "ok", "plan"]})
    );
    assert!(wanted.has_address(&found) && !wanted.has_address(&profile(json!({"$phone": null}))));
    for nobody in ["", " ", "null", "undefined"] {
        assert!(wanted.draft(nobody, &found).is_none(), "{nobody:?}");
    }
}
