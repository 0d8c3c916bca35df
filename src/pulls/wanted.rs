//! What is read of a profile, and what becomes of it. Pure.

use serde_json::{Map, Value};

use crate::feed::Draft;
use crate::mapping::{CompiledMapping, Target};
use crate::mixpanel::reserved::names_nobody;

/// When the profile was last changed, by an update that does not say `$ignore_time` (contract §5).
pub const LAST_SEEN: &str = "$last_seen";

/// The properties that are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Mapped, or the answer to the consent rule.
    properties: Vec<String>,
    /// Those of them that hold an address or a number.
    addresses: Vec<String>,
    /// All that is asked for.
    asked: Vec<String>,
}

impl Wanted {
    /// `properties`: mapped ones that Mixpanel holds as the apps sent them.
    pub fn new(mapping: &CompiledMapping, properties: Vec<String>) -> Self {
        let is_address = |property: &&String| matches!(mapping.target(property), Some(Target::Email | Target::Phone));
        let addresses = properties.iter().filter(is_address).cloned().collect();
        let mut asked = properties.clone();
        if !asked.iter().any(|property| property == LAST_SEEN) {
            asked.push(LAST_SEEN.to_owned());
        }
        Self { properties, addresses, asked }
    }

    pub fn is_empty(&self) -> bool {
        self.properties.is_empty()
    }

    pub fn asked(&self) -> &[String] {
        &self.asked
    }

    /// Leaves whom Brevo could know, of those last seen `from` (included) `to` (not included), as the vendor writes times.
    /// Whether it compares that property as a time or as a text is unconfirmed; unlike types compare as undefined, which
    /// is false in `or` (contract §10), so both are asked.
    pub fn filter(&self, from: Option<&str>, to: Option<&str>) -> String {
        let defined = |name: &String| format!("defined(properties[{}])", Value::from(name.as_str()));
        let mut all = Vec::new();
        for (operator, time) in [(">=", from), ("<", to)] {
            if let Some(time) = time {
                let seen = format!("properties[\"{LAST_SEEN}\"] {operator}");
                all.push(format!("({seen} datetime(\"{time}\") or {seen} \"{time}\")"));
            }
        }
        if !self.addresses.is_empty() {
            all.push(format!("({})", self.addresses.iter().map(defined).collect::<Vec<_>>().join(" or ")));
        }
        all.join(" and ")
    }

    /// Whether Brevo could know who this is.
    pub fn has_address(&self, profile: &Map<String, Value>) -> bool {
        self.addresses.iter().any(|name| profile.get(name).is_some_and(|value| !value.is_null()))
    }

    /// The profile as a record; `None` when its id stands for nobody.
    pub fn draft(&self, id: &str, profile: &Map<String, Value>) -> Option<Draft> {
        if id.trim().is_empty() || names_nobody(id) {
            return None;
        }
        let (mut set, mut unset) = (Map::new(), Vec::new());
        for name in &self.properties {
            match profile.get(name) {
                None | Some(Value::Null) => unset.push(name.as_str()),
                Some(value) => drop(set.insert(name.clone(), value.clone())),
            }
        }
        Some(Draft::profile(id, &set, &unset))
    }
}
