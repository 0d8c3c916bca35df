//! Alerts: what somebody has to know at 3 a.m., as webhooks and as counts for Prometheus.
//!
//! [`judge`] looks at what the relay shows of itself and says what is wrong: pure. What happens in a moment and is gone
//! (a stranger's token, an erasure that failed) is rung on the [`Bell`] by the room that sees it. [`post`] signs and sends.
//! [`worker`] ties them together, and keeps with the store when each cause was last told, so that it is told at most once
//! an hour, restarts or not.
//!
//! No alert holds anything of a person.

pub mod judge;
mod post;
pub mod worker;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::record::Destination;
use crate::telemetry;
use crate::vendor::Family;

/// Why somebody is told. Labels are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    DestinationPaused(Destination),
    Behind(Destination),
    DeadLettersGrow(Destination),
    DiskRunningOut,
    BudgetExhausted(Family),
    NotPlaced,
    Moment(Moment),
}

/// What is seen where it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Moment {
    /// A record came with a token that is not the project's.
    UnknownToken,
    ErasureFailed,
    /// A mirror would have removed too many members of a list.
    BrakePulled,
}

impl Moment {
    pub const ALL: [Moment; 3] = [Moment::UnknownToken, Moment::ErasureFailed, Moment::BrakePulled];
}

impl Cause {
    /// The published name, without what it is about.
    pub fn label(self) -> &'static str {
        match self {
            Cause::DestinationPaused(_) => "destination_paused",
            Cause::Behind(_) => "behind",
            Cause::DeadLettersGrow(_) => "dead_letters_grow",
            Cause::DiskRunningOut => "disk_running_out",
            Cause::BudgetExhausted(_) => "budget_exhausted",
            Cause::NotPlaced => "attribute_not_placed",
            Cause::Moment(Moment::UnknownToken) => "unknown_token",
            Cause::Moment(Moment::ErasureFailed) => "erasure_failed",
            Cause::Moment(Moment::BrakePulled) => "brake_pulled",
        }
    }

    /// What it is about, where there is more than one.
    pub fn subject(self) -> Option<&'static str> {
        match self {
            Cause::DestinationPaused(destination)
            | Cause::Behind(destination)
            | Cause::DeadLettersGrow(destination) => Some(destination.label()),
            Cause::BudgetExhausted(family) => Some(family.label()),
            Cause::DiskRunningOut | Cause::NotPlaced | Cause::Moment(_) => None,
        }
    }

    /// Every label, for the metric that has to be there before anything happens.
    pub const LABELS: [&'static str; 9] = [
        "destination_paused",
        "behind",
        "dead_letters_grow",
        "disk_running_out",
        "budget_exhausted",
        "attribute_not_placed",
        "unknown_token",
        "erasure_failed",
        "brake_pulled",
    ];
}

/// Rung where something happens; the worker hears it.
#[derive(Debug, Default)]
pub struct Bell {
    rung: [AtomicU64; Moment::ALL.len()],
}

impl Bell {
    pub fn ring(&self, moment: Moment) {
        self.rung[moment as usize].fetch_add(1, Ordering::Relaxed);
        telemetry::alert(Cause::Moment(moment).label());
    }

    /// How often each was rung since it was last heard.
    fn hear(&self) -> Vec<(Moment, u64)> {
        let taken = Moment::ALL.map(|moment| (moment, self.rung[moment as usize].swap(0, Ordering::Relaxed)));
        taken.into_iter().filter(|(_, times)| *times > 0).collect()
    }
}

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    pub cause: Cause,
    /// A sentence for people, with what to do.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_a_label_that_is_announced() {
        let of_destinations = Destination::ALL
            .into_iter()
            .flat_map(|to| [Cause::DestinationPaused(to), Cause::Behind(to), Cause::DeadLettersGrow(to)]);
        let others = [Cause::DiskRunningOut, Cause::NotPlaced, Cause::BudgetExhausted(Family::BrevoOther)];
        let all = of_destinations.chain(others).chain(Moment::ALL.map(Cause::Moment));
        let mut labels: Vec<_> = all.map(Cause::label).collect();
        labels.sort_unstable();
        labels.dedup();
        let mut announced = Cause::LABELS;
        announced.sort_unstable();
        assert_eq!(labels, announced);
    }

    #[test]
    fn a_bell_is_heard_once() {
        let bell = Bell::default();
        bell.ring(Moment::UnknownToken);
        bell.ring(Moment::UnknownToken);
        assert_eq!(bell.hear(), [(Moment::UnknownToken, 2)]);
        assert_eq!(bell.hear(), []);
    }
}
