//! Profile and group updates: ids and operators.

use std::ops::Range;

use serde::de::MapAccess;
use serde_json::value::RawValue;

use super::element::{FromObject, Key};
use super::raw::{EndAddress, Raw, closing_brace, depth, end_address, opening_brace};

/// One element of an `/engage` or `/groups` call.
#[derive(Clone, Debug, Default)]
pub struct Update<'a> {
    pub token: Option<Raw<'a>>,
    pub distinct_id: Option<Raw<'a>>,
    pub group_key: Option<Raw<'a>>,
    pub group_id: Option<Raw<'a>>,
    pub ignore: Option<Raw<'a>>,
    /// Every `$ip` at the top level.
    pub ip: Vec<Raw<'a>>,
    /// Operators present (`$set`, `$unset`, ...), with their operands.
    pub operators: Vec<(Operator, Raw<'a>)>,
    pub depth: usize,
    first: Option<Raw<'a>>,
    end: EndAddress,
}

impl Update<'_> {
    /// Where the record stands in `text`. `None` for an object without a value.
    pub fn span(&self, text: &str) -> Option<Range<usize>> {
        Some(opening_brace(text, self.first?.span(text).start)?..closing_brace(text, self.end)? + 1)
    }
}

/// The profile operators (contract §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    Set,
    SetOnce,
    Add,
    Union,
    Append,
    Remove,
    Unset,
    Delete,
}

impl Operator {
    pub fn from_key(key: &str) -> Option<Self> {
        Some(match key {
            "$set" => Operator::Set,
            "$set_once" => Operator::SetOnce,
            "$add" => Operator::Add,
            "$union" => Operator::Union,
            "$append" => Operator::Append,
            "$remove" => Operator::Remove,
            "$unset" => Operator::Unset,
            "$delete" => Operator::Delete,
            _ => return None,
        })
    }

    pub fn key(self) -> &'static str {
        match self {
            Operator::Set => "$set",
            Operator::SetOnce => "$set_once",
            Operator::Add => "$add",
            Operator::Union => "$union",
            Operator::Append => "$append",
            Operator::Remove => "$remove",
            Operator::Unset => "$unset",
            Operator::Delete => "$delete",
        }
    }
}

/// What a key of a profile update means to the edge.
#[derive(Clone, Copy)]
enum UpdateKey {
    Token,
    DistinctId,
    GroupKey,
    GroupId,
    Ignore,
    Ip,
    Operator(Operator),
    Other,
}

impl UpdateKey {
    fn of(key: &str) -> Self {
        match key {
            "$token" => UpdateKey::Token,
            "$distinct_id" => UpdateKey::DistinctId,
            "$group_key" => UpdateKey::GroupKey,
            "$group_id" => UpdateKey::GroupId,
            "$ignore" => UpdateKey::Ignore,
            "$ip" => UpdateKey::Ip,
            other => Operator::from_key(other).map_or(UpdateKey::Other, UpdateKey::Operator),
        }
    }
}

impl<'de> FromObject<'de> for Update<'de> {
    fn read_fields<A: MapAccess<'de>>(&mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key(UpdateKey::of))? {
            let value = Raw::from(map.next_value::<&'de RawValue>()?);
            self.first = self.first.or(Some(value));
            self.end = end_address(value);
            self.depth = self.depth.max(depth(value));
            match key {
                UpdateKey::Token => self.token = Some(value),
                UpdateKey::DistinctId => self.distinct_id = Some(value),
                UpdateKey::GroupKey => self.group_key = Some(value),
                UpdateKey::GroupId => self.group_id = Some(value),
                UpdateKey::Ignore => self.ignore = Some(value),
                UpdateKey::Ip => self.ip.push(value),
                UpdateKey::Operator(operator) => self.operators.push((operator, value)),
                UpdateKey::Other => {}
            }
        }
        Ok(())
    }
}
