//! What Brevo would be sent for one record, and why not: for `mixrelay map` and the admin API.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::compiled::{AttributeRules, CompiledMapping};
use super::event::{EventDecision, EventView, MappedEvent, map_event};
use super::fields::{Fields, Unreadable, scalar_text};
use super::group::{GroupDecision, GroupOp, map_group};
use super::operation::{Change, Operation};
use super::profile::{GroupView, ProfileChange, ProfileDecision, ProfileView, dataset_of, map_profile, map_row};
use crate::brevo::account::AccountModel;
use crate::brevo::coerce::{AttributeValue, Clearing, Unplaced, coerce};
use crate::brevo::identifiers::{ListId, Membership};
use crate::brevo::names::AttributeName;
use crate::brevo::wire::{Attributes, ContactUpsert, EventIdentifiers};
use crate::clock::UnixMillis;
use crate::config::OnProfileDelete;
use crate::mixpanel::reserved::is_identity_event;
use crate::record::{Kind, Origin};
use crate::settlement::SkipRule;

/// Describes the way of one record (one JSON object) to Brevo:
///
/// `{"kind", "distinct_id", "decision", "rule"?, "explanation"?, "calls": [{"method", "path", "body"}], "not_placed":
/// [{"name", "reason", "explanation"}], "dropped": [{"property", "reason"}], "creates": [{"attribute", "type"}]}`.
///
/// `decision` is `send`, `skip`, `fold` (the value depends on what is known of the person, or of the group's company, whose
/// changes are then under `company`) or `unreadable`. Without `account`, attributes are taken to have the type that fits the value. Identity is not resolved: the contact is
/// addressed by the record's own distinct_id.
pub fn preview(record: &str, mapping: &CompiledMapping, account: Option<&AccountModel>, now: UnixMillis) -> Value {
    let came = Came { at: now, origin: Origin::App };
    described(record, mapping, account, came, Some(now)).unwrap_or_else(|error| unreadable(&error))
}

/// When a record came, and from whom.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    pub at: UnixMillis,
    pub origin: Origin,
}

/// The same for a record that was received some time ago; without `now`, however old an event is.
pub fn preview_again(record: &str, mapping: &CompiledMapping, came: Came, now: Option<UnixMillis>) -> Value {
    described(record, mapping, None, came, now).unwrap_or_else(|error| unreadable(&error))
}

fn described(
    record: &str,
    mapping: &CompiledMapping,
    account: Option<&AccountModel>,
    came: Came,
    now: Option<UnixMillis>,
) -> Result<Value, Unreadable> {
    let kind = kind_of(record)?;
    let dataset = (came.origin == Origin::Dataset).then(|| dataset_of(record.as_bytes())).flatten();
    let visible = match mapping.visible(kind, &Bytes::copy_from_slice(record.as_bytes())) {
        Ok(Some(visible)) => visible,
        Ok(None) => return Ok(skipped(kind.label(), None, SkipRule::Private)),
        Err(error) => return Ok(unreadable(&error)),
    };
    match kind {
        Kind::Event | Kind::Identity => event(&visible, kind, mapping, came.at, now),
        Kind::Profile => profile(&visible, dataset.as_deref(), mapping, account),
        Kind::Group => group(&visible, mapping),
    }
}

fn unreadable(error: &dyn std::error::Error) -> Value {
    json!({"decision": "unreadable", "explanation": error.to_string()})
}

fn kind_of(record: &str) -> Result<Kind, Unreadable> {
    let fields: Fields<'_> = serde_json::from_str(record)?;
    Ok(match fields.get("event") {
        Some(name) if scalar_text(name).is_some_and(|name| is_identity_event(&name)) => Kind::Identity,
        Some(_) => Kind::Event,
        None if fields.get("$group_key").is_some() => Kind::Group,
        None => Kind::Profile,
    })
}

fn skipped(kind: &str, distinct_id: Option<&str>, rule: SkipRule) -> Value {
    json!({
        "kind": kind,
        "distinct_id": distinct_id,
        "decision": "skip",
        "rule": rule.label(),
        "explanation": rule.explanation(),
    })
}

fn event(
    record: &[u8],
    kind: Kind,
    mapping: &CompiledMapping,
    received_at: UnixMillis,
    now: Option<UnixMillis>,
) -> Result<Value, Unreadable> {
    let view = EventView::parse(record)?;
    let distinct_id = view.distinct_id.as_deref();
    Ok(match map_event(&view, mapping, received_at) {
        EventDecision::Skip(rule) => skipped(kind.label(), distinct_id, rule),
        EventDecision::Send(mapped) if now.is_some_and(|now| mapped.is_stale(now)) => {
            skipped(kind.label(), distinct_id, SkipRule::Stale)
        }
        EventDecision::Send(mapped) => sent_event(kind, distinct_id, mapped),
    })
}

fn sent_event(kind: Kind, distinct_id: Option<&str>, mapped: MappedEvent) -> Value {
    let dropped: Vec<_> =
        mapped.dropped.iter().map(|d| json!({"property": d.property, "reason": d.reason.label()})).collect();
    let identifiers = EventIdentifiers { ext_id: distinct_id.map(str::to_owned), ..Default::default() };
    let list_call = |(list, membership): (&ListId, &Membership)| {
        let path = format!("/contacts/lists/{}/contacts/{}", list.0, membership.verb());
        call(&path, json!({"extIds": [distinct_id]}))
    };
    let list_calls: Vec<_> = mapped.lists.iter().map(list_call).collect();
    let mut calls = vec![call("/events", json!(mapped.into_wire(identifiers)))];
    calls.extend(list_calls);
    json!({
        "kind": kind.label(),
        "distinct_id": distinct_id,
        "decision": "send",
        "calls": calls,
        "dropped": dropped,
    })
}

/// Attributes that the update changes, by operator: what Brevo is written depends on what is known of the company.
fn group(record: &[u8], mapping: &CompiledMapping) -> Result<Value, Unreadable> {
    let ops = match map_group(&GroupView::parse(record)?, mapping) {
        GroupDecision::Skip(rule) => return Ok(skipped("group", None, rule)),
        GroupDecision::Change(ops) => ops,
    };
    let change = |op: &GroupOp| match op {
        GroupOp::Set(attribute, value) => json!({"operator": "$set", "attribute": attribute, "value": value}),
        GroupOp::SetOnce(attribute, value) => json!({"operator": "$set_once", "attribute": attribute, "value": value}),
        GroupOp::Union(attribute, value) => json!({"operator": "$union", "attribute": attribute, "value": value}),
        GroupOp::Remove(attribute, value) => json!({"operator": "$remove", "attribute": attribute, "value": value}),
        GroupOp::Unset(attribute) => json!({"operator": "$unset", "attribute": attribute}),
        GroupOp::Delete => json!({"operator": "$delete"}),
    };
    Ok(json!({
        "kind": "group",
        "decision": "fold",
        "explanation": "the update is folded into its company, which is written when the limit of 100 calls an hour allows it",
        "company": ops.iter().map(change).collect::<Vec<_>>(),
    }))
}

fn call(path: &str, body: Value) -> Value {
    json!({"method": "POST", "path": path, "body": body})
}

fn deleted(distinct_id: Option<&str>, then: OnProfileDelete) -> Value {
    let explanation = match then {
        OnProfileDelete::Keep => return skipped(Kind::Profile.label(), distinct_id, SkipRule::ProfileDelete),
        OnProfileDelete::RemoveFromLists => "the person's contact is taken off every list",
        OnProfileDelete::DeleteContact => "the person's contact is deleted",
    };
    json!({"kind": Kind::Profile.label(), "distinct_id": distinct_id, "decision": "fold", "explanation": explanation})
}

fn profile(
    record: &[u8],
    dataset: Option<&str>,
    mapping: &CompiledMapping,
    account: Option<&AccountModel>,
) -> Result<Value, Unreadable> {
    let view = ProfileView::parse(record)?;
    let distinct_id = view.distinct_id.as_deref();
    let kind = Kind::Profile.label();
    let decision = match dataset {
        Some(dataset) => map_row(dataset, &view, mapping),
        None => map_profile(&view, mapping),
    };
    let change = match decision {
        ProfileDecision::Skip(rule) => return Ok(skipped(kind, distinct_id, rule)),
        ProfileDecision::Change(change) => change,
    };
    if change.deletes() {
        return Ok(deleted(distinct_id, mapping.on_profile_delete));
    }
    let (placement, needs_fold) = place(change, &mapping.attribute_rules, account);
    let mut described = Map::new();
    described.insert("kind".to_owned(), json!(kind));
    described.insert("distinct_id".to_owned(), json!(distinct_id));
    if needs_fold {
        described.insert("decision".to_owned(), json!("fold"));
        let explanation = "an operator other than $set and $unset touches a mapped property: the value depends on what is \
                           known of the person";
        described.insert("explanation".to_owned(), json!(explanation));
    } else if placement.is_empty() {
        described.insert("decision".to_owned(), json!("skip"));
        described.insert("rule".to_owned(), json!(SkipRule::NotPlaced.label()));
        described.insert("explanation".to_owned(), json!(SkipRule::NotPlaced.explanation()));
    } else {
        let mut upsert = placement.upsert;
        upsert.ext_id = distinct_id.map(str::to_owned);
        described.insert("decision".to_owned(), json!("send"));
        described.insert("calls".to_owned(), json!([call("/contacts", json!(upsert))]));
    }
    described.insert("not_placed".to_owned(), Value::Array(placement.not_placed));
    described.insert("creates".to_owned(), Value::Array(placement.creates));
    Ok(Value::Object(described))
}

struct Placement {
    upsert: ContactUpsert,
    not_placed: Vec<Value>,
    creates: Vec<Value>,
}

impl Placement {
    fn is_empty(&self) -> bool {
        self.upsert.email.is_none() && self.upsert.attributes.is_empty()
    }

    fn refuse(&mut self, name: &str, reason: Unplaced) {
        self.not_placed.push(json!({"name": name, "reason": reason.label(), "explanation": reason.to_string()}));
    }

    fn set(&mut self, name: AttributeName, value: &Value, rules: &AttributeRules, account: Option<&AccountModel>) {
        let value = rules.read(&name, value);
        let known = account.and_then(|account| account.kind(&name));
        let new = if known.is_none() { rules.to_create(&name, &value) } else { None };
        if let (Some(new), Some(_)) = (&new, account) {
            self.creates.push(json!({"attribute": name, "type": new.kind.label()}));
        }
        let new = new.map(|new| new.kind.kind());
        match coerce(&value, known.or(new.as_ref())) {
            Ok(placed) => {
                if !placed.unknown_options.is_empty() {
                    self.refuse(&format!("{name}: {}", placed.unknown_options.join(", ")), Unplaced::UnknownOption);
                }
                self.upsert.attributes.insert(name, placed.value);
            }
            Err(reason) => self.refuse(name.as_str(), reason),
        }
    }
}

/// The contact as far as the update alone can tell it, and whether a value depends on what is known of the person.
fn place(change: ProfileChange, rules: &AttributeRules, account: Option<&AccountModel>) -> (Placement, bool) {
    let upsert = ContactUpsert {
        email: None,
        ext_id: None,
        attributes: Attributes::new(),
        list_ids: Vec::new(),
        update_enabled: true,
        email_blacklisted: None,
        sms_blacklisted: None,
    };
    let mut placement = Placement { upsert, not_placed: Vec::new(), creates: Vec::new() };
    for unplaced in change.unplaced {
        placement.refuse(&unplaced.property, unplaced.reason);
    }
    let (mut assigned, mut phone, mut needs_fold) = (BTreeMap::new(), None, false);
    for operation in change.operations {
        match operation {
            Operation::Attribute(name, _) if name.is_kept_back() => {}
            Operation::Attribute(name, Change::Set(value)) => drop(assigned.insert(name, Some(value))),
            Operation::Attribute(name, Change::Unset) => drop(assigned.insert(name, None)),
            Operation::Attribute(name, _) => {
                assigned.remove(&name);
                needs_fold = true;
            }
            Operation::Email(given) => {
                needs_fold |= given.once;
                placement.upsert.email = Some(given.value);
            }
            Operation::Phone(given) => {
                needs_fold |= given.once;
                phone = Some(given.value);
            }
            Operation::Delete { .. } => assigned.clear(),
        }
    }
    for (name, value) in assigned {
        match value {
            Some(value) => placement.set(name, &value, rules, account),
            None => drop(placement.upsert.attributes.insert(name, Clearing::default().value())),
        }
    }
    if let Some(phone) = phone {
        placement.upsert.attributes.insert(AttributeName::sms(), AttributeValue::Text(phone.to_string()));
    }
    (placement, needs_fold)
}

#[cfg(test)]
mod tests {
    use super::super::compiled::tests::published;
    use super::*;
    use crate::config::UnmappedEvents;
    use crate::config::{GroupMapping, Mapping, Sync};

    const NOW: UnixMillis = UnixMillis(1_700_000_100_000);

    fn shown(record: &Value) -> Value {
        preview(&record.to_string(), &published(UnmappedEvents::Skip), None, NOW)
    }

    #[test]
    fn a_group_update_shows_what_it_changes_of_its_company() {
        let target = GroupMapping {
            name: "$name".to_owned(),
            properties: [("industry".to_owned(), "industry".to_owned())].into(),
        };
        let mapping = Mapping { groups: [("company".to_owned(), target)].into(), ..Mapping::default() };
        let sync = Sync { groups: true, ..Sync::default() };
        let mapping = CompiledMapping::compile(&mapping, sync).unwrap();
        let update =
            json!({"$group_key": "company", "$group_id": "1", "$set": {"$name": "ACME"}, "$unset": ["industry"]});
        let shown = preview(&update.to_string(), &mapping, None, UnixMillis(0));
        assert_eq!(shown["decision"], "fold");
        let expected = json!([
            {"operator": "$set", "attribute": "name", "value": "ACME"},
            {"operator": "$unset", "attribute": "industry"},
        ]);
        assert_eq!(shown["company"], expected);
    }

    #[test]
    fn a_sent_event_shows_its_call() {
        let shown = shown(&json!({"event": "Purchase", "properties":
            {"distinct_id": "u", "time": 1_700_000_000, "amount": 9.5, "deep": {"x": null}}}));
        assert_eq!(shown["decision"], "send");
        assert_eq!(
            shown["calls"],
            json!([{"method": "POST", "path": "/events", "body": {
                "event_name": "order_completed",
                "identifiers": {"ext_id": "u"},
                "event_date": "2023-11-14T22:13:20.000Z",
                "event_properties": {"amount": 9.5, "deep": {}},
            }}])
        );
    }

    #[test]
    fn skips_show_their_rule() {
        for (record, rule) in [
            (json!({"event": "Other", "properties": {}}), "unmapped_event"),
            (json!({"event": "$identify", "properties": {}}), "identity_event"),
            (json!({"event": "Purchase", "properties": {"time": 1_600_000_000}}), "stale"),
            (json!({"event": "Purchase", "properties": {"$ignore": true}}), "ignored"),
            (json!({"$distinct_id": "u", "$set": {"other": 1}}), "no_mapped_property"),
            (json!({"$distinct_id": "u", "$set": {"$email": "n/a"}}), "not_placed"),
            (json!({"$distinct_id": "u", "$delete": ""}), "profile_delete"),
            (json!({"$group_key": "k", "$group_id": "1", "$set": {}}), "groups_off"),
        ] {
            let shown = shown(&record);
            assert_eq!((&shown["decision"], &shown["rule"]), (&json!("skip"), &json!(rule)), "{record}");
        }
    }

    #[test]
    fn a_profile_shows_the_contact_and_what_does_not_fit() {
        let record = json!({"$distinct_id": "u", "$set":
            {"$email": "A@b.co", "$phone": "0612345678", "plan": "pro", "total_revenue": "lots"}});
        let attributes = serde_json::from_value(json!({"attributes": [
            {"name": "LTV", "category": "normal", "type": "float"}]}))
        .unwrap();
        let account = AccountModel::new(&attributes, []);
        let shown = preview(&record.to_string(), &published(UnmappedEvents::Skip), Some(&account), NOW);
        assert_eq!(shown["decision"], "send");
        assert_eq!(
            shown["calls"][0]["body"],
            json!({"email": "a@b.co", "ext_id": "u", "attributes": {"PLAN_TYPE": "pro"}, "updateEnabled": true})
        );
        assert_eq!(shown["creates"], json!([{"attribute": "PLAN_TYPE", "type": "text"}]));
        let reasons: Vec<_> = shown["not_placed"].as_array().unwrap().iter().map(|n| n["reason"].clone()).collect();
        assert_eq!(reasons, ["no_country_code", "not_a_number"]);
    }

    #[test]
    fn a_value_that_depends_on_the_past_is_to_be_folded() {
        assert_eq!(shown(&json!({"$distinct_id": "u", "$add": {"total_revenue": 5}}))["decision"], "fold");
    }

    #[test]
    fn nonsense_is_unreadable() {
        for record in ["", "[]", "{", r#"{"event":7}"#] {
            let shown = preview(record, &published(UnmappedEvents::Skip), None, NOW);
            assert_eq!(shown["decision"], "unreadable", "{record}");
        }
    }
}
