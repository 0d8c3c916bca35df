//! Cohorts into lists and data sets: the desks where runs are asked for, what works on them, their routes.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::{RunError, StartError};
use super::room::{BREVO, MIXPANEL, Room};
use crate::brevo;
use crate::brevo::identifiers::ListId;
use crate::cohorts::{
    BrevoSide, Desk, Engine, MixpanelSide, Order, Planned, Resolver, RouteParts, Source, Trigger, Vendors, Worker,
};
use crate::config::{BrevoMode, Cohorts};
use crate::datasets;
use crate::delivery::shift::{self, Requests};
use crate::delivery::status::LegStatus;
use crate::feed::Feed;
use crate::mixpanel;
use crate::mixpanel::reports;
use crate::vendor::stack::{self, Reader};
use crate::vendor::{Family, Priority};

/// Part of an hour's questions that is kept for cohorts and data sets, in percent, where some are planned.
const COHORTS_SHARE: u64 = 25;

/// How long a script or a report may take: Mixpanel itself gives a script two minutes (contract §9).
const REPORT_TIMEOUT: Duration = Duration::from_secs(150);

/// Cohorts into lists, built. Whoever has members to apply takes the desk from the routes.
pub struct Lists {
    pub routes: RouteParts,
    pub dataset_routes: datasets::RouteParts,
    pub workers: Workers,
}

/// What knows people beside Brevo's leg.
#[derive(Clone)]
pub struct Workers {
    cohorts: Worker,
    datasets: datasets::Worker,
}

impl Room {
    /// `brevo` is the leg's status, whose gate is respected; `feed` takes rows of data sets.
    pub(super) async fn lists(&self, brevo: &LegStatus, feed: Arc<Feed>) -> Result<Lists, StartError> {
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
        let desk = Desk::open(resolver.clone(), self.clock.clone(), config.retention.runs, on).await?;
        let (vendors, share) = (self.list_vendors(brevo)?, config.cohorts.max_removal_share);
        let engine = Arc::new(Engine::new(desk.clone(), vendors, share, self.bell.clone()));
        let plans = if on { plans(&config.cohorts) } else { Vec::new() };
        if !plans.is_empty() {
            self.budgets.reserve(Family::MixpanelQuery, Priority::Cohorts, COHORTS_SHARE);
        }
        let datasets = self.datasets(resolver, desk.clone(), feed).await?;
        let routes = RouteParts {
            desk,
            engine: engine.clone(),
            plans: Arc::new(plans.clone()),
            lists: Arc::new(config.mapping.lists.clone()),
            keys: self.keys.clone(),
            budgets: self.budgets.clone(),
            clock: self.clock.clone(),
        };
        let workers = Workers {
            cohorts: Worker::new(engine, plans),
            datasets: datasets::Worker::new(Arc::new(datasets::Engine::new(datasets.clone()))),
        };
        Ok(Lists { routes, dataset_routes: datasets::RouteParts { desk: datasets }, workers })
    }

    async fn datasets(
        &self,
        resolver: Resolver,
        lists: Arc<Desk>,
        feed: Arc<Feed>,
    ) -> Result<Arc<datasets::Desk>, StartError> {
        let config = &self.config;
        let on = config.brevo.is_some();
        for dataset in config.cohorts.datasets.iter().filter(|_| on) {
            self.budgets.reserve(datasets::family(&dataset.question), Priority::Cohorts, COHORTS_SHARE);
        }
        let calls = mixpanel::calls::Calls::new(&config.mixpanel)?;
        let transport = self.transport.clone().reading_up_to(reports::MAX_ANSWER);
        let reader = Reader { answer_timeout: REPORT_TIMEOUT, ..MIXPANEL };
        let parts = datasets::Parts {
            state: self.state(),
            clock: self.clock.clone(),
            datasets: config.cohorts.datasets.clone(),
            on,
            keep: config.retention.runs,
            resolver,
            lists,
            mixpanel: calls.can_query().then(|| MixpanelSide {
                calls,
                attempt: stack::probe_stack(transport, self.budgets.clone(), reader),
                budgets: self.budgets.clone(),
            }),
            feed,
        };
        Ok(datasets::Desk::open(parts).await?)
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
pub(super) async fn shifts(workers: Workers, requests: Requests) -> Result<(), RunError> {
    let begin = |over: CancellationToken| {
        let Workers { cohorts, datasets } = workers.clone();
        let work = async move { tokio::try_join!(cohorts.run(over.clone()), datasets.run(over)) };
        async move { Ok(async move { work.await.map(drop).map_err(RunError::Lists) }) }
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
            dry_run: false,
            trigger: Trigger::Schedule,
        },
        every: cohort.every,
    };
    cohorts.cohorts.iter().map(plan).collect()
}
