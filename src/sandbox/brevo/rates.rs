//! Brevo's rate table and its headers (contract §1.3).

use axum::http::StatusCode;

use super::super::http::Reply;
use super::super::limits::{Bucket, Ceiling, Standing};
use super::super::switches::{BareContactsBucket, BatchBucket, BrevoSwitches, RateWindow, Tier};
use super::{Context, error};

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Events,
    Contacts,
    Other,
}

impl Family {
    pub fn of(method: &str, path: &[&str], switches: &BrevoSwitches) -> Self {
        match path {
            ["events"] if method == "POST" => Family::Events,
            ["events", "batch"] if switches.events_batch_bucket == BatchBucket::Events => Family::Events,
            ["contacts"] if switches.bare_contacts_bucket == BareContactsBucket::Other => Family::Other,
            ["contacts", ..] => Family::Contacts,
            _ => Family::Other,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Family::Events => "events",
            Family::Contacts => "contacts",
            Family::Other => "other",
        }
    }

    fn ceilings(self, tier: Tier, switches: &BrevoSwitches) -> Vec<Ceiling> {
        let (fast, hourly) = match tier {
            Tier::General => ((10, Some(36_000)), 100),
            Tier::Advanced => ((20, Some(72_000)), 200),
            Tier::Extended => ((60, None), 600),
        };
        match self {
            Family::Other => vec![Ceiling::per_hour(switches.other_per_hour.unwrap_or(hourly))],
            Family::Events | Family::Contacts => {
                let per_second = switches.per_second.unwrap_or(fast.0);
                let per_hour = fast.1.map(|limit: u64| limit.max(per_second.saturating_mul(3_600)));
                std::iter::once(Ceiling::per_second(per_second)).chain(per_hour.map(Ceiling::per_hour)).collect()
            }
        }
    }
}

#[derive(Debug, Default)]
pub struct Rates {
    events: Bucket,
    contacts: Bucket,
    other: Bucket,
}

impl Rates {
    /// Charges one call. `None` when limits are switched off.
    pub fn take(&mut self, family: Family, context: &Context<'_>) -> Result<Option<Standing>, Reply> {
        let switches = context.switches;
        if !switches.rate_limits {
            return Ok(None);
        }
        let sliding = switches.rate_window == RateWindow::Sliding;
        let bucket = match family {
            Family::Events => &mut self.events,
            Family::Contacts => &mut self.contacts,
            Family::Other => &mut self.other,
        };
        let standing = bucket.take(context.now, &family.ceilings(context.tier, switches), sliding);
        if standing.allowed {
            return Ok(Some(standing));
        }
        let refusal = error(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Rate limit exceeded");
        Err(with_headers(refusal, Some(standing)))
    }

    /// What a call would find, without charging it: for the headers of a 401.
    pub fn look(&self, family: Family, context: &Context<'_>) -> Option<Standing> {
        let ceiling = family.ceilings(context.tier, context.switches)[0];
        let (limit, reset) = (ceiling.limit, ceiling.length);
        context.switches.rate_limits.then_some(Standing { allowed: true, limit, remaining: limit, reset })
    }
}

/// Seconds to go, rounded up, as the vendor documents them.
pub fn with_headers(reply: Reply, standing: Option<Standing>) -> Reply {
    let Some(standing) = standing else { return reply };
    let seconds = standing.reset.as_millis().div_ceil(1000).max(1);
    reply
        .header("x-sib-ratelimit-limit", &standing.limit.to_string())
        .header("x-sib-ratelimit-remaining", &standing.remaining.to_string())
        .header("x-sib-ratelimit-reset", &seconds.to_string())
}
