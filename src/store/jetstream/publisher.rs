//! Appending: requests become messages of the journal's stream, and are answered when the servers have them.
//!
//! One task packs what waits and publishes it in order; a few publications are under way at once, and what comes
//! meanwhile shares the next message, so that the slower the servers are, the more travels together. A publication that
//! is not answered is sent again under the same id, which the servers remember: it stands once, or its request is told
//! that nobody knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::heading::Heading;
use super::health::{Health, Trouble};
use super::link::Link;
use crate::record::{EntryId, Epoch, Position, Record};
use crate::store::block::{self, BLOCK_BYTES, Sealer};
use crate::store::{AppendError, Appends, Sent};

/// Bytes that may wait, and what a request counts for at least.
const QUEUE_BYTES: usize = 32 << 20;
const REQUEST_BYTES: usize = 8 << 10;
/// How long a request waits for room among those that wait.
const QUEUE_WAIT: Duration = Duration::from_millis(250);
/// From here on a request is an entry of its own, compressed in its own task.
const LARGE_REQUEST: usize = 64 << 10;
/// Publications under way at once.
const UNDER_WAY: usize = 4;
/// How long a publication is tried before its requests are refused: an app's own patience is not much longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries when the servers have refused at once.
const AGAIN: Duration = Duration::from_millis(100);

/// The appending side of the journal; any number of relays have one.
pub struct Publisher {
    waiting: mpsc::Sender<Append>,
    room: Arc<Semaphore>,
    link: Link,
    health: Arc<Health>,
}

struct Append {
    payload: Payload,
    heading: Heading,
    reply: oneshot::Sender<Result<Position, AppendError>>,
    /// Its share of the queue, given back when it has been answered.
    _permit: OwnedSemaphorePermit,
}

enum Payload {
    /// Encoded records, to be packed with others.
    Small(Vec<u8>),
    /// A finished block, an entry of its own.
    Sealed(Vec<u8>),
}

/// A message that is about to be published, and who waits for it: where his records begin in it.
struct Packed {
    block: Bytes,
    heading: Heading,
    waiting: Vec<(u32, Append)>,
}

impl Publisher {
    pub(super) fn start(link: Link, health: Arc<Health>, epoch: Arc<AtomicU32>, run: String) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE_BYTES / REQUEST_BYTES);
        let packer = Packer {
            link: link.clone(),
            health: health.clone(),
            epoch,
            sealer: Sealer::default(),
            run,
            published: 0,
            ahead: None,
        };
        tokio::spawn(packer.run(receiver));
        Arc::new(Self { waiting: sender, room: Arc::new(Semaphore::new(QUEUE_BYTES)), link, health })
    }

    async fn append_records(&self, records: Vec<Record>, sent: Option<Sent>) -> Result<Position, AppendError> {
        let len: usize = records.iter().map(block::record_len).sum();
        if len > block::MAX_RAW {
            return Err(AppendError::TooLarge { bytes: len, limit: block::MAX_RAW });
        }
        let permit = self.room(len).await?;
        if len < LARGE_REQUEST.min(self.link.max_payload() / 2) {
            let mut payload = Vec::with_capacity(len);
            records.iter().for_each(|record| block::push_record(&mut payload, record));
            return self.publish(Payload::Small(payload), Heading::of(&records), permit)?.await;
        }
        let limit = self.link.max_payload();
        let sealed = tokio::task::spawn_blocking(move || seal(&records, sent.as_ref(), limit)).await;
        let sealed =
            sealed.map_err(|error| AppendError::Unavailable(format!("encoding was broken off: {error}")))??;
        // The whole request holds its share until the last of its messages is answered.
        let mut answers = Vec::with_capacity(sealed.len());
        let permits = split_permit(permit, sealed.len());
        for ((block, heading), permit) in sealed.into_iter().zip(permits) {
            answers.push(self.publish(Payload::Sealed(block), heading, permit)?);
        }
        let mut first = None;
        for answer in answers {
            let at = answer.await?;
            first.get_or_insert(at);
        }
        first.ok_or_else(closed)
    }

    /// Hands it to the packer; the answer comes when it stands in the stream.
    fn publish(
        &self,
        payload: Payload,
        heading: Heading,
        permit: OwnedSemaphorePermit,
    ) -> Result<impl Future<Output = Result<Position, AppendError>> + use<>, AppendError> {
        let (reply, answer) = oneshot::channel();
        let append = Append { payload, heading, reply, _permit: permit };
        self.waiting.try_send(append).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => AppendError::Busy,
            mpsc::error::TrySendError::Closed(_) => closed(),
        })?;
        Ok(async move { answer.await.unwrap_or_else(|_gone| Err(closed())) })
    }

    async fn room(&self, len: usize) -> Result<OwnedSemaphorePermit, AppendError> {
        // A request larger than the whole queue is let in when it is alone.
        let share = u32::try_from(len.clamp(REQUEST_BYTES, QUEUE_BYTES)).unwrap_or(u32::MAX);
        match tokio::time::timeout(QUEUE_WAIT, Arc::clone(&self.room).acquire_many_owned(share)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => Err(closed()),
            Err(_elapsed) => Err(AppendError::Busy),
        }
    }
}

impl Appends for Publisher {
    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<Position, AppendError>> {
        self.append_records(records, None).boxed()
    }

    fn append_sent(&self, records: Vec<Record>, sent: Sent) -> BoxFuture<'_, Result<Position, AppendError>> {
        self.append_records(records, Some(sent)).boxed()
    }

    fn ready(&self) -> Result<(), AppendError> {
        self.health.check()
    }
}

fn closed() -> AppendError {
    AppendError::Unavailable("the relay is ending".to_owned())
}

/// The blocks of a large request, none larger than `limit`: a request that does not fit is cut in halves.
fn seal(records: &[Record], sent: Option<&Sent>, limit: usize) -> Result<Vec<(Vec<u8>, Heading)>, AppendError> {
    let len = records.iter().map(block::record_len).sum();
    let as_sent = sent.and_then(|sent| block::seal_sent(records, sent)).filter(|block| block.len() <= limit);
    let block = as_sent.unwrap_or_else(|| block::seal_large(records, len));
    if block.len() <= limit {
        return Ok(vec![(block, Heading::of(records))]);
    }
    if records.len() < 2 {
        return Err(AppendError::TooLarge { bytes: block.len(), limit });
    }
    let (one, other) = records.split_at(records.len() / 2);
    let mut sealed = seal(one, None, limit)?;
    sealed.extend(seal(other, None, limit)?);
    Ok(sealed)
}

/// The permit in `count` parts.
fn split_permit(mut permit: OwnedSemaphorePermit, count: usize) -> Vec<OwnedSemaphorePermit> {
    let each = permit.num_permits() / count.max(1);
    let mut parts: Vec<_> = (1..count).filter_map(|_| permit.split(each)).collect();
    parts.push(permit);
    parts
}

struct Packer {
    link: Link,
    health: Arc<Health>,
    epoch: Arc<AtomicU32>,
    sealer: Sealer,
    /// No other run of a relay has it: with a number it is an id that the servers remember for a while.
    run: String,
    published: u64,
    /// Taken off the queue, and too much for the message before.
    ahead: Option<Append>,
}

impl Packer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Append>) {
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() >= UNDER_WAY {
                under_way.join_next().await;
            }
            let first = match self.ahead.take() {
                Some(append) => append,
                None => match waiting.recv().await {
                    Some(append) => append,
                    None => break,
                },
            };
            let packed = self.pack(first, &mut waiting);
            self.published += 1;
            let publication = Publication {
                link: self.link.clone(),
                health: self.health.clone(),
                block: packed.block,
                heading: packed.heading,
                id: format!("{}-{}", self.run, self.published),
            };
            // Sent here, so that messages leave in the order in which they were packed; the answer comes when it comes.
            let sent = publication.send().await;
            let epoch = Epoch(self.epoch.load(Ordering::Relaxed));
            under_way.spawn(async move {
                let stored = publication.settle(sent).await;
                for (index, append) in packed.waiting {
                    let at = stored.clone().map(|entry| Position { epoch, entry, index });
                    // Nobody waits any more when the app has hung up; its records are stored all the same.
                    drop(append.reply.send(at));
                }
            });
        }
        while under_way.join_next().await.is_some() {}
    }

    /// What waits behind `first`, up to the size of a block.
    fn pack(&mut self, first: Append, waiting: &mut mpsc::Receiver<Append>) -> Packed {
        let heading = first.heading;
        let mut payload = match first.payload {
            Payload::Sealed(block) => {
                let append = Append { payload: Payload::Small(Vec::new()), ..first };
                return Packed { block: block.into(), heading, waiting: vec![(0, append)] };
            }
            Payload::Small(payload) => payload,
        };
        let most = BLOCK_BYTES.min(self.link.max_payload());
        let mut packed = vec![(0, Append { payload: Payload::Small(Vec::new()), ..first })];
        let mut all = heading;
        while let Ok(next) = waiting.try_recv() {
            match next.payload {
                Payload::Small(ref more) if payload.len() + more.len() <= most => payload.extend_from_slice(more),
                _ => {
                    self.ahead = Some(next);
                    break;
                }
            }
            packed.push((count(all), Append { payload: Payload::Small(Vec::new()), ..next }));
            all = all.with(next.heading);
        }
        Packed { block: self.sealer.seal(&payload, count(all)).into(), heading: all, waiting: packed }
    }
}

/// Records of an entry: far fewer than fit.
fn count(heading: Heading) -> u32 {
    u32::try_from(heading.records.total()).unwrap_or(u32::MAX)
}

struct Publication {
    link: Link,
    health: Arc<Health>,
    block: Bytes,
    heading: Heading,
    id: String,
}

impl Publication {
    async fn send(&self) -> Result<PublishAckFuture, PublishError> {
        let mut headers = HeaderMap::new();
        self.heading.write(&mut headers);
        let message = PublishMessage::build().payload(self.block.clone()).headers(headers).message_id(&self.id);
        self.link.context.send_publish(self.link.names.journal_subject(), message).await
    }

    /// Until it stands, or the patience is over.
    async fn settle(&self, mut sent: Result<PublishAckFuture, PublishError>) -> Result<EntryId, AppendError> {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = match sent {
                Ok(answer) => answer.await,
                Err(error) => Err(error),
            };
            let error = match answer {
                Ok(stored) => {
                    self.health.well();
                    return Ok(EntryId(stored.sequence));
                }
                Err(error) => error,
            };
            let trouble = Trouble::of(&error);
            let waited = error.kind() == PublishErrorKind::TimedOut;
            if trouble.is_final() || Instant::now() >= until {
                self.health.ill(trouble.clone());
                return Err(trouble.into());
            }
            if !waited {
                tokio::time::sleep(AGAIN).await;
            }
            sent = self.send().await;
        }
    }
}
