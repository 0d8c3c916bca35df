//! A disk that is full for minutes: the journal takes nothing then, but there is a backlog, and no checkpoint can be written.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::delivery::testing::{Setup, World};

/// Appended ten a tenth of a second: more than a leg may send on credit.
const EVENTS: i64 = 3_000;
/// What both legs may have sent in what it takes to notice, and be made to send again by a crash.
const ON_CREDIT: usize = 500;

/// P5: a crash repeats what was sent since the last checkpoint, so nothing is sent that no checkpoint will cover soon.
#[tokio::test(start_paused = true)]
async fn a_full_disk_stops_both_legs_and_a_crash_then_repeats_little() {
    let world = World::simulated(Setup::both());
    let mut relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.settled().await;

    world.disk_is_full.store(true, Ordering::SeqCst);
    for tens in 0..EVENTS / 10 {
        relay.append((tens * 10..tens * 10 + 10).map(|n| world.purchase("u", n)).collect()).await;
        sleep(Duration::from_millis(100)).await;
    }
    sleep(Duration::from_secs(60)).await;
    let at_brevo = world.brevo_events().await.len();
    let at_mixpanel = mixpanel_events(&world).await;
    assert!(at_brevo <= ON_CREDIT && at_mixpanel <= ON_CREDIT, "{at_brevo} at Brevo, {at_mixpanel} at Mixpanel");

    relay.kill().await;
    world.disk_is_full.store(false, Ordering::SeqCst);
    relay = world.relay().await;
    relay.settled().await;
    relay.drain().await;
    let arrived = world.brevo_events().await;
    assert!(arrived.len() <= EVENTS as usize + at_brevo, "{} of {EVENTS}, {at_brevo} of them early", arrived.len());
    assert!((0..EVENTS).all(|n| arrived.iter().any(|(found, _)| *found == n)));
    assert!(mixpanel_events(&world).await >= EVENTS as usize);
}

/// Without a crash nothing is sent twice, however long it lasts.
#[tokio::test(start_paused = true)]
async fn when_there_is_room_again_both_legs_go_on_where_they_were() {
    let world = World::simulated(Setup::both());
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.settled().await;
    for round in 0..3 {
        world.disk_is_full.store(true, Ordering::SeqCst);
        relay.append((0..100).map(|n| world.purchase("u", round * 100 + n)).collect()).await;
        sleep(Duration::from_secs(20)).await;
        world.disk_is_full.store(false, Ordering::SeqCst);
        relay.settled().await;
    }
    relay.drain().await;
    let arrived: Vec<i64> = world.brevo_events().await.iter().map(|(n, _)| *n).collect();
    assert_eq!(arrived, (0..300).collect::<Vec<_>>());
    assert_eq!(mixpanel_events(&world).await, 300);
}

async fn mixpanel_events(world: &World) -> usize {
    let shown = world.show("/mixpanel/events?limit=100000").await;
    shown["events"].as_array().unwrap().len()
}
