use proptest::prelude::*;

use super::*;
use crate::people::identity::Verb;
use crate::record::{EntryId, Epoch};

fn read(verb: Verb, from: &str, into: &str) -> Read {
    let link = Link { verb, from: from.into(), into: into.into() };
    Read { raw: link.clone(), known_as: link }
}

/// Takes all links as the leg does, one after the other.
fn leg(links: &[(Position, Read)], mode: IdentityMode, stored: &mut Roster) {
    for (at, link) in links {
        stored.link(&link.raw, *at, mode);
    }
}

/// Whoever is the same person as one of `ids`, by what is stored.
fn cluster(stored: &Roster, everybody: &[String], ids: &[String]) -> Vec<String> {
    let owners: BTreeSet<PersonId> = ids.iter().map(|id| stored.canonical(&id.as_str().into())).collect();
    let theirs = everybody.iter().filter(|id| owners.contains(&stored.canonical(&id.as_str().into())));
    theirs.chain(ids).cloned().collect::<BTreeSet<_>>().into_iter().collect()
}

/// What an erasure finds, round by round, as [`crate::erasure::unread`] goes about it.
fn found(
    sought: &str,
    unread: &[(Position, Read)],
    mode: IdentityMode,
    stored: &Roster,
    everybody: &[String],
) -> Vec<String> {
    let mut ids = cluster(stored, everybody, &[sought.to_owned()]);
    loop {
        let mut kin = Kin::of(ids.iter().map(String::as_str), mode);
        while unread.iter().fold(false, |grown, (_, link)| kin.notice(link) || grown) {
            if mode == IdentityMode::Simplified {
                break;
            }
            let near: Vec<String> = kin.near().map(ToString::to_string).collect();
            kin.know(cluster(stored, everybody, &near).iter().map(|id| id.as_str().into()));
        }
        let rows = |id: PersonId| (id.clone(), stored.get(&id).cloned().unwrap_or_default());
        kin.take_in(everybody.iter().map(|id| rows(id.as_str().into())).collect());
        kin.take(unread);
        let others = kin.others(&ids);
        if others.ids.is_empty() {
            return ids;
        }
        ids.extend(others.ids);
        ids = cluster(stored, everybody, &ids);
    }
}

fn everybody(mode: IdentityMode) -> Vec<String> {
    let devices = (0..6).map(|n| match mode {
        IdentityMode::Simplified => format!("$device:d{n}"),
        IdentityMode::Original => format!("d{n}"),
    });
    devices.chain((0..5).map(|n| format!("u{n}"))).collect()
}

fn a_link(mode: IdentityMode) -> impl Strategy<Value = Read> {
    let ids = everybody(mode);
    let (device, user, any) = (0..6usize, 6..11usize, 0..11usize);
    let verb = prop::sample::select(vec![Verb::Identify, Verb::Alias, Verb::Merge]);
    (device, user, any.clone(), any, verb).prop_map(move |(device, user, one, other, verb)| match (mode, verb) {
        (IdentityMode::Simplified, _) => read(Verb::Device, &ids[device], &ids[user]),
        (IdentityMode::Original, Verb::Identify) => read(verb, &ids[device], &ids[user]),
        (IdentityMode::Original, _) if one == other => read(verb, &ids[device], &ids[user]),
        (IdentityMode::Original, _) => read(verb, &ids[one], &ids[other]),
    })
}

fn positioned(links: Vec<Read>) -> Vec<(Position, Read)> {
    let at = |index| Position { epoch: Epoch(1), entry: EntryId(1), index };
    (0..).map(at).zip(links).collect()
}

proptest! {
    /// However much of the links has been read: who is found is who would have been one person with them once all was read.
    #[test]
    fn core_12_an_erasure_finds_whom_the_leg_would_have_linked(
        (mode, links) in prop::sample::select(vec![IdentityMode::Simplified, IdentityMode::Original])
            .prop_flat_map(|mode| (Just(mode), prop::collection::vec(a_link(mode), 1..20))),
        read_by_leg in 0..20usize,
        sought in 0..11usize,
    ) {
        let (everybody, links) = (everybody(mode), positioned(links));
        let (read, unread) = links.split_at(read_by_leg.min(links.len()));
        let mut stored = Roster::default();
        leg(read, mode, &mut stored);
        let found = found(&everybody[sought], unread, mode, &stored, &everybody);
        leg(unread, mode, &mut stored);
        prop_assert_eq!(found, cluster(&stored, &everybody, &[everybody[sought].clone()]));
    }
}

#[test]
fn a_device_that_everybody_uses_leads_to_its_first_user_only() {
    let mode = IdentityMode::Simplified;
    let of = |user: usize| read(Verb::Device, "$device:kiosk", &format!("u{user}"));
    let links = positioned((0..5).map(of).collect());
    for (sought, theirs) in [("u0", vec!["$device:kiosk", "u0"]), ("u3", vec!["u3"])] {
        assert_eq!(found(sought, &links, mode, &Roster::default(), &everybody(mode)), theirs, "{sought}");
    }
}

#[test]
fn ids_beside_the_person_are_bounded_and_whoever_is_found_makes_room() {
    let mode = IdentityMode::Simplified;
    let devices = MAX_NEAR + 500;
    let of = |device: usize| read(Verb::Device, &format!("$device:{device}"), "ada");
    let links = positioned((0..devices).map(of).collect());
    let mut ids = vec!["ada".to_owned()];
    for expected in [MAX_NEAR, 500, 0] {
        let mut kin = Kin::of(ids.iter().map(String::as_str), mode);
        let grown = links.iter().fold(false, |grown, (_, link)| kin.notice(link) || grown);
        assert_eq!(grown, expected > 0);
        assert_eq!(kin.is_full(), expected == MAX_NEAR);
        let missing = kin.missing(&links);
        kin.take_in(missing.into_iter().map(|id| (id, Resident::default())).collect());
        kin.take(&links);
        let others = kin.others(&ids).ids;
        assert_eq!(others.len(), expected);
        ids.extend(others);
    }
}
