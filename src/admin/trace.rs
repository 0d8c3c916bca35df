//! `GET /v1/trace`: what became of records, found by their `$insert_id`, a distinct_id or an address; or of the last ones.
//!
//! The journal's tail is read from its end, a bounded piece for each request; `next` says where the following one begins.
//! Nothing is kept for it besides what is kept anyway: how a record stands is read from where it would be counted.

use std::collections::{BTreeMap, BTreeSet};

use axum::Extension;
use axum::extract::State as Extract;
use axum::response::Response;
use memchr::memmem::Finder;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Parts;
use super::answers::AdminError;
use super::extract::QueryString;
use super::mask;
use super::sight::Sight;
use crate::delivery::checkpoint::Checkpoint;
use crate::delivery::dead_letters::{self, DeadLetterId, replay};
use crate::mapping::{Came, preview_again};
use crate::mixpanel::keys;
use crate::people::address_book::{self, Sought};
use crate::people::roster::{self, PersonId, Roster};
use crate::people::{erase, shelf};
use crate::record::{Destination, EntryId, Kind, Position, Record};
use crate::settlement::SkipRule;
use crate::store::StoreError;
use crate::store::backwards::Backwards;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;
/// Decoded bytes that one request looks at, about.
const MOST_BYTES: usize = 64 << 20;
const KINDS: [&str; 3] = ["event", "profile", "group"];

#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    insert_id: Option<String>,
    distinct_id: Option<String>,
    email: Option<String>,
    /// Only records of this kind, and events of this name.
    kind: Option<String>,
    event: Option<String>,
    limit: Option<usize>,
    /// `next` of the answer before.
    cursor: Option<String>,
}

#[derive(Serialize)]
pub struct Traced {
    /// All ids that are known to be the person's, where one was asked for.
    distinct_ids: BTreeSet<String>,
    items: Vec<Item>,
    /// Where older records are looked for; null: there are none.
    next: Option<String>,
}

#[derive(Serialize)]
struct Item {
    position: String,
    kind: &'static str,
    origin: crate::record::Origin,
    received_at: String,
    record: Value,
    destinations: BTreeMap<&'static str, Value>,
}

/// Whose records are looked for.
enum Wanted {
    Anybody,
    InsertId(String),
    /// Records of any of these ids, without `$device:`.
    People(BTreeSet<String>),
}

pub async fn trace(
    Extract(parts): Extract<Parts>,
    Extension(sight): Extension<Sight>,
    QueryString(asked): QueryString<Asked>,
) -> Result<Response, AdminError> {
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let mut backwards = match &asked.cursor {
        Some(cursor) => Backwards::below(parts.journal.clone(), before(cursor)?),
        None => Backwards::new(parts.journal.clone()),
    };
    let (wanted, distinct_ids) = wanted(&parts, &asked).await?;
    let look = Look::new(&wanted, &asked)?;
    let standing = Standing::load(&parts).await?;
    let (mut items, mut bytes) = (Vec::new(), 0);
    let next = 'looked: loop {
        let entries = backwards.next().await?;
        if entries.is_empty() {
            break None;
        }
        for entry in entries {
            for (index, record) in entry.records.iter().enumerate().rev() {
                bytes += record.body.len();
                if look.finds(record) {
                    items.push(standing.item(&parts, entry.position(index), record).await?);
                }
            }
            if items.len() >= limit || bytes >= MOST_BYTES {
                break 'looked Some(entry.id.0.to_string());
            }
        }
        tokio::task::yield_now().await;
    };
    sight.noted(&parts.state, parts.clock.now(), "records").await?;
    Ok(sight.answer(&Traced { distinct_ids, items, next }, mask::traced)?)
}

fn before(cursor: &str) -> Result<EntryId, AdminError> {
    let entry = cursor.parse().map(EntryId);
    entry.map_err(|_| AdminError::invalid("cursor: not one of ours".to_owned(), "use `next` of the answer before"))
}

async fn wanted(parts: &Parts, asked: &Asked) -> Result<(Wanted, BTreeSet<String>), AdminError> {
    let id = match (&asked.insert_id, &asked.distinct_id, &asked.email) {
        (Some(insert_id), None, None) => return Ok((Wanted::InsertId(insert_id.clone()), BTreeSet::new())),
        (None, Some(id), None) => id.clone(),
        (None, None, Some(email)) => {
            let sought = Sought { contact_id: None, ext_id: None, address: Some(email.trim().to_lowercase()) };
            match address_book::find(&parts.state, &sought).await? {
                Some(id) => id.to_string(),
                None => {
                    let message = "no person with this address has passed the relay".to_owned();
                    return Err(AdminError::not_found(message, "look for their distinct_id"));
                }
            }
        }
        (None, None, None) => return Ok((Wanted::Anybody, BTreeSet::new())),
        _ => {
            let message = "what is looked for?".to_owned();
            return Err(AdminError::invalid(message, "give one of insert_id, distinct_id and email, or none of them"));
        }
    };
    let ids: BTreeSet<String> = erase::cluster(&parts.state, &[id]).await?.into_iter().collect();
    Ok((Wanted::People(ids.iter().map(|id| bare(id).to_owned()).collect()), ids))
}

fn bare(id: &str) -> &str {
    id.strip_prefix("$device:").unwrap_or(id)
}

/// Finds records quickly: only those whose bytes hold what is looked for are parsed.
struct Look<'a> {
    wanted: &'a Wanted,
    kind: Option<&'a str>,
    event: Option<&'a str>,
    /// `None`: a text that can be written in several ways; everything is parsed.
    finders: Option<Vec<Finder<'a>>>,
}

impl<'a> Look<'a> {
    fn new(wanted: &'a Wanted, asked: &'a Asked) -> Result<Self, AdminError> {
        let kind = asked.kind.as_deref();
        if let Some(unknown) = kind.filter(|kind| !KINDS.contains(kind)) {
            return Err(AdminError::invalid(format!("kind: no {unknown}"), "event, profile and group are the kinds"));
        }
        let texts: Vec<&str> = match wanted {
            Wanted::Anybody => Vec::new(),
            Wanted::InsertId(id) => vec![id],
            Wanted::People(ids) => ids.iter().map(String::as_str).collect(),
        };
        let plain = |text: &&str| text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'/'));
        let sought = !texts.is_empty() && texts.iter().all(plain);
        let finders = sought.then(|| texts.iter().map(|text| Finder::new(*text)).collect());
        Ok(Self { wanted, kind, event: asked.event.as_deref(), finders })
    }

    fn finds(&self, record: &Record) -> bool {
        let holds = |finders: &Vec<Finder<'_>>| finders.iter().any(|finder| finder.find(&record.body).is_some());
        if record.is_erased()
            || self.kind.is_some_and(|kind| kind != record.kind.label())
            || !self.finders.as_ref().is_none_or(holds)
        {
            return false;
        }
        let theirs = match self.wanted {
            Wanted::Anybody => true,
            Wanted::InsertId(wanted) => insert_id(record).is_some_and(|id| id == *wanted),
            Wanted::People(ids) => keys::people(record.kind, &record.body).iter().any(|id| ids.contains(bare(id))),
        };
        theirs && self.event.is_none_or(|wanted| event(record).is_some_and(|name| name == wanted))
    }
}

fn event(record: &Record) -> Option<String> {
    let body: Value = serde_json::from_slice(&record.body).ok()?;
    body["event"].as_str().map(str::to_owned)
}

fn insert_id(record: &Record) -> Option<String> {
    let body: Value = serde_json::from_slice(&record.body).ok()?;
    body["properties"]["$insert_id"].as_str().map(str::to_owned)
}

/// How far each leg is.
struct Standing {
    checkpoints: Vec<(Destination, Checkpoint)>,
}

impl Standing {
    async fn load(parts: &Parts) -> Result<Self, StoreError> {
        let mut checkpoints = Vec::new();
        for destination in Destination::ALL {
            let checkpoint = Checkpoint::load(&parts.state, destination).await?;
            checkpoints.push((destination, checkpoint));
        }
        Ok(Self { checkpoints })
    }

    async fn item(&self, parts: &Parts, position: Position, record: &Record) -> Result<Item, StoreError> {
        let mut destinations = BTreeMap::new();
        for (destination, checkpoint) in &self.checkpoints {
            let mut standing = standing(parts, *destination, checkpoint, position, record).await?;
            if *destination == Destination::Brevo {
                // As it would have been judged when it came; the mapping is the one in force.
                let body = String::from_utf8_lossy(&record.body);
                let mapping = parts.mapping.now().mapping.clone();
                let came = Came { at: record.received_at, origin: record.origin };
                standing["mapping"] = preview_again(&body, &mapping, came, Some(record.received_at));
            }
            destinations.insert(destination.label(), standing);
        }
        Ok(Item {
            position: position.to_string(),
            kind: record.kind.label(),
            origin: record.origin,
            received_at: record.received_at.to_string(),
            record: serde_json::from_slice(&record.body).unwrap_or(Value::Null),
            destinations,
        })
    }
}

async fn standing(
    parts: &Parts,
    destination: Destination,
    checkpoint: &Checkpoint,
    position: Position,
    record: &Record,
) -> Result<Value, StoreError> {
    if !record.destinations.contains(destination) {
        let rule = SkipRule::NotForThisDestination;
        return Ok(json!({ "outcome": "skipped", "rule": rule.label(), "explanation": rule.explanation() }));
    }
    let id = DeadLetterId { destination, position };
    if let Some((_, letter, _)) = dead_letters::get(&parts.state, &[id]).await?.into_iter().next() {
        return Ok(json!({
            "outcome": "dead", "reason": letter.reason.label(), "answer": letter.answer,
            "at": letter.died_at.to_string(), "dead_letter": id.to_string(),
        }));
    }
    if let Some(letter) = replay::find(&parts.state, id).await? {
        let at = letter.replay.map(|replay| replay.at.to_string());
        return Ok(json!({ "outcome": "backlog", "why": "its dead letter is sent again", "at": at }));
    }
    // The leg writes its progress down several times a second.
    if position >= checkpoint.cursor && !checkpoint.settled.iter().any(|range| range.contains(position)) {
        return Ok(json!({ "outcome": "backlog", "why": "it has not been settled yet" }));
    }
    if destination == Destination::Brevo {
        if let Some(waiting) = shelf::at(&parts.state, position).await? {
            let why = "it waits on its person's shelf: for an address, a value, or a contact that is busy";
            return Ok(json!({ "outcome": "parked", "why": why, "distinct_id": waiting.person }));
        }
        if owed(parts, position, record).await? {
            return Ok(json!({ "outcome": "backlog", "why": "it is folded, and its person is owed a write" }));
        }
    }
    Ok(json!({ "outcome": "settled" }))
}

/// Whether the person of a profile update is owed something since it or before.
async fn owed(parts: &Parts, position: Position, record: &Record) -> Result<bool, StoreError> {
    if record.kind != Kind::Profile {
        return Ok(false);
    }
    let Some(id) = keys::people(record.kind, &record.body).into_iter().next().map(|id| PersonId::from(id.as_str()))
    else {
        return Ok(false);
    };
    let mut roster = Roster::default();
    roster.take_in(roster::load(&parts.state, vec![id.clone()]).await?);
    let owed = roster.get(&roster.canonical(&id)).and_then(|resident| resident.owed());
    Ok(owed.is_some_and(|debt| debt.records > 0 && debt.since <= position))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::record::{Destinations, Origin, Project};

    #[test]
    fn records_are_found_however_their_ids_are_written() {
        let record = |kind, body: &str| Record {
            kind,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: UnixMillis(1),
            body: body.to_owned().into(),
        };
        let event = record(
            Kind::Event,
            r#"{"event":"e","properties":{"distinct_id":"$device:d","$insert_id":"i-1","note":"u"}}"#,
        );
        let escaped = record(Kind::Profile, r#"{"$distinct_id":"J\u00f6rg","$set":{}}"#);
        let finds = |wanted: Wanted, record: &Record| Look::new(&wanted, &Asked::default()).unwrap().finds(record);
        let only = |kind: &str, event: Option<&str>, record: &Record| {
            let asked = Asked { kind: Some(kind.to_owned()), event: event.map(str::to_owned), ..Asked::default() };
            Look::new(&Wanted::Anybody, &asked).unwrap().finds(record)
        };
        let people = |ids: &[&str]| Wanted::People(ids.iter().map(|id| (*id).to_owned()).collect());
        assert!(finds(Wanted::InsertId("i-1".to_owned()), &event));
        assert!(finds(Wanted::Anybody, &event) && only("event", Some("e"), &event) && only("profile", None, &escaped));
        assert!(!only("event", Some("f"), &event) && !only("group", None, &event) && !only("event", None, &escaped));
        assert!(!finds(Wanted::InsertId("i".to_owned()), &event), "a part of an id is another");
        assert!(finds(people(&["x", "d"]), &event));
        assert!(!finds(people(&["u"]), &event), "a property is nobody's id");
        assert!(finds(people(&["Jörg"]), &escaped));
        assert!(
            !finds(people(&["d"]), &Record { body: bytes::Bytes::new(), ..event }),
            "an erased one is found by nobody"
        );
    }
}
