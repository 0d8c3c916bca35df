//! Brevo as seen from outside: wire types, limits, the calls that the relay makes and what their answers mean.
//!
//! Owns every fact about Brevo's API (the vendor contract's sections are named where a fact is used): how a request is
//! built ([`calls`]), how much fits into one ([`pack`], [`limits`]), what an answer means for the records that were in it
//! ([`outcome`]), what the account can hold ([`account`]) and which value an attribute of a given type takes
//! ([`coerce`]).
//!
//! Must not know: Mixpanel, the store, the clock. Nothing here sends anything: requests go through the vendor stack, and
//! everything is a function of its arguments.
//!
//! Invariants:
//!
//! * An [`EventName`](names::EventName), [`AttributeName`](names::AttributeName), [`Email`](identifiers::Email) or
//!   [`Phone`](identifiers::Phone) that exists is one that Brevo takes.
//! * A packed request is inside the documented limits, holds its items in order, and no item is left out.
//! * Every status and body has a meaning: no answer is unexpected to [`outcome`].

pub mod account;
pub mod calls;
pub mod coerce;
pub mod companies;
pub mod events;
pub mod format;
pub mod identifiers;
pub mod import_body;
pub mod limits;
pub mod names;
pub mod outcome;
pub mod pack;
pub mod webhooks;
pub mod wire;
