//! What is stored: the app's bytes and the edge's stamps.

use serde_json::json;

use super::*;
use crate::record::{Destinations, Kind, Project};

async fn track(edge: &Edge, uri: &str, headers: &[(&str, &str)], event: &Value) -> Value {
    let answer = edge.post(uri, headers, event.to_string()).await;
    assert_eq!(answer, (200, "1".to_owned()), "{event}");
    edge.stored_json().remove(0)
}

#[tokio::test]
async fn a_complete_event_is_stored_as_it_came() {
    let edge = Edge::new(CONFIG);
    let event = r#"{ "properties" : {"$insert_id":"i-1","time":1.5e9,"distinct_id":"u","token":"tok","f":1.0,"s":"\u00e9"}, "event":"a" }"#;
    assert_eq!(edge.post("/track", &[], format!(" [ {event} ] ")).await.1, "1");
    let stored = edge.stored();
    assert_eq!(stored[0].body, event.as_bytes());
    assert_eq!((stored[0].kind, stored[0].project), (Kind::Event, Project::Ours));
    assert_eq!((stored[0].destinations, stored[0].received_at), (Destinations::ALL, NOW));
}

#[tokio::test]
async fn the_requesters_address_is_stored_only_when_asked_for() {
    let edge = Edge::new(CONFIG);
    let event = json!({"event":"a","properties":{"token":"tok","ip":"9.9.9.9"}});
    let without = json!({"event":"a","properties":{"token":"tok"}});
    assert_eq!(track(&edge, "/track?ip=1", &[], &event).await["properties"]["ip"], "203.0.113.7");
    assert_eq!(track(&edge, "/track?ip=1", &[], &without).await["properties"]["ip"], "203.0.113.7");
    for uri in ["/track", "/track?ip=0"] {
        assert_eq!(track(&edge, uri, &[], &event).await["properties"]["ip"], "9.9.9.9");
        assert_eq!(track(&edge, uri, &[], &without).await["properties"].get("ip"), None);
    }
    // The peer is no trusted proxy: what it says about others is hearsay.
    let spoofed = [("x-forwarded-for", "6.6.6.6")];
    assert_eq!(track(&edge, "/track?ip=1", &spoofed, &without).await["properties"]["ip"], "203.0.113.7");
}

#[tokio::test]
async fn a_profile_has_the_requesters_address_unless_told_otherwise() {
    let edge = Edge::new(CONFIG);
    let update = json!({"$token":"tok","$distinct_id":"u","$set":{"a":1}});
    let with = json!({"$token":"tok","$distinct_id":"u","$ip":"9.9.9.9","$set":{"a":1}});
    let text = [("accept", "text/plain")];
    assert_eq!(track(&edge, "/engage", &text, &update).await["$ip"], "203.0.113.7");
    assert_eq!(track(&edge, "/engage?ip=1", &[], &update).await["$ip"], "203.0.113.7");
    assert_eq!(track(&edge, "/engage?ip=0", &[], &update).await["$ip"], 0);
    assert_eq!(track(&edge, "/engage", &text, &with).await["$ip"], "9.9.9.9");
    assert_eq!(track(&edge, "/engage?ip=1", &[], &with).await["$ip"], "203.0.113.7");
    let group = json!({"$token":"tok","$group_key":"k","$group_id":"g","$set":{"a":1}});
    assert_eq!(track(&edge, "/groups?ip=1", &[], &group).await.get("$ip"), None);
}

#[tokio::test]
async fn addresses_are_cut_or_dropped_before_they_are_stored() {
    let event = json!({"event":"a","properties":{"token":"tok","ip":"9.9.9.9","$ip":"2001:db8:1:2::3"}});
    let update = json!({"$token":"tok","$distinct_id":"u","$ip":"9.9.9.9","$set":{"$ip":"8.8.8.8"}});
    let odd = json!({"event":"a","properties":{"token":"tok","ip":"9.9.9.9, 1.1.1.1"}});

    let edge = Edge::new(&format!("{CONFIG}privacy: {{ ip: truncate }}\n"));
    let properties = track(&edge, "/track?ip=0", &[], &event).await["properties"].clone();
    assert_eq!((&properties["ip"], &properties["$ip"]), (&json!("9.9.9.0"), &json!("2001:db8:1::")));
    assert_eq!(track(&edge, "/track?ip=1", &[], &event).await["properties"]["ip"], "203.0.113.0");
    assert_eq!(track(&edge, "/track", &[], &odd).await["properties"]["ip"], 0);
    let stored = track(&edge, "/engage?ip=0", &[], &update).await;
    assert_eq!((&stored["$ip"], &stored["$set"]["$ip"]), (&json!("9.9.9.0"), &json!("8.8.8.0")));

    let edge = Edge::new(&format!("{CONFIG}privacy: {{ ip: drop }}\n"));
    for (uri, record) in [("/track?ip=1", &event), ("/track", &event), ("/engage?ip=1", &update)] {
        let stored = track(&edge, uri, &[], record).await.to_string();
        for address in ["9.9.9", "8.8.8", "2001", "203.0"] {
            assert!(!stored.contains(address), "{uri} {stored}");
        }
    }
}

#[tokio::test]
async fn a_duplicate_key_cannot_smuggle_an_address() {
    let edge = Edge::new(&format!("{CONFIG}privacy: {{ ip: drop }}\n"));
    let event = r#"{"event":"a","properties":{"ip":"9.9.9.9","token":"tok","ip":"8.8.8.8"}}"#;
    assert_eq!(edge.post("/track", &[], event).await.1, "1");
    let stored = String::from_utf8(edge.stored()[0].body.to_vec()).unwrap();
    assert!(!stored.contains("9.9.9.9") && !stored.contains("8.8.8.8"), "{stored}");
}

#[tokio::test]
async fn an_event_always_has_an_id_that_import_takes() {
    let edge = Edge::new(CONFIG);
    let id = |stored: &Value| stored["properties"]["$insert_id"].as_str().unwrap().to_owned();
    let with = |insert_id: Value| json!({"event":"a","properties":{"token":"tok","$insert_id":insert_id}});

    // Two events without an id of their own are two events.
    let bare = json!({"event":"a","properties":{"token":"tok"}});
    assert_ne!(id(&track(&edge, "/track", &[], &bare).await), id(&track(&edge, "/track", &[], &bare).await));
    // A native SDK's resend is the same event.
    let native = json!({"event":"a","properties":{"token":"tok"},"$mp_metadata":{"$mp_event_id":"b4a1f0c2"}});
    assert_eq!(id(&track(&edge, "/track", &[], &native).await), id(&track(&edge, "/track", &[], &native).await));
    // A usable id stays.
    assert_eq!(id(&track(&edge, "/track", &[], &with(json!("My-1"))).await), "My-1");
    // An unusable one is replaced, the same on every retry, and kept.
    for unusable in [json!("evt_abc123"), json!("x".repeat(37)), json!(17), json!("ä"), json!("a\"b")] {
        let first = track(&edge, "/track", &[], &with(unusable.clone())).await;
        let second = track(&edge, "/track", &[], &with(unusable.clone())).await;
        assert_eq!(id(&first), id(&second), "{unusable}");
        assert_eq!(first["properties"]["mixrelay_insert_id"], unusable);
    }
    // A word that stands for "none" is none.
    for nothing in [json!(null), json!(""), json!("undefined")] {
        let first = track(&edge, "/track", &[], &with(nothing.clone())).await;
        assert_eq!(id(&first).len(), 32, "{nothing}");
    }
}

#[tokio::test]
async fn times_that_import_would_refuse_become_the_arrival() {
    let edge = Edge::new(CONFIG);
    let now = NOW.0;
    let cases = [
        (json!(null), json!(now)),
        (json!(now + 3_599_000), json!(now + 3_599_000)),
        (json!(now + 3_601_000), json!(now)),
        (json!(4_102_444_800_u64), json!(now)),
        (json!(1_600_000_000), json!(1_600_000_000)),
        (json!(1_600_000_000.25), json!(1_600_000_000.25)),
    ];
    for (time, expected) in cases {
        let event = json!({"event":"a","properties":{"token":"tok","time":time}});
        assert_eq!(track(&edge, "/track", &[], &event).await["properties"]["time"], expected, "{time}");
    }
}

#[tokio::test]
async fn destinations_follow_project_and_ignore() {
    let edge = Edge::new(CONFIG);
    let cases = [
        (r#"{"event":"a","properties":{"token":"other"}}"#, Project::Foreign, Destinations::MIXPANEL, Kind::Event),
        (
            r#"{"event":"a","properties":{"token":"tok","$ignore":true}}"#,
            Project::Ours,
            Destinations::MIXPANEL,
            Kind::Event,
        ),
        (r#"{"event":"a","properties":{"token":"tok","$ignore":""}}"#, Project::Ours, Destinations::ALL, Kind::Event),
        (
            r#"{"event":"$create_alias","properties":{"token":"tok","alias":"x"}}"#,
            Project::Ours,
            Destinations::ALL,
            Kind::Identity,
        ),
    ];
    for (event, project, destinations, kind) in cases {
        assert_eq!(edge.post("/track", &[], event).await.1, "1");
        let stored = edge.stored().remove(0);
        assert_eq!((stored.project, stored.destinations, stored.kind), (project, destinations, kind), "{event}");
    }
}

#[tokio::test]
async fn original_projects_get_a_distinct_id_that_stands_for_nobody() {
    let event = json!({"event":"a","properties":{"token":"tok"}});
    let simplified = Edge::new(CONFIG);
    assert_eq!(track(&simplified, "/track", &[], &event).await["properties"].get("distinct_id"), None);
    let original = Edge::new(&CONFIG.replace("project_id:", "identity: original\n    project_id:"));
    assert_eq!(track(&original, "/track", &[], &event).await["properties"]["distinct_id"], "");
}

#[tokio::test]
async fn damage_in_one_record_costs_only_that_record() {
    let edge = Edge::new(CONFIG);
    let mut body = br#"[{"event":"a","properties":{"token":"tok","x":""#.to_vec();
    body.extend_from_slice(b"\xff\xfe");
    body.extend_from_slice(br#""}},{"event":"b","properties":{"token":"tok"}}]"#);
    let reason = r#"{"error":"data, string should be valid utf8","status":1}"#.to_owned();
    assert_eq!(edge.post("/track?verbose=1", &[], body).await, (200, reason));
    assert_eq!(edge.stored_json()[0]["event"], "b");

    let lines = format!("{{\"event\":\n{EVENT}\n");
    assert_eq!(edge.post("/track", &[], lines).await.1, "1");
    assert_eq!(edge.stored().len(), 1);

    let deep =
        format!(r#"{{"event":"a","properties":{{"token":"tok","x":{}1{}}}}}"#, "[".repeat(5000), "]".repeat(5000));
    let big = format!(r#"{{"event":"a","properties":{{"token":"tok","x":"{}"}}}}"#, "x".repeat(1 << 20));
    assert_eq!(edge.post("/track", &[], format!("[{deep},{big},{EVENT}]")).await.1, "1");
    assert_eq!(edge.stored().len(), 1);
}
