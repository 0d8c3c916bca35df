//! What Mixpanel gets of a push: an event on the person's timeline, and a profile property where a contact does not want
//! mail any more. Pure.

use bytes::Bytes;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::Xxh3;

use super::push::{CAMPAIGN_ID, LINK, LISTS, MESSAGE_ID, Push};
use crate::clock::UnixMillis;
use crate::config::{IdentityMode, PropertyPolicy};
use crate::people::address_book::stand_in;
use crate::people::roster::PersonId;
use crate::record::{Destinations, Kind, Origin, Project, Record};

/// What the `$insert_id` of these events begins with, so that they are known again when Mixpanel streams them back: one
/// that went to Brevo as an event could set off the very mail that it tells of (CORE 9).
pub const INSERT_ID_PREFIX: &str = "brevo-";
/// Hexadecimal digits behind it: `/import` takes 36 characters.
const DIGITS: usize = 30;
/// Longest text that is passed on.
const MAX_TEXT: usize = 2_000;
/// Characters of a device's id as a person.
const DEVICE: &str = "$device:";

/// How the project knows people.
#[derive(Clone, Debug)]
pub struct Naming {
    pub token: String,
    pub mode: IdentityMode,
    /// `privacy.mixpanel` keeps addresses from Mixpanel, so none may stand for an id.
    pub address_hidden: bool,
}

impl Naming {
    /// Whether the rules keep addresses from the destination.
    pub fn hides_addresses(policy: &PropertyPolicy) -> bool {
        let named = |names: &[String]| names.iter().any(|name| name == "$email");
        let left_out = !policy.only.is_empty() && !named(&policy.only);
        named(&policy.drop) || named(&policy.hash) || left_out
    }
}

/// Whether an `$insert_id` is one that is made here.
pub fn is_own_insert_id(id: &str) -> bool {
    id.strip_prefix(INSERT_ID_PREFIX)
        .is_some_and(|rest| rest.len() == DIGITS && rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// The records of one push, for Mixpanel only. `person`: the canonical id, if there is one.
pub fn records(push: &Push, person: Option<&PersonId>, naming: &Naming, received_at: UnixMillis) -> Vec<Record> {
    let ids = ids(push, person, naming);
    // Mixpanel takes no events of the future, and Brevo's clock may be ahead of ours.
    let at = push.at.map_or(received_at, |at| at.min(received_at));
    let record = |kind, body: Value| Record {
        kind,
        origin: Origin::BrevoWebhook,
        destinations: Destinations::MIXPANEL,
        project: Project::Ours,
        received_at,
        body: Bytes::from(body.to_string()),
    };
    let mut records = vec![record(Kind::Event, event(push, &ids, naming, at))];
    if matches!(push.event.as_str(), "unsubscribed" | "unsubscribe" | "spam" | "complaint") {
        records.push(record(
            Kind::Profile,
            json!({
                "$token": naming.token,
                "$distinct_id": ids.distinct_id,
                // The person has not been seen, and the relay's address is not theirs.
                "$ip": 0,
                "$ignore_time": true,
                "$set": { "brevo_unsubscribed": true, "brevo_unsubscribed_at": at.to_string() },
            }),
        ));
    }
    records
}

/// Who an event is of, in Mixpanel's terms.
struct Ids {
    distinct_id: String,
    /// `$device_id` and `$user_id`, in simplified projects.
    device_id: Option<String>,
    user_id: Option<String>,
}

/// A known person goes by their id. In a simplified project the event also names the stand-in of the address as a device: the
/// pair tells Mixpanel that whatever came before under that device alone, when nobody knew whose the address was, is
/// this user's too (Mixpanel contract §6).
fn ids(push: &Push, person: Option<&PersonId>, naming: &Naming) -> Ids {
    let contact = push.sought.address.clone();
    let contact = contact.or_else(|| push.sought.contact_id.map(|id| id.0.to_string())).unwrap_or_default();
    let device = || stand_in(&contact);
    match (naming.mode, person) {
        (IdentityMode::Simplified, Some(id)) => match id.strip_prefix(DEVICE) {
            Some(device) => Ids { distinct_id: id.to_string(), device_id: Some(device.to_owned()), user_id: None },
            None => {
                let device_id = (!contact.is_empty()).then(device);
                Ids { distinct_id: id.to_string(), device_id, user_id: Some(id.to_string()) }
            }
        },
        (IdentityMode::Simplified, None) => {
            let device = device();
            Ids { distinct_id: format!("{DEVICE}{device}"), device_id: Some(device), user_id: None }
        }
        (IdentityMode::Original, Some(id)) => Ids { distinct_id: id.to_string(), device_id: None, user_id: None },
        // An alias of the address, which many such projects have, leads Mixpanel to the person.
        (IdentityMode::Original, None) => {
            let address = push.sought.address.clone().filter(|_| !naming.address_hidden);
            Ids { distinct_id: address.unwrap_or_else(device), device_id: None, user_id: None }
        }
    }
}

fn event(push: &Push, ids: &Ids, naming: &Naming, at: UnixMillis) -> Value {
    let mut properties = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            properties.insert(name.to_owned(), value);
        }
    };
    put("token", Some(naming.token.clone().into()));
    put("distinct_id", Some(ids.distinct_id.clone().into()));
    put("$device_id", ids.device_id.clone().map(Value::from));
    put("$user_id", ids.user_id.clone().map(Value::from));
    put("time", Some(at.0.into()));
    put("$insert_id", Some(insert_id(push).into()));
    put("$email", push.sought.address.clone().map(Value::from));
    put("brevo_event", Some(push.event.clone().into()));
    put("brevo_contact_id", push.sought.contact_id.map(|id| id.0.into()));
    for (name, keys) in [
        ("message_id", MESSAGE_ID),
        ("campaign_id", CAMPAIGN_ID),
        ("campaign_name", &["campaign name", "campaign_name", "campaignName"][..]),
        ("subject", &["subject"]),
        ("template_id", &["template_id", "templateId"]),
        ("link", LINK),
        ("reason", &["reason"]),
        ("tags", &["tags", "tag"]),
        ("list_ids", LISTS),
        ("user_agent", &["user_agent"]),
        ("device_used", &["device_used"]),
        ("custom", &["X-Mailin-custom", "x-mailin-custom"]),
    ] {
        put(name, push.value(keys).and_then(passed_on));
    }
    json!({ "event": event_name(&push.event), "properties": properties })
}

/// Texts, numbers, truths, and lists of them.
fn passed_on(value: &Value) -> Option<Value> {
    match value {
        Value::String(text) => Some(text.chars().take(MAX_TEXT).collect::<String>().into()),
        Value::Number(_) | Value::Bool(_) => Some(value.clone()),
        Value::Array(items) => {
            let plain = items.iter().filter(|item| !item.is_array()).filter_map(passed_on);
            Some(plain.take(100).collect())
        }
        Value::Null | Value::Object(_) => None,
    }
}

/// The event's name at Mixpanel. One that Brevo invents becomes `Brevo` and its words, so that nothing is lost.
fn event_name(event: &str) -> String {
    let name = match event {
        "request" | "sent" => "Brevo Email Sent",
        "delivered" => "Brevo Email Delivered",
        "deferred" => "Brevo Email Deferred",
        "soft_bounce" => "Brevo Email Soft Bounced",
        "hard_bounce" => "Brevo Email Hard Bounced",
        "blocked" => "Brevo Email Blocked",
        "invalid_email" | "invalid" => "Brevo Email Invalid",
        "error" => "Brevo Email Failed",
        "opened" => "Brevo Email Opened",
        "unique_opened" => "Brevo Email First Opened",
        "proxy_open" => "Brevo Email Opened By Proxy",
        "unique_proxy_open" => "Brevo Email First Opened By Proxy",
        "click" => "Brevo Email Clicked",
        "spam" | "complaint" => "Brevo Email Marked As Spam",
        "unsubscribe" | "unsubscribed" => "Brevo Unsubscribed",
        "list_addition" | "contact_added_to_list" => "Brevo List Joined",
        other => {
            let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
            let words: Vec<String> = other.split('_').filter(|word| !word.is_empty()).map(capital).collect();
            return format!("Brevo {}", words.join(" "));
        }
    };
    name.to_owned()
}

fn insert_id(push: &Push) -> String {
    let mut hash = Xxh3::new();
    for part in &push.identity {
        // Lengths keep ("ab", "c") from being ("a", "bc").
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let digits = format!("{:032x}", hash.digest128());
    format!("{INSERT_ID_PREFIX}{}", &digits[..DIGITS])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::decode;
    use crate::mixpanel::validate::{self, Rules, Tokens};
    use crate::mixpanel::wire::{Element, Event};

    const NOW: UnixMillis = UnixMillis(1_795_500_100_000);

    fn naming(mode: IdentityMode) -> Naming {
        Naming { token: "t".to_owned(), mode, address_hidden: false }
    }

    fn push(event: &str) -> Push {
        let item = json!({
            "event": event, "email": "Ada@example.com", "contact_id": 9, "ts_event": 1_795_500_000,
            "message-id": "<m>", "subject": "Hello", "tags": ["a", {"b": 1}], "link": "https://example.com", "reason": null,
        });
        Push::read(item).unwrap()
    }

    fn bodies(push: &Push, person: Option<&str>, naming: &Naming) -> Vec<Value> {
        let person = person.map(PersonId::from);
        let records = records(push, person.as_ref(), naming, NOW);
        records.iter().map(|record| serde_json::from_slice(&record.body).unwrap()).collect()
    }

    #[test]
    fn a_push_becomes_an_event_that_mixpanel_takes() {
        let bodies = bodies(&push("opened"), Some("u"), &naming(IdentityMode::Simplified));
        let insert_id = bodies[0]["properties"]["$insert_id"].as_str().unwrap();
        assert!(is_own_insert_id(insert_id), "{insert_id}");
        let expected = json!({"event": "Brevo Email Opened", "properties": {
            "token": "t", "distinct_id": "u", "$user_id": "u", "$device_id": stand_in("ada@example.com"),
            "time": 1_795_500_000_000_u64, "$insert_id": insert_id, "$email": "ada@example.com",
            "brevo_event": "opened", "brevo_contact_id": 9, "message_id": "<m>", "subject": "Hello", "tags": ["a"],
            "link": "https://example.com",
        }});
        assert_eq!(bodies, [expected]);
        let (text, tokens) = (bodies[0].to_string(), Tokens::new(vec!["t".to_owned()], vec![]));
        let judge = |_, element: Element<Event<'_>>| {
            let Element::Object(event) = element else { panic!("no object") };
            let mode = IdentityMode::Simplified;
            validate::event(&event, text.len(), Rules::ImportStrict, &tokens, None, mode, NOW).unwrap();
        };
        decode::visit(&text, 1, judge).unwrap();
    }

    #[test]
    fn whose_it_is_depends_on_the_project_and_on_what_is_known() {
        let device = stand_in("ada@example.com");
        let visitor = format!("$device:{device}");
        for (mode, person, distinct_id, device_id, user_id) in [
            (IdentityMode::Simplified, Some("u"), "u", json!(device), json!("u")),
            (IdentityMode::Simplified, Some("$device:d"), "$device:d", json!("d"), Value::Null),
            (IdentityMode::Simplified, None, visitor.as_str(), json!(device), Value::Null),
            (IdentityMode::Original, Some("u"), "u", Value::Null, Value::Null),
            (IdentityMode::Original, None, "ada@example.com", Value::Null, Value::Null),
        ] {
            let bodies = bodies(&push("opened"), person, &naming(mode));
            let properties = &bodies[0]["properties"];
            assert_eq!(properties["distinct_id"], distinct_id);
            assert_eq!((&properties["$device_id"], &properties["$user_id"]), (&device_id, &user_id), "{distinct_id}");
        }
        let hidden = Naming { address_hidden: true, ..naming(IdentityMode::Original) };
        assert_eq!(bodies(&push("opened"), None, &hidden)[0]["properties"]["distinct_id"], device.as_str());
        let policy = |drop: &[&str], only: &[&str]| PropertyPolicy {
            drop: drop.iter().map(|name| (*name).to_owned()).collect(),
            only: only.iter().map(|name| (*name).to_owned()).collect(),
            ..PropertyPolicy::default()
        };
        assert!(Naming::hides_addresses(&policy(&["$email"], &[])) && Naming::hides_addresses(&policy(&[], &["plan"])));
        assert!(!Naming::hides_addresses(&policy(&["plan"], &["$email"])));
    }

    #[test]
    fn who_wants_no_more_mail_gets_a_property() {
        for event in ["unsubscribe", "unsubscribed", "spam", "complaint"] {
            let bodies = bodies(&push(event), Some("u"), &naming(IdentityMode::Simplified));
            let at = UnixMillis(1_795_500_000_000).to_string();
            let set = json!({"$token": "t", "$distinct_id": "u", "$ip": 0, "$ignore_time": true,
                "$set": {"brevo_unsubscribed": true, "brevo_unsubscribed_at": at}});
            assert_eq!(bodies[1], set, "{event}");
        }
        assert_eq!(bodies(&push("hard_bounce"), Some("u"), &naming(IdentityMode::Simplified)).len(), 1);
    }

    #[test]
    fn an_event_that_brevo_invents_is_not_lost() {
        assert_eq!(event_name("unique_coupon_sent"), "Brevo Unique Coupon Sent");
        assert_eq!(event_name("_x"), "Brevo X");
    }

    #[test]
    fn the_future_is_now() {
        let mut push = push("opened");
        push.at = Some(NOW + std::time::Duration::from_secs(600));
        let bodies = bodies(&push, None, &naming(IdentityMode::Simplified));
        assert_eq!(bodies[0]["properties"]["time"], NOW.0);
    }

    #[test]
    fn insert_ids_never_change() {
        // Written down so that an upgrade cannot change them: a repetition must match what an older relay sent.
        assert_eq!(insert_id(&push("opened")), "brevo-40990dd54868a19c9b1570f2f20915");
    }
}
