//! Checkpoint pages: what has changed, written down together; and what may leave memory once it is.

use std::time::Duration;

use tokio::time::Instant;

use super::BrevoLeg;
use crate::delivery::books::HeldOutside;
use crate::delivery::checkpoint::Writing;
use crate::delivery::{LegError, patience};
use crate::record::Position;

/// Changed people from which on a checkpoint is written at once: what is written in one go, a live event waits for.
const PAGE_OF: usize = 1_000;

impl BrevoLeg {
    /// Nothing begins while what has happened cannot be written down.
    pub(super) fn is_held_back(&self) -> bool {
        self.writing.as_ref().is_some_and(Writing::is_overdue)
    }

    pub(super) fn may_write(&self) -> bool {
        self.writing.is_none() && (self.parts.books.is_dirty() || self.roster.is_dirty() || self.companies.is_dirty())
    }

    /// Whether so many have changed that nobody should be changed on purpose before they are written down.
    pub(super) fn page_is_full(&self) -> bool {
        self.roster.dirty() >= PAGE_OF
    }

    pub(super) fn checkpoint(&mut self) -> Result<(), LegError> {
        let today = self.today();
        self.roster.put_changes(self.parts.books.pending_mut(), today)?;
        self.companies.put_changes(self.parts.books.pending_mut())?;
        let (batch, cursor) = self.parts.books.close_page(self.parts.clock.now())?;
        self.writing = Some(Writing::begin(self.parts.state.clone(), batch, (self.page, cursor)));
        self.page += 1;
        Ok(())
    }

    pub(super) fn written(&mut self, (page, cursor): (u64, Position)) {
        self.durable_page = page;
        self.parts.status.set_durable_cursor(cursor);
        self.forget_unshelved(page);
        self.queues.retain(|_, queue| !queue.idle() || queue.shelved_page > page);
        // What a look-up under way was too early to see in the store has to be known here until it is back.
        let seen = self.receiving.map_or(page, |began| began.min(page));
        self.window.written(seen, self.parts.clock.now(), self.parts.books.pending_mut());
        if std::mem::take(&mut self.more_unseen) {
            self.look_for_unseen();
        }
        if std::mem::take(&mut self.more_overdue) {
            self.look_for_overdue();
        }
    }

    /// Whether people are on the way from the store or to it.
    pub(super) fn on_the_way(&self) -> bool {
        self.receiving.is_some()
            || self.bases.looking()
            || self.companies.busy()
            || self.search.reading
            || self.importing.loading()
            || self.looking_for_overdue
            || self.looking_for_unseen
            || self.writing.is_some()
    }

    /// Keeps the people in memory to their bound. Nobody may be on the way from the store or to it: who is read back
    /// would be as they were, and who is expected to be here would be made anew.
    pub(super) fn let_go(&mut self) {
        if !self.on_the_way() {
            self.companies.let_go();
            let (queues, bases) = (&self.queues, &self.bases);
            self.roster.let_go(|id| queues.contains_key(id) || bases.holds(id));
        }
    }

    pub(super) fn publish(&self) {
        let companies = self.companies.standing();
        let groups_on = self.parts.mapping.sync.groups && self.parts.vendor.is_some();
        let oldest = self.owed_since.oldest().into_iter().chain(self.listed_since.oldest()).min();
        let held = HeldOutside {
            parked: self.parked + self.bases.records,
            owed: self.owed + companies.records,
            oldest: [oldest, companies.oldest].into_iter().flatten().min(),
            groups: groups_on.then_some(companies),
        };
        self.parts.status.publish(self.parts.books.snapshot(self.parts.source.next_entry(), held));
    }

    /// Nothing new goes out; what is under way may come back, and all of it is written down.
    pub(super) async fn drain(mut self, drain: Duration) -> Result<(), LegError> {
        let deadline = Instant::now() + patience(self.parts.status.gate(), drain);
        while self.payments_under_way.all() + self.events_under_way.all() + self.listings_under_way > 0 {
            match tokio::time::timeout_at(deadline, self.under_way.join_next()).await {
                Ok(Some(done)) => self.take_back(done??)?,
                Ok(None) | Err(_) => break,
            }
        }
        if let Some(writing) = self.writing.take() {
            let written = writing.within(drain).await?;
            self.written(written);
        }
        self.checkpoint()?;
        if let Some(writing) = self.writing.take() {
            let written = writing.within(drain).await?;
            self.written(written);
        }
        self.publish();
        Ok(())
    }
}
