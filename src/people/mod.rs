//! People as Brevo needs them: who they are, what their profile says, what Brevo is owed, and what waits for them.
//!
//! A person is folded from the journal in order of position, whether Brevo knows them yet or not. What Brevo has not
//! been told is a *debt*; records that must wait stand on the person's *shelf* (CORE 4, 5, 7). Several ids may be one
//! person: [`identity`] says what a record links, [`links`] what follows from it (CORE 6). The [`roster`] holds the
//! people that the leg is working on and hands out, as one batch, what has changed of them. A [`company`] is the same for a
//! Mixpanel group.
//!
//! Must not know: HTTP, how Brevo is called, the journal. Times are passed in.
//!
//! Invariants:
//! * a position is folded into a person once ([`person::Person::applied`]), and a debt is only settled by Brevo's answer;
//! * person, debt and shelf rows that follow from a checkpoint are written in the checkpoint's own transaction.

pub mod address_book;
pub mod blocklist;
pub mod company;
pub mod debt;
pub mod erase;
pub mod identity;
pub mod kin;
pub mod links;
pub mod lists;
pub mod lookup;
pub mod person;
pub mod pulled;
pub mod roster;
pub mod shelf;
pub mod unknown;
pub mod unseen;
pub mod value;

use xxhash_rust::xxh3::xxh3_128;

/// A person's fixed-length name in keys that other things follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PersonHash([u8; 16]);

impl PersonHash {
    pub const LEN: usize = 16;

    pub fn of(distinct_id: &str) -> Self {
        Self(xxh3_128(distinct_id.as_bytes()).to_be_bytes())
    }

    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}
