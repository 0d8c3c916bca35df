//! What a record asks for at Brevo, before anything is known of its person. Pure.

use std::time::Duration;

use super::companies::{GroupWish, group_wish};
use crate::config::IdentityMode;
use crate::mapping::membership::{self, Belonging};
use crate::mapping::{
    CompiledMapping, DedupKey, EventDecision, EventView, GroupOp, MappedEvent, ProfileChange, ProfileDecision,
    ProfileView, dataset_of, dedup_key, echo_key, map_event, map_profile, map_row,
};
use crate::people::company::GroupId;
use crate::people::identity::{self, Link};
use crate::people::roster::PersonId;
use crate::record::{Kind, Origin, Record};
use crate::settlement::SkipRule;

/// The keys by which an event is known in the dedup window: its own, and the one that it has in what Mixpanel gives back.
pub type DedupKeys = [Option<DedupKey>; 2];

/// All of it: the link is kept even where nothing of the record is sent.
#[derive(Debug)]
pub struct Intake {
    pub link: Option<Link>,
    pub wish: Wish,
    /// Which groups the record says that somebody is in; kept likewise.
    pub groups: Option<Box<(PersonId, Vec<Belonging>)>>,
}

#[derive(Debug)]
pub enum Wish {
    Skip(SkipRule),
    Event {
        person: PersonId,
        event: MappedEvent,
        ids: DedupKeys,
    },
    Profile {
        person: PersonId,
        change: ProfileChange,
        /// For this very id, whomever it has been merged into (`$ignore_alias`).
        literal: bool,
    },
    Group {
        group: GroupId,
        ops: Vec<GroupOp>,
    },
    /// The stored body cannot be read: a fault of ours.
    Unreadable(String),
}

impl Intake {
    /// Everyone whom the record names, before any forward.
    pub fn people(&self) -> impl Iterator<Item = &PersonId> {
        let person = match &self.wish {
            Wish::Event { person, .. } | Wish::Profile { person, .. } => Some(person),
            Wish::Group { .. } | Wish::Skip(_) | Wish::Unreadable(_) => None,
        };
        let linked = self.link.iter().flat_map(|link| [&link.from, &link.into]);
        let member = self.groups.as_ref().map(|groups| &groups.0);
        person.into_iter().chain(linked).chain(member)
    }

    /// The person whom the record is about, before any forward.
    pub fn named<'a>(wish: &'a Wish, link: Option<&'a Link>) -> Option<&'a PersonId> {
        match wish {
            Wish::Event { person, .. } | Wish::Profile { person, .. } => Some(person),
            Wish::Group { .. } | Wish::Skip(_) | Wish::Unreadable(_) => link.map(|link| &link.into),
        }
    }

    pub fn group(&self) -> Option<&GroupId> {
        match &self.wish {
            Wish::Group { group, .. } => Some(group),
            _ => None,
        }
    }
}

pub fn intake(record: &Record, mapping: &CompiledMapping, mode: IdentityMode) -> Intake {
    let only = |wish| Intake { link: None, wish, groups: None };
    let body = match mapping.visible(record.kind, &record.body) {
        Ok(Some(body)) => body,
        Ok(None) => return only(Wish::Skip(SkipRule::Private)),
        Err(error) => return only(Wish::Unreadable(error.to_string())),
    };
    let dataset = dataset(record);
    let record = &Record { body, ..record.clone() };
    only(match record.kind {
        Kind::Event | Kind::Identity => return event(record, mapping, mode),
        Kind::Profile => return profile(record, dataset.as_deref(), mapping),
        Kind::Group => group(record, mapping),
    })
}

fn event(record: &Record, mapping: &CompiledMapping, mode: IdentityMode) -> Intake {
    let view = match EventView::parse(&record.body) {
        Ok(view) => view,
        Err(error) => return Intake { link: None, wish: Wish::Unreadable(error.to_string()), groups: None },
    };
    let mut decision = map_event(&view, mapping, record.received_at);
    if let (EventDecision::Send(event), true) = (&mut decision, record.origin.triggers_automations()) {
        // Asked for, however old it is.
        event.stale_after = Duration::MAX;
    }
    let wish = match decision {
        EventDecision::Send(event) => match identity::person(&view, mode) {
            Some(person) => {
                Wish::Event { person: PersonId::from(person), event, ids: dedup_keys(&view, record.origin) }
            }
            None => Wish::Skip(SkipRule::NoPerson),
        },
        EventDecision::Skip(rule) => Wish::Skip(rule),
    };
    let person = || identity::person(&view, mode).map(PersonId::from);
    let groups = belongings(membership::of_event(&view, mapping), person);
    Intake { link: identity::link(&view, mode), wish, groups }
}

fn dedup_keys(view: &EventView<'_>, origin: Origin) -> DedupKeys {
    match origin {
        Origin::MixpanelStream => [echo_key(view), None],
        _ => [dedup_key(view), echo_key(view)],
    }
}

fn belongings(
    groups: Vec<Belonging>,
    person: impl Fn() -> Option<PersonId>,
) -> Option<Box<(PersonId, Vec<Belonging>)>> {
    if groups.is_empty() { None } else { person().map(|person| Box::new((person, groups))) }
}

/// The data set that the record is a row of. No app can say so.
fn dataset(record: &Record) -> Option<String> {
    if record.origin == Origin::Dataset { dataset_of(&record.body) } else { None }
}

/// `dataset`: whose row it is, if it is one.
fn profile(record: &Record, dataset: Option<&str>, mapping: &CompiledMapping) -> Intake {
    let view = match ProfileView::parse(&record.body) {
        Ok(view) => view,
        Err(error) => return Intake { link: None, wish: Wish::Unreadable(error.to_string()), groups: None },
    };
    let person = || {
        let id = view.distinct_id.as_deref().filter(|id| identity::names_somebody(id));
        id.map(PersonId::from)
    };
    // Columns of a data set are no group's properties.
    let said = if dataset.is_some() { Vec::new() } else { membership::of_profile(&view, mapping) };
    let groups = belongings(said, person);
    Intake { link: None, wish: profile_wish(view, dataset, mapping), groups }
}

/// Whose profile the record updates, whatever it does there.
pub fn person_of_profile(record: &Record) -> Option<PersonId> {
    let view = ProfileView::parse(&record.body).ok()?;
    view.distinct_id.filter(|id| identity::names_somebody(id)).map(PersonId::from)
}

fn profile_wish(view: ProfileView<'_>, dataset: Option<&str>, mapping: &CompiledMapping) -> Wish {
    let decision = match dataset {
        Some(dataset) => map_row(dataset, &view, mapping),
        None => map_profile(&view, mapping),
    };
    let change = match decision {
        ProfileDecision::Change(change) => change,
        ProfileDecision::Skip(rule) => return Wish::Skip(rule),
    };
    match view.distinct_id.filter(|id| identity::names_somebody(id)) {
        Some(person) => Wish::Profile { person: PersonId::from(person), change, literal: view.ignore_alias },
        None => Wish::Skip(SkipRule::NoPerson),
    }
}

fn group(record: &Record, mapping: &CompiledMapping) -> Wish {
    match group_wish(record, mapping) {
        GroupWish::Change { group, ops } => Wish::Group { group, ops },
        GroupWish::Skip(rule) => Wish::Skip(rule),
        GroupWish::Unreadable(reason) => Wish::Unreadable(reason),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::clock::UnixMillis;
    use crate::config::{Mapping, Sync};
    use crate::record::{Destinations, Origin, Project};

    fn read(body: &serde_json::Value, sync: Sync) -> Intake {
        let mapping = CompiledMapping::compile(&Mapping::default(), sync).unwrap();
        let record = Record {
            kind: Kind::Event,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: UnixMillis(1),
            body: Bytes::from(body.to_string()),
        };
        intake(&record, &mapping, IdentityMode::Simplified)
    }

    #[test]
    fn a_link_is_kept_whatever_becomes_of_the_event() {
        let pair = json!({"event": "Unmapped", "properties": {"$device_id": "x", "$user_id": "u"}});
        for sync in [Sync::default(), Sync { events: false, ..Sync::default() }] {
            let intake = read(&pair, sync);
            assert!(matches!(intake.wish, Wish::Skip(_)));
            let named: Vec<_> = intake.people().map(|id| id.to_string()).collect();
            assert_eq!(named, ["$device:x", "u"]);
        }
    }
}
