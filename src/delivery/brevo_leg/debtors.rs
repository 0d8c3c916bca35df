//! Who is owed something: how much and since when, who stands in line for it, and who has yet to be found.
//!
//! A line holds a bounded number of people who have nothing else under way. Whoever finds no place in it need not be in
//! memory: what they are owed is in the table of debts, which is searched, page by page and round after round, whenever
//! the line has become short. So a million debts cost the memory of a few thousand.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::lines::Line;
use super::queue::PersonQueue;
use super::receiving::MAX_PEOPLE;
use super::{BrevoLeg, Done, imports};
use crate::clock::UnixMillis;
use crate::delivery::LegError;
use crate::people::debt::{self, Debt};
use crate::people::roster::{self, Indebted, PersonId, Resident};
use crate::store::{State, StoreError};

/// People in a line who have nothing but a debt. More than an import of one step takes, so that it seldom waits for a
/// search.
const LINE_UP_TO: usize = 2_000;
/// A line is short below this; as many are loaded at a time.
const AT_ONCE: usize = 500;
/// Rows that one step of a search passes over, at most: whoever is in an import under way is not looked for.
const ROWS: usize = 5_000;
/// Rows read at a time at the start.
const PAGE: usize = 2_000;

/// When the oldest record was received of each of many people.
#[derive(Debug, Default)]
pub(super) struct Since {
    times: BTreeMap<UnixMillis, usize>,
    people: usize,
}

impl Since {
    pub fn add(&mut self, at: UnixMillis) {
        *self.times.entry(at).or_default() += 1;
        self.people += 1;
    }

    pub fn remove(&mut self, at: UnixMillis) {
        let Some(count) = self.times.get_mut(&at) else { return };
        *count -= 1;
        self.people -= 1;
        if *count == 0 {
            self.times.remove(&at);
        }
    }

    pub fn oldest(&self) -> Option<UnixMillis> {
        self.times.first_key_value().map(|(at, _)| *at)
    }

    pub fn people(&self) -> usize {
        self.people
    }
}

/// What is owed when a process begins.
#[derive(Debug, Default)]
pub(super) struct Owed {
    pub records: u64,
    pub since: Since,
    pub listed_since: Since,
    /// Who is said to be in an import.
    pub importing: Vec<PersonId>,
    /// Who may be in an import that says nothing of its people, and may still run.
    pub held: HashSet<PersonId>,
}

impl Owed {
    pub async fn read(state: &Arc<dyn State>, may_run: bool) -> Result<Self, StoreError> {
        let (mut owed, mut after) = (Self::default(), None);
        loop {
            let page = roster::indebted(state, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.id.clone());
            for Indebted { id, debt, listed, importing } in page {
                if let Some(listed) = listed {
                    owed.records += listed.records;
                    owed.listed_since.add(listed.oldest);
                }
                owed.records += debt.records;
                if debt.records > 0 {
                    owed.since.add(debt.oldest);
                }
                if importing {
                    owed.importing.push(id);
                } else if may_run {
                    owed.held.insert(id);
                }
            }
        }
        if !owed.importing.is_empty() {
            owed.held = HashSet::new();
        }
        Ok(owed)
    }
}

/// The way through the table of debts, for those who have found no place in a line.
#[derive(Debug)]
pub(super) struct Search {
    /// The page with the row of the last who found none in the first line, and in the one behind.
    left_out: [Option<u64>; 2],
    after: Option<PersonId>,
    /// The last page that was durable when this round began.
    began: Option<u64>,
    /// The first round since the start: everyone is looked at, whatever is owed to them.
    everyone: bool,
    /// The next round is such a one, too.
    everyone_again: bool,
    pub reading: bool,
}

impl Default for Search {
    fn default() -> Self {
        Self { left_out: [None; 2], after: None, began: None, everyone: true, everyone_again: false, reading: false }
    }
}

impl Search {
    /// Whether it may find somebody for `line`.
    pub fn may_find(&self, line: Line) -> bool {
        self.looks_at_everyone() || self.left_out[line as usize].is_some()
    }

    /// Has everyone looked at again: what kept some from being paid is over.
    pub fn begin_anew(&mut self) {
        self.everyone_again = true;
    }

    fn looks_at_everyone(&self) -> bool {
        self.everyone || self.everyone_again
    }

    fn begin_round(&mut self, durable_page: u64) {
        if self.began.is_none() {
            self.began = Some(durable_page);
            self.everyone |= std::mem::take(&mut self.everyone_again);
        }
    }

    fn end_round(&mut self) {
        let began = self.began.take();
        for left_out in &mut self.left_out {
            left_out.take_if(|page| Some(*page) <= began);
        }
        (self.after, self.everyone) = (None, false);
    }
}

/// A step of the search.
pub(super) struct Debtors {
    ids: Vec<PersonId>,
    people: Vec<(PersonId, Resident)>,
    /// Where the next step goes on; `None`: the round is over.
    next: Option<PersonId>,
}

impl BrevoLeg {
    /// Whether more people may be loaded: under load somebody is on the way all the time, and nobody is let go then.
    pub(super) fn may_load(&self) -> bool {
        !(self.roster.is_crowded() && self.on_the_way())
    }

    /// Looks for people who are owed something, when a line is short of them.
    pub(super) fn search_debts(&mut self) {
        if self.search.reading || !self.may_load() || !self.wants_debtors() {
            return;
        }
        self.search.reading = true;
        self.search.begin_round(self.durable_page);
        let (state, after) = (self.parts.state.clone(), self.search.after.clone());
        self.spawn(Box::pin(async move {
            let (mut ids, mut after, mut passed) = (Vec::new(), after, 0);
            let next = loop {
                let page = roster::indebted(&state, after.as_ref(), AT_ONCE).await?;
                passed += page.len();
                let Some(last) = page.last().filter(|_| page.len() == AT_ONCE).map(|last| last.id.clone()) else {
                    ids.extend(page.into_iter().filter(|row| !row.importing).map(|row| row.id));
                    break None;
                };
                ids.extend(page.into_iter().filter(|row| !row.importing).map(|row| row.id));
                if ids.len() >= AT_ONCE / 2 || passed >= ROWS {
                    break Some(last);
                }
                after = Some(last);
            };
            let people = roster::load(&state, ids.clone()).await?;
            Ok(Done::Debtors(Debtors { ids, people, next }))
        }));
    }

    fn wants_debtors(&self) -> bool {
        if self.search.looks_at_everyone() {
            // Live traffic may keep the line long for ever; half of the room is theirs all the same.
            return self.to_pay.first.len() < AT_ONCE || self.queues.len() < MAX_PEOPLE / 2;
        }
        // A round that begins before a row is there would pass it.
        let begun = self.search.began.is_some();
        let there = |left_out: Option<u64>| left_out.is_some_and(|page| begun || page <= self.durable_page);
        let [first, behind] = self.search.left_out;
        let wanted = (there(first) && self.to_pay.first.len() < AT_ONCE)
            || (there(behind) && self.to_pay.behind.len() < AT_ONCE);
        wanted && self.queues.len() < MAX_PEOPLE
    }

    /// All of them are in memory now; those that were before may not have been looked at.
    pub(super) fn take_debtors(&mut self, Debtors { ids, people, next }: Debtors) {
        self.search.reading = false;
        self.take_in(people);
        for id in ids {
            self.advance(&id);
        }
        match next {
            Some(next) => self.search.after = Some(next),
            None => self.search.end_round(),
        }
    }

    /// Lists a person to be paid, or leaves them to the search. A busy contact comes back by itself, later.
    pub(super) fn list_to_pay(&mut self, id: &PersonId) {
        if self.is_being_told(id) {
            return;
        }
        let live = self.is_waited_for(id);
        let line = if live { Line::First } else { Line::Behind };
        let long = self.to_pay.of(line).len() >= LINE_UP_TO;
        let page = self.page;
        let queue = self.queues.entry(id.clone()).or_default();
        let listed = queue.listed_to_pay && (queue.listed_to_pay_first || !live);
        if listed || queue.too_early > 0 {
            return;
        }
        let alone = queue.alone;
        if long && !alone && queue.idle() {
            self.search.left_out[line as usize] = Some(page);
            return;
        }
        queue.listed_to_pay = true;
        queue.listed_to_pay_first = live;
        let lines = if alone { &mut self.to_pay_singly } else { &mut self.to_pay };
        lines.of(line).push_back(id.clone());
    }

    /// Whether Brevo is being told something of the person that has to end first: by a call, or by an import, which may be
    /// one that an earlier process has left running.
    pub(super) fn is_being_told(&self, id: &PersonId) -> bool {
        self.queues.get(id).is_some_and(|queue| queue.paying) || self.is_importing(id) || self.held.contains(id)
    }

    pub(super) fn is_importing(&self, id: &PersonId) -> bool {
        self.roster.get(id).is_some_and(|resident| resident.import.is_some())
    }

    /// Whether anything of the person's waits for a payment that is not of a pull.
    fn is_waited_for(&self, id: &PersonId) -> bool {
        let owed = self.roster.get(id).is_some_and(|resident| {
            let person = &resident.person;
            let live = resident.debt.as_ref().is_some_and(|debt| debt.live);
            live || person.lists.owes() || !person.shelf.is_empty() || person.consent.withdrawal
        });
        owed || self.queues.get(id).is_some_and(PersonQueue::has_live_events)
    }

    /// Adds to what a person is owed.
    pub(super) fn owe(&mut self, id: &PersonId, debt: Debt) {
        self.owed += debt.records;
        let resident = self.roster.edit(id);
        let before = oldest(resident);
        resident.owe(debt);
        let after = oldest(resident);
        self.move_oldest(before, after);
    }

    fn move_oldest(&mut self, before: Option<UnixMillis>, after: Option<UnixMillis>) {
        if before == after {
            return;
        }
        before.into_iter().for_each(|before| self.owed_since.remove(before));
        after.into_iter().for_each(|after| self.owed_since.add(after));
    }

    /// Moves what is owed under the call that is about to go out.
    pub(super) fn begin_payment(&mut self, id: &PersonId) {
        let resident = self.roster.edit(id);
        resident.paying = debt::join(resident.paying.take(), resident.debt.take());
        self.queue(id).begin_payment();
    }

    /// What the payment that has come back covered; it is not owed any more.
    pub(super) fn take_paid(&mut self, id: &PersonId) -> Debt {
        let resident = self.roster.edit(id);
        let before = oldest(resident);
        let paid = resident.paying.take().unwrap_or_else(Debt::nothing);
        let after = oldest(resident);
        self.owed = self.owed.saturating_sub(paid.records);
        self.move_oldest(before, after);
        paid
    }

    /// Everything that is owed and covered by no call; it is not owed to this person any more.
    pub(super) fn take_debt(&mut self, id: &PersonId) -> Option<Debt> {
        let resident = self.roster.edit(id);
        let before = oldest(resident);
        let debt = resident.debt.take()?;
        let after = oldest(resident);
        self.owed = self.owed.saturating_sub(debt.records);
        self.move_oldest(before, after);
        Some(debt)
    }

    /// What the payment covered is owed again.
    pub(super) fn give_back(&mut self, id: &PersonId) {
        self.roster.edit(id).give_back();
    }

    /// What an earlier process has left owed, and what it may have left running.
    pub(super) async fn find_debts(&mut self) -> Result<(), LegError> {
        let running = imports::left_running(&self.parts.state).await?;
        let Owed { records, since, listed_since, importing, held } =
            Owed::read(&self.parts.state, running && self.sends()).await?;
        (self.owed, self.owed_since, self.listed_since, self.held) = (records, since, listed_since, held);
        self.go_on_after_earlier(importing, running);
        Ok(())
    }
}

fn oldest(resident: &Resident) -> Option<UnixMillis> {
    let of = |debt: &Option<Debt>| debt.as_ref().filter(|debt| debt.records > 0).map(|debt| debt.oldest);
    of(&resident.debt).into_iter().chain(of(&resident.paying)).min()
}
