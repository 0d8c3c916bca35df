//! What became of the records of one destination, counted where it happens and kept with the checkpoint, so that the
//! counts of promise P2 add up over restarts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::brevo::coerce::Unplaced;
use crate::brevo::outcome::IdentifierKind;
use crate::record::{Destination, Kind, PerKind};
use crate::settlement::{DeadReason, SkipRule};
use crate::telemetry;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// By published kind.
    pub delivered: PerKind,
    pub skipped: BTreeMap<SkipRule, u64>,
    pub dead: BTreeMap<DeadReason, u64>,
    /// Records of calls that were sent again after an attempt that may have arrived, or after a crash while they were in
    /// flight, where arriving twice matters.
    #[serde(default)]
    pub maybe_twice: u64,
    /// Records that the vendor counted as missing from a call without naming them: sending the call again would have
    /// doubled all its others.
    #[serde(default)]
    pub unconfirmed: u64,
    /// List changes that events asked for and Brevo refused; the events themselves are delivered.
    #[serde(default)]
    pub lists_refused: u64,
    /// Identifiers that belong to another contact at Brevo, and were left out of a write.
    #[serde(default)]
    pub conflicts: BTreeMap<IdentifierKind, u64>,
    /// New addresses that were kept from a blocklisted contact, which they would have resubscribed.
    #[serde(default)]
    pub addresses_kept: u64,
    /// Values that Brevo has no place for.
    #[serde(default)]
    pub not_placed: BTreeMap<Unplaced, u64>,
}

impl Tally {
    pub fn deliver(&mut self, kind: Kind) {
        self.delivered.add(kind, 1);
    }

    pub fn skip(&mut self, rule: SkipRule, count: u64) {
        *self.skipped.entry(rule).or_default() += count;
    }

    pub fn die(&mut self, reason: DeadReason) {
        *self.dead.entry(reason).or_default() += 1;
    }

    pub fn skipped_total(&self) -> u64 {
        self.skipped.values().sum()
    }

    /// Publishes the totals. Every rule and reason is published, zero or not, so that a rate over them exists from the
    /// first occurrence on.
    pub fn publish(&self, destination: Destination) {
        telemetry::delivered_total(destination, "event", self.delivered.event);
        telemetry::delivered_total(destination, "profile", self.delivered.profile);
        telemetry::delivered_total(destination, "group", self.delivered.group);
        for rule in SkipRule::ALL {
            telemetry::skipped_total(destination, rule.label(), self.skipped.get(rule).copied().unwrap_or(0));
        }
        if destination == Destination::Brevo {
            self.publish_contacts();
        }
        for reason in DeadReason::ALL {
            telemetry::dead_total(destination, reason.label(), self.dead.get(reason).copied().unwrap_or(0));
        }
    }

    /// What was left out of contacts.
    fn publish_contacts(&self) {
        for kind in IdentifierKind::ALL {
            telemetry::contact_conflicts_total(kind.label(), self.conflicts.get(&kind).copied().unwrap_or(0));
        }
        telemetry::addresses_kept_total(self.addresses_kept);
        for reason in Unplaced::ALL {
            telemetry::not_placed_total(reason.label(), self.not_placed.get(&reason).copied().unwrap_or(0));
        }
    }
}
