//! Finding what became of a record.

use std::collections::HashMap;
use std::sync::Arc;

use super::Outcome;
use super::pages::owner;
use super::row::{Group, Joint, Row};
use crate::clock::UnixMillis;
use crate::record::{Destination, Position};
use crate::store::{KeyRange, State, StoreError, Table, Walk};

/// Rows read at once.
const ROWS: usize = 1_000;
/// Rows of one group that are looked at: as many checkpoints have settled something of 256 entries.
const MOST_ROWS: usize = 20 * ROWS;
/// Rows behind its own group in which the end of a debt is looked for, by one look-up.
const MOST_AHEAD: usize = 4 * ROWS;
/// The same by all of an answer's.
const MOST_AHEAD_IN_ALL: usize = 40 * ROWS;

/// What history says of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub outcome: Outcome,
    /// When the checkpoint was written that knew it first.
    pub at: UnixMillis,
    /// It ended together with other updates of its person or group, of which this is the last.
    pub with: Option<Position>,
}

/// The look-ups of one answer. Records that stand together are found in the same rows, which are read once.
pub struct Lookup {
    state: Arc<dyn State>,
    groups: HashMap<(Destination, Group), Vec<(u64, Row)>>,
    ahead: usize,
}

impl Lookup {
    pub fn new(state: Arc<dyn State>) -> Self {
        Self { state, groups: HashMap::new(), ahead: 0 }
    }

    /// How the record at `position` stood at `destination` when that was last written down. For one that was owed for then,
    /// [`Self::end`] may know more.
    pub async fn find(&mut self, destination: Destination, position: Position) -> Result<Option<Found>, StoreError> {
        Ok(self.last(destination, position).await?.map(|(_, found)| found))
    }

    /// What became of a record that was owed for. `owners`: the names under which that may have been. `None`: it is still
    /// owed for, or its end stands too far from it to be looked for.
    pub async fn end(
        &mut self,
        destination: Destination,
        position: Position,
        owners: &[String],
    ) -> Result<Option<Found>, StoreError> {
        let Some((checkpoint, _)) = self.last(destination, position).await? else { return Ok(None) };
        let owners: Vec<u64> = owners.iter().map(|id| owner(id)).collect();
        let group = Group::of(position);
        let rows = self.groups.get(&(destination, group)).map_or(&[][..], Vec::as_slice);
        let behind = rows.iter().filter(|(n, _)| *n >= checkpoint);
        match behind.into_iter().find_map(|(_, row)| joint_of(row, position, &owners)) {
            Some(found) => Ok(Some(found)),
            None => self.look_ahead(destination, group, checkpoint, position, &owners).await,
        }
    }

    /// The last word on a record, and the checkpoint that wrote it.
    async fn last(&mut self, destination: Destination, position: Position) -> Result<Option<(u64, Found)>, StoreError> {
        let group = Group::of(position);
        if !self.groups.contains_key(&(destination, group)) {
            let rows = self.read(destination, group).await?;
            self.groups.insert((destination, group), rows);
        }
        let rows = self.groups.get(&(destination, group)).map_or(&[][..], Vec::as_slice);
        Ok(rows.iter().rev().find_map(|(n, row)| Some((*n, last_of(row, position)?))))
    }

    async fn read(&self, destination: Destination, group: Group) -> Result<Vec<(u64, Row)>, StoreError> {
        let range = KeyRange::prefix(group.prefix(destination));
        let mut walk = Walk::new(self.state.as_ref(), Table::Outcomes, range, ROWS);
        let mut rows = Vec::new();
        while rows.len() < MOST_ROWS {
            let Some(pairs) = walk.next().await? else { break };
            for (key, value) in pairs {
                rows.push((checkpoint(&key), Row::decode(group, &value)?));
            }
        }
        Ok(rows)
    }

    /// A debt's end is written where its last record stands.
    async fn look_ahead(
        &mut self,
        destination: Destination,
        group: Group,
        since: u64,
        position: Position,
        owners: &[u64],
    ) -> Result<Option<Found>, StoreError> {
        let mut range = KeyRange::prefix([destination.code()]);
        range.from = KeyRange::prefix(group.prefix(destination)).to.unwrap_or_default();
        let mut walk = Walk::new(self.state.as_ref(), Table::Outcomes, range, ROWS);
        let mut looked = 0;
        while looked < MOST_AHEAD && self.ahead < MOST_AHEAD_IN_ALL {
            let Some(pairs) = walk.next().await? else { break };
            looked += pairs.len();
            self.ahead += pairs.len();
            for (key, value) in pairs {
                // Of joints alone, which name their positions whole.
                let row = Row::decode(group, &value)?;
                let found = (checkpoint(&key) >= since).then(|| joint_of(&row, position, owners)).flatten();
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }
}

/// The checkpoint that wrote the row.
fn checkpoint(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// What the row says last of `position`.
fn last_of(row: &Row, position: Position) -> Option<Found> {
    let later = row.later.iter().rev().find(|(at, _)| *at == position).map(|(_, outcome)| *outcome);
    let settled = || {
        let next = row.runs.partition_point(|run| run.first <= position);
        let run = row.runs[..next].last().filter(|run| run.contains(position));
        run.map(|run| run.outcome)
    };
    later.or_else(settled).map(|outcome| Found { outcome, at: row.at, with: None })
}

fn joint_of(row: &Row, position: Position, owners: &[u64]) -> Option<Found> {
    let covers = |joint: &&Joint| joint.since <= position && position <= joint.last && owners.contains(&joint.owner);
    let joint = row.joints.iter().find(covers)?;
    let with = (joint.since != joint.last).then_some(joint.last);
    Some(Found { outcome: joint.outcome, at: row.at, with })
}
