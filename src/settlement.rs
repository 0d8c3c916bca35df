//! How a record ends at a destination (promise P2): delivered, skipped by a rule, parked, or a dead letter.
//!
//! The names are labels of published metrics and keys of stored tallies, hence enums with fixed spellings.

use serde::{Deserialize, Serialize};

macro_rules! labelled {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $label:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $label)] $variant,)+ }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            pub fn label(self) -> &'static str {
                match self { $($name::$variant => $label,)+ }
            }
        }
    };
}

labelled! {
    /// Why a record does not go to a destination, by intent.
    SkipRule {
        /// The record was never meant for this destination (CORE 9), or belongs to a forwarded foreign project.
        NotForThisDestination = "not_for_this_destination",
        /// The connector is switched off or not configured.
        Disabled = "disabled",
        EventsOff = "events_off",
        ProfilesOff = "profiles_off",
        GroupsOff = "groups_off",
        /// The event's name is not in `event_mapping`.
        UnmappedEvent = "unmapped_event",
        /// The profile update touches no mapped property.
        NoMappedProperty = "no_mapped_property",
        /// `$ignore` is set.
        Ignored = "ignored",
        /// An identity event: what it links is kept, nothing of it is sent.
        IdentityEvent = "identity_event",
        /// Older than `stale_after` when it would be sent (CORE 10).
        Stale = "stale",
        /// The same event is in the dedup window, from another position (CORE 8).
        Duplicate = "duplicate",
        /// `mode: observe`: mapped, not sent.
        Observed = "observed",
        /// `mode: pilot`, and the person's email is not in `pilot_emails`.
        NotInPilot = "not_in_pilot",
        /// Sat on a shelf longer than `parking.max_age`, or was pushed off a full one.
        Expired = "expired",
        /// A dead letter that somebody purged, or that grew older than `retention.dead_letters`.
        Purged = "purged",
        /// `when_full: skip_...`: made room.
        Overflow = "overflow",
        /// The stored block was damaged; how many records it held is known, what they said is not.
        Damaged = "damaged",
        /// A profile deletion that `on_profile_delete: keep` leaves without consequence at Brevo.
        ProfileDelete = "profile_delete",
    }
}

labelled! {
    /// Why a record became a dead letter.
    DeadReason {
        /// The vendor refused this very record.
        Rejected = "rejected",
        /// Larger alone than the vendor takes.
        TooLarge = "too_large",
        /// The relay cannot read its own stored record: a fault of ours.
        Unreadable = "unreadable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
