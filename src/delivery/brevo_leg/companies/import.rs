//! Many companies at once: found by one reading of the account's companies, made or changed by one import (contract §6).
//!
//! An import and its looks take about five of the hour's calls, whatever it carries. It tells neither which rows it took nor
//! which ids it gave: companies that it was to make are looked for afterwards, and of those that it was to change one is
//! read back. Whatever has not visibly arrived is written by itself, after a look for it where it may be there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::compose::{Composed, compose};
use super::making::Making;
use super::payer::{Caller, Facts, base_of};
use super::{Back, Companies, directory};
use crate::brevo::coerce::AttributeValue;
use crate::brevo::companies::attributes::CompanyAttributes;
use crate::brevo::companies::calls::ImportOptions;
use crate::brevo::companies::csv::{self, Row};
use crate::brevo::companies::{self as brevo, CompanyId};
use crate::brevo::identifiers::ProcessId;
use crate::brevo::outcome;
use crate::brevo::wire::{Process, ProcessList, ProcessStarted, ProcessStatus};
use crate::delivery::LegError;
use crate::delivery::brevo_leg::{BrevoLeg, Done};
use crate::delivery::history::Span;
use crate::mapping::CompiledMapping;
use crate::mapping::group::NAME;
use crate::people::company::{Company, GroupId, Place, own_id, rows};
use crate::record::Kind;
use crate::store::{State, StoreError};
use crate::vendor::budget::Limit;

/// Companies from which one import, with its looks and the reading that follows, is cheaper than single calls by far.
const IMPORT_FROM: usize = 20;

/// Payments one by one that stand between two imports while somebody waits whom no import can carry: an import and its
/// looks take as many calls, so that neither kind waits for the end of the other.
const ONES_BETWEEN: u32 = 5;

/// Waits between two looks at a process: each look is one of the hour's calls.
const LOOKS: [u64; 6] = [2, 4, 8, 15, 30, 60];
/// An import that is not done by then is left to itself.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3600);

/// One company of an import.
#[derive(Debug)]
pub(in super::super) struct Candidate {
    group: GroupId,
    name: String,
    row: Row,
}

/// What became of an import, or of a reading.
#[derive(Debug, Default)]
pub(in super::super) struct Imported {
    /// In the store, all of it: the groups that were asked about, and whether Brevo has what they were owed.
    groups: Vec<(GroupId, Facts, bool)>,
    window: Option<(Limit, u64)>,
    /// The import may have been taken before, by an attempt that had no answer.
    maybe_twice: bool,
}

impl BrevoLeg {
    /// Starts a reading or an import when enough of the groups in line, all in memory, need the same.
    pub(super) fn start_company_import(&mut self, line: &[GroupId], caller: &Caller) -> bool {
        let Some(account) = self.companies.attributes.clone() else { return false };
        if line.len() < IMPORT_FROM {
            return false;
        }
        let companies = &self.companies;
        let with_others = line.iter().filter(|group| !companies.alone.contains(*group));
        let in_line: Vec<_> = with_others.filter_map(|group| Some((group, companies.residents.get(group)?))).collect();
        // What is to be deleted had another name.
        let stays = |company: &Company| company.debt.as_ref().is_some_and(|debt| debt.delete.is_none());
        let unknown =
            in_line.iter().filter(|(_, resident)| resident.company.place == Place::Unknown && stays(&resident.company));
        let unknown: Vec<_> = unknown.map(|(group, resident)| ((*group).clone(), resident.company.clone())).collect();
        let state = self.parts.state.clone();
        if unknown.len() >= IMPORT_FROM {
            let (caller, held, mapping) = (caller.clone(), companies.held_ids(), self.parts.mapping.clone());
            self.companies.busy = true;
            self.spawn(Box::pin(async move {
                let found = find(&caller, &state, (&account, &mapping), &held, unknown).await?;
                Ok(Done::Companies(Back::Imported(found)))
            }));
            return true;
        }
        // Two imports side by side may get stuck (contract §3.6), and contacts go first.
        if self.importing.runs() {
            return false;
        }
        let may_create = |name: &str| self.parts.settings.create_attributes && !companies.refused.contains(name);
        let (mut made, mut changed) = (BTreeMap::new(), Vec::new());
        let (mut wanted, mut not_placed) = (BTreeMap::new(), Vec::new());
        for (group, resident) in in_line {
            let Some(debt) = resident.company.debt.as_ref().filter(|debt| debt.delete.is_none()) else { continue };
            let mut company = resident.company.clone();
            match company.place {
                Place::Unknown => continue,
                Place::At { .. } if company.needs_base(debt) => continue,
                Place::Absent => company.take_base(&serde_json::Map::new()),
                Place::At { .. } => {}
            }
            let composed = compose(group, &company, debt, &account, may_create);
            not_placed.extend(composed.not_placed.iter().cloned());
            wanted.extend(composed.missing.iter().map(|new| (new.label.clone(), new.clone())));
            let Some(candidate) = candidate(group, &company, composed) else { continue };
            match candidate.row.id {
                Some(_) => changed.push(candidate),
                // Of one name, only one can be told by it afterwards.
                None => drop(made.entry(candidate.name.clone()).or_insert(candidate)),
            }
        }
        let made: Vec<_> = made.into_values().collect();
        let ones_turn = self.companies.one_is_next(&[&made, &changed]);
        let candidates = if made.len() >= IMPORT_FROM { made } else { changed };
        self.companies.report(&not_placed);
        if !wanted.is_empty() {
            self.read_company_account(caller.clone(), wanted.into_values().collect());
            return true;
        }
        if candidates.len() < IMPORT_FROM || ones_turn {
            return false;
        }
        for candidate in &candidates {
            self.companies.begin(&candidate.group);
        }
        self.companies.imported_at = self.parts.clock.now();
        self.companies.ones_next = ONES_BETWEEN;
        let import = Import { caller: caller.clone(), state, held: self.companies.held_ids() };
        self.companies.busy = true;
        self.spawn(Box::pin(async move {
            let imported = import.run(candidates).await?;
            Ok(Done::Companies(Back::Imported(imported)))
        }));
        true
    }

    pub(super) fn settle_company_import(&mut self, imported: Imported) {
        self.companies.learn_limit(imported.window);
        self.making_settled();
        for (group, facts, arrived) in imported.groups {
            let was_paying = self.companies.residents.get(&group).is_some_and(|resident| resident.paying.is_some());
            if !arrived {
                self.companies.alone.insert(group.clone());
            }
            let debt = self.companies.end(&group, facts, arrived && was_paying);
            if arrived && was_paying {
                self.parts.books.deliver_owed(&group, Span::from(&debt), Kind::Group);
                self.parts.books.tally_mut().maybe_twice += if imported.maybe_twice { debt.records } else { 0 };
                self.companies.links_may_go(&group);
            }
        }
    }

    /// Waits for an import that an earlier process has left running: what it makes must be found, not made again.
    pub(super) fn await_company_import(&mut self, caller: Caller) {
        let state = self.parts.state.clone();
        self.companies.busy = true;
        self.spawn(Box::pin(async move {
            let import = Import { caller, state, held: HashSet::new() };
            match Making::left(&import.state).await? {
                Some(Making::Process(process)) => drop(import.follow(process).await?),
                Some(Making::Import) => import.follow_unnamed().await?,
                Some(Making::One) | None => {}
            }
            let window = import.caller.window().await;
            Ok(Done::Companies(Back::Imported(Imported { window, ..Imported::default() })))
        }));
    }
}

/// `None` when an import cannot carry it.
fn candidate(group: &GroupId, company: &Company, composed: Composed) -> Option<Candidate> {
    let Composed { write, clear, missing, .. } = composed;
    let id = match &company.place {
        Place::At { id, .. } => Some(id.clone()),
        Place::Unknown | Place::Absent => None,
    };
    let name = write.name.clone().unwrap_or_default();
    let mut attributes = write.attributes;
    if id.is_none() {
        attributes.retain(|name, _| !clear.contains(name));
    }
    attributes.extend(write.name.map(|name| (NAME.to_owned(), AttributeValue::Text(name))));
    let carried = write.country_code.is_none() && missing.is_empty() && attributes.values().all(csv::carries);
    let useful = carried && !attributes.is_empty();
    useful.then(|| Candidate { group: group.clone(), name, row: Row { id, attributes } })
}

/// Finds the places of `groups` in one reading of the account. A group that the reading does not settle goes by itself.
async fn find(
    caller: &Caller,
    state: &Arc<dyn State>,
    (account, mapping): (&CompanyAttributes, &CompiledMapping),
    held: &HashSet<CompanyId>,
    groups: Vec<(GroupId, Company)>,
) -> Result<Imported, LegError> {
    let name = |group: &GroupId, company: &Company| company.name_without_base().unwrap_or_else(|| own_id(group));
    let names: BTreeSet<String> = groups.iter().map(|(group, company)| name(group, company)).collect();
    let found = directory::read(caller, &names).await?;
    let complete = found.is_some();
    let mut free = free(state, held, found.unwrap_or_default()).await?;
    let mut settled = Vec::with_capacity(groups.len());
    for (group, company) in groups {
        let mut facts = Facts::default();
        if complete {
            let found = free.get_mut(&name(&group, &company)).and_then(|named| named.pop());
            let held = found.as_ref().map(|found| found.attributes.clone()).unwrap_or_default();
            facts.place = Some(found.map_or(Place::Absent, |found| Place::At { id: found.id, ours: false }));
            facts.base = Some(base_of(&group, &held, account, mapping));
        }
        settled.push((group, facts, complete));
    }
    Ok(Imported { groups: settled, window: caller.window().await, maybe_twice: false })
}

/// Companies that are no group's, by name, the oldest last.
async fn free(
    state: &Arc<dyn State>,
    held: &HashSet<CompanyId>,
    mut found: Vec<brevo::Company>,
) -> Result<HashMap<String, Vec<brevo::Company>>, StoreError> {
    let claimed = rows::claimed(state, found.iter().map(|company| company.id.clone()).collect()).await?;
    found.retain(|company| !claimed.contains_key(&company.id) && !held.contains(&company.id));
    let mut free: HashMap<String, Vec<brevo::Company>> = HashMap::new();
    for company in found.into_iter().rev() {
        free.entry(company.name().unwrap_or_default().to_owned()).or_default().push(company);
    }
    Ok(free)
}

struct Import {
    caller: Caller,
    state: Arc<dyn State>,
    held: HashSet<CompanyId>,
}

impl Import {
    /// All of `candidates` are to be made, or all to be changed.
    async fn run(&self, candidates: Vec<Candidate>) -> Result<Imported, LegError> {
        let updates = candidates.iter().any(|candidate| candidate.row.id.is_some());
        let options = ImportOptions {
            link_entities: false,
            unlink_entities: false,
            update_existing_records: updates,
            unset_empty_attributes: false,
        };
        let rows: Vec<Row> = candidates.iter().map(|candidate| candidate.row.clone()).collect();
        let request = self.caller.calls.import_companies(&csv::file(&rows), options);
        Making::Import.note(&self.state).await?;
        let answer = self.caller.call(request).await?;
        let maybe_twice = answer.doubtful > 0 && !updates;
        let (through, in_vain) = match outcome::read::<ProcessStarted>(&answer) {
            Ok(started) => {
                Making::Process(started.process_id).note(&self.state).await?;
                (self.follow(started.process_id).await?, false)
            }
            Err(error) => {
                tracing::warn!(%error, "Brevo refused an import of companies; they are written one by one");
                (false, answer.doubtful == 0 && !answer.status.is_success())
            }
        };
        // Some of an import that was taken, and did not come to its end, may have been made.
        let place = (!updates && !in_vain).then_some(Place::Unknown);
        let not_arrived =
            |candidate: Candidate| (candidate.group, Facts { place: place.clone(), ..Facts::default() }, false);
        let groups = match (through, updates) {
            (false, _) => candidates.into_iter().map(not_arrived).collect(),
            (true, true) => self.changed(candidates).await?,
            (true, false) => self.made(candidates).await?,
        };
        Ok(Imported { groups, window: self.caller.window().await, maybe_twice })
    }

    /// One of them stands for all.
    async fn changed(&self, candidates: Vec<Candidate>) -> Result<Vec<(GroupId, Facts, bool)>, LegError> {
        let sample = candidates.iter().find_map(|candidate| Some((candidate, candidate.row.id.as_ref()?)));
        let Some((sample, id)) = sample else { return Ok(Vec::new()) };
        let answer = self.caller.call(self.caller.calls.company(id)).await?;
        let arrived = brevo::company(&answer).ok().flatten().is_some_and(|company| holds(&company, &sample.row));
        Ok(candidates.into_iter().map(|candidate| (candidate.group, Facts::default(), arrived)).collect())
    }

    /// Each is looked for by its name.
    async fn made(&self, candidates: Vec<Candidate>) -> Result<Vec<(GroupId, Facts, bool)>, LegError> {
        let names = candidates.iter().map(|candidate| candidate.name.clone()).collect();
        let found = directory::read(&self.caller, &names).await?.unwrap_or_default();
        let mut free = free(&self.state, &self.held, found).await?;
        let settle = |candidate: Candidate| {
            let found = free.get_mut(&candidate.name).and_then(Vec::pop);
            let arrived = found.as_ref().is_some_and(|found| holds(found, &candidate.row));
            // Not seen: it may be there all the same, so it is looked for again by itself.
            let base = found.is_some().then(serde_json::Map::new);
            let place = found.map_or(Place::Unknown, |found| Place::At { id: found.id, ours: true });
            (candidate.group, Facts { place: Some(place), base, released: None }, arrived)
        };
        Ok(candidates.into_iter().map(settle).collect())
    }

    /// True when the process has completed and refused nobody.
    async fn follow(&self, process: ProcessId) -> Result<bool, LegError> {
        let started = Instant::now();
        let mut looks = LOOKS.into_iter();
        let mut wait = LOOKS[0];
        let mut completed = false;
        while started.elapsed() < GIVE_UP_AFTER {
            wait = looks.next().unwrap_or(wait);
            tokio::time::sleep(Duration::from_secs(wait)).await;
            let answer = self.caller.call(self.caller.calls.process(process)).await?;
            let Ok(process) = outcome::read::<Process>(&answer) else { break };
            match process.status {
                ProcessStatus::Queued | ProcessStatus::Processing | ProcessStatus::Unknown => {}
                ProcessStatus::Completed => {
                    completed = true;
                    break;
                }
                ProcessStatus::Failed | ProcessStatus::Cancelled => break,
            }
        }
        Ok(completed)
    }

    /// The process ended between the request of an import and the note of its number: whichever imports the account is
    /// running, it may be among them.
    async fn follow_unnamed(&self) -> Result<(), LegError> {
        for wait in LOOKS {
            let answer = self.caller.call(self.caller.calls.processes()).await?;
            match outcome::read::<ProcessList>(&answer) {
                Ok(list) => {
                    for process in list.processes.iter().filter(|process| process.may_be_an_import()) {
                        self.follow(process.id).await?;
                    }
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!(%error, "Brevo's list of processes cannot be read: an import may be running")
                }
            }
            tokio::time::sleep(Duration::from_secs(wait)).await;
        }
        Ok(())
    }
}

/// Whether a company has everything that a row says.
fn holds(company: &brevo::Company, row: &Row) -> bool {
    row.attributes.iter().all(|(name, wanted)| match (wanted, company.attributes.get(name)) {
        (AttributeValue::Number(wanted), Some(held)) => wanted.as_f64() == as_number(held),
        (AttributeValue::Text(wanted), Some(held)) => held.as_str() == Some(wanted),
        _ => false,
    })
}

/// What came by a file may be kept as text.
fn as_number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

impl Companies {
    /// Whether the next turn is that of the oldest debt, which the last import has passed over and no other would carry.
    fn one_is_next(&mut self, carried: &[&[Candidate]]) -> bool {
        let Some((oldest, group)) = self.line.first() else { return false };
        let carried = carried.iter().any(|some| some.iter().any(|candidate| candidate.group == *group));
        let next = self.ones_next > 0 && *oldest < self.imported_at && !carried;
        self.ones_next -= u32::from(next);
        next
    }

    /// About how many calls the line takes.
    pub(super) fn line_calls(&self) -> u64 {
        let groups = self.line.len();
        let calls = if groups < IMPORT_FROM { 2 * groups } else { 10 + groups / 100 };
        calls as u64 + self.links_ready()
    }
}
