//! Mixpanel's side of the wire: what its ingestion takes, how it answers, and calls to it.
//!
//! On the way in, [`wire`] is the shape of what apps send: one borrowing pass over a request's text that notes where the
//! parts that matter stand and copies nothing; [`validate`] holds the vendor's ingestion rules and the words it uses for
//! them, as pure functions; [`reserved`] the words that stand for nobody or link ids. On the way out, [`calls`] builds requests from stored records and [`answers`] reads replies.
//!
//! Knows nothing of Brevo, of storage or of legs. Invariant: a record is never rebuilt from a parsed tree; whoever
//! changes one edits its text at the spans that [`wire`] gives.

pub mod answers;
pub mod app;
pub mod calls;
pub mod cohorts;
pub mod counts;
pub mod heads;
pub mod keys;
pub mod lookup;
pub mod profiles;
pub mod quota;
pub mod reports;
pub mod reserved;
pub mod validate;
pub mod wire;

/// The ingestion call that a record came by; it decides the shape and the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    Track,
    Import,
    Engage,
    Groups,
}

impl Api {
    /// Whether its records are events (`event` and `properties`) rather than profile updates.
    pub fn takes_events(self) -> bool {
        matches!(self, Api::Track | Api::Import)
    }
}

/// The most records in one call (contract §3 and §5).
pub const MAX_RECORDS: usize = 2_000;
/// The most bytes in one record: "1 MB per event" (contract §3), taken as a binary megabyte so that no reading of the
/// vendor's sentence is stricter than ours.
pub const MAX_RECORD_BYTES: usize = 1 << 20;
/// The most uncompressed bytes in one call (contract §3), taken the same way.
pub const MAX_BODY_BYTES: usize = 10 << 20;
