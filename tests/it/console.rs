//! The console in headless Chromium: a destination fails, the operator finds the reason and resumes it, and the page
//! shows it recovered. No page says anything in anger, none has a serious fault of accessibility.

use serde_json::{Value, json};

use crate::harness::records::event;
use crate::harness::sandbox::TOKEN;
use crate::harness::sdk::Browser;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually, same};

/// Every page, and what it says of itself.
const PAGES: &[(&str, &str)] = &[
    ("/console", "Overview"),
    ("/console/records", "Records"),
    ("/console/people?id=u-1", "People"),
    ("/console/dead-letters", "Dead letters"),
    ("/console/mapping", "Mapping"),
    ("/console/cohorts", "Cohorts"),
    ("/console/datasets", "Data sets"),
    ("/console/backfills", "Backfills"),
    ("/console/lookup-tables", "Lookup tables"),
    ("/console/reconciliation", "Reconciliation"),
    ("/console/erasures", "Erasures"),
    ("/console/audit", "Audit"),
];

async fn text(browser: &mut Browser) -> String {
    browser.call("textContent", json!(["main"])).await.as_str().unwrap_or_default().to_owned()
}

async fn says(browser: &mut Browser, what: &str) {
    eventually(PATIENCE, async || {
        let found = text(browser).await;
        if found.contains(what) { Ok(()) } else { Err(format!("no {what:?} in {found}")) }
    })
    .await;
}

/// The page as it stands, wide and narrow, in light and dark, by keyboard and for machines that read it out.
async fn looks_well(browser: &mut Browser, name: &str) {
    // A page that nobody looks at does not change under whoever examines it.
    browser.run("Object.defineProperty(document, 'hidden', { value: true });").await;
    for (width, scheme) in [(1280, "light"), (360, "dark")] {
        browser.call("setViewportSize", json!([{ "width": width, "height": 800 }])).await;
        browser.call("emulateMedia", json!([{ "colorScheme": scheme }])).await;
        same(name, browser.inaccessible().await, json!([])).unwrap();
        let scrolls = "return document.documentElement.scrollWidth > document.documentElement.clientWidth;";
        assert_eq!(browser.run(scrolls).await, false, "{name} is wider than {width} pixels");
        let rows = "return new Set([...document.querySelectorAll('nav.pages li')].map((li) => li.offsetTop)).size;";
        assert!(width < 1280 || browser.run(rows).await == 1, "the bar of {name} breaks at {width} pixels");
        browser.screenshot(&format!("{name}-{scheme}")).await;
    }
    browser.call("setViewportSize", json!([{ "width": 1280, "height": 800 }])).await;
}

/// A relay that knows Ada, and somebody who looks at its console.
async fn opened(sandbox: &Sandbox) -> (Relay, Browser) {
    let relay = Relay::start(sandbox, json!({})).await;
    let update = json!([{ "$token": TOKEN, "$distinct_id": "u-1", "$set": { "$email": "ada@example.com" } }]);
    relay.take("/engage", &update).await;
    relay.drained("brevo").await;
    let mut browser = Browser::open().await;
    browser.log_in(&relay).await;
    (relay, browser)
}

#[tokio::test]
async fn an_operator_finds_what_is_wrong_and_puts_it_right() {
    let sandbox = Sandbox::start().await;
    let (relay, mut browser) = opened(&sandbox).await;
    says(&mut browser, "Nothing is stuck.").await;

    // Brevo refuses the key; the page says so by itself, in words that say what to do.
    sandbox.faults(Sandbox::fault("brevo", "", json!({ "kind": "status", "status": 401 }))).await;
    let update = json!([{ "$token": TOKEN, "$distinct_id": "u-1", "$set": { "$first_name": "Ada" } }]);
    relay.take("/engage", &update).await;
    says(&mut browser, "Brevo is paused: the vendor refuses the credentials").await;
    sandbox.heal().await;
    browser.call("click", json!(["text=Try Brevo now"])).await;
    says(&mut browser, "Nothing is stuck.").await;
    relay.drained("brevo").await;

    for (path, title) in PAGES {
        browser.call("goto", json!([relay.url(path)])).await;
        says(&mut browser, title).await;
        looks_well(&mut browser, &title.to_lowercase().replace(' ', "-")).await;
    }
    same("complaints", browser.complaints().await, Value::Array(Vec::new())).unwrap();
}

/// Presses a button or a link by keyboard.
async fn press(browser: &mut Browser, what: &str) {
    browser.call("press", json!([format!("text={what}"), "Enter"])).await;
}

#[tokio::test]
async fn dead_letters_are_looked_through_sent_again_and_let_go() {
    let sandbox = Sandbox::start().await;
    let (relay, mut browser) = opened(&sandbox).await;
    browser.call("goto", json!([relay.url("/console/dead-letters")])).await;
    says(&mut browser, "No dead letters.").await;
    let answer = json!({ "code": "invalid_parameter", "message": "no ada@example.com today" });
    let fault = json!({ "kind": "status", "status": 400, "body": answer });
    sandbox.faults(Sandbox::fault("brevo", "/v3/events", fault)).await;
    for n in 0..3 {
        relay.take("/track", &json!([event("Purchase", "u-1", &format!("n{n}"))])).await;
    }
    relay.dead_letters("brevo", 3).await;
    sandbox.heal().await;

    // The record beside the vendor's answer, both masked; a filter that leaves nothing, and one that leaves all.
    browser.call("goto", json!([relay.url("/console/dead-letters")])).await;
    says(&mut browser, "no a…@example.com today").await;
    looks_well(&mut browser, "letters").await;
    browser.call("selectOption", json!(["#destination", "mixpanel"])).await;
    press(&mut browser, "Filter").await;
    says(&mut browser, "No dead letter is like that.").await;
    browser.call("selectOption", json!(["#destination", "brevo"])).await;
    press(&mut browser, "Filter").await;
    says(&mut browser, "Brevo refused this event").await;
    let exported = "return await (await fetch(document.querySelector('a[href*=export]').href)).text();";
    let exported = browser.run(exported).await.as_str().unwrap().to_owned();
    assert_eq!((exported.lines().count(), exported.contains("ada@example.com")), (3, false), "{exported}");

    // One is ticked: what would be sent is shown, and nothing has happened yet.
    press(&mut browser, "Show personal data").await;
    says(&mut browser, "no ada@example.com today").await;
    browser.call("check", json!(["ol.letters li:first-child input[type=checkbox]"])).await;
    press(&mut browser, "Send again those ticked…").await;
    says(&mut browser, "Send 1 letter again?").await;
    says(&mut browser, "order_completed").await;
    looks_well(&mut browser, "replay").await;
    relay.dead_letters("brevo", 3).await;
    browser.call("press", json!([".asks button[type=submit]", "Enter"])).await;
    says(&mut browser, "1 letter is sent again.").await;
    eventually(PATIENCE, async || same("sent", sandbox.brevo_events().await.len(), 1)).await;

    // The others go for good.
    browser.call("goto", json!([relay.url("/console/dead-letters?reason=rejected")])).await;
    press(&mut browser, "Purge all of this filter…").await;
    says(&mut browser, "Let 2 letters go for good?").await;
    relay.dead_letters("brevo", 2).await;
    press(&mut browser, "Purge for good").await;
    says(&mut browser, "2 letters are gone.").await;
    relay.dead_letters("brevo", 0).await;
    same("complaints", browser.complaints().await, Value::Array(Vec::new())).unwrap();
    let audit = relay.admin("GET", "/v1/audit").await.ok().json();
    let actions: Vec<&str> =
        audit["items"].as_array().unwrap().iter().map(|note| note["action"].as_str().unwrap()).collect();
    for action in ["purge", "replay", "unmask", "export"] {
        assert!(actions.contains(&action), "no {action} in {audit}");
    }
}

#[tokio::test]
async fn a_mapping_is_tried_on_what_has_just_passed_and_taken_up() {
    let sandbox = Sandbox::start().await;
    let (mut relay, mut browser) = opened(&sandbox).await;
    relay.take("/track", &json!([event("Purchase", "u-1", "n1")])).await;
    relay.take("/track", &json!([event("Viewed", "u-1", "n2")])).await;
    relay.drained("brevo").await;
    browser.call("goto", json!([relay.url("/console/mapping")])).await;
    says(&mut browser, "Version 1").await;

    // What cannot be a mapping is told, and what was written is still there.
    browser.call("fill", json!(["#mapping", "event_mapping: { Viewed: page_viewed"])).await;
    press(&mut browser, "Show what Brevo would get").await;
    says(&mut browser, "The mapping: line").await;
    let mapping = "event_mapping:\n  Purchase: order_completed\n  Viewed: page_viewed";
    browser.call("fill", json!(["#mapping", mapping])).await;
    press(&mut browser, "Show what Brevo would get").await;
    says(&mut browser, "1 of 3 records would be sent otherwise.").await;
    says(&mut browser, "page_viewed").await;
    let shown = text(&mut browser).await;
    assert!(shown.contains("skip unmapped event: 1") && !shown.contains("ada@example.com"), "{shown}");
    looks_well(&mut browser, "trial").await;

    // One that is picked as it passes.
    browser.call("goto", json!([relay.url("/console/records?event=Viewed")])).await;
    browser.call("click", json!(["ol.letters summary"])).await;
    press(&mut browser, "Try a mapping on it").await;
    says(&mut browser, "The one at this position").await;
    browser.call("fill", json!(["#mapping", mapping])).await;
    press(&mut browser, "Show what Brevo would get").await;
    says(&mut browser, "1 of 1 records would be sent otherwise.").await;
    looks_well(&mut browser, "picked").await;
    browser.call("fill", json!(["#picked", ""])).await;

    // One's own record.
    let own = json!({ "event": "Viewed", "properties": { "distinct_id": "u-1", "page": "/home" } });
    browser.call("fill", json!(["#records", own.to_string()])).await;
    browser.call("selectOption", json!(["#recent", ""])).await;
    press(&mut browser, "Show what Brevo would get").await;
    says(&mut browser, "1 of 1 records would be sent otherwise.").await;
    says(&mut browser, "/home").await;

    // In force once it stands in the file.
    press(&mut browser, "Reload the file's mapping").await;
    says(&mut browser, "The file says what is in force already.").await;
    relay.configure(json!({ "event_mapping": { "Viewed": "page_viewed" } }));
    press(&mut browser, "Reload the file's mapping").await;
    says(&mut browser, "Version 2 is in force.").await;
    relay.take("/track", &json!([event("Viewed", "u-1", "n3")])).await;
    eventually(PATIENCE, async || same("sent", sandbox.brevo_events().await.len(), 2)).await;
    // A refusal is an answer with a status of its own, which Chromium tells its console.
    let complaints = browser.complaints().await;
    let others: Vec<_> = complaints.as_array().unwrap().iter().filter(|one| !one.to_string().contains("400")).collect();
    assert!(others.is_empty(), "{complaints}");
}

#[tokio::test]
async fn records_appear_as_they_come_and_say_what_became_of_them() {
    let sandbox = Sandbox::start().await;
    let (relay, mut browser) = opened(&sandbox).await;
    browser.call("goto", json!([relay.url("/console/records?event=Purchase")])).await;
    says(&mut browser, "No record is like that.").await;
    relay.take("/track", &json!([event("Purchase", "u-1", "n1"), event("Viewed", "u-1", "n2")])).await;
    says(&mut browser, "Brevo: delivered").await;
    assert!(!text(&mut browser).await.contains("Viewed"), "another event");
    browser.call("goto", json!([relay.url("/console/records")])).await;
    says(&mut browser, "Viewed").await;
    says(&mut browser, "Brevo: skipped").await;
    looks_well(&mut browser, "tail").await;
    browser.call("selectOption", json!(["#by", "email"])).await;
    browser.call("fill", json!(["#of", "ada@example.com"])).await;
    browser.call("selectOption", json!(["#kind", "profile"])).await;
    press(&mut browser, "Filter").await;
    says(&mut browser, "profile update").await;
    assert!(!text(&mut browser).await.contains("Purchase"));
    press(&mut browser, "Show personal data").await;
    browser.call("click", json!(["ol.letters summary"])).await;
    says(&mut browser, "ada@example.com").await;
    same("complaints", browser.complaints().await, Value::Array(Vec::new())).unwrap();
}

#[tokio::test]
async fn cohorts_and_backfills_are_begun_followed_and_written_down() {
    let sandbox = Sandbox::start().await;
    let (relay, mut browser) = opened(&sandbox).await;
    sandbox.control("POST", "/brevo/seed", json!({ "lists": [{ "id": 16, "name": "Engaged" }] })).await;
    let cohort = json!({ "id": 7, "name": "Engaged users", "members": ["u-1", "stranger"] });
    let profile = json!({ "distinct_id": "u-1", "properties": { "$email": "ada@example.com" } });
    sandbox.control("POST", "/mixpanel/seed", json!({ "profiles": [profile], "cohorts": [cohort] })).await;

    browser.call("goto", json!([relay.url("/console/cohorts")])).await;
    says(&mut browser, "No cohort has been brought into a list.").await;
    press(&mut browser, "Ask Mixpanel for its cohorts").await;
    says(&mut browser, "Engaged users").await;
    browser.call("fill", json!(["#cohort", "7"])).await;
    browser.call("fill", json!(["#list", "16"])).await;
    press(&mut browser, "Bring it into the list").await;
    for part in ["into list 16", "Engaged users", "done", "no address"] {
        says(&mut browser, part).await;
    }
    assert!(!text(&mut browser).await.contains("stranger"));
    looks_well(&mut browser, "run").await;
    press(&mut browser, "Show personal data").await;
    says(&mut browser, "stranger").await;
    press(&mut browser, "All runs").await;
    says(&mut browser, "Engaged users").await;
    looks_well(&mut browser, "runs").await;

    // First a dry run, which counts; then the same for good.
    browser.call("goto", json!([relay.url("/console/backfills")])).await;
    says(&mut browser, "There has been no backfill.").await;
    browser.call("click", json!(["text=Begin a backfill"])).await;
    press(&mut browser, "/^Begin$/").await;
    says(&mut browser, "Begun. Nothing is sent").await;
    says(&mut browser, "Do it for good").await;
    press(&mut browser, "Do it for good").await;
    eventually(PATIENCE, async || {
        let found = text(&mut browser).await;
        if found.matches("done").count() == 2 { Ok(()) } else { Err(found) }
    })
    .await;
    looks_well(&mut browser, "backfill").await;

    browser.call("goto", json!([relay.url("/console/audit")])).await;
    for action in ["sync", "backfill", "unmask"] {
        says(&mut browser, action).await;
    }
    looks_well(&mut browser, "audited").await;
    same("complaints", browser.complaints().await, Value::Array(Vec::new())).unwrap();
}

#[tokio::test]
async fn a_data_set_is_looked_at_and_then_run() {
    let sandbox = Sandbox::start().await;
    let script = tempfile::Builder::new().suffix(".js").tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::write(script.path(), "function main() { return People(); }").unwrap();
    let rows = json!([{ "distinct_id": "u-1", "days": 31 }, { "distinct_id": "stranger", "days": 40 }]);
    sandbox.control("POST", "/mixpanel/seed", json!({ "answers": { "jql": rows } })).await;
    let dataset = json!({
        "name": "dormant", "jql": script.path(), "schedule": "365d", "attributes": { "days": "DAYS_AWAY" },
    });
    let relay = Relay::start(&sandbox, json!({ "datasets": [dataset] })).await;
    let update = json!([{ "$token": TOKEN, "$distinct_id": "u-1", "$set": { "$email": "ada@example.com" } }]);
    relay.take("/engage", &update).await;
    relay.drained("brevo").await;
    let mut browser = Browser::open().await;
    browser.log_in(&relay).await;
    browser.call("goto", json!([relay.url("/console/datasets")])).await;
    for part in ["not shown yet", "DAYS_AWAY", "No data set has been run."] {
        says(&mut browser, part).await;
    }
    press(&mut browser, "Show what dormant would change").await;
    for part in ["done, dry run", "People it would change", "Not matched"] {
        says(&mut browser, part).await;
    }
    assert!(!text(&mut browser).await.contains("stranger"));
    looks_well(&mut browser, "data-set").await;
    press(&mut browser, "Change it, now and whenever it is due").await;
    says(&mut browser, "People changed").await;
    eventually(PATIENCE, async || {
        let contact = sandbox.brevo_contact("ada@example.com").await.unwrap_or_default();
        same("days", contact["attributes"]["DAYS_AWAY"].clone(), json!(31))
    })
    .await;
    press(&mut browser, "All data sets and runs").await;
    says(&mut browser, "confirmed").await;

    // What was looked at is not what would be run now.
    std::fs::write(script.path(), "function main() { return Others(); }").unwrap();
    press(&mut browser, "Run dormant now").await;
    says(&mut browser, "The definition has changed").await;
    says(&mut browser, "not shown yet").await;
    let complaints = browser.complaints().await;
    let others: Vec<_> = complaints.as_array().unwrap().iter().filter(|one| !one.to_string().contains("409")).collect();
    assert!(others.is_empty(), "{complaints}");
}

/// The pictures of docs/console.md are made here: `MIXRELAY_TEST_SCREENSHOTS=$PWD/docs/images` and this test alone.
#[tokio::test]
async fn a_day_is_compared_with_what_the_vendors_count() {
    let sandbox = Sandbox::start().await;
    let (relay, mut browser) = opened(&sandbox).await;
    let mut events = [event("Purchase", "u-1", "e-1"), event("Purchase", "u-1", "e-2")];
    let time = events[0]["properties"]["time"].as_u64().unwrap() - 86_400;
    for event in &mut events {
        event["properties"]["time"] = json!(time);
    }
    let day = jiff::Timestamp::from_second(time.cast_signed()).unwrap().to_string()[..10].to_owned();
    relay.take("/track", &json!(events)).await;
    relay.drained("brevo").await;
    relay.drained("mixpanel").await;

    browser.call("goto", json!([relay.url("/console/reconciliation")])).await;
    says(&mut browser, "No day has been compared yet.").await;
    // What was delivered is counted with the next checkpoint.
    eventually(PATIENCE, async || {
        browser.call("fill", json!(["#day", day])).await;
        press(&mut browser, "/^Compare$/").await;
        says(&mut browser, &format!("{day} is compared.")).await;
        let found = text(&mut browser).await;
        if found.matches("2 counted there").count() == 2 { Ok(()) } else { Err(found) }
    })
    .await;
    for part in ["nothing is missing", "order_completed", "Purchase"] {
        says(&mut browser, part).await;
    }
    looks_well(&mut browser, "compared").await;
    same("complaints", browser.complaints().await, Value::Array(Vec::new())).unwrap();
}

#[tokio::test]
async fn a_refusal_is_found_mended_and_sent_again() {
    let sandbox = Sandbox::start().await;
    // A list that somebody has deleted at Brevo.
    let mut relay = Relay::start(&sandbox, json!({ "lists": { "all_users": 99 } })).await;
    let people = ["ada", "bob", "eve"].map(|name| {
        json!({ "$token": TOKEN, "$distinct_id": name, "$set": { "$email": format!("{name}@example.com"), "plan": "pro" } })
    });
    relay.take("/engage", &json!(people)).await;
    relay.dead_letters("brevo", 3).await;
    let mut browser = Browser::open().await;
    browser.log_in(&relay).await;
    says(&mut browser, "3 records were refused by Brevo and are held as dead letters.").await;
    browser.screenshot("console-refused").await;

    // Why.
    press(&mut browser, "See each with the vendor's answer").await;
    says(&mut browser, "List ID 99 does not exist").await;
    browser.screenshot("console-dead-letters").await;

    // The mapping names the list that is there; it is taken up.
    browser.call("goto", json!([relay.url("/console/mapping")])).await;
    relay.configure(json!({ "lists": { "all_users": 15 } }));
    press(&mut browser, "Reload the file's mapping").await;
    says(&mut browser, "Version 2 is in force.").await;
    browser.screenshot("console-mapping").await;

    // What would be sent now, and then it is.
    browser.call("goto", json!([relay.url("/console/dead-letters")])).await;
    press(&mut browser, "Send again all…").await;
    says(&mut browser, "Send 3 letters again?").await;
    browser.screenshot("console-replay").await;
    browser.call("press", json!([".asks button[type=submit]", "Enter"])).await;
    says(&mut browser, "3 letters are sent again.").await;
    relay.drained("brevo").await;
    browser.call("goto", json!([relay.url("/console")])).await;
    says(&mut browser, "Nothing is stuck.").await;
    browser.screenshot("console-overview").await;
    for name in ["ada", "bob", "eve"] {
        let contact = sandbox.brevo_contact(&format!("{name}@example.com")).await.unwrap();
        assert_eq!(
            (&contact["listIds"], &contact["attributes"]["PLAN_TYPE"]),
            (&json!([15]), &json!("pro")),
            "{contact}"
        );
    }
    same("complaints", browser.complaints().await, Value::Array(Vec::new())).unwrap();
}

#[tokio::test]
async fn a_viewer_finds_out_why_and_neither_who_nor_how_to_change_it() {
    let sandbox = Sandbox::start().await;
    let tokens = json!([{ "name": "growth", "role": "viewer", "token": "look" }]);
    let relay = Relay::start(&sandbox, json!({ "auth": { "tokens": tokens } })).await;
    let update = json!([{ "$token": TOKEN, "$distinct_id": "u-1", "$set": { "$email": "ada@example.com" } }]);
    relay.take("/engage", &update).await;
    relay.drained("brevo").await;
    let fault = json!({ "kind": "status", "status": 400, "body": { "code": "x", "message": "no ada@example.com" } });
    sandbox.faults(Sandbox::fault("brevo", "/v3/events", fault)).await;
    relay.take("/track", &json!([event("Purchase", "u-1", "n1")])).await;
    relay.dead_letters("brevo", 1).await;
    let mut browser = Browser::open().await;
    browser.log_in_with(&relay, "look").await;
    for (path, says_so) in [
        ("/console", "One record was refused by Brevo"),
        ("/console/records?unmask=true", "Brevo: refused"),
        ("/console/people?id=u-1&unmask=true", "a…@example.com"),
        ("/console/dead-letters?unmask=true", "no a…@example.com"),
        ("/console/mapping", "Version 1"),
        ("/console/cohorts", "No cohort has been brought into a list."),
        ("/console/backfills", "There has been no backfill."),
        ("/console/audit", "unmask"),
    ] {
        browser.call("goto", json!([relay.url(path)])).await;
        says(&mut browser, says_so).await;
        let shown = text(&mut browser).await;
        assert!(!shown.contains("ada@example.com") && !shown.contains("Show personal data"), "{path}: {shown}");
        let buttons = "return [...document.querySelectorAll('main button')].map((one) => one.textContent).join();";
        let buttons = browser.run(buttons).await.as_str().unwrap().to_owned();
        let harmless = ["", "Filter", "Find", "Show what Brevo would get"];
        assert!(harmless.contains(&&*buttons), "{path}: {buttons}");
        same(path, browser.inaccessible().await, json!([])).unwrap();
    }
    browser.call("goto", json!([relay.url("/console/mapping")])).await;
    press(&mut browser, "Show what Brevo would get").await;
    says(&mut browser, "What Brevo gets of 2 records").await;
    same("complaints", browser.complaints().await, Value::Array(Vec::new())).unwrap();
}

#[tokio::test]
async fn personal_data_is_shown_only_when_asked_for() {
    let sandbox = Sandbox::start().await;
    let (relay, mut browser) = opened(&sandbox).await;
    browser.call("goto", json!([relay.url("/console/people?id=u-1")])).await;
    says(&mut browser, "a…@example.com").await;
    assert!(!text(&mut browser).await.contains("ada@example.com"));
    browser.call("click", json!(["text=Show personal data"])).await;
    says(&mut browser, "ada@example.com").await;
    browser.call("click", json!(["text=Log out"])).await;
    browser.call("goto", json!([relay.url("/console/people?id=u-1")])).await;
    says(&mut browser, "Token").await;
}
