//! Group records on shelves: where versions before companies put them, one shelf per group, under a name that no person
//! can have. They are taken off once, at the start, and become what is owed like any other.

use super::Companies;
use crate::config::BrevoMode;
use crate::delivery::LegError;
use crate::delivery::brevo_leg::Parts;
use crate::delivery::brevo_leg::intake::{Wish, intake};
use crate::delivery::history::Outcome;
use crate::people::company::rows;
use crate::people::shelf::{self, Parked};
use crate::settlement::{DeadReason, SkipRule};
use crate::store::{KeyRange, StoreError, Table, write_when_there_is_room};

const PREFIX: &str = "\u{1}group ";
/// Rows taken off before they are written down.
const ROWS: usize = 500;

/// Takes them all off.
pub async fn release(parts: &mut Parts, companies: &mut Companies) -> Result<(), LegError> {
    let Parts { state, books, mapping, .. } = parts;
    let now = parts.clock.now();
    let observed = parts.settings.mode != BrevoMode::Live;
    // What a configuration without Brevo skips is skipped by that rule (below), not kept.
    let disabled = parts.vendor.is_none();
    loop {
        let found = state.scan(Table::People, KeyRange::prefix(PREFIX), 1).await?;
        let Some((key, _)) = found.into_iter().next() else { return Ok(()) };
        let shelf = String::from_utf8(key).map_err(|_| StoreError::Corrupt("the name of a shelf".to_owned()))?;
        let rows = shelf::of_person(state, &shelf, None, ROWS).await?;
        if rows.is_empty() {
            books.pending_mut().delete(Table::People, shelf.as_bytes());
            books.pending_mut().delete(Table::Debts, shelf.as_bytes());
        }
        for Parked { position, record } in rows {
            shelf::remove(&shelf, position, books.pending_mut());
            match intake(&record, mapping, parts.settings.identity).wish {
                _ if disabled => books.skip_kept(position, SkipRule::Disabled),
                Wish::Skip(rule) => books.skip_kept(position, rule),
                Wish::Group { .. } if observed => books.skip_kept(position, SkipRule::Observed),
                Wish::Group { group, ops } => {
                    let missing = companies.missing(std::iter::once(&group));
                    companies.take_in(rows::load(state, missing).await?);
                    companies.edit(&group, |resident| resident.company.fold(position, record.received_at, ops));
                    books.end_kept(position, Outcome::Owed);
                }
                // Nothing but group records was ever put there.
                Wish::Event { .. } | Wish::Profile { .. } => books.skip_kept(position, SkipRule::NotPlaced),
                Wish::Unreadable(reason) => {
                    books.bury(position, &record, DeadReason::Unreadable, &reason, now)?;
                }
            }
        }
        companies.put_changes(books.pending_mut())?;
        let (batch, _) = books.close_page(now)?;
        write_when_there_is_room(state.as_ref(), batch).await?;
        companies.let_go();
    }
}
