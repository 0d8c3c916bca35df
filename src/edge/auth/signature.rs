//! Standard Webhooks signatures: `webhook-signature: v1,<base64 HMAC-SHA256 of id.timestamp.body>`.
//!
//! The body is fed as it arrives, compressed as it was sent, so that nothing has to be kept for it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderMap;
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};

use super::replay::{ReplayGuard, Reservation};
use crate::clock::UnixMillis;
use crate::config::SigningSecret;

/// How far a signature's timestamp may lie from the present, either way.
pub const TOLERANCE: Duration = Duration::from_secs(300);
/// Signatures in one header that are looked at: a sender lists one for each of its keys.
const MAX_SIGNATURES: usize = 8;
/// Longest `webhook-id`.
const MAX_ID: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the signature headers are malformed")]
    Malformed,
    #[error("the signature's timestamp is more than five minutes from now")]
    Expired,
    #[error("the signature does not match")]
    Mismatch,
    #[error("this webhook-id was used before")]
    Replayed,
    #[error("too many signed requests at once")]
    TooMany,
}

/// The signature headers of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    id: String,
    timestamp: String,
    signatures: Vec<Vec<u8>>,
}

impl Signed {
    /// `None` when the request carries no signature header at all. Headers that cannot be read leave a signature that
    /// matches nothing.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let list = text("webhook-signature")?;
        let signatures = list
            .split_ascii_whitespace()
            .filter_map(|entry| BASE64.decode(entry.strip_prefix("v1,")?).ok())
            .take(MAX_SIGNATURES)
            .collect();
        let id = text("webhook-id").unwrap_or_default().to_owned();
        let timestamp = text("webhook-timestamp").unwrap_or_default().to_owned();
        Some(Self { id, timestamp, signatures })
    }

    fn check_headers(&self, now: UnixMillis) -> Result<(), SignatureError> {
        if self.id.is_empty() || self.id.len() > MAX_ID {
            return Err(SignatureError::Malformed);
        }
        let seconds: u64 = self.timestamp.parse().map_err(|_| SignatureError::Malformed)?;
        let at = UnixMillis(seconds.saturating_mul(1000));
        if now.since(at) > TOLERANCE || at.since(now) > TOLERANCE {
            return Err(SignatureError::Expired);
        }
        Ok(())
    }
}

/// A signature being verified.
pub struct Verifier {
    signed: Signed,
    /// One for each configured secret (rotation).
    macs: Vec<Hmac<Sha256>>,
    used: ReplayGuard,
}

impl Verifier {
    pub(super) fn new(signed: Signed, secrets: &[SigningSecret], used: ReplayGuard) -> Self {
        let prefix = format!("{}.{}.", signed.id, signed.timestamp);
        let macs = secrets
            .iter()
            .filter_map(|secret| Hmac::<Sha256>::new_from_slice(&secret.0).ok())
            .map(|mut mac| {
                mac.update(prefix.as_bytes());
                mac
            })
            .collect();
        Self { signed, macs, used }
    }

    pub fn update(&mut self, body: &[u8]) {
        for mac in &mut self.macs {
            mac.update(body);
        }
    }

    /// Checks the signature and takes the request's id, which stays taken if the [`Reservation`] is kept.
    pub fn finish(self, now: UnixMillis) -> Result<Reservation, SignatureError> {
        self.signed.check_headers(now)?;
        let mut found = Choice::from(0);
        for mac in self.macs {
            let expected = mac.finalize().into_bytes();
            for signature in &self.signed.signatures {
                found |= expected.as_slice().ct_eq(signature);
            }
        }
        if !bool::from(found) {
            return Err(SignatureError::Mismatch);
        }
        self.used.reserve(&self.signed.id, now)
    }
}
