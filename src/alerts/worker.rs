//! Looks every few seconds, and tells what is new.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::judge::{Seen, SeenDestination, judge, rung};
use super::post::{self, Message};
use super::{Alert, Bell, Cause};
use crate::clock::{SharedClock, UnixMillis};
use crate::config::{AlertWebhook, Alerts};
use crate::delivery::outlook::{self, SharedPace};
use crate::delivery::status::{LegStatus, State as LegState};
use crate::store::{AppendError, Journal, State, StoreError, Table, WriteBatch};
use crate::telemetry;
use crate::vendor::Family;
use crate::vendor::budget::Budgets;

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Each cause is told at most once in this time.
const QUIET: Duration = Duration::from_secs(3600);
/// Tries to hand over one message, at growing distances: about a quarter of an hour in all.
const TRIES: u32 = 7;
const FIRST_RETRY: Duration = Duration::from_secs(10);
/// Messages that wait for a receiver; the oldest goes when there are more.
const OUTBOX: usize = 256;

pub struct Parts {
    pub settings: Alerts,
    pub bell: Arc<Bell>,
    pub legs: Vec<LegStatus>,
    pub journal: Arc<dyn Journal>,
    pub state: Arc<dyn State>,
    pub budgets: Arc<Budgets>,
    pub pace: SharedPace,
    pub clock: SharedClock,
    pub client: reqwest::Client,
}

struct Waiting {
    to: AlertWebhook,
    message: Message,
    tries: u32,
    due: Instant,
}

/// Runs for as long as it is polled; ends only with the store.
pub async fn run(parts: Parts) -> StoreError {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for cause in Cause::LABELS {
        telemetry::no_alert_yet(cause);
    }
    let mut watch = Watch { parts, before: None, outbox: Vec::new(), told: BTreeMap::new() };
    loop {
        ticks.tick().await;
        if let Err(error) = watch.turn().await {
            return error;
        }
    }
}

struct Watch {
    parts: Parts,
    before: Option<Seen>,
    outbox: Vec<Waiting>,
    /// When each cause was last told; the store has the same, but for what it had no room for.
    told: BTreeMap<Vec<u8>, UnixMillis>,
}

impl Watch {
    async fn turn(&mut self) -> Result<(), StoreError> {
        let now = look(&self.parts).await?;
        let mut alerts = judge(self.before.as_ref(), &now, self.parts.settings.behind_after);
        self.before = Some(now);
        for alert in &alerts {
            telemetry::alert(alert.cause.label());
        }
        alerts.extend(self.parts.bell.hear().into_iter().map(|(moment, times)| rung(moment, times)));
        for alert in alerts {
            if self.is_news(&alert).await? {
                tracing::warn!(cause = alert.cause.label(), subject = alert.cause.subject(), "alert: {}", alert.text);
                self.queue(&alert);
            }
        }
        self.deliver().await;
        Ok(())
    }

    /// Whether the cause was quiet for long enough. If so, that it is told now is written down first: after a crash in
    /// between, one alert is missing rather than repeated for ever.
    async fn is_news(&mut self, alert: &Alert) -> Result<bool, StoreError> {
        let key = row(alert);
        let told = match self.told.get(&key) {
            Some(told) => Some(*told),
            None => {
                let found = self.parts.state.get(Table::Meta, vec![key.clone()]).await?;
                found.into_iter().flatten().next().and_then(|value| serde_json::from_slice(&value).ok())
            }
        };
        let now = self.parts.clock.now();
        // A clock that was set back must not silence an alert.
        if told.is_some_and(|told| told <= now && now.since(told) < QUIET) {
            return Ok(false);
        }
        self.told.insert(key.clone(), now);
        let mut batch = WriteBatch::new();
        batch.put(Table::Meta, key, now.0.to_string());
        // A full disk is the very thing to tell: the alert does not wait for room.
        match self.parts.state.write(batch).await {
            Ok(()) | Err(StoreError::DiskFull) => Ok(true),
            Err(error) => Err(error),
        }
    }

    fn queue(&mut self, alert: &Alert) {
        let Some(message) = Message::new(alert, self.parts.clock.now()) else { return };
        for to in &self.parts.settings.webhooks {
            if self.outbox.len() >= OUTBOX {
                self.outbox.remove(0);
            }
            self.outbox.push(Waiting { to: to.clone(), message: message.clone(), tries: 0, due: Instant::now() });
        }
    }

    /// Tries what is due, all at once. A receiver that is down delays the next look by one timeout at most.
    async fn deliver(&mut self) {
        let now = Instant::now();
        let (due, later): (Vec<_>, Vec<_>) = self.outbox.drain(..).partition(|waiting| waiting.due <= now);
        let (client, at) = (&self.parts.client, self.parts.clock.now());
        let sending = due.into_iter().map(|mut waiting| async move {
            let taken = post::send(client, &waiting.to, &waiting.message, at).await;
            waiting.tries += 1;
            waiting.due = Instant::now() + FIRST_RETRY * (1 << (waiting.tries - 1).min(16));
            (!taken && waiting.tries < TRIES).then_some(waiting)
        });
        let kept = futures_util::future::join_all(sending).await;
        self.outbox.extend(later);
        self.outbox.extend(kept.into_iter().flatten());
    }
}

fn row(alert: &Alert) -> Vec<u8> {
    format!("alert/{}/{}", alert.cause.label(), alert.cause.subject().unwrap_or_default()).into_bytes()
}

async fn look(parts: &Parts) -> Result<Seen, StoreError> {
    let mut destinations = Vec::with_capacity(parts.legs.len());
    for leg in &parts.legs {
        let report = leg.report().await?;
        destinations.push(SeenDestination {
            destination: report.destination,
            paused: matches!(report.state, LegState::Paused { .. }).then_some(report.advice.unwrap_or_default()),
            oldest: Duration::from_secs_f64(report.oldest_undelivered_seconds.max(0.0)),
            dead_letters: report.dead_letters,
            not_placed: report.not_placed,
        });
    }
    let size = parts.journal.size().await?;
    let per_second = parts.pace.lock().unwrap_or_else(PoisonError::into_inner).per_second();
    let mut exhausted = Vec::new();
    for family in Family::ALL {
        let windows = parts.budgets.windows(family).await;
        let spent = windows.into_iter().filter(|(_, remaining)| *remaining == 0);
        exhausted.extend(spent.map(|(limit, _)| (family, limit.span)));
    }
    Ok(Seen {
        destinations,
        disk_hours: outlook::hours_left(&size, per_second),
        disk_refuses: matches!(parts.journal.ready(), Err(AppendError::DiskFull { .. })),
        exhausted,
    })
}
