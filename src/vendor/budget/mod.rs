//! Durable budgets: one per limit of a vendor's account, shared by everyone who spends from it (P7, CORE 14).
//!
//! A claim waits its turn (live traffic first), takes from every window of its family at once, and writes down each new
//! slice before the call may go out. What the vendor's headers say replaces what the plan was assumed to allow.

mod account;
mod plan;
mod shares;
mod stored;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{Cost, Family, Priority};
use crate::clock::SharedClock;
use crate::store::{State, StoreError, Table, WriteBatch, write_when_there_is_room};
use crate::telemetry;

pub use account::Slot;
use account::{Account, Waiting};
use plan::{assumed, at_once, learned};
pub use shares::Shares;
use stored::{Stored, StoredWindow, Written, restore};
pub use window::{Limit, Unit, Window};

/// A vendor's word about one of its limits, from an answer's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    pub limit: u64,
    pub remaining: Option<u64>,
}

/// What a vendor says when it refuses a call for a limit (a 429).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrun {
    /// Calls of the last hour and how many an hour may hold, as the vendor counts them.
    pub hour: Option<(u64, u64)>,
    /// The vendor's own hint; capped by whoever read it.
    pub retry_after: Option<Duration>,
}

/// Between two looks at what gives no notice: who stands before, and what runs.
const RECHECK: Duration = Duration::from_millis(50);
/// How long a family rests after a refusal that says nothing about when to come back.
const REST: Duration = Duration::from_secs(30);
/// How long, when the refusal has told how much of the hour is used: that is on the books then.
const SHORT_REST: Duration = Duration::from_secs(2);
/// When to ask again for one of the calls that may run at once: nobody knows how long the running ones take.
const RUNNING: Duration = Duration::from_secs(5);

/// How a family's budget stands, for those who are told about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The longest limit, and what the asker may still take of it.
    pub limit: Limit,
    pub remaining: u64,
    /// Until the asker could have what it wants; zero when it could now.
    pub wait: Duration,
    /// Calls running now, and how many may.
    pub running: Option<(usize, usize)>,
}

/// Why a claim was not granted.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("the budget is used up for now")]
    Later,
    #[error(transparent)]
    Store(#[from] StoreError),
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
                    let wall = stored.now(clock.now(), clock.uptime());
                    restore(family, stored, wall)
                }
            };
            accounts.insert(family, Account::new(windows, at_once(family)));
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
        let own = self.account(family).windows().await;
        let by_the_second = own.iter().any(|window| !window.limit().durable());
        if by_the_second { Family::BrevoEvents } else { family }
    }

    /// Keeps `percent` of every window of `family` for `priority`, from now on.
    pub fn reserve(&self, family: Family, priority: Priority, percent: u64) {
        self.account(family).shares().set(priority, percent);
    }

    /// Waits until `cost` fits into every window of `family`, takes it, and has written it down when it returns.
    pub async fn claim(&self, family: Family, priority: Priority, cost: Cost) -> Result<Slot, StoreError> {
        let family = self.payer(family).await;
        let account = self.account(family);
        let _waiting = Waiting::new(&account.waiting[priority as usize]);
        let _turn = account.turns[priority as usize].lock().await;
        loop {
            match self.try_claim(account, family, priority, cost).await? {
                Ok(slot) => return Ok(slot),
                Err(until) => tokio::time::sleep_until(until).await,
            }
        }
    }

    /// As [`Budgets::claim`], for those who will not wait beyond `deadline`. It gives up as soon as it is certain that
    /// nothing will be free by then.
    pub async fn claim_by(
        &self,
        family: Family,
        priority: Priority,
        cost: Cost,
        deadline: Instant,
    ) -> Result<Slot, ClaimError> {
        let payer = self.payer(family).await;
        let account = self.account(payer);
        let _waiting = Waiting::new(&account.waiting[priority as usize]);
        if let Ok(_turn) = tokio::time::timeout_at(deadline, account.turns[priority as usize].lock()).await {
            loop {
                match self.try_claim(account, payer, priority, cost).await? {
                    Ok(slot) => return Ok(slot),
                    Err(until) if until > deadline => break,
                    Err(until) => tokio::time::sleep_until(until).await,
                }
            }
        }
        Err(ClaimError::Later)
    }

    /// `Err` tells when to ask again.
    async fn try_claim(
        &self,
        account: &Account,
        family: Family,
        priority: Priority,
        cost: Cost,
    ) -> Result<Result<Slot, Instant>, StoreError> {
        let mut windows = account.windows().await;
        let now = Instant::now();
        windows.iter_mut().for_each(|window| window.expire(now));
        if account.someone_before(priority) && !account.within_share(&windows, priority) {
            return Ok(Err(now + RECHECK));
        }
        if let Some(until) = account.resting().filter(|until| *until > now) {
            return Ok(Err(until));
        }
        let shares = *account.shares();
        let latest = windows.iter_mut().filter_map(|window| window.check(cost, priority, &shares, now).err()).max();
        if let Some(latest) = latest {
            return Ok(Err(latest));
        }
        // After the windows: a place among the running must not be held by someone who waits for the next hour.
        let running = match &account.running {
            None => None,
            Some((running, _)) => match running.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return Ok(Err(now + RECHECK)),
            },
        };
        let (call, slot) = account.slot(running);
        let mut claimed = false;
        for window in windows.iter_mut() {
            claimed |= window.take(cost, priority, call, now) && window.limit().durable();
        }
        if claimed {
            // Under the lock, so that two slices cannot be written in the wrong order.
            self.write(family, &windows, now).await?;
            // The call leaves after the write, which may have waited for the disk: a short window counts from here.
            let written = Instant::now();
            windows.iter_mut().for_each(|window| window.leaves_at(written));
        }
        publish(family, &mut windows, now);
        Ok(Ok(slot))
    }

    /// How `family` stands for `priority`, which wants `calls` of it; `None` for one without limits.
    pub async fn standing(&self, family: Family, priority: Priority, calls: u64) -> Option<Standing> {
        let family = self.payer(family).await;
        let account = self.account(family);
        let mut windows = account.windows().await;
        let now = Instant::now();
        let shares = *account.shares();
        let ahead: u32 = account.waiting[..=priority as usize].iter().map(|count| count.load(Ordering::Acquire)).sum();
        // Who asks is counted among those who wait.
        let cost = Cost { calls: u64::from(ahead.saturating_sub(1)) + calls, ..Cost::CALL };
        let free_at = windows.iter_mut().filter_map(|window| window.check(cost, priority, &shares, now).err()).max();
        let rested_at = *account.resting();
        let mut wait = free_at.max(rested_at).map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let running = account.running.as_ref().map(|(running, most)| (most - running.available_permits(), *most));
        if running.is_some_and(|(running, most)| running == most) {
            wait = wait.max(RUNNING);
        }
        let longest = windows.iter_mut().max_by_key(|window| window.limit().span)?;
        let used = Priority::ALL.map(|priority| longest.used_by(priority));
        let kept = shares.kept(longest.limit().amount, priority, &used);
        let remaining = longest.remaining(now).saturating_sub(kept);
        Some(Standing { limit: longest.limit(), remaining, wait, running })
    }

    /// Takes note of a refusal: the family rests, and what the vendor counts of the hour is counted here too.
    pub async fn overrun(&self, family: Family, overrun: Overrun) -> Result<(), StoreError> {
        let account = self.account(family);
        let mut windows = account.windows().await;
        let now = Instant::now();
        let rest = overrun.retry_after.unwrap_or(if overrun.hour.is_some() { SHORT_REST } else { REST });
        {
            let mut resting = account.resting();
            *resting = (*resting).max(Some(now + rest));
        }
        let Some((used, amount)) = overrun.hour.filter(|(_, amount)| *amount > 0) else { return Ok(()) };
        let Some(hourly) = windows.iter_mut().find(|window| window.limit().span == Limit::per_hour(1).span) else {
            return Ok(());
        };
        if hourly.limit().amount != amount {
            *hourly = Window::restored(Limit::per_hour(amount), hourly.spent(), now);
        }
        hourly.reconcile(amount.saturating_sub(used), now);
        self.write(family, &windows, now).await?;
        publish(family, &mut windows, now);
        Ok(())
    }

    /// Takes note of what the vendor says about `family`'s limit.
    pub async fn learn(&self, family: Family, reading: Reading) -> Result<(), StoreError> {
        let mut windows = self.account(family).windows().await;
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
        let mut windows = self.account(family).windows().await;
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
        let written = self.clock.uptime().map(|uptime| Written { wall, uptime });
        let value = serde_json::to_vec(&Stored { windows, written }).map_err(|e| StoreError::Failed(e.to_string()))?;
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

fn publish(family: Family, windows: &mut [Window], now: Instant) {
    // The longest window says most about the hours to come.
    if let Some(longest) = windows.iter_mut().max_by_key(|window| window.limit().span) {
        telemetry::budget_remaining(family.vendor(), family.label(), longest.remaining(now));
    }
}

#[cfg(test)]
mod tests;
