//! `mixrelay store backup`: both files of one moment, marked so that a relay on the copy starts paused.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::super::Failure;
use super::progress::Progress;
use super::{Pinned, StoreCommandError};
use crate::clock::{Clock as _, SystemClock};
use crate::delivery::pauses::Backup;
use crate::record::{Destination, EntryId};
use crate::store::sqlite::care::{CareError, Look};

pub(super) fn run(look: &mut Look, to: &Path) -> Result<ExitCode, Failure> {
    let text = copy(look, to)?;
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)?;
    Ok(ExitCode::SUCCESS)
}

fn copy(look: &mut Look, to: &Path) -> Result<String, StoreCommandError> {
    let pinned = Pinned::new(look)?;
    if pinned.unfit().next().is_some() {
        return Err(StoreCommandError::Moving);
    }
    let upto = |(destination, cursor): &(Destination, EntryId)| Ok((*destination, look.records_from(*cursor)?));
    let unsettled = pinned.cursors.iter().map(upto).collect::<Result<_, CareError>>()?;
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
