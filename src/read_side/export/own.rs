//! Exports for the relay's own use: a day's lines, behind whoever else asks.
//!
//! What a caller of [`super::pump`] sees as one answer is here one call; going on after a failure is the asker's, who
//! knows which lines they have had.

use bytes::Bytes;
use http::{Method, StatusCode};

use super::days::Days;
use super::lines::{Cutter, LineError, day_of};
use super::pump::Cut;
use super::{FAMILY, MAX_ERROR, PATH};
use crate::mixpanel::quota;
use crate::read_side::ReadSide;
use crate::read_side::upstream::{self, Failure, Host, Outgoing};
use crate::store::StoreError;
use crate::vendor::budget::Slot;
use crate::vendor::{Cost, Priority};

/// Why there are no more lines.
#[derive(Debug, thiserror::Error)]
pub enum NotExported {
    /// Another call may bring them.
    #[error(transparent)]
    Again(#[from] Cut),
    #[error("Mixpanel's export API answers {status}: {words}")]
    Refused { status: StatusCode, words: String },
    #[error("the relay has no service account and no OAuth token for Mixpanel")]
    NoCredentials,
    #[error("a line is longer than any event")]
    LineTooLong,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<Failure> for NotExported {
    fn from(failure: Failure) -> Self {
        NotExported::Again(failure.into())
    }
}

impl From<LineError> for NotExported {
    fn from(error: LineError) -> Self {
        match error {
            LineError::NoEvent => NotExported::Again(Cut::TerminatedEarly),
            LineError::TooLong => NotExported::LineTooLong,
        }
    }
}

/// A call under way.
#[derive(Debug)]
pub struct Lines {
    response: reqwest::Response,
    cutter: Cutter,
    done: bool,
    _place: Slot,
}

impl ReadSide {
    /// Asks for the events of `days`, times in milliseconds; of `names` alone where some are given. Waits for a place in
    /// the budget.
    pub async fn export_lines(&self, days: Days, names: &[String]) -> Result<Lines, NotExported> {
        let credentials = self.access.own_credentials().ok_or(NotExported::NoCredentials)?;
        let place = self.budgets.claim(FAMILY, Priority::Backfill, Cost::CALL).await?;
        let outgoing = Outgoing {
            method: Method::GET,
            host: Host::Export,
            path: PATH.to_owned(),
            query: query(days, names, self.project_id.as_deref()),
            content_type: None,
            body: Bytes::new(),
            label: PATH,
        };
        let mut response = self.upstream.send(&outgoing, &credentials).await?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(Lines { response, cutter: Cutter::default(), done: false, _place: place });
        }
        let (upstream::Body::Whole(body) | upstream::Body::Begun(body)) =
            upstream::read(&mut response, MAX_ERROR).await?;
        if status == StatusCode::TOO_MANY_REQUESTS {
            self.budgets.overrun(FAMILY, quota::overrun(response.headers(), &body)).await?;
        }
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(NotExported::Again(Cut::Status(status)));
        }
        let words = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
        Err(NotExported::Refused { status, words })
    }
}

fn query(days: Days, names: &[String], project_id: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("from_date", &days.from.to_string()).append_pair("to_date", &days.to.to_string());
    query.append_pair("time_in_ms", "true");
    if !names.is_empty() {
        query.append_pair("event", &serde_json::json!(names).to_string());
    }
    if let Some(project_id) = project_id {
        query.append_pair("project_id", project_id);
    }
    query.finish()
}

impl Lines {
    /// The lines that the next chunk completes, each an event; `None` at the end of a whole answer.
    pub async fn next(&mut self) -> Result<Option<Vec<Bytes>>, NotExported> {
        if self.done {
            return Ok(None);
        }
        let mut lines = Vec::new();
        let mut each = |line: &[u8]| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !line.is_empty() {
                day_of(line)?;
                lines.push(Bytes::copy_from_slice(line));
            }
            Ok::<_, NotExported>(())
        };
        match self.response.chunk().await.map_err(|_| Failure::Broken)? {
            Some(chunk) => self.cutter.feed(&chunk, each)?,
            None => {
                self.done = true;
                each(&self.cutter.rest())?;
            }
        }
        Ok(Some(lines))
    }
}
