//! What the vendors allow, as far as it is published, and how their own words are read.

use super::{Limit, Reading, Unit};
use crate::vendor::Family;

/// Limits assumed until the account says otherwise: the ordinary plan's (contracts: Brevo §1.3, Mixpanel §3, §8, §9).
pub(super) fn assumed(family: Family) -> Vec<Limit> {
    match family {
        Family::MixpanelIngestion => {
            vec![Limit::per_minute(Unit::Bytes, 2_000_000_000), Limit::per_minute(Unit::Records, 30_000 * 60)]
        }
        Family::MixpanelQuery | Family::MixpanelJql => vec![Limit::per_hour(60)],
        Family::MixpanelExport => vec![Limit::per_second(3), Limit::per_hour(60)],
        Family::MixpanelApp => vec![],
        Family::MixpanelGdpr => vec![Limit::per_second(1)],
        Family::MixpanelLookupTables => vec![Limit::per_day(100)],
        Family::BrevoEvents | Family::BrevoContacts | Family::BrevoEventsBatch => {
            vec![Limit::per_second(10), Limit::per_hour(36_000)]
        }
        Family::BrevoOther => vec![Limit::per_hour(100)],
    }
}

/// Calls that may run at once; `None`: no published limit.
pub(super) fn at_once(family: Family) -> Option<usize> {
    match family {
        Family::MixpanelQuery | Family::MixpanelJql => Some(5),
        Family::MixpanelExport => Some(100),
        _ => None,
    }
}

/// The limits that a header's number stands for. Rows of the published table come in two sizes, calls a second (10, 20,
/// 60) and calls an hour (100 and up); the rows with both have 3,600 times the one in the other.
pub(super) fn learned(reading: Reading) -> Vec<Limit> {
    match reading.limit {
        0 => vec![],
        per_second @ 1..100 => vec![Limit::per_second(per_second), Limit::per_hour(per_second * 3600)],
        per_hour if per_hour.is_multiple_of(3600) => {
            vec![Limit::per_second(per_hour / 3600), Limit::per_hour(per_hour)]
        }
        per_hour => vec![Limit::per_hour(per_hour)],
    }
}
