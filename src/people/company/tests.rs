use serde_json::json;

use super::*;
use crate::record::{EntryId, Epoch};

fn at(index: u32) -> Position {
    Position { epoch: Epoch(1), entry: EntryId(1), index }
}

fn set(attribute: &str, value: Value) -> GroupOp {
    GroupOp::Set(attribute.to_owned(), value)
}

fn fold(company: &mut Company, index: u32, ops: Vec<GroupOp>) -> bool {
    company.fold(at(index), UnixMillis(u64::from(index)), ops)
}

#[test]
fn a_position_is_folded_once_and_many_records_are_one_debt() {
    let mut company = Company::default();
    assert!(fold(&mut company, 1, vec![set("industry", json!("Steel"))]));
    assert!(fold(&mut company, 2, vec![set("industry", json!("Glass")), set(NAME, json!(" ACME "))]));
    assert!(!fold(&mut company, 1, vec![set("industry", json!("Steel"))]));
    let debt = company.debt.clone().unwrap();
    assert_eq!((debt.since, debt.oldest, debt.records), (at(1), UnixMillis(1), 2));
    assert_eq!(debt.attributes, ["industry", NAME].map(str::to_owned).into());
    assert_eq!(company.value("industry"), Some(&json!("Glass")));
    assert_eq!(company.name().as_deref(), Some("ACME"));
}

#[test]
fn a_company_from_before_the_relay_keeps_what_no_record_has_set() {
    let mut company = Company::default();
    fold(&mut company, 1, vec![GroupOp::SetOnce("industry".to_owned(), json!("new"))]);
    fold(&mut company, 2, vec![GroupOp::Union("tags".to_owned(), vec![json!("b")])]);
    let debt = company.debt.clone().unwrap();
    assert!(company.needs_base(&debt));
    assert_eq!(company.value("industry"), None);
    let base = json!({"industry": "old", "tags": ["a"], "revenue": 5});
    company.take_base(base.as_object().unwrap());
    assert!(!company.needs_base(&debt));
    assert_eq!((company.value("industry"), company.value("tags")), (Some(&json!("old")), Some(&json!(["a", "b"]))));
    assert_eq!(company.value("revenue"), Some(&json!(5)), "seen once, it is known");
    assert_eq!(company.debt.unwrap().attributes.len(), 2, "and it is not owed");
}

#[test]
fn what_the_relay_made_is_empty_until_it_is_set() {
    let place = Place::At { id: CompanyId::parse("61a5cd07ca1347c82306ad06").unwrap(), ours: true };
    let mut company = Company { place, ..Company::default() };
    fold(&mut company, 1, vec![GroupOp::SetOnce("industry".to_owned(), json!("new"))]);
    assert_eq!(company.value("industry"), Some(&json!("new")));
}

#[test]
fn a_deletion_empties_everything_and_what_follows_starts_anew() {
    let mut company = Company::default();
    fold(&mut company, 1, vec![set(NAME, json!("ACME")), set("industry", json!("Steel"))]);
    fold(&mut company, 2, vec![GroupOp::Delete]);
    let debt = company.debt.clone().unwrap();
    assert_eq!((debt.records, debt.attributes.len()), (2, 0));
    assert_eq!(debt.delete, Some(Deletion { name: Some("ACME".to_owned()) }));
    assert_eq!(company.value("industry"), None);
    fold(&mut company, 3, vec![GroupOp::SetOnce("industry".to_owned(), json!("Glass"))]);
    assert_eq!(company.value("industry"), Some(&json!("Glass")), "whatever is at Brevo goes first");
    fold(&mut company, 4, vec![GroupOp::Delete]);
    let debt = company.debt.unwrap();
    assert_eq!(debt.delete, Some(Deletion { name: Some("ACME".to_owned()) }), "Brevo has the first one");
    assert_eq!(debt.records, 4);
}

#[test]
fn a_company_survives_being_stored() {
    let mut company = Company::default();
    fold(&mut company, 1, vec![set(NAME, json!("ACME")), GroupOp::Union("tags".to_owned(), vec![json!("b")])]);
    let stored = serde_json::to_vec(&company).unwrap();
    assert_eq!(serde_json::from_slice::<Company>(&stored).unwrap(), company);
}

#[test]
fn a_groups_name_holds_key_and_id() {
    assert_ne!(group_id("a", "b\",\"c"), group_id("a\",\"b", "c"));
    assert_eq!(own_id(&group_id("company_id", "a \"b\"")), "a \"b\"");
}
