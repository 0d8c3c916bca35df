//! Moves an export from the vendor to its caller, call by call, and goes on after a failure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::days::Days;
use super::lines::{Cutter, LineError, day_of};
use super::sink::{Gone, Sink};
use super::walk::{NotTheSame, Walk};
use super::{Broken, FAMILY, Job, MAX_ERROR};
use crate::mixpanel::quota;
use crate::read_side::ReadSide;
use crate::read_side::upstream::{self, Failure};
use crate::vendor::budget::{ClaimError, Slot};
use crate::vendor::{Cost, Priority};

/// Failures in a row in which not a line came that the caller did not have.
const MAX_IN_VAIN: u32 = 4;
/// Failures in all: each costs a call.
const MAX_FAILURES: u32 = 30;
/// Tries of the same days before they are asked for in halves: what is too long once is too long again.
const TRIES: u32 = 2;
/// The longest that a caller's answer stands still for want of a place in the budget.
const STANDSTILL: Duration = Duration::from_secs(900);
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// How long lines wait for more of them.
const LINGER: Duration = Duration::from_millis(200);

/// Why a call did not come to its end; another may.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Cut {
    #[error(transparent)]
    Vendor(#[from] Failure),
    #[error("it ended with a line that is no event")]
    TerminatedEarly,
    #[error("status {0}")]
    Status(StatusCode),
}

/// Why a call is not gone on with.
enum Stop {
    Cut(Cut),
    Broken(Broken),
    Gone,
}

impl From<LineError> for Stop {
    fn from(error: LineError) -> Self {
        match error {
            LineError::NoEvent => Stop::Cut(Cut::TerminatedEarly),
            LineError::TooLong => Stop::Broken(Broken::LineTooLong),
        }
    }
}

impl From<NotTheSame> for Stop {
    fn from(error: NotTheSame) -> Self {
        Stop::Broken(error.into())
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Stop::Gone
    }
}

/// Days that are still to be asked for.
struct Piece {
    days: Option<Days>,
    tries: u32,
    /// Whether the days that went into one call at first are all there after this.
    ends: bool,
}

pub struct Pump {
    desk: Arc<ReadSide>,
    job: Job,
    todo: VecDeque<Piece>,
    walk: Walk,
    sink: Sink,
    /// The place of the call under way.
    slot: Slot,
    failures: u32,
    in_vain: u32,
    passed_before: u64,
}

impl Pump {
    pub fn new(desk: Arc<ReadSide>, job: Job, pieces: VecDeque<Option<Days>>, sink: Sink, slot: Slot) -> Self {
        let todo = pieces.into_iter().map(|days| Piece { days, tries: 0, ends: true }).collect();
        Self { desk, job, todo, walk: Walk::default(), sink, slot, failures: 0, in_vain: 0, passed_before: 0 }
    }

    /// Runs until everything is passed on, the answer is broken off, or the caller has gone. `first` is the answer to the
    /// first call.
    pub async fn run(mut self, first: reqwest::Response) {
        match self.all(first).await {
            // A caller who has gone at the very end has it all the same.
            Ok(()) => drop(self.sink.finish().await),
            Err(Stop::Gone) => {}
            Err(Stop::Cut(cut)) => self.break_off(Broken::TooOften(cut)).await,
            Err(Stop::Broken(why)) => self.break_off(why).await,
        }
    }

    async fn break_off(self, why: Broken) {
        tracing::warn!(%why, lines = self.walk.passed(), "an export was broken off");
        self.sink.break_off(why).await;
    }

    async fn all(&mut self, first: reqwest::Response) -> Result<(), Stop> {
        let mut response = Some(first);
        while let Some(piece) = self.todo.front_mut() {
            piece.tries += 1;
            let days = piece.days;
            let called = match response.take() {
                Some(response) => self.call(response).await,
                None => match self.open(days).await {
                    Ok(response) => self.call(response).await,
                    Err(stop) => Err(stop),
                },
            };
            match called {
                Ok(()) => {
                    self.walk.call_done();
                    let ends = self.todo.pop_front().is_some_and(|piece| piece.ends);
                    if ends {
                        self.walk.piece_done()?;
                    }
                    if self.job.limit.is_some_and(|limit| self.walk.done() >= limit) {
                        return Ok(());
                    }
                }
                Err(Stop::Cut(cut)) => self.try_again(cut).await?,
                Err(stop) => return Err(stop),
            }
        }
        Ok(())
    }

    /// Gets ready to ask again for the days that failed, in halves if they have failed before.
    async fn try_again(&mut self, cut: Cut) -> Result<(), Stop> {
        self.walk.rewind();
        self.failures += 1;
        self.in_vain = if self.walk.passed() > self.passed_before { 1 } else { self.in_vain + 1 };
        self.passed_before = self.walk.passed();
        if self.failures > MAX_FAILURES || self.in_vain > MAX_IN_VAIN {
            return Err(Stop::Broken(Broken::TooOften(cut)));
        }
        tracing::info!(%cut, failures = self.failures, "an export's call failed; its days are asked for again");
        if let Some(piece) = self.todo.front().filter(|piece| piece.tries >= TRIES)
            && let Some([older, newer]) = piece.days.and_then(Days::halves)
        {
            let ends = piece.ends;
            self.todo.pop_front();
            self.todo.push_front(Piece { days: Some(newer), tries: 0, ends });
            self.todo.push_front(Piece { days: Some(older), tries: 0, ends: false });
        }
        // What has been read so far is the caller's while it waits.
        self.sink.flush().await?;
        tokio::time::sleep(FIRST_BACKOFF * (1 << self.in_vain.min(MAX_IN_VAIN))).await;
        Ok(())
    }

    async fn open(&mut self, days: Option<Days>) -> Result<reqwest::Response, Stop> {
        let deadline = Instant::now() + STANDSTILL;
        let claimed = self.desk.budgets.claim_by(FAMILY, Priority::Callers, Cost::CALL, deadline).await;
        self.slot = claimed.map_err(|error| match error {
            ClaimError::Later => Stop::Broken(Broken::NoPlace),
            ClaimError::Store(_) => Stop::Broken(Broken::Store),
        })?;
        let outgoing = self.job.outgoing(days, self.walk.done());
        let sent = self.desk.upstream.send(&outgoing, &self.job.credentials).await;
        let mut response = sent.map_err(|failure| Stop::Cut(failure.into()))?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            let body = match upstream::read(&mut response, MAX_ERROR).await {
                Ok(upstream::Body::Whole(body) | upstream::Body::Begun(body)) => body,
                Err(failure) => return Err(Stop::Cut(failure.into())),
            };
            let overrun = quota::overrun(response.headers(), &body);
            let learned = self.desk.budgets.overrun(FAMILY, overrun).await;
            learned.map_err(|_| Stop::Broken(Broken::Store))?;
            return Err(Stop::Cut(Cut::Status(status)));
        }
        if status.is_server_error() {
            return Err(Stop::Cut(Cut::Status(status)));
        }
        Err(Stop::Broken(Broken::Refused(status)))
    }

    /// Passes one call's lines on, to its end.
    async fn call(&mut self, mut response: reqwest::Response) -> Result<(), Stop> {
        let mut cutter = Cutter::default();
        loop {
            let Ok(chunk) = tokio::time::timeout(LINGER, response.chunk()).await else {
                self.sink.flush().await?;
                continue;
            };
            let Some(chunk) = chunk.map_err(|_| Stop::Cut(Failure::Broken.into()))? else { break };
            cutter.feed(&chunk, |line| self.line(line))?;
            if self.sink.is_full() {
                self.sink.flush().await?;
            }
        }
        let rest = cutter.rest();
        if rest.is_empty() { Ok(()) } else { self.line(&rest) }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Stop> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Ok(());
        }
        if self.walk.step(day_of(line)?, line)? {
            self.sink.line(line).map_err(|_| Stop::Broken(Broken::Gzip))?;
        }
        Ok(())
    }
}
