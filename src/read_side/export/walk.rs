//! Which lines have been passed on, pure: how an export goes on after a failure without a line twice.
//!
//! The vendor promises no order, so for each day the relay remembers how many lines it has passed on and a chained hash
//! of them. When days are asked for again, as many lines of each are walked over as were passed on, and only if they are the
//! very same ones does the export go on behind them. If they are not, nobody can say which lines are missing: the export
//! is broken off. It takes no more memory than there are days.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Days with a state of their own; a call has a hundred, and a few more where zones differ.
const MAX_DAYS: usize = 1024;

/// Lines in their order, as a number and a hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Chain {
    lines: u64,
    hash: u64,
}

impl Chain {
    fn push(&mut self, line: &[u8]) {
        self.lines += 1;
        self.hash = xxh3_64_with_seed(line, self.hash);
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Day {
    /// All that the caller has of it.
    passed: Chain,
    /// What has been seen of it this time.
    walked: Chain,
    /// `walked` when the call under way began.
    before: Chain,
}

/// The vendor's second answer is not the first one's continuation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("asked again, Mixpanel gave other lines than before")]
pub struct NotTheSame;

#[derive(Debug, Default)]
pub struct Walk {
    days: BTreeMap<i64, Day>,
    /// Lines of calls that are done, and of the one under way.
    done: u64,
    in_call: u64,
    passed: u64,
}

impl Walk {
    /// Takes in one line; true when it is to be passed on.
    pub fn step(&mut self, day: i64, line: &[u8]) -> Result<bool, NotTheSame> {
        if self.days.len() >= MAX_DAYS && !self.days.contains_key(&day) {
            return Err(NotTheSame);
        }
        let day = self.days.entry(day).or_default();
        self.in_call += 1;
        day.walked.push(line);
        if day.walked.lines > day.passed.lines {
            day.passed = day.walked;
            self.passed += 1;
            return Ok(true);
        }
        if day.walked.lines == day.passed.lines && day.walked != day.passed {
            return Err(NotTheSame);
        }
        Ok(false)
    }

    /// The call under way has failed: its days will be walked again.
    pub fn rewind(&mut self) {
        for day in self.days.values_mut() {
            day.walked = day.before;
        }
        self.in_call = 0;
    }

    /// The call under way has ended well.
    pub fn call_done(&mut self) {
        for day in self.days.values_mut() {
            day.before = day.walked;
        }
        self.done += std::mem::take(&mut self.in_call);
    }

    /// All calls for these days have ended well: nothing of them may be missing that was there before.
    pub fn piece_done(&mut self) -> Result<(), NotTheSame> {
        let whole = self.days.values().all(|day| day.walked == day.passed);
        self.days.clear();
        if whole { Ok(()) } else { Err(NotTheSame) }
    }

    /// Lines of the calls that have ended well.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Lines passed on so far.
    pub fn passed(&self) -> u64 {
        self.passed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Walks through a call and returns what it passes on.
    fn call(walk: &mut Walk, lines: &[(i64, &str)]) -> Result<Vec<String>, NotTheSame> {
        let mut out = Vec::new();
        for (day, line) in lines {
            if walk.step(*day, line.as_bytes())? {
                out.push((*line).to_owned());
            }
        }
        Ok(out)
    }

    const LINES: [(i64, &str); 6] = [(1, "a"), (2, "b"), (1, "c"), (2, "d"), (2, "e"), (1, "f")];

    #[test]
    fn a_call_asked_again_goes_on_where_it_broke() {
        let mut walk = Walk::default();
        assert_eq!(call(&mut walk, &LINES[..3]).unwrap(), ["a", "b", "c"]);
        walk.rewind();
        assert_eq!(call(&mut walk, &LINES).unwrap(), ["d", "e", "f"]);
        walk.call_done();
        assert_eq!((walk.piece_done(), walk.done(), walk.passed()), (Ok(()), 6, 6));
    }

    #[test]
    fn days_asked_for_apart_go_on_as_well() {
        let mut walk = Walk::default();
        call(&mut walk, &LINES[..4]).unwrap();
        walk.rewind();
        let day = |day: i64| LINES.into_iter().filter(|(of, _)| *of == day).collect::<Vec<_>>();
        assert_eq!(call(&mut walk, &day(1)).unwrap(), ["f"]);
        walk.call_done();
        assert_eq!(call(&mut walk, &day(2)[..2]).unwrap(), Vec::<String>::new());
        walk.rewind();
        assert_eq!(call(&mut walk, &day(2)).unwrap(), ["e"]);
        walk.call_done();
        assert_eq!(walk.piece_done(), Ok(()));
    }

    #[test]
    fn another_answer_is_noticed() {
        let mut walk = Walk::default();
        call(&mut walk, &LINES[..3]).unwrap();
        walk.rewind();
        assert_eq!(call(&mut walk, &[(1, "a"), (1, "x")]), Err(NotTheSame));

        // Fewer lines than were passed on.
        let mut walk = Walk::default();
        call(&mut walk, &LINES[..3]).unwrap();
        walk.rewind();
        call(&mut walk, &LINES[..2]).unwrap();
        walk.call_done();
        assert_eq!(walk.piece_done(), Err(NotTheSame));
    }

    proptest! {
        /// Broken wherever, as often as it may be: the caller gets each line once, each day's in their order.
        #[test]
        fn nothing_twice_and_nothing_lost(breaks in proptest::collection::vec(0usize..40, 0..8), seed in 0u64..1000) {
            let lines: Vec<(i64, String)> = (0..40).map(|n| ((n * (seed as i64 + 7)) % 5, format!("line {n}"))).collect();
            let lines: Vec<(i64, &str)> = lines.iter().map(|(day, line)| (*day, line.as_str())).collect();
            let (mut walk, mut out) = (Walk::default(), Vec::new());
            for at in breaks {
                out.extend(call(&mut walk, &lines[..at]).unwrap());
                walk.rewind();
            }
            out.extend(call(&mut walk, &lines).unwrap());
            walk.call_done();
            prop_assert_eq!(walk.piece_done(), Ok(()));
            prop_assert_eq!(out, lines.iter().map(|(_, line)| (*line).to_owned()).collect::<Vec<_>>());
        }
    }
}
