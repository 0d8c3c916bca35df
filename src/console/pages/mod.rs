//! One file for each page.

pub mod dead_letters;
pub mod erasures;
mod forecast;
pub mod lookup_tables;
pub mod overview;
pub mod people;
