//! The part that says what Brevo gets: `event_mapping`, `property_mapping`, `group_mapping` and what belongs to them.

use std::collections::BTreeMap;

use crate::config::error::Bad;
use crate::config::model::{GroupMapping, Mapping, UnmappedEvents};
use crate::config::notice::About;
use crate::config::reader::{Item, Section};
use crate::config::values;
use crate::config::yaml::Scalar;

/// Properties that Mixpanel computes from the address and that no SDK sends (DESIGN 4).
const COMPUTED_BY_MIXPANEL: [&str; 3] = ["$city", "$region", "$country_code"];

pub(super) fn mapping(root: &mut Section<'_>, lists: BTreeMap<String, u64>) -> Mapping {
    let default = Mapping::default();
    let unmapped = [("skip", UnmappedEvents::Skip), ("forward", UnmappedEvents::Forward)];
    Mapping {
        events: names(root.pairs("event_mapping"), values::event_name),
        properties: properties(root),
        unmapped_events: root.scalar("unmapped_events", values::choice(&unmapped)).unwrap_or_default(),
        lists,
        groups: groups(root),
        stale_after: root.scalar("stale_after", values::period).unwrap_or(default.stale_after),
    }
}

fn names(
    pairs: Vec<(String, Item<'_>)>,
    parse: impl Fn(&Scalar) -> Result<String, Bad> + Copy,
) -> BTreeMap<String, String> {
    pairs.into_iter().filter_map(|(from, item)| item.scalar(parse).map(|to| (from, to))).collect()
}

fn properties(root: &mut Section<'_>) -> BTreeMap<String, String> {
    let mut properties: BTreeMap<String, String> = BTreeMap::new();
    for (property, item) in root.pairs("property_mapping") {
        let Some(attribute) = item.scalar(values::attribute) else { continue };
        if COMPUTED_BY_MIXPANEL.contains(&property.as_str()) {
            item.notice(About::NothingFills);
        }
        if let Some((other, _)) = properties.iter().find(|(_, known)| **known == attribute) {
            item.notice(About::SameTarget { other: other.clone() });
        }
        properties.insert(property, attribute);
    }
    properties
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
