//! `POST /webhooks/brevo`: what becomes of mails and contacts at Brevo, onto the timelines of people at Mixpanel.
//!
//! The way of a push: [`push`] reads it, `people::address_book` says whose it is, [`records`] puts it into Mixpanel's
//! terms, the journal stores it, and then it is answered. Its records are for Mixpanel only (CORE 9).

pub(crate) mod push;
pub mod records;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{Response, request};

use self::push::{Push, Unusable};
use self::records::Naming;
use super::door::{Door, Refusal};
use super::taken::Taken;
use super::{Shared, erase_if};
use crate::people::address_book::{self, Sought};
use crate::people::roster::PersonId;
use crate::telemetry::Webhook;

/// Things in one body: Brevo puts up to 500 into a batch (Brevo contract §8.3).
const MAX_ITEMS: usize = 5_000;

pub struct BrevoWebhook {
    shared: Arc<Shared>,
    door: Door,
    naming: Naming,
}

impl BrevoWebhook {
    pub fn new(shared: Arc<Shared>) -> Self {
        let config = &shared.config;
        let door = Door::of_token("webhooks.brevo.token", config.webhooks.brevo.as_ref());
        let naming = Naming {
            token: config.mixpanel.project_tokens.first().cloned().unwrap_or_default(),
            mode: config.mixpanel.identity,
            address_hidden: Naming::hides_addresses(&config.privacy.mixpanel),
        };
        Self { shared, door, naming }
    }

    pub async fn answer(&self, head: request::Parts, body: Body) -> Response<Body> {
        match self.take(&head, body).await {
            Ok(taken) => taken.into_response(),
            Err(refusal) => refusal.into_response(),
        }
    }

    async fn take(&self, head: &request::Parts, body: Body) -> Result<Taken, Refusal> {
        let (items, account) = self.shared.receive(&self.door, head, body, read).await?;
        let people = self.people(&items).await?;
        // Held until the records are stored: an erasure waits for those that were judged before it.
        let erased = self.shared.tombstones.now();
        let now = self.shared.clock.now();
        let (mut records, mut taken) = (Vec::new(), Taken::default());
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Ok(push) => {
                    let person = people.get(&push.sought).and_then(Option::as_ref);
                    records.extend(records::records(&push, person, &self.naming, now));
                    taken.stored += 1;
                }
                Err(unusable) => taken.refuse(index, unusable.label(), &unusable),
            }
        }
        for record in &mut records {
            erase_if(&erased, record);
        }
        self.shared.append(records, account).await?;
        drop(erased);
        taken.count(Webhook::Brevo);
        Ok(taken)
    }

    /// Everyone whom the pushes are about, each looked up once.
    async fn people(&self, items: &[Result<Push, Unusable>]) -> Result<BTreeMap<Sought, Option<PersonId>>, Refusal> {
        let mut people = BTreeMap::new();
        for push in items.iter().flatten() {
            if !people.contains_key(&push.sought) {
                let found = address_book::find(&self.shared.state, &push.sought).await?;
                people.insert(push.sought.clone(), found);
            }
        }
        Ok(people)
    }
}

fn read(body: &Bytes) -> Result<Vec<Result<Push, Unusable>>, Refusal> {
    let body = serde_json::from_slice(body).map_err(|_| Refusal::BadBody("is not JSON"))?;
    let items = push::items(body).ok_or(Refusal::BadBody("is neither an object nor an array of them"))?;
    if items.len() > MAX_ITEMS {
        return Err(Refusal::TooLarge);
    }
    Ok(items.into_iter().map(Push::read).collect())
}

#[cfg(test)]
mod tests;
