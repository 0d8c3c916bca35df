//! One file for each page.

pub mod audit;
pub mod backfills;
pub mod cohorts;
pub mod datasets;
pub mod dead_letters;
pub mod erasures;
mod forecast;
pub mod lookup_tables;
pub mod mapping;
pub mod overview;
pub mod people;
pub mod reconciliation;
pub mod records;
mod run_page;
