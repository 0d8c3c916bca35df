use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::brevo::identifiers::Email;
use crate::brevo::names::AttributeName;
use crate::record::{EntryId, Epoch};

use IdentityMode::{Original, Simplified};

fn at(index: u32) -> Position {
    Position { epoch: Epoch(1), entry: EntryId(1), index }
}

fn id(id: &str) -> PersonId {
    PersonId::from(id)
}

fn link(verb: Verb, from: &str, into: &str) -> Link {
    Link { verb, from: id(from), into: id(into) }
}

fn name(raw: &str) -> AttributeName {
    AttributeName::parse(raw).unwrap()
}

fn email(raw: &str) -> Option<Email> {
    Some(Email::parse(raw).unwrap())
}

fn merged(roster: &Roster, of: &str) -> Vec<String> {
    roster.get(&id(of)).unwrap().person.links.merged().map(|id| id.to_string()).collect()
}

#[test]
fn the_first_user_keeps_the_device() {
    let mut roster = Roster::default();
    assert!(roster.link(&link(Verb::Device, "$device:x", "u1"), at(1), Simplified).is_some());
    assert_eq!(roster.link(&link(Verb::Device, "$device:x", "u2"), at(2), Simplified), None);
    assert_eq!(roster.link(&link(Verb::Device, "$device:x", "u1"), at(3), Simplified), None);
    assert!(roster.link(&link(Verb::Device, "$device:y", "u1"), at(4), Simplified).is_some());
    assert_eq!(roster.canonical(&id("$device:x")), id("u1"));
    assert_eq!(roster.canonical(&id("u2")), id("u2"));
    assert_eq!(merged(&roster, "u1"), ["$device:x", "$device:y"]);
}

#[test]
fn a_visitor_is_identified_once() {
    let mut roster = Roster::default();
    assert!(roster.link(&link(Verb::Identify, "a", "u1"), at(1), Original).is_some());
    assert_eq!(roster.link(&link(Verb::Identify, "a", "u2"), at(2), Original), None);
    // Somebody whom others were merged into is no visitor.
    assert_eq!(roster.link(&link(Verb::Identify, "u1", "u2"), at(3), Original), None);
    assert!(roster.link(&link(Verb::Merge, "u1", "u2"), at(4), Original).is_some());
    assert_eq!(roster.canonical(&id("a")), id("u2"));
}

#[test]
fn chains_of_aliases_lead_to_one_person_and_rings_are_not_made() {
    let mut roster = Roster::default();
    assert!(roster.link(&link(Verb::Alias, "b", "a"), at(1), Original).is_some());
    assert!(roster.link(&link(Verb::Alias, "c", "b"), at(2), Original).is_some());
    assert!(roster.link(&link(Verb::Alias, "d", "c"), at(3), Original).is_some());
    assert_eq!(roster.link(&link(Verb::Alias, "a", "d"), at(4), Original), None);
    assert_eq!(roster.link(&link(Verb::Alias, "b", "z"), at(5), Original), None, "an alias stays where it is");
    for member in ["a", "b", "c", "d"] {
        assert_eq!(roster.canonical(&id(member)), id("a"));
    }
    assert_eq!(merged(&roster, "a"), ["b", "c", "d"]);
}

#[test]
fn a_person_has_at_most_500_ids_in_an_original_project() {
    let mut roster = Roster::default();
    for n in 1..MAX_CLUSTER {
        assert!(roster.link(&link(Verb::Alias, &format!("a{n}"), "u"), at(1), Original).is_some());
    }
    assert_eq!(roster.link(&link(Verb::Alias, "one more", "u"), at(2), Original), None);
    assert_eq!(roster.link(&link(Verb::Merge, "u", "v"), at(3), Original), None);
    // Devices are not counted, and not listed without end.
    let mut roster = Roster::default();
    for n in 0..MAX_CLUSTER + 10 {
        let merge = roster.link(&link(Verb::Device, &format!("$device:{n}"), "u"), at(1), Simplified).unwrap();
        roster.joined(&merge.from, &merge.into);
        assert_eq!(roster.retake(&merge.from, Simplified), None);
    }
    assert_eq!(merged(&roster, "u").len(), MAX_CLUSTER - 1);
    assert_eq!(roster.canonical(&id("$device:505")), id("u"));
}

#[test]
fn a_survivor_knows_what_it_knew_and_takes_the_rest() {
    let mut roster = Roster::default();
    let visitor = &mut roster.edit(&id("a")).person;
    visitor.attributes.extend([(name("PLAN"), json!("free")), (name("CITY"), json!("Rome"))]);
    visitor.email = email("visitor@example.com");
    roster.edit(&id("u")).person.attributes.insert(name("PLAN"), json!("pro"));
    roster.edit(&id("u")).person.contact = Contact::known(email("u@example.com"), true, None);
    roster.link(&link(Verb::Identify, "a", "u"), at(1), Original).unwrap();
    let user = roster.get(&id("u")).unwrap();
    assert_eq!(user.person.attributes[&name("PLAN")], json!("pro"));
    assert_eq!(user.person.attributes[&name("CITY")], json!("Rome"));
    assert_eq!(user.person.email, email("visitor@example.com"));
    let owed = user.debt.clone().unwrap();
    assert_eq!((owed.records, owed.identifiers), (0, true));
    assert_eq!(owed.attributes, BTreeSet::from([name("CITY")]));
    // The forward keeps its own fold.
    assert_eq!(roster.get(&id("a")).unwrap().person.attributes.len(), 2);
}

#[test]
fn a_devices_profile_is_not_carried_over_and_its_contact_is() {
    let mut roster = Roster::default();
    let device = &mut roster.edit(&id("$device:x")).person;
    device.attributes.insert(name("PLAN"), json!("free"));
    device.email = email("x@example.com");
    device.contact = Contact::known(email("x@example.com"), true, None);
    roster.link(&link(Verb::Device, "$device:x", "u"), at(1), Simplified).unwrap();
    assert!(roster.get(&id("u")).unwrap().person.attributes.is_empty());
    assert!(!roster.take_contact(&id("$device:x"), &id("u")));
    let user = &roster.get(&id("u")).unwrap().person;
    assert_eq!(user.email, email("x@example.com"));
    let Contact::Known { known_as, ext_id: true, .. } = &user.contact else { panic!("{:?}", user.contact) };
    assert_eq!(known_as.as_deref(), Some("$device:x"));
    assert_eq!(ext_id("u", &user.contact), "u");
}

#[test]
fn a_contact_keeps_the_id_of_an_account() {
    let known_as = |old: &str| {
        let contact = Contact::known(email("u@example.com"), true, None);
        let Contact::Known { email, ext_id, contact_id, phone, .. } = contact else { unreachable!() };
        Contact::Known { email, ext_id, known_as: Some(id(old)), contact_id, phone }
    };
    let uuid = "f47ac10b-58cc-4372-a567-0e02b2c3d479";
    for (canonical, old, expected) in
        [("u", "$device:x", "u"), ("u", uuid, "u"), ("u", "v", "v"), (uuid, "v", "v"), ("$device:x", uuid, uuid)]
    {
        assert_eq!(ext_id(canonical, &known_as(old)), expected);
    }
}

/// The first of the two writes of a merge, and a crash.
#[test]
fn what_one_write_has_left_undone_is_done_from_what_is_stored() {
    let mut roster = Roster::default();
    roster.edit(&id("$device:x")).person.links.into = Some(id("u"));
    roster.edit(&id("$device:x")).person.shelf.records = 1;
    roster.edit(&id("u"));
    let again = roster.link(&link(Verb::Device, "$device:x", "u"), at(2), Simplified);
    assert_eq!(again, Some(Merge { from: id("$device:x"), into: id("u") }));
    assert_eq!(merged(&roster, "u"), ["$device:x"]);
    assert!(roster.get(&id("u")).unwrap().person.links.is_joining());
    assert_eq!(roster.retake(&id("$device:x"), Simplified), None);
    // Once joined, there is nothing more to do, unless something came since.
    roster.joined(&id("$device:x"), &id("u"));
    roster.edit(&id("$device:x")).person.shelf.records = 0;
    assert_eq!(roster.retake(&id("$device:x"), Simplified), None);
    roster.edit(&id("$device:x")).owe(Debt::nothing());
    assert!(roster.retake(&id("$device:x"), Simplified).is_some());
}

#[test]
fn a_stored_ring_is_survived() {
    let mut roster = Roster::default();
    for (from, into) in [("c", "a"), ("a", "b"), ("b", "a")] {
        roster.edit(&id(from)).person.links.into = Some(id(into));
    }
    for member in ["a", "b", "c"] {
        assert_eq!(roster.canonical(&id(member)), id("a"));
        assert_eq!(roster.resolve(&id(member)), id("a"));
    }
    assert_eq!(roster.missing([id("c")].iter()), Vec::<PersonId>::new());
}

fn verbs() -> impl Strategy<Value = Verb> {
    prop_oneof![Just(Verb::Identify), Just(Verb::Alias), Just(Verb::Merge)]
}

proptest! {
    /// Whatever is linked in whatever order: two ids that are one person stay one, everyone has one canonical id which is
    /// its own, and that person lists everybody else.
    #[test]
    fn links_make_no_rings_and_part_nobody(links in prop::collection::vec((verbs(), 0u8..12, 0u8..12), 1..60)) {
        let mut roster = Roster::default();
        let mut together: Vec<(PersonId, PersonId)> = Vec::new();
        for (n, (verb, from, into)) in (0u32..).zip(links) {
            if from == into { continue; }
            let link = link(verb, &from.to_string(), &into.to_string());
            roster.edit(&link.from);
            roster.edit(&link.into);
            if let Some(merge) = roster.link(&link, at(n), Original) {
                together.push((link.from, link.into));
                if n % 3 == 0 { roster.joined(&merge.from, &merge.into); }
            }
            for (a, b) in &together {
                prop_assert_eq!(roster.canonical(a), roster.canonical(b));
            }
            for member in (0u8..12).map(|n| id(&n.to_string())) {
                let canonical = roster.canonical(&member);
                prop_assert_eq!(roster.canonical(&canonical), canonical.clone());
                prop_assert_eq!(roster.resolve(&member), canonical.clone());
                prop_assert!(member == canonical || merged(&roster, &canonical).contains(&member.to_string()));
            }
        }
    }

    /// Devices go to the first user that they are seen with, and no two users ever meet.
    #[test]
    fn users_never_become_one_in_a_simplified_project(pairs in prop::collection::vec((0u8..8, 0u8..5), 1..60)) {
        let mut roster = Roster::default();
        let mut first = std::collections::BTreeMap::new();
        for (n, (device, user)) in (0u32..).zip(pairs) {
            let link = link(Verb::Device, &format!("$device:{device}"), &format!("u{user}"));
            roster.link(&link, at(n), Simplified);
            first.entry(link.from).or_insert(link.into);
            for (device, user) in &first {
                prop_assert_eq!(&roster.canonical(device), user);
            }
            for user in (0u8..5).map(|n| id(&format!("u{n}"))) {
                prop_assert_eq!(roster.canonical(&user), user);
            }
        }
    }
}
