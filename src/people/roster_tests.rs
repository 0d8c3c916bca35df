use super::*;
use crate::brevo::identifiers::Email;

fn id(n: usize) -> PersonId {
    PersonId::from(format!("person-{n}"))
}

/// Everyone of `people` changed, and their rows written.
fn filled(people: usize) -> Roster {
    let mut roster = Roster::default();
    for n in 0..people {
        roster.edit(&id(n)).person.email = Some(Email::parse(&format!("{n}@example.com")).unwrap());
    }
    roster.put_changes(&mut WriteBatch::new(), Day::of(UnixMillis(1_790_000_000_000))).unwrap();
    roster
}

/// Who is worked on, or has changed since, would be read back as they were.
#[test]
fn a_crowd_goes_but_for_whoever_is_in_use_or_changed() {
    let mut roster = filled(2 * CAPACITY + 1);
    assert!(roster.is_crowded());
    roster.edit(&id(1)).person.email = Some(Email::parse("new@example.com").unwrap());
    roster.let_go(|person| *person == id(0));
    let kept = |n| roster.get(&id(n)).is_some();
    assert_eq!((roster.len(), kept(0), kept(1), roster.is_crowded()), (2, true, true, false));
    assert!(roster.is_dirty());
}

#[test]
fn nobody_is_let_go_while_there_is_room() {
    let mut roster = filled(CAPACITY);
    roster.let_go(|_| false);
    assert_eq!((roster.len(), roster.is_crowded()), (CAPACITY, false));
}
