//! When people were last heard of, by the day: whoever was not for `retention.unseen_people` is forgotten.
//!
//! One row for each person, under the day and the person's id, so that the longest unseen are found without a look at
//! anybody else. It is written with the person's own row, once a day at most.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::person::Person;
use super::roster::{PersonId, Resident, Roster};
use crate::clock::UnixMillis;
use crate::store::{KeyRange, State, StoreError, Table};

/// Digits of a day in a key. The schema's upgrade writes them too.
const DIGITS: usize = 6;

/// Days since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Day(u32);

impl Day {
    pub fn of(at: UnixMillis) -> Self {
        Self(u32::try_from(at.as_secs() / 86_400).unwrap_or(u32::MAX))
    }

    fn prefix(self) -> String {
        format!("{:0DIGITS$}", self.0)
    }
}

/// The key of a row.
pub fn key(day: Day, id: &str) -> Vec<u8> {
    [day.prefix().as_str(), id].concat().into_bytes()
}

/// Up to `limit` people who were last heard of before `day`, the longest unseen first, behind the row `after`.
pub async fn before(
    state: &Arc<dyn State>,
    day: Day,
    after: Option<&(Day, PersonId)>,
    limit: usize,
) -> Result<Vec<(Day, PersonId)>, StoreError> {
    let mut range = KeyRange { from: Vec::new(), to: Some(day.prefix().into_bytes()) };
    if let Some((day, id)) = after {
        range = range.after(key(*day, id));
    }
    let row = |(key, _): (Vec<u8>, _)| {
        let key = String::from_utf8(key).ok()?;
        let (day, id) = key.split_at_checked(DIGITS)?;
        Some((Day(day.parse().ok()?), PersonId::from(id)))
    };
    let damaged = || StoreError::Corrupt(format!("a key of {}", Table::Seen.name()));
    let rows = state.scan(Table::Seen, range, limit).await?;
    rows.into_iter().map(|pair| row(pair).ok_or_else(damaged)).collect()
}

impl Roster {
    /// A record names this person. Nothing is noted of somebody of whom nothing is kept.
    pub fn saw(&mut self, id: &PersonId, today: Day) {
        let noted = |person: &Person| person.seen >= Some(today) || *person == Person::default();
        if self.get(id).is_some_and(|resident| !noted(&resident.person)) {
            self.edit(id).person.seen = Some(today);
        }
    }

    /// Looks again at somebody who was last heard of on `day`, as the store says; `busy`: something of theirs is at work.
    /// True when they are forgotten.
    pub fn forget_unseen(&mut self, id: &PersonId, day: Day, busy: bool) -> bool {
        let person = self.canonical(id);
        let last = self.get(&person).and_then(|resident| resident.person.seen);
        if person != *id
            && let Some(last) = last
        {
            // A merged id leads to its person for as long as that one is known.
            if last > day {
                self.edit(id).person.seen = Some(last);
            }
            return false;
        }
        let at_rest =
            |resident: &Resident| resident.person.seen.is_none_or(|seen| seen <= day) && resident.is_at_rest();
        if busy || !self.get(id).is_some_and(at_rest) {
            return false;
        }
        self.edit(id).person = Person::default();
        true
    }
}

impl Resident {
    /// Nothing is owed to this person or waits for them. A value that is asked for is no reason to keep somebody.
    fn is_at_rest(&self) -> bool {
        let Person { shelf, lists, consent, deletion, unknown, groups, links, .. } = &self.person;
        let owed = self.debt.is_some() || self.paying.is_some() || lists.owes() || groups.owe();
        let waits = !shelf.is_empty() || unknown.records() > 0 || links.is_joining();
        !owed && !waits && !consent.withdrawal && deletion.is_none()
    }
}
