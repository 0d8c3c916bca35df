//! Copies of the state in a stream of their own, so that its log can be cut and a new relay need not read it from the
//! beginning.
//!
//! A snapshot is the file in pieces, under a subject that names where in the log it stands, then a manifest that says what
//! a whole one is. The manifest is published only behind the one that its maker saw before, so that a maker who has lost
//! his claim meanwhile puts nothing old in the place of something new.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::cursor::{Cursor, CursorError, Limit, Reading};
use super::link::Link;
use super::replica::{Replica, Standing};
use crate::store::StoreError;

/// Bytes of a piece before it is compressed, where messages may be that large.
const PIECE: usize = 512 << 10;
/// Pieces under way at once.
const UNDER_WAY: usize = 4;
const LEVEL: i32 = 1;
/// How long a piece is waited for.
const WAIT: Duration = Duration::from_secs(2);
/// Tries to read on after a cursor broke, before the snapshot is given up.
const TRIES: u32 = 30;

/// What a whole snapshot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Where it stands.
    pub standing: Standing,
    /// Of its pieces, and of no other's.
    pub subject: String,
    /// The first piece's number in the stream of snapshots.
    pub first: u64,
    pub pieces: u64,
    /// Of the file.
    pub bytes: u64,
    /// xxh3-64 of the file, in hexadecimal.
    pub hash: String,
    /// Where the snapshot before stood: the log is cut up to there, so that who is a little behind can still follow.
    pub previous: u64,
}

/// The newest manifest, and its number in the stream; none when there is no snapshot.
pub(super) async fn newest(link: &Link) -> Result<Option<(u64, Manifest)>, StoreError> {
    let failed =
        |error: Box<dyn std::error::Error + Send + Sync>| StoreError::Failed(format!("the snapshots: {error}"));
    let stream = link.context.get_stream_no_info(link.names.snapshot_stream()).await.map_err(|e| failed(e.into()))?;
    let message = match stream.get_last_raw_message_by_subject(&link.names.manifest_subject()).await {
        Ok(message) => message,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(failed(error.into())),
    };
    let manifest = serde_json::from_slice(&message.payload)
        .map_err(|error| StoreError::Corrupt(format!("a snapshot's manifest: {error}")))?;
    Ok(Some((message.sequence, manifest)))
}

fn is_missing(error: &async_nats::jetstream::stream::LastRawMessageError) -> bool {
    error.kind() == async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound
}

/// Publishes a snapshot of the copy, and cuts the log: up to the snapshot before, or, to leave nothing of what was
/// deleted, up to this one. Returns where it stands.
pub(super) async fn make(link: &Link, replica: &Replica, everything: bool) -> Result<u64, StoreError> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| StoreError::Failed(format!("a snapshot: {error}"));
    let before = newest(link).await?;
    let file = replica.snapshot().await?;
    let standing = standing_of(&file).await?;
    let subject = link.names.snapshot_subject(standing.sequence, standing.term);
    let piece = PIECE.min(link.max_payload() / 2);
    let (mut pieces, mut first, mut bytes, mut hash) = (0, None, 0, Xxh3::new());
    let mut reader = std::fs::File::open(&file).map_err(|error| failed(error.into()))?;
    let mut sending = stream::FuturesOrdered::new();
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = Vec::with_capacity(piece);
            let read = std::io::Read::by_ref(&mut reader).take(piece as u64).read_to_end(&mut buffer);
            let compressed = read.and_then(|_| zstd::bulk::compress(&buffer, LEVEL));
            compressed.map(|compressed| (reader, buffer, compressed))
        });
        let (rest, raw, compressed) =
            read.await.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))?;
        reader = rest;
        if raw.is_empty() {
            break;
        }
        hash.update(&raw);
        bytes += raw.len() as u64;
        pieces += 1;
        let message = PublishMessage::build().payload(Bytes::from(compressed));
        let sent = link.context.send_publish(subject.clone(), message).await.map_err(|e| failed(e.into()))?;
        sending.push_back(sent.into_future());
        while sending.len() >= UNDER_WAY {
            if let Some(stored) = sending.next().await {
                first.get_or_insert(stored.map_err(|error| failed(error.into()))?.sequence);
            }
        }
    }
    while let Some(stored) = sending.next().await {
        first.get_or_insert(stored.map_err(|error| failed(error.into()))?.sequence);
    }
    drop(tokio::fs::remove_file(&file).await);
    let previous = before.as_ref().map_or(0, |(_, manifest)| manifest.standing.sequence);
    let at = standing.sequence;
    let manifest = Manifest {
        standing,
        subject,
        first: first.unwrap_or_default(),
        pieces,
        bytes,
        hash: format!("{:016x}", hash.digest()),
        previous,
    };
    let payload = serde_json::to_vec(&manifest).map_err(|error| failed(error.into()))?;
    let behind = before.as_ref().map_or(0, |(sequence, _)| *sequence);
    let message = PublishMessage::build().payload(payload.into()).expected_last_subject_sequence(behind);
    let sent = link.context.send_publish(link.names.manifest_subject(), message).await;
    let stored = sent.map_err(|error| failed(error.into()))?.await.map_err(|error| failed(error.into()))?;
    cut(link, &manifest, stored.sequence, everything).await.map_err(failed)?;
    Ok(at)
}

/// Removes what the snapshot makes superfluous.
async fn cut(
    link: &Link,
    manifest: &Manifest,
    stored: u64,
    everything: bool,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let snapshots = link.context.get_stream_no_info(link.names.snapshot_stream()).await?;
    // Everything before its first piece is an older snapshot, or the remains of one that was never whole.
    let first = if manifest.pieces > 0 { manifest.first } else { stored };
    // To a server, everything below 1 is everything.
    if first > 1 {
        snapshots.purge().sequence(first).await?;
    }
    let log = link.context.get_stream_no_info(link.names.state_stream()).await?;
    let below = if everything { manifest.standing.sequence } else { manifest.previous } + 1;
    if below > 1 {
        log.purge().sequence(below).await?;
    }
    Ok(())
}

/// Where a copy's file stands, read from itself.
async fn standing_of(file: &Path) -> Result<Standing, StoreError> {
    let file = file.to_owned();
    let reading = tokio::task::spawn_blocking(move || super::replica::standing_in(&file));
    reading.await.map_err(|error| StoreError::Failed(format!("a snapshot was broken off: {error}")))?
}

/// Writes the snapshot's file to `to`.
pub(super) async fn fetch(link: &Link, manifest: &Manifest, to: &Path) -> Result<(), StoreError> {
    let io = |error: std::io::Error| StoreError::Failed(format!("{}: {error}", to.display()));
    let mut file = std::fs::File::create(to).map_err(io)?;
    let (mut next, mut pieces, mut hash, mut bytes, mut tries) = (manifest.first, 0, Xxh3::new(), 0_u64, 0);
    let mut cursor: Option<Cursor> = None;
    while pieces < manifest.pieces {
        let reading = async {
            let mut open = match cursor.take() {
                Some(open) => open,
                None => Cursor::open(link, next, Reading::Snapshot(manifest.subject.clone())).await?,
            };
            let read = open.read(Limit { messages: 16, bytes: 8 << 20 }, WAIT).await?;
            if read.is_empty() { Err(CursorError::Late) } else { Ok((open, read)) }
        };
        match reading.await {
            Ok((open, read)) => {
                next = open.next();
                cursor = Some(open);
                for message in read {
                    let raw = zstd::bulk::decompress(&message.payload, PIECE)
                        .map_err(|error| StoreError::Corrupt(format!("a piece of the newest snapshot: {error}")))?;
                    hash.update(&raw);
                    bytes += raw.len() as u64;
                    file.write_all(&raw).map_err(io)?;
                    pieces += 1;
                }
            }
            Err(error) if tries < TRIES => {
                tracing::warn!(%error, "reading a snapshot is tried again");
                tries += 1;
                tokio::time::sleep(WAIT).await;
            }
            Err(error) => return Err(StoreError::Failed(format!("the newest snapshot cannot be read: {error}"))),
        }
    }
    if bytes != manifest.bytes || format!("{:016x}", hash.digest()) != manifest.hash {
        return Err(StoreError::Corrupt("the newest snapshot is not what its manifest says".to_owned()));
    }
    Ok(())
}

/// The id of the log whose newest message is `last`; none when that message is not there any more.
pub(super) async fn log_at_end(link: &Link, last: u64) -> Result<Option<String>, StoreError> {
    use async_nats::jetstream::stream::RawMessageErrorKind;
    let failed = |error: String| StoreError::Failed(format!("the state's log: {error}"));
    if last == 0 {
        return Ok(None);
    }
    let stream = link.context.get_stream_no_info(link.names.state_stream()).await;
    let stream = stream.map_err(|error| failed(error.to_string()))?;
    match stream.get_raw_message(last).await {
        Ok(message) => Ok(Some(super::log::Stamp::read(Some(&message.headers))?.log)),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(failed(error.to_string())),
    }
}
