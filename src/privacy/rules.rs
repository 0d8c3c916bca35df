//! `drop`, `hash` and `only` on one record. Pure.
//!
//! Names are looked for among an event's properties, among the properties that a profile or group update's operators
//! touch, and at the record's own top level; what lies deeper inside a value is part of the value. Records are edited in
//! place: members that no rule touches keep their bytes.

use std::collections::HashSet;

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::value::RawValue;
use sha2::Sha256;

use super::members::{Member, members};
use crate::config::{PropertyPolicy, Secret};
use crate::mixpanel::wire::{NotJson, Operator, Raw};
use crate::record::Kind;

/// Without these an event means nothing to the vendor: `only` keeps them, `drop` and `hash` reach them by name.
pub const NEEDED: [&str; 6] = ["token", "time", "distinct_id", "$insert_id", "$device_id", "$user_id"];
/// Those of them, and of an update's, that say who somebody is.
const IDS: [&str; 4] = ["distinct_id", "$distinct_id", "$user_id", "$device_id"];
/// The same for what an identity event links.
const LINKED: [&str; 5] = ["$identified_id", "$anon_id", "$anon_distinct_id", "alias", "$distinct_ids"];
/// The same for the top level of profile and group updates.
const ADDRESSING: [&str; 7] =
    ["$token", "$distinct_id", "$group_key", "$group_id", "$time", "$ignore_time", "$ignore_alias"];

/// The stored record is not of the shape that the edge accepts. Nothing of it may leave then.
#[derive(Debug, thiserror::Error)]
pub enum Unruly {
    #[error("the privacy rules cannot read the record: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the privacy rules cannot read the record: {0}")]
    Scan(#[from] NotJson),
    #[error("the privacy rules cannot read the record: {0} is of another kind than an object")]
    NoObject(&'static str),
    #[error("the privacy rules cannot read the record: it is not UTF-8")]
    Encoding(#[from] std::str::Utf8Error),
}

/// What one destination gets of a record's properties.
#[derive(Clone, Debug)]
pub struct Rules {
    drop: HashSet<String>,
    hash: HashSet<String>,
    /// Empty: everything.
    only: HashSet<String>,
    key: HashKey,
}

/// Not shown: who has it can test which value a hash stands for.
#[derive(Clone)]
struct HashKey(Hmac<Sha256>);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ruling {
    Keep,
    Hash,
    Drop,
}

impl Rules {
    /// `None` when the policy says nothing. A policy that hashes comes with a key: the configuration sees to it.
    pub fn new(policy: &PropertyPolicy, key: Option<&Secret>) -> Option<Self> {
        if *policy == PropertyPolicy::default() {
            return None;
        }
        let key = key.map_or("", Secret::expose);
        // HMAC takes keys of every length.
        let key = Hmac::new_from_slice(key.as_bytes()).expect("a key of any length");
        let set = |names: &[String]| names.iter().cloned().collect();
        let PropertyPolicy { drop, hash, only } = policy;
        Some(Self { drop: set(drop), hash: set(hash), only: set(only), key: HashKey(key) })
    }

    /// The record's body as the destination may have it. `None`: a profile or group update of which no operator is left.
    pub fn outgoing(&self, kind: Kind, body: &Bytes) -> Result<Option<Bytes>, Unruly> {
        let text = std::str::from_utf8(body)?;
        let ruled = match kind {
            Kind::Event | Kind::Identity => Some(self.event(text, kind == Kind::Identity)?),
            Kind::Profile | Kind::Group => self.update(text)?,
        };
        Ok(ruled.map(|edited| edited.map_or_else(|| body.clone(), Bytes::from)))
    }

    fn ruling(&self, name: &str, needed: bool) -> Ruling {
        let left_out = !self.only.is_empty() && !self.only.contains(name) && !needed;
        if self.drop.contains(name) || left_out {
            Ruling::Drop
        } else if self.hash.contains(name) {
            Ruling::Hash
        } else {
            Ruling::Keep
        }
    }

    /// The id that `id` leaves as, where ids are hashed.
    pub fn pseudonym(&self, id: &str) -> Option<String> {
        let hashes = IDS.iter().any(|name| self.ruling(name, true) == Ruling::Hash);
        hashes.then(|| self.hex(id.as_bytes()))
    }

    /// `None`: as it came.
    fn event(&self, text: &str, identity: bool) -> Result<Option<String>, Unruly> {
        let needed = |name: &str| NEEDED.contains(&name) || identity && LINKED.contains(&name);
        let members = members(text)?.ok_or(Unruly::NoObject("it"))?;
        let mut object = Object::new(text);
        for member in &members {
            match member.name.as_ref() {
                "event" => object.keep(member),
                "properties" if member.value.is_null() => object.keep(member),
                "properties" => {
                    let inner = self.properties(member.value.text(), needed, None)?;
                    object.put(member, inner.ok_or(Unruly::NoObject("properties"))?.edited);
                }
                // Ids of the SDK's own, beside the properties.
                "$mp_metadata" => self.rule(member, true, &mut object),
                _ => self.rule(member, false, &mut object),
            }
        }
        Ok(object.finish())
    }

    /// Outer `None`: nothing is left; inner `None`: as it came.
    fn update(&self, text: &str) -> Result<Option<Option<String>>, Unruly> {
        let members = members(text)?.ok_or(Unruly::NoObject("it"))?;
        let mut object = Object::new(text);
        let (mut before, mut left) = (0, 0);
        for member in &members {
            let Some(operator) = Operator::from_key(&member.name) else {
                self.rule(member, ADDRESSING.contains(&member.name.as_ref()), &mut object);
                continue;
            };
            before += 1;
            let inner = match operator {
                Operator::Delete => Some(Inner { edited: None, empty: false }),
                Operator::Unset => Some(self.unset(member.value)?),
                _ => self.properties(member.value.text(), |_| false, Some(operator))?,
            };
            // Operands of another shape do nothing at the vendor, and could hold anything.
            match inner {
                Some(Inner { empty: false, edited }) => {
                    left += 1;
                    object.put(member, edited);
                }
                _ => object.leave_out(),
            }
        }
        if before > 0 && left == 0 {
            return Ok(None);
        }
        Ok(Some(object.finish()))
    }

    /// The object `text` of properties. `None` for a value of another kind.
    fn properties(
        &self,
        text: &str,
        needed: impl Fn(&str) -> bool,
        operator: Option<Operator>,
    ) -> Result<Option<Inner>, Unruly> {
        let Some(members) = members(text)? else { return Ok(None) };
        let mut object = Object::new(text);
        for member in &members {
            let hashed_sum = operator == Some(Operator::Add) && self.ruling(&member.name, false) == Ruling::Hash;
            if hashed_sum {
                object.leave_out(); // a hash cannot be added up
            } else {
                self.rule(member, needed(&member.name), &mut object);
            }
        }
        let empty = object.is_empty() && !members.is_empty();
        Ok(Some(Inner { empty, edited: object.finish() }))
    }

    /// A list of names, or one name. Taking a hashed property away says nothing of its value.
    fn unset(&self, operand: Raw<'_>) -> Result<Inner, Unruly> {
        let kept = |raw: &RawValue| {
            let name = Raw::from(raw).as_str();
            name.is_some_and(|name| self.ruling(&name, false) != Ruling::Drop)
        };
        if !operand.text().starts_with('[') {
            let name: &RawValue = serde_json::from_str(operand.text())?;
            return Ok(Inner { edited: None, empty: !kept(name) });
        }
        let names: Vec<&RawValue> = serde_json::from_str(operand.text())?;
        let left: Vec<&str> = names.iter().filter(|name| kept(name)).map(|name| name.get()).collect();
        let edited = (left.len() < names.len()).then(|| format!("[{}]", left.join(",")));
        Ok(Inner { empty: left.is_empty() && !names.is_empty(), edited })
    }

    fn rule(&self, member: &Member<'_>, needed: bool, object: &mut Object<'_>) {
        match self.ruling(&member.name, needed) {
            Ruling::Keep => object.keep(member),
            Ruling::Hash => object.put(member, Some(self.hashed(member.value.text()))),
            Ruling::Drop => object.leave_out(),
        }
    }

    /// The value as it leaves: a list element by element, null as null, everything else as the hash of its string form.
    fn hashed(&self, value: &str) -> String {
        if value == "null" {
            return value.to_owned();
        }
        if value.starts_with('[') {
            // The text has been parsed; were it no list, its hash would give nothing away either.
            let items: Vec<&RawValue> = serde_json::from_str(value).unwrap_or_default();
            let items: Vec<String> = items.iter().map(|item| self.hashed_scalar(item.get())).collect();
            return format!("[{}]", items.join(","));
        }
        self.hashed_scalar(value)
    }

    fn hashed_scalar(&self, value: &str) -> String {
        if value == "null" {
            return value.to_owned();
        }
        let hex = match serde_json::from_str::<String>(value) {
            Ok(text) => self.hex(text.as_bytes()),
            Err(_) => self.hex(value.as_bytes()),
        };
        format!("\"{hex}\"")
    }

    fn hex(&self, bytes: &[u8]) -> String {
        let mut mac = self.key.0.clone();
        mac.update(bytes);
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// An object after its members were ruled on.
struct Inner {
    /// `None`: as it came.
    edited: Option<String>,
    /// Every one of its members was left out.
    empty: bool,
}

/// An object on its way out, put together from the pieces of its text that may stay.
struct Object<'a> {
    text: &'a str,
    out: String,
    touched: bool,
}

impl<'a> Object<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, out: String::new(), touched: false }
    }

    fn keep(&mut self, member: &Member<'_>) {
        self.begin();
        self.out.push_str(member.whole(self.text));
    }

    /// With another value, when there is one.
    fn put(&mut self, member: &Member<'_>, value: Option<String>) {
        let Some(value) = value else { return self.keep(member) };
        self.touched = true;
        self.begin();
        self.out.push_str(member.head(self.text));
        self.out.push_str(&value);
    }

    fn leave_out(&mut self) {
        self.touched = true;
    }

    fn begin(&mut self) {
        self.out.push(if self.out.is_empty() { '{' } else { ',' });
    }

    fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// `None`: as it came.
    fn finish(mut self) -> Option<String> {
        if !self.touched {
            return None;
        }
        if self.out.is_empty() {
            self.out.push('{');
        }
        self.out.push('}');
        Some(self.out)
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
