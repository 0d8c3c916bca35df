//! What reads at Mixpanel by itself, and its way into the journal.

use std::sync::Arc;

use super::error::StartError;
use super::room::{MIXPANEL, Room};
use crate::delivery::brevo_leg;
use crate::delivery::status::LegStatus;
use crate::feed::Feed;
use crate::mixpanel::calls::Calls;
use crate::pulls::{Parts, ProfileSource, Pulls, Wanted};
use crate::read_side::ReadSide;
use crate::vendor::stack;

impl Room {
    /// `brevo`: that leg's status, which sets the pace.
    pub(super) fn feed(&self, brevo: &LegStatus) -> Arc<Feed> {
        Arc::new(Feed::new(self.journal(), self.tombstones.clone(), brevo.clone(), self.clock.clone()))
    }

    /// What is read of a profile is settled here; a mapping that is reloaded counts for events at once.
    pub(super) fn pulls(&self, feed: Arc<Feed>, exports: Arc<ReadSide>) -> Result<Arc<Pulls>, StartError> {
        let mapping = self.mapping.now().mapping.clone();
        let calls = Calls::new(&self.config.mixpanel)?;
        let rules = self.rules(&self.config.privacy.mixpanel);
        let wanted = Wanted::new(&mapping, brevo_leg::unchanged_at_mixpanel(&mapping, rules.as_ref()));
        let profiles = calls.can_query().then(|| ProfileSource {
            calls,
            stack: stack::probe_stack(self.transport.clone(), self.budgets.clone(), MIXPANEL),
            budgets: self.budgets.clone(),
            wanted,
        });
        Ok(Pulls::new(Parts {
            state: self.state(),
            clock: self.clock.clone(),
            feed,
            mapping: self.mapping.clone(),
            budgets: self.budgets.clone(),
            profiles,
            exports,
            every: self.config.sync_profiles_every,
            brevo: self.config.brevo.is_some(),
        }))
    }
}
