//! `mixrelay store backup`: both files of one moment, marked so that a relay on the copy starts paused.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::super::Failure;
use super::progress::Progress;
use super::{StoreCommandError, checkpoints};
use crate::clock::{Clock as _, SystemClock};
use crate::delivery::pauses::Backup;
use crate::record::{Destination, EntryId};
use crate::store::sqlite::care::Look;

/// Trimming between the two pins would take away what the state has not settled: look again.
const TRIES: usize = 20;

pub(super) fn run(look: &mut Look, to: &Path) -> Result<ExitCode, Failure> {
    let text = copy(look, to)?;
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)?;
    Ok(ExitCode::SUCCESS)
}

fn copy(look: &mut Look, to: &Path) -> Result<String, StoreCommandError> {
    let unsettled = pin(look)?;
    let backup = Backup { taken_at: SystemClock.now(), unsettled };
    let mut progress = Progress::new("copied:");
    let copied = look.copy_to(to, &backup.rows()?, &mut |done, all| progress.at(done, all));
    look.release();
    copied?;
    let mut text = format!("{}: a backup as of {}\n", to.display(), backup.taken_at);
    for (destination, records) in &backup.unsettled {
        text.push_str(&format!("  {destination}: up to {records} records were not settled\n"));
    }
    text.push_str("a relay on it starts with both destinations paused, and says what it may send again\n");
    Ok(text)
}

/// Pins both files at moments that fit, and says how many records each destination has not settled, at most.
fn pin(look: &mut Look) -> Result<Vec<(Destination, u64)>, StoreCommandError> {
    for _ in 0..TRIES {
        look.pin()?;
        let ledger = look.ledger()?;
        let held_from = ledger.first.unwrap_or(ledger.next);
        let mut unsettled = Vec::new();
        for (destination, checkpoint) in checkpoints(look)? {
            let cursor = checkpoint.map_or(EntryId::FIRST, |checkpoint| checkpoint.cursor.entry);
            if (held_from..=ledger.next).contains(&cursor) {
                unsettled.push((destination, look.records_from(cursor)?));
            }
        }
        if unsettled.len() == Destination::ALL.len() {
            return Ok(unsettled);
        }
    }
    Err(StoreCommandError::Moving)
}
