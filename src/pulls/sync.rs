//! The profile sync: on its schedule, everybody whose profile has changed at Mixpanel since the last time.
//!
//! "Since" is the vendor's own `$last_seen`, the newest that was read, less a little: in which zone it is written is
//! unconfirmed, so it is compared with itself and never with this clock. Only the very first sync takes the clock, and a
//! day more.

use std::convert::Infallible;
use std::time::Duration;

use jiff::civil::DateTime;
use serde::{Deserialize, Serialize};

use super::pages::PageCursor;
use super::wanted::LAST_SEEN;
use super::{PullError, Pulls};
use crate::clock::UnixMillis;
use crate::feed::Fed;
use crate::record::{Destinations, Origin};
use crate::store::{StoreError, Table, WriteBatch, write_when_there_is_room};
use crate::telemetry;

/// Its place among the singletons.
const KEY: &[u8] = b"pulls/profiles";
/// Profiles show a change within a minute (contract §6), and ten are nobody's expense.
const OVERLAP: Duration = Duration::from_secs(600);
/// What the first sync adds to its schedule: wherever on earth the project's clock may stand.
const FIRST_REACH: Duration = Duration::from_hours(26);
/// The longest sleep between two looks at the clock, which may be set.
const LOOK: Duration = Duration::from_secs(60);

/// What is written down of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The newest `$last_seen` read by a sync that came to its end.
    seen: Option<String>,
    next_at: UnixMillis,
    under_way: Option<UnderWay>,
    last: Option<Ended>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct UnderWay {
    started_at: UnixMillis,
    filter: String,
    cursor: PageCursor,
    seen: Option<String>,
    profiles: u64,
    fed: u64,
}

/// How a sync ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub started_at: UnixMillis,
    pub finished_at: UnixMillis,
    pub profiles: u64,
    pub fed: u64,
    pub failure: Option<String>,
}

/// The sync as the status page shows it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SyncReport {
    /// Null: switched off.
    pub every_seconds: Option<u64>,
    pub running: bool,
    /// Read by the sync under way.
    pub profiles: u64,
    pub next_at: Option<String>,
    pub last: Option<Shown>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    pub started_at: String,
    pub finished_at: String,
    pub profiles: u64,
    /// Of them, those that were handed to the journal.
    pub fed: u64,
    pub failure: Option<String>,
}

impl Pulls {
    /// Syncs for as long as the process lives; only a failed store ends it.
    pub async fn sync(self: std::sync::Arc<Self>) -> Result<Infallible, StoreError> {
        let Some(every) = self.parts.every.filter(|_| self.parts.brevo) else { return std::future::pending().await };
        let mut kept = self.kept().await?;
        loop {
            self.publish(&kept);
            let now = self.parts.clock.now();
            // A clock that was set back, or a schedule that was made shorter, must not put it off.
            let due = kept.next_at.min(now + every + every / 10);
            if kept.under_way.is_none() && due > now {
                tokio::time::sleep(due.since(now).min(LOOK)).await;
                continue;
            }
            let ended = match self.run_sync(&mut kept, every).await {
                Ok(ended) => ended,
                Err(error) => {
                    let failure = Some(error.store()?);
                    tracing::warn!(failure, "a profile sync ended early; the next begins where the last whole one was");
                    let started_at = kept.under_way.as_ref().map_or(now, |under_way| under_way.started_at);
                    Ended { started_at, failure, ..Ended::default() }
                }
            };
            kept.under_way = None;
            kept.last = Some(Ended { finished_at: self.parts.clock.now(), ..ended });
            kept.next_at = now + jittered(every);
            self.keep(&kept).await?;
        }
    }

    async fn run_sync(&self, kept: &mut Kept, every: Duration) -> Result<Ended, PullError> {
        let source = self.parts.profiles.as_ref().ok_or(PullError::NoServiceAccount)?;
        if source.wanted.is_empty() {
            return Err(PullError::NothingMapped);
        }
        let now = self.parts.clock.now();
        let seen = kept.seen.as_deref().and_then(before);
        let begin = || {
            let since = seen.unwrap_or_else(|| written(now - every - FIRST_REACH));
            UnderWay { started_at: now, filter: source.wanted.filter(Some(&since), None), ..UnderWay::default() }
        };
        let mut at = kept.under_way.clone().unwrap_or_else(begin);
        loop {
            let page = source.page(&at.filter, &mut at.cursor).await?;
            at.profiles += page.rows.len() as u64;
            telemetry::pulled("profiles", page.rows.len() as u64);
            for (_, profile) in &page.rows {
                let seen = profile.get(LAST_SEEN).and_then(|seen| seen.as_str()).filter(|seen| before(seen).is_some());
                at.seen = at.seen.take().max(seen.map(str::to_owned));
            }
            let drafts = page.rows.iter().filter_map(|(id, profile)| source.wanted.draft(id, profile)).collect();
            let Fed { appended, .. } = self.parts.feed.append(Origin::Pull, Destinations::BREVO, drafts).await?;
            at.fed += appended;
            at.cursor.page += 1;
            if page.last {
                kept.seen = kept.seen.take().max(at.seen);
                return Ok(Ended { started_at: at.started_at, profiles: at.profiles, fed: at.fed, ..Ended::default() });
            }
            kept.under_way = Some(at.clone());
            self.keep(kept).await?;
            self.publish(kept);
        }
    }

    async fn kept(&self) -> Result<Kept, StoreError> {
        let stored = self.parts.state.get(Table::Meta, vec![KEY.to_vec()]).await?.into_iter().next().flatten();
        let Some(stored) = stored else { return Ok(Kept::default()) };
        serde_json::from_slice(&stored).map_err(|error| StoreError::Corrupt(format!("the profile sync: {error}")))
    }

    async fn keep(&self, kept: &Kept) -> Result<(), StoreError> {
        let value = serde_json::to_vec(kept).map_err(|error| StoreError::Failed(error.to_string()))?;
        let mut batch = WriteBatch::new();
        batch.put(Table::Meta, KEY, value);
        write_when_there_is_room(self.parts.state.as_ref(), batch).await
    }

    fn publish(&self, kept: &Kept) {
        let shown = |ended: &Ended| Shown {
            started_at: ended.started_at.to_string(),
            finished_at: ended.finished_at.to_string(),
            profiles: ended.profiles,
            fed: ended.fed,
            failure: ended.failure.clone(),
        };
        let report = SyncReport {
            every_seconds: self.parts.every.map(|every| every.as_secs()),
            running: kept.under_way.is_some(),
            profiles: kept.under_way.as_ref().map_or(0, |under_way| under_way.profiles),
            next_at: (kept.next_at > UnixMillis(0)).then(|| kept.next_at.to_string()),
            last: kept.last.as_ref().map(shown),
        };
        *self.sync.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = report;
    }
}

/// A tenth more or less, so that relays which were started together do not ask together.
fn jittered(every: Duration) -> Duration {
    every.mul_f64(0.9 + 0.2 * fastrand::f64())
}

/// The time as the vendor writes it, in UTC.
pub(super) fn written(at: UnixMillis) -> String {
    let text = at.to_string();
    text.get(..19).unwrap_or(&text).to_owned()
}

/// A little before a time that the vendor has written; `None` when it is none.
fn before(seen: &str) -> Option<String> {
    let seen: DateTime = seen.get(..19)?.parse().ok()?;
    let before = seen.checked_sub(jiff::SignedDuration::try_from(OVERLAP).ok()?).ok()?;
    Some(before.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_goes_on_a_little_before_the_newest_that_it_has_seen() {
        assert_eq!(before("2026-11-25T00:05:00").as_deref(), Some("2026-11-24T23:55:00"));
        assert_eq!(before("2026-11-25T00:05:00Z").as_deref(), Some("2026-11-24T23:55:00"));
        for none in ["", "yesterday", "2026-11-25", "2026-13-45T00:00:00"] {
            assert_eq!(before(none), None, "{none}");
        }
        assert_eq!(written(UnixMillis(1_700_000_000_123)), "2023-11-14T22:13:20");
    }

    #[test]
    fn a_schedule_is_kept_within_a_tenth() {
        let hour = Duration::from_secs(3600);
        for _ in 0..100 {
            assert!((Duration::from_secs(3240)..=Duration::from_secs(3960)).contains(&jittered(hour)));
        }
    }
}
