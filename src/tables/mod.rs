//! Lookup tables: CSV in, one row out.
//!
//! Owns the vendor's rules for a table ([`rows`], contract §7), the file in which one is kept ([`file`], made by
//! [`build`]), what a cell means ([`cell`]), which tables there are ([`catalog`]), and the mapping's way to ask
//! them. Must not know: records, routes, either vendor's client.
//!
//! Invariants:
//!
//! * A table takes memory by its number of rows (8 bytes for every 128), never by its size: a look-up is two reads of a
//!   file that the operating system caches.
//! * A file in place is whole: it is built beside its name, synced, then renamed. A crash leaves the old table or the new.
//! * Building takes bounded memory for any table within the vendor's 100 MB.

pub mod build;
pub mod catalog;
pub mod cell;
pub mod file;
pub mod rows;
mod sources;

pub use build::{BuildError, build};
pub use catalog::{Catalog, CatalogError, TableStatus, directory, watch};
pub use file::{OpenError, TableFile};
pub use rows::{FailedRow, MAX_TABLE_BYTES, RowProblem};
pub use sources::TableSources;

#[cfg(test)]
mod tests;
