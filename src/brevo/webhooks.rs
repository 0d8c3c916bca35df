//! Having Brevo push: the webhooks that an account has, and those that the relay wants (contract §8.1).

use serde::{Deserialize, Serialize};

/// The two kinds that tell of emails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookType {
    Transactional,
    Marketing,
}

impl WebhookType {
    pub const ALL: [WebhookType; 2] = [WebhookType::Transactional, WebhookType::Marketing];

    pub fn label(self) -> &'static str {
        match self {
            WebhookType::Transactional => "transactional",
            WebhookType::Marketing => "marketing",
        }
    }

    /// What to subscribe to, by the names of subscribing. `request` is `sent` once more and `uniqueOpened` the first
    /// `opened`; `contactUpdated` would tell the relay of its own writes.
    pub fn events(self) -> &'static [&'static str] {
        match self {
            WebhookType::Transactional => &[
                "sent",
                "delivered",
                "hardBounce",
                "softBounce",
                "blocked",
                "spam",
                "invalid",
                "deferred",
                "click",
                "opened",
                "unsubscribed",
            ],
            WebhookType::Marketing => {
                &["delivered", "opened", "click", "hardBounce", "softBounce", "spam", "unsubscribed", "listAddition"]
            }
        }
    }
}

/// How the relay's own webhooks are known again when its address has changed.
pub const DESCRIPTION: &str = "Mixrelay";

/// `POST /webhooks` and `PUT /webhooks/{id}`; an update leaves the kind as it is.
#[derive(Debug, Serialize)]
pub struct WantedWebhook<'a> {
    pub url: &'a str,
    pub description: &'a str,
    pub events: &'a [&'a str],
    pub auth: Auth<'a>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<WebhookType>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<&'a str>,
}

#[derive(Debug, Serialize)]
pub struct Auth<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    token: &'a str,
}

impl<'a> Auth<'a> {
    pub fn bearer(token: &'a str) -> Self {
        Self { kind: "bearer", token }
    }
}

impl<'a> WantedWebhook<'a> {
    /// For a webhook that is there.
    pub fn update(kind: WebhookType, url: &'a str, token: &'a str) -> Self {
        let (events, auth) = (kind.events(), Auth::bearer(token));
        Self { url, description: DESCRIPTION, events, auth, kind: None, channel: None }
    }

    pub fn create(kind: WebhookType, url: &'a str, token: &'a str) -> Self {
        Self { kind: Some(kind), channel: Some("email"), ..Self::update(kind, url, token) }
    }
}

/// One of `GET /webhooks`.
#[derive(Clone, Debug, Deserialize)]
pub struct KnownWebhook {
    pub id: u64,
    #[serde(default)]
    pub url: String,
    #[serde(default)]
    pub description: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct WebhookList {
    #[serde(default)]
    pub webhooks: Vec<KnownWebhook>,
}

impl WebhookList {
    /// The one to change: at this very address, else the relay's own at another. A second one beside it would push
    /// everything twice.
    pub fn ours(&self, url: &str) -> Option<&KnownWebhook> {
        let bare = |url: &str| url.trim_end_matches('/').to_owned();
        let here = self.webhooks.iter().find(|webhook| bare(&webhook.url) == bare(url));
        here.or_else(|| self.webhooks.iter().find(|webhook| webhook.description.as_deref() == Some(DESCRIPTION)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_webhook_to_change_is_the_one_at_the_address_or_else_the_relays_own() {
        let list: WebhookList = serde_json::from_value(json!({"webhooks": [
            {"id": 1, "url": "https://other.example/hook", "description": null},
            {"id": 2, "url": "https://old.example/webhooks/brevo", "description": "Mixrelay"},
            {"id": 3, "url": "https://relay.example/webhooks/brevo/", "description": "by hand"},
        ]}))
        .unwrap();
        assert_eq!(list.ours("https://relay.example/webhooks/brevo").unwrap().id, 3);
        assert_eq!(list.ours("https://new.example/webhooks/brevo").unwrap().id, 2);
        assert!(WebhookList::default().ours("https://new.example/webhooks/brevo").is_none());
    }

    #[test]
    fn a_webhook_is_created_with_its_kind_and_updated_without() {
        let created = WantedWebhook::create(WebhookType::Marketing, "https://r.example/webhooks/brevo", "t");
        assert_eq!(
            serde_json::to_value(created).unwrap(),
            json!({"url": "https://r.example/webhooks/brevo", "description": "Mixrelay", "type": "marketing",
                "channel": "email", "events": WebhookType::Marketing.events(), "auth": {"type": "bearer", "token": "t"}})
        );
        let updated = WantedWebhook::update(WebhookType::Marketing, "https://r.example/webhooks/brevo", "t");
        assert!(serde_json::to_value(updated).unwrap().get("type").is_none());
    }
}
