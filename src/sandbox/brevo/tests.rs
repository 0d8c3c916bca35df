//! Brevo's endpoints over real loopback sockets.

use std::time::Duration;

use serde_json::{Value, json};

use crate::sandbox::SandboxConfig;
use crate::sandbox::testing::Running;

/// Without rate limits, which have tests of their own.
async fn running() -> Running {
    let mut config = SandboxConfig::default();
    config.switches.brevo.rate_limits = false;
    Running::start(config).await
}

async fn upsert(sandbox: &Running, body: Value) -> (u16, Value) {
    let mut body = body;
    body["updateEnabled"] = true.into();
    let (status, _, answer) = sandbox.brevo("POST", "/contacts", Some(body)).await;
    (status, answer)
}

async fn switch(sandbox: &Running, brevo: Value) {
    let (status, answer) = sandbox.control("PUT", "/switches", json!({ "brevo": brevo })).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn keys_are_refused_in_the_vendors_words() {
    let sandbox = running().await;
    let url = format!("{}/account", sandbox.brevo);
    let (status, headers, body) = sandbox.send(sandbox.http.get(&url)).await;
    assert!(status == 401 && body.contains("authentication not found in headers"), "{body}");
    assert!(!headers.contains_key("x-sib-ratelimit-limit"));
    let (_, _, body) = sandbox.send(sandbox.http.get(&url).header("api-key", "wrong")).await;
    assert!(body.contains("Key not found"));
    switch(&sandbox, json!({ "unrecognised_ip": true })).await;
    let (status, _, answer) = sandbox.brevo("GET", "/account", None).await;
    assert!(status == 401 && answer["message"].as_str().is_some_and(|text| text.contains("authorised_ips")));
}

#[tokio::test]
async fn contacts_are_created_found_and_updated() {
    let sandbox = running().await;
    let contact = json!({ "email": "Ann@Example.COM", "ext_id": "u1", "listIds": [15],
        "attributes": { "FIRSTNAME": "Ann", "SMS": "+33612345678", "NOPE": 1, "LTV": "12" } });
    assert_eq!(upsert(&sandbox, contact.clone()).await, (201, json!({ "id": 1 })));
    assert_eq!(upsert(&sandbox, contact.clone()).await.0, 204);
    let (status, _, answer) = sandbox.brevo("POST", "/contacts", Some(contact)).await;
    assert_eq!((status, &answer["code"]), (400, &json!("duplicate_parameter")));
    for path in
        ["/contacts/ann%40example.com", "/contacts/1", "/contacts/u1?identifierType=ext_id", "/contacts/33612345678"]
    {
        let (_, _, shown) = sandbox.brevo("GET", path, None).await;
        assert_eq!(shown["email"], "ann@example.com", "{path}");
        assert_eq!(shown["attributes"], json!({ "EXT_ID": "u1", "FIRSTNAME": "Ann", "SMS": "33612345678" }));
    }
    assert_eq!(sandbox.brevo("GET", "/contacts/u1", None).await.0, 400, "ext_id needs the parameter");
    let dropped = sandbox.show("/brevo/counts").await["counts"]["attributes_dropped"].clone();
    assert_eq!(dropped, json!({ "mistyped": 2, "unknown": 2 }));
    assert_eq!(sandbox.brevo("DELETE", "/contacts/ann@example.com", None).await.0, 204);
    assert_eq!(sandbox.brevo("PUT", "/contacts/ann@example.com", Some(json!({}))).await.0, 404);
    let (status, _, answer) = sandbox.brevo("PATCH", "/contacts/ann@example.com", Some(json!({}))).await;
    assert_eq!((status, &answer["code"]), (405, &json!("method_not_allowed")));
}

#[tokio::test]
async fn a_phone_alone_gets_a_placeholder_email() {
    let sandbox = running().await;
    upsert(&sandbox, json!({ "attributes": { "SMS": "0033612345678" } })).await;
    let (_, _, shown) = sandbox.brevo("GET", "/contacts/33612345678%40mailin-sms.com", None).await;
    assert_eq!(shown["email"], "33612345678@mailin-sms.com");
}

#[tokio::test]
async fn identifiers_of_others_are_a_conflict_or_a_merge() {
    let sandbox = running().await;
    upsert(&sandbox, json!({ "email": "a@example.com", "attributes": { "FIRSTNAME": "Old", "LASTNAME": "A" } })).await;
    sandbox.advance(Duration::from_secs(1));
    upsert(&sandbox, json!({ "email": "b@example.com", "ext_id": "u2", "attributes": { "SMS": "33611111111" } })).await;
    let clash = json!({ "email": "a@example.com", "ext_id": "u2", "attributes": { "SMS": "33611111111" } });
    let (status, answer) = upsert(&sandbox, clash.clone()).await;
    assert_eq!((status, &answer["code"]), (400, &json!("invalid_parameter")));
    assert_eq!(answer["metadata"]["duplicate_identifiers"], json!(["ext_id", "SMS"]));
    switch(&sandbox, json!({ "conflict_code": "duplicate_parameter" })).await;
    assert_eq!(upsert(&sandbox, clash.clone()).await.1["code"], "duplicate_parameter");
    let mut merge = clash;
    merge["forceMerge"] = true.into();
    merge["getId"] = true.into();
    assert_eq!(upsert(&sandbox, merge).await, (200, json!({ "id": 2 })), "the one modified last survives");
    let all = sandbox.show("/brevo/contacts").await;
    assert_eq!((&all["total"], &all["contacts"][0]["attributes"]["LASTNAME"]), (&json!(1), &json!("A")));
}

#[tokio::test]
async fn a_new_email_resubscribes_a_blocklisted_contact() {
    let sandbox = running().await;
    upsert(&sandbox, json!({ "email": "a@example.com", "emailBlacklisted": true })).await;
    let rename = json!({ "attributes": { "EMAIL": "b@example.com" } });
    assert_eq!(sandbox.brevo("PUT", "/contacts/a@example.com", Some(rename)).await.0, 204);
    assert_eq!(sandbox.brevo("GET", "/contacts/b@example.com", None).await.2["emailBlacklisted"], false);
    assert_eq!(sandbox.show("/brevo/counts").await["counts"]["contacts"]["resubscribed_by_email_change"], 1);
}

#[tokio::test]
async fn values_sent_right_after_an_attribute_was_created_are_lost() {
    let sandbox = running().await;
    let text = json!({ "type": "text" });
    assert_eq!(sandbox.brevo("POST", "/contacts/attributes/normal/CITY", Some(text.clone())).await.0, 201);
    assert_eq!(sandbox.brevo("POST", "/contacts/attributes/normal/CITY", Some(text)).await.0, 400);
    let contact = json!({ "email": "a@example.com", "attributes": { "CITY": "Paris" } });
    upsert(&sandbox, contact.clone()).await;
    assert!(sandbox.show("/brevo/contacts/a@example.com").await["attributes"]["CITY"].is_null());
    sandbox.advance(Duration::from_secs(3));
    upsert(&sandbox, contact).await;
    assert_eq!(sandbox.show("/brevo/contacts/a@example.com").await["attributes"]["CITY"], "Paris");
}

#[tokio::test]
async fn too_early_is_a_switch() {
    let sandbox = running().await;
    switch(&sandbox, json!({ "too_early_ms": 100 })).await;
    let contact = json!({ "email": "a@example.com" });
    assert_eq!(upsert(&sandbox, contact.clone()).await.0, 201);
    assert_eq!(upsert(&sandbox, contact.clone()).await.0, 425);
    sandbox.advance(Duration::from_millis(100));
    assert_eq!(upsert(&sandbox, contact).await.0, 204);
}

fn event(name: &str, email: &str) -> Value {
    json!({ "event_name": name, "identifiers": { "email_id": email }, "event_properties": { "n": 1 } })
}

#[tokio::test]
async fn events_of_unknown_contacts_are_accepted_and_dropped_or_create_them() {
    let sandbox = running().await;
    upsert(&sandbox, json!({ "email": "a@example.com" })).await;
    assert_eq!(sandbox.brevo("POST", "/events", Some(event("order", "A@example.com"))).await.0, 204);
    assert_eq!(sandbox.brevo("POST", "/events", Some(event("order", "new@example.com"))).await.0, 204);
    assert_eq!(sandbox.brevo("POST", "/events", Some(event("a b", "a@example.com"))).await.0, 400);
    assert_eq!(sandbox.show("/brevo/counts").await["events_dropped_unknown_contact"], 1);
    let seq_of = async |path: &str, list: &str| sandbox.show(path).await[list][0]["seq"].as_u64();
    let order =
        (seq_of("/brevo/updates?via=POST%20%2Fcontacts", "updates").await, seq_of("/brevo/events", "events").await);
    assert_eq!(order, (Some(1), Some(2)), "the contact was there before its event");
    switch(&sandbox, json!({ "unknown_contact": "create" })).await;
    sandbox.brevo("POST", "/events", Some(event("order", "new@example.com"))).await;
    assert_eq!(sandbox.show("/brevo/contacts").await["total"], 2);
    let applied = sandbox.show("/brevo/events?outcome=applied&event_name=order").await;
    assert_eq!(applied["events"].as_array().map(Vec::len), Some(2));
    let (_, _, read) = sandbox.brevo("GET", "/events?contact_id=1", None).await;
    assert_eq!((&read["count"], &read["events"][0]["event_properties"]["n"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn batches_are_wrapped_bounded_and_answered_in_parts() {
    let sandbox = running().await;
    upsert(&sandbox, json!({ "email": "a@example.com" })).await;
    let batch = |events: Value| sandbox.brevo("POST", "/events/batch", Some(events));
    let good = event("order", "a@example.com");
    let (status, _, answer) = batch(json!({ "events": [good, good] })).await;
    assert_eq!((status, &answer["count"]), (202, &json!(2)));
    let (status, _, answer) = batch(json!([good])).await;
    assert!(status == 400 && answer["message"].as_str().is_some_and(|text| text.contains("unifiedEventsRequest")));
    let mixed = json!({ "events": [good, event("a.b", "a@example.com"), event("a b", "a@example.com")] });
    let (status, _, answer) = batch(mixed.clone()).await;
    assert_eq!((status, &answer["successful_events"]), (207, &json!(1)));
    assert_eq!(answer["errors"][0]["eventIndex"], json!([1, 2]));
    switch(&sandbox, json!({ "mixed_batch": "accepted_short_count" })).await;
    let (status, _, answer) = batch(mixed).await;
    assert_eq!((status, &answer["count"]), (202, &json!(1)));
    assert_eq!(batch(json!({ "events": [event("", "")] })).await.0, 400);
    assert_eq!(batch(json!({ "events": vec![good; 201] })).await.0, 400);
    assert_eq!(sandbox.show("/brevo/requests?path=/v3/events").await["requests"][0]["batch"], 2);
}

#[tokio::test]
async fn lists_answer_400_when_nobody_changed_and_mind_the_case() {
    let sandbox = running().await;
    upsert(&sandbox, json!({ "email": "a@example.com", "ext_id": "u1" })).await;
    let change = |what: &str, body: Value| {
        let path = format!("/contacts/lists/16/contacts/{what}");
        let sandbox = &sandbox;
        async move { sandbox.brevo("POST", &path, Some(body)).await }
    };
    let (status, _, answer) = change("add", json!({ "emails": ["A@example.com"] })).await;
    assert_eq!((status, &answer["message"]), (400, &json!("Contact already in list and/or does not exist")));
    let (status, _, answer) = change("add", json!({ "emails": ["a@example.com", "x@example.com"] })).await;
    assert_eq!((status, &answer["contacts"]["failure"]), (201, &json!(["x@example.com"])));
    assert_eq!(change("add", json!({ "extIds": ["u1"] })).await.0, 400);
    assert_eq!(sandbox.show("/brevo/lists/16").await["total"], 1);
    assert_eq!(change("remove", json!({ "ids": [1] })).await.0, 201);
    let (status, _, answer) = change("remove", json!({ "ids": [1] })).await;
    assert_eq!((status, &answer["message"]), (400, &json!("Contact already removed from list and/or does not exist")));
    assert_eq!(change("add", json!({ "ids": vec![1; 151] })).await.0, 400);
    assert_eq!(sandbox.brevo("POST", "/contacts/lists/99/contacts/add", Some(json!({ "ids": [1] }))).await.0, 404);
}

#[tokio::test]
async fn lists_are_made_in_folders() {
    let sandbox = running().await;
    let (status, _, folder) = sandbox.brevo("POST", "/contacts/folders", Some(json!({ "name": "F" }))).await;
    assert_eq!(status, 201);
    let list = json!({ "name": "New", "folderId": folder["id"] });
    let (status, _, list) = sandbox.brevo("POST", "/contacts/lists", Some(list)).await;
    assert_eq!((status, &list["id"]), (201, &json!(18)));
    let (status, _, answer) =
        sandbox.brevo("POST", "/contacts/lists", Some(json!({ "name": "x", "folderId": 9 }))).await;
    assert_eq!((status, &answer["code"]), (404, &json!("document_not_found")));
    assert_eq!(sandbox.brevo("GET", "/contacts/lists?limit=2&sort=asc", None).await.2["lists"][0]["id"], 15);
    assert_eq!(sandbox.brevo("GET", "/contacts/lists?limit=51", None).await.2["code"], "out_of_range");
    sandbox.brevo("DELETE", &format!("/contacts/folders/{}", folder["id"]), None).await;
    assert_eq!(sandbox.brevo("GET", "/contacts/lists/18", None).await.0, 404, "a folder takes its lists with it");
}

#[tokio::test]
async fn imports_run_one_at_a_time_by_the_clock() {
    let sandbox = running().await;
    upsert(&sandbox, json!({ "email": "a@example.com", "ext_id": "u1" })).await;
    let rows = json!([
        { "email": "a2@example.com", "attributes": { "EXT_ID": "u1", "PLAN_TYPE": "pro", "IS_CUSTOMER": true } },
        { "email": "New@example.com", "attributes": { "FIRSTNAME": "New" } },
        { "email": "not an email", "attributes": {} },
    ]);
    let import = json!({ "jsonBody": rows, "listIds": [17], "disableNotification": true });
    let (status, _, first) = sandbox.brevo("POST", "/contacts/import", Some(import.clone())).await;
    assert_eq!(status, 202);
    sandbox.brevo("POST", "/contacts/import", Some(import)).await;
    let status_of = |id: u64| {
        let sandbox = &sandbox;
        async move { sandbox.brevo("GET", &format!("/processes/{id}"), None).await.2["status"].clone() }
    };
    assert_eq!((first["processId"].as_u64(), status_of(1).await), (Some(1), json!("queued")));
    sandbox.advance(Duration::from_millis(600));
    assert_eq!((status_of(1).await, status_of(2).await), (json!("processing"), json!("queued")));
    assert_eq!(sandbox.show("/brevo/contacts").await["total"], 1, "nothing is applied before the end");
    sandbox.advance(Duration::from_millis(1000));
    assert_eq!((status_of(1).await, status_of(2).await), (json!("completed"), json!("processing")));
    let moved = sandbox.show("/brevo/contacts/a2@example.com").await;
    assert_eq!((&moved["id"], &moved["listIds"]), (&json!(1), &json!([17])), "ext_id beats email");
    assert!(moved["attributes"]["IS_CUSTOMER"].is_null(), "booleans are ignored by imports");
    let (_, _, done) = sandbox.brevo("GET", "/processes/1", None).await;
    assert_eq!(done["info"]["import"]["invalid_emails"], 1);
    let bare = json!({ "jsonBody": [] });
    assert_eq!(sandbox.brevo("POST", "/contacts/import", Some(bare)).await.2["code"], "missing_parameter");
    assert_eq!(sandbox.brevo("GET", "/processes/99", None).await.2["code"], "invalid_parameter");
    assert_eq!(sandbox.brevo("POST", "/contacts/batch", Some(json!({ "contacts": [] }))).await.0, 404);
}

#[tokio::test]
async fn imports_may_fail_with_none_or_some_of_their_work_done() {
    for (end, status, contacts) in [("cancelled", "cancelled", 0), ("failed", "failed", 0), ("cut_short", "failed", 2)]
    {
        let sandbox = running().await;
        switch(&sandbox, json!({ "import_end": end })).await;
        let rows: Vec<Value> = (0..4).map(|n| json!({ "email": format!("u{n}@example.com") })).collect();
        sandbox.brevo("POST", "/contacts/import", Some(json!({ "jsonBody": rows, "listIds": [17] }))).await;
        // It ends as it began.
        switch(&sandbox, json!({ "import_end": "completed" })).await;
        sandbox.advance(Duration::from_millis(1_600));
        assert_eq!(sandbox.brevo("GET", "/processes/1", None).await.2["status"], status);
        assert_eq!(sandbox.show("/brevo/contacts").await["total"], contacts, "{end}");
    }
}

#[tokio::test]
async fn companies_link_contacts_by_id() {
    let sandbox = running().await;
    upsert(&sandbox, json!({ "email": "a@example.com" })).await;
    upsert(&sandbox, json!({ "email": "b@example.com" })).await;
    let company =
        json!({ "name": "Acme", "attributes": { "industry": "toys", "unknown": 1 }, "linkedContactsIds": [1] });
    let (status, _, made) = sandbox.brevo("POST", "/companies", Some(company)).await;
    let id = made["id"].as_str().expect("an id").to_owned();
    assert_eq!((status, id.len()), (200, 24));
    let link = json!({ "linkContactIds": [2] });
    assert_eq!(sandbox.brevo("PATCH", &format!("/companies/link-unlink/{id}"), Some(link)).await.0, 204);
    let (_, _, shown) = sandbox.brevo("GET", &format!("/companies/{id}"), None).await;
    assert_eq!((&shown["linkedContactsIds"], &shown["attributes"]["unknown"]), (&json!([1, 2]), &Value::Null));
    let replace = json!({ "linkedContactsIds": [2] });
    let (_, _, patched) = sandbox.brevo("PATCH", &format!("/companies/{id}"), Some(replace)).await;
    assert_eq!(patched["linkedContactsIds"], json!([2]));
    let (_, _, found) = sandbox.brevo("GET", "/companies?filters%5Battributes.name%5D=Acme", None).await;
    assert_eq!(found["items"][0]["id"], id.as_str());
    let (_, _, none) = sandbox.brevo("GET", "/companies?filters%5Battributes.name%5D=Other", None).await;
    assert_eq!(none["items"], json!([]));
    let attribute = json!({ "label": "Group Key", "attributeType": "text", "objectType": "companies" });
    assert_eq!(sandbox.brevo("POST", "/crm/attributes", Some(attribute)).await.0, 200);
    let (_, _, all) = sandbox.brevo("GET", "/crm/attributes/companies", None).await;
    assert!(all.as_array().is_some_and(|all| all.iter().any(|one| one["internalName"] == "group_key")));
}

#[tokio::test]
async fn companies_import_is_multipart() {
    let sandbox = running().await;
    let form = reqwest::multipart::Form::new()
        .part(
            "file",
            reqwest::multipart::Part::text("name,industry\n\"Acme, \"\"Sons\"\"\",toys\nBeta,tools\n")
                .file_name("c.csv"),
        )
        .text("mapping", r#"{"update_existing_records":false}"#);
    let request = sandbox.http.post(format!("{}/companies/import", sandbox.brevo)).header("api-key", "xkeysib-sandbox");
    let (status, _, started) = sandbox.send(request.multipart(form)).await;
    assert_eq!(status, 200);
    let started: Value = serde_json::from_str(&started).expect("JSON");
    let process = format!("/processes/{}", started["processId"]);
    assert_eq!(sandbox.brevo("GET", &process, None).await.2["status"], "queued");
    sandbox.advance(Duration::from_millis(1_500));
    assert_eq!(sandbox.brevo("GET", &process, None).await.2["status"], "completed");
    let companies = sandbox.show("/brevo/companies").await;
    assert_eq!(companies["total"], 2);
    assert_eq!(companies["companies"][0]["attributes"], json!({ "name": "Acme, \"Sons\"", "industry": "toys" }));
}

#[tokio::test]
async fn webhooks_are_registered() {
    let sandbox = running().await;
    let hook =
        json!({ "url": "https://relay.example/webhooks/brevo", "type": "marketing", "events": ["opened", "click"] });
    let (status, _, made) = sandbox.brevo("POST", "/webhooks", Some(hook)).await;
    assert_eq!((status, &made["id"]), (201, &json!(1)));
    assert_eq!(sandbox.brevo("PUT", "/webhooks/1", Some(json!({ "events": ["bogus"] }))).await.0, 400);
    assert_eq!(sandbox.brevo("PUT", "/webhooks/1", Some(json!({ "events": ["spam"] }))).await.0, 204);
    let (_, _, all) = sandbox.brevo("GET", "/webhooks?type=marketing", None).await;
    assert_eq!(all["webhooks"][0]["events"], json!(["spam"]));
}

#[tokio::test]
async fn rate_limits_by_family_with_headers() {
    let sandbox = Running::start(SandboxConfig::default()).await;
    for left in (0..10).rev() {
        let (status, headers, _) = sandbox.brevo("POST", "/events", Some(event("order", "a@example.com"))).await;
        assert_eq!(
            (status, headers["x-sib-ratelimit-remaining"].to_str().ok()),
            (204, Some(left.to_string().as_str()))
        );
    }
    let (status, headers, _) = sandbox.brevo("POST", "/events/batch", Some(json!({ "events": [] }))).await;
    assert_eq!((status, &headers["x-sib-ratelimit-reset"]), (429, &reqwest::header::HeaderValue::from_static("1")));
    assert!(!headers.contains_key("retry-after"));
    switch(&sandbox, json!({ "events_batch_bucket": "other" })).await;
    let (status, headers, _) = sandbox.brevo("POST", "/events/batch", Some(json!({ "events": [] }))).await;
    assert_eq!((status, &headers["x-sib-ratelimit-limit"]), (400, &reqwest::header::HeaderValue::from_static("100")));
    assert_eq!(sandbox.brevo("GET", "/contacts/lists", None).await.0, 200, "another family has its own budget");
    sandbox.advance(Duration::from_secs(1));
    assert_eq!(sandbox.brevo("POST", "/events", Some(event("order", "a@example.com"))).await.0, 204);
    assert_eq!(sandbox.show("/brevo/counts").await["counts"]["rate_limited"], json!({ "events": 1 }));
}
