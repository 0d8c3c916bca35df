//! Rules by which a destination needs nothing of a record.

use serde::{Deserialize, Serialize};

/// Why a record was skipped. The labels are published (metric `mixrelay_records_skipped_total{rule}`) and stored in the
/// legs' tallies: they do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipRule {
    /// The record is for other destinations only (CORE 9).
    NotForThisDestination,
    /// The destination is switched off or not configured.
    Disabled,
    EventsOff,
    ProfilesOff,
    GroupsOff,
    /// The event is not in `event_mapping`, and `unmapped_events` is `skip`.
    UnmappedEvent,
    /// `$ignore` is set.
    Ignored,
    /// The profile update touches no property of `property_mapping`.
    NoMappedProperty,
    /// It does, but none of its values can be placed.
    NotPlaced,
    /// The profile was deleted at Mixpanel, and its contact is kept.
    ProfileDeleted,
    /// The event is older than `stale_after` (CORE 10).
    Stale,
    /// A resend of an event that is already known (CORE 8).
    Duplicate,
    /// `mode: observe`.
    Observe,
    /// `mode: pilot`, and the person is none of `pilot_emails`.
    NotInPilot,
    /// Parked until `parking.max_age`, or pushed out by its other bounds.
    Expired,
    /// A dead letter that was purged.
    Purged,
    /// The oldest of a destination that `when_full` gives up (CORE 15).
    Overflow,
    /// The person was erased (CORE 12).
    Erased,
}

impl SkipRule {
    pub const ALL: [SkipRule; 18] = [
        SkipRule::NotForThisDestination,
        SkipRule::Disabled,
        SkipRule::EventsOff,
        SkipRule::ProfilesOff,
        SkipRule::GroupsOff,
        SkipRule::UnmappedEvent,
        SkipRule::Ignored,
        SkipRule::NoMappedProperty,
        SkipRule::NotPlaced,
        SkipRule::ProfileDeleted,
        SkipRule::Stale,
        SkipRule::Duplicate,
        SkipRule::Observe,
        SkipRule::NotInPilot,
        SkipRule::Expired,
        SkipRule::Purged,
        SkipRule::Overflow,
        SkipRule::Erased,
    ];

    /// The `rule` label.
    pub fn label(self) -> &'static str {
        match self {
            SkipRule::NotForThisDestination => "not_for_this_destination",
            SkipRule::Disabled => "disabled",
            SkipRule::EventsOff => "events_off",
            SkipRule::ProfilesOff => "profiles_off",
            SkipRule::GroupsOff => "groups_off",
            SkipRule::UnmappedEvent => "unmapped_event",
            SkipRule::Ignored => "ignored",
            SkipRule::NoMappedProperty => "no_mapped_property",
            SkipRule::NotPlaced => "not_placed",
            SkipRule::ProfileDeleted => "profile_deleted",
            SkipRule::Stale => "stale",
            SkipRule::Duplicate => "duplicate",
            SkipRule::Observe => "observe",
            SkipRule::NotInPilot => "not_in_pilot",
            SkipRule::Expired => "expired",
            SkipRule::Purged => "purged",
            SkipRule::Overflow => "overflow",
            SkipRule::Erased => "erased",
        }
    }

    /// One sentence for people.
    pub fn explanation(self) -> &'static str {
        match self {
            SkipRule::NotForThisDestination => "the record is for other destinations only",
            SkipRule::Disabled => "the destination is switched off or not configured",
            SkipRule::EventsOff => "connectors.mixpanel.sync.events is off",
            SkipRule::ProfilesOff => "connectors.mixpanel.sync.profiles is off",
            SkipRule::GroupsOff => "connectors.mixpanel.sync.groups is off",
            SkipRule::UnmappedEvent => "the event is not in event_mapping, and unmapped_events is skip",
            SkipRule::Ignored => "the record carries $ignore",
            SkipRule::NoMappedProperty => "the update touches no property of property_mapping",
            SkipRule::NotPlaced => "none of the update's mapped values can be placed",
            SkipRule::ProfileDeleted => "the profile was deleted at Mixpanel, and its contact is kept",
            SkipRule::Stale => "the event is older than stale_after",
            SkipRule::Duplicate => "the event is a resend of one that is already known",
            SkipRule::Observe => "connectors.brevo.mode is observe",
            SkipRule::NotInPilot => "connectors.brevo.mode is pilot, and the person is none of pilot_emails",
            SkipRule::Expired => "the record waited for its person's identity until parking ran out",
            SkipRule::Purged => "the dead letter was purged",
            SkipRule::Overflow => "the disk was full, and when_full gives up this destination's oldest records",
            SkipRule::Erased => "the person was erased",
        }
    }

    /// The rule of a stored or asked-for label.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.label() == label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_are_what_is_stored() {
        for rule in SkipRule::ALL {
            assert_eq!(SkipRule::from_label(rule.label()), Some(rule));
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.label());
        }
    }
}
