//! The traces of the core's rules.

use std::time::Duration;

use serde_json::json;

use crate::clock::Clock as _;
use crate::delivery::testing::{PATIENCE, Setup, World, eventually, text};
use crate::record::{Destination, Destinations, EntryId, Kind};
use crate::settlement::SkipRule;
use crate::store::Journal as _;
use crate::vendor::PauseCause;
use crate::vendor::gate::GateState;

const BREVO: Destination = Destination::Brevo;
const MIXPANEL: Destination = Destination::Mixpanel;

fn numbers(events: &[(i64, String)]) -> Vec<i64> {
    events.iter().map(|(n, _)| *n).collect()
}

/// Drained to the last record, restarted and written again, an idle relay must not go deaf.
#[tokio::test]
async fn core1_drained_and_restarted_reads_on() {
    let world = World::new(Setup::both()).await;
    for round in 0..3 {
        let relay = world.relay().await;
        relay.append(vec![world.set("u", json!({"$email": "u@example.com", "plan": format!("p{round}")}))]).await;
        relay.append(vec![world.purchase("u", round)]).await;
        relay.settled().await;
        relay.drain().await;
    }
    assert_eq!(numbers(&world.brevo_events().await), [0, 1, 2]);
    assert_eq!(world.contact("u").await["attributes"]["PLAN_TYPE"], "p2");
    let counts = world.show("/mixpanel/counts").await;
    assert_eq!(counts["records"]["stored"]["event"], 3, "{counts}");
}

/// One batch in backoff at the head does not make a crash repeat the hundreds behind it.
#[tokio::test]
async fn core3_a_batch_in_backoff_costs_only_itself() {
    let world = World::new(Setup::mixpanel()).await;
    world.faults(json!({"vendor": "mixpanel", "path_prefix": "/groups", "kind": "black_hole"})).await;
    let relay = world.relay().await;
    let group = json!({"$token": "sandbox-token", "$group_key": "company", "$group_id": "a", "$set": {"x": 1}});
    relay.append(vec![world.record(Kind::Group, &group)]).await;
    for n in 0..300 {
        relay.append(vec![world.purchase("u", n)]).await;
    }
    relay.until(MIXPANEL, "done but for the group", |report| report.backlog == 1).await;
    let held = relay.leg(MIXPANEL).status.snapshot();
    assert_eq!(held.next_entry, EntryId(302));
    // The next checkpoint holds them as settled beyond the cursor.
    tokio::time::sleep(Duration::from_millis(600)).await;
    relay.kill().await;
    world.heal().await;
    let relay = world.relay().await;
    relay.settled().await;
    relay.drain().await;
    let counts = world.show("/mixpanel/counts").await;
    assert_eq!(counts["records"]["stored"]["event"], 300, "{counts}");
    assert_eq!(counts["records"]["duplicates"]["event"].as_u64().unwrap_or(0), 0, "{counts}");
    assert_eq!(counts["groups"], 1);
}

/// Folded, state written, crash before the call: the send still happens, and nothing is folded twice.
#[tokio::test]
async fn core4_what_was_folded_before_a_crash_is_still_sent() {
    let world = World::new(Setup::brevo()).await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "black_hole"})).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com", "plan": "a"}))]).await;
    relay.append(vec![world.set("u", json!({"plan": "b"}))]).await;
    relay.append(vec![world.purchase("u", 1)]).await;
    let mut cursor = relay.leg(BREVO).status.durable_cursor();
    // Both updates are folded and written down; the event waits in the ledger.
    tokio::time::timeout(PATIENCE, cursor.wait_for(|at| at.entry >= EntryId(3))).await.unwrap().unwrap();
    assert_eq!(relay.report(BREVO).await.backlog, 3);
    relay.kill().await;
    world.heal().await;

    let relay = world.relay().await;
    relay.settled().await;
    assert_eq!(relay.tally(BREVO).delivered.profile, 2);
    assert_eq!(relay.tally(BREVO).delivered.event, 1);
    relay.drain().await;
    assert_eq!(world.contact("u").await["attributes"]["PLAN_TYPE"], "b");
    assert_eq!(numbers(&world.brevo_events().await), [1]);
}

/// A shelf is released in order, in front of newer records, and nobody else waits for it; a crash in the middle of the
/// release loses nothing and repeats only what was under way.
#[tokio::test]
async fn core7_a_shelf_is_released_in_order_over_a_crash() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    for n in 0..450 {
        relay.append(vec![world.purchase("late", n)]).await;
    }
    relay.append(vec![world.set("late", json!({"plan": "pro"}))]).await;
    relay
        .append(vec![world.set("early", json!({"$email": "early@example.com"})), world.purchase("early", 10_000)])
        .await;
    relay.until(BREVO, "parked", |report| report.parked == 451 && report.backlog == 0).await;
    assert_eq!(numbers(&world.brevo_events().await), [10_000]);

    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/events", "kind": "latency", "ms": 150})).await;
    relay.append(vec![world.set("late", json!({"$email": "late@example.com"})), world.purchase("late", 450)]).await;
    eventually("in the middle of the release", async || world.brevo_events().await.len() > 200).await;
    relay.kill().await;
    world.heal().await;

    let relay = world.relay().await;
    relay.append(vec![world.purchase("late", 451)]).await;
    relay.until(BREVO, "released", |report| report.parked == 0 && report.backlog == 0).await;
    assert_eq!(relay.tally(BREVO).delivered.profile, 3);
    let told = relay.tally(BREVO).maybe_twice;
    relay.drain().await;
    assert_eq!(world.contact("late").await["attributes"]["PLAN_TYPE"], "pro");
    let mut events = numbers(&world.brevo_events().await);
    events.retain(|n| *n < 10_000);
    let mut seen = -1;
    let mut again = 0;
    for n in events {
        if n <= seen {
            again += 1;
        } else {
            assert_eq!(n, seen + 1, "an event was passed over");
            seen = n;
        }
    }
    assert_eq!(seen, 451);
    assert!(again <= 400, "{again} events were sent again, more than two calls held");
    assert!(again <= told, "{again} events came twice, {told} were counted");
}

/// A replay after a crash must not take itself for a duplicate; a resend is one.
#[tokio::test]
async fn core8_a_replay_is_no_duplicate_and_a_resend_is() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.settled().await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/events", "kind": "black_hole"})).await;
    let first = world.purchase("u", 1);
    relay.append(vec![first.clone()]).await;
    // Its key is written down, the call is under way.
    relay.until(BREVO, "read", |report| report.backlog == 1).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    relay.kill().await;
    world.heal().await;

    let relay = world.relay().await;
    relay.append(vec![first]).await;
    relay.settled().await;
    assert_eq!(relay.skipped(BREVO, SkipRule::Duplicate), 1);
    // Nobody can tell that the first call has not arrived.
    assert_eq!(relay.tally(BREVO).maybe_twice, 1);
    relay.drain().await;
    assert_eq!(numbers(&world.brevo_events().await), [1]);
}

/// What was sent since the last checkpoint is sent again after a crash, and counted; what ended orderly is neither.
#[tokio::test]
async fn core3_what_a_crash_repeats_is_counted() {
    for (leg, setup, path, twice) in
        [(BREVO, Setup::brevo(), "/v3/events", 3), (MIXPANEL, Setup::mixpanel(), "/engage", 1)]
    {
        let world = World::new(setup).await;
        let relay = world.relay().await;
        relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
        relay.settled().await;
        world.faults(json!({"path_prefix": path, "kind": "black_hole", "when": "after"})).await;
        relay.append((0..3).map(|n| world.purchase("u", n)).collect()).await;
        relay.append(vec![world.update("u", "$add", json!({"visits": 1})), world.set("u", json!({"a": 1}))]).await;
        eventually("lost", async || world.show("/faults").await["faults"][0]["hits"] == 1).await;
        relay.kill().await;
        world.heal().await;
        for _ in ["after a crash", "after an orderly end"] {
            let relay = world.relay().await;
            relay.settled().await;
            assert_eq!(relay.tally(leg).maybe_twice, twice, "{path}");
            relay.drain().await;
        }
    }
}

/// Resends that come while the first is on its way through the leg, at every distance.
#[tokio::test]
async fn core8_a_resend_is_known_at_every_moment() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.settled().await;
    let records: Vec<_> = (0..150).map(|n| world.purchase("u", n)).collect();
    for record in &records {
        relay.append(vec![record.clone()]).await;
        tokio::time::sleep(Duration::from_millis(7)).await;
        relay.append(vec![record.clone()]).await;
    }
    relay.settled().await;
    assert_eq!(relay.skipped(BREVO, SkipRule::Duplicate), 150);
    relay.drain().await;
    assert_eq!(world.brevo_events().await.len(), 150);
}

/// The window is bounded: beyond it the same event is an event again.
#[tokio::test]
async fn core8_a_resend_is_known_as_long_as_the_window_is() {
    let world = World::new(Setup { dedup_window: Duration::from_hours(1), ..Setup::brevo() }).await;
    let relay = world.relay().await;
    let mut resend = world.purchase("u", 1);
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), resend.clone()]).await;
    relay.append(vec![resend.clone()]).await;
    relay.settled().await;
    // From here on it is what is stored that counts.
    relay.drain().await;
    world.clock.shift(3 * 3_600_000);
    let relay = world.relay().await;
    resend.received_at = world.clock.now();
    relay.append(vec![resend]).await;
    relay.settled().await;
    assert_eq!(relay.skipped(BREVO, SkipRule::Duplicate), 1);
    relay.drain().await;
    assert_eq!(numbers(&world.brevo_events().await), [1, 1]);
}

#[tokio::test]
async fn core9_a_record_for_another_destination_is_skipped() {
    let world = World::new(Setup::both()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    let mut from_brevo = world.purchase("u", 1);
    from_brevo.destinations = Destinations::MIXPANEL;
    let mut from_stream = world.purchase("u", 2);
    from_stream.destinations = Destinations::BREVO;
    relay.append(vec![from_brevo, from_stream]).await;
    relay.settled().await;
    assert_eq!(relay.skipped(BREVO, SkipRule::NotForThisDestination), 1);
    assert_eq!(relay.skipped(MIXPANEL, SkipRule::NotForThisDestination), 1);
    relay.drain().await;
    assert_eq!(numbers(&world.brevo_events().await), [2]);
    assert_eq!(world.show("/mixpanel/counts").await["records"]["stored"]["event"], 1);
}

/// Killed while it is at the limit, and started at once: the vendor never has to say 429. A clock set back or forward
/// while running adds no allowance either.
#[tokio::test]
async fn core14_limits_hold_over_a_crash_and_a_jump_of_the_clock() {
    let world = World::new(Setup::brevo()).await;
    world.switch(json!({"brevo": {"rate_window": "sliding"}})).await;
    let relay = world.relay().await;
    for n in 0..90 {
        relay.append(vec![world.set(&format!("u{n}"), json!({"$email": format!("u{n}@example.com")}))]).await;
    }
    relay.until(BREVO, "at work", |report| report.backlog <= 75).await;
    relay.kill().await;
    let relay = world.relay().await;
    relay.until(BREVO, "at work again", |report| report.backlog <= 50).await;
    world.clock.shift(7_200_000);
    relay.until(BREVO, "going on", |report| report.backlog <= 30).await;
    world.clock.shift(-14_400_000);
    relay.settled().await;
    relay.drain().await;
    assert_eq!(world.answers("brevo", "/v3/", 429).await, 0);
    assert_eq!(world.show("/brevo/counts").await["contacts"], 90);
}

/// Dead letters that are full pause the leg; nothing is dropped, and a restart finds it full.
#[tokio::test]
async fn core15_full_dead_letters_pause_the_leg() {
    let world = World::new(Setup { max_dead_letter_bytes: 1, ..Setup::both() }).await;
    let relay = world.relay().await;
    // Refused by Mixpanel for its time, and by Brevo with its contact.
    let mut bad = world.purchase("u", 1);
    bad.body = text(&json!(String::from_utf8_lossy(&bad.body).replace("\"time\":", "\"time\":99999"))).into();
    relay.append(vec![bad, world.set("u", json!({"$email": "u@example.com", "$phone": "+33612345678"}))]).await;
    let full = |gate: GateState| matches!(gate, GateState::Paused { cause: PauseCause::DeadLettersFull, .. });
    let status = |destination| relay.leg(destination).status.clone();
    eventually("paused", async || full(status(MIXPANEL).gate().state())).await;
    for n in 2..12 {
        relay.append(vec![world.purchase("u", n)]).await;
    }
    relay.until(MIXPANEL, "waiting", |report| report.backlog >= 10 && report.dead_letters == 1).await;
    relay.kill().await;

    let relay = world.relay().await;
    let status = relay.leg(MIXPANEL).status.clone();
    eventually("paused again", async || full(status.gate().state())).await;
    assert!(relay.report(MIXPANEL).await.backlog >= 10);
    status.gate().resume();
    relay.until(MIXPANEL, "delivered", |report| report.backlog == 0).await;
    assert_eq!(relay.dead_letters(MIXPANEL).await.len(), 1);
    relay.drain().await;
    assert_eq!(world.show("/mixpanel/counts").await["records"]["stored"]["event"], 10);
}

/// With `when_full: skip_...` the oldest backlog of a destination that takes nothing is given up, calls that wait for it
/// included; the other destination gets everything, and what is newer arrives when the trouble is over.
#[tokio::test]
async fn core15_a_full_disk_costs_one_side_its_oldest() {
    for (gives_way, other, path) in [(MIXPANEL, BREVO, "/import"), (BREVO, MIXPANEL, "/v3/events")] {
        let world = World::new(Setup::both()).await;
        let relay = world.relay().await;
        relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
        relay.settled().await;
        world.faults(json!({"vendor": gives_way.label(), "path_prefix": path, "kind": "status", "status": 503})).await;
        for n in 0..10 {
            relay.append(vec![world.purchase("u", n)]).await;
        }
        let counts = format!("/{gives_way}/counts");
        eventually("trying", async || world.show(&counts).await["requests"]["faulted"].as_u64() > Some(0)).await;
        let below = *relay.store.journal.tip().borrow();
        for n in 10..15 {
            relay.append(vec![world.purchase("u", n)]).await;
        }
        relay.leg(gives_way).status.give_up(below);
        relay.until(gives_way, "given up", |report| report.backlog == 5).await;
        assert_eq!(relay.tally(gives_way).skipped.get(&SkipRule::Overflow), Some(&10));
        let passed = async || relay.leg(gives_way).status.durable_cursor().borrow().entry >= below;
        eventually("the journal can be trimmed", passed).await;
        relay.until(other, "all delivered", |report| report.backlog == 0).await;
        world.heal().await;
        relay.settled().await;
        let (there, here) = (relay.tally(gives_way).delivered.event, relay.tally(other).delivered.event);
        relay.drain().await;
        assert_eq!((there, here), (5, 15), "{gives_way} gives way");
    }
}

/// 401, 402 and 403 pause a destination; a probe that costs no record ends it by itself. An address that Brevo does not
/// know is told apart.
#[tokio::test]
async fn core16_refused_credentials_pause_and_a_probe_resumes() {
    for (status, body, cause) in [
        (401, json!({"code": "unauthorized", "message": "Key not found"}), PauseCause::Credentials),
        (
            401,
            json!({"code": "unauthorized", "message": "We have detected you are using an unrecognised IP address 1.2.3.4"}),
            PauseCause::UnknownIp,
        ),
        (402, json!({"code": "not_enough_credits", "message": "no credits"}), PauseCause::Payment),
        (403, json!({"code": "permission_denied", "message": "no"}), PauseCause::Permission),
    ] {
        let world = World::new(Setup::brevo()).await;
        world.faults(json!({"vendor": "brevo", "kind": "status", "status": status, "body": body})).await;
        let relay = world.relay().await;
        relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 1)]).await;
        let leg = relay.leg(BREVO).status.clone();
        eventually("paused", async || leg.gate().paused() == Some(cause)).await;
        assert_eq!(relay.report(BREVO).await.backlog, 2);
        world.heal().await;
        relay.settled().await;
        relay.drain().await;
        assert_eq!(numbers(&world.brevo_events().await), [1]);
    }
}
