//! `mixrelay store verify`: every page, every block, and whether the two files tell the same story.

use std::io::Write as _;
use std::process::ExitCode;

use super::super::Failure;
use super::progress::Progress;
use super::{Pinned, StoreCommandError};
use crate::record::{Destination, EntryId};
use crate::store::sqlite::care::Look;

pub(super) fn run(look: &mut Look) -> Result<ExitCode, Failure> {
    let (checked, wrong) = check(look)?;
    let mut out = std::io::stdout();
    let mut text = format!("{checked}\n");
    text.extend(wrong.iter().map(|line| format!("  wrong: {line}\n")));
    text.push_str(if wrong.is_empty() {
        "nothing wrong was found\n"
    } else {
        "keep both files, restore a backup, or go on: a damaged block's records are counted as skipped, rule damaged\n"
    });
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)?;
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was read, and what is wrong with it.
fn check(look: &mut Look) -> Result<(String, Vec<String>), StoreCommandError> {
    let mut wrong = cursors(look)?;
    wrong.extend(look.complaints()?.into_iter().map(|(path, said)| format!("{}: {said}", path.display())));
    let broken = look.broken_ledger()?;
    wrong.extend(broken.into_iter().map(|entry| format!("entry {} does not follow from the one before", entry.0)));
    let ledger = look.ledger()?;
    let (mut entries, mut records) = (0, 0);
    let mut progress = Progress::new("blocks read:");
    let mut next = ledger.first;
    let first = ledger.first.unwrap_or(ledger.next);
    // What is appended meanwhile was synced a moment ago; the journal's end is that of the beginning.
    while let Some(from) = next.filter(|from| *from < ledger.next) {
        let step = look.blocks(from)?;
        (entries, records) = (entries + step.entries, records + step.records);
        let lost = |damaged: &crate::store::sqlite::Quarantined| {
            format!("entry {} cannot be read: {} records are lost", damaged.entry.0, damaged.records)
        };
        wrong.extend(step.damaged.iter().map(lost));
        progress.at(from.0 - first.0, ledger.next.0 - first.0);
        next = step.next;
    }
    Ok((format!("read {entries} entries with {records} records, and every page of both files"), wrong))
}

/// The state must not know more than the journal, and nothing may be trimmed that a destination still needs.
fn cursors(look: &mut Look) -> Result<Vec<String>, StoreCommandError> {
    let pinned = Pinned::new(look)?;
    look.release();
    let wrong = |(destination, cursor): (Destination, EntryId)| match pinned.ledger.next {
        end if cursor > end => {
            format!("{destination} is at entry {}, and the journal ends before {}", cursor.0, end.0)
        }
        _ => format!("{destination} is at entry {}, which the journal does not hold any more", cursor.0),
    };
    Ok(pinned.unfit().map(wrong).collect())
}
