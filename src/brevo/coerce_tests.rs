use proptest::prelude::*;
use serde_json::json;

use super::*;

fn kind(label: &str) -> AttributeKind {
    let option = |value: &str, label: &str| CategoryOption { value: value.to_owned(), label: label.to_owned() };
    match label {
        "text" => AttributeKind::Text,
        "date" => AttributeKind::Date,
        "float" => AttributeKind::Float,
        "boolean" => AttributeKind::Boolean,
        "category" => AttributeKind::Category(vec![option("1", "Men"), option("2", "Women")]),
        "multiple-choice" => AttributeKind::MultipleChoice(vec!["India".to_owned(), "China".to_owned()]),
        "phone" => AttributeKind::Phone,
        "read-only" => AttributeKind::ReadOnly,
        other => panic!("docs/mapping.md names the type {other}"),
    }
}

/// The rows of the table under the heading `## Values`: type, value, what is sent.
fn documented() -> Vec<[String; 3]> {
    let page = include_str!("../../docs/mapping.md");
    let section = page.split("\n## ").find(|section| section.starts_with("Values")).unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<_> =
            row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect();
        cells.try_into().unwrap()
    })
    .collect()
}

#[test]
fn the_documented_table_is_what_happens() {
    let rows = documented();
    assert!(rows.len() > 40, "the table was not found");
    for [type_name, value, sent] in rows {
        let value: Value = serde_json::from_str(&value).unwrap_or_else(|e| panic!("{value}: {e}"));
        let happened = match coerce(&value, Some(&kind(&type_name))) {
            Ok(placed) => serde_json::to_string(&placed.value).unwrap(),
            Err(reason) => format!("not placed: {}", reason.label()),
        };
        assert_eq!(happened, sent.replace('`', ""), "{type_name} from {value}");
    }
}

#[test]
fn an_attribute_that_the_account_lacks_takes_nothing() {
    assert_eq!(coerce(&json!("x"), None), Err(Unplaced::NoSuchAttribute));
}

#[test]
fn unknown_options_are_reported_beside_the_known_ones() {
    let placed = coerce(&json!(["India", "Mars"]), Some(&kind("multiple-choice"))).unwrap();
    assert_eq!(placed.value, AttributeValue::Options(vec!["India".to_owned()]));
    assert_eq!(placed.unknown_options, ["Mars"]);
}

#[test]
fn a_sample_shows_the_shape_and_nothing_else() {
    assert_eq!(masked(&json!("Ada Löve <ada@x.org> 06 12")), "Xxx Xxxx <xxx@x.xxx> 99 99");
    assert_eq!(masked(&json!({"a": [1, "b"]})), r#"{"x":[9,"x"]}"#);
    assert_eq!(masked(&json!("x".repeat(100))).len(), 40);
}

#[test]
fn reasons_are_stored_by_their_labels() {
    for reason in Unplaced::ALL {
        assert_eq!(serde_json::to_value(reason).unwrap(), reason.label());
    }
}

#[test]
fn booleans_are_not_for_imports() {
    assert!(!AttributeValue::Bool(true).importable());
    assert!(AttributeValue::Text("true".to_owned()).importable());
}

#[test]
fn clearing_has_two_spellings() {
    assert_eq!(serde_json::to_string(&Clearing::EmptyString.value()).unwrap(), r#""""#);
    assert_eq!(serde_json::to_string(&Clearing::Null.value()).unwrap(), "null");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[0-9/T: +.-]{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_placed_has_the_attributes_type(value in any_json()) {
        let labels = ["text", "date", "float", "boolean", "category", "multiple-choice", "phone", "read-only"];
        for label in labels {
            let Ok(placed) = coerce(&value, Some(&kind(label))) else { continue };
            let fits = match (label, &placed.value) {
                ("text", AttributeValue::Text(_)) => true,
                ("date", AttributeValue::Text(day)) => day.parse::<jiff::civil::Date>().is_ok(),
                ("float", AttributeValue::Number(number)) => number.as_f64().is_some_and(f64::is_finite),
                ("boolean", AttributeValue::Bool(_)) => true,
                ("category", AttributeValue::Text(label)) => label == "Men" || label == "Women",
                ("multiple-choice", AttributeValue::Options(chosen)) => {
                    chosen.iter().all(|option| option == "India" || option == "China")
                }
                ("phone", AttributeValue::Text(phone)) => phone.starts_with('+'),
                _ => false,
            };
            prop_assert!(fits, "{label}: {value} became {:?}", placed.value);
        }
    }
}
