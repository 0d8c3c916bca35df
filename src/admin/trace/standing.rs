//! How a record stands at a destination, in the words of the answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::admin::Parts;
use crate::delivery::brevo_leg::group_of;
use crate::delivery::checkpoint::Checkpoint;
use crate::delivery::dead_letters::{self, DeadLetterId, replay};
use crate::delivery::history::{Found, Lookup, Outcome, Span, lists_of};
use crate::mapping::{Came, preview_again};
use crate::mixpanel::keys;
use crate::people::roster::{self, PersonId, Roster};
use crate::people::{company, shelf};
use crate::record::{Destination, Kind, Position, Record};
use crate::settlement::SkipRule;
use crate::store::{State, StoreError};

const SHELVED: &str = "it waits on its person's shelf: for an address, a value, or a contact that is busy";
const FOLDED: &str = "it is folded, and its person or group is owed a write";
const WAITS_FOR_VALUE: &str = "a value that it changes is not known yet, and is asked for";
const LISTS: &str = "Brevo has the event; list changes that it asks for are owed";
const NOT_KEPT: &str = "it was settled; what became of it was not kept";
const WITH_LATER: &str = "it was folded, and what its person or group was owed with it has been settled since";
const NO_LETTER: &str = "it was refused; its dead letter is gone";

/// What is asked for one answer.
pub struct Standing {
    state: Arc<dyn State>,
    checkpoints: Vec<(Destination, Checkpoint)>,
    history: Lookup,
}

impl Standing {
    pub async fn load(state: &Arc<dyn State>) -> Result<Self, StoreError> {
        let mut checkpoints = Vec::new();
        for destination in Destination::ALL {
            let checkpoint = Checkpoint::load(state, destination).await?;
            checkpoints.push((destination, checkpoint));
        }
        Ok(Self { history: Lookup::new(state.clone()), state: state.clone(), checkpoints })
    }

    /// By destination, without what mappings make of the record.
    pub async fn of(
        &mut self,
        position: Position,
        record: &Record,
    ) -> Result<BTreeMap<&'static str, Value>, StoreError> {
        let mut destinations = BTreeMap::new();
        for n in 0..self.checkpoints.len() {
            let destination = self.checkpoints[n].0;
            let said = if record.destinations.contains(destination) {
                let found = self.history.find(destination, position).await?;
                match self.ended(destination, position, record, found).await? {
                    Some(found) => self.told(destination, position, record, found).await?,
                    None => self.untold(n, position, record).await?,
                }
            } else {
                skipped(SkipRule::NotForThisDestination)
            };
            destinations.insert(destination.label(), said);
        }
        Ok(destinations)
    }

    /// What is known of a record that was owed for.
    async fn ended(
        &mut self,
        destination: Destination,
        position: Position,
        record: &Record,
        found: Option<Found>,
    ) -> Result<Option<Found>, StoreError> {
        match found.map(|found| found.outcome) {
            Some(Outcome::Owed | Outcome::ListsOwed) => {
                let owners = self.owners(record).await?;
                Ok(self.history.end(destination, position, &owners).await?.or(found))
            }
            _ => Ok(found),
        }
    }

    /// As history has it.
    async fn told(
        &self,
        destination: Destination,
        position: Position,
        record: &Record,
        found: Found,
    ) -> Result<Value, StoreError> {
        let mut said = match found.outcome {
            Outcome::Delivered => json!({ "outcome": "delivered" }),
            Outcome::Skipped(rule) => skipped(rule),
            Outcome::ListsOwed if self.owes_lists(position, record).await? => {
                json!({ "outcome": "backlog", "why": LISTS })
            }
            Outcome::ListsOwed => json!({ "outcome": "delivered" }),
            Outcome::Dead(reason) => {
                let letter = self.letter(destination, position).await?;
                return Ok(letter.unwrap_or_else(
                    || json!({ "outcome": "dead", "reason": reason.label(), "why": NO_LETTER, "at": found.at.to_string() }),
                ));
            }
            Outcome::Parked => {
                return Ok(self.shelved(position).await?.unwrap_or_else(not_kept));
            }
            Outcome::Owed => {
                let owed = self.owed(position, record).await?;
                return Ok(owed.unwrap_or_else(|| json!({ "outcome": "settled", "why": WITH_LATER })));
            }
        };
        said["at"] = found.at.to_string().into();
        if let Some(last) = found.with {
            said["with"] = last.to_string().into();
        }
        Ok(said)
    }

    /// Of a record of which history says nothing: it is not settled, or was before history was kept.
    async fn untold(&self, leg: usize, position: Position, record: &Record) -> Result<Value, StoreError> {
        let (destination, checkpoint) = &self.checkpoints[leg];
        if let Some(letter) = self.letter(*destination, position).await? {
            return Ok(letter);
        }
        // The leg writes its progress down several times a second.
        if position >= checkpoint.cursor && !checkpoint.settled.iter().any(|range| range.contains(position)) {
            return Ok(json!({ "outcome": "backlog", "why": "it has not been settled yet" }));
        }
        if *destination == Destination::Brevo {
            if let Some(shelved) = self.shelved(position).await? {
                return Ok(shelved);
            }
            if let Some(owed) = self.owed(position, record).await? {
                return Ok(owed);
            }
        }
        Ok(not_kept())
    }

    /// Of a dead letter, held or on its way again.
    async fn letter(&self, destination: Destination, position: Position) -> Result<Option<Value>, StoreError> {
        let id = DeadLetterId { destination, position };
        if let Some((_, letter, _)) = dead_letters::get(&self.state, &[id]).await?.into_iter().next() {
            return Ok(Some(json!({
                "outcome": "dead", "reason": letter.reason.label(), "answer": letter.answer,
                "at": letter.died_at.to_string(), "dead_letter": id.to_string(),
            })));
        }
        let letter = replay::find(&self.state, id).await?;
        Ok(letter.map(|letter| {
            let at = letter.replay.map(|replay| replay.at.to_string());
            json!({ "outcome": "backlog", "why": "its dead letter is sent again", "at": at })
        }))
    }

    async fn shelved(&self, position: Position) -> Result<Option<Value>, StoreError> {
        let waiting = shelf::at(&self.state, position).await?;
        Ok(waiting.map(|waiting| json!({ "outcome": "parked", "why": SHELVED, "distinct_id": waiting.person })))
    }

    /// The names under which debts for the record may stand.
    async fn owners(&self, record: &Record) -> Result<Vec<String>, StoreError> {
        match record.kind {
            Kind::Group => Ok(group_of(record).map(|group| group.to_string()).into_iter().collect()),
            Kind::Profile => {
                let (roster, ids) = self.people(record).await?;
                let canonical = ids.iter().map(|id| roster.canonical(id).to_string());
                Ok(canonical.chain(ids.iter().map(ToString::to_string)).collect())
            }
            // Only list changes are owed for events.
            Kind::Event | Kind::Identity => {
                let (roster, ids) = self.people(record).await?;
                let canonical = ids.iter().map(|id| roster.canonical(id));
                Ok(canonical.chain(ids.iter().cloned()).map(|id| lists_of(&id)).collect())
            }
        }
    }

    /// Whom the record is of.
    async fn people(&self, record: &Record) -> Result<(Roster, Vec<PersonId>), StoreError> {
        let ids: Vec<_> =
            keys::people(record.kind, &record.body).iter().map(|id| PersonId::from(id.as_str())).collect();
        let mut roster = Roster::default();
        roster.take_in(roster::load(&self.state, ids.clone()).await?);
        Ok((roster, ids))
    }

    /// Of an update whose person or group is owed something since it or before, or waits for a value.
    async fn owed(&self, position: Position, record: &Record) -> Result<Option<Value>, StoreError> {
        let (owed, waiting) = match (record.kind, group_of(record)) {
            (Kind::Profile, _) => {
                let (roster, ids) = self.people(record).await?;
                let resident = ids.first().and_then(|id| roster.get(&roster.canonical(id)));
                let owed = resident.and_then(|resident| resident.owed()).map(|debt| Span::from(&debt));
                (owed, resident.map(|resident| Span::from(&resident.person.unknown.waiting())))
            }
            (Kind::Group, Some(group)) => {
                let companies = company::rows::load(&self.state, vec![group]).await?;
                let debt = companies.into_iter().find_map(|(_, company)| company.debt);
                (debt.map(|debt| Span::from(&debt)), None)
            }
            _ => (None, None),
        };
        let holds = |span: Option<Span>| span.is_some_and(|span| span.records > 0 && span.since <= position);
        Ok(match (holds(owed), holds(waiting)) {
            (_, true) => Some(json!({ "outcome": "parked", "why": WAITS_FOR_VALUE })),
            (true, false) => Some(json!({ "outcome": "backlog", "why": FOLDED })),
            (false, false) => None,
        })
    }

    /// Whether list changes of the event's person are owed since it or before.
    async fn owes_lists(&self, position: Position, record: &Record) -> Result<bool, StoreError> {
        let (roster, ids) = self.people(record).await?;
        let people = ids.iter().filter_map(|id| roster.get(&roster.canonical(id)));
        let mut owed = people.map(|resident| resident.person.lists.waiting());
        Ok(owed.any(|owed| owed.records > 0 && owed.since <= position))
    }
}

fn skipped(rule: SkipRule) -> Value {
    json!({ "outcome": "skipped", "rule": rule.label(), "explanation": rule.explanation() })
}

fn not_kept() -> Value {
    json!({ "outcome": "settled", "why": NOT_KEPT })
}

/// What the mapping in force makes of a record, as it would have been judged when it came.
pub fn mapped(parts: &Parts, record: &Record) -> Value {
    let body = String::from_utf8_lossy(&record.body);
    let mapping = parts.mapping.now().mapping.clone();
    let came = Came { at: record.received_at, origin: record.origin };
    preview_again(&body, &mapping, came, Some(record.received_at))
}
