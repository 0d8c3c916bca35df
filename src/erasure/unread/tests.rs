use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::clock::{SystemClock, UnixMillis};
use crate::config::PropertyPolicy;
use crate::erasure::desk::Desk;
use crate::erasure::receipt::{Asked, Side};
use crate::record::{Destinations, Origin, Project};
use crate::store::sqlite::SqliteStore;
use crate::store::testing;
use crate::store::{Appends as _, Table, WriteBatch};
use IdentityMode::{Original, Simplified};

const UUID: &str = "f47ac10b-58cc-4372-a567-0e02b2c3d479";

fn store() -> (TempDir, SqliteStore) {
    let directory = testing::directory();
    let store = testing::open(&directory, Arc::new(SystemClock));
    (directory, store)
}

fn unread(store: &SqliteStore, mode: IdentityMode) -> Unread {
    let (journal, state) = (store.journal.clone(), store.state.clone());
    Unread { journal, state, mode, hidden: None, linked_by_leg: true }
}

fn record(name: &str, properties: Value) -> Record {
    Record {
        kind: if name.starts_with('$') { Kind::Identity } else { Kind::Event },
        origin: Origin::App,
        destinations: Destinations::ALL,
        project: Project::Ours,
        received_at: UnixMillis(1),
        body: json!({ "event": name, "properties": properties }).to_string().into(),
    }
}

/// Each in an entry of its own.
async fn append(store: &SqliteStore, records: Vec<Record>) {
    for record in records {
        store.journal.append(vec![record]).await.unwrap();
    }
}

async fn asked_for(store: &SqliteStore, id: &str) -> Erasure {
    let desk = Desk::open(store.state.clone(), Arc::new(SystemClock), std::time::Duration::from_hours(1), None);
    let why = "a test".to_owned();
    desk.await.unwrap().ask(vec![id.to_owned()], Asked::Admin, "GDPR", Side::NotAsked { why }).await.unwrap()
}

/// The ids of `id`'s person, once no round finds any more.
async fn all_ids(store: &SqliteStore, unread: &Unread, id: &str) -> Vec<String> {
    let mut erasure = asked_for(store, id).await;
    loop {
        let below = *store.journal.tip().borrow();
        let found = unread.look_through(&[&mut erasure], below).await.unwrap().remove(0);
        if found.ids.is_empty() {
            return erasure.to_erase;
        }
        erasure.to_erase.extend(found.ids);
        erasure.to_erase.sort();
    }
}

async fn put_people(store: &SqliteStore, people: &[(&str, Value)]) {
    let mut batch = WriteBatch::new();
    for (id, person) in people {
        batch.put(Table::People, *id, serde_json::to_vec(person).unwrap());
    }
    crate::store::State::write(store.state.as_ref(), batch).await.unwrap();
}

fn pair(device: &str, user: &str) -> Record {
    record("Purchase", json!({ "distinct_id": user, "$device_id": device, "$user_id": user }))
}

#[tokio::test]
async fn core_12_devices_linked_in_the_backlog_of_a_simplified_project_are_the_persons() {
    let (_directory, store) = store();
    // Known before: a device that is Vera's.
    let vera = json!({ "links": { "merged": ["$device:old"] } });
    put_people(&store, &[("vera", vera), ("$device:old", json!({ "links": { "into": "vera" } }))]).await;
    let identify = json!({ "distinct_id": "ada", "$anon_distinct_id": "$device:d1", "$device_id": "d1" });
    append(
        &store,
        vec![
            record("Visit", json!({ "distinct_id": "$device:d1", "$device_id": "d1" })),
            record("$identify", identify),
            pair("d2", "ada"),
            // Shared ones: their first users keep them, read or not.
            pair("d1", "vera"),
            pair("shared", "vera"),
            pair("shared", "ada"),
            pair("old", "ada"),
            pair("null", "ada"),
            record("$create_alias", json!({ "distinct_id": "ada", "alias": "no-link" })),
        ],
    )
    .await;
    let unread = unread(&store, Simplified);
    let ada = ["$device:d1", "$device:d2", "ada"];
    // By whichever id she is asked for, with the prefix that devices have or without.
    for id in ["ada", "$device:d2"] {
        assert_eq!(all_ids(&store, &unread, id).await, ada, "{id}");
    }
    assert_eq!(all_ids(&store, &unread, "d1").await, ["$device:d1", "$device:d2", "ada", "d1"]);
    assert_eq!(all_ids(&store, &unread, "vera").await, ["$device:old", "$device:shared", "vera"]);
    assert_eq!(all_ids(&store, &unread, "null-and-void").await, ["null-and-void"]);
}

#[tokio::test]
async fn core_12_aliases_and_merges_in_the_backlog_of_an_original_project_are_the_persons() {
    let (_directory, store) = store();
    let known = json!({ "links": { "merged": ["a-known"] } });
    put_people(&store, &[("a3", known), ("a-known", json!({ "links": { "into": "a3" } }))]).await;
    let alias = |alias: &str, of: &str| record("$create_alias", json!({ "distinct_id": of, "alias": alias }));
    append(
        &store,
        vec![
            // From the far end: only several passes get to the visitor.
            record("$identify", json!({ "$identified_id": "a3", "$anon_id": UUID })),
            alias("a3", "a2"),
            alias("a2", "ada"),
            record("$merge", json!({ "$distinct_ids": ["ada", "ada-at-work"] })),
            // It stands for somebody already.
            alias("a2", "bob"),
            // Two users, as after a second sign-in without a log-out.
            record("$identify", json!({ "distinct_id": "bob", "$anon_distinct_id": "ada" })),
            record("$merge", json!({ "$distinct_ids": ["bob", "undefined"] })),
            pair("d1", "ada"),
        ],
    )
    .await;
    let unread = unread(&store, Original);
    let ada = ["a-known", "a2", "a3", "ada", "ada-at-work", UUID];
    for id in ada {
        assert_eq!(all_ids(&store, &unread, id).await, ada, "{id}");
    }
    assert_eq!(all_ids(&store, &unread, "bob").await, ["bob"]);
}

#[tokio::test]
async fn what_is_for_no_contact_links_nobody_and_what_the_leg_had_read_is_not_read_again() {
    let (_directory, store) = store();
    let mut not_for_brevo = pair("d1", "ada");
    not_for_brevo.destinations = Destinations::NONE;
    append(&store, vec![not_for_brevo, pair("d2", "ada")]).await;
    let mut unread = unread(&store, Simplified);
    let mut erasure = asked_for(&store, "ada").await;
    let tip = *store.journal.tip().borrow();
    erasure.links_from = Some(tip);
    assert_eq!(unread.look_through(&[&mut erasure], tip).await.unwrap(), [Found::default()]);
    // Without a leg that links, everything that is held counts.
    unread.linked_by_leg = false;
    let all = unread.look_through(&[&mut erasure], tip).await.unwrap().remove(0);
    assert_eq!(all.ids.into_iter().collect::<Vec<_>>(), ["$device:d2"]);
}

#[tokio::test]
async fn where_a_rule_hashes_ids_the_links_are_of_the_hashes_and_the_records_of_the_ids() {
    let (_directory, store) = store();
    let policy = PropertyPolicy {
        hash: ["distinct_id", "$user_id", "$device_id"].map(str::to_owned).to_vec(),
        ..PropertyPolicy::default()
    };
    let rules = Rules::new(&policy, None).unwrap();
    let [ada, vera, device, other] = ["ada", "vera", "d1", "d2"].map(|id| rules.pseudonym(id).unwrap());
    // The leg has linked a device to Vera.
    let forward = json!({ "links": { "into": vera } });
    put_people(&store, &[(&format!("$device:{other}"), forward)]).await;
    append(&store, vec![pair("d1", "ada"), pair("d2", "ada")]).await;
    let unread = Unread { hidden: Some(rules), ..unread(&store, Simplified) };
    let mut erasure = asked_for(&store, "ada").await;
    erasure.to_erase.push(ada);
    let below = *store.journal.tip().borrow();
    let found = unread.look_through(&[&mut erasure], below).await.unwrap().remove(0);
    let hashed = format!("$device:{device}");
    assert_eq!(found.ids, BTreeSet::from([hashed, "$device:d1".to_owned()]));
    assert_eq!(found.raw, BTreeSet::from(["$device:d1".to_owned()]));
}
