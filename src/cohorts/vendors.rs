//! The calls of a run: behind live traffic, tried again until there is a definite answer.
//!
//! Brevo's go past the leg's own gate, so that a destination that is paused by hand is left alone, and a run's troubles
//! (a list that cannot be read) never hold up the leg.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{RwLock, RwLockWriteGuard};
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use crate::brevo;
use crate::brevo::calls::Calls as BrevoCalls;
use crate::delivery::brevo_leg::ImportTurn;
use crate::mixpanel::calls::Calls as MixpanelCalls;
use crate::mixpanel::quota;
use crate::store::StoreError;
use crate::vendor::budget::Budgets;
use crate::vendor::gate::SharedGate;
use crate::vendor::stack::Stack;
use crate::vendor::{Priority, TransportError, VendorAnswer, VendorRequest, Verdict};

/// First wait after an attempt without a definite answer; doubles up to [`LAST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(60);
/// Attempts of one query: about an hour. The next run of a plan asks again anyway.
const QUERY_ATTEMPTS: u32 = 64;

/// Brevo, as runs use it.
#[derive(Clone)]
pub struct BrevoSide {
    pub calls: BrevoCalls,
    /// Answers only what is definite, however long that takes.
    pub stack: Stack,
    /// Imports must not run side by side with the leg's.
    pub imports: ImportTurn,
    /// Each attempt reads it; whoever writes it lets none begin.
    wire: Arc<RwLock<()>>,
}

impl BrevoSide {
    /// `attempt`: one attempt, budget included; `gate`: the leg's.
    pub fn new(calls: BrevoCalls, attempt: Stack, gate: Arc<SharedGate>, imports: ImportTurn) -> Self {
        let wire = Arc::new(RwLock::new(()));
        let attempts = wire.clone();
        let stack = tower::service_fn(move |request: VendorRequest| {
            let (attempt, gate, wire) = (attempt.clone(), gate.clone(), attempts.clone());
            persist(request, attempt, gate, wire)
        });
        Self { calls, stack: BoxCloneSyncService::new(stack), imports, wire }
    }

    /// Begins no attempt as long as what it returns is held, and waits for those under way, which take until `patience` at
    /// the most.
    pub(super) async fn silent(&self, patience: Duration) -> Option<RwLockWriteGuard<'_, ()>> {
        tokio::time::timeout(patience, self.wire.write()).await.ok()
    }

    pub(super) async fn call(&self, request: VendorRequest) -> Result<VendorAnswer, TransportError> {
        self.stack.clone().oneshot(request).await
    }
}

async fn persist(
    mut request: VendorRequest,
    attempt: Stack,
    gate: Arc<SharedGate>,
    wire: Arc<RwLock<()>>,
) -> Result<VendorAnswer, TransportError> {
    request.priority = Priority::Cohorts;
    let (mut wait, mut doubtful) = (FIRST_WAIT, 0);
    loop {
        gate.passed().await;
        let on_the_wire = wire.read().await;
        let result = attempt.clone().oneshot(request.clone()).await;
        drop(on_the_wire);
        let hint = match result {
            Err(error @ (TransportError::Store(_) | TransportError::TooLong(_))) => return Err(error),
            Err(error) => {
                doubtful += u32::from(error.doubtful());
                None
            }
            Ok(mut answer) => match brevo::outcome::judge(&answer) {
                Verdict::Definite => {
                    answer.doubtful = doubtful;
                    return Ok(answer);
                }
                Verdict::RateLimited { after } => after,
                Verdict::Pause(cause) => {
                    tracing::warn!(advice = cause.advice(), "Brevo refuses the calls of a list; they are tried again");
                    Some(LAST_WAIT)
                }
                Verdict::Retry => {
                    doubtful += 1;
                    None
                }
            },
        };
        tokio::time::sleep(hint.unwrap_or(wait)).await;
        wait = (wait * 2).min(LAST_WAIT);
    }
}

/// Why Mixpanel has not answered a query.
#[derive(Debug, thiserror::Error)]
pub enum NotAnswered {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Mixpanel's answer is too long")]
    TooLong,
    #[error("Mixpanel does not answer: {0}")]
    Silent(String),
}

/// Mixpanel's query side, as runs use it.
#[derive(Clone)]
pub struct MixpanelSide {
    pub calls: MixpanelCalls,
    /// One attempt, budget included.
    pub attempt: Stack,
    pub budgets: Arc<Budgets>,
}

impl MixpanelSide {
    /// A definite answer, which may be a refusal.
    pub async fn ask(&self, mut request: VendorRequest) -> Result<VendorAnswer, NotAnswered> {
        request.priority = Priority::Cohorts;
        let (mut wait, mut last) = (FIRST_WAIT, String::new());
        for _ in 0..QUERY_ATTEMPTS {
            match self.attempt.clone().oneshot(request.clone()).await {
                Err(TransportError::Store(error)) => return Err(error.into()),
                Err(TransportError::TooLong(_)) => return Err(NotAnswered::TooLong),
                Err(error) => last = error.to_string(),
                // The budget rests by itself after this; the next attempt waits its turn there.
                Ok(answer) if answer.status == 429 => {
                    let overrun = quota::overrun(&answer.headers, &answer.body);
                    self.budgets.overrun(request.family, overrun).await?;
                    continue;
                }
                Ok(answer) if answer.status.is_server_error() || answer.status == 408 => {
                    last = format!("{} {}", answer.status.as_u16(), answer.excerpt(200));
                }
                Ok(answer) => return Ok(answer),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_WAIT);
        }
        Err(NotAnswered::Silent(last))
    }
}

/// Both. Without Brevo nothing can be run; without a service account only what is pushed.
#[derive(Clone)]
pub struct Vendors {
    pub brevo: Option<BrevoSide>,
    pub mixpanel: Option<MixpanelSide>,
}
