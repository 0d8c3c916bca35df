//! Writing many contacts at once: one import, followed to its end (contract §3.6).
//!
//! Imports must not run side by side, and their errors are not given by row: an import that has not visibly gone through
//! is taken as not done, and its people are written one by one.

use std::sync::Arc;
use std::time::Duration;

use tower::ServiceExt as _;

use super::LegError;
use super::compose::Write;
use crate::brevo::calls::Calls;
use crate::brevo::identifiers::{ContactRef, ListId, ProcessId};
use crate::brevo::outcome::{self, ImportOutcome};
use crate::brevo::wire::{ImportContact, Process, ProcessStatus};
use crate::people::roster::PersonId;
use crate::store::{State, StoreError, Table, WriteBatch, write_when_there_is_room};
use crate::vendor::stack::Stack;

/// Waits between two looks at a process: each look is one of 100 calls an hour.
const LOOKS: [u64; 6] = [2, 4, 8, 15, 30, 60];

/// An import that is not done by then is left to itself.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3600);

const KEY: &[u8] = b"brevo/import";

#[derive(Clone)]
pub struct Importer {
    pub calls: Calls,
    pub stack: Stack,
    pub state: Arc<dyn State>,
    pub list: ListId,
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
    /// Imports as many of `writes` as fit into one call; returns how many that were, and how it ended.
    pub async fn run(&self, writes: &[(PersonId, Write)]) -> Result<(usize, Imported), LegError> {
        let contacts: Vec<ImportContact> = writes.iter().map(|(_, write)| write.import()).collect();
        let Some(first) = self.calls.import(&contacts, &[self.list]).into_iter().next() else {
            return Ok((0, Imported::NotDone));
        };
        let count = first.range.len();
        let answer = self.stack.clone().oneshot(first.request).await?;
        let ImportOutcome::Started(process) = outcome::import(&answer) else {
            // The answer may name addresses.
            tracing::warn!(
                status = answer.status.as_u16(),
                "Brevo refused an import; its contacts are written one by one"
            );
            return Ok((count, Imported::NotDone));
        };
        let mut batch = WriteBatch::new();
        batch.put(Table::Vendors, KEY, process.0.to_string().into_bytes());
        write_when_there_is_room(self.state.as_ref(), batch).await?;
        let through = self.follow(process).await?;
        let imported = if through { self.sample(&writes[0]).await? } else { Imported::NotDone };
        Ok((count, imported))
    }

    /// Waits for an import that an earlier process of ours may have left running: a second one beside it could get stuck.
    pub async fn await_earlier(&self) -> Result<(), LegError> {
        let stored = self.state.get(Table::Vendors, vec![KEY.to_vec()]).await?.into_iter().next().flatten();
        let process = stored.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok());
        if let Some(process) = process {
            self.follow(ProcessId(process)).await?;
        }
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
        let mut batch = WriteBatch::new();
        batch.delete(Table::Vendors, KEY);
        write_when_there_is_room(self.state.as_ref(), batch).await?;
        Ok(completed)
    }

    /// Looks one of the imported people up: rows can be dropped without a word.
    async fn sample(&self, (id, write): &(PersonId, Write)) -> Result<Imported, LegError> {
        let Some(email) = &write.person.email else { return Ok(Imported::NotDone) };
        let answer = self.stack.clone().oneshot(self.calls.contact(ContactRef::Email(email))).await?;
        Ok(match outcome::contact(&answer) {
            Ok(Some(contact)) => {
                let ext_id = contact.attributes.get("EXT_ID").and_then(|value| value.as_str());
                Imported::Done { ext_id: ext_id == Some(id.as_ref()) }
            }
            _ => Imported::NotDone,
        })
    }
}
