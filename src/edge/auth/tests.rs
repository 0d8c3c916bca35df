use std::time::Duration;

use http::HeaderValue;

use super::*;
use crate::clock::UnixMillis;
use crate::edge::service::tests::{CONFIG, config};

const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const TIMESTAMP: &str = "1614265330";
const BODY: &[u8] = br#"{"test": 2432232314}"#;
/// The Standard Webhooks specification's own example; its secret is the first of the test configuration.
const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const AT: UnixMillis = UnixMillis(1_614_265_330_000);

fn keys() -> Keys {
    Keys::new(&config(CONFIG))
}

fn verify(signature: &str, body: &[u8], keys: &Keys, now: UnixMillis) -> Result<Reservation, SignatureError> {
    let mut headers = HeaderMap::new();
    for (name, value) in [("webhook-id", ID), ("webhook-timestamp", TIMESTAMP), ("webhook-signature", signature)] {
        headers.insert(name, HeaderValue::from_str(value).unwrap());
    }
    let Claim::Signed(signed) = keys.claim(&headers) else { panic!("not taken for a signature") };
    let mut verifier = keys.verifier(signed);
    for piece in body.chunks(7) {
        verifier.update(piece);
    }
    verifier.finish(now)
}

#[test]
fn the_specifications_vector_verifies() {
    assert!(verify(SIGNATURE, BODY, &keys(), AT).is_ok());
}

#[test]
fn rotation_lists_several_signatures_and_one_is_enough() {
    let several = format!("v1,AAAA v1a,{} {SIGNATURE}", "x".repeat(20));
    assert!(verify(&several, BODY, &keys(), AT).is_ok());
}

#[test]
fn anything_else_is_refused() {
    let keys = keys();
    let refusal = |signature: &str, body: &[u8], now| verify(signature, body, &keys, now).err();
    assert_eq!(refusal(SIGNATURE, b"{}", AT), Some(SignatureError::Mismatch));
    assert_eq!(refusal("v1,AAAA", BODY, AT), Some(SignatureError::Mismatch));
    assert_eq!(refusal("", BODY, AT), Some(SignatureError::Mismatch));
    let tolerance = Duration::from_secs(300);
    for off in [AT + tolerance + Duration::from_millis(1), AT - tolerance - Duration::from_millis(1)] {
        assert_eq!(refusal(SIGNATURE, BODY, off), Some(SignatureError::Expired));
    }
    assert_eq!(refusal(SIGNATURE, BODY, AT + tolerance), None);
}

#[test]
fn an_id_is_used_once_unless_its_request_was_not_stored() {
    let keys = keys();
    // Not stored: given back, because the sender comes again with the same id.
    drop(verify(SIGNATURE, BODY, &keys, AT).unwrap());
    let under_way = verify(SIGNATURE, BODY, &keys, AT).unwrap();
    assert_eq!(verify(SIGNATURE, BODY, &keys, AT).err(), Some(SignatureError::Replayed));
    under_way.keep();
    assert_eq!(verify(SIGNATURE, BODY, &keys, AT).err(), Some(SignatureError::Replayed));
}

/// Whichever route it was used on.
#[test]
fn an_id_that_one_part_of_the_relay_has_seen_is_used_in_every_other() {
    let keys = keys();
    verify(SIGNATURE, BODY, &keys, AT).unwrap().keep();
    assert_eq!(verify(SIGNATURE, BODY, &keys.clone(), AT).err(), Some(SignatureError::Replayed));
}

#[test]
fn basic_and_bearer_claims() {
    let keys = keys();
    let claim = |value: &str| {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        match keys.claim(&headers) {
            Claim::Proven(identity) => Some(identity),
            _ => None,
        }
    };
    let basic = |text: &str| format!("Basic {}", BASE64.encode(text));
    assert_eq!(claim(&basic("sa:sa-secret")), Some(Identity::ServiceAccount));
    assert_eq!(claim("Basic sa:sa-secret"), Some(Identity::ServiceAccount));
    assert_eq!(claim("basic c2E6c2Etc2VjcmV0"), Some(Identity::ServiceAccount));
    assert_eq!(claim(&basic("key-1:")), Some(Identity::ApiKey));
    assert_eq!(claim(&basic("key-2")), Some(Identity::ApiKey));
    assert_eq!(claim("Bearer key-2"), Some(Identity::ApiKey));
    let token = |project, token: &str| Identity::ProjectToken { project, token: token.to_owned() };
    assert_eq!(claim(&basic("tok:")), Some(token(Project::Ours, "tok")));
    assert_eq!(claim(&basic("other:")), Some(token(Project::Foreign, "other")));
    for wrong in ["Bearer tok", "Bearer", "Digest x", &basic("sa:"), &basic("tok:x"), &basic("key-1:x")] {
        assert_eq!(claim(wrong), None, "{wrong}");
    }
}
