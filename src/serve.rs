//! Wiring: builds the relay from its configuration, runs it, and takes it down in order.
//!
//! Going down: the edge stops accepting and finishes what it has, then the legs finish what is under way and write
//! their last checkpoint. A task that ends by itself, whatever the reason, ends the relay: what it left undone is in the
//! journal, and a new process goes on.

mod descriptors;
mod desks;
mod error;
mod legs;
mod lists;
mod pulls;
mod reconciling;
mod room;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::admin::auth::{AdminAuth, admin_token};
use crate::admin::mapping::Reload;
use crate::alerts;
use crate::clock::SharedClock;
use crate::cohorts;
use crate::config::{BrevoMode, Config, WhenFull};
use crate::console::{self, Console};
use crate::datasets;
use crate::delivery::brevo_leg::BrevoLeg;
use crate::delivery::dead_letters::orders::Orders;
use crate::delivery::mixpanel_leg::MixpanelLeg;
use crate::delivery::outlook::{self, SharedPace};
use crate::delivery::overflow;
use crate::delivery::shift::{self, Requests, Shift};
use crate::delivery::status::LegStatus;
use crate::delivery::trimmer;
use crate::edge::auth::Keys;
use crate::edge::{self, ConnectionLimits, Doors, EdgeParts, request_ids};
use crate::erasure::worker::Forget;
use crate::erasure::{self, Desk};
use crate::in_force::{ConfigSource, InForce};
use crate::privacy::Rules;
use crate::pulls::Pulls;
use crate::read_side::{self, ReadSide};
use crate::reconciliation::Reconciler;
use crate::record::Destination;
use crate::store::sqlite::SqliteStore;
use crate::store::{Journal, State, StoreError, Tail};
use crate::tables::{self, Catalog};
use crate::telemetry;
use crate::vendor::Transport;
use crate::vendor::budget::Budgets;
use crate::webhooks;

/// How long requests and calls under way may take to end after a SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);

pub use error::{RunError, StartError};
use room::{Room, lookup_tables, open};

/// A relay that is built and listens, but does not run yet.
pub struct Relay {
    store: SqliteStore,
    room: Room,
    erasures: Arc<Desk>,
    /// What an erasure empties in memory.
    forget: Vec<Forget>,
    lists: lists::Workers,
    edge: axum::Router,
    doors: Doors,
    private: axum::Router,
    mixpanel: MixpanelLeg,
    brevo: BrevoLeg,
    /// Mixpanel's, then Brevo's.
    shifts: [Shift; 3],
    requests: [Requests; 3],
    legs: Vec<LegStatus>,
    tail: Tail,
    pace: SharedPace,
    console: Console,
    tables: Arc<Catalog>,
    pulls: Arc<Pulls>,
    reconciler: Arc<Reconciler>,
    when_full: WhenFull,
    metrics: PrometheusHandle,
    clock: SharedClock,
}

impl Relay {
    /// Opens the store and the listeners and puts everything together. `source` reads the configuration anew when its mapping
    /// is to be reloaded; `metrics` is the process's recorder.
    pub async fn build(
        config: Config,
        source: Option<ConfigSource>,
        clock: SharedClock,
        metrics: PrometheusHandle,
    ) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let store = open(&config, clock.clone()).await?;
        let journal: Arc<dyn Journal> = store.journal.clone();
        let state: Arc<dyn State> = store.state.clone();
        let budgets = Arc::new(Budgets::open(state.clone(), clock.clone()).await?);
        let transport = Transport::new()?;
        let tables = lookup_tables(&config).await?;
        let hidden = Rules::new(&config.privacy.brevo, config.privacy.hash_key.as_ref());
        let erasures = Desk::open(state.clone(), clock.clone(), config.retention.tombstones, hidden).await?;
        let room = Room {
            config: config.clone(),
            keys: Keys::new(&config),
            journal: store.journal.clone(),
            state: store.state.clone(),
            clock: clock.clone(),
            budgets: budgets.clone(),
            transport,
            tables: tables.clone(),
            tombstones: erasures.tombstones(),
            bell: Arc::default(),
            mapping: Arc::new(
                InForce::open(config.clone(), source, tables.clone(), state.clone(), clock.clone()).await?,
            ),
            imports: Default::default(),
            forecast: Arc::default(),
        };
        let legs = vec![room.status(Destination::Mixpanel).await?, room.status(Destination::Brevo).await?];
        let mixpanel = room.mixpanel_leg(&legs[0]).await?;
        let brevo = room.brevo_leg(&legs[1], &legs[0]).await?;
        let [(mixpanel_shift, mixpanel_requests), (brevo_shift, brevo_requests)] = [shift::shift(), shift::shift()];
        let (lists_shift, lists_requests) = shift::shift();

        let desk = Arc::new(ReadSide::new(&config, room.keys.clone(), budgets.clone(), clock.clone())?);
        let app = room.app_routes(erasures.clone(), desk.clone())?;
        let feed = room.feed(&legs[1]);
        let pulls = room.pulls(feed.clone(), desk.clone())?;
        let reconciler = room.reconciler(&legs)?;
        let lookups = room.lookup_routes()?;
        let lists::Lists { routes: list_routes, dataset_routes, workers: lists } = room.lists(&legs[1], feed).await?;
        let pace = SharedPace::default();
        let admin = admin::Parts {
            legs: Arc::new(legs.clone()),
            journal: journal.clone(),
            state,
            budgets,
            metrics: metrics.clone(),
            clock: clock.clone(),
            pace: pace.clone(),
            tables: tables.clone(),
            erasures: erasures.clone(),
            orders: Arc::new(Orders {
                state: store.state.clone(),
                mixpanel: mixpanel_shift.clone(),
                brevo: brevo_shift.clone(),
                clock: clock.clone(),
            }),
            mapping: room.mapping.clone(),
            pulls: pulls.clone(),
            reconciler: reconciler.clone(),
            forecast: (config.brevo.as_ref().is_some_and(|brevo| brevo.mode == BrevoMode::Observe))
                .then(|| room.forecast.clone()),
            auth: AdminAuth::new(&admin_token(&config)?, &config.auth.tokens),
        };
        let known = cohorts::known_callers_router(list_routes.clone())
            .merge(datasets::known_callers_router(dataset_routes.clone()));
        let console = Console::new(admin.clone(), known).map_err(StartError::Console)?;
        let list_runs = cohorts::admin_router(list_routes.clone(), admin.auth.clone())
            .merge(datasets::admin_router(dataset_routes, admin.auth.clone()));
        let (keys, tombstones, bell) = (room.keys.clone(), room.tombstones.clone(), room.bell.clone());
        let edge = EdgeParts { keys, tombstones, bell, ..EdgeParts::new(config.clone(), journal, clock.clone())? };
        let kept = desk.clone();
        let forget: Vec<Forget> = vec![Box::new(edge.pass_through.forgetting()), Box::new(move || kept.forget())];
        let pushes = room.webhooks(&edge, list_routes.desk.clone());
        let others = admin::public_router(admin.clone())
            .merge(console::router(console.clone()))
            .merge(cohorts::router(list_routes))
            .merge(list_runs.clone())
            .merge(erasure::routes::router(app))
            .merge(read_side::router(desk, &config.server.cors_origins))
            .merge(edge::lookup_tables::router(lookups))
            .merge(webhooks::router(pushes));
        let edge = edge::router(edge).merge(request_ids::named(request_ids::traced(others), None));
        let private = admin::private_router(admin).merge(list_runs).merge(edge::health_router(store.journal.clone()));
        let private = request_ids::named(request_ids::traced(private), None);
        let doors = Doors::open(&config.server).await?;
        let tail = Tail { max_age: config.retention.history, max_bytes: config.retention.history_bytes };
        Ok(Self {
            store,
            room,
            erasures,
            forget,
            lists,
            edge,
            doors,
            private,
            mixpanel,
            brevo,
            shifts: [mixpanel_shift, brevo_shift, lists_shift],
            requests: [mixpanel_requests, brevo_requests, lists_requests],
            legs,
            tail,
            pace,
            console,
            tables,
            pulls,
            reconciler,
            when_full: config.when_full,
            metrics,
            clock,
        })
    }

    /// Where the relay listens: for apps, and for the people who run it.
    pub fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let private = self.doors.private.as_ref().and_then(|door| door.listener.local_addr().ok());
        (self.doors.public.listener.local_addr().ok(), private)
    }

    /// What takes up another mapping while the relay runs.
    pub fn reload(&self) -> Reload {
        let [_, brevo, _] = &self.shifts;
        Reload { mapping: self.room.mapping.clone(), brevo: brevo.clone(), clock: self.clock.clone() }
    }

    /// What has been accepted, for whoever runs the relay in their own process.
    pub fn journal(&self) -> Arc<dyn Journal> {
        self.store.journal.clone()
    }

    /// What the relay remembers besides.
    pub fn state(&self) -> Arc<dyn State> {
        self.store.state.clone()
    }

    /// Runs until `shutdown`, then drains. Errors when something ended that should not have.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), RunError> {
        let legs_down = CancellationToken::new();
        let mut servers = JoinSet::new();
        let mut legs = JoinSet::new();
        let limits = ConnectionLimits::default();
        let connections = descriptors::connections(limits.connections);
        let limits = ConnectionLimits { connections, drain: DRAIN, ..limits };
        let edge = edge::serve(self.doors.public, self.edge, limits, shutdown.clone());
        servers.spawn(async move {
            edge.await;
            Ok(())
        });
        if let Some(door) = self.doors.private {
            let limits = ConnectionLimits { drain: DRAIN, ..ConnectionLimits::for_operators() };
            let private = edge::serve(door, self.private, limits, shutdown.clone());
            servers.spawn(async move {
                private.await;
                Ok(())
            });
        }
        let [mixpanel_requests, brevo_requests, lists_requests] = self.requests;
        let eraser = self.room.eraser(self.erasures, self.shifts, self.forget)?;
        let (room, down) = (self.room.clone(), legs_down.clone());
        legs.spawn(room.mixpanel_shifts(self.mixpanel, self.legs[0].clone(), mixpanel_requests, down.clone()));
        let (room, statuses) = (self.room.clone(), (self.legs[1].clone(), self.legs[0].clone()));
        legs.spawn(room.brevo_shifts(self.brevo, statuses, brevo_requests, down));
        let mut attendants = JoinSet::new();
        let cursors = self.legs.iter().map(LegStatus::durable_cursor).collect();
        let trimming = trimmer::run(self.room.journal(), self.room.state(), cursors, self.tail, self.clock.clone());
        attendants.spawn(async move { trimming.await.map_err(RunError::Trimmer) });
        attendants.spawn(self.console.keep_pulse().map(Ok));
        attendants.spawn(outlook::watch(self.store.journal.clone(), self.pace.clone()).map(Ok));
        let alerts = alerts::worker::run(alerts::worker::Parts {
            settings: self.room.config.alerts.clone(),
            bell: self.room.bell.clone(),
            legs: self.legs.clone(),
            journal: self.store.journal.clone(),
            state: self.store.state.clone(),
            budgets: self.room.budgets.clone(),
            pace: self.pace,
            clock: self.clock.clone(),
            client: self.room.transport.client().clone(),
        });
        attendants.spawn(alerts.map(|failed| Err(RunError::Alerts(failed))));
        if let Some(overflow) = overflow(self.when_full, &self.store, &self.legs) {
            attendants.spawn(async move { overflow.await.map_err(RunError::Trimmer) });
        }
        let (syncing, carrying_out) = (self.pulls.clone().sync(), self.pulls.carry_out());
        attendants.spawn(async move { syncing.await.map(|never| match never {}).map_err(RunError::Puller) });
        attendants.spawn(async move { carrying_out.await.map(|never| match never {}).map_err(RunError::Puller) });
        let comparing = self.reconciler.daily();
        attendants.spawn(async move { comparing.await.map(|never| match never {}).map_err(RunError::Reconciler) });
        attendants.spawn(async move { eraser.run().await.map_err(RunError::Eraser) });
        attendants.spawn(lists::shifts(self.lists, lists_requests));
        attendants.spawn(telemetry::keep_up(self.metrics).map(|never| match never {}));
        attendants.spawn(tables::watch(self.tables).map(|died| Err(RunError::Task(died))));
        if let Some(certificate) = self.doors.certificate {
            attendants.spawn(edge::tls::watch(certificate).map(|died| Err(RunError::Task(died))));
        }
        let mut failed = self.store.failed();

        let outcome = tokio::select! {
            biased; // a shutdown also ends the servers: it is looked at first
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = servers.join_next() => Err(ended_server(ended)),
            Some(ended) = legs.join_next() => ended?.and(Ok(())),
            Some(ended) = attendants.join_next() => ended?,
            _ = failed.wait_for(|failed| *failed) => Err(RunError::StoreFailed),
        };
        // On the way down for any reason: nothing new is begun or comes in, then the legs write what they know.
        attendants.shutdown().await;
        shutdown.cancel();
        drop(tokio::time::timeout(DRAIN, async { while servers.join_next().await.is_some() {} }).await);
        servers.abort_all();
        legs_down.cancel();
        let mut drained = Ok(());
        while let Some(ended) = legs.join_next().await {
            drained = drained.and(ended?);
        }
        outcome.and(drained)
    }
}

fn ended_server(ended: Result<std::io::Result<()>, tokio::task::JoinError>) -> RunError {
    match ended {
        Ok(Ok(())) => RunError::Listener(std::io::Error::other("it stopped by itself")),
        Ok(Err(error)) => RunError::Listener(error),
        Err(error) => RunError::Task(error),
    }
}

/// Gives up backlog when the disk is full, where the configuration says whose.
fn overflow(
    when_full: WhenFull,
    store: &SqliteStore,
    legs: &[LegStatus],
) -> Option<impl Future<Output = Result<(), StoreError>> + use<>> {
    let gives_way = match when_full {
        WhenFull::Refuse => return None,
        WhenFull::SkipMixpanel => Destination::Mixpanel,
        WhenFull::SkipBrevo => Destination::Brevo,
    };
    let (giving, others): (Vec<_>, Vec<_>) = legs.iter().cloned().partition(|leg| leg.destination() == gives_way);
    let leg = giving.into_iter().next()?;
    Some(overflow::watch(store.journal.clone(), leg, others))
}
