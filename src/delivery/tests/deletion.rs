//! What `on_profile_delete` does at Brevo when a profile is deleted at Mixpanel, and what comes after.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{Consent, IdentityMode, OnConsentWithdrawn, OnProfileDelete};
use crate::delivery::testing::{Relay, Setup, TOKEN, World, eventually};
use crate::people::roster;
use crate::record::{Destination, Kind, Record};
use crate::settlement::SkipRule;
use crate::store::State;

const BREVO: Destination = Destination::Brevo;
const UUID: &str = "f47ac10b-58cc-4372-a567-0e02b2c3d479";

fn setup(on_profile_delete: OnProfileDelete) -> Setup {
    Setup { on_profile_delete, ..Setup::brevo() }.with_all_users()
}

fn deletion(world: &World, id: &str) -> Record {
    world.update(id, "$delete", json!(""))
}

async fn seeded(setup: Setup, contacts: Value) -> World {
    let world = World::new(setup).await;
    world.control("POST", "/brevo/seed", json!({"contacts": contacts})).await;
    world
}

fn skipped(relay: &Relay) -> u64 {
    relay.skipped(BREVO, SkipRule::ProfileDelete)
}

async fn sent(world: &World) -> Vec<i64> {
    world.brevo_events().await.into_iter().map(|(n, _)| n).collect()
}

/// A relay at which one contact write of `u` is under way for ever, and what comes behind it waits.
async fn stuck(world: &World) -> Relay {
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com", "plan": "free"}))]).await;
    relay.settled().await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "black_hole"})).await;
    relay
}

/// Waits until all that was appended is folded and written down, and nothing of it has been sent.
async fn written_down(relay: &Relay, at: crate::record::Position) {
    let mut cursor = relay.leg(BREVO).status.durable_cursor();
    tokio::time::timeout(Duration::from_secs(40), cursor.wait_for(|cursor| *cursor > at)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_deleted_profile_does_what_the_configuration_says() {
    for how in [OnProfileDelete::Keep, OnProfileDelete::RemoveFromLists, OnProfileDelete::DeleteContact] {
        // Known to Brevo from before this relay, by an id alone; and somebody whose address is another one's contact's.
        let before = json!([
            {"email": "old@example.com", "ext_id": "old", "list_ids": [15, 16]},
            {"email": "shared@example.com", "ext_id": "first", "list_ids": [16]},
        ]);
        let world = seeded(setup(how), before).await;
        let relay = world.relay().await;
        relay.append(vec![world.set("u", json!({"$email": "u@example.com", "plan": "pro"}))]).await;
        relay.append(vec![world.set("second", json!({"$email": "shared@example.com"})), world.purchase("u", 1)]).await;
        relay.settled().await;
        assert_eq!(world.contact("u").await["listIds"], json!([15]));
        for id in ["u", "old", "second", "nobody", "$device:visitor"] {
            relay.append(vec![deletion(&world, id)]).await;
        }
        relay.settled().await;
        let (done, left) = if how == OnProfileDelete::Keep { (0, 5) } else { (2, 3) };
        assert_eq!((relay.tally(BREVO).delivered.profile, skipped(&relay)), (2 + done, left), "{how:?}");
        for id in ["u", "old"] {
            let contact = world.contact(id).await;
            match how {
                OnProfileDelete::Keep => assert_ne!(contact["listIds"], json!([]), "{contact}"),
                OnProfileDelete::RemoveFromLists => assert_eq!(contact["listIds"], json!([]), "{contact}"),
                OnProfileDelete::DeleteContact => assert_eq!(contact, Value::Null, "{id}"),
            }
        }
        let shared = world.contact("shared@example.com").await;
        assert_eq!((&shared["listIds"], &shared["attributes"]["EXT_ID"]), (&json!([15, 16]), &json!("first")));

        // An event that comes late does not bring a deleted contact back.
        relay.append(vec![world.purchase("u", 2)]).await;
        let parked = u64::from(how == OnProfileDelete::DeleteContact);
        relay.until(BREVO, "taken", |report| report.backlog == 0 && report.parked == parked).await;
        assert_eq!(world.contact("u@example.com").await.is_null(), parked == 1, "{how:?}");
        // Who comes back with an address begins anew, with that event.
        relay.append(vec![world.set("u", json!({"$email": "new@example.com", "name": "Ada"}))]).await;
        relay.until(BREVO, "back", |report| report.backlog == 0 && report.parked == 0).await;
        relay.append(vec![world.purchase("u", 3)]).await;
        relay.settled().await;
        relay.drain().await;
        assert_eq!(sent(&world).await, [1, 2, 3]);
        let contact = world.contact("u").await;
        let (plan, name) = (&contact["attributes"]["PLAN_TYPE"], &contact["attributes"]["FIRSTNAME"]);
        let kept = if how == OnProfileDelete::DeleteContact { Value::Null } else { json!("pro") };
        assert_eq!((&contact["email"], plan, name), (&json!("new@example.com"), &kept, &json!("Ada")), "{how:?}");
    }
}

/// Whatever a contact was deleted for: it comes back blocklisted, under whichever id.
#[tokio::test]
async fn a_blocklisted_contact_comes_back_blocklisted() {
    for withdrawn in [false, true] {
        let consent = Consent::Required { property: "marketing_ok".to_owned(), value: json!(true) };
        let on_consent_withdrawn = OnConsentWithdrawn::DeleteContact;
        let setup = Setup { consent, on_consent_withdrawn, ..setup(OnProfileDelete::DeleteContact) };
        let before = json!([
            {"email": "u@example.com", "ext_id": "u", "email_blacklisted": true},
            {"email": "v@example.com", "ext_id": "v"},
        ]);
        let world = seeded(setup, before).await;
        let relay = world.relay().await;
        let yes = |id: &str| world.set(id, json!({"$email": format!("{id}@example.com"), "marketing_ok": true}));
        relay.append(vec![yes("u"), yes("v")]).await;
        relay.settled().await;
        for id in ["u", "v"] {
            let gone = if withdrawn { world.set(id, json!({"marketing_ok": false})) } else { deletion(&world, id) };
            relay.append(vec![gone]).await;
        }
        relay.settled().await;
        assert!(world.contact("u@example.com").await.is_null() && world.contact("v@example.com").await.is_null());
        relay.kill().await;
        let relay = world.relay().await;
        let later = world.set("another", json!({"$email": "u@example.com", "marketing_ok": true}));
        relay.append(vec![later, yes("v")]).await;
        relay.settled().await;
        relay.drain().await;
        assert_eq!(world.contact("another").await["emailBlacklisted"], true, "withdrawn: {withdrawn}");
        assert_eq!(world.contact("v").await["emailBlacklisted"], false);
    }
}

/// A withdrawal that is still owed when the profile is deleted is made first, and is not forgotten with the contact.
#[tokio::test]
async fn a_deletion_behind_a_withdrawal_keeps_it() {
    let consent = Consent::Required { property: "marketing_ok".to_owned(), value: json!(true) };
    let world = World::new(Setup { consent, ..setup(OnProfileDelete::DeleteContact) }).await;
    let relay = world.relay().await;
    let yes = || world.set("u", json!({"$email": "u@example.com", "marketing_ok": true}));
    relay.append(vec![yes()]).await;
    relay.settled().await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "black_hole"})).await;
    relay.append(vec![world.set("u", json!({"plan": "under way"}))]).await;
    let at = relay.append(vec![world.set("u", json!({"marketing_ok": false})), deletion(&world, "u")]).await;
    written_down(&relay, at).await;
    relay.kill().await;
    world.heal().await;
    let relay = world.relay().await;
    relay.settled().await;
    assert!(world.contact("u@example.com").await.is_null());
    relay.append(vec![yes()]).await;
    relay.settled().await;
    relay.drain().await;
    assert_eq!(world.contact("u").await["emailBlacklisted"], true);
}

/// What waited is let go, what came later waits, and a crash in between loses neither.
#[tokio::test]
async fn a_deletion_goes_ahead_of_what_came_later_and_survives_a_crash() {
    for how in [OnProfileDelete::RemoveFromLists, OnProfileDelete::DeleteContact] {
        let world = World::new(setup(how)).await;
        let relay = stuck(&world).await;
        relay.append(vec![world.set("u", json!({"plan": "pro"})), world.purchase("u", 1)]).await;
        relay.append(vec![world.set("u", json!({"plan": "max"}))]).await;
        relay.append(vec![deletion(&world, "u"), world.purchase("u", 2)]).await;
        let at = relay.append(vec![world.set("u", json!({"$email": "u@example.com", "name": "Ada"}))]).await;
        written_down(&relay, at).await;
        relay.kill().await;
        world.heal().await;
        let relay = world.relay().await;
        relay.until(BREVO, "done", |report| report.backlog == 0 && report.parked == 0).await;
        assert!(skipped(&relay) >= 2, "the event and the update of before: {}", skipped(&relay));
        relay.drain().await;
        assert_eq!(sent(&world).await, [2], "{how:?}");
        let contact = world.contact("u").await;
        assert_eq!(contact["attributes"]["FIRSTNAME"], "Ada");
        if how == OnProfileDelete::DeleteContact {
            assert_eq!(contact["attributes"]["PLAN_TYPE"], Value::Null);
        }
    }
}

/// What stands on the shelf of somebody without an address is let go with the profile, and what comes later is not.
#[tokio::test]
async fn a_shelf_is_let_go_up_to_the_deletion() {
    let world = World::new(setup(OnProfileDelete::DeleteContact)).await;
    let relay = world.relay().await;
    relay.append(vec![world.purchase("u", 1), world.set("u", json!({"plan": "pro"})), world.purchase("u", 2)]).await;
    relay.until(BREVO, "parked", |report| report.parked == 3).await;
    relay.append(vec![deletion(&world, "u"), world.purchase("u", 3)]).await;
    relay.until(BREVO, "let go", |report| report.backlog == 0 && report.parked == 1).await;
    assert_eq!(skipped(&relay), 4);
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.until(BREVO, "done", |report| report.backlog == 0 && report.parked == 0).await;
    relay.drain().await;
    assert_eq!(sent(&world).await, [3]);
    assert_eq!(world.contact("u").await["attributes"]["PLAN_TYPE"], Value::Null);
}

#[tokio::test]
async fn a_refused_deletion_is_a_dead_letter() {
    let world = World::new(setup(OnProfileDelete::DeleteContact)).await;
    let relay = world.relay().await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.settled().await;
    world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts/u", "kind": "status", "status": 400})).await;
    relay.append(vec![deletion(&world, "u")]).await;
    relay.settled().await;
    let letters = relay.dead_letters(BREVO).await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].record.contains("$delete"), "{}", letters[0].record);
    relay.drain().await;
}

/// The two contacts of ids that are joined right behind the deletion of one: only that one's goes.
#[tokio::test]
async fn a_deletion_is_made_before_its_id_is_joined() {
    for of in [UUID, "u"] {
        let world =
            World::new(Setup { identity: IdentityMode::Original, ..setup(OnProfileDelete::DeleteContact) }).await;
        let relay = world.relay().await;
        let email = |id: &str| if id == "u" { "u@example.com" } else { "d@example.com" };
        relay.append([UUID, "u"].map(|id| world.set(id, json!({"$email": email(id)}))).to_vec()).await;
        relay.settled().await;
        world.faults(json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "black_hole"})).await;
        relay.append(vec![world.set(of, json!({"plan": "under way"})), deletion(&world, of)]).await;
        let identify = json!({"token": TOKEN, "distinct_id": "u", "$anon_distinct_id": UUID, "$user_id": "u"});
        let identify = world.record(Kind::Identity, &json!({"event": "$identify", "properties": identify}));
        let at = relay.append(vec![identify, world.purchase("u", 1)]).await;
        written_down(&relay, at).await;
        relay.kill().await;
        world.heal().await;
        let relay = world.relay().await;
        relay.until(BREVO, "done", |report| report.backlog == 0 && report.parked == 0).await;
        let state: Arc<dyn State> = relay.store.state.clone();
        eventually("joined", async || {
            let people = roster::load(&state, vec!["u".into(), UUID.into()]).await.unwrap();
            people.iter().all(|(_, resident)| !resident.person.links.is_joining() && resident.person.deletion.is_none())
        })
        .await;
        drop(state);
        relay.drain().await;
        let there = |contact: Value| !contact.is_null();
        let (deleted, kept) = if of == "u" { ("u", UUID) } else { (UUID, "u") };
        assert!(!there(world.contact(email(deleted)).await), "{of}");
        assert!(there(world.contact(email(kept)).await), "{of}");
        assert_eq!(sent(&world).await, [1], "{of}");
    }
}

/// What a device did before its user's profile was deleted was nobody's by then, and is not let go with it.
#[tokio::test]
async fn a_device_that_is_joined_behind_a_deletion_keeps_its_events() {
    let world = World::new(setup(OnProfileDelete::DeleteContact)).await;
    let relay = world.relay().await;
    let visit = json!({"token": TOKEN, "distinct_id": "$device:x", "$device_id": "x", "$insert_id": "v", "n": 1,
                       "time": world.clock_seconds()});
    relay.append(vec![world.record(Kind::Event, &json!({"event": "Purchase", "properties": visit}))]).await;
    relay.append(vec![world.purchase("u", 2)]).await;
    relay.until(BREVO, "parked", |report| report.parked == 2).await;
    let pair = json!({"token": TOKEN, "distinct_id": "u", "$device_id": "x", "$user_id": "u"});
    let pair = world.record(Kind::Event, &json!({"event": "Unmapped", "properties": pair}));
    relay.append(vec![deletion(&world, "u"), pair, world.purchase("u", 3)]).await;
    relay.append(vec![world.set("u", json!({"$email": "u@example.com"}))]).await;
    relay.until(BREVO, "done", |report| report.backlog == 0 && report.parked == 0).await;
    relay.drain().await;
    assert_eq!(sent(&world).await, [1, 3]);
}

/// The deletion and what came behind it are refused alike: each is a letter of its own.
#[tokio::test]
async fn a_refused_deletion_does_not_hide_the_refused_update_behind_it() {
    let world = World::new(setup(OnProfileDelete::DeleteContact)).await;
    let relay = stuck(&world).await;
    let back = world.set("u", json!({"$email": "u@example.com", "plan": "max"}));
    let at = relay.append(vec![deletion(&world, "u"), back]).await;
    written_down(&relay, at).await;
    relay.kill().await;
    let refused = json!({"vendor": "brevo", "path_prefix": "/v3/contacts", "kind": "status", "status": 400});
    world.faults(refused).await;
    let relay = world.relay().await;
    relay.until(BREVO, "refused", |report| report.dead_letters == 2 && report.backlog == 0).await;
    assert_eq!(relay.dead_letters(BREVO).await.len(), 2);
    relay.drain().await;
}
