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
    ("/console/people?id=u-1", "People"),
    ("/console/dead-letters", "Dead letters"),
    ("/console/lookup-tables", "Lookup tables"),
    ("/console/erasures", "Erasures"),
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
    for (width, scheme) in [(1280, "light"), (360, "dark")] {
        browser.call("setViewportSize", json!([{ "width": width, "height": 800 }])).await;
        browser.call("emulateMedia", json!([{ "colorScheme": scheme }])).await;
        same(name, browser.inaccessible().await, json!([])).unwrap();
        let scrolls = "return document.documentElement.scrollWidth > document.documentElement.clientWidth;";
        assert_eq!(browser.run(scrolls).await, false, "{name} is wider than {width} pixels");
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
