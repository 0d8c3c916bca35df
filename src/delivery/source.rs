//! A leg's reading end of the journal.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::record::EntryId;
use crate::store::{Entry, Journal, StoreError};

/// Decoded bytes asked for at once: a few of the journal's blocks.
const READ_BYTES: usize = 1 << 20;

/// Progress is asked for again after this long even if no news came: a missed wake-up must not become a stuck leg.
const RECHECK: Duration = Duration::from_secs(1);

pub struct Source {
    journal: Arc<dyn Journal>,
    tip: watch::Receiver<EntryId>,
    next: EntryId,
}

impl Source {
    pub fn new(journal: Arc<dyn Journal>, from: EntryId) -> Self {
        let tip = journal.tip();
        Self { journal, tip, next: from }
    }

    /// The first entry that has not been handed out.
    pub fn next_entry(&self) -> EntryId {
        self.next
    }

    /// Waits for entries, hands them out once, in order. Cancel-safe: dropping the future hands nothing out.
    pub async fn read(&mut self) -> Result<Vec<Entry>, StoreError> {
        loop {
            if *self.tip.borrow_and_update() > self.next {
                let entries = self.journal.read(self.next, READ_BYTES).await?;
                if let Some(last) = entries.last() {
                    self.next = last.id.next();
                    return Ok(entries);
                }
            }
            // Time-out and closed channel mean the same here: look again.
            drop(tokio::time::timeout(RECHECK, self.tip.changed()).await);
        }
    }
}
