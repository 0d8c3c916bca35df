//! What people order of dead letters: send them again, or let them go.
//!
//! The leg stands back meanwhile ([`Shift`]), so that nobody else counts or moves letters; then all of an order is one
//! write: the letters, the counts, and the note of who ordered it. A crash leaves either all of it or nothing.

use std::sync::Arc;

use super::{DeadLetterId, Replay, delete, get, replay};
use crate::clock::SharedClock;
use crate::delivery::checkpoint::Checkpoint;
use crate::delivery::history::{Outcome, Pages};
use crate::delivery::shift::Shift;
use crate::record::Destination;
use crate::settlement::SkipRule;
use crate::store::{State, StoreError, WriteBatch, write_when_there_is_room};

#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the relay is stopping")]
    Stopping,
}

/// How many letters are read while a batch is put together.
const AT_ONCE: usize = 16;

/// Carries orders out, by way of the legs.
pub struct Orders {
    pub state: Arc<dyn State>,
    pub mixpanel: Shift,
    pub brevo: Shift,
    pub clock: SharedClock,
}

impl Orders {
    /// Sends those of `ids` again that are still held; returns how many. All of them are `destination`'s. `note` adds to the
    /// write what says who ordered it, given that number.
    pub async fn replay(
        self: Arc<Self>,
        destination: Destination,
        ids: Vec<DeadLetterId>,
        how: Replay,
        note: impl FnOnce(u64, &mut WriteBatch) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<u64, OrderError> {
        to_its_end(async move { self.send_again(destination, &ids, how, note).await }).await
    }

    async fn send_again(
        &self,
        destination: Destination,
        ids: &[DeadLetterId],
        how: Replay,
        note: impl FnOnce(u64, &mut WriteBatch) -> Result<(), StoreError>,
    ) -> Result<u64, OrderError> {
        let stood_back = self.shift(destination).stand_back().await.ok_or(OrderError::Stopping)?;
        let (mut batch, mut count) = (WriteBatch::new(), 0);
        for ids in ids.chunks(AT_ONCE) {
            for (id, letter, _) in get(&self.state, ids).await? {
                replay::send(id, letter, how, &mut batch)?;
                count += 1;
            }
        }
        note(count, &mut batch)?;
        write_when_there_is_room(self.state.as_ref(), batch).await?;
        drop(stood_back);
        Ok(count)
    }

    /// Lets those of `ids` go that are still held, and counts them as skipped; returns how many.
    pub async fn purge(
        self: Arc<Self>,
        destination: Destination,
        ids: Vec<DeadLetterId>,
        note: impl FnOnce(u64, &mut WriteBatch) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<u64, OrderError> {
        to_its_end(async move { self.let_go(destination, &ids, note).await }).await
    }

    async fn let_go(
        &self,
        destination: Destination,
        ids: &[DeadLetterId],
        note: impl FnOnce(u64, &mut WriteBatch) -> Result<(), StoreError>,
    ) -> Result<u64, OrderError> {
        let stood_back = self.shift(destination).stand_back().await.ok_or(OrderError::Stopping)?;
        let (mut batch, mut count) = (WriteBatch::new(), 0);
        let mut pages = Pages::default();
        for ids in ids.chunks(AT_ONCE) {
            for (id, ..) in get(&self.state, ids).await? {
                delete(id, &mut batch);
                pages.ended(id.position, Outcome::Skipped(SkipRule::Purged));
                count += 1;
            }
        }
        if count > 0 {
            let mut checkpoint = Checkpoint::load(&self.state, destination).await?;
            checkpoint.tally.skip(SkipRule::Purged, count);
            checkpoint.number += 1;
            pages.write(destination, checkpoint.number, self.clock.now(), &mut batch);
            checkpoint.put(destination, &mut batch)?;
        }
        note(count, &mut batch)?;
        write_when_there_is_room(self.state.as_ref(), batch).await?;
        drop(stood_back);
        Ok(count)
    }

    fn shift(&self, destination: Destination) -> &Shift {
        match destination {
            Destination::Mixpanel => &self.mixpanel,
            Destination::Brevo => &self.brevo,
        }
    }
}

/// Goes on when whoever asked has hung up: a leg that began again before the write is done would count by the old rows.
async fn to_its_end(order: impl Future<Output = Result<u64, OrderError>> + Send + 'static) -> Result<u64, OrderError> {
    match tokio::spawn(order).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down cancels.
            Err(_cancelled) => Err(OrderError::Stopping),
        },
    }
}
