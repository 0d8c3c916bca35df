//! Does Mixpanel know the service account or OAuth token, and does that see the project? (contract §11, `GET /api/app/me/`)

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::Value;

use super::live::{Finding, Vendors};
use crate::config::{Config, ServiceAccount};
use crate::vendor::Family;

const SERVICE_ACCOUNT: &str = "connectors.mixpanel.service_account";
const OAUTH_TOKEN: &str = "connectors.mixpanel.oauth_token";

const NO_CREDENTIALS: &str = "none, and no oauth_token: events go out through /track, which takes nothing older than \
                              5 days and does not say what it refused";

pub(super) async fn check(config: &Config, vendors: &Vendors) -> Vec<Finding> {
    let mixpanel = &config.mixpanel;
    if !mixpanel.enabled {
        return vec![Finding::doubtful("connectors.mixpanel.enabled", "false: nothing is delivered to Mixpanel")];
    }
    let (subject, credentials) = match (&mixpanel.service_account, &mixpanel.oauth_token) {
        (Some(account), _) => (SERVICE_ACCOUNT, basic(account)),
        (None, Some(token)) => (OAUTH_TOKEN, format!("Bearer {}", token.expose())),
        (None, None) => return vec![Finding::doubtful(SERVICE_ACCOUNT, NO_CREDENTIALS)],
    };
    let Some(headers) = authorization(&credentials) else {
        return vec![Finding::fails(subject, "holds characters that a header cannot carry")];
    };
    let project = mixpanel.project_id.as_deref().unwrap_or_default();
    let answer = vendors.get(&mixpanel.endpoints.app, "/api/app/me/", None, headers, Family::MixpanelApp).await;
    vec![match answer {
        Err(error) => Finding::doubtful(subject, format!("not tested: {error}")),
        Ok((StatusCode::OK, body)) => project_of(subject, &body, project),
        Ok((StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _)) => Finding::fails(
            subject,
            "Mixpanel refuses it; check the name, the secret and data_residency (each region knows only its own)",
        ),
        Ok((status, _)) => Finding::doubtful(subject, format!("not tested: Mixpanel answered {status}")),
    }]
}

fn basic(account: &ServiceAccount) -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{}", account.username, account.secret.expose())))
}

fn authorization(credentials: &str) -> Option<HeaderMap> {
    let mut value = HeaderValue::from_str(credentials).ok()?;
    value.set_sensitive(true);
    Some(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}

/// `results.projects` has a key for every project that the account may use.
fn project_of(subject: &str, body: &Value, project: &str) -> Finding {
    let Some(projects) = body["results"]["projects"].as_object() else {
        return Finding::doubtful(subject, "Mixpanel accepts it, and did not say for which projects");
    };
    if projects.contains_key(project) {
        return Finding::works(subject, format!("may use project {project}"));
    }
    let others: Vec<&str> = projects.keys().take(10).map(String::as_str).collect();
    let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    Finding::fails(subject, format!("may not use project_id {project}; the projects it may use: {others}"))
}
