//! Tests of the whole relay from outside; one binary, so that it links once. Modules are named after the promises.

mod bad_input;
mod cli;
mod demo;
mod docs;
mod harness;
mod p1_success_means_stored;
mod p3_destinations_are_independent;
mod p6_sdks_never_get_stuck;
mod published_examples;
mod sdk_browser;
mod sdks;
mod starting;
