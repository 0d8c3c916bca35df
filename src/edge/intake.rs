//! Reading a request's body: inflated, bounded in bytes, in time and by the shared budget.
//!
//! A body that ends early, too large or too slowly is an error and nothing of it is used. A compressed one is inflated in
//! one go once it is there, off the workers that serve connections and into room of the size that its trailer states. A gzip
//! bomb stops at the cap: output space is reserved before it is written.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::budget::{Account, Budget, NoRoom};
use crate::mixpanel::MAX_BODY_BYTES;

/// First allocation for a body that comes in pieces.
const FIRST_BUFFER: usize = 16 << 10;
/// Concatenated gzip members in one body; each costs a fresh window, and no SDK sends more than one.
const MAX_MEMBERS: usize = 16;
/// From this size on, as sent, a body is inflated on the blocking pool: a megabyte of text would hold up the other
/// connections of a worker thread for milliseconds.
const BIG: usize = 32 << 10;
/// More than this deflate cannot make of one byte.
const DEFLATE_RATIO: usize = 1032;
/// How much of a refused body is read and thrown away, so that the caller gets to read the answer.
const DRAIN_BYTES: usize = 64 << 20;

#[derive(Clone, Copy, Debug)]
pub struct IntakeLimits {
    /// Cap on the body as sent and as inflated.
    pub body_bytes: usize,
    /// Longest pause between two pieces of a body.
    pub idle: Duration,
    /// Longest time for a whole body.
    pub total: Duration,
}

impl Default for IntakeLimits {
    fn default() -> Self {
        Self { body_bytes: MAX_BODY_BYTES, idle: Duration::from_secs(15), total: Duration::from_secs(60) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    #[error("the body exceeds the limit")]
    TooLarge,
    #[error("the body did not arrive in time")]
    TooSlow,
    #[error("the body ended early")]
    Broken,
    #[error("the body is not what its Content-Encoding says")]
    NotInflatable,
    #[error("the body's Content-Encoding is not supported")]
    UnknownEncoding,
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

/// A whole, inflated body and the budget that it holds.
#[derive(Debug)]
pub struct Intake {
    pub body: Bytes,
    /// The body as it came, when it was one gzip member of nothing but the compressed body.
    pub gzip: Option<Bytes>,
    pub account: Account,
}

/// Reads `body` to its end. `observe` sees it as sent, piece by piece (for a signature).
pub async fn read(
    headers: &HeaderMap,
    body: Body,
    limits: &IntakeLimits,
    budget: &Budget,
    observe: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<Intake, IntakeError> {
    let encoding = Encoding::of(headers);
    let mut pieces = Pieces { body, deadline: Instant::now() + limits.total, idle: limits.idle };
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    let mut account = budget.open();
    let result = if announced.is_some_and(|length| length > limits.body_bytes) {
        Err(IntakeError::TooLarge)
    } else {
        match encoding {
            Ok(encoding) => collect(&mut pieces, encoding, limits.body_bytes, &mut account, observe).await,
            Err(unknown) => Err(unknown),
        }
    };
    match result {
        Ok((body, gzip)) => Ok(Intake { body, gzip, account }),
        Err(error) => {
            drop(account);
            // Whoever is still writing when the connection ends sees a dead one, and not the answer.
            if !matches!(error, IntakeError::TooSlow | IntakeError::Broken) {
                pieces.drain().await;
            }
            Err(error)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// None announced; gzip is still recognised by its first bytes.
    Plain,
    Gzip,
    Deflate,
}

impl Encoding {
    fn of(headers: &HeaderMap) -> Result<Self, IntakeError> {
        let Some(value) = headers.get(CONTENT_ENCODING) else { return Ok(Encoding::Plain) };
        let value = value.to_str().unwrap_or_default().trim();
        match value.to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Encoding::Plain),
            "gzip" | "x-gzip" => Ok(Encoding::Gzip),
            "deflate" => Ok(Encoding::Deflate),
            _ => Err(IntakeError::UnknownEncoding),
        }
    }
}

struct Pieces {
    body: Body,
    deadline: Instant,
    idle: Duration,
}

impl Pieces {
    async fn next(&mut self) -> Result<Option<Bytes>, IntakeError> {
        loop {
            let by = self.deadline.min(Instant::now() + self.idle);
            match tokio::time::timeout_at(by, self.body.frame()).await {
                Err(_) => return Err(IntakeError::TooSlow),
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(IntakeError::Broken),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Ok(Some(data)),
                    Err(_trailers) => {}
                },
            }
        }
    }

    async fn drain(&mut self) {
        let mut read = 0;
        while let Ok(Some(piece)) = self.next().await {
            read += piece.len();
            if read > DRAIN_BYTES {
                return;
            }
        }
    }
}

async fn collect(
    pieces: &mut Pieces,
    encoding: Encoding,
    cap: usize,
    account: &mut Account,
    observe: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<(Bytes, Option<Bytes>), IntakeError> {
    let Some(mut first) = pieces.next().await? else { return Ok((Bytes::new(), None)) };
    observe(&first);
    // The magic number may come in two pieces.
    while first.len() < 2 {
        let Some(more) = pieces.next().await? else { break };
        observe(&more);
        first = [first, more].concat().into();
    }
    // A proxy may have inflated the body and left the header, or the other way round: the bytes decide.
    let stream = match encoding {
        Encoding::Plain | Encoding::Gzip if first.starts_with(&[0x1f, 0x8b]) => Some((Decompress::new_gzip(15), true)),
        Encoding::Deflate => Some((Decompress::new(true), false)),
        Encoding::Plain | Encoding::Gzip => None,
    };
    let sent = plain(first, pieces, cap, account, observe).await?;
    match stream {
        None => Ok((sent, None)),
        Some((stream, gzip)) => inflate(Inflater::new(stream, gzip, sent, cap), account).await,
    }
}

async fn plain(
    first: Bytes,
    pieces: &mut Pieces,
    cap: usize,
    account: &mut Account,
    observe: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<Bytes, IntakeError> {
    if first.len() > cap {
        return Err(IntakeError::TooLarge);
    }
    account.cover(first.len()).await?;
    // Most bodies of apps come in one piece, which is then used as it stands.
    if pieces.body.is_end_stream() {
        return Ok(first);
    }
    let mut out: Vec<u8> = first.into();
    while let Some(piece) = pieces.next().await? {
        observe(&piece);
        let length = out.len() + piece.len();
        if length > cap {
            return Err(IntakeError::TooLarge);
        }
        if length > out.capacity() {
            let capacity = length.max(out.capacity() * 2).clamp(FIRST_BUFFER, cap.max(FIRST_BUFFER));
            account.cover(capacity).await?;
            out.reserve_exact(capacity - out.len());
        }
        out.extend_from_slice(&piece);
    }
    Ok(out.into())
}

async fn inflate(mut inflater: Inflater, account: &mut Account) -> Result<(Bytes, Option<Bytes>), IntakeError> {
    let mut capacity = inflater.likely_len() + 1;
    loop {
        account.cover(capacity + inflater.sent.len()).await?;
        inflater.out.reserve_exact(capacity - inflater.out.len());
        let progress;
        (inflater, progress) = run(inflater).await?;
        match progress? {
            Progress::Whole => break,
            Progress::Full => capacity = inflater.next_capacity()?,
        }
    }
    if inflater.out.len() > inflater.cap {
        return Err(IntakeError::TooLarge);
    }
    let gzip = inflater.is_bare().then(|| inflater.sent.clone());
    // A trailer may state more than there is.
    if inflater.out.len() < inflater.out.capacity() / 2 {
        inflater.out.shrink_to_fit();
    }
    Ok((inflater.out.into(), gzip))
}

async fn run(mut inflater: Inflater) -> Result<(Inflater, Result<Progress, IntakeError>), IntakeError> {
    let big = inflater.sent.len() >= BIG;
    let work = move || {
        let progress = inflater.run();
        (inflater, progress)
    };
    if !big {
        return Ok(work());
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down cancels; the caller is about to lose its connection.
            Err(_cancelled) => Err(IntakeError::Broken),
        },
    }
}

enum Progress {
    Whole,
    /// The room for output is used up.
    Full,
}

struct Inflater {
    stream: Decompress,
    gzip: bool,
    /// The body as it came, and how much of it has been read.
    sent: Bytes,
    read: usize,
    out: Vec<u8>,
    cap: usize,
    members: usize,
    ended: bool,
    /// Something stands behind the end.
    padded: bool,
}

impl Inflater {
    fn new(stream: Decompress, gzip: bool, sent: Bytes, cap: usize) -> Self {
        Self { stream, gzip, sent, read: 0, out: Vec::new(), cap, members: 1, ended: false, padded: false }
    }

    /// How long the text will be, up to the cap: gzip ends with it. A hint, from whoever sent the body.
    fn likely_len(&self) -> usize {
        let stated = match self.sent.last_chunk() {
            Some(&trailer) if self.gzip => u32::from_le_bytes(trailer) as usize,
            _ => FIRST_BUFFER,
        };
        stated.min(self.sent.len().saturating_mul(DEFLATE_RATIO)).min(self.cap)
    }

    /// Inflates until the end of what was sent, or of the room for output.
    fn run(&mut self) -> Result<Progress, IntakeError> {
        loop {
            if self.ended && !self.next_member()? {
                return Ok(Progress::Whole);
            }
            if self.out.len() == self.out.capacity() {
                return Ok(Progress::Full);
            }
            let (before, length) = (self.stream.total_in(), self.out.len());
            let status = self
                .stream
                .decompress_vec(&self.sent[self.read..], &mut self.out, FlushDecompress::Finish)
                .map_err(|_| IntakeError::NotInflatable)?;
            let consumed = usize::try_from(self.stream.total_in() - before).unwrap_or(usize::MAX);
            self.read = self.read.saturating_add(consumed).min(self.sent.len());
            let stuck = consumed == 0 && self.out.len() == length;
            match status {
                Status::StreamEnd => self.ended = true,
                _ if !stuck => {}
                _ if self.read == self.sent.len() => return Err(IntakeError::Broken),
                _ => return Err(IntakeError::NotInflatable),
            }
        }
    }

    /// Whether what came was one gzip member without a name, a comment or padding.
    fn is_bare(&self) -> bool {
        self.gzip && self.members == 1 && !self.padded && self.sent.get(3) == Some(&0)
    }

    /// Starts the next gzip member when there is one. Anything else behind the end is padding and ignored.
    fn next_member(&mut self) -> Result<bool, IntakeError> {
        let Some(&first) = self.sent.get(self.read) else { return Ok(false) };
        if !self.gzip || first != 0x1f {
            self.padded = true;
            return Ok(false);
        }
        if self.members == MAX_MEMBERS {
            return Err(IntakeError::NotInflatable);
        }
        self.members += 1;
        self.stream = Decompress::new_gzip(15);
        self.ended = false;
        Ok(true)
    }

    /// Doubled room for output, up to one byte over the cap: that byte tells a body at the cap from a larger one.
    fn next_capacity(&self) -> Result<usize, IntakeError> {
        let capacity = (self.out.capacity() * 2).clamp(FIRST_BUFFER, self.cap.max(FIRST_BUFFER) + 1);
        if capacity > self.out.len() { Ok(capacity) } else { Err(IntakeError::TooLarge) }
    }
}

#[cfg(test)]
mod tests;
