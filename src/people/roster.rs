//! The people in memory: those that the leg works on, and a bounded number of others that may be asked for again.
//!
//! Changed people are handed out as rows for the next checkpoint, in key order, which is how the store writes them
//! fastest. A person is only let go when nothing of them is changed and nobody works on them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::address_book::{self, Ways};
use super::debt::{self, Debt};
use super::person::{Contact, Person};
use super::unseen::{self, Day};
use crate::clock::UnixMillis;
use crate::record::Position;
use crate::store::{KeyRange, Pair, State, StoreError, Table, WriteBatch};

/// People kept in memory; under load up to twice as many. One with an address and six attributes was measured at 2.4 kilobytes,
/// their place in the map included, so that they stay a fraction of the relay's 256 MiB (P10).
const CAPACITY: usize = 4_000;

/// Canonical distinct_id.
pub type PersonId = Arc<str>;

/// A person in memory.
#[derive(Clone, Debug, Default)]
pub struct Resident {
    pub person: Person,
    /// Owed, and covered by no call under way.
    pub debt: Option<Debt>,
    /// Covered by the call or the import under way; owed again when it fails.
    pub paying: Option<Debt>,
    /// It is an import that covers it: the contact as that brings it about.
    pub import: Option<Contact>,
    /// Whether the store lists the person among those who wait for a base.
    listed_for_base: bool,
    /// The person's rows in the address book, as the store has them.
    ways: Ways,
    /// The day under which the store says when the person was last heard of.
    seen_row: Option<Day>,
}

impl Resident {
    /// Everything that is owed, whether a call is under way for it or not.
    pub fn owed(&self) -> Option<Debt> {
        debt::join(self.paying.clone(), self.debt.clone())
    }

    /// Whether the person's shelf waits for nothing any more but its turn.
    pub fn releasable(&self) -> bool {
        let Person { shelf, deletion, consent, .. } = &self.person;
        let addressable = self.person.addressable() && deletion.is_none();
        !shelf.is_empty() && (addressable || consent.withheld || shelf.let_go.is_some())
    }

    /// What is owed goes out with an import, which is to bring `contact` about.
    pub fn join_import(&mut self, contact: Contact) {
        self.paying = debt::join(self.paying.take(), self.debt.take()).or_else(|| Some(Debt::nothing()));
        self.import = Some(contact);
    }

    /// The import has ended otherwise than seen to go through: it may have made its contact, under another id or none.
    pub fn import_failed(&mut self) {
        let imported = self.import.as_ref().map(Contact::identifiers);
        self.person.maybe_imported = imported.map(Box::new).or(self.person.maybe_imported.take());
        self.give_back();
    }

    /// What the call or the import under way was to pay is owed again.
    pub fn give_back(&mut self) {
        self.import = None;
        self.debt = debt::join(self.paying.take(), self.debt.take());
    }

    /// Adds to what is owed.
    pub fn owe(&mut self, more: Debt) {
        self.debt = debt::join(self.debt.take(), Some(more));
    }
}

#[derive(Debug, Default)]
pub struct Roster {
    /// Apart from the map, whose places are all there at once, and twice over while it grows.
    residents: HashMap<PersonId, Box<Resident>>,
    dirty: BTreeSet<PersonId>,
}

impl Roster {
    /// Those of `ids`, and of whoever they lead to, that are not in memory, each once.
    pub fn missing<'a>(&self, ids: impl Iterator<Item = &'a PersonId>) -> Vec<PersonId> {
        let mut missing = BTreeSet::new();
        for id in ids {
            match self.residents.get(id) {
                None => drop(missing.insert(id.clone())),
                Some(resident) if resident.person.links.is_empty() => {}
                Some(_) => self.missing_behind(id, &mut missing),
            }
        }
        missing.into_iter().collect()
    }

    fn missing_behind(&self, id: &PersonId, missing: &mut BTreeSet<PersonId>) {
        let mut passed = BTreeSet::from([id]);
        let mut ahead = vec![id];
        while let Some(at) = ahead.pop() {
            match self.residents.get(at) {
                None => drop(missing.insert(at.clone())),
                Some(resident) => ahead.extend(resident.person.links.neighbours().filter(|id| passed.insert(id))),
            }
        }
    }

    /// Takes in what [`load`] has read. Whoever is in memory already is newer.
    pub fn take_in(&mut self, loaded: Vec<(PersonId, Resident)>) {
        for (id, resident) in loaded {
            self.residents.entry(id).or_insert_with(|| Box::new(resident));
        }
    }

    pub fn get(&self, id: &PersonId) -> Option<&Resident> {
        self.residents.get(id).map(Box::as_ref)
    }

    /// The person, to be changed; a new one when they are not in memory, so callers load first.
    pub fn edit(&mut self, id: &PersonId) -> &mut Resident {
        if !self.dirty.contains(id) {
            self.dirty.insert(id.clone());
        }
        self.residents.entry(id.clone()).or_default()
    }

    /// Adds the rows of everyone who has changed since the last call. Whoever is new was heard of `today`.
    pub fn put_changes(&mut self, batch: &mut WriteBatch, today: Day) -> Result<(), StoreError> {
        // A merged id's row goes first while it has something to hand over, and last once the survivor has it: an engine
        // that cannot write both at once loses nothing in between.
        let turn = |resident: &Resident| match resident.person.links.forward() {
            Some(_) if resident.has_leftovers() => 0,
            None => 1,
            Some(_) => 2,
        };
        let turns = std::mem::take(&mut self.dirty).into_iter();
        let mut turns: Vec<_> = turns.filter_map(|id| Some((turn(self.residents.get(&id)?), id))).collect();
        turns.sort_unstable();
        for (_, id) in turns {
            let Some(resident) = self.residents.get_mut(&id) else { continue };
            if resident.person == Person::default() {
                batch.delete(Table::People, id.as_bytes());
            } else {
                resident.person.seen.get_or_insert(today);
                batch.put(Table::People, id.as_bytes(), json(&resident.person)?);
            }
            put_seen(&id, resident, batch);
            // A shelf that is to be released or moved over and owed lists are written down as a debt of no records, so that
            // the next start comes back to them.
            let lists = &resident.person.lists;
            let listed = lists.owes().then_some(Listed { records: lists.records, oldest: lists.oldest });
            let merged = resident.person.links.forward().is_some() && resident.has_leftovers();
            let waiting = resident.releasable() || listed.is_some() || merged || resident.person.deletion.is_some();
            match resident.owed().or_else(|| waiting.then(Debt::nothing)) {
                Some(debt) => {
                    let import = resident.import.clone().map(|contact| Import {
                        contact,
                        paying: resident.paying.clone().unwrap_or_else(Debt::nothing),
                        beyond: resident.debt.clone(),
                    });
                    batch.put(Table::Debts, id.as_bytes(), json(&Row { debt, listed, import })?);
                }
                None => batch.delete(Table::Debts, id.as_bytes()),
            }
            let waits = !resident.person.unknown.is_empty();
            if waits {
                batch.put(Table::Bases, id.as_bytes(), json(&Awaiting::of(&resident.person))?);
            } else if resident.listed_for_base {
                batch.delete(Table::Bases, id.as_bytes());
            }
            resident.listed_for_base = waits;
            put_ways(&id, resident, batch)?;
        }
        Ok(())
    }

    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// How many have changed since the last call of [`Roster::put_changes`].
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Makes room when there are too many: lets everyone go who is unchanged and not `in_use`. Rows of changes handed
    /// out must be written by then, or a person would be read back as they were.
    pub fn let_go(&mut self, in_use: impl Fn(&PersonId) -> bool) {
        if self.residents.len() > CAPACITY {
            let dirty = &self.dirty;
            let merging = |resident: &Resident| resident.person.links.is_joining();
            self.residents.retain(|id, resident| dirty.contains(id) || in_use(id) || merging(resident));
            self.residents.shrink_to(2 * CAPACITY);
        }
    }

    pub fn len(&self) -> usize {
        self.residents.len()
    }

    /// Whether so many are in memory that nobody should join them before some have been let go.
    pub fn is_crowded(&self) -> bool {
        self.residents.len() > 2 * CAPACITY
    }

    pub fn is_empty(&self) -> bool {
        self.residents.is_empty()
    }
}

/// Brings the row up to date that says when the person was last heard of.
fn put_seen(id: &PersonId, resident: &mut Resident, batch: &mut WriteBatch) {
    let seen = resident.person.seen;
    if resident.seen_row == seen {
        return;
    }
    if let Some(gone) = std::mem::replace(&mut resident.seen_row, seen) {
        batch.delete(Table::Seen, unseen::key(gone, id));
    }
    if let Some(day) = seen {
        batch.put(Table::Seen, unseen::key(day, id), Vec::new());
    }
}

/// Brings the person's rows in the address book up to date.
fn put_ways(id: &PersonId, resident: &mut Resident, batch: &mut WriteBatch) -> Result<(), StoreError> {
    let ways = address_book::ways(&resident.person);
    for gone in resident.ways.keys().filter(|way| !ways.contains_key(*way)) {
        batch.delete(Table::Addresses, address_book::key(gone, id));
    }
    for (way, claim) in ways.iter().filter(|(way, claim)| resident.ways.get(*way) != Some(*claim)) {
        batch.put(Table::Addresses, address_book::key(way, id), json(claim)?);
    }
    resident.ways = ways;
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|e| StoreError::Failed(e.to_string()))
}

fn read<T: serde::de::DeserializeOwned>(what: &str, id: &str, value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|e| StoreError::Corrupt(format!("{what} of {} bytes of id: {e}", id.len())))
}

/// Reads `ids` with what they are owed, and whoever they lead to: whom they were merged into, who is joining them.
/// Someone never seen is a new person.
pub async fn load(state: &Arc<dyn State>, ids: Vec<PersonId>) -> Result<Vec<(PersonId, Resident)>, StoreError> {
    let mut asked: BTreeSet<PersonId> = ids.iter().cloned().collect();
    let mut loaded = Vec::with_capacity(ids.len());
    let mut ahead = ids;
    while !ahead.is_empty() {
        let people = load_rows(state, ahead).await?;
        let neighbours = people.iter().flat_map(|(_, resident)| resident.person.links.neighbours());
        ahead = neighbours.filter(|id| asked.insert((*id).clone())).cloned().collect();
        loaded.extend(people);
    }
    Ok(loaded)
}

async fn load_rows(state: &Arc<dyn State>, ids: Vec<PersonId>) -> Result<Vec<(PersonId, Resident)>, StoreError> {
    let keys: Vec<Vec<u8>> = ids.iter().map(|id| id.as_bytes().to_vec()).collect();
    let people = state.get(Table::People, keys.clone()).await?;
    let debts = state.get(Table::Debts, keys).await?;
    let mut loaded = Vec::with_capacity(ids.len());
    for ((id, person), debt) in ids.into_iter().zip(people).zip(debts) {
        let person: Option<Person> = person.map(|value| read("person", &id, &value)).transpose()?;
        let person = person.unwrap_or_default();
        let row: Option<Row> = debt.map(|value| read("debt", &id, &value)).transpose()?;
        let (debt, paying, import) = match row {
            None => (None, None, None),
            Some(Row { debt, import: None, .. }) => (Some(debt), None, None),
            Some(Row { import: Some(Import { contact, paying, beyond }), .. }) => (beyond, Some(paying), Some(contact)),
        };
        let (listed_for_base, ways) = (!person.unknown.is_empty(), address_book::ways(&person));
        let seen_row = person.seen;
        loaded.push((id, Resident { person, debt, paying, import, listed_for_base, ways, seen_row }));
    }
    Ok(loaded)
}

/// A row of the table of debts.
#[derive(serde::Serialize, serde::Deserialize)]
struct Row {
    /// All of it, whatever is under way.
    #[serde(flatten)]
    debt: Debt,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    listed: Option<Listed>,
    /// Written before the import is sent: whoever finds it knows that the import may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    import: Option<Import>,
}

/// What of a debt travels in an import.
#[derive(serde::Serialize, serde::Deserialize)]
struct Import {
    contact: Contact,
    paying: Debt,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    beyond: Option<Debt>,
}

/// Events whose list changes are owed, which the person holds: how many, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Listed {
    pub records: u64,
    pub oldest: UnixMillis,
}

/// What the table of those who wait for a base says of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaiting {
    /// The least that an answer of Mixpanel's must hold to be of any use.
    pub needs: Position,
    /// How many records wait, and when the oldest was received.
    pub records: u64,
    pub oldest: Option<UnixMillis>,
}

impl Awaiting {
    fn of(person: &Person) -> Self {
        let unknown = &person.unknown;
        Self { needs: unknown.needs(), records: unknown.records(), oldest: unknown.oldest() }
    }
}

/// A page of everyone who waits for a base, in key order, after `after`.
pub async fn waiting_for_bases(
    state: &Arc<dyn State>,
    after: Option<&PersonId>,
    limit: usize,
) -> Result<Vec<(PersonId, Awaiting)>, StoreError> {
    page(state, Table::Bases, after, limit).await
}

/// How many records wait for bases.
pub async fn records_waiting_for_bases(state: &Arc<dyn State>) -> Result<u64, StoreError> {
    let (mut records, mut after) = (0, None);
    loop {
        let page = waiting_for_bases(state, after.as_ref(), 2_000).await?;
        let Some((last, _)) = page.last() else { return Ok(records) };
        after = Some(last.clone());
        records += page.iter().map(|(_, listed)| listed.records).sum::<u64>();
    }
}

/// Somebody who is owed something.
#[derive(Debug)]
pub struct Indebted {
    pub id: PersonId,
    pub debt: Debt,
    pub listed: Option<Listed>,
    /// Whether a part of it travels, or was to travel, in an import.
    pub importing: bool,
}

/// A page of everyone who is owed something, in key order, after `after`.
pub async fn indebted(
    state: &Arc<dyn State>,
    after: Option<&PersonId>,
    limit: usize,
) -> Result<Vec<Indebted>, StoreError> {
    let rows = page(state, Table::Debts, after, limit).await?;
    let indebted = |(id, Row { debt, listed, import })| Indebted { id, debt, listed, importing: import.is_some() };
    Ok(rows.into_iter().map(indebted).collect())
}

/// Those of `ids` who are marked as being in an import, with the contact that it is to bring about. It need not make it
/// under their id: the address or number is all that an import is sure to carry.
pub async fn importing_as(state: &Arc<dyn State>, ids: &[PersonId]) -> Result<Vec<(PersonId, Contact)>, StoreError> {
    let rows = state.get(Table::Debts, ids.iter().map(|id| id.as_bytes().to_vec()).collect()).await?;
    let mut marked = Vec::new();
    for (id, row) in ids.iter().zip(rows) {
        let row: Option<Row> = row.map(|row| read("debt", id, &row)).transpose()?;
        marked.extend(row.and_then(|row| row.import).map(|import| (id.clone(), import.contact)));
    }
    Ok(marked)
}

/// A page of a table with one JSON row for each person.
async fn page<T: serde::de::DeserializeOwned>(
    state: &Arc<dyn State>,
    table: Table,
    after: Option<&PersonId>,
    limit: usize,
) -> Result<Vec<(PersonId, T)>, StoreError> {
    let mut range = KeyRange::all();
    if let Some(after) = after {
        range = range.after(after.as_bytes().to_vec());
    }
    let row = |(key, value): Pair| {
        let id = String::from_utf8(key).map_err(|_| StoreError::Corrupt(format!("a key of {}", table.name())))?;
        let row = read(table.name(), &id, &value)?;
        Ok((PersonId::from(id), row))
    };
    state.scan(table, range, limit).await?.into_iter().map(row).collect()
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
