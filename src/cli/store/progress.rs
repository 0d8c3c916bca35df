//! How far long work is: one line that is written over on a terminal, a few plain ones elsewhere.

use std::io::{IsTerminal as _, Write as _};

pub(super) struct Progress {
    what: &'static str,
    terminal: bool,
    /// The last tenth that was told, or hundredth on a terminal.
    told: Option<u64>,
}

impl Progress {
    pub fn new(what: &'static str) -> Self {
        Self { what, terminal: std::io::stderr().is_terminal(), told: None }
    }

    pub fn at(&mut self, done: u64, all: u64) {
        let steps = if self.terminal { 100 } else { 10 };
        let step = done.saturating_mul(steps).checked_div(all).unwrap_or(steps).min(steps);
        if self.told == Some(step) {
            return;
        }
        self.told = Some(step);
        let percent = step * 100 / steps;
        // Nobody is left to tell when the terminal is gone.
        drop(match self.terminal {
            true => write!(std::io::stderr(), "\r{} {percent:>3} % ", self.what),
            false => writeln!(std::io::stderr(), "{} {percent} %", self.what),
        });
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.told.is_some() {
            drop(writeln!(std::io::stderr()));
        }
    }
}
