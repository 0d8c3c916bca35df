//! What every part of the relay is built from, at the start and again after a leg stood back.

use std::sync::Arc;

use super::error::StartError;
use crate::alerts::Bell;
use crate::brevo;
use crate::clock::SharedClock;
use crate::config::{Config, PropertyPolicy, StoreEngine};
use crate::delivery::books::{Books, HeldOutside};
use crate::delivery::brevo_leg::{Forecast, ImportTurn};
use crate::delivery::checkpoint::Checkpoint;
use crate::delivery::history::History;
use crate::delivery::pauses;
use crate::delivery::source::Source;
use crate::delivery::status::LegStatus;
use crate::edge::auth::Keys;
use crate::in_force::InForce;
use crate::mixpanel;
use crate::privacy::{Rules, Tombstones};
use crate::record::Destination;
use crate::store::sqlite::{self, OpenOptions, SqliteJournal, SqliteState, SqliteStore};
use crate::store::{Journal, State};
use crate::tables::{self, Catalog};
use crate::vendor::Transport;
use crate::vendor::budget::Budgets;
use crate::vendor::gate::SharedGate;
use crate::vendor::stack::{self, Reader};

/// How Mixpanel's answers are read.
pub const MIXPANEL: Reader =
    Reader { judge: mixpanel::answers::judge, meter: mixpanel::answers::meter, answer_timeout: stack::ANSWER_TIMEOUT };

/// How Brevo's answers are read.
pub const BREVO: Reader =
    Reader { judge: brevo::outcome::judge, meter: brevo::outcome::meter, answer_timeout: stack::ANSWER_TIMEOUT };

/// What every leg is built from, at the start and again after it stood back.
#[derive(Clone)]
pub struct Room {
    pub config: Arc<Config>,
    /// What callers of every route present.
    pub keys: Keys,
    pub journal: Arc<SqliteJournal>,
    pub state: Arc<SqliteState>,
    pub clock: SharedClock,
    pub budgets: Arc<Budgets>,
    pub transport: Transport,
    pub tables: Arc<Catalog>,
    pub tombstones: Arc<Tombstones>,
    /// Whoever sees something that somebody has to know rings it.
    pub bell: Arc<Bell>,
    /// The mapping that is in force: the Brevo leg takes it up whenever it begins.
    pub mapping: Arc<InForce>,
    pub imports: ImportTurn,
    /// What Brevo would get, over the shifts of its leg.
    pub forecast: Arc<Forecast>,
}

impl Room {
    pub(super) fn state(&self) -> Arc<dyn State> {
        self.state.clone()
    }

    pub(super) fn journal(&self) -> Arc<dyn Journal> {
        self.journal.clone()
    }

    /// What others see of a leg, for as long as the process lives.
    pub(super) async fn status(&self, destination: Destination) -> Result<LegStatus, StartError> {
        let gate = Arc::new(SharedGate::default());
        if let Some(cause) = pauses::remembered(&self.state(), destination).await? {
            tracing::warn!(%destination, "still paused: {}", cause.advice());
            gate.pause(cause);
        }
        let cursor = Checkpoint::load(&self.state(), destination).await?.cursor;
        Ok(LegStatus::new(destination, self.journal(), self.clock.clone(), gate, cursor))
    }

    /// The leg's books, opened at its checkpoint.
    pub(super) async fn books(&self, status: &LegStatus) -> Result<(Books, Source), StartError> {
        let destination = status.destination();
        let checkpoint = Checkpoint::load(&self.state(), destination).await?;
        self.journal.check_cursor(checkpoint.cursor)?;
        let cursor = checkpoint.cursor;
        let timezone = self.config.mixpanel.timezone.clone();
        let books = Books::open(&self.state(), destination, checkpoint, timezone).await?;
        // Either leg reads every record; Mixpanel's runs in every configuration and waits for less.
        let books = if destination == Destination::Mixpanel { books.with_filters() } else { books };
        let books = books.obey(self.tombstones.clone()).keep(self.history());
        status.publish(books.snapshot(cursor.entry, HeldOutside::default()));
        Ok((books, Source::start(self.journal(), destination, cursor.entry)))
    }

    /// What became of records that nobody can look at need not be known.
    fn history(&self) -> History {
        let retention = &self.config.retention;
        if retention.history.is_zero() || retention.history_bytes == 0 { History::Off } else { History::Kept }
    }

    /// What a destination may have of every record.
    pub(super) fn rules(&self, policy: &PropertyPolicy) -> Option<Rules> {
        Rules::new(policy, self.config.privacy.hash_key.as_ref())
    }
}

pub async fn open(config: &Arc<Config>, clock: SharedClock) -> Result<SqliteStore, StartError> {
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
    pauses::take_up_backup(&store.journal, &store.state).await?;
    Ok(store)
}

pub async fn lookup_tables(config: &Arc<Config>) -> Result<Arc<Catalog>, StartError> {
    let config = config.clone();
    let StoreEngine::Sqlite(path) = &config.store.engine;
    let directory = tables::directory(path);
    let opened = tokio::task::spawn_blocking(move || Catalog::open(&config.enrichment.lookup_tables, directory));
    Ok(Arc::new(opened.await??))
}
