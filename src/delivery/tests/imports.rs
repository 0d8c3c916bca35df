//! Large imports, in simulated minutes: who is in one is written down and not held, what changes meanwhile is sent anew,
//! and a crash anywhere overwrites nothing.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::delivery::testing::{Relay, Setup, World};
use crate::people::roster;
use crate::record::Destination;
use crate::store::{State, Table, WriteBatch};
use crate::vendor::{Cost, Family, PauseCause, Priority};

const BREVO: Destination = Destination::Brevo;
const IMPORT: &str = "/v3/contacts/import";

/// Brevo takes `minutes` for an import.
async fn world(minutes: u64) -> World {
    let world = World::simulated(Setup::brevo().with_all_users());
    let switches = json!({"import_queued_ms": 1_000, "import_processing_ms": minutes * 60_000});
    world.switch(json!({"brevo": switches})).await;
    world
}

fn calls(world: &World, path: &str) -> usize {
    world.asked().iter().filter(|asked| asked.path.starts_with(path)).count()
}

/// Contacts written by single calls.
async fn single_writes(world: &World) -> u64 {
    world.show("/brevo/counts").await["counts"]["contact_writes"]["POST /contacts"].as_u64().unwrap_or(0)
}

async fn wait(what: &str, look: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !look().await {
        assert!(started.elapsed() < Duration::from_secs(3 * 3_600), "not {what}");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn done(relay: &Relay) {
    wait("done", async || {
        let report = relay.report(BREVO).await;
        report.backlog == 0 && report.parked == 0
    })
    .await;
}

async fn plan_of(world: &World, n: usize) -> Value {
    world.contact(&format!("u{n}@example.com")).await["attributes"]["PLAN_TYPE"].clone()
}

/// Everybody is known to the leg before the first of them can be paid.
async fn crowd(world: &World, relay: &Relay, people: usize) {
    relay.leg(BREVO).status.gate().pause(PauseCause::ByHand);
    let person = |n: usize| world.set(&format!("u{n}"), json!({"$email": format!("u{n}@example.com"), "plan": "old"}));
    let numbers: Vec<_> = (0..people).collect();
    for some in numbers.chunks(2_000) {
        relay.append(some.iter().map(|n| person(*n)).collect()).await;
    }
    wait("owed", async || relay.report(BREVO).await.backlog == people as u64).await;
    wait("written down", async || indebted(relay).await.0 == people).await;
    relay.leg(BREVO).status.gate().resume();
}

/// How many are owed something by the store, and how many of them are said to be in an import.
async fn indebted(relay: &Relay) -> (usize, usize) {
    let state = relay.store.state.clone() as std::sync::Arc<dyn State>;
    let rows = roster::indebted(&state, None, 100_000).await.unwrap();
    (rows.len(), rows.iter().filter(|row| row.importing).count())
}

async fn under_way(world: &World) {
    wait("under way", async || calls(world, IMPORT) > 0).await;
}

/// CORE 11. More people than stand in a line, and than the leg keeps in memory: those who change while the import is under
/// way are owed a new send, their events wait for its end, and all of it takes one import and one small rest.
#[tokio::test(start_paused = true)]
async fn core_11_whoever_changes_during_a_large_import_is_sent_anew() {
    const PEOPLE: usize = 8_000;
    let world = world(3).await;
    let relay = world.relay().await;
    crowd(&world, &relay, PEOPLE).await;
    under_way(&world).await;
    let (_, marked) = indebted(&relay).await;
    assert!(marked > PEOPLE - 100, "{marked}");
    // One from the import, of whom the leg holds nothing any more; one who has an event, one who is linked.
    let last = PEOPLE - 1;
    relay.append(vec![world.set(&format!("u{last}"), json!({"plan": "new"}))]).await;
    relay.append(vec![world.purchase("u4000", 1), world.update("u4000", "$append", json!({"plan": "more"}))]).await;
    sleep(Duration::from_secs(60)).await;
    relay.append(vec![world.set("u4001", json!({"plan": "newer"}))]).await;
    relay.append(vec![world.set("new", json!({"$email": "new@example.com"})), world.purchase("new", 2)]).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.brevo_events().await, [(2, "applied".to_owned())], "somebody else's does not wait");
    assert_eq!(relay.report(BREVO).await.parked, 1);
    done(&relay).await;
    assert_eq!(plan_of(&world, last).await, "new");
    assert_eq!(plan_of(&world, 4_001).await, "newer");
    assert_eq!(plan_of(&world, 0).await, "old");
    assert_eq!(world.brevo_events().await.len(), 2);
    assert_eq!(world.show("/brevo/counts").await["contacts"], PEOPLE + 1);
    wait("written down", async || indebted(&relay).await == (0, 0)).await;
    assert!(calls(&world, IMPORT) == 1 && single_writes(&world).await < 60, "{}", single_writes(&world).await);
    // Three minutes of it cost no more looks than doubling waits do.
    assert!(calls(&world, "/v3/processes") <= 7, "{}", calls(&world, "/v3/processes"));
    relay.drain().await;
}

/// Killed while an import is made, sent, followed or settled: whoever is in it is paid nothing that it could overwrite, and
/// everybody is paid in the end.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_of_an_import_overwrites_nothing() {
    // Without an answer: before or after Brevo has taken it.
    for when in ["before", "after"] {
        let world = world(2).await;
        let relay = world.relay().await;
        let lost = json!({"vendor": "brevo", "path_prefix": IMPORT, "kind": "black_hole", "when": when});
        world.faults(lost).await;
        crowd(&world, &relay, 600).await;
        wait("sent", async || world.requests("brevo", IMPORT).await > 0).await;
        relay.kill().await;
        world.heal().await;
        go_on_after_crash(&world, 600, when == "after").await;
    }
    // With a number; then with its end come, and none of its people settled; then not even sent.
    for (moment, runs) in [("followed", true), ("settling", false), ("composed", false)] {
        let world = world(2).await;
        let relay = world.relay().await;
        if moment == "composed" {
            let busy = json!({"vendor": "brevo", "path_prefix": IMPORT, "kind": "status", "status": 503});
            world.faults(busy).await;
        }
        crowd(&world, &relay, 600).await;
        wait("marked", async || indebted(&relay).await.1 > 500).await;
        if moment != "composed" {
            under_way(&world).await;
            wait("followed", async || calls(&world, "/v3/processes") > 0).await;
        }
        relay.kill().await;
        world.heal().await;
        if moment == "settling" {
            sleep(Duration::from_secs(300)).await;
        }
        if !runs {
            let relay = world.relay().await;
            let state = relay.store.state.clone();
            relay.kill().await;
            let mut batch = WriteBatch::new();
            batch.delete(Table::Vendors, b"brevo/import".to_vec());
            state.write(batch).await.unwrap();
        }
        go_on_after_crash(&world, 600, runs).await;
    }
}

async fn go_on_after_crash(world: &World, people: usize, runs: bool) {
    let relay = world.relay().await;
    relay.append(vec![world.set("u7", json!({"plan": "new"})), world.purchase("u7", 1)]).await;
    if runs {
        sleep(Duration::from_secs(60)).await;
        assert_eq!(plan_of(world, 7).await, Value::Null, "paid beside an import that holds older values");
    }
    done(&relay).await;
    // Whatever still runs at Brevo comes to its end.
    sleep(Duration::from_secs(600)).await;
    assert_eq!(plan_of(world, 7).await, "new");
    assert_eq!(world.show("/brevo/counts").await["contacts"], people);
    assert_eq!(relay.tally(BREVO).delivered.profile, people as u64 + 1);
    assert_eq!(world.brevo_events().await.len(), 1);
    wait("written down", async || indebted(&relay).await == (0, 0)).await;
    relay.drain().await;
}

/// One bad row fails an import, and nobody is told which: its people are not all written one by one for that.
#[tokio::test(start_paused = true)]
async fn an_import_that_fails_is_made_in_smaller_ones() {
    const PEOPLE: usize = 3_000;
    let world = world(0).await;
    let relay = world.relay().await;
    let ended =
        json!({"id": 1, "name": "IMPORTUSER", "status": "completed", "info": {"import": {"invalid_emails": 1}}});
    world
        .faults(json!({"vendor": "brevo", "path_prefix": "/v3/processes", "kind": "status", "status": 200, "times": 1,
                       "body": ended}))
        .await;
    crowd(&world, &relay, PEOPLE).await;
    done(&relay).await;
    let (imports, singly) = (calls(&world, IMPORT), single_writes(&world).await);
    assert!((3..=6).contains(&imports) && singly < 700, "{imports} {singly}");
    assert_eq!(relay.tally(BREVO).delivered.profile, PEOPLE as u64);
    relay.drain().await;
}

/// CORE 14: where most of the hour's looks are used up, the next import waits for its turn, and everybody else is written
/// one by one meanwhile.
#[tokio::test(start_paused = true)]
async fn imports_do_not_use_up_the_looks_that_they_need() {
    let world = world(0).await;
    let relay = world.relay().await;
    let used = Cost { calls: 60, ..Cost::CALL };
    drop(relay.budgets.claim(Family::BrevoOther, Priority::Live, used).await.unwrap());
    crowd(&world, &relay, 300).await;
    done(&relay).await;
    assert_eq!(calls(&world, IMPORT), 1);
    for n in 300..1_500 {
        let id = format!("u{n}");
        relay.append(vec![world.set(&id, json!({"$email": format!("{id}@example.com")}))]).await;
    }
    done(&relay).await;
    let imports: Vec<_> = world.asked().into_iter().filter(|asked| asked.path.starts_with(IMPORT)).collect();
    let apart: Vec<u64> = imports.windows(2).map(|pair| pair[1].at.since(pair[0].at).as_secs()).collect();
    assert!(!apart.is_empty() && apart.iter().all(|seconds| *seconds >= 40), "{apart:?}");
    assert!(single_writes(&world).await > 300, "they do not stand still meanwhile");
    assert_eq!(world.show("/brevo/counts").await["contacts"], 1_500);
    relay.drain().await;
}
