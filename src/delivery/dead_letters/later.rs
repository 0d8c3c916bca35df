//! Whether a later update of the same profile has reached Mixpanel: sending the older one again would undo it.

use std::collections::HashMap;
use std::sync::Arc;

use super::{DeadLetter, DeadLetterId};
use crate::mixpanel::keys::{self, Key};
use crate::record::{Destination, EntryId, Kind, Position, Record};
use crate::store::{Journal, StoreError};

/// Decoded bytes of the journal that one answer may cost; what lies beyond is not known.
const MOST_BYTES: usize = 256 << 20;
const READ_BYTES: usize = 4 << 20;

/// What stands against sending a letter again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Later {
    /// A later update of the profile was delivered.
    Delivered,
    /// The journal does not reach back far enough to rule that out.
    NotKnown,
}

/// Of `letters`, those that should not be sent again without a second thought. `delivered`: everything below it has
/// been settled at Mixpanel.
pub async fn later_updates(
    journal: &Arc<dyn Journal>,
    letters: &[(DeadLetterId, DeadLetter)],
    delivered: Position,
) -> Result<HashMap<DeadLetterId, Later>, StoreError> {
    let mut open: HashMap<(Kind, Key), Vec<DeadLetterId>> = HashMap::new();
    for (id, letter) in letters {
        if let (Destination::Mixpanel, Some(key)) = (id.destination, key(&letter.to_record(id.destination))) {
            open.entry(key).or_default().push(*id);
        }
    }
    let mut answers = HashMap::new();
    let Some(first) = open.values().flatten().map(|id| id.position).min() else { return Ok(answers) };
    let (mut next, mut bytes, mut whole) = (first.entry, 0, None);
    while next <= delivered.entry && bytes < MOST_BYTES && !open.is_empty() {
        let entries = journal.read(next, READ_BYTES).await?;
        let (Some(begin), Some(last)) = (entries.first(), entries.last()) else { break };
        // What came before was trimmed: nobody knows what it said.
        whole.get_or_insert(begin.id);
        next = last.id.next();
        for entry in entries {
            for (index, record) in entry.records.iter().enumerate() {
                bytes += record.body.len();
                let position = entry.position(index);
                let Some(key) = key(record).filter(|_| position < delivered) else { continue };
                let Some(ids) = open.get_mut(&key) else { continue };
                let (passed, kept): (Vec<_>, Vec<_>) = ids.drain(..).partition(|id| id.position < position);
                answers.extend(passed.into_iter().map(|id| (id, Later::Delivered)));
                *ids = kept;
                if ids.is_empty() {
                    open.remove(&key);
                }
            }
        }
    }
    let all_read = next > delivered.entry || bytes < MOST_BYTES;
    let from = whole.unwrap_or(EntryId(u64::MAX));
    let unknown = open.into_values().flatten().filter(|id| !all_read || id.position.entry < from);
    answers.extend(unknown.map(|id| (id, Later::NotKnown)));
    Ok(answers)
}

/// Whose profile the record updates.
fn key(record: &Record) -> Option<(Kind, Key)> {
    let updates = matches!(record.kind, Kind::Profile | Kind::Group);
    updates.then(|| keys::ordered_keys(record)).and_then(|keys| Some((record.kind, *keys.first()?)))
}
