//! The edge: what apps talk to.
//!
//! It owns the ingestion routes with their decoding, validation, stamps and answers, the pass-through of what the relay
//! does not store (session replay, flags, the SDK's files), authentication, and the server loop. It knows the journal's
//! `append` and nothing behind it: it never waits for a destination.
//!
//! The way of a call, a file each: [`routes`] → [`intake`] (bytes, within [`budget`]) → [`decode`] → [`accept`]
//! (rules of [`crate::mixpanel::validate`], stamps) → journal → [`answer`]; [`ingest`] strings them together.
//!
//! Invariants:
//! * a success is answered only after the append has resolved (P1);
//! * bad data on `/track`, `/engage`, `/groups` is never a 4xx, save 413 to a browser (P6);
//! * every answer has been through [`cors`];
//! * a request's bytes are in the budget from the first on, and every wait has an end.

pub mod accept;
pub mod answer;
pub mod auth;
pub mod budget;
pub mod caller;
pub mod cors;
pub mod decode;
pub mod doors;
pub mod ids;
pub mod ingest;
pub mod intake;
pub mod lookup_tables;
pub mod options;
pub mod passthrough;
mod privacy;
mod reference;
pub mod request_ids;
pub mod routes;
pub mod server;
mod service;
pub mod splice;
pub mod tls;

pub use doors::{Door, Doors, DoorsError};
pub use intake::IntakeLimits;
pub use server::{ConnectionLimits, OverTls, serve};
pub use service::{EdgeError, EdgeParts, health_router, router};
