//! One import at Brevo, from its request to its end (contract §3.6).
//!
//! Imports must not run side by side, and their errors are not given by row: an import that has not visibly gone through
//! is taken as not done, and its people are written in other ways.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::compose::Write;
use super::{LegError, VendorParts};
use crate::brevo::calls::Calls;
use crate::brevo::identifiers::{ContactRef, Email, ProcessId};
use crate::brevo::import_body::ImportBody;
use crate::brevo::outcome::{self, ImportOutcome};
use crate::brevo::wire::{Process, ProcessList, ProcessStatus};
use crate::store::{State, StoreError, Table, WriteBatch, write_when_there_is_room};
use crate::vendor::Family;
use crate::vendor::budget::Budgets;
use crate::vendor::stack::Stack;

/// Until the first look at an import's process, and for each of so many people in it a second more: each look is one of
/// 100 calls an hour, and how fast Brevo is with them is not documented.
const FIRST_LOOK: Duration = Duration::from_secs(2);
const PEOPLE_A_SECOND: u64 = 10_000;

/// The wait doubles from look to look, up to this.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// An import that is not done by then is left to itself.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3600);

/// The number of the import under way; [`STARTING`] from before its request until the answer has told the number.
const KEY: &[u8] = b"brevo/import";
const STARTING: &str = "starting";

/// Imported people who are looked up afterwards, from all over the import: rows can be dropped without a word.
const SAMPLES: usize = 5;

/// Whose turn it is to import: imports must not run side by side, whoever asks for them.
pub type ImportTurn = Arc<Mutex<()>>;

#[derive(Clone)]
pub struct Importer {
    calls: Calls,
    stack: Stack,
    state: Arc<dyn State>,
    turn: ImportTurn,
}

/// How an import ended for the people in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// All of them are contacts now; `ext_id`: and known by our id.
    Done { ext_id: bool },
    /// Not all of them can be relied on.
    NotDone,
    /// It was begun by another process, or never: nothing is known of it but that it runs no more.
    Over,
}

/// Some of the people in an import, spread over all of it. How many there will be need not be known before.
#[derive(Debug)]
pub struct Samples {
    taken: Vec<Sample>,
    seen: usize,
    /// One of so many is taken.
    every: usize,
}

#[derive(Debug)]
struct Sample {
    email: Option<Email>,
    ext_id: Option<String>,
}

impl Default for Samples {
    fn default() -> Self {
        Self { taken: Vec::new(), seen: 0, every: 1 }
    }
}

impl Samples {
    pub fn see(&mut self, write: &Write) {
        if self.seen.is_multiple_of(self.every) {
            if self.taken.len() == 2 * SAMPLES {
                self.every *= 2;
                let mut at = 0..;
                self.taken.retain(|_| at.next().is_none_or(|at: usize| at.is_multiple_of(2)));
            }
            if self.seen.is_multiple_of(self.every) {
                self.taken.push(Sample { email: write.person.email.clone(), ext_id: write.ext_id.clone() });
            }
        }
        self.seen += 1;
    }

    fn spread(self) -> impl Iterator<Item = Sample> {
        let step = self.taken.len().div_ceil(SAMPLES).max(1);
        self.taken.into_iter().step_by(step)
    }
}

/// Whether an earlier process of ours has left an import running.
pub async fn left_running(state: &Arc<dyn State>) -> Result<bool, StoreError> {
    Ok(state.get(Table::Vendors, vec![KEY.to_vec()]).await?.into_iter().next().flatten().is_some())
}

/// How long the next import waits, so that the looks at it are there when they are needed: not at all while more than half
/// of the hour's calls are left, then longer the fewer there are (CORE 14). Whoever cannot wait is written singly meanwhile.
pub async fn rest(budgets: &Budgets) -> Duration {
    let windows = budgets.windows(Family::BrevoOther).await;
    windows.into_iter().map(|(limit, left)| spread_over(limit.span, limit.amount, left)).max().unwrap_or_default()
}

/// Half of `span`, by what is left of `amount`.
fn spread_over(span: Duration, amount: u64, left: u64) -> Duration {
    if 2 * left > amount { Duration::ZERO } else { span / u32::try_from(2 * left.max(1)).unwrap_or(u32::MAX) }
}

impl Importer {
    /// `stack`: the vendor's, for whatever line the import is of.
    pub fn new(vendor: &VendorParts, stack: Stack, state: &Arc<dyn State>) -> Self {
        Self::beside(vendor.calls.clone(), stack, state.clone(), vendor.imports.clone())
    }

    /// For whoever imports beside the leg, by the same `turn`.
    pub fn beside(calls: Calls, stack: Stack, state: Arc<dyn State>, turn: ImportTurn) -> Self {
        Self { calls, stack, state, turn }
    }

    /// Sends `import` and follows it to its end; `samples` are of the people in it.
    pub async fn run(&self, import: ImportBody, samples: Samples) -> Result<Imported, LegError> {
        let people = import.len();
        let _turn = self.turn.lock().await;
        self.end_of_earlier().await?;
        self.note(STARTING).await?;
        let answer = self.stack.clone().oneshot(self.calls.import(import)).await?;
        let ImportOutcome::Started(process) = outcome::import(&answer) else {
            // The answer may name addresses.
            tracing::warn!(
                status = answer.status.as_u16(),
                people,
                "Brevo refused an import; its contacts are written in smaller ones or one by one"
            );
            self.forget().await?;
            return Ok(Imported::NotDone);
        };
        self.note(&process.0.to_string()).await?;
        let through = self.follow(process, people as u64).await?;
        if through { self.look_up(samples).await } else { Ok(Imported::NotDone) }
    }

    async fn note(&self, what: &str) -> Result<(), StoreError> {
        let mut batch = WriteBatch::new();
        batch.put(Table::Vendors, KEY, what.as_bytes().to_vec());
        write_when_there_is_room(self.state.as_ref(), batch).await
    }

    async fn forget(&self) -> Result<(), StoreError> {
        let mut batch = WriteBatch::new();
        batch.delete(Table::Vendors, KEY);
        write_when_there_is_room(self.state.as_ref(), batch).await
    }

    /// Waits for an import that an earlier process of ours may have left running: a second one beside it could get stuck.
    pub async fn await_earlier(&self) -> Result<(), LegError> {
        let _turn = self.turn.lock().await;
        self.end_of_earlier().await
    }

    async fn end_of_earlier(&self) -> Result<(), LegError> {
        let stored = self.state.get(Table::Vendors, vec![KEY.to_vec()]).await?.into_iter().next().flatten();
        let Some(stored) = stored else { return Ok(()) };
        match std::str::from_utf8(&stored).ok().and_then(|number| number.parse().ok()) {
            Some(process) => self.follow(ProcessId(process), 0).await.map(|_| ()),
            None => self.await_unnamed().await,
        }
    }

    /// The process ended between the request of an import and the note of its number: whichever imports the account is
    /// running, it may be among them.
    async fn await_unnamed(&self) -> Result<(), LegError> {
        let answer = self.stack.clone().oneshot(self.calls.processes()).await?;
        match outcome::read::<ProcessList>(&answer) {
            Ok(list) => {
                for process in list.processes.iter().filter(|process| process.is_running_import()) {
                    self.follow(process.id, 0).await?;
                }
            }
            Err(error) => tracing::warn!(%error, "Brevo's list of processes cannot be read: an import may be running"),
        }
        self.forget().await?;
        Ok(())
    }

    /// True when the process has completed and refused nobody.
    async fn follow(&self, process: ProcessId, people: u64) -> Result<bool, LegError> {
        let started = Instant::now();
        let mut wait = first_look(people);
        let mut completed = false;
        while started.elapsed() < GIVE_UP_AFTER {
            tokio::time::sleep(wait).await;
            wait = (2 * wait).min(LONGEST_LOOK);
            let answer = self.stack.clone().oneshot(self.calls.process(process)).await?;
            let Ok(process) = outcome::read::<Process>(&answer) else { break };
            match process.status {
                ProcessStatus::Queued | ProcessStatus::Processing | ProcessStatus::Unknown => {}
                // Which rows were refused is not told, so none of them is taken for done.
                ProcessStatus::Completed => {
                    completed = !process.rows_were_refused();
                    break;
                }
                ProcessStatus::Failed | ProcessStatus::Cancelled => break,
            }
        }
        self.forget().await?;
        Ok(completed)
    }

    /// Looks a few of the imported people up. One who is not there, or whom Brevo does not know by our id, speaks for all.
    async fn look_up(&self, samples: Samples) -> Result<Imported, LegError> {
        let mut by_our_id = true;
        for Sample { email, ext_id } in samples.spread() {
            let Some(email) = email else { return Ok(Imported::NotDone) };
            let answer = self.stack.clone().oneshot(self.calls.contact(ContactRef::Email(&email))).await?;
            let Ok(Some(contact)) = outcome::contact(&answer) else { return Ok(Imported::NotDone) };
            let known_as = contact.attributes.get("EXT_ID").and_then(|value| value.as_str());
            by_our_id &= known_as.is_some() && known_as == ext_id.as_deref();
        }
        Ok(Imported::Done { ext_id: by_our_id })
    }
}

fn first_look(people: u64) -> Duration {
    FIRST_LOOK + Duration::from_secs(people / PEOPLE_A_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::person::Person;

    #[test]
    fn the_next_import_waits_the_longer_the_fewer_looks_are_left() {
        const HOUR: Duration = Duration::from_secs(3600);
        let rest = |left| spread_over(HOUR, 100, left).as_secs();
        assert_eq!([100, 51, 50, 25, 10, 1, 0].map(rest), [0, 0, 36, 72, 180, 1_800, 1_800]);
        // Whoever spends one look after each wait does not run out of them within the hour.
        let mut waited = Duration::ZERO;
        let looks = (0..=50).rev().take_while(|left| {
            waited += spread_over(HOUR, 100, *left);
            waited < HOUR
        });
        assert!(looks.count() < 50);
    }

    #[test]
    fn few_samples_are_taken_from_all_over_an_import() {
        let write = |n: usize| Write {
            ext_id: Some(n.to_string()),
            person: Person::default(),
            attributes: Default::default(),
            clear: Vec::new(),
            phone: false,
            identifiers: false,
            lists: Vec::new(),
            blocklisted: Default::default(),
        };
        for people in [1, 4, 100, 40_000] {
            let mut samples = Samples::default();
            (0..people).for_each(|n| samples.see(&write(n)));
            let taken: Vec<usize> = samples.spread().map(|sample| sample.ext_id.unwrap().parse().unwrap()).collect();
            assert!(taken.len() <= SAMPLES && taken.len() >= people.min(3), "{people}: {taken:?}");
            assert!(taken[0] == 0 && *taken.last().unwrap() >= people / 2, "{people}: {taken:?}");
        }
    }
}
