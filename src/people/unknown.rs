//! Steps of profile updates that wait for the value that they change (CORE 5). Pure.
//!
//! A value is unknown until an assignment or a *base* makes it known: the base is the value at Mixpanel, or at Brevo where
//! Mixpanel cannot be asked. Only the value waits. The rest of the update, and everything else of the person, goes on.
//!
//! **Which steps a base already holds.** Mixpanel gets the same updates by its own leg, and an answer does not say which of
//! them it holds. What is certain: it holds all that Mixpanel had taken some time before it was asked ([`Base::At`]). Steps
//! behind that may be in it or not. For most that makes no difference: `$set_once`, `$union` and `$remove`, done again in
//! their order to a value that some or all of them have made, end at the same value. `$add` and `$append` do not, nor does
//! a `$union` behind a `$remove` (the items would change places): an answer counts only when it holds the last of these
//! for certain, and what stands before that is in it too.
//!
//! A base from Brevo is simpler: nothing of a value that is unknown was ever sent there, so all steps are still to be done.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::value::{changed, size};
use crate::brevo::names::AttributeName;
use crate::clock::UnixMillis;
use crate::mapping::Change;
use crate::record::Position;

/// Steps kept of one value. Beyond it the oldest goes: of any real person's it is in the base by then.
const MAX_STEPS: usize = 256;
/// Bytes kept of one value's steps, about.
const MAX_BYTES: usize = 64 << 10;

/// Where a base stands among the person's updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// It holds nothing of what waits.
    Before,
    /// It holds everything below this position, and perhaps more.
    At(Position),
}

/// The steps that wait for one value, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Steps {
    /// What a base must hold for certain: all that this relay may have passed over before the first step, and the last
    /// step that must not be done twice.
    needs: Position,
    /// How many of the changes that makes.
    held: usize,
    changes: Vec<Change>,
}

impl Steps {
    fn add(&mut self, position: Position, change: Change) {
        let once = change.additive() || matches!(change, Change::Union(_)) && self.removes();
        // What a base need not hold is kept apart from what it must.
        let apart = self.held == self.changes.len() && !once;
        if apart || self.bytes() > MAX_BYTES / 2 || !self.joined(&change) {
            self.changes.push(change);
        }
        if once {
            (self.needs, self.held) = (next(position), self.changes.len());
        }
        while self.changes.len() > MAX_STEPS || (self.changes.len() > 1 && self.bytes() > MAX_BYTES) {
            self.changes.remove(0);
            self.held = self.held.saturating_sub(1);
        }
    }

    fn removes(&self) -> bool {
        self.changes[self.held..].iter().any(|change| matches!(change, Change::Remove(_)))
    }

    /// Makes one step of the last and `change` where that is exactly the same.
    fn joined(&mut self, change: &Change) -> bool {
        match (self.changes.last_mut(), change) {
            (Some(Change::SetOnce(first)), Change::SetOnce(_)) => !first.is_null(),
            (Some(Change::Append(items)), Change::Append(more)) | (Some(Change::Union(items)), Change::Union(more)) => {
                items.extend(more.iter().cloned());
                true
            }
            (Some(Change::Add(total)), Change::Add(more)) => match (total.as_i64(), more.as_i64()) {
                (Some(a), Some(b)) => a.checked_add(b).inspect(|sum| *total = (*sum).into()).is_some(),
                _ => false,
            },
            _ => false,
        }
    }

    fn bytes(&self) -> usize {
        let of = |change: &Change| match change {
            Change::Set(value) | Change::SetOnce(value) | Change::Remove(value) => size(value),
            Change::Append(items) | Change::Union(items) => items.iter().map(size).sum(),
            Change::Add(_) | Change::Unset => 8,
        };
        self.changes.iter().map(of).sum()
    }

    /// The value, when `base` can tell it.
    fn value(&self, base: Base, found: &Value) -> Option<Value> {
        let from = match base {
            Base::Before => 0,
            Base::At(position) if position < self.needs => return None,
            Base::At(_) => self.held,
        };
        let value = self.changes[from..].iter().fold(found.clone(), |value, change| {
            let after = changed(&value, change);
            after.unwrap_or(value)
        });
        Some(value)
    }
}

/// Everything of one person that waits for a base.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Unknown {
    values: BTreeMap<AttributeName, Steps>,
    /// Records of which a part is among the steps, and of which nothing else is owed.
    #[serde(default)]
    records: u64,
    /// Of the oldest of them.
    #[serde(default)]
    since: Position,
    /// Of the newest of them. Below [`Unknown::since`] in a row that was stored before this was kept.
    #[serde(default)]
    last: Position,
    #[serde(default)]
    oldest: UnixMillis,
}

/// Records that have stopped waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    pub records: u64,
    pub since: Position,
    pub last: Position,
    pub oldest: UnixMillis,
}

impl Unknown {
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.records == 0
    }

    /// Whether a step of `name` waits.
    pub fn holds(&self, name: &AttributeName) -> bool {
        self.values.contains_key(name)
    }

    /// Has the base of `name` be read, and changes nothing. The answer is to hold all before `seen_from`, so that it tells
    /// the rest of the profile too.
    pub fn ask(&mut self, name: AttributeName, seen_from: Position) {
        self.add(name, seen_from, Change::SetOnce(Value::Null), seen_from);
    }

    /// Whether the base of `name` is wanted for its own sake alone.
    pub fn only_asks(&self, name: &AttributeName) -> bool {
        let asks = |change: &Change| matches!(change, Change::SetOnce(value) if value.is_null());
        self.values.get(name).is_some_and(|steps| steps.changes.iter().all(asks))
    }

    /// Whether any base is wanted for its own sake alone.
    pub fn asks(&self) -> bool {
        self.values.keys().any(|name| self.only_asks(name))
    }

    /// Whether an address or phone number waits.
    pub fn holds_identifier(&self) -> bool {
        self.holds(&AttributeName::email()) || self.holds(&AttributeName::sms())
    }

    /// What `$set_once` would give to `name`, if there is nothing.
    pub fn given_once(&self, name: &AttributeName) -> Option<&str> {
        self.values.get(name)?.changes.iter().find_map(|change| match change {
            Change::SetOnce(value) => value.as_str(),
            _ => None,
        })
    }

    /// Whether a step of `name` is one for lists.
    pub fn wants_list(&self, name: &AttributeName) -> bool {
        let for_lists = |change: &Change| matches!(change, Change::Append(_) | Change::Union(_) | Change::Remove(_));
        self.values.get(name).is_some_and(|steps| steps.changes.iter().any(for_lists))
    }

    /// `seen_from`: from this position on, nothing that touches the value can have been passed over.
    pub fn add(&mut self, name: AttributeName, position: Position, change: Change, seen_from: Position) {
        let first = Steps { needs: position.min(seen_from), held: 0, changes: Vec::new() };
        self.values.entry(name).or_insert(first).add(position, change);
    }

    /// The value has become known otherwise.
    pub fn forget(&mut self, name: &AttributeName) {
        self.values.remove(name);
    }

    /// The value of `name`, when its steps can be done on what was `found`. They wait no longer then.
    pub fn take(&mut self, name: &AttributeName, base: Base, found: &Value) -> Option<Value> {
        let value = self.values.get(name)?.value(base, found)?;
        self.values.remove(name);
        Some(value)
    }

    /// Counts a record as waiting.
    pub fn count(&mut self, position: Position, received_at: UnixMillis) {
        if self.records == 0 {
            (self.since, self.oldest) = (position, received_at);
        }
        self.records += 1;
        self.since = self.since.min(position);
        self.last = self.last.max(position);
        self.oldest = self.oldest.min(received_at);
    }

    /// The records that waited, once nothing waits any more.
    pub fn release(&mut self) -> Option<Released> {
        if self.records == 0 || !self.values.is_empty() {
            return None;
        }
        Some(self.give_up())
    }

    /// Forgets the steps of values that `wanted` does not name; the records go on waiting with the rest.
    pub fn retain(&mut self, wanted: impl Fn(&AttributeName) -> bool) {
        self.values.retain(|name, _| wanted(name));
    }

    /// These and another id's of the same person. No value waits in both.
    pub fn join(&mut self, other: Unknown) {
        (self.since, self.oldest) = match (self.records, other.records) {
            (_, 0) => (self.since, self.oldest),
            (0, _) => (other.since, other.oldest),
            _ => (self.since.min(other.since), self.oldest.min(other.oldest)),
        };
        self.last = self.last.max(other.last);
        self.records += other.records;
        self.values.extend(other.values);
    }

    /// Forgets every step; what they change stays unknown. Returns which records waited.
    pub fn give_up(&mut self) -> Released {
        std::mem::take(self).waiting()
    }

    /// No record waits any more, whatever becomes of the steps. Returns which did.
    pub fn uncount(&mut self) -> Released {
        let waiting = self.waiting();
        self.records = 0;
        (self.since, self.last) = (Position::default(), Position::default());
        waiting
    }

    /// The records that wait.
    pub fn waiting(&self) -> Released {
        let Unknown { records, since, last, oldest, .. } = *self;
        Released { records, since, last: last.max(since), oldest }
    }

    pub fn records(&self) -> u64 {
        self.records
    }

    /// When the oldest waiting record was received.
    pub fn oldest(&self) -> Option<UnixMillis> {
        (self.records > 0).then_some(self.oldest)
    }

    /// The least that an answer must hold to be of any use.
    pub fn needs(&self) -> Position {
        self.values.values().map(|steps| steps.needs).min().unwrap_or_default()
    }
}

/// The smallest position above `position`.
pub fn next(position: Position) -> Position {
    Position { index: position.index.saturating_add(1), ..position }
}

#[cfg(test)]
#[path = "unknown_tests.rs"]
mod tests;
