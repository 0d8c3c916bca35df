//! Forgetting people: Mixpanel's GDPR routes under the relay's own door ([`routes`]), erasures asked for and looked up
//! ([`desk`]), carried out ([`worker`], [`unread`], [`vendors`]) and written down ([`receipt`]); what is held of a person ([`person`]);
//! and every place that holds personal data ([`register`]).
//!
//! Invariants:
//! * from the moment that an erasure is asked for, nothing of the person is sent or stored any more;
//! * what it takes away is counted as skipped, rule `erased`, in the write that takes it (P2);
//! * no receipt names a person once nobody needs the name.

pub mod desk;
pub mod person;
pub mod receipt;
pub mod register;
pub mod routes;
pub mod unread;
pub mod vendors;
pub mod worker;

pub use desk::Desk;
