//! Consent: only people who agreed are at Brevo, and a withdrawal goes ahead of everything of theirs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{Consent, OnConsentWithdrawn};
use crate::delivery::testing::{Setup, World, eventually};
use crate::record::Destination;
use crate::settlement::SkipRule;

const BREVO: Destination = Destination::Brevo;

/// `marketing_ok`, which is not mapped.
fn setup(how: OnConsentWithdrawn) -> Setup {
    let consent = Consent::Required { property: "marketing_ok".to_owned(), value: json!(true) };
    Setup { consent, on_consent_withdrawn: how, ..Setup::brevo() }.with_all_users()
}

async fn sent(world: &World) -> Vec<i64> {
    world.brevo_events().await.into_iter().map(|(n, _)| n).collect()
}

fn skipped(world_relay: &crate::delivery::testing::Relay) -> u64 {
    world_relay.skipped(BREVO, SkipRule::NoConsent)
}

#[tokio::test]
async fn only_people_who_agreed_are_sent_and_old_records_do_not_come_back() {
    let world = World::new(setup(OnConsentWithdrawn::Blocklist)).await;
    let relay = world.relay().await;
    // Nothing is known of the answer: that is a no, and nothing waits.
    relay
        .append(vec![world.set("u", json!({"$email": "u@example.com", "plan": "free"})), world.purchase("u", 1)])
        .await;
    relay.append(vec![world.purchase("visitor", 2)]).await;
    relay.append(vec![world.set("no", json!({"$email": "no@example.com", "marketing_ok": "yes"}))]).await;
    relay.append(vec![world.purchase("no", 3)]).await;
    let report = relay.until(BREVO, "settled", |report| report.backlog == 0).await;
    assert_eq!((report.parked, skipped(&relay)), (0, 5));
    assert_eq!(world.show("/brevo/counts").await["contacts"], 0);

    relay.append(vec![world.set("u", json!({"marketing_ok": true})), world.purchase("u", 4)]).await;
    relay.settled().await;
    assert_eq!(relay.tally(BREVO).delivered.event, 1);
    relay.drain().await;
    // The profile is as it is now; the events of before stay away.
    assert_eq!(world.contact("u@example.com").await["attributes"]["PLAN_TYPE"], "free");
    assert_eq!(sent(&world).await, [4]);
}

/// What is queued for the person is skipped, what stands on the shelf too, then Brevo is told.
#[tokio::test]
async fn a_withdrawal_goes_ahead_of_the_persons_queue() {
    let world = World::new(setup(OnConsentWithdrawn::Blocklist)).await;
    let relay = world.relay().await;
    let yes = |email: &str| json!({"$email": email, "marketing_ok": true});
    relay.append(vec![world.set("u", yes("u@example.com")), world.set("v", yes("v@example.com"))]).await;
    // Without an address, so this one's events wait on a shelf.
    relay.append(vec![world.set("shelf", json!({"marketing_ok": true})), world.purchase("shelf", 50)]).await;
    relay.until(BREVO, "there", |report| report.backlog == 0 && report.parked == 2).await;

    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/events", "kind": "status", "status": 503})).await;
    for n in 1..6 {
        relay.append(vec![world.purchase("u", n), world.purchase("v", 10 + n)]).await;
    }
    relay.append(vec![world.set("u", json!({"plan": "pro"}))]).await;
    relay
        .append(vec![
            world.set("u", json!({"marketing_ok": false})),
            world.set("shelf", json!({"marketing_ok": false})),
        ])
        .await;
    relay.append(vec![world.purchase("u", 6)]).await;
    relay.until(BREVO, "let go of the shelf", |report| report.parked == 0).await;
    world.heal().await;
    relay.settled().await;
    relay.drain().await;
    let contact = world.contact("u@example.com").await;
    assert_eq!((&contact["emailBlacklisted"], &contact["smsBlacklisted"]), (&json!(true), &json!(true)), "{contact}");
    let sent = sent(&world).await;
    assert!(!sent.contains(&6) && !sent.contains(&50), "{sent:?}");
    // One call may have been under way when it came.
    assert_eq!(sent.iter().filter(|n| **n > 10).count(), 5, "{sent:?}");
    assert_eq!(world.contact("v@example.com").await["emailBlacklisted"], false);
}

#[tokio::test]
async fn a_withdrawal_does_what_the_configuration_says() {
    for how in [OnConsentWithdrawn::Blocklist, OnConsentWithdrawn::RemoveFromLists, OnConsentWithdrawn::DeleteContact] {
        let world = World::new(setup(how)).await;
        // Known to Brevo from before this relay; and somebody who shares the address of another one's contact.
        let before = json!([
            {"email": "old@example.com", "list_ids": [15, 16]},
            {"email": "shared@example.com", "ext_id": "first"},
        ]);
        world.control("POST", "/brevo/seed", json!({"contacts": before})).await;
        let relay = world.relay().await;
        relay.append(vec![world.set("u", json!({"$email": "u@example.com", "marketing_ok": true}))]).await;
        relay.settled().await;
        assert_eq!(world.contact("u").await["listIds"], json!([15]));
        relay.append(vec![world.set("u", json!({"marketing_ok": false}))]).await;
        for (id, email) in [("old", "old@example.com"), ("second", "shared@example.com"), ("nobody", "n@example.com")] {
            relay.append(vec![world.set(id, json!({"$email": email, "marketing_ok": false}))]).await;
        }
        relay.settled().await;
        assert_eq!(relay.tally(BREVO).delivered.profile, 4, "{how:?}");
        assert_eq!(skipped(&relay), 1, "{how:?}");
        relay.drain().await;
        for email in ["u@example.com", "old@example.com"] {
            let contact = world.contact(email).await;
            match how {
                OnConsentWithdrawn::Blocklist => assert_eq!(contact["emailBlacklisted"], true, "{contact}"),
                OnConsentWithdrawn::RemoveFromLists => {
                    assert_eq!((&contact["emailBlacklisted"], &contact["listIds"]), (&json!(false), &json!([])));
                }
                OnConsentWithdrawn::DeleteContact => assert_eq!(contact, Value::Null, "{email}"),
            }
        }
        assert!(world.contact("n@example.com").await.is_null());
        let shared = world.contact("shared@example.com").await;
        assert_eq!(shared["attributes"]["EXT_ID"], "first", "another's contact is not deleted");
        assert_eq!(shared["emailBlacklisted"], how != OnConsentWithdrawn::RemoveFromLists);
    }
}

/// A blocklisted contact stays so, whatever is agreed to later.
#[tokio::test]
async fn a_later_yes_resubscribes_nobody() {
    let world = World::new(setup(OnConsentWithdrawn::Blocklist)).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com", "marketing_ok": true}))]).await;
    relay.settled().await;
    relay.append(vec![world.set("u", json!({"marketing_ok": false}))]).await;
    relay.append(vec![world.set("u", json!({"plan": "unseen"}))]).await;
    relay.settled().await;
    relay.append(vec![world.update("u", "$set", json!({"marketing_ok": true})), world.purchase("u", 1)]).await;
    relay.settled().await;
    relay.drain().await;
    let contact = world.contact("u").await;
    assert_eq!((&contact["emailBlacklisted"], &contact["attributes"]["PLAN_TYPE"]), (&json!(true), &json!("unseen")));
    assert_eq!(sent(&world).await, [1]);
}

/// A crash between a withdrawal and its call loses neither it nor its record.
#[tokio::test]
async fn a_withdrawal_survives_a_crash() {
    let world = World::new(setup(OnConsentWithdrawn::Blocklist)).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com", "marketing_ok": true}))]).await;
    relay.settled().await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "black_hole"})).await;
    let at = relay.append(vec![world.update("u", "$unset", json!(["marketing_ok"]))]).await;
    let mut cursor = relay.leg(BREVO).status.durable_cursor();
    tokio::time::timeout(Duration::from_secs(40), cursor.wait_for(|cursor| *cursor > at)).await.unwrap().unwrap();
    assert_eq!(relay.report(BREVO).await.backlog, 1);
    relay.kill().await;
    world.heal().await;
    let relay = world.relay().await;
    relay.settled().await;
    assert_eq!(relay.tally(BREVO).delivered.profile, 2);
    relay.drain().await;
    assert_eq!(world.contact("u").await["emailBlacklisted"], true);
}

/// A withdrawal that Brevo refuses is a dead letter, and is told.
#[tokio::test]
async fn a_refused_withdrawal_is_a_dead_letter() {
    let world = World::new(setup(OnConsentWithdrawn::Blocklist)).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com", "marketing_ok": true}))]).await;
    relay.settled().await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts/u", "kind": "status", "status": 400})).await;
    relay.append(vec![world.set("u", json!({"marketing_ok": false}))]).await;
    relay.settled().await;
    eventually("a dead letter", async || relay.dead_letters(BREVO).await.len() == 1).await;
    relay.append(vec![world.purchase("u", 1)]).await;
    relay.settled().await;
    relay.drain().await;
    assert!(sent(&world).await.is_empty());
}

/// People who agreed before the relay was there are found by their profile at Mixpanel, once, in one query. What comes
/// until then is skipped; what comes from then on is not. A crash in between loses nothing of it.
#[tokio::test]
async fn core5_who_agreed_before_the_relay_was_there_is_asked_for() {
    let consent = Consent::Required { property: "marketing_ok".to_owned(), value: json!(true) };
    let world = World::new(Setup { consent, ..Setup::both() }).await;
    for (id, answer) in
        [("old", json!(true)), ("no", json!(false)), ("absent", Value::Null), ("$device:x", json!(true))]
    {
        let mut properties = json!({"$email": format!("{id}@example.com"), "plan": "pro"});
        if !answer.is_null() {
            properties["marketing_ok"] = answer;
        }
        let profile = json!({"profiles": [{"distinct_id": id, "properties": properties}]});
        world.control("POST", "/mixpanel/seed", profile).await;
    }
    let refused = json!({"vendor": "mixpanel", "path_prefix": "/api/query", "kind": "status", "status": 402});
    world.faults(refused).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("no", json!({"plan": "max"})), world.set("absent", json!({"plan": "max"}))]).await;
    relay.append(vec![world.purchase("old", 1), world.purchase("$device:x", 2)]).await;
    let report = relay.until(BREVO, "skipped", |report| report.backlog == 0).await;
    assert_eq!((report.parked, skipped(&relay)), (0, 4));
    eventually("asked in vain", async || world.requests("mixpanel", "/api/query/engage").await > 0).await;
    relay.kill().await;
    world.heal().await;

    let relay = world.relay().await;
    eventually("found", async || !world.contact("old").await.is_null()).await;
    assert_eq!(world.contact("old").await["attributes"]["PLAN_TYPE"], "pro");
    let asked = world.requests("mixpanel", "/api/query/engage").await;
    relay.append(["old", "no", "absent", "$device:x"].map(|id| world.purchase(id, 3)).to_vec()).await;
    relay.settled().await;
    assert_eq!(sent(&world).await, [3]);
    assert_eq!(world.show("/brevo/counts").await["contacts"], 1);
    assert_eq!(world.requests("mixpanel", "/api/query/engage").await, asked, "they are known by now");
    relay.drain().await;
}

/// What an app says while the answer is being asked for counts, and not what the profile said before.
#[tokio::test]
async fn an_answer_given_meanwhile_counts() {
    let consent = Consent::Required { property: "marketing_ok".to_owned(), value: json!(true) };
    let world = World::new(Setup { consent, ..Setup::both() }).await;
    let properties = json!({"$email": "u@example.com", "marketing_ok": true});
    world
        .control("POST", "/mixpanel/seed", json!({"profiles": [{"distinct_id": "u", "properties": properties}]}))
        .await;
    world.faults(json!({"vendor": "mixpanel", "path_prefix": "/api/query", "kind": "latency", "ms": 500})).await;
    let relay = world.relay().await;
    relay.append(vec![world.purchase("u", 1)]).await;
    eventually("asked", async || world.requests("mixpanel", "/api/query/engage").await > 0).await;
    relay.append(vec![world.set("u", json!({"marketing_ok": false})), world.set("u", json!({"plan": "pro"}))]).await;
    relay.settled().await;
    world.heal().await;
    // Behind the answer.
    relay.append(vec![world.update("v", "$add", json!({"total_revenue": 1}))]).await;
    eventually("asked again", async || world.requests("mixpanel", "/api/query/engage").await > 1).await;
    relay.append(vec![world.purchase("u", 2)]).await;
    relay.settled().await;
    relay.drain().await;
    assert!(sent(&world).await.is_empty());
    let contact = world.contact("u@example.com").await;
    assert!(contact.is_null() || contact["emailBlacklisted"] == true, "{contact}");
}

/// What Mixpanel was found not to have does not empty what Brevo has, whenever somebody agrees anew.
#[tokio::test]
async fn core5_a_yes_does_not_empty_what_brevo_had_before() {
    let consent = Consent::Required { property: "marketing_ok".to_owned(), value: json!(true) };
    let world = World::new(Setup { consent, ..Setup::both() }).await;
    let contact = json!({"email": "u@example.com", "attributes": {"FIRSTNAME": "Before"}});
    world.control("POST", "/brevo/seed", json!({"contacts": [contact]})).await;
    let profile = json!({"distinct_id": "u", "properties": {"marketing_ok": true}});
    world.control("POST", "/mixpanel/seed", json!({"profiles": [profile]})).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    eventually("found", async || !world.contact("u").await.is_null()).await;
    for answer in [false, true] {
        relay.append(vec![world.set("u", json!({"marketing_ok": answer}))]).await;
        relay.settled().await;
    }
    relay.drain().await;
    assert_eq!(world.contact("u").await["attributes"]["FIRSTNAME"], "Before");
}
