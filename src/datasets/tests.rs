//! What is kept of a run's people, and whose word begins a run, on a store of their own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::kept::{Found, PERSON, Rows, UNMATCHED};
use super::*;
use crate::clock::{SystemClock, UnixMillis};
use crate::cohorts::{self, Resolver, Unmatched};
use crate::config::{BrevoMode, Dataset, DatasetQuestion, Mapping, Retention, Sync, SyncMode};
use crate::delivery::status::LegStatus;
use crate::feed::Feed;
use crate::mapping::CompiledMapping;
use crate::privacy::Tombstones;
use crate::record::{Destination, EntryId, Epoch, Position};
use crate::store::sqlite::SqliteStore;
use crate::store::testing;
use crate::store::{State, WriteBatch, write_when_there_is_room};
use crate::vendor::gate::SharedGate;

fn directory() -> TempDir {
    testing::directory()
}

fn store(directory: &TempDir) -> SqliteStore {
    testing::open(directory, Arc::new(SystemClock))
}

fn dataset(script: PathBuf) -> Dataset {
    Dataset {
        name: "dormant".to_owned(),
        question: DatasetQuestion::Jql(script),
        every: Duration::from_hours(24),
        id: "distinct_id".to_owned(),
        attributes: [("days".to_owned(), "DAYS_AWAY".to_owned())].into(),
        list: None,
        mode: SyncMode::Mirror,
    }
}

async fn desk(store: &SqliteStore, dataset: &Dataset, on: bool) -> Arc<Desk> {
    let mapping = CompiledMapping::compile(&Mapping::default(), Sync::default()).unwrap();
    let mapping = Arc::new(mapping.with_datasets(std::slice::from_ref(dataset)).unwrap());
    let resolver = Resolver {
        state: store.state.clone(),
        mapping: Arc::new(move || mapping.clone()),
        tombstones: Arc::new(Tombstones::default()),
        mode: BrevoMode::Live,
        pilot_emails: Vec::new(),
    };
    let keep = Retention::default().runs;
    let lists = cohorts::Desk::open(resolver.clone(), Arc::new(SystemClock), keep, on).await.unwrap();
    let start = Position { epoch: Epoch(1), entry: EntryId(0), index: 0 };
    let gate = Arc::new(SharedGate::default());
    let clock: crate::clock::SharedClock = Arc::new(SystemClock);
    let leg = LegStatus::new(Destination::Brevo, store.journal.clone(), clock.clone(), gate, start);
    let feed = Feed::new(store.journal.clone(), Arc::new(Tombstones::default()), leg, clock.clone());
    let parts = Parts {
        state: store.state.clone(),
        clock,
        datasets: vec![dataset.clone()],
        on,
        keep,
        resolver,
        lists,
        mixpanel: None,
        feed: Arc::new(feed),
    };
    Desk::open(parts).await.unwrap()
}

fn found(id: &str, own: bool, days: u64) -> Found {
    let columns: Map<String, Value> = [("days".to_owned(), json!(days))].into_iter().collect();
    Found { id: id.to_owned(), own, columns }
}

/// In whatever order and however many at once they come.
#[tokio::test]
async fn of_several_rows_the_persons_own_has_the_word_else_the_last_id() {
    let directory = directory();
    let held = store(&directory);
    let (state, run): (&dyn State, _) = (held.state.as_ref(), "r".to_owned());
    let ada = || {
        ["ada"; 3].map(str::to_owned).into_iter().zip([
            found("x", false, 1),
            found("ada", true, 2),
            found("z", false, 3),
        ])
    };
    let eve = || ["eve"; 2].map(str::to_owned).into_iter().zip([found("b", false, 4), found("c", false, 5)]);
    for order in 0..2 {
        let rows = Rows { state, run: &run };
        let mut people: Vec<(String, Found)> = ada().chain(eve()).collect();
        if order == 1 {
            people.reverse();
        }
        let mut repeated = 0;
        for one in people.chunks(2) {
            let mut batch = WriteBatch::new();
            repeated += rows.put_people(one.to_vec(), &mut batch).await.unwrap();
            write_when_there_is_room(state, batch).await.unwrap();
        }
        let kept: std::collections::BTreeMap<String, Value> = rows
            .people(None, 9)
            .await
            .unwrap()
            .into_iter()
            .map(|(_, found)| (found.id, found.columns["days"].clone()))
            .collect();
        assert_eq!(kept, [("ada".to_owned(), json!(2)), ("c".to_owned(), json!(5))].into(), "order {order}");
        assert_eq!(repeated, 3);
        rows.forget(PERSON).await.unwrap();
        assert!(rows.people(None, 9).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_erased_person_leaves_nothing_and_others_stay() {
    let directory = directory();
    let held = store(&directory);
    let script = directory.path().join("s.js");
    std::fs::write(&script, "x").unwrap();
    let desk = desk(&held, &dataset(script), true).await;
    let run = desk.ask("dormant", true, false, |_, _| Ok(())).await.unwrap();
    let rows = desk.rows(&run.id);
    let mut batch = WriteBatch::new();
    let people = vec![("ada".to_owned(), found("ada", true, 1)), ("bob".to_owned(), found("bob", true, 2))];
    rows.put_people(people, &mut batch).await.unwrap();
    for id in ["ada", "bob"] {
        rows.put_unmatched(id, Unmatched::NoAddress, 0, &mut batch).unwrap();
    }
    write_when_there_is_room(held.state.as_ref(), batch).await.unwrap();
    let (mut batch, state): (_, Arc<dyn State>) = (WriteBatch::new(), held.state.clone());
    erase::take(&state, &["ada".to_owned()], &mut batch).await.unwrap();
    write_when_there_is_room(state.as_ref(), batch).await.unwrap();
    let left: Vec<String> = rows.people(None, 9).await.unwrap().into_iter().map(|(_, found)| found.id).collect();
    assert_eq!(left, ["bob"]);
    let unmatched = desk.unmatched(&run.id, 9).await.unwrap();
    assert_eq!(unmatched.into_iter().map(|row| row.distinct_id).collect::<Vec<_>>(), ["bob"]);
    rows.forget(UNMATCHED).await.unwrap();
    assert!(desk.unmatched(&run.id, 9).await.unwrap().is_empty());
}

/// Over restarts too.
#[tokio::test]
async fn nothing_writes_before_a_dry_run_of_the_very_definition_has_ended() {
    let directory = directory();
    let held = store(&directory);
    let script = directory.path().join("s.js");
    std::fs::write(&script, "one").unwrap();
    let dataset = dataset(script.clone());
    let nobody = |_: &Run, _: &mut WriteBatch| Ok(());
    let first = desk(&held, &dataset, true).await;
    assert!(matches!(first.ask("dormant", false, false, nobody).await, Err(AskError::NotShown(_))));
    assert!(matches!(first.ask("other", true, false, nobody).await, Err(AskError::NoSuch(_))));
    let mut dry = first.ask("dormant", true, false, nobody).await.unwrap();
    assert_eq!(first.ask("dormant", true, false, nobody).await.unwrap().id, dry.id, "it is under way");
    assert!(matches!(first.ask("dormant", false, false, nobody).await, Err(AskError::Busy(_))));
    // One that has failed has shown nothing.
    first.end(&mut dry, Outcome::Failed, None).await.unwrap();
    // The worker has not noticed yet, and that is nobody's affair.
    assert!(matches!(first.ask("dormant", false, false, nobody).await, Err(AskError::NotShown(_))));
    let failed = dry.id;
    let mut dry = first.ask("dormant", true, false, nobody).await.unwrap();
    assert_ne!(dry.id, failed);
    first.end(&mut dry, Outcome::Done, None).await.unwrap();
    drop(first);

    let second = desk(&held, &dataset, true).await;
    assert!(!second.standing(&dataset).await.unwrap().is_confirmed());
    let mut real = second.ask("dormant", false, false, nobody).await.unwrap();
    assert!(real.id > dry.id && !real.dry_run);
    assert!(second.standing(&dataset).await.unwrap().is_confirmed());
    second.end(&mut real, Outcome::Done, None).await.unwrap();
    second.ended(&real.id).await;
    std::fs::write(&script, "two").unwrap();
    assert!(!second.standing(&dataset).await.unwrap().is_confirmed());
    assert!(matches!(second.ask("dormant", false, false, nobody).await, Err(AskError::NotShown(_))));
    // The plan shows it once, and then waits.
    second.begin_planned(&dataset).await.unwrap();
    let mut shown = second.list(None, 1).await.unwrap().remove(0);
    assert!(shown.dry_run && shown.id > real.id);
    second.end(&mut shown, Outcome::Done, None).await.unwrap();
    second.ended(&shown.id).await;
    second.begin_planned(&dataset).await.unwrap();
    assert_eq!(second.list(None, 1).await.unwrap()[0].id, shown.id);
}

#[tokio::test]
async fn without_brevo_nothing_is_begun() {
    let directory = directory();
    let held = store(&directory);
    let script = directory.path().join("s.js");
    std::fs::write(&script, "x").unwrap();
    let desk = desk(&held, &dataset(script), false).await;
    assert!(matches!(desk.ask("dormant", true, false, |_, _| Ok(())).await, Err(AskError::Off)));
}

/// The rows of people go with the end of a run, the run after `retention.runs`.
#[tokio::test]
async fn what_a_run_knew_of_people_goes_with_its_end() {
    let directory = directory();
    let held = store(&directory);
    let script = directory.path().join("s.js");
    std::fs::write(&script, "x").unwrap();
    let desk = desk(&held, &dataset(script), true).await;
    let mut run = desk.ask("dormant", true, false, |_, _| Ok(())).await.unwrap();
    let id = run.id.clone();
    let mut batch = WriteBatch::new();
    desk.rows(&id).put_people(vec![("ada".to_owned(), found("ada", true, 1))], &mut batch).await.unwrap();
    desk.rows(&id).put_unmatched("bob", Unmatched::NoAddress, 0, &mut batch).unwrap();
    write_when_there_is_room(held.state.as_ref(), batch).await.unwrap();
    desk.clean().await.unwrap();
    assert_eq!(desk.rows(&id).people(None, 9).await.unwrap().len(), 1, "it is under way");
    desk.end(&mut run, Outcome::Done, None).await.unwrap();
    desk.clean().await.unwrap();
    assert!(desk.rows(&id).people(None, 9).await.unwrap().is_empty());
    assert_eq!(desk.unmatched(&id, 9).await.unwrap().len(), 1);
    let ended = desk.get(&id).await.unwrap().unwrap();
    let long_ago = Stage::Ended(run::Ended { at: UnixMillis(0), ..ended.ended().unwrap().clone() });
    desk.save(&Run { stage: long_ago, ..ended }, WriteBatch::new()).await.unwrap();
    desk.clean().await.unwrap();
    assert!(desk.get(&id).await.unwrap().is_none() && desk.unmatched(&id, 9).await.unwrap().is_empty());
}
