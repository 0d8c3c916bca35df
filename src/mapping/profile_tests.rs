use serde_json::json;

use super::super::compiled::tests::published;
use super::*;
use crate::brevo::names::AttributeName;
use crate::config::UnmappedEvents;

fn decide(body: &Value) -> ProfileDecision {
    let body = body.to_string();
    map_profile(&ProfileView::parse(body.as_bytes()).unwrap(), &published(UnmappedEvents::Skip))
}

fn change(body: &Value) -> ProfileChange {
    match decide(body) {
        ProfileDecision::Change(change) => change,
        ProfileDecision::Skip(rule) => panic!("{body} was skipped, {}", rule.label()),
    }
}

fn name(raw: &str) -> AttributeName {
    AttributeName::parse(raw).unwrap()
}

#[test]
fn an_update_is_read_with_every_operator() {
    let body = br#"{"$token":"t","$distinct_id":"u","$time":1700000000,"$ip":"0","$set":{"a":1},"$set_once":{"a":1},
        "$add":{"a":1},"$append":{"a":1},"$union":{"a":[1]},"$remove":{"a":1},"$unset":["a","b"],"$delete":""}"#;
    let view = ProfileView::parse(body).unwrap();
    assert_eq!(view.distinct_id.as_deref(), Some("u"));
    assert_eq!(view.time, Some(UnixMillis(1_700_000_000_000)));
    assert!(matches!(
        view.operators.as_slice(),
        [
            Operator::Set(_),
            Operator::SetOnce(_),
            Operator::Add(_),
            Operator::Append(_),
            Operator::Union(_),
            Operator::Remove(_),
            Operator::Unset(names),
            Operator::Delete
        ] if *names == ["a", "b"]
    ));
}

#[test]
fn a_group_update_is_read() {
    let body = br#"{"$token":"t","$group_key":"company_id","$group_id":7,"$set":{"$name":"ACME"}}"#;
    let view = GroupView::parse(body).unwrap();
    assert_eq!(view.group_key.as_deref(), Some("company_id"));
    assert_eq!(view.group_id.as_deref(), Some("7"));
    assert_eq!(view.operators.len(), 1);
}

fn attribute(raw: &str, change: Change) -> Operation {
    Operation::Attribute(name(raw), change)
}

fn email(raw: &str, once: bool) -> Operation {
    Operation::Email(Assignment { value: Email::parse(raw).unwrap(), once })
}

#[test]
fn set_gives_identifiers_and_attributes() {
    let change = change(&json!({"$distinct_id": "u", "$set": {
        "$email": " Ada@Example.COM", "$phone": "+33 6 12 34 56 78", "other": 1, "plan": "pro", "total_revenue": 12.5,
    }}));
    let phone = Assignment { value: Phone::parse("+33612345678").unwrap(), once: false };
    assert_eq!(
        change.operations,
        [
            email("ada@example.com", false),
            Operation::Phone(phone),
            attribute("PLAN_TYPE", Change::Set(json!("pro"))),
            attribute("LTV", Change::Set(json!(12.5))),
        ]
    );
    assert!(!change.deletes() && change.unplaced.is_empty());
}

#[test]
fn null_and_unset_empty_attributes_but_no_identifier() {
    let emptied = [attribute("PLAN_TYPE", Change::Unset)];
    let found = change(&json!({"$set": {"plan": null, "$email": null}}));
    assert_eq!(found.operations, emptied);
    assert_eq!(change(&json!({"$unset": ["plan", "$email", "other"]})).operations, emptied);
    assert_eq!(change(&json!({"$unset": "plan"})).operations, emptied);
    for operator in ["$set_once", "$union"] {
        assert!(change(&json!({operator: {"plan": null}})).is_empty(), "{operator}");
    }
}

#[test]
fn operators_of_one_record_stay_in_the_order_of_the_text() {
    let body = br#"{"$add":{"total_revenue":5},"$unset":["plan"],"$set":{"plan":"a","plan":"b"},"$delete":"",
        "$set_once":{"plan":"c","$email":"a@example.com"}}"#;
    let view = ProfileView::parse(body).unwrap();
    let ProfileDecision::Change(change) = map_profile(&view, &published(UnmappedEvents::Skip)) else {
        panic!("skipped")
    };
    let [start @ .., Operation::Delete { values: gone, identifiers: false }, once, address] =
        change.operations.as_slice()
    else {
        panic!("{:?}", change.operations)
    };
    assert_eq!(
        start,
        [
            attribute("LTV", Change::Add(5.into())),
            attribute("PLAN_TYPE", Change::Unset),
            attribute("PLAN_TYPE", Change::Set(json!("a"))),
            attribute("PLAN_TYPE", Change::Set(json!("b"))),
        ]
    );
    assert_eq!(gone.len(), 3);
    assert_eq!(*once, attribute("PLAN_TYPE", Change::SetOnce(json!("c"))));
    assert_eq!(*address, email("a@example.com", true));
}

#[test]
fn operators_are_read_only_where_they_touch_a_mapped_property() {
    let items = || vec![json!(1)];
    for (operator, read) in [
        ("$set_once", Change::SetOnce(json!(1))),
        ("$add", Change::Add(1.into())),
        ("$append", Change::Append(items())),
        ("$union", Change::Union(items())),
        ("$remove", Change::Remove(json!(1))),
    ] {
        assert_eq!(change(&json!({operator: {"total_revenue": 1}})).operations, [attribute("LTV", read)], "{operator}");
        assert_eq!(
            decide(&json!({operator: {"other": 1}})),
            ProfileDecision::Skip(SkipRule::NoMappedProperty),
            "{operator}"
        );
    }
    assert_eq!(
        change(&json!({"$union": {"plan": ["a", "b"]}})).operations,
        [attribute("PLAN_TYPE", Change::Union(vec![json!("a"), json!("b")]))]
    );
}

#[test]
fn an_operand_that_mixpanel_does_nothing_with_is_left_out() {
    for body in [json!({"$add": {"total_revenue": "5"}}), json!({"$append": {"$email": "a@example.com"}})] {
        assert!(change(&body).is_empty(), "{body}");
    }
}

#[test]
fn an_update_without_a_mapped_property_is_skipped() {
    for body in [
        json!({"$set": {"other": 1}}),
        json!({"$unset": ["other"]}),
        json!({"$set": "not an object"}),
        json!({"$set": {}}),
        json!({}),
    ] {
        assert_eq!(decide(&body), ProfileDecision::Skip(SkipRule::NoMappedProperty), "{body}");
    }
}

#[test]
fn identifiers_that_cannot_be_placed_are_reported() {
    let change = change(&json!({"$set": {"$email": "n/a", "$phone": 33612345678u64}}));
    assert!(change.is_empty());
    let mut unplaced = change.unplaced;
    unplaced.sort();
    let owned = |property: &str, reason, sample: &str| UnplacedIdentifier {
        property: property.to_owned(),
        reason,
        sample: sample.to_owned(),
    };
    assert_eq!(
        unplaced,
        [owned("$email", Unplaced::NotAnEmail, "x/x"), owned("$phone", Unplaced::NoCountryCode, "99999999999"),]
    );
}

#[test]
fn delete_is_passed_on() {
    for operand in [json!(""), json!("null"), json!(null)] {
        let change = change(&json!({"$delete": operand}));
        assert!(change.deletes() && !change.is_empty());
    }
}

#[test]
fn profiles_can_be_switched_off() {
    let mut mapping = published(UnmappedEvents::Skip);
    mapping.sync.profiles = false;
    let view = ProfileView::parse(br#"{"$set":{"plan":"x"}}"#).unwrap();
    assert_eq!(map_profile(&view, &mapping), ProfileDecision::Skip(SkipRule::ProfilesOff));
}

fn with_dormant(attributes: &[(&str, &str)]) -> Result<CompiledMapping, Vec<crate::mapping::compiled::MappingError>> {
    let dataset = crate::config::Dataset {
        name: "dormant".to_owned(),
        question: crate::config::DatasetQuestion::Insights(7),
        every: std::time::Duration::from_hours(24),
        id: "distinct_id".to_owned(),
        attributes: attributes.iter().map(|(column, to)| ((*column).to_owned(), (*to).to_owned())).collect(),
        list: None,
        mode: crate::config::SyncMode::Mirror,
    };
    published(UnmappedEvents::Skip).with_datasets(&[dataset])
}

#[test]
fn a_rows_columns_go_where_the_data_set_says_and_nowhere_else() {
    let mapping = with_dormant(&[("days", "DAYS_AWAY"), ("mail", "email")]).unwrap();
    let row = |columns: Value| {
        let body = json!({ "$distinct_id": "u", "$dataset": "dormant", "$set": columns }).to_string();
        assert_eq!(dataset_of(body.as_bytes()).as_deref(), Some("dormant"));
        map_row("dormant", &ProfileView::parse(body.as_bytes()).unwrap(), &mapping)
    };
    // A property's name is none of a column's.
    let ProfileDecision::Change(change) = row(json!({ "days": 40, "mail": "A@x.io", "plan": "pro" })) else { panic!() };
    let operations: Vec<String> = change.operations.iter().map(|operation| format!("{operation:?}")).collect();
    assert_eq!(operations.len(), 2, "{operations:?}");
    assert!(change.operations.contains(&Operation::Attribute(name("DAYS_AWAY"), Change::Set(json!(40)))));
    let ProfileDecision::Change(change) = row(json!({ "days": null })) else { panic!() };
    assert_eq!(change.operations, [Operation::Attribute(name("DAYS_AWAY"), Change::Unset)]);
    assert!(matches!(row(json!({ "plan": "pro" })), ProfileDecision::Skip(SkipRule::NoMappedProperty)));
    // What an app sends under that name is an app's property.
    let app = json!({ "$distinct_id": "u", "$dataset": "dormant", "$set": { "days": 1 } });
    let view = app.to_string();
    let decision = map_profile(&ProfileView::parse(view.as_bytes()).unwrap(), &mapping);
    assert!(matches!(decision, ProfileDecision::Skip(SkipRule::NoMappedProperty)));
}

#[test]
fn an_attribute_has_one_owner() {
    let errors = with_dormant(&[("days", "LTV")]).unwrap_err();
    let said = errors[0].to_string();
    assert!(said.contains("dormant") && said.contains("property_mapping.total_revenue"), "{said}");
    let errors = with_dormant(&[("a", "SAME"), ("b", "SAME")]).unwrap_err();
    assert!(errors[0].to_string().contains("datasets.dormant.a"), "{errors:?}");
    assert!(with_dormant(&[("a", "email"), ("b", "SMS")]).is_ok(), "addresses may come from everywhere");
}
