//! The last good `/flags` answer for each question, for when the vendor does not answer: short-lived and bounded. A question
//! names a person, so an erasure takes all of them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, request};
use xxhash_rust::xxh3::Xxh3;

use crate::clock::UnixMillis;

/// Longest answer that is remembered.
pub const MAX_ANSWER: usize = 64 << 10;
/// Answers remembered at once, and their bytes in all.
const MAX_ANSWERS: usize = 2048;
const MAX_BYTES: usize = 8 << 20;
/// How long an answer stands in for the vendor's: flags that were switched off must not live on for long.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Hash of everything that an answer depends on: path, query (with the context), credentials, encodings accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question(u128);

impl Question {
    /// `None` for a call that is not a question.
    pub fn of(head: &request::Parts) -> Option<Self> {
        if head.method != Method::GET {
            return None;
        }
        let mut hash = Xxh3::new();
        hash.update(head.uri.path().trim_end_matches('/').as_bytes());
        hash.update(b"?");
        hash.update(head.uri.query().unwrap_or_default().as_bytes());
        for name in [AUTHORIZATION, ACCEPT_ENCODING] {
            hash.update(b"\0");
            hash.update(head.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes));
        }
        Some(Self(hash.digest128()))
    }
}

#[derive(Clone, Debug)]
pub struct Kept {
    pub content_type: Option<HeaderValue>,
    pub content_encoding: Option<HeaderValue>,
    pub body: Bytes,
}

impl Kept {
    pub fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body));
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(value) = self.content_type {
            headers.insert(CONTENT_TYPE, value);
        }
        if let Some(value) = self.content_encoding {
            headers.insert(CONTENT_ENCODING, value);
        }
        response
    }
}

/// Oldest answers make room for new ones.
#[derive(Debug, Default)]
pub struct LastAnswers(Mutex<Shelf>);

#[derive(Debug, Default)]
struct Shelf {
    answers: HashMap<Question, (UnixMillis, Kept)>,
    order: VecDeque<(UnixMillis, Question)>,
    bytes: usize,
    /// How often everything was forgotten.
    era: u64,
}

impl LastAnswers {
    fn lock(&self) -> MutexGuard<'_, Shelf> {
        // A cache that a panic left half-written at worst miscounts its bytes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present era: an answer to a question of an earlier one is not remembered.
    pub fn era(&self) -> u64 {
        self.lock().era
    }

    pub fn forget(&self) {
        let mut shelf = self.lock();
        *shelf = Shelf { era: shelf.era + 1, ..Shelf::default() };
    }

    /// Remembers the answer to a question that was asked in `era`.
    pub fn remember(&self, era: u64, question: Question, kept: Kept, now: UnixMillis) {
        let mut shelf = self.lock();
        if shelf.era != era {
            return;
        }
        shelf.bytes += kept.body.len();
        if let Some((_, old)) = shelf.answers.insert(question, (now, kept)) {
            shelf.bytes -= old.body.len();
        }
        shelf.order.push_back((now, question));
        while shelf.order.len() > MAX_ANSWERS || shelf.bytes > MAX_BYTES {
            let Some((at, oldest)) = shelf.order.pop_front() else { break };
            // A question asked again stands further back in the queue with its newer answer.
            if shelf.answers.get(&oldest).is_some_and(|(kept_at, _)| *kept_at == at)
                && let Some((_, old)) = shelf.answers.remove(&oldest)
            {
                shelf.bytes -= old.body.len();
            }
        }
    }

    pub fn recall(&self, question: &Question, now: UnixMillis) -> Option<Kept> {
        let shelf = self.lock();
        let (at, kept) = shelf.answers.get(question)?;
        (now.since(*at) <= MAX_AGE).then(|| kept.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(length: usize) -> Kept {
        Kept { content_type: None, content_encoding: None, body: vec![b'x'; length].into() }
    }

    #[test]
    fn answers_grow_old_and_make_room() {
        let answers = LastAnswers::default();
        let question = |n: u128| Question(n);
        answers.remember(0, question(1), kept(10), UnixMillis(0));
        assert!(answers.recall(&question(1), UnixMillis(600_000)).is_some());
        assert!(answers.recall(&question(1), UnixMillis(600_001)).is_none());
        assert!(answers.recall(&question(2), UnixMillis(0)).is_none());

        for n in 0..1000 {
            answers.remember(0, question(n), kept(MAX_ANSWER), UnixMillis(1000 + n as u64));
        }
        assert!(answers.lock().bytes <= MAX_BYTES);
        assert!(answers.recall(&question(0), UnixMillis(2000)).is_none());
        assert!(answers.recall(&question(999), UnixMillis(2000)).is_some());
    }

    #[test]
    fn everything_is_forgotten_and_what_was_on_its_way_is_not_remembered() {
        let (answers, question) = (LastAnswers::default(), Question(1));
        let era = answers.era();
        answers.remember(era, question, kept(10), UnixMillis(0));
        answers.forget();
        assert!(answers.recall(&question, UnixMillis(0)).is_none());
        answers.remember(era, question, kept(10), UnixMillis(0));
        assert!(answers.recall(&question, UnixMillis(0)).is_none());
        answers.remember(answers.era(), question, kept(10), UnixMillis(0));
        assert_eq!((answers.recall(&question, UnixMillis(0)).is_some(), answers.lock().bytes), (true, 10));
    }
}
