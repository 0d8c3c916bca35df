//! What Brevo gets besides the record, over real processes: lookup tables, sent through the relay or read from a file, and
//! places. Never what Mixpanel gets.

use serde_json::{Value, json};

use crate::harness::http::{GZIP, JSON, gzip};
use crate::harness::mmdb::{Net, database};
use crate::harness::records::{event, set};
use crate::harness::relay::SERVICE_ACCOUNT;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

/// The one that the sandbox's project has.
const TABLE: &str = "7b9a3e1c-0f52-4c39-9d2e-5a1d1f3b8c77";
const CSV: &str = "sku,category,price\nmug-1,Mugs,9.50\ncup-2,Cups,\n";

fn enriching(table: Value) -> Value {
    json!({
        "lookup_tables": { "products": table },
        "enrich": [{ "property": "product", "table": "products",
            "columns": { "category": "product_category", "price": "list_price" } }],
        "property_mapping": { "plan": null, "product_category": "PLAN_TYPE" },
    })
}

fn bought(insert_id: &str, product: &str) -> Value {
    let mut bought = event("Purchase", "ada", insert_id);
    bought["properties"]["product"] = product.into();
    bought
}

/// The properties of each event at Brevo, once there are `expected`.
async fn events(sandbox: &Sandbox, expected: usize) -> Vec<Value> {
    eventually(PATIENCE, async || {
        let events = sandbox.brevo_events().await;
        same("events at Brevo", events.len(), expected)?;
        Ok(events.into_iter().map(|event| event["event"]["event_properties"].clone()).collect())
    })
    .await
}

async fn at_mixpanel(sandbox: &Sandbox) -> Option<Value> {
    Some(sandbox.find(&format!("/mixpanel/lookup-tables/{TABLE}")).await?["csv"].clone())
}

#[tokio::test]
async fn a_table_that_mixpanel_has_taken_enriches_what_brevo_gets_over_restarts_too() {
    let sandbox = Sandbox::start().await;
    let mut relay = Relay::start(&sandbox, enriching(json!({ "id": TABLE }))).await;
    let path = format!("/lookup-tables/{TABLE}?project_id=12345");
    let sent = relay.send("PUT", &path, &[SERVICE_ACCOUNT, GZIP], gzip(CSV.as_bytes())).await.ok();
    assert_eq!(sent.body, r#"{"code":200,"status":"OK"}"#);
    assert_eq!(at_mixpanel(&sandbox).await.unwrap(), CSV);
    let listed = relay.send("GET", "/lookup-tables", &[SERVICE_ACCOUNT], "").await.ok().json();
    assert_eq!(listed["results"][0]["id"], TABLE);

    relay.kill().await;
    relay.start_again().await;
    relay.take("/engage", &json!([set("ada", json!({ "$email": "ada@example.com", "product": "mug-1" }))])).await;
    relay.take("/track", &json!([bought("b1", "mug-1"), bought("b2", "cup-2"), bought("b3", "gone")])).await;
    let found = events(&sandbox, 3).await;
    assert_eq!(found[0], json!({ "product": "mug-1", "product_category": "Mugs", "list_price": 9.5 }));
    assert_eq!(found[1], json!({ "product": "cup-2", "product_category": "Cups" }));
    assert_eq!(found[2], json!({ "product": "gone" }));
    let contact = sandbox.brevo_contact("ada").await.unwrap();
    assert_eq!(contact["attributes"]["PLAN_TYPE"], "Mugs");
    relay.drained("mixpanel").await;
    let vendor = format!("{:?}{:?}", sandbox.mixpanel_events().await, sandbox.mixpanel_updates().await);
    assert!(vendor.contains("mug-1") && !vendor.contains("Mugs"), "{vendor}");
    assert_eq!(relay.metrics().await.sum("mixrelay_lookups_total", &[("result", "no_key")]), 1.0);
    let status = relay.admin("GET", "/v1/status").await.ok().json();
    assert_eq!(
        status["lookup_tables"],
        json!([{ "name": "products", "rows": 2, "bytes": CSV.len(), "columns": ["sku", "category", "price"],
            "came_by": "http", "problem": null }])
    );
}

#[tokio::test]
async fn a_table_that_is_refused_changes_nothing() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, enriching(json!({ "id": TABLE }))).await;
    let path = format!("/lookup-tables/{TABLE}");
    relay.send("PUT", &path, &[SERVICE_ACCOUNT], CSV).await.ok();

    // By the relay: nothing reaches Mixpanel.
    let token = ("authorization", "Basic c2FuZGJveC10b2tlbjo=");
    for headers in [&[][..], &[token], &[("authorization", "Bearer wrong")]] {
        assert_eq!(relay.send("PUT", &path, headers, CSV).await.status, 401, "{headers:?}");
    }
    assert_eq!(relay.send("PUT", &format!("{path}?project_id=1"), &[SERVICE_ACCOUNT], CSV).await.status, 401);
    let origin = ("origin", "https://shop.example.com");
    let broken = relay.send("PUT", &path, &[SERVICE_ACCOUNT, origin], "sku,a\n1,x\n,y\n1,z\n2\n").await;
    assert_eq!((broken.status, broken.header("access-control-allow-origin")), (400, Some(origin.1)));
    assert_eq!(
        broken.json(),
        json!({ "code": 400, "error": "Some data points in the request failed validation.", "status": "Bad Request",
            "failed_records": [
                { "index": 2, "message": "primary key is required and cannot be blank" },
                { "index": 3, "message": "invalid row: row indexes 1 and 3 have the same primary key" },
                { "index": 4, "message": "invalid row: wrong number of fields" },
            ] })
    );
    let half = &gzip(CSV.as_bytes())[..20];
    assert_eq!(relay.send("PUT", &path, &[SERVICE_ACCOUNT, GZIP], half.to_vec()).await.status, 400);
    let asked = sandbox.get("/mixpanel/requests?path=/lookup-tables").await["requests"].as_array().unwrap().len();
    assert_eq!(asked, 1);

    // By Mixpanel: its answers come as they are, and its table and the relay's stay the same.
    let other = "sku,category,price\nmug-1,Other,1\n";
    let unknown = relay.send("PUT", "/lookup-tables/no-such-table", &[SERVICE_ACCOUNT], other).await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("Lookup table with id 'no-such-table' was not found."), "{unknown:?}");
    let fault = |kind| Sandbox::fault("mixpanel", "/lookup-tables", kind);
    sandbox.faults(fault(json!({ "kind": "status", "status": 500 }))).await;
    assert_eq!(relay.send("PUT", &path, &[SERVICE_ACCOUNT], other).await.status, 500);
    sandbox.faults(fault(json!({ "kind": "reset" }))).await;
    assert_eq!(relay.send("PUT", &path, &[SERVICE_ACCOUNT], other).await.status, 502);
    let limited = json!({ "kind": "status", "status": 429, "headers": { "retry-after": "7000" }, "times": 1 });
    sandbox.faults(fault(limited)).await;
    let answer = relay.send("PUT", &path, &[SERVICE_ACCOUNT], other).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7000")), "{answer:?}");
    // Until then the vendor is left alone.
    let answer = relay.send("GET", "/lookup-tables", &[SERVICE_ACCOUNT], "").await;
    let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(answer.status == 429 && (6000..=7000).contains(&after), "{answer:?}");

    relay.take("/engage", &json!([set("ada", json!({ "$email": "ada@example.com" }))])).await;
    relay.take("/track", &json!([bought("b1", "mug-1")])).await;
    assert_eq!(events(&sandbox, 1).await[0]["product_category"], "Mugs");
    assert_eq!(at_mixpanel(&sandbox).await.unwrap(), CSV);
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes() {
    let sandbox = Sandbox::start().await;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = directory.path().join("products.csv");
    std::fs::write(&file, CSV).unwrap();
    let relay = Relay::start(&sandbox, enriching(json!({ "file": file }))).await;
    relay.take("/engage", &json!([set("ada", json!({ "$email": "ada@example.com" }))])).await;
    relay.take("/track", &json!([bought("b1", "mug-1")])).await;
    assert_eq!(events(&sandbox, 1).await[0]["product_category"], "Mugs");

    let status = async || relay.admin("GET", "/v1/status").await.ok().json()["lookup_tables"][0].clone();
    std::fs::write(&file, "sku,category,price\nmug-1,Broken\n").unwrap();
    let refused = eventually(PATIENCE, async || {
        let status = status().await;
        if status["problem"].is_string() { Ok(status) } else { Err(format!("{status}")) }
    })
    .await;
    assert_eq!(refused["rows"], 2);
    assert!(refused["problem"].as_str().unwrap().ends_with("row 1: invalid row: wrong number of fields"), "{refused}");
    std::fs::write(&file, "sku,category,price\nmug-1,Changed,1\nx,,\ny,,\n").unwrap();
    eventually(PATIENCE, async || {
        let status = status().await;
        same("rows", status["rows"].clone(), json!(3))?;
        same("problem", status["problem"].clone(), Value::Null)
    })
    .await;
    relay.take("/track", &json!([bought("b2", "mug-1")])).await;
    assert_eq!(
        events(&sandbox, 2).await[1],
        json!({ "product": "mug-1", "product_category": "Changed", "list_price": 1 })
    );
}

#[tokio::test]
async fn a_place_comes_from_the_callers_address_unless_the_caller_is_nobody() {
    let sandbox = Sandbox::start().await;
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = directory.path().join("city.mmdb");
    let lyon = Net { net: "203.0.113.0/24", city: Some("Lyon"), region: None, country: Some("FR") };
    std::fs::write(&file, database(&[lyon])).unwrap();
    let tweaks = json!({
        "geoip": file,
        "server": { "trusted_proxies": ["127.0.0.1"] },
        "property_mapping": { "plan": null, "$city": "PLAN_TYPE", "$country_code": "LASTNAME" },
        "event_mapping": { "Purchase": { "name": "order_completed", "pick": ["$city"] } },
    });
    let relay = Relay::start(&sandbox, tweaks).await;
    let from = [JSON, ("x-forwarded-for", "203.0.113.9")];
    let profile = |id: &str| json!([set(id, json!({ "$email": format!("{id}@example.com") }))]).to_string();
    let mut purchase = event("Purchase", "ada", "b1");
    purchase["properties"]["other"] = 1.into();
    for (path, body) in [
        ("/engage", profile("ada")),
        ("/engage?ip=0", profile("server")),
        ("/track?ip=1", json!([purchase]).to_string()),
    ] {
        relay.post(path, &from, body).await.ok();
    }
    let attribute = async |id: &str, name: &str| {
        eventually(PATIENCE, async || sandbox.brevo_contact(id).await.ok_or_else(|| format!("no {id}"))).await["attributes"]
            [name]
            .clone()
    };
    assert_eq!(attribute("ada", "PLAN_TYPE").await, "Lyon");
    assert_eq!(attribute("ada", "LASTNAME").await, "FR");
    assert_eq!(attribute("server", "PLAN_TYPE").await, Value::Null);
    let name = events(&sandbox, 1).await[0].as_object().unwrap().clone();
    assert!(name.len() == 1 && name.values().all(|value| value == "Lyon"), "{name:?}");
}
