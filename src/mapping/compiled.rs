//! The configured mapping, checked once and ready to answer for every record. Swapped whole on reload.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::enrich::{Enricher, PLACE};
use super::rule::{EventRule, is};
use crate::brevo::account::AttributeToCreate;
use crate::brevo::identifiers::ListId;
use crate::brevo::names::{AttributeName, AttributeNameError, EventName};
use crate::config::{AttributeRule, Consent, Dataset, GroupMapping, Mapping, OnProfileDelete, Sync, UnmappedEvents};
use crate::mixpanel::reserved::is_identity_event;
use crate::privacy::{Rules, Unruly};
use crate::record::Kind;

/// Where a profile property goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The contact's address.
    Email,
    /// The contact's phone number, `SMS`.
    Phone,
    Attribute(AttributeName),
}

/// Why a mapping cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    #[error("event_mapping: \"{event}\" is mapped to \"{target}\", which holds no letter or digit")]
    EventName { event: String, target: String },
    #[error("property_mapping: {property} is mapped to \"{target}\": {error}")]
    AttributeName { property: String, target: String, error: AttributeNameError },
    #[error("property_mapping: {property} is mapped to {target}, which Brevo or the relay fills itself")]
    Reserved { property: String, target: AttributeName },
    #[error("datasets: the attribute {target} of {dataset} is filled by {other} already; write it at one of the two")]
    Owned { dataset: String, target: AttributeName, other: String },
}

/// What the configuration says of attributes besides their names.
#[derive(Clone, Debug, Default)]
pub struct AttributeRules(BTreeMap<AttributeName, AttributeRule>);

impl AttributeRules {
    /// `value` as everybody reads it, where the configuration says how the app writes it.
    pub fn read<'v>(&self, name: &AttributeName, value: &'v Value) -> Cow<'v, Value> {
        match self.0.get(name).and_then(|rule| rule.format) {
            Some(format) => format.read(value),
            None => Cow::Borrowed(value),
        }
    }

    /// The attribute to create for `value`, which [`Self::read`] has gone over; of the configured type, else of the type
    /// that the value has. `None` for null, which says nothing.
    pub fn to_create(&self, name: &AttributeName, value: &Value) -> Option<AttributeToCreate> {
        let by_value = AttributeToCreate::for_value(name, value)?;
        let kind = self.0.get(name).and_then(|rule| rule.kind).unwrap_or(by_value.kind);
        Some(AttributeToCreate { kind, ..by_value })
    }
}

/// Who says yes to being at Brevo.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsentRule {
    pub property: String,
    /// Where the answer is kept among a person's values.
    pub name: AttributeName,
    value: Value,
}

impl ConsentRule {
    fn compile(consent: &Consent) -> Option<Self> {
        let Consent::Required { property, value } = consent else { return None };
        Some(Self { property: property.clone(), name: AttributeName::kept_back(property), value: value.clone() })
    }

    /// Whether `answer` is a yes; an absent one is a no, known or not. Of a list any member may be it.
    pub fn given(&self, answer: Option<&Value>) -> bool {
        answer.is_some_and(|answer| is(answer, &self.value))
    }
}

#[derive(Clone, Debug)]
pub struct CompiledMapping {
    events: HashMap<String, EventRule>,
    properties: HashMap<String, Target>,
    pub attribute_rules: AttributeRules,
    lists: BTreeMap<String, ListId>,
    groups: BTreeMap<String, GroupMapping>,
    /// Data set → column → where it goes.
    datasets: HashMap<String, HashMap<String, Target>>,
    unmapped_events: UnmappedEvents,
    enricher: Option<Enricher>,
    privacy: Option<Rules>,
    /// `None`: everybody may be sent.
    pub consent: Option<ConsentRule>,
    /// What becomes of the contact when the profile is deleted at Mixpanel.
    pub on_profile_delete: OnProfileDelete,
    pub sync: Sync,
    stale_after: Duration,
}

impl CompiledMapping {
    /// Names every mistake, not only the first.
    pub fn compile(mapping: &Mapping, sync: Sync) -> Result<Self, Vec<MappingError>> {
        let mut errors = Vec::new();
        let mut events = HashMap::new();
        for (event, rule) in &mapping.events {
            if rule.name.chars().any(|c| c.is_ascii_alphanumeric()) {
                events.insert(event.clone(), EventRule::compile(rule, mapping.stale_after));
            } else {
                errors.push(MappingError::EventName { event: event.clone(), target: rule.name.clone() });
            }
        }
        let mut properties = HashMap::new();
        for (property, target) in &mapping.properties {
            match parse_target(property, target) {
                Ok(target) => {
                    properties.insert(property.clone(), target);
                }
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let rules = mapping.attributes.iter();
        let attribute_rules =
            rules.filter_map(|(name, rule)| Some((AttributeName::parse(name).ok()?, *rule))).collect();
        let attribute_rules = AttributeRules(attribute_rules);
        let lists = mapping.lists.iter().map(|(name, id)| (name.clone(), ListId(*id))).collect();
        let (unmapped_events, stale_after) = (mapping.unmapped_events, mapping.stale_after);
        Ok(Self {
            events,
            properties,
            attribute_rules,
            lists,
            groups: mapping.groups.clone(),
            datasets: HashMap::new(),
            unmapped_events,
            enricher: None,
            privacy: None,
            consent: None,
            on_profile_delete: OnProfileDelete::default(),
            sync,
            stale_after,
        })
    }

    /// With `datasets`. An attribute belongs to one data set, and then no property of a profile fills it; addresses and numbers
    /// may come from everywhere.
    pub fn with_datasets(mut self, datasets: &[Dataset]) -> Result<Self, Vec<MappingError>> {
        let mut owners: HashMap<AttributeName, String> = HashMap::new();
        for (property, target) in &self.properties {
            if let Target::Attribute(name) = target {
                owners.insert(name.clone(), format!("property_mapping.{property}"));
            }
        }
        let mut errors = Vec::new();
        for dataset in datasets {
            let mut columns = HashMap::new();
            for (column, target) in &dataset.attributes {
                let target = match parse_target(column, target) {
                    Ok(target) => target,
                    Err(error) => {
                        errors.push(error);
                        continue;
                    }
                };
                if let Target::Attribute(name) = &target
                    && let Some(other) = owners.insert(name.clone(), format!("datasets.{}.{column}", dataset.name))
                {
                    errors.push(MappingError::Owned { dataset: dataset.name.clone(), target: name.clone(), other });
                }
                columns.insert(column.clone(), target);
            }
            self.datasets.insert(dataset.name.clone(), columns);
        }
        if errors.is_empty() { Ok(self) } else { Err(errors) }
    }

    /// With `privacy.brevo`, which comes before everything else but `enrich`.
    pub fn with_privacy(mut self, privacy: Option<Rules>) -> Self {
        self.privacy = privacy;
        self
    }

    /// With `enrich` and `geoip`. The privacy rules see what it adds: a column is dropped or hashed by the name that it fills.
    pub fn with_enrichment(mut self, enricher: Option<Enricher>) -> Self {
        let places = PLACE.iter().any(|property| self.properties.contains_key(*property));
        self.enricher = enricher.map(|enricher| enricher.with_places_of_people(places));
        self
    }

    /// With `privacy.consent`.
    pub fn with_consent(mut self, consent: &Consent) -> Self {
        self.consent = ConsentRule::compile(consent);
        self
    }

    pub fn with_profile_deletion(mut self, on_profile_delete: OnProfileDelete) -> Self {
        self.on_profile_delete = on_profile_delete;
        self
    }

    /// The place of the answer to the consent rule, when `property` holds it.
    pub fn consent_in(&self, property: &str) -> Option<&AttributeName> {
        self.consent.as_ref().filter(|rule| rule.property == property).map(|rule| &rule.name)
    }

    /// Every value that is kept of a person: what the mapping may write, and the answer to the consent rule.
    pub fn kept(&self) -> impl Iterator<Item = &AttributeName> {
        self.attributes().chain(self.consent.as_ref().map(|rule| &rule.name))
    }

    /// The record's body as the mapping may see it; `None` when the privacy rules leave nothing of it.
    pub fn visible(&self, kind: Kind, body: &Bytes) -> Result<Option<Bytes>, Unruly> {
        let body = match &self.enricher {
            Some(enricher) => enricher.enriched(kind, body, |event| self.event(event).is_some()),
            None => body.clone(),
        };
        self.privacy.as_ref().map_or_else(|| Ok(Some(body.clone())), |rules| rules.outgoing(kind, &body))
    }

    /// What becomes of the events of this name; `None` when Brevo gets none of them.
    ///
    /// `unmapped_events: forward` lets every name through but those that say who someone is.
    pub fn event(&self, event: &str) -> Option<Cow<'_, EventRule>> {
        if let Some(rule) = self.events.get(event) {
            return Some(Cow::Borrowed(rule));
        }
        match self.unmapped_events {
            UnmappedEvents::Forward if !is_identity_event(event) => {
                Some(Cow::Owned(EventRule::plain(EventName::sanitised(event), self.stale_after)))
            }
            UnmappedEvents::Forward | UnmappedEvents::Skip => None,
        }
    }

    /// The names that have rules of their own, in no order; `None` when others are forwarded too.
    pub fn event_names(&self) -> Option<impl Iterator<Item = &str>> {
        let all = self.unmapped_events == UnmappedEvents::Skip;
        all.then(|| self.events.keys().map(String::as_str))
    }

    /// How old an event may be at most to set anything off.
    pub fn longest_stale_after(&self) -> Duration {
        self.events.values().map(|rule| rule.stale_after).max().unwrap_or_default().max(self.stale_after)
    }

    pub fn target(&self, property: &str) -> Option<&Target> {
        self.properties.get(property)
    }

    /// The profile properties that Brevo gets something of, in no order.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &Target)> {
        self.properties.iter().map(|(property, target)| (property.as_str(), target))
    }

    /// Every attribute that the mapping may write, identifiers left out.
    pub fn attributes(&self) -> impl Iterator<Item = &AttributeName> {
        self.properties.values().filter_map(|target| match target {
            Target::Attribute(name) => Some(name),
            Target::Email | Target::Phone => None,
        })
    }

    /// Where a data set's column goes.
    pub fn column(&self, dataset: &str, column: &str) -> Option<&Target> {
        self.datasets.get(dataset)?.get(column)
    }

    /// Every attribute that data sets may write, identifiers left out.
    pub fn computed(&self) -> impl Iterator<Item = &AttributeName> {
        self.datasets.values().flat_map(HashMap::values).filter_map(|target| match target {
            Target::Attribute(name) => Some(name),
            Target::Email | Target::Phone => None,
        })
    }

    /// Whether records are looked at for the groups that their people are in.
    pub fn links_groups(&self) -> bool {
        self.sync.groups && !self.groups.is_empty()
    }

    /// How groups of `key` become companies; `None` when they do not.
    pub fn group(&self, key: &str) -> Option<&GroupMapping> {
        self.groups.get(key)
    }

    /// The list that the configuration calls `name`.
    pub fn list(&self, name: &str) -> Option<ListId> {
        self.lists.get(name).copied()
    }
}

fn parse_target(property: &str, target: &str) -> Result<Target, MappingError> {
    let name = AttributeName::parse(target).map_err(|error| MappingError::AttributeName {
        property: property.to_owned(),
        target: target.to_owned(),
        error,
    })?;
    if name.is_reserved() {
        return Err(MappingError::Reserved { property: property.to_owned(), target: name });
    }
    Ok(match name.as_str() {
        "EMAIL" => Target::Email,
        "SMS" => Target::Phone,
        _ => Target::Attribute(name),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The mapping of the product's documentation.
    pub fn published(unmapped_events: UnmappedEvents) -> CompiledMapping {
        let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
        let mapping = Mapping {
            events: [("Purchase", "order_completed"), ("Sign Up", "customer created")]
                .map(|(event, name)| (event.to_owned(), name.into()))
                .into(),
            properties: owned(&[
                ("$email", "email"),
                ("$first_name", "FIRSTNAME"),
                ("$phone", "SMS"),
                ("plan", "plan_type"),
                ("total_revenue", "LTV"),
            ]),
            unmapped_events,
            lists: [("all_users".to_owned(), 15)].into(),
            ..Mapping::default()
        };
        CompiledMapping::compile(&mapping, Sync::default()).unwrap()
    }

    #[test]
    fn event_names_are_looked_up_then_forwarded_or_not() {
        let skip = published(UnmappedEvents::Skip);
        let forward = published(UnmappedEvents::Forward);
        for (event, skipping, forwarding) in [
            ("Purchase", Some("order_completed"), Some("order_completed")),
            ("Sign Up", Some("customer_created"), Some("customer_created")),
            ("Page View", None, Some("Page_View")),
            ("$session_start", None, Some("session_start")),
            ("$identify", None, None),
            ("$create_alias", None, None),
            ("$merge", None, None),
        ] {
            let name = |mapping: &CompiledMapping| mapping.event(event).map(|rule| rule.name.to_string());
            assert_eq!(name(&skip).as_deref(), skipping, "{event}");
            assert_eq!(name(&forward).as_deref(), forwarding, "{event}");
        }
    }

    #[test]
    fn targets_are_identifiers_or_upper_case_attributes() {
        let mapping = published(UnmappedEvents::Skip);
        assert_eq!(mapping.target("$email"), Some(&Target::Email));
        assert_eq!(mapping.target("$phone"), Some(&Target::Phone));
        assert_eq!(mapping.target("plan"), Some(&Target::Attribute(AttributeName::parse("PLAN_TYPE").unwrap())));
        assert_eq!(mapping.target("other"), None);
        let mut names: Vec<_> = mapping.attributes().map(AttributeName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["FIRSTNAME", "LTV", "PLAN_TYPE"]);
        assert_eq!(mapping.list("all_users"), Some(ListId(15)));
    }

    #[test]
    fn every_mistake_is_named() {
        let mapping = Mapping {
            events: [("A".to_owned(), "--".into())].into(),
            properties: [("a".to_owned(), "PLAN TYPE".to_owned()), ("b".to_owned(), "ext_id".to_owned())].into(),
            ..Mapping::default()
        };
        let errors = CompiledMapping::compile(&mapping, Sync::default()).unwrap_err();
        assert_eq!(errors.len(), 3);
        assert!(errors[1].to_string().contains("PLAN TYPE"), "{}", errors[1]);
        assert!(errors[2].to_string().contains("EXT_ID"), "{}", errors[2]);
    }
}
