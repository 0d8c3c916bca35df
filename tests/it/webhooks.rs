//! What the vendors push, through the whole relay.

use serde_json::{Value, json};

use crate::harness::http::JSON;
use crate::harness::records::{event, now_ms, set};
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

const BREVO: &str = "/webhooks/brevo";
const TOKEN: (&str, &str) = ("authorization", "Bearer brevo-token");

fn served() -> Value {
    json!({ "webhooks": { "brevo": { "token": "brevo-token" } } })
}

async fn push(relay: &Relay, items: &Value) -> Value {
    relay.post(BREVO, &[TOKEN, JSON], items.to_string()).await.ok().json()
}

fn item(event: &str, email: &str) -> Value {
    json!({ "event": event, "email": email, "ts_event": now_ms() / 1000, "message-id": "<m@relay>", "subject": "Hello" })
}

/// Until the relay has written down whose contact it is, which comes with the checkpoint after the write at Brevo.
async fn known_at_brevo(relay: &Relay, id: &str) {
    eventually(PATIENCE, async || {
        let about = relay.admin("GET", &format!("/v1/people/{id}")).await.ok().json();
        let contact = about["held"][0]["people"]["contact"]["known"]["email"].clone();
        if contact.is_string() { Ok(()) } else { Err(format!("{about}")) }
    })
    .await;
}

async fn named(sandbox: &Sandbox, name: &str) -> Vec<Value> {
    let events = sandbox.mixpanel_events().await;
    events.into_iter().map(|event| event["record"].clone()).filter(|event| event["event"] == name).collect()
}

/// What happens to a mail is on the person's timeline once, whoever they were when their address became known, also when
/// Brevo repeats it after a restart; and none of it is at Brevo.
#[tokio::test]
async fn brevos_events_reach_the_right_persons_timeline_once() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, served()).await;
    relay.take("/engage", &json!([set("ada", json!({ "$email": "Ada@Example.com" }))])).await;
    relay.take("/track", &json!([event("Purchase", "ada", "p-1")])).await;
    relay.drained("brevo").await;
    known_at_brevo(&relay, "ada").await;
    let at_brevo = sandbox.brevo_counts().await["records"].clone();

    let contact_id = sandbox.brevo_contact("ada@example.com").await.unwrap()["id"].clone();
    let mut by_number = item("click", "");
    by_number["contact_id"] = contact_id;
    by_number["link"] = "https://example.com".into();
    let batch = json!([item("opened", "ada@example.com"), by_number, item("unsubscribed", "ADA@example.com")]);
    assert_eq!(push(&relay, &batch).await, json!({ "stored": 3, "refused": [] }));
    relay.drained("mixpanel").await;
    assert!(relay.terminate().await.success());
    relay.start_again().await;
    push(&relay, &json!({ "events": batch })).await;
    relay.drained("mixpanel").await;
    sandbox.mixpanel_has_events(4, PATIENCE).await;

    for (name, key, value) in [
        ("Brevo Email Opened", "subject", "Hello"),
        ("Brevo Email Clicked", "link", "https://example.com"),
        ("Brevo Unsubscribed", "brevo_event", "unsubscribed"),
    ] {
        let events = named(&sandbox, name).await;
        assert_eq!(events.len(), 2, "as often as it was pushed, under one id: {name}");
        assert_eq!(events[0]["properties"]["$insert_id"], events[1]["properties"]["$insert_id"]);
        assert_eq!(
            (&events[0]["properties"]["distinct_id"], &events[0]["properties"][key]),
            (&json!("ada"), &json!(value))
        );
    }
    eventually(PATIENCE, async || {
        let profile = sandbox.mixpanel_profile("ada").await.unwrap_or_default();
        same("the property", profile["brevo_unsubscribed"].clone(), json!(true))
    })
    .await;
    relay.drained("brevo").await;
    assert_eq!(sandbox.brevo_counts().await["records"], at_brevo, "nothing of it went back");
    let skipped = [("destination", "brevo"), ("rule", "not_for_this_destination")];
    assert_eq!(relay.metrics().await.sum("mixrelay_records_skipped_total", &skipped), 8.0);
}

/// Somebody whom nobody knows is a device, which becomes their user's when they are known.
#[tokio::test]
async fn what_came_before_an_address_was_known_becomes_its_owners() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, served()).await;
    push(&relay, &item("opened", "bob@example.com")).await;
    relay.drained("mixpanel").await;
    let events = named(&sandbox, "Brevo Email Opened").await;
    let before = events[0]["properties"]["distinct_id"].as_str().unwrap().to_owned();
    assert!(before.starts_with("$device:") && !before.contains("bob"), "{before}");

    relay.take("/engage", &json!([set("bob", json!({ "$email": "bob@example.com" }))])).await;
    relay.drained("brevo").await;
    known_at_brevo(&relay, "bob").await;
    push(&relay, &item("delivered", "bob@example.com")).await;
    relay.drained("mixpanel").await;
    // As Mixpanel's queries see them.
    eventually(PATIENCE, async || {
        let seen = sandbox.get("/mixpanel/events?distinct_id=bob").await;
        same("events of bob's", seen["events"].as_array().map(Vec::len), Some(2))
    })
    .await;
}

/// A full disk is for later and no word that makes Brevo throw the push away; a bad element keeps nobody back.
#[tokio::test]
async fn brevo_is_told_to_come_back_and_never_more_than_that() {
    let sandbox = Sandbox::start().await;
    let mut full = served();
    full["store_min_free"] = "900TiB".into();
    let relay = Relay::start(&sandbox, full).await;
    let answer = relay.post(BREVO, &[TOKEN, JSON], item("opened", "a@example.com").to_string()).await;
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.header("retry-after").is_some());

    let relay = Relay::start(&sandbox, served()).await;
    for (headers, body, status) in [
        (&[TOKEN][..], "{", 400),
        (&[TOKEN], r#"[{"event":"opened"}]"#, 400),
        (&[], "[]", 401),
        (&[("authorization", "Basic YnJldm86YnJldm8tdG9rZW4=")], "[]", 200),
    ] {
        assert_eq!(relay.post(BREVO, headers, body).await.status, status, "{body}");
    }
    let answer = push(&relay, &json!([{}, item("opened", "a@example.com")])).await;
    assert_eq!((&answer["stored"], &answer["refused"][0]["index"]), (&json!(1), &json!(0)));
}

/// `check --register-webhooks`, and what it says.
fn register(relay: &Relay, address: &str) -> (Option<i32>, String) {
    let config = relay.directory().join("mixrelay.yaml");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_mixrelay"))
        .args(["check", "--config", config.to_str().unwrap(), "--register-webhooks", address])
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
}

/// Registered as often as one likes, each webhook is there once, and Brevo's own pushes come through it.
#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_registered_once_and_brevo_pushes_through_them() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, served()).await;
    for address in ["http://127.0.0.1:9", &relay.url(""), &relay.url("/webhooks/brevo/")] {
        let (status, said) = tokio::task::block_in_place(|| register(&relay, address));
        assert!(said.contains("webhooks.brevo (transactional): webhook"), "{said}");
        assert!(said.contains("webhooks.brevo (marketing): webhook"), "{said}");
        assert_eq!(status, Some(0), "{said}");
    }
    let (status, said) = tokio::task::block_in_place(|| register(&relay, "http://relay.example.com"));
    assert!(status == Some(64) && said.contains("https"), "{said}");

    for (kind, event) in
        [("transactional", "hard_bounce"), ("marketing", "list_addition"), ("marketing", "unique_opened")]
    {
        let push = json!({ "type": kind, "event": event, "email": "c@example.com", "fields": { "list_id": [15] } });
        let pushed = sandbox.control("POST", "/brevo/push", push).await["pushed"].clone();
        let statuses: Vec<_> = pushed.as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
        let subscribed = event != "unique_opened";
        assert_eq!(statuses, vec![json!(200); usize::from(subscribed)], "{event}: {pushed}");
    }
    relay.drained("mixpanel").await;
    assert_eq!(named(&sandbox, "Brevo Email Hard Bounced").await[0]["properties"]["tags"], json!(["sandbox"]));
    assert_eq!(named(&sandbox, "Brevo List Joined").await[0]["properties"]["list_ids"], json!([15]));
}

const MIXPANEL_EVENTS: &str = "/webhooks/mixpanel/events";

/// Streams what Mixpanel has stored since `from` to the relay; the answer is where to go on.
async fn stream(sandbox: &Sandbox, relay: &Relay, from: u64) -> u64 {
    let streaming =
        json!({ "url": relay.url(MIXPANEL_EVENTS), "authorization": "Bearer stream-password", "from": from });
    let streamed = sandbox.control("POST", "/mixpanel/stream", streaming).await;
    for push in streamed["pushed"].as_array().unwrap() {
        assert_eq!(push["status"], 200, "{push}");
    }
    streamed["next"].as_u64().unwrap()
}

fn purchase(distinct_id: &str, insert_id: &str, n: u64) -> Value {
    let mut event = event("Purchase", distinct_id, insert_id);
    event["properties"]["n"] = n.into();
    event
}

/// An event that did not pass the relay reaches Brevo by the stream. One that did comes back and is known again, whatever
/// made its id; so is what came from Brevo; and a stream that is pushed twice brings nothing twice.
#[tokio::test]
async fn a_stream_brings_what_did_not_pass_the_relay_and_nothing_twice() {
    let sandbox = Sandbox::start().await;
    let mut tweaks = served();
    tweaks["webhooks"]["mixpanel"] = json!({ "username": "mixpanel", "password": "stream-password" });
    // Brevo's own event is mapped, of all things.
    tweaks["event_mapping"]["Brevo Email Opened"] = "email_opened".into();
    let mut relay = Relay::start(&sandbox, tweaks).await;
    relay.take("/engage", &json!([set("buyer", json!({ "$email": "buyer@example.com" }))])).await;
    relay.drained("brevo").await;
    known_at_brevo(&relay, "buyer").await;

    let native = json!({ "event": "Purchase", "properties": { "token": crate::harness::sandbox::TOKEN,
        "distinct_id": "$device:phone", "$device_id": "phone", "$user_id": "buyer", "time": now_ms(), "n": 2 },
        "$mp_metadata": { "$mp_event_id": "7f3a" } });
    let odd = purchase("buyer", "an id / that import refuses, and that is longer than it takes", 3);
    relay.take("/track", &json!([purchase("buyer", "p-1", 1), native, odd])).await;
    push(&relay, &item("opened", "buyer@example.com")).await;
    relay.drained("mixpanel").await;
    relay.drained("brevo").await;
    // This one goes past the relay.
    let direct = json!([purchase("buyer", "p-4", 4)]).to_string();
    let at_mixpanel = format!("http://{}/track", sandbox.mixpanel());
    assert_eq!(relay.http().send("POST", &at_mixpanel, &[JSON], direct.clone()).await.unwrap().ok().body, "1");
    sandbox.mixpanel_has_events(5, PATIENCE).await;

    let next = stream(&sandbox, &relay, 0).await;
    assert_eq!(next, 5);
    relay.drained("brevo").await;
    assert!(relay.terminate().await.success());
    relay.start_again().await;
    stream(&sandbox, &relay, 0).await;
    // And the app that now has the relay sends it once more.
    relay.take("/track", &json!([purchase("buyer", "p-4", 4)])).await;
    relay.drained("brevo").await;

    let events = sandbox.brevo_events().await;
    let mut bought: Vec<u64> =
        events.iter().map(|event| event["event"]["event_properties"]["n"].as_u64().unwrap_or(0)).collect();
    bought.sort_unstable();
    assert_eq!(bought, [1, 2, 3, 4], "{events:?}");
    let metrics = relay.metrics().await;
    let duplicates = [("destination", "brevo"), ("rule", "duplicate")];
    assert_eq!(metrics.sum("mixrelay_records_skipped_total", &duplicates), 8.0);
    let echoes = [("webhook", "mixpanel_events"), ("outcome", "echo")];
    assert_eq!(metrics.sum("mixrelay_webhook_items_total", &echoes), 1.0, "since the restart");
    assert_eq!(relay.drained("mixpanel").await.delivered, 6, "nothing streamed went back to Mixpanel");
}

const MIXPANEL_COHORTS: &str = "/webhooks/mixpanel/cohorts";

/// A page of a cohort sync; `u3` has the address u3@example.com.
fn sync(action: &str, session: &str, (page, pages): (u32, u32), people: &[u32]) -> Value {
    let member = |n: &u32| json!({ "mixpanel_distinct_id": format!("u{n}"), "email": format!("u{n}@example.com") });
    json!({ "action": action, "parameters": {
        "mixpanel_project_id": "12345", "mixpanel_cohort_id": "77", "mixpanel_cohort_name": "Engaged",
        "mixpanel_cohort_description": "", "mixpanel_session_id": session,
        "page_info": { "total_pages": pages, "page_count": page },
        "members": people.iter().map(member).collect::<Vec<_>>(),
    }})
}

async fn push_cohort(relay: &Relay, body: &Value) {
    let login = ("authorization", "Basic bWl4cGFuZWw6c3RyZWFtLXBhc3N3b3Jk");
    let answer = relay.post(MIXPANEL_COHORTS, &[login, JSON], body.to_string()).await.ok().json();
    assert_eq!(answer, json!({ "action": body["action"], "status": "success" }));
}

async fn list_is(sandbox: &Sandbox, expected: &[u32]) {
    list_of(sandbox, 16, expected).await;
}

async fn list_of(sandbox: &Sandbox, list: u32, expected: &[u32]) {
    let expected: Vec<String> = expected.iter().map(|n| format!("u{n}@example.com")).collect();
    eventually(PATIENCE, async || {
        let list = sandbox.get(&format!("/brevo/lists/{list}")).await;
        let members = list["members"].as_array().unwrap();
        let mut emails: Vec<_> = members.iter().map(|one| one["email"].as_str().unwrap().to_owned()).collect();
        emails.sort_unstable();
        same("members of the list", emails, expected.clone())
    })
    .await;
}

/// A cohort comes in pages, out of order and again, over a kill; the list becomes it, contacts that Brevo lacked included,
/// and follows what changes.
#[tokio::test]
async fn a_pushed_cohort_becomes_the_list_and_is_followed() {
    let sandbox = Sandbox::start().await;
    let stranger = json!({ "contacts": [{ "email": "u9@example.com", "list_ids": [16] }] });
    sandbox.control("POST", "/brevo/seed", stranger).await;
    let mut relay = Relay::start(
        &sandbox,
        json!({
            "webhooks": { "mixpanel": { "username": "mixpanel", "password": "stream-password" } },
            "cohorts": [{ "id": 77, "list": 16, "mode": "mirror", "schedule": "weekly" }],
            "max_removal_share": 1.0,
        }),
    )
    .await;
    push_cohort(&relay, &sync("members", "s-1", (3, 3), &[5])).await;
    push_cohort(&relay, &sync("members", "s-1", (1, 3), &[1, 2])).await;
    relay.kill().await;
    relay.start_again().await;
    // From the first page again, as after a failed sync.
    push_cohort(&relay, &sync("members", "s-1", (1, 3), &[1, 2])).await;
    list_is(&sandbox, &[9]).await;
    push_cohort(&relay, &sync("members", "s-1", (2, 3), &[3, 4])).await;
    list_is(&sandbox, &[1, 2, 3, 4, 5]).await;

    push_cohort(&relay, &sync("add_members", "s-2", (1, 1), &[6])).await;
    push_cohort(&relay, &sync("remove_members", "s-2", (1, 1), &[1, 9])).await;
    list_is(&sandbox, &[2, 3, 4, 5, 6]).await;
    push_cohort(&relay, &sync("add_members", "s-3", (1, 1), &[])).await;
    push_cohort(&relay, &sync("remove_members", "s-2", (1, 1), &[1, 9])).await;
    list_is(&sandbox, &[2, 3, 4, 5, 6]).await;
}

/// The pages of two full copies of one cohort in every order that keeps each copy's own, each page twice, beside a copy of
/// another cohort: every list becomes the newer copy of its cohort, however late the older one is whole.
#[tokio::test]
async fn sessions_that_come_side_by_side_leave_the_newest_copy() {
    let sandbox = Sandbox::start().await;
    sandbox.switch(json!({ "brevo": { "per_second": 99 } })).await;
    let relay = Relay::start(
        &sandbox,
        json!({
            "webhooks": { "mixpanel": { "username": "mixpanel", "password": "stream-password" } },
            "cohorts": [
                { "id": 77, "list": 16, "mode": "mirror", "schedule": "weekly" },
                { "id": 78, "list": 17, "mode": "mirror", "schedule": "weekly" },
            ],
            "max_removal_share": 1.0,
        }),
    )
    .await;
    let orders = ["AABB", "ABAB", "ABBA", "BAAB", "BABA", "BBAA"];
    for (round, order) in (0..).zip(orders) {
        let people = |session: char, page: u32| match session {
            'A' => [10 + round, 20 + page],
            'B' => [30 + round, 40 + page],
            _ => [50 + round, 60 + page],
        };
        let mut other = 1..=2;
        let mut sent: std::collections::BTreeMap<char, u32> = std::collections::BTreeMap::new();
        for (at, session) in order.chars().enumerate() {
            let page = sent.entry(session).and_modify(|page| *page += 1).or_insert(1);
            let body = sync("members", &format!("{session}-{round}"), (*page, 2), &people(session, *page));
            push_cohort(&relay, &body).await;
            if at % 2 == 1 {
                let page = other.next().unwrap();
                let mut beside = sync("members", &format!("C-{round}"), (page, 2), &people('C', page));
                beside["parameters"]["mixpanel_cohort_id"] = json!("78");
                push_cohort(&relay, &beside).await;
            }
            push_cohort(&relay, &body).await;
        }
        eventually(PATIENCE, async || {
            let runs = relay.admin("GET", "/v1/cohorts/runs").await.ok().json();
            let running = runs["items"].as_array().unwrap().iter().filter(|run| run["status"] == "running").count();
            same("runs under way", running, 0)
        })
        .await;
        // Whose first page came last.
        let newer = if order.starts_with('A') { 'B' } else { 'A' };
        let all = |session| {
            let mut all: Vec<u32> = (1..=2).flat_map(|page| people(session, page)).collect();
            all.sort_unstable();
            all.dedup();
            all
        };
        list_of(&sandbox, 16, &all(newer)).await;
        list_of(&sandbox, 17, &all('C')).await;
    }
    let runs = relay.admin("GET", "/v1/cohorts/runs").await.ok().json();
    let pushed = runs["items"].as_array().unwrap().iter().filter(|run| run["trigger"] == "webhook").count();
    assert_eq!(pushed, 3 * orders.len(), "each session once: {runs}");
}

/// A cohort that empties at Mixpanel, by a mistake in its definition, must not empty the list.
#[tokio::test]
async fn the_brake_of_a_mirror_holds_for_those_who_are_pushed_out_of_it() {
    let sandbox = Sandbox::start().await;
    let contact = |n: u32| json!({ "email": format!("u{n}@example.com"), "ext_id": format!("u{n}"), "list_ids": [16] });
    let contacts: Vec<_> = (1..=6).map(contact).collect();
    sandbox.control("POST", "/brevo/seed", json!({ "contacts": contacts })).await;
    let tweaks = json!({
        "webhooks": { "mixpanel": { "username": "mixpanel", "password": "stream-password" } },
        "cohorts": [{ "id": 77, "list": 16, "mode": "mirror", "schedule": "weekly" }],
    });
    let relay = Relay::start(&sandbox, tweaks).await;
    push_cohort(&relay, &sync("remove_members", "s-1", (1, 1), &[1, 2, 3, 4])).await;
    let stopped = eventually(PATIENCE, async || {
        let runs = relay.admin("GET", "/v1/cohorts/runs").await.ok().json();
        let pushed = runs["items"].as_array().unwrap().iter().find(|run| run["trigger"] == "webhook").cloned();
        pushed.filter(|run| run["status"] != "running").ok_or(runs.to_string())
    })
    .await;
    assert_eq!((&stopped["status"], &stopped["toRemove"]), (&json!("stopped"), &json!(4)), "{stopped}");
    assert!(stopped["why"].as_str().unwrap().contains("max_removal_share"), "{stopped}");
    list_is(&sandbox, &[1, 2, 3, 4, 5, 6]).await;
    let rung = relay.metrics().await.sum("mixrelay_alerts_total", &[("cause", "brake_pulled")]);
    assert!(rung >= 1.0);
    push_cohort(&relay, &sync("remove_members", "s-2", (1, 1), &[6])).await;
    list_is(&sandbox, &[1, 2, 3, 4, 5]).await;
}
