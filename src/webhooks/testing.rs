//! The webhooks as their senders see them: whole requests against the router, on a store of its own.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt as _;

use super::{Shared, router};
use crate::clock::{ManualClock, SharedClock, UnixMillis};
use crate::cohorts;
use crate::config::{self, BrevoMode, Config};
use crate::edge::IntakeLimits;
use crate::edge::budget::Budget;
use crate::mapping::CompiledMapping;
use crate::privacy::Tombstones;
use crate::record::{EntryId, Record};
use crate::store::sqlite::{self, OpenOptions, SqliteStore};
use crate::store::testing;
use crate::store::{Journal as _, State as _, Table, WriteBatch};

pub const NOW: UnixMillis = UnixMillis(1_795_500_100_000);

pub struct Webhooks {
    pub app: axum::Router,
    pub store: SqliteStore,
    pub tombstones: Arc<Tombstones>,
    pub lists: Arc<cohorts::Desk>,
    config: Arc<Config>,
    clock: SharedClock,
    _directory: TempDir,
}

impl Webhooks {
    /// With `more` configuration beside a project's token.
    pub async fn new(more: &str) -> Self {
        let yaml =
            format!("connectors: {{ mixpanel: {{ project_token: tok }}, brevo: {{ api_key: xkeysib-1 }} }}\n{more}");
        let config = match config::parse(&yaml, "test.yaml", &|_| None) {
            Ok(loaded) => Arc::new(loaded.config),
            Err(errors) => panic!("{errors}"),
        };
        let directory = testing::directory();
        let path = directory.path().join("m.db");
        let clock: SharedClock = ManualClock::at(NOW);
        let options = OpenOptions { path, min_free: Some(1), allow_volatile: true, clock: clock.clone() };
        let store = sqlite::open(options).unwrap();
        let tombstones = Arc::<Tombstones>::default();
        let lists = desk(&config, &store, &tombstones, &clock).await;
        let app = axum::Router::new();
        let mut webhooks = Self { app, store, tombstones, lists, config, clock, _directory: directory };
        webhooks.restart().await;
        webhooks
    }

    /// As after a start on the same store.
    pub async fn restart(&mut self) {
        self.lists = desk(&self.config, &self.store, &self.tombstones, &self.clock).await;
        self.app = router(Shared {
            config: self.config.clone(),
            journal: self.store.journal.clone(),
            state: self.store.state.clone(),
            clock: self.clock.clone(),
            tombstones: self.tombstones.clone(),
            lists: self.lists.clone(),
            budget: Budget::new(1 << 20),
            limits: IntakeLimits::default(),
        });
    }

    pub async fn put(&self, table: Table, key: &str, value: &str) {
        let mut batch = WriteBatch::new();
        batch.put(table, key, value.to_owned());
        self.store.state.write(batch).await.unwrap();
    }

    pub async fn post(&self, path: &str, authorization: &str, body: impl Into<Body>) -> (u16, Value) {
        let request = Request::post(path).header("authorization", authorization).body(body.into()).unwrap();
        let response = self.app.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    /// Everything stored so far, in order.
    pub async fn records(&self) -> Vec<Record> {
        let entries = self.store.journal.read(EntryId::FIRST, usize::MAX).await.unwrap();
        entries.into_iter().flat_map(|entry| entry.records).collect()
    }

    /// The bodies of [`Self::records`]; null for an emptied one.
    pub async fn bodies(&self) -> Vec<Value> {
        let records = self.records().await;
        records.iter().map(|record| serde_json::from_slice(&record.body).unwrap_or_default()).collect()
    }
}

async fn desk(
    config: &Config,
    store: &SqliteStore,
    tombstones: &Arc<Tombstones>,
    clock: &SharedClock,
) -> Arc<cohorts::Desk> {
    let mapping = Arc::new(CompiledMapping::compile(&config.mapping, config.mixpanel.sync).unwrap());
    let resolver = cohorts::Resolver {
        state: store.state.clone(),
        mapping: Arc::new(move || mapping.clone()),
        tombstones: tombstones.clone(),
        mode: BrevoMode::Live,
        pilot_emails: Vec::new(),
    };
    cohorts::Desk::open(resolver, clock.clone(), config.retention.runs, true).await.unwrap()
}
