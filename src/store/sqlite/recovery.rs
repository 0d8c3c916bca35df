//! What opening looks at: the journal's ledger, and the newest blocks, where a crash or a torn page would show first.
//! Older blocks are verified when they are read, since opening must not take longer with a bigger backlog.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::journal::{DamageLog, fetch};
use super::journal_writer::Counters;
use super::readers::{Readers, read_failed};
use super::{OpenError, Quarantined, RecoveryReport};
use crate::record::EntryId;
use crate::store::StoreError;

/// Entries and decoded bytes verified from the end.
const VERIFIED_ENTRIES: u64 = 64;
const VERIFIED_BYTES: usize = 32 << 20;

pub(super) fn verify(
    readers: &Arc<Readers>,
    path: &Path,
    counters: Counters,
    damage: &DamageLog,
) -> Result<RecoveryReport, OpenError> {
    let tip = counters.next_entry;
    let newest = EntryId(tip.0.saturating_sub(VERIFIED_ENTRIES));
    let looked = readers.on_this_thread(|conn| {
        let first = first_entry(conn).map_err(|error| read_failed(&error))?;
        let quarantined: Vec<_> = fetch(conn, newest, VERIFIED_BYTES)?
            .into_iter()
            .map(|stored| stored.decode(damage))
            .filter(|entry| entry.lost > 0)
            .map(|entry| Quarantined { entry: entry.id, records: entry.lost })
            .collect();
        Ok((first, quarantined))
    });
    let (first, quarantined) = looked.map_err(|error| unreadable(path, error))?;
    Ok(RecoveryReport {
        epoch: counters.epoch,
        // Trimming takes from the front only, so numbers and running totals tell what is held without a scan.
        entries: first.map_or(0, |first| tip.0.saturating_sub(first.id.0)),
        records: first.map_or(0, |first| counters.accepted.total().saturating_sub(first.records_before)),
        first: first.map(|first| first.id),
        tip,
        log_bytes: 0,
        quarantined,
        took: Duration::ZERO,
    })
}

#[derive(Clone, Copy)]
struct FirstEntry {
    id: EntryId,
    records_before: u64,
}

fn first_entry(conn: &Connection) -> rusqlite::Result<Option<FirstEntry>> {
    conn.query_row("SELECT id, records_before FROM entries ORDER BY id LIMIT 1", [], |row| {
        let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
        Ok(FirstEntry { id: EntryId(number(0)?), records_before: number(1)? })
    })
    .optional()
}

fn unreadable(path: &Path, error: StoreError) -> OpenError {
    OpenError::Ledger { path: path.to_owned(), source: error }
}
