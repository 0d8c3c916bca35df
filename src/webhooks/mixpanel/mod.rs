//! What Mixpanel pushes: its event streams and cohorts, for Brevo only.
//!
//! `POST /webhooks/mixpanel/events` takes events that did not pass the relay, so that a user can start without releasing an
//! app. Those that did pass it come back in the same stream, and are known there by their `$insert_id`: an event that came
//! from Brevo at once, by the form of its id; an app's by the dedup window of the Brevo leg, where it stands in front.

pub mod cohorts;
pub(crate) mod page;
pub(crate) mod streamed;

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{Response, request};

use self::streamed::{Streamed, Unusable};
use super::brevo::records::is_own_insert_id;
use super::door::{Door, Refusal};
use super::taken::Taken;
use super::{Shared, erase_if};
use crate::record::{Destinations, Origin, Project, Record};
use crate::telemetry::Webhook;

/// Events in one body: Mixpanel flushes at 500 (Mixpanel contract §12.2).
const MAX_ITEMS: usize = 5_000;

pub struct EventStream {
    shared: Arc<Shared>,
    door: Door,
}

impl EventStream {
    pub fn new(shared: Arc<Shared>) -> Self {
        let door = Door::of_login("webhooks.mixpanel", shared.config.webhooks.mixpanel.as_ref());
        Self { shared, door }
    }

    pub async fn answer(&self, head: request::Parts, body: Body) -> Response<Body> {
        match self.take(&head, body).await {
            Ok(taken) => taken.into_response(),
            Err(refusal) => refusal.into_response(),
        }
    }

    /// Everything that can be used is stored in one append, or nothing is: any answer but a success brings the whole batch
    /// back.
    async fn take(&self, head: &request::Parts, body: Body) -> Result<Taken, Refusal> {
        let mixpanel = &self.shared.config.mixpanel;
        let (project_id, token) = (mixpanel.project_id.clone(), mixpanel.project_tokens.first().cloned());
        let read = move |body: &Bytes| read(body, project_id.as_deref(), token.as_deref().unwrap_or_default());
        let (items, account) = self.shared.receive(&self.door, head, body, read).await?;
        // Held until the records are stored: an erasure waits for those that were judged before it.
        let erased = self.shared.tombstones.now();
        let received_at = self.shared.clock.now();
        let (mut records, mut taken) = (Vec::new(), Taken::default());
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Ok(event) if is_own_insert_id(&event.insert_id) => taken.echoes += 1,
                Ok(event) => {
                    let mut record = Record {
                        kind: event.kind,
                        origin: Origin::MixpanelStream,
                        destinations: Destinations::BREVO,
                        project: Project::Ours,
                        received_at,
                        body: Bytes::from(event.body.to_string()),
                    };
                    erase_if(&erased, &mut record);
                    records.push(record);
                    taken.stored += 1;
                }
                Err(unusable) => taken.refuse(index, unusable.label(), &unusable),
            }
        }
        self.shared.append(records, account).await?;
        drop(erased);
        taken.count(Webhook::MixpanelEvents);
        Ok(taken)
    }
}

fn read(body: &Bytes, project_id: Option<&str>, token: &str) -> Result<Vec<Result<Streamed, Unusable>>, Refusal> {
    let items: serde_json::Value = serde_json::from_slice(body)
        .map_err(|_| Refusal::BadBody("is not JSON: see that the template renders to it"))?;
    let items = match items {
        serde_json::Value::Array(items) => items,
        item @ serde_json::Value::Object(_) => vec![item],
        _ => return Err(Refusal::BadBody("is neither an array of objects nor one of them")),
    };
    if items.len() > MAX_ITEMS {
        return Err(Refusal::TooLarge);
    }
    Ok(items.into_iter().map(|item| streamed::read(item, project_id, token)).collect())
}

#[cfg(test)]
mod cohorts_tests;
#[cfg(test)]
mod tests;
