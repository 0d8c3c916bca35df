//! What a record asks for at Brevo, before anything is known of its person. Pure.

use std::borrow::Cow;

use crate::config::IdentityMode;
use crate::mapping::{
    CompiledMapping, EventDecision, EventView, MappedEvent, ProfileChange, ProfileDecision, ProfileView, dedup_key,
    map_event, map_profile,
};
use crate::people::roster::PersonId;
use crate::record::{Kind, Record};
use crate::settlement::SkipRule;

/// Key of the dedup window.
pub type DedupKey = [u8; 16];

#[derive(Debug)]
pub enum Wish {
    Skip(SkipRule),
    Event {
        person: PersonId,
        event: MappedEvent,
        own_id: Option<DedupKey>,
    },
    Profile {
        person: PersonId,
        change: ProfileChange,
    },
    /// To the shelf of whoever it is about: the relay keeps it until it can act on it.
    Keep {
        person: PersonId,
    },
    /// The stored body cannot be read: a fault of ours.
    Unreadable(String),
}

impl Wish {
    pub fn person(&self) -> Option<&PersonId> {
        match self {
            Wish::Event { person, .. } | Wish::Profile { person, .. } | Wish::Keep { person } => Some(person),
            Wish::Skip(_) | Wish::Unreadable(_) => None,
        }
    }
}

pub fn wish(record: &Record, mapping: &CompiledMapping, mode: IdentityMode) -> Wish {
    let body = match mapping.visible(record.kind, &record.body) {
        Ok(Some(body)) => body,
        Ok(None) => return Wish::Skip(SkipRule::Private),
        Err(error) => return Wish::Unreadable(error.to_string()),
    };
    let record = &Record { body, ..record.clone() };
    match record.kind {
        Kind::Event | Kind::Identity => event(record, mapping, mode),
        Kind::Profile => profile(record, mapping),
        Kind::Group if mapping.sync.groups => group(record),
        Kind::Group => Wish::Skip(SkipRule::GroupsOff),
    }
}

fn event(record: &Record, mapping: &CompiledMapping, mode: IdentityMode) -> Wish {
    let view = match EventView::parse(&record.body) {
        Ok(view) => view,
        Err(error) => return Wish::Unreadable(error.to_string()),
    };
    let event = match map_event(&view, mapping, record.received_at) {
        EventDecision::Send(event) => event,
        EventDecision::Skip(rule) => return Wish::Skip(rule),
    };
    match canonical(&view, mode) {
        Some(person) => Wish::Event { person: PersonId::from(person), event, own_id: dedup_key(&view) },
        None => Wish::Skip(SkipRule::NoPerson),
    }
}

/// Whom Mixpanel counts the event for, as far as the event alone says (contract §6): in simplified projects `$user_id`
/// wins and a device stands for itself; in original ones `distinct_id` does.
fn canonical<'a>(view: &'a EventView<'_>, mode: IdentityMode) -> Option<Cow<'a, str>> {
    let borrowed = |id: &'a Option<Cow<'_, str>>| id.as_deref().map(Cow::Borrowed);
    let device = || view.device_id.as_deref().map(device_person);
    match mode {
        IdentityMode::Simplified => borrowed(&view.user_id).or_else(|| borrowed(&view.distinct_id)).or_else(device),
        IdentityMode::Original => borrowed(&view.distinct_id).or_else(|| borrowed(&view.user_id)).or_else(device),
    }
}

fn device_person(device: &str) -> Cow<'_, str> {
    if device.starts_with("$device:") { Cow::Borrowed(device) } else { Cow::Owned(format!("$device:{device}")) }
}

fn profile(record: &Record, mapping: &CompiledMapping) -> Wish {
    let view = match ProfileView::parse(&record.body) {
        Ok(view) => view,
        Err(error) => return Wish::Unreadable(error.to_string()),
    };
    let change = match map_profile(&view, mapping) {
        ProfileDecision::Change(change) => change,
        ProfileDecision::Skip(rule) => return Wish::Skip(rule),
    };
    match view.distinct_id {
        Some(person) => Wish::Profile { person: PersonId::from(person), change },
        None => Wish::Skip(SkipRule::NoPerson),
    }
}

/// Groups have shelves too, under a name that no person can have: ids hold no control characters in front.
fn group(record: &Record) -> Wish {
    match crate::mapping::GroupView::parse(&record.body) {
        Ok(view) => match (view.group_key, view.group_id) {
            (Some(key), Some(id)) => Wish::Keep { person: PersonId::from(format!("\u{1}group {key} {id}")) },
            _ => Wish::Skip(SkipRule::NoPerson),
        },
        Err(error) => Wish::Unreadable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(body: &str, mode: IdentityMode) -> Option<String> {
        let view = EventView::parse(body.as_bytes()).unwrap();
        canonical(&view, mode).map(Cow::into_owned)
    }

    #[test]
    fn the_person_of_an_event_follows_the_projects_mode() {
        let body = r#"{"event":"e","properties":{"distinct_id":"d","$user_id":"u","$device_id":"x"}}"#;
        assert_eq!(person(body, IdentityMode::Simplified).as_deref(), Some("u"));
        assert_eq!(person(body, IdentityMode::Original).as_deref(), Some("d"));
        let device = r#"{"event":"e","properties":{"$device_id":"x"}}"#;
        assert_eq!(person(device, IdentityMode::Simplified).as_deref(), Some("$device:x"));
        assert_eq!(person(r#"{"event":"e","properties":{}}"#, IdentityMode::Original), None);
    }
}
