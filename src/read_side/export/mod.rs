//! Raw export (contract §8): `/export` and `/api/2.0/export`, streamed line by line.
//!
//! The way of a call: its [`days`] are cut into calls that the vendor takes, the first is sent, and when it is answered with a
//! 200 a [`pump`] moves [`lines`] into a [`sink`] at the caller's pace. When a call fails in the middle, its days are asked for
//! again, in halves down to single days if need be, and [`walk`] leaves out what the caller has.
//!
//! Invariants:
//! * an answer that ends well holds every line of every call, each once;
//! * any other ends without its end: the caller sees a broken body, never a short one;
//! * memory does not grow with the export: one line, a chunk or four, a hash for each day.

mod days;
mod lines;
mod own;
mod pump;
mod sink;
mod walk;

use std::collections::VecDeque;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, request};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::access::Credentials;
use super::answers::{self, Freshness, Refusal};
use super::cache::Whole;
use super::params::Params;
use super::upstream::{self, Failure, Host, Outgoing};
use super::wishes::Wishes;
use super::{ReadSide, query};
use crate::mixpanel::quota;
use crate::vendor::budget::{ClaimError, Slot, Standing};
use crate::vendor::{Cost, Family, Priority};
pub use days::Days;
pub use own::{Lines, NotExported};
use pump::Pump;
use sink::Sink;

/// The vendor's path, and the metric label.
pub const PATH: &str = "/api/2.0/export";
const FAMILY: Family = Family::MixpanelExport;
/// Chunks on their way to the caller.
const CHUNKS: usize = 4;
/// Longest answer that is not an export: an error.
const MAX_ERROR: usize = 1 << 20;

/// Why an answer that has begun cannot be brought to its end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Broken {
    #[error(transparent)]
    NotTheSame(#[from] walk::NotTheSame),
    #[error("the export failed too often: {0}")]
    TooOften(pump::Cut),
    #[error("Mixpanel refused to go on with status {0}")]
    Refused(StatusCode),
    #[error("the budget has no place for the calls that are left")]
    NoPlace,
    #[error("a line is longer than any event")]
    LineTooLong,
    #[error("the relay's store has failed")]
    Store,
    #[error("the answer cannot be compressed")]
    Gzip,
}

/// What one export asks, in whatever number of calls.
pub struct Job {
    params: Params,
    credentials: Credentials,
    project_id: Option<String>,
    /// Lines that the caller wants at most.
    limit: Option<u64>,
}

impl Job {
    /// The call for `days`; without any the caller's own dates go out, for the vendor to say what is wrong with them.
    fn outgoing(&self, days: Option<Days>, lines_done: u64) -> Outgoing {
        let mut replaced: Vec<(&str, String)> = Vec::new();
        if let Some(days) = days {
            replaced.push(("from_date", days.from.to_string()));
            replaced.push(("to_date", days.to.to_string()));
        }
        if let Some(limit) = self.limit {
            replaced.push(("limit", limit.saturating_sub(lines_done).to_string()));
        }
        let replaced: Vec<(&str, &str)> = replaced.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Outgoing {
            method: Method::GET,
            host: Host::Export,
            path: PATH.to_owned(),
            query: self.params.query_with(self.project_id.as_deref(), &replaced),
            content_type: None,
            body: Bytes::new(),
            label: PATH,
        }
    }
}

impl ReadSide {
    /// Answers one export.
    pub async fn export(self: Arc<Self>, head: request::Parts, body: Body) -> Response<Body> {
        let path = head.uri.path().to_owned();
        let wishes = Wishes::of(&head.headers);
        let (params, credentials) = match self.admit(&head, body).await {
            Ok(admitted) => admitted,
            Err(refusal) => return refusal.answer(&path),
        };
        let pieces: VecDeque<Option<Days>> = match Days::of(&params) {
            Some(days) => days.pieces().into_iter().map(Some).collect(),
            None => VecDeque::from([None]),
        };
        let limit = params.get("limit").and_then(|limit| limit.parse().ok());
        let job = Job { params, credentials, project_id: self.project_id.clone(), limit };
        let gzip = takes_gzip(&head.headers);
        let response = self.clone().begin(job, pieces, gzip, &wishes).await;
        let standing = self.budgets.standing(FAMILY, Priority::Callers, 1).await;
        let response = response.unwrap_or_else(|refusal| refusal.answer(&path));
        answers::with_standing(response, FAMILY, standing, &wishes)
    }

    async fn begin(
        self: Arc<Self>,
        job: Job,
        pieces: VecDeque<Option<Days>>,
        gzip: bool,
        wishes: &Wishes,
    ) -> Result<Response<Body>, Refusal> {
        let first = job.outgoing(pieces.front().copied().flatten(), 0);
        let slot = match self.place(pieces.len(), wishes).await? {
            Ok(slot) => slot,
            Err(standing) => return Ok(self.no_place_for_export(&first, standing)),
        };
        let mut response = self.upstream.send(&first, &job.credentials).await?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            let (content_type, content_disposition) = answers::own_headers(response.headers());
            let body = match upstream::read(&mut response, MAX_ERROR).await? {
                upstream::Body::Whole(body) => body,
                upstream::Body::Begun(_) => return Err(Failure::TooLong.into()),
            };
            if status == StatusCode::TOO_MANY_REQUESTS {
                let overrun = quota::overrun(response.headers(), &body);
                self.budgets.overrun(FAMILY, overrun).await.map_err(|error| query::store_failed(&error))?;
                let standing = self.budgets.standing(FAMILY, Priority::Callers, pieces.len() as u64).await;
                return Ok(self.no_place_for_export(&first, standing));
            }
            let answer = Whole { status, content_type, content_disposition, body };
            return Ok(answers::whole(&answer, Freshness::NEW));
        }
        let content_type = response.headers().get(CONTENT_TYPE).cloned();
        let (sender, receiver) = mpsc::channel(CHUNKS);
        let pump = Pump::new(self, job, pieces, Sink::new(sender, gzip), slot);
        tokio::spawn(pump.run(response));
        Ok(streamed(receiver, content_type, gzip))
    }

    /// A place for the first of `calls`, when there is room for all of them: an export that would have to stop for the
    /// next hour in its middle is better not begun. The later ones are claimed when they go out, since the vendor counts
    /// them then. `Ok(Err)`: there is none within the caller's patience.
    async fn place(&self, calls: usize, wishes: &Wishes) -> Result<Result<Slot, Option<Standing>>, Refusal> {
        let deadline = Instant::now() + wishes.wait;
        let calls = calls as u64;
        loop {
            let standing = self.budgets.standing(FAMILY, Priority::Callers, calls).await;
            let wait = standing.map(|standing| standing.wait).unwrap_or_default();
            if wait.is_zero() {
                break;
            }
            if Instant::now() + wait > deadline {
                return Ok(Err(standing));
            }
            tokio::time::sleep(wait).await;
        }
        match self.budgets.claim_by(FAMILY, Priority::Callers, Cost::CALL, deadline).await {
            Ok(slot) => Ok(Ok(slot)),
            Err(ClaimError::Later) => Ok(Err(self.budgets.standing(FAMILY, Priority::Callers, calls).await)),
            Err(ClaimError::Store(error)) => Err(query::store_failed(&error)),
        }
    }

    fn no_place_for_export(&self, first: &Outgoing, standing: Option<Standing>) -> Response<Body> {
        let project_id = self.project_id.as_deref().unwrap_or_default();
        answers::no_place(FAMILY, &query::request_line(first), project_id, standing)
    }
}

/// `gzip` or `*` with a quality that is not nought.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let (name, quality) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let refused =
            quality.trim().strip_prefix("q=").and_then(|q| q.trim().parse::<f32>().ok()).is_some_and(|q| q <= 0.0);
        matches!(name.trim().to_ascii_lowercase().as_str(), "gzip" | "*") && !refused
    })
}

fn streamed(
    receiver: mpsc::Receiver<Result<Bytes, Broken>>,
    content_type: Option<HeaderValue>,
    gzip: bool,
) -> Response<Body> {
    let chunks = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type.unwrap_or(HeaderValue::from_static("text/plain; charset=utf-8")));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_for_those_who_take_it() {
        let takes =
            |value: &'static str| takes_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, value.parse().unwrap())]));
        assert!(takes("br, gzip") && takes("GZIP;q=0.5") && takes("*"));
        assert!(!takes("identity") && !takes("gzip;q=0, identity") && !takes("gzip; q=0.0"));
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
