//! The groups that a person is in, and which of it Brevo's companies know. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{GroupId, group_id};
use crate::mapping::membership::Belonging;

/// Groups remembered of one person. More say that the key is none of groups.
const MOST: usize = 200;

/// By group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memberships(BTreeMap<GroupId, Membership>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Membership {
    member: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// Known to nobody but this person.
    New,
    /// In the line of the company's links.
    Listed,
    /// The company has it so.
    Done,
}

impl Memberships {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in what a record says. Said twice, it changes nothing.
    pub fn take(&mut self, belongings: &[Belonging]) {
        for belonging in belongings {
            match belonging {
                Belonging::Joins { key, ids } => ids.iter().for_each(|id| self.set(group_id(key, id), true)),
                Belonging::Leaves { key, ids } => ids.iter().for_each(|id| self.set(group_id(key, id), false)),
                Belonging::Only { key, ids } => {
                    let only: Vec<GroupId> = ids.iter().map(|id| group_id(key, id)).collect();
                    let prefix = group_id(key, "");
                    let of_key = |group: &&GroupId| group.starts_with(prefix.trim_end_matches("\"]"));
                    let others = self.0.keys().filter(of_key).filter(|group| !only.contains(group));
                    let left: Vec<GroupId> = others.cloned().collect();
                    left.into_iter().for_each(|group| self.set(group, false));
                    only.into_iter().for_each(|group| self.set(group, true));
                }
            }
        }
    }

    fn set(&mut self, group: GroupId, member: bool) {
        let room = self.0.len() < MOST;
        match self.0.get_mut(&group) {
            Some(known) if known.member == member => {}
            Some(Membership { member: known, stage: Stage::New | Stage::Listed }) => *known = member,
            Some(known) => *known = Membership { member, stage: Stage::New },
            None if room => drop(self.0.insert(group, Membership { member, stage: Stage::New })),
            None => {}
        }
    }

    /// All of them, left ones that the company still has included.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.0.keys().cloned()
    }

    /// Whether any company is still to be told.
    pub fn owe(&self) -> bool {
        self.0.values().any(|membership| membership.stage != Stage::Done)
    }

    /// Whether anything is in no line yet.
    pub fn has_new(&self) -> bool {
        self.0.values().any(|membership| membership.stage == Stage::New)
    }

    /// Those that are in no line yet; they are from now on.
    pub fn list(&mut self) -> Vec<GroupId> {
        let new = self.0.iter_mut().filter(|(_, membership)| membership.stage == Stage::New);
        new.map(|(group, membership)| {
            membership.stage = Stage::Listed;
            group.clone()
        })
        .collect()
    }

    /// What the group's company is to be told: whether the person is in it.
    pub fn owed(&self, group: &str) -> Option<bool> {
        self.0.get(group).filter(|membership| membership.stage != Stage::Done).map(|membership| membership.member)
    }

    /// The company has been told that, or cannot be: it is out of the line.
    pub fn settle(&mut self, group: &str, told: bool) {
        let Some(membership) = self.0.get_mut(group) else { return };
        if membership.member != told {
            membership.stage = Stage::New;
        } else if told {
            membership.stage = Stage::Done;
        } else {
            self.0.remove(group);
        }
    }

    /// Joins another id's of the same person: what is known here counts.
    pub fn join(&mut self, other: Memberships) {
        for (group, membership) in other.0 {
            // The other's place in the line is under another id.
            let stage = if membership.stage == Stage::Listed { Stage::New } else { membership.stage };
            self.0.entry(group).or_insert(Membership { stage, ..membership });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    fn joins(of: &[&str]) -> Belonging {
        Belonging::Joins { key: "k".to_owned(), ids: ids(of) }
    }

    fn only(of: &[&str]) -> Belonging {
        Belonging::Only { key: "k".to_owned(), ids: ids(of) }
    }

    #[test]
    fn what_is_said_again_is_not_owed_again() {
        let mut groups = Memberships::default();
        groups.take(&[joins(&["a"])]);
        assert_eq!(groups.list(), [group_id("k", "a")]);
        groups.settle(&group_id("k", "a"), true);
        groups.take(&[joins(&["a"]), only(&["a"])]);
        assert!(!groups.has_new() && groups.owed(&group_id("k", "a")).is_none());
    }

    #[test]
    fn a_profiles_list_takes_out_of_the_others_of_its_key_alone() {
        let mut groups = Memberships::default();
        groups.take(&[joins(&["a", "b"]), Belonging::Joins { key: "kk".to_owned(), ids: ids(&["a"]) }]);
        groups.list();
        for group in [group_id("k", "a"), group_id("k", "b"), group_id("kk", "a")] {
            groups.settle(&group, true);
        }
        groups.take(&[only(&["b", "c"])]);
        assert_eq!(groups.list(), [group_id("k", "a"), group_id("k", "c")]);
        assert_eq!((groups.owed(&group_id("k", "a")), groups.owed(&group_id("k", "c"))), (Some(false), Some(true)));
        groups.settle(&group_id("k", "a"), false);
        assert_eq!(groups.owed(&group_id("k", "a")), None);
    }

    #[test]
    fn what_changes_while_it_is_told_is_told_again() {
        let mut groups = Memberships::default();
        groups.take(&[joins(&["a"])]);
        groups.list();
        groups.take(&[only(&[])]);
        assert_eq!(groups.list(), [], "it is in the line already");
        groups.settle(&group_id("k", "a"), true);
        assert_eq!((groups.list(), groups.owed(&group_id("k", "a"))), (vec![group_id("k", "a")], Some(false)));
    }

    #[test]
    fn joined_ids_have_all_groups_of_both() {
        let (mut one, mut other) = (Memberships::default(), Memberships::default());
        one.take(&[joins(&["a"])]);
        other.take(&[joins(&["a", "b"])]);
        other.list();
        one.list();
        one.settle(&group_id("k", "a"), true);
        one.join(other);
        assert_eq!(one.list(), [group_id("k", "b")]);
    }
}
