//! For tests of whole legs: a store on the real disk, both vendors on loopback, and legs that can be killed.
//!
//! A *world* holds what outlives the relay's process: the store's directory, the vendors, the clock. A *relay* is one
//! process of it: [`Relay::kill`] drops everything where it stands, [`Relay::drain`] is a SIGTERM.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::LegError;
use super::books::Books;
use super::brevo_leg::{self, BaseSource, BrevoLeg, MixpanelBases};
use super::checkpoint::Checkpoint;
use super::dead_letters::{self, DeadLetter};
use super::mixpanel_leg::{self, MixpanelLeg};
use super::source::Source;
use super::status::{LegStatus, Report};
use super::tally::Tally;
use crate::admin::trace::standing::Standing;
use crate::brevo;
use crate::clock::{Clock, SharedClock, SystemClock, UnixMillis, Uptime};
use crate::config::{
    self, BrevoMode, Consent, IdentityMode, Mapping, MixpanelEndpoints, OnConsentWithdrawn, OnProfileDelete, Parking,
    Residency, Secret, ServiceAccount, Sync,
};
use crate::erasure::Desk;
use crate::mapping::CompiledMapping;
use crate::mixpanel;
use crate::record::{Destination, Destinations, EntryId, Kind, Origin, Position, Project, Record};
use crate::sandbox::{Sandbox, SandboxConfig};
use crate::settlement::SkipRule;
use crate::simulation::{Asked, Direct, HeldJournal, HeldState, SimulatedClock};
use crate::store::sqlite::{self, OpenOptions, SqliteStore};
use crate::store::testing::FillingState;
use crate::store::{Journal, State};
use crate::vendor::Transport;
use crate::vendor::budget::Budgets;
use crate::vendor::gate::SharedGate;
use crate::vendor::stack::{self, Reader, Stack};

pub const TOKEN: &str = "sandbox-token";

/// Longer than anything here should take, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The machine's clock, or a simulated one, set forward or back by hand.
pub struct ShiftedClock {
    by_ms: AtomicI64,
    of: SharedClock,
}

impl ShiftedClock {
    pub fn of(clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { by_ms: AtomicI64::default(), of: clock })
    }

    pub fn shift(&self, by_ms: i64) {
        self.by_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.of.now().0.saturating_add_signed(self.by_ms.load(Ordering::SeqCst)))
    }

    /// Nobody sets that one.
    fn uptime(&self) -> Option<Uptime> {
        self.of.uptime()
    }
}

/// What a test changes of the relay's configuration.
#[derive(Clone)]
pub struct Setup {
    pub legs: Vec<Destination>,
    pub mode: BrevoMode,
    pub pilot_emails: Vec<String>,
    pub create_attributes: bool,
    pub mapping: Mapping,
    pub sync: Sync,
    pub consent: Consent,
    pub on_consent_withdrawn: OnConsentWithdrawn,
    pub on_profile_delete: OnProfileDelete,
    pub parking: Parking,
    pub unseen_people: Duration,
    pub dedup_window: Duration,
    pub echoes: bool,
    pub max_dead_letter_bytes: u64,
    /// Without it events go through `/track`.
    pub service_account: bool,
    pub identity: IdentityMode,
    pub answer_timeout: Duration,
    /// How long Mixpanel is given to show what it has taken.
    pub settle: Duration,
}

impl Setup {
    pub fn brevo() -> Self {
        Self { legs: vec![Destination::Brevo], ..Self::both() }
    }

    pub fn mixpanel() -> Self {
        Self { legs: vec![Destination::Mixpanel], ..Self::both() }
    }

    pub fn both() -> Self {
        let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mapping = Mapping {
            events: [("Purchase", "order_completed"), ("Sign Up", "customer_created")]
                .map(|(event, name)| (event.to_owned(), name.into()))
                .into(),
            properties: pairs(&[
                ("$email", "email"),
                ("$phone", "SMS"),
                ("plan", "PLAN_TYPE"),
                ("name", "FIRSTNAME"),
                ("total_revenue", "LTV"),
                ("vip", "IS_CUSTOMER"),
                ("shoe", "SHOE_SIZE"),
            ]),
            ..Mapping::default()
        };
        Self {
            legs: Destination::ALL.to_vec(),
            mode: BrevoMode::Live,
            pilot_emails: Vec::new(),
            create_attributes: true,
            mapping,
            sync: Sync::default(),
            consent: Consent::NotNeeded,
            on_consent_withdrawn: OnConsentWithdrawn::default(),
            on_profile_delete: OnProfileDelete::default(),
            parking: Parking::default(),
            unseen_people: Duration::from_hours(24 * 400),
            dedup_window: Duration::from_hours(24),
            echoes: false,
            max_dead_letter_bytes: 1 << 30,
            service_account: true,
            identity: IdentityMode::Simplified,
            answer_timeout: stack::ANSWER_TIMEOUT,
            settle: Duration::ZERO,
        }
    }

    /// Everyone joins the sandbox's list 15, so that imports can be used.
    pub fn with_all_users(mut self) -> Self {
        self.mapping.lists.insert("all_users".to_owned(), 15);
        self
    }
}

pub struct World {
    pub setup: Setup,
    pub clock: Arc<ShiftedClock>,
    dir: TempDir,
    mixpanel: Url,
    brevo: Url,
    vendors: Vendors,
    /// While it is true, the state takes no writes.
    pub disk_is_full: Arc<AtomicBool>,
}

/// How the vendors are reached.
enum Vendors {
    Loopback {
        control: String,
        http: reqwest::Client,
        transport: Transport,
        _stop: oneshot::Sender<()>,
    },
    /// In a simulation.
    Direct(Direct),
}

impl World {
    pub async fn new(setup: Setup) -> Self {
        // Tests of one process race to install it; whoever is second finds it done.
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = crate::store::testing::directory();
        let listen = || async { TcpListener::bind("127.0.0.1:0").await.unwrap() };
        let (mixpanel, brevo, control) = (listen().await, listen().await, listen().await);
        let base = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let urls = (base(&mixpanel), format!("{}/v3", base(&brevo)), base(&control));
        let (stop, stopped) = oneshot::channel::<()>();
        let sandbox = Sandbox::new(SandboxConfig::default(), Arc::new(SystemClock));
        tokio::spawn(sandbox.serve(mixpanel, brevo, control, async move { drop(stopped.await) }));
        Self {
            setup,
            clock: ShiftedClock::of(Arc::new(SystemClock)),
            dir,
            mixpanel: urls.0.parse().unwrap(),
            brevo: urls.1.parse().unwrap(),
            vendors: Vendors::Loopback {
                control: urls.2,
                http: reqwest::Client::builder().no_proxy().build().unwrap(),
                transport: Transport::new().unwrap(),
                _stop: stop,
            },
            disk_is_full: Arc::default(),
        }
    }

    /// One whose time is tokio's, which the test has paused: see [`crate::simulation`].
    pub fn simulated(setup: Setup) -> Self {
        let dir = crate::store::testing::directory();
        let clock = SimulatedClock::new();
        let sandbox = Sandbox::new(SandboxConfig::default(), clock.clone());
        let direct = Direct::new(sandbox, clock.clone());
        let [mixpanel, brevo] = Direct::BASES.map(|base| base.parse().unwrap());
        let vendors = Vendors::Direct(direct);
        Self { setup, clock: ShiftedClock::of(clock), dir, mixpanel, brevo, vendors, disk_is_full: Arc::default() }
    }

    /// Every call to a vendor, oldest first. Of a simulation.
    pub fn asked(&self) -> Vec<Asked> {
        let Vendors::Direct(direct) = &self.vendors else { panic!("no simulation") };
        direct.asked()
    }

    pub async fn control(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, body) = match &self.vendors {
            Vendors::Direct(direct) => direct.control(method, path, &body).await,
            Vendors::Loopback { control, http, .. } => {
                let request = http.request(method.parse().unwrap(), format!("{control}{path}"));
                let response = request.body(body.to_string()).send().await.unwrap();
                let status = response.status().as_u16();
                (status, Limited::new(reqwest::Body::from(response), 1 << 28).collect().await.unwrap().to_bytes())
            }
        };
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        assert!((200..300).contains(&status) || status == 404, "{method} {path}: {status} {body}");
        if status == 404 { Value::Null } else { body }
    }

    pub async fn show(&self, path: &str) -> Value {
        self.control("GET", path, Value::Null).await
    }

    pub async fn switch(&self, switches: Value) {
        self.control("PUT", "/switches", switches).await;
    }

    /// Replaces the faults in force.
    pub async fn faults(&self, faults: Value) {
        self.control("PUT", "/faults", faults).await;
    }

    pub async fn heal(&self) {
        self.control("DELETE", "/faults", Value::Null).await;
    }

    /// The contact of whoever has this email, ext_id or phone; null without one.
    pub async fn contact(&self, id: &str) -> Value {
        self.show(&format!("/brevo/contacts/{id}")).await
    }

    /// `n` property and outcome of every event that Brevo was sent, in order of arrival.
    pub async fn brevo_events(&self) -> Vec<(i64, String)> {
        let shown = self.show("/brevo/events?limit=100000").await;
        let events = shown["events"].as_array().unwrap();
        events
            .iter()
            .map(|e| (e["event"]["event_properties"]["n"].as_i64().unwrap_or(-1), text(&e["outcome"])))
            .collect()
    }

    /// How many requests a vendor has seen on a path, those that a fault has met included.
    pub async fn requests(&self, vendor: &str, path: &str) -> usize {
        let shown = self.show(&format!("/{vendor}/requests?limit=100000&path={path}")).await;
        shown["requests"].as_array().unwrap_or_else(|| panic!("{shown}")).len()
    }

    /// How often the vendor answered a path so, from its log of requests.
    pub async fn answers(&self, vendor: &str, path: &str, status: u16) -> usize {
        let shown = self.show(&format!("/{vendor}/requests?limit=100000")).await;
        let requests = shown["requests"].as_array().unwrap_or_else(|| panic!("{shown}"));
        requests.iter().filter(|r| text(&r["path"]).starts_with(path) && r["status"] == status).count()
    }

    /// Starts a process of the relay on the store.
    pub async fn relay(&self) -> Relay {
        let store = self.open().await;
        let (mut state, mut journal): (Arc<dyn State>, Arc<dyn Journal>) = (store.state.clone(), store.journal.clone());
        if let Vendors::Direct(_) = self.vendors {
            (state, journal) = (Arc::new(HeldState(state)), Arc::new(HeldJournal(journal)));
        }
        state = Arc::new(FillingState { state, full: self.disk_is_full.clone() });
        let clock: SharedClock = self.clock.clone();
        let budgets = Arc::new(Budgets::open(state.clone(), clock).await.unwrap());
        let mut relay = Relay { store, state, journal, budgets, brevo: None, mixpanel: None };
        for leg in &self.setup.legs {
            match leg {
                Destination::Brevo => relay.brevo = Some(self.brevo_leg(&relay).await),
                Destination::Mixpanel => relay.mixpanel = Some(self.mixpanel_leg(&relay).await),
            }
        }
        relay
    }

    /// A store whose last process has just been killed is locked until its writers have ended.
    async fn open(&self) -> SqliteStore {
        let options = || OpenOptions {
            path: self.dir.path().join("mixrelay.db"),
            min_free: Some(0),
            allow_volatile: true,
            clock: self.clock.clone(),
        };
        let mut tries = 0;
        loop {
            let options = options();
            // The wait is the machine's own, whatever the test's clock does.
            let opened = move || sqlite::open(options).inspect_err(|_| std::thread::sleep(Duration::from_millis(20)));
            match tokio::task::spawn_blocking(opened).await.unwrap() {
                Ok(store) => return store,
                Err(error) if tries == 200 => panic!("{error}"),
                Err(_) => tries += 1,
            }
        }
    }

    async fn books(
        &self,
        relay: &Relay,
        destination: Destination,
        gate: Arc<SharedGate>,
    ) -> (Books, Source, LegStatus) {
        let (state, journal) = (relay.state.clone(), relay.journal.clone());
        let checkpoint = Checkpoint::load(&state, destination).await.unwrap();
        let cursor = checkpoint.cursor;
        let desk = Desk::open(state.clone(), self.clock.clone(), Duration::from_hours(24 * 400), None).await.unwrap();
        let books = Books::open(&state, destination, checkpoint, jiff::tz::TimeZone::UTC)
            .await
            .unwrap()
            .obey(desk.tombstones());
        let status = LegStatus::new(destination, journal.clone(), self.clock.clone(), gate, cursor);
        (books, Source::start(journal, destination, cursor.entry), status)
    }

    fn stack(&self, relay: &Relay, gate: Arc<SharedGate>, reader: Reader) -> Stack {
        match &self.vendors {
            Vendors::Loopback { transport, .. } => stack::build(transport.clone(), gate, relay.budgets.clone(), reader),
            Vendors::Direct(direct) => stack::build(direct.clone(), gate, relay.budgets.clone(), reader),
        }
    }

    fn probe_stack(&self, relay: &Relay, reader: Reader) -> Stack {
        match &self.vendors {
            Vendors::Loopback { transport, .. } => stack::probe_stack(transport.clone(), relay.budgets.clone(), reader),
            Vendors::Direct(direct) => stack::probe_stack(direct.clone(), relay.budgets.clone(), reader),
        }
    }

    async fn brevo_leg(&self, relay: &Relay) -> Leg {
        let gate = Arc::new(SharedGate::default());
        let (books, source, status) = self.books(relay, Destination::Brevo, gate.clone()).await;
        let reader = Reader {
            judge: brevo::outcome::judge,
            meter: brevo::outcome::meter,
            answer_timeout: self.setup.answer_timeout,
        };
        let companies = Arc::new(SharedGate::default());
        let account = config::Brevo {
            api_key: Secret::new("xkeysib-sandbox"),
            base_url: self.brevo.clone(),
            mode: self.setup.mode,
            pilot_emails: self.setup.pilot_emails.clone(),
            create_attributes: self.setup.create_attributes,
        };
        let mapping = CompiledMapping::compile(&self.setup.mapping, self.setup.sync).unwrap();
        let mapping = mapping.with_consent(&self.setup.consent).with_profile_deletion(self.setup.on_profile_delete);
        let parts = brevo_leg::Parts {
            journal: relay.journal.clone(),
            state: relay.state.clone(),
            source,
            books,
            status: status.clone(),
            vendor: Some(brevo_leg::VendorParts {
                calls: brevo::calls::Calls::new(&account).unwrap(),
                stack: self.stack(relay, gate, reader),
                probe: self.probe_stack(relay, reader),
                budgets: relay.budgets.clone(),
                companies: brevo_leg::CompanyVendor {
                    stack: self.stack(relay, companies.clone(), reader),
                    gate: companies,
                },
                imports: Default::default(),
            }),
            bases: self.bases(relay, &mapping),
            mapping: Arc::new(mapping),
            clock: self.clock.clone(),
            forecast: Arc::default(),
            settings: brevo_leg::Settings {
                mode: self.setup.mode,
                pilot_emails: self.setup.pilot_emails.clone(),
                create_attributes: self.setup.create_attributes,
                on_consent_withdrawn: self.setup.on_consent_withdrawn,
                identity: self.setup.identity,
                dedup_window: self.setup.dedup_window,
                echoes: self.setup.echoes,
                parking: self.setup.parking,
                max_dead_letter_bytes: self.setup.max_dead_letter_bytes,
                keep_dead_letters: Duration::from_hours(24 * 30),
                unseen_people: self.setup.unseen_people,
            },
        };
        let leg = BrevoLeg::open(parts).await.unwrap();
        Leg::start(status, |stop| leg.run(stop, Duration::from_secs(5)))
    }

    fn project(&self) -> config::Mixpanel {
        let account = ServiceAccount { username: "sandbox-sa".to_owned(), secret: Secret::new("sandbox-secret") };
        config::Mixpanel {
            enabled: true,
            project_tokens: vec![TOKEN.to_owned()],
            service_account: self.setup.service_account.then_some(account),
            oauth_token: None,
            oauth_pass_through: false,
            project_id: Some("12345".to_owned()),
            timezone: jiff::tz::TimeZone::UTC,
            residency: Residency::Us,
            identity: self.setup.identity,
            sync: self.setup.sync,
            endpoints: MixpanelEndpoints {
                ingestion: self.mixpanel.clone(),
                query: self.mixpanel.clone(),
                app: self.mixpanel.clone(),
                export: self.mixpanel.clone(),
                cdn: self.mixpanel.clone(),
            },
            forward_tokens: Vec::new(),
        }
    }

    /// Mixpanel where this relay delivers to it with a service account, else Brevo.
    fn bases(&self, relay: &Relay, mapping: &CompiledMapping) -> BaseSource {
        let calls = mixpanel::calls::Calls::new(&self.project()).unwrap();
        let reader = Reader {
            judge: mixpanel::answers::judge,
            meter: mixpanel::answers::meter,
            answer_timeout: self.setup.answer_timeout,
        };
        match &relay.mixpanel {
            Some(leg) if calls.can_query() => BaseSource::Mixpanel(Box::new(MixpanelBases {
                calls,
                stack: self.probe_stack(relay, reader),
                budgets: relay.budgets.clone(),
                delivered: leg.status.durable_cursor(),
                settle: self.setup.settle,
                properties: brevo_leg::unchanged_at_mixpanel(mapping, None),
            })),
            _ => BaseSource::Brevo,
        }
    }

    async fn mixpanel_leg(&self, relay: &Relay) -> Leg {
        let gate = Arc::new(SharedGate::default());
        let (books, source, status) = self.books(relay, Destination::Mixpanel, gate.clone()).await;
        let reader = Reader {
            judge: mixpanel::answers::judge,
            meter: mixpanel::answers::meter,
            answer_timeout: self.setup.answer_timeout,
        };
        let project = self.project();
        let parts = mixpanel_leg::Parts {
            privacy: None,
            state: relay.state.clone(),
            source,
            books,
            status: status.clone(),
            calls: mixpanel::calls::Calls::new(&project).unwrap(),
            stack: self.stack(relay, gate, reader),
            probe: self.probe_stack(relay, reader),
            clock: self.clock.clone(),
            settings: mixpanel_leg::Settings {
                enabled: true,
                identity: self.setup.identity,
                max_dead_letter_bytes: self.setup.max_dead_letter_bytes,
                keep_dead_letters: Duration::from_hours(24 * 30),
            },
        };
        let leg = MixpanelLeg::new(parts);
        Leg::start(status, |stop| leg.run(stop, Duration::from_secs(5)))
    }

    pub fn clock_seconds(&self) -> u64 {
        self.clock.now().as_secs()
    }

    pub fn record(&self, kind: Kind, body: &Value) -> Record {
        Record {
            kind,
            origin: Origin::App,
            destinations: Destinations::ALL,
            project: Project::Ours,
            received_at: self.clock.now(),
            body: Bytes::from(body.to_string()),
        }
    }

    /// A mapped event that carries the number `n`, which is its `$insert_id` too.
    pub fn purchase(&self, id: &str, n: i64) -> Record {
        self.event("Purchase", id, n)
    }

    pub fn event(&self, name: &str, id: &str, n: i64) -> Record {
        let properties = json!({
            "token": TOKEN, "distinct_id": id, "$user_id": id, "$insert_id": format!("n{n}"), "n": n,
            "time": self.clock.now().as_secs(),
        });
        self.record(Kind::Event, &json!({"event": name, "properties": properties}))
    }

    pub fn set(&self, id: &str, set: Value) -> Record {
        self.update(id, "$set", set)
    }

    pub fn update(&self, id: &str, operator: &str, operand: Value) -> Record {
        self.record(Kind::Profile, &json!({"$token": TOKEN, "$distinct_id": id, operator: operand}))
    }
}

pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// One leg, running.
pub struct Leg {
    pub status: LegStatus,
    stop: CancellationToken,
    task: JoinHandle<Result<(), LegError>>,
}

impl Leg {
    fn start<F>(status: LegStatus, run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<(), LegError>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(stop.clone()));
        Self { status, stop, task }
    }
}

/// One process of the relay.
pub struct Relay {
    pub store: SqliteStore,
    /// The store's own, or held while their calls run.
    pub state: Arc<dyn State>,
    pub journal: Arc<dyn Journal>,
    pub budgets: Arc<Budgets>,
    brevo: Option<Leg>,
    mixpanel: Option<Leg>,
}

impl Relay {
    pub fn leg(&self, destination: Destination) -> &Leg {
        let leg = match destination {
            Destination::Brevo => &self.brevo,
            Destination::Mixpanel => &self.mixpanel,
        };
        leg.as_ref().expect("a leg that this test runs")
    }

    fn legs(&self) -> impl Iterator<Item = &Leg> {
        self.brevo.iter().chain(&self.mixpanel)
    }

    pub async fn append(&self, records: Vec<Record>) -> Position {
        self.journal.append(records).await.unwrap()
    }

    pub async fn report(&self, destination: Destination) -> Report {
        let leg = self.leg(destination);
        assert!(!leg.task.is_finished(), "the {destination} leg has ended by itself");
        leg.status.report().await.unwrap()
    }

    pub fn tally(&self, destination: Destination) -> Tally {
        self.leg(destination).status.snapshot().tally
    }

    pub fn skipped(&self, destination: Destination, rule: SkipRule) -> u64 {
        self.tally(destination).skipped.get(&rule).copied().unwrap_or(0)
    }

    /// Waits until the destination's report is as `wanted` says.
    pub async fn until(&self, destination: Destination, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let started = tokio::time::Instant::now();
        loop {
            let report = self.report(destination).await;
            if wanted(&report) {
                return report;
            }
            assert!(started.elapsed() < PATIENCE, "{destination}: not {what}: {report:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until every leg has worked off its backlog.
    pub async fn settled(&self) {
        for leg in self.legs() {
            let destination = leg.status.destination();
            self.until(destination, "settled", |report| report.backlog == 0).await;
        }
    }

    /// Those that are counted, once the checkpoint that brings them has been written.
    pub async fn dead_letters(&self, destination: Destination) -> Vec<DeadLetter> {
        let state = self.state.clone();
        let counted = self.report(destination).await.dead_letters;
        eventually("written down", async || dead_letters::held(&state, destination).await.unwrap().0 == counted).await;
        let page = dead_letters::page(&state, destination, None, 10_000).await.unwrap();
        page.into_iter().map(|(_, letter)| letter).collect()
    }

    /// SIGTERM. The sum of promise P2 has to hold in what the legs leave behind.
    pub async fn drain(mut self) {
        for leg in self.brevo.take().into_iter().chain(self.mixpanel.take()) {
            leg.stop.cancel();
            leg.task.await.unwrap().unwrap();
            self.balance(&leg.status).await;
        }
    }

    /// accepted = delivered + skipped + parked + dead letters + backlog.
    async fn balance(&self, status: &LegStatus) {
        let report = status.report().await.unwrap();
        let ended = report.delivered + report.skipped + report.parked + report.dead_letters + report.backlog;
        let accepted = self.journal.accepted().total();
        assert_eq!(ended, accepted, "the counts do not add up: {report:?} {:?}", status.snapshot());
        let state = self.state.clone();
        let (held, _) = dead_letters::held(&state, report.destination).await.unwrap();
        assert_eq!(report.dead_letters, held, "dead letters counted and held differ");
        if report.destination == Destination::Brevo {
            let (parked, _) = crate::people::shelf::totals(&state).await.unwrap();
            let waiting = crate::people::roster::records_waiting_for_bases(&state).await.unwrap();
            assert_eq!(report.parked, parked + waiting, "records counted as parked and rows of the store differ");
        }
        self.history_agrees(&report, &status.snapshot().tally).await;
    }

    /// What a trace says of every record is what was counted (CORE 13).
    async fn history_agrees(&self, report: &Report, tally: &Tally) {
        let mut told: BTreeMap<String, u64> = BTreeMap::new();
        let mut standing = Standing::load(&self.state).await.unwrap();
        let mut from = EntryId::FIRST;
        loop {
            let entries = self.journal.read(from, 1 << 20).await.unwrap();
            let Some(last) = entries.last() else { break };
            from = last.id.next();
            for (entry, index) in entries.iter().flat_map(|entry| (0..entry.records.len()).map(move |n| (entry, n))) {
                let said = standing.of(entry.position(index), &entry.records[index]).await.unwrap();
                let said = &said[report.destination.label()];
                let name = said["rule"].as_str().or(said["outcome"].as_str()).unwrap();
                *told.entry(name.to_owned()).or_default() += 1;
            }
        }
        let held = [
            ("delivered", report.delivered),
            ("dead", report.dead_letters),
            ("parked", report.parked),
            ("backlog", report.backlog),
        ];
        let skipped = tally.skipped.iter().map(|(rule, count)| (rule.label(), *count));
        let counted = held.into_iter().chain(skipped).filter(|(_, count)| *count > 0);
        let counted: BTreeMap<String, u64> = counted.map(|(name, count)| (name.to_owned(), count)).collect();
        assert_eq!(told, counted, "{}: what history tells, and what was counted", report.destination);
    }

    /// `kill -9`: whatever is under way is dropped where it stands.
    pub async fn kill(mut self) {
        for leg in self.brevo.take().into_iter().chain(self.mixpanel.take()) {
            leg.task.abort();
            assert!(leg.task.await.is_err_and(|error| error.is_cancelled()), "the leg had ended by itself");
        }
    }
}

/// Waits until `look` says so.
pub async fn eventually(what: &str, look: impl AsyncFn() -> bool) {
    let started = tokio::time::Instant::now();
    while !look().await {
        assert!(started.elapsed() < PATIENCE, "not {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
