//! Sending: one POST per webhook, signed by Standard Webhooks. The same id on every try, so that a receiver that has it
//! already can say so.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::header::CONTENT_TYPE;
use serde::Serialize;
use sha2::Sha256;

use super::Alert;
use crate::clock::UnixMillis;
use crate::config::{AlertWebhook, SigningSecret};

/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// As Standard Webhooks recommends: what happened, when, and about what.
#[derive(Serialize)]
struct Payload<'a> {
    #[serde(rename = "type")]
    kind: String,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    cause: &'static str,
    /// A destination, or a vendor's limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'static str>,
    text: &'a str,
}

/// A message under way.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub id: String,
    pub body: Vec<u8>,
}

impl Message {
    /// `None` when the system gives no randomness, or an alert cannot be written: neither happens.
    pub fn new(alert: &Alert, now: UnixMillis) -> Option<Self> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).ok()?;
        let id = format!("msg_{}", random.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let payload = Payload {
            kind: format!("mixrelay.{}", alert.cause.label()),
            timestamp: now.to_string(),
            data: Data { cause: alert.cause.label(), subject: alert.cause.subject(), text: &alert.text },
        };
        Some(Self { id, body: serde_json::to_vec(&payload).ok()? })
    }
}

/// `v1,<base64 HMAC-SHA256 of id.timestamp.body>`.
fn signature(secret: &SigningSecret, id: &str, timestamp: u64, body: &[u8]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).ok()?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    Some(format!("v1,{}", BASE64.encode(mac.finalize().into_bytes())))
}

/// Whether the receiver took it. What it answers besides is of no interest, and not read.
pub(super) async fn send(client: &reqwest::Client, to: &AlertWebhook, message: &Message, now: UnixMillis) -> bool {
    let seconds = now.0 / 1000;
    let Some(signature) = signature(&to.secret, &message.id, seconds, &message.body) else { return false };
    let request = client
        .post(to.url.clone())
        .timeout(PATIENCE)
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", &message.id)
        .header("webhook-timestamp", seconds)
        .header("webhook-signature", signature)
        .body(message.body.clone());
    match request.send().await {
        Ok(answer) if answer.status().is_success() => true,
        Ok(answer) => {
            tracing::warn!(host = to.url.host_str(), status = answer.status().as_u16(), "an alert was not taken");
            false
        }
        Err(error) => {
            let error = error.without_url();
            tracing::warn!(host = to.url.host_str(), %error, "an alert was not taken");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::Cause;

    /// The example of the specification.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let secret = SigningSecret(BASE64.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body).unwrap();
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_message_names_its_cause_and_no_secret() {
        let alert = Alert { cause: Cause::Behind(crate::record::Destination::Brevo), text: "late".to_owned() };
        let message = Message::new(&alert, UnixMillis(1_700_000_000_000)).unwrap();
        let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(body["type"], "mixrelay.behind");
        assert_eq!(body["data"]["subject"], "brevo");
        assert!(message.id.starts_with("msg_") && !message.id.contains('.'));
    }
}
