use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::attributes::{CompanyAttributes, NewAttribute};
use super::*;
use crate::brevo::coerce::Unplaced;

fn answer(status: u16, body: impl ToString) -> VendorAnswer {
    VendorAnswer::new(StatusCode::from_u16(status).unwrap(), HeaderMap::new(), Bytes::from(body.to_string()))
}

fn account() -> CompanyAttributes {
    let attributes = json!([
        {"internalName": "name", "label": "Company Name", "attributeTypeName": "text", "isRequired": true},
        {"internalName": "revenue", "label": "Revenue", "attributeTypeName": "number"},
        {"internalName": "founded", "label": "Founded", "attributeTypeName": "date", "attributeOptions": null},
        {"internalName": "customer", "label": "Customer", "attributeTypeName": "boolean"},
        {"internalName": "size", "label": "Size", "attributeTypeName": "single-select",
            "attributeOptions": [{"key": "label_1", "value": "small"}, {"key": "label_2", "value": "large"}]},
        {"internalName": "tags", "label": "Tags", "attributeTypeName": "multi-choice",
            "attributeOptions": [{"key": "t1", "value": "a"}, {"key": "t2", "value": "b"}]},
        {"internalName": "owner", "label": "Owner", "attributeTypeName": "user"},
        {"internalName": "phone_number", "label": "Phone", "attributeTypeName": "text"},
        {"internalName": "a7c1", "label": "segment", "attributeTypeName": "text"},
        {"internalName": "score", "label": "Score", "attributeTypeName": "number", "isValueReadonly": true},
    ]);
    CompanyAttributes::new(serde_json::from_value(attributes).unwrap())
}

#[test]
fn values_are_placed_by_the_attributes_type() {
    let account = account();
    let place = |name: &str, value: Value| {
        let placed = account.place(name, &value)?;
        Ok((placed.internal_name, serde_json::to_value(&placed.value).unwrap(), placed.country_code))
    };
    for (name, value, placed) in [
        ("name", json!("ACME"), ("name", json!("ACME"), None)),
        ("revenue", json!("12.5"), ("revenue", json!(12.5), None)),
        ("founded", json!("2024-01-15T10:00:00"), ("founded", json!("2024-01-15T00:00:00Z"), None)),
        ("customer", json!("true"), ("customer", json!(true), None)),
        ("size", json!("large"), ("size", json!("label_2"), None)),
        ("tags", json!(["b", "x"]), ("tags", json!(["t2"]), None)),
        ("phone_number", json!("+33 6 12 34 56 78"), ("phone_number", json!("33612345678"), Some(33))),
        ("phone_number", json!("+12125550100"), ("phone_number", json!("12125550100"), Some(1))),
        ("phone_number", json!("+353861234567"), ("phone_number", json!("353861234567"), Some(353))),
        ("segment", json!(["x", "y"]), ("a7c1", json!("x, y"), None)),
    ] {
        let (internal, value_at_brevo, code) = placed;
        assert_eq!(place(name, value.clone()), Ok((internal.to_owned(), value_at_brevo, code)), "{name} {value}");
    }
    assert_eq!(place("owner", json!("x")), Err(Unplaced::ReadOnly));
    assert_eq!(place("score", json!(1)), Err(Unplaced::ReadOnly));
    assert_eq!(place("revenue", json!("much")), Err(Unplaced::NotANumber));
    assert_eq!(place("unknown", json!(1)), Err(Unplaced::NoSuchAttribute));
    let stored = serde_json::to_string(&account).unwrap();
    assert_eq!(serde_json::from_str::<CompanyAttributes>(&stored).unwrap(), account);
}

#[test]
fn a_base_is_read_as_mixpanel_would_have_it() {
    let held =
        json!({"size": "label_1", "tags": ["t1", "t2"], "a7c1": "x, y", "revenue": 5, "customer": "", "name": "ACME"});
    let wanted = ["size", "Size", "tags", "segment", "revenue", "customer", "new"];
    let base = account().base(held.as_object().unwrap(), wanted.into_iter());
    for (name, value) in [
        ("size", json!("small")),
        ("Size", json!("small")),
        ("tags", json!(["a", "b"])),
        ("segment", json!(["x", "y"])),
        ("revenue", json!(5)),
    ] {
        assert_eq!(base.get(name), Some(&value), "{name}");
    }
    assert_eq!((base.get("customer"), base.get("new")), (Some(&Value::Null), Some(&Value::Null)));
    assert_eq!(base.get("name"), None);
}

#[test]
fn a_new_attribute_takes_its_type_from_the_value() {
    for (value, kind) in [
        (json!("pro"), Some("text")),
        (json!(["a"]), Some("text")),
        (json!(42), Some("number")),
        (json!(true), Some("boolean")),
        (json!("2024-01-15"), Some("date")),
        (json!(null), None),
    ] {
        assert_eq!(NewAttribute::for_value("x", &value).map(|new| new.attribute_type), kind, "{value}");
    }
    assert_eq!(NewAttribute::for_value(&"x".repeat(51), &json!(1)), None);
}

#[test]
fn answers_say_what_became_of_the_company() {
    let id = CompanyId::parse("61a5cd07ca1347c82306ad06").unwrap();
    let error = |code: &str| json!({"code": code, "message": "m"});
    assert_eq!(created(&answer(200, json!({"id": id.as_str()}))), CreateOutcome::Created(id));
    assert!(matches!(created(&answer(201, "{}")), CreateOutcome::Misrouted(_)));
    assert!(matches!(created(&answer(400, error("missing_parameter"))), CreateOutcome::Invalid(_)));
    assert!(matches!(created(&answer(404, error("document_not_found"))), CreateOutcome::Misrouted(_)));
    assert_eq!(changed(&answer(204, "")), ChangeOutcome::Done(None));
    let company = json!({"id": "a", "attributes": {"name": "ACME"}});
    let ChangeOutcome::Done(Some(attributes)) = changed(&answer(200, company)) else { panic!() };
    assert_eq!(attributes["name"], "ACME");
    assert_eq!(changed(&answer(404, error("document_not_found"))), ChangeOutcome::NotFound);
    assert!(matches!(changed(&answer(404, "<html>")), ChangeOutcome::Misrouted(_)));
    assert!(matches!(changed(&answer(400, error("invalid_parameter"))), ChangeOutcome::Invalid(_)));
    assert_eq!(page(&answer(200, json!({"items": [{"id": "a"}]}))).unwrap().len(), 1);
    assert_eq!(page(&answer(200, json!({"items": null}))).unwrap().len(), 0);
}

#[test]
fn an_id_that_could_change_a_path_is_none() {
    for bad in ["", "../account", "a?b", "a b"] {
        assert_eq!(CompanyId::parse(bad), Err(NotACompanyId), "{bad}");
    }
}
