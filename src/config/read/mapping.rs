//! The part that says what Brevo gets: `event_mapping`, `property_mapping`, `group_mapping` and what belongs to them.

use std::collections::BTreeMap;

use super::rules;
use crate::config::error::{Bad, Wrong};
use crate::config::model::{AttributeRule, GroupMapping, Mapping, UnmappedEvents};
use crate::config::notice::About;
use crate::config::reader::{Item, Section};
use crate::config::values;
use crate::config::yaml::Scalar;

/// Properties that Mixpanel computes from the address and that no SDK sends (DESIGN 4).
const COMPUTED_BY_MIXPANEL: [&str; 3] = ["$city", "$region", "$country_code"];

pub(super) fn mapping(root: &mut Section<'_>, lists: BTreeMap<String, u64>) -> Mapping {
    let default = Mapping::default();
    let unmapped = [("skip", UnmappedEvents::Skip), ("forward", UnmappedEvents::Forward)];
    let events = root.pairs("event_mapping").into_iter();
    let events = events.filter_map(|(event, item)| rules::event(item, &lists).map(|rule| (event, rule))).collect();
    let (properties, attributes) = properties(root);
    Mapping {
        events,
        properties,
        attributes,
        unmapped_events: root.scalar("unmapped_events", values::choice(&unmapped)).unwrap_or_default(),
        groups: groups(root),
        stale_after: root.scalar("stale_after", values::period).unwrap_or(default.stale_after),
        tests: root.list("mapping_tests", |item| rules::test(item, &lists)),
        lists,
    }
}

fn names(
    pairs: Vec<(String, Item<'_>)>,
    parse: impl Fn(&Scalar) -> Result<String, Bad> + Copy,
) -> BTreeMap<String, String> {
    pairs.into_iter().filter_map(|(from, item)| item.scalar(parse).map(|to| (from, to))).collect()
}

type Properties = (BTreeMap<String, String>, BTreeMap<String, AttributeRule>);

/// Property → attribute, and what is said of attributes besides.
fn properties(root: &mut Section<'_>) -> Properties {
    let (mut properties, mut attributes): Properties = Default::default();
    let places = root.holds("geoip");
    for (property, item) in root.pairs("property_mapping") {
        let (place, line) = (item.path().to_owned(), item.line());
        let Some((attribute, rule)) = rules::attribute(item) else { continue };
        let report = root.report();
        if COMPUTED_BY_MIXPANEL.contains(&property.as_str()) && !places {
            report.notice(place.as_str(), Some(line), About::NothingFills);
        }
        if let Some((other, _)) = properties.iter().find(|(_, known)| **known == attribute) {
            report.notice(place.as_str(), Some(line), About::SameTarget { other: other.clone() });
            let said = attributes.get(&attribute).copied().unwrap_or_default();
            if said != rule {
                report.problem(place, Some(line), Wrong::TwoRules { attribute, other: other.clone() });
                continue;
            }
        }
        if rule != AttributeRule::default() {
            attributes.insert(attribute.clone(), rule);
        }
        properties.insert(property, attribute);
    }
    (properties, attributes)
}

fn groups(root: &mut Section<'_>) -> BTreeMap<String, GroupMapping> {
    let group = |(group_key, item): (String, Item<'_>)| {
        let mut block = item.section()?;
        let name = block.scalar("name", values::text).unwrap_or_else(|| "$name".to_owned());
        let properties = names(block.pairs("properties"), values::company_attribute);
        block.finish();
        Some((group_key, GroupMapping { name, properties }))
    };
    root.pairs("group_mapping").into_iter().filter_map(group).collect()
}
