//! The journal over its stream, for the relay that works.
//!
//! Appending is the [publisher](super::publisher)'s. A task follows the headers of whatever any relay has appended, counts
//! it in the [ledger](super::ledger) and moves the tip. Entries that were erased cannot be written anew in a stream: a block
//! without them stands in the state in their place, and the message is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::cursor::{Cursor, CursorError, Limit, Reading};
use super::heading::Heading;
use super::ledger::{Ledger, Section};
use super::link::Link;
use super::publisher::Publisher;
use super::reading::{self, Readers};
use super::rows;
use super::state::JetstreamState;
use crate::clock::UnixMillis;
use crate::record::{EntryId, Epoch, PerKind, Position, Record};
use crate::store::block::{self, Sealer};
use crate::store::{
    AppendError, Appends, Entry, EraseReport, Journal, JournalSize, Picker, Sent, State as _, StoreError, Table, Tail,
    TrimReport, WriteBatch,
};

/// Headers of one reading, and how long it waits for one.
const HEADINGS: Limit = Limit { messages: 512, bytes: 0 };
const WAIT: Duration = Duration::from_secs(5);
/// Between two tries after one failed, and how many there are before the journal is given up at its opening.
const AGAIN: Duration = Duration::from_millis(250);
const TRIES: u32 = 40;
/// So often and so long nothing comes before it is believed that nothing is there.
const EMPTY: u32 = 3;
const EMPTY_WAIT: Duration = Duration::from_millis(300);
/// Decoded bytes that one step of erasing reads at most, or one entry.
const ERASE_BYTES: usize = 2 << 20;
/// Room of a stream that has no limit of its own.
const UNLIMITED: u64 = 1 << 50;

/// See [`Journal`] for the promises.
pub struct JetstreamJournal {
    publisher: Arc<Publisher>,
    link: Link,
    state: Arc<JetstreamState>,
    epoch: Epoch,
    counts: Arc<Counts>,
    readers: Readers,
    /// Entries whose block stands in the state.
    rewritten: Mutex<BTreeSet<EntryId>>,
    /// One step of trimming or erasing at a time.
    changing: tokio::sync::Mutex<()>,
    _follower: DropGuard,
}

struct Counts {
    ledger: Mutex<Ledger>,
    tip: watch::Sender<EntryId>,
}

impl Counts {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JetstreamJournal {
    /// Takes up the journal where the state says that it was counted to, and counts the rest.
    pub(super) async fn open(
        link: Link,
        publisher: Arc<Publisher>,
        state: Arc<JetstreamState>,
    ) -> Result<Arc<Self>, StoreError> {
        let ledger = rows::ledger(state.as_ref()).await?;
        let epoch = rows::epoch(state.as_ref()).await?;
        let rewritten: BTreeSet<EntryId> = rows::all_rewritten(state.as_ref()).await?.into_iter().collect();
        let end = end_of(&link).await?;
        if ledger.last() > end {
            return Err(StoreError::Failed(format!(
                "the journal's stream ends at {end}, and the state knows of {}: it was made anew, or restored from an older \
                 backup. Restore both from the same backup",
                ledger.last()
            )));
        }
        let trimmed = ledger.before().last;
        if trimmed > 0 {
            // A worker that ended between writing that it trims and trimming.
            purge(&link, trimmed + 1).await?;
        }
        let counts =
            Arc::new(Counts { tip: watch::Sender::new(EntryId(ledger.last() + 1)), ledger: Mutex::new(ledger) });
        let removed = removed_headings(state.as_ref(), &rewritten, &counts).await?;
        let cursor = catch_up(&link, &counts, removed, end).await?;
        let stop = CancellationToken::new();
        let following = follow(link.clone(), counts.clone(), state.clone(), cursor);
        tokio::spawn(stop.clone().run_until_cancelled_owned(following));
        Ok(Arc::new(Self {
            publisher,
            readers: Readers::new(link.clone()),
            link,
            state,
            epoch,
            counts,
            rewritten: Mutex::new(rewritten),
            changing: tokio::sync::Mutex::default(),
            _follower: stop.drop_guard(),
        }))
    }

    fn rewritten(&self) -> MutexGuard<'_, BTreeSet<EntryId>> {
        self.rewritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_entries(&self, from: EntryId, max_bytes: usize) -> Result<Vec<Entry>, StoreError> {
        let tip = *self.counts.tip.borrow();
        // What was trimmed is in no place at all.
        let from = from.max(EntryId(self.counts.ledger().before().last + 1));
        if from >= tip {
            return Ok(Vec::new());
        }
        let next = self.rewritten().range(from..tip).next().copied();
        if next == Some(from) {
            return Ok(vec![self.read_rewritten(from).await?]);
        }
        let epoch = self.epoch;
        let messages = self.readers.read(from, next.unwrap_or(tip), max_bytes).await;
        let decoding = tokio::task::spawn_blocking(move || {
            messages.into_iter().map(|message| reading::entry(epoch, message)).collect()
        });
        decoding.await.map_err(|error| StoreError::Failed(format!("a read was broken off: {error}")))
    }

    async fn read_rewritten(&self, id: EntryId) -> Result<Entry, StoreError> {
        let found = self.state.get(Table::Rewritten, vec![rows::rewritten(id)]).await?;
        let block = found.into_iter().flatten().next();
        let missing = || StoreError::Corrupt(format!("the block in the place of entry {} is missing", id.0));
        reading::rewritten(self.epoch, id, block.ok_or_else(missing)?.into())
    }

    async fn count(&self, from: EntryId) -> Result<u64, StoreError> {
        let count = self.counts.ledger().count_from(from);
        let Some(less) = count.less else { return Ok(count.records) };
        let earlier = self.readers.count(less.first, less.below).await;
        let earlier = earlier.map_err(|error| StoreError::Failed(format!("the backlog cannot be counted: {error}")))?;
        // Messages that were removed are counted by the blocks in their place.
        let places: Vec<_> = self.rewritten().range(less.first..less.below).copied().collect();
        let mut replaced = 0;
        for id in places {
            replaced += self.read_rewritten(id).await?.records.len() as u64;
        }
        Ok(count.records.saturating_sub(earlier + replaced))
    }

    async fn trim_step(&self, below: EntryId, tail: Tail, now: UnixMillis) -> Result<TrimReport, StoreError> {
        let _one_at_a_time = self.changing.lock().await;
        let below = below.min(*self.counts.tip.borrow());
        let (section, before) = {
            let mut ledger = self.counts.ledger();
            (ledger.trim(below, tail, now), ledger.before())
        };
        let Some(section) = section else { return Ok(TrimReport::default()) };
        // Written first: what is written and not yet removed is removed by the next worker.
        self.state.write(rows::trimmed(&section, before)?).await?;
        self.rewritten().retain(|entry| entry.0 > section.last);
        purge(&self.link, section.last + 1).await?;
        Ok(TrimReport { entries: u64::from(section.entries), more: true })
    }

    async fn erase_step(&self, from: EntryId, below: EntryId, belongs: Picker) -> Result<EraseReport, StoreError> {
        let _one_at_a_time = self.changing.lock().await;
        let below = below.min(*self.counts.tip.borrow());
        let from = from.max(EntryId(self.counts.ledger().before().last + 1));
        if from >= below {
            return Ok(EraseReport { next: below, emptied: 0 });
        }
        let entries = self.read_entries(from, ERASE_BYTES).await?;
        let mut report = EraseReport { next: below, emptied: 0 };
        let (mut batch, mut emptied, mut sealer) = (WriteBatch::new(), Vec::new(), Sealer::default());
        for entry in entries.iter().take_while(|entry| entry.id < below) {
            report.next = entry.id.next();
            if let Some((payload, count)) = block::without(&entry.records, belongs.as_ref()) {
                let records = u32::try_from(entry.records.len()).unwrap_or(u32::MAX);
                batch.put(Table::Rewritten, rows::rewritten(entry.id), sealer.seal(&payload, records));
                emptied.push(entry.id);
                report.emptied += count;
            }
        }
        self.state.write(batch).await?;
        self.readers.forget();
        for id in emptied {
            if self.rewritten().insert(id) {
                self.remove(id).await?;
            }
        }
        Ok(report)
    }

    /// Removes a message, and overwrites what it held.
    async fn remove(&self, id: EntryId) -> Result<(), StoreError> {
        let failed = |error: String| StoreError::Failed(format!("entry {} cannot be removed: {error}", id.0));
        let stream = self.link.context.get_stream_no_info(self.link.names.journal_stream()).await;
        let stream = stream.map_err(|error| failed(error.to_string()))?;
        match stream.delete_message(id.0).await {
            Ok(_) => Ok(()),
            Err(error) => match stream.get_raw_message(id.0).await {
                Err(missing)
                    if missing.kind() == async_nats::jetstream::stream::RawMessageErrorKind::NoMessageFound =>
                {
                    Ok(())
                }
                _ => Err(failed(error.to_string())),
            },
        }
    }

    async fn measure(&self) -> Result<JournalSize, StoreError> {
        let failed = |error: String| StoreError::Failed(format!("the journal's size is not known: {error}"));
        let stream = self.link.context.get_stream(self.link.names.journal_stream()).await;
        let stream = stream.map_err(|error| failed(error.to_string()))?;
        let info = stream.cached_info();
        let room = match u64::try_from(info.config.max_bytes) {
            Ok(most) if most > 0 => most.saturating_sub(info.state.bytes),
            _ => UNLIMITED,
        };
        Ok(JournalSize { room, ..self.counts.ledger().size() })
    }
}

impl Appends for JetstreamJournal {
    fn append(&self, records: Vec<Record>) -> BoxFuture<'_, Result<Position, AppendError>> {
        self.publisher.append(records)
    }

    fn append_sent(&self, records: Vec<Record>, sent: Sent) -> BoxFuture<'_, Result<Position, AppendError>> {
        self.publisher.append_sent(records, sent)
    }

    fn ready(&self) -> Result<(), AppendError> {
        self.publisher.ready()
    }
}

impl Journal for JetstreamJournal {
    fn read(&self, from: EntryId, max_bytes: usize) -> BoxFuture<'_, Result<Vec<Entry>, StoreError>> {
        self.read_entries(from, max_bytes).boxed()
    }

    fn tip(&self) -> watch::Receiver<EntryId> {
        self.counts.tip.subscribe()
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn accepted(&self) -> PerKind {
        self.counts.ledger().accepted()
    }

    fn count_from(&self, from: EntryId) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.count(from).boxed()
    }

    fn trim(&self, below: EntryId, tail: Tail, now: UnixMillis) -> BoxFuture<'_, Result<TrimReport, StoreError>> {
        self.trim_step(below, tail, now).boxed()
    }

    fn erase(&self, from: EntryId, below: EntryId, belongs: Picker) -> BoxFuture<'_, Result<EraseReport, StoreError>> {
        self.erase_step(from, below, belongs).boxed()
    }

    /// Removing a message overwrites it; a section that is trimmed is gone with its file.
    fn scrub(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        async { Ok(true) }.boxed()
    }

    fn size(&self) -> BoxFuture<'_, Result<JournalSize, StoreError>> {
        self.measure().boxed()
    }
}

/// The newest message's number; 0 for none.
async fn end_of(link: &Link) -> Result<u64, StoreError> {
    let stream = link.context.get_stream(link.names.journal_stream()).await;
    let stream = stream.map_err(|error| StoreError::Failed(format!("the journal's stream: {error}")))?;
    Ok(stream.cached_info().state.last_sequence)
}

async fn purge(link: &Link, below: u64) -> Result<(), StoreError> {
    let failed = |error: String| StoreError::Failed(format!("the journal cannot be trimmed: {error}"));
    let stream = link.context.get_stream_no_info(link.names.journal_stream()).await;
    let stream = stream.map_err(|error| failed(error.to_string()))?;
    stream.purge().sequence(below).await.map(|_| ()).map_err(|error| failed(error.to_string()))
}

/// What the entries count for that stand in no message any more, as far as the ledger does not know them yet.
async fn removed_headings(
    state: &JetstreamState,
    rewritten: &BTreeSet<EntryId>,
    counts: &Counts,
) -> Result<BTreeMap<u64, Heading>, StoreError> {
    let last = counts.ledger().last();
    let mut headings = BTreeMap::new();
    for id in rewritten.range(EntryId(last + 1)..) {
        let found = state.get(Table::Rewritten, vec![rows::rewritten(*id)]).await?;
        if let Some(block) = found.into_iter().flatten().next() {
            // Which epoch it is does not matter here.
            headings.insert(id.0, Heading::of(&reading::rewritten(Epoch(0), *id, block.into())?.records));
        }
    }
    Ok(headings)
}

/// Counts everything up to `end`, with what was `removed` in its places.
async fn catch_up(
    link: &Link,
    counts: &Counts,
    mut removed: BTreeMap<u64, Heading>,
    end: u64,
) -> Result<Option<Cursor>, StoreError> {
    let (mut cursor, mut tries, mut empty) = (None, 0, 0);
    // Whatever stands at the very end may have been removed: then nothing comes any more.
    while counts.ledger().last() < end && !removed.contains_key(&end) && empty < EMPTY {
        match read_headings(link, counts, cursor.take(), &mut removed, EMPTY_WAIT).await {
            Ok((open, came, _)) => {
                cursor = Some(open);
                empty = if came { 0 } else { empty + 1 };
            }
            Err(error) if tries < TRIES => {
                tracing::debug!(%error, "the journal cannot be counted at the moment");
                tries += 1;
                tokio::time::sleep(AGAIN).await;
            }
            Err(error) => return Err(StoreError::Failed(format!("the journal cannot be counted: {error}"))),
        }
    }
    let mut ledger = counts.ledger();
    for (entry, heading) in removed {
        ledger.note(entry, heading, 0);
    }
    drop(ledger);
    move_tip(counts, EntryId(end + 1));
    Ok(cursor)
}

/// Counts what is appended, by whomever.
async fn follow(link: Link, counts: Arc<Counts>, state: Arc<JetstreamState>, mut cursor: Option<Cursor>) {
    loop {
        let closed = match read_headings(&link, &counts, cursor.take(), &mut BTreeMap::new(), WAIT).await {
            Ok((open, _, closed)) => {
                cursor = Some(open);
                closed
            }
            Err(error) => {
                tracing::debug!(%error, "the journal cannot be followed at the moment");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        if closed.is_empty() {
            continue;
        }
        let written = match rows::closed(&closed) {
            Ok(batch) => state.write(batch).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            // The next worker counts these entries again.
            tracing::debug!(%error, "a section of the journal's ledger was not written");
        }
    }
}

fn move_tip(counts: &Counts, to: EntryId) {
    counts.tip.send_if_modified(|tip| {
        let moved = to > *tip;
        *tip = to.max(*tip);
        moved
    });
}

/// Counts first, then moves the tip: whoever is woken by an entry finds it counted. Says whether anything came, and which
/// sections were closed.
async fn read_headings(
    link: &Link,
    counts: &Counts,
    cursor: Option<Cursor>,
    removed: &mut BTreeMap<u64, Heading>,
    wait: Duration,
) -> Result<(Cursor, bool, Vec<Section>), CursorError> {
    let last = counts.ledger().last();
    let mut cursor = match cursor {
        Some(cursor) => cursor,
        None => Cursor::open(link, last + 1, Reading::Headings).await?,
    };
    let messages = cursor.read(HEADINGS, wait).await?;
    let mut closed = Vec::new();
    {
        let mut ledger = counts.ledger();
        for message in &messages {
            while let Some(earlier) = removed.first_entry().filter(|earlier| *earlier.key() < message.sequence) {
                let (entry, heading) = earlier.remove_entry();
                closed.extend(ledger.note(entry, heading, 0));
            }
            closed.extend(ledger.note(message.sequence, reading::heading(message), message.bytes));
        }
    }
    if let Some(newest) = messages.last() {
        move_tip(counts, EntryId(newest.sequence + 1));
    }
    Ok((cursor, !messages.is_empty(), closed))
}
