use serde_json::{Value, json};

use super::*;
use crate::delivery::testing::{Setup, World, eventually};
use crate::record::{Destination, Kind};

fn profile(id: &str, set: Value) -> Draft {
    Draft::profile(id, set.as_object().unwrap(), &[])
}

#[test]
fn batches_are_bounded_and_keep_the_order() {
    let small: Vec<_> = (0..1_200).map(|n| profile(&n.to_string(), json!({}))).collect();
    let parts = batches(small.clone());
    assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [500, 500, 200]);
    assert_eq!(parts.concat(), small);
    let big: Vec<_> = (0..3).map(|n| profile("u", json!({"x": "y".repeat(300 << 10), "n": n}))).collect();
    assert_eq!(batches(big.clone()).concat(), big);
    assert_eq!(batches(big).len(), 3);
    assert!(batches(Vec::new()).is_empty());
}

#[test]
fn a_profile_names_what_it_holds_and_what_it_does_not() {
    let draft = Draft::profile("u", json!({"plan": "pro"}).as_object().unwrap(), &["name"]);
    let body: Value = serde_json::from_slice(&draft.body).unwrap();
    assert_eq!(body, json!({"$distinct_id": "u", "$set": {"plan": "pro"}, "$unset": ["name"]}));
    assert_eq!(draft.kind, Kind::Profile);
}

/// While Brevo takes nothing, only so much is appended; an app's record is appended all the same, and what waited goes on
/// when Brevo is back.
#[tokio::test]
async fn only_so_much_is_appended_at_a_time() {
    let world = World::new(Setup::brevo()).await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "black_hole"})).await;
    let relay = world.relay().await;
    let leg = relay.leg(Destination::Brevo).status.clone();
    let journal = relay.store.journal.clone();
    let feed = Arc::new(Feed::new(journal.clone(), Arc::default(), leg, world.clock.clone()));
    let drafts: Vec<_> =
        (0..11_000).map(|n| profile(&format!("u{n}"), json!({"$email": format!("u{n}@example.com")}))).collect();
    let feeding = tokio::spawn({
        let feed = feed.clone();
        async move { feed.append(Origin::Pull, Destinations::BREVO, drafts).await.unwrap() }
    });
    eventually("full", async || journal.accepted().profile == UNSETTLED).await;
    tokio::time::sleep(3 * RECHECK).await;
    assert_eq!(journal.accepted().profile, UNSETTLED);
    feed.append_now(Origin::App, Destinations::BREVO, vec![profile("live", json!({"plan": "x"}))]).await.unwrap();
    assert_eq!(journal.accepted().profile, UNSETTLED + 1);
    assert!(!feeding.is_finished());
    feeding.abort();
    relay.kill().await;
}

/// Each stands in the leg's ledger until it is sent. Were there more of them, with others that are settled between them, the
/// ledger would be full, and an app's record would not even be read.
#[tokio::test]
async fn only_so_many_events_stand_in_the_ledger_and_apps_go_past_them() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    relay.append((0..50).map(|n| world.set(&format!("u{n}"), json!({"$email": format!("u{n}@x.io")}))).collect()).await;
    relay.settled().await;
    let leg = relay.leg(Destination::Brevo).status.clone();
    leg.gate().pause(crate::vendor::PauseCause::ByHand);
    let journal = relay.store.journal.clone();
    let feed = Arc::new(Feed::new(journal.clone(), Arc::default(), leg.clone(), world.clock.clone()));
    // Every other one is of somebody whom nobody knows.
    let event = |n: i64| {
        let record = world.purchase(&format!("{}{}", if n % 2 == 0 { "u" } else { "nobody" }, n % 50), n);
        Draft::new(Kind::Event, record.body)
    };
    let drafts: Vec<_> = (0..12_000).map(event).collect();
    let feeding = tokio::spawn({
        let feed = feed.clone();
        async move { feed.append(Origin::Pull, Destinations::BREVO, drafts).await.unwrap() }
    });
    // A batch of 500 leaves 250 there: it takes no more when another might not fit.
    eventually("as many as there is room for", async || leg.snapshot().in_ledger > EVENTS / 2).await;
    tokio::time::sleep(3 * RECHECK).await;
    let load = leg.load().await.unwrap();
    assert!(load.in_ledger <= EVENTS && !feeding.is_finished(), "{load:?}");
    relay.append(vec![world.purchase("u0", 100_000)]).await;
    eventually("read", async || leg.load().await.unwrap().unread == 0).await;
    leg.gate().resume();
    eventually("at Brevo", async || world.brevo_events().await.iter().any(|(n, _)| *n == 100_000)).await;
    let before = world.brevo_events().await.iter().position(|(n, _)| *n == 100_000).unwrap();
    assert!(before < 3_000, "{before} of 6,000 were sent before it");
    feeding.abort();
    relay.kill().await;
}

#[tokio::test]
async fn the_erased_are_left_out() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    let tombstones = Arc::new(Tombstones::default());
    let ada = tombstones.now().of_id("ada");
    tombstones.replace(|ids, _| {
        ids.insert(ada);
    });
    let leg = relay.leg(Destination::Brevo).status.clone();
    let feed = Feed::new(relay.store.journal.clone(), tombstones, leg, world.clock.clone());
    let drafts = vec![profile("ada", json!({})), profile("bob", json!({}))];
    let fed = feed.append(Origin::Pull, Destinations::BREVO, drafts.clone()).await.unwrap();
    assert_eq!(fed, Fed { appended: 1, erased: 1 });
    let fed = feed.append_now(Origin::Pull, Destinations::BREVO, drafts[..1].to_vec()).await.unwrap();
    assert_eq!(fed, Fed { appended: 0, erased: 1 });
    assert_eq!(relay.store.journal.accepted().profile, 1);
    relay.settled().await;
    relay.drain().await;
}
