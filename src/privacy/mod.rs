//! What must not leave: `privacy.{mixpanel,brevo}` as rules on a record's text ([`rules`]), and who was erased
//! ([`tombstones`]).
//!
//! The room knows the shape of Mixpanel's records and nothing of destinations, storage or the network.
//!
//! Invariants:
//! * a rule is applied on a record's way to one destination, never at the edge: the two destinations may differ, and
//!   what is stored is what the app sent;
//! * what no rule touches leaves byte for byte as it came, numbers included.

mod members;
pub mod rules;
pub mod tombstones;

pub use rules::{Rules, Unruly};
pub use tombstones::{Erased, Mark, Tombstone, Tombstones};
