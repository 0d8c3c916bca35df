//! Mixpanel's side of the wire: what its ingestion takes, how it answers, and calls to it.
//!
//! Knows nothing of Brevo, of storage or of legs.

pub mod answers;
pub mod calls;
pub mod keys;
