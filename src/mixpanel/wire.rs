//! Records as they stand in a request's text: one serde pass that borrows, keeping the raw text of the fields that the
//! relay reads and the places where it may edit.
//!
//! A span is found from a borrowed value's address relative to the text. That works because every record that can be
//! accepted holds at least one value: its own braces are the next ones outwards from its first and last value.

mod element;
mod event;
mod raw;
mod update;

pub use element::{Element, ElementSeed, FromObject};
pub use event::{Event, Properties};
pub use raw::Raw;
pub use update::{Operator, Update};
