//! Reading bodies: whatever the encoding and however the bytes are cut, what comes out is what another inflater makes of
//! them, within the cap, and the budget is whole again.

use std::io::Read as _;

use axum::body::Body;
use bytes::Bytes;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use futures_util::stream;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use super::{first_line, one_of};
use crate::edge::IntakeLimits;
use crate::edge::budget::Budget;
use crate::edge::intake::{self, Intake, IntakeError};

const CAP: usize = 64 << 10;
const BUDGET: usize = 1 << 20;

/// First line: the encoding, a digit; the size of the pieces, a digit. The rest is the body as sent.
pub fn intake(data: &[u8]) {
    let (settings, body) = first_line(data);
    let encoding = one_of(["", "gzip", "deflate", "identity", "br"], settings.first());
    let size = one_of([usize::MAX, 1, 2, 7, 1000], settings.get(1));
    let mut headers = HeaderMap::new();
    if !encoding.is_empty() {
        headers.insert(CONTENT_ENCODING, encoding.parse().expect("one of the above"));
    }
    let budget = Budget::new(BUDGET);
    let limits = IntakeLimits { body_bytes: CAP, ..IntakeLimits::default() };
    let pieces: Vec<_> = body.chunks(size).map(|piece| Ok::<_, axum::Error>(Bytes::copy_from_slice(piece))).collect();
    let mut observed = Vec::new();
    let mut observe = |piece: &[u8]| observed.extend_from_slice(piece);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    // Every piece is there already: nothing is waited for but the blocking pool, where large bodies are inflated.
    let body_of = Body::from_stream(stream::iter(pieces));
    let read = runtime.block_on(intake::read(&headers, body_of, &limits, &budget, &mut observe));
    if let Ok(Intake { body: read, gzip, account: _ }) = &read {
        assert!(read.len() <= CAP);
        assert_eq!(observed, body, "a signature is over all of the body as sent");
        assert!(gzip.as_ref().is_none_or(|gzip| gzip == body));
    }
    let is_gzip = body.starts_with(&[0x1f, 0x8b]);
    match encoding {
        "br" => assert_eq!(read.as_ref().err(), Some(&IntakeError::UnknownEncoding)),
        "deflate" if !body.is_empty() => compare(&read, ZlibDecoder::new(body)),
        _ if is_gzip && encoding != "deflate" => compare(&read, MultiGzDecoder::new(body)),
        _ if body.len() > CAP => assert_eq!(read.as_ref().err(), Some(&IntakeError::TooLarge)),
        _ => assert_eq!(&read.as_ref().expect("a plain body").body, body),
    }
    drop(read);
    assert_eq!(budget.free(), BUDGET, "what a body held is given back");
}

/// What another inflater makes of the body. It may go further (members without number, garbage behind the end), so that
/// an error of ours proves nothing; but what we read it reads too.
fn compare(read: &Result<Intake, IntakeError>, inflater: impl std::io::Read) {
    let Ok(Intake { body: read, .. }) = read else { return };
    let mut theirs = Vec::new();
    // Padding behind the end is an error to it and none to us: what came before counts.
    drop(inflater.take(CAP as u64 + 1).read_to_end(&mut theirs));
    assert_eq!(read, &theirs);
}
