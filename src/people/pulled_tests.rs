use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::mapping::Assignment;
use crate::people::person::Found;
use crate::people::unknown::Base;
use crate::record::{EntryId, Epoch};

fn name(name: &str) -> AttributeName {
    AttributeName::parse(name).unwrap()
}

fn at(entry: u64) -> Position {
    Position { epoch: Epoch(1), entry: EntryId(entry), index: 0 }
}

fn change(operations: Vec<Operation>) -> ProfileChange {
    ProfileChange { operations, unplaced: vec![] }
}

fn set(attribute: &str, value: Value) -> Operation {
    Operation::Attribute(name(attribute), Change::Set(value))
}

fn unset(attribute: &str) -> Operation {
    Operation::Attribute(name(attribute), Change::Unset)
}

fn email(email: &str) -> Operation {
    Operation::Email(Assignment { value: Email::parse(email).unwrap(), once: false })
}

fn owed(folded: &Folded) -> Vec<&str> {
    folded.attributes.iter().map(AttributeName::as_str).collect()
}

#[test]
fn a_pull_fills_what_is_unknown_and_follows_what_it_has_filled() {
    let mut person = Person::default();
    let folded = person.fill(at(1), change(vec![set("PLAN", json!("a")), unset("CITY"), email("a@x.io")])).unwrap();
    assert_eq!((owed(&folded), folded.identifiers), (vec!["PLAN"], true));
    // The same again, and again after a crash.
    let same = change(vec![set("PLAN", json!("a")), unset("CITY"), email("a@x.io")]);
    assert_eq!(person.fill(at(2), same.clone()), Some(Folded::default()));
    assert_eq!(person.fill(at(2), same), None);
    let folded = person.fill(at(3), change(vec![set("PLAN", json!("b")), email("b@x.io")])).unwrap();
    assert_eq!((owed(&folded), folded.identifiers), (vec!["PLAN"], true));
    assert_eq!(person.email.as_ref().map(Email::as_str), Some("b@x.io"));
    // Gone at Mixpanel, and here it came from there.
    let folded = person.fill(at(4), change(vec![unset("PLAN")])).unwrap();
    assert_eq!((owed(&folded), &person.attributes[&name("PLAN")]), (vec!["PLAN"], &Value::Null));
}

#[test]
fn what_an_app_has_said_stays() {
    let mut person = Person::default();
    person.fill(at(1), change(vec![set("PLAN", json!("old")), set("LTV", json!(5)), email("a@x.io")])).unwrap();
    person.fold(at(2), change(vec![set("PLAN", json!("new")), email("app@x.io")]), Position::default()).unwrap();
    let add = Operation::Attribute(name("LTV"), Change::Add(10.into()));
    person.fold(at(3), change(vec![add]), Position::default()).unwrap();
    let before = person.clone();
    let pull = change(vec![set("PLAN", json!("old")), set("LTV", json!(5)), email("a@x.io")]);
    assert_eq!(person.fill(at(4), pull), Some(Folded::default()));
    assert_eq!((person.attributes, person.email), (before.attributes.clone(), before.email));
    assert_eq!(before.attributes[&name("LTV")], json!(15));
}

#[test]
fn what_waits_for_a_base_is_left_to_it() {
    let mut person = Person::default();
    let add = Operation::Attribute(name("LTV"), Change::Add(10.into()));
    person.fold(at(1), change(vec![add]), Position::default()).unwrap();
    assert_eq!(person.fill(at(2), change(vec![set("LTV", json!(1000))])), Some(Folded::default()));
    let values = [(name("LTV"), json!(1000)), (name("PLAN"), json!("pro"))];
    person.learn(Base::Before, Found { attributes: values.into(), ..Found::default() }, Position::default());
    // `PLAN` was read beside it, and Brevo was never told: the pull owes it once.
    let pull = change(vec![set("LTV", json!(1000)), set("PLAN", json!("pro"))]);
    assert_eq!(owed(&person.fill(at(3), pull.clone()).unwrap()), ["PLAN"]);
    assert_eq!(person.fill(at(4), pull), Some(Folded::default()));
    assert_eq!(person.attributes[&name("LTV")], json!(1010));
}

#[test]
fn two_properties_of_one_attribute_do_not_take_turns() {
    let mut person = Person::default();
    let pull = change(vec![set("CITY", json!("Paris")), set("CITY", json!("Lyon")), unset("CITY")]);
    assert_eq!(owed(&person.fill(at(1), pull.clone()).unwrap()), ["CITY"]);
    assert_eq!(person.fill(at(2), pull), Some(Folded::default()));
    assert_eq!(person.attributes[&name("CITY")], json!("Lyon"));
}

proptest! {
    /// However pulls and an app's updates mix: a value that the app has ever set is what the app set last.
    #[test]
    fn an_apps_last_word_counts(steps in proptest::collection::vec((any::<bool>(), 0usize..3, 0u8..4), 1..40)) {
        let mut person = Person::default();
        let mut said: BTreeMap<AttributeName, Value> = BTreeMap::new();
        let names = ["A", "B", "C"];
        for (entry, (app, which, value)) in (1u64..).zip(steps) {
            let update = change(vec![set(names[which], json!(value))]);
            if app {
                person.fold(at(entry), update, Position::default()).unwrap();
                said.insert(name(names[which]), json!(value));
            } else {
                let folded = person.fill(at(entry), update).unwrap();
                prop_assert!(!folded.owes() || !said.contains_key(&name(names[which])));
            }
            for (name, value) in &said {
                prop_assert_eq!(&person.attributes[name], value);
            }
        }
    }
}

#[test]
fn a_row_has_the_last_word_on_its_attributes_and_fills_addresses_alone() {
    let mut person = Person::default();
    person.fold(at(1), change(vec![set("DAYS", json!(3)), email("app@x.io")]), Position::default()).unwrap();
    let row = change(vec![set("DAYS", json!(40)), email("row@x.io")]);
    assert_eq!(owed(&person.would_take(row.clone())), ["DAYS"]);
    assert_eq!(person.attributes[&name("DAYS")], json!(3), "it was only asked");
    let folded = person.take_row(at(2), row.clone()).unwrap();
    assert_eq!((owed(&folded), folded.identifiers), (vec!["DAYS"], false));
    assert_eq!(person.email.as_ref().map(Email::as_str), Some("app@x.io"));
    // The same again, and again after a crash.
    assert_eq!(person.take_row(at(3), row.clone()), Some(Folded::default()));
    assert_eq!(person.take_row(at(3), row), None);
    // Null clears what is held, and says nothing of what never was.
    let cleared = person.take_row(at(4), change(vec![unset("DAYS"), unset("SCORE")])).unwrap();
    assert_eq!((owed(&cleared), &person.attributes[&name("DAYS")]), (vec!["DAYS"], &Value::Null));
    assert_eq!(person.take_row(at(5), change(vec![unset("DAYS")])), Some(Folded::default()));

    let mut stranger = Person::default();
    let folded = stranger.take_row(at(1), change(vec![email("row@x.io")])).unwrap();
    assert!(folded.identifiers && folded.owes());
}
