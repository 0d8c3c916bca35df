//! What a trace says of records that did not end where the ledger saw it. That all of it adds up is checked at the end of
//! every test of a whole leg ([`crate::delivery::testing`]).

use std::sync::Arc;

use serde_json::{Value, json};

use crate::admin::trace::standing::Standing;
use crate::delivery::dead_letters::orders::Orders;
use crate::delivery::dead_letters::{DeadLetterId, Replay};
use crate::delivery::shift;
use crate::delivery::testing::{Relay, Setup, World, eventually};
use crate::record::{Destination, Position, Record};
use crate::vendor::verdict::PauseCause;

const BREVO: Destination = Destination::Brevo;

fn nth(first: Position, n: u32) -> Position {
    Position { index: first.index + n, ..first }
}

async fn record(relay: &Relay, position: Position) -> Record {
    relay.journal.read(position.entry, 1).await.unwrap()[0].records[position.index as usize].clone()
}

/// What is said of Brevo.
async fn told(relay: &Relay, position: Position) -> Value {
    let mut standing = Standing::load(&relay.state).await.unwrap();
    standing.of(position, &record(relay, position).await).await.unwrap()["brevo"].clone()
}

async fn is_told(relay: &Relay, position: Position, key: &str, wanted: &str) {
    eventually(&format!("{position} told as {wanted}"), async || told(relay, position).await[key] == wanted).await;
}

#[tokio::test]
async fn core13_whoever_waited_has_their_end_told() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    let parked = relay.append(vec![world.purchase("late", 1)]).await;
    is_told(&relay, parked, "outcome", "parked").await;
    let unmapped = relay.append(vec![world.event("Other", "u", 2)]).await;
    is_told(&relay, unmapped, "rule", "unmapped_event").await;

    // Three updates become one write; a bystander's between them is a write of its own.
    relay.leg(BREVO).status.gate().pause(PauseCause::ByHand);
    let plan = |id: &str, plan: &str| world.set(id, json!({"$email": format!("{id}@example.com"), "plan": plan}));
    let joint = relay.append(vec![plan("u", "a"), plan("u", "b"), plan("v", "x"), plan("u", "c")]).await;
    is_told(&relay, nth(joint, 3), "outcome", "backlog").await;
    relay.leg(BREVO).status.gate().resume();
    for n in 0..4 {
        is_told(&relay, nth(joint, n), "outcome", "delivered").await;
    }
    for n in [0, 1, 3] {
        assert_eq!(told(&relay, nth(joint, n)).await["with"], nth(joint, 3).to_string());
    }
    assert_eq!(told(&relay, nth(joint, 2)).await["with"], Value::Null, "of nobody else");

    relay.append(vec![world.set("late", json!({"$email": "late@example.com"}))]).await;
    is_told(&relay, parked, "outcome", "delivered").await;
    relay.settled().await;

    // Over a crash: what was written down is told, and nothing else.
    relay.kill().await;
    let relay = world.relay().await;
    is_told(&relay, parked, "outcome", "delivered").await;
    is_told(&relay, nth(joint, 1), "with", &nth(joint, 3).to_string()).await;
    relay.settled().await;
    relay.drain().await;
}

#[tokio::test]
async fn core13_a_letter_has_its_end_told_whatever_is_ordered() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.settled().await;
    let refusal = json!({"code": "invalid_parameter", "message": "not today"});
    world
        .faults(
            json!({"vendor": "brevo", "path_prefix": "/v3/events", "kind": "status", "status": 400, "body": refusal}),
        )
        .await;
    let again = relay.append(vec![world.purchase("u", 1)]).await;
    let purged = relay.append(vec![world.purchase("u", 2)]).await;
    for position in [again, purged] {
        is_told(&relay, position, "outcome", "dead").await;
    }
    assert!(told(&relay, again).await["answer"].as_str().unwrap().contains("not today"));
    world.heal().await;
    let state = relay.state.clone();
    let clock = world.clock.clone();
    relay.drain().await;

    // Both orders are carried out while the leg stands back, as here where there is none.
    let ((mixpanel, _mixpanel), (brevo, requests)) = (shift::shift(), shift::shift());
    let orders = Arc::new(Orders { state, mixpanel, brevo, clock });
    let standing_back = tokio::spawn(async move {
        let _ = shift::run(requests, tokio_util::sync::CancellationToken::new(), async |over| {
            Ok::<_, std::convert::Infallible>(async move {
                over.cancelled().await;
                Ok(())
            })
        })
        .await;
    });
    let id = |position| DeadLetterId { destination: BREVO, position };
    let how = Replay { at: crate::clock::UnixMillis(0), trigger_automations: false };
    assert_eq!(orders.clone().purge(BREVO, vec![id(purged)], |_, _| Ok(())).await.unwrap(), 1);
    assert_eq!(orders.replay(BREVO, vec![id(again)], how, |_, _| Ok(())).await.unwrap(), 1);
    standing_back.abort();

    let relay = world.relay().await;
    is_told(&relay, again, "outcome", "delivered").await;
    assert_eq!(told(&relay, purged).await["rule"], "purged");
    relay.settled().await;
    relay.drain().await;
}
