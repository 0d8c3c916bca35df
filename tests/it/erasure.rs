//! CORE 12: an erased person is gone from the relay, comes back from nowhere, and costs nobody else a record.

use mixrelay::record::EntryId;
use mixrelay::store::Journal as _;
use mixrelay::store::sqlite::{self, OpenOptions};
use serde_json::{Value, json};

use crate::harness::http::JSON;
use crate::harness::metrics::Balance;
use crate::harness::records::{event, set};
use crate::harness::relay::SERVICE_ACCOUNT;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually};

const ADA: &str = "ada-lovelace-1815";
const ADDRESS: &str = "ada.lovelace@example.com";

fn with_oauth() -> Value {
    json!({ "connectors": { "mixpanel": { "oauth_token": "sandbox-oauth" } }, "retention": { "history": "1h" } })
}

/// What no file, block or answer may hold any more.
fn names_ada(bytes: &[u8]) -> bool {
    [ADA, ADDRESS].iter().any(|what| bytes.windows(what.len()).any(|window| window == what.as_bytes()))
}

/// Bytes of the store's files and of every block, decoded. The relay must be down.
async fn remains(relay: &Relay) -> Vec<(String, Vec<u8>)> {
    let mut all = files(relay);
    let options = OpenOptions {
        path: relay.directory().join("mixrelay.db"),
        min_free: Some(1),
        allow_volatile: true,
        clock: std::sync::Arc::new(mixrelay::clock::SystemClock),
    };
    let store = sqlite::open(options).unwrap();
    for entry in store.journal.read(EntryId::FIRST, usize::MAX).await.unwrap() {
        for record in &entry.records {
            all.push((format!("entry {}", entry.id.0), record.body.to_vec()));
        }
    }
    all
}

fn files(relay: &Relay) -> Vec<(String, Vec<u8>)> {
    let files = std::fs::read_dir(relay.directory()).unwrap().map(|file| file.unwrap().path());
    let stored = files.filter(|path| {
        path.file_name().unwrap().to_str().unwrap().starts_with("mixrelay.") && path.extension().unwrap() != "yaml"
    });
    stored.map(|path| (path.display().to_string(), std::fs::read(path).unwrap())).collect()
}

async fn receipt(relay: &Relay, id: &str) -> Value {
    let page = relay.admin("GET", "/v1/erasures").await.ok().json();
    page["items"].as_array().unwrap().iter().find(|item| item["id"] == id).unwrap().clone()
}

async fn finished(relay: &Relay, id: &str) -> Value {
    eventually(PATIENCE, async || {
        let receipt = receipt(relay, id).await;
        if receipt["finished_at"].is_null() { Err(format!("{receipt}")) } else { Ok(receipt) }
    })
    .await
}

async fn stage(relay: &Relay, id: &str, stage: &str) -> Value {
    eventually(PATIENCE, async || {
        let receipt = receipt(relay, id).await;
        if receipt["relay"]["stage"] == stage { Ok(receipt) } else { Err(format!("{receipt}")) }
    })
    .await
}

/// Three events of Ada and three of Bob in one request, so in one block.
fn both(round: &str) -> Value {
    let of = |who: &str, n: usize| event("Purchase", who, &format!("{who}-{round}-{n}"));
    json!([of(ADA, 0), of("bob", 0), of(ADA, 1), of("bob", 1), of("bob", 2), of(ADA, 2)])
}

#[tokio::test]
async fn core_12_an_erasure_while_mixpanel_is_paused_leaves_nothing_and_the_others_arrive() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, with_oauth()).await;
    let profiles = json!([set(ADA, json!({ "$email": ADDRESS })), set("bob", json!({ "$email": "bob@example.com" }))]);
    relay.take("/engage", &profiles).await;
    relay.drained("brevo").await;
    relay.drained("mixpanel").await;
    assert!(sandbox.brevo_contact(ADA).await.is_some());

    // A backlog for Mixpanel; Brevo has its part.
    relay.admin("POST", "/v1/destinations/mixpanel/pause").await.ok();
    relay.take("/track", &both("backlog")).await;
    relay.drained("brevo").await;

    assert!(files(&relay).iter().any(|(_, bytes)| names_ada(bytes)), "else there is nothing to erase");
    let begun = relay.admin("DELETE", &format!("/v1/people/{ADA}")).await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let id = begun.json()["id"].as_str().unwrap().to_owned();
    let done = stage(&relay, &id, "done").await;
    assert_eq!(done["relay"]["journal_records"], 4, "a profile and three events: {done}");
    assert!(!names_ada(done.to_string().as_bytes()), "{done}");

    // Late records are answered like any others, and stopped: 1 + 3 of Ada, 3 of Bob.
    relay.take("/engage", &json!([set(ADA, json!({ "$email": ADDRESS }))])).await;
    relay.take("/track", &both("late")).await;
    relay.admin("POST", "/v1/destinations/mixpanel/resume").await.ok();

    // 8 before, the mark, 7 after. Mixpanel: two profiles and Bob's six events; Ada's seven are skipped, and the mark.
    let mixpanel = Balance { accepted: 16, delivered: 8, skipped: 8, parked: 0, dead_letters: 0, backlog: 0 };
    relay.settles("mixpanel", mixpanel).await;
    // Brevo had Ada's three earlier events.
    relay.settles("brevo", Balance { delivered: 11, skipped: 5, ..mixpanel }).await;
    let metrics = relay.metrics().await;
    for (destination, erased) in [("mixpanel", 7.0), ("brevo", 4.0)] {
        let labels = [("destination", destination), ("rule", "erased")];
        assert_eq!(metrics.sum("mixrelay_records_skipped_total", &labels), erased, "{destination}");
    }
    let late: Vec<String> = sandbox.mixpanel_insert_ids().await.into_keys().collect();
    assert_eq!(late.len(), 6, "{late:?}");
    assert!(late.iter().all(|id| id.starts_with("bob-")), "{late:?}");

    let finished = finished(&relay, &id).await;
    assert_eq!(finished["mixpanel"]["state"]["is"], "done", "{finished}");
    assert_eq!((&finished["brevo"]["state"]["is"], &finished["brevo"]["contacts"]), (&json!("done"), &json!(1)));
    assert!(sandbox.brevo_contact(ADA).await.is_none() && sandbox.brevo_contact("bob").await.is_some());

    let about = relay.admin("GET", &format!("/v1/people/{ADA}")).await.ok().json();
    assert!(about["erased_since"].is_string() && about["held"] == json!([]), "{about}");
    assert!(!names_ada(relay.admin("GET", "/metrics").await.ok().body.as_bytes()));
    assert!(!names_ada(relay.admin("GET", "/v1/erasures").await.ok().body.as_bytes()));
    for (place, bytes) in files(&relay) {
        assert!(!names_ada(&bytes), "found in {place}, while running");
    }
    relay.kill().await;
    for (place, bytes) in remains(&relay).await {
        assert!(!names_ada(&bytes), "found in {place}");
    }
}

#[tokio::test]
async fn core_12_shelves_and_dead_letters_of_the_person_go_and_are_counted() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, with_oauth()).await;
    // Nobody Brevo could address: two events wait. One more is too deep for Mixpanel, and dies there.
    let mut deep = event("Poison", ADA, "deep-1");
    deep["properties"]["deep"] = json!({ "a": { "b": { "c": { "d": { "e": 1 } } } } });
    let records =
        json!([event("Purchase", ADA, "a-1"), event("Purchase", ADA, "a-2"), deep, event("Purchase", "bob", "b-1")]);
    relay.take("/track", &records).await;
    let brevo = Balance { accepted: 4, delivered: 0, skipped: 1, parked: 3, dead_letters: 0, backlog: 0 };
    relay.settles("brevo", brevo).await;
    let mixpanel = Balance { accepted: 4, delivered: 3, skipped: 0, parked: 0, dead_letters: 1, backlog: 0 };
    relay.settles("mixpanel", mixpanel).await;
    relay.dead_letters("mixpanel", 1).await;
    let about = eventually(PATIENCE, async || {
        let about = relay.admin("GET", &format!("/v1/people/{ADA}")).await.ok().json();
        if about["shelf"].as_array().unwrap().len() == 2 { Ok(about) } else { Err(about.to_string()) }
    })
    .await;
    assert_eq!(about["dead_letters"].as_array().unwrap().len(), 1, "{about}");

    let begun = relay.admin("DELETE", &format!("/v1/people/{ADA}")).await.json();
    let receipt = finished(&relay, begun["id"].as_str().unwrap()).await;
    assert_eq!((&receipt["relay"]["parked"], &receipt["relay"]["dead_letters"]), (&json!(2), &json!(1)), "{receipt}");
    relay.settles("brevo", Balance { accepted: 5, skipped: 4, parked: 1, ..brevo }).await;
    relay.settles("mixpanel", Balance { accepted: 5, skipped: 2, dead_letters: 0, ..mixpanel }).await;
    relay.kill().await;
    for (place, bytes) in remains(&relay).await {
        assert!(!names_ada(&bytes), "found in {place}");
    }
}

#[tokio::test]
async fn core_12_a_kill_in_the_middle_is_gone_on_from() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, with_oauth()).await;
    relay.take("/engage", &json!([set(ADA, json!({ "$email": ADDRESS }))])).await;
    relay.drained("brevo").await;
    relay.admin("POST", "/v1/destinations/mixpanel/pause").await.ok();
    relay.take("/track", &both("backlog")).await;
    relay.drained_or_parked("brevo").await;
    // Asked for and killed at once, again and again: every stage is left in the middle some time or other.
    let begun = relay.admin("DELETE", &format!("/v1/people/{ADA}")).await.json();
    let id = begun["id"].as_str().unwrap().to_owned();
    for _ in 0..4 {
        relay.kill().await;
        relay.start_again().await;
    }
    relay.take("/track", &both("late")).await;
    stage(&relay, &id, "done").await;
    relay.admin("POST", "/v1/destinations/mixpanel/resume").await.ok();
    finished(&relay, &id).await;
    sandbox.mixpanel_has_events(6, PATIENCE).await;
    let arrived: Vec<String> = sandbox.mixpanel_insert_ids().await.into_keys().collect();
    assert!(arrived.iter().all(|id| id.starts_with("bob-")), "{arrived:?}");
    let balance = relay.drained_or_parked("mixpanel").await;
    assert!(balance.adds_up(), "{balance:?}");
    relay.kill().await;
    for (place, bytes) in remains(&relay).await {
        assert!(!names_ada(&bytes), "found in {place}");
    }
}

#[tokio::test]
async fn core_12_a_deletion_forwarded_to_mixpanel_erases_here_and_a_blocklisted_contact_stays_so() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, with_oauth()).await;
    relay.take("/engage", &json!([set(ADA, json!({ "$email": ADDRESS }))])).await;
    relay.drained("brevo").await;
    let contact = sandbox.brevo_contact(ADA).await.unwrap();
    assert_eq!(contact["emailBlacklisted"], false, "{contact}");
    let put = format!("http://{}/v3/contacts/{}?identifierType=email_id", sandbox.brevo(), ADDRESS.replace('@', "%40"));
    let key = ("api-key", "xkeysib-sandbox");
    let blocked = relay.http().send("PUT", &put, &[key, JSON], r#"{"emailBlacklisted":true}"#).await.unwrap();
    assert_eq!(blocked.status, 204, "{blocked:?}");

    let body = json!({ "distinct_ids": [ADA], "compliance_type": "CCPA" }).to_string();
    let asked = relay.post("/api/app/data-deletions/v3.0/?token=sandbox-token", &[SERVICE_ACCOUNT, JSON], body).await;
    assert_eq!(asked.status, 201, "{asked:?}");
    let page = relay.admin("GET", "/v1/erasures").await.ok().json();
    let id = page["items"][0]["id"].as_str().unwrap().to_owned();
    let receipt = finished(&relay, &id).await;
    assert_eq!((&receipt["asked"], &receipt["compliance_type"]), (&json!("mixpanel_deletion"), &json!("CCPA")));
    assert_eq!(receipt["mixpanel"]["state"]["is"], "done", "{receipt}");
    assert!(sandbox.brevo_contact(ADA).await.is_none());

    // The same address under another id.
    relay.take("/engage", &json!([set("somebody-new", json!({ "$email": ADDRESS }))])).await;
    eventually(PATIENCE, async || sandbox.brevo_contact("somebody-new").await.ok_or("not there yet".to_owned())).await;
    assert_eq!(sandbox.brevo_contact("somebody-new").await.unwrap()["emailBlacklisted"], true);
}

/// An import may make a contact that has no ext_id, and makes it after the erasure was asked for.
#[tokio::test]
async fn core_12_whoever_is_in_an_import_goes_once_it_has_made_the_contact() {
    let sandbox = Sandbox::start().await;
    let slow = json!({ "import_ext_id": false, "import_queued_ms": 1_500, "import_processing_ms": 500 });
    sandbox.switch(json!({ "brevo": slow })).await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let profile = |id: &str, address: &str| set(id, json!({ "$email": address }));
    let others = (0..400).map(|n| profile(&format!("u{n}"), &format!("u{n}@example.com")));
    // The first in line are written singly.
    let mut everybody: Vec<Value> = others.collect();
    everybody.insert(300, profile(ADA, ADDRESS));
    relay.admin("POST", "/v1/destinations/brevo/pause").await.ok();
    relay.take("/engage", &json!(everybody)).await;
    eventually(PATIENCE, async || {
        let about = relay.admin("GET", &format!("/v1/people/{ADA}")).await.ok().json();
        if about["held"] == json!([]) { Err("not folded".to_owned()) } else { Ok(()) }
    })
    .await;
    relay.admin("POST", "/v1/destinations/brevo/resume").await.ok();
    eventually(PATIENCE, async || {
        let about = relay.admin("GET", &format!("/v1/people/{ADA}")).await.ok().json();
        let marked = about["held"][0]["debts"]["import"].is_object();
        let sent = sandbox.brevo_counts().await["requests"]["by_path"]["POST /contacts/import"] == 1;
        if marked && sent { Ok(()) } else { Err(format!("in no import: {about}")) }
    })
    .await;
    let begun = relay.admin("DELETE", &format!("/v1/people/{ADA}")).await.json();
    let receipt = finished(&relay, begun["id"].as_str().unwrap()).await;
    assert_eq!(receipt["brevo"]["contacts"], 1, "{receipt}");
    relay.drained("brevo").await;
    assert!(sandbox.brevo_contact(ADDRESS).await.is_none());
    assert!(sandbox.brevo_contact("u399@example.com").await.is_some());
}

/// More events than Brevo's leg takes in while it can send none: what comes behind them stays unread.
const MORE_THAN_WAIT: usize = 22_000;
const VISITOR: &str = "0b87f2a1-55d0-4c3b-9e0d-aaaaaaaa1815";
const BEFORE: &str = "ada-before-she-was-asked-1815";

/// What a visitor did, and the link that makes them Ada, stand in the backlogs of both when Ada is erased.
async fn erased_behind_a_backlog(identity: &str, visitor: &str, links: Value) {
    let names_them = |bytes: &[u8]| {
        let holds = |what: &str| bytes.windows(what.len()).any(|window| window == what.as_bytes());
        [ADA, VISITOR, BEFORE].into_iter().any(holds)
    };
    let sandbox = Sandbox::start().await;
    let mut tweaks = with_oauth();
    tweaks["connectors"]["mixpanel"]["identity"] = json!(identity);
    let mut relay = Relay::start(&sandbox, tweaks).await;
    let profiles = [set(ADA, json!({ "$email": ADDRESS })), set("bob", json!({ "$email": "bob@example.com" }))];
    relay.take("/engage", &json!(profiles)).await;
    relay.drained("brevo").await;
    for destination in ["brevo", "mixpanel"] {
        relay.admin("POST", &format!("/v1/destinations/{destination}/pause")).await.ok();
    }
    let events: Vec<Value> = (0..MORE_THAN_WAIT).map(|n| event("Purchase", "bob", &format!("bob-{n}"))).collect();
    for events in events.chunks(2_000) {
        relay.take("/track", &json!(events)).await;
    }
    relay.take("/track", &json!([event("Purchase", visitor, "v-1"), event("Purchase", "bob", "bob-last")])).await;
    relay.take("/track", &links).await;
    let known = relay.admin("GET", &format!("/v1/people/{ADA}")).await.ok().json();
    assert_eq!(known["ids"], json!([ADA]), "else there is nothing unread: {known}");

    let begun = relay.admin("DELETE", &format!("/v1/people/{ADA}")).await.json();
    let done = stage(&relay, begun["id"].as_str().unwrap(), "done").await;
    let links = links.as_array().unwrap().len();
    assert_eq!(done["erased_ids"], 1 + links, "{done}");
    assert_eq!(done["relay"]["journal_records"], 2 + links, "a profile, an event and the links: {done}");

    // Late ones of the visitor's are stopped too. Mixpanel gets two profiles, and Bob's events.
    relay.take("/track", &json!([event("Purchase", visitor, "v-2")])).await;
    relay.admin("POST", "/v1/destinations/mixpanel/resume").await.ok();
    relay.drained("mixpanel").await;
    let arrived = sandbox.mixpanel_insert_ids().await;
    assert_eq!(arrived.len(), MORE_THAN_WAIT + 1);
    assert!(arrived.keys().all(|id| id.starts_with("bob-")));
    relay.kill().await;
    for (place, bytes) in remains(&relay).await {
        assert!(!names_them(&bytes), "found in {place}");
    }
}

#[tokio::test]
async fn core_12_whom_an_unread_link_makes_the_same_person_is_erased_too_in_a_simplified_project() {
    let with_device = |name: &str, device: &str, user: &str| {
        let mut event = event(name, user, &format!("{name}-{device}"));
        event["properties"]["$device_id"] = json!(device);
        event["properties"]["$user_id"] = json!(user);
        event
    };
    let mut identify = with_device("$identify", VISITOR, ADA);
    identify["properties"]["$anon_distinct_id"] = json!(format!("$device:{VISITOR}"));
    let links = json!([identify, with_device("Purchase", BEFORE, ADA)]);
    erased_behind_a_backlog("simplified", &format!("$device:{VISITOR}"), links).await;
}

#[tokio::test]
async fn core_12_whom_an_unread_link_makes_the_same_person_is_erased_too_in_an_original_project() {
    let mut identify = event("$identify", BEFORE, "i-1");
    identify["properties"]["$identified_id"] = json!(BEFORE);
    identify["properties"]["$anon_id"] = json!(VISITOR);
    // The visitor is Ada by way of an id that is linked to her only afterwards.
    let mut alias = event("$create_alias", ADA, "i-2");
    alias["properties"]["alias"] = json!(BEFORE);
    erased_behind_a_backlog("original", VISITOR, json!([identify, alias])).await;
}

/// A 404 that is not Brevo's own says nothing of the contact: the receipt does not call it gone.
#[tokio::test]
async fn core_12_somebody_elses_404_does_not_end_an_erasure() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, with_oauth()).await;
    relay.take("/engage", &json!([set(ADA, json!({ "$email": ADDRESS }))])).await;
    relay.drained("brevo").await;
    let lost = json!({ "kind": "status", "status": 404, "body": { "message": "no such route" } });
    sandbox.faults(Sandbox::fault("brevo", "/v3/contacts/", lost)).await;
    let begun = relay.admin("DELETE", &format!("/v1/people/{ADA}")).await.json();
    let id = begun["id"].as_str().unwrap().to_owned();
    let asked = eventually(PATIENCE, async || {
        let receipt = receipt(&relay, &id).await;
        if receipt["brevo"]["said"].is_string() { Ok(receipt) } else { Err(format!("{receipt}")) }
    })
    .await;
    assert!(asked["finished_at"].is_null(), "{asked}");
    assert!(sandbox.brevo_contact(ADA).await.is_some());

    sandbox.heal().await;
    finished(&relay, &id).await;
    assert!(sandbox.brevo_contact(ADA).await.is_none());
}

/// What Mixpanel has said of the person is kept in memory only, and not beyond the erasure.
#[tokio::test]
async fn core_12_answers_that_were_kept_are_forgotten() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "auth": { "api_keys": ["reader-key-0123456789"] } })).await;
    let flags = json!({ "flags": { "for": ADA } });
    let profiles = json!([{ "distinct_id": ADA, "properties": { "$email": ADDRESS } }]);
    sandbox.control("POST", "/mixpanel/seed", json!({ "flags": flags["flags"], "profiles": profiles })).await;
    let question = format!("/flags/?context=%7B%22distinct_id%22%3A%22{ADA}%22%7D&token=sandbox-token");
    // As the SDKs ask: the token as a Basic user.
    let token = ("authorization", "Basic c2FuZGJveC10b2tlbjo=");
    let flagged = async || relay.send("GET", &question, &[token], "").await.ok().body;
    let bearer = ("authorization", "Bearer reader-key-0123456789");
    let profile = async || relay.send("GET", &format!("/api/2.0/engage?distinct_id={ADA}"), &[bearer], "").await.ok();
    let asked = async || {
        let requests = sandbox.get("/mixpanel/requests?path=/api/&limit=100").await;
        let requests = requests["requests"].as_array().unwrap().iter();
        requests.filter(|request| request["path"].as_str().unwrap().ends_with("/engage")).count()
    };
    assert!(flagged().await.contains(ADA) && profile().await.body.contains(ADDRESS));
    profile().await;
    assert_eq!(asked().await, 1, "the second answer is a kept one");

    let begun = relay.admin("DELETE", &format!("/v1/people/{ADA}")).await.json();
    stage(&relay, begun["id"].as_str().unwrap(), "done").await;
    let away = json!({ "kind": "status", "status": 503, "body": {} });
    sandbox.faults(Sandbox::fault("mixpanel", "/flags", away)).await;
    assert_eq!(flagged().await, r#"{"flags":{}}"#);
    profile().await;
    assert_eq!(asked().await, 2, "asked anew");
}
