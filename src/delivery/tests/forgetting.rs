//! People of whom nothing was heard for long (`retention.unseen_people`).

use std::sync::Arc;

use serde_json::{Value, json};

use crate::delivery::testing::{Relay, Setup, TOKEN, World, eventually};
use crate::people::roster;
use crate::record::{Destination, Kind};
use crate::store::{KeyRange, State, Table};

const BREVO: Destination = Destination::Brevo;
const DAY_MS: i64 = 86_400_000;

async fn known(relay: &Relay) -> Vec<String> {
    let state: Arc<dyn State> = relay.store.state.clone();
    let rows = state.scan(Table::People, KeyRange::all(), 100).await.unwrap();
    rows.into_iter().map(|(id, _)| String::from_utf8(id).unwrap()).collect()
}

async fn done(relay: &Relay) {
    for destination in Destination::ALL {
        relay.until(destination, "done", |report| report.backlog == 0 && report.parked == 0).await;
    }
}

/// Who was not heard of is forgotten with every id of theirs and every row; who comes back is new, and nothing is folded
/// from nothing.
#[tokio::test]
async fn people_who_are_not_heard_of_are_forgotten_and_begin_anew() {
    let world = World::new(Setup::both()).await;
    let relay = world.relay().await;
    let pair = json!({"token": TOKEN, "distinct_id": "u", "$device_id": "x", "$user_id": "u"});
    relay.append(vec![world.record(Kind::Event, &json!({"event": "Unmapped", "properties": pair}))]).await;
    for id in ["u", "v"] {
        let email = format!("{id}@example.com");
        relay.append(vec![world.set(id, json!({"$email": email, "total_revenue": 100, "plan": "pro"}))]).await;
    }
    done(&relay).await;
    let contact = world.contact("u").await["id"].clone();
    relay.drain().await;

    world.clock.shift(200 * DAY_MS);
    let relay = world.relay().await;
    relay.append(vec![world.set("v", json!({"plan": "max"}))]).await;
    done(&relay).await;
    assert_eq!(known(&relay).await, ["$device:x", "u", "v"]);
    relay.drain().await;

    world.clock.shift(202 * DAY_MS);
    let relay = world.relay().await;
    eventually("forgotten", async || known(&relay).await == ["v"]).await;
    let state: Arc<dyn State> = relay.store.state.clone();
    assert_eq!(state.count(Table::Seen, KeyRange::all()).await.unwrap().0, 1);
    let addresses = state.scan(Table::Addresses, KeyRange::all(), 100).await.unwrap();
    assert!(addresses.iter().all(|(key, _)| key.ends_with(b"\x1fv")), "{addresses:?}");
    drop(state);
    relay.append(vec![world.update("u", "$add", json!({"total_revenue": 5}))]).await;
    relay.append(vec![world.update("v", "$add", json!({"total_revenue": 7}))]).await;
    done(&relay).await;
    for (id, revenue) in [("u", 105), ("v", 107)] {
        assert_eq!(world.contact(id).await["attributes"]["LTV"], revenue, "{id}");
    }
    assert_eq!(world.contact("u").await["id"], contact);
    relay.drain().await;
}

/// Whoever is owed something, or has something waiting, is not forgotten before that is over.
#[tokio::test]
async fn nobody_is_forgotten_who_is_owed_something() {
    let mut setup = Setup::brevo();
    setup.parking.max_age = std::time::Duration::from_hours(24 * 3_000);
    let world = World::new(setup).await;
    let relay = world.relay().await;
    for id in ["owed", "rest"] {
        relay.append(vec![world.set(id, json!({"$email": format!("{id}@example.com")}))]).await;
    }
    relay.append(vec![world.set("parked", json!({"plan": "pro"}))]).await;
    relay.until(BREVO, "there", |report| report.backlog == 0 && report.parked == 1).await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "black_hole"})).await;
    relay.append(vec![world.set("owed", json!({"plan": "pro"}))]).await;
    let state: Arc<dyn State> = relay.store.state.clone();
    // Alone, and for the second update: what was paid before is written down too.
    eventually("owed", async || {
        let owed = roster::indebted(&state, None, 10).await.unwrap();
        owed.len() == 1 && !owed[0].debt.attributes.is_empty()
    })
    .await;
    drop(state);
    relay.kill().await;

    world.clock.shift(402 * DAY_MS);
    let relay = world.relay().await;
    eventually("looked", async || known(&relay).await == ["owed", "parked"]).await;
    world.heal().await;
    relay.append(vec![world.set("parked", json!({"$email": "parked@example.com"}))]).await;
    relay.until(BREVO, "done", |report| report.backlog == 0 && report.parked == 0).await;
    for id in ["owed", "parked"] {
        assert_eq!(world.contact(id).await["attributes"]["PLAN_TYPE"], "pro", "{id}");
    }
    assert_ne!(world.contact("rest").await, Value::Null, "what Brevo has is not the relay's to forget");
    relay.drain().await;
}
