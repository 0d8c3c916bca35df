//! Whether the servers take appends, as far as this relay has seen: what `/readyz` says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};

use super::link::Link;
use crate::store::AppendError;

/// Between two looks at servers that have refused.
const LOOK: Duration = Duration::from_secs(1);

/// Why the servers did not take something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// The stream, or the account's storage, is full.
    #[error("{0}")]
    Full(String),
    /// Nobody is there, or nobody may decide. Later is better.
    #[error("{0}")]
    Away(String),
}

impl Trouble {
    pub(super) fn of(error: &PublishError) -> Self {
        let told = std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>());
        match told {
            Some(told) if is_full(told.error_code()) => Trouble::Full(told.to_string()),
            Some(told) => Trouble::Away(told.to_string()),
            None if error.kind() == PublishErrorKind::StreamNotFound => {
                Trouble::Away("no server answers for the stream".to_owned())
            }
            None => Trouble::Away(error.to_string()),
        }
    }

    /// Whether trying again at once cannot help.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Trouble::Full(_))
    }
}

/// What a server says when there is no room: by stream, by account, by itself.
fn is_full(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::STREAM_STORE_FAILED
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
    )
}

impl From<Trouble> for AppendError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Full(why) => AppendError::Full(why),
            Trouble::Away(why) => AppendError::Unavailable(why),
        }
    }
}

/// The last that was seen.
pub(super) struct Health {
    trouble: Mutex<Option<Trouble>>,
}

impl Health {
    /// Looks again by itself while there is trouble: nobody who sends is sent here meanwhile.
    pub(super) fn watch(link: Link) -> Arc<Self> {
        let health = Arc::new(Self { trouble: Mutex::new(None) });
        let watched = Arc::downgrade(&health);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(health) = watched.upgrade() else { return };
                health.look(&link).await;
            }
        });
        health
    }

    async fn look(&self, link: &Link) {
        if !link.connected() {
            self.ill(Trouble::Away("the connection to the servers is lost".to_owned()));
        } else if self.trouble().is_some() {
            match link.context.get_stream(link.names.journal_stream()).await {
                Ok(stream) => {
                    let info = stream.cached_info();
                    let most = u64::try_from(info.config.max_bytes).unwrap_or(u64::MAX);
                    let led = info.cluster.as_ref().is_none_or(|cluster| cluster.leader.is_some());
                    if led && info.state.bytes < most {
                        self.well();
                    }
                }
                Err(error) => self.ill(Trouble::Away(error.to_string())),
            }
        }
    }

    pub(super) fn well(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn ill(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
    }

    pub(super) fn check(&self) -> Result<(), AppendError> {
        self.trouble().map_or(Ok(()), |trouble| Err(trouble.into()))
    }

    fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
