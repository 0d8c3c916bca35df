//! What vendors answer: whatever it is, it is judged without a panic, and never speaks of records that were not sent, of
//! waits without an end, or of a success that is none.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::first_line;
use crate::brevo::outcome as brevo;
use crate::mixpanel::answers::{self as mixpanel, Outcome};
use crate::mixpanel::calls::Call;
use crate::mixpanel::reports::Rows;
use crate::mixpanel::{app, cohorts, counts, heads, keys, profiles, quota, reports};
use crate::record::Kind;
use crate::vendor::{VendorAnswer, Verdict};

/// No hint of a vendor's holds a destination back for longer.
const MAX_HOLD: Duration = Duration::from_secs(600);
const SENT: usize = 3;

/// Lines of a head (`200`, then `name: value`), an empty one, then the body: an answer as it stands in a capture.
pub fn answers(data: &[u8]) {
    let (status, mut rest) = first_line(data);
    let Some(status) = std::str::from_utf8(status).ok().and_then(|text| text.trim().parse::<u16>().ok()) else {
        return;
    };
    let Ok(status) = StatusCode::from_u16(status) else { return };
    let mut headers = HeaderMap::new();
    loop {
        let (line, behind) = first_line(rest);
        rest = behind;
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let answer = VendorAnswer::new(status, headers, Bytes::copy_from_slice(rest));
    of_mixpanel(&answer);
    of_brevo(&answer);
    drop(heads::of_event(rest));
    for kind in Kind::ALL {
        drop(keys::people(kind, rest));
    }
}

fn bounded(verdict: Verdict, status: StatusCode) {
    if let Verdict::RateLimited { after } = verdict {
        assert!(status == StatusCode::TOO_MANY_REQUESTS && after.is_none_or(|after| after <= MAX_HOLD), "{after:?}");
    }
    let definite = verdict == Verdict::Definite;
    assert!(!definite || status.is_success() || status.is_client_error(), "{status} is taken for an answer");
}

fn of_mixpanel(answer: &VendorAnswer) {
    bounded(mixpanel::judge(answer), answer.status);
    if mixpanel::judge(answer) == Verdict::Definite {
        for call in
            [Call::Import, Call::Merge, Call::Track, Call::Identity, Call::Engage, Call::EngageAdditive, Call::Groups]
        {
            match mixpanel::outcome(call, SENT, answer) {
                Outcome::Delivered => assert_eq!(answer.status, StatusCode::OK),
                Outcome::Failed(failed) => {
                    assert!(!failed.is_empty() && failed.is_sorted_by(|a, b| a.0 < b.0), "{failed:?}");
                    assert!(failed.iter().all(|(index, _)| *index < SENT), "{failed:?}");
                }
                Outcome::Refused(_) => {}
                Outcome::TooLarge => assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE),
            }
        }
    }
    let day = jiff::civil::date(2026, 11, 20);
    let read = [
        counts::counts(answer, day).is_ok(),
        profiles::read(answer).is_ok(),
        profiles::read_page(answer).is_ok(),
        cohorts::list(answer).is_ok(),
        cohorts::page(answer).is_ok(),
        reports::judged(answer).is_ok(),
    ];
    assert!(answer.status.is_success() || !read.contains(&true), "{} is read as an answer", answer.status);
    drop((cohorts::session_is_over(answer), app::task_id(answer), app::progress(answer)));
    let overrun = quota::overrun(&answer.headers, &answer.body);
    assert!(overrun.retry_after.is_none_or(|after| after <= MAX_HOLD));
    if quota::is_answer(&answer.body, false) {
        assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&answer.body).is_ok(), "an answer is JSON");
    }
    for rows in [Rows::of_script(&answer.body), Rows::of_report(&answer.body)].into_iter().flatten() {
        let all = rows.some(0, rows.len());
        assert_eq!((all.len(), rows.some(rows.len(), 1).len()), (rows.len(), 0));
        for row in all.iter().take(20) {
            for column in row.columns().iter().take(20) {
                drop((row.column(column), row.id(column)));
            }
        }
    }
}

fn of_brevo(answer: &VendorAnswer) {
    bounded(brevo::judge(answer), answer.status);
    let _reading = brevo::meter(answer);
    let reset = brevo::RateHeaders::read(&answer.headers).reset;
    assert!(reset.is_none_or(|reset| reset <= Duration::from_secs(3600)), "{reset:?}");
    if brevo::judge(answer) != Verdict::Definite {
        return;
    }
    let success = answer.status.is_success();
    for sent in [1, SENT] {
        if let brevo::BatchOutcome::Taken { rejected, unnamed } = brevo::batch(answer, sent) {
            assert!(rejected.is_sorted_by(|a, b| a.index < b.index), "{rejected:?}");
            assert!(rejected.iter().all(|event| event.index < sent) && rejected.len() + unnamed <= sent);
            assert!(success || rejected.len() == sent, "{} settles an event as sent", answer.status);
        }
    }
    assert_eq!(brevo::event(answer) == brevo::EventOutcome::Accepted, success);
    let upserted = brevo::upsert(answer);
    assert_eq!(matches!(upserted, brevo::UpsertOutcome::Created(_) | brevo::UpsertOutcome::Updated), success);
    assert_eq!(brevo::update(answer) == brevo::UpdateOutcome::Updated, success);
    if let brevo::UpsertOutcome::Invalid(refusal) | brevo::UpsertOutcome::Conflict { refusal, .. } = upserted {
        assert!(refusal.message.chars().count() <= brevo::Refusal::MAX_MESSAGE);
    }
    let changed = brevo::list_change(answer);
    assert!(success || !matches!(changed, brevo::ListOutcome::Changed { .. } | brevo::ListOutcome::Unsaid));
    assert!(success || !matches!(brevo::import(answer), brevo::ImportOutcome::Started(_)));
    drop((brevo::contact(answer), brevo::attribute_created(answer), brevo::lost_its_way(answer)));
}
