//! Brevo's answers, row by row, through the whole leg.

use std::time::Duration;

use serde_json::{Value, json};

use crate::config::BrevoMode;
use crate::delivery::testing::{Setup, World, eventually};
use crate::record::Destination;
use crate::settlement::SkipRule;
use crate::vendor::{Cost, Family, Priority};

const BREVO: Destination = Destination::Brevo;

fn applied(events: &[(i64, String)]) -> Vec<i64> {
    events.iter().filter(|(_, outcome)| outcome == "applied").map(|(n, _)| *n).collect()
}

/// Trouble of the destination is waited out, whatever its shape: nothing is lost, and nothing is given up.
#[tokio::test]
async fn trouble_is_waited_out() {
    let world = World::new(Setup { answer_timeout: Duration::from_millis(400), ..Setup::brevo() }).await;
    let relay = world.relay().await;
    let limited =
        json!({"x-sib-ratelimit-limit": "10", "x-sib-ratelimit-remaining": "0", "x-sib-ratelimit-reset": "1"});
    let troubles = [
        json!({"kind": "status", "status": 429, "headers": limited}),
        json!({"kind": "status", "status": 500}),
        json!({"kind": "status", "status": 502}),
        json!({"kind": "status", "status": 503}),
        json!({"kind": "status", "status": 408}),
        json!({"kind": "reset"}),
        json!({"kind": "reset", "when": "after"}),
        json!({"kind": "black_hole"}),
        json!({"kind": "garbage"}),
        json!({"kind": "break_off", "after_bytes": 1}),
    ];
    for (n, trouble) in troubles.iter().enumerate() {
        let mut faults = Vec::new();
        for path in ["/v3/contacts", "/v3/events"] {
            let mut fault = trouble.clone();
            fault["vendor"] = "brevo".into();
            fault["path_prefix"] = path.into();
            fault["times"] = 2.into();
            faults.push(fault);
        }
        world.faults(Value::from(faults)).await;
        let id = format!("u{n}");
        let email = json!({"$email": format!("{id}@example.com")});
        relay.append(vec![world.set(&id, email), world.purchase(&id, n as i64)]).await;
        relay.settled().await;
    }
    let tally = relay.tally(BREVO);
    assert_eq!((tally.delivered.profile, tally.delivered.event), (10, 10));
    relay.drain().await;
    let mut seen = applied(&world.brevo_events().await);
    seen.dedup();
    assert_eq!(seen, (0..10).collect::<Vec<i64>>());
}

/// 425 is about one contact: it waits, its events with it and in order, and everybody else goes on.
#[tokio::test]
async fn a_busy_contact_waits_alone() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("busy", json!({"$phone": "+33612345678"})), world.purchase("busy", 0)]).await;
    relay.settled().await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts/busy", "kind": "status", "status": 425})).await;
    relay.append(vec![world.set("busy", json!({"plan": "pro"})), world.purchase("busy", 1)]).await;
    eventually("busy", async || world.requests("brevo", "/v3/contacts/busy").await > 0).await;
    relay.append(vec![world.purchase("busy", 2)]).await;
    relay.append(vec![world.set("other", json!({"$email": "o@example.com"})), world.purchase("other", 3)]).await;
    relay.until(BREVO, "waiting alone", |report| report.parked == 2 && report.backlog == 1).await;
    assert_eq!(applied(&world.brevo_events().await), [0, 3]);
    // Written down: a crash before would begin anew.
    tokio::time::sleep(Duration::from_millis(600)).await;
    relay.kill().await;
    let relay = world.relay().await;
    let before = world.requests("brevo", "/v3/contacts/busy").await;
    eventually("busy again", async || world.requests("brevo", "/v3/contacts/busy").await > before).await;
    world.heal().await;
    relay.until(BREVO, "released", |report| report.parked == 0 && report.backlog == 0).await;
    relay.drain().await;
    assert_eq!(applied(&world.brevo_events().await), [0, 3, 1, 2]);
    assert_eq!(world.contact("busy").await["attributes"]["PLAN_TYPE"], "pro");
}

/// A contact that was busy, then met no endpoint, is in line again.
#[tokio::test]
async fn a_busy_contact_that_meets_no_endpoint_is_not_forgotten() {
    let world = World::new(Setup::brevo()).await;
    let fault = |status: u16| {
        json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "times": 1, "kind": "status", "status": status,
               "body": {"code": "x", "message": "x"}})
    };
    let relay = world.relay().await;
    eventually("account read", async || world.answers("brevo", "/v3/contacts/attributes", 200).await > 0).await;
    world.faults(json!([fault(425), fault(404)])).await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 1)]).await;
    relay.until(BREVO, "delivered", |report| report.parked == 0 && report.backlog == 0 && report.delivered == 2).await;
    relay.drain().await;
    assert_eq!(applied(&world.brevo_events().await), [1]);
}

/// What belongs to another contact is left out, and the rest is written; nobody is merged.
#[tokio::test]
async fn identifiers_of_others_are_left_out() {
    for code in ["invalid_parameter", "duplicate_parameter"] {
        let world = World::new(Setup::brevo()).await;
        world.switch(json!({"brevo": {"conflict_code": code}})).await;
        let taken = json!([
            {"email": "phone@example.com", "attributes": {"SMS": "33611111111"}},
            {"email": "id@example.com", "ext_id": "taken"},
            {"email": "address@example.com"},
            {"email": "a@example.com"},
            {"email": "b@example.com"},
        ]);
        world.control("POST", "/brevo/seed", json!({"contacts": taken})).await;
        let relay = world.relay().await;
        let of = |id: &str, set: Value, n: i64| vec![world.set(id, set), world.purchase(id, n)];
        relay.append(of("a", json!({"$email": "a@example.com", "$phone": "+33611111111"}), 1)).await;
        relay.append(of("taken", json!({"$email": "b@example.com"}), 2)).await;
        relay.append(of("c", json!({"$email": "c@example.com"}), 3)).await;
        relay.settled().await;
        // A new address that another contact has: the old one stays, values go on, and it is not tried again.
        relay.append(of("c", json!({"$email": "address@example.com", "plan": "x"}), 4)).await;
        relay.settled().await;
        let refused = world.answers("brevo", "/v3/contacts/c", 400).await;
        relay.append(of("c", json!({"plan": "y"}), 5)).await;
        relay.settled().await;
        assert_eq!(world.answers("brevo", "/v3/contacts/c", 400).await, refused, "tried again");
        assert!(relay.dead_letters(BREVO).await.is_empty());
        relay.drain().await;
        let mut sent = applied(&world.brevo_events().await);
        sent.sort_unstable();
        assert_eq!(sent, [1, 2, 3, 4, 5], "{code}");
        assert_eq!(world.show("/brevo/counts").await["contacts"], 6, "{code}");
        let kept = world.contact("c@example.com").await;
        let attributes = &kept["attributes"];
        assert_eq!((&attributes["EXT_ID"], &attributes["PLAN_TYPE"]), (&json!("c"), &json!("y")), "{kept}");
    }
}

/// Changing a blocklisted contact's address would resubscribe it: the old one stays.
#[tokio::test]
async fn a_blocklisted_contact_keeps_its_address() {
    let world = World::new(Setup::brevo()).await;
    let contact = json!({"email": "old@example.com", "ext_id": "u", "email_blacklisted": true});
    world.control("POST", "/brevo/seed", json!({"contacts": [contact]})).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "old@example.com"}))]).await;
    relay.settled().await;
    relay.append(vec![world.set("u", json!({"$email": "new@example.com", "plan": "x"})), world.purchase("u", 1)]).await;
    relay.settled().await;
    relay.drain().await;
    assert!(world.contact("new@example.com").await.is_null());
    assert_eq!(world.contact("old@example.com").await["attributes"]["PLAN_TYPE"], "x");
    assert_eq!(applied(&world.brevo_events().await), [1]);
}

/// Whether null or an empty text empties an attribute is found out from one that held something.
#[tokio::test]
async fn the_way_to_empty_an_attribute_is_learned() {
    for way in ["both", "empty_string", "null"] {
        let world = World::new(Setup::brevo()).await;
        world.switch(json!({"brevo": {"clear_by": way}})).await;
        let relay = world.relay().await;
        for id in ["u", "v"] {
            // FIRSTNAME is empty anyway, and must teach nothing.
            let email = json!({"$email": format!("{id}@example.com"), "plan": "pro"});
            relay.append(vec![world.set(id, email)]).await;
            relay.settled().await;
            relay.append(vec![world.update(id, "$unset", json!(["name"]))]).await;
            relay.settled().await;
            relay.append(vec![world.update(id, "$unset", json!(["plan"]))]).await;
            relay.settled().await;
        }
        relay.drain().await;
        for id in ["u", "v"] {
            let plan = world.contact(id).await["attributes"]["PLAN_TYPE"].clone();
            assert!(plan.is_null() || plan == "", "{way}: {id} still has {plan}");
        }
    }
}

/// Values wait until a new attribute has settled: the account drops what comes within 3 s of its creation.
#[tokio::test]
async fn a_missing_attribute_is_created_before_its_values() {
    let world = World::new(Setup::brevo()).await;
    // The creation itself is held up: the wait counts from when it has happened.
    let slow = json!({"vendor": "brevo", "path_prefix": "/v3/contacts/attributes/", "times": 1, "kind": "status", "status": 503});
    world.faults(slow).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com", "shoe": 42}))]).await;
    relay.settled().await;
    relay.drain().await;
    assert_eq!(world.contact("u").await["attributes"]["SHOE_SIZE"], 42);
}

/// A crowd goes through one import; booleans, which imports ignore, by single writes. Values that change while the
/// import is under way, and over a crash in the middle of it, are not overwritten by it.
#[tokio::test]
async fn an_import_overwrites_nothing_that_is_newer() {
    let world = World::new(Setup::brevo().with_all_users()).await;
    world.switch(json!({"brevo": {"import_queued_ms": 3000, "import_processing_ms": 1000}})).await;
    let relay = world.relay().await;
    let person = |n: i64, plan: &str| {
        let id = format!("u{n}");
        let email = format!("{id}@example.com");
        vec![world.set(&id, json!({"$email": email, "plan": plan})), world.purchase(&id, n)]
    };
    let crowd: Vec<_> = (0..130).flat_map(|n| person(n, "old")).collect();
    relay.append(crowd).await;
    eventually("importing", async || world.answers("brevo", "/v3/contacts/import", 202).await > 0).await;
    relay.append(vec![world.set("u129", json!({"plan": "new", "vip": true}))]).await;
    relay.append(vec![world.set("u128", json!({"plan": "new"}))]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    relay.kill().await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u128", json!({"plan": "newest"}))]).await;
    relay.until(BREVO, "all done", |report| report.backlog == 0 && report.parked == 0).await;
    relay.drain().await;
    assert_eq!(world.contact("u129").await["attributes"]["PLAN_TYPE"], "new");
    assert_eq!(world.contact("u129").await["attributes"]["IS_CUSTOMER"], true);
    assert_eq!(world.contact("u128").await["attributes"]["PLAN_TYPE"], "newest");
    let mut seen = applied(&world.brevo_events().await);
    seen.sort_unstable();
    assert_eq!(seen, (0..130).collect::<Vec<i64>>());
    assert_eq!(world.show("/brevo/lists/15").await["total"], 130);
}

/// An import that is refused costs its people nothing: they are written one by one.
#[tokio::test]
async fn a_refused_import_is_written_one_by_one() {
    let world = World::new(Setup::brevo().with_all_users()).await;
    world
        .faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts/import", "kind": "status", "status": 400}))
        .await;
    let relay = world.relay().await;
    let crowd = (0..120).map(|n| world.set(&format!("u{n}"), json!({"$email": format!("u{n}@example.com")})));
    relay.append(crowd.collect()).await;
    relay.settled().await;
    assert_eq!(relay.tally(BREVO).delivered.profile, 120);
    relay.drain().await;
    assert_eq!(world.show("/brevo/counts").await["contacts"], 120);
}

/// An import that ends badly, or says that rows were refused, costs its people nothing: they are written one by one.
#[tokio::test]
async fn an_import_that_ends_badly_is_written_one_by_one() {
    for (n, ending) in [
        json!({"id": 1, "name": "IMPORTUSER", "status": "failed", "error": "out of order"}),
        json!({"id": 1, "name": "IMPORTUSER", "status": "cancelled"}),
        json!({"id": 1, "name": "IMPORTUSER", "status": "completed", "info": {"import": {"invalid_emails": 1}}}),
        json!({"id": 1, "name": "IMPORTUSER", "status": "completed", "info": {"invalid_emails": 2}}),
    ]
    .into_iter()
    .enumerate()
    {
        let world = World::new(Setup::brevo().with_all_users()).await;
        // Nothing of the import itself is ever seen: what arrives has been written one by one.
        world.switch(json!({"brevo": {"import_queued_ms": 3_600_000}})).await;
        let ended =
            json!({"vendor": "brevo", "path_prefix": "/v3/processes", "kind": "status", "status": 200, "body": ending});
        world.faults(ended).await;
        let relay = world.relay().await;
        let crowd = (0..110).map(|n| world.set(&format!("u{n}"), json!({"$email": format!("u{n}@example.com")})));
        relay.append(crowd.collect()).await;
        relay.settled().await;
        assert_eq!(relay.tally(BREVO).delivered.profile, 110, "ending {n}");
        relay.drain().await;
        assert_eq!(world.show("/brevo/counts").await["contacts"], 110, "ending {n}");
    }
}

/// Killed between the request of an import and the note of its number: the next process finds the import by asking, and
/// nothing that it pays meanwhile is overwritten by it.
#[tokio::test]
async fn an_import_without_a_number_is_found_again() {
    let world = World::new(Setup::brevo().with_all_users()).await;
    world.switch(json!({"brevo": {"import_queued_ms": 3000, "import_processing_ms": 500}})).await;
    let lost = json!({"vendor": "brevo", "path_prefix": "/v3/contacts/import", "kind": "black_hole", "when": "after"});
    world.faults(lost).await;
    let relay = world.relay().await;
    let crowd =
        (0..110).map(|n| world.set(&format!("u{n}"), json!({"$email": format!("u{n}@example.com"), "plan": "old"})));
    relay.append(crowd.collect()).await;
    eventually("importing", async || world.answers("brevo", "/v3/contacts/import", 202).await > 0).await;
    relay.kill().await;
    world.heal().await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u7", json!({"plan": "new"}))]).await;
    relay.settled().await;
    relay.drain().await;
    assert_eq!(world.contact("u7").await["attributes"]["PLAN_TYPE"], "new");
    assert_eq!(world.show("/brevo/counts").await["contacts"], 110);
    let asked = world.show("/brevo/requests?path=/v3/processes").await;
    let first = asked["requests"][0]["path"].as_str().unwrap_or_default().to_owned();
    assert!(!first.contains("/processes/"), "the list is asked for the number: {asked}");
}

/// Where batches have only an hourly quota, events never wait for it while single calls are to be had.
#[tokio::test]
async fn scarce_batches_are_not_waited_for() {
    let world = World::new(Setup::brevo()).await;
    world.switch(json!({"brevo": {"events_batch_bucket": "other", "per_second": 60}})).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 0)]).await;
    relay.settled().await;
    relay.append((1..151).map(|n| world.purchase("u", n)).collect()).await;
    relay.settled().await;
    assert_eq!(world.answers("brevo", "/v3/events/batch", 202).await, 1);
    // Somebody else of this relay uses up what is left.
    let _slot =
        relay.budgets.claim(Family::BrevoEventsBatch, Priority::Live, Cost { calls: 99, ..Cost::CALL }).await.unwrap();
    relay.append(vec![world.purchase("u", 151)]).await;
    relay.settled().await;
    relay.append((152..302).map(|n| world.purchase("u", n)).collect()).await;
    relay.settled().await;
    relay.drain().await;
    assert_eq!(applied(&world.brevo_events().await), (0..302).collect::<Vec<i64>>());
    assert_eq!(world.answers("brevo", "/v3/events/batch", 202).await, 1);
}

/// Answers to batches: how many of four events end as dead letters, delivered and unconfirmed.
#[tokio::test]
async fn every_answer_to_a_batch_settles_each_event() {
    let named = |indexes: &[usize]| json!([{"eventIndex": indexes, "message": "bad event"}]);
    let failed = json!({"status": "failed", "total_events": 4, "successful_events": 0, "failed_events": 4, "errors": named(&[0, 1, 2, 3])});
    let partly = json!({"status": "partial_success", "total_events": 4, "successful_events": 3, "failed_events": 1, "errors": named(&[2])});
    let generic = json!({"code": "invalid_parameter", "message": "something is wrong"});
    for (status, body, dead, unconfirmed) in [
        (400, failed, 4, 0),
        (207, partly, 1, 0),
        (400, generic.clone(), 0, 0),
        (413, generic, 0, 0),
        (202, json!({"message": "Batch accepted.", "count": 3}), 0, 1),
    ] {
        let world = World::new(Setup::brevo()).await;
        let relay = world.relay().await;
        relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
        relay.settled().await;
        world
            .faults(json!({"vendor": "brevo", "path_prefix": "/v3/events/batch", "times": 1, "kind": "status",
                           "status": status, "body": body}))
            .await;
        relay.append((0..4).map(|n| world.purchase("u", n)).collect()).await;
        relay.settled().await;
        let tally = relay.tally(BREVO);
        let letters = relay.dead_letters(BREVO).await.len();
        assert_eq!(
            (letters, tally.delivered.event, tally.unconfirmed),
            (dead, 4 - dead as u64, unconfirmed),
            "{status}"
        );
        relay.drain().await;
    }
}

/// A contact that was deleted at Brevo is written anew with everything that is known, not only with what is owed.
#[tokio::test]
async fn a_contact_deleted_at_brevo_is_written_anew_in_full() {
    let world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    let known = json!({"$email": "u@example.com", "plan": "pro", "name": "Ada"});
    relay.append(vec![world.set("u", known)]).await;
    relay.settled().await;
    world.control("POST", "/reset", Value::Null).await;
    relay.append(vec![world.set("u", json!({"plan": "free"})), world.purchase("u", 1)]).await;
    relay.settled().await;
    relay.drain().await;
    let contact = world.contact("u").await;
    let attributes = &contact["attributes"];
    assert_eq!((&attributes["PLAN_TYPE"], &attributes["FIRSTNAME"]), (&json!("free"), &json!("Ada")), "{contact}");
    assert_eq!(applied(&world.brevo_events().await), [1]);
}

/// What waited for someone's identity is not sent when it turns out that the pilot is not for them.
#[tokio::test]
async fn a_pilot_writes_nobody_else() {
    let setup = Setup { mode: BrevoMode::Pilot, pilot_emails: vec!["*@pilot.com".to_owned()], ..Setup::brevo() };
    let world = World::new(setup).await;
    let relay = world.relay().await;
    for id in ["in", "out"] {
        relay.append(vec![world.set(id, json!({"plan": "x"})), world.purchase(id, 1)]).await;
    }
    relay.until(BREVO, "parked", |report| report.parked == 4).await;
    relay.append(vec![world.set("in", json!({"$email": "in@pilot.com"}))]).await;
    relay.append(vec![world.set("out", json!({"$email": "out@example.com"}))]).await;
    relay.until(BREVO, "settled", |report| report.parked == 0 && report.backlog == 0).await;
    assert_eq!(relay.skipped(BREVO, SkipRule::NotInPilot), 3);
    relay.drain().await;
    assert_eq!(world.show("/brevo/counts").await["contacts"], 1);
}

/// What a live process has left behind stays when the next one only observes, and goes on when a live one is back.
#[tokio::test]
async fn observing_sends_nothing_that_was_left_behind() {
    let mut world = World::new(Setup::brevo()).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"})), world.purchase("u", 0)]).await;
    relay.settled().await;
    relay.append((1..4).map(|n| world.purchase("v", n)).collect()).await;
    relay.until(BREVO, "parked", |report| report.parked == 3).await;
    world.faults(json!({"vendor": "brevo", "kind": "black_hole"})).await;
    relay.append(vec![world.set("v", json!({"$email": "v@example.com"})), world.set("u", json!({"plan": "x"}))]).await;
    relay.until(BREVO, "owed", |report| report.backlog == 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    relay.kill().await;
    world.heal().await;
    let before = world.show("/brevo/counts").await["requests"]["total"].clone();
    world.setup.mode = BrevoMode::Observe;
    let relay = world.relay().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let report = relay.report(BREVO).await;
    assert_eq!((report.parked, report.backlog), (3, 2));
    relay.drain().await;
    assert_eq!(world.show("/brevo/counts").await["requests"]["total"], before);
    world.setup.mode = BrevoMode::Live;
    let relay = world.relay().await;
    relay.until(BREVO, "done", |report| report.parked == 0 && report.backlog == 0).await;
    relay.drain().await;
    assert_eq!(applied(&world.brevo_events().await), [0, 1, 2, 3]);
}
