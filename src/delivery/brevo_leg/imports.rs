//! Writing many contacts at once: one import, followed to its end (contract §3.6).
//!
//! Imports must not run side by side, and their errors are not given by row: an import that has not visibly gone through
//! is taken as not done, and its people are written one by one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tower::ServiceExt as _;

use super::compose::Write;
use super::{LegError, VendorParts};
use crate::brevo::calls::Calls;
use crate::brevo::identifiers::{ContactRef, ListId, ProcessId};
use crate::brevo::outcome::{self, ImportOutcome};
use crate::brevo::wire::{ImportContact, Process, ProcessList, ProcessStatus};
use crate::people::roster::PersonId;
use crate::store::{State, StoreError, Table, WriteBatch, write_when_there_is_room};
use crate::vendor::stack::Stack;

/// Waits between two looks at a process: each look is one of 100 calls an hour.
const LOOKS: [u64; 6] = [2, 4, 8, 15, 30, 60];

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
#[derive(Debug, PartialEq, Eq)]
pub enum Imported {
    /// All of them are contacts now; `ext_id`: and known by our id.
    Done { ext_id: bool },
    /// Not all of them can be relied on.
    NotDone,
}

/// Whether an earlier process of ours has left an import running.
pub async fn left_running(state: &Arc<dyn State>) -> Result<bool, StoreError> {
    Ok(state.get(Table::Vendors, vec![KEY.to_vec()]).await?.into_iter().next().flatten().is_some())
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

    /// Imports as many of `writes` as fit into one call, onto `list`; returns how many that were, and how it ended.
    pub async fn run(&self, list: ListId, writes: &[(PersonId, Write)]) -> Result<(usize, Imported), LegError> {
        let contacts: Vec<ImportContact> = writes.iter().map(|(_, write)| write.import()).collect();
        let Some(first) = self.calls.import(&contacts, &[list]).into_iter().next() else {
            return Ok((0, Imported::NotDone));
        };
        let count = first.range.len();
        let _turn = self.turn.lock().await;
        self.end_of_earlier().await?;
        self.note(STARTING).await?;
        let answer = self.stack.clone().oneshot(first.request).await?;
        let ImportOutcome::Started(process) = outcome::import(&answer) else {
            // The answer may name addresses.
            tracing::warn!(
                status = answer.status.as_u16(),
                "Brevo refused an import; its contacts are written one by one"
            );
            self.forget().await?;
            return Ok((count, Imported::NotDone));
        };
        self.note(&process.0.to_string()).await?;
        let through = self.follow(process).await?;
        let imported = if through { self.sample(&writes[..count]).await? } else { Imported::NotDone };
        Ok((count, imported))
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
            Some(process) => self.follow(ProcessId(process)).await.map(|_| ()),
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
                    self.follow(process.id).await?;
                }
            }
            Err(error) => tracing::warn!(%error, "Brevo's list of processes cannot be read: an import may be running"),
        }
        self.forget().await?;
        Ok(())
    }

    /// True when the process has completed and refused nobody.
    async fn follow(&self, process: ProcessId) -> Result<bool, LegError> {
        let started = tokio::time::Instant::now();
        let mut looks = LOOKS.into_iter();
        let mut wait = LOOKS[0];
        let mut completed = false;
        while started.elapsed() < GIVE_UP_AFTER {
            wait = looks.next().unwrap_or(wait);
            tokio::time::sleep(Duration::from_secs(wait)).await;
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
    async fn sample(&self, imported: &[(PersonId, Write)]) -> Result<Imported, LegError> {
        let mut by_our_id = true;
        for (_, write) in imported.iter().step_by(imported.len().div_ceil(SAMPLES).max(1)) {
            let Some(email) = &write.person.email else { return Ok(Imported::NotDone) };
            let answer = self.stack.clone().oneshot(self.calls.contact(ContactRef::Email(email))).await?;
            let Ok(Some(contact)) = outcome::contact(&answer) else { return Ok(Imported::NotDone) };
            let ext_id = contact.attributes.get("EXT_ID").and_then(|value| value.as_str());
            by_our_id &= ext_id.is_some() && ext_id == write.ext_id.as_deref();
        }
        Ok(Imported::Done { ext_id: by_our_id })
    }
}
