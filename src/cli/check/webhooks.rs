//! `check --register-webhooks URL`: has Brevo push to the relay, once for transactional and once for marketing emails.
//! Run again it changes what is there, so that one call is right after every change of address or token.

use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use serde_json::Value;
use url::Url;

use super::brevo::{self, key_header};
use super::live::{Finding, NoAnswer, Question, Vendors};
use crate::brevo::webhooks::{WantedWebhook, WebhookList, WebhookType};
use crate::config::{Brevo, Config, is_private};
use crate::vendor::Family;

const PATH: &str = "/webhooks/brevo";

/// Reads the relay's address as the vendors are to call it.
pub(super) fn public_url(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text.trim()).map_err(|error| format!("{error}: write https://relay.example.com"))?;
    match is_private(&url) {
        Some(true) => {}
        Some(false) => return Err("the token must not travel in the clear: write https://".to_owned()),
        None => return Err("neither https nor http: write https://relay.example.com".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("only the address: write https://relay.example.com".to_owned());
    }
    let base = url.path().trim_end_matches('/');
    let path = if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") };
    url.set_path(&path);
    Ok(url)
}

/// Creates or changes both webhooks.
pub(super) async fn register(config: &Config, vendors: &Vendors, url: &Url) -> Vec<Finding> {
    let subject = "webhooks.brevo";
    let (Some(brevo), Some(token)) = (&config.brevo, &config.webhooks.brevo) else {
        let missing = if config.brevo.is_none() { "connectors.brevo.api_key" } else { "webhooks.brevo.token" };
        return vec![Finding::fails(subject, format!("not registered: {missing} is not set"))];
    };
    let mut findings = Vec::new();
    for kind in WebhookType::ALL {
        let subject = format!("{subject} ({})", kind.label());
        findings.push(match one(brevo, vendors, kind, url.as_str(), token.expose()).await {
            Ok(said) => Finding::works(subject, said),
            Err(error) => Finding::fails(subject, format!("not registered: {error}")),
        });
    }
    findings
}

#[derive(Debug, thiserror::Error)]
enum NotRegistered {
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    #[error("Brevo answered {0}{1}")]
    Refused(StatusCode, String),
    #[error("{0}")]
    Unauthorized(String),
    #[error("connectors.brevo.api_key holds characters that a header cannot carry")]
    Key,
}

async fn one(
    brevo: &Brevo,
    vendors: &Vendors,
    kind: WebhookType,
    url: &str,
    token: &str,
) -> Result<String, NotRegistered> {
    let headers = key_header(brevo).ok_or(NotRegistered::Key)?;
    let ask = async |method: Method, id: Option<u64>, query: Option<&str>, wanted: Option<WantedWebhook<'_>>| {
        let mut headers = headers.clone();
        let body = wanted.and_then(|wanted| serde_json::to_vec(&wanted).ok()).unwrap_or_default();
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let question = Question { method, path: "/webhooks", id, query, headers, body, family: Family::BrevoOther };
        vendors.ask(&brevo.base_url, question).await
    };
    let query = format!("type={}", kind.label());
    let known = match ask(Method::GET, None, Some(&query), None).await? {
        (StatusCode::OK, body) => serde_json::from_value::<WebhookList>(body).unwrap_or_default(),
        // An account without one answers so.
        (StatusCode::NOT_FOUND, _) => WebhookList::default(),
        refused => return Err(refusal(refused)),
    };
    match known.ours(url).map(|webhook| webhook.id) {
        Some(id) => match ask(Method::PUT, Some(id), None, Some(WantedWebhook::update(kind, url, token))).await? {
            (status, _) if status.is_success() => Ok(format!("webhook {id} pushes to {url}")),
            refused => Err(refusal(refused)),
        },
        None => match ask(Method::POST, None, None, Some(WantedWebhook::create(kind, url, token))).await? {
            (status, body) if status.is_success() => Ok(format!("webhook {} made, pushes to {url}", body["id"])),
            refused => Err(refusal(refused)),
        },
    }
}

fn refusal((status, body): (StatusCode, Value)) -> NotRegistered {
    if status == StatusCode::UNAUTHORIZED {
        return NotRegistered::Unauthorized(brevo::refusal(&body));
    }
    let message = body["message"].as_str().map(|message| format!(": {message}")).unwrap_or_default();
    NotRegistered::Refused(status, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refused_key_is_told_as_check_tells_it() {
        let message = json!({ "message": "We have detected you are using an unrecognised IP address 192.0.2.1" });
        let told = |status, body: &Value| refusal((status, body.clone())).to_string();
        assert!(told(StatusCode::UNAUTHORIZED, &message).contains("authorised_ips"));
        assert!(told(StatusCode::UNAUTHORIZED, &json!({})).contains("make a new key"));
        assert_eq!(told(StatusCode::BAD_REQUEST, &json!({ "message": "no" })), "Brevo answered 400 Bad Request: no");
    }

    #[test]
    fn the_address_is_https_and_ends_in_the_route() {
        for (text, expected) in [
            ("https://relay.example.com", "https://relay.example.com/webhooks/brevo"),
            ("https://relay.example.com/", "https://relay.example.com/webhooks/brevo"),
            ("https://example.com/relay/", "https://example.com/relay/webhooks/brevo"),
            ("https://relay.example.com/webhooks/brevo/", "https://relay.example.com/webhooks/brevo"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080/webhooks/brevo"),
        ] {
            assert_eq!(public_url(text).unwrap().as_str(), expected);
        }
        for text in [
            "relay.example.com",
            "http://relay.example.com",
            "ftp://localhost",
            "https://u:p@relay.example.com",
            "https://r/?a=b",
        ] {
            assert!(public_url(text).is_err(), "{text}");
        }
    }
}
