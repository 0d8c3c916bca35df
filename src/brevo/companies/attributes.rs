//! The account's company attributes (contract §6), and values that fit them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::brevo::account::{AttributeKind, CategoryOption};
use crate::brevo::coerce::{self, AttributeValue, Unplaced};

/// Longest label that Brevo takes.
const MAX_LABEL: usize = 50;

/// An element of `GET /crm/attributes/companies`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attribute {
    pub internal_name: String,
    #[serde(default)]
    pub label: String,
    #[serde(default)]
    pub attribute_type_name: String,
    #[serde(default, deserialize_with = "options")]
    pub attribute_options: Vec<CategoryOption>,
    #[serde(default)]
    pub is_value_readonly: Option<bool>,
}

/// `{"key": ..., "value": ...}`, the key being what values are written as; plain texts are taken too.
fn options<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<CategoryOption>, D::Error> {
    let options: Option<Vec<Value>> = Option::deserialize(deserializer)?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let option = |option: Value| match text(&option) {
        Some(label) => Some(CategoryOption { value: label.clone(), label }),
        None => {
            let (key, label) = (text(&option["key"]), text(&option["value"]));
            let value = key.or_else(|| label.clone())?;
            Some(CategoryOption { label: label.unwrap_or_else(|| value.clone()), value })
        }
    };
    Ok(options.unwrap_or_default().into_iter().filter_map(option).collect())
}

/// Body of `POST /crm/attributes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewAttribute {
    pub label: String,
    pub attribute_type: &'static str,
    pub object_type: &'static str,
}

impl NewAttribute {
    /// Numbers make a number, booleans a boolean, ISO dates a date, everything else a text. `None` for a value that says
    /// nothing and for a name that no label may be.
    pub fn for_value(name: &str, value: &Value) -> Option<Self> {
        let attribute_type = match value {
            Value::Null => return None,
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(text) if coerce::is_iso_date(text) => "date",
            Value::String(_) | Value::Array(_) | Value::Object(_) => "text",
        };
        let fits = name.len() <= MAX_LABEL;
        fits.then(|| Self { label: name.to_owned(), attribute_type, object_type: "companies" })
    }
}

/// What the account's companies can hold, by the name that the configuration may use: the internal name, or the label.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompanyAttributes {
    known: BTreeMap<String, Known>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Known {
    internal_name: String,
    kind: AttributeKind,
    /// Of a multiple choice, whose options are written by their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    options: Vec<CategoryOption>,
}

/// A value that fits, under the name by which it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct PlacedValue {
    pub internal_name: String,
    pub value: AttributeValue,
    /// Wanted beside a `phone_number`.
    pub country_code: Option<u32>,
}

impl CompanyAttributes {
    pub fn new(attributes: Vec<Attribute>) -> Self {
        let mut known = BTreeMap::new();
        for attribute in &attributes {
            known.entry(attribute.label.clone()).or_insert_with(|| of(attribute));
        }
        // An internal name wins over somebody else's label.
        known.extend(attributes.iter().map(|attribute| (attribute.internal_name.clone(), of(attribute))));
        Self { known }
    }

    pub fn has(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }

    /// The internal name by which the attribute is written and read.
    pub fn internal_name(&self, name: &str) -> Option<&str> {
        self.known.get(name).map(|known| known.internal_name.as_str())
    }

    pub fn place(&self, name: &str, value: &Value) -> Result<PlacedValue, Unplaced> {
        let known = self.known.get(name).ok_or(Unplaced::NoSuchAttribute)?;
        let placed = coerce::coerce(value, Some(&known.kind))?.value;
        let key_of = |label: &String| {
            let option = known.options.iter().find(|option| option.label == *label);
            option.map_or_else(|| label.clone(), |option| option.value.clone())
        };
        let (value, country_code) = match (&known.kind, placed) {
            (AttributeKind::Date, AttributeValue::Text(day)) => {
                (AttributeValue::Text(format!("{day}T00:00:00Z")), None)
            }
            (AttributeKind::Category(_), AttributeValue::Text(label)) => (AttributeValue::Text(key_of(&label)), None),
            (AttributeKind::MultipleChoice(_), AttributeValue::Options(labels)) => {
                (AttributeValue::Options(labels.iter().map(key_of).collect()), None)
            }
            // Digits without the plus, and their country code apart.
            (AttributeKind::Phone, AttributeValue::Text(phone)) => {
                let digits = phone.trim_start_matches('+').to_owned();
                let code = country_code(&digits);
                (AttributeValue::Text(digits), code)
            }
            (_, value) => (value, None),
        };
        Ok(PlacedValue { internal_name: known.internal_name.clone(), value, country_code })
    }

    /// What stands at Brevo, by the names of `wanted`, as Mixpanel would have it: null where nothing does, options by their
    /// labels, and a text into which the relay joins lists as the list that it was.
    pub fn base<'a>(&self, held: &Map<String, Value>, wanted: impl Iterator<Item = &'a str>) -> Map<String, Value> {
        let mut base = Map::new();
        for name in wanted {
            base.insert(name.to_owned(), Value::Null);
            let Some(known) = self.known.get(name) else { continue };
            let label = |value: &Value| {
                let option = known.options.iter().find(|option| Some(option.value.as_str()) == value.as_str());
                option.map_or_else(|| value.clone(), |option| option.label.clone().into())
            };
            let value = match held.get(&known.internal_name) {
                None | Some(Value::Null) => continue,
                Some(Value::String(text)) if text.is_empty() => continue,
                Some(Value::String(text)) if known.kind == AttributeKind::Text && text.contains(", ") => {
                    text.split(", ").map(Value::from).collect()
                }
                Some(Value::Array(keys)) => keys.iter().map(label).collect(),
                Some(value) => label(value),
            };
            base.insert(name.to_owned(), value);
        }
        base
    }
}

fn of(attribute: &Attribute) -> Known {
    let labels = || attribute.attribute_options.iter().map(|option| option.label.clone()).collect();
    let kind = match attribute.attribute_type_name.as_str() {
        _ if attribute.is_value_readonly == Some(true) => AttributeKind::ReadOnly,
        _ if attribute.internal_name == "phone_number" => AttributeKind::Phone,
        "number" => AttributeKind::Float,
        "date" => AttributeKind::Date,
        "boolean" => AttributeKind::Boolean,
        "single-select" => AttributeKind::Category(attribute.attribute_options.clone()),
        "multi-choice" => AttributeKind::MultipleChoice(labels()),
        "user" => AttributeKind::ReadOnly,
        // `text`, and whatever Brevo invents: text is what it coerces best.
        _ => AttributeKind::Text,
    };
    let options = attribute.attribute_options.clone();
    Known { internal_name: attribute.internal_name.clone(), kind, options }
}

/// Country codes of two digits; those that begin with 1 or 7 have one, all others three (ITU-T E.164).
const TWO_DIGITS: [&str; 44] = [
    "20", "27", "30", "31", "32", "33", "34", "36", "39", "40", "41", "43", "44", "45", "46", "47", "48", "49", "51",
    "52", "53", "54", "55", "56", "57", "58", "60", "61", "62", "63", "64", "65", "66", "81", "82", "84", "86", "90",
    "91", "92", "93", "94", "95", "98",
];

/// The country code that `digits`, an international number, begins with.
fn country_code(digits: &str) -> Option<u32> {
    let length = match digits.get(..2)? {
        first if first.starts_with(['1', '7']) => 1,
        first if TWO_DIGITS.contains(&first) => 2,
        _ => 3,
    };
    digits.get(..length)?.parse().ok()
}
