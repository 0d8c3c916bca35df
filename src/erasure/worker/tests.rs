use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::*;
use crate::brevo::identifiers::ListId;
use crate::clock::SystemClock;
use crate::config::{self, IdentityMode, MixpanelEndpoints, Residency};
use crate::delivery::dead_letters::DeadLetter;
use crate::delivery::shift;
use crate::erasure::receipt::Asked;
use crate::erasure::vendors::Contacts;
use crate::mapping::CompiledMapping;
use crate::mixpanel::app::AppCalls;
use crate::record::{Epoch, Position};
use crate::settlement::DeadReason;
use crate::store::sqlite::SqliteStore;
use crate::store::testing;
use crate::store::{Appends as _, KeyRange, State, Table};
use crate::vendor::Transport;
use crate::vendor::budget::Budgets;
use crate::vendor::stack::{self, Reader};

fn store() -> (TempDir, SqliteStore) {
    let directory = testing::directory();
    let store = testing::open(&directory, Arc::new(SystemClock));
    (directory, store)
}

/// A worker that asks no vendor, and the requests that Mixpanel's leg, Brevo's and the runs into lists get.
async fn worker(store: &SqliteStore, desk: &Arc<Desk>, forget: Forget) -> (Worker, [shift::Requests; 3]) {
    drop(rustls::crypto::ring::default_provider().install_default());
    let nobody: Url = "http://127.0.0.1:1".parse().unwrap();
    let project = config::Mixpanel {
        enabled: true,
        project_tokens: vec!["t".to_owned()],
        service_account: None,
        oauth_token: None,
        oauth_pass_through: false,
        project_id: None,
        timezone: jiff::tz::TimeZone::UTC,
        residency: Residency::Us,
        identity: IdentityMode::Simplified,
        sync: config::Sync::default(),
        endpoints: MixpanelEndpoints {
            ingestion: nobody.clone(),
            query: nobody.clone(),
            app: nobody.clone(),
            export: nobody.clone(),
            cdn: nobody,
        },
        forward_tokens: Vec::new(),
    };
    let budgets = Arc::new(Budgets::open(store.state.clone(), Arc::new(SystemClock)).await.unwrap());
    let reader = Reader {
        judge: crate::mixpanel::answers::judge,
        meter: crate::mixpanel::answers::meter,
        answer_timeout: stack::ANSWER_TIMEOUT,
    };
    let vendors = Vendors {
        app: AppCalls::new(&project).unwrap(),
        hidden: None,
        app_stack: stack::probe_stack(Transport::new().unwrap(), budgets, reader),
        contacts: Contacts::Keep { why: "a test" },
    };
    let unread = Unread {
        journal: store.journal.clone(),
        state: store.state.clone(),
        mode: IdentityMode::Simplified,
        hidden: None,
        linked_by_leg: true,
    };
    let [(mixpanel, to_mixpanel), (brevo, to_brevo), (lists, to_lists)] = std::array::from_fn(|_| shift::shift());
    let parts = Parts {
        desk: desk.clone(),
        journal: store.journal.clone(),
        mixpanel,
        brevo,
        lists,
        vendors,
        unread,
        bell: Arc::default(),
        forget: vec![forget],
    };
    (Worker::new(parts), [to_mixpanel, to_brevo, to_lists])
}

fn event(id: &str) -> Record {
    let body = json!({ "event": "Purchase", "properties": { "distinct_id": id } }).to_string();
    Record {
        kind: Kind::Event,
        origin: Origin::App,
        destinations: Destinations::ALL,
        project: Project::Ours,
        received_at: UnixMillis(1),
        body: body.into(),
    }
}

/// A leg that does nothing but `last`, when it is to stand back.
async fn leg<F>(requests: shift::Requests, shutdown: CancellationToken, last: impl Fn() -> F)
where
    F: Future<Output = ()>,
{
    let last = &last;
    let begin = |over: CancellationToken| async move {
        Ok::<_, StoreError>(async move {
            over.cancelled().await;
            last().await;
            Ok(())
        })
    };
    shift::run(requests, shutdown, begin).await.unwrap();
}

/// The erasure once it is finished; then `shutdown`.
async fn finished(desk: &Desk, id: &str, shutdown: &CancellationToken) -> Erasure {
    loop {
        let erasure = desk.get(id).await.unwrap().unwrap();
        if erasure.is_finished() {
            shutdown.cancel();
            return erasure;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn put_people(state: &Arc<dyn State>, people: &[(&str, Value)]) {
    let mut batch = WriteBatch::new();
    for (id, person) in people {
        batch.put(Table::People, *id, serde_json::to_vec(person).unwrap());
    }
    state.write(batch).await.unwrap();
}

#[tokio::test]
async fn core_12_ids_that_are_linked_while_an_erasure_is_asked_for_are_erased_with_it() {
    let (_directory, store) = store();
    let state: Arc<dyn State> = store.state.clone();
    put_people(&state, &[("ada", json!({})), ("$device:d1", json!({}))]).await;
    store.journal.append(vec![event("ada"), event("bob"), event("$device:d1")]).await.unwrap();
    let mut batch = WriteBatch::new();
    for destination in Destination::ALL {
        let position = Position { epoch: Epoch(1), entry: EntryId(1), index: 2 };
        let letter = DeadLetter::new(&event("$device:d1"), DeadReason::Rejected, "no", UnixMillis(2));
        letter.put(destination, position, &mut batch).unwrap();
    }
    state.write(batch).await.unwrap();

    let desk = Desk::open(state.clone(), Arc::new(SystemClock), Duration::from_hours(24), None).await.unwrap();
    let forgotten = Arc::new(AtomicU32::new(0));
    let forgot = forgotten.clone();
    let (worker, [to_mixpanel, to_brevo, to_lists]) =
        worker(&store, &desk, Box::new(move || forgot.store(1, SeqCst))).await;
    let nobody = Side::NotAsked { why: "a test".to_owned() };
    let asked = desk.ask(vec!["ada".to_owned()], Asked::Admin, "GDPR", nobody).await.unwrap();
    assert_eq!(asked.to_erase, ["ada"]);
    // What the leg had taken in before it was asked is a link by the time that it stands back; the device goes on meanwhile.
    let linked = std::cell::Cell::new(false);
    let links_them = || async {
        if linked.replace(true) {
            return;
        }
        let ada = json!({ "links": { "merged": ["$device:d1"] } });
        put_people(&state, &[("ada", ada), ("$device:d1", json!({ "links": { "into": "ada" } }))]).await;
        store.journal.append(vec![event("$device:d1"), event("bob")]).await.unwrap();
    };
    let shutdown = CancellationToken::new();
    let legs = async {
        tokio::join!(
            leg(to_brevo, shutdown.clone(), links_them),
            leg(to_mixpanel, shutdown.clone(), || std::future::ready(())),
            leg(to_lists, shutdown.clone(), || std::future::ready(()))
        )
    };
    let erased = tokio::select! {
        (erased, _) = async { tokio::join!(finished(&desk, &asked.id, &shutdown), legs) } => erased,
        ended = worker.run() => panic!("{ended:?}"),
    };

    assert_eq!(erased.erased_ids, 2);
    assert!(forgotten.load(SeqCst) > 0, "answers kept in memory");
    assert_eq!(erased.removed.people, 2);
    assert_eq!(erased.removed.dead_letters, 2, "one of each destination");
    assert_eq!(erased.removed.journal_records, 3);
    for entry in store.journal.read(EntryId::FIRST, usize::MAX).await.unwrap() {
        for record in entry.records.iter().filter(|record| record.kind == Kind::Event) {
            let body = String::from_utf8_lossy(&record.body);
            assert!(record.is_erased() || body.contains("bob"), "{body}");
        }
    }
    // Nor does it come back.
    let tombstones = desk.tombstones();
    for late in ["ada", "$device:d1", "d1"] {
        assert!(tombstones.now().covers(Kind::Event, &event(late).body), "{late}");
    }
    assert!(!tombstones.now().covers_id("bob"));
}

/// What runs into lists have in rows, as text.
async fn list_rows(state: &Arc<dyn State>) -> String {
    let rows = state.scan(Table::CohortRows, KeyRange::all(), 1_000).await.unwrap();
    rows.iter().map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
}

#[tokio::test]
async fn core_12_runs_into_lists_stand_back_and_lose_what_they_hold_of_the_person() {
    let (_directory, store) = store();
    let state: Arc<dyn State> = store.state.clone();
    let desk = Desk::open(state.clone(), Arc::new(SystemClock), Duration::from_hours(24), None).await.unwrap();
    let (worker, [to_mixpanel, to_brevo, to_lists]) = worker(&store, &desk, Box::new(|| ())).await;
    let nobody = Side::NotAsked { why: "a test".to_owned() };
    let asked = desk.ask(vec!["ada".to_owned()], Asked::Admin, "GDPR", nobody).await.unwrap();
    let mapping = CompiledMapping::compile(&config::Mapping::default(), config::Sync::default()).unwrap();
    let mapping = Arc::new(mapping);
    let resolver = cohorts::Resolver {
        state: state.clone(),
        mapping: Arc::new(move || mapping.clone()),
        // A page that was judged before the erasure.
        tombstones: Arc::default(),
        mode: config::BrevoMode::Live,
        pilot_emails: Vec::new(),
    };
    let lists = cohorts::Desk::open(resolver, Arc::new(SystemClock), Duration::from_hours(24), true).await.unwrap();
    // The last that the run did before it stood back.
    let held_her = std::cell::Cell::new(false);
    let writes_them_down = || async {
        let member = |id: &str| cohorts::Member { distinct_id: id.to_owned(), ..Default::default() };
        let order = cohorts::Order {
            source: cohorts::Source::Pushed { id: 7, session: "s".to_owned() },
            list: ListId(16),
            mode: config::SyncMode::Mirror,
            force: false,
            of_a_mirror: false,
            dry_run: false,
            trigger: cohorts::Trigger::Webhook,
        };
        let members = vec![member("ada"), member("bob")];
        let push = cohorts::Push { order, name: None, page: 1, pages: 1, members };
        lists.push(push).await.unwrap();
        held_her.set(held_her.get() || list_rows(&state).await.contains("ada"));
    };
    let shutdown = CancellationToken::new();
    let legs = async {
        tokio::join!(
            leg(to_lists, shutdown.clone(), writes_them_down),
            leg(to_brevo, shutdown.clone(), || std::future::ready(())),
            leg(to_mixpanel, shutdown.clone(), || std::future::ready(()))
        )
    };
    tokio::select! {
        _ = async { tokio::join!(finished(&desk, &asked.id, &shutdown), legs) } => {}
        ended = worker.run() => panic!("{ended:?}"),
    }
    assert!(held_her.get(), "else there is nothing to erase");
    let held = list_rows(&state).await;
    assert!(held.contains("bob") && !held.contains("ada"), "{held}");
}
