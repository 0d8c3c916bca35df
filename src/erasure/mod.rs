//! Mixpanel's app routes under the relay's own door: GDPR tasks and `/api/app/me` ([`routes`]).
//!
//! Callers prove themselves to the relay as they do for the read side (DESIGN 2.4) and never need the vendor's
//! credentials. Calls go through one attempt of the vendor stack, with a budget of their own: neither a paused
//! destination nor a backlog holds them up, and they wait for nobody longer than a caller would.

pub mod routes;
