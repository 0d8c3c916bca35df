//! Who is who at Mixpanel, in both ID-merge modes (contract §6).

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::IdentityMode;
use super::validate::id_text;

const MAX_CLUSTER: usize = 500;

/// Links between ids. One map serves both modes: device → user in simplified, member → cluster head in original.
#[derive(Debug, Default)]
pub struct Identity {
    links: HashMap<String, String>,
    /// The other ids of each head.
    members: HashMap<String, Vec<String>>,
}

/// What an identity event came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Linked {
    New,
    /// Nothing changed: known already, first user keeps the device, or a rule of the vendor was broken in silence.
    Kept,
}

/// The distinct_id that a simplified project gives an event: the user, else the device, else what was sent.
pub fn simplified_distinct_id(properties: &Map<String, Value>) -> String {
    let filled = |key| id_text(properties.get(key)).filter(|id| !id.is_empty());
    if let Some(user) = filled("$user_id") {
        return user;
    }
    if let Some(device) = filled("$device_id") {
        return format!("$device:{}", bare_device(&device));
    }
    filled("distinct_id").unwrap_or_default()
}

/// One leading `$device:` is taken off.
fn bare_device(device: &str) -> &str {
    device.strip_prefix("$device:").unwrap_or(device)
}

pub fn is_identity_event(name: &str) -> bool {
    matches!(name, "$identify" | "$create_alias" | "$merge")
}

impl Identity {
    /// The id that stands for `id` now.
    pub fn canonical<'a>(&'a self, id: &'a str) -> &'a str {
        self.links.get(id).map_or(id, String::as_str)
    }

    /// Simplified: a device and a user on one event belong together; the first user keeps the device.
    pub fn observe(&mut self, properties: &Map<String, Value>) -> Linked {
        let filled = |key| id_text(properties.get(key)).filter(|id| !id.is_empty());
        let (Some(device), Some(user)) = (filled("$device_id"), filled("$user_id")) else {
            return Linked::Kept;
        };
        let device = format!("$device:{}", bare_device(&device));
        if self.links.contains_key(&device) {
            return Linked::Kept;
        }
        self.members.entry(user.clone()).or_default().push(device.clone());
        self.links.insert(device, user);
        Linked::New
    }

    /// Original: `$identify`, `$create_alias`, `$merge`. Broken rules are silent, as they are at the vendor.
    pub fn act(&mut self, name: &str, properties: &Map<String, Value>, anon_must_be_uuid4: bool) -> Linked {
        let id = |key| id_text(properties.get(key)).filter(|id| !id.is_empty());
        match name {
            "$identify" => {
                let user = id("$identified_id").or_else(|| id("distinct_id"));
                let anon = id("$anon_id").or_else(|| id("$anon_distinct_id"));
                let (Some(user), Some(anon)) = (user, anon) else { return Linked::Kept };
                if (anon_must_be_uuid4 && !is_uuid4(bare_device(&anon))) || self.links.contains_key(&anon) {
                    return Linked::Kept;
                }
                self.join(&user, &anon)
            }
            "$create_alias" => match (id("distinct_id"), id("alias")) {
                (Some(known), Some(alias)) if !self.links.contains_key(&alias) => self.join(&known, &alias),
                _ => Linked::Kept,
            },
            _ => match properties.get("$distinct_ids").and_then(Value::as_array).map(Vec::as_slice) {
                Some([first, second]) => match (id_text(Some(first)), id_text(Some(second))) {
                    (Some(first), Some(second)) => self.join(&first, &second),
                    _ => Linked::Kept,
                },
                _ => Linked::Kept,
            },
        }
    }

    /// Puts the cluster of `other` under that of `head`.
    fn join(&mut self, head: &str, other: &str) -> Linked {
        let head = self.canonical(head).to_owned();
        let other = self.canonical(other).to_owned();
        let size = |of: &str| 1 + self.members.get(of).map_or(0, Vec::len);
        if head == other || size(&head) + size(&other) > MAX_CLUSTER {
            return Linked::Kept;
        }
        let mut moved = self.members.remove(&other).unwrap_or_default();
        moved.push(other);
        for member in &moved {
            self.links.insert(member.clone(), head.clone());
        }
        self.members.entry(head).or_default().append(&mut moved);
        Linked::New
    }

    /// All ids that stand for the same person as `id`.
    pub fn members(&self, id: &str) -> Vec<String> {
        let head = self.canonical(id);
        let mut members = self.members.get(head).cloned().unwrap_or_default();
        members.push(head.to_owned());
        members.sort();
        members
    }

    pub fn links(&self) -> usize {
        self.links.len()
    }
}

/// What the server answers with when asked how it names the sender of an event.
pub fn stored_distinct_id(mode: IdentityMode, properties: &Map<String, Value>) -> String {
    match mode {
        IdentityMode::Simplified => simplified_distinct_id(properties),
        IdentityMode::Original => id_text(properties.get("distinct_id")).unwrap_or_default(),
    }
}

fn is_uuid4(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    let hex = |group: &&str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(hex)
        && groups[2].starts_with('4')
        && groups[3].starts_with(['8', '9', 'a', 'b', 'A', 'B'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn properties(value: Value) -> Map<String, Value> {
        value.as_object().expect("object").clone()
    }

    #[test]
    fn simplified_first_user_keeps_the_device() {
        let mut identity = Identity::default();
        assert_eq!(identity.observe(&properties(json!({ "$device_id": "d", "$user_id": "u1" }))), Linked::New);
        assert_eq!(identity.observe(&properties(json!({ "$device_id": "$device:d", "$user_id": "u2" }))), Linked::Kept);
        assert_eq!(identity.canonical("$device:d"), "u1");
        assert_eq!(simplified_distinct_id(&properties(json!({ "$device_id": "$device:d" }))), "$device:d");
    }

    #[test]
    fn original_joins_clusters_and_wants_a_uuid() {
        let mut identity = Identity::default();
        let anon = "f47ac10b-58cc-4372-a567-0e02b2c3d479";
        let identify = properties(json!({ "distinct_id": "u", "$anon_distinct_id": anon }));
        assert_eq!(identity.act("$identify", &identify, true), Linked::New);
        let plain = properties(json!({ "$identified_id": "u", "$anon_id": "phone" }));
        assert_eq!(identity.act("$identify", &plain, true), Linked::Kept);
        let merge = properties(json!({ "$distinct_ids": ["v", "u"] }));
        assert_eq!(identity.act("$merge", &merge, true), Linked::New);
        assert_eq!(identity.canonical(anon), "v");
        assert_eq!(identity.members("u"), [anon, "u", "v"]);
    }
}
