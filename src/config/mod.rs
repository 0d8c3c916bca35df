//! Configuration: one YAML file as plain data.
//!
//! Nothing in here touches the network or the disk beyond reading that file (and files that it names). `build` steps
//! elsewhere take these values and do the I/O.

mod model;

pub use model::*;
