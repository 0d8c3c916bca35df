//! The console in headless Chromium: a destination fails, the operator finds the reason and resumes it, and the page
//! shows it recovered. No page says anything in anger, none has a serious fault of accessibility.

use serde_json::{Value, json};

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

    // Every page, wide and narrow, in light and dark, by keyboard and for machines that read it out.
    for (path, title) in PAGES {
        browser.call("goto", json!([relay.url(path)])).await;
        says(&mut browser, title).await;
        for (width, scheme) in [(1280, "light"), (360, "dark")] {
            browser.call("setViewportSize", json!([{ "width": width, "height": 800 }])).await;
            browser.call("emulateMedia", json!([{ "colorScheme": scheme }])).await;
            same(path, browser.inaccessible().await, json!([])).unwrap();
            let scrolls = "return document.documentElement.scrollWidth > document.documentElement.clientWidth;";
            assert_eq!(browser.run(scrolls).await, false, "{path} is wider than {width} pixels");
            browser.screenshot(&format!("{}-{scheme}", title.to_lowercase().replace(' ', "-"))).await;
        }
    }
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
