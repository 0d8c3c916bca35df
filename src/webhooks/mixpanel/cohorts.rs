//! `POST /webhooks/mixpanel/cohorts`: a cohort that Mixpanel pushes, page by page, into its lists at Brevo.
//!
//! A page is answered with success once `cohorts::Desk` has it on disk; what becomes of the list is the list engine's
//! affair. The answer is the one that Mixpanel shows people (Mixpanel contract §12.1). 400, 401, 403 and 404 switch the
//! sync off there, so they are kept for what somebody has to put right at Mixpanel.

use std::sync::Arc;

use axum::body::Body;
use axum::response::IntoResponse as _;
use bytes::Bytes;
use http::{Response, StatusCode, request};
use serde_json::{Value, json};

use super::super::Shared;
use super::super::door::{Door, Refusal};
use super::page::Page;
use crate::cohorts::{AskError, Order, Push, PushError, Source, Trigger};
use crate::telemetry::{self, Pushed, Webhook};

/// Seconds until Mixpanel is to come again; it tries five times in a minute, and then at its next slot.
const RETRY_AFTER: u32 = 5;

pub struct CohortSyncs {
    shared: Arc<Shared>,
    door: Door,
}

impl CohortSyncs {
    pub fn new(shared: Arc<Shared>) -> Self {
        let door = Door::of_login("webhooks.mixpanel", shared.config.webhooks.mixpanel.as_ref());
        Self { shared, door }
    }

    pub async fn answer(&self, head: request::Parts, body: Body) -> Response<Body> {
        let mut action = Value::Null;
        let Err(refusal) = self.take(&head, body, &mut action).await else {
            return (StatusCode::OK, axum::Json(json!({ "action": action, "status": "success" }))).into_response();
        };
        let status = refusal.status();
        let error = json!({ "message": refusal.to_string(), "code": status.as_u16() });
        let answer = json!({ "action": action, "status": "failure", "error": error });
        let mut response = (status, axum::Json(answer)).into_response();
        refusal.put_headers(response.headers_mut());
        response
    }

    async fn take(&self, head: &request::Parts, body: Body, action: &mut Value) -> Result<(), Refusal> {
        let project_id = self.shared.config.mixpanel.project_id.clone();
        let read = move |body: &Bytes| {
            let mut body: Value = serde_json::from_slice(body).map_err(|_| Refusal::BadBody("is not JSON"))?;
            let word = body["action"].clone();
            Ok((word, Page::read(&mut body, project_id.as_deref())))
        };
        let ((word, page), account) = self.shared.receive(&self.door, head, body, read).await?;
        *action = word;
        let page = page.map_err(|error| Refusal::BadBody(error.words()))?;
        let config = &self.shared.config;
        let Some(targets) = page.targets(&config.cohorts.cohorts, &config.mapping.lists) else {
            tracing::warn!(cohort = page.cohort, "a pushed cohort has no list: add it to cohorts");
            return Err(Refusal::Later { why: "no list is configured for this cohort", retry_after: RETRY_AFTER });
        };
        let members = page.members.len() as u64;
        if !page.is_empty_difference() {
            for (list, mode) in targets {
                let source = Source::Pushed { id: page.cohort, session: page.session.clone() };
                let (of_a_mirror, trigger) = (page.action.is_of_mirrors(), Trigger::Webhook);
                let push = Push {
                    order: Order { source, list, mode, force: false, of_a_mirror, dry_run: false, trigger },
                    name: page.name.clone(),
                    page: page.page,
                    pages: page.pages,
                    members: page.members.clone(),
                };
                self.shared.lists.push(push).await?;
            }
        }
        drop(account);
        telemetry::pushed(Webhook::MixpanelCohorts, Pushed::Stored, members);
        Ok(())
    }
}

impl From<PushError> for Refusal {
    fn from(error: PushError) -> Self {
        let why = match error {
            PushError::NoSuchPage { .. } => return Refusal::BadBody("counts pages that cannot be"),
            PushError::Ask(AskError::Store(error)) => return error.into(),
            PushError::Ask(AskError::Off) => "cohorts are switched off here, or Brevo is not configured",
            PushError::Ask(AskError::Busy) => "too many list runs wait already",
        };
        Refusal::Later { why, retry_after: RETRY_AFTER }
    }
}
