//! The console before somebody else's words: what apps, vendors and other sites say is shown, and does nothing.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::http::FORM;
use crate::harness::records::{event, set};
use crate::harness::sdk::Browser;
use crate::harness::{PATIENCE, Relay, Sandbox, eventually};

/// Breaks out of a text, an attribute, a script and a URL, if any of them lets it.
const HOSTILE: &str = "</script></textarea></title><img src=x onerror=\"window.pwned=1\"><svg/onload='window.pwned=2'>\
                       \" onfocus=\"window.pwned=3\" autofocus x='{{7*7}} javascript:window.pwned=4";

async fn text(browser: &mut Browser) -> String {
    browser.call("textContent", json!(["body"])).await.as_str().unwrap_or_default().to_owned()
}

/// Whatever apps and vendors say is text on every page that shows it.
#[tokio::test]
async fn hostile_words_are_shown_as_words() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({ "unmapped_events": "forward" })).await;
    // As the names and values of everything that an app can say.
    let mut tracked = event(HOSTILE, HOSTILE, "x-1");
    tracked["properties"][HOSTILE] = json!(HOSTILE);
    relay.take("/track", &json!([tracked])).await;
    let mut purchase = event("Purchase", "u-1", "x-2");
    purchase["properties"]["note"] = json!(HOSTILE);
    relay
        .take(
            "/engage",
            &json!([set("u-1", json!({ "$email": "ada@example.com", "$first_name": HOSTILE, "plan": HOSTILE }))]),
        )
        .await;
    relay.drained_or_parked("brevo").await;
    // As a vendor's words about a record that it refuses, and as names of what it has.
    let answer = json!({ "code": HOSTILE, "message": HOSTILE });
    sandbox
        .faults(Sandbox::fault("brevo", "/v3/events", json!({ "kind": "status", "status": 400, "body": answer })))
        .await;
    relay.take("/track", &json!([purchase])).await;
    eventually(PATIENCE, async || {
        let page = relay.admin("GET", "/v1/dead-letters?destination=brevo&limit=10").await.ok().json();
        if page["items"].as_array().unwrap().is_empty() { Err(page.to_string()) } else { Ok(()) }
    })
    .await;
    sandbox.heal().await;
    sandbox.control("POST", "/brevo/seed", json!({ "lists": [{ "id": 16, "name": HOSTILE }] })).await;
    let cohort = json!({ "id": 7, "name": HOSTILE, "members": ["u-1", HOSTILE] });
    sandbox.control("POST", "/mixpanel/seed", json!({ "cohorts": [cohort] })).await;
    relay.admin("DELETE", "/v1/people/nobody-of-that-name").await;
    // An unknown project's token is told on the overview.
    let stranger = json!([{ "event": "E", "properties": { "token": HOSTILE, "distinct_id": "u" } }]);
    relay.post("/track?ip=0", &[crate::harness::http::JSON], stranger.to_string()).await;

    let mut browser = Browser::open().await;
    browser.log_in(&relay).await;
    let encoded: String = form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect();
    let mut shown = 0;
    for path in [
        "/console".to_owned(),
        "/console/records".to_owned(),
        format!("/console/records?event={encoded}&of={encoded}&by=email"),
        "/console/people?id=u-1".to_owned(),
        format!("/console/people?id={encoded}"),
        "/console/dead-letters".to_owned(),
        format!("/console/dead-letters?reason={encoded}&destination={encoded}"),
        "/console/mapping".to_owned(),
        "/console/cohorts".to_owned(),
        "/console/backfills".to_owned(),
        "/console/lookup-tables".to_owned(),
        format!("/console/reconciliation?day={encoded}"),
        "/console/erasures".to_owned(),
        "/console/audit".to_owned(),
        format!("/console/{encoded}"),
    ] {
        browser.call("goto", json!([relay.url(&path)])).await;
        if browser
            .run("return !!document.querySelector('input[name=masked][value=false], a[href*=\"masked=false\"]');")
            .await
            == true
            || text(&mut browser).await.contains("Show personal data")
        {
            browser.call("press", json!(["text=Show personal data", "Enter"])).await;
            browser.call("waitForLoadState", json!(["load"])).await;
        }
        if path.starts_with("/console/cohorts") {
            browser.call("press", json!(["text=Ask Mixpanel for its cohorts", "Enter"])).await;
            eventually(PATIENCE, async || {
                let found = text(&mut browser).await;
                if found.contains("onerror") { Ok(()) } else { Err(found) }
            })
            .await;
        }
        shown += usize::from(text(&mut browser).await.contains("onerror"));
        let alien = "return document.querySelectorAll('main img, svg[onload], [onerror], [onfocus], [onload], script:not([src])').length;";
        assert_eq!(browser.run(alien).await, 0, "{path}");
        assert_eq!(browser.run("return String(window.pwned);").await, "undefined", "{path}");
    }
    assert!(shown >= 4, "the words were shown on {shown} pages only");
    // A script that the policy has stopped would have been an escape all the same.
    let complaints = browser.complaints().await;
    let of_policy = |complaint: &&Value| complaint.to_string().contains("Content Security Policy");
    assert_eq!(complaints.as_array().unwrap().iter().find(of_policy), None, "{complaints}");
}

/// A page of another site sends the browser, cookies and all, to the console's forms.
#[tokio::test]
async fn another_site_changes_nothing() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let mut browser = Browser::open().await;
    browser.log_in(&relay).await;
    let actions = [
        ("/console/destinations/brevo/pause", ""),
        ("/console/pause", "destination=brevo"),
        ("/console/erasures", "id=u-1"),
        ("/console/dead-letters", "action=purge"),
        ("/console/logout", ""),
    ];
    for (path, form) in actions {
        browser.go_to_page().await;
        let (name, value) = form.split_once('=').unwrap_or(("a", "b"));
        let url = relay.url(path);
        let script = format!(
            "const form = document.createElement('form'); form.method = 'post'; form.action = {url:?};
             const field = document.createElement('input'); field.name = {name:?}; field.value = {value:?};
             form.append(field); document.body.append(form); setTimeout(() => form.submit(), 0); return 1;"
        );
        browser.run(&script).await;
        browser.call("waitForURL", json!(["**/console/**"])).await;
        let fetched = format!(
            "try {{ const r = await fetch({url:?}, {{ method: 'POST', credentials: 'include', mode: 'no-cors',
             headers: {{ 'content-type': 'application/x-www-form-urlencoded' }}, body: {form:?} }}); return r.type; }}
             catch (e) {{ return 'refused'; }}"
        );
        browser.go_to_page().await;
        browser.run(&fetched).await;
    }
    let audit = relay.admin("GET", "/v1/audit").await.ok().json();
    assert_eq!(audit["items"], json!([]), "nobody has done anything");
    // Still logged in: not even that was changed.
    browser.call("goto", json!([relay.url("/console/audit")])).await;
    assert!(text(&mut browser).await.contains("Audit"));
    // What another site's script may read of the console and the admin API: nothing.
    browser.go_to_page().await;
    for path in ["/console", "/console/people?id=u-1", "/v1/status"] {
        let url = relay.url(path);
        let script = format!(
            "try {{ await fetch({url:?}, {{ credentials: 'include' }}); return 'read'; }} catch (e) {{ return 'refused'; }}"
        );
        assert_eq!(browser.run(&script).await, "refused", "{path}");
    }
    // Nor may it stand in a frame.
    let url = relay.url("/console");
    let script = format!(
        "const frame = document.createElement('iframe'); frame.src = {url:?}; document.body.append(frame);
         await new Promise((resolve) => {{ frame.onload = resolve; setTimeout(resolve, 5000); }});
         try {{ return frame.contentWindow.location.href; }} catch (e) {{ return 'another origin'; }}"
    );
    assert_ne!(browser.run(&script).await, json!(url));
}

/// After a login one is where one wanted to go inside the console, and nowhere else.
#[tokio::test]
async fn a_login_leads_nowhere_else() {
    let sandbox = Sandbox::start().await;
    let relay = Relay::start(&sandbox, json!({})).await;
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(30));
    let client = client.build().unwrap();
    for next in [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/console//evil.example",
        "/console/../track",
        "/console\\@evil.example",
        "/console.evil.example",
        "/console@evil.example",
        "/console/%2e%2e/track",
        "/console\r\nx-injected: 1",
        "javascript:alert(1)",
    ] {
        let form: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", crate::harness::relay::ADMIN_TOKEN)
            .append_pair("next", next)
            .finish();
        let answer = client.post(relay.url("/console/login")).header(FORM.0, FORM.1).body(form).send().await.unwrap();
        assert_eq!(answer.headers()["location"], "/console", "{next}");
        assert!(!answer.headers().contains_key("x-injected"));
    }
}
