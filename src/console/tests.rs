//! The door, over an admin API that answers whatever a test says.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::routing::any;
use http::header::{COOKIE, LOCATION, SET_COOKIE};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::api::Api;
use super::pulse::Pulse;
use super::session::Sessions;
use super::{Console, router};
use crate::admin::auth::{AdminAuth, Caller};
use crate::clock::{ManualClock, UnixMillis};
use crate::config::{NamedToken, Role, Secret};

const START: UnixMillis = UnixMillis(1_800_000_000_000);

type Asked = Arc<Mutex<Vec<(String, String, String)>>>;

struct Door {
    router: Router,
    /// What has been asked of the API: method, path and body.
    asked: Asked,
    clock: std::sync::Arc<ManualClock>,
}

impl Door {
    /// Answers every question of the pages with `answer`; who changes something must be an operator.
    fn new(answer: Value) -> Self {
        let clock = ManualClock::at(START);
        let viewer = NamedToken { name: "growth".to_owned(), role: Role::Viewer, token: Secret::new("look") };
        let auth = AdminAuth::new(&Secret::new("all"), &[viewer]);
        let asked = Asked::default();
        let heard = asked.clone();
        let api = Router::new().fallback(any(async move |request: Request<Body>| {
            let role = request.extensions().get::<Caller>().unwrap().role;
            let (method, path) = (request.method().clone(), request.uri().to_string());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            heard.lock().unwrap().push((method.to_string(), path, String::from_utf8_lossy(&body).into_owned()));
            let allowed = method == http::Method::GET || role >= Role::Operator;
            let refusal = json!({ "error": { "code": "forbidden", "message": "not you", "hint": "" } });
            match allowed {
                true => (StatusCode::OK, axum::Json(answer.clone())),
                false => (StatusCode::FORBIDDEN, axum::Json(refusal)),
            }
        }));
        let sessions = Sessions::new(auth, clock.clone()).unwrap();
        Self { router: router(Console { api: Api::new(api), sessions, pulse: Pulse::new() }), clock, asked }
    }

    /// What was asked of the API since the last look.
    fn asked(&self) -> Vec<(String, String, String)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    async fn ask(&self, method: &str, path: &str, cookie: &str, body: &str) -> Response<Body> {
        let request = Request::builder().method(method).uri(path).header(COOKIE, cookie);
        self.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap()
    }

    /// The cookie of somebody who has just logged in.
    async fn log_in(&self, token: &str) -> String {
        let response = self.ask("POST", "/console/login", "", &format!("token={token}&next=/console/people")).await;
        assert_eq!(response.headers()[LOCATION], "/console/people");
        let cookie = response.headers()[SET_COOKIE].to_str().unwrap().to_owned();
        assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
        cookie.split(';').next().unwrap().to_owned()
    }

    /// The token against forged requests, as a page's form has it.
    async fn csrf(&self, cookie: &str) -> String {
        let page = text(self.ask("GET", "/console/erasures", cookie, "").await).await;
        let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn nothing_is_shown_without_a_session() {
    let door = Door::new(json!({}));
    let good = door.log_in("all").await;
    let forged = good.replacen("=A", "=B", 1);
    let pages = [
        "",
        "/live",
        "/records",
        "/records/live",
        "/people",
        "/dead-letters",
        "/dead-letters/export",
        "/mapping",
        "/cohorts",
        "/cohorts/live",
        "/cohorts/runs/1",
        "/datasets",
        "/datasets/live",
        "/datasets/runs/1",
        "/backfills",
        "/backfills/live",
        "/lookup-tables",
        "/erasures",
        "/audit",
    ];
    for path in pages.map(|page| format!("/console{page}")) {
        let path = &*path;
        for cookie in ["", "mixrelay_session=x", &forged] {
            let response = door.ask("GET", path, cookie, "").await;
            assert_eq!(response.status(), StatusCode::SEE_OTHER, "{path} {cookie}");
            assert!(response.headers()[LOCATION].to_str().unwrap().starts_with("/console/login?next="));
        }
        assert_eq!(door.ask("GET", path, &good, "").await.status(), StatusCode::OK, "{path}");
    }
    assert_eq!(door.ask("POST", "/console/people/erase", "", "id=x").await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_session_ends() {
    let door = Door::new(json!({}));
    let cookie = door.log_in("look").await;
    door.clock.advance(std::time::Duration::from_secs(12 * 3600));
    assert_eq!(door.ask("GET", "/console", &cookie, "").await.status(), StatusCode::SEE_OTHER);
    let other = Door::new(json!({}));
    let foreign = door.log_in("look").await;
    assert_eq!(other.ask("GET", "/console", &foreign, "").await.status(), StatusCode::SEE_OTHER, "another process's");
}

#[tokio::test]
async fn a_wrong_token_gets_no_session_and_a_login_leads_nowhere_else() {
    let door = Door::new(json!({}));
    let response = door.ask("POST", "/console/login", "", "token=guess").await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert!(!response.headers().contains_key(SET_COOKIE));
    for next in
        ["https://evil.example", "//evil.example", "/console//evil.example", "/consolex", "/console/login", "/v1"]
    {
        let response = door.ask("POST", "/console/login", "", &format!("token=all&next={next}")).await;
        assert_eq!(response.headers()[LOCATION], "/console", "{next}");
    }
}

#[tokio::test]
async fn a_forged_form_changes_nothing() {
    let door = Door::new(json!({}));
    let cookie = door.log_in("all").await;
    let csrf = door.csrf(&cookie).await;
    let other = door.csrf(&door.log_in("all").await).await;
    let pause = "/console/destinations/brevo/pause";
    for body in ["", "csrf=", &format!("csrf={other}")] {
        assert_eq!(door.ask("POST", pause, &cookie, body).await.status(), StatusCode::FORBIDDEN, "{body}");
    }
    let response = door.ask("POST", pause, &cookie, &format!("csrf={csrf}")).await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_role_reaches_as_far_as_at_the_api() {
    let door = Door::new(json!({}));
    let cookie = door.log_in("look").await;
    let csrf = door.csrf(&cookie).await;
    let response = door.ask("POST", "/console/destinations/brevo/pause", &cookie, &format!("csrf={csrf}")).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert!(text(response).await.contains("not you"));
}

#[tokio::test]
async fn what_a_record_says_is_text() {
    let hostile = "<script>alert(1)</script>\"'><img src=x>";
    let record = json!({ "event": hostile, "properties": { "$email": "ada@example.com", hostile: hostile } });
    let answer = json!({ "items": [{
        "id": "brevo-1.2.3", "destination": "brevo", "kind": "event", "reason": hostile,
        "answer": format!("no such contact {hostile}"), "died_at": "now", "record": record,
    }] });
    let door = Door::new(answer);
    let page = text(door.ask("GET", "/console/dead-letters", &door.log_in("all").await, "").await).await;
    assert!(page.contains("no such contact") && !page.contains("<script>alert") && !page.contains("<img src=x"));
}

#[tokio::test]
async fn personal_data_is_asked_for_masked_until_somebody_who_may_wants_to_see_it() {
    let door = Door::new(json!({}));
    let (viewer, admin) = (door.log_in("look").await, door.log_in("all").await);
    let pages = [
        "/console/dead-letters?",
        "/console/dead-letters/export?",
        "/console/people?id=u&",
        "/console/records?",
        "/console/records/live?",
        "/console/cohorts/runs/1?",
    ];
    for page in pages {
        for (cookie, unmask, masked) in [
            (&viewer, "", "masked=true"),
            (&viewer, "unmask=true", "masked=true"),
            (&admin, "unmask=false", "masked=true"),
            (&admin, "unmask=true", "masked=false"),
        ] {
            door.asked();
            door.ask("GET", &format!("{page}{unmask}"), cookie, "").await;
            let asked = door.asked();
            assert!(!asked.is_empty() && asked.iter().all(|(_, path, _)| path.contains(masked)), "{page} {asked:?}");
        }
    }
}

#[tokio::test]
async fn a_backfill_is_asked_for_in_the_forms_words() {
    let door = Door::new(json!({ "dry_run": true }));
    let cookie = door.log_in("all").await;
    let csrf = door.csrf(&cookie).await;
    door.asked();
    let form = "what=events&from=2026-01-01&to=&events=A%0D%0A+B+%0D%0A&dry_run=yes";
    let page = text(door.ask("POST", "/console/backfills", &cookie, &format!("csrf={csrf}&{form}")).await).await;
    assert!(page.contains("Begun."), "{page}");
    let (method, path, body) = door.asked().into_iter().next().unwrap();
    assert_eq!((&*method, &*path), ("POST", "/v1/backfills"));
    let asked = json!({ "what": "events", "from": "2026-01-01", "events": ["A", "B"], "dry_run": true, "trigger_automations": false });
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), asked);
    door.ask("POST", "/console/backfills", &cookie, &format!("csrf={csrf}&cancel=a/b")).await;
    assert_eq!(door.asked()[0].1, "/v1/backfills/a%2Fb/cancel");
}

#[tokio::test]
async fn a_mapping_is_tried_as_it_is_written_in_the_file() {
    let door = Door::new(json!({}));
    let cookie = door.log_in("look").await;
    let csrf = door.csrf(&cookie).await;
    let tried = async |form: &str| {
        door.asked();
        let response = door.ask("POST", "/console/mapping", &cookie, &format!("csrf={csrf}&order=try&{form}")).await;
        let asked = door.asked().into_iter().find(|(method, ..)| method == "POST");
        (response.status(), asked.map(|(_, path, body)| (path, serde_json::from_str::<Value>(&body).unwrap())))
    };
    let (_, asked) = tried("recent=50&unmask=true&mapping=event_mapping:%0A++A:+%22yes%22&records={}").await;
    let (path, body) = asked.unwrap();
    assert_eq!(path, "/v1/mapping/preview?masked=true", "a viewer sees nothing unmasked");
    assert_eq!(body, json!({ "records": [{}], "recent": 50, "mapping": { "event_mapping": { "A": "yes" } } }));
    for wrong in ["mapping=[", "mapping=a", "records={"] {
        let (status, asked) = tried(wrong).await;
        assert!(status == StatusCode::BAD_REQUEST && asked.is_none(), "{wrong}");
    }
}

#[tokio::test]
async fn letters_are_asked_about_before_they_go_and_only_those_that_are_meant() {
    let door = Door::new(json!({ "replayed": 2, "items": [], "by_name": { "Purchase": 2 } }));
    let cookie = door.log_in("all").await;
    let csrf = door.csrf(&cookie).await;
    let page = "/console/dead-letters?destination=brevo";
    let order = async |fields: &str| {
        door.asked();
        let page = text(door.ask("POST", page, &cookie, &format!("csrf={csrf}&{fields}")).await).await;
        let orders = door.asked().into_iter().filter(|(method, ..)| method != "GET");
        let orders: Vec<(String, Value)> =
            orders.map(|(method, _, body)| (method, serde_json::from_str(&body).unwrap())).collect();
        (page, orders)
    };
    let (page, orders) = order("order=replay&which=chosen&id=brevo-1.1.0&id=brevo-1.2.0").await;
    assert!(page.contains("Send 2 letters again?"), "{page}");
    let [(method, body)] = &orders[..] else { panic!("{orders:?}") };
    assert_eq!((method.as_str(), &body["dry_run"]), ("POST", &json!(true)));
    assert_eq!(body["ids"], json!(["brevo-1.1.0", "brevo-1.2.0"]));
    let (_, orders) = order("order=purge&which=all&sure=yes").await;
    let [(method, body)] = &orders[..] else { panic!("{orders:?}") };
    assert_eq!(
        (method.as_str(), &body["dry_run"], &body["filter"]),
        ("DELETE", &json!(false), &json!({ "destination": "brevo" }))
    );
    let (page, orders) = order("order=purge&which=chosen&sure=yes").await;
    assert!(orders.is_empty() && page.contains("No letter was chosen."), "{orders:?}");
}

#[tokio::test]
async fn every_answer_tells_the_browser_to_load_nothing_from_elsewhere() {
    let door = Door::new(json!({}));
    for path in ["/console/login", "/console/assets/console.js", "/console/assets/none", "/console"] {
        let response = door.ask("GET", path, "", "").await;
        let policy = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}");
        assert_eq!(response.headers()["x-frame-options"], "DENY");
    }
}

/// A form that never ends would hold its connection for good, and anybody may begin one.
#[tokio::test(start_paused = true)]
async fn a_form_that_does_not_end_is_let_go_of() {
    let door = Door::new(json!({}));
    let endless = || Body::from_stream(futures_util::stream::pending::<Result<axum::body::Bytes, std::io::Error>>());
    let login = Request::post("/console/login").body(endless()).unwrap();
    let refused = door.router.clone().oneshot(login).await.unwrap();
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let cookie = door.log_in("all").await;
    let form = Request::post("/console/erasures").header(COOKIE, &cookie).body(endless()).unwrap();
    assert_eq!(door.router.clone().oneshot(form).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_cookie_that_came_through_tls_stays_there() {
    let door = Door::new(json!({}));
    let body = || Body::from("token=all");
    let plain = Request::post("/console/login").body(body()).unwrap();
    let behind_a_proxy = Request::post("/console/login").header("x-forwarded-proto", "https").body(body()).unwrap();
    let ours = Request::post("/console/login").extension(crate::edge::OverTls).body(body()).unwrap();
    for (request, secure) in [(plain, false), (behind_a_proxy, true), (ours, true)] {
        let answer = door.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.headers()[SET_COOKIE].to_str().unwrap().ends_with("; Secure"), secure);
    }
}
