use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::json;

use super::live::{Finding, Vendors, Verdict, all};
use super::report;
use crate::config::{Config, parse};
use crate::vendor::Transport;

/// Serves `app` on a free port of this machine for as long as the test runs.
async fn serve(app: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

fn vendors() -> Vendors {
    super::super::use_ring();
    Vendors::new(Transport::new().unwrap())
}

fn config(base: &str, more: &str) -> Config {
    let text = format!(
        "connectors:\n  mixpanel:\n    project_token: t\n    project_id: '12345'\n    \
         service_account: {{ username: u, secret: s }}\n    endpoints: {{ app: '{base}' }}\n  \
         brevo: {{ api_key: k, base_url: '{base}/v3' }}\n{more}"
    );
    parse(&text, "test.yaml", &|_| None).unwrap().config
}

fn verdicts(findings: &[Finding]) -> Vec<(&str, Verdict)> {
    findings.iter().map(|finding| (finding.subject.as_str(), finding.verdict)).collect()
}

fn healthy() -> Router {
    let attributes = json!({"attributes": [
        {"name": "PLAN", "category": "normal", "type": "text"},
        {"name": "CLV", "category": "calculated", "calculatedValue": "x"},
    ]});
    Router::new()
        .route(
            "/api/app/me/",
            get(|headers: axum::http::HeaderMap| async move {
                assert_eq!(headers["authorization"], "Basic dTpz");
                json!({"status": "ok", "results": {"projects": {"12345": {}}}}).to_string()
            }),
        )
        .route(
            "/v3/account",
            get(|headers: axum::http::HeaderMap| async move {
                assert_eq!(headers["api-key"], "k");
                json!({"companyName": "Example Ltd"}).to_string()
            }),
        )
        .route("/v3/contacts/attributes", get(move || async move { attributes.to_string() }))
        .route("/v3/contacts/lists/15", get(|| async { json!({"id": 15, "name": "Everybody"}).to_string() }))
}

#[tokio::test]
async fn what_is_there_works_and_what_is_not_fails() {
    let base = serve(healthy()).await;
    let more =
        "lists: { all_users: 15, gone: 16 }\nproperty_mapping: { $email: email, plan: PLAN, new: NEW, clv: CLV }\n";
    let findings = all(&config(&base, more), &vendors()).await;
    assert_eq!(
        verdicts(&findings),
        [
            ("connectors.mixpanel.service_account", Verdict::Works),
            ("connectors.brevo.api_key", Verdict::Works),
            ("property_mapping.clv", Verdict::Fails),
            ("property_mapping.new", Verdict::Works),
            ("property_mapping.plan", Verdict::Works),
            ("lists.all_users", Verdict::Works),
            ("lists.gone", Verdict::Fails),
        ]
    );
    let printed = report::findings(&findings);
    assert!(printed.contains("  ok       connectors.brevo.api_key: accepted by Brevo, for Example Ltd\n"), "{printed}");
    assert!(printed.contains("  fails    lists.gone: Brevo has no list 16"), "{printed}");
}

#[tokio::test]
async fn an_attribute_that_may_not_be_created_fails() {
    let base = serve(healthy()).await;
    let mut config = config(&base, "property_mapping: { new: NEW }\n");
    config.brevo.as_mut().unwrap().create_attributes = false;
    let findings = all(&config, &vendors()).await;
    assert!(verdicts(&findings).contains(&("property_mapping.new", Verdict::Fails)));
}

#[tokio::test]
async fn refused_credentials_fail_and_end_the_questions() {
    let refuse = |message: &'static str| {
        get(move || async move {
            (StatusCode::UNAUTHORIZED, json!({"code": "unauthorized", "message": message}).to_string())
        })
    };
    let app = Router::new()
        .route("/api/app/me/", refuse("Invalid service account credentials"))
        .route("/v3/account", refuse("We have detected you are using an unrecognised IP address 192.0.2.1"));
    let base = serve(app).await;
    let findings = all(&config(&base, "lists: { all_users: 15 }\n"), &vendors()).await;
    assert_eq!(
        verdicts(&findings),
        [("connectors.mixpanel.service_account", Verdict::Fails), ("connectors.brevo.api_key", Verdict::Fails)]
    );
    assert!(findings[1].said.contains("authorised_ips"));
}

#[tokio::test]
async fn an_oauth_token_stands_in_for_a_service_account() {
    let app = Router::new().route(
        "/api/app/me/",
        get(|headers: axum::http::HeaderMap| async move {
            assert_eq!(headers["authorization"], "Bearer o");
            json!({"results": {"projects": {"12345": {}}}}).to_string()
        }),
    );
    let mut config = config(&serve(app).await, "");
    config.mixpanel.service_account = None;
    config.mixpanel.oauth_token = Some(crate::config::Secret::new("o"));
    let findings = all(&config, &vendors()).await;
    assert_eq!(verdicts(&findings)[0], ("connectors.mixpanel.oauth_token", Verdict::Works));
}

#[tokio::test]
async fn a_project_that_the_account_cannot_see_fails_and_names_those_it_can() {
    let app = Router::new()
        .route("/api/app/me/", get(|| async { json!({"results": {"projects": {"7": {}, "8": {}}}}).to_string() }))
        .route("/v3/account", get(|| async { StatusCode::INTERNAL_SERVER_ERROR }));
    let findings = all(&config(&serve(app).await, ""), &vendors()).await;
    assert_eq!(findings[0].verdict, Verdict::Fails);
    assert!(findings[0].said.ends_with("7, 8"), "{}", findings[0].said);
    assert_eq!(findings[1].verdict, Verdict::Doubtful, "a server error says nothing about the key");
}

#[tokio::test]
async fn a_vendor_that_cannot_be_reached_is_not_tested() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let findings = all(&config(&base, ""), &vendors()).await;
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Doubtful), "{findings:?}");
    assert!(findings[0].said.starts_with("not tested: cannot connect"), "{}", findings[0].said);
}

#[test]
fn notices_are_printed_with_their_place_and_the_block_to_add() {
    let text = "connectors:\n  mixpanel:\n    project_token: your-project-token\nlists: { at_risk: 17, new: 18 }\n";
    let loaded = parse(text, "test.yaml", &|_| None).unwrap();
    let printed = report::configuration("test.yaml", &loaded.notices);
    assert!(printed.starts_with("test.yaml: configuration ok\n"));
    assert!(printed.contains("  warning  connectors.mixpanel.project_token (line 3): still holds"), "{printed}");
    assert!(printed.contains("  note     lists: list at_risk has no cohort"), "{printed}");
    let block = printed.split_once("    cohorts:\n").unwrap().1;
    assert!(block.starts_with("      - { id: 12345, list: at_risk, mode: mirror, schedule: daily }"), "{printed}");
    assert!(block.contains("\n      - { id: 12345, list: new,"), "{printed}");
}
