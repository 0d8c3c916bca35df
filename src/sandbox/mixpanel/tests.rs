//! Mixpanel's endpoints over real loopback sockets.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::sandbox::testing::{NOW, Running};
use crate::sandbox::{IdentityMode, SandboxConfig};

fn event(name: &str, distinct_id: &str, insert_id: &str) -> Value {
    json!({ "event": name, "properties":
        { "token": "sandbox-token", "time": NOW.0 / 1000 - 60, "distinct_id": distinct_id, "$insert_id": insert_id } })
}

async fn running() -> Running {
    Running::start(SandboxConfig::default()).await
}

async fn original() -> Running {
    let mut config = SandboxConfig::default();
    config.mixpanel.identity = IdentityMode::Original;
    Running::start(config).await
}

async fn post(sandbox: &Running, path: &str, body: Value) -> String {
    sandbox.send(sandbox.http.post(format!("{}{path}", sandbox.mixpanel)).body(body.to_string())).await.2
}

#[tokio::test]
async fn strict_import_stores_the_good_and_names_the_bad() {
    let sandbox = running().await;
    let batch = json!([event("a", "u", "one"), { "event": "b", "properties": {} }, event("c", "u", "evt_1")]);
    let (status, answer) = sandbox.import("strict=1", batch.to_string()).await;
    assert_eq!((status, &answer["num_records_imported"]), (400, &json!(1)));
    let failed = answer["failed_records"].as_array().expect("a list");
    assert_eq!(failed[0]["message"], "'properties.time' is invalid: must not be missing");
    assert_eq!((&failed[1]["index"], &failed[1]["insert_id"]), (&json!(2), &json!("evt_1")));
    let stored = sandbox.show("/mixpanel/events").await;
    assert_eq!(stored["total"], 1);
    assert_eq!(stored["events"][0]["properties"]["$import"], true);
}

#[tokio::test]
async fn import_takes_gzip_and_ndjson_and_the_token_as_user() {
    let sandbox = running().await;
    let lines = format!("{}\n{}", event("a", "u", "1a"), event("a", "u", "2a"));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines.as_bytes()).expect("in memory");
    let request = sandbox
        .http
        .post(format!("{}/import?strict=1", sandbox.mixpanel))
        .basic_auth("sandbox-token", Some(""))
        .header("content-encoding", "gzip")
        .body(gzip.finish().expect("in memory"));
    let (status, _, answer) = sandbox.send(request).await;
    assert_eq!((status, answer.as_str()), (200, r#"{"code":200,"num_records_imported":2,"status":"OK"}"#));
    let logged = sandbox.show("/mixpanel/requests").await["requests"][0].clone();
    assert_eq!((&logged["batch"], &logged["body"]), (&json!(2), &json!(lines)), "shown inflated");
    assert_eq!(sandbox.show("/mixpanel/counts").await["events_by_name"], json!({ "a": 2 }));
}

#[tokio::test]
async fn import_refuses_wrong_credentials_in_the_vendors_words() {
    let sandbox = running().await;
    let url = format!("{}/import?strict=1&project_id=12345", sandbox.mixpanel);
    let with = |user: &str, secret: &str| sandbox.http.post(&url).basic_auth(user, Some(secret)).body("[]");
    let (status, _, body) = sandbox.send(with("nobody", "x")).await;
    assert!(status == 401 && body.contains("Not a valid service account username"), "{body}");
    let (status, _, body) = sandbox.send(with("sandbox-sa", "wrong")).await;
    assert!(status == 401 && body.contains("not a project member"), "{body}");
    let legacy =
        sandbox.http.post(format!("{}/import?api_key=k", sandbox.mixpanel)).body(event("a", "u", "1").to_string());
    assert_eq!(sandbox.send(legacy).await.2, r#"{"error":null,"status":1}"#);
    assert_eq!(sandbox.show("/mixpanel/events").await["total"], 0, "and nothing is stored");
}

#[tokio::test]
async fn one_identity_event_fails_a_simplified_batch() {
    let sandbox = running().await;
    let batch = json!([event("a", "u", "1a"), event("$identify", "u", "2a")]).to_string();
    let (status, answer) = sandbox.import("strict=1", batch.clone()).await;
    assert_eq!((status, &answer["num_records_imported"]), (400, &json!(0)));
    assert!(answer["failed_records"][0].is_string());
    let sandbox = original().await;
    let merge = json!({ "event": "$merge", "properties":
        { "$distinct_ids": ["ann", "bob"], "time": NOW.0 / 1000, "$insert_id": "m-1", "token": "sandbox-token" } });
    assert_eq!(sandbox.import("strict=1", batch).await.0, 200);
    assert_eq!(sandbox.import("strict=1", json!([merge, event("a", "bob", "3a")]).to_string()).await.0, 200);
    assert_eq!(sandbox.show("/mixpanel/events?distinct_id=ann&event=a").await["total"], 1);
}

#[tokio::test]
async fn duplicates_stay_in_the_arrival_log_and_vanish_from_the_view() {
    let sandbox = running().await;
    let mut second = event("a", "u", "same");
    second["properties"]["late"] = true.into();
    for body in [event("a", "u", "same"), second, event("a", "u", "other")] {
        sandbox.import("strict=1", json!([body]).to_string()).await;
        sandbox.advance(Duration::from_millis(5));
    }
    let view = sandbox.show("/mixpanel/events").await;
    assert_eq!(
        (&view["total"], &view["events"][0]["properties"]["late"]),
        (&json!(2), &json!(true)),
        "the latest wins"
    );
    let raw = sandbox.show("/mixpanel/events?raw=1&event=a&distinct_id=u").await;
    let times: Vec<u64> = raw["events"].as_array().expect("a list").iter().filter_map(|e| e["at"].as_u64()).collect();
    assert_eq!(times, [NOW.0, NOW.0 + 5, NOW.0 + 10]);
    assert_eq!(sandbox.show("/mixpanel/counts").await["records"]["duplicates"]["event"], 1);
}

#[tokio::test]
async fn counts_stay_exact_when_logs_are_bounded_or_bodies_are_not_kept() {
    let sandbox = running().await;
    sandbox.control("PUT", "/switches", json!({ "logs": { "counts_only": true, "counts_only_records": 3 } })).await;
    let batch: Vec<Value> = (0..10).map(|n| event("a", "u", &format!("i-{n}"))).collect();
    sandbox.import("strict=1", json!(batch).to_string()).await;
    sandbox.import("strict=1", json!(batch).to_string()).await;
    let counts = sandbox.show("/mixpanel/counts").await;
    assert_eq!(counts["records"]["stored"]["event"], 20);
    assert_eq!(counts["records"]["duplicates"]["event"], 10);
    assert_eq!(sandbox.show("/mixpanel/events?raw=1").await["events"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn lenient_import_answers_as_old_clients_expect() {
    let sandbox = running().await;
    let (_, plain) = sandbox.import("", json!([event("a", "u", "evt_abc123")]).to_string()).await;
    assert_eq!(plain, 1);
    let (_, verbose) = sandbox.import("verbose=1", json!([event("a", "u", "2")]).to_string()).await;
    assert_eq!(verbose, json!({ "code": 200, "num_records_imported": 1, "status": 1 }));
    let (status, probe) = sandbox.import("", "[{}]").await;
    assert_eq!((status, probe), (200, json!({ "error": "data, missing or empty", "status": 0 })));
}

#[tokio::test]
async fn oversized_imports_and_the_optional_rate_limit() {
    let sandbox = running().await;
    let many: Vec<Value> = (0..2001).map(|n| event("a", "u", &n.to_string())).collect();
    let (status, answer) = sandbox.import("strict=1", json!(many).to_string()).await;
    assert_eq!((status, &answer["status"]), (413, &json!("Request Entity Too Large")));
    let limit = json!({ "mixpanel": { "import_limit": { "bytes_per_minute": 1_000_000, "events_per_minute": 1 } } });
    sandbox.control("PUT", "/switches", limit).await;
    assert_eq!(sandbox.import("strict=1", json!([event("a", "u", "1a")]).to_string()).await.0, 200);
    assert_eq!(sandbox.import("strict=1", json!([event("a", "u", "2a")]).to_string()).await.0, 429);
    sandbox.advance(Duration::from_secs(61));
    assert_eq!(sandbox.import("strict=1", json!([event("a", "u", "2a")]).to_string()).await.0, 200);
}

#[tokio::test]
async fn track_answers_in_every_mode() {
    let sandbox = running().await;
    let good = event("a", "u", "1");
    assert_eq!(post(&sandbox, "/track", good.clone()).await, "1");
    assert_eq!(post(&sandbox, "/track/?verbose=1", good.clone()).await, r#"{"error":null,"status":1}"#);
    assert_eq!(post(&sandbox, "/track?callback=cb", good.clone()).await, "cb(1);");
    assert_eq!(post(&sandbox, "/track?verbose=1", json!({})).await, r#"{"error":"event, missing","status":0}"#);
    assert_eq!(post(&sandbox, "/track", json!([])).await, "0");
    let image = sandbox.http.post(format!("{}/track?img=1", sandbox.mixpanel)).body(good.to_string());
    assert_eq!(sandbox.send(image).await.1["content-type"], "image/png");
    let cross =
        sandbox.http.post(format!("{}/track", sandbox.mixpanel)).header("origin", "https://shop.example").body("x");
    let (status, headers, body) = sandbox.send(cross).await;
    assert_eq!((status, body.as_str()), (200, "0"));
    assert_eq!(headers["access-control-allow-origin"], "https://shop.example");
}

#[tokio::test]
async fn track_drops_in_silence_what_the_vendor_drops() {
    let sandbox = running().await;
    let mut old = event("old", "u", "1");
    old["properties"]["time"] = (NOW.0 / 1000 - 6 * 86_400).into();
    let mut foreign = event("foreign", "u", "2");
    foreign["properties"]["token"] = "someone-else".into();
    let mut bot = event("bot", "u", "3");
    bot["properties"]["$ignore"] = true.into();
    for body in [old, foreign, bot] {
        assert_eq!(post(&sandbox, "/track", body).await, "1");
    }
    let counts = sandbox.show("/mixpanel/counts").await;
    assert_eq!(counts["records"]["not_stored"], json!({ "ignored": 1, "older_than_5_days": 1, "wrong_token": 1 }));
}

#[tokio::test]
async fn the_address_places_an_event_and_is_gone_from_it() {
    let sandbox = running().await;
    let mut placed = event("a", "u", "1");
    placed["properties"]["ip"] = "203.0.113.9".into();
    post(&sandbox, "/track?ip=0", placed.clone()).await;
    placed["properties"]["$insert_id"] = "2".into();
    let request = sandbox
        .http
        .post(format!("{}/track?ip=1", sandbox.mixpanel))
        .header("x-forwarded-for", "198.51.100.1, 10.0.0.1");
    sandbox.send(request.body(placed.to_string())).await;
    let events = sandbox.show("/mixpanel/events").await["events"].clone();
    assert_eq!(events[0]["properties"]["$city"], "City of 203.0.113.9");
    assert_eq!(events[1]["properties"]["$city"], "City of 198.51.100.1");
    assert!(events[0]["properties"]["ip"].is_null() && events[0]["properties"]["token"].is_null());
}

#[tokio::test]
async fn profiles_and_groups_take_updates_and_say_what_is_missing() {
    let sandbox = running().await;
    let update = |id: &str, op: Value| {
        let mut record = json!({ "$token": "sandbox-token", "$distinct_id": id, "$ip": "0" });
        record.as_object_mut().expect("object").extend(op.as_object().expect("object").clone());
        record
    };
    let batch = json!([update("u", json!({ "$set": { "plan": "pro" } })), update("u", json!({ "$add": { "n": 2 } }))]);
    assert_eq!(post(&sandbox, "/engage", batch).await, "1");
    let profile = sandbox.show("/mixpanel/profiles/u").await;
    assert_eq!((&profile["$properties"]["plan"], &profile["$properties"]["n"]), (&json!("pro"), &json!(2)));
    let nameless = json!([{ "$token": "sandbox-token", "$set": {} }]);
    let answer = post(&sandbox, "/engage?verbose=2", nameless).await;
    assert_eq!(answer, r#"{"error":"$distinct_id, missing or empty","status":0}"#);
    let group = json!([{ "$token": "sandbox-token", "$group_key": "company", "$group_id": "acme", "$set": { "name": "Acme" } }]);
    assert_eq!(post(&sandbox, "/groups/", group).await, "1");
    assert_eq!(sandbox.show("/mixpanel/groups/company:acme").await["$properties"], json!({ "name": "Acme" }));
    let updates = sandbox.show("/mixpanel/updates?distinct_id=u").await;
    assert_eq!(updates["updates"].as_array().map(Vec::len), Some(2));
    post(&sandbox, "/engage", json!([update("u", json!({ "$delete": "" }))])).await;
    assert_eq!(sandbox.control("GET", "/mixpanel/profiles/u", Value::Null).await.0, 404);
}

#[tokio::test]
async fn links_join_a_device_to_its_user_in_both_modes() {
    let sandbox = running().await;
    let mut anonymous = event("view", "x", "1");
    anonymous["properties"]["$device_id"] = "dev".into();
    let mut known = event("login", "x", "2");
    known["properties"]["$device_id"] = "dev".into();
    known["properties"]["$user_id"] = "ann".into();
    post(&sandbox, "/track", json!([anonymous, known])).await;
    assert_eq!(sandbox.show("/mixpanel/events?distinct_id=ann").await["total"], 2);

    let sandbox = original().await;
    let anon = "f47ac10b-58cc-4372-a567-0e02b2c3d479";
    let mut identify = event("$identify", "ann", "3");
    identify["properties"]["$anon_distinct_id"] = anon.into();
    post(&sandbox, "/track", json!([event("view", anon, "1"), identify])).await;
    assert_eq!(sandbox.show("/mixpanel/events?distinct_id=ann").await["total"], 2);
}

async fn query(sandbox: &Running, path: &str) -> (u16, Value) {
    let joint = if path.contains('?') { '&' } else { '?' };
    let url = format!("{}{path}{joint}project_id=12345", sandbox.mixpanel);
    let (status, _, body) = sandbox.send(sandbox.http.post(url).basic_auth("sandbox-sa", Some("sandbox-secret"))).await;
    (status, serde_json::from_str(&body).unwrap_or(body.into()))
}

#[tokio::test]
async fn engage_pages_through_a_session() {
    let sandbox = running().await;
    let profiles: Vec<Value> =
        (0..1500).map(|n| json!({ "distinct_id": format!("u{n:04}"), "properties": { "n": n } })).collect();
    let cohort = json!({ "id": 7, "name": "Few", "members": ["u0001", "absent"] });
    sandbox.control("POST", "/mixpanel/seed", json!({ "profiles": profiles, "cohorts": [cohort] })).await;
    let (_, first) = query(&sandbox, "/api/query/engage").await;
    assert_eq!((&first["total"], first["results"].as_array().map(Vec::len)), (&json!(1500), Some(1000)));
    let session = first["session_id"].as_str().expect("a session");
    let (_, second) = query(&sandbox, &format!("/api/2.0/engage?page=1&session_id={session}")).await;
    assert_eq!(second["results"][0]["$distinct_id"], "u1000");
    assert_eq!(query(&sandbox, "/api/query/engage?page=1").await.0, 400);
    let (_, few) = query(&sandbox, "/api/query/engage?filter_by_cohort=%7B%22id%22%3A7%7D").await;
    assert_eq!(few["total"], 2, "users without a profile are included by default");
    assert_eq!(query(&sandbox, "/api/query/cohorts/list").await.1[0]["count"], 2);
}

#[tokio::test]
async fn queries_share_sixty_an_hour_and_jql_has_its_own() {
    let sandbox = running().await;
    for _ in 0..60 {
        assert_eq!(query(&sandbox, "/api/query/cohorts/list").await.0, 200);
    }
    let (status, answer) = query(&sandbox, "/api/query/events/names").await;
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(status == 429 && error.contains("61/60 queries running in the last hour"), "{answer}");
    sandbox.control("POST", "/mixpanel/seed", json!({ "answers": { "jql": [[1, 2]] } })).await;
    assert_eq!(query(&sandbox, "/api/query/jql?script=x").await, (200, json!([[1, 2]])));
    sandbox.advance(Duration::from_secs(3600));
    assert_eq!(query(&sandbox, "/api/query/events/names").await.0, 200);
}

#[tokio::test]
async fn at_most_five_queries_run_at_once() {
    let sandbox = running().await;
    sandbox.control("PUT", "/switches", json!({ "mixpanel": { "query_duration_ms": 300 } })).await;
    let six = futures_util::future::join_all((0..6).map(|_| query(&sandbox, "/api/query/cohorts/list"))).await;
    assert_eq!(six.iter().filter(|(status, _)| *status == 429).count(), 1);
}

#[tokio::test]
async fn export_shows_duplicates_and_can_break_off() {
    let sandbox = running().await;
    for _ in 0..2 {
        sandbox.import("strict=1", json!([event("a", "u", "same")]).to_string()).await;
    }
    let day = "2027-01-15";
    let path = format!("/api/2.0/export?from_date={day}&to_date={day}");
    let (_, lines) = query(&sandbox, &path).await;
    assert_eq!(lines.as_str().map(|text| text.lines().count()), Some(2));
    sandbox.control("PUT", "/switches", json!({ "mixpanel": { "export_breaks_after": 1 } })).await;
    sandbox.advance(Duration::from_secs(2));
    let (status, lines) = query(&sandbox, &path).await;
    assert_eq!((status, lines.as_str().and_then(|text| text.lines().last())), (200, Some("terminated early")));
}

#[tokio::test]
async fn segmentation_counts_without_duplicates() {
    let sandbox = running().await;
    for id in ["1a", "1a", "2a"] {
        sandbox.import("strict=1", json!([event("a", "u", id)]).to_string()).await;
    }
    let (_, answer) =
        query(&sandbox, "/api/query/segmentation?event=a&from_date=2027-01-14&to_date=2027-01-15&type=general").await;
    assert_eq!(answer["data"]["values"]["a"], json!({ "2027-01-14": 0, "2027-01-15": 2 }));
}

#[tokio::test]
async fn a_deletion_takes_the_person_away_when_its_time_has_come() {
    let sandbox = running().await;
    post(&sandbox, "/track", event("a", "u", "1")).await;
    let url = format!("{}/api/app/data-deletions/v3.0/", sandbox.mixpanel);
    let order = sandbox.http.post(format!("{url}?token=sandbox-token")).bearer_auth("sandbox-oauth");
    let (status, _, body) = sandbox.send(order.body(r#"{"distinct_ids":["u"],"compliance_type":"GDPR"}"#)).await;
    assert_eq!((status, body.as_str()), (201, r#"{"results":{"task_id":"1"},"status":"ok"}"#));
    sandbox.advance(Duration::from_secs(5));
    let ask = sandbox.http.get(format!("{url}1?token=sandbox-token")).bearer_auth("sandbox-oauth");
    assert!(sandbox.send(ask).await.2.contains("SUCCESS"));
    assert_eq!(sandbox.show("/mixpanel/events").await["total"], 0);
}

#[tokio::test]
async fn the_sdks_other_calls_are_answered_and_logged() {
    let sandbox = running().await;
    let get = |path: &str| sandbox.http.get(format!("{}{path}", sandbox.mixpanel));
    assert_eq!(sandbox.send(get("/flags/?token=x")).await.0, 401, "the header is mandatory");
    let flags = get("/flags/?context=%7B%7D").basic_auth("sandbox-token", Some(""));
    assert!(sandbox.send(flags).await.2.contains(r#""flags":{}"#));
    let record = sandbox.http.post(format!("{}/record/?format=gzip&seq=0", sandbox.mixpanel));
    let record = record.basic_auth("sandbox-token", Some("")).header("x-forwarded-for", "203.0.113.9").body("replay");
    assert_eq!(sandbox.send(record).await.2, r#"{"code":200,"status":"OK"}"#);
    assert!(sandbox.send(get("/lib.min.js")).await.2.contains("sandbox"));
    let me = get("/api/app/me/").basic_auth("sandbox-sa", Some("sandbox-secret"));
    assert!(sandbox.send(me).await.2.contains("12345"));
    let logged = sandbox.show("/mixpanel/requests?path=/record").await["requests"][0].clone();
    assert_eq!(logged["headers"]["x-forwarded-for"], "203.0.113.9");
    assert!(logged["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1")));
}

#[tokio::test]
async fn lookup_tables_are_replaced_whole_or_not_at_all() {
    let sandbox = running().await;
    let id = "7b9a3e1c-0f52-4c39-9d2e-5a1d1f3b8c77";
    let put = |id: &str, csv: &'static str| {
        let url = format!("{}/lookup-tables/{id}?project_id=12345", sandbox.mixpanel);
        sandbox.http.put(url).basic_auth("sandbox-sa", Some("sandbox-secret")).body(csv)
    };
    assert_eq!(sandbox.send(put(id, "id,name\n1,a\n")).await.2, r#"{"code":200,"status":"OK"}"#);
    assert_eq!(sandbox.send(put(id, "id,name\n,a\n")).await.0, 400);
    assert_eq!(sandbox.send(put("nope", "id\n1\n")).await.0, 404);
    assert_eq!(sandbox.show(&format!("/mixpanel/lookup-tables/{id}")).await["csv"], "id,name\n1,a\n");
}
