//! Why a relay did not start, and why a running one ended.

use crate::admin::auth::AdminTokenError;
use crate::brevo;
use crate::delivery::LegError;
use crate::edge::{DoorsError, EdgeError};
use crate::erasure::desk::AskError;
use crate::in_force::MappingRefused;
use crate::mixpanel;
use crate::read_side::ReadSideError;
use crate::store::CursorAhead;
use crate::store::StoreError;
use crate::store::sqlite::OpenError;
use crate::tables::CatalogError;

/// Why the relay did not start. Nothing listens then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Erasures(#[from] AskError),
    #[error(transparent)]
    Cursor(#[from] CursorAhead),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Doors(#[from] DoorsError),
    #[error("cannot set up TLS for outgoing calls: {0}")]
    Tls(#[from] reqwest::Error),
    #[error(transparent)]
    MixpanelCredentials(#[from] mixpanel::calls::BadCredentials),
    #[error(transparent)]
    BrevoCredentials(#[from] brevo::calls::BadApiKey),
    #[error(transparent)]
    Mapping(#[from] MappingRefused),
    #[error(transparent)]
    Leg(#[from] LegError),
    #[error(transparent)]
    AdminToken(#[from] AdminTokenError),
    #[error(transparent)]
    Tables(#[from] CatalogError),
    #[error(transparent)]
    Edge(#[from] EdgeError),
    #[error(transparent)]
    ReadSide(#[from] ReadSideError),
    #[error("the system has no randomness to give to the console's sessions: {0}")]
    Console(getrandom::Error),
    #[error("a task ended while the relay was starting: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Why a running relay ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the {name} ended: {source}")]
    Leg { name: &'static str, source: LegError },
    #[error("a leg did not begin again: {0}")]
    Again(#[from] StartError),
    #[error("an erasure met a failed store: {0}")]
    Eraser(StoreError),
    #[error("the alerts met a failed store: {0}")]
    Alerts(StoreError),
    #[error("bringing a cohort into its list met a failed store: {0}")]
    Lists(StoreError),
    #[error("a pull from Mixpanel met a failed store: {0}")]
    Puller(StoreError),
    #[error("comparing a day with the vendors' counts met a failed store: {0}")]
    Reconciler(StoreError),
    #[error("trimming the journal failed: {0}")]
    Trimmer(StoreError),
    #[error(
        "the store has failed: records are safe up to the last acknowledged one; the next start says what it finds"
    )]
    StoreFailed,
    #[error("a listener failed: {0}")]
    Listener(std::io::Error),
    #[error("a task died: {0}")]
    Task(#[from] tokio::task::JoinError),
}
