//! What Brevo is written for a company. Pure.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::brevo::coerce::{AttributeValue, Unplaced};
use crate::brevo::companies::CompanyWrite;
use crate::brevo::companies::attributes::{CompanyAttributes, NewAttribute};
use crate::mapping::group::NAME;
use crate::people::company::{Company, Debt, Place, own_id};
use crate::record::{Destinations, Kind, Origin, Project, Record};

/// A value that Brevo has no place for.
#[derive(Clone, Debug, PartialEq)]
pub struct NotPlaced {
    pub attribute: String,
    pub reason: Unplaced,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Composed {
    pub write: CompanyWrite,
    /// Internal names of attributes to be emptied; they are in `write` too.
    pub clear: Vec<String>,
    pub not_placed: Vec<NotPlaced>,
    /// Attributes that have to be made first.
    pub missing: Vec<NewAttribute>,
}

impl Composed {
    pub fn is_empty(&self) -> bool {
        self.write == CompanyWrite::default()
    }
}

/// Composes what `debt` owes: everything that is known where the company is still to be made. Every value must be known.
/// `may_create`: whether an attribute of this name may be made.
pub fn compose(
    group: &str,
    company: &Company,
    debt: &Debt,
    account: &CompanyAttributes,
    may_create: impl Fn(&str) -> bool,
) -> Composed {
    let made = matches!(company.place, Place::At { .. });
    let owed: BTreeSet<String> = if made { debt.attributes.clone() } else { company.filled() };
    let mut composed = Composed::default();
    if !made || owed.contains(NAME) {
        // A company needs a name: a group that has none goes by its id.
        composed.write.name = Some(company.name().unwrap_or_else(|| own_id(group)));
    }
    for attribute in owed.into_iter().filter(|attribute| attribute != NAME) {
        let value = company.value(&attribute).unwrap_or(&Value::Null);
        if value.is_null() {
            if let Some(name) = account.internal_name(&attribute) {
                composed.write.attributes.insert(name.to_owned(), AttributeValue::Null);
                composed.clear.push(name.to_owned());
            }
            continue;
        }
        match account.place(&attribute, value) {
            Ok(placed) => {
                composed.write.country_code = placed.country_code.or(composed.write.country_code);
                composed.write.attributes.insert(placed.internal_name, placed.value);
            }
            Err(reason) => match NewAttribute::for_value(&attribute, value) {
                Some(new) if reason == Unplaced::NoSuchAttribute && may_create(&attribute) => {
                    composed.missing.push(new);
                }
                _ => composed.not_placed.push(NotPlaced { attribute, reason }),
            },
        }
    }
    composed
}

/// What was owed, as the update that would bring it about: what a dead letter holds.
pub fn as_record(group: &str, company: &Company, debt: &Debt) -> Record {
    let [key, id] = serde_json::from_str::<[String; 2]>(group).unwrap_or_default();
    let mut body = Map::new();
    body.insert("$group_key".to_owned(), json!(key));
    body.insert("$group_id".to_owned(), json!(id));
    if debt.delete.is_some() {
        body.insert("$delete".to_owned(), json!(""));
    }
    let owed = |attribute: &String| Some((attribute.clone(), company.value(attribute)?.clone()));
    let set: Map<String, Value> = debt.attributes.iter().filter_map(owed).collect();
    body.insert("$set".to_owned(), Value::Object(set));
    Record {
        kind: Kind::Group,
        origin: Origin::App,
        destinations: Destinations::BREVO,
        project: Project::Ours,
        received_at: debt.oldest,
        body: Value::Object(body).to_string().into(),
    }
}
