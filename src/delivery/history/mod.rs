//! What became of single records, kept for as long as the journal's tail is (CORE 13).
//!
//! A leg settles records by the thousand. What it settled since the last checkpoint is written in the same batch as the
//! checkpoint that settles it ([`pages`]), so history tells exactly what the checkpoint knows, after a crash too. It is
//! kept as rows of the state and not beside the journal's blocks: not every engine can rewrite those.
//!
//! ```text
//! destination, epoch, entry / 256, number of the checkpoint → when, runs, what ended later, debts paid
//! ```
//!
//! *Runs* are neighbours in the journal that ended alike: thirty thousand events a second, each a request of its own, are
//! a few rows a checkpoint. A record whose end the ledger did not see, for it had left for a shelf or was a dead letter,
//! is named by itself. An update that was folded into its person's debt is found by the *span* of the debt that was paid,
//! and by whose it was: a debt may join any number of updates, and is one row.
//!
//! Beside that stand *filters*, which tell a trace which pieces of the journal it need not read ([`filter`]).
//!
//! Invariants:
//! * a row is written once and never changed; of two that speak of one record the later is right;
//! * what a row says of a position stays true whatever becomes of the journal; rows go when the tail has passed them.

mod filter;
mod lookup;
mod outcome;
mod pages;
mod row;
mod sifted;

pub use self::filter::{Filters, forget_named};
pub use self::lookup::{Found, Lookup};
pub use self::outcome::Outcome;
pub use self::pages::{Pages, Span, lists_of};
pub use self::row::{History, forget_below};
pub use self::sifted::{Sifted, Step};
