//! Entries out of the journal's stream, for a few readers at different places.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::cursor::{Cursor, CursorError, Limit, Reading, Stored};
use super::heading::Heading;
use super::link::Link;
use crate::record::{EntryId, Epoch};
use crate::store::{Entry, StoreError, block};

/// Readers that are remembered: the legs, an eraser, somebody who looks at history.
const READERS: usize = 6;
/// Messages of one reading.
const MESSAGES: usize = 256;
/// How long one reading waits for what has to be there.
const WAIT: Duration = Duration::from_secs(1);
/// Between two tries after one failed.
const AGAIN: Duration = Duration::from_millis(250);

/// A reader that waits for somebody to read on.
struct Reader {
    cursor: Cursor,
    /// Read from the stream, and more than was asked for.
    ahead: VecDeque<Stored>,
}

impl Reader {
    /// The next message that it gives.
    fn next(&self) -> u64 {
        self.ahead.front().map_or(self.cursor.next(), |message| message.sequence)
    }
}

pub(super) struct Readers {
    link: Link,
    idle: Mutex<VecDeque<Reader>>,
}

impl Readers {
    pub(super) fn new(link: Link) -> Self {
        Self { link, idle: Mutex::default() }
    }

    /// Forgets what was read ahead.
    pub(super) fn forget(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Messages from `from` on and below `below`: at least one where there is any, then up to about `max_bytes` of what
    /// they hold. Waits for a server for as long as it takes.
    pub(super) async fn read(&self, from: EntryId, below: EntryId, max_bytes: usize) -> Vec<Stored> {
        loop {
            match self.try_read(from, below, max_bytes).await {
                Ok(Some(messages)) => return messages,
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "the journal cannot be read at the moment");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// `None` when nothing has come yet.
    async fn try_read(
        &self,
        from: EntryId,
        below: EntryId,
        max_bytes: usize,
    ) -> Result<Option<Vec<Stored>>, CursorError> {
        let mut reader = match self.take(from.0) {
            Some(reader) => reader,
            None => {
                Reader { cursor: Cursor::open(&self.link, from.0, Reading::Journal).await?, ahead: VecDeque::new() }
            }
        };
        if reader.ahead.is_empty() {
            // Compressed, it is about a quarter.
            let limit = Limit { messages: MESSAGES, bytes: max_bytes / 4 };
            reader.ahead = reader.cursor.read(limit, WAIT).await?.into();
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(message) = reader.ahead.pop_front_if(|m| m.sequence < below.0 && bytes < max_bytes.max(1)) {
            bytes += block::stated_raw_len(&message.payload).max(1);
            taken.push(message);
        }
        let past = reader.ahead.front().is_some_and(|message| message.sequence >= below.0);
        if !past {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push_back(reader);
            while idle.len() > READERS {
                idle.pop_front();
            }
        }
        Ok((past || !taken.is_empty()).then_some(taken))
    }

    fn take(&self, from: u64) -> Option<Reader> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let at = idle.iter().position(|reader| reader.next() == from)?;
        idle.remove(at)
    }

    /// Records of the entries from `first` on and below `below`, by their headers.
    pub(super) async fn count(&self, first: EntryId, below: EntryId) -> Result<u64, CursorError> {
        let mut cursor = Cursor::open(&self.link, first.0, Reading::Headings).await?;
        let mut records = 0;
        while cursor.next() < below.0 {
            let messages = cursor.read(Limit { messages: MESSAGES, bytes: 0 }, WAIT).await?;
            if messages.is_empty() {
                break;
            }
            let counted = messages.iter().filter(|message| message.sequence < below.0);
            records += counted.map(|message| heading(message).records.total()).sum::<u64>();
        }
        Ok(records)
    }
}

/// What a message counts for: one event where nobody knows, which will be found to be lost when it is read.
pub(super) fn heading(message: &Stored) -> Heading {
    use crate::record::PerKind;
    let unknown = || Heading { records: PerKind { event: 1, ..PerKind::default() }, ..Heading::default() };
    Heading::read(message.headers.as_ref()).unwrap_or_else(unknown)
}

/// The entry of a message; one that cannot be read comes out as lost.
pub(super) fn entry(epoch: Epoch, message: Stored) -> Entry {
    let stated = heading(&message).records.total();
    let id = EntryId(message.sequence);
    let reason = match block::decode(message.payload.into()) {
        Ok(records) if records.len() as u64 == stated => return Entry { epoch, id, records, lost: 0 },
        Ok(records) => format!("{} records instead of {stated}", records.len()),
        Err(error) => error.to_string(),
    };
    tracing::error!(
        entry = id.0,
        records = stated,
        reason,
        "a message of the journal is damaged: its records are lost"
    );
    Entry { epoch, id, records: Vec::new(), lost: u32::try_from(stated).unwrap_or(u32::MAX) }
}

/// The entry of a block that took a message's place.
pub(super) fn rewritten(epoch: Epoch, id: EntryId, block: Vec<u8>) -> Result<Entry, StoreError> {
    let damaged = |error: block::BlockError| StoreError::Corrupt(format!("a rewritten entry of the journal: {error}"));
    Ok(Entry { epoch, id, records: block::decode(block).map_err(damaged)?, lost: 0 })
}
