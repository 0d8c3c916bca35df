//! How a record ends at a destination (promise P2): delivered, skipped by a rule, parked, or a dead letter.
//!
//! The names are labels of published metrics and keys of stored tallies, hence enums with fixed spellings and codes.

use serde::{Deserialize, Serialize};

macro_rules! labelled {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $label:literal ($code:literal),)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $label)] $variant,)+ }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            pub fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)+ }
            }

            /// As it is stored in history: a number that never changes its meaning, and is given to no other.
            pub fn code(self) -> u8 {
                match self { $($name::$variant => $code,)+ }
            }

            /// `None` for a code of some newer version.
            pub fn from_code(code: u8) -> Option<Self> {
                Self::ALL.iter().copied().find(|it| it.code() == code)
            }
        }
    };
}

labelled! {
    /// Why a record does not go to a destination, by intent.
    SkipRule {
        /// The record was never meant for this destination (CORE 9), or belongs to a forwarded foreign project.
        NotForThisDestination = "not_for_this_destination" (0),
        /// The connector is switched off or not configured.
        Disabled = "disabled" (1),
        EventsOff = "events_off" (2),
        ProfilesOff = "profiles_off" (3),
        GroupsOff = "groups_off" (4),
        /// The event's name is not in `event_mapping`.
        UnmappedEvent = "unmapped_event" (5),
        /// A condition of the event's rule does not hold.
        ConditionNotMet = "condition_not_met" (6),
        /// The group's key is not in `group_mapping`.
        UnmappedGroup = "unmapped_group" (7),
        /// The profile or group update touches no mapped property.
        NoMappedProperty = "no_mapped_property" (8),
        /// The profile update touches a mapped property, but none of its values can be placed at Brevo.
        NotPlaced = "not_placed" (9),
        /// `$ignore` is set.
        Ignored = "ignored" (10),
        /// An identity event: nothing of it is sent.
        IdentityEvent = "identity_event" (11),
        /// The record names nobody: no id, or one that Mixpanel takes for none.
        NoPerson = "no_person" (12),
        /// The update is of a profile that Mixpanel left behind when its id was merged: a device's, or one that is named
        /// literally with `$ignore_alias`.
        MergedProfile = "merged_profile" (13),
        /// Folded into one update with a later record of the same person, and that update became a dead letter.
        Superseded = "superseded" (14),
        /// A profile or group update of which `privacy` leaves nothing for this destination.
        Private = "private" (15),
        /// Older than `stale_after` when it would be sent (CORE 10).
        Stale = "stale" (16),
        /// The same event is in the dedup window, from another position (CORE 8).
        Duplicate = "duplicate" (17),
        /// A pulled profile that holds nothing which Brevo does not have, or an app has not said otherwise (CORE 11).
        NothingNew = "nothing_new" (18),
        /// A pulled record of a person without address or phone number, whom Brevo does not know. An app's would wait.
        NoAddress = "no_address" (19),
        /// `privacy.consent` is set, and the person has not agreed (or not any more) when the record was made or would be
        /// sent.
        NoConsent = "no_consent" (20),
        /// `mode: observe`: mapped, not sent.
        Observed = "observed" (21),
        /// `mode: pilot`, and the person's email is not in `pilot_emails`.
        NotInPilot = "not_in_pilot" (22),
        /// Sat on a shelf longer than `parking.max_age`, or was pushed off a full one.
        Expired = "expired" (23),
        /// A dead letter that somebody purged, or that grew older than `retention.dead_letters`.
        Purged = "purged" (24),
        /// `when_full: skip_...`: made room.
        Overflow = "overflow" (25),
        /// The stored block was damaged; how many records it held is known, what they said is not.
        Damaged = "damaged" (26),
        /// The person was erased (CORE 12).
        Erased = "erased" (27),
        /// A profile deletion that has no consequence at Brevo (`on_profile_delete: keep`, or nobody to delete), or a record
        /// that waited when its person's profile was deleted with one.
        ProfileDelete = "profile_delete" (28),
    }
}

impl SkipRule {
    /// One sentence for people: the preview and the admin API show it beside the label.
    pub fn explanation(self) -> &'static str {
        match self {
            SkipRule::NotForThisDestination => "the record is for other destinations only",
            SkipRule::Disabled => "the destination is switched off or not configured",
            SkipRule::EventsOff => "connectors.mixpanel.sync.events is off",
            SkipRule::ProfilesOff => "connectors.mixpanel.sync.profiles is off",
            SkipRule::GroupsOff => "connectors.mixpanel.sync.groups is off",
            SkipRule::UnmappedEvent => "the event is not in event_mapping, and unmapped_events is skip",
            SkipRule::ConditionNotMet => "a condition under `when` in the event's rule does not hold",
            SkipRule::UnmappedGroup => "the group's key is not in group_mapping",
            SkipRule::NoMappedProperty => "the update touches no property of property_mapping",
            SkipRule::NotPlaced => "none of the update's mapped values can be placed",
            SkipRule::Ignored => "the record carries $ignore",
            SkipRule::IdentityEvent => "the event only says who someone is: nothing of it is sent",
            SkipRule::NoPerson => "the record names nobody",
            SkipRule::MergedProfile => {
                "the update is of a profile that was left behind when its id was merged into another person's"
            }
            SkipRule::Superseded => "the record was folded into a later update of the same person, which Brevo refused",
            SkipRule::Private => "the privacy rules leave nothing of the update for this destination",
            SkipRule::Stale => "the event is older than stale_after",
            SkipRule::Duplicate => "the event is a resend of one that is already known",
            SkipRule::NothingNew => "the pulled profile holds nothing that is not known",
            SkipRule::NoAddress => "the pulled record is of somebody without an email address or phone number",
            SkipRule::NoConsent => "the person has not agreed, as privacy.consent asks",
            SkipRule::Observed => "connectors.brevo.mode is observe",
            SkipRule::NotInPilot => "connectors.brevo.mode is pilot, and the person is none of pilot_emails",
            SkipRule::Expired => "the record waited on its person's shelf until parking ran out",
            SkipRule::Purged => "the dead letter was purged or grew too old",
            SkipRule::Overflow => "the disk was full, and when_full gives up this destination's oldest records",
            SkipRule::Damaged => "the stored block that held the record is damaged",
            SkipRule::Erased => "the person was erased",
            SkipRule::ProfileDelete => {
                "the profile was deleted at Mixpanel, and on_profile_delete leaves nothing to do or to send"
            }
        }
    }
}

labelled! {
    /// Why a record became a dead letter.
    DeadReason {
        /// The vendor refused this very record.
        Rejected = "rejected" (0),
        /// Larger alone than the vendor takes.
        TooLarge = "too_large" (1),
        /// The relay cannot read its own stored record: a fault of ours.
        Unreadable = "unreadable" (2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_back_and_are_small_enough_for_history() {
        for rule in SkipRule::ALL {
            assert!(SkipRule::from_code(rule.code()) == Some(*rule) && rule.code() < 128, "{rule:?}");
        }
        for reason in DeadReason::ALL {
            assert!(DeadReason::from_code(reason.code()) == Some(*reason) && reason.code() < 32, "{reason:?}");
        }
    }

    #[test]
    fn stored_spelling_is_the_label() {
        for rule in SkipRule::ALL {
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.label());
        }
        for reason in DeadReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.label());
        }
    }
}
