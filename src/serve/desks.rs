//! What stands beside the legs: the routes that call vendors, and the worker that erases.

use std::sync::Arc;

use super::error::StartError;
use super::room::{BREVO, MIXPANEL, Room};
use crate::brevo;
use crate::cohorts;
use crate::config::{BrevoMode, OnGdprDeletion};
use crate::delivery::shift::Shift;
use crate::edge::{self, EdgeParts};
use crate::erasure::unread::Unread;
use crate::erasure::vendors::{Contacts, Vendors};
use crate::erasure::worker::{self, Forget, Worker};
use crate::erasure::{self, Desk};
use crate::mixpanel::app::AppCalls;
use crate::mixpanel::lookup::LookupCalls;
use crate::read_side::ReadSide;
use crate::vendor::stack;
use crate::webhooks;

impl Room {
    pub(super) fn app_routes(
        &self,
        desk: Arc<Desk>,
        read_side: Arc<ReadSide>,
    ) -> Result<erasure::routes::Parts, StartError> {
        let mixpanel = &self.config.mixpanel;
        Ok(erasure::routes::Parts {
            keys: self.keys.clone(),
            calls: AppCalls::new(mixpanel)?,
            stack: stack::probe_stack(self.transport.clone(), self.budgets.clone(), MIXPANEL),
            clock: self.clock.clone(),
            read_side,
            desk,
        })
    }

    pub(super) fn lookup_routes(&self) -> Result<edge::lookup_tables::Parts, StartError> {
        let mixpanel = &self.config.mixpanel;
        Ok(edge::lookup_tables::Parts {
            keys: self.keys.clone(),
            calls: LookupCalls::new(mixpanel)?,
            project_id: mixpanel.project_id.clone(),
            cors_origins: self.config.server.cors_origins.clone(),
            transport: self.transport.clone(),
            budgets: self.budgets.clone(),
            reader: MIXPANEL,
            journal: self.journal(),
            tables: self.tables.clone(),
            clock: self.clock.clone(),
        })
    }

    /// What the vendors' webhooks work with; bytes come out of the edge's budget.
    pub(super) fn webhooks(&self, edge: &EdgeParts, lists: Arc<cohorts::Desk>) -> webhooks::Shared {
        webhooks::Shared {
            config: self.config.clone(),
            journal: self.journal(),
            state: self.state(),
            clock: self.clock.clone(),
            tombstones: self.tombstones.clone(),
            lists,
            budget: edge.budget.clone(),
            limits: edge.limits,
        }
    }

    /// What carries erasures out, with the requests to stand back of both legs and the runs into lists.
    pub(super) fn eraser(
        &self,
        desk: Arc<Desk>,
        [mixpanel, brevo, lists]: [Shift; 3],
        forget: Vec<Forget>,
    ) -> Result<Worker, StartError> {
        let contacts = match (&self.config.brevo, self.config.deletion.on_gdpr_deletion) {
            (None, _) => Contacts::Keep { why: "Brevo is not configured" },
            (_, OnGdprDeletion::Keep) => Contacts::Keep { why: "on_gdpr_deletion is keep" },
            (Some(brevo), _) if brevo.mode != BrevoMode::Live => {
                Contacts::Keep { why: "connectors.brevo.mode is not live" }
            }
            (Some(brevo), OnGdprDeletion::DeleteContact) => Contacts::Delete {
                calls: Box::new(brevo::calls::Calls::new(brevo)?),
                stack: stack::probe_stack(self.transport.clone(), self.budgets.clone(), BREVO),
            },
        };
        let vendors = Vendors {
            app: AppCalls::new(&self.config.mixpanel)?,
            hidden: self.rules(&self.config.privacy.mixpanel),
            app_stack: stack::probe_stack(self.transport.clone(), self.budgets.clone(), MIXPANEL),
            contacts,
        };
        let unread = Unread {
            journal: self.journal(),
            state: self.state(),
            mode: self.config.mixpanel.identity,
            hidden: self.rules(&self.config.privacy.brevo),
            linked_by_leg: self.config.brevo.is_some(),
        };
        Ok(Worker::new(worker::Parts {
            desk,
            journal: self.journal(),
            mixpanel,
            brevo,
            lists,
            vendors,
            unread,
            forget,
            bell: self.bell.clone(),
        }))
    }
}
