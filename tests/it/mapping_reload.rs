//! Trying a mapping out on what has just passed, and taking it up while the relay runs; then finding out what became of a
//! record.

use serde_json::{Value, json};

use crate::harness::http::JSON;
use crate::harness::records::{event, set};
use crate::harness::relay::ADMIN_TOKEN;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

async fn post(relay: &Relay, path: &str, body: Value) -> (u16, Value) {
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    let answer = relay.post(path, &[("authorization", &bearer), JSON], body.to_string()).await;
    (answer.status, answer.json())
}

#[tokio::test]
async fn a_mapping_is_tried_out_then_taken_up_and_records_are_mapped_by_one_of_the_two() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, json!({})).await;
    relay.take("/engage", &json!([set("u", json!({ "$email": "u@example.com" }))])).await;
    relay.take("/track", &json!([event("Purchase", "u", "n0")])).await;
    relay.take("/track", &json!([event("Viewed", "u", "n1")])).await;
    relay.drained("brevo").await;

    // On the last records: only the event that is mapped anew differs.
    let tried = json!({ "event_mapping": { "Purchase": "order_completed", "Viewed": "page_viewed" } });
    let (status, shown) = post(&relay, "/v1/mapping/preview", json!({ "recent": 10, "mapping": tried })).await;
    assert_eq!((status, &shown["differing"]), (200, &json!(1)), "{shown}");
    let items = shown["items"].as_array().unwrap();
    assert_eq!(items.len(), 3);
    let viewed = items.iter().find(|item| item["record"]["event"] == "Viewed").unwrap();
    assert_eq!((&viewed["now"]["rule"], &viewed["differs"]), (&json!("unmapped_event"), &json!(true)));
    assert_eq!(viewed["then"]["calls"][0]["body"]["event_name"], "page_viewed");

    // What cannot be a mapping is told, and nothing changes.
    let wrong = json!({ "records": [], "mapping": { "property_mapping": { "plan": "EMAIL!" } } });
    assert_eq!(post(&relay, "/v1/mapping/preview", wrong).await.0, 400);
    let (status, refused) = post(&relay, "/v1/mapping/preview", json!({ "mapping": { "store": "x" } })).await;
    assert_eq!(status, 400, "{refused}");
    relay.configure(json!({ "mapping_tests": [{ "name": "t", "given": { "event": "Viewed", "properties": {} },
        "expect": { "event": "something_else" } }] }));
    let (status, refused) = post(&relay, "/v1/mapping/reload", json!({})).await;
    assert_eq!(status, 400, "{refused}");
    relay.configure(json!({ "mapping_tests": null }));
    let (status, same_again) = post(&relay, "/v1/mapping/reload", json!({})).await;
    assert_eq!((status, &same_again["changed"], &same_again["version"]["number"]), (200, &json!(false), &json!(1)));

    // Taken up in the middle of a backlog: what Brevo has not been sent goes by the new mapping.
    sandbox.faults(json!([{ "vendor": "brevo", "kind": "status", "status": 503 }])).await;
    relay.take("/track", &json!([event("Purchase", "u", "n2")])).await;
    relay.configure(json!({ "event_mapping": { "Purchase": "bought", "Viewed": "page_viewed" } }));
    let (status, reloaded) = post(&relay, "/v1/mapping/reload", json!({})).await;
    assert_eq!((status, &reloaded["changed"], &reloaded["version"]["number"]), (200, &json!(true), &json!(2)));
    relay.take("/track", &json!([event("Viewed", "u", "n3")])).await;
    sandbox.heal().await;
    let names = async || {
        let events = sandbox.brevo_events().await;
        let mut names: Vec<_> = events.iter().map(|event| event["event_name"].as_str().unwrap().to_owned()).collect();
        names.sort_unstable();
        names
    };
    let expected = ["bought", "order_completed", "page_viewed"].map(str::to_owned).to_vec();
    eventually(PATIENCE, async || same("events", names().await, expected.clone())).await;

    // Written down with who wanted it; the same mapping after a restart is the same version.
    let audit = relay.admin("GET", "/v1/audit").await.ok().json();
    assert_eq!((&audit["items"][0]["action"], &audit["items"][0]["detail"]["version"]), (&json!("reload"), &json!(2)));
    relay.kill().await;
    relay.start_again().await;
    let (_, shown) = post(&relay, "/v1/mapping/preview", json!({})).await;
    assert_eq!(shown["version"]["number"], 2);
}

#[tokio::test]
async fn a_record_is_traced_by_its_id_its_person_and_their_address() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    relay.take("/engage", &json!([set("u", json!({ "$email": "u@example.com" }))])).await;
    for n in 0..40 {
        relay.take("/track", &json!([event("Viewed", "other", &format!("o{n}"))])).await;
    }
    relay.drained("brevo").await;
    let refusal = json!({ "code": "invalid_parameter", "message": "not today" });
    let fault =
        json!({ "vendor": "brevo", "path_prefix": "/v3/events", "kind": "status", "status": 400, "body": refusal });
    sandbox.faults(json!([fault])).await;
    relay.take("/track", &json!([event("Purchase", "u", "bad")])).await;
    relay.dead_letters("brevo", 1).await;
    sandbox.faults(json!([{ "vendor": "brevo", "kind": "status", "status": 503 }])).await;
    relay.take("/track", &json!([event("Purchase", "u", "waits")])).await;
    relay.take("/track", &json!([event("Purchase", "nobody", "parked")])).await;

    let trace = async |query: &str| relay.admin("GET", &format!("/v1/trace?{query}")).await.ok().json();
    let brevo = async |query: &str| {
        eventually(PATIENCE, async || {
            let found = trace(query).await["items"][0]["destinations"]["brevo"].clone();
            if found.is_null() { Err(format!("{query} is not found")) } else { Ok(found) }
        })
        .await
    };
    let dead = brevo("insert_id=bad").await;
    assert_eq!((&dead["outcome"], &dead["reason"]), (&json!("dead"), &json!("rejected")));
    assert!(dead["answer"].as_str().unwrap().contains("not today"), "{dead}");
    assert_eq!(dead["mapping"]["calls"][0]["body"]["event_name"], "order_completed");
    assert_eq!(brevo("insert_id=waits").await["outcome"], "backlog");
    let parked = async || same("parked", brevo("insert_id=parked").await["outcome"].clone(), json!("parked"));
    eventually(PATIENCE, parked).await;
    let viewed = brevo("insert_id=o7").await;
    assert_eq!((&viewed["outcome"], &viewed["rule"]), (&json!("skipped"), &json!("unmapped_event")));
    let at_mixpanel = trace("insert_id=o7").await["items"][0]["destinations"]["mixpanel"].clone();
    assert_eq!(at_mixpanel["outcome"], "delivered", "{at_mixpanel}");
    assert!(at_mixpanel["at"].is_string() && viewed["at"].is_string());
    // By how they stand, where.
    for (query, count) in [
        ("destination=brevo&outcome=skipped", 40),
        ("destination=brevo&outcome=dead", 1),
        ("destination=mixpanel&outcome=dead", 0),
        ("destination=brevo&outcome=parked", 1),
        ("destination=brevo&outcome=delivered", 1),
    ] {
        let found = trace(query).await["items"].as_array().unwrap().len();
        assert_eq!(found, count, "{query}");
    }

    // A person by id and by address: newest first, page after page, and nobody else's.
    let found = trace("email=U@example.com").await;
    assert!(found["distinct_ids"].as_array().unwrap().contains(&json!("u")));
    let kinds: Vec<_> = found["items"].as_array().unwrap().iter().map(|item| item["kind"].clone()).collect();
    assert_eq!(kinds, ["event", "event", "profile"]);
    let (mut query, mut count) = ("distinct_id=other&limit=5".to_owned(), 0);
    loop {
        let page = trace(&query).await;
        let found = page["items"].as_array().unwrap().len();
        assert!(found <= 5, "each of them is a request of its own");
        count += found;
        let Some(next) = page["next"].as_str() else { break };
        query = format!("distinct_id=other&limit=5&cursor={next}");
    }
    assert_eq!(count, 40);
    for (query, status) in [
        ("", 200),
        ("kind=profile", 200),
        ("kind=x", 400),
        ("outcome=x", 400),
        ("destination=x", 400),
        ("email=x@example.com", 200),
        ("insert_id=a&email=b", 400),
        ("insert_id=a&cursor=x", 400),
    ] {
        assert_eq!(relay.admin("GET", &format!("/v1/trace?{query}")).await.status, status, "{query}");
    }
}
