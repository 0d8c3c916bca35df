//! `mixrelay store info`.

use std::io::Write as _;
use std::process::ExitCode;

use bytesize::ByteSize;

use super::super::Failure;
use super::{StoreCommandError, checkpoints};
use crate::store::Table;
use crate::store::sqlite::care::Look;

pub(super) fn run(look: &Look) -> Result<ExitCode, Failure> {
    let text = describe(look)?;
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(look: &Look) -> Result<String, StoreCommandError> {
    let mut lines = Vec::new();
    for file in look.sizes()? {
        let [bytes, log, free] = [file.bytes, file.log_bytes, file.free_bytes].map(|bytes| ByteSize(bytes).to_string());
        lines.push(format!("{}: {bytes}, its log {log}, free within {free}", file.path.display()));
    }
    let ledger = look.ledger()?;
    let (epoch, next) = (ledger.epoch.0, ledger.next.0);
    let held = match ledger.first {
        Some(first) => format!("{} to {}", first.0, next.saturating_sub(1)),
        None => "none".to_owned(),
    };
    let bytes = ByteSize(ledger.bytes);
    lines.push(format!("journal: epoch {epoch}, entries {held}, {} records in {bytes}", ledger.records));
    let accepted = ledger.accepted;
    lines.push(format!(
        "accepted since it was made: {} events, {} profile updates, {} group updates",
        accepted.event, accepted.profile, accepted.group
    ));
    for (destination, checkpoint) in checkpoints(look)? {
        lines.push(match checkpoint {
            None => format!("{destination}: not begun"),
            Some(checkpoint) => {
                let ahead = look.records_from(checkpoint.cursor.entry)?;
                let (cursor, tally) = (checkpoint.cursor, &checkpoint.tally);
                let (delivered, skipped) = (tally.delivered.total(), tally.skipped_total());
                format!("{destination}: at {cursor}, {ahead} records from there on; {delivered} delivered, {skipped} skipped")
            }
        });
    }
    for table in Table::ALL {
        lines.push(format!("{}: {} rows", table.name(), look.rows(table)?));
    }
    Ok(lines.join("\n") + "\n")
}
