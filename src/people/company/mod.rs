//! One company: the mapped part of a Mixpanel group's profile, folded in order, and what Brevo is owed for it. Pure.
//!
//! A value is *known* once something has set or emptied it, or once the relay has seen the company at Brevo. Until then
//! what was to be done with it is remembered ([`value::Slot::Pending`]) and done when the base is known: a company that
//! was at Brevo before the relay must not lose what stood there (CORE 5).

pub mod memberships;
pub mod rows;
pub mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::value::Slot;
use crate::brevo::companies::CompanyId;
use crate::clock::UnixMillis;
use crate::mapping::GroupOp;
use crate::mapping::group::NAME;
use crate::record::Position;

/// A Mixpanel group: `["group key","group id"]`, as JSON text.
pub type GroupId = Arc<str>;

/// The name that rows and maps know a group by.
pub fn group_id(key: &str, id: &str) -> GroupId {
    GroupId::from(Value::from(vec![key, id]).to_string())
}

/// `group key` of a group; empty for a name that is none of ours.
pub fn key(group: &str) -> String {
    serde_json::from_str::<[String; 2]>(group).map(|[key, _]| key).unwrap_or_default()
}

/// `group id` of a group; empty for a name that is none of ours.
pub fn own_id(group: &str) -> String {
    serde_json::from_str::<[String; 2]>(group).map(|[_, id]| id).unwrap_or_default()
}

/// A company as stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Company {
    /// The last position folded: a replay after a crash must not fold it again.
    pub applied: Option<Position>,
    /// By company attribute, `name` among them. An attribute that is not here is what the place says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    values: BTreeMap<String, Slot>,
    #[serde(default)]
    pub place: Place,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debt: Option<Debt>,
}

/// What is known of the company at Brevo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Never looked for: it may have been there before the relay.
    #[default]
    Unknown,
    /// It is not there.
    Absent,
    /// There; `ours`: made by the relay, so an attribute that no record has touched is empty.
    At { id: CompanyId, ours: bool },
}

/// Group records that were folded and not yet told to Brevo. Only Brevo's answer settles it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debt {
    /// Of the oldest record.
    pub since: Position,
    /// Of the newest one. Below [`Debt::since`] in a debt that was stored before this was kept.
    #[serde(default)]
    pub last: Position,
    /// When the oldest record was received.
    pub oldest: UnixMillis,
    pub records: u64,
    /// Attributes whose present value Brevo is owed.
    pub attributes: BTreeSet<String>,
    /// The company as it stood before has to go; `attributes` come after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete: Option<Deletion>,
}

/// A group's end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// What the company was called, where it has to be looked for.
    pub name: Option<String>,
}

impl Debt {
    /// This debt and a later one as one.
    fn join(mut self, later: Debt) -> Debt {
        let (since, oldest) = match (self.records, later.records) {
            (0, _) => (later.since, later.oldest),
            (_, 0) => (self.since, self.oldest),
            _ => (self.since.min(later.since), self.oldest.min(later.oldest)),
        };
        self.records += later.records;
        let last = self.last.max(later.last);
        if let Some(later) = later.delete {
            self.attributes.clear();
            // What was to go first had the first name.
            self.delete.get_or_insert(later);
        }
        self.attributes.extend(later.attributes);
        Debt { since, last, oldest, ..self }
    }
}

/// Two debts that may be there, the earlier first, as one.
pub fn join(earlier: Option<Debt>, later: Option<Debt>) -> Option<Debt> {
    match (earlier, later) {
        (Some(earlier), Some(later)) => Some(earlier.join(later)),
        (earlier, later) => earlier.or(later),
    }
}

impl Company {
    /// Folds one record and adds it to what is owed. False when `position` was folded before.
    pub fn fold(&mut self, position: Position, received_at: UnixMillis, ops: Vec<GroupOp>) -> bool {
        if self.applied.is_some_and(|applied| applied >= position) {
            return false;
        }
        self.applied = Some(position);
        let mut debt = Debt { since: position, last: position, oldest: received_at, records: 1, ..Debt::default() };
        for op in ops {
            self.apply(op, &mut debt);
        }
        self.debt = join(self.debt.take(), Some(debt));
        true
    }

    /// Owes the present values of `attributes` for a record that was folded before; `deletes`: the company as it stands at
    /// Brevo has to go first, and what is known of it comes after that.
    pub fn owe_again(
        &mut self,
        position: Position,
        received_at: UnixMillis,
        attributes: BTreeSet<String>,
        deletes: bool,
    ) {
        let one = Debt { since: position, last: position, oldest: received_at, records: 1, ..Debt::default() };
        let mut debt = Debt { attributes, ..one };
        if deletes {
            debt.delete = Some(Deletion { name: self.name() });
            debt.attributes = self.filled();
        }
        // A value that nothing has touched since it was mapped is read where the company stands.
        for attribute in &debt.attributes {
            let empty = matches!(self.place, Place::Absent | Place::At { ours: true, .. });
            self.values.entry(attribute.clone()).or_insert_with(|| Slot::untouched(empty));
        }
        self.debt = join(self.debt.take(), Some(debt));
    }

    fn apply(&mut self, op: GroupOp, debt: &mut Debt) {
        let attribute = match &op {
            GroupOp::Delete => {
                let name = self.name();
                self.values.clear();
                debt.attributes.clear();
                debt.delete.get_or_insert(Deletion { name });
                return;
            }
            GroupOp::Set(attribute, _)
            | GroupOp::SetOnce(attribute, _)
            | GroupOp::Union(attribute, _)
            | GroupOp::Remove(attribute, _)
            | GroupOp::Unset(attribute) => attribute.clone(),
        };
        let deleted = debt.delete.is_some() || self.debt.as_ref().is_some_and(|debt| debt.delete.is_some());
        let base_is_empty = deleted || matches!(self.place, Place::Absent | Place::At { ours: true, .. });
        let slot = self.values.entry(attribute.clone()).or_insert_with(|| Slot::untouched(base_is_empty));
        slot.apply(op);
        debt.attributes.insert(attribute);
    }

    /// The value of an attribute; null when it is empty, `None` while it is not known.
    pub fn value(&self, attribute: &str) -> Option<&Value> {
        self.values.get(attribute).and_then(Slot::known)
    }

    /// The name that the group goes by, if it is known.
    pub fn name(&self) -> Option<String> {
        match self.value(NAME)? {
            Value::String(name) if !name.trim().is_empty() => Some(name.trim().to_owned()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// The name that the group would go by if it were not at Brevo.
    pub fn name_without_base(&self) -> Option<String> {
        let mut name = self.values.get(NAME)?.clone();
        name.resolve(&Value::Null);
        Company { values: [(NAME.to_owned(), name)].into(), ..Company::default() }.name()
    }

    /// Whether a value that is owed depends on what stands at Brevo.
    pub fn needs_base(&self, debt: &Debt) -> bool {
        debt.attributes.iter().any(|attribute| self.values.get(attribute).is_some_and(|slot| slot.known().is_none()))
    }

    /// Takes the base: what stands at Brevo, as Mixpanel would have it, null where nothing does. Read once, it is known from
    /// then on. An empty map for a company that is about to be made.
    pub fn take_base(&mut self, base: &Map<String, Value>) {
        for (attribute, slot) in &mut self.values {
            slot.resolve(base.get(attribute).unwrap_or(&Value::Null));
        }
        for (attribute, value) in base {
            self.values.entry(attribute.clone()).or_insert_with(|| Slot::Known(value.clone()));
        }
    }

    /// Everything that is known and not empty, for a company that is made anew.
    pub fn filled(&self) -> BTreeSet<String> {
        let filled = |slot: &Slot| slot.known().is_some_and(|value| !value.is_null());
        self.values.iter().filter(|(_, slot)| filled(slot)).map(|(attribute, _)| attribute.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
