//! A leg's reading end of the journal: a task that reads ahead a little, so that the disk and the leg work at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::record::{Destination, EntryId};
use crate::store::{Entry, Journal, StoreError};

/// Decoded bytes asked for at once: a few of the journal's blocks, which fill Mixpanel's largest calls. Brevo's leg takes in
/// all that it is handed in one turn, with a person loaded, folded and written for each record: its bites are smaller.
fn read_bytes(destination: Destination) -> usize {
    match destination {
        Destination::Mixpanel => 1 << 20,
        Destination::Brevo => 256 << 10,
    }
}

/// Reads that may wait for the leg. With the one in the leg's hands and the one under way this bounds memory.
const AHEAD: usize = 1;

/// Progress is asked for again after this long even if no news came: a missed wake-up must not become a stuck leg.
const RECHECK: Duration = Duration::from_secs(1);

pub struct Source {
    entries: mpsc::Receiver<Result<Vec<Entry>, StoreError>>,
    next: EntryId,
    _reader: AbortOnDropHandle<()>,
}

impl Source {
    /// Starts reading at `from`. Must be called inside the runtime.
    pub fn start(journal: Arc<dyn Journal>, destination: Destination, from: EntryId) -> Self {
        let (send, entries) = mpsc::channel(AHEAD);
        let reader = tokio::spawn(read_on(journal, read_bytes(destination), from, send));
        Self { entries, next: from, _reader: AbortOnDropHandle::new(reader) }
    }

    /// The first entry that has not been handed out.
    pub fn next_entry(&self) -> EntryId {
        self.next
    }

    /// Waits for entries; hands each out once, in order. Cancel-safe.
    pub async fn read(&mut self) -> Result<Vec<Entry>, StoreError> {
        match self.entries.recv().await {
            Some(entries) => {
                let entries = entries?;
                self.next = entries.last().map_or(self.next, |last| last.id.next());
                Ok(entries)
            }
            None => Err(StoreError::Failed("the journal's reader has ended".to_owned())),
        }
    }
}

async fn read_on(
    journal: Arc<dyn Journal>,
    bytes: usize,
    mut next: EntryId,
    send: mpsc::Sender<Result<Vec<Entry>, StoreError>>,
) {
    let mut tip = journal.tip();
    loop {
        if *tip.borrow_and_update() > next {
            let read = journal.read(next, bytes).await;
            let failed = read.is_err();
            let last = read.as_ref().ok().and_then(|entries| entries.last()).map(|last| last.id);
            if failed || last.is_some() {
                if send.send(read).await.is_err() || failed {
                    return; // the leg is gone, or will end over this
                }
                next = last.map_or(next, EntryId::next);
                continue;
            }
        }
        // Time-out and closed channel mean the same here: look again.
        drop(tokio::time::timeout(RECHECK, tip.changed()).await);
    }
}
