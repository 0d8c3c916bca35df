//! `GET /v1/trace`: what became of records, found by their `$insert_id`, a distinct_id or an address; or of the last ones.
//!
//! The journal's tail is read from its end, a bounded piece for each request, less what its filters tell to hold nothing of
//! what is looked for; `next` says where the following one begins. How
//! a record ended is in `delivery::history`, and how it waits is read from where it is counted.

mod look;
pub(crate) mod standing;

use std::collections::{BTreeMap, BTreeSet};

use axum::Extension;
use axum::extract::State as Extract;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::look::{Look, Wanted, bare};
use self::standing::{Standing, mapped};
use super::Parts;
use super::answers::AdminError;
use super::extract::QueryString;
use super::mask;
use super::sight::Sight;
use crate::delivery::history::{Sifted, Step};
use crate::people::address_book::{self, Sought};
use crate::people::erase;
use crate::record::{Destination, EntryId, Position, Record};
use crate::settlement::SkipRule;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;
/// Decoded bytes that one request looks at, about.
const MOST_BYTES: usize = 64 << 20;
const OUTCOMES: [&str; 6] = ["delivered", "skipped", "parked", "dead", "backlog", "settled"];
/// Records of which one request finds out how they stand, about.
const MOST_JUDGED: usize = 2_000;

#[derive(Debug, Default, Deserialize)]
pub struct Asked {
    insert_id: Option<String>,
    distinct_id: Option<String>,
    email: Option<String>,
    /// Only records of this kind, and events of this name.
    kind: Option<String>,
    event: Option<String>,
    /// Only records that stand so, where a destination is named: there.
    outcome: Option<String>,
    destination: Option<String>,
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

pub async fn trace(
    Extract(parts): Extract<Parts>,
    Extension(sight): Extension<Sight>,
    QueryString(asked): QueryString<Asked>,
) -> Result<Response, AdminError> {
    let limit = asked.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
    let before = asked.cursor.as_deref().map(before).transpose()?;
    let (wanted, distinct_ids) = wanted(&parts, &asked).await?;
    let look = Look::new(&wanted, &asked)?;
    let sought = wanted.names();
    let mut sifted = Sifted::new(parts.journal.clone(), parts.state.clone(), before, sought);
    let stands = Stands::new(&asked)?;
    let mut standing = Standing::load(&parts.state).await?;
    let (mut items, mut bytes, mut judged) = (Vec::new(), 0, 0);
    let next = 'looked: loop {
        let entries = match sifted.next().await? {
            Step::Entries(entries) => entries,
            Step::Enough(before) => break Some(before.0.to_string()),
            Step::End => break None,
        };
        for entry in entries {
            for (index, record) in entry.records.iter().enumerate().rev() {
                bytes += record.body.len();
                if !look.finds(record) {
                    continue;
                }
                judged += 1;
                let destinations = standing.of(entry.position(index), record).await?;
                if stands.fits(&destinations) {
                    items.push(item(&parts, entry.position(index), record, destinations));
                }
            }
            if items.len() >= limit || bytes >= MOST_BYTES || judged >= MOST_JUDGED {
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

/// What is looked for, and all ids that are known to be the person's.
async fn wanted(parts: &Parts, asked: &Asked) -> Result<(Wanted, BTreeSet<String>), AdminError> {
    let (id, address) = match (&asked.insert_id, &asked.distinct_id, &asked.email) {
        (Some(insert_id), None, None) => return Ok((Wanted::InsertId(insert_id.clone()), BTreeSet::new())),
        (None, Some(id), None) => (Some(id.clone()), None),
        (None, None, Some(email)) => {
            let address = email.trim().to_lowercase();
            let sought = Sought { contact_id: None, ext_id: None, address: Some(address.clone()) };
            let person = address_book::find(&parts.state, &sought).await?;
            (person.map(|id| id.to_string()), Some(address))
        }
        (None, None, None) => return Ok((Wanted::Anybody, BTreeSet::new())),
        _ => {
            let message = "what is looked for?".to_owned();
            return Err(AdminError::invalid(message, "give one of insert_id, distinct_id and email, or none of them"));
        }
    };
    let known = match id {
        Some(id) => erase::cluster(&parts.state, &[id]).await?.into_iter().collect(),
        None => BTreeSet::new(),
    };
    let ids = known.iter().map(|id: &String| bare(id).to_owned()).collect();
    Ok((Wanted::People { ids, address }, known))
}

fn item(parts: &Parts, position: Position, record: &Record, mut destinations: BTreeMap<&'static str, Value>) -> Item {
    if let Some(brevo) = destinations.get_mut(Destination::Brevo.label()) {
        brevo["mapping"] = mapped(parts, record);
    }
    Item {
        position: position.to_string(),
        kind: record.kind.label(),
        origin: record.origin,
        received_at: record.received_at.to_string(),
        record: serde_json::from_slice(&record.body).unwrap_or(Value::Null),
        destinations,
    }
}

/// How records stand that are looked for, and where.
struct Stands<'a> {
    outcome: Option<&'a str>,
    destination: Option<&'a str>,
}

impl<'a> Stands<'a> {
    fn new(asked: &'a Asked) -> Result<Self, AdminError> {
        let (outcome, destination) = (asked.outcome.as_deref(), asked.destination.as_deref());
        if let Some(unknown) = outcome.filter(|outcome| !OUTCOMES.contains(outcome)) {
            return Err(AdminError::invalid(
                format!("outcome: no {unknown}"),
                "delivered, skipped, parked, dead, backlog and settled are the outcomes",
            ));
        }
        let destinations = Destination::ALL.map(Destination::label);
        if let Some(unknown) = destination.filter(|destination| !destinations.contains(destination)) {
            return Err(AdminError::invalid(
                format!("destination: no {unknown}"),
                "mixpanel and brevo are the destinations",
            ));
        }
        Ok(Self { outcome, destination })
    }

    /// A record that was never meant for a destination is not looked for there.
    fn fits(&self, destinations: &BTreeMap<&'static str, Value>) -> bool {
        let not_for = SkipRule::NotForThisDestination.label();
        (self.outcome.is_none() && self.destination.is_none())
            || destinations.iter().any(|(destination, said)| {
                self.destination.is_none_or(|wanted| wanted == *destination)
                    && self.outcome.is_none_or(|wanted| said["outcome"] == wanted)
                    && said["rule"] != not_for
            })
    }
}
