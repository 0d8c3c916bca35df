//! Durable budgets: one per limit of a vendor's account, shared by everyone who spends from it (P7, CORE 14).
//!
//! A claim waits its turn (live traffic first), takes from every window of its family at once, and writes down each new
//! slice before the call may go out. What the vendor's headers say replaces what the plan was assumed to allow.

mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Cost, Family, Priority};
use crate::clock::{SharedClock, UnixMillis};
use crate::store::{State, StoreError, Table, WriteBatch, write_when_there_is_room};
use crate::telemetry;

pub use window::{Limit, Unit, Window};

/// A vendor's word about one of its limits, from an answer's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub limit: u64,
    pub remaining: Option<u64>,
}

/// Limits assumed until the account's headers say otherwise: the ordinary plan's (contracts: Brevo §1.3, Mixpanel §3, §9).
fn assumed(family: Family) -> Vec<Limit> {
    match family {
        Family::MixpanelIngestion => {
            vec![Limit::per_minute(Unit::Bytes, 2_000_000_000), Limit::per_minute(Unit::Records, 30_000 * 60)]
        }
        Family::MixpanelQuery => vec![Limit::per_hour(60)],
        Family::MixpanelApp => vec![],
        Family::MixpanelGdpr => vec![Limit::per_second(1)],
        Family::BrevoEvents | Family::BrevoContacts | Family::BrevoEventsBatch => {
            vec![Limit::per_second(10), Limit::per_hour(36_000)]
        }
        Family::BrevoOther => vec![Limit::per_hour(100)],
    }
}

/// The limits that a header's number stands for. Rows of the published table come in two sizes, calls a second (10, 20,
/// 60) and calls an hour (100 and up); the rows with both have 3,600 times the one in the other.
fn learned(reading: Reading) -> Vec<Limit> {
    match reading.limit {
        0 => vec![],
        per_second @ 1..100 => vec![Limit::per_second(per_second), Limit::per_hour(per_second * 3600)],
        per_hour if per_hour.is_multiple_of(3600) => {
            vec![Limit::per_second(per_hour / 3600), Limit::per_hour(per_hour)]
        }
        per_hour => vec![Limit::per_hour(per_hour)],
    }
}

/// A budget as the store holds it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    windows: Vec<StoredWindow>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredWindow {
    limit: Limit,
    /// When each slice was claimed, and its amount; oldest first.
    slices: Vec<(UnixMillis, u64)>,
}

#[derive(Debug)]
struct Account {
    windows: Mutex<Vec<Window>>,
    /// One queue per [`Priority`]; the holder of a turn is the one of its priority that may ask.
    turns: [Mutex<()>; 3],
    waiting: [AtomicU32; 3],
}

impl Account {
    fn new(windows: Vec<Window>) -> Self {
        Self { windows: Mutex::new(windows), turns: Default::default(), waiting: Default::default() }
    }

    fn someone_before(&self, priority: Priority) -> bool {
        self.waiting[..priority as usize].iter().any(|waiting| waiting.load(Ordering::Acquire) > 0)
    }
}

/// Counts a claim as waiting for as long as it lives, also when its future is dropped.
struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Every family's budget.
pub struct Budgets {
    accounts: BTreeMap<Family, Account>,
    state: Arc<dyn State>,
    clock: SharedClock,
}

impl Budgets {
    /// Reads back what earlier processes claimed.
    pub async fn open(state: Arc<dyn State>, clock: SharedClock) -> Result<Self, StoreError> {
        let keys = Family::ALL.iter().map(|family| key(*family)).collect();
        let values = state.get(Table::Budgets, keys).await?;
        let mut accounts = BTreeMap::new();
        for (family, value) in Family::ALL.into_iter().zip(values) {
            let windows = match value {
                None => assumed(family).into_iter().map(Window::new).collect(),
                Some(value) => {
                    let stored: Stored = serde_json::from_slice(&value)
                        .map_err(|e| StoreError::Corrupt(format!("budget {}: {e}", family.label())))?;
                    restore(stored, clock.now())
                }
            };
            accounts.insert(family, Account::new(windows));
        }
        Ok(Self { accounts, state, clock })
    }

    fn account(&self, family: Family) -> &Account {
        &self.accounts[&family] // `open` makes one for every member of `Family::ALL`
    }

    /// Whose windows a call of `family` is taken from. Whether `/events/batch` shares the row of `/events` is unconfirmed
    /// (Brevo contract §2.3): as long as its limit is one by the second like theirs, it is taken for the same one.
    async fn payer(&self, family: Family) -> Family {
        if family != Family::BrevoEventsBatch {
            return family;
        }
        let own = self.account(family).windows.lock().await;
        let by_the_second = own.iter().any(|window| !window.limit().durable());
        if by_the_second { Family::BrevoEvents } else { family }
    }

    /// Waits until `cost` fits into every window of `family`, takes it, and has written it down when it returns.
    pub async fn claim(&self, family: Family, priority: Priority, cost: Cost) -> Result<(), StoreError> {
        let family = self.payer(family).await;
        let account = self.account(family);
        let _waiting = Waiting::new(&account.waiting[priority as usize]);
        let _turn = account.turns[priority as usize].lock().await;
        loop {
            let wait_until = match self.try_claim(account, family, priority, cost).await? {
                None => return Ok(()),
                Some(until) => until,
            };
            tokio::time::sleep_until(wait_until).await;
        }
    }

    /// `None` when taken, else when to ask again.
    async fn try_claim(
        &self,
        account: &Account,
        family: Family,
        priority: Priority,
        cost: Cost,
    ) -> Result<Option<Instant>, StoreError> {
        if account.someone_before(priority) {
            return Ok(Some(Instant::now() + Duration::from_millis(50)));
        }
        let mut windows = account.windows.lock().await;
        let now = Instant::now();
        let latest = windows.iter_mut().filter_map(|window| window.check(cost, now).err()).max();
        if latest.is_some() {
            return Ok(latest);
        }
        let mut claimed = false;
        for window in windows.iter_mut() {
            claimed |= window.take(cost, now) && window.limit().durable();
        }
        if claimed {
            // Under the lock, so that two slices cannot be written in the wrong order.
            self.write(family, &windows, now).await?;
        }
        publish(family, &mut windows, now);
        Ok(None)
    }

    /// Takes note of what the vendor says about `family`'s limit.
    pub async fn learn(&self, family: Family, reading: Reading) -> Result<(), StoreError> {
        let mut windows = self.account(family).windows.lock().await;
        let now = Instant::now();
        let limits = learned(reading);
        let known: Vec<_> = windows.iter().map(Window::limit).collect();
        let mut changed = false;
        if !limits.is_empty() && limits != known {
            // What is used up stays used up under the new limit.
            let used: Vec<Vec<_>> =
                limits.iter().map(|limit| same_span(&windows, *limit).map_or(vec![], Window::spent)).collect();
            *windows = limits.into_iter().zip(used).map(|(limit, used)| Window::restored(limit, used, now)).collect();
            changed = true;
        }
        if let Some(remaining) = reading.remaining {
            let hourly = windows.iter_mut().find(|w| w.limit().durable() && w.limit().amount == reading.limit);
            changed |= hourly.is_some_and(|window| window.reconcile(remaining, now));
        }
        if changed {
            self.write(family, &windows, now).await?;
            publish(family, &mut windows, now);
        }
        Ok(())
    }

    /// The limits in force and what is left of them, for status pages.
    pub async fn windows(&self, family: Family) -> Vec<(Limit, u64)> {
        let mut windows = self.account(family).windows.lock().await;
        let now = Instant::now();
        windows.iter_mut().map(|window| (window.limit(), window.remaining(now))).collect()
    }

    async fn write(&self, family: Family, windows: &[Window], now: Instant) -> Result<(), StoreError> {
        let wall = self.clock.now();
        let windows = windows
            .iter()
            .filter(|window| window.limit().durable())
            .map(|window| StoredWindow {
                limit: window.limit(),
                slices: window.slices().map(|slice| (wall - (now - slice.at), slice.amount)).collect(),
            })
            .collect();
        let value = serde_json::to_vec(&Stored { windows }).map_err(|e| StoreError::Failed(e.to_string()))?;
        let mut batch = WriteBatch::new();
        batch.put(Table::Budgets, key(family), value);
        write_when_there_is_room(self.state.as_ref(), batch).await
    }
}

fn key(family: Family) -> Vec<u8> {
    format!("{}/{}", family.vendor(), family.label()).into_bytes()
}

fn same_span(windows: &[Window], limit: Limit) -> Option<&Window> {
    windows.iter().find(|window| window.limit().span == limit.span && window.limit().unit == limit.unit)
}

/// A clock that was set back makes slices of the future: they count as claimed now. One that was set forward can only
/// be noticed within a process, where windows run on the monotonic clock.
fn restore(stored: Stored, wall: UnixMillis) -> Vec<Window> {
    let now = Instant::now();
    let mut windows = Vec::new();
    for StoredWindow { limit, slices } in stored.windows {
        if limit.unit == Unit::Calls && limit.amount.is_multiple_of(3600) && limit.span == Limit::per_hour(1).span {
            // The companion of such a limit, which is too short to be written down. Its second may have been used up
            // just before the crash.
            let per_second = Limit::per_second(limit.amount / 3600);
            windows.push(Window::restored(per_second, [window::Slice { at: now, amount: per_second.amount }], now));
        }
        let slices = slices
            .into_iter()
            .filter_map(|(at, amount)| Some(window::Slice { at: now.checked_sub(wall.since(at))?, amount }));
        windows.push(Window::restored(limit, slices, now));
    }
    windows
}

fn publish(family: Family, windows: &mut [Window], now: Instant) {
    // The longest window says most about the hours to come.
    if let Some(longest) = windows.iter_mut().max_by_key(|window| window.limit().span) {
        telemetry::budget_remaining(family.vendor(), family.label(), longest.remaining(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::store::sqlite::{self, OpenOptions};

    async fn budgets(directory: &tempfile::TempDir) -> Budgets {
        let path = directory.path().join("m.db");
        let clock: SharedClock = Arc::new(SystemClock);
        let store = sqlite::open(OpenOptions { path, min_free: Some(1), allow_volatile: true, clock: clock.clone() });
        Budgets::open(store.unwrap().state, clock).await.unwrap()
    }

    async fn left(budgets: &Budgets, family: Family) -> u64 {
        budgets.windows(family).await.iter().map(|(_, left)| *left).min().unwrap()
    }

    #[tokio::test]
    async fn batches_draw_on_the_events_limit_until_they_are_known_to_have_their_own() {
        let binary = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        let budgets = budgets(&directory).await;
        for family in [Family::BrevoEvents, Family::BrevoEventsBatch] {
            for _ in 0..3 {
                budgets.claim(family, Priority::Live, Cost::CALL).await.unwrap();
            }
        }
        assert_eq!(left(&budgets, Family::BrevoEvents).await, 10 - 6);
        budgets.learn(Family::BrevoEventsBatch, Reading { limit: 100, remaining: None }).await.unwrap();
        budgets.claim(Family::BrevoEventsBatch, Priority::Live, Cost::CALL).await.unwrap();
        assert_eq!(left(&budgets, Family::BrevoEventsBatch).await, 99);
    }
}
