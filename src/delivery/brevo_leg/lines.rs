//! Two lines before each kind of call: those whom somebody waits for, and behind them those of whom everything was pulled.
//!
//! Each has calls of its own, so that one which waits for the budget behind everybody else (CORE 14) keeps nobody's place.
//! Pure but for the priority that is written on a call.

use std::collections::VecDeque;

use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use crate::people::roster::PersonId;
use crate::vendor::stack::Stack;
use crate::vendor::{Priority, VendorRequest};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    First,
    Behind,
}

#[derive(Debug, Default)]
pub struct Lines {
    pub first: VecDeque<PersonId>,
    /// Whoever has come to stand in the first as well, or in neither, is passed over here.
    pub behind: VecDeque<PersonId>,
}

impl Lines {
    pub fn of(&mut self, line: Line) -> &mut VecDeque<PersonId> {
        match line {
            Line::First => &mut self.first,
            Line::Behind => &mut self.behind,
        }
    }
}

/// Calls under way for either line.
#[derive(Clone, Copy, Debug, Default)]
pub struct UnderWay {
    pub first: usize,
    pub behind: usize,
}

impl UnderWay {
    pub fn begin(&mut self, line: Line) {
        *self.of(line) += 1;
    }

    pub fn end(&mut self, line: Line) {
        *self.of(line) -= 1;
    }

    pub fn all(self) -> usize {
        self.first + self.behind
    }

    fn of(&mut self, line: Line) -> &mut usize {
        match line {
            Line::First => &mut self.first,
            Line::Behind => &mut self.behind,
        }
    }
}

/// The stack for calls of `line`.
pub fn stack_for(stack: &Stack, line: Line) -> Stack {
    let behind = |request: VendorRequest| VendorRequest { priority: Priority::Backfill, ..request };
    match line {
        Line::First => stack.clone(),
        Line::Behind => BoxCloneSyncService::new(stack.clone().map_request(behind)),
    }
}
