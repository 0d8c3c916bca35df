//! Reading a stream in order, without gaps of its own making.
//!
//! A consumer of ours lives in the servers' memory and takes no acknowledgements: it counts what it has sent. Where that count
//! and what came differ, something was lost on the way, and the cursor is opened anew where it stood.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, pull};
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::link::Link;

/// How long the servers remember a consumer that asks for nothing.
const FORGOTTEN: Duration = Duration::from_secs(30);
/// How long an answer may be late before the cursor is given up.
const LATE: Duration = Duration::from_secs(4);

/// What the servers say of a message whose payload they leave out.
const SIZE: &str = "Nats-Msg-Size";

/// Why nothing could be read; opening the cursor anew and asking again is right.
#[derive(Debug, thiserror::Error)]
pub(super) enum CursorError {
    #[error("the stream cannot be read: {0}")]
    Open(Box<dyn std::error::Error + Send + Sync>),
    #[error("reading was broken off: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer came")]
    Late,
    #[error("messages were lost on the way")]
    Lost,
}

/// A message as it stands in the stream.
pub(super) struct Stored {
    pub sequence: u64,
    pub headers: Option<HeaderMap>,
    /// Empty where only headers were asked for.
    pub payload: Bytes,
    /// Of what the message holds, also where only its headers were sent.
    pub bytes: u64,
}

/// Which stream is read, and what of it.
pub(super) enum Reading {
    Journal,
    /// Its messages without what they hold.
    Headings,
    Log,
    /// The pieces with this subject.
    Snapshot(String),
}

/// How much one reading may bring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub messages: usize,
    pub bytes: usize,
}

pub(super) struct Cursor {
    consumer: Consumer<pull::Config>,
    next: u64,
    delivered: u64,
    /// A message that is larger than what is asked for would never come.
    largest: usize,
}

impl Cursor {
    /// Stands before the first message from `from` on.
    pub(super) async fn open(link: &Link, from: u64, what: Reading) -> Result<Self, CursorError> {
        let (stream, filter_subject, headers_only) = match what {
            Reading::Journal => (link.names.journal_stream(), String::new(), false),
            Reading::Headings => (link.names.journal_stream(), String::new(), true),
            Reading::Log => (link.names.state_stream(), String::new(), false),
            Reading::Snapshot(subject) => (link.names.snapshot_stream(), subject, false),
        };
        let config = pull::Config {
            filter_subject,
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from.max(1) },
            ack_policy: AckPolicy::None,
            inactive_threshold: FORGOTTEN,
            memory_storage: true,
            num_replicas: 1,
            headers_only,
            ..pull::Config::default()
        };
        let opening = link.context.create_consumer_on_stream(config, stream);
        let opened = tokio::time::timeout(LATE, opening).await.map_err(|_| CursorError::Late)?;
        let consumer = opened.map_err(|error| CursorError::Open(error.into()))?;
        Ok(Self { consumer, next: from.max(1), delivered: 0, largest: link.client.server_info().max_payload })
    }

    /// The number of the next message, if none is missing.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// What is there; when that is nothing, the first that comes within `wait`. On an error the cursor is of no use any more.
    pub(super) async fn read(&mut self, limit: Limit, wait: Duration) -> Result<Vec<Stored>, CursorError> {
        let there = self.take(limit, None).await?;
        if !there.is_empty() || wait.is_zero() {
            return Ok(there);
        }
        self.take(Limit { messages: 1, ..limit }, Some(wait)).await
    }

    async fn take(&mut self, limit: Limit, wait: Option<Duration>) -> Result<Vec<Stored>, CursorError> {
        let bytes = limit.bytes.max(2 * self.largest);
        let taking = async {
            let batch = match wait {
                None => self.consumer.fetch().max_messages(limit.messages).max_bytes(bytes).messages().await,
                Some(wait) => {
                    self.consumer.batch().max_messages(limit.messages).max_bytes(bytes).expires(wait).messages().await
                }
            };
            let mut batch = batch.map_err(|error| CursorError::Broken(error.into()))?;
            let mut messages = Vec::new();
            while let Some(message) = batch.next().await {
                match message {
                    Ok(message) => messages.push(message),
                    // The next one would have been more than was asked for.
                    Err(_) if !messages.is_empty() => break,
                    Err(error) => return Err(CursorError::Broken(error)),
                }
            }
            Ok(messages)
        };
        let late = LATE + wait.unwrap_or_default();
        let messages = tokio::time::timeout(late, taking).await.map_err(|_| CursorError::Late)??;
        messages.into_iter().map(|message| self.place(message)).collect()
    }

    fn place(&mut self, message: async_nats::jetstream::Message) -> Result<Stored, CursorError> {
        let (sequence, counted) = {
            let info = message.info().map_err(CursorError::Broken)?;
            (info.stream_sequence, info.consumer_sequence)
        };
        if counted != self.delivered + 1 || sequence < self.next {
            return Err(CursorError::Lost);
        }
        self.delivered = counted;
        self.next = sequence + 1;
        let async_nats::Message { headers, payload, .. } = message.message;
        let told = headers.as_ref().and_then(|headers| headers.get(SIZE)?.as_str().parse().ok());
        Ok(Stored { sequence, bytes: told.unwrap_or(payload.len() as u64), headers, payload })
    }
}
