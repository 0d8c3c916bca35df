use http::{HeaderValue, StatusCode};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::brevo::identifiers::{ContactId, ProcessId};
use crate::brevo::wire::{AttributeList, Process, ProcessStatus};

fn answer(status: u16, body: impl ToString) -> VendorAnswer {
    VendorAnswer::new(StatusCode::from_u16(status).unwrap(), HeaderMap::new(), body.to_string().into())
}

fn refusal(status: u16, code: &str, message: &str) -> Refusal {
    Refusal { status, code: code.to_owned(), message: message.to_owned() }
}

fn error(code: &str, message: &str) -> String {
    json!({"code": code, "message": message}).to_string()
}

#[test]
fn answers_are_judged_for_the_destination() {
    let blocked = error(
        "unauthorized",
        "We have detected you are using an unrecognised IP address 192.0.2.1. If you performed this action make sure to \
         add the new IP address in this link: https://app.brevo.com/security/authorised_ips",
    );
    let not_brevos = "<html>Sign in to the hotel's network</html>";
    for (status, body, expected) in [
        (201, json!({"id": 1}).to_string(), Verdict::Definite),
        (204, String::new(), Verdict::Definite),
        (200, not_brevos.to_owned(), Verdict::Retry),
        (200, error("invalid_parameter", "x"), Verdict::Retry),
        (201, json!({"code": "success", "message": "x"}).to_string(), Verdict::Definite),
        (202, json!({"message": "Batch accepted.", "count": 7}).to_string(), Verdict::Definite),
        (302, String::new(), Verdict::Retry),
        (400, error("invalid_parameter", "x"), Verdict::Definite),
        (401, error("unauthorized", "Key not found"), Verdict::Pause(PauseCause::Credentials)),
        (401, error("unauthorized", "authentication not found in headers"), Verdict::Pause(PauseCause::Credentials)),
        (401, String::new(), Verdict::Pause(PauseCause::Credentials)),
        (401, blocked, Verdict::Pause(PauseCause::UnknownIp)),
        (402, error("not_enough_credits", "x"), Verdict::Pause(PauseCause::Payment)),
        (403, error("permission_denied", "x"), Verdict::Pause(PauseCause::Permission)),
        (403, error("account_under_validation", "x"), Verdict::Pause(PauseCause::Permission)),
        (404, error("document_not_found", "Contact does not exist"), Verdict::Definite),
        (408, String::new(), Verdict::Retry),
        (413, not_brevos.to_owned(), Verdict::Definite),
        (425, error("", "Too Early"), Verdict::Definite),
        (429, error("", "x"), Verdict::RateLimited { after: None }),
        (500, String::new(), Verdict::Retry),
        (502, not_brevos.to_owned(), Verdict::Retry),
        (503, String::new(), Verdict::Retry),
        (522, String::new(), Verdict::Retry),
    ] {
        assert_eq!(judge(&answer(status, &body)), expected, "{status} {body}");
    }
}

fn rate(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect()
}

#[test]
fn a_reset_is_read_in_every_unit_and_never_believed_past_its_window() {
    let date = ("date", "Tue, 24 Nov 2026 18:00:00 GMT");
    let at_six = 1_795_543_200u64; // the same moment
    let soon_seconds = (at_six + 20).to_string();
    let soon_millis = (at_six * 1000 + 20_000).to_string();
    let past = (at_six - 5).to_string();
    for (limit, reset, with_date, expected) in [
        (Some("100"), "1800", false, Some(1800.0)),
        (Some("36000"), "90", false, Some(90.0)),
        (Some("100"), "850000", false, Some(850.0)),
        (Some("10"), "1", false, Some(1.0)),
        (Some("10"), "0", false, Some(0.0)),
        (Some("10"), "850", false, Some(1.0)),
        (Some("10"), "999999999", false, Some(1.0)),
        (None, "30", false, Some(30.0)),
        (None, "1800", false, Some(60.0)),
        (Some("100"), &soon_seconds, true, Some(20.0)),
        (Some("100"), &soon_millis, true, Some(20.0)),
        (Some("100"), &past, true, Some(0.0)),
        (Some("100"), &soon_seconds, false, None),
        (Some("100"), "-3", false, None),
        (Some("100"), "NaN", false, None),
        (Some("100"), "soon", false, None),
    ] {
        let mut headers = rate(&[("x-sib-ratelimit-reset", reset)]);
        headers.extend(limit.into_iter().flat_map(|limit| rate(&[("x-sib-ratelimit-limit", limit)])));
        headers.extend(with_date.then(|| rate(&[date])).into_iter().flatten());
        let found = RateHeaders::read(&headers).reset;
        assert_eq!(found, expected.map(Duration::from_secs_f64), "{limit:?} {reset}");
    }
}

#[test]
fn a_429_carries_the_capped_reset() {
    let mut limited = answer(429, "");
    limited.headers = rate(&[("x-sib-ratelimit-limit", "100"), ("x-sib-ratelimit-reset", "1200")]);
    assert_eq!(judge(&limited), Verdict::RateLimited { after: Some(Duration::from_secs(5)) });
}

#[test]
fn limits_are_learned_from_any_answer_that_has_them() {
    let mut accepted = answer(204, "");
    assert_eq!(meter(&accepted), None);
    accepted.headers = rate(&[("x-sib-ratelimit-limit", "10"), ("x-sib-ratelimit-remaining", "7")]);
    assert_eq!(meter(&accepted), Some(Reading { limit: 10, remaining: Some(7) }));
}

#[test]
fn single_events_are_accepted_or_rejected() {
    assert_eq!(event(&answer(204, "")), EventOutcome::Accepted);
    assert_eq!(event(&answer(202, "{}")), EventOutcome::Accepted);
    let rejected = event(&answer(400, error("invalid_parameter", "event_name is invalid")));
    assert_eq!(rejected, EventOutcome::Rejected(refusal(400, "invalid_parameter", "event_name is invalid")));
    assert_eq!(event(&answer(413, "<html>")), EventOutcome::Rejected(refusal(413, "", "<html>")));
    assert!(matches!(event(&answer(404, "")), EventOutcome::Misrouted(_)));
    assert!(matches!(event(&answer(405, error("method_not_allowed", "x"))), EventOutcome::Misrouted(_)));
}

fn batch_errors(failed: usize, errors: &[(&[usize], &str)]) -> String {
    let errors: Vec<_> =
        errors.iter().map(|(index, message)| json!({"eventIndex": index, "message": message})).collect();
    json!({"status": "partial", "total_events": 3, "successful_events": 3 - failed, "failed_events": failed,
        "errors": errors})
    .to_string()
}

#[test]
fn batches_tell_which_events_were_refused() {
    let accepted = |count: usize| json!({"message": "Batch accepted.", "count": count}).to_string();
    let taken = |rejected: &[(usize, &str)], unnamed| BatchOutcome::Taken {
        rejected: rejected.iter().map(|(index, m)| RejectedEvent { index: *index, message: m.to_string() }).collect(),
        unnamed,
    };
    const GAP: &str = "not among the events that Brevo counted as accepted";
    for (status, body, sent, expected) in [
        (202, accepted(3), 3, taken(&[], 0)),
        (202, accepted(2), 3, taken(&[], 1)),
        (202, accepted(0), 1, taken(&[(0, GAP)], 0)),
        (202, accepted(0), 2, taken(&[(0, GAP), (1, GAP)], 0)),
        (202, accepted(9), 3, taken(&[], 0)),
        (202, String::new(), 3, taken(&[], 0)),
        (207, batch_errors(1, &[(&[1], "bad name")]), 3, taken(&[(1, "bad name")], 0)),
        (207, batch_errors(2, &[(&[2, 0], "bad name")]), 3, taken(&[(0, "bad name"), (2, "bad name")], 0)),
        (207, batch_errors(2, &[(&[1], "a"), (&[1], "b")]), 3, taken(&[(1, "a")], 1)),
        (207, batch_errors(1, &[(&[7], "no such")]), 3, taken(&[], 1)),
        (207, batch_errors(3, &[(&[0], "a")]), 3, taken(&[(0, "a"), (1, GAP), (2, GAP)], 0)),
        (400, batch_errors(3, &[(&[0, 1, 2], "bad")]), 3, taken(&[(0, "bad"), (1, "bad"), (2, "bad")], 0)),
        (400, batch_errors(1, &[(&[0], "bad")]), 1, taken(&[(0, "bad")], 0)),
        (
            400,
            error("invalid_parameter", "too large"),
            3,
            BatchOutcome::Split(refusal(400, "invalid_parameter", "too large")),
        ),
        (400, error("invalid_parameter", "x"), 1, taken(&[(0, "400 invalid_parameter: x")], 0)),
        (413, "<html>".to_owned(), 3, BatchOutcome::Split(refusal(413, "", "<html>"))),
        (413, "<html>".to_owned(), 1, taken(&[(0, "413: <html>")], 0)),
        (422, String::new(), 2, BatchOutcome::Split(refusal(422, "", ""))),
        (404, String::new(), 3, BatchOutcome::Misrouted(refusal(404, "", ""))),
        (410, String::new(), 1, BatchOutcome::Misrouted(refusal(410, "", ""))),
    ] {
        assert_eq!(batch(&answer(status, &body), sent), expected, "{status} {body} of {sent}");
    }
    assert!(matches!(batch(&answer(400, batch_errors(1, &[(&[0], "bad")])), 3), BatchOutcome::Split(_)));
}

#[test]
fn upserts_create_update_or_say_why_not() {
    let conflict = |code: &str, metadata: bool| {
        let mut body = json!({"code": code,
            "message": "Unable to update contact, email is already associated with another Contact"});
        if metadata {
            body["metadata"] = json!({"duplicate_identifiers": ["email", "SMS"]});
        }
        body.to_string()
    };
    use IdentifierKind::{Email, Sms};
    for (status, body, owned) in [
        (400, conflict("duplicate_parameter", true), vec![Email, Sms]),
        (400, conflict("invalid_parameter", true), vec![Email, Sms]),
        (400, conflict("invalid_parameter", false), vec![Email]),
        (400, error("duplicate_parameter", "SMS is already associated with another Contact"), vec![Sms]),
        (400, error("duplicate_parameter", "Contact already exist"), vec![]),
        (400, error("", "Contact already exist"), vec![]),
    ] {
        match upsert(&answer(status, &body)) {
            UpsertOutcome::Conflict { identifiers, .. } => {
                assert_eq!(identifiers.into_iter().collect::<Vec<_>>(), owned, "{body}");
            }
            other => panic!("{body}: {other:?}"),
        }
        assert!(matches!(update(&answer(status, &body)), UpdateOutcome::Conflict { .. }), "{body}");
    }
    let invalid = refusal(400, "invalid_parameter", "Invalid phone number");
    for (status, body, expected) in [
        (201, json!({"id": 42}).to_string(), UpsertOutcome::Created(ContactId(42))),
        (204, String::new(), UpsertOutcome::Updated),
        (425, error("", "Too Early"), UpsertOutcome::TooEarly),
        (400, error("account_in_process", "x"), UpsertOutcome::TooEarly),
        (409, error("duplicate_request", "x"), UpsertOutcome::TooEarly),
        (400, error("invalid_parameter", "Invalid phone number"), UpsertOutcome::Invalid(invalid.clone())),
        (404, String::new(), UpsertOutcome::Misrouted(refusal(404, "", ""))),
    ] {
        assert_eq!(upsert(&answer(status, &body)), expected, "{status} {body}");
    }
    for (status, body, expected) in [
        (204, String::new(), UpdateOutcome::Updated),
        (404, error("document_not_found", "Contact does not exist"), UpdateOutcome::NotFound),
        (425, String::new(), UpdateOutcome::TooEarly),
        (400, error("invalid_parameter", "Invalid phone number"), UpdateOutcome::Invalid(invalid)),
    ] {
        assert_eq!(update(&answer(status, &body)), expected, "{status} {body}");
    }
}

#[test]
fn a_contact_is_read_or_absent() {
    let body = json!({"email": "a@b.co", "id": 7, "emailBlacklisted": true, "smsBlacklisted": false,
        "createdAt": "2024-01-01T00:00:00.000+01:00", "listIds": [15], "attributes": {"LTV": 1000, "EXT_ID": "u"},
        "statistics": {}});
    let found = contact(&answer(200, &body)).unwrap().unwrap();
    assert_eq!(found.id, ContactId(7));
    assert!(found.email_blacklisted);
    assert_eq!(found.attributes["LTV"], 1000);
    assert!(contact(&answer(404, error("document_not_found", "x"))).unwrap().is_none());
    assert!(matches!(contact(&answer(400, error("invalid_parameter", "x"))), Err(ReadError::Refused(_))));
    assert!(matches!(contact(&answer(200, "{}")), Err(ReadError::Unreadable(_))));
}

#[test]
fn list_changes_that_change_nobody_are_no_errors() {
    let change = |success: usize, failure: usize| {
        let emails = |n: usize| (0..n).map(|i| format!("a{i}@b.co")).collect::<Vec<_>>();
        json!({"success": emails(success), "failure": emails(failure)})
    };
    let added = "Contact already in list and/or does not exist";
    let removed = "Contact already removed from list and/or does not exist";
    let invalid = refusal(400, "invalid_parameter", "emails is not valid");
    for (status, body, expected) in [
        (
            201,
            json!({"contacts": change(2, 1)}).to_string(),
            ListOutcome::Changed { changed: 2, unchanged: vec!["a0@b.co".to_owned()] },
        ),
        (201, change(1, 0).to_string(), ListOutcome::Changed { changed: 1, unchanged: vec![] }),
        (
            201,
            json!({"contacts": {"success": [1], "failure": [2]}}).to_string(),
            ListOutcome::Changed { changed: 1, unchanged: vec!["2".to_owned()] },
        ),
        (201, json!({"contacts": change(0, 3)}).to_string(), ListOutcome::NothingChanged),
        (200, "{}".to_owned(), ListOutcome::Unsaid),
        (201, json!({"contacts": {}}).to_string(), ListOutcome::Unsaid),
        (201, json!({"contacts": {"processId": 78, "total": 27}}).to_string(), ListOutcome::Unsaid),
        (400, error("invalid_parameter", added), ListOutcome::NothingChanged),
        (400, error("invalid_parameter", removed), ListOutcome::NothingChanged),
        (400, error("invalid_parameter", "emails is not valid"), ListOutcome::Invalid(invalid)),
        (404, error("document_not_found", "List ID does not exist"), ListOutcome::UnknownList),
    ] {
        assert_eq!(list_change(&answer(status, &body)), expected, "{status} {body}");
    }
}

#[test]
fn attributes_are_created_or_read_again() {
    assert_eq!(attribute_created(&answer(201, "")), AttributeOutcome::Created);
    for code in ["invalid_parameter", "duplicate_parameter"] {
        let body = error(code, "Attribute name must be unique");
        assert!(matches!(attribute_created(&answer(400, body)), AttributeOutcome::ReadAgain(_)));
    }
}

#[test]
fn imports_start_split_or_fail() {
    let started = json!({"processId": 78}).to_string();
    assert_eq!(import(&answer(202, started)), ImportOutcome::Started(ProcessId(78)));
    assert_eq!(import(&answer(413, "")), ImportOutcome::TooLarge);
    assert!(matches!(import(&answer(400, error("missing_parameter", "x"))), ImportOutcome::Refused(_)));
    let process: Process = read(&answer(200, json!({"id": 78, "name": "IMPORTUSER", "status": "queued"}))).unwrap();
    assert_eq!(process.status, ProcessStatus::Queued);
    let process: Process = read(&answer(200, json!({"id": 78, "status": "paused by somebody"}))).unwrap();
    assert_eq!(process.status, ProcessStatus::Unknown);
    let missing = read::<Process>(&answer(404, error("invalid_parameter", "processId is invalid")));
    assert!(matches!(missing, Err(ReadError::NotFound(_))));
}

#[test]
fn reads_say_what_went_wrong() {
    assert!(read::<AttributeList>(&answer(200, json!({"attributes": []}))).unwrap().attributes.is_empty());
    let refused = read::<AttributeList>(&answer(400, error("bad_request", "no"))).unwrap_err();
    assert_eq!(refused.to_string(), "Brevo refused to answer: 400 bad_request: no");
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let long = "é".repeat(Refusal::MAX_MESSAGE + 10);
    let EventOutcome::Rejected(refusal) = event(&answer(400, error("x", &long))) else { panic!("accepted") };
    assert_eq!(refusal.message.chars().count(), Refusal::MAX_MESSAGE);
}

proptest! {
    #[test]
    fn no_answer_is_unexpected(status in 200u16..600, body in ".{0,60}", sent in 1usize..5) {
        let answer = answer(status, &body);
        judge(&answer);
        let _ = (event(&answer), upsert(&answer), update(&answer), list_change(&answer), import(&answer));
        if let BatchOutcome::Taken { rejected, unnamed } = batch(&answer, sent) {
            prop_assert!(rejected.len() + unnamed <= sent);
            prop_assert!(rejected.iter().all(|event| event.index < sent));
        }
    }

    #[test]
    fn a_reset_is_bounded(limit in proptest::option::of(any::<u32>()), reset in ".{0,20}|[0-9]{1,18}") {
        let Ok(value) = HeaderValue::from_str(&reset) else { return Ok(()) };
        let mut headers = HeaderMap::new();
        headers.insert("x-sib-ratelimit-reset", value);
        if let Some(limit) = limit {
            headers.insert("x-sib-ratelimit-limit", limit.into());
        }
        prop_assert!(RateHeaders::read(&headers).reset.is_none_or(|reset| reset <= HOUR));
    }
}
