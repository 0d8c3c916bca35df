//! Parts of a limit that are kept for somebody: what they have not used of it, nobody else gets.
//!
//! Without them whoever asks most has everything: sixty questions in the morning, and no cohort is synced until noon.

use crate::vendor::Priority;

/// For each [`Priority`], the share of every window in percent that is kept for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares([u64; 4]);

impl Shares {
    pub const NONE: Shares = Shares([0; 4]);

    /// The shares of all together stay within the whole.
    pub fn set(&mut self, priority: Priority, percent: u64) {
        self.0[priority as usize] = 0;
        let others: u64 = self.0.iter().sum();
        self.0[priority as usize] = percent.min(100 - others);
    }

    /// Units of a window of `amount` that are kept for `priority`.
    pub fn of(&self, amount: u64, priority: Priority) -> u64 {
        amount * self.0[priority as usize] / 100
    }

    /// Units that `by` may never have.
    pub fn of_others(&self, amount: u64, by: Priority) -> u64 {
        Priority::ALL.into_iter().filter(|other| *other != by).map(|other| self.of(amount, other)).sum()
    }

    /// Units kept from `by` now, given what each has used in the window.
    pub fn kept(&self, amount: u64, by: Priority, used: &[u64; 4]) -> u64 {
        let others = Priority::ALL.into_iter().filter(|other| *other != by);
        others.map(|other| self.of(amount, other).saturating_sub(used[other as usize])).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_shrinks_as_its_owner_uses_it() {
        let mut shares = Shares::NONE;
        shares.set(Priority::Cohorts, 20);
        shares.set(Priority::Callers, 25);
        assert_eq!(shares.of(60, Priority::Cohorts), 12);
        assert_eq!(shares.kept(60, Priority::Backfill, &[0; 4]), 27);
        assert_eq!(shares.kept(60, Priority::Backfill, &[0, 5, 15, 9]), 7);
        assert_eq!(shares.kept(60, Priority::Callers, &[0, 30, 0, 0]), 0);
        assert_eq!(shares.of_others(60, Priority::Callers), 12);
    }

    #[test]
    fn shares_never_exceed_the_whole() {
        let mut shares = Shares::NONE;
        shares.set(Priority::Cohorts, 80);
        shares.set(Priority::Live, 50);
        assert_eq!(shares.of(100, Priority::Live), 20);
        shares.set(Priority::Live, 10);
        assert_eq!(shares.of(100, Priority::Live), 10);
    }
}
