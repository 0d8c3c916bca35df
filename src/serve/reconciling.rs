//! What compares days with the vendors' own counts.

use std::sync::Arc;

use super::error::StartError;
use super::room::{BREVO, MIXPANEL, Room};
use crate::config::BrevoMode;
use crate::delivery::status::LegStatus;
use crate::reconciliation::{self, BrevoSide, MixpanelSide, Reconciler};
use crate::vendor::stack;
use crate::{brevo, mixpanel};

impl Room {
    pub(super) fn reconciler(&self, legs: &[LegStatus]) -> Result<Arc<Reconciler>, StartError> {
        let attempt = |reader| stack::probe_stack(self.transport.clone(), self.budgets.clone(), reader);
        let calls = mixpanel::calls::Calls::new(&self.config.mixpanel)?;
        let asks = self.config.mixpanel.enabled && calls.can_query();
        let brevo = match self.config.brevo.as_ref().filter(|brevo| brevo.mode != BrevoMode::Observe) {
            Some(brevo) => Some(BrevoSide { calls: brevo::calls::Calls::new(brevo)?, attempt: attempt(BREVO) }),
            None => None,
        };
        Ok(Reconciler::new(reconciliation::Parts {
            state: self.state(),
            clock: self.clock.clone(),
            timezone: self.config.mixpanel.timezone.clone(),
            mixpanel: asks.then(|| MixpanelSide { calls, attempt: attempt(MIXPANEL), budgets: self.budgets.clone() }),
            brevo,
            legs: legs.to_vec(),
        }))
    }
}
