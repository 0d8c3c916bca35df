//! Wiring: builds the relay from its configuration, runs it, and takes it down in order.
//!
//! Going down: the edge stops accepting and finishes what it has, then the legs finish what is under way and write
//! their last checkpoint. A task that ends by itself, whatever the reason, ends the relay: what it left undone is in the
//! journal, and a new process goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::admin;
use crate::admin::auth::{AdminAuth, AdminTokenError, admin_token};
use crate::brevo;
use crate::clock::SharedClock;
use crate::config::{self, BrevoMode, Config, OnGdprDeletion, PropertyPolicy, StoreEngine, WhenFull};
use crate::delivery::LegError;
use crate::delivery::books::{Books, HeldOutside};
use crate::delivery::brevo_leg::{self, BaseSource, BrevoLeg, MixpanelBases};
use crate::delivery::checkpoint::Checkpoint;
use crate::delivery::mixpanel_leg::{self, MixpanelLeg};
use crate::delivery::outlook::{self, SharedPace};
use crate::delivery::overflow;
use crate::delivery::pauses;
use crate::delivery::shift::{self, Requests, Shift};
use crate::delivery::source::Source;
use crate::delivery::status::LegStatus;
use crate::delivery::trimmer;
use crate::edge::auth::Keys;
use crate::edge::{self, ConnectionLimits, EdgeError, EdgeParts};
use crate::erasure::desk::AskError;
use crate::erasure::vendors::{Contacts, Vendors};
use crate::erasure::worker::{self, Worker};
use crate::erasure::{self, Desk};
use crate::geoip::{GeoIp, GeoIpError};
use crate::mapping::{CompiledMapping, Enricher, MappingError};
use crate::mixpanel;
use crate::mixpanel::app::AppCalls;
use crate::mixpanel::lookup::LookupCalls;
use crate::mixpanel::validate::Tokens;
use crate::privacy::{Rules, Tombstones};
use crate::read_side::{self, ReadSide, ReadSideError};
use crate::record::Destination;
use crate::store::sqlite::{self, CursorAhead, OpenError, OpenOptions, SqliteJournal, SqliteState, SqliteStore};
use crate::store::{Journal, State, StoreError, Tail};
use crate::tables::{self, Catalog, CatalogError, TableSources};
use crate::telemetry;
use crate::vendor::Transport;
use crate::vendor::budget::Budgets;
use crate::vendor::gate::SharedGate;
use crate::vendor::stack::{self, Reader};
use crate::vendor::verdict::PauseCause;

/// How long requests and calls under way may take to end after a SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);

/// Why the relay did not start. Nothing listens then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Erasures(#[from] AskError),
    #[error(transparent)]
    Cursor(#[from] CursorAhead),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("server.{key}: cannot listen on {address}: {source}")]
    Listen { key: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("cannot set up TLS for outgoing calls: {0}")]
    Tls(#[from] reqwest::Error),
    #[error(transparent)]
    MixpanelCredentials(#[from] mixpanel::calls::BadCredentials),
    #[error(transparent)]
    BrevoCredentials(#[from] brevo::calls::BadApiKey),
    /// The first of the mistakes; `check` names them all.
    #[error(transparent)]
    Mapping(#[from] MappingError),
    #[error(transparent)]
    Leg(#[from] LegError),
    #[error(transparent)]
    AdminToken(#[from] AdminTokenError),
    #[error(transparent)]
    Tables(#[from] CatalogError),
    #[error(transparent)]
    GeoIp(#[from] GeoIpError),
    #[error(transparent)]
    Edge(#[from] EdgeError),
    #[error(transparent)]
    ReadSide(#[from] ReadSideError),
    #[error("a task ended while the relay was starting: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Why a running relay ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the {name} ended: {source}")]
    Leg { name: &'static str, source: LegError },
    #[error("a leg did not begin again: {0}")]
    Again(#[from] StartError),
    #[error("an erasure met a failed store: {0}")]
    Eraser(StoreError),
    #[error("trimming the journal failed: {0}")]
    Trimmer(StoreError),
    #[error(
        "the store has failed: records are safe up to the last acknowledged one; the next start says what it finds"
    )]
    StoreFailed,
    #[error("a listener failed: {0}")]
    Listener(std::io::Error),
    #[error("a task died: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A relay that is built and listens, but does not run yet.
pub struct Relay {
    store: SqliteStore,
    room: Room,
    erasures: Arc<Desk>,
    edge: axum::Router,
    listener: TcpListener,
    private: Option<(TcpListener, axum::Router)>,
    mixpanel: MixpanelLeg,
    brevo: BrevoLeg,
    legs: Vec<LegStatus>,
    tail: Tail,
    pace: SharedPace,
    tables: Arc<Catalog>,
    when_full: WhenFull,
    metrics: PrometheusHandle,
    clock: SharedClock,
}

impl Relay {
    /// Opens the store and the listeners and puts everything together. `metrics` is the process's recorder.
    pub async fn build(config: Config, clock: SharedClock, metrics: PrometheusHandle) -> Result<Self, StartError> {
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
            journal: store.journal.clone(),
            state: store.state.clone(),
            clock: clock.clone(),
            budgets: budgets.clone(),
            transport,
            tables: tables.clone(),
            tombstones: erasures.tombstones(),
        };
        let legs = vec![room.status(Destination::Mixpanel).await?, room.status(Destination::Brevo).await?];
        let mixpanel = room.mixpanel_leg(&legs[0]).await?;
        let brevo = room.brevo_leg(&legs[1], &legs[0]).await?;

        let app = room.app_routes(erasures.clone())?;
        let desk = Arc::new(ReadSide::new(&config, budgets.clone(), clock.clone())?);
        let lookups = room.lookup_routes()?;
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
            auth: AdminAuth::new(&admin_token(&config)?, &config.auth.tokens),
        };
        let tombstones = room.tombstones.clone();
        let edge = edge::router(EdgeParts { tombstones, ..EdgeParts::new(config.clone(), journal, clock.clone())? })
            .merge(admin::public_router(admin.clone()))
            .merge(erasure::routes::router(app))
            .merge(read_side::router(desk, &config.server.cors_origins))
            .merge(edge::lookup_tables::router(lookups));
        let listener = listen("listen", config.server.listen).await?;
        let private = match config.server.admin_listen {
            Some(address) => Some((listen("admin_listen", address).await?, admin::private_router(admin))),
            None => None,
        };
        let tail = Tail { max_age: config.retention.history, max_bytes: config.retention.history_bytes };
        Ok(Self {
            store,
            room,
            erasures,
            edge,
            listener,
            private,
            mixpanel,
            brevo,
            legs,
            tail,
            pace,
            tables,
            when_full: config.when_full,
            metrics,
            clock,
        })
    }

    /// Where the relay listens: for apps, and for the people who run it.
    pub fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        let private = self.private.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
        (self.listener.local_addr().ok(), private)
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
        let limits = ConnectionLimits { drain: DRAIN, ..ConnectionLimits::default() };
        let edge = edge::serve(self.listener, self.edge, limits, shutdown.clone());
        servers.spawn(async move {
            edge.await;
            Ok(())
        });
        if let Some((listener, router)) = self.private {
            let stop = shutdown.clone();
            servers.spawn(async move {
                let server = axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>());
                server.with_graceful_shutdown(stop.cancelled_owned()).await
            });
        }
        let [(mixpanel, mixpanel_requests), (brevo, brevo_requests)] = [shift::shift(), shift::shift()];
        let eraser = self.room.eraser(self.erasures, mixpanel, brevo)?;
        let (room, down) = (self.room.clone(), legs_down.clone());
        legs.spawn(room.mixpanel_shifts(self.mixpanel, self.legs[0].clone(), mixpanel_requests, down.clone()));
        let (room, statuses) = (self.room.clone(), (self.legs[1].clone(), self.legs[0].clone()));
        legs.spawn(room.brevo_shifts(self.brevo, statuses, brevo_requests, down));
        let cursors = self.legs.iter().map(LegStatus::durable_cursor).collect();
        let trimming = trimmer::run(self.store.journal.clone(), cursors, self.tail, self.clock.clone());
        let pace = AbortOnDropHandle::new(tokio::spawn(outlook::watch(self.store.journal.clone(), self.pace)));
        let overflow = overflow(self.when_full, &self.store, &self.legs);
        let mut failed = self.store.failed();

        let outcome = tokio::select! {
            biased; // a shutdown also ends the servers: it is looked at first
            () = shutdown.cancelled() => Ok(()),
            Some(ended) = servers.join_next() => Err(ended_server(ended)),
            Some(ended) = legs.join_next() => ended?.and(Ok(())),
            ended = trimming => ended.map_err(RunError::Trimmer),
            ended = overflow => ended.map_err(RunError::Trimmer),
            ended = eraser.run() => ended.map_err(RunError::Eraser),
            never = telemetry::keep_up(self.metrics) => match never {},
            died = tables::watch(self.tables) => Err(RunError::Task(died)),
            _ = failed.wait_for(|failed| *failed) => Err(RunError::StoreFailed),
        };
        // On the way down for any reason: nothing new comes in, then the legs write what they know.
        shutdown.cancel();
        drop(tokio::time::timeout(DRAIN, async { while servers.join_next().await.is_some() {} }).await);
        servers.abort_all();
        legs_down.cancel();
        let mut drained = Ok(());
        while let Some(ended) = legs.join_next().await {
            drained = drained.and(ended?);
        }
        drop(pace);
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

/// Gives up backlog when the disk is full, where the configuration says whose; pends for ever otherwise.
async fn overflow(when_full: WhenFull, store: &SqliteStore, legs: &[LegStatus]) -> Result<(), StoreError> {
    let gives_way = match when_full {
        WhenFull::Refuse => return std::future::pending().await,
        WhenFull::SkipMixpanel => Destination::Mixpanel,
        WhenFull::SkipBrevo => Destination::Brevo,
    };
    let (giving, others): (Vec<_>, Vec<_>) = legs.iter().cloned().partition(|leg| leg.destination() == gives_way);
    match giving.into_iter().next() {
        Some(leg) => overflow::watch(store.journal.clone(), leg, others).await,
        None => std::future::pending().await,
    }
}

async fn open(config: &Arc<Config>, clock: SharedClock) -> Result<SqliteStore, StartError> {
    let StoreEngine::Sqlite(path) = &config.store.engine;
    let options = OpenOptions {
        path: path.clone(),
        min_free: config.store.min_free,
        allow_volatile: config.store.allow_volatile,
        clock,
    };
    let store = tokio::task::spawn_blocking(move || sqlite::open(options)).await??;
    let found = &store.recovery;
    tracing::info!(
        epoch = found.epoch.0,
        entries = found.entries,
        records = found.records,
        next_entry = found.tip.0,
        log_bytes = found.log_bytes,
        damaged_entries = found.quarantined.len(),
        took_ms = found.took.as_millis() as u64,
        "store opened"
    );
    Ok(store)
}

async fn lookup_tables(config: &Arc<Config>) -> Result<Arc<Catalog>, StartError> {
    let config = config.clone();
    let StoreEngine::Sqlite(path) = &config.store.engine;
    let directory = tables::directory(path);
    let opened = tokio::task::spawn_blocking(move || Catalog::open(&config.enrichment.lookup_tables, directory));
    Ok(Arc::new(opened.await??))
}

async fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { key, address, source })
}

/// How Mixpanel's answers are read.
const MIXPANEL: Reader =
    Reader { judge: mixpanel::answers::judge, meter: mixpanel::answers::meter, answer_timeout: stack::ANSWER_TIMEOUT };

/// How Brevo's answers are read.
const BREVO: Reader =
    Reader { judge: brevo::outcome::judge, meter: brevo::outcome::meter, answer_timeout: stack::ANSWER_TIMEOUT };

/// What every leg is built from, at the start and again after it stood back.
#[derive(Clone)]
struct Room {
    config: Arc<Config>,
    journal: Arc<SqliteJournal>,
    state: Arc<SqliteState>,
    clock: SharedClock,
    budgets: Arc<Budgets>,
    transport: Transport,
    tables: Arc<Catalog>,
    tombstones: Arc<Tombstones>,
}

impl Room {
    fn state(&self) -> Arc<dyn State> {
        self.state.clone()
    }

    fn journal(&self) -> Arc<dyn Journal> {
        self.journal.clone()
    }

    /// What others see of a leg, for as long as the process lives.
    async fn status(&self, destination: Destination) -> Result<LegStatus, StartError> {
        let gate = Arc::new(SharedGate::default());
        if pauses::remembered(&self.state(), destination).await? {
            tracing::warn!(%destination, "still paused by hand: resume it when ready");
            gate.pause(PauseCause::ByHand);
        }
        let cursor = Checkpoint::load(&self.state(), destination, self.journal.epoch()).await?.cursor;
        Ok(LegStatus::new(destination, self.journal(), self.clock.clone(), gate, cursor))
    }

    /// The leg's books, opened at its checkpoint.
    async fn books(&self, status: &LegStatus) -> Result<(Books, Source), StartError> {
        let destination = status.destination();
        let checkpoint = Checkpoint::load(&self.state(), destination, self.journal.epoch()).await?;
        self.journal.check_cursor(checkpoint.cursor)?;
        let cursor = checkpoint.cursor;
        let books = Books::open(&self.state(), destination, checkpoint).await?.obey(self.tombstones.clone());
        status.publish(books.snapshot(cursor.entry, HeldOutside::default()));
        Ok((books, Source::start(self.journal(), cursor.entry)))
    }

    /// What a destination may have of every record.
    fn rules(&self, policy: &PropertyPolicy) -> Option<Rules> {
        Rules::new(policy, self.config.privacy.hash_key.as_ref())
    }

    async fn mixpanel_shifts(
        self,
        first: MixpanelLeg,
        status: LegStatus,
        requests: Requests,
        shutdown: CancellationToken,
    ) -> Result<(), RunError> {
        let mut first = Some(first);
        let begin = |over: CancellationToken| {
            let (first, room, status) = (first.take(), &self, &status);
            async move {
                let leg = match first {
                    Some(leg) => leg,
                    None => room.mixpanel_leg(status).await?,
                };
                let ended = leg.run(over, DRAIN);
                Ok(async move { ended.await.map_err(|source| RunError::Leg { name: "Mixpanel leg", source }) })
            }
        };
        shift::run(requests, shutdown, begin).await
    }

    async fn brevo_shifts(
        self,
        first: BrevoLeg,
        (status, mixpanel): (LegStatus, LegStatus),
        requests: Requests,
        shutdown: CancellationToken,
    ) -> Result<(), RunError> {
        let mut first = Some(first);
        let begin = |over: CancellationToken| {
            let (first, room, status, mixpanel) = (first.take(), &self, &status, &mixpanel);
            async move {
                let leg = match first {
                    Some(leg) => leg,
                    None => room.brevo_leg(status, mixpanel).await?,
                };
                let ended = leg.run(over, DRAIN);
                Ok(async move { ended.await.map_err(|source| RunError::Leg { name: "Brevo leg", source }) })
            }
        };
        shift::run(requests, shutdown, begin).await
    }

    fn app_routes(&self, desk: Arc<Desk>) -> Result<erasure::routes::Parts, StartError> {
        let mixpanel = &self.config.mixpanel;
        let tokens = Tokens::new(mixpanel.project_tokens.clone(), mixpanel.forward_tokens.clone());
        Ok(erasure::routes::Parts {
            keys: Keys::new(&self.config, tokens),
            calls: AppCalls::new(mixpanel)?,
            stack: stack::probe_stack(self.transport.clone(), self.budgets.clone(), MIXPANEL),
            clock: self.clock.clone(),
            desk,
        })
    }

    /// What carries erasures out, with both legs' requests to stand back.
    fn eraser(&self, desk: Arc<Desk>, mixpanel: Shift, brevo: Shift) -> Result<Worker, StartError> {
        let contacts = match (&self.config.brevo, self.config.deletion.on_gdpr_deletion) {
            (None, _) => Contacts::Keep { why: "Brevo is not configured" },
            (_, OnGdprDeletion::Keep) => Contacts::Keep { why: "on_gdpr_deletion is keep" },
            (Some(brevo), _) if brevo.mode != BrevoMode::Live => {
                Contacts::Keep { why: "connectors.brevo.mode is not live" }
            }
            (Some(brevo), OnGdprDeletion::DeleteContact) => Contacts::Delete {
                calls: Box::new(brevo::calls::Calls::new(brevo)?),
                stack: stack::probe_stack(self.transport.clone(), self.budgets.clone(), BREVO),
            },
        };
        let vendors = Vendors {
            app: AppCalls::new(&self.config.mixpanel)?,
            hidden: self.rules(&self.config.privacy.mixpanel),
            app_stack: stack::probe_stack(self.transport.clone(), self.budgets.clone(), MIXPANEL),
            contacts,
        };
        Ok(Worker::new(worker::Parts { desk, journal: self.journal(), mixpanel, brevo, vendors }))
    }

    fn lookup_routes(&self) -> Result<edge::lookup_tables::Parts, StartError> {
        let mixpanel = &self.config.mixpanel;
        let tokens = Tokens::new(mixpanel.project_tokens.clone(), mixpanel.forward_tokens.clone());
        Ok(edge::lookup_tables::Parts {
            keys: Keys::new(&self.config, tokens),
            calls: LookupCalls::new(mixpanel)?,
            project_id: mixpanel.project_id.clone(),
            cors_origins: self.config.server.cors_origins.clone(),
            transport: self.transport.clone(),
            budgets: self.budgets.clone(),
            reader: MIXPANEL,
            journal: self.journal(),
            tables: self.tables.clone(),
            clock: self.clock.clone(),
        })
    }

    async fn mixpanel_leg(&self, status: &LegStatus) -> Result<MixpanelLeg, StartError> {
        let settings: &config::Mixpanel = &self.config.mixpanel;
        let gate = status.shared_gate();
        let (books, source) = self.books(status).await?;
        let reader = MIXPANEL;
        let parts = mixpanel_leg::Parts {
            state: self.state(),
            source,
            books,
            status: status.clone(),
            calls: mixpanel::calls::Calls::new(settings)?,
            stack: stack::build(self.transport.clone(), gate, self.budgets.clone(), reader),
            probe: stack::probe_stack(self.transport.clone(), self.budgets.clone(), reader),
            clock: self.clock.clone(),
            privacy: self.rules(&self.config.privacy.mixpanel).map(Arc::new),
            settings: mixpanel_leg::Settings {
                enabled: settings.enabled,
                identity: settings.identity,
                max_dead_letter_bytes: self.config.retention.dead_letter_bytes,
                keep_dead_letters: self.config.retention.dead_letters,
            },
        };
        Ok(MixpanelLeg::new(parts))
    }

    async fn brevo_leg(&self, status: &LegStatus, mixpanel: &LegStatus) -> Result<BrevoLeg, StartError> {
        let gate = status.shared_gate();
        let (books, source) = self.books(status).await?;
        let reader = BREVO;
        let companies = Arc::new(SharedGate::default());
        let vendor = match &self.config.brevo {
            Some(brevo) => Some(brevo_leg::VendorParts {
                calls: brevo::calls::Calls::new(brevo)?,
                stack: stack::build(self.transport.clone(), gate, self.budgets.clone(), reader),
                probe: stack::probe_stack(self.transport.clone(), self.budgets.clone(), reader),
                budgets: self.budgets.clone(),
                companies: brevo_leg::CompanyVendor {
                    stack: stack::build(self.transport.clone(), companies.clone(), self.budgets.clone(), reader),
                    gate: companies,
                },
            }),
            None => None,
        };
        let mapping = CompiledMapping::compile(&self.config.mapping, self.config.mixpanel.sync);
        let mapping = mapping.map_err(|mut errors| StartError::Mapping(errors.swap_remove(0)))?;
        let geoip = match self.config.enrichment.geoip.clone() {
            Some(path) => Some(Arc::new(tokio::task::spawn_blocking(move || GeoIp::open(&path)).await??)),
            None => None,
        };
        let places = geoip.is_some();
        let sources = Arc::new(TableSources::new(self.tables.clone(), geoip));
        let mapping = mapping
            .with_enrichment(Enricher::new(&self.config.enrichment.columns, places, sources))
            .with_privacy(self.rules(&self.config.privacy.brevo))
            .with_consent(&self.config.privacy.consent);
        let bases = self.bases(&mapping, mixpanel)?;
        let parts = brevo_leg::Parts {
            journal: self.journal(),
            state: self.state(),
            source,
            books,
            status: status.clone(),
            vendor,
            bases,
            mapping: Arc::new(mapping),
            clock: self.clock.clone(),
            settings: brevo_leg::Settings {
                mode: self.config.brevo.as_ref().map_or(BrevoMode::Observe, |brevo| brevo.mode),
                pilot_emails: self.config.brevo.iter().flat_map(|brevo| brevo.pilot_emails.clone()).collect(),
                create_attributes: self.config.brevo.as_ref().is_some_and(|brevo| brevo.create_attributes),
                on_consent_withdrawn: self.config.privacy.on_consent_withdrawn,
                identity: self.config.mixpanel.identity,
                dedup_window: self.config.dedup_window,
                parking: self.config.parking,
                max_dead_letter_bytes: self.config.retention.dead_letter_bytes,
                keep_dead_letters: self.config.retention.dead_letters,
            },
        };
        Ok(BrevoLeg::open(parts).await?)
    }

    /// Where the values are read that profile operators need.
    fn bases(&self, mapping: &CompiledMapping, leg: &LegStatus) -> Result<BaseSource, StartError> {
        let mixpanel = &self.config.mixpanel;
        let calls = mixpanel::calls::Calls::new(mixpanel)?;
        if !mixpanel.enabled || !calls.can_query() {
            return Ok(BaseSource::Brevo);
        }
        let rules = self.rules(&self.config.privacy.mixpanel);
        Ok(BaseSource::Mixpanel(Box::new(MixpanelBases {
            calls,
            stack: stack::probe_stack(self.transport.clone(), self.budgets.clone(), MIXPANEL),
            budgets: self.budgets.clone(),
            delivered: leg.durable_cursor(),
            settle: brevo_leg::SETTLE,
            properties: brevo_leg::unchanged_at_mixpanel(mapping, rules.as_ref()),
        })))
    }
}
