//! Both legs, built from the room, and run in shifts.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::DRAIN;
use super::error::{RunError, StartError};
use super::room::{BREVO, MIXPANEL, Room};
use crate::brevo;
use crate::config::{self, BrevoMode};
use crate::delivery::brevo_leg::{self, BaseSource, BrevoLeg, MixpanelBases};
use crate::delivery::mixpanel_leg::{self, MixpanelLeg};
use crate::delivery::shift::{self, Requests};
use crate::delivery::status::LegStatus;
use crate::mapping::CompiledMapping;
use crate::mixpanel;
use crate::vendor::gate::SharedGate;
use crate::vendor::stack;

impl Room {
    pub(super) async fn mixpanel_shifts(
        self,
        first: MixpanelLeg,
        status: LegStatus,
        requests: Requests,
        shutdown: CancellationToken,
    ) -> Result<(), RunError> {
        let mut first = Some(first);
        let begin = |over: CancellationToken| {
            let (first, room, status) = (first.take(), &self, &status);
            async move {
                let leg = match first {
                    Some(leg) => leg,
                    None => room.mixpanel_leg(status).await?,
                };
                let ended = leg.run(over, DRAIN);
                Ok(async move { ended.await.map_err(|source| RunError::Leg { name: "Mixpanel leg", source }) })
            }
        };
        shift::run(requests, shutdown, begin).await
    }

    pub(super) async fn brevo_shifts(
        self,
        first: BrevoLeg,
        (status, mixpanel): (LegStatus, LegStatus),
        requests: Requests,
        shutdown: CancellationToken,
    ) -> Result<(), RunError> {
        let mut first = Some(first);
        let begin = |over: CancellationToken| {
            let (first, room, status, mixpanel) = (first.take(), &self, &status, &mixpanel);
            async move {
                let leg = match first {
                    Some(leg) => leg,
                    None => room.brevo_leg(status, mixpanel).await?,
                };
                let ended = leg.run(over, DRAIN);
                Ok(async move { ended.await.map_err(|source| RunError::Leg { name: "Brevo leg", source }) })
            }
        };
        shift::run(requests, shutdown, begin).await
    }

    pub(super) async fn mixpanel_leg(&self, status: &LegStatus) -> Result<MixpanelLeg, StartError> {
        let settings: &config::Mixpanel = &self.config.mixpanel;
        let gate = status.shared_gate();
        let (books, source) = self.books(status).await?;
        let reader = MIXPANEL;
        let parts = mixpanel_leg::Parts {
            state: self.state(),
            source,
            books,
            status: status.clone(),
            calls: mixpanel::calls::Calls::new(settings)?,
            stack: stack::build(self.transport.clone(), gate, self.budgets.clone(), reader),
            probe: stack::probe_stack(self.transport.clone(), self.budgets.clone(), reader),
            clock: self.clock.clone(),
            privacy: self.rules(&self.config.privacy.mixpanel).map(Arc::new),
            settings: mixpanel_leg::Settings {
                enabled: settings.enabled,
                identity: settings.identity,
                max_dead_letter_bytes: self.config.retention.dead_letter_bytes,
                keep_dead_letters: self.config.retention.dead_letters,
            },
        };
        Ok(MixpanelLeg::new(parts))
    }

    pub(super) async fn brevo_leg(&self, status: &LegStatus, mixpanel: &LegStatus) -> Result<BrevoLeg, StartError> {
        let gate = status.shared_gate();
        let (books, source) = self.books(status).await?;
        let reader = BREVO;
        let companies = Arc::new(SharedGate::default());
        let vendor = match &self.config.brevo {
            Some(brevo) => Some(brevo_leg::VendorParts {
                calls: brevo::calls::Calls::new(brevo)?,
                stack: stack::build(self.transport.clone(), gate, self.budgets.clone(), reader),
                probe: stack::probe_stack(self.transport.clone(), self.budgets.clone(), reader),
                budgets: self.budgets.clone(),
                companies: brevo_leg::CompanyVendor {
                    stack: stack::build(self.transport.clone(), companies.clone(), self.budgets.clone(), reader),
                    gate: companies,
                },
                imports: self.imports.clone(),
            }),
            None => None,
        };
        let mapping = self.mapping.now().mapping.clone();
        let bases = self.bases(&mapping, mixpanel)?;
        let parts = brevo_leg::Parts {
            journal: self.journal(),
            state: self.state(),
            source,
            books,
            status: status.clone(),
            vendor,
            bases,
            mapping,
            clock: self.clock.clone(),
            forecast: self.forecast.clone(),
            settings: brevo_leg::Settings {
                mode: self.config.brevo.as_ref().map_or(BrevoMode::Observe, |brevo| brevo.mode),
                pilot_emails: self.config.brevo.iter().flat_map(|brevo| brevo.pilot_emails.clone()).collect(),
                create_attributes: self.config.brevo.as_ref().is_some_and(|brevo| brevo.create_attributes),
                on_consent_withdrawn: self.config.privacy.on_consent_withdrawn,
                identity: self.config.mixpanel.identity,
                dedup_window: self.config.dedup_window,
                echoes: self.config.webhooks.mixpanel.is_some(),
                parking: self.config.parking,
                max_dead_letter_bytes: self.config.retention.dead_letter_bytes,
                keep_dead_letters: self.config.retention.dead_letters,
                unseen_people: self.config.retention.unseen_people,
            },
        };
        Ok(BrevoLeg::open(parts).await?)
    }

    /// Where the values are read that profile operators need.
    pub(super) fn bases(&self, mapping: &CompiledMapping, leg: &LegStatus) -> Result<BaseSource, StartError> {
        let mixpanel = &self.config.mixpanel;
        let calls = mixpanel::calls::Calls::new(mixpanel)?;
        if !mixpanel.enabled || !calls.can_query() {
            return Ok(BaseSource::Brevo);
        }
        let rules = self.rules(&self.config.privacy.mixpanel);
        Ok(BaseSource::Mixpanel(Box::new(MixpanelBases {
            calls,
            stack: stack::probe_stack(self.transport.clone(), self.budgets.clone(), MIXPANEL),
            budgets: self.budgets.clone(),
            delivered: leg.durable_cursor(),
            settle: brevo_leg::SETTLE,
            properties: brevo_leg::unchanged_at_mixpanel(mapping, rules.as_ref()),
        })))
    }
}
