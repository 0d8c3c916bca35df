//! `mixrelay store`: looking at the store, checking and copying it, while the relay runs or not.

mod backup;
mod info;
mod progress;
mod verify;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::Failure;
use crate::config::{Config, StoreEngine};
use crate::delivery::checkpoint::Checkpoint;
use crate::record::{Destination, EntryId};
use crate::store::sqlite::care::{CareError, Ledger, Look};
use crate::store::{StoreError, Table};

/// Trimming between the two pins takes away what the state had not settled: look again.
const TRIES: usize = 20;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Another store than the configured one, such as a backup: the path of its journal.
    #[arg(long, global = true, value_name = "PATH")]
    file: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Say what is in the store: sizes, entries, how far each destination is, rows.
    Info,
    /// Read everything, and check what can be checked.
    Verify,
    /// Copy both files, as they are at one moment, into a new directory.
    Backup {
        /// The directory to make.
        to: PathBuf,
    },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum StoreCommandError {
    #[error(transparent)]
    Care(#[from] CareError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the checkpoint of {destination} cannot be read: {source}")]
    Checkpoint { destination: Destination, source: serde_json::Error },
    #[error("the relay trims faster than both files can be looked at; try again")]
    Moving,
}

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let file = match &arguments.file {
        Some(file) => file.clone(),
        None => journal(&super::load(path)?.config),
    };
    let mut look = Look::open(&file).map_err(StoreCommandError::from)?;
    match &arguments.what {
        What::Info => info::run(&look),
        What::Verify => verify::run(&mut look),
        What::Backup { to } => backup::run(&mut look, to),
    }
}

fn journal(config: &Config) -> PathBuf {
    let StoreEngine::Sqlite(path) = &config.store.engine;
    path.clone()
}

/// How far each destination is; `None` where it has not begun.
fn checkpoints(look: &Look) -> Result<Vec<(Destination, Option<Checkpoint>)>, StoreCommandError> {
    let read = |destination: Destination| {
        let value = look.get(Table::Checkpoints, destination.label().as_bytes())?;
        let parsed = value.map(|value| serde_json::from_slice(&value)).transpose();
        let checkpoint = parsed.map_err(|source| StoreCommandError::Checkpoint { destination, source })?;
        Ok((destination, checkpoint))
    };
    Destination::ALL.into_iter().map(read).collect()
}

/// What both files say, as of moments that fit, when there are such.
struct Pinned {
    ledger: Ledger,
    cursors: Vec<(Destination, EntryId)>,
}

impl Pinned {
    /// Leaves both files pinned. What does not fit after so many looks is no trimming under way.
    fn new(look: &mut Look) -> Result<Self, StoreCommandError> {
        let mut pinned = Self::once(look)?;
        for _ in 1..TRIES {
            if pinned.unfit().next().is_none() {
                break;
            }
            pinned = Self::once(look)?;
        }
        Ok(pinned)
    }

    fn once(look: &mut Look) -> Result<Self, StoreCommandError> {
        look.pin()?;
        let cursor = |checkpoint: Option<Checkpoint>| checkpoint.map_or(EntryId::FIRST, |it| it.cursor.entry);
        let cursors = checkpoints(look)?.into_iter().map(|(destination, it)| (destination, cursor(it))).collect();
        Ok(Self { ledger: look.ledger()?, cursors })
    }

    /// The destinations whose cursor lies outside of what the journal holds.
    fn unfit(&self) -> impl Iterator<Item = (Destination, EntryId)> {
        let held = self.ledger.first.unwrap_or(self.ledger.next)..=self.ledger.next;
        self.cursors.iter().copied().filter(move |(_, cursor)| !held.contains(cursor))
    }
}
