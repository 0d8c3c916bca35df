//! The byte budget of requests under way (CORE 15): one pool for the whole edge, drawn on from a request's first body
//! byte, inflated, until its records are synced.
//!
//! A request draws as its body grows, not by what it announces: a caller that promises ten megabytes and sends one
//! byte a minute holds a kilobyte.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// 96 MiB.
pub const DEFAULT_BYTES: usize = 96 << 20;
/// How long a request may wait for room, all its waits together.
const PATIENCE: Duration = Duration::from_secs(1);
/// The unit of account.
const UNIT: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for another request within a second")]
pub struct NoRoom;

#[derive(Clone, Debug)]
pub struct Budget(Arc<Semaphore>);

impl Budget {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / UNIT)))
    }

    /// Starts a request's account, empty.
    pub fn open(&self) -> Account {
        Account { pool: self.0.clone(), held: None, deadline: None }
    }

    /// Bytes not in use.
    pub fn free(&self) -> usize {
        self.0.available_permits() * UNIT
    }
}

/// What one request holds; given back when dropped.
#[derive(Debug)]
pub struct Account {
    pool: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    deadline: Option<Instant>,
}

impl Account {
    fn units(&self) -> usize {
        self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Makes the account cover `bytes` in all; never shrinks it.
    pub async fn cover(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let missing = bytes.div_ceil(UNIT).saturating_sub(self.units());
        if missing == 0 {
            return Ok(());
        }
        let missing = u32::try_from(missing).map_err(|_| NoRoom)?;
        let more = match self.pool.clone().try_acquire_many_owned(missing) {
            Ok(permit) => permit,
            Err(_) => {
                let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + PATIENCE);
                let waiting = self.pool.clone().acquire_many_owned(missing);
                let permit = tokio::time::timeout_at(deadline, waiting).await.map_err(|_| NoRoom)?;
                permit.map_err(|_| NoRoom)?
            }
        };
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }

    /// Makes the account cover `bytes` more than it does.
    pub async fn add(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.cover(self.units() * UNIT + bytes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_pool_refuses_after_a_second_and_recovers() {
        let budget = Budget::new(8 * UNIT);
        let mut first = budget.open();
        first.cover(6 * UNIT).await.unwrap();
        first.cover(100).await.unwrap();
        assert_eq!(budget.free(), 2 * UNIT);

        let mut second = budget.open();
        second.cover(UNIT).await.unwrap();
        let started = Instant::now();
        assert_eq!(second.cover(4 * UNIT).await, Err(NoRoom));
        assert_eq!(started.elapsed(), PATIENCE);

        drop(first);
        second.cover(4 * UNIT).await.unwrap();
        second.add(1).await.unwrap();
        assert_eq!(budget.free(), 3 * UNIT);
        drop(second);
        assert_eq!(budget.free(), 8 * UNIT);
    }
}
