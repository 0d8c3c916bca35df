//! The read side: Mixpanel's query and export APIs through one budget, for callers who only know the relay.
//!
//! It owns the query routes, their door, kept answers, single flight, and the export's splitting and resuming. It knows
//! Mixpanel's hosts and nothing of records, legs or Brevo. The budgets are [`crate::vendor::budget`]'s, shared with whoever
//! else asks with the same credentials; cohort sync, pulls and backfills come to these families with their own
//! [`crate::vendor::Priority`].
//!
//! The way of a question: [`paths`] → [`access`] → [`params`] → [`cache`] → [`flights`] → budget → [`upstream`] →
//! [`answers`]; [`query`] strings them together.
//!
//! Invariants:
//! * nothing goes to the vendor without a claim from its budget, written down before;
//! * a question that is being asked is not asked again;
//! * only answers are kept: a 200 with an error inside is none; an erasure empties all that is kept;
//! * a stream that the vendor breaks off is broken off, never ended as if whole.

mod access;
mod answers;
mod cache;
mod export;
mod flights;
mod params;
pub(crate) mod paths;
mod query;
mod routes;
#[cfg(test)]
mod tests;
mod upstream;
mod wishes;

use std::time::Duration;

use access::{Access, Caller};
use query::Memory;
use upstream::Upstream;

use crate::clock::SharedClock;
use crate::config::Config;
use crate::edge::auth::Keys;
use crate::edge::budget::Budget;
use crate::edge::intake::IntakeLimits;
use crate::mixpanel::calls::{self, BadCredentials};
use crate::vendor::budget::Budgets;
use crate::vendor::{Family, Priority};

pub use access::AccessError;
pub use export::{Days, Lines, NotExported};
pub use routes::{operations, router};

/// Part of an hour's queries that is kept for callers, in percent: a backfill or a long cohort sync leaves them that.
const CALLERS_SHARE: u64 = 25;
/// Bodies under way at once, all of them together. Scripts and lists of ids are small.
const BODIES: usize = 16 << 20;

fn intake_limits() -> IntakeLimits {
    IntakeLimits { body_bytes: 4 << 20, idle: Duration::from_secs(15), total: Duration::from_secs(60) }
}

/// Why the read side cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ReadSideError {
    #[error(transparent)]
    Credentials(#[from] BadCredentials),
    #[error("TLS for calls to the vendor cannot be set up: {0}")]
    Tls(#[from] reqwest::Error),
}

/// The room's parts, shared by every request.
pub struct ReadSide {
    access: Access,
    upstream: Upstream,
    budgets: std::sync::Arc<Budgets>,
    clock: SharedClock,
    project_id: Option<String>,
    bodies: Budget,
    memory: Memory,
}

impl ReadSide {
    /// A TLS provider must be installed in the process.
    pub fn new(
        config: &Config,
        keys: Keys,
        budgets: std::sync::Arc<Budgets>,
        clock: SharedClock,
    ) -> Result<Self, ReadSideError> {
        let mixpanel = &config.mixpanel;
        let own = calls::authorization(mixpanel)?;
        for family in [Family::MixpanelQuery, Family::MixpanelJql, Family::MixpanelExport] {
            budgets.reserve(family, Priority::Callers, CALLERS_SHARE);
        }
        let project_id = mixpanel.project_id.clone();
        Ok(Self {
            access: Access::new(keys, own, project_id.clone(), mixpanel.oauth_pass_through),
            upstream: Upstream::new(mixpanel.endpoints.clone())?,
            budgets,
            clock,
            project_id,
            bodies: Budget::new(BODIES),
            memory: Memory::default(),
        })
    }

    /// A caller's own OAuth token, where the operator lets those pass and Mixpanel knows this project by it; `None` where the
    /// caller comes with anything else.
    pub async fn passed_through(&self, headers: &http::HeaderMap) -> Result<Option<http::HeaderValue>, AccessError> {
        match self.access.caller(headers) {
            Ok(Caller::Token(token)) => Ok(Some(self.access.prove(token, &self.upstream).await?.authorization)),
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// Forgets every kept answer: somebody whom one of them may name is being erased.
    pub fn forget(&self) {
        self.memory.forget();
    }
}
