//! What was read from the account: which attributes it has and of which type, and its lists.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::coerce;
use super::identifiers::ListId;
use super::names::AttributeName;
use super::wire;

/// The account as the relay knows it. Stored, so that a start without Brevo works with what was last read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AccountModel {
    pub attributes: BTreeMap<AttributeName, AttributeKind>,
    pub lists: BTreeMap<ListId, String>,
}

/// What values an attribute takes (contract §5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttributeKind {
    Text,
    Date,
    Float,
    Boolean,
    /// One of the options, written by its label: numbers read back as 0 since 2026-05 (contract §5).
    Category(Vec<CategoryOption>),
    /// Any of the options.
    MultipleChoice(Vec<String>),
    /// `SMS`, `WHATSAPP`, `LANDLINE_NUMBER`, whatever type the account names for them.
    Phone,
    /// Calculated, global and user attributes: Brevo or its users fill them.
    ReadOnly,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CategoryOption {
    /// The option's number as text.
    pub value: String,
    pub label: String,
}

impl AttributeKind {
    /// The type's name as people know it from Brevo.
    pub fn label(&self) -> &'static str {
        match self {
            AttributeKind::Text => "text",
            AttributeKind::Date => "date",
            AttributeKind::Float => "float",
            AttributeKind::Boolean => "boolean",
            AttributeKind::Category(_) => "category",
            AttributeKind::MultipleChoice(_) => "multiple-choice",
            AttributeKind::Phone => "phone",
            AttributeKind::ReadOnly => "read-only",
        }
    }
}

impl AccountModel {
    /// Attributes whose names the relay could not write are left out: they cannot be mapped to either.
    pub fn new(attributes: &wire::AttributeList, lists: impl IntoIterator<Item = wire::List>) -> Self {
        let attributes = attributes
            .attributes
            .iter()
            .filter_map(|attribute| {
                let name = AttributeName::parse(&attribute.name).ok()?;
                let kind = kind_of(&name, attribute);
                Some((name, kind))
            })
            .collect();
        let lists = lists.into_iter().map(|list| (list.id, list.name)).collect();
        Self { attributes, lists }
    }

    /// `None` when the account lacks the attribute: Brevo would drop its values with a success answer (contract §5).
    /// The identifiers that are attributes exist in every account, listed or not.
    pub fn kind(&self, name: &AttributeName) -> Option<&AttributeKind> {
        if name.is_phone() {
            return Some(&AttributeKind::Phone);
        }
        self.attributes.get(name)
    }

    /// Those of `wanted` that the account lacks, each once.
    pub fn missing<'a>(&self, wanted: impl IntoIterator<Item = &'a AttributeName>) -> Vec<AttributeName> {
        let mut missing: Vec<_> = wanted.into_iter().filter(|name| self.kind(name).is_none()).cloned().collect();
        missing.sort();
        missing.dedup();
        missing
    }
}

fn kind_of(name: &AttributeName, attribute: &wire::Attribute) -> AttributeKind {
    if name.is_phone() {
        return AttributeKind::Phone;
    }
    if name.is_reserved() || matches!(attribute.category.as_str(), "calculated" | "global") {
        return AttributeKind::ReadOnly;
    }
    if attribute.category == "category" {
        return AttributeKind::Category(attribute.enumeration.iter().map(option).collect());
    }
    match attribute.kind.as_deref() {
        Some("date") => AttributeKind::Date,
        Some("float") => AttributeKind::Float,
        Some("boolean") => AttributeKind::Boolean,
        Some("multiple-choice") => AttributeKind::MultipleChoice(attribute.multi_category_options.clone()),
        Some("category") => AttributeKind::Category(attribute.enumeration.iter().map(option).collect()),
        Some("user") => AttributeKind::ReadOnly,
        // `text`, `id`, none, and whatever Brevo invents: text is what it coerces best.
        _ => AttributeKind::Text,
    }
}

fn option(item: &wire::EnumerationItem) -> CategoryOption {
    let value = match &item.value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    CategoryOption { value, label: item.label.clone() }
}

/// An attribute for the relay to create, always of category `normal`. Its type is for ever (contract §5), so it is
/// chosen from the first value that wants to go there, never from a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeToCreate {
    pub name: AttributeName,
    pub kind: NewKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewKind {
    Text,
    Date,
    Float,
    Boolean,
}

impl NewKind {
    pub fn label(self) -> &'static str {
        match self {
            NewKind::Text => "text",
            NewKind::Date => "date",
            NewKind::Float => "float",
            NewKind::Boolean => "boolean",
        }
    }

    pub fn kind(self) -> AttributeKind {
        match self {
            NewKind::Text => AttributeKind::Text,
            NewKind::Date => AttributeKind::Date,
            NewKind::Float => AttributeKind::Float,
            NewKind::Boolean => AttributeKind::Boolean,
        }
    }
}

impl AttributeToCreate {
    /// Numbers make a float, booleans a boolean, ISO dates a date, everything else a text; a list becomes a text too,
    /// because the options of a multiple choice would have to be known in advance. `None` for null, which says nothing.
    pub fn for_value(name: &AttributeName, value: &Value) -> Option<Self> {
        let kind = match value {
            Value::Null => return None,
            Value::Bool(_) => NewKind::Boolean,
            Value::Number(_) => NewKind::Float,
            Value::String(text) if coerce::is_iso_date(text) => NewKind::Date,
            Value::String(_) | Value::Array(_) | Value::Object(_) => NewKind::Text,
        };
        Some(Self { name: name.clone(), kind })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn name(raw: &str) -> AttributeName {
        AttributeName::parse(raw).unwrap()
    }

    fn model() -> AccountModel {
        let attributes = serde_json::from_value(json!({"attributes": [
            {"name": "FIRSTNAME", "category": "normal", "type": "text", "enumeration": null},
            {"name": "LTV", "category": "normal", "type": "float"},
            {"name": "BIRTHDAY", "category": "normal", "type": "date"},
            {"name": "VIP", "category": "normal", "type": "boolean"},
            {"name": "COUNTRIES", "category": "normal", "type": "multiple-choice", "multiCategoryOptions": ["India", "China"]},
            {"name": "GENDER", "category": "category", "enumeration": [{"value": 1, "label": "Men"}, {"value": "2", "label": "Women"}]},
            {"name": "ORDER_ID", "category": "transactional", "type": "id"},
            {"name": "SMS", "category": "normal", "type": "text"},
            {"name": "READERS", "category": "global", "calculatedValue": "COUNT[...]"},
            {"name": "OWNER", "category": "normal", "type": "user"},
            {"name": "not a name we write", "category": "normal", "type": "text"},
        ]}))
        .unwrap();
        let lists: Vec<wire::List> =
            serde_json::from_value(json!([{"id": 15, "name": "All", "folderId": 1, "uniqueSubscribers": 3}])).unwrap();
        AccountModel::new(&attributes, lists)
    }

    #[test]
    fn attributes_are_read_with_their_types() {
        let model = model();
        for (attribute, label) in [
            ("FIRSTNAME", "text"),
            ("LTV", "float"),
            ("BIRTHDAY", "date"),
            ("VIP", "boolean"),
            ("COUNTRIES", "multiple-choice"),
            ("GENDER", "category"),
            ("ORDER_ID", "text"),
            ("SMS", "phone"),
            ("WHATSAPP", "phone"),
            ("READERS", "read-only"),
            ("OWNER", "read-only"),
        ] {
            assert_eq!(model.kind(&name(attribute)).map(AttributeKind::label), Some(label), "{attribute}");
        }
        assert_eq!(model.kind(&name("PLAN_TYPE")), None);
        assert_eq!(model.lists[&ListId(15)], "All");
        let stored = serde_json::to_string(&model).unwrap();
        assert_eq!(serde_json::from_str::<AccountModel>(&stored).unwrap(), model);
    }

    #[test]
    fn missing_attributes_are_named_once() {
        let wanted = ["PLAN_TYPE", "LTV", "SMS", "PLAN_TYPE"].map(name);
        assert_eq!(model().missing(&wanted), [name("PLAN_TYPE")]);
    }

    #[test]
    fn a_new_attribute_takes_its_type_from_the_value() {
        for (value, kind) in [
            (json!("pro"), Some(NewKind::Text)),
            (json!("42"), Some(NewKind::Text)),
            (json!(42), Some(NewKind::Float)),
            (json!(true), Some(NewKind::Boolean)),
            (json!("2024-01-15"), Some(NewKind::Date)),
            (json!("2024-01-15T10:00:00"), Some(NewKind::Date)),
            (json!("01/02/2024"), Some(NewKind::Text)),
            (json!(["a"]), Some(NewKind::Text)),
            (json!(null), None),
        ] {
            assert_eq!(AttributeToCreate::for_value(&name("X"), &value).map(|a| a.kind), kind, "{value}");
        }
    }
}
