//! What Brevo pushes, in every spelling that its documentation and recorded bodies have (Brevo contract §8.2). Pure.

use serde_json::{Map, Value};

use crate::brevo::identifiers::ContactId;
use crate::clock::UnixMillis;
use crate::mixpanel::reserved::names_nobody;
use crate::people::address_book::Sought;

/// Longest name of an event that is taken: the vendor's own have some twenty letters.
const MAX_NAME: usize = 80;
/// From here on a Unix time is in milliseconds: as seconds it would be the year 5138.
const MILLIS_FROM: u64 = 100_000_000_000;
/// 2010-01-01: no contact of Brevo's was mailed before.
const EARLIEST: UnixMillis = UnixMillis(1_262_304_000_000);

/// Why one of the things in a body is not taken. The others are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("not an object")]
    NotAnObject,
    #[error("no `event`, or none that could be a name")]
    NoEvent,
    #[error("nobody is named: no `email`, no `contact_id`, no `ext_id`")]
    Nobody,
}

impl Unusable {
    /// The `reason` label of `mixrelay_records_rejected_total`.
    pub fn label(self) -> &'static str {
        match self {
            Unusable::NotAnObject => "not_an_object",
            Unusable::NoEvent => "event_missing",
            Unusable::Nobody => "nobody",
        }
    }
}

/// The things in a body: one object, a bare array, or an object that holds one array (whichever wrapper batches have is
/// unconfirmed). `None`: something else.
pub fn items(body: Value) -> Option<Vec<Value>> {
    match body {
        Value::Array(items) => Some(items),
        Value::Object(mut members) if !members.contains_key("event") => {
            let mut arrays = members.values_mut().filter(|value| value.is_array());
            match (arrays.next(), arrays.next()) {
                (Some(Value::Array(items)), None) => Some(std::mem::take(items)),
                _ => Some(vec![Value::Object(members)]),
            }
        }
        Value::Object(members) => Some(vec![Value::Object(members)]),
        _ => None,
    }
}

/// One thing that happened to a message or a contact.
#[derive(Clone, Debug, PartialEq)]
pub struct Push {
    /// Snake case, as Brevo writes it in payloads.
    pub event: String,
    pub sought: Sought,
    /// When it happened; `None`: not said, or nothing that could be.
    pub at: Option<UnixMillis>,
    /// What tells this from every other thing, the same in a repetition.
    pub identity: Vec<String>,
    pub members: Map<String, Value>,
}

impl Push {
    pub fn read(item: Value) -> Result<Self, Unusable> {
        let Value::Object(members) = item else { return Err(Unusable::NotAnObject) };
        let event = text(&members, &["event"]).map(|name| snake(&name)).filter(|name| is_name(name));
        let event = event.ok_or(Unusable::NoEvent)?;
        let sought = sought(&members);
        if sought == Sought::default() {
            return Err(Unusable::Nobody);
        }
        let at = time(&members);
        let identity = identity(&event, &sought, &members);
        Ok(Self { event, sought, at, identity, members })
    }

    /// The first of `names` that has a value, as text.
    pub fn text(&self, names: &[&str]) -> Option<String> {
        text(&self.members, names)
    }

    /// The first of `names` that has a value.
    pub fn value(&self, names: &[&str]) -> Option<&Value> {
        names.iter().filter_map(|name| self.members.get(*name)).find(|value| !is_empty(value))
    }
}

pub const MESSAGE_ID: &[&str] = &["message-id", "message_id", "messageId"];
pub const CAMPAIGN_ID: &[&str] = &["camp_id", "campaign_id", "campaignId"];
pub const LINK: &[&str] = &["link", "url", "URL"];
pub const LISTS: &[&str] = &["list_id", "list_ids", "listId"];

/// Words for nobody (`undefined`, `null`) are nobody: Mixpanel refuses an event of theirs.
fn sought(members: &Map<String, Value>) -> Sought {
    let contact_id = text(members, &["contact_id", "contactId"]).and_then(|id| id.parse().ok()).filter(|id| *id != 0);
    Sought {
        contact_id: contact_id.map(ContactId),
        ext_id: text(members, &["ext_id", "extId", "EXT_ID"]).filter(|id| !names_nobody(id)),
        address: text(members, &["email", "EMAIL"]).filter(|to| !names_nobody(to)).map(|to| to.to_lowercase()),
    }
}

/// `ts_event`, to the millisecond where `ts_epoch` has it; else the nearest to it that there is. Texts like `date` are in
/// the account's zone, which a push does not name.
fn time(members: &Map<String, Value>) -> Option<UnixMillis> {
    let moment = |name: &str| {
        let value: u64 = text(members, &[name])?.parse().ok()?;
        let millis = if value < MILLIS_FROM { value.checked_mul(1000)? } else { value };
        Some(UnixMillis(millis)).filter(|at| *at >= EARLIEST)
    };
    let (event, epoch) = (moment("ts_event"), moment("ts_epoch"));
    match (event, epoch) {
        (Some(event), Some(epoch)) if epoch.0 / 1000 == event.0 / 1000 => Some(epoch),
        (Some(event), _) => Some(event),
        (None, epoch) => epoch.or_else(|| moment("ts")),
    }
}

/// There is no id of an event: (event, message or campaign, address, time) make one (contract §8.2). Links and lists are
/// added, since a message has several and a repetition names the same.
fn identity(event: &str, sought: &Sought, members: &Map<String, Value>) -> Vec<String> {
    let named = |names| text(members, names).unwrap_or_default();
    let whose = sought.address.clone().or_else(|| sought.contact_id.map(|id| id.0.to_string()));
    let lists = LISTS.iter().filter_map(|name| members.get(*name)).map(Value::to_string).next();
    vec![
        event.to_owned(),
        named(MESSAGE_ID),
        named(CAMPAIGN_ID),
        whose.or_else(|| sought.ext_id.clone()).unwrap_or_default(),
        named(&["ts_event", "ts_epoch", "ts", "date_event", "date"]),
        named(LINK),
        lists.unwrap_or_default(),
    ]
}

fn text(members: &Map<String, Value>, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| match members.get(*name)? {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    })
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// `hardBounce`, `hard bounce` and `hard_bounce` are one name.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for c in name.trim().chars() {
        if c.is_ascii_uppercase() {
            if !snake.is_empty() && !snake.ends_with('_') {
                snake.push('_');
            }
            snake.push(c.to_ascii_lowercase());
        } else if matches!(c, ' ' | '-' | '_') {
            if !snake.ends_with('_') {
                snake.push('_');
            }
        } else {
            snake.push(c);
        }
    }
    snake
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain) && name.bytes().any(|byte| byte != b'_')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(item: Value) -> Push {
        Push::read(item).unwrap()
    }

    #[test]
    fn a_body_holds_one_thing_or_several() {
        let (one, two) = (json!({"event": "opened", "tags": ["a"]}), json!({"event": "click"}));
        for (body, expected) in [
            (one.clone(), Some(vec![one.clone()])),
            (json!([one, two]), Some(vec![one.clone(), two.clone()])),
            (json!({"events": [one, two]}), Some(vec![one.clone(), two.clone()])),
            (json!({"id": 7, "items": [one]}), Some(vec![one.clone()])),
            (json!([]), Some(vec![])),
            // Two arrays are no wrapper: the object is what cannot be read.
            (json!({"a": [1], "b": [2]}), Some(vec![json!({"a": [1], "b": [2]})])),
            (json!("opened"), None),
            (json!(null), None),
        ] {
            assert_eq!(items(body.clone()), expected, "{body}");
        }
    }

    #[test]
    fn both_kinds_of_payload_are_read() {
        let transactional = read(json!({
            "event": "hard_bounce", "email": "Ada@Example.com", "id": 26224, "date": "2026-11-24 10:00:00",
            "ts": 1_795_500_000, "ts_event": 1_795_500_001, "ts_epoch": 1_795_500_001_250_u64,
            "message-id": "<m@relay>", "contact_id": 9, "tags": ["t"], "reason": "gone",
        }));
        assert_eq!(transactional.event, "hard_bounce");
        assert_eq!(transactional.at, Some(UnixMillis(1_795_500_001_250)));
        let expected =
            Sought { contact_id: Some(ContactId(9)), ext_id: None, address: Some("ada@example.com".to_owned()) };
        assert_eq!(transactional.sought, expected);
        let marketing = read(json!({
            "event": "click", "email": "ada@example.com", "id": 1, "camp_id": 5, "campaign name": "May",
            "date_event": "2026-11-24 10:00:00", "ts_sent": 1_795_400_000, "ts_event": "1795500001", "ts": 1_795_500_002,
            "URL": "https://example.com/a",
        }));
        assert_eq!(marketing.at, Some(UnixMillis(1_795_500_001_000)));
        assert_eq!(marketing.text(CAMPAIGN_ID).as_deref(), Some("5"));
        assert_eq!(marketing.text(LINK).as_deref(), Some("https://example.com/a"));
    }

    #[test]
    fn names_are_one_in_every_spelling() {
        for (name, expected) in [
            ("opened", "opened"),
            ("hardBounce", "hard_bounce"),
            ("hard bounce", "hard_bounce"),
            ("Hard_Bounce", "hard_bounce"),
            ("contact added to list", "contact_added_to_list"),
        ] {
            assert_eq!(read(json!({"event": name, "email": "a@b.c"})).event, expected);
        }
    }

    #[test]
    fn what_says_too_little_is_told_apart() {
        for (item, expected) in [
            (json!(7), Unusable::NotAnObject),
            (json!({"email": "a@b.c"}), Unusable::NoEvent),
            (json!({"event": "", "email": "a@b.c"}), Unusable::NoEvent),
            (json!({"event": "<script>", "email": "a@b.c"}), Unusable::NoEvent),
            (json!({"event": "opened", "email": "", "contact_id": 0}), Unusable::Nobody),
            (json!({"event": "opened"}), Unusable::Nobody),
            // Mixpanel refuses events of theirs.
            (json!({"event": "opened", "email": "Undefined", "ext_id": "null"}), Unusable::Nobody),
        ] {
            assert_eq!(Push::read(item.clone()), Err(expected), "{item}");
        }
    }

    #[test]
    fn a_repetition_has_the_same_identity_and_nothing_else_has() {
        let first =
            json!({"event": "click", "email": "a@b.c", "message-id": "m", "ts_event": 1_795_500_000, "link": "l"});
        let identity = |item: &Value| read(item.clone()).identity;
        assert_eq!(identity(&first), identity(&first));
        for (member, value) in [
            ("event", json!("opened")),
            ("email", json!("b@b.c")),
            ("message-id", json!("n")),
            ("ts_event", json!(1_795_500_001)),
            ("link", json!("k")),
            ("list_id", json!([1])),
        ] {
            let mut other = first.clone();
            other[member] = value;
            assert_ne!(identity(&other), identity(&first), "{member}");
        }
    }

    #[test]
    fn a_time_that_cannot_be_is_none() {
        for members in [json!({"ts_event": 12}), json!({"ts_event": "soon"}), json!({"date": "2026-11-24 10:00:00"})] {
            assert_eq!(time(members.as_object().unwrap()), None, "{members}");
        }
    }
}
