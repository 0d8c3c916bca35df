//! Tests of the whole relay from outside; one binary, so that it links once. Modules are named after the promises.

mod bad_input;
mod cli;
mod demo;
mod docs;
mod erasure;
mod export;
mod gdpr;
mod harness;
mod lookup_tables;
mod p10_flat;
mod p1_success_means_stored;
mod p2_counts_add_up;
mod p3_destinations_are_independent;
mod p4_order_per_person;
mod p5_no_avoidable_duplicates;
mod p6_sdks_never_get_stuck;
mod p7_limits_never_overrun;
mod p8_few_calls;
mod p9_fresh;
mod privacy_rules;
mod published_examples;
mod read_side;
mod sdk_browser;
mod sdk_journeys;
mod sdks;
mod starting;
