//! Budgets over a real store, as claims see them.

use super::*;
use crate::clock::{SystemClock, UnixMillis, Uptime};
use crate::store::sqlite::{self, OpenOptions};
use crate::store::testing;

async fn budgets(directory: &tempfile::TempDir) -> Budgets {
    let path = directory.path().join("m.db");
    let clock: SharedClock = Arc::new(SystemClock);
    let store = sqlite::open(OpenOptions { path, min_free: Some(1), allow_volatile: true, clock: clock.clone() });
    Budgets::open(store.unwrap().state, clock).await.unwrap()
}

fn directory() -> tempfile::TempDir {
    testing::directory()
}

async fn left(budgets: &Budgets, family: Family) -> u64 {
    budgets.windows(family).await.iter().map(|(_, left)| *left).min().unwrap()
}

async fn now_or_never(budgets: &Budgets, priority: Priority) -> Result<Slot, Standing> {
    match budgets.claim_by(Family::MixpanelQuery, priority, Cost::CALL, Instant::now()).await {
        Ok(slot) => Ok(slot),
        Err(ClaimError::Later) => Err(budgets.standing(Family::MixpanelQuery, priority, 1).await.unwrap()),
        Err(ClaimError::Store(error)) => panic!("{error}"),
    }
}

#[tokio::test]
async fn batches_draw_on_the_events_limit_until_they_are_known_to_have_their_own() {
    let directory = directory();
    let budgets = budgets(&directory).await;
    for family in [Family::BrevoEvents, Family::BrevoEventsBatch] {
        for _ in 0..3 {
            drop(budgets.claim(family, Priority::Live, Cost::CALL).await.unwrap());
        }
    }
    assert_eq!(left(&budgets, Family::BrevoEvents).await, 10 - 6);
    budgets.learn(Family::BrevoEventsBatch, Reading { limit: 100, remaining: None }).await.unwrap();
    drop(budgets.claim(Family::BrevoEventsBatch, Priority::Live, Cost::CALL).await.unwrap());
    assert_eq!(left(&budgets, Family::BrevoEventsBatch).await, 99);
}

#[tokio::test]
async fn no_more_queries_run_at_once_than_the_vendor_allows() {
    let directory = directory();
    let budgets = budgets(&directory).await;
    let mut running = Vec::new();
    for _ in 0..5 {
        running.push(now_or_never(&budgets, Priority::Callers).await.unwrap());
    }
    let standing = now_or_never(&budgets, Priority::Live).await.unwrap_err();
    assert_eq!((standing.running, standing.remaining), (Some((5, 5)), 55), "refused, and nothing of the hour spent");
    running.pop();
    drop(now_or_never(&budgets, Priority::Callers).await.unwrap());
}

#[tokio::test]
async fn what_is_kept_for_somebody_is_there_when_others_have_used_up_the_rest() {
    let directory = directory();
    let budgets = budgets(&directory).await;
    budgets.reserve(Family::MixpanelQuery, Priority::Cohorts, 20);
    budgets.reserve(Family::MixpanelQuery, Priority::Callers, 25);
    let mut backfill = 0;
    while now_or_never(&budgets, Priority::Backfill).await.map(drop).is_ok() {
        backfill += 1;
    }
    assert_eq!(backfill, 60 - 12 - 15);
    for (priority, kept) in [(Priority::Callers, 15), (Priority::Cohorts, 12)] {
        for n in 0..kept {
            assert!(now_or_never(&budgets, priority).await.map(drop).is_ok(), "{priority:?} {n}");
        }
        let standing = now_or_never(&budgets, priority).await.unwrap_err();
        assert_eq!(standing.remaining, 0);
        assert!(standing.wait > Duration::from_secs(3500), "{standing:?}");
    }
    assert_eq!(left(&budgets, Family::MixpanelQuery).await, 0);
}

#[tokio::test]
async fn a_share_is_not_held_up_by_whoever_waits_before_it() {
    let directory = directory();
    let budgets = Arc::new(budgets(&directory).await);
    budgets.reserve(Family::MixpanelQuery, Priority::Callers, 25);
    while now_or_never(&budgets, Priority::Live).await.map(drop).is_ok() {}
    let waiting = budgets.clone();
    let live = tokio::spawn(async move { waiting.claim(Family::MixpanelQuery, Priority::Live, Cost::CALL).await });
    let account = budgets.account(Family::MixpanelQuery);
    while account.waiting[0].load(Ordering::Acquire) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(now_or_never(&budgets, Priority::Callers).await.map(drop).is_ok());
    live.abort();
}

#[tokio::test]
async fn a_vendor_that_counts_more_is_believed() {
    let directory = directory();
    let budgets = budgets(&directory).await;
    drop(now_or_never(&budgets, Priority::Callers).await.unwrap());
    let overrun = Overrun { hour: Some((61, 60)), retry_after: Some(Duration::ZERO) };
    budgets.overrun(Family::MixpanelQuery, overrun).await.unwrap();
    let standing = now_or_never(&budgets, Priority::Live).await.unwrap_err();
    assert_eq!(standing.remaining, 0);
    // Another plan.
    let overrun = Overrun { hour: Some((20, 120)), retry_after: Some(Duration::ZERO) };
    budgets.overrun(Family::MixpanelJql, overrun).await.unwrap();
    assert_eq!(left(&budgets, Family::MixpanelJql).await, 100);
    // Nothing told: a rest for everybody.
    budgets.overrun(Family::MixpanelExport, Overrun::default()).await.unwrap();
    let refused = budgets.claim_by(Family::MixpanelExport, Priority::Live, Cost::CALL, Instant::now()).await;
    assert!(matches!(refused, Err(ClaimError::Later)));
}

#[tokio::test]
async fn what_was_spent_before_a_restart_is_spent() {
    let directory = directory();
    {
        let budgets = budgets(&directory).await;
        for _ in 0..7 {
            drop(now_or_never(&budgets, Priority::Callers).await.unwrap());
        }
        drop(budgets.claim(Family::MixpanelExport, Priority::Callers, Cost::CALL).await.unwrap());
    }
    let again = budgets(&directory).await;
    assert_eq!(left(&again, Family::MixpanelQuery).await, 53);
    let spans: Vec<u64> = again.windows(Family::MixpanelExport).await.iter().map(|(limit, _)| limit.amount).collect();
    assert_eq!(spans, [3, 60], "the limit by the second is there again too");
}

/// 60 calls, all claimed just before the process ended.
fn used_up(written: Option<Written>) -> Stored {
    // The newest slice counts as used just now whatever the clocks say; it is the others that a jump could free.
    let slices = vec![(UnixMillis(9_990_000), 59), (UnixMillis(10_000_000), 1)];
    Stored { windows: vec![StoredWindow { limit: Limit::per_hour(60), slices }], written }
}

fn uptime(boot: &str, millis: u64) -> Uptime {
    Uptime { boot: boot.to_owned(), millis }
}

#[tokio::test]
async fn a_clock_that_jumps_adds_no_allowance() {
    let free = |stored: Stored, wall: u64, uptime: Option<Uptime>| {
        let wall = stored.now(UnixMillis(wall), uptime);
        restore(Family::MixpanelQuery, stored, wall)[0].remaining(Instant::now())
    };
    let written = || Some(Written { wall: UnixMillis(10_000_000), uptime: uptime("a", 500_000) });
    // Set back by a day, and forward by one, while a minute has passed.
    for wall in [0, 10_000_000 + 86_400_000] {
        assert_eq!(free(used_up(written()), wall, Some(uptime("a", 560_000))), 0, "{wall}");
    }
    assert_eq!(free(used_up(None), 0, None), 0);
}
