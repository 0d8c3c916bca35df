//! How far a record had come when a checkpoint was written: one byte.

use crate::settlement::{DeadReason, SkipRule};

/// The first codes of rules and reasons, which bring codes of their own.
const SKIPPED: u8 = 128;
const DEAD: u8 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Delivered,
    /// The event is delivered; the list changes that it asks for are owed.
    ListsOwed,
    /// On its person's shelf.
    Parked,
    /// Folded: its person or group is owed a write.
    Owed,
    Skipped(SkipRule),
    Dead(DeadReason),
}

impl Outcome {
    /// As it is stored: a byte that never changes its meaning.
    pub fn code(self) -> u8 {
        match self {
            Outcome::Delivered => 1,
            Outcome::ListsOwed => 2,
            Outcome::Parked => 3,
            Outcome::Owed => 4,
            Outcome::Dead(reason) => DEAD + reason.code(),
            Outcome::Skipped(rule) => SKIPPED + rule.code(),
        }
    }

    /// `None` for a code of some newer version.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Outcome::Delivered),
            2 => Some(Outcome::ListsOwed),
            3 => Some(Outcome::Parked),
            4 => Some(Outcome::Owed),
            SKIPPED.. => SkipRule::from_code(code - SKIPPED).map(Outcome::Skipped),
            DEAD.. => DeadReason::from_code(code - DEAD).map(Outcome::Dead),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_reads_back_from_its_code() {
        let skipped = SkipRule::ALL.iter().map(|rule| Outcome::Skipped(*rule));
        let dead = DeadReason::ALL.iter().map(|reason| Outcome::Dead(*reason));
        let others = [Outcome::Delivered, Outcome::ListsOwed, Outcome::Parked, Outcome::Owed];
        for outcome in others.into_iter().chain(skipped).chain(dead) {
            assert_eq!(Outcome::from_code(outcome.code()), Some(outcome));
        }
        assert_eq!((Outcome::from_code(0), Outcome::from_code(255)), (None, None));
    }
}
