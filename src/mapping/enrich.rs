//! What a record does not carry and Brevo is to have: columns of lookup tables, joined by a property, and the place of
//! the person's address.
//!
//! The record's text gets more members before anything else reads it, so that every rule of the mapping can use them; the
//! record in the journal, and what Mixpanel gets, stay as they are. Pure but for [`Sources`], which is handed in.
//!
//! * A property that the record carries is never replaced.
//! * Events: the joined property is one of `properties`. Profile updates: `$set` and `$set_once`, each by itself, so that
//!   what is set once brings columns that are set once.
//! * No table, no such key, an empty cell: nothing is added.
//! * A place comes from the address that the edge has stamped: `properties.ip`, or `$ip` of a profile update, which then
//!   sets it. Mixpanel does the same (contract §5). A record that names a place keeps it.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::fields::{self, Fields};
use crate::config::LookupColumns;
use crate::record::Kind;

/// Where the values come from.
pub trait Sources: fmt::Debug + Send + Sync {
    /// The cells of `columns` in the row of `key`, `None` for an empty one; `None` without such a table or row.
    fn cells(&self, table: &str, key: &str, columns: &[&str]) -> Option<Vec<Option<Box<RawValue>>>>;

    /// Where an address is.
    fn place(&self, address: IpAddr) -> Option<Place>;
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub city: Option<String>,
    pub region: Option<String>,
    pub country_code: Option<String>,
}

/// The properties that a [`Place`] fills.
pub const PLACE: [&str; 3] = ["$city", "$region", "$country_code"];

/// The operators that leave a profile behind.
const OPERATORS: [&str; 7] = ["$set", "$set_once", "$add", "$append", "$union", "$remove", "$unset"];

/// `enrich` and `geoip`, ready for use.
#[derive(Clone, Debug)]
pub struct Enricher {
    rules: Vec<LookupColumns>,
    /// Events get places.
    places: bool,
    /// Profile updates get places: a property is mapped that one fills.
    places_of_people: bool,
    sources: Arc<dyn Sources>,
}

/// Members to be put behind those of an object.
type Added = Vec<(String, Box<RawValue>)>;

impl Enricher {
    /// `None` when there is nothing to add to any record.
    pub fn new(rules: &[LookupColumns], places: bool, sources: Arc<dyn Sources>) -> Option<Self> {
        let enricher = Self { rules: rules.to_vec(), places, places_of_people: false, sources };
        (places || !rules.is_empty()).then_some(enricher)
    }

    /// Says whether any property that a place fills is mapped to an attribute.
    pub fn with_places_of_people(self, mapped: bool) -> Self {
        Self { places_of_people: self.places && mapped, ..self }
    }

    /// The record's body with what belongs to it; as it is where nothing does, where it cannot be read (which is for
    /// others to say), and for an event that is not `wanted`.
    pub fn enriched(&self, kind: Kind, body: &Bytes, wanted: impl Fn(&str) -> bool) -> Bytes {
        self.changed(kind, body, wanted).map_or_else(|| body.clone(), Bytes::from)
    }

    fn changed(&self, kind: Kind, body: &Bytes, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let record: Fields<'_> = serde_json::from_slice(body).ok()?;
        let parts: &[&str] = match kind {
            Kind::Event | Kind::Identity if !wanted(&fields::scalar_text(record.get("event")?)?) => return None,
            Kind::Event | Kind::Identity => &["properties"],
            Kind::Profile => &["$set", "$set_once"],
            Kind::Group => return None,
        };
        let mut changed = Vec::new();
        for part in parts {
            let members = match record.get(part) {
                Some(raw) => serde_json::from_str::<Fields<'_>>(raw.get()),
                // A place may be all that is set.
                None if *part == "$set" => Ok(Fields::default()),
                None => continue,
            };
            // An operand of another shape is for others to judge.
            let Ok(members) = members else { continue };
            let mut added = self.joined(&members);
            let address = match *part {
                "properties" if self.places => members.get("ip").filter(|_| !names_a_place(&members)),
                "$set" if self.places_of_people => record.get("$ip").filter(|_| takes_a_place(&record)),
                _ => None,
            };
            added.extend(address.map(|address| self.place(address)).unwrap_or_default());
            if !added.is_empty() {
                changed.push((*part, with(&members, &added)));
            }
        }
        (!changed.is_empty()).then(|| replaced(&record, &changed))
    }

    fn place(&self, address: &RawValue) -> Added {
        let address = fields::scalar_text(address).and_then(|text| text.parse().ok());
        let Some(place) = address.and_then(|address| self.sources.place(address)) else { return Added::new() };
        let values = PLACE.into_iter().zip([place.city, place.region, place.country_code]);
        let raw = |value: String| serde_json::value::to_raw_value(&value).ok();
        values.filter_map(|(name, value)| Some((name.to_owned(), raw(value?)?))).collect()
    }

    fn joined(&self, members: &Fields<'_>) -> Added {
        let mut added = Added::new();
        for rule in &self.rules {
            let wanted = |target: &str| members.get(target).is_none() && added.iter().all(|(known, _)| known != target);
            let (columns, targets): (Vec<&str>, Vec<&str>) = rule
                .columns
                .iter()
                .filter(|(_, target)| wanted(target))
                .map(|(column, target)| (column.as_str(), target.as_str()))
                .unzip();
            let Some(key) = members.get(&rule.property).and_then(key) else { continue };
            if columns.is_empty() {
                continue;
            }
            let Some(cells) = self.sources.cells(&rule.table, &key, &columns) else { continue };
            let cells = targets.into_iter().zip(cells);
            added.extend(cells.filter_map(|(target, cell)| Some((target.to_owned(), cell?))));
        }
        added
    }
}

fn names_a_place(members: &Fields<'_>) -> bool {
    members.iter().any(|(key, _)| PLACE.contains(&key.as_ref()))
}

/// Whether a profile update changes something, and says nothing of a place itself.
fn takes_a_place(update: &Fields<'_>) -> bool {
    let mut operators = update.iter().filter(|(key, _)| OPERATORS.contains(&key.as_ref())).peekable();
    let speaks_of_one = |operand: &RawValue| match serde_json::from_str::<Fields<'_>>(operand.get()) {
        Ok(members) => names_a_place(&members),
        Err(_) => PLACE.iter().any(|name| operand.get().contains(name)), // a list of names to unset, or one
    };
    operators.peek().is_some() && !operators.any(|(_, operand)| speaks_of_one(operand))
}

/// A property's value as a table has its keys. A whole number is written without a fraction, whatever its sender did.
fn key(raw: &RawValue) -> Option<Cow<'_, str>> {
    match raw.get() {
        text @ ("true" | "false") => Some(Cow::Borrowed(text)),
        number if !number.starts_with('"') && number.contains(['.', 'e', 'E']) => {
            let value: f64 = number.parse().ok()?;
            let whole = value.fract() == 0.0 && value.abs() < 9e15;
            Some(if whole { Cow::Owned(format!("{value:.0}")) } else { Cow::Borrowed(number) })
        }
        _ => fields::scalar_text(raw),
    }
}

fn with(members: &Fields<'_>, added: &[(String, Box<RawValue>)]) -> String {
    let old = members.iter().map(|(key, value)| (key.as_ref(), value.get()));
    object(old.chain(added.iter().map(|(key, value)| (key.as_str(), value.get()))))
}

fn replaced(record: &Fields<'_>, changed: &[(&str, String)]) -> String {
    let old = record.iter().map(|(key, value)| {
        let text = changed.iter().find(|(part, _)| part == key).map_or(value.get(), |(_, text)| text);
        (key.as_ref(), text)
    });
    let new = changed.iter().filter(|(part, _)| record.get(part).is_none());
    object(old.chain(new.map(|(part, text)| (*part, text.as_str()))))
}

fn object<'a>(members: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut json = String::from("{");
    for (key, value) in members {
        if json.len() > 1 {
            json.push(',');
        }
        json.push_str(&serde_json::Value::from(key).to_string());
        json.push(':');
        json.push_str(value);
    }
    json.push('}');
    json
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// One table, of products.
    #[derive(Debug)]
    struct Products;

    impl Sources for Products {
        fn cells(&self, table: &str, key: &str, columns: &[&str]) -> Option<Vec<Option<Box<RawValue>>>> {
            if table != "products" || !matches!(key, "42" | "mug" | "true") {
                return None;
            }
            let cell = |column: &&str| match *column {
                "category" => serde_json::value::to_raw_value(&format!("of {key}")).ok(),
                "price" => RawValue::from_string("9.50".to_owned()).ok(),
                _ => None,
            };
            Some(columns.iter().map(cell).collect())
        }

        fn place(&self, address: IpAddr) -> Option<Place> {
            let lyon = || Place { city: Some("Lyon".to_owned()), region: None, country_code: Some("FR".to_owned()) };
            (address.to_string() == "203.0.113.9").then(lyon)
        }
    }

    fn rule(property: &str, table: &str, columns: &[(&str, &str)]) -> LookupColumns {
        let columns = columns.iter().map(|(from, to)| (from.to_string(), to.to_string())).collect();
        LookupColumns { property: property.to_owned(), table: table.to_owned(), columns }
    }

    fn enriched(kind: Kind, body: &Value) -> Value {
        let rules = [
            rule("product_id", "products", &[("category", "product_category"), ("price", "price"), ("none", "none")]),
            rule("product_id", "gone", &[("category", "other")]),
        ];
        let enricher = Enricher::new(&rules, true, Arc::new(Products)).unwrap();
        serde_json::from_slice(&enricher.enriched(kind, &body.to_string().into(), |event| event == "Purchase")).unwrap()
    }

    #[test]
    fn an_event_gets_the_columns_of_its_row() {
        for id in [json!(42), json!("42"), json!(42.0), json!("mug"), json!(true)] {
            let event = json!({"event": "Purchase", "properties": {"product_id": id, "q\"": 1}});
            let properties = &enriched(Kind::Event, &event)["properties"];
            assert_eq!(properties["price"], json!(9.50), "{id}");
            assert!(properties["product_category"].as_str().unwrap().starts_with("of "), "{id}");
            assert_eq!((&properties["q\""], properties.get("none"), properties.get("other")), (&json!(1), None, None));
        }
    }

    #[test]
    fn what_a_record_carries_is_not_replaced() {
        let event = json!({"event": "Purchase", "properties": {"product_id": "mug", "price": null}});
        let properties = &enriched(Kind::Event, &event)["properties"];
        assert_eq!((&properties["price"], &properties["product_category"]), (&json!(null), &json!("of mug")));
    }

    #[test]
    fn without_a_row_a_body_stays_as_it_is_byte_for_byte() {
        let rules = [rule("product_id", "products", &[("category", "c")])];
        let enricher = Enricher::new(&rules, true, Arc::new(Products)).unwrap();
        for (kind, body) in [
            (Kind::Event, r#"{ "event":"e", "properties":{"product_id":"unknown"} }"#),
            (Kind::Event, r#"{"event":"e","properties":{"product_id":[1]}}"#),
            (Kind::Event, r#"{"event":"e","properties":{"product_id":null}}"#),
            (Kind::Event, r#"{"event":"e"}"#),
            (Kind::Event, "[]"),
            (Kind::Event, r#"{"event":"unmapped","properties":{"product_id":"mug"}}"#),
            (Kind::Profile, r#"{"$set":7,"$add":{"product_id":42}}"#),
            (Kind::Group, r#"{"$set":{"product_id":"mug"}}"#),
        ] {
            let body = Bytes::from_static(body.as_bytes());
            assert_eq!(enricher.enriched(kind, &body, |event| event == "e"), body);
        }
    }

    #[test]
    fn an_update_gets_the_columns_where_it_sets_the_property() {
        let update = json!({"$distinct_id": "u", "$set": {"product_id": "mug"}, "$unset": ["x"]});
        assert_eq!(
            enriched(Kind::Profile, &update),
            json!({"$distinct_id": "u", "$set": {"product_id": "mug", "product_category": "of mug", "price": 9.50}, "$unset": ["x"]})
        );
        let once = json!({"$set_once": {"product_id": 42}, "$set": {"plan": "pro"}});
        assert_eq!(
            enriched(Kind::Profile, &once),
            json!({"$set_once": {"product_id": 42, "product_category": "of 42", "price": 9.50}, "$set": {"plan": "pro"}})
        );
    }

    #[test]
    fn an_address_becomes_a_place_unless_the_record_names_one() {
        let (here, nowhere) = ("203.0.113.9", "198.51.100.1");
        let event = |ip: &str, more: Value| {
            let mut event = json!({"event": "Purchase", "properties": {"ip": ip}});
            event["properties"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            enriched(Kind::Event, &event)["properties"].clone()
        };
        assert_eq!(event(here, json!({})), json!({"ip": here, "$city": "Lyon", "$country_code": "FR"}));
        assert_eq!(event(nowhere, json!({})), json!({"ip": nowhere}));
        assert_eq!(event(here, json!({"$region": "Bavaria"})), json!({"ip": here, "$region": "Bavaria"}));

        let enricher = Enricher::new(&[], true, Arc::new(Products)).unwrap();
        let update = |enricher: &Enricher, update: Value| -> Value {
            serde_json::from_slice(&enricher.enriched(Kind::Profile, &update.to_string().into(), |_| true)).unwrap()
        };
        let plain = json!({"$ip": here, "$set": {"plan": "pro"}});
        assert_eq!(update(&enricher, plain.clone()), plain, "nothing that a place fills is mapped");
        let enricher = enricher.with_places_of_people(true);
        let lyon = json!({"$city": "Lyon", "$country_code": "FR"});
        assert_eq!(
            update(&enricher, json!({"$ip": here, "$add": {"n": 1}})),
            json!({"$ip": here, "$add": {"n": 1}, "$set": lyon})
        );
        assert_eq!(update(&enricher, plain)["$set"], json!({"plan": "pro", "$city": "Lyon", "$country_code": "FR"}));
        for silent in [
            json!({"$ip": 0, "$set": {"plan": "pro"}}),
            json!({"$ip": "0", "$set": {"plan": "pro"}}),
            json!({"$ip": nowhere, "$set": {"plan": "pro"}}),
            json!({"$set": {"plan": "pro"}}),
            json!({"$ip": here, "$delete": ""}),
            json!({"$ip": here}),
            json!({"$ip": here, "$set_once": {"$city": "Rome"}}),
            json!({"$ip": here, "$unset": ["$city"]}),
        ] {
            assert_eq!(update(&enricher, silent.clone()), silent);
        }
    }
}
