//! Mixrelay: a durable relay between apps and Mixpanel that also feeds Brevo.
//!
//! The way of one record, top to bottom; arrows between rooms run this way only:
//!
//! ```text
//! app ── HTTP ──► edge ──► store::Journal ──┬─► delivery::mixpanel_leg ─► mixpanel::client ─► vendor stack ─► Mixpanel
//!                decode     append + sync   └─► delivery::brevo_leg ─► people ─► mapping ─► brevo::client ─► Brevo
//! ```
//!
//! `docs/architecture.md` walks through it.

pub mod admin;
pub mod alerts;
pub mod brevo;
pub mod cli;
pub mod clock;
pub mod cohorts;
pub mod config;
pub mod console;
pub mod datasets;
pub mod delivery;
pub mod edge;
pub mod erasure;
pub mod feed;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod geoip;
pub mod hashed;
pub mod in_force;
pub mod mapping;
pub mod mixpanel;
pub mod people;
pub mod privacy;
pub mod pulls;
pub mod read_side;
pub mod reconciliation;
pub mod record;
pub mod sandbox;
pub mod serve;
pub mod settlement;
#[cfg(test)]
pub(crate) mod simulation;
pub mod store;
pub mod tables;
pub mod telemetry;
pub mod vendor;
pub mod webhooks;
