//! Dead letters through the admin API: read, sent again, let go, over kills; and who has done it.

use serde_json::{Value, json};

use crate::harness::metrics::Balance;
use crate::harness::records::{event, set};
use crate::harness::relay::ADMIN_TOKEN;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

fn refuse(vendor: &str, path: &str) -> Value {
    let body = json!({ "code": "invalid_parameter", "message": "not today", "error": "not today", "status": 0 });
    json!([{ "vendor": vendor, "path_prefix": path, "kind": "status", "status": 400, "body": body }])
}

async fn ask(relay: &Relay, method: &str, path: &str, body: Value) -> Value {
    as_token(relay, ADMIN_TOKEN, method, path, &body).await.unwrap()
}

/// The answer, or the status of a refusal.
async fn as_token(relay: &Relay, token: &str, method: &str, path: &str, body: &Value) -> Result<Value, u16> {
    let headers = [("authorization", format!("Bearer {token}")), ("content-type", "application/json".to_owned())];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let answer = relay.send(method, path, &headers, body.to_string()).await;
    if answer.status == 200 { Ok(answer.json()) } else { Err(answer.status) }
}

const REPLAY: &str = "/v1/dead-letters/replay";

#[tokio::test]
async fn letters_are_read_sent_again_and_let_go() {
    let sandbox = Sandbox::start().await;
    let tokens = json!([{ "name": "growth", "role": "viewer", "token": "v" }, { "name": "ops", "role": "operator", "token": "o" }]);
    let mut relay = Relay::start(&sandbox, json!({ "auth": { "tokens": tokens } })).await;
    relay.take("/engage", &json!([set("u", json!({ "$email": "u@example.com" }))])).await;
    relay.drained("brevo").await;
    sandbox.faults(refuse("brevo", "/v3/events")).await;
    for n in 0..6 {
        relay.take("/track", &json!([event("Purchase", "u", &format!("n{n}"))])).await;
    }
    let held = relay.dead_letters("brevo", 6).await;
    let ids: Vec<&str> = held.iter().map(|letter| letter["id"].as_str().unwrap()).collect();

    // A dry run says what would be sent, and changes nothing.
    let dry = ask(&relay, "POST", REPLAY, json!({ "filter": {}, "dry_run": true })).await;
    assert_eq!((&dry["letters"], &dry["replayed"], &dry["by_name"]["Purchase"]), (&json!(6), &json!(6), &json!(6)));
    assert_eq!(dry["items"][0]["now"]["calls"][0]["body"]["event_name"], "order_completed");
    assert_eq!(dry["items"][0]["id"], ids[0]);
    relay.dead_letters("brevo", 6).await;

    // A viewer finds out why, and nothing of who it was.
    let seen = as_token(&relay, "v", "GET", "/v1/dead-letters", &json!({})).await.unwrap();
    let seen = &seen["items"][0];
    assert_eq!(
        (&seen["record"]["event"], &seen["record"]["properties"]["distinct_id"]),
        (&json!("Purchase"), &json!("…"))
    );
    assert!(seen["answer"].as_str().unwrap().contains("not today"), "{seen}");
    assert_eq!(as_token(&relay, "v", "GET", "/v1/dead-letters?masked=false", &json!({})).await, Err(403));
    let person = as_token(&relay, "v", "GET", "/v1/people/u", &json!({})).await.unwrap();
    assert!(person.to_string().contains("u…@example.com") && !person.to_string().contains("u@example.com"), "{person}");
    let traced = as_token(&relay, "v", "GET", "/v1/trace?email=u@example.com", &json!({})).await.unwrap();
    assert!(traced.to_string().contains("u…@example.com") && !traced.to_string().contains("u@example.com"), "{traced}");
    let recent = as_token(&relay, "v", "POST", "/v1/mapping/preview", &json!({ "recent": 20 })).await.unwrap();
    assert!(recent.to_string().contains("u…@example.com") && !recent.to_string().contains("u@example.com"), "{recent}");

    let probe =
        json!({ "recent": 20, "mapping": { "event_mapping": { "Purchase": { "name": "x", "when": { "a": 1 } } } } });
    assert_eq!(as_token(&relay, "v", "POST", "/v1/mapping/preview", &probe).await, Err(403));
    let own = json!({ "records": [event("Purchase", "u", "own")], "mapping": probe["mapping"] });
    assert_eq!(as_token(&relay, "v", "POST", "/v1/mapping/preview", &own).await.unwrap()["differing"], 1);

    // Roles: a viewer looks, an operator sends again, an admin lets go.
    let order = json!({ "ids": [ids[0]] });
    assert_eq!(as_token(&relay, "v", "POST", REPLAY, &order).await, Err(403));
    assert_eq!(as_token(&relay, "o", "DELETE", "/v1/dead-letters", &order).await, Err(403));
    assert_eq!(as_token(&relay, "o", "POST", REPLAY, &json!({})).await, Err(400));
    assert_eq!(as_token(&relay, "o", "POST", REPLAY, &json!({ "filter": { "reason": "sadness" } })).await, Err(400));

    // Two go again, one is let go; killed at once, it is so all the same, and only once.
    let unavailable = json!([{ "vendor": "brevo", "kind": "status", "status": 503 }]);
    sandbox.faults(unavailable).await;
    let replayed = as_token(&relay, "o", "POST", REPLAY, &json!({ "ids": [ids[0], ids[1]] })).await.unwrap();
    assert_eq!(replayed["replayed"], 2);
    let purged = ask(&relay, "DELETE", "/v1/dead-letters", json!({ "ids": [ids[2], ids[2], "brevo-9.9.9"] })).await;
    assert_eq!(purged["purged"], 1);
    relay.kill().await;
    relay.start_again().await;
    let after = Balance { accepted: 7, delivered: 1, skipped: 1, parked: 0, dead_letters: 3, backlog: 2 };
    relay.settles("brevo", after).await;
    relay.kill().await;
    relay.start_again().await;
    relay.settles("brevo", after).await;
    sandbox.heal().await;
    relay.settles("brevo", Balance { delivered: 3, backlog: 0, ..after }).await;
    assert_eq!(sandbox.brevo_events().await.len(), 2);

    // All that is left goes again while live traffic goes on.
    assert_eq!(ask(&relay, "POST", REPLAY, json!({ "filter": { "destination": "brevo" } })).await["replayed"], 3);
    relay.take("/track", &json!([event("Purchase", "u", "live")])).await;
    relay.settles("brevo", Balance { accepted: 8, delivered: 7, dead_letters: 0, backlog: 0, ..after }).await;
    assert_eq!(sandbox.brevo_events().await.len(), 6);

    // Who did what, newest first, kept over restarts.
    let audit = relay.admin("GET", "/v1/audit").await.ok().json();
    let items = audit["items"].as_array().unwrap();
    let (looks, items): (Vec<&Value>, Vec<&Value>) = items.iter().partition(|note| note["action"] == "unmask");
    assert_eq!(looks.len(), 1, "the admin has read letters; once is enough");
    let told: Vec<_> = items.iter().map(|note| (note["who"].clone(), note["action"].clone())).collect();
    let expected = [("admin", "replay"), ("admin", "purge"), ("ops", "replay")];
    assert_eq!(told, expected.map(|(who, action)| (json!(who), json!(action))));
    assert_eq!(items[2]["detail"]["letters"], 2);
}

#[tokio::test]
async fn an_older_profile_goes_to_mixpanel_again_only_by_force() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    sandbox.faults(refuse("mixpanel", "/engage")).await;
    relay.take("/engage", &json!([set("u", json!({ "plan": "old" })), set("other", json!({ "plan": "old" }))])).await;
    let held = relay.dead_letters("mixpanel", 2).await;
    let id = held[0]["id"].as_str().unwrap();
    sandbox.heal().await;
    relay.take("/engage", &json!([set("u", json!({ "plan": "new" }))])).await;
    let arrived = async || same("plan", plan(&sandbox, "u").await, json!("new"));
    eventually(PATIENCE, arrived).await;

    let dry = eventually(PATIENCE, async || {
        // The cursor that says what was delivered is written a moment later.
        let dry = ask(&relay, "POST", REPLAY, json!({ "filter": {}, "dry_run": true })).await;
        same("held back", dry["held_back"][id].clone(), json!("delivered")).map(|()| dry)
    })
    .await;
    assert_eq!((&dry["letters"], &dry["replayed"]), (&json!(2), &json!(1)));
    assert_eq!(dry["items"][0]["now"]["decision"], "hold_back");
    assert_eq!(ask(&relay, "POST", REPLAY, json!({ "filter": {} })).await["replayed"], 1);
    eventually(PATIENCE, async || same("plan", plan(&sandbox, "other").await, json!("old"))).await;
    relay.dead_letters("mixpanel", 1).await;
    assert_eq!(plan(&sandbox, "u").await, "new");

    assert_eq!(ask(&relay, "POST", REPLAY, json!({ "ids": [id], "force": true })).await["replayed"], 1);
    eventually(PATIENCE, async || same("plan", plan(&sandbox, "u").await, json!("old"))).await;
    let audit = relay.admin("GET", "/v1/audit").await.ok().json();
    assert_eq!(audit["items"][0]["action"], "force");
}

async fn plan(sandbox: &Sandbox, id: &str) -> Value {
    sandbox.mixpanel_profile(id).await.unwrap_or_default()["plan"].clone()
}

/// The same through the command line, which asks the running relay.
#[tokio::test]
async fn the_command_line_asks_the_running_relay() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    relay.take("/engage", &json!([set("u", json!({ "$email": "u@example.com" }))])).await;
    relay.drained("brevo").await;
    sandbox.faults(refuse("brevo", "/v3/events")).await;
    for n in 0..3 {
        relay.take("/track", &json!([event("Purchase", "u", &format!("n{n}"))])).await;
    }
    let held = relay.dead_letters("brevo", 3).await;
    let id = held[0]["id"].as_str().unwrap();
    sandbox.heal().await;
    let run = async |arguments: &[&str]| -> (bool, String) {
        let (code, said, complaint) = relay.command(&[&["dead-letters"], arguments].concat()).await;
        assert!(code == Some(0) || !complaint.is_empty());
        (code == Some(0), said)
    };
    let (ok, listed) = run(&["list", "--destination", "brevo"]).await;
    assert!(ok && listed.lines().count() == 3 && listed.contains(id), "{listed}");
    let (ok, shown) = run(&["show", id]).await;
    assert!(ok && serde_json::from_str::<Value>(&shown).unwrap()["record"]["event"] == "Purchase", "{shown}");
    let (ok, exported) = run(&["export"]).await;
    assert!(ok && exported.lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["reason"] == "rejected"));
    let (ok, _) = run(&["replay"]).await;
    assert!(!ok, "which letters has to be said");
    let (ok, dry) = run(&["replay", "--all", "--dry-run"]).await;
    assert!(ok && dry.contains("3 would be sent again") && dry.contains("Purchase: 3"), "{dry}");
    let (ok, purged) = run(&["purge", id]).await;
    assert!(ok && purged.contains("1 purged"), "{purged}");
    let (ok, replayed) = run(&["replay", "--all"]).await;
    assert!(ok && replayed.contains("2 are sent again"), "{replayed}");
    let end = Balance { accepted: 4, delivered: 3, skipped: 1, parked: 0, dead_letters: 0, backlog: 0 };
    relay.settles("brevo", end).await;
}
