//! What the vendors say that they have of a day. One attempt each: whoever wants another asks again.

use std::collections::BTreeMap;

use jiff::civil::Date;
use tower::ServiceExt as _;

use super::Reconciler;
use crate::brevo::{self, events::page};
use crate::delivery::day_book::OTHERS;
use crate::mixpanel::counts::{self, MAX_NAMES};
use crate::mixpanel::{self, quota};
use crate::record::Destination;
use crate::store::StoreError;
use crate::vendor::budget::Budgets;
use crate::vendor::stack::Stack;
use crate::vendor::{TransportError, VendorAnswer, VendorRequest};

/// Events by name, or why they were not counted, in one sentence.
pub(super) type Counted = Result<BTreeMap<String, u64>, String>;

/// Pages of Brevo's events that one comparison reads: it gives no counts, and calls of this kind are a hundred an hour.
const MAX_PAGES: usize = 20;

/// Mixpanel's query side.
pub struct MixpanelSide {
    pub calls: mixpanel::calls::Calls,
    /// One attempt, budget included.
    pub attempt: Stack,
    pub budgets: std::sync::Arc<Budgets>,
}

pub struct BrevoSide {
    pub calls: brevo::calls::Calls,
    /// One attempt, budget included.
    pub attempt: Stack,
}

async fn call(attempt: &Stack, request: VendorRequest) -> Result<Result<VendorAnswer, String>, StoreError> {
    match attempt.clone().oneshot(request).await {
        Err(TransportError::Store(error)) => Err(error),
        Err(error) => Ok(Err(error.to_string())),
        Ok(answer) => Ok(Ok(answer)),
    }
}

impl Reconciler {
    /// What `destination` says of those that were `delivered`.
    pub(super) async fn counted(
        &self,
        destination: Destination,
        delivered: &BTreeMap<String, u64>,
        day: Date,
    ) -> Result<Counted, StoreError> {
        let named: BTreeMap<&str, u64> =
            delivered.iter().filter(|(name, _)| *name != OTHERS).map(|(name, count)| (name.as_str(), *count)).collect();
        if named.is_empty() {
            return Ok(Ok(BTreeMap::new()));
        }
        match (destination, &self.parts.mixpanel, &self.parts.brevo) {
            (Destination::Mixpanel, Some(side), _) => side.count(&named, day).await,
            (Destination::Brevo, _, Some(side)) => self.count_at_brevo(side, &named, day).await,
            (Destination::Mixpanel, None, _) => {
                Ok(Err("connectors.mixpanel has no service account to ask with".to_owned()))
            }
            (Destination::Brevo, _, None) => Ok(Err("connectors.brevo is not configured".to_owned())),
        }
    }

    /// Brevo gives no counts: its events are read back, those of other zones' days left out.
    async fn count_at_brevo(
        &self,
        side: &BrevoSide,
        named: &BTreeMap<&str, u64>,
        day: Date,
    ) -> Result<Counted, StoreError> {
        let (Ok(from), Ok(to)) = (day.yesterday(), day.tomorrow().and_then(Date::tomorrow)) else {
            return Ok(Err("the calendar ends there".to_owned()));
        };
        let mut counts: BTreeMap<String, u64> = named.keys().map(|name| ((*name).to_owned(), 0)).collect();
        for number in 0..MAX_PAGES {
            let request = side.calls.events_between(from, to, number * brevo::events::PAGE);
            let events = match call(&side.attempt, request).await? {
                Ok(answer) => page(&answer).map_err(|error| error.to_string()),
                Err(why) => Err(why),
            };
            let events = match events {
                Ok(events) => events,
                Err(why) => return Ok(Err(why)),
            };
            for event in &events {
                let happened = self.parts.timezone.to_datetime(event.event_date).date();
                if let (true, Some(count)) = (happened == day, counts.get_mut(&event.event_name)) {
                    *count += 1;
                }
            }
            if events.len() < brevo::events::PAGE {
                return Ok(Ok(counts));
            }
        }
        let read = MAX_PAGES * brevo::events::PAGE;
        Ok(Err(format!("Brevo gives events one by one and no counts; around that day there are more than {read}")))
    }
}

impl MixpanelSide {
    /// The most frequent names; what is beyond them is left without a count.
    async fn count(&self, named: &BTreeMap<&str, u64>, day: Date) -> Result<Counted, StoreError> {
        let mut names: Vec<_> = named.iter().map(|(name, count)| (std::cmp::Reverse(*count), *name)).collect();
        names.sort_unstable();
        let names: Vec<&str> = names.into_iter().take(MAX_NAMES).map(|(_, name)| name).collect();
        let Some(request) = self.calls.event_counts(&names, day) else {
            return Ok(Err("connectors.mixpanel has no service account to ask with".to_owned()));
        };
        let family = request.family;
        let answer = match call(&self.attempt, request).await? {
            Ok(answer) => answer,
            Err(why) => return Ok(Err(why)),
        };
        if answer.status == 429 {
            // Others share the project's hour: they are told too.
            self.budgets.overrun(family, quota::overrun(&answer.headers, &answer.body)).await?;
        }
        let mut counts = match counts::counts(&answer, day) {
            Ok(counts) => counts,
            Err(error) => return Ok(Err(error.to_string())),
        };
        for name in names {
            counts.entry(name.to_owned()).or_insert(0);
        }
        Ok(Ok(counts))
    }
}
