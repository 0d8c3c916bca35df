//! Letters that have been kept long enough, found a part of the table at a time.

use std::sync::Arc;
use std::time::Duration;

use super::{DeadLetterId, decode_row, prefix};
use crate::clock::UnixMillis;
use crate::record::Destination;
use crate::store::{KeyRange, State, StoreError, Table};

/// How often they are looked for.
pub const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Letters looked at by one look: more than a million a day.
const LOOKED_AT: usize = 1_000;
/// Letters read at once; one may be as large as a record.
const ROWS: usize = 50;

/// A letter that has been kept long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue {
    pub id: DeadLetterId,
    pub bytes: u64,
}

/// What one look has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    pub overdue: Vec<Overdue>,
    /// Where the next look goes on. Keys order by position, and a record that waited for long may have died yesterday in front
    /// of many that are older: none of these is behind it for ever. `None`: from the beginning.
    pub after: Option<DeadLetterId>,
}

/// Looks at some letters behind `after` for those that died before `before`.
pub async fn look(
    state: &Arc<dyn State>,
    destination: Destination,
    before: UnixMillis,
    after: Option<DeadLetterId>,
) -> Result<Looked, StoreError> {
    let mut looked = Looked { overdue: Vec::new(), after };
    for _ in 0..LOOKED_AT / ROWS {
        let mut range = KeyRange::prefix(prefix(destination));
        if let Some(after) = looked.after {
            range = range.after(after.key());
        }
        let rows = state.scan(Table::DeadLetters, range, ROWS).await?;
        let last = rows.len() < ROWS;
        for (key, value) in rows {
            let (id, letter) = decode_row(&prefix(destination), destination, &key, &value)?;
            looked.after = Some(id);
            if letter.died_at < before {
                looked.overdue.push(Overdue { id, bytes: value.len() as u64 });
            }
        }
        if last {
            looked.after = None;
            break;
        }
    }
    Ok(looked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::dead_letters::DeadLetter;
    use crate::record::{Destinations, EntryId, Epoch, Kind, Origin, Position, Project, Record};
    use crate::settlement::DeadReason;
    use crate::store::WriteBatch;
    use crate::store::testing;

    #[tokio::test]
    async fn old_letters_are_found_behind_any_number_of_young_ones() {
        let (_directory, state) = testing::state();
        let record = Record {
            kind: Kind::Event,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: UnixMillis(0),
            body: "{}".into(),
        };
        let young = 2 * LOOKED_AT as u32;
        let mut batch = WriteBatch::new();
        for index in 0..young + 3 {
            let died_at = UnixMillis(if index < young { 20 } else { 5 });
            let position = Position { epoch: Epoch(1), entry: EntryId(1), index };
            let letter = DeadLetter::new(&record, DeadReason::Rejected, "no", died_at);
            letter.put(Destination::Brevo, position, &mut batch).unwrap();
        }
        state.write(batch).await.unwrap();

        let (mut after, mut found) = (None, Vec::new());
        for _ in 0..3 {
            let looked = look(&state, Destination::Brevo, UnixMillis(10), after).await.unwrap();
            after = looked.after;
            found.push(looked.overdue.len());
        }
        assert_eq!((found, after), (vec![0, 0, 3], None));
        let others = look(&state, Destination::Mixpanel, UnixMillis(10), None).await.unwrap();
        assert_eq!(others, Looked::default());
    }
}
