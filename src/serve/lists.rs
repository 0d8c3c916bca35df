//! Cohorts into lists: the desk where runs are asked for, what works on them, their routes.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::error::{RunError, StartError};
use super::room::{BREVO, MIXPANEL, Room};
use crate::brevo;
use crate::brevo::identifiers::ListId;
use crate::cohorts::{
    BrevoSide, Desk, Engine, MixpanelSide, Order, Planned, Resolver, RouteParts, Source, Trigger, Vendors, Worker,
};
use crate::config::{BrevoMode, Cohorts};
use crate::delivery::shift::{self, Requests};
use crate::delivery::status::LegStatus;
use crate::mixpanel;
use crate::vendor::stack;
use crate::vendor::{Family, Priority};

/// Part of an hour's queries that is kept for cohorts, in percent, where some are planned.
const COHORTS_SHARE: u64 = 25;

/// Cohorts into lists, built. Whoever has members to apply takes the desk from the routes.
pub struct Lists {
    pub routes: RouteParts,
    pub worker: Worker,
}

impl Room {
    /// `brevo` is the leg's status, whose gate is respected.
    pub(super) async fn lists(&self, brevo: &LegStatus) -> Result<Lists, StartError> {
        let config = &self.config;
        let in_force = self.mapping.clone();
        let resolver = Resolver {
            state: self.state(),
            mapping: Arc::new(move || in_force.now().mapping.clone()),
            tombstones: self.tombstones.clone(),
            mode: config.brevo.as_ref().map_or(BrevoMode::Observe, |brevo| brevo.mode),
            pilot_emails: config.brevo.iter().flat_map(|brevo| brevo.pilot_emails.clone()).collect(),
        };
        let on = config.mixpanel.sync.cohorts && config.brevo.is_some();
        let desk = Desk::open(resolver, self.clock.clone(), config.retention.runs, on).await?;
        let (vendors, share) = (self.list_vendors(brevo)?, config.cohorts.max_removal_share);
        let engine = Arc::new(Engine::new(desk.clone(), vendors, share, self.bell.clone()));
        let plans = if on { plans(&config.cohorts) } else { Vec::new() };
        if !plans.is_empty() {
            self.budgets.reserve(Family::MixpanelQuery, Priority::Cohorts, COHORTS_SHARE);
        }
        let routes = RouteParts {
            desk,
            engine: engine.clone(),
            plans: Arc::new(plans.clone()),
            lists: Arc::new(config.mapping.lists.clone()),
            keys: self.keys.clone(),
            budgets: self.budgets.clone(),
            clock: self.clock.clone(),
        };
        Ok(Lists { routes, worker: Worker::new(engine, plans) })
    }

    fn list_vendors(&self, status: &LegStatus) -> Result<Vendors, StartError> {
        let attempt = |reader| stack::probe_stack(self.transport.clone(), self.budgets.clone(), reader);
        let brevo = match &self.config.brevo {
            Some(brevo) => {
                let calls = brevo::calls::Calls::new(brevo)?;
                Some(BrevoSide::new(calls, attempt(BREVO), status.shared_gate(), self.imports.clone()))
            }
            None => None,
        };
        let calls = mixpanel::calls::Calls::new(&self.config.mixpanel)?;
        let mixpanel = calls.can_query().then(|| MixpanelSide {
            calls,
            attempt: attempt(MIXPANEL),
            budgets: self.budgets.clone(),
        });
        Ok(Vendors { brevo, mixpanel })
    }
}

/// Works on runs in shifts, until the process ends.
pub(super) async fn shifts(worker: Worker, requests: Requests) -> Result<(), RunError> {
    let begin = |over: CancellationToken| {
        let worker = worker.clone();
        async move { Ok(async move { worker.run(over).await.map_err(RunError::Lists) }) }
    };
    shift::run(requests, CancellationToken::new(), begin).await
}

fn plans(cohorts: &Cohorts) -> Vec<Planned> {
    let plan = |cohort: &crate::config::CohortSync| Planned {
        order: Order {
            source: Source::Cohort { id: cohort.id },
            list: ListId(cohort.list),
            mode: cohort.mode,
            force: false,
            of_a_mirror: false,
            trigger: Trigger::Schedule,
        },
        every: cohort.every,
    };
    cohorts.cohorts.iter().map(plan).collect()
}
