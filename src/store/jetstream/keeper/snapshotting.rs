//! Having snapshots made beside the work.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Keeper;
use crate::store::StoreError;
use crate::store::jetstream::snapshots;

/// A snapshot is made when the log has grown by this since the last one, or by the last one's size if that is more.
const SNAPSHOT_BYTES: u64 = 64 << 20;
/// Between two tries to make one.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);

impl Keeper {
    pub(super) fn begin_snapshot(&mut self) {
        let due = self.log_bytes >= SNAPSHOT_BYTES.max(self.snapshot.size)
            && self.snapshot.tried.is_none_or(|tried| tried.elapsed() >= SNAPSHOT_EVERY);
        let wanted = !self.snapshot.waiting.is_empty();
        if self.snapshot.job.is_some() || !(due || wanted) {
            return;
        }
        self.snapshot.tried = Some(Instant::now());
        self.snapshot.served = std::mem::take(&mut self.snapshot.waiting);
        self.log_bytes = 0;
        let (link, replica) = (self.link.clone(), self.replica.clone());
        self.snapshot.job = Some(tokio::spawn(async move {
            if wanted {
                replica.scrub().await?;
            }
            snapshots::make(&link, &replica, wanted).await
        }));
    }

    pub(super) fn take_up_snapshot(&mut self, made: Result<u64, StoreError>) {
        self.snapshot.job = None;
        match &made {
            Ok(at) => {
                tracing::info!(at, "a snapshot of the state was made");
                self.snapshot.size = self.replica.size();
            }
            Err(error) => tracing::warn!(%error, "no snapshot of the state could be made"),
        }
        // Not made is not scrubbed: whoever asked tries again.
        let scrubbed = made.is_ok();
        self.snapshot.served.drain(..).for_each(|reply| drop(reply.send(Ok(scrubbed))));
    }
}

/// What came of the job; never ends when there is none.
pub(super) async fn made(job: &mut Option<JoinHandle<Result<u64, StoreError>>>) -> Result<u64, StoreError> {
    match job {
        Some(job) => {
            job.await.unwrap_or_else(|error| Err(StoreError::Failed(format!("a snapshot was broken off: {error}"))))
        }
        None => std::future::pending().await,
    }
}
