use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::record::{EntryId, Epoch};

fn at(index: usize) -> Position {
    Position { epoch: Epoch(1), entry: EntryId(1), index: index as u32 }
}

fn name() -> AttributeName {
    AttributeName::parse("LTV").unwrap()
}

fn waiting(changes: &[Change]) -> Unknown {
    let mut unknown = Unknown::default();
    for (index, change) in changes.iter().enumerate() {
        unknown.add(name(), at(index), change.clone(), at(0));
    }
    unknown
}

fn folded(base: &Value, changes: &[Change]) -> Value {
    changes.iter().fold(base.clone(), |value, change| changed(&value, change).unwrap_or(value))
}

/// 1,000 at Mixpanel before the relay came: `$add 10` must not make it 10, and the 10 that Mixpanel has counted by the
/// time it is asked must not count twice.
#[test]
fn an_addition_counts_once_whether_the_answer_holds_it_for_certain_or_not_yet() {
    let add = [Change::Add(10.into())];
    assert_eq!(waiting(&add).take(&name(), Base::At(at(0)), &json!(1_000)), None, "it may hold it or not");
    assert_eq!(waiting(&add).take(&name(), Base::At(at(1)), &json!(1_010)), Some(json!(1_010)));
    assert_eq!(waiting(&add).take(&name(), Base::Before, &json!(1_000)), Some(json!(1_010)));
}

#[test]
fn records_are_released_when_nothing_waits_any_more() {
    let mut unknown = waiting(&[Change::Add(1.into())]);
    let other = AttributeName::parse("PLAN").unwrap();
    unknown.add(other.clone(), at(3), Change::SetOnce(json!("x")), at(0));
    unknown.count(at(3), UnixMillis(30));
    unknown.count(at(0), UnixMillis(10));
    assert_eq!((unknown.records(), unknown.oldest(), unknown.needs()), (2, Some(UnixMillis(10)), at(0)));
    assert!(unknown.take(&other, Base::At(at(0)), &Value::Null).is_some());
    assert_eq!((unknown.release(), unknown.needs()), (None, at(1)));
    unknown.forget(&name());
    assert_eq!(unknown.release(), Some(Released { records: 2, since: at(0), last: at(3), oldest: UnixMillis(10) }));
    assert!(unknown.is_empty());
}

#[test]
fn steps_are_bounded_in_number_and_bytes() {
    let mut unknown = Unknown::default();
    for index in 0..10_000 {
        let change = if index % 2 == 0 { Change::Append(vec![json!(index)]) } else { Change::Remove(json!(1)) };
        unknown.add(name(), at(index), change, at(0));
    }
    assert!(serde_json::to_vec(&unknown).unwrap().len() < 20_000);
    for index in 10_000..11_000 {
        unknown.add(name(), at(index), Change::Append(vec![json!("x".repeat(1_000))]), at(0));
    }
    assert!(serde_json::to_vec(&unknown).unwrap().len() < 100_000);
    // What has gone is in any answer that counts.
    assert_eq!(unknown.take(&name(), Base::At(at(11_000)), &json!(["all"])), Some(json!(["all"])));
}

/// A step that an answer need not hold is no part of one that it must.
#[test]
fn a_union_behind_a_certain_one_is_done() {
    let union = |items: &[u8]| Change::Union(items.iter().map(|item| json!(item)).collect());
    let changes = [Change::Remove(json!(0)), union(&[]), union(&[]), union(&[0])];
    assert_eq!(waiting(&changes).take(&name(), Base::At(at(2)), &json!([])), Some(json!([0])));
}

fn change() -> impl Strategy<Value = Change> {
    let item = || (0u8..3).prop_map(|n| json!(n));
    prop_oneof![
        item().prop_map(Change::SetOnce),
        (-5i64..5).prop_map(|n| Change::Add(n.into())),
        item().prop_map(|item| Change::Append(vec![item])),
        proptest::collection::vec(item(), 0..3).prop_map(Change::Union),
        item().prop_map(Change::Remove),
    ]
}

fn base() -> impl Strategy<Value = Value> {
    let list = proptest::collection::vec(0u8..3, 0..4).prop_map(|items| json!(items));
    prop_oneof![Just(Value::Null), Just(json!(7)), Just(json!("text")), list]
}

proptest! {
    /// Whatever an answer holds beyond what is certain, it is taken only for what it is worth.
    #[test]
    fn the_value_is_that_of_all_steps_done_once(
        base in base(),
        changes in proptest::collection::vec(change(), 1..8),
        certain in 0usize..9,
        more in 0usize..9,
    ) {
        let expected = folded(&base, &changes);
        prop_assert_eq!(waiting(&changes).take(&name(), Base::Before, &base), Some(expected.clone()));

        let certain = certain.min(changes.len());
        let held = (certain + more).min(changes.len());
        let answer = folded(&base, &changes[..held]);
        let taken = waiting(&changes).take(&name(), Base::At(at(certain)), &answer);
        let doubled = changes[certain..].iter().any(Change::additive);
        match taken {
            Some(taken) => {
                prop_assert!(!doubled);
                prop_assert_eq!(taken, expected);
            }
            None => {
                let moved = changes.iter().any(|change| matches!(change, Change::Remove(_)))
                    && changes[certain..].iter().any(|change| matches!(change, Change::Union(_)));
                prop_assert!(doubled || moved, "an answer was refused for nothing");
            }
        }
    }
}

/// A question changes nothing, and what is said behind it is not lost.
#[test]
fn a_question_is_answered_by_what_is_there() {
    let name = AttributeName::parse("OPT_IN").unwrap();
    let start = Position::default();
    let asked = || {
        let mut unknown = Unknown::default();
        unknown.ask(name.clone(), start);
        unknown
    };
    for found in [Value::Null, Value::Bool(true)] {
        assert!(asked().only_asks(&name));
        assert_eq!(asked().take(&name, Base::At(start), &found), Some(found));
    }
    let mut once = asked();
    once.add(name.clone(), start, Change::SetOnce(Value::Bool(true)), start);
    assert!(!once.only_asks(&name));
    assert_eq!(once.take(&name, Base::At(start), &Value::Null), Some(Value::Bool(true)));
}
