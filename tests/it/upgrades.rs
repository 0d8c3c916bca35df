//! Stores of every schema version that there has been, opened by the present relay: what was held is still there, what was
//! owed is delivered, and the counts go on where they were.
//!
//! `upgrades/*-1.sql` were written by a relay of the first version, and `*-8.sql`, `*-2.sql` by one of the eighth of the state and the second of the
//! journal, which had more to remember; both were ended with records that neither vendor had. The versions
//! in between are made of the first by what each upgrade once did (`state-to-N.sql`): they are never edited, whatever becomes
//! of the scripts in `store::sqlite::schema`.

use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::metrics::Balance;
use crate::harness::records::{event, set};
use crate::harness::{Relay, Sandbox};

/// `application_id` of each file.
const JOURNAL: i32 = 0x4d58_524a;
const STATE: i32 = 0x4d58_5253;

const STATE_1: &str = include_str!("upgrades/state-1.sql");
const JOURNAL_1: &str = include_str!("upgrades/journal-1.sql");
/// `TO[n]` makes state version `n + 2` of `n + 1`.
const TO: [&str; 11] = [
    include_str!("upgrades/state-to-2.sql"),
    include_str!("upgrades/state-to-3.sql"),
    include_str!("upgrades/state-to-4.sql"),
    include_str!("upgrades/state-to-5.sql"),
    include_str!("upgrades/state-to-6.sql"),
    include_str!("upgrades/state-to-7.sql"),
    include_str!("upgrades/state-to-8.sql"),
    include_str!("upgrades/state-to-9.sql"),
    include_str!("upgrades/state-to-10.sql"),
    include_str!("upgrades/state-to-11.sql"),
    include_str!("upgrades/state-to-12.sql"),
];
/// Some relays of the versions 1 and 2 had this table already.
const EARLY_BASES: &str = "CREATE TABLE bases (key BLOB PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;";

/// The last version whose making is written down here.
const LAST: u32 = 1 + TO.len() as u32;

fn upgrades(from: u32, to: u32) -> &'static [&'static str] {
    &TO[from as usize - 1..to as usize - 1]
}

fn make(path: &Path, application: i32, version: u32, scripts: &[&str]) {
    let file = Connection::open(path).unwrap();
    file.pragma_update(None, "page_size", if application == JOURNAL { 16_384 } else { 4_096 }).unwrap();
    file.pragma_update(None, "auto_vacuum", "INCREMENTAL").unwrap();
    for script in scripts {
        file.execute_batch(script).unwrap();
    }
    file.pragma_update(None, "application_id", application).unwrap();
    file.pragma_update(None, "user_version", version).unwrap();
}

fn version(path: &Path) -> u32 {
    Connection::open(path).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
}

/// What a file is made of, in an order of its own.
fn shape(path: &Path) -> Vec<String> {
    let file = Connection::open(path).unwrap();
    let mut tables = file.prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").unwrap();
    let tables = tables.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap);
    let mut tables: Vec<String> = tables.map(|sql| sql.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    tables.sort();
    tables
}

struct Store {
    dir: TempDir,
}

impl Store {
    fn make(state: (u32, &[&str]), journal: (u32, &str)) -> Self {
        let store = Self { dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        make(&store.state(), STATE, state.0, state.1);
        make(&store.journal(), JOURNAL, journal.0, &[journal.1]);
        store
    }

    fn journal(&self) -> std::path::PathBuf {
        self.dir.path().join("mixrelay.db")
    }

    fn state(&self) -> std::path::PathBuf {
        self.dir.path().join("mixrelay.state.db")
    }

    async fn open(&self, sandbox: &Sandbox, more: Value) -> Relay {
        // The records are of the day on which they were written, and the test is of any later one.
        let mut tweaks = json!({
            "store": format!("sqlite:{}", self.journal().display()),
            "stale_after": "36500d",
            "parking": { "max_age": "36500d" },
            "retention": { "dead_letters": "36500d", "unseen_people": "36500d", "history": "36500d", "runs": "36500d",
                           "tombstones": "36500d" },
        });
        crate::harness::relay::merge(&mut tweaks, more);
        Relay::start(sandbox, tweaks).await
    }
}

/// What the relay of the first version had: Ada, delivered; two events of hers; one of somebody whose address nobody knew;
/// one that Mixpanel refused; and for neither vendor yet her first name and three purchases.
async fn holds_what_the_first_version_had(sandbox: &Sandbox, relay: &Relay, what: &str) {
    let mixpanel = Balance { accepted: 9, delivered: 8, skipped: 0, parked: 0, dead_letters: 1, backlog: 0 };
    let brevo = Balance { accepted: 9, delivered: 6, skipped: 2, parked: 1, dead_letters: 0, backlog: 0 };
    relay.settles("mixpanel", mixpanel).await;
    relay.settles("brevo", brevo).await;
    let letters = relay.dead_letters("mixpanel", 1).await;
    assert_eq!(letters[0]["record"]["properties"]["$insert_id"], "refused-1", "{what}: {letters:?}");
    let contact = sandbox.brevo_contact("ada@example.com").await.unwrap();
    assert_eq!(contact["attributes"]["FIRSTNAME"], "Ada", "{what}: {contact}");
    let person = relay.admin("GET", "/v1/people/ada").await.ok().body;
    assert!(person.contains("ada@example.com") && person.contains("PLAN_TYPE"), "{what}: {person}");
    // An address for whom it was parked, and the letter let go.
    relay.take("/engage", &json!([set("later", json!({ "$email": "later@example.com" }))])).await;
    let body = json!({ "ids": [letters[0]["id"]] }).to_string();
    let bearer = format!("Bearer {}", crate::harness::relay::ADMIN_TOKEN);
    let json = crate::harness::http::JSON;
    relay.send("DELETE", "/v1/dead-letters", &[("authorization", &bearer), json], body).await.ok();
    relay.settles("brevo", Balance { accepted: 10, delivered: 8, parked: 0, ..brevo }).await;
    relay.settles("mixpanel", Balance { accepted: 10, delivered: 9, skipped: 1, dead_letters: 0, ..mixpanel }).await;
}

#[tokio::test]
async fn every_schema_that_there_was_is_opened_and_nothing_is_missing() {
    let sandbox = Sandbox::start().await;
    let ada = json!({ "email": "ada@example.com", "ext_id": "ada", "attributes": { "PLAN_TYPE": "pro" } });
    sandbox.control("POST", "/brevo/seed", json!({ "contacts": [ada] })).await;
    let mut stores = Vec::new();
    for state in 1..=LAST {
        let scripts = [&[STATE_1], upgrades(1, state)].concat();
        let journals: &[u32] = if state < 6 { &[1] } else { &[1, 2] };
        stores.extend(journals.iter().map(|&journal| Store::make((state, &scripts), (journal, JOURNAL_1))));
    }
    for state in 1..=2 {
        let scripts = [&[STATE_1, EARLY_BASES], upgrades(1, state)].concat();
        stores.push(Store::make((state, &scripts), (1, JOURNAL_1)));
    }
    let fresh = Relay::start(&sandbox, json!({})).await;
    let fresh = fresh.directory().join("mixrelay.db");
    let (state_now, journal_now) = (version(&fresh.with_extension("state.db")), version(&fresh));
    assert!(LAST + 1 >= state_now, "state version {} was on main: how it came about belongs here", state_now - 1);

    // Side by side, against one pair of vendors.
    let opened = futures_util::future::join_all(stores.iter().map(|store| store.open(&sandbox, json!({})))).await;
    for (store, relay) in stores.iter().zip(&opened) {
        let what = format!("made as {}", store.dir.path().display());
        holds_what_the_first_version_had(&sandbox, relay, &what).await;
        assert_eq!((version(&store.state()), version(&store.journal())), (state_now, journal_now));
        assert_eq!(shape(&store.state()), shape(&fresh.with_extension("state.db")), "{what}");
        assert_eq!(shape(&store.journal()), shape(&fresh), "{what}");
    }
    // Each relay sent what it owed, once.
    let arrived = sandbox.mixpanel_insert_ids().await;
    let owed = ["backlog-0", "backlog-1", "backlog-2"];
    assert_eq!(arrived.keys().collect::<Vec<_>>(), owed);
    let events = sandbox.brevo_events().await.len();
    assert_eq!(events, stores.len() * 4, "three that were owed, and the one that was parked");
}

const STATE_8: &str = include_str!("upgrades/state-8.sql");
const JOURNAL_2: &str = include_str!("upgrades/journal-2.sql");

/// What the relay of the eighth version had besides: somebody who was erased, a cohort's run, a backfill, a company, orders on the
/// audit list, both destinations paused by hand, and an import kept as it was sent.
#[tokio::test]
async fn what_a_later_relay_remembered_is_kept_too() {
    let sandbox = Sandbox::start().await;
    let ada = json!({ "email": "ada@example.com", "ext_id": "ada", "attributes": { "PLAN_TYPE": "pro" } });
    let list = json!({ "id": 16, "name": "Engaged" });
    sandbox.control("POST", "/brevo/seed", json!({ "lists": [list], "contacts": [ada] })).await;
    let groups = json!({ "sync": { "groups": true }, "group_mapping": { "company_id": { "name": "$name" } } });
    for state in 8..=LAST {
        let scripts = [&[STATE_8], upgrades(8, state)].concat();
        let store = Store::make((state, &scripts), (2, JOURNAL_2));
        let relay = store.open(&sandbox, groups.clone()).await;
        for destination in ["mixpanel", "brevo"] {
            let paused = relay.metrics().await.sum("mixrelay_destination_paused", &[("destination", destination)]);
            assert_eq!(paused, 1.0, "{destination} was paused by hand");
            relay.admin("POST", &format!("/v1/destinations/{destination}/resume")).await.ok();
        }
        // Of the erased one a phone still sends; the mark of the erasure stands in the journal and is for Brevo's side alone.
        relay.take("/track", &json!([event("Purchase", "eve", "late")])).await;
        let mixpanel = Balance { accepted: 53, delivered: 50, skipped: 2, parked: 0, dead_letters: 1, backlog: 0 };
        relay.settles("mixpanel", mixpanel).await;
        let brevo = Balance { accepted: 53, delivered: 8, skipped: 44, parked: 1, dead_letters: 0, backlog: 0 };
        relay.settles("brevo", brevo).await;
        relay.dead_letters("mixpanel", 1).await;
        for (path, says) in [
            ("/v1/erasures", "\"erased_ids\":1"),
            ("/v1/cohorts/runs", "\"cohortName\":\"Engaged users\""),
            ("/v1/backfills", "\"what\":\"profiles\""),
            ("/v1/audit", "\"action\":\"pause\""),
        ] {
            let answer = relay.admin("GET", path).await.ok().body;
            assert!(answer.contains(says), "version {state}, {path}: no {says} in {answer}");
        }
    }
    let arrived = sandbox.mixpanel_insert_ids().await;
    assert!(!arrived.contains_key("late"), "{arrived:?}");
    assert_eq!(arrived.keys().filter(|id| id.starts_with("imported-")).count(), 40);
}
