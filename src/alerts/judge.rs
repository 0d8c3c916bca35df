//! What is wrong, from two looks at the relay. Pure.

use std::time::Duration;

use super::{Alert, Cause, Moment};
use crate::record::Destination;
use crate::vendor::Family;

/// Disk for less than this at the present rate is running out.
const DISK_HOURS: f64 = 12.0;
/// Windows that are shorter than this are used up all the time, by design.
const LONG_WINDOW: Duration = Duration::from_secs(600);

/// The relay at one moment.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub destinations: Vec<SeenDestination>,
    /// Hours until the disk refuses, at the present rate; `None`: never.
    pub disk_hours: Option<f64>,
    /// Whether the store refuses appends because the disk is nearly full.
    pub disk_refuses: bool,
    /// Families of which a window of a vendor's limit is used up, with the window.
    pub exhausted: Vec<(Family, Duration)>,
}

#[derive(Clone, Copy, Debug)]
pub struct SeenDestination {
    pub destination: Destination,
    /// What to do about the pause; `None` while it is not paused.
    pub paused: Option<&'static str>,
    pub oldest: Duration,
    pub dead_letters: u64,
    pub not_placed: u64,
}

/// What to tell, given the look before (`None` at the first, from which nothing can have grown).
pub fn judge(before: Option<&Seen>, now: &Seen, behind_after: Duration) -> Vec<Alert> {
    let mut alerts = Vec::new();
    let mut tell = |cause, text| alerts.push(Alert { cause, text });
    for seen in &now.destinations {
        let (to, name) = (seen.destination, seen.destination.label());
        if let Some(advice) = seen.paused {
            tell(Cause::DestinationPaused(to), format!("{name} is paused: {advice}"));
        }
        if seen.oldest > behind_after {
            let minutes = seen.oldest.as_secs() / 60;
            tell(Cause::Behind(to), format!("the oldest record that {name} does not have waits for {minutes} minutes"));
        }
        let Some(earlier) = before.and_then(|before| before.destinations.iter().find(|it| it.destination == to)) else {
            continue;
        };
        let more = seen.dead_letters.saturating_sub(earlier.dead_letters);
        if more > 0 {
            tell(
                Cause::DeadLettersGrow(to),
                format!(
                    "{name} has refused {more} records for good; {} dead letters are held: see /v1/dead-letters",
                    seen.dead_letters
                ),
            );
        }
        if seen.not_placed > earlier.not_placed {
            tell(
                Cause::NotPlaced,
                format!("{name} has no place for values of mapped attributes: `mixrelay check` names the attributes"),
            );
        }
    }
    if now.disk_refuses {
        tell(Cause::DiskRunningOut, "the disk is nearly full and nothing is accepted: make room".to_owned());
    } else if let Some(hours) = now.disk_hours.filter(|hours| *hours < DISK_HOURS) {
        tell(Cause::DiskRunningOut, format!("the disk lasts {hours:.1} hours at the present rate: make room"));
    }
    for (family, window) in now.exhausted.iter().filter(|(_, window)| *window >= LONG_WINDOW) {
        let (vendor, label, minutes) = (family.vendor(), family.label(), window.as_secs() / 60);
        tell(
            Cause::BudgetExhausted(*family),
            format!(
                "{vendor} allows no more calls ({label}) within {minutes} minutes: what waits goes out as it frees up"
            ),
        );
    }
    alerts
}

/// What was rung, in words.
pub fn rung(moment: Moment, times: u64) -> Alert {
    let text = match moment {
        Moment::UnknownToken => format!(
            "{times} records with a token that is not this project's were refused: an app is set up for another project, \
             or other_tokens should name it"
        ),
        Moment::ErasureFailed => "an erasure has failed at a vendor: see /v1/erasures".to_owned(),
        Moment::BrakePulled => {
            "a cohort's mirror would have removed more members than max_removal_share allows, and was stopped: see \
             /v1/cohorts/runs"
                .to_owned()
        }
    };
    Alert { cause: Cause::Moment(moment), text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Seen {
        let at = |destination| SeenDestination {
            destination,
            paused: None,
            oldest: Duration::from_secs(60),
            dead_letters: 3,
            not_placed: 2,
        };
        Seen { destinations: Destination::ALL.map(at).to_vec(), disk_hours: Some(1000.0), ..Seen::default() }
    }

    fn causes(before: Option<&Seen>, now: &Seen) -> Vec<Cause> {
        let alerts = judge(before, now, Duration::from_secs(900));
        alerts.into_iter().map(|alert| alert.cause).collect()
    }

    #[test]
    fn a_healthy_relay_has_nothing_to_tell_whatever_it_holds() {
        assert_eq!(causes(None, &healthy()), []);
        assert_eq!(causes(Some(&healthy()), &healthy()), []);
        // A budget of seconds is used up all the time.
        let busy = Seen { exhausted: vec![(Family::BrevoEvents, Duration::from_secs(1))], ..healthy() };
        assert_eq!(causes(Some(&healthy()), &busy), []);
    }

    #[test]
    fn each_thing_that_is_wrong_is_told_by_its_name() {
        let brevo = Destination::Brevo;
        let with = |change: fn(&mut SeenDestination)| {
            let mut seen = healthy();
            change(&mut seen.destinations[1]);
            causes(Some(&healthy()), &seen)
        };
        assert_eq!(with(|to| to.paused = Some("resume it")), [Cause::DestinationPaused(brevo)]);
        assert_eq!(with(|to| to.oldest = Duration::from_secs(901)), [Cause::Behind(brevo)]);
        assert_eq!(with(|to| to.dead_letters += 1), [Cause::DeadLettersGrow(brevo)]);
        assert_eq!(with(|to| to.not_placed += 1), [Cause::NotPlaced]);
        let full = Seen { disk_refuses: true, ..healthy() };
        let short = Seen { disk_hours: Some(11.9), ..healthy() };
        let spent = Seen { exhausted: vec![(Family::MixpanelQuery, Duration::from_secs(3600))], ..healthy() };
        assert_eq!(causes(None, &full), [Cause::DiskRunningOut]);
        assert_eq!(causes(None, &short), [Cause::DiskRunningOut]);
        assert_eq!(causes(None, &spent), [Cause::BudgetExhausted(Family::MixpanelQuery)]);
    }
}
