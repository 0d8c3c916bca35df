use serde_json::json;

use super::*;
use crate::clock::UnixMillis;
use crate::record::{EntryId, Epoch};

const START: Position = Position { epoch: Epoch(1), entry: EntryId(1), index: 0 };

fn at(index: u32) -> Position {
    Position { epoch: Epoch(1), entry: EntryId(1), index }
}

fn name(raw: &str) -> AttributeName {
    AttributeName::parse(raw).unwrap()
}

fn one(operation: Operation) -> ProfileChange {
    ProfileChange { operations: vec![operation], ..ProfileChange::default() }
}

fn on(raw: &str, change: Change) -> ProfileChange {
    one(Operation::Attribute(name(raw), change))
}

fn plan(value: &str) -> ProfileChange {
    on("PLAN", Change::Set(json!(value)))
}

fn add(by: i64) -> ProfileChange {
    on("LTV", Change::Add(by.into()))
}

fn email(raw: &str, once: bool) -> ProfileChange {
    one(Operation::Email(Assignment { value: Email::parse(raw).unwrap(), once }))
}

fn found(values: &[(&str, Value)]) -> Found {
    let attributes = values.iter().map(|(raw, value)| (name(raw), value.clone())).collect();
    Found { attributes, ..Found::default() }
}

fn fold(person: &mut Person, index: u32, change: ProfileChange) -> Folded {
    person.fold(at(index), change, START).expect("not folded before")
}

#[test]
fn a_position_is_folded_once() {
    let mut person = Person::default();
    assert!(person.fold(at(1), plan("free"), START).is_some());
    assert!(person.fold(at(2), plan("pro"), START).is_some());
    assert_eq!(person.fold(at(1), plan("free"), START), None);
    assert_eq!(person.fold(at(2), plan("x"), START), None);
    assert_eq!(person.attributes.values().next(), Some(&json!("pro")));
}

#[test]
fn unset_is_a_known_value() {
    let mut person = Person::default();
    assert_eq!(fold(&mut person, 1, on("LTV", Change::Unset)).attributes, [name("LTV")]);
    assert_eq!(person.attributes.get(&name("LTV")), Some(&Value::Null));
    assert!(!fold(&mut person, 2, add(10)).waits);
    assert_eq!(person.attributes[&name("LTV")], json!(10));
}

#[test]
fn identifiers_change_only_when_they_differ() {
    let mut person = Person::default();
    assert!(fold(&mut person, 1, email("a@example.com", false)).identifiers);
    assert!(!fold(&mut person, 2, email("A@Example.com", false)).identifiers);
    assert!(fold(&mut person, 3, email("b@example.com", false)).identifiers);
    assert!(!fold(&mut person, 4, email("c@example.com", true)).owes());
    assert_eq!(person.email, Some(Email::parse("b@example.com").unwrap()));
}

#[test]
fn only_the_value_that_is_not_known_waits() {
    let mut person = Person::default();
    let mut mixed = plan("pro");
    mixed.operations.extend(add(10).operations);
    let folded = fold(&mut person, 1, mixed);
    assert!(folded.waits);
    assert_eq!(folded.attributes, [name("PLAN")]);
    assert!(!fold(&mut person, 2, plan("free")).waits);
    assert!(!person.attributes.contains_key(&name("LTV")), "nothing is made up");
    assert!(person.waits_for(&add(1)) && !person.waits_for(&plan("x")));

    let folded = person.learn(Base::At(at(9)), found(&[("LTV", json!(1_010)), ("PLAN", json!("old"))]), START);
    assert_eq!(folded.attributes, [name("LTV")]);
    assert_eq!((&person.attributes[&name("LTV")], &person.attributes[&name("PLAN")]), (&json!(1_010), &json!("free")));
    assert!(person.unknown.is_empty());
}

#[test]
fn an_assignment_ends_the_wait() {
    let mut person = Person::default();
    assert!(fold(&mut person, 1, add(10)).waits);
    let folded = fold(&mut person, 2, on("LTV", Change::Set(json!(3))));
    assert_eq!(folded.attributes, [name("LTV")]);
    assert!(person.unknown.is_empty());
    fold(&mut person, 3, add(10));
    assert_eq!(person.attributes[&name("LTV")], json!(13));
}

#[test]
fn what_was_found_is_taken_for_everything_unknown_and_owed_only_where_something_waited() {
    let mut person = Person::default();
    fold(&mut person, 1, add(10));
    let mut base = found(&[("LTV", json!(1_000)), ("PLAN", json!("pro")), ("SHOE", Value::Null)]);
    base.email = Some(Email::parse("a@example.com").unwrap());
    let folded = person.learn(Base::Before, base, START);
    assert_eq!(folded.attributes, [name("LTV")]);
    assert!(folded.identifiers && person.addressable());
    assert_eq!(person.attributes[&name("LTV")], json!(1_010));
    assert_eq!(person.attributes[&name("PLAN")], json!("pro"));
    assert_eq!(person.attributes[&name("SHOE")], Value::Null);
}

#[test]
fn an_answer_that_may_miss_something_older_is_taken_for_nothing_else() {
    let mut person = Person::default();
    let old = Position { index: 0, ..at(0) };
    fold(&mut person, 3, on("PLAN", Change::SetOnce(json!("free"))));
    let late = at(2);
    let folded = person.learn(Base::At(old), found(&[("PLAN", Value::Null), ("SHOE", json!(1))]), late);
    assert_eq!(folded.attributes, [name("PLAN")], "its own steps need no more");
    assert!(!person.attributes.contains_key(&name("SHOE")));
}

#[test]
fn an_address_given_once_waits_for_the_one_that_may_be_there() {
    let mut person = Person::default();
    assert!(fold(&mut person, 1, email("new@example.com", true)).waits);
    assert!(!person.addressable());
    let mut known = person.clone();
    let there = Found { email: Some(Email::parse("old@example.com").unwrap()), ..Found::default() };
    assert!(known.learn(Base::Before, there, START).identifiers);
    assert_eq!(known.email.unwrap().as_str(), "old@example.com");
    assert!(person.learn(Base::Before, Found::default(), START).identifiers);
    assert_eq!(person.email.unwrap().as_str(), "new@example.com");
    assert!(known.unknown.is_empty());
}

#[test]
fn a_deleted_profile_is_known_to_be_empty() {
    let mut person = Person::default();
    fold(&mut person, 1, plan("pro"));
    fold(&mut person, 2, add(10));
    let folded =
        fold(&mut person, 3, one(Operation::Delete { values: vec![name("PLAN"), name("LTV")], identifiers: false }));
    assert!(!folded.owes() && !folded.waits && person.unknown.is_empty());
    fold(&mut person, 4, add(5));
    assert_eq!(person.attributes[&name("LTV")], json!(5));
    assert_eq!(person.attributes[&name("PLAN")], Value::Null);
}

#[test]
fn what_changes_nothing_is_not_owed() {
    let mut person = Person::default();
    fold(&mut person, 1, plan("pro"));
    assert!(!fold(&mut person, 2, on("PLAN", Change::SetOnce(json!("free")))).owes());
    assert!(!fold(&mut person, 3, on("PLAN", Change::Add(1.into()))).owes(), "a text is not added to");
    assert!(fold(&mut person, 4, plan("pro")).owes(), "an equal value was assigned anew");
}

#[test]
fn a_person_survives_being_stored() {
    let mut person = Person::default();
    fold(&mut person, 1, plan("pro"));
    for (index, change) in [
        Change::Add(5.into()),
        Change::Append(vec![json!("a")]),
        Change::Union(vec![json!("b")]),
        Change::Remove(json!("c")),
        Change::SetOnce(json!(1)),
    ]
    .into_iter()
    .enumerate()
    {
        fold(&mut person, 2 + index as u32, on("LTV", change));
    }
    person.unknown.count(at(2), UnixMillis(7));
    person.contact = Contact::known(Some(Email::parse("a@example.com").unwrap()), true, None);
    let stored = serde_json::to_vec(&person).unwrap();
    assert_eq!(serde_json::from_slice::<Person>(&stored).unwrap(), person);
}
