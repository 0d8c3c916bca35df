//! Contact attributes: the account's schema, and what becomes of a value that does not fit it (contract §5).

use std::collections::BTreeMap;

use axum::http::StatusCode;
use jiff::civil::Date;
use serde_json::{Value, json};

use super::super::account::AttributeSpec;
use super::super::http::Reply;
use super::super::switches::{BrevoSwitches, ClearBy, DateTimeInDate};
use super::{Answer, Context, State, error, invalid, no_content, not_found};
use crate::clock::UnixMillis;

const MAX_OPTION: usize = 200;

#[derive(Debug)]
struct Attribute {
    spec: AttributeSpec,
    /// When it was created; values that come too soon after are lost. `None`: always been there.
    created: Option<UnixMillis>,
}

#[derive(Debug)]
pub struct Attributes {
    by_name: BTreeMap<String, Attribute>,
}

/// What a sent value comes to.
#[derive(Debug, PartialEq)]
pub enum Fit {
    Store(Value),
    Clear,
    /// Lost without a word; the reason is for the counters.
    Drop(&'static str),
}

impl Attributes {
    pub fn new(specs: &[AttributeSpec]) -> Self {
        let always = |spec: &AttributeSpec| (spec.name.clone(), Attribute { spec: spec.clone(), created: None });
        Self { by_name: specs.iter().map(always).collect() }
    }

    pub fn put(&mut self, spec: AttributeSpec, created: Option<UnixMillis>) {
        self.by_name.insert(spec.name.clone(), Attribute { spec, created });
    }

    /// Names are matched as written: an attribute in lower case is an unknown one.
    pub fn fit(&self, name: &str, value: &Value, now: UnixMillis, switches: &BrevoSwitches) -> Fit {
        let Some(attribute) = self.by_name.get(name) else { return Fit::Drop("unknown") };
        let age = attribute.created.map(|created| now.since(created).as_millis());
        if age.is_some_and(|age| age < u128::from(switches.attribute_delay_ms)) {
            return Fit::Drop("created_too_recently");
        }
        let clears = match value {
            Value::Null => Some(matches!(switches.clear_by, ClearBy::Both | ClearBy::Null)),
            Value::String(text) if text.is_empty() => {
                Some(matches!(switches.clear_by, ClearBy::Both | ClearBy::EmptyString))
            }
            _ => None,
        };
        match clears {
            Some(true) => Fit::Clear,
            Some(false) => Fit::Drop("empty"),
            None => typed(&attribute.spec, value, switches).map_or(Fit::Drop("mistyped"), Fit::Store),
        }
    }
}

fn typed(spec: &AttributeSpec, value: &Value, switches: &BrevoSwitches) -> Option<Value> {
    match spec.kind.as_str() {
        "text" => value.as_str().map(Into::into),
        "float" => value.is_number().then(|| value.clone()),
        "boolean" => value.as_bool().map(Into::into),
        "date" => date(value.as_str()?, switches.datetime_in_date).map(Into::into),
        "category" => {
            let by_number = value.as_u64().and_then(|number| usize::try_from(number).ok());
            let known = |number: usize| (1..=spec.options.len()).contains(&number).then_some(number);
            let by_label =
                || spec.options.iter().position(|label| Some(label.as_str()) == value.as_str()).map(|at| at + 1);
            by_number.and_then(known).or_else(by_label).map(Into::into)
        }
        "multiple-choice" => {
            let chosen: Option<Vec<&str>> = value.as_array()?.iter().map(Value::as_str).collect();
            let known = chosen?.into_iter().filter(|choice| spec.options.iter().any(|option| option == choice));
            Some(known.collect::<Vec<_>>().into())
        }
        "id" | "user" => (value.is_string() || value.is_number()).then(|| value.clone()),
        _ => None,
    }
}

/// `YYYY-MM-DD`; whether a date with a time is cut or lost is a switch.
fn date(text: &str, with_time: DateTimeInDate) -> Option<String> {
    let day = text.get(..10)?;
    let rest = &text[10..];
    if !rest.is_empty() && (with_time == DateTimeInDate::Drop || !rest.starts_with(['T', ' '])) {
        return None;
    }
    day.parse::<Date>().ok().map(|_| day.to_owned())
}

fn describe(spec: &AttributeSpec) -> Value {
    let mut shown = json!({ "name": spec.name, "category": spec.category, "type": spec.kind });
    match spec.kind.as_str() {
        "category" => {
            let entry = |(at, label): (usize, &String)| json!({ "value": at + 1, "label": label });
            shown["enumeration"] = spec.options.iter().enumerate().map(entry).collect();
        }
        "multiple-choice" => shown["multiCategoryOptions"] = json!(spec.options),
        _ => {}
    }
    shown
}

pub fn list(state: &mut State, _: &Context<'_>, _: &[&str]) -> Answer {
    let all: Vec<Value> = state.attributes.by_name.values().map(|attribute| describe(&attribute.spec)).collect();
    Ok(Reply::ok(&json!({ "attributes": all })))
}

/// The options in a body: labels of `enumeration`, or `multiCategoryOptions`.
fn options(body: &Value) -> Result<Vec<String>, Reply> {
    let labels = body["enumeration"].as_array().into_iter().flatten().map(|entry| entry["label"].as_str());
    let choices = body["multiCategoryOptions"].as_array().into_iter().flatten().map(Value::as_str);
    let all: Option<Vec<&str>> = labels.chain(choices).collect();
    match all {
        Some(all) if all.iter().all(|option| option.len() <= MAX_OPTION) => {
            Ok(all.into_iter().map(str::to_owned).collect())
        }
        _ => Err(invalid("Invalid attribute options")),
    }
}

pub fn create(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    let (category, name) = (path[2], path[3]);
    let sent = context.body["type"].as_str();
    let kind = match (category, sent) {
        ("normal", Some(kind @ ("text" | "date" | "float" | "boolean" | "multiple-choice" | "user"))) => kind,
        ("category", None | Some("category")) => "category",
        ("transactional", Some(kind @ ("text" | "date" | "float" | "boolean" | "id"))) => kind,
        ("calculated" | "global", _) if context.body["value"].is_string() => "calculated",
        _ => return Err(invalid("Invalid attribute category")),
    };
    if state.attributes.by_name.keys().any(|known| known.eq_ignore_ascii_case(name)) {
        return Err(error(StatusCode::BAD_REQUEST, "invalid_parameter", "Attribute name must be unique"));
    }
    let spec = AttributeSpec {
        name: name.to_uppercase(),
        category: category.into(),
        kind: kind.into(),
        options: options(&context.body)?,
    };
    state.attributes.put(spec, Some(context.now));
    Ok(Reply::empty(StatusCode::CREATED))
}

/// Only options can change; a type cannot.
pub fn update(state: &mut State, context: &Context<'_>, path: &[&str]) -> Answer {
    let (category, name) = (path[2], path[3]);
    let options = options(&context.body)?;
    let attribute = state.attributes.by_name.get_mut(name).filter(|attribute| attribute.spec.category == category);
    let attribute = attribute.ok_or_else(|| not_found("Attribute not found"))?;
    if !matches!(attribute.spec.kind.as_str(), "category" | "multiple-choice") {
        return Err(invalid("Only category and multiple-choice attributes can be updated"));
    }
    attribute.spec.options = options;
    Ok(no_content())
}

pub fn delete(state: &mut State, _: &Context<'_>, path: &[&str]) -> Answer {
    let known = state.attributes.by_name.get(path[3]).is_some_and(|held| held.spec.category == path[2]);
    if !known {
        return Err(not_found("Attribute not found"));
    }
    state.attributes.by_name.remove(path[3]);
    state.directory.forget_attribute(path[3]);
    Ok(no_content())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::account::BrevoAccount;

    #[test]
    fn values_fit_or_are_lost() {
        let mut attributes = Attributes::new(&BrevoAccount::default().attributes);
        attributes.put(AttributeSpec::new("NEW", "normal", "text", &[]), Some(UnixMillis(10_000)));
        let switches = BrevoSwitches::default();
        let fit = |name: &str, value: Value, now: u64| attributes.fit(name, &value, UnixMillis(now), &switches);
        let store = |value: Value| Fit::Store(value);
        assert_eq!(fit("LTV", json!(1.5), 0), store(json!(1.5)));
        assert_eq!(fit("LTV", json!("1.5"), 0), Fit::Drop("mistyped"));
        assert_eq!(fit("ltv", json!(1), 0), Fit::Drop("unknown"));
        assert_eq!(fit("SIGNUP_DATE", json!("2024-02-29"), 0), store(json!("2024-02-29")));
        assert_eq!(fit("SIGNUP_DATE", json!("2024-02-30"), 0), Fit::Drop("mistyped"));
        assert_eq!(fit("SIGNUP_DATE", json!("2024-02-29T10:00:00Z"), 0), Fit::Drop("mistyped"));
        assert_eq!(fit("IS_CUSTOMER", json!("true"), 0), Fit::Drop("mistyped"));
        assert_eq!(fit("SEGMENT", json!("paid"), 0), store(json!(2)));
        assert_eq!(fit("SEGMENT", json!(9), 0), Fit::Drop("mistyped"));
        assert_eq!(fit("INTERESTS", json!(["news", "golf"]), 0), store(json!(["news"])));
        assert_eq!(fit("PLAN_TYPE", json!(""), 0), Fit::Clear);
        assert_eq!(fit("NEW", json!("x"), 12_999), Fit::Drop("created_too_recently"));
        assert_eq!(fit("NEW", json!("x"), 13_000), store(json!("x")));
    }
}
