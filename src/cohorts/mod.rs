//! Groups of people into Brevo lists: one engine for cohorts that are asked for, cohorts that Mixpanel pushes, and data
//! sets. `docs/cohorts.md` is the same for users.
//!
//! A *run* brings one group into one list by one mode ([`SyncMode`](crate::config::SyncMode)): `mirror` makes the list the
//! group, `add` only adds, `remove` only takes out. It is a row of the store ([`run`]) with a stage, and everything that it
//! knows of people stands in rows too ([`rows`]), so its memory does not grow with the group, and a process that is killed
//! anywhere goes on where it was:
//!
//! ```text
//! receiving (pages pushed by somebody) ─┐
//! collecting (pages asked of Mixpanel) ─┴─► reading (who is in the list) ─► brake ─► removing ─► adding ─► creating ─► ended
//! ```
//!
//! [`members`] says who a member is at Brevo and whether they may be there at all; [`reading`] holds the list against the
//! members; [`changing`] changes it, 150 people a call; [`creating`] writes the contacts that Brevo lacks.
//!
//! # For who has members to apply
//!
//! [`Desk::push`] takes the pages of one session in any order, repeats included, and has stored a page when it returns. When
//! all pages of the session are in, the run begins by itself; [`Desk::wait`] and [`Desk::get`] tell what became of it.
//! Runs of one list go one after the other, in the order in which they were begun. [`sessions`] says what becomes of sessions
//! side by side, and of pages that come again.
//!
//! The room may know Brevo's calls, people as the leg has written them down, and how the leg writes contacts; nothing below
//! knows it. It changes no person: what it learns of a contact the leg finds out by itself.
//!
//! Invariants:
//! * a run's stage is written together with the rows that it implies, and each step can be done again;
//! * nobody is removed from a list before all members and all of the list have been read, and the brake has let go;
//! * whoever is erased, has not agreed, or is no pilot goes nowhere, whatever the group says.

mod changing;
mod collecting;
mod creating;
mod desk;
pub mod erase;
pub mod estimate;
mod index;
mod members;
mod reading;

mod routes;
mod rows;
mod run;
mod schedule;
mod sessions;
mod vendors;
mod worker;

pub use desk::{AskError, Desk};
pub use members::{MappingNow, Member, Resolver};

pub use routes::{OPERATIONS, Parts as RouteParts, admin_router, known_callers_router, router, target_list};
pub use rows::UnmatchedRow;
pub use run::{Counts, Ended, Order, Outcome, Run, RunId, Source, Stage, Trigger, Unmatched, next_id};
pub use schedule::{Planned, due};
pub use sessions::{Push, PushError};
pub use vendors::{BrevoSide, MixpanelSide, NotAnswered, Vendors};
pub use worker::{Engine, Worker};

#[cfg(test)]
mod sessions_tests;
#[cfg(test)]
mod tests;
