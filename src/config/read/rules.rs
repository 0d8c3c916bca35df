//! The long forms: one event's rule, one attribute's, one mapping test.

use std::collections::BTreeMap;

use serde_json::Value;

use super::people::{Lists, list_id};
use crate::brevo::account::NewKind;
use crate::brevo::format::{DateFormat, Format, NumberFormat};
use crate::brevo::identifiers::Membership;
use crate::config::error::{Bad, Remedy};
use crate::config::model::{AttributeRule, Condition, EventRule, Expectation, MappingTest};
use crate::config::reader::{Item, Section};
use crate::config::values;
use crate::config::yaml::Scalar;
use crate::settlement::SkipRule;

/// The list that everybody joins, by its configured name.
const ALL_USERS: &str = "all_users";

/// A name, or a block that says more.
pub(super) fn event(item: Item<'_>, lists: &Lists) -> Option<EventRule> {
    if !item.is_block() {
        return item.scalar(values::event_name).map(|name| EventRule::from(name.as_str()));
    }
    let mut block = item.section()?;
    let name = block.scalar("name", values::event_name);
    if name.is_none() {
        block.missing("name", "the event's name at Brevo");
    }
    let when = block.pairs("when").into_iter().map(|(property, item)| (property, conditions(item))).collect();
    let pick = block.take("pick").map(|item| texts(item.one_or_many()));
    let (rename, constants) = names(&mut block);
    let stale_after = block.scalar("stale_after", values::period);
    let lists = memberships(&mut block, lists);
    block.finish();
    Some(EventRule { name: name?, when, pick, rename, constants, stale_after, lists })
}

/// `add_to_lists` and `remove_from_lists`, each a list or several.
fn memberships(block: &mut Section<'_>, lists: &Lists) -> BTreeMap<u64, Membership> {
    let mut memberships = BTreeMap::new();
    let added = block.take("add_to_lists").map(Item::one_or_many).unwrap_or_default();
    memberships.extend(added.iter().filter_map(|item| Some((list(item, lists)?, Membership::In))));
    for item in block.take("remove_from_lists").map(Item::one_or_many).unwrap_or_default() {
        let Some(id) = list(&item, lists) else { continue };
        if lists.get(ALL_USERS) == Some(&id) {
            item.bad(Bad::new("is the list that everybody joins with every write", "another list"));
        } else if memberships.insert(id, Membership::Out) == Some(Membership::In) {
            item.bad(Bad::new("is one of add_to_lists too", "it in one of the two"));
        }
    }
    memberships
}

fn list(item: &Item<'_>, lists: &Lists) -> Option<u64> {
    item.scalar(|scalar| list_id(scalar, lists))
}

fn texts(items: Vec<Item<'_>>) -> Vec<String> {
    items.into_iter().filter_map(|item| item.scalar(values::text)).collect()
}

/// `rename` and `constants`, no two of which may give one name.
fn names(block: &mut Section<'_>) -> (BTreeMap<String, String>, BTreeMap<String, Value>) {
    let (mut rename, mut constants) = (BTreeMap::new(), BTreeMap::new());
    for (property, item) in block.pairs("rename") {
        let Some(name) = item.scalar(values::event_name) else { continue };
        if rename.values().any(|known| *known == name) {
            item.bad(Bad::new("is the new name of another property too", "another name"));
            continue;
        }
        rename.insert(property, name);
    }
    for (name, item) in block.pairs("constants") {
        let written = Scalar { text: name.clone(), quoted: true, from_env: false };
        if let Err(bad) = values::event_name(&written) {
            item.bad_key(bad);
        } else if rename.values().any(|known| *known == name) {
            item.bad_key(Bad::new("is the new name of a property too", "another name"));
        } else {
            constants.insert(name, item.json());
        }
    }
    (rename, constants)
}

/// `plan: pro`, `plan: [pro, team]`, or `amount: { above: 10 }`.
fn conditions(item: Item<'_>) -> Vec<Condition> {
    if !item.is_block() {
        return vec![Condition::Is(scalars(item))];
    }
    let Some(mut block) = item.section() else { return Vec::new() };
    let mut conditions = Vec::new();
    conditions.extend(block.take("is").map(|item| Condition::Is(scalars(item))));
    conditions.extend(block.take("is_not").map(|item| Condition::IsNot(scalars(item))));
    conditions.extend(block.scalar("above", number).map(Condition::Above));
    conditions.extend(block.scalar("at_least", number).map(Condition::AtLeast));
    conditions.extend(block.scalar("below", number).map(Condition::Below));
    conditions.extend(block.scalar("at_most", number).map(Condition::AtMost));
    conditions.extend(block.scalar("exists", values::boolean).map(Condition::Exists));
    block.finish();
    conditions
}

fn scalars(item: Item<'_>) -> Vec<Value> {
    item.one_or_many().into_iter().filter_map(|item| item.scalar(values::json)).collect()
}

fn number(scalar: &Scalar) -> Result<f64, Bad> {
    let number = scalar.text.trim().parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| Bad::new("is not a number", "a number such as 10 or 9.5"))
}

/// An attribute's name, or a block that says more.
pub(super) fn attribute(item: Item<'_>) -> Option<(String, AttributeRule)> {
    if !item.is_block() {
        return item.scalar(values::attribute).map(|name| (name, AttributeRule::default()));
    }
    let mut block = item.section()?;
    let name = block.scalar("attribute", values::attribute);
    if name.is_none() {
        block.missing("attribute", "the attribute's name at Brevo");
    }
    let identifier =
        name.as_deref().is_some_and(|name| matches!(name, "email" | "SMS" | "WHATSAPP" | "LANDLINE_NUMBER"));
    let kind = block.take("type");
    let format = block.take("format");
    if identifier {
        for item in kind.iter().chain(&format) {
            item.bad(Bad::new("says nothing about an identifier", "the attribute alone"));
        }
        return None;
    }
    let kind = kind.and_then(|item| item.scalar(new_kind));
    let format = format.and_then(|item| item.scalar(|scalar| value_format(scalar, kind)));
    block.finish();
    Some((name?, AttributeRule { kind, format }))
}

fn new_kind(scalar: &Scalar) -> Result<NewKind, Bad> {
    if matches!(scalar.text.as_str(), "category" | "multiple-choice") {
        let write = "the attribute alone, after making it at Brevo with its options: they are read from there";
        return Err(Bad::new("has options that only Brevo knows", write));
    }
    let kinds = [NewKind::Text, NewKind::Date, NewKind::Float, NewKind::Boolean].map(|kind| (kind.label(), kind));
    values::choice(&kinds)(scalar)
}

/// `DD/MM/YYYY` for dates, `1.234,56` for numbers; a type that is given has to agree.
fn value_format(scalar: &Scalar, kind: Option<NewKind>) -> Result<Format, Bad> {
    let text = scalar.text.trim();
    let number = NumberFormat::FORMS.into_iter().find(|(form, _)| *form == text);
    let format = match (number, DateFormat::parse(text)) {
        (Some((_, format)), _) => Format::Number(format),
        (None, Some(format)) => Format::Date(format),
        (None, None) => {
            let numbers = NumberFormat::FORMS.iter().map(|(form, _)| (*form).to_owned());
            let dates = ["DD/MM/YYYY", "MM/DD/YYYY", "YYYY.MM.DD"].map(str::to_owned);
            let write = Remedy::OneOf(dates.into_iter().chain(numbers).collect());
            return Err(Bad { why: "is no way to write dates or numbers that is known here", write });
        }
    };
    match (format, kind) {
        (Format::Date(_), None | Some(NewKind::Date)) | (Format::Number(_), None | Some(NewKind::Float)) => Ok(format),
        (Format::Date(_), Some(_)) => Err(Bad::new("is a format of dates, and the type is another", "type: date")),
        (Format::Number(_), Some(_)) => Err(Bad::new("is a format of numbers, and the type is another", "type: float")),
    }
}

pub(super) fn test(item: Item<'_>, lists: &Lists) -> Option<MappingTest> {
    let mut block = item.section()?;
    let name = block.scalar("name", values::text);
    let given = block.take("given");
    let given = given.map(|item| if item.is_block() { item.json() } else { not_a_record(&item) });
    let expect = block.take("expect").and_then(Item::section).map(|block| expectation(block, lists));
    for (key, absent, write) in [
        ("name", name.is_none(), "what is shown when it fails"),
        ("given", given.is_none(), "a record as apps send it, such as { event: Purchase, properties: { amount: 5 } }"),
        ("expect", expect.is_none(), "a block of skipped, event, properties, email or attributes"),
    ] {
        if absent {
            block.missing(key, write);
        }
    }
    block.finish();
    Some(MappingTest { name: name?, given: given?, expect: expect? })
}

fn not_a_record(item: &Item<'_>) -> Value {
    item.bad(Bad::new("is not a record", "a block, such as { event: Purchase, properties: { amount: 5 } }"));
    Value::Null
}

fn expectation(mut block: Section<'_>, lists: &Lists) -> Expectation {
    let object = |item: Item<'_>| {
        if !item.is_block() {
            item.bad(Bad::new("is not a block", "a block of `name: value`, or {} for none"));
        }
        item.json()
    };
    let ids = |item: Item<'_>| {
        let mut ids: Vec<u64> = item.one_or_many().iter().filter_map(|item| list(item, lists)).collect();
        ids.sort_unstable();
        ids
    };
    let rules: Vec<(&str, &str)> = SkipRule::ALL.iter().map(|rule| (rule.label(), rule.label())).collect();
    let expect = Expectation {
        skipped: block.scalar("skipped", values::choice(&rules)).map(str::to_owned),
        event: block.scalar("event", values::event_name),
        properties: block.take("properties").map(object),
        email: block.scalar("email", values::text).map(|email| email.to_lowercase()),
        attributes: block.take("attributes").map(object),
        add_to_lists: block.take("add_to_lists").map(ids),
        remove_from_lists: block.take("remove_from_lists").map(ids),
    };
    if expect == Expectation::default() {
        block.missing("event", "the name that Brevo is to get, or skipped, properties, email or attributes");
    }
    block.finish();
    expect
}
