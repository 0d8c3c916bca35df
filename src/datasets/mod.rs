//! Data sets: what a question to Mixpanel (a JQL script, a saved Insights report) says of people, on a schedule, as contact
//! attributes and, if wanted, as members of a list. `docs/datasets.md` is the same for users.
//!
//! The way of one row:
//!
//! ```text
//! due, or asked for ─► a run, durable ─► asking: one query, with the share that is kept for cohorts
//!   ─► its rows by person, durable ([`kept`]) ─► comparing: who is it, may they be at Brevo, does anything change
//!   ─► the rows that change something, through [`crate::feed`], as records of `Origin::Dataset`
//!   ─► members: everybody, in pages, to the lists' desk ([`crate::cohorts`]) ─► listing: its run to the end ─► ended
//! ```
//!
//! The room owns the questions, the runs and what they count, and which definition was confirmed. It may know Mixpanel's
//! calls, people as the leg has written them down, the feed and the lists' desk; nothing below knows it. What becomes of a
//! row at Brevo is the leg's affair ([`crate::people::pulled`]), what becomes of a member the lists'.
//!
//! Invariants:
//! * a run's stage is written together with the rows that it implies, and each step can be done again: a process that is
//!   killed anywhere goes on where it was, and asks Mixpanel again only if it had no whole answer yet;
//! * nothing is changed by a definition that no dry run has shown and nobody has confirmed ([`desk`]);
//! * an answer that cannot be read changes nothing: it is never taken for an empty one;
//! * a row that changes nothing is no record, and costs Brevo no call.

mod asking;
mod comparing;
mod definition;
mod desk;
pub mod erase;
mod kept;
mod listing;
mod routes;
mod run;
mod worker;

pub use definition::{Definition, DefinitionError, family};
pub use desk::{AskError, Desk, Parts};
pub use routes::{OPERATIONS, Parts as RouteParts, admin_router, known_callers_router};
pub use run::{Counts, Outcome, Run, RunId, Stage};
pub use worker::{Engine, Worker};

#[cfg(test)]
mod tests;
