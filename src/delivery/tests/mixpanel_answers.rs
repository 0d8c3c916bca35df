//! Mixpanel's answers, row by row, through the whole leg.

use std::time::Duration;

use serde_json::{Value, json};

use crate::delivery::testing::{Setup, TOKEN, World};
use crate::record::{Destination, Kind, Record};

const MIXPANEL: Destination = Destination::Mixpanel;

async fn stored(world: &World) -> u64 {
    let records = world.show("/mixpanel/counts").await["records"].clone();
    records["stored"]["event"].as_u64().unwrap_or(0) - records["duplicates"]["event"].as_u64().unwrap_or(0)
}

/// An event that Mixpanel refuses for its time.
fn from_the_future(world: &World, n: i64) -> Record {
    let time = world.clock_seconds() + 10 * 365 * 86_400;
    let properties = json!({"token": TOKEN, "distinct_id": "u", "$insert_id": format!("n{n}"), "time": time});
    world.record(Kind::Event, &json!({"event": "Purchase", "properties": properties}))
}

#[tokio::test]
async fn trouble_is_waited_out_and_resends_are_known_by_their_ids() {
    let world = World::new(Setup { answer_timeout: Duration::from_millis(400), ..Setup::mixpanel() }).await;
    let relay = world.relay().await;
    let troubles = [
        json!({"kind": "status", "status": 429, "headers": {"retry-after": "1"}}),
        json!({"kind": "status", "status": 500}),
        json!({"kind": "status", "status": 502}),
        json!({"kind": "status", "status": 503}),
        json!({"kind": "status", "status": 404}),
        json!({"kind": "reset"}),
        json!({"kind": "reset", "when": "after"}),
        json!({"kind": "black_hole"}),
        json!({"kind": "garbage"}),
        json!({"kind": "break_off", "after_bytes": 3}),
    ];
    for (n, trouble) in troubles.iter().enumerate() {
        let mut fault = trouble.clone();
        fault["vendor"] = "mixpanel".into();
        fault["times"] = 2.into();
        world.faults(fault).await;
        relay.append(vec![world.purchase("u", n as i64)]).await;
        relay.settled().await;
    }
    assert_eq!(relay.tally(MIXPANEL).delivered.event, 10);
    relay.drain().await;
    assert_eq!(stored(&world).await, 10);
}

/// A strict 400 that names one record among many costs that record only.
#[tokio::test]
async fn one_bad_record_costs_itself() {
    let world = World::new(Setup::mixpanel()).await;
    let relay = world.relay().await;
    let mut records: Vec<_> = (0..200).map(|n| world.purchase("u", n)).collect();
    records.insert(77, from_the_future(&world, 500));
    relay.append(records).await;
    relay.settled().await;
    let letters = relay.dead_letters(MIXPANEL).await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].record.contains("n500"));
    relay.drain().await;
    assert_eq!(stored(&world).await, 200);
}

/// Answers that blame nobody, or the size of the call, or a 200 with an error inside: the batch is halved until the bad
/// record is alone; here there is none.
#[tokio::test]
async fn a_batch_that_is_refused_whole_is_halved() {
    let nobody = json!({"code": 400, "error": "some data points in the request failed validation", "num_records_imported": 0,
                        "failed_records": [], "status": "Bad Request"});
    for fault in [
        json!({"kind": "status", "status": 400, "body": nobody}),
        json!({"kind": "status", "status": 413}),
        json!({"kind": "error_in_ok"}),
    ] {
        let world = World::new(Setup::mixpanel()).await;
        let relay = world.relay().await;
        let mut fault = fault.clone();
        fault["vendor"] = "mixpanel".into();
        fault["path_prefix"] = "/import".into();
        fault["times"] = 3.into();
        world.faults(fault).await;
        relay.append((0..64).map(|n| world.purchase("u", n)).collect()).await;
        relay.settled().await;
        assert!(relay.dead_letters(MIXPANEL).await.is_empty());
        relay.drain().await;
        assert_eq!(stored(&world).await, 64);
    }
}

/// Everything named: everything is a dead letter, after one call.
#[tokio::test]
async fn a_batch_of_bad_records_is_put_aside_at_once() {
    let world = World::new(Setup::mixpanel()).await;
    let relay = world.relay().await;
    relay.append((0..20).map(|n| from_the_future(&world, n)).collect()).await;
    relay.settled().await;
    assert_eq!(relay.dead_letters(MIXPANEL).await.len(), 20);
    relay.drain().await;
    assert_eq!(world.answers("mixpanel", "/import", 400).await, 1);
}

/// Updates that count differently when they arrive twice are counted as doubtful, and only they.
#[tokio::test]
async fn additions_after_a_doubtful_answer_are_counted() {
    let world = World::new(Setup::mixpanel()).await;
    let relay = world.relay().await;
    let lost = |kind: Value| {
        let mut fault = json!({"vendor": "mixpanel", "path_prefix": "/engage", "times": 1, "when": "after"});
        fault.as_object_mut().unwrap().extend(kind.as_object().unwrap().clone());
        fault
    };
    for (n, kind) in [json!({"kind": "reset"}), json!({"kind": "status", "status": 502})].into_iter().enumerate() {
        world.faults(lost(kind.clone())).await;
        relay.append(vec![world.set("u", json!({"a": n}))]).await;
        relay.settled().await;
        assert_eq!(relay.tally(MIXPANEL).maybe_twice, n as u64);
        world.faults(lost(kind)).await;
        relay.append(vec![world.update("u", "$add", json!({"visits": 1}))]).await;
        relay.settled().await;
        assert_eq!(relay.tally(MIXPANEL).maybe_twice, n as u64 + 1);
    }
    relay.drain().await;
}

/// Without a service account events go through `/track`.
#[tokio::test]
async fn events_travel_without_a_service_account() {
    let world = World::new(Setup { service_account: false, ..Setup::mixpanel() }).await;
    let relay = world.relay().await;
    relay.append((0..50).map(|n| world.purchase("u", n)).collect()).await;
    relay.settled().await;
    relay.drain().await;
    assert_eq!(stored(&world).await, 50);
    assert_eq!(world.answers("mixpanel", "/import", 200).await, 0);
}
