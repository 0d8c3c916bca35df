//! The desk, on a store of its own.

use std::sync::Arc;

use serde_json::{Map, json};
use tempfile::TempDir;

use super::rows::Rows;
use super::*;
use crate::brevo::identifiers::ListId;
use crate::clock::{SystemClock, UnixMillis};
use crate::config::{BrevoMode, Mapping, Retention, Sync, SyncMode};
use crate::mapping::CompiledMapping;
use crate::privacy::Tombstones;
use crate::store::sqlite::SqliteStore;
use crate::store::testing;
use crate::store::{State, WriteBatch, write_when_there_is_room};

pub(super) fn directory() -> TempDir {
    testing::directory()
}

pub(super) fn store(directory: &TempDir) -> SqliteStore {
    testing::open(directory, Arc::new(SystemClock))
}

pub(super) async fn desk(store: &SqliteStore, on: bool) -> Arc<Desk> {
    let properties = [("$email".to_owned(), "email".to_owned())].into();
    let mapping = Mapping { properties, ..Mapping::default() };
    let mapping = Arc::new(CompiledMapping::compile(&mapping, Sync::default()).unwrap());
    let resolver = Resolver {
        state: store.state.clone(),
        mapping: Arc::new(move || mapping.clone()),
        tombstones: Arc::new(Tombstones::default()),
        mode: BrevoMode::Live,
        pilot_emails: Vec::new(),
    };
    Desk::open(resolver, Arc::new(SystemClock), Retention::default().runs, on).await.unwrap()
}

pub(super) fn people(ids: &[&str]) -> Vec<Member> {
    let properties = |id: &&str| match json!({ "$email": format!("{id}@example.com") }) {
        serde_json::Value::Object(properties) => properties,
        _ => Map::new(),
    };
    ids.iter().map(|id| Member { distinct_id: (*id).to_owned(), properties: properties(id) }).collect()
}

fn page(session: &str, page: u32, pages: u32, ids: &[&str]) -> Push {
    let order = Order {
        source: Source::Pushed { id: 7, session: session.to_owned() },
        list: ListId(16),
        mode: SyncMode::Mirror,
        force: false,
        of_a_mirror: false,
        dry_run: false,
        trigger: Trigger::Webhook,
    };
    Push { order, name: Some("Few".to_owned()), page, pages, members: people(ids) }
}

#[tokio::test]
async fn pages_in_any_order_and_repeated_make_one_run() {
    let directory = directory();
    let held = store(&directory);
    let desk = desk(&held, true).await;
    let first = desk.push(page("s", 2, 3, &["b", "c"])).await.unwrap();
    assert!(matches!(first.stage, Stage::Receiving { .. }) && desk.workable().await.is_empty());
    desk.push(page("s", 2, 3, &["b", "c"])).await.unwrap();
    desk.push(page("s", 1, 3, &["a", "b"])).await.unwrap();
    let whole = desk.push(page("s", 3, 3, &["d"])).await.unwrap();
    assert_eq!((&whole.id, whole.counts.members), (&first.id, 4));
    assert!(matches!(whole.stage, Stage::Reading { .. }), "{whole:?}");
    assert_eq!(desk.workable().await.len(), 1);
    // It is under way: what comes again changes nothing.
    assert_eq!(desk.push(page("s", 1, 3, &["z"])).await.unwrap(), whole);
    assert!(matches!(desk.push(page("s", 4, 3, &[])).await, Err(PushError::NoSuchPage { page: 4, pages: 3 })));
}

#[tokio::test]
async fn a_later_session_takes_the_place_of_one_that_was_never_whole() {
    let directory = directory();
    let held = store(&directory);
    let desk = desk(&held, true).await;
    let broken = desk.push(page("s1", 1, 2, &["a"])).await.unwrap();
    let next = desk.push(page("s2", 1, 1, &["b"])).await.unwrap();
    assert_ne!(broken.id, next.id);
    let ended = desk.get(&broken.id).await.unwrap().unwrap();
    assert_eq!(ended.ended().map(|ended| ended.outcome), Some(Outcome::Replaced));
    desk.clean().await.unwrap();
    let state: &dyn State = held.state.as_ref();
    assert_eq!(Rows { state, run: &broken.id }.count(rows::MEMBER).await.unwrap(), 0);
    assert_eq!(Rows { state, run: &next.id }.count(rows::MEMBER).await.unwrap(), 1);
}

#[tokio::test]
async fn what_is_asked_for_twice_is_one_run_over_a_restart_too() {
    let directory = directory();
    let held = store(&directory);
    let order = |mode| Order {
        source: Source::Cohort { id: 7 },
        list: ListId(16),
        mode,
        force: false,
        of_a_mirror: false,
        dry_run: false,
        trigger: Trigger::Request,
    };
    let first = desk(&held, true).await.ask(order(SyncMode::Mirror)).await.unwrap();
    let desk = desk(&held, true).await;
    assert_eq!(desk.ask(order(SyncMode::Mirror)).await.unwrap(), first);
    assert_ne!(desk.ask(order(SyncMode::Add)).await.unwrap().id, first.id);
    assert_eq!(desk.list(None, 10).await.unwrap().len(), 2);
}

/// Between the end of a run and the worker's noticing it.
#[tokio::test]
async fn a_stopped_run_can_be_let_go_on_at_once() {
    let directory = directory();
    let held = store(&directory);
    let desk = desk(&held, true).await;
    let mut run = desk.push(page("s", 1, 1, &["a"])).await.unwrap();
    desk.end(&mut run, WriteBatch::new(), Outcome::Stopped, None).await.unwrap();
    let order = Order { force: true, ..run.order.clone() };
    let again = desk.ask(order).await.unwrap();
    assert_eq!((&again.id, again.ended(), again.order.force), (&run.id, None, true));
    desk.ended(&run.id).await.unwrap();
    assert_eq!(desk.workable().await.len(), 1, "it is to be worked on");
}

#[tokio::test]
async fn nothing_is_begun_where_cohorts_are_off() {
    let directory = directory();
    let held = store(&directory);
    let desk = desk(&held, false).await;
    let refused = desk.push(page("s", 1, 1, &["a"])).await;
    assert!(matches!(refused, Err(PushError::Ask(AskError::Off))), "{refused:?}");
}

#[tokio::test]
async fn an_erased_member_leaves_nothing_and_others_stay() {
    let directory = directory();
    let held = store(&directory);
    let desk = desk(&held, true).await;
    let run = desk.push(page("s", 1, 1, &["a", "b"])).await.unwrap();
    let state: Arc<dyn State> = held.state.clone();
    let mut batch = WriteBatch::new();
    erase::take(&state, &["a".to_owned()], &mut batch).await.unwrap();
    write_when_there_is_room(state.as_ref(), batch).await.unwrap();
    let rows = Rows { state: state.as_ref(), run: &run.id };
    assert_eq!(rows.holds(&["a", "b"]).await.unwrap(), [false, true]);
    let addresses = ["a@example.com", "b@example.com"].map(|address| rows::hash(rows::Kind::Email, address));
    let owners = rows.owners(&addresses);
    assert_eq!(owners.await.unwrap().iter().map(Vec::len).collect::<Vec<_>>(), [0, 1]);
}

/// Two ids of one person, with one address.
#[tokio::test]
async fn an_erased_persons_address_leaves_the_index() {
    let directory = directory();
    let held = store(&directory);
    let desk = desk(&held, true).await;
    let mut shared = page("s", 1, 1, &["a", "b"]);
    shared.members[1].properties = shared.members[0].properties.clone();
    let run = desk.push(shared).await.unwrap();
    let state: Arc<dyn State> = held.state.clone();
    let mut batch = WriteBatch::new();
    erase::take(&state, &["a".to_owned(), "b".to_owned()], &mut batch).await.unwrap();
    write_when_there_is_room(state.as_ref(), batch).await.unwrap();
    let range = crate::store::KeyRange::prefix(run.id.as_bytes());
    assert_eq!(state.scan(crate::store::Table::CohortRows, range, 10).await.unwrap(), []);
}

/// Of whom no row is kept.
#[tokio::test]
async fn a_page_that_comes_again_counts_nobody_twice() {
    let directory = directory();
    let held = store(&directory);
    let desk = desk(&held, true).await;
    let mark = desk.resolver.tombstones.now().of_id("gone");
    desk.resolver.tombstones.replace(|ids, _| {
        ids.insert(mark);
    });
    let first = desk.push(page("s", 1, 2, &["a", "gone"])).await.unwrap();
    assert_eq!((first.counts.members, first.counts.unmatched_total()), (2, 1));
    assert_eq!(desk.push(page("s", 1, 2, &["a", "gone"])).await.unwrap().counts, first.counts);
}

/// A store of before there was an index.
#[tokio::test]
async fn runs_of_an_earlier_version_are_found() {
    let directory = directory();
    let held = store(&directory);
    let (broken, whole) = {
        let desk = desk(&held, true).await;
        let broken = desk.push(page("s1", 1, 2, &["a"])).await.unwrap();
        let mut done = desk.push(page("s2", 1, 1, &["b"])).await.unwrap();
        desk.end(&mut done, WriteBatch::new(), Outcome::Done, None).await.unwrap();
        (broken, done)
    };
    let mut batch = WriteBatch::new();
    for first in [b"o", b"p", b"q", b"v"] {
        let rows = held.state.scan(crate::store::Table::CohortRuns, crate::store::KeyRange::prefix(first), 100).await;
        rows.unwrap().into_iter().for_each(|(key, _)| batch.delete(crate::store::Table::CohortRuns, key));
    }
    held.state.write(batch).await.unwrap();
    let desk = desk(&held, true).await;
    assert_eq!(desk.last_of(&broken.order).await.unwrap().map(|run| run.id), Some(whole.id.clone()));
    assert_eq!(desk.push(page("s2", 1, 1, &["b"])).await.unwrap().id, whole.id);
    let next = desk.push(page("s3", 1, 2, &["c"])).await.unwrap();
    assert!(next.id > whole.id);
    desk.clean().await.unwrap();
    let rows = Rows { state: held.state.as_ref(), run: &whole.id };
    assert_eq!(rows.count(rows::MEMBER).await.unwrap(), 0);
}

#[tokio::test]
async fn runs_are_listed_page_by_page() {
    let directory = directory();
    let held = store(&directory);
    let desk = desk(&held, true).await;
    let mut ids = Vec::new();
    for session in 0..5 {
        ids.push(desk.push(page(&format!("s{session}"), 1, 1, &["a"])).await.unwrap().id);
    }
    ids.reverse();
    let mut seen: Vec<RunId> = Vec::new();
    loop {
        let page = desk.list(seen.last().map(String::as_str), 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|run| run.id));
    }
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn runs_are_kept_for_their_time() {
    let directory = directory();
    let held = store(&directory);
    let desk = desk(&held, true).await;
    let run = desk.push(page("s1", 1, 2, &["a"])).await.unwrap();
    let mut old = run.clone();
    let ended = Ended { at: UnixMillis(1), outcome: Outcome::Done, why: None, missing: None, held: run::Held::Members };
    old.stage = Stage::Ended(ended);
    desk.save(&old, WriteBatch::new()).await.unwrap();
    desk.clean().await.unwrap();
    assert_eq!(desk.get(&run.id).await.unwrap(), None);
    assert_eq!(desk.last_of(&run.order).await.unwrap(), None);
    let left = held.state.scan(crate::store::Table::CohortRuns, crate::store::KeyRange::all(), 10).await.unwrap();
    assert_eq!(left.iter().map(|(key, _)| key.as_slice()).collect::<Vec<_>>(), [b"v"], "nor anything that leads to it");
    assert_eq!(Rows { state: held.state.as_ref(), run: &run.id }.count(rows::MEMBER).await.unwrap(), 0);
}

/// Whoever was killed between the last page and its own note of it.
#[tokio::test]
async fn a_data_sets_last_page_that_comes_again_is_told_of_the_run_that_has_ended() {
    let directory = directory();
    let held = store(&directory);
    let desk = desk(&held, true).await;
    let page = |run: &str, number: u32| {
        let mut push = page("s", number, 2, &[if number == 1 { "a" } else { "b" }]);
        push.order.source = Source::Dataset { name: "dormant".to_owned(), run: run.to_owned() };
        push
    };
    desk.push(page("r1", 1)).await.unwrap();
    let mut run = desk.push(page("r1", 2)).await.unwrap();
    desk.end(&mut run, WriteBatch::new(), Outcome::Done, None).await.unwrap();
    desk.ended(&run.id).await.unwrap();
    assert_eq!(desk.push(page("r1", 2)).await.unwrap().id, run.id);
    assert_ne!(desk.push(page("r2", 1)).await.unwrap().id, run.id, "another run of the same data set");
}
