//! Who is let in: a Standard Webhooks signature is good when, and only when, its sender holds a secret, and any other
//! credentials only when they are configured ones.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

use super::first_line;
use crate::clock::UnixMillis;
use crate::edge::auth::{Claim, Keys, Reservation, SignatureError};

/// The secrets that the configuration below holds, decoded.
const SECRETS: [&[u8]; 2] = [&[0x31; 24], &[0x32; 24]];
const NOW: UnixMillis = UnixMillis(1_614_265_330_000);

/// Three lines: id, timestamp, the header with the signatures. The rest is the body.
pub fn signatures(data: &[u8]) {
    let (id, rest) = first_line(data);
    let (timestamp, rest) = first_line(rest);
    let (list, body) = first_line(rest);
    let values = [id, timestamp, list].map(HeaderValue::from_bytes);
    let [Ok(id), Ok(timestamp), Ok(list)] = values else { return };
    let keys = keys();
    only_configured_credentials(&keys, &list);

    // As it came: good if one of the listed signatures is what one of the secrets makes of it.
    let headers = |id: &HeaderValue, timestamp: &HeaderValue, list: &HeaderValue| {
        let named = [("webhook-id", id), ("webhook-timestamp", timestamp), ("webhook-signature", list)];
        HeaderMap::from_iter(named.map(|(name, value)| (HeaderName::from_static(name), value.clone())))
    };
    let good = SECRETS.map(|secret| signed(secret, &id, &timestamp, body));
    let listed = list.to_str().is_ok_and(|list| {
        list.split_ascii_whitespace().any(|entry| {
            let bytes = entry.strip_prefix("v1,").and_then(|text| BASE64.decode(text).ok());
            bytes.is_some_and(|bytes| good.contains(&bytes))
        })
    });
    let verified = verify(&keys, &headers(&id, &timestamp, &list), body, 7);
    assert!(verified.is_err() || listed, "a signature that nobody made");
    drop(verified);

    // Signed by somebody who holds a secret: good once, whatever the pieces; and not for anything else.
    let readable = |value: &HeaderValue| value.to_str().is_ok();
    if id.is_empty() || id.len() > 256 || !readable(&id) {
        return;
    }
    let now = HeaderValue::from(NOW.0 / 1000);
    for secret in SECRETS {
        let signature = format!("v1,{}", BASE64.encode(signed(secret, &id, &now, body)));
        let signature = HeaderValue::from_str(&signature).expect("base64");
        let headers = headers(&id, &now, &signature);
        let mut other = body.to_vec();
        other.push(0);
        assert_eq!(verify(&keys, &headers, &other, 100).err(), Some(SignatureError::Mismatch));
        let first = verify(&keys, &headers, body, 1).expect("a good signature");
        assert_eq!(verify(&keys, &headers, body, 64).err(), Some(SignatureError::Replayed));
        drop(first);
    }
}

fn only_configured_credentials(keys: &Keys, value: &HeaderValue) {
    let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, value.clone())]);
    if let Claim::Proven(identity) = keys.claim(&headers) {
        let text = value.to_str().expect("what was understood is text");
        let (_, credentials) = text.split_once(' ').expect("a scheme and credentials");
        let credentials = credentials.trim();
        let decoded =
            BASE64.decode(credentials).or_else(|_| base64::engine::general_purpose::URL_SAFE.decode(credentials));
        let decoded = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
        let known = ["sa:sa-secret", "key-1", "key-1:", "tok", "tok:"];
        assert!(known.contains(&credentials) || known.contains(&decoded.as_str()), "{identity:?} by {text}");
    }
}

fn signed(secret: &[u8], id: &HeaderValue, timestamp: &HeaderValue, body: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length");
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

fn verify(keys: &Keys, headers: &HeaderMap, body: &[u8], size: usize) -> Result<Reservation, SignatureError> {
    let Claim::Signed(signed) = keys.claim(headers) else { return Err(SignatureError::Malformed) };
    let mut verifier = keys.verifier(signed);
    body.chunks(size).for_each(|piece| verifier.update(piece));
    verifier.finish(NOW)
}

/// Fresh ones each time: ids that were used are remembered.
fn keys() -> Keys {
    let secrets = SECRETS.map(|secret| format!("whsec_{}", BASE64.encode(secret)));
    let text = format!(
        "connectors: {{ mixpanel: {{ project_token: tok, project_id: \"1\", \
         service_account: {{ username: sa, secret: sa-secret }} }} }}\n\
         auth: {{ api_keys: [key-1], signing_secrets: {secrets:?} }}\n"
    );
    Keys::new(&crate::config::parse(&text, "fuzz", &|_| None).unwrap_or_else(|errors| panic!("{errors}")).config)
}
