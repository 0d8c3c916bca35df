//! Profile and group updates: ids and operators.

use std::borrow::Cow;
use std::ops::Range;

use super::element::FromObject;
use super::raw::Raw;
use super::scan::{NotJson, Scanner};

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
    whole: Option<Raw<'a>>,
}

impl Update<'_> {
    /// Where the record stands in `text`, from brace to brace.
    pub fn span(&self, text: &str) -> Option<Range<usize>> {
        self.whole.map(|whole| whole.span(text))
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

impl<'t> FromObject<'t> for Update<'t> {
    fn member(&mut self, key: Cow<'t, str>, scanner: &mut Scanner<'t>) -> Result<(), NotJson> {
        let (value, depth) = scanner.value()?;
        self.depth = self.depth.max(depth);
        match UpdateKey::of(&key) {
            UpdateKey::Token => self.token = Some(value),
            UpdateKey::DistinctId => self.distinct_id = Some(value),
            UpdateKey::GroupKey => self.group_key = Some(value),
            UpdateKey::GroupId => self.group_id = Some(value),
            UpdateKey::Ignore => self.ignore = Some(value),
            UpdateKey::Ip => self.ip.push(value),
            UpdateKey::Operator(operator) => self.operators.push((operator, value)),
            UpdateKey::Other => {}
        }
        Ok(())
    }

    fn ends(&mut self, whole: Raw<'t>) {
        self.whole = Some(whole);
    }
}
