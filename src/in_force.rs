//! The mapping that is in force, and how another takes its place while the relay runs.
//!
//! A mapping is read from the configuration's file, checked whole (its `mapping_tests` included) and only then taken up: the
//! Brevo leg stands back, the version is written down with the note of who wanted it, and the leg begins anew with the
//! other mapping. Every record is mapped by one of the two; what was not settled is read again, by the new one.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

use crate::clock::{SharedClock, UnixMillis};
use crate::config::{
    self, Config, ConfigError, ConfigErrors, Enrichment, Loaded, LookupColumns, LookupTable, MAPPING_KEYS as KEYS,
    Mapping,
};
use crate::delivery::shift::Shift;
use crate::geoip::{GeoIp, GeoIpError};
use crate::mapping::{CompiledMapping, Enricher, MappingError, run_test};
use crate::privacy::Rules;
use crate::store::{State, StoreError, Table, WriteBatch, write_when_there_is_room};
use crate::tables::{Catalog, TableSources};

/// Reads the configuration anew.
pub type ConfigSource = Arc<dyn Fn() -> Result<Loaded, ConfigError> + Send + Sync>;

const ROW: &[u8] = b"mapping version";

#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("{}", lines(.0))]
    Mapping(Vec<MappingError>),
    #[error(transparent)]
    GeoIp(#[from] GeoIpError),
    #[error("compiling the mapping was broken off: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Why a mapping is not taken up. What was in force stays so.
#[derive(Debug, thiserror::Error)]
pub enum MappingRefused {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Given(#[from] ConfigErrors),
    #[error("{key} is no part of the mapping: it is one of {}", KEYS.join(", "))]
    Key { key: String },
    #[error("lookup_tables has changed: that needs a restart")]
    Tables,
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error("mapping_tests: {}", .0.join("; "))]
    Tests(Vec<String>),
    #[error("this relay was not started from a file")]
    NoFile,
    #[error("the relay is stopping")]
    Stopping,
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn lines(errors: &[MappingError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// What the configuration says of the mapping.
#[derive(Clone, Debug, Default, PartialEq)]
struct Said {
    mapping: Mapping,
    columns: Vec<LookupColumns>,
}

impl Said {
    fn of(config: &Config) -> Self {
        Self { mapping: config.mapping.clone(), columns: config.enrichment.columns.clone() }
    }

    fn hash(&self) -> String {
        format!("{:016x}", xxh3_64(format!("{self:?}").as_bytes()))
    }
}

/// Which mapping it is: the number rises with every other one that is taken up, at a start too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub number: u64,
    pub since: UnixMillis,
    pub hash: String,
}

impl Version {
    pub fn shown(&self) -> Value {
        json!({ "number": self.number, "since": self.since.to_string(), "hash": self.hash })
    }

    fn put(&self, batch: &mut WriteBatch) -> Result<(), StoreError> {
        let value = serde_json::to_vec(self).map_err(|e| StoreError::Failed(e.to_string()))?;
        batch.put(Table::Meta, ROW, value);
        Ok(())
    }
}

/// The mapping in the words of the file; its lists may stand elsewhere in it.
fn words(config: &Config) -> Map<String, Value> {
    let mut words = config.mapping_words.clone();
    words.insert("lists".to_owned(), json!(config.mapping.lists));
    words
}

#[derive(Clone)]
pub struct Current {
    pub mapping: Arc<CompiledMapping>,
    pub version: Version,
    said: Said,
    words: Map<String, Value>,
}

pub struct InForce {
    config: Arc<Config>,
    source: Option<ConfigSource>,
    tables: Arc<Catalog>,
    state: Arc<dyn State>,
    clock: SharedClock,
    current: watch::Sender<Arc<Current>>,
}

impl Current {
    /// In the words of the configuration.
    pub fn words(&self) -> &Map<String, Value> {
        &self.words
    }
}

/// What a reload has come to.
pub struct Reloaded {
    pub changed: bool,
    pub version: Version,
}

impl InForce {
    /// The mapping of `config`; `source` reads it anew.
    pub async fn open(
        config: Arc<Config>,
        source: Option<ConfigSource>,
        tables: Arc<Catalog>,
        state: Arc<dyn State>,
        clock: SharedClock,
    ) -> Result<Self, MappingRefused> {
        let said = Said::of(&config);
        let mapping = Arc::new(compiled(&config, &said, &tables).await?);
        let before = remembered(&state).await?;
        let hash = said.hash();
        let version = match before {
            Some(version) if version.hash == hash => version,
            before => {
                let number = before.map_or(1, |before| before.number + 1);
                let version = Version { number, since: clock.now(), hash };
                let mut batch = WriteBatch::new();
                version.put(&mut batch)?;
                write_when_there_is_room(state.as_ref(), batch).await?;
                version
            }
        };
        let current = watch::Sender::new(Arc::new(Current { mapping, version, said, words: words(&config) }));
        Ok(Self { config, source, tables, state, clock, current })
    }

    pub fn now(&self) -> Arc<Current> {
        self.current.borrow().clone()
    }

    /// Takes up the file's mapping as it is now. `note` adds to the write what says who wanted it.
    pub async fn reload(
        self: Arc<Self>,
        brevo: Shift,
        note: impl FnOnce(&Version, &mut WriteBatch) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<Reloaded, MappingRefused> {
        // Goes on when whoever asked has hung up: it is done whole, or not at all.
        match tokio::spawn(async move { self.take_up(brevo, note).await }).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that is shutting down cancels.
                Err(_cancelled) => Err(MappingRefused::Stopping),
            },
        }
    }

    async fn take_up(
        &self,
        brevo: Shift,
        note: impl FnOnce(&Version, &mut WriteBatch) -> Result<(), StoreError>,
    ) -> Result<Reloaded, MappingRefused> {
        let source = self.source.clone().ok_or(MappingRefused::NoFile)?;
        let read = tokio::task::spawn_blocking(move || source()).await.map_err(CompileError::Task)?;
        let next = read?.config;
        if next.enrichment.lookup_tables != self.config.enrichment.lookup_tables {
            return Err(MappingRefused::Tables);
        }
        let said = Said::of(&next);
        let mapping = Arc::new(compiled(&self.config, &said, &self.tables).await?);
        self.test(&said, &mapping)?;
        let stood_back = brevo.stand_back().await.ok_or(MappingRefused::Stopping)?;
        // Only now: another reload may have been before.
        let before = self.now();
        if before.said == said {
            return Ok(Reloaded { changed: false, version: before.version.clone() });
        }
        let version = Version { number: before.version.number + 1, since: self.clock.now(), hash: said.hash() };
        let mut batch = WriteBatch::new();
        version.put(&mut batch)?;
        note(&version, &mut batch)?;
        write_when_there_is_room(self.state.as_ref(), batch).await?;
        self.current.send_replace(Arc::new(Current { mapping, version: version.clone(), said, words: words(&next) }));
        drop(stood_back);
        tracing::info!(version = version.number, hash = version.hash, "another mapping is in force");
        Ok(Reloaded { changed: true, version })
    }

    fn test(&self, said: &Said, mapping: &CompiledMapping) -> Result<(), MappingRefused> {
        let now = self.clock.now();
        let told = |name: &str, what: &str, expected: &Value, actual: &Value| {
            format!("{name}: {what} is {actual}, expected {expected}")
        };
        let failed: Vec<String> = (said.mapping.tests.iter())
            .flat_map(|test| run_test(test, mapping, now).into_iter().map(move |wrong| (test, wrong)))
            .map(|(test, wrong)| told(&test.name, wrong.what, &wrong.expected, &wrong.actual))
            .collect();
        if failed.is_empty() { Ok(()) } else { Err(MappingRefused::Tests(failed)) }
    }

    /// What is in force, changed by what is `given` in the words of the configuration; nothing is taken up.
    pub async fn tried(&self, given: &Map<String, Value>) -> Result<CompiledMapping, MappingRefused> {
        if let Some(key) = given.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(MappingRefused::Key { key: key.clone() });
        }
        let now = self.now();
        let mut text = given.clone();
        text.entry("lists").or_insert_with(|| json!(now.said.mapping.lists));
        text.insert("lookup_tables".to_owned(), tables_as_configured(&self.config.enrichment.lookup_tables));
        // Whatever else a configuration needs comes from an environment that says nothing.
        let parsed = config::parse(&Value::Object(text).to_string(), "mapping", &|_| Some("x".to_owned()))?;
        let tried = Said::of(&parsed.config);
        let mut said = now.said.clone();
        for key in given.keys() {
            match key.as_str() {
                "event_mapping" => said.mapping.events = tried.mapping.events.clone(),
                "property_mapping" => {
                    said.mapping.properties = tried.mapping.properties.clone();
                    said.mapping.attributes = tried.mapping.attributes.clone();
                }
                "group_mapping" => said.mapping.groups = tried.mapping.groups.clone(),
                "unmapped_events" => said.mapping.unmapped_events = tried.mapping.unmapped_events,
                "stale_after" => said.mapping.stale_after = tried.mapping.stale_after,
                "lists" => said.mapping.lists = tried.mapping.lists.clone(),
                "enrich" => said.columns = tried.columns.clone(),
                _ => said.mapping.tests = tried.mapping.tests.clone(),
            }
        }
        let mapping = compiled(&self.config, &said, &self.tables).await?;
        self.test(&said, &mapping)?;
        Ok(mapping)
    }
}

fn tables_as_configured(tables: &BTreeMap<String, LookupTable>) -> Value {
    let shown = |table: &LookupTable| {
        let mut shown = Map::new();
        shown.extend(table.id.clone().map(|id| ("id".to_owned(), id.into())));
        shown.extend(table.file.as_ref().map(|file| ("file".to_owned(), file.to_string_lossy().into())));
        Value::Object(shown)
    };
    tables.iter().map(|(name, table)| (name.clone(), shown(table))).collect::<Map<_, _>>().into()
}

async fn remembered(state: &Arc<dyn State>) -> Result<Option<Version>, StoreError> {
    let row = state.get(Table::Meta, vec![ROW.to_vec()]).await?.into_iter().flatten().next();
    row.map(|value| serde_json::from_slice(&value).map_err(|e| StoreError::Corrupt(format!("mapping version: {e}"))))
        .transpose()
}

/// The mapping as `said`, with everything else as the relay was started.
async fn compiled(config: &Config, said: &Said, tables: &Arc<Catalog>) -> Result<CompiledMapping, CompileError> {
    let mapping = CompiledMapping::compile(&said.mapping, config.mixpanel.sync).map_err(CompileError::Mapping)?;
    let Enrichment { geoip, .. } = &config.enrichment;
    let geoip = match geoip.clone() {
        Some(path) => Some(Arc::new(tokio::task::spawn_blocking(move || GeoIp::open(&path)).await??)),
        None => None,
    };
    let places = geoip.is_some();
    let sources = Arc::new(TableSources::new(tables.clone(), geoip));
    mapping
        .with_enrichment(Enricher::new(&said.columns, places, sources))
        .with_privacy(Rules::new(&config.privacy.brevo, config.privacy.hash_key.as_ref()))
        .with_consent(&config.privacy.consent)
        .with_profile_deletion(config.deletion.on_profile_delete)
        .with_datasets(&config.cohorts.datasets)
        .map_err(CompileError::Mapping)
}
