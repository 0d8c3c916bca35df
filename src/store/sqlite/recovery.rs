//! What opening looks at: the journal's ledger, and the newest blocks, where a crash or a torn page would show first.
//! Older blocks are verified when they are read, since opening must not take longer with a bigger backlog.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::journal::{DamageLog, fetch, size};
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
        let size = size(conn).map_err(|error| read_failed(&error))?;
        let first = first_entry(conn).map_err(|error| read_failed(&error))?;
        let quarantined: Vec<_> = fetch(conn, newest, VERIFIED_BYTES)?
            .into_iter()
            .map(|stored| stored.decode(damage))
            .filter(|entry| entry.lost > 0)
            .map(|entry| Quarantined { entry: entry.id, records: entry.lost })
            .collect();
        Ok((size, first, quarantined))
    });
    let (size, first, quarantined) = looked.map_err(|error| unreadable(path, error))?;
    Ok(RecoveryReport {
        epoch: counters.epoch,
        entries: size.entries,
        records: size.records,
        first,
        tip,
        log_bytes: 0,
        quarantined,
        took: Duration::ZERO,
    })
}

fn first_entry(conn: &rusqlite::Connection) -> rusqlite::Result<Option<EntryId>> {
    let first: Option<i64> = conn.query_row("SELECT min(id) FROM entries", [], |row| row.get(0))?;
    Ok(first.map(|id| EntryId(id.cast_unsigned())))
}

fn unreadable(path: &Path, error: StoreError) -> OpenError {
    OpenError::Ledger { path: path.to_owned(), source: error }
}
